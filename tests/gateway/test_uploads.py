"""
Files that go to an address which the provider named for them: without the credential, and by an address that is good for this
one upload, for a while, in one name.
"""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import pytest
from aiohttp import web

from company_agents.app import App
from company_agents.gateway.passes import UploadPass
from company_agents.sensitive import Sensitive
from tests.conftest import Tenant, provider_files
from tests.gateway.conftest import BEARER, SECRET, Connect, Here
from tests.gateway.standins import Service, service
from tests.gateway.wire import Answered, asked
from tests.promises.evidence import recorded

PATH, QUERY = "/upload/v1/ABC", "signed=%2Fyes"
Make = Callable[[], Awaitable[Tenant]]


def taking_files(origin: str) -> str:
    return f"""
name = "taking-files"
title = "Taking Files"
description = "a provider of the tests"
sources = ["https://taking-files.example.com/docs"]

[credential]
template = "Bearer {{token}}"

[addresses]
fields = ["next"]

[[addresses.uploads]]
field = "upload_url"
origins = ["{origin}"]
"""


@dataclass(frozen=True)
class Uploading:
    """A company whose provider has just answered with an address for a file, and that address as its client has it."""

    here: Here
    files: Service
    url: str

    @property
    def target(self) -> str:
        return self.url.removeprefix(self.here.url.partition("/gateway/")[0])

    async def send(
        self, target: str | None = None, method: str = "POST", headers: dict[str, str] | None = None
    ) -> Answered:
        return await asked(self.here.url, target or self.target, headers or {}, method, b"the file")

    async def refused(self, target: str | None = None, method: str = "POST") -> tuple[int, str]:
        before = len(self.files.seen)
        answer = await self.send(target, method)
        assert len(self.files.seen) == before
        return answer.status, json.loads(answer.body)["error"]["code"]

    def passed(self, **changed: Any) -> str:
        """The same with a pass of another's making, for the same path and query."""
        made = UploadPass.for_(self.here.tenant.agent, self.here.integration.id, self.files.url, allow_private=True)
        path, query = changed.pop("path", PATH), changed.pop("query", QUERY)
        text = replace(made, **changed).sealed(self.here.token, path, query)
        return f"{urlsplit(self.here.url).path}/~pass:{text}{PATH}?{QUERY}"


@pytest.fixture
async def uploading(app: App, connect: Connect, http: aiohttp.ClientSession) -> AsyncIterator[Uploading]:
    async with service(BEARER) as api, service(None, "localhost") as files:
        for method in ("POST", "PUT"):
            files.on(method, f"{PATH}?{QUERY}", {"taken": True})
        api.on("GET", "/ask", {"upload_url": f"{files.url}{PATH}?{QUERY}", "next": f"{files.url}/elsewhere"})
        with provider_files(app.settings.home, {"taking-files": taking_files(files.url)}):
            here = await connect(api, "taking-files")
            async with http.get(f"{here.url}/ask", headers=here.bearer) as reply:
                said = await reply.json()
            # Only the field that the file names for it, and only the provider's own hosts in the others.
            assert said["next"] == f"{files.url}/elsewhere"
            yield Uploading(here, files, said["upload_url"])


@pytest.mark.parametrize("method", ["POST", "PUT"])
async def test_a_file_goes_to_its_address_without_any_credential(app: App, uploading: Uploading, method: str) -> None:
    assert uploading.url.startswith(f"{uploading.here.url}/~pass:")
    assert uploading.url.endswith(f"{PATH}?{QUERY}")
    # A client that says who it is all the same tells nobody but us.
    for headers in ({}, uploading.here.bearer):
        answer = await uploading.send(method=method, headers=headers)
        assert (answer.status, json.loads(answer.body)) == (200, {"taken": True})
    assert [(each.method, each.body) for each in uploading.files.seen] == [(method, b"the file")] * 2
    begun = await recorded(app, uploading.here.tenant.company.id, "upload.begun")
    assert {(event["host"], event["method"], event["actor"]) for event in begun} == {
        (uploading.files.url, method, uploading.here.tenant.agent.label)
    }


async def test_a_pass_is_good_for_its_own_address_and_no_other(uploading: Uploading) -> None:
    target = uploading.target
    for other in (
        target.replace(PATH, "/upload/v1/ABD"),
        target.replace(PATH, "/"),
        target.replace(QUERY, "signed=%2Fno"),
        target.partition("?")[0],
        target.replace("?", "/?"),
        uploading.passed(path="/upload/v1/ABD"),
        uploading.passed(query=""),
    ):
        assert await uploading.refused(other) == (401, "unauthenticated"), other


async def test_a_pass_is_not_made_by_anybody_else(app: App, uploading: Uploading, tenant: Make) -> None:
    assert (await uploading.send(uploading.passed())).status == 200
    other = await tenant()
    _, run = await app.runs.open(uploading.here.tenant.agent)
    passed = uploading.target.partition("/~pass:")[2].partition("/")[0]
    for target in (
        uploading.passed(company_id=other.company.id),
        uploading.passed(agent_id=other.agent.agent_id()),
        uploading.passed(run_id=other.agent.agent_id()),
        uploading.target.replace(passed, passed[:-2] + ("AA" if passed[-2:] != "AA" else "BB")),
        uploading.target.replace(passed, passed[:40]),
        uploading.target.replace(passed, "x"),
        uploading.target.replace(passed, run.reveal_text()),
    ):
        assert await uploading.refused(target) == (401, "unauthenticated"), target


async def test_a_pass_has_an_end(uploading: Uploading) -> None:
    assert await uploading.refused(uploading.passed(until=int(time.time()) - 1)) == (401, "unauthenticated")


async def test_a_pass_dies_with_the_token_with_which_it_was_asked_for(app: App, uploading: Uploading) -> None:
    tenant = uploading.here.tenant
    await app.agents.pause(tenant.local, tenant.agent.agent_id())
    assert (await uploading.refused())[0] == 401
    await app.agents.resume(tenant.local, tenant.agent.agent_id())
    assert (await uploading.send()).status == 200
    await app.agents.rotate_token(tenant.local, tenant.agent.agent_id())
    assert (await uploading.refused())[0] == 401


async def test_a_runs_pass_dies_with_the_run_and_no_other_run_has_it(
    app: App, uploading: Uploading, http: aiohttp.ClientSession
) -> None:
    run, token = await app.runs.open(uploading.here.tenant.agent)
    bearer = {"Authorization": f"Bearer {token.reveal_text()}"}
    async with http.get(f"{uploading.here.url}/ask", headers=bearer) as reply:
        target = (await reply.json())["upload_url"].replace(uploading.url[: uploading.url.index("/gateway/")], "")
    assert (await uploading.send(target)).status == 200
    await app.runs.finish(uploading.here.tenant.agent, run.id, run.fencing_token)
    assert (await uploading.refused(target))[0] == 401


async def test_a_pass_ends_where_the_agent_may_no_longer_use_the_integration(app: App, uploading: Uploading) -> None:
    here = uploading.here
    await app.integrations.disallow(here.tenant.local, here.integration.id, here.tenant.agent.agent_id())
    assert await uploading.refused() == (404, "not_found")


async def test_a_pass_is_for_one_integration(app: App, uploading: Uploading) -> None:
    here = uploading.here
    another = await app.integrations.connect(
        here.tenant.local,
        "generic",
        Sensitive(SECRET),
        base_url=here.service.url,
        allow_private_network=True,
        allow=[here.tenant.agent.agent_id()],
    )
    here.service.on("GET", "/x", {})
    assert (await asked(here.url, f"/gateway/{another.id}/x", here.bearer)).status == 200
    for name in (another.name, str(another.id)):
        target = uploading.target.replace(f"/gateway/{here.integration.name}/", f"/gateway/{name}/")
        assert await uploading.refused(target) == (404, "not_found")
    assert (
        await uploading.send(uploading.target.replace(here.integration.name, str(here.integration.id)))
    ).status == 200


async def test_a_file_is_sent_and_nothing_else_is_done(uploading: Uploading) -> None:
    for method in ("GET", "DELETE", "PATCH", "OPTIONS"):
        assert await uploading.refused(method=method) == (403, "refused")


async def test_a_redirect_of_an_upload_to_another_host_is_not_followed(uploading: Uploading) -> None:
    async def away(request: web.Request) -> web.Response:
        return web.Response(status=307, headers={"Location": f"{uploading.here.service.url}/ask"})

    uploading.files.on("POST", f"{PATH}?{QUERY}", away)
    before = len(uploading.here.service.seen)
    assert (await uploading.send()).status == 307
    assert len(uploading.here.service.seen) == before


async def test_an_address_on_a_host_that_the_file_does_not_name_stays_as_it_is(
    uploading: Uploading, http: aiohttp.ClientSession
) -> None:
    here = uploading.here
    for address in ("https://evil.example/upload", f"{uploading.files.url}.evil.example/upload", "no address", 7, None):
        here.service.on("GET", "/other", {"upload_url": address})
        async with http.get(f"{here.url}/other", headers=here.bearer) as reply:
            assert (await reply.json())["upload_url"] == address
