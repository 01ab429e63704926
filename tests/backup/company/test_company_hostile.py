"""
Files that somebody made who knows the passphrase: whole, signed, and with rows that no program here writes. Each is refused
and changes nothing, for nobody.
"""

from __future__ import annotations

import asyncio
import json
import uuid
from pathlib import Path
from typing import Any

from company_agents.audit.verify import shown
from company_agents.backup.company_checks import MOST_RECORD, MOST_SEQ
from company_agents.backup.company_tables import TRAVELS
from company_agents.backup.manifest import Broken
from company_agents.db.moving import NotOurs
from company_agents.errors import Conflict, Unavailable
from company_agents.sensitive import Sensitive
from tests.backup.company.moved import (
    Source,
    a_company,
    bring_in,
    fields,
    is_refused,
    manifest_of,
    refused,
    remade,
    rows_in,
    rows_of,
    with_fields,
    with_sealed,
)
from tests.conftest import LOCAL
from tests.rotation.place import Place


def event(**facts: Any) -> str:
    return json.dumps({"action": "agent.created", "at": "2026-01-01T00:00:00.000000+00:00", **facts})


# — numbers, times, events —


async def test_a_chain_that_could_not_go_on_is_refused(source: Source, target: Place, tmp_path: Path) -> None:
    last = fields(manifest_of(source.light), "audit_events").rows - 1
    await refused(
        *(target, source, tmp_path),
        [
            (with_fields(source.light, "audit_events", last, seq=str(seq)), Broken, "a number that is none")
            for seq in (2**63 - 2, 2**63 - 1, MOST_SEQ)
        ],
    )


async def test_a_chain_that_the_database_refuses_to_carry_on_keeps_nobody_else_from_theirs(target: Place) -> None:
    async with target.open() as app:
        one, two = await a_company(app, "one"), await a_company(app, "two")
        for table in ("audit_events", "audit_heads"):
            query = f"UPDATE {table} SET seq = %(s)s WHERE chain = %(c)s AND seq = (SELECT max(seq) FROM audit_heads WHERE chain = %(c)s)"
            target.sql(query, c=one.company.id, s=2**63 - 1)
        for _ in range(3):
            found = await asyncio.gather(
                *(app.audit.append(chain, "test.looked") for chain in (one.company.id, two.company.id, None)),
                return_exceptions=True,
            )
            assert [type(each) for each in found] == [Unavailable, type(None), type(None)]
        app.audit.note(one.company.id, "test.noted")
        for _ in range(5):
            await app.audit.append(two.company.id, "test.looked")
        assert (await app.events.verify(two.company.id)).faults == ()
        app.audit._queue.clear()


TIMES = (
    "infinity",
    "-infinity",
    "294270-01-01 00:00:00+00",
    "1999-12-31 23:59:59+00",
    "0044-03-15 00:00:00+00 BC",
    "now",
)


async def test_times_that_are_none_of_this_century_are_refused_in_every_column(
    source: Source, target: Place, tmp_path: Path
) -> None:
    types = {
        (row["t"], row["c"])
        for row in target.sql(
            """SELECT c.relname AS t, a.attname AS c FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid
               WHERE c.relname = ANY (%(t)s) AND a.attnum > 0 AND NOT a.attisdropped
                 AND format_type(a.atttypid, NULL) ~ '^(timestamp|date|time)'""",
            t=[each.table for each in TRAVELS],
        )
    }
    assert len(types) > 60
    several: list[tuple[str, Any, str]] = [(table, column, TIMES[0]) for table, column in sorted(types)]
    several += [("secrets", "updated_at", value) for value in TIMES]
    await refused(
        *(target, source, tmp_path),
        [
            (
                with_fields(source.light, table, **dict[str, Any]({column: value})),
                Broken,
                f"tables/{table} holds a (time|day) that is none",
            )
            for table, column, value in several
        ],
    )


async def test_other_spellings_and_numbers_that_leave_no_room_are_refused(
    source: Source, target: Place, tmp_path: Path
) -> None:
    light = source.light
    await refused(
        *(target, source, tmp_path),
        [
            (with_fields(light, "credential_versions", attempt=str(2**63 - 1)), Broken, "a number that is none"),
            (with_fields(light, "credential_versions", version=str(2**31 - 1)), Broken, "a number that is none"),
            (with_fields(light, "webhooks", seq=str(2**62)), Broken, "a number that is none"),
            (with_fields(light, "schedules", enabled="yes"), Broken, "neither"),
            (with_fields(light, "agents", id="{" + str(source.agent) + "}"), Broken, "an id that is none"),
        ],
    )


async def test_a_run_may_be_limited_to_whatever_its_column_takes(source: Source, target: Place, tmp_path: Path) -> None:
    most = {"token_limit": str(2**63 - 1), "micros_limit": str(2**63 - 1), "time_limit": str(2**31 - 1)}
    file = remade(source.light, tmp_path / "file", with_fields(source.light, "runs", **dict[str, Any](most)))
    async with target.open() as app:
        await bring_in(app, file)
        assert {str(row["token_limit"]) for row in rows_of(target, source.mine)["runs"]} == {most["token_limit"]}


async def test_events_that_are_none_are_refused(source: Source, target: Place, tmp_path: Path) -> None:
    long = event(text="a" * (MOST_RECORD - 2 * len(event())))
    records = (
        *("no json", "[]", "null", "{}", '{"action": "x"}', '{"action": 1, "at": "x"}', "[" * 60_000),
        *(event() + "\\n", event() + "\\n" + event(), event() + "\\r", ""),
        *(event(text="a" * MOST_RECORD), event(text="a" * (20 * 2**20))),
    )
    await refused(
        *(target, source, tmp_path),
        [
            (with_fields(source.light, "audit_events", record=record), Broken, "(event that is none|another length)")
            for record in records
        ],
    )
    async with target.open() as app:
        await bring_in(
            app, remade(source.light, tmp_path / "long", with_fields(source.light, "audit_events", record=long))
        )


def test_what_an_event_says_of_its_number_does_not_count() -> None:
    row = {"seq": 3, "record": event(seq=10**9)}
    assert shown(row)["seq"] == 3
    assert next(iter(shown(row))) == "seq"


# — where things go —


def elsewhere(value: bytes) -> bytes:
    found = json.loads(value)
    found["destination"] = {**found["destination"], "scheme": "https", "host": "evil.example", "port": 443}
    return json.dumps(found).encode()


def to_evil(value: bytes) -> bytes:
    return json.dumps(json.loads(value) | {"url": "https://evil.example/x"}).encode()


def endpoints_at_evil(value: bytes) -> bytes:
    found = json.loads(value)
    found["endpoints"]["token"] = "https://evil.example/token"
    return json.dumps(found).encode()


def of_another(value: bytes) -> bytes:
    return json.dumps(json.loads(value) | {"id": "18.18"}).encode()


async def test_what_is_shown_to_go_elsewhere_than_it_goes_is_refused(
    source: Source, target: Place, tmp_path: Path
) -> None:
    light = source.light
    github = with_fields(light, "integrations", None, provider="github", destination="https://api.github.com")
    await refused(
        *(target, source, tmp_path),
        [
            (github, Broken, "an integration is shown to be for another place"),
            (with_sealed(light, "integration/", elsewhere), Broken, "an integration is shown"),
            (with_sealed(light, "integration/", lambda value: b"{}"), Broken, "says nothing"),
            (with_sealed(light, "integration/", lambda value: b"[" * 60_000), Broken, "says nothing"),
            (with_fields(light, "webhooks", url="https://hooks.another.example/"), Broken, "a webhook is shown"),
            (with_sealed(light, "webhook/", to_evil), Broken, "a webhook is shown"),
            (with_sealed(light, "oauth_client/", of_another), Broken, "a client at a provider is shown"),
            (with_fields(light, "oauth_clients", provider="github"), Broken, "a client at a provider is shown"),
            (with_fields(light, "credential_versions", secret_id=a_secret(light)), Broken, "not its own"),
        ],
    )


def a_secret(file: Path) -> str:
    return next(str(row["id"]) for row in rows_in(file, "secrets") if str(row["name"]).startswith("secret "))


async def test_where_everything_goes_is_said(source: Source, target: Place, tmp_path: Path) -> None:
    async with target.open() as app:
        file = remade(source.light, tmp_path / "file", with_sealed(source.light, "oauth_client/", endpoints_at_evil))
        done = await bring_in(app, file)
        local = await app.identity.in_company(LOCAL, source.mine)
        here = {each.name: each.destination for each in (await app.integrations.list(local, None, 50)).items}
        said = {(each.what, each.name): each for each in done.goes}
        for name, origin in here.items():
            assert said["integration", name].origins == (origin,)
            assert said["integration", name].provider == "generic" and said["integration", name].private
        assert "https://evil.example" in said["client", "17.17"].origins
        assert [o for each in done.goes if each.what == "webhook" for o in each.origins] == [
            "https://hooks.example.com"
        ]


# — what is another's —


async def test_every_reference_to_a_secret_is_looked_at(source: Source, target: Place) -> None:
    named = {
        (row["t"], row["c"])
        for row in target.sql(
            """SELECT conrelid::regclass::text AS t, (SELECT attname FROM pg_attribute a WHERE a.attrelid = conrelid
                      AND a.attnum = conkey[1]) AS c
               FROM pg_constraint WHERE contype = 'f' AND confrelid = 'secrets'::regclass"""
        )
    }
    travels = {each.table for each in TRAVELS}
    assert {(t, c) for t, c in named if t in travels} == {
        ("credential_versions", "secret_id"),
        ("webhooks", "secret_id"),
        ("oauth_clients", "secret_id"),
        ("approvals", "request"),
        ("approvals", "reply"),
    }
    async with target.open() as app, app.store.db.transaction(None) as tx:
        found = await tx.all("company_move_references", tables=sorted(travels))
    for table, column in named:
        assert table not in travels or any(row["name"] == table and column in row["statement"] for row in found)


async def test_a_row_that_refers_to_a_secret_of_somebody_else_changes_nothing(
    source: Source, target: Place, tmp_path: Path
) -> None:
    async with target.open() as app:
        tenant = await a_company(app, "victim")
        async with tenant.local.scope.transaction() as tx:
            await app.store.put(tx, "victim's", Sensitive(b"x"))
        await app.store.flush_used()
    secrets = target.sql("SELECT id FROM secrets WHERE name = 'victim''s' OR company_id IS NULL")
    assert len(secrets) > 1
    light = source.light
    # What is not current is not opened, and so has no name that is compared.
    states: dict[str, Any] = {"state": "expired", "reason": "", "ended_at": "2026-01-01 00:00:00+00"}
    for row in secrets:
        other = str(row["id"])
        await refused(
            *(target, source, tmp_path),
            [
                (with_fields(light, "approvals", reply=other), NotOurs, "approvals refers to"),
                (with_fields(light, "approvals", request=other, **states), NotOurs, "approvals refers to"),
                (with_fields(light, "webhooks", secret_id=other), Broken, "not its own"),
                (with_fields(light, "oauth_clients", secret_id=other), Broken, "a client"),
                (with_fields(light, "credential_versions", secret_id=other), Broken, "not its own"),
            ],
        )


async def test_a_company_with_the_id_of_the_instance_is_refused(source: Source, target: Place, tmp_path: Path) -> None:
    former = uuid.uuid4()
    target.sql(
        "INSERT INTO former_instances (id, backup_id, taken_at) VALUES (%(i)s, gen_random_uuid(), now())", i=former
    )
    for instance in (former, target.sql("SELECT id FROM instance")[0]["id"]):

        def become(contents: dict[str, bytes], instance: Any = instance) -> None:
            for name, content in contents.items():
                contents[name] = content.replace(str(source.mine).encode(), str(instance).encode())
            contents["tables/secrets"] = b""
            for table in ("credential_versions", "webhooks", "webhook_deliveries", "oauth_clients", "approvals"):
                contents[f"tables/{table}"] = b""

        file = remade(source.light, tmp_path / str(instance), become, company=instance)
        assert "has the id of this instance" in await is_refused(target, file, Conflict)
