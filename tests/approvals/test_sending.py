"""
What was approved is sent once, exactly, and only where it may still be; whoever dies on the way leaves what is true.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import threading
from collections.abc import Awaitable, Callable
from typing import Any
from uuid import UUID

import pytest

from company_agents.app import App
from company_agents.audit.log import AuditLog
from company_agents.errors import Conflict, Refused, Unavailable
from company_agents.integrations import sending
from company_agents.integrations.credential import Credential
from company_agents.integrations.rules import Rules
from company_agents.integrations.sending import Sending
from company_agents.outgoing.client import Outgoing
from company_agents.sensitive import Sensitive
from company_agents.settings import Settings
from tests.approvals.conftest import ASKS, TOKEN, Desk, MakeDesk
from tests.approvals.process import approving
from tests.outgoing.servers import Recorded, reply, serve
from tests.promises.evidence import no_right_to_insert, sql

# — checked again —


async def pause(here: Desk) -> None:
    await here.app.agents.pause(here.local, here.agent.agent_id())


async def retire(here: Desk) -> None:
    await here.app.agents.retire(here.local, here.agent.agent_id())


async def disallow(here: Desk) -> None:
    await here.app.integrations.disallow(here.local, here.integration.id, here.agent.agent_id())


async def restrict(here: Desk) -> None:
    await here.app.rulebook.set(here.local, here.integration.id, Rules.read(only=["GET /**"]))


async def rotate(here: Desk) -> None:
    await here.app.integrations.rotate(here.local, here.integration.id, Sensitive("another-token"))


CHANGES: dict[str, tuple[Callable[[Desk], Awaitable[None]], str]] = {
    "the agent is paused": (pause, "the agent is paused"),
    "the agent is retired": (retire, "the agent is retired"),
    "the agent may no longer use it": (disallow, "may no longer use"),
    "no rule allows it any more": (restrict, "may not call POST /v1/refunds"),
    "the credential was rotated": (rotate, "rotated since: ask again"),
}


@pytest.mark.parametrize(("change", "said"), CHANGES.values(), ids=CHANGES)
async def test_what_may_no_longer_be_sent_is_not(
    here: Desk, change: Callable[[Desk], Awaitable[None]], said: str
) -> None:
    approval_id = await here.ask()
    await change(here)
    approval = await here.approve(approval_id)
    assert (approval.state, here.service.refunds) == ("failed", [])
    assert said in approval.reason
    [event] = await here.events("approval.failed", approval_id)
    assert event["reason"] == approval.reason


async def test_what_failed_is_told_once_and_can_be_asked_again(here: Desk) -> None:
    approval_id = await here.ask()
    await restrict(here)
    await here.approve(approval_id)
    await here.app.rulebook.set(here.local, here.integration.id, Rules.read(only=[]))
    with pytest.raises(Refused) as failed:
        await here.request()
    assert (failed.value.reason, failed.value.facts) == ("approval_failed", {"approval": str(approval_id)})
    second = await here.ask()
    assert second != approval_id
    assert (await here.approve(second)).state == "done"


async def test_a_credential_that_goes_elsewhere_than_was_shown_is_not_used(here: Desk) -> None:
    # Whoever can write to the row shows people another address; what is obeyed is sealed.
    where = {"i": here.integration.id}
    await sql(here.superuser, "UPDATE integrations SET destination = 'https://example.com' WHERE id = %(i)s", **where)
    approval_id = await here.ask()
    assert (await here.get(approval_id)).host == "https://example.com"
    approval = await here.approve(approval_id)
    assert (approval.state, "goes elsewhere" in approval.reason) == ("failed", True)
    assert here.service.refunds == []


async def test_a_run_s_request_is_sent_after_the_run_with_what_was_shown(here: Desk) -> None:
    run, token = await here.app.runs.open(here.agent)
    caller = await here.app.identity.worker(token.reveal_text())
    first = await here.ask(caller=caller)
    second = await here.ask(caller=caller, body={"n": 1})
    await here.app.runs.cancel(here.local, run.id)
    assert (await here.approve(first)).state == "done"
    # By the agent, since the run is over.
    [begun] = await here.events("credential.begun", first)
    assert begun["actor"] == here.agent.label
    assert (await here.request()).status == 200
    await rotate(here)
    assert (await here.approve(second)).state == "failed"


async def test_a_run_that_holds_an_older_version_has_it_used(here: Desk) -> None:
    run, token = await here.app.runs.open(here.agent)
    caller = await here.app.identity.worker(token.reveal_text())
    await rotate(here)
    held, cut = await here.ask(caller=caller), await here.ask(caller=caller, body={"n": 1})
    assert (await here.get(held)).version == 1
    assert (await here.approve(held)).state == "done"
    [begun] = await here.events("credential.begun", held)
    assert begun["actor"] == f"run:{run.id}"
    await here.app.runs.cut(here.local, here.integration.id, every=True)
    approval = await here.approve(cut)
    assert (approval.state, "cut off" in approval.reason) == ("failed", True)


async def test_a_version_that_only_a_run_still_holds_is_used_for_nobody_else(here: Desk) -> None:
    _, token = await here.app.runs.open(here.agent)
    caller = await here.app.identity.worker(token.reveal_text())
    by_agent, by_run = await here.ask(), await here.ask(caller=caller, body={"n": 1})
    await rotate(here)
    approval = await here.approve(by_agent)
    assert (approval.state, "rotated since" in approval.reason) == ("failed", True)
    assert (await here.approve(by_run)).state == "done"
    [sent] = here.service.refunds
    assert sent.headers["authorization"] == f"Bearer {TOKEN}"


async def test_what_there_is_no_budget_left_for_is_not_sent_and_what_is_sent_costs(here: Desk) -> None:
    integration = await here.app.integrations.connect(
        *(here.local, "anthropic", Sensitive("a-token-of-a-model")),
        base_url=here.service.server.url,
        allow_private_network=True,
        allow=[here.agent.agent_id()],
        rules=Rules.read(ask=["POST /v1/messages"]),
    )
    model = dataclasses.replace(here, integration=integration)
    asked = [await model.ask(path="/v1/messages", body={"model": "claude-sonnet-4-6", "n": n}) for n in range(2)]
    answer = b'{"type": "message", "model": "claude-sonnet-4-6", "usage": {"input_tokens": 70, "output_tokens": 7}}'
    here.service.answers.append(reply(answer, content_type="application/json"))
    assert (await model.approve(asked[0])).state == "done"
    month = await here.app.spending.month(here.local, None)
    assert month.tokens == 77
    await here.app.limits.set(here.local, None, {"month_tokens": 50})
    approval = await model.approve(asked[1])
    assert (approval.state, "budget" in approval.reason, len(here.service.refunds)) == ("failed", True, 1)


async def test_one_that_is_too_often_is_sent_a_little_later(desk: MakeDesk, other: App) -> None:
    here = await desk(Rules.read(ask=["POST /v1/refunds"], per_minute=1))
    approval_id = await here.ask()
    ours = f"WHERE company_id = '{here.tenant.company.id}'"
    await sql(here.superuser, f"UPDATE call_counts SET minute = now() + interval '1 hour' {ours}")
    assert (await here.approve(approval_id)).state == "approved"
    assert here.service.refunds == []
    await sql(here.superuser, f"DELETE FROM call_counts {ours}")
    await its_turn(here, approval_id, other)
    assert (await here.get(approval_id)).state == "done"


async def test_what_could_not_be_sent_for_an_hour_is_not_sent_any_more(here: Desk, other: App) -> None:
    approval_id = await here.ask()
    here.app.approvals.approved, before = lambda scope, approval: None, here.app.approvals.approved
    try:
        await here.app.approvals.approve(here.local, approval_id)
    finally:
        here.app.approvals.approved = before
    await here.change(approval_id, "decided_at = now() - interval '61 minutes'")
    await its_turn(here, approval_id, other)
    approval = await here.get(approval_id)
    assert (approval.state, "in time" in approval.reason, here.service.refunds) == ("failed", True, [])


async def test_without_a_record_nothing_is_sent_and_with_it_again_it_is(here: Desk, other: App) -> None:
    approval_id = await here.ask()
    here.app.approvals.approved, before = lambda scope, approval: None, here.app.approvals.approved
    try:
        await here.app.approvals.approve(here.local, approval_id)
    finally:
        here.app.approvals.approved = before
    async with no_right_to_insert(here.superuser):
        await its_turn(here, approval_id, other)
    assert ((await here.get(approval_id)).state, here.service.refunds) == ("approved", [])
    await its_turn(here, approval_id, other)
    assert ((await here.get(approval_id)).state, len(here.service.refunds)) == ("done", 1)


# — what the provider can do —


def hang_up(recorded: Recorded) -> bytes:
    return b""


# Also of methods that a client may send twice by itself, as it thinks: a deletion may be of the newest of something.
@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "GET"])
async def test_a_lost_reply_is_uncertain_and_it_is_never_sent_again(desk: MakeDesk, other: App, method: str) -> None:
    here = await desk(Rules.read(ask=["* /v1/refunds"]))
    approval_id = await here.ask(method=method)
    here.service.answers.append(hang_up)
    approval = await here.approve(approval_id)
    assert (approval.state, approval.reply_status, "broke off" in approval.reason) == ("uncertain", None, True)
    await its_turn(here, approval_id, other)
    assert len(here.service.server.requests) == 1
    with pytest.raises(Conflict) as uncertain:
        await here.request(method=method)
    assert (uncertain.value.reason, uncertain.value.http_status) == ("approval_uncertain", 409)
    assert "may have been sent" in uncertain.value.sentence
    assert len(await here.events("approval.uncertain", approval_id)) == 1


async def test_where_no_connection_came_about_it_was_not_sent(here: Desk) -> None:
    async with serve(b"") as nobody:
        integration = await here.app.integrations.connect(
            here.local,
            "generic",
            Sensitive("a-token-of-somebody-else"),
            name="nobody",
            base_url=nobody.url,
            allow_private_network=True,
            allow=[here.agent.agent_id()],
            rules=ASKS,
        )
    gone = dataclasses.replace(here, integration=integration)
    approval_id = await gone.ask()
    approval = await gone.approve(approval_id)
    assert (approval.state, "could not be connected to" in approval.reason) == ("failed", True)


async def test_a_reply_that_cannot_be_searched_is_uncertain_and_says_why(here: Desk) -> None:
    approval_id = await here.ask()
    here.service.answers.append(reply(b"abc", status="206 Partial Content"))
    approval = await here.approve(approval_id)
    assert (approval.state, "206" in approval.reason) == ("uncertain", True)


async def test_a_reply_whose_end_is_lost_is_kept_as_far_as_it_came(here: Desk) -> None:
    approval_id = await here.ask()
    here.service.answers.append(
        lambda _: [b"HTTP/1.1 201 Created\r\ncontent-length: 100\r\ncontent-type: text/plain\r\n\r\nthe beginning", b""]
    )
    approval = await here.approve(approval_id)
    assert (approval.state, approval.reply_status) == ("done", 201)
    _, kept = await here.app.asking.result(here.agent, approval_id)
    assert kept is not None and (kept.status, kept.content, kept.is_cut) == (201, b"the beginning", True)


async def test_a_redirect_is_told_and_not_followed(here: Desk) -> None:
    approval_id = await here.ask()
    here.service.answers.append(reply(status="307 Temporary Redirect", location="/v1/elsewhere"))
    assert (await here.approve(approval_id)).reply_status == 307
    assert len(here.service.server.requests) == 1
    assert (await here.request()).status == 307


async def test_a_credential_that_is_refused_is_not_tried_twice_and_needs_attention(here: Desk) -> None:
    approval_id = await here.ask()
    here.service.answers.append(reply(b"{}", status="401 Unauthorized", content_type="application/json"))
    approval = await here.approve(approval_id)
    assert (approval.state, approval.reply_status, len(here.service.refunds)) == ("done", 401, 1)
    assert (await here.app.integrations.get(here.local, here.integration.id)).status == "needs attention"


# — who dies —


class Killed(BaseException):
    """The process dies here."""


def dies(*_: Any, **__: Any) -> Any:
    raise Killed


async def its_turn(here: Desk, approval_id: UUID, app: App) -> None:
    """What was left is looked at by another orchestrator, after a while."""
    await here.change(approval_id, "tried_at = now() - interval '1 hour', sending_until = now() - interval '1 second'")
    await app.sending.sweep()
    await app.sending.settled(approval_id)


# Where it dies, what stands then, and what comes of it; `sent`: how often it was sent in all.
DEATHS: dict[str, tuple[object, str, str, str, int]] = {
    "before it begins": (Sending, "_logged", "approved", "done", 1),
    "while it checks": (sending, "_check", "approved", "done", 1),
    "before the use is on record": (AuditLog, "append_and_read", "approved", "done", 1),
    "before the credential is open": (Credential, "opened", "approved", "done", 1),
    "before that it is being sent is written": (sending._Call, "_begin", "approved", "done", 1),
    "before it is out": (sending._Call, "_reply", "sending", "uncertain", 0),
    "as it goes out": (Outgoing, "stream", "sending", "uncertain", 0),
    "before the outcome is written": (sending._Call, "_write", "sending", "uncertain", 1),
}


@pytest.mark.parametrize(("where", "what", "left", "came", "sent"), DEATHS.values(), ids=DEATHS)
async def test_whoever_dies_on_the_way_leaves_it_sent_once_or_uncertain(
    here: Desk, other: App, where: object, what: str, left: str, came: str, sent: int
) -> None:
    approval_id = await here.ask()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(where, what, dies)
        # A process that is dead writes nothing.
        patch.setattr(sending._Call, "broken_off", lambda call: asyncio.sleep(0))
        with contextlib.suppress(Killed):
            await here.app.approvals.approve(here.local, approval_id)
        if (task := here.app.sending._tasks.get(approval_id)) is not None:
            await asyncio.wait({task})
            assert isinstance(task.exception(), Killed)
    assert (await here.row(approval_id))["state"] == left
    for _ in range(2):
        await its_turn(here, approval_id, other)
    approval = await here.get(approval_id)
    assert (approval.state, len(here.service.refunds)) == (came, sent)


async def test_while_one_sends_it_another_does_not(here: Desk, other: App) -> None:
    approval_id = await here.ask()
    holds, goes_on = asyncio.Event(), asyncio.Event()
    call = Outgoing.stream

    async def held(*given: Any, **named: Any) -> Any:
        holds.set()
        await goes_on.wait()

    with pytest.MonkeyPatch.context() as patch:
        before = sending._Call._reply

        async def waiting(self: Any, *given: Any) -> Any:
            await held()
            return await before(self, *given)

        patch.setattr(sending._Call, "_reply", waiting)
        await here.app.approvals.approve(here.local, approval_id)
        await holds.wait()
        await here.change(approval_id, "tried_at = now() - interval '1 hour'")
        await other.sending.sweep()
        await other.sending.settled(approval_id)
        assert (await here.get(approval_id)).state == "sending"
        goes_on.set()
        await here.app.sending.settled(approval_id)
    assert call is Outgoing.stream
    assert ((await here.get(approval_id)).state, len(here.service.refunds)) == ("done", 1)


async def test_two_that_begin_at_once_send_once(here: Desk, other: App) -> None:
    for number in range(5):
        approval_id = await here.ask(body={"n": number})
        here.app.approvals.approved, before = lambda scope, approval: None, here.app.approvals.approved
        await here.app.approvals.approve(here.local, approval_id)
        here.app.approvals.approved = before
        for app in (here.app, other):
            app.sending.start(here.local.scope, approval_id)
        await asyncio.gather(here.app.sending.settled(approval_id), other.sending.settled(approval_id))
        assert (await here.get(approval_id)).state == "done"
    assert len(here.service.refunds) == 5


async def test_what_is_broken_off_by_a_seal_is_uncertain(here: Desk) -> None:
    approval_id = await here.ask()
    arrived, let_go = threading.Event(), asyncio.Event()

    def hold(recorded: Recorded) -> Any:
        arrived.set()
        return [b"HTTP/1.1 200 OK\r\n"]

    here.service.answers.append(hold)
    await here.app.approvals.approve(here.local, approval_id)
    while not arrived.is_set():
        await asyncio.sleep(0.01)
    here.app.sending.stop()
    await here.app.sending.settled(approval_id)
    approval = await here.get(approval_id)
    assert (approval.state, "stopped" in approval.reason) == ("uncertain", True)
    let_go.set()


async def test_an_outcome_that_comes_too_late_changes_nothing_and_leaves_nothing(here: Desk, other: App) -> None:
    approval_id = await here.ask()
    with pytest.MonkeyPatch.context() as patch:
        before = sending._Call._write

        async def late(self: Any, *given: Any) -> Any:
            # Everybody thinks that it died.
            await here.change(approval_id, "sending_until = now() - interval '1 second'")
            await other.sending.sweep()
            return await before(self, *given)

        patch.setattr(sending._Call, "_write", late)
        await here.approve(approval_id)
    assert (await here.get(approval_id)).state == "uncertain"
    assert await here.secrets() == {f"approval/{approval_id}/request"}


async def test_an_outcome_that_cannot_be_written_at_once_is_written_later(here: Desk) -> None:
    approval_id, failures = await here.ask(), 2
    with pytest.MonkeyPatch.context() as patch:
        before = sending._Call._write

        async def unlucky(self: Any, *given: Any) -> Any:
            nonlocal failures
            failures -= 1
            if failures >= 0:
                raise Unavailable("the database does not answer")
            return await before(self, *given)

        patch.setattr(sending._Call, "_write", unlucky)
        assert (await here.approve(approval_id)).state == "done"
    assert (await here.request()).body == {"id": "re_1", "status": "succeeded"}


async def test_of_a_process_that_is_killed_another_sends_what_it_had_not_begun_and_nobody_what_it_had(
    here: Desk, other: App, settings: Settings
) -> None:
    first, second, arrived = await here.ask(), await here.ask(body={"n": 1}), asyncio.Event()

    def hold(recorded: Recorded) -> Any:
        arrived.set()
        return [b"HTTP/1.1 200 OK\r\n"]

    here.service.answers.append(hold)
    with approving(settings.home, here.tenant.company.id, first, second) as process:
        assert await asyncio.to_thread(process.says) == "approved"
        await asyncio.wait_for(arrived.wait(), 30)
        process.kill()
    states = [(await here.row(one))["state"] for one in (first, second)]
    assert (states, len(here.service.refunds)) == (["approved", "sending"], 1)
    # Whoever sends it may still be alive, for all that anybody knows.
    await other.sending.sweep()
    assert (await here.row(second))["state"] == "sending"
    for one in (first, second, second):
        await its_turn(here, one, other)
    assert [(await here.get(one)).state for one in (first, second)] == ["done", "uncertain"]
    assert [sent.body for sent in here.service.refunds] == [b'{"n":1}', b'{"charge":"ch_17","amount":500}']
    assert (await here.request()).status == 200
    with pytest.raises(Conflict, match="may have been sent"):
        await here.request(body={"n": 1})
