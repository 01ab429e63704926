"""
What a manifest may say, of which anybody who may write to the place of backups can make one: whatever is taken can be stored,
and read again.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from company_agents.app import App
from company_agents.backup.manifest import Broken, Manifest, read_manifest
from company_agents.backup.places import backup_name
from company_agents.crypto.keyring import MasterKey
from company_agents.db.copying import CopySession
from tests.backup import archives
from tests.backup.instances import Office
from tests.rotation.place import Place

KEY_ID = "0123456789abcdef"
GOOD: dict[str, Any] = {
    "format": 1,
    "kind": "instance",
    "id": str(UUID(int=1)),
    "product": "company-agents 1.0",
    "instance": str(UUID(int=2)),
    "taken_at": "2026-03-01T03:00:00Z",
    "schema": {"step": 13, "checksum": "ab" * 32},
    "keys": [{"key_id": KEY_ID, "state": "active", "rows": 3, "created_at": "2026-01-01T00:00:00Z"}],
    "members": [
        {"name": "heads.jsonl", "pieces": 1, "bytes": 0, "sha256": "00" * 32},
        {"name": "tables/tasks", "pieces": 1, "bytes": 9, "sha256": "00" * 32, "rows": 3, "columns": ["id", "name"]},
    ],
    "ring": [KEY_ID],
    "sequences": {"master_key_seals": 3},
}
KEY, TABLE = ("keys", 0), ("members", 1)

Path = tuple[str | int, ...]


def with_(*changes: tuple[Path, Any]) -> dict[str, Any]:
    """The good one, which says other things in some places."""
    said = copy.deepcopy(GOOD)
    for path, value in changes:
        place: Any = said
        for step in path[:-1]:
            place = place[step]
        place[path[-1]] = value
    return said


def read(said: dict[str, Any]) -> Manifest:
    return read_manifest(json.dumps(said).encode())


# Each is a day before or behind what Python, or who shows it, can hold; or has no zone.
NO_TIMES = (
    *("0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00", "1969-12-31T23:59:59Z", "9999-01-01T00:00:00Z"),
    *("2026-03-01T03:00:00", "0001-01-01T00:00:00", "-0001-01-01T00:00:00Z"),
)
TIMES: dict[str, Path] = {
    "the time": ("taken_at",),
    "the time of a key": (*KEY, "created_at"),
    "the beginning of a key": (*KEY, "activated_at"),
    "the end of a key": (*KEY, "archived_at"),
}
TEXTS: dict[str, Path] = {
    "the program": ("product",),
    "a company": ("company_name",),
    "a member": (*TABLE, "name"),
    "a member without rows": ("members", 0, "name"),
    "a column": (*TABLE, "columns", 0),
    "a checksum": (*TABLE, "sha256"),
    "a checksum of the schema": ("schema", "checksum"),
}
OTHERS: dict[str, dict[str, Any]] = {
    **{f"a key that is called {key_id!r}": with_(((*KEY, "key_id"), key_id)) for key_id in ("", "x", KEY_ID * 2)},
    "a key with a NUL": with_(((*KEY, "key_id"), "0123456789abcde\0")),
    "a key in capitals": with_(((*KEY, "key_id"), KEY_ID.upper())),
    "a key with a line break": with_(((*KEY, "key_id"), f"{KEY_ID}\n")),
    "a key of the ring with a NUL": with_((("ring", 0), "0123456789abcde\0")),
    "a key that nobody knows, with a NUL": with_(((*KEY, "state"), "unknown"), ((*KEY, "key_id"), "\0")),
    "a key that nobody knows, without an end": with_(((*KEY, "state"), "unknown"), ((*KEY, "key_id"), "x" * 100_000)),
    "a key in a state that there is not": with_(((*KEY, "state"), "hello")),
    "a key in no state": with_(((*KEY, "state"), "")),
    "a key twice": with_((("keys",), GOOD["keys"] * 2)),
    "too many keys": with_((("keys",), [{**GOOD["keys"][0], "key_id": f"{n:016x}"} for n in range(20_000)])),
    "too many keys in the ring": with_((("ring",), [KEY_ID] * 20_000)),
    "too many members": with_(
        (("members",), [{**GOOD["members"][0], "name": f"workspaces/{n}"} for n in range(20_000)])
    ),
    "too many columns": with_(((*TABLE, "columns"), [f"c{n}" for n in range(2000)])),
    "too many sequences": with_((("sequences",), {f"s{n}": 1 for n in range(20_000)})),
    "a sequence with a NUL": with_((("sequences",), {"\0": 1})),
    "rows that are together too many": with_(((*TABLE, "rows"), 2**62), (("members", 0, "rows"), 1)),
    "bytes that are together too many": with_(((*TABLE, "bytes"), 2**62), (("members", 0, "bytes"), 1)),
    "secrets that are together too many": with_(
        (("keys",), [{**GOOD["keys"][0], "key_id": f"{n:016x}", "rows": 2**61} for n in range(4)])
    ),
}


def test_the_good_one_is_read() -> None:
    assert read(GOOD).rows == 3


@pytest.mark.parametrize("at", NO_TIMES)
@pytest.mark.parametrize("what", TIMES)
def test_a_time_that_not_every_zone_has_is_refused(what: str, at: str) -> None:
    with pytest.raises(Broken):
        read(with_((TIMES[what], at)))


@pytest.mark.parametrize("at", ["1970-01-01T00:00:00+14:00", "9998-12-31T23:59:59-14:00", "2026-03-01T05:00:00+02:00"])
@pytest.mark.parametrize("what", TIMES)
def test_a_time_that_every_zone_has_is_read(what: str, at: str) -> None:
    assert read(with_((TIMES[what], at))).rows == 3


@pytest.mark.parametrize("text", ["a\0b", "x" * 10_000])
@pytest.mark.parametrize("what", TEXTS)
def test_a_text_that_is_none_is_refused(what: str, text: str) -> None:
    beginning = "tables/" if what == "a member" else ""
    with pytest.raises(Broken):
        read(with_((TEXTS[what], f"{beginning}{text}")))


@pytest.mark.parametrize("what", OTHERS)
def test_what_no_backup_says_is_refused(what: str) -> None:
    with pytest.raises(Broken):
        read(OTHERS[what])


@pytest.mark.parametrize("state", ["staged", "active", "retiring", "archived", "destroying", "destroyed", "unknown"])
def test_every_state_of_a_key_is_read(state: str) -> None:
    assert read(with_(((*KEY, "state"), state))).keys[0].state == state


def test_a_damaged_row_may_name_anything_as_its_key() -> None:
    manifest = read(with_(((*KEY, "state"), "unknown"), ((*KEY, "key_id"), "no key of anybody's")))
    assert manifest.needed_keys == ()


# — in the database —

WILD_TEXT = st.text(max_size=12) | st.sampled_from([KEY_ID, "\0", "tables/x", "\ud800", "x" * 2000])
NUMBERS = st.integers(-1, 9) | st.sampled_from([2**31, 2**61, 2**62, 2**63 - 1, 2**63, 2**64])
CLOCKS = st.datetimes(timezones=st.timezones() | st.none()).map(datetime.isoformat) | st.sampled_from(NO_TIMES)
VALUES: dict[Path, st.SearchStrategy[Any]] = {
    **dict.fromkeys(TIMES.values(), CLOCKS),
    **dict.fromkeys(TEXTS.values(), WILD_TEXT),
    **dict.fromkeys([(*KEY, "key_id"), (*KEY, "state"), ("ring", 0)], WILD_TEXT),
    **dict.fromkeys([(*KEY, "rows"), (*TABLE, "rows"), (*TABLE, "bytes"), ("members", 0, "rows")], NUMBERS),
}
CHANGES = st.lists(
    st.sampled_from(list(VALUES)).flatmap(lambda path: st.tuples(st.just(path), VALUES[path])), max_size=3
)


@pytest.fixture(scope="module")
async def instance(office: Office) -> Any:
    """A database with the schema."""
    place = office.place.copied()
    async with place.open() as app:
        yield app
    place.drop()


@pytest.fixture(scope="module")
def session(instance: App) -> Iterator[CopySession]:
    with CopySession.open(instance.backups.db.logins.instance) as session:
        yield session


@given(CHANGES)
@settings(deadline=None, max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_is_read_can_be_stored_and_read_again(session: CopySession, changes: list[tuple[Path, Any]]) -> None:
    try:
        manifest = read(with_(*changes))
    except Broken:
        return
    backup = uuid4()
    with session.transaction():
        session.run(
            "backup_found",
            id=backup,
            file=f"{backup}",
            place="",
            key_ids=[key.key_id for key in manifest.needed_keys],
            with_ring=bool(manifest.ring),
            size=1,
            rows=manifest.rows,
            created_at=manifest.taken_at,
        )
        [row] = [row for row in session.all("backup_rows") if row["id"] == backup]
        assert (row["rows"], row["created_at"]) == (manifest.rows, manifest.taken_at)
        assert set(row["key_ids"]) == {key.key_id for key in manifest.needed_keys}
        assert row["created_at"].astimezone(UTC)
        session.run_text("DELETE FROM backups WHERE made_by = 'found there'")


FOREIGN: dict[str, Callable[[dict[str, Any]], Any]] = {
    "a time": lambda said: said.update(taken_at="0001-01-01T00:00:00+14:00"),
    "a key": lambda said: said["keys"][0].update(key_id="\0"),
    "a sum": lambda said: [each.update(rows=2**62) for each in said["members"]],
}


@pytest.mark.parametrize("what", FOREIGN)
async def test_a_foreign_file_in_the_place_of_backups_stops_nothing(what: str, copy: Place) -> None:
    async with copy.open() as app:
        made = await app.backups.make("tester")
        folder = copy.home / "data" / "backups"
        parts = archives.take_apart((folder / made.file).read_bytes())
        parts.manifest["id"] = str(uuid4())
        FOREIGN[what](parts.manifest)
        name = backup_name(datetime(2026, 1, 1, tzinfo=UTC), UUID(parts.manifest["id"]))
        (folder / name).write_bytes(archives.put_together(parts, MasterKey.generate()))
        before = {row.id for row in await app.backups.rows()}
        await app.backups.look()
        assert {row.id for row in await app.backups.rows()} == before
        again = await app.backups.make("tester")
        assert {row.id for row in await app.backups.current()} == {*before, again.id}
