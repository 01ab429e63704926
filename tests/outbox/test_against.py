"""
Whoever holds what left finds each way in which the chains were changed here. Each is done for real, past us.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from company_agents.app import App
from company_agents.audit.against import Compared
from company_agents.audit.chain import Head, link
from company_agents.errors import WrongUsage
from company_agents.secret_store.audit_keys import AuditKeys
from tests.conftest import Tenant
from tests.outbox.conftest import Beside
from tests.outbox.lines import end_of, lines_of, seqs, until
from tests.promises.evidence import Past, sql

BACK = """UPDATE audit_heads h SET seq = e.seq, mac = e.mac FROM audit_events e
          WHERE h.chain = %(c)s AND e.chain = h.chain AND e.seq = %(s)s"""


@pytest.fixture
async def left(beside: Beside, app: App, mine: Tenant, tmp_path: Path) -> Path:
    """What left of the chain of this test's company: at least six events."""
    file = tmp_path / "audit.jsonl"
    for _ in range(4):
        await app.agents.rotate_token(mine.local, mine.agent.agent_id())
    end = await end_of(app, mine.company.id)
    async with beside(f"file://{file}"):
        await until(lambda: file.exists() and end in seqs(lines_of(file), mine.company.id))
    return file


def faults(compared: Compared, chain: UUID) -> list[tuple[int, str]]:
    return [(fault.seq, fault.what) for fault in compared.faults if fault.chain == chain]


async def test_nothing_is_wrong_where_nothing_was_done(app: App, mine: Tenant, left: Path) -> None:
    # What grew since is no fault.
    await app.agents.rotate_token(mine.local, mine.agent.agent_id())
    compared = await app.events.compare(left)
    assert faults(compared, mine.company.id) == []
    assert compared.events >= 6
    assert compared.heads >= 1


async def test_a_chain_that_was_cut_at_its_end_together_with_its_head_is_found(
    app: App, mine: Tenant, left: Path, superuser: Past
) -> None:
    chain = mine.company.id
    await sql(superuser, "DELETE FROM audit_events WHERE chain = %(c)s AND seq > 3", c=chain)
    await sql(superuser, BACK, c=chain, s=3)
    assert (await app.events.verify(chain)).faults == (), "here alone it does not show"
    [(seq, what)] = faults(await app.events.compare(left), chain)
    assert seq == 4
    assert "ends with event 3" in what


async def test_a_chain_that_was_rolled_back_and_went_on_is_found(
    app: App, mine: Tenant, left: Path, superuser: Past
) -> None:
    chain = mine.company.id
    end = seqs(lines_of(left), chain)[-1]
    await sql(superuser, "DELETE FROM audit_events WHERE chain = %(c)s AND seq > 3", c=chain)
    await sql(superuser, BACK, c=chain, s=3)
    app.audit._heads.clear()
    for n in range(end):
        await app.audit.append(chain, "test.after", n=n)
    assert (await app.events.verify(chain)).faults == ()
    found = faults(await app.events.compare(left), chain)
    assert found[0][0] == 4
    assert "another" in found[0][1]


async def test_an_altered_event_is_found_also_where_all_after_it_was_linked_anew_with_the_key(
    app: App, mine: Tenant, left: Path, superuser: Past
) -> None:
    chain = mine.company.id
    number, key = await AuditKeys(app.store.db, app.store).newest()
    rows = await sql(superuser, "SELECT * FROM audit_events WHERE chain = %(c)s ORDER BY seq", c=chain)
    head = Head()
    for row in rows:
        record = row["record"].replace("agent.created", "agent.deleted") if row["seq"] == 2 else row["record"]
        head = Head(row["seq"], link(key, chain, row["seq"], head.mac, record))
        await sql(
            superuser,
            "UPDATE audit_events SET record = %(r)s, mac = %(m)s, audit_key = %(k)s WHERE chain = %(c)s AND seq = %(s)s",
            r=record,
            m=head.mac,
            k=number,
            c=chain,
            s=row["seq"],
        )
    await sql(superuser, BACK, c=chain, s=head.seq)
    app.audit._heads.clear()
    assert (await app.events.verify(chain)).faults == (), "here alone it does not show"
    found = faults(await app.events.compare(left), chain)
    assert found[0][0] == 2
    assert "another" in found[0][1]


async def test_an_event_that_is_missing_in_the_middle_is_found(
    app: App, mine: Tenant, left: Path, superuser: Past
) -> None:
    chain = mine.company.id
    await sql(superuser, "DELETE FROM audit_events WHERE chain = %(c)s AND seq = 3", c=chain)
    assert faults(await app.events.compare(left), chain) == [(3, "the event is missing here")]


async def test_a_chain_that_is_missing_is_found(app: App, mine: Tenant, left: Path, superuser: Past) -> None:
    chain = mine.company.id
    await sql(superuser, "DELETE FROM audit_events WHERE chain = %(c)s", c=chain)
    await sql(superuser, "DELETE FROM audit_heads WHERE chain = %(c)s", c=chain)
    assert faults(await app.events.compare(left), chain) == [(1, "the whole chain is missing here")]


async def test_heads_alone_are_enough_to_find_a_cut(app: App, mine: Tenant, left: Path, superuser: Past) -> None:
    chain = mine.company.id
    only(left, lambda line: line["kind"] == "head")
    assert faults(await app.events.compare(left), chain) == []
    await sql(superuser, "DELETE FROM audit_events WHERE chain = %(c)s AND seq > 2", c=chain)
    await sql(superuser, BACK, c=chain, s=2)
    [(_, what)] = faults(await app.events.compare(left), chain)
    assert "ends with event 2" in what


def only(file: Path, wanted: Callable[[dict[str, Any]], bool]) -> None:
    lines = [line for line in lines_of(file) if wanted(line)]
    file.write_text("".join(json.dumps(line, separators=(",", ":")) + "\n" for line in lines))


def change(file: Path, chain: UUID, kind: str, seq: int | None, changed: dict[str, Any]) -> None:
    lines = [
        {**line, **changed}
        if (line["chain"], line["kind"]) == (str(chain), kind) and (seq is None or line["seq"] == seq)
        else line
        for line in lines_of(file)
    ]
    file.write_text("".join(json.dumps(line, separators=(",", ":")) + "\n" for line in lines))


@pytest.mark.parametrize(
    ("kind", "seq", "changed", "said"),
    [
        ("event", 3, {"record": '{"action":"nothing","at":"2026-01-01T00:00:00+00:00"}'}, "not what left"),
        ("event", 3, {"mac": "00" * 32}, "not what left"),
        ("event", 3, {"audit_key": 99}, "does not have"),
        ("head", None, {"signature": "AAAA"}, "signature"),
        ("head", None, {"at": "2020-01-01T00:00:00+00:00"}, "signature"),
        ("head", None, {"head_key": 99}, "does not have"),
        ("head", None, {"mac": "00" * 32}, "signature"),
    ],
)
async def test_a_file_that_was_altered_is_no_proof_of_anything(
    app: App, mine: Tenant, left: Path, kind: str, seq: int | None, changed: dict[str, Any], said: str
) -> None:
    change(left, mine.company.id, kind, seq, changed)
    found = faults(await app.events.compare(left), mine.company.id)
    assert any(said in what for _, what in found)


async def test_a_line_that_is_missing_in_the_file_is_said_and_one_that_is_torn_is_passed_over(
    app: App, mine: Tenant, left: Path
) -> None:
    whole = left.read_bytes()
    left.write_bytes(whole + b'{"kind":"event","chain":"' + b"\n")
    compared = await app.events.compare(left)
    assert (faults(compared, mine.company.id), compared.torn) == ([], 1)
    left.write_bytes(whole)
    only(left, lambda line: (line["chain"], line["kind"], line["seq"]) != (str(mine.company.id), "event", 3))
    [(seq, what)] = faults(await app.events.compare(left), mine.company.id)
    assert (seq, what) == (4, "events 3 to 3 are missing in the file before this one")


async def test_what_came_twice_is_no_fault(app: App, mine: Tenant, left: Path) -> None:
    left.write_bytes(left.read_bytes() * 2)
    assert faults(await app.events.compare(left), mine.company.id) == []


@pytest.mark.parametrize("held", [b"", b"\n\n", b'{"kind":"event","chain":"', b"my notes\n"])
async def test_a_file_of_which_nothing_can_be_compared_proves_nothing(app: App, tmp_path: Path, held: bytes) -> None:
    file = tmp_path / "audit.jsonl"
    file.write_bytes(held)
    compared = await app.events.compare(file)
    [fault] = compared.faults
    assert (compared.events, compared.heads, fault.chain) == (0, 0, None)
    assert "no event and no head that could be compared" in fault.what


async def test_what_is_no_file_is_refused(app: App, tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "nothing", Path("/dev/zero")):
        with pytest.raises(WrongUsage):
            await app.events.compare(path)
