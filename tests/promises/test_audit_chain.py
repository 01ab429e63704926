"""
What was recorded stays as it was, or it shows. A superuser of the database edits, deletes, reorders, inserts and cuts
here, in the chain of a company and in that of the instance; `audit verify` names the place.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import pytest

from company_agents.app import App
from company_agents.audit.verify import Fault
from tests.cli.processes import Done, Machine
from tests.conftest import Tenant
from tests.promises.evidence import Past, sql

MakeTenant = Callable[[], Awaitable[Tenant]]

NOT_WRITTEN = "it is not what was written, or not in its place"
NO_END = "the chain does not end where its head says: events are missing at the end"
EVENTS = 8


@dataclass(frozen=True)
class Tampering:
    """What is done, and the first fault that is found: how far from the end of the chain, and in which words."""

    what: str
    statements: tuple[str, ...]
    at: int
    says: str

    def __str__(self) -> str:
        return self.what


THIS = "chain = %(c)s AND seq = %(x)s"
EXCHANGE = """UPDATE audit_events e SET record = o.record, mac = o.mac FROM audit_events o
              WHERE e.chain = %(c)s AND o.chain = %(c)s
              AND (e.seq, o.seq) IN ((%(x)s, %(x)s + 1), (%(x)s + 1, %(x)s))"""
ONLY_RECORDS = EXCHANGE.replace(", mac = o.mac", "")
ROOM = (
    "UPDATE audit_events SET seq = seq + 1000000 WHERE chain = %(c)s AND seq > %(x)s",
    "UPDATE audit_events SET seq = seq - 999999 WHERE chain = %(c)s AND seq > 1000000",
    "UPDATE audit_heads SET seq = seq + 1 WHERE chain = %(c)s",
)
COPY = "INSERT INTO audit_events SELECT chain, {seq}, record, audit_key, mac FROM audit_events WHERE " + THIS
AT_END = "UPDATE audit_heads h SET seq = e.seq, mac = e.mac FROM audit_events e WHERE h.chain = %(c)s AND e.chain = h.chain AND e.seq = %(n)s + 1"

# `x` is the fourth event from the end, `n` the last one.
TAMPERINGS = [
    Tampering("edited", (f"UPDATE audit_events SET record = replace(record, 'kept', 'left') WHERE {THIS}",), -3, NOT_WRITTEN),
    Tampering("a letter", (f"UPDATE audit_events SET record = record || ' ' WHERE {THIS}",), -3, NOT_WRITTEN),
    Tampering("its link", (f"UPDATE audit_events SET mac = set_bit(mac, 255, 1 - get_bit(mac, 255)) WHERE {THIS}",), -3, NOT_WRITTEN),
    Tampering("its key", (f"UPDATE audit_events SET audit_key = 99 WHERE {THIS}",), -3, "it names an audit key that does not exist"),
    Tampering("deleted", (f"DELETE FROM audit_events WHERE {THIS}",), -3, "missing"),
    Tampering("deleted, two", ("DELETE FROM audit_events WHERE chain = %(c)s AND seq IN (%(x)s, %(x)s + 1)",), -3, "missing"),
    Tampering("reordered", (EXCHANGE,), -3, NOT_WRITTEN),
    Tampering("reordered under their links", (ONLY_RECORDS,), -3, NOT_WRITTEN),
    Tampering("inserted", (*ROOM, COPY.format(seq="seq + 1")), -2, NOT_WRITTEN),
    Tampering("inserted at the end", (COPY.format(seq="%(n)s + 1"), AT_END), 1, NOT_WRITTEN),
    Tampering("inserted behind the head", (COPY.format(seq="%(n)s + 1"),), 1, NOT_WRITTEN),
    Tampering("cut", ("DELETE FROM audit_events WHERE chain = %(c)s AND seq = %(n)s",), 0, NO_END),
    Tampering("cut, by half", ("DELETE FROM audit_events WHERE chain = %(c)s AND seq > %(x)s",), -2, NO_END),
    Tampering("a head that is further", ("UPDATE audit_heads SET seq = seq + 1 WHERE chain = %(c)s",), 1, NO_END),
    Tampering("a head that is behind", ("UPDATE audit_heads SET seq = seq - 1 WHERE chain = %(c)s",), 1, NO_END),
    Tampering("another head", ("UPDATE audit_heads SET mac = sha256(mac) WHERE chain = %(c)s",), 1, NO_END),
    Tampering("no head", ("DELETE FROM audit_heads WHERE chain = %(c)s",), 1, NO_END),
]  # fmt: skip


@pytest.fixture(params=["a company", "the instance"])
async def company(request: pytest.FixtureRequest, tenant: MakeTenant) -> UUID | None:
    """Whose chain it is; None: the instance's."""
    return (await tenant()).company.id if request.param == "a company" else None


async def appended(app: App, company: UUID | None, number: int = EVENTS) -> int:
    """Append events; the number of the last one."""
    for n in range(number):
        await app.audit.append(company, "test.kept", n=n)
    return int((await app.events.newest(company, limit=1))[0]["seq"])


@contextlib.asynccontextmanager
async def put_back(superuser: Past, *chains: UUID) -> AsyncIterator[None]:
    """At the end these chains are what they were: other tests look at them."""
    tables = ("audit_events", "audit_heads")
    params = {"cs": list(chains)}
    before = {
        table: await sql(superuser, f"SELECT to_jsonb(t) AS row FROM {table} t WHERE chain = ANY (%(cs)s)", **params)
        for table in tables
    }
    try:
        yield
    finally:
        async with superuser.transaction():
            for table, rows in before.items():
                await sql(superuser, f"DELETE FROM {table} WHERE chain = ANY (%(cs)s)", **params)
                insert = f"INSERT INTO {table} SELECT * FROM jsonb_populate_recordset(NULL::{table}, %(r)s::jsonb)"
                await sql(superuser, insert, r=json.dumps([row["row"] for row in rows]))


async def faults(app: App, company: UUID | None) -> tuple[Fault, ...]:
    """What is wrong with a chain: the same whether one asks for it or for all, where nothing else is wrong."""
    found = (await app.events.verify(company)).faults
    assert tuple(fault for chain in await app.events.verify_all() for fault in chain.faults) == found
    return found


# — whole —


async def test_a_chain_that_nobody_touched_is_whole(app: App, company: UUID | None) -> None:
    last = await appended(app, company)
    verified = await app.events.verify(company)
    assert (verified.events, verified.faults) == (last, ())
    assert await faults(app, company) == ()


@pytest.mark.parametrize("tampering", TAMPERINGS, ids=str)
async def test_an_event_that_was_tampered_with_is_found_and_named(
    app: App, company: UUID | None, superuser: Past, tampering: Tampering
) -> None:
    last = await appended(app, company)
    chain = company or app.instance.id
    async with put_back(superuser, chain):
        for statement in tampering.statements:
            given = {"c": chain, "x": last - 3, "n": last}
            await sql(superuser, statement, **{name: it for name, it in given.items() if f"%({name})s" in statement})
        found = await faults(app, company)
        assert (found[0].chain, found[0].seq) == (chain, last + tampering.at)
        assert tampering.says in found[0].what
    assert await faults(app, company) == ()


async def test_the_first_event_cannot_be_deleted(app: App, company: UUID | None, superuser: Past) -> None:
    await appended(app, company)
    chain = company or app.instance.id
    async with put_back(superuser, chain):
        await sql(superuser, "DELETE FROM audit_events WHERE chain = %(c)s AND seq = 1", c=chain)
        assert (await faults(app, company))[0] == Fault(chain, 1, "it is missing")
        await sql(superuser, "DELETE FROM audit_events WHERE chain = %(c)s", c=chain)
        assert await faults(app, company) == (Fault(chain, 1, NO_END),)


async def test_what_was_done_in_two_places_is_named_in_both(app: App, company: UUID | None, superuser: Past) -> None:
    last = await appended(app, company)
    chain = company or app.instance.id
    async with put_back(superuser, chain):
        await sql(
            superuser, "UPDATE audit_events SET record = '{}' WHERE chain = %(c)s AND seq = %(n)s", c=chain, n=last - 5
        )
        await sql(superuser, "DELETE FROM audit_events WHERE chain = %(c)s AND seq = %(n)s", c=chain, n=last - 2)
        assert [(fault.seq, fault.what) for fault in await faults(app, company)] == [
            (last - 5, NOT_WRITTEN),
            (last - 2, "it is missing"),
        ]


async def test_an_event_of_another_chain_does_not_fit_into_this_one(
    app: App, tenant: MakeTenant, superuser: Past
) -> None:
    # Two new companies have chains of one shape, under one key: only the chain's own id tells them apart.
    one, other = (await tenant()).company.id, (await tenant()).company.id
    async with put_back(superuser, one, other):
        exchange = "CASE chain WHEN %(a)s THEN %(b)s ELSE %(a)s END"
        for table in ("audit_events", "audit_heads"):
            async with superuser.transaction():
                rows = await sql(
                    superuser,
                    f"SELECT jsonb_set(to_jsonb(t), '{{chain}}', to_jsonb({exchange}::uuid)) AS row FROM {table} t "
                    "WHERE chain IN (%(a)s, %(b)s)",
                    a=one,
                    b=other,
                )
                await sql(superuser, f"DELETE FROM {table} WHERE chain IN (%(a)s, %(b)s)", a=one, b=other)
                insert = f"INSERT INTO {table} SELECT * FROM jsonb_populate_recordset(NULL::{table}, %(r)s::jsonb)"
                await sql(superuser, insert, r=json.dumps([row["row"] for row in rows]))
        for chain in (one, other):
            verified = await app.events.verify(chain)
            assert verified.faults[0] == Fault(chain, 1, NOT_WRITTEN)


async def test_a_chain_of_no_company_is_shown(app: App, tenant: MakeTenant, superuser: Past) -> None:
    company, planted = (await tenant()).company.id, uuid.uuid4()
    async with put_back(superuser, planted):
        copy = (
            "INSERT INTO audit_events SELECT %(p)s, seq, record, audit_key, mac FROM audit_events WHERE chain = %(c)s"
        )
        await sql(superuser, copy, p=planted, c=company)
        found = {chain.chain: chain.faults for chain in await app.events.verify_all()}
        assert found.pop(planted)[0] == Fault(planted, 1, NOT_WRITTEN)
        assert set(found.values()) == {()}


async def test_a_chain_that_was_cut_together_with_its_head_shows_against_a_copy_that_is_kept_elsewhere(
    app: App, tenant: MakeTenant, superuser: Past
) -> None:
    # The limit that docs/spec/audit.md names, and its remedy.
    company = (await tenant()).company.id
    last = await appended(app, company)
    kept = [event async for event in app.events.linked(company)]
    async with put_back(superuser, company):
        await sql(superuser, "DELETE FROM audit_events WHERE chain = %(c)s AND seq = %(n)s", c=company, n=last)
        end = "UPDATE audit_heads h SET seq = e.seq, mac = e.mac FROM audit_events e WHERE h.chain = %(c)s AND e.chain = %(c)s AND e.seq = %(n)s"
        await sql(superuser, end, c=company, n=last - 1)
        assert (await app.events.verify(company)).faults == ()
        assert [event async for event in app.events.linked(company)] == kept[:-1]


def verify(app: App, *words: str) -> Done:
    return Machine(app.settings.home).run("audit", "verify", *words)


async def test_the_command_names_what_is_wrong_and_ends_with_1(app: App, tenant: MakeTenant, superuser: Past) -> None:
    company = (await tenant()).company.id
    last = await appended(app, company)
    whole = await asyncio.to_thread(verify, app)
    assert (whole.status, whole.out.splitlines()[-1]) == (0, "nothing is wrong")
    async with put_back(superuser, company):
        await sql(superuser, "DELETE FROM audit_events WHERE chain = %(c)s AND seq = %(n)s", c=company, n=last - 2)
        told = await asyncio.to_thread(verify, app)
        one = await asyncio.to_thread(verify, app, "--company", str(company), "--json")
    assert told.status == 1
    assert told.out.splitlines()[-2:] == [
        f"chain {company}, event {last - 2}: it is missing",
        "something is wrong",
    ]
    fault: dict[str, Any] = {"chain": str(company), "seq": last - 2, "what": "it is missing"}
    assert (one.status, one.json["ok"], one.json["chains"][0]["faults"]) == (1, False, [fault])
