"""
A run that is handed over to a remote agent: it claims the run with its own token, renews and finishes it.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

import pytest

from company_agents.app import App
from company_agents.errors import Conflict, NotFound, Refused, TooMany, Unauthenticated
from company_agents.runs.adapters.http import PATIENCE
from company_agents.runs.parts import RunParts
from tests.api.conftest import serving
from tests.dispatch.conftest import Desk, MakeDesk, until
from tests.promises.evidence import sql


@dataclass
class Remote:
    """The address of a remote agent: takes what it is told, with the status that it is to answer."""

    url: str = ""
    status: int = 200
    told: list[dict[str, Any]] = field(default_factory=list)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        body = b""
        while (message := await receive()).get("more_body"):
            body += message["body"]
        self.told.append(json.loads(body + message.get("body", b"")))
        await send({"type": "http.response.start", "status": self.status, "headers": []})
        await send({"type": "http.response.body", "body": b""})


@pytest.fixture
async def remote() -> AsyncIterator[Remote]:
    found = Remote()
    async with serving(found) as url:
        found.url = url
        yield found


@pytest.fixture
async def deliverer(app: App, tmp_path: Any) -> AsyncIterator[None]:
    """An orchestrator that hands runs over."""
    parts = RunParts.build(app.store, app.audit, app.integrations.versions)
    dispatcher = parts.dispatcher(
        uuid4(),
        app.adapters.kinds,
        tmp_path,
        url="http://127.0.0.1:1",
        at_once=5,
        sealed=lambda: app.held.sealed,
        clean=str,
    )
    dispatcher.start()
    yield
    await dispatcher.close()


async def remote_desk(desk: MakeDesk, remote: Remote) -> Desk:
    here = await desk()
    config = {"url": f"{remote.url}/work", "allow_private_network": True}
    await here.app.adapters.set(here.local, here.agent, "http", config)
    return here


async def test_a_run_is_handed_over_and_worked_on_with_what_it_was_told(
    app: App, desk: MakeDesk, remote: Remote, deliverer: None
) -> None:
    here = await remote_desk(desk, remote)
    run = await here.start("count the stars")
    await until(lambda: told(remote), "nobody was told")
    [message] = remote.told
    assert message["data"]["run"] == str(run.id)
    assert message["data"]["claim_url"].endswith(f"/runs/{run.id}/claim")
    assert "ca_" not in json.dumps(message)
    assert [found.id for found in (await app.runs.list(here.tenant.agent, state="queued")).items] == [run.id]
    claimed, token = await app.runs.claim(here.tenant.agent, run.id)
    assert (claimed.state, claimed.fencing_token, claimed.prompt) == ("running", 1, "count the stars")
    caller = await app.identity.worker(token.reveal_text())
    assert (await app.runs.renew(caller, run.id, 1)).state == "running"
    assert (await app.runs.finish(caller, run.id, 1, reason="17")).state == "finished"
    with pytest.raises(Unauthenticated):
        await app.identity.worker(token.reveal_text())
    assert await here.events(run.id) == ["run.started", "run.claimed", "run.finished"]


async def told(remote: Remote, times: int = 1) -> bool:
    return len(remote.told) >= times


async def test_it_is_delivered_again_until_somebody_claims_it_and_says_why_nobody_did(
    app: App, desk: MakeDesk, remote: Remote, deliverer: None
) -> None:
    here = await remote_desk(desk, remote)
    remote.status = 500
    run = await here.start()
    await until(lambda: told(remote), "nobody was told")

    async def said() -> bool:
        return "500" in (await here.run(run.id)).reason

    await until(said, "it does not say why it waits")
    assert (await here.run(run.id)).state == "queued"
    # The time of the next delivery comes.
    remote.status = 200
    await sql(here.superuser, "UPDATE runs SET due_at = now() WHERE id = %(r)s", r=run.id)
    await until(lambda: told(remote, 2), "it was not delivered again")
    await app.runs.claim(here.tenant.agent, run.id)
    assert (await here.run(run.id)).reason == ""


async def test_what_nobody_claims_has_failed_in_the_end(app: App, desk: MakeDesk, remote: Remote) -> None:
    here = await remote_desk(desk, remote)
    run = await here.start()
    late = "UPDATE runs SET queued_at = queued_at - make_interval(secs => %(s)s) WHERE id = %(r)s"
    await sql(here.superuser, late, s=PATIENCE.total_seconds(), r=run.id)
    await app.sweeper.end_late(here.local.scope)
    assert ((await here.run(run.id)).state, (await here.run(run.id)).reason) == ("failed", "nobody claimed it")
    with pytest.raises(Conflict):
        await app.runs.claim(here.tenant.agent, run.id)


async def test_one_that_is_claimed_and_left_alone_can_be_claimed_again_with_a_higher_fencing_token(
    app: App, desk: MakeDesk, remote: Remote
) -> None:
    here = await remote_desk(desk, remote)
    run = await here.start()
    _, first = await app.runs.claim(here.tenant.agent, run.id)
    await sql(here.superuser, "UPDATE runs SET lease_until = clock_timestamp() WHERE id = %(r)s", r=run.id)
    await app.sweeper.end_late(here.local.scope)
    again, second = await app.runs.claim(here.tenant.agent, run.id)
    assert (again.fencing_token, first != second) == (2, True)
    with pytest.raises(Conflict) as stale:
        await app.runs.finish(here.tenant.agent, run.id, 1)
    assert stale.value.reason == "stale_fence"


async def test_only_its_agent_claims_a_run_and_only_once(app: App, desk: MakeDesk, remote: Remote) -> None:
    here, other = await remote_desk(desk, remote), await remote_desk(desk, remote)
    run = await here.start()
    _, token = await app.agents.create(here.local, "bob")
    bob = await app.identity.agent(token.reveal_text())
    for stranger in (bob, other.tenant.agent):
        with pytest.raises(NotFound):
            await app.runs.claim(stranger, run.id)
    with pytest.raises(Refused):
        await app.runs.claim(here.local, run.id)
    found = await asyncio.gather(*(app.runs.claim(here.tenant.agent, run.id) for _ in range(5)), return_exceptions=True)
    assert sum(isinstance(one, tuple) for one in found) == 1
    assert {one.reason for one in found if isinstance(one, Conflict)} == {"not_queued"}
    _, run_token = next(one for one in found if isinstance(one, tuple))
    with pytest.raises(Refused):
        await app.runs.claim(await app.identity.worker(run_token.reveal_text()), run.id)


async def test_what_an_orchestrator_executes_is_not_its_agents_to_claim(app: App, desk: MakeDesk) -> None:
    here = await desk()
    run = await here.start()
    with pytest.raises(Conflict, match="executed by an orchestrator"):
        await app.runs.claim(here.tenant.agent, run.id)


async def test_no_more_are_claimed_than_may_be_under_way(app: App, desk: MakeDesk, remote: Remote) -> None:
    here = await remote_desk(desk, remote)
    await app.limits.set(here.local, here.agent, {"runs_at_once": 1})
    runs = [await here.start() for _ in range(2)]
    await app.runs.claim(here.tenant.agent, runs[1].id)
    with pytest.raises(TooMany):
        await app.runs.claim(here.tenant.agent, runs[0].id)
