"""
A request that a person has to approve: it waits, is sent as it was shown, and its outcome is told once.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import pytest

from company_agents.app import App
from company_agents.errors import ApprovalNeeded, Conflict, NotFound, Refused, TooMany, Unauthenticated, WrongUsage
from company_agents.integrations import asking
from company_agents.integrations.approval_forms import MOST_BODY
from company_agents.outgoing.client import OutgoingRequest
from tests.approvals.conftest import REFUND, TOKEN, Desk, MakeDesk, Service
from tests.outgoing.servers import reply
from tests.promises.evidence import sql


async def refused(code: str, coming: Any) -> Refused:
    with pytest.raises(Refused) as error:
        await coming
    assert error.value.reason == code
    return error.value


# — asked —


async def test_it_waits_and_nothing_is_sent(here: Desk) -> None:
    approval_id = await here.ask()
    assert here.service.refunds == []
    approval = await here.get(approval_id)
    assert (approval.state, approval.method, approval.host, approval.path) == (
        "waiting",
        "POST",
        here.service.server.url,
        "/v1/refunds",
    )
    assert (approval.agent, approval.integration, approval.version, approval.run_id) == ("ann", "generic", 1, None)
    assert 23.9 < (approval.expires_at - approval.created_at).total_seconds() / 3600 < 24.1
    [event] = await here.events("approval.asked", approval_id)
    assert (event["method"], event["path"], event["actor"]) == ("POST", "/v1/refunds", here.agent.label)
    # What no rule speaks of goes out at once.
    assert (await here.request(method="GET", path="/v1/refunds", body=None)).status == 200


async def test_the_same_request_is_one_approval_and_another_is_another(here: Desk, other: App) -> None:
    first = await here.ask(headers={"Idempotency-Key": "one", "X-Account": "a"})
    assert await here.ask(other, headers={"idempotency-key": "two", "traceparent": "00-1", "X-Account": "a"}) == first
    others = [
        await here.ask(headers={"X-Account": "b"}),
        await here.ask(headers={"X-Account": "a"}, body={**REFUND, "amount": 501}),
        await here.ask(headers={"X-Account": "a"}, query={"expand": "charge"}),
        await here.ask(headers={"X-Account": "a"}, path="/v1/refunds/"),
    ]
    assert len({first, *others}) == 5


async def test_one_that_is_asked_for_many_times_at_once_is_one(here: Desk, other: App) -> None:
    found = await asyncio.gather(*(here.ask(app) for app in (here.app, other) * 8))
    assert len(set(found)) == 1
    assert len((await here.app.approvals.list(here.local)).items) == 1
    assert len(await here.secrets()) == 1


async def test_it_is_sent_exactly_as_it_was_shown_and_the_reply_is_told_once(here: Desk, other: App) -> None:
    headers = {"X-Account": "a", "Idempotency-Key": "key-1", "Authorization": "Bearer mine", "Cookie": "a=b"}
    approval_id = await here.ask(headers=headers, query={"b": 2, "a": "x y"}, body={"note": "é", "n": [1]})
    shown = await here.app.approvals.shown(here.local, approval_id)
    assert shown is not None
    approval = await here.approve(approval_id, other, note="go on")
    assert (approval.state, approval.reply_status, approval.note) == ("done", 200, "go on")
    [sent] = here.service.refunds
    assert sent.line == f"POST {shown.path}?{shown.query} HTTP/1.1" == "POST /v1/refunds?b=2&a=x+y HTTP/1.1"
    assert sent.body == shown.body == json.dumps({"note": "é", "n": [1]}, separators=(",", ":")).encode()
    ours = {"host", "user-agent", "accept-encoding", "content-length", "authorization", "accept", "connection"}
    assert {name: value for name, value in sent.headers.items() if name not in ours} == {
        name.lower(): value for name, value in shown.headers
    }
    assert dict(shown.headers) == {"X-Account": "a", "Idempotency-Key": "key-1", "Content-Type": "application/json"}
    assert sent.headers["authorization"] == f"Bearer {TOKEN}"

    again: dict[str, Any] = {"headers": {**headers, "Idempotency-Key": "key-2"}, "query": {"b": 2, "a": "x y"}}
    answer = await here.request(**again, body={"note": "é", "n": [1]})
    assert (answer.status, answer.body) == (200, {"id": "re_1", "status": "succeeded"})
    assert len(here.service.refunds) == 1
    assert (await here.get(approval_id)).collected_at is not None
    # The next one is a new one.
    assert await here.ask(**again, body={"note": "é", "n": [1]}) != approval_id
    begun = await here.events("credential.begun", approval_id)
    assert [(event["approved_by"], event["decision"]) for event in begun] == [(here.local.label, "approved")]
    for action in ("approval.asked", "approval.shown", "approval.approved", "approval.done", "approval.collected"):
        assert len(await here.events(action, approval_id)) == 1, action


async def test_who_waits_gets_the_reply_and_holds_no_turn_meanwhile(here: Desk, other: App) -> None:
    here.app.relay.turns.each, before = 1, here.app.relay.turns.each
    try:
        waiting = asyncio.create_task(here.request(wait=30))
        while not (found := (await here.app.approvals.list(here.local)).items):
            await asyncio.sleep(0.01)
        # The only turn of the company is free.
        assert (await here.request(method="GET", path="/v1/balance", body=None)).status == 200
        await here.approve(found[0].id, other)
        assert (await waiting).body == {"id": "re_1", "status": "succeeded"}
    finally:
        here.app.relay.turns.each = before


async def test_who_has_waited_long_enough_is_told_that_it_still_waits(here: Desk) -> None:
    with pytest.raises(ApprovalNeeded):
        await here.request(wait=0.6)


@pytest.mark.parametrize("how", ["paused", "over"])
async def test_who_may_no_longer_call_does_not_wait_on(here: Desk, how: str) -> None:
    run, token = await here.app.runs.open(here.agent)
    caller = await here.app.identity.worker(token.reveal_text())
    waiting = asyncio.create_task(here.request(caller=caller, wait=30))
    while not (await here.app.approvals.list(here.local)).items:
        await asyncio.sleep(0.01)
    if how == "paused":
        await here.app.agents.pause(here.local, here.agent.agent_id())
    else:
        await here.app.runs.cancel(here.local, run.id)
    with pytest.raises(Unauthenticated if how == "paused" else Conflict):
        await waiting


# — decided —


async def test_one_that_is_refused_is_told_once_with_the_note(here: Desk) -> None:
    approval_id = await here.ask()
    refused_one = await here.app.approvals.refuse(here.local, approval_id, " ask the customer first ")
    assert (refused_one.state, refused_one.decided_by) == ("refused", here.local.label)
    error = await refused("approval_refused", here.request())
    assert (error.http_status, "ask the customer first" in error.sentence) == (403, True)
    assert here.service.refunds == []
    assert await here.ask() != approval_id


async def test_of_two_who_decide_at_once_one_does(here: Desk, other: App) -> None:
    for _ in range(3):
        approval_id = await here.ask()
        found = await asyncio.gather(
            here.app.approvals.approve(here.local, approval_id),
            other.approvals.refuse(here.local, approval_id),
            other.approvals.approve(here.local, approval_id),
            return_exceptions=True,
        )
        lost = [one for one in found if isinstance(one, Conflict)]
        assert len(lost) == 2 and {(one.reason, one.http_status) for one in lost} == {("approval_over", 409)}
        await asyncio.gather(here.app.sending.settled(approval_id), other.sending.settled(approval_id))
        decided = [
            *await here.events("approval.approved", approval_id),
            *await here.events("approval.refused", approval_id),
        ]
        assert len(decided) == 1
        now = await here.get(approval_id)
        assert now.state in ("done", "refused")
        assert len(here.service.refunds) == (now.state == "done")
        here.service.server.requests.clear()
        if now.state == "done":
            await here.request()
        else:
            await refused("approval_refused", here.request())


async def test_one_that_nobody_decides_on_expires(here: Desk, other: App) -> None:
    approval_id = await here.ask()
    await here.change(approval_id, "expires_at = now()")
    assert (await here.get(approval_id)).state == "expired"
    assert [one.id for one in (await here.app.approvals.list(here.local, state="expired")).items] == [approval_id]
    assert (await here.app.approvals.list(here.local, state="waiting")).items == []
    for decide in (here.app.approvals.approve, here.app.approvals.refuse):
        await refused("approval_over", decide(here.local, approval_id))
    # It does not stand in the way of the next one.
    second = await here.ask()
    assert second != approval_id
    await here.change(second, "expires_at = now()")
    await other.sending.sweep()
    for one in (approval_id, second):
        assert (await here.row(one))["state"] == "expired"
        assert len(await here.events("approval.expired", one)) == 1
    assert here.service.refunds == []


async def test_nothing_is_decided_twice_by_whoever_writes_to_the_table(here: Desk) -> None:
    approval_id = await here.ask()
    await here.approve(approval_id)
    async with here.local.scope.transaction() as tx:
        with pytest.raises(WrongUsage):
            await tx.run(
                "approval_end", id=approval_id, was="done", state="sending", reason="", reply=None, reply_status=None
            )
    for change in ("version = 2", "digest = likeness", "state = 'waiting', ended_at = NULL"):
        with pytest.raises(Exception, match=r"what was asked for|does not become"):
            await sql(here.superuser, f"UPDATE approvals SET {change} WHERE id = %(i)s", i=approval_id)


# — whose —


async def test_another_agent_and_another_company_see_none_of_it(here: Desk, desk: MakeDesk) -> None:
    approval_id = await here.ask()
    _, token = await here.app.agents.create(here.local, "bob")
    bob, elsewhere = await here.app.identity.agent(token.reveal_text()), await desk()
    for caller in (bob, elsewhere.agent, elsewhere.local):
        assert (await here.app.approvals.list(caller)).items == []
        with pytest.raises(NotFound):
            await here.app.approvals.get(caller, approval_id)
    for caller in (bob, elsewhere.agent):
        with pytest.raises(NotFound):
            await here.app.asking.result(caller, approval_id)
    for decide in (here.app.approvals.approve, here.app.approvals.refuse, here.app.approvals.shown):
        with pytest.raises(NotFound):
            await decide(elsewhere.local, approval_id)
        for agent in (bob, here.agent):
            with pytest.raises(Refused, match="company:approval:decide"):
                await decide(agent, approval_id)
    # Who may use it too has a request of its own, also where it is the same.
    await here.app.integrations.allow(here.local, here.integration.id, bob.agent_id())
    assert await here.ask(caller=bob) != approval_id


async def test_an_agent_looks_at_its_own_and_gets_the_reply_for_as_long_as_it_is_kept(here: Desk) -> None:
    approval_id = await here.ask()
    found, kept = await here.app.asking.result(here.agent, approval_id)
    assert (found.state, kept) == ("waiting", None)
    waiting = asyncio.create_task(here.app.asking.result(here.agent, approval_id, wait=30))
    await asyncio.sleep(0)
    await here.approve(approval_id)
    found, kept = await waiting
    assert kept is not None and (found.state, kept.status, kept.content[:8]) == ("done", 200, b'{"id": "')
    assert found.collected_at is not None
    _, kept = await here.app.asking.result(here.agent, approval_id)
    assert kept is not None
    # It was told: the same request is a new one.
    assert await here.ask() != approval_id


# — what is kept —


async def test_what_a_request_says_stands_nowhere_but_sealed(here: Desk) -> None:
    secret = "a-secret-of-the-customer-17"
    approval_id = await here.ask(
        path="/v1/refunds", query={"q": secret}, headers={"X-Note": secret}, body={"secret": secret}
    )
    row = await here.row(approval_id)
    assert not any(secret in str(value) for value in row.values())
    # Nor a digest that could be tried with guesses: they are under a key that is sealed.
    assert await here.secrets() == {f"approval/{approval_id}/request"}
    # It is nothing that could be replaced after a master key got out.
    async with here.app.keys.db.instance_transaction() as tx:
        named = {row["name"] for row in await tx.all("secrets_before", moment=datetime.now(UTC))}
    assert not any(name.startswith("approval") for name in named)
    events = await here.app.events.newest(here.tenant.company.id, limit=100)
    assert secret not in json.dumps(events, default=str)


async def test_a_row_that_was_exchanged_is_neither_shown_nor_sent(here: Desk) -> None:
    first, second = await here.ask(), await here.ask(body={**REFUND, "amount": 1})
    one, two = await here.row(first), await here.row(second)
    await here.change(first, f"request = '{two['request']}'")
    with pytest.raises(Exception, match="not what was asked"):
        await here.app.approvals.shown(here.local, first)
    await here.change(first, f"request = '{one['request']}', digest = '\\x{bytes(two['digest']).hex()}'")
    with pytest.raises(Exception, match="not what was asked"):
        await here.app.approvals.shown(here.local, first)
    assert (await here.approve(first)).state == "failed"
    assert here.service.refunds == []


async def test_a_body_beyond_what_can_be_kept_is_refused_with_the_reason(here: Desk) -> None:
    await here.ask(body="a" * MOST_BODY)
    error = await refused("too_large_to_ask", here.request(body="a" * (MOST_BODY + 1)))
    assert "48 KiB" in error.sentence
    await refused("too_large_to_ask", here.request(query={"a": "b" * 16_000}))
    await refused("too_large_to_ask", here.request(headers={"X-A": "b" * 16_000}))
    assert len((await here.app.approvals.list(here.local)).items) == 1


async def test_a_body_that_streams_is_read_as_far_as_it_can_be_kept(here: Desk) -> None:
    taken = 0

    async def pieces(count: int) -> AsyncIterator[bytes]:
        nonlocal taken
        for _ in range(count):
            taken += 1
            yield b"a" * 1024

    async def sent(count: int) -> None:
        request = OutgoingRequest("POST", "/v1/refunds", "", {"Content-Type": "text/plain"}, pieces(count))
        async with here.app.relay.open(here.agent, str(here.integration.id), request):
            raise AssertionError("it was sent")

    with pytest.raises(ApprovalNeeded):
        await sent(48)
    await refused("too_large_to_ask", sent(10_000))
    assert taken <= 48 + 49
    [approval] = (await here.app.approvals.list(here.local)).items
    assert approval.size == 48 * 1024


async def test_a_request_that_could_not_be_sent_asks_nobody(here: Desk) -> None:
    for more in ({"path": "/v1/refunds/../admin"}, {"path": "/v1/refunds?a=b"}, {"headers": {"a b": "c"}}):
        with pytest.raises((WrongUsage, Refused)):
            await here.request(**more)
    assert (await here.app.approvals.list(here.local)).items == []


async def test_a_large_reply_is_kept_as_far_as_it_goes(here: Desk) -> None:
    approval_id = await here.ask()
    here.service.answers.append(reply(b"x" * 200_000, content_type="text/plain", x_kind="large"))
    assert (await here.approve(approval_id)).state == "done"
    _, kept = await here.app.asking.result(here.agent, approval_id)
    assert kept is not None and kept.is_cut
    assert 60_000 < len(kept.content) < 65_536 and kept.headers["x-kind"] == "large"


async def test_an_agent_has_so_many_waiting_and_no_more(here: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asking, "MOST_WAITING", 3)
    ids = [await here.ask(body={"n": n}) for n in range(3)]
    with pytest.raises(TooMany):
        await here.request(body={"n": 3})
    assert await here.ask(body={"n": 0}) == ids[0]
    await here.app.approvals.refuse(here.local, ids[1])
    await here.ask(body={"n": 3})


async def test_what_was_heard_is_forgotten_and_the_row_stays_for_a_while(here: Desk, other: App) -> None:
    heard, unheard, waiting = [await here.ask(body={"n": n}) for n in range(3)]
    for one in (heard, unheard):
        await here.approve(one)
    await here.request(body={"n": 0})
    kept = {f"approval/{one}/{what}" for one in (heard, unheard) for what in ("request", "reply")}
    kept.add(f"approval/{waiting}/request")
    await other.sending.sweep_company(here.local.scope)
    assert await here.secrets() == kept
    for one in (heard, unheard):
        await here.change(
            one, "ended_at = now() - interval '2 hours', collected_at = collected_at - interval '2 hours'"
        )
    await other.sending.sweep()
    assert await here.secrets() == {name for name in kept if str(heard) not in name}
    assert (await here.get(heard)).is_kept is False
    assert await here.app.approvals.shown(here.local, heard) is None
    found, reply_kept = await here.app.asking.result(here.agent, heard)
    assert (found.state, reply_kept) == ("done", None)
    await here.change(unheard, "ended_at = now() - interval '8 days'")
    await other.sending.sweep()
    assert await here.secrets() == {f"approval/{waiting}/request"}
    await here.change(heard, "ended_at = now() - interval '91 days'")
    await other.sending.sweep()
    with pytest.raises(NotFound):
        await here.get(heard)
    assert (await here.get(unheard)).state == "done"


async def test_what_is_kept_goes_with_the_integration(here: Desk) -> None:
    waiting, done = await here.ask(), await here.ask(body={"n": 1})
    await here.approve(done)
    assert len(await here.secrets()) == 3
    await here.app.revocation.delete(here.local, here.integration.id)
    assert await here.secrets() == set()
    for one in (waiting, done):
        with pytest.raises(NotFound):
            await here.get(one)


async def test_an_approval_that_there_is_not_does_not_exist(here: Desk) -> None:
    for call in (
        here.app.approvals.get,
        here.app.approvals.approve,
        here.app.approvals.refuse,
        here.app.approvals.shown,
    ):
        with pytest.raises(NotFound):
            await call(here.local, uuid4())
    with pytest.raises(WrongUsage):
        await here.app.approvals.list(here.local, state="sleeping")
    approval_id = await here.ask()
    with pytest.raises(WrongUsage):
        await here.app.approvals.refuse(here.local, approval_id, "n" * 1001)


async def test_a_reply_that_echoes_the_credential_is_kept_without_it(here: Desk, service: Service) -> None:
    approval_id = await here.ask()
    service.answers.append(reply(f'{{"seen": "Bearer {TOKEN}"}}'.encode(), content_type="application/json"))
    await here.approve(approval_id)
    assert re.fullmatch(r"Bearer \[.*removed.*\]", (await here.request()).body["seen"])
