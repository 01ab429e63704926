"""
The negative matrix at the gateway: every token that the other doors refuse × every way to send one. Whoever adds a bad token
there adds it here.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from types import SimpleNamespace
from typing import Any
from urllib.parse import urlsplit

import pytest

from company_agents.app import App
from company_agents.errors import Sealed, Unavailable
from company_agents.gateway import refused
from tests.api.conftest import serving as serving_any
from tests.conftest import Tenant
from tests.gateway.conftest import Here
from tests.gateway.test_door import WAYS, error
from tests.gateway.wire import asked
from tests.mcp.test_refusals import BAD

Make = Callable[[], Awaitable[Tenant]]
Bad = Callable[[Any], Awaitable[str | None]]


async def run_that_has_expired(world: Any) -> str | None:
    run, token = await world.app.runs.open(world.tenant.agent)
    async with await world.app.identity.db.logins.instance.connect() as connection:
        await connection.execute("UPDATE runs SET lease_until = now() WHERE id = %s", (run.id,))
    await world.app.sweeper.sweep()
    return token.reveal_text()


@pytest.mark.parametrize("bad", [*BAD, run_that_has_expired], ids=lambda bad: bad.__name__)
async def test_a_token_that_is_not_good_is_refused_however_it_is_sent_and_nothing_arrives(
    app: App, here: Here, bad: Bad
) -> None:
    token = await bad(SimpleNamespace(app=app, tenant=here.tenant))
    target = f"{urlsplit(here.url).path}/x"

    async def is_refused(method: str, headers: dict[str, str]) -> None:
        answer = await asked(here.url, target, headers, method, b"" if method == "GET" else b"{}")
        assert answer.status == 401, (method, list(headers))
        assert (error(answer)["type"], error(answer)["code"]) == ("authentication_error", "unauthenticated")
        assert answer.headers["www-authenticate"].startswith("Basic ")
        assert not token or token not in answer.body.decode() + str(answer.headers)

    sent = [way(token) for way in WAYS.values()] if token is not None else [{}]
    await asyncio.gather(*(is_refused(method, headers) for method in ("GET", "POST") for headers in sent))
    assert here.service.seen == []


async def test_the_samples_of_the_matrix_are_refused_for_their_tokens_alone(here: Here, app: App) -> None:
    here.service.on("GET", "/x", {})
    here.service.on("POST", "/x", {})
    _, run = await app.runs.open(here.tenant.agent)
    target = f"{urlsplit(here.url).path}/x"
    for token in (here.token, run.reveal_text()):
        for way in WAYS.values():
            for method in ("GET", "POST"):
                answer = await asked(here.url, target, way(token), method, b"" if method == "GET" else b"{}")
                assert answer.status == 200


async def test_another_companys_run_finds_no_integration_by_any_name(here: Here, app: App, tenant: Make) -> None:
    other = await tenant()
    _, run = await app.runs.open(other.agent)
    for token in (other.token, run.reveal_text()):
        for name in (here.integration.name, str(here.integration.id)):
            answer = await asked(here.url, f"/gateway/{name}/x", {"Authorization": f"Bearer {token}"})
            assert (answer.status, error(answer)["code"]) == (404, "not_found")
    assert here.service.seen == []


async def test_a_run_that_was_cut_off_is_told_so(here: Here, app: App) -> None:
    here.service.on("GET", "/x", {})
    _, token = await app.runs.open(here.tenant.agent)
    bearer = {"Authorization": f"Bearer {token.reveal_text()}"}
    target = f"{urlsplit(here.url).path}/x"
    assert (await asked(here.url, target, bearer)).status == 200
    await app.runs.cut(here.tenant.local, here.integration.id, every=True)
    answer = await asked(here.url, target, bearer)
    assert (answer.status, error(answer)["code"]) == (403, "credential_cut")
    assert (await asked(here.url, target, here.bearer)).status == 200


async def test_a_sealed_instance_says_so_in_the_shape_of_the_gateway() -> None:
    async with serving_any(refused(Sealed())) as url:
        answer = await asked(url, "/gateway/slack/x", {})
    assert (answer.status, error(answer)["code"]) == (503, "sealed")


async def test_what_may_not_be_recorded_is_not_sent(here: Here, app: App, monkeypatch: pytest.MonkeyPatch) -> None:
    async def down(*_: Any) -> Any:
        raise Unavailable("the audit log cannot be written")

    monkeypatch.setattr(app.audit, "out", down)
    answer = await asked(here.url, f"{urlsplit(here.url).path}/x", here.bearer)
    assert (answer.status, error(answer)["code"]) == (503, "unavailable")
    assert here.service.seen == []
