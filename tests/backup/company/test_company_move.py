"""
One company moves from one instance to another: all of it, and nothing of anybody else.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from company_agents.backup.company_changes import Changes
from company_agents.backup.company_tables import STAYS, TRAVELS
from company_agents.backup.manifest import Broken
from company_agents.db.moving import NotOurs
from company_agents.errors import Conflict, Unauthenticated, WrongUsage
from tests.backup.company.moved import (
    AWKWARD,
    PASSPHRASE,
    Source,
    a_company,
    altered_field,
    bring_in,
    copy_of,
    every_row,
    fields,
    is_refused,
    manifest_of,
    remade,
    rows_of,
    tables_of,
    transport_key,
    unpacked,
    values_of,
)
from tests.cli.postgres import OwnPostgres
from tests.conftest import LOCAL
from tests.outgoing.servers import Server
from tests.promises.evidence import PROVIDER_TOKEN
from tests.rotation.place import Place

# — what travels —


async def test_every_table_with_rows_of_companies_is_decided_on(source: Source) -> None:
    travels = [each.table for each in TRAVELS]
    assert sorted([*travels, *STAYS]) == sorted(tables_of(source.place))
    assert {each.table: each.owner for each in TRAVELS}.items() <= tables_of(source.place).items()


# What is another where it arrives, column by column; {} where the rows are compared by themselves below.
CHANGED: dict[str, set[str]] = {
    "secrets": {"value", "nonce", "key_id"},
    "integration_history": {"id"},
    "audit_events": {"mac", "audit_key"},
    "agents": {"unsandboxed"},
    "schedules": {"enabled", "next_at"},
    "webhooks": {"status", "status_reason", "status_since", "instance_seq"},
    "runs": {"state", "ended_at", "reason"},
    "approvals": {"state", "ended_at", "reason"},
}


def without(rows: list[dict[str, Any]], columns: set[str]) -> list[str]:
    return sorted(str({name: value for name, value in row.items() if name not in columns}) for row in rows)


async def test_structure_memory_history_and_secrets_are_there_to_the_letter(source: Source, target: Place) -> None:
    async with target.open() as app:
        done = await bring_in(app, source.file, allow_private_network=True)
        there, here = rows_of(source.place, source.mine), rows_of(target, source.mine)
        for each in TRAVELS:
            left = CHANGED.get(each.table, set())
            sent, came = without(there[each.table], left), without(here[each.table], left)
            if each.table == "secrets":
                sent = [row for row in sent if "'run_token/" not in row and "'oauth_flow/" not in row]
            if each.table == "audit_events":
                # Its last event is that it came.
                assert len(came) == len(sent) + 1
                came = [row for row in came if "company.imported" not in row]
            assert came == sent, each.table
            assert sent, f"{each.table} has no row to be moved: give it one in `furnish`"
        assert {row["content"] for row in here["memory"]} >= set(AWKWARD)
        assert {table for table in STAYS if here[table]} <= {"audit_heads"}
        assert done.rows == sum(member.rows for member in manifest_of(source.file).members)
        found = await values_of(app, target, source.mine)
        assert found.items() <= source.values.items()
        assert len(found) > 1200
        assert (await app.keys.verify()).bad == []
        assert set(target.rows_by_key()) == {target.only("active")}


async def test_an_agent_does_its_work_again(source: Source, target: Place, provider: Server) -> None:
    async with target.open() as app:
        # The provider is in a private network.
        done = await bring_in(app, source.light, allow_private_network=True)
        assert [(agent.id, agent.name) for agent in done.tokens] == [(source.agent, "ann")]
        agent = await app.identity.agent(source.token)
        assert agent.agent_id() == source.agent
        before = len(provider.requests)
        local = await app.identity.in_company(LOCAL, source.mine)
        answered = await app.requests.request(agent, str(source.integration), "GET", "/again")
        assert answered.status == 200
        [request] = provider.requests[before:]
        assert request.path == "/again" and request.headers["authorization"] == f"Bearer {PROVIDER_TOKEN}"
        await app.memory.write(agent, "what it learned here")
        await app.tasks.create(local, "a new task", assignee=source.agent)


async def test_what_was_under_way_has_ended_and_nothing_happens_on_both_instances(
    source: Source, target: Place
) -> None:
    async with target.open() as app:
        done = await bring_in(app, source.light)
        here = rows_of(target, source.mine)
        assert {(row["state"], row["reason"]) for row in here["runs"]} == {
            ("expired", "its company was moved to another instance")
        }
        assert {row["enabled"] for row in here["schedules"]} == {False}
        assert {row["next_at"] for row in here["schedules"]} == {None}
        assert {row["status"] for row in here["webhooks"]} == {"disabled"}
        assert all("moved here" in row["status_reason"] for row in here["webhooks"])
        # It was asked for at 0 o'clock, and is not sent from here without being asked for again.
        assert {row["state"] for row in here["approvals"]} == {"expired"}
        # An owner of that instance has let it out of the sandbox, and nobody of this one.
        assert {row["unsandboxed"] for row in here["agents"]} == {False}
        said = (done.runs_ended, done.schedules_paused, done.webhooks_disabled, done.approvals_ended, done.unsandboxed)
        assert said == (1, 1, 1, 1, ["ann"])
        local = await app.identity.in_company(LOCAL, source.mine)
        [webhook] = (await app.outbox.webhooks.list(local)).items
        assert (await app.outbox.webhooks.enable(local, webhook.id)).status == "enabled"
        schedule = await app.schedules.get(local, UUID(here["schedules"][0]["id"]))
        assert schedule.enabled is False


async def test_schedules_go_on_and_tokens_are_left_behind_where_that_is_asked_for(
    source: Source, target: Place
) -> None:
    async with target.open() as app:
        done = await bring_in(app, source.light, enable_schedules=True, revoke_tokens=True, name="Acme from there")
        here = rows_of(target, source.mine)
        assert [(row["enabled"], row["next_at"] is None) for row in here["schedules"]] == [(True, False)]
        assert (done.tokens, done.schedules_paused, done.name) == ([], 0, "Acme from there")
        assert [row["name"] for row in here["companies"]] == ["Acme from there"]
        assert not any(row["name"].startswith("agent_token/") for row in here["secrets"])
        with pytest.raises(Unauthenticated):
            await app.identity.agent(source.token)
        local = await app.identity.in_company(LOCAL, source.mine)
        _, token = await app.agents.rotate_token(local, source.agent)
        assert (await app.identity.agent(token.reveal_text())).agent_id() == source.agent


RUNS = """
INSERT INTO runs (id, company_id, agent_id, adapter, state, fence, started_at, lease_until)
SELECT %(id)s, %(c)s, %(a)s, o.adapter, CASE WHEN o.adapter IS NULL THEN 'running' ELSE 'queued' END,
       CASE WHEN o.adapter IS NULL THEN 3 ELSE 0 END, now(), now() + interval '1 minute'
FROM (SELECT %(adapter)s::text AS adapter) o
"""


async def test_runs_arrive_in_the_state_in_which_they_were(postgres: OwnPostgres, other: Place, tmp_path: Path) -> None:
    # Every state that a run can be in, by every way to it.
    ways: list[tuple[str | None, list[str]]] = [
        *((None, [state]) for state in ("finished", "failed", "expired", "cancelled")),
        *(("http", ["running", state]) for state in ("finished", "failed", "expired", "cancelled")),
        *(("http", [state]) for state in ("failed", "cancelled")),
        *(("http", [*(["running", "expired", "queued"] * 3), *more]) for more in ([], ["running"])),
        ("http", []),
        (None, []),
    ]
    place = copy_of(other, tmp_path / "from" / "home")
    async with place.open() as app:
        tenant = await a_company(app, "with runs")
        for adapter, states in ways:
            run = uuid.uuid4()
            agent = tenant.agent.agent_id()
            place.sql(RUNS, id=run, c=tenant.company.id, a=agent, adapter=adapter)
            for state in states:
                place.sql(
                    """UPDATE runs SET state = %(s)s::text, fence = fence + (%(s)s::text = 'running')::int,
                       ended_at = CASE WHEN %(s)s::text NOT IN ('running', 'queued') THEN now() END,
                       lease_until = CASE WHEN %(s)s::text = 'queued' THEN NULL ELSE now() END WHERE id = %(r)s""",
                    s=state,
                    r=run,
                )
        await app.mover.export(LOCAL, str(tenant.company.id), tmp_path / "file", PASSPHRASE)
    there = {row["id"]: row for row in rows_of(place, tenant.company.id)["runs"]}
    place.drop()
    target = copy_of(other, tmp_path / "to" / "home")
    async with target.open() as app:
        await bring_in(app, tmp_path / "file")
    for row in rows_of(target, tenant.company.id)["runs"]:
        was = there.pop(row["id"])
        if was["state"] in ("running", "queued"):
            now = {"running": "expired", "queued": "cancelled"}[was["state"]]
            was |= {"state": now, "ended_at": row["ended_at"], "reason": row["reason"]}
            assert row["ended_at"] is not None
            # Under way it had a beginning; what never began gets none.
        assert row == was
    assert there == {}
    target.drop()


# What a process is configured to be, and whether that opens its sandbox.
PROCESSES: dict[str, tuple[dict[str, Any], bool]] = {
    "plain": ({"command": ["/bin/true"], "environment": {"A": "b"}}, False),
    "closed": ({"preset": "codex", "integration": "x", "model": "m", "arguments": ["-v"]}, False),
    "network": ({"command": ["/bin/true"], "network": "open"}, True),
    "readable": ({"command": ["/bin/true"], "readable": ["/srv/books"]}, True),
    "program": ({"preset": "codex", "integration": "x", "model": "m", "program": "/opt/codex"}, True),
    "later": ({"command": ["/bin/true"], "mounts": ["/srv/books"]}, True),
}


async def test_whatever_opens_a_sandbox_is_left_to_an_owner_of_the_instance_where_it_arrives(
    other: Place, tmp_path: Path
) -> None:
    place = copy_of(other, tmp_path / "from" / "home")
    async with place.open() as app:
        tenant = await a_company(app, "with processes")
        for name, (config, _) in PROCESSES.items():
            agent, _token = await app.agents.create(tenant.local, name)
            full = {"program": "", "network": "orchestrator", "readable": []} | config
            place.sql(
                "UPDATE agents SET adapter = 'process', adapter_config = %(c)s, unsandboxed = %(u)s WHERE id = %(a)s",
                c=json.dumps(full if name != "plain" else config),
                u=name in ("closed", "network"),
                a=agent.id,
            )
        agent, _token = await app.agents.create(tenant.local, "remote")
        await app.adapters.set(tenant.local, agent.id, "http", {"url": "https://agents.example.com/x"})
        await app.mover.export(LOCAL, str(tenant.company.id), tmp_path / "file", PASSPHRASE)
    there = {row["name"]: row for row in rows_of(place, tenant.company.id)["agents"]}
    place.drop()
    target = copy_of(other, tmp_path / "to" / "home")
    async with target.open() as app:
        done = await bring_in(app, tmp_path / "file")
        opening = sorted(name for name, (_, opens) in PROCESSES.items() if opens)
        assert (sorted(done.without_adapter), done.unsandboxed) == (opening, ["closed"])
        here = {row["name"]: row for row in rows_of(target, tenant.company.id)["agents"]}
        for name, row in here.items():
            arrived: dict[str, Any] = {"adapter": None, "adapter_config": {}} if name in opening else {}
            assert row == there[name] | arrived | {"unsandboxed": False}
        # And an owner of this one may say so again.
        local = await app.identity.in_company(LOCAL, tenant.company.id)
        config = {"command": ["/bin/true"], "network": "open"}
        agent, _ = await app.adapters.set(local, UUID(here["network"]["id"]), "process", config)
        assert agent.adapter == "process"
    target.drop()


@pytest.mark.parametrize(
    "config", ["[]", "null", "{", "[" * 100_000, '{"network": "Orchestrator"}', '{"readable": ""}']
)
def test_what_nobody_can_tell_of_a_process_counts_as_opening(config: str) -> None:
    changes = Changes()
    columns = ["id", "name", "adapter", "adapter_config", "unsandboxed"]
    assert changes.apply("agents", columns, [["1", "ann", "process", config, "f"]]) == [["1", "ann", None, "{}", "f"]]
    assert (changes.without_adapter, changes.unsandboxed) == (["ann"], [])


@pytest.mark.parametrize("word", ["t", "true", "yes", "1", " ON "])
def test_in_whatever_word_a_file_says_it_nobody_arrives_outside_of_the_sandbox(word: str) -> None:
    changes = Changes()
    assert changes.apply("agents", ["id", "name", "unsandboxed"], [["1", "ann", word]]) == [["1", "ann", "f"]]
    assert changes.unsandboxed == ["ann"]


# — the audit chains —


async def test_the_chain_is_proved_on_both_instances_and_each_says_that_it_moved(source: Source, target: Place) -> None:
    async with source.place.open() as app:
        for company in (None, source.mine):
            [event] = [e for e in await app.events.newest(company, limit=1000) if e["action"] == "company.exported"]
            assert event["actor"] == "local:tester" and event["archive"] == str(manifest_of(source.file).id)
        former = source.place.sql("SELECT seq, mac FROM audit_heads WHERE chain = %(c)s", c=source.mine)[0]
        instance = app.instance.id
    async with target.open() as app:
        done = await bring_in(app, source.file)
        for company in (None, source.mine):
            [event] = [e for e in await app.events.newest(company, limit=1000) if e["action"] == "company.imported"]
            assert event["instance"] == str(instance) != str(app.instance.id)
            assert event["archive"] == str(done.archive)
            assert (event["former_seq"], event["former_mac"]) == (former["seq"], former["mac"].hex())
        await app.audit.append(source.mine, "test.looked")
        verified = await app.events.verify(source.mine)
        assert (verified.faults, verified.events) == ((), former["seq"] + 2)
        assert all(found.faults == () for found in await app.events.verify_all())


async def test_a_chain_that_was_not_whole_is_said_to_be_so_on_both_sides(
    other: Place, target: Place, tmp_path: Path
) -> None:
    place = copy_of(other, tmp_path / "from" / "home")
    async with place.open() as app:
        tenant = await a_company(app, "altered")
        altered = "UPDATE audit_events SET record = replace(record, 'ann', 'bob') WHERE chain = %(c)s AND seq = 2"
        place.sql(altered, c=tenant.company.id)
        assert (await app.mover.export(LOCAL, "altered", tmp_path / "file", PASSPHRASE)).chain_faults == 1
    place.drop()
    async with target.open() as app:
        assert (await bring_in(app, tmp_path / "file")).chain_faults == 1
        [event] = [e for e in await app.events.newest(tenant.company.id) if e["action"] == "company.imported"]
        assert event["former_faults"] == 1


# — nobody else —


async def test_nothing_of_another_company_and_no_key_is_in_the_file(source: Source) -> None:
    packed, plain = source.file.read_bytes(), unpacked(source.file)
    assert len(plain) > 200_000 and b"the value number 7" not in plain and b"used again" in plain
    for canary in source.canaries:
        for form in (canary, canary.hex().encode(), canary.replace(b"-", b"")):
            assert form not in plain and form not in packed
    for value in source.values.values():
        if len(value) >= 8:
            assert value not in plain and value.hex().encode() not in plain
    transport = transport_key(source.file).secret.reveal()
    for form in (transport, transport.hex().encode()):
        assert form not in plain


async def test_only_its_owner_may_read_the_file(source: Source) -> None:
    assert source.file.stat().st_mode & 0o777 == 0o600
    assert [path.name for path in source.file.parent.iterdir() if ".part-" in path.name] == []


def planted(table: str, column: str, source: Source) -> Callable[[dict[str, bytes]], None]:
    def plant(contents: dict[str, bytes]) -> None:
        name = f"tables/{table}"
        member = fields(manifest_of(source.light), table)
        contents[name] = altered_field(contents[name], member, column, str(source.theirs))

    return plant


async def test_a_row_of_another_company_in_the_file_changes_nothing(
    source: Source, target: Place, tmp_path: Path
) -> None:
    async with target.open() as app:
        before = every_row(target)
        for each in TRAVELS:
            file = remade(source.file, tmp_path / each.table, planted(each.table, each.owner, source))
            with pytest.raises(NotOurs, match="is not of this company") as refused:
                await bring_in(app, file)
            assert each.table in str(refused.value)
            assert every_row(target) == before, each.table


async def test_a_secret_of_the_instance_in_the_file_changes_nothing(
    source: Source, target: Place, tmp_path: Path
) -> None:
    member = fields(manifest_of(source.light), "secrets")

    def plant(contents: dict[str, bytes]) -> None:
        contents[member.name] = altered_field(contents[member.name], member, "company_id", "\\N")

    async with target.open() as app:
        before = every_row(target)
        with pytest.raises(Broken):
            await bring_in(app, remade(source.light, tmp_path / "planted", plant))
        assert every_row(target) == before


# — collisions —


async def test_a_company_that_is_here_is_not_brought_in_again(source: Source, target: Place) -> None:
    async with target.open() as app:
        await bring_in(app, source.light)
    assert "is here already, as Acme" in await is_refused(target, source.light, Conflict)
    assert "is here already" in await is_refused(target, source.light, Conflict, name="Acme 2")


async def test_a_name_that_is_taken_takes_another_one(source: Source, target: Place) -> None:
    async with target.open() as app:
        await app.companies.create(LOCAL, "Acme")
    assert "another company is called Acme here" in await is_refused(target, source.light, Conflict)
    await is_refused(target, source.light, WrongUsage, name="two\nlines")
    async with target.open() as app:
        assert (await bring_in(app, source.light, name="Acme 2")).name == "Acme 2"


async def test_an_id_that_another_company_has_is_left_to_it(source: Source, target: Place) -> None:
    # As after a file that somebody made by hand: the same agent in two companies.
    async with target.open() as app:
        tenant = await a_company(app, "first")
        taken = "UPDATE agents SET id = %(a)s WHERE company_id = %(c)s"
        target.sql(taken, a=source.agent, c=tenant.company.id)
    assert "is here already" in await is_refused(target, source.light, Conflict)
