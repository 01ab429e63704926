"""
A company's events arrive, signed, as often as it takes.
"""

from __future__ import annotations

import asyncio
import base64
import json
import uuid
from typing import Any

import pytest
from standardwebhooks.webhooks import Webhook as Verifier
from standardwebhooks.webhooks import WebhookVerificationError

from company_agents.app import App
from company_agents.errors import Conflict, NotFound, Refused, WrongUsage
from company_agents.outbox import events, sending
from company_agents.outbox.deliverer import AT_ONCE
from company_agents.outbox.sending import SCHEDULE, wait_after
from company_agents.outbox.webhooks import MOST_WEBHOOKS, Webhook
from tests.conftest import Tenant
from tests.outgoing.servers import Answer, Recorded, Server, reply, serve
from tests.promises.evidence import Past, recorded, sql

ALL = list(events.KINDS)
TAKEN = reply(b"", "204 No Content")


async def registered(app: App, tenant: Tenant, server: Server, *wanted: str) -> tuple[Webhook, str]:
    webhook, secret = await app.outbox.webhooks.create(
        tenant.local, f"{server.url}/hook?k=v", wanted or ALL, allow_private_network=True
    )
    return webhook, secret.reveal_text()


async def look(app: App) -> None:
    """What the background does every second, until nothing is on its way."""
    await app.outbox.deliverer.look()
    await app.outbox.deliverer.idle()


async def time_passes(superuser: Past, webhook: Webhook, seconds: float) -> None:
    """Everything that has a moment for this webhook is so much longer ago."""
    for table, columns in (
        ("webhooks", ("failing_since", "previous_until", "status_since")),
        ("webhook_deliveries", ("due_at", "claimed_until", "first_tried_at", "tried_at", "created_at")),
    ):
        moved = ", ".join(f"{column} = {column} - %(s)s * interval '1 second'" for column in columns)
        name = "id" if table == "webhooks" else "webhook_id"
        await sql(superuser, f"UPDATE {table} SET {moved} WHERE {name} = %(w)s", s=seconds, w=webhook.id)


def verified(secret: str, request: Recorded) -> Any:
    """What the official library makes of a request."""
    return Verifier(secret).verify(request.body, request.headers)


def answering(*answers: bytes) -> Answer:
    """These, one after the other; the last for ever."""
    left = list(answers)
    return lambda _: left.pop(0) if len(left) > 1 else left[0]


async def state(superuser: Past, webhook: Webhook) -> dict[str, Any]:
    [row] = await sql(superuser, "SELECT * FROM webhooks WHERE id = %(w)s", w=webhook.id)
    return row


# — what arrives —


async def test_an_event_arrives_once_signed_as_the_official_library_verifies_it(app: App, mine: Tenant) -> None:
    async with serve(TAKEN) as server:
        webhook, secret = await registered(app, mine, server)
        await app.agents.rotate_token(mine.local, mine.agent.agent_id())
        await look(app)
        await look(app)
        [request] = server.requests
        assert request.line == "POST /hook?k=v HTTP/1.1"
        body = verified(secret, request)
        assert body["type"] == "agent.token.rotated"
        assert body["data"] == {"company": str(mine.company.id), "agent": str(mine.agent.agent_id())}
        [event] = await recorded(app, mine.company.id, "agent.token_rotated")
        assert body["timestamp"] == event["at"].replace("+00:00", "Z")
        assert request.headers["webhook-id"] == events.message_id(mine.company.id, event["seq"], event["at"])
        [delivery] = await app.outbox.webhooks.deliveries(mine.local, webhook.id)
        assert (delivery.state, delivery.answer, delivery.attempts, delivery.error) == ("delivered", 204, 1, "")


async def test_a_signature_is_of_this_secret_this_id_this_moment_and_this_body(app: App, mine: Tenant) -> None:
    async with serve(TAKEN) as server:
        webhook, secret = await registered(app, mine, server)
        assert secret.startswith("whsec_")
        assert 24 <= len(base64.b64decode(secret.removeprefix("whsec_"))) <= 64
        assert (await app.outbox.webhooks.test(mine.local, webhook.id)).delivered
        [request] = server.requests
        assert verified(secret, request)["type"] == "webhook.test"
        other = "whsec_" + base64.b64encode(bytes(32)).decode()
        for headers, body, with_secret in (
            (request.headers, request.body, other),
            (request.headers, request.body + b" ", secret),
            ({**request.headers, "webhook-id": "evt_other"}, request.body, secret),
            (
                {**request.headers, "webhook-timestamp": str(int(request.headers["webhook-timestamp"]) + 1)},
                request.body,
                secret,
            ),
        ):
            with pytest.raises(WebhookVerificationError):
                Verifier(with_secret).verify(body, headers)


async def test_only_events_that_were_asked_for_arrive_and_only_those_of_the_company(
    app: App, tenant: Any, mine: Tenant
) -> None:
    theirs = await tenant()
    async with serve(TAKEN) as server:
        _, secret = await registered(app, mine, server, events.NEEDS_ATTENTION, events.ROTATION_DUE)
        await app.agents.rotate_token(mine.local, mine.agent.agent_id())
        for one in (mine, theirs):
            await app.audit.append(
                one.company.id,
                "integration.needs_attention",
                integration=uuid.uuid4(),
                # A text that looks like another event is none.
                reason='{"action":"integration.rotation_due"}',
            )
        await look(app)
        [request] = server.requests
        body = verified(secret, request)
        assert (body["type"], body["data"]["company"]) == ("integration.needs_attention", str(mine.company.id))


async def test_a_rotated_master_key_is_told_to_every_company_that_asked_and_says_nothing_of_others(
    app: App, mine: Tenant
) -> None:
    async with serve(TAKEN) as server:
        _, secret = await registered(app, mine, server, events.KEY_ROTATED)
        facts = {"key": "aaaa", "new_key": "bbbb", "rows": 12345, "rows_left": 0, "source": "vault://somewhere"}
        await app.audit.append(None, "key.rotated", actor="operator:x", **facts)
        await look(app)
        [request] = server.requests
        assert verified(secret, request)["data"] == {
            "company": str(mine.company.id),
            "key": "aaaa",
            "new_key": "bbbb",
        }


async def test_what_happened_before_it_was_registered_does_not_arrive(app: App, mine: Tenant) -> None:
    await app.agents.rotate_token(mine.local, mine.agent.agent_id())
    async with serve(TAKEN) as server:
        await registered(app, mine, server)
        await look(app)
        assert server.requests == []


async def test_a_thousand_events_arrive_each_once(app: App, mine: Tenant, superuser: Past) -> None:
    async with serve(TAKEN) as server:
        webhook, _ = await registered(app, mine, server, events.AGENT_TOKEN_ROTATED)
        many = (app.audit.append(mine.company.id, "agent.token_rotated", agent=str(n)) for n in range(1000))
        await asyncio.gather(*many)
        for _ in range(1000 // AT_ONCE + 10):
            if len(server.requests) >= 1000:
                break
            await look(app)
        agents = [json.loads(request.body)["data"]["agent"] for request in server.requests]
        assert sorted(map(int, agents)) == list(range(1000))
        assert len({request.headers["webhook-id"] for request in server.requests}) == 1000
        assert (await state(superuser, webhook))["failing_since"] is None


# — what fails —


async def test_a_failure_is_tried_again_under_the_same_id_with_the_same_body_until_it_is_taken(
    app: App, mine: Tenant, superuser: Past
) -> None:
    failures = [reply(b"", "500 Oops"), reply(b"", "404 Nothing"), b"", reply(b"", "302 Found", location="/elsewhere")]
    async with serve(answering(*failures, TAKEN)) as server:
        webhook, secret = await registered(app, mine, server)
        await app.agents.rotate_token(mine.local, mine.agent.agent_id())
        for n in range(len(failures) + 1):
            await look(app)
            assert len(server.requests) == n + 1
            await look(app)
            assert len(server.requests) == n + 1, "it was not due yet"
            await time_passes(superuser, webhook, SCHEDULE[min(n, len(SCHEDULE) - 1)] * 1.3)
        assert len({(request.headers["webhook-id"], request.body) for request in server.requests}) == 1
        # The moment is that of the sending, so that a receiver which looks at it takes a late one, too.
        verified(secret, server.requests[-1])
        [delivery] = await app.outbox.webhooks.deliveries(mine.local, webhook.id)
        assert (delivery.state, delivery.attempts) == ("delivered", len(failures) + 1)
        assert (await state(superuser, webhook))["failing_since"] is None


def test_the_distances_grow_as_the_specification_says_and_are_spread() -> None:
    for n, planned in enumerate([5, 300, 1800, 7200, 18000, 36000, 36000, 36000], start=1):
        found = {wait_after(n) for _ in range(50)}
        assert all(0.8 * planned <= wait <= 1.2 * planned for wait in found)
        assert len(found) > 40


async def test_a_receiver_that_asks_for_more_time_gets_it(app: App, mine: Tenant, superuser: Past) -> None:
    async with serve(reply(b"", "429 Slow down", retry_after="900")) as server:
        webhook, _ = await registered(app, mine, server)
        await app.agents.rotate_token(mine.local, mine.agent.agent_id())
        await look(app)
        await time_passes(superuser, webhook, 890)
        await look(app)
        assert len(server.requests) == 1
        await time_passes(superuser, webhook, 11)
        await look(app)
        assert len(server.requests) == 2


async def test_a_receiver_that_is_gone_is_not_asked_again(app: App, mine: Tenant, superuser: Past) -> None:
    async with serve(reply(b"", "410 Gone")) as server:
        webhook, _ = await registered(app, mine, server)
        await app.agents.rotate_token(mine.local, mine.agent.agent_id())
        await look(app)
        await time_passes(superuser, webhook, 10**6)
        await look(app)
        assert len(server.requests) == 1
        seen = await app.outbox.webhooks.get(mine.local, webhook.id)
        assert (seen.status, seen.waiting) == ("disabled", 1)
        assert "410" in seen.status_reason
        assert len(await recorded(app, mine.company.id, "webhook.disabled", webhook=webhook.id)) == 1


async def test_after_five_days_of_failing_it_is_disabled_and_enabled_again_it_gets_all_that_happened(
    app: App, mine: Tenant, superuser: Past
) -> None:
    answers = [*[reply(b"", "500 Oops")] * 3, TAKEN]
    async with serve(answering(*answers)) as server:
        webhook, secret = await registered(app, mine, server)
        await app.agents.rotate_token(mine.local, mine.agent.agent_id())
        await look(app)
        await time_passes(superuser, webhook, 5 * 24 * 3600 + 1)
        await look(app)
        seen = await app.outbox.webhooks.get(mine.local, webhook.id)
        assert (seen.status, seen.waiting) == ("enabled", 1), "for five days there may have been nobody who sent"
        await time_passes(superuser, webhook, 600)
        await look(app)
        seen = await app.outbox.webhooks.get(mine.local, webhook.id)
        assert (seen.status, seen.waiting) == ("disabled", 0)
        assert len(await recorded(app, mine.company.id, "webhook.disabled", webhook=webhook.id)) == 1
        await app.agents.rotate_token(mine.local, mine.agent.agent_id())
        await look(app)
        assert len(server.requests) == 3, "disabled, it gets nothing"
        enabled = await app.outbox.webhooks.enable(mine.local, webhook.id)
        assert (enabled.status, enabled.failing_since) == ("enabled", None)
        await look(app)
        await look(app)
        got = {request.headers["webhook-id"] for request in server.requests[3:]}
        assert len(got) == 1, "the first was given up after five days; what happened meanwhile arrives"
        verified(secret, server.requests[-1])


async def test_a_test_that_fails_begins_no_days_of_failing(app: App, mine: Tenant, superuser: Past) -> None:
    oops = reply(b"", "500 Oops")
    async with serve(answering(oops, oops, oops, TAKEN)) as server:
        webhook, _ = await registered(app, mine, server)
        assert not (await app.outbox.webhooks.test(mine.local, webhook.id)).delivered
        assert (await state(superuser, webhook))["failing_since"] is None
        await time_passes(superuser, webhook, 6 * 24 * 3600)
        await app.agents.rotate_token(mine.local, mine.agent.agent_id())
        await look(app)
        assert (await app.outbox.webhooks.get(mine.local, webhook.id)).status == "enabled"
        await time_passes(superuser, webhook, 6 * 24 * 3600)
        assert not (await app.outbox.webhooks.test(mine.local, webhook.id)).delivered
        assert (await app.outbox.webhooks.get(mine.local, webhook.id)).status == "enabled"


async def test_one_that_hangs_takes_nothing_from_another(
    app: App, mine: Tenant, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    hanging = await asyncio.start_server(talk, "127.0.0.1", 0)
    async with serve(TAKEN) as server, hanging:
        port = hanging.sockets[0].getsockname()[1]
        slow, _ = await registered(app, mine, Server(port=port), events.AGENT_TOKEN_ROTATED)
        quick, _ = await registered(app, mine, server, events.AGENT_TOKEN_ROTATED)
        for n in range(3 * AT_ONCE):
            await app.audit.append(mine.company.id, "agent.token_rotated", agent=str(n))
        for _ in range(200):
            await app.outbox.deliverer.look()
            if len(server.requests) == 3 * AT_ONCE:
                break
            await asyncio.sleep(0.02)
        assert len(server.requests) == 3 * AT_ONCE
        # The last has arrived; that it did is written a moment later.
        for _ in range(200):
            if (await app.outbox.webhooks.get(mine.local, quick.id)).waiting == 0:
                break
            await asyncio.sleep(0.02)
        assert {each.state for each in await app.outbox.webhooks.deliveries(mine.local, quick.id)} == {"delivered"}
        app.outbox.deliverer.stop_sending()
        await app.outbox.deliverer.idle()
        # Of what hung, only so much was begun.
        begun = [each for each in await app.outbox.webhooks.deliveries(mine.local, slow.id) if each.attempts]
        assert len(begun) == AT_ONCE
        await app.outbox.webhooks.delete(mine.local, slow.id)


async def test_one_whose_secret_cannot_be_opened_takes_nothing_from_another(
    app: App, mine: Tenant, superuser: Past
) -> None:
    async with serve(TAKEN) as server:
        broken, _ = await registered(app, mine, server)
        whole, _ = await registered(app, mine, server)
        for webhook in (broken, whole):
            await app.outbox.webhooks.rotate_secret(mine.local, webhook.id)
            await time_passes(superuser, webhook, 24 * 3600 + 1)
        spoiled = "UPDATE secrets SET value = 'spoiled' WHERE name = %(n)s"
        await sql(superuser, spoiled, n=f"webhook/{broken.id}")
        await app.agents.rotate_token(mine.local, mine.agent.agent_id())
        await look(app)
        assert len(server.requests) == 1
        assert (await state(superuser, whole))["previous_until"] is None
        [delivery] = await app.outbox.webhooks.deliveries(mine.local, whole.id)
        assert delivery.state == "delivered"
        await app.outbox.webhooks.delete(mine.local, broken.id)


async def test_one_for_which_nothing_can_be_written_takes_nothing_from_those_after_it(
    app: App, mine: Tenant, superuser: Past
) -> None:
    async with serve(TAKEN) as server:
        first, second = sorted([(await registered(app, mine, server))[0] for _ in range(2)], key=lambda one: one.id)
        # What Postgres says then is none of our errors.
        refuses = f"""
            CREATE FUNCTION nothing_for_one() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'none of ours'; END $$;
            CREATE TRIGGER nothing_for_one BEFORE INSERT ON webhook_deliveries FOR EACH ROW
                WHEN (NEW.webhook_id = '{first.id}') EXECUTE FUNCTION nothing_for_one()"""
        await sql(superuser, refuses)
        try:
            await app.agents.rotate_token(mine.local, mine.agent.agent_id())
            await look(app)
        finally:
            await sql(superuser, "DROP FUNCTION nothing_for_one CASCADE")
        [delivery] = await app.outbox.webhooks.deliveries(mine.local, second.id)
        assert delivery.state == "delivered"
        assert await app.outbox.webhooks.deliveries(mine.local, first.id) == []
        await look(app)
        assert len(server.requests) == 2, "nothing was passed over"


async def test_what_ended_is_kept_for_thirty_days_also_where_nothing_else_happens(
    app: App, mine: Tenant, superuser: Past
) -> None:
    async with serve(TAKEN) as server:
        webhook, _ = await registered(app, mine, server)
        await app.agents.rotate_token(mine.local, mine.agent.agent_id())
        for days, kept in ((0, 1), (29, 1), (2, 0)):
            await look(app)
            await time_passes(superuser, webhook, days * 24 * 3600)
            app.outbox.deliverer._forgot_at = float("-inf")
            await look(app)
            assert len(await app.outbox.webhooks.deliveries(mine.local, webhook.id)) == kept
        assert len(server.requests) == 1


async def test_a_receiver_has_fifteen_seconds() -> None:
    assert sending.SEND_TIME == 15
    assert sending.CLAIM_TIME > 2 * sending.SEND_TIME, "nobody else sends what is being sent"


# — where it may go —


@pytest.mark.parametrize(
    "url",
    [
        "http://example.com/hook",
        "https://10.0.0.1/hook",
        "https://127.0.0.1/hook",
        "https://169.254.169.254/latest",
        "https://user:password@example.com/",
        "https://example.com/#part",
        "https://exa mple.com/",
        "ftp://example.com/",
        "example.com",
        "https://" + "a" * 3000,
        "",
    ],
)
async def test_an_address_that_it_may_not_go_to_is_refused_and_not_repeated(app: App, mine: Tenant, url: str) -> None:
    with pytest.raises(WrongUsage) as refused:
        await app.outbox.webhooks.create(mine.local, url, ALL)
    assert "password" not in str(refused.value) or "holds a user name or a password" in str(refused.value)


@pytest.mark.parametrize("private", [True, False])
async def test_an_address_of_a_cloud_s_own_service_is_refused_also_where_private_networks_are_allowed(
    app: App, mine: Tenant, private: bool
) -> None:
    with pytest.raises(WrongUsage):
        await app.outbox.webhooks.create(mine.local, "http://169.254.169.254/", ALL, allow_private_network=private)


async def test_a_name_that_leads_to_this_machine_is_not_connected_to(app: App, mine: Tenant) -> None:
    async with serve(TAKEN) as server:
        webhook, _ = await app.outbox.webhooks.create(mine.local, f"https://localhost:{server.port}/", ALL)
        sent = await app.outbox.webhooks.test(mine.local, webhook.id)
        assert not sent.delivered
        assert "may not connect to" in sent.error
        assert server.connections == 0


async def test_a_redirect_is_not_followed_not_even_to_this_machine(app: App, mine: Tenant) -> None:
    async with serve(TAKEN) as other, serve(reply(b"", "307 Temporary", location=f"{other.url}/inside")) as server:
        webhook, _ = await registered(app, mine, server)
        sent = await app.outbox.webhooks.test(mine.local, webhook.id)
        assert (sent.delivered, sent.answer) == (False, 307)
        assert other.connections == 0


async def test_where_it_goes_is_what_was_sealed_whatever_the_row_says(app: App, mine: Tenant, superuser: Past) -> None:
    async with serve(TAKEN) as server, serve(TAKEN) as other:
        webhook, _ = await registered(app, mine, server)
        await sql(superuser, "UPDATE webhooks SET url = %(u)s WHERE id = %(w)s", u=other.url, w=webhook.id)
        await app.outbox.webhooks.test(mine.local, webhook.id)
        assert (len(server.requests), other.connections) == (1, 0)


# — the secret, and who may —


async def test_a_rotated_secret_signs_beside_the_new_one_for_a_day_and_is_gone_then(
    app: App, mine: Tenant, superuser: Past
) -> None:
    async with serve(TAKEN) as server:
        webhook, old = await registered(app, mine, server)
        rotated, new = await app.outbox.webhooks.rotate_secret(mine.local, webhook.id)
        assert rotated.previous_until is not None
        await app.outbox.webhooks.test(mine.local, webhook.id)
        assert len(server.requests[0].headers["webhook-signature"].split(" ")) == 2
        for secret in (old, new.reveal_text()):
            verified(secret, server.requests[0])
        again, newest = await app.outbox.webhooks.rotate_secret(mine.local, webhook.id)
        await app.outbox.webhooks.test(mine.local, webhook.id)
        verified(newest.reveal_text(), server.requests[1])
        verified(new.reveal_text(), server.requests[1])
        with pytest.raises(WebhookVerificationError):
            verified(old, server.requests[1])
        await time_passes(superuser, webhook, 24 * 3600 + 1)
        await look(app)
        await app.outbox.webhooks.test(mine.local, webhook.id)
        assert len(server.requests[2].headers["webhook-signature"].split(" ")) == 1
        verified(newest.reveal_text(), server.requests[2])
        assert (await app.outbox.webhooks.get(mine.local, again.id)).previous_until is None


async def test_a_deleted_webhook_leaves_no_secret_and_gets_nothing(app: App, mine: Tenant, superuser: Past) -> None:
    async with serve(TAKEN) as server:
        webhook, _ = await registered(app, mine, server)
        await app.agents.rotate_token(mine.local, mine.agent.agent_id())
        await app.outbox.webhooks.delete(mine.local, webhook.id)
        await look(app)
        assert server.requests == []
        query = "SELECT FROM secrets WHERE name = %(n)s"
        assert await sql(superuser, query, n=f"webhook/{webhook.id}") == []
        with pytest.raises(NotFound):
            await app.outbox.webhooks.get(mine.local, webhook.id)


async def test_an_agent_and_another_company_have_no_way_to_it(app: App, tenant: Any, mine: Tenant) -> None:
    theirs = await tenant()
    async with serve(TAKEN) as server:
        webhook, _ = await registered(app, mine, server)
        for call in (
            app.outbox.webhooks.list(mine.agent),
            app.outbox.webhooks.get(mine.agent, webhook.id),
            app.outbox.webhooks.test(mine.agent, webhook.id),
            app.outbox.webhooks.rotate_secret(mine.agent, webhook.id),
        ):
            with pytest.raises(Refused):
                await call
        for theirs_call in (
            app.outbox.webhooks.get(theirs.local, webhook.id),
            app.outbox.webhooks.test(theirs.local, webhook.id),
            app.outbox.webhooks.rotate_secret(theirs.local, webhook.id),
            app.outbox.webhooks.enable(theirs.local, webhook.id),
            app.outbox.webhooks.delete(theirs.local, webhook.id),
        ):
            with pytest.raises(NotFound):
                await theirs_call
        assert (await app.outbox.webhooks.list(theirs.local)).items == []


async def test_what_is_created_and_changed_is_on_record_without_the_path_and_the_secret(app: App, mine: Tenant) -> None:
    async with serve(TAKEN) as server:
        webhook, secret = await registered(app, mine, server, events.KEY_ROTATED)
        await app.outbox.webhooks.rotate_secret(mine.local, webhook.id)
        [event] = await recorded(app, mine.company.id, "webhook.created", webhook=webhook.id)
        assert event["host"] == server.url
        assert event["events"] == ["key.rotated"]
        assert await recorded(app, mine.company.id, "webhook.secret_rotated", webhook=webhook.id)
        said = json.dumps(await app.events.newest(mine.company.id, limit=100))
        assert "k=v" not in said
        assert secret.removeprefix("whsec_") not in said


async def test_a_company_has_so_many_at_most_and_only_events_that_there_are(app: App, mine: Tenant) -> None:
    for wanted in ([], ["integration.rotated", "no.such"]):
        with pytest.raises(WrongUsage):
            await app.outbox.webhooks.create(mine.local, "https://hooks.example.com/", wanted)
    for n in range(MOST_WEBHOOKS):
        await app.outbox.webhooks.create(mine.local, f"https://hooks.example.com/{n}", ALL)
    with pytest.raises(Conflict):
        await app.outbox.webhooks.create(mine.local, "https://hooks.example.com/more", ALL)


async def test_the_query_of_an_address_is_obeyed_and_is_not_shown(app: App, mine: Tenant) -> None:
    async with serve(TAKEN) as server:
        address = f"{server.url}/hook?token=of-the-receiver"
        webhook, _ = await app.outbox.webhooks.create(
            mine.local, address, ["integration.rotated"], allow_private_network=True
        )
        assert webhook.url == f"{server.url}/hook"
        await app.outbox.webhooks.test(mine.local, webhook.id)
        assert server.requests[-1].path == "/hook?token=of-the-receiver"
