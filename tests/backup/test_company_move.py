"""
One company moves from one instance to another: all of it, and nothing of anybody else.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import gc
import itertools
import resource
import uuid
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from company_agents.app import App
from company_agents.backup.company_export import new_file, schema_at
from company_agents.backup.company_tables import STAYS, TRAVELS
from company_agents.backup.manifest import Broken, Newer
from company_agents.backup.ring import WrongPassphrase
from company_agents.crypto.keyring import MasterKey
from company_agents.db.moving import NotOurs
from company_agents.errors import Busy, Conflict, Failed, NotFound, Sealed, Tampered, Unauthenticated, WrongUsage
from company_agents.sensitive import Sensitive
from tests.backup.moved import (
    AWKWARD,
    PASSPHRASE,
    Source,
    altered_field,
    bring_in,
    copy_of,
    every_row,
    fields,
    manifest_of,
    members,
    new_instance,
    remade,
    rows_of,
    tables_of,
    transport_key,
    unpacked,
    values_of,
)
from tests.cli.postgres import OwnPostgres
from tests.cli.processes import Done, Machine
from tests.conftest import LOCAL, Tenant
from tests.database.processes import until
from tests.outgoing.servers import Server
from tests.promises.evidence import PROVIDER_TOKEN, connect_integration
from tests.promises.test_company_boundary import furnish
from tests.rotation.place import Place, rotate

CANARY = "canary-of-another-company-" + uuid.uuid4().hex


async def a_company(app: App, name: str) -> Tenant:
    company = await app.companies.create(LOCAL, name)
    local = await app.identity.in_company(LOCAL, company.id)
    _, token = await app.agents.create(local, "ann")
    return Tenant(company, local, await app.identity.agent(token.reveal_text()), token.reveal_text())


@pytest.fixture(scope="session")
async def source(postgres: OwnPostgres, provider: Server, tmp_path_factory: pytest.TempPathFactory) -> Source:
    """An instance with a company that has one of everything, another that nobody is to see, and a file of the first."""
    folder = tmp_path_factory.mktemp("source")
    place = new_instance(postgres, folder / "home")
    async with place.open() as app:
        mine, theirs = await a_company(app, "Acme"), await a_company(app, f"name-{CANARY}")
        for tenant in (mine, theirs):
            await furnish(app, tenant, provider)
        integration = await connect_integration(app, mine, provider, "used again")
        for text in AWKWARD:
            await app.memory.write(mine.agent, text)
            task = await app.tasks.create(mine.local, "awkward", description=text)
            await app.tasks.comment(mine.local, task.id, text)
        await app.memory.write(theirs.agent, f"memory-{CANARY}")
        await app.tasks.create(theirs.local, f"task-{CANARY}")
        async with theirs.local.scope.transaction() as tx:
            await app.store.put(tx, f"secret-{CANARY}", Sensitive(f"value-{CANARY}"))
        async with mine.local.scope.transaction() as tx:
            for number in range(1200):
                await app.store.put(tx, f"secret {number}", Sensitive(f"the value number {number}"))
            await app.store.put(tx, "an empty one", Sensitive(b""))
            await app.store.put(tx, "a long one\t\\N\n", Sensitive(bytes(range(256)) * 256))
        agent = mine.agent.agent_id()
        await app.adapters.set(mine.local, agent, "process", {"command": ["/bin/true"]}, unsandboxed=True)
        file = folder / "acme.company"
        await app.store.flush_used()
        await app.mover.export(LOCAL, "Acme", file, PASSPHRASE)
        canaries = [CANARY, theirs.token, str(theirs.company.id), str(theirs.agent.agent_id())]
        found = await values_of(app, place, mine.company.id)
        keys = [(await app.held.get(key)).secret.reveal() for key in place.states()]
    return Source(
        place,
        mine.company.id,
        agent,
        mine.token,
        integration.id,
        theirs.company.id,
        found,
        (*(canary.encode() for canary in canaries), *keys),
        file,
        remade(file, folder / "light.company"),
    )


@pytest.fixture(scope="session")
async def other(postgres: OwnPostgres, tmp_path_factory: pytest.TempPathFactory) -> Place:
    """Another instance, with a company of its own. Nobody opens it: it is copied."""
    place = new_instance(postgres, tmp_path_factory.mktemp("other") / "home")
    async with place.open() as app:
        await a_company(app, "at home here")
    return place


@pytest.fixture
def target(other: Place, tmp_path: Path) -> Iterator[Place]:
    place = copy_of(other, tmp_path / "target" / "home")
    yield place
    place.drop()


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
        done = await bring_in(app, source.file)
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
        done = await bring_in(app, source.light)
        assert [(agent.id, agent.name) for agent in done.tokens] == [(source.agent, "ann")]
        agent = await app.identity.agent(source.token)
        assert agent.agent_id() == source.agent
        before = len(provider.requests)
        answered = await app.requests.request(agent, str(source.integration), "GET", "/again")
        assert answered.status == 200
        [request] = provider.requests[before:]
        assert request.path == "/again" and request.headers["authorization"] == f"Bearer {PROVIDER_TOKEN}"
        await app.memory.write(agent, "what it learned here")
        await app.tasks.create(await app.identity.in_company(LOCAL, source.mine), "a new task", assignee=source.agent)


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
    assert [path.name for path in source.file.parent.iterdir() if path.name.endswith(".part")] == []


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


# — files that are not right —


async def is_refused(target: Place, file: Path, error: Any, passphrase: Sensitive = PASSPHRASE, **options: Any) -> str:
    async with target.open() as app:
        before = every_row(target)
        with pytest.raises(error) as refused:
            await bring_in(app, file, passphrase, **options)
        await app.store.flush_used()
        assert every_row(target) == before
    return str(refused.value)


async def test_a_wrong_passphrase_changes_nothing(source: Source, target: Place) -> None:
    await is_refused(target, source.light, WrongPassphrase, Sensitive("orbit lantern velvet cactus 94 mosaic"))


async def test_a_file_that_ends_early_changes_nothing(source: Source, target: Place, tmp_path: Path) -> None:
    content = source.light.read_bytes()
    short = tmp_path / "short"
    async with target.open() as app:
        before = every_row(target)
        for percent in range(100):
            short.write_bytes(content[: len(content) * percent // 100])
            with pytest.raises(Broken):
                await bring_in(app, short)
        for more in (1, 2, 100):
            short.write_bytes(content[:-more])
            with pytest.raises(Broken):
                await bring_in(app, short)
        short.write_bytes(content + b"\0")
        with pytest.raises(Broken):
            await bring_in(app, short)
        assert every_row(target) == before


async def test_one_byte_that_is_another_in_any_member_changes_nothing(
    source: Source, target: Place, tmp_path: Path
) -> None:
    content, names = members(source.light), [member.name for member in manifest_of(source.light).members]
    was = manifest_of(source.light)
    async with target.open() as app:
        before = every_row(target)
        for name in names:

            def flip(contents: dict[str, bytes], name: str = name) -> None:
                changed = bytearray(contents[name])
                changed[len(changed) // 2] ^= 1
                contents[name] = bytes(changed)

            # Compressed anew, with the old manifest and its right signature: the checksum of the member tells.
            file = remade(source.light, tmp_path / "flipped", flip, members=was.members)
            with pytest.raises(Broken):
                await bring_in(app, file)
        assert len(content) == len(names) == len(TRAVELS) + 2
        # As they lie on the disk.
        packed = source.light.read_bytes()
        for place in range(0, len(packed), max(1, len(packed) // 60)):
            flipped = bytearray(packed)
            flipped[place] ^= 0x40
            (tmp_path / "flipped").write_bytes(flipped)
            with pytest.raises((Broken, Tampered, Newer)):
                await bring_in(app, tmp_path / "flipped")
        assert every_row(target) == before


async def test_a_manifest_that_somebody_else_signed_is_refused(source: Source, target: Place, tmp_path: Path) -> None:
    file = remade(source.light, tmp_path / "signed", key=MasterKey.generate(), company_name="another name")
    assert "not signed" in await is_refused(target, file, Broken)


async def test_a_secret_that_was_put_into_another_place_is_refused(
    source: Source, target: Place, tmp_path: Path
) -> None:
    member = fields(manifest_of(source.light), "secrets")

    def move(contents: dict[str, bytes]) -> None:
        contents[member.name] = altered_field(contents[member.name], member, "name", "another")

    said = await is_refused(target, remade(source.light, tmp_path / "moved", move), Tampered)
    assert "does not open: another" in said


async def test_what_no_version_has_is_refused(source: Source, target: Place, tmp_path: Path) -> None:
    was = manifest_of(source.light)
    agents = fields(was, "agents")
    odd = {agents.name: ("no_such_column", *agents.columns[1:])}
    assert "does not know" in await is_refused(target, remade(source.light, tmp_path / "a", columns=odd), Broken)
    twice = {agents.name: (agents.columns[0], agents.columns[0], *agents.columns[2:])}
    await is_refused(target, remade(source.light, tmp_path / "b", columns=twice), Broken)

    def without_memory(contents: dict[str, bytes]) -> None:
        del contents["tables/memory"]

    await is_refused(target, remade(source.light, tmp_path / "c", without_memory), Broken)

    def with_operators(contents: dict[str, bytes]) -> None:
        contents["tables/operators"] = b""

    await is_refused(target, remade(source.light, tmp_path / "d", with_operators), Broken)

    def nobodys_task(contents: dict[str, bytes]) -> None:
        member = fields(was, "comments")
        contents[member.name] = altered_field(contents[member.name], member, "task_id", str(uuid.uuid4()))

    await is_refused(target, remade(source.light, tmp_path / "e", nobodys_task), NotOurs)

    def no_number(contents: dict[str, bytes]) -> None:
        member = fields(was, "cost_entries")
        contents[member.name] = altered_field(contents[member.name], member, "input_tokens", "many")

    await is_refused(target, remade(source.light, tmp_path / "f", no_number), NotOurs)

    def out_of_order(contents: dict[str, bytes]) -> None:
        lines = contents["tables/audit_events"].splitlines(keepends=True)
        contents["tables/audit_events"] = b"".join([lines[1], lines[0], *lines[2:]])

    await is_refused(target, remade(source.light, tmp_path / "g", out_of_order), Broken)


async def test_a_newer_version_is_refused(source: Source, target: Place, tmp_path: Path) -> None:
    was = manifest_of(source.light)
    newer = replace(was.schema, step=was.schema.step + 1)
    assert "newer version" in await is_refused(target, remade(source.light, tmp_path / "a", schema=newer), Newer)
    another = replace(was.schema, checksum="0" * 64)
    await is_refused(target, remade(source.light, tmp_path / "b", schema=another), Newer)
    await is_refused(target, remade(source.light, tmp_path / "c", format=2), Newer)
    instance = remade(source.light, tmp_path / "d", kind="instance", company=None)
    assert "whole instance" in await is_refused(target, instance, WrongUsage)


async def test_what_an_older_version_did_not_have_takes_its_default(
    source: Source, target: Place, tmp_path: Path
) -> None:
    was = manifest_of(source.light)
    # Of the time before there were rules and approvals (step 9).
    later = {
        "tables/integrations": ("allows", "asks", "per_minute"),
        "tables/integration_agents": ("allows", "asks", "per_minute"),
    }

    def forget(contents: dict[str, bytes]) -> None:
        del contents["tables/approvals"]
        for name, columns in later.items():
            member = was.member(name)
            assert member is not None
            left = [index for index, column in enumerate(member.columns) if column not in columns]
            rows = [line.split(b"\t") for line in contents[name].splitlines()]
            contents[name] = b"".join(b"\t".join(row[index] for index in left) + b"\n" for row in rows)

    columns = {
        name: tuple(column for column in member.columns if column not in gone)
        for name, gone in later.items()
        if (member := was.member(name)) is not None
    }
    file = remade(source.light, tmp_path / "older", forget, columns=columns, schema=schema_at(8))
    async with target.open() as app:
        await bring_in(app, file)
        here = rows_of(target, source.mine)
        assert len(here["integrations"]) == len(rows_of(source.place, source.mine)["integrations"]) > 0
        assert {(str(row["allows"]), str(row["asks"]), row["per_minute"]) for row in here["integrations"]} == {
            ("[]", "[]", 0)
        }
        assert here["approvals"] == []
        agent = await app.identity.agent(source.token)
        assert (await app.requests.request(agent, str(source.integration), "GET", "/again")).status == 200


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


# — the way out —


async def test_an_export_is_refused_before_anything_is_written(source: Source, tmp_path: Path) -> None:
    async with source.place.open() as app:
        (tmp_path / "there").write_text("a file of somebody's")
        (tmp_path / "link").symlink_to(tmp_path / "nowhere")
        for company, file, passphrase, error in (
            ("Acme", "new", Sensitive("password1234"), WrongUsage),
            ("Acme", "new", Sensitive("a"), WrongUsage),
            ("nobody", "new", PASSPHRASE, NotFound),
            (str(uuid.uuid4()), "new", PASSPHRASE, NotFound),
            ("Acme", "there", PASSPHRASE, Conflict),
            ("Acme", "link", PASSPHRASE, Conflict),
            ("Acme", ".", PASSPHRASE, Conflict),
            ("Acme", "no/folder", PASSPHRASE, WrongUsage),
            ("Acme", "n" * 300, PASSPHRASE, WrongUsage),
        ):
            with pytest.raises(error):
                await app.mover.export(LOCAL, company, tmp_path / file, passphrase)
        assert sorted(path.name for path in tmp_path.iterdir()) == ["link", "there"]
        assert (tmp_path / "there").read_text() == "a file of somebody's"


def test_what_somebody_puts_there_meanwhile_is_not_written_over(tmp_path: Path) -> None:
    path = tmp_path / "file"
    with pytest.raises(Conflict), new_file(path) as file:
        file.write(b"a company")
        path.write_text("a file of somebody's")
    assert [each.name for each in tmp_path.iterdir()] == ["file"]
    assert path.read_text() == "a file of somebody's"


async def test_a_secret_that_does_not_open_is_named_and_nothing_is_written(other: Place, tmp_path: Path) -> None:
    place = copy_of(other, tmp_path / "from" / "home")
    async with place.open() as app:
        tenant = await a_company(app, "damaged")
        place.sql("UPDATE secrets SET value = value || '\\x00' WHERE company_id = %(c)s", c=tenant.company.id)
        with pytest.raises(Failed, match=f"agent_token/{tenant.agent.agent_id()} .altered."):
            await app.mover.export(LOCAL, "damaged", tmp_path / "file", PASSPHRASE)
    assert [path.name for path in tmp_path.iterdir()] == ["from"]
    place.drop()


async def test_what_is_written_while_it_is_read_is_not_in_it(other: Place, target: Place, tmp_path: Path) -> None:
    place = copy_of(other, tmp_path / "from" / "home")
    async with place.open() as app:
        tenant = await a_company(app, "slow")
        with place.connect() as held:
            with held.transaction():
                # Agents and secrets are read before, memory and events afterwards.
                held.execute(b"LOCK TABLE tasks IN ACCESS EXCLUSIVE MODE")
                exporting = asyncio.create_task(app.mover.export(LOCAL, "slow", tmp_path / "file", PASSPHRASE))
                await asyncio.to_thread(until, lambda: waiting(place, "tasks") or None)
                _, token = await app.agents.create(tenant.local, "bob")
                await app.memory.write(await app.identity.agent(token.reveal_text()), "too late")
            done = await exporting
        assert (done.secrets, done.chain_faults) == (1, 0)
        ended = {e["seq"]: e["action"] for e in await app.events.newest(tenant.company.id)}
    place.drop()
    async with target.open() as app:
        await bring_in(app, tmp_path / "file")
        here = rows_of(target, tenant.company.id)
        assert [row["name"] for row in here["agents"]] == ["ann"]
        assert here["memory"] == []
        assert (len(here["audit_events"]), ended[3], ended[4]) == (4, "company.exported", "agent.created")
        assert (await app.events.verify(tenant.company.id)).faults == ()


async def test_it_is_one_moment_while_everybody_writes(other: Place, target: Place, tmp_path: Path) -> None:
    place = copy_of(other, tmp_path / "from" / "home")
    async with place.open() as app:
        tenant = await a_company(app, "busy")

        many = asyncio.Event()

        async def write() -> None:
            for number in itertools.count():
                # Refused for a moment while the key is switched.
                with contextlib.suppress(Busy):
                    async with tenant.local.scope.transaction() as tx:
                        await tx.run("agent_insert", id=uuid.uuid4(), company_id=tx.company_id, name=f"agent {number}")
                        await app.store.put(tx, f"of agent {number}", Sensitive(f"{number}"))
                if number == 10:
                    many.set()

        writing = asyncio.create_task(write())
        await many.wait()
        rotating = asyncio.create_task(rotate(app))
        try:
            done = await app.mover.export(LOCAL, "busy", tmp_path / "file", PASSPHRASE)
            await rotating
            assert not writing.done()
        finally:
            writing.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await writing
    place.drop()
    async with target.open() as app:
        await bring_in(app, tmp_path / "file")
        found = await values_of(app, target, tenant.company.id)
        of_agents = {name.removeprefix("of ") for name in found if name.startswith("of ")}
        agents = {row["name"] for row in rows_of(target, tenant.company.id)["agents"]} - {"ann"}
        assert of_agents == agents and len(agents) > 10
        assert len(found) == done.secrets == len(agents) + 1
        assert (await app.events.verify(tenant.company.id)).faults == ()


# — killed, and without room —


def machine(place: Place) -> Machine:
    return Machine(place.home, more=place.variables)


def waiting(place: Place, table: str) -> bool:
    query = "SELECT count(*) AS n FROM pg_locks WHERE relation = %(t)s::regclass AND NOT granted"
    return bool(place.sql(query, t=table)[0]["n"])


@pytest.mark.parametrize("table", ["agents", "audit_heads"])
async def test_an_import_that_is_killed_leaves_nothing(source: Source, target: Place, table: str) -> None:
    async with target.open():
        pass
    before = every_row(target)
    words = ("company", "import", str(source.light), "--passphrase-stdin")
    with target.connect() as held, held.transaction(), machine(target).start(*words) as child:
        held.execute(f"LOCK TABLE {table} IN SHARE ROW EXCLUSIVE MODE".encode())
        assert child.stdin is not None
        child.stdin.write(PASSPHRASE.reveal())
        child.stdin.close()
        child.stdin = None
        await asyncio.to_thread(until, lambda: waiting(target, table) or None)
        child.kill()
        child.wait()
    await asyncio.to_thread(until, lambda: not rows_of(target, source.mine)["companies"] or None)
    left = every_row(target)
    assert {name for name in before if before[name] != left[name]} <= {"audit_events", "audit_heads"}
    assert not any(rows_of(target, source.mine).values())
    done = await asyncio.to_thread(machine(target).json, *words, given=PASSPHRASE.reveal())
    assert done["company"] == str(source.mine)
    async with target.open() as app:
        assert (await app.events.verify(source.mine)).faults == ()
        assert (await app.identity.agent(source.token)).agent_id() == source.agent


async def test_an_export_that_is_killed_leaves_no_file_of_its_name(other: Place, tmp_path: Path) -> None:
    place = copy_of(other, tmp_path / "home" / "home")
    async with place.open() as app:
        await a_company(app, "killed")
    file = tmp_path / "folder" / "file"
    file.parent.mkdir()
    words = ("company", "export", "killed", str(file), "--passphrase", PASSPHRASE.reveal_text())
    with place.connect() as held, held.transaction(), machine(place).start(*words) as child:
        held.execute(b"LOCK TABLE memory IN ACCESS EXCLUSIVE MODE")
        await asyncio.to_thread(until, lambda: waiting(place, "memory") or None)
        words_shown = Path(f"/proc/{child.pid}/cmdline").read_bytes()
        assert b"killed" in words_shown and PASSPHRASE.reveal() not in words_shown
        child.kill()
        child.wait()
    assert not file.exists()
    done = await asyncio.to_thread(machine(place).run, *words)
    assert done.status == 0 and file.exists()
    place.drop()


async def test_without_room_nothing_is_left(source: Source, tmp_path: Path) -> None:
    def little() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))

    def run() -> Done:
        words = ("company", "export", "Acme", str(tmp_path / "file"), "--passphrase-stdin")
        with machine(source.place).start(*words, preexec_fn=little) as child:
            out, err = child.communicate(PASSPHRASE.reveal(), timeout=60)
        return Done(child.returncode, out.decode(), err.decode())

    done = await asyncio.to_thread(run)
    assert done.status == 1 and "there is no room for" in done.err
    assert list(tmp_path.iterdir()) == []


# — sealed, rotated and pruned meanwhile —

SEAL = "UPDATE instance SET sealed_at = now(), sealed_by = 'an owner'"
UNSEAL = "UPDATE instance SET sealed_at = NULL, sealed_by = NULL"


async def test_what_is_sealed_meanwhile_neither_comes_nor_goes(source: Source, target: Place, tmp_path: Path) -> None:
    async with target.open() as app:
        await a_company(app, "to be sealed")
        await app.store.flush_used()
        before = every_row(target)
        for table, work in (
            ("tasks", lambda: app.mover.export(LOCAL, "to be sealed", tmp_path / "file", PASSPHRASE)),
            ("webhooks", lambda: bring_in(app, source.light)),
        ):
            with target.connect() as held:
                with held.transaction():
                    held.execute(f"LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE".encode())
                    moving = asyncio.create_task(work())
                    await asyncio.to_thread(until, lambda table=table: waiting(target, table) or None)
                    target.sql(SEAL)
                with pytest.raises(Sealed):
                    await moving
            target.sql(UNSEAL)
        await app.audit.append(None, "test.looked")
        after = every_row(target)
        assert {name for name in before if before[name] != after[name]} == {"audit_events", "audit_heads"}
        assert not (tmp_path / "file").exists()
        assert all(found.faults == () for found in await app.events.verify_all())


async def test_nobody_changes_the_master_key_while_a_company_comes_in(source: Source, target: Place) -> None:
    async with target.open() as app:
        await rotate(app)
        with target.connect() as held:
            with held.transaction():
                held.execute(b"LOCK TABLE webhooks IN ACCESS EXCLUSIVE MODE")
                moving = asyncio.create_task(bring_in(app, source.light))
                await asyncio.to_thread(until, lambda: waiting(target, "webhooks") or None)
                with pytest.raises(Busy):
                    await rotate(app)
                with pytest.raises(Busy):
                    await app.pruner.prune(None, "tester")
                with pytest.raises(Busy):
                    await bring_in(app, source.light)
            await moving
        assert (await app.keys.status()).underway is None
        await rotate(app)
        assert set(target.rows_by_key()) == {target.only("active")}
        assert (await app.keys.verify()).bad == []
        assert (await app.identity.agent(source.token)).agent_id() == source.agent
        assert (await app.events.verify(source.mine)).faults == ()


async def test_a_company_comes_in_beside_another_and_every_seal_is_counted(source: Source, target: Place) -> None:
    seals = "SELECT last_value AS n FROM master_key_seals"
    async with target.open() as app:
        before = target.sql(seals)[0]["n"]
        done = await bring_in(app, source.light)
        assert target.sql(seals)[0]["n"] - before >= done.secrets > 1200


# — a lot of it —

MANY = """
INSERT INTO memory (id, company_id, agent_id, title, content, tags, words)
SELECT gen_random_uuid(), %(c)s, %(a)s, 'note ' || n, repeat(md5(n::text), 60), ARRAY['a', 'b\\c'], to_tsvector(md5(n::text))
FROM generate_series(1, %(n)s) n
"""


def peak() -> Callable[[], int]:
    """Asked later, it says by how many MB this process has grown at the most since now."""
    Path("/proc/self/clear_refs").write_text("5")

    def field(name: str) -> int:
        return next(int(line.split()[1]) for line in Path("/proc/self/status").read_text().splitlines() if name in line)

    now = field("VmRSS")
    return lambda: (field("VmHWM") - now) // 1024


@dataclasses.dataclass
class From:
    """Measures from a step on."""

    step: str
    grown: Callable[[], int] | None = None

    def __call__(self, step: str, done: int, total: int) -> None:
        # The passphrase takes hundreds of MB for a moment, before.
        if self.grown is None and step == self.step:
            gc.collect()
            self.grown = peak()


async def test_memory_does_not_grow_with_what_there_is(other: Place, target: Place, tmp_path: Path) -> None:
    place = copy_of(other, tmp_path / "from" / "home")
    async with place.open() as app:
        tenant = await a_company(app, "large")
        given = {"c": tenant.company.id, "a": tenant.agent.agent_id()}
        place.sql(MANY, n=50_000, **given)
        out = From("tables")
        await app.mover.export(LOCAL, "large", tmp_path / "file", PASSPHRASE, out)
        assert out.grown is not None
        sizes = {member.name: member.bytes for member in manifest_of(tmp_path / "file").members}
        assert sizes["tables/memory"] > 100_000_000
        assert out.grown() < 60
    place.drop()
    async with target.open() as app:
        into = From("writing")
        done = await bring_in(app, tmp_path / "file", say=into)
        assert into.grown is not None
        assert into.grown() < 60
        assert done.rows > 50_000
    assert len(target.sql("SELECT id FROM memory WHERE tags = ARRAY['a', 'b\\c']")) == 50_000
