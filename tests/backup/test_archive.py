"""
The writer and the reader of archives against each other, and a row of COPY against what Postgres makes of it.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import io
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import psycopg
import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from company_agents.backup.archive import FRONT, PIECE, ArchiveReader, ArchiveWriter, open_archive
from company_agents.backup.files import fresh
from company_agents.backup.manifest import FORMAT, INSTANCE, Broken, Manifest, Member, Schema
from company_agents.db.copying import fields
from company_agents.errors import Failed
from tests.cli.postgres import OwnPostgres

# Bytes as COPY writes them: a row has its break at its end, and no other.
ROW = st.binary(max_size=200).map(lambda data: data.replace(b"\n", b"").replace(b"\r", b"") + b"\n")
TABLES = st.dictionaries(st.sampled_from(["a", "b", "c"]), st.lists(ROW, max_size=40), min_size=1)


@dataclass(frozen=True)
class Written:
    """An archive, and what its manifest says."""

    data: bytes
    manifest: Manifest

    def read(self) -> dict[str, bytes]:
        """Every member as the reader gives it."""
        file = io.BytesIO(self.data)
        found: dict[str, bytes] = {member.name: b"" for member in self.manifest.members}
        for member, piece in ArchiveReader(file, open_archive(file)).pieces():
            found[member.name] += piece
        return found


class File(io.BytesIO):
    """One in memory, which may be asked for a descriptor."""

    def __init__(self, descriptor: int) -> None:
        super().__init__()
        self._descriptor = descriptor

    def fileno(self) -> int:
        return self._descriptor


@pytest.fixture(scope="module")
def descriptor(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    with (tmp_path_factory.mktemp("archive") / "file").open("wb") as file:
        yield file.fileno()


def write(descriptor: int, tables: dict[str, list[bytes]], whole: bytes | None = None) -> Written:
    file = File(descriptor)
    writer = ArchiveWriter(file)
    if whole is not None:
        writer.add("heads.jsonl", whole)
    for name, rows in tables.items():
        writer.begin(f"tables/{name}", ("x",))
        for row in rows:
            writer.write(row, 1)
    manifest = manifest_of(writer.members())
    writer.finish(manifest.text(), b"{}")
    return Written(file.getvalue(), manifest)


def manifest_of(members: tuple[Member, ...]) -> Manifest:
    return Manifest(
        format=FORMAT,
        kind=INSTANCE,
        id=UUID(int=1),
        product="a test",
        instance=UUID(int=2),
        taken_at=datetime(2026, 1, 1, tzinfo=UTC),
        schema=Schema(1, ""),
        keys=(),
        members=members,
    )


@given(TABLES, st.binary(max_size=3000))
@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_what_was_written_is_read_and_nothing_else(
    descriptor: int, tables: dict[str, list[bytes]], whole: bytes
) -> None:
    written = write(descriptor, tables, whole)
    expected = {"heads.jsonl": whole} | {f"tables/{name}": b"".join(rows) for name, rows in tables.items()}
    assert written.read() == expected
    for member in written.manifest.members:
        assert member.sha256 == hashlib.sha256(expected[member.name]).hexdigest()
        assert member.bytes == len(expected[member.name])
    assert {m.name: m.rows for m in written.manifest.members if m.columns} == {
        f"tables/{name}": len(rows) for name, rows in tables.items()
    }


@given(TABLES, st.data())
@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_one_bit_that_is_another_is_found(descriptor: int, tables: dict[str, list[bytes]], data: st.DataObject) -> None:
    written = write(descriptor, tables)
    place = data.draw(st.integers(0, len(written.data) - 1))
    bit = data.draw(st.integers(0, 7))
    other = bytearray(written.data)
    other[place] ^= 1 << bit
    try:
        found = Written(bytes(other), written.manifest).read()
    except Broken:
        return
    # A bit of a header of zstd or tar that says nothing of what is in it.
    assert found == written.read()


@given(TABLES, st.data())
@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_what_was_cut_off_is_found(descriptor: int, tables: dict[str, list[bytes]], data: st.DataObject) -> None:
    written = write(descriptor, tables)
    place = data.draw(st.integers(0, len(written.data) - 1))
    with pytest.raises(Broken):
        Written(written.data[:place], written.manifest).read()


@given(st.binary(max_size=2 * FRONT))
@settings(deadline=None)
def test_whatever_a_file_holds_it_is_an_archive_or_broken(data: bytes) -> None:
    with pytest.raises(Broken):
        open_archive(io.BytesIO(data))


def test_a_table_is_in_pieces_that_end_with_a_row(descriptor: int) -> None:
    row = b"x" * 300_000 + b"\n"
    written = write(descriptor, {"a": [row] * 20, "b": []})
    file = io.BytesIO(written.data)
    pieces = [(member.name, piece) for member, piece in ArchiveReader(file, open_archive(file)).pieces()]
    assert [name for name, _ in pieces] == ["tables/a"] * 5 + ["tables/b"]
    assert all(PIECE <= len(piece) < PIECE + len(row) and piece.endswith(b"\n") for name, piece in pieces[:5])
    assert written.manifest.members[1].pieces == 1


def test_a_row_that_is_longer_than_a_piece_is_not_divided(descriptor: int) -> None:
    row = b"y" * (3 * PIECE) + b"\n"
    written = write(descriptor, {"a": [b"x\n", row, b"z\n"]})
    assert written.read() == {"tables/a": b"x\n" + row + b"z\n"}
    assert written.manifest.members[0].pieces == 2


def test_stock_libraries_see_the_manifest_first_and_plain_files(descriptor: int) -> None:
    written = write(descriptor, {"a": [b"x\n"]}, b"heads")
    plain = zstandard.ZstdDecompressor().stream_reader(io.BytesIO(written.data), read_across_frames=True).read()
    with tarfile.open(fileobj=io.BytesIO(plain)) as tar:
        infos = tar.getmembers()
    assert [info.name for info in infos] == ["manifest.json", "manifest.mac", "heads.jsonl", "tables/a/00000001"]
    assert all(info.isreg() and info.mode == 0o600 for info in infos)


# — the file that it is written into —


def before_it_is_held(monkeypatch: pytest.MonkeyPatch, come: Callable[[], None], often: int = 1) -> None:
    """Somebody comes in between the moment that a maker has its file, and the one that it holds it."""
    real, left = fcntl.flock, [come] * often

    def flock(file: Any, operation: int) -> None:
        if left and (operation & fcntl.LOCK_EX):
            # Whoever comes holds files too.
            come = left.pop()
            rest = left[:]
            left.clear()
            come()
            left.extend(rest)
        real(file, operation)

    monkeypatch.setattr(fcntl, "flock", flock)


def another(folder: Path) -> None:
    """Another maker of the same name, from its beginning to its end."""
    with fresh(folder):
        pass


def test_a_file_outlives_another_maker_who_comes_before_it_is_held(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before_it_is_held(monkeypatch, lambda: another(tmp_path), often=3)
    with fresh(tmp_path) as new:
        new.file.write(b"whole")
        another(tmp_path)
        new.named(tmp_path / "monday")
    assert [path.name for path in tmp_path.iterdir()] == ["monday"]
    assert (tmp_path / "monday").read_bytes() == b"whole"


def test_a_file_that_another_maker_is_just_taking_away_is_not_written_into(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with contextlib.ExitStack() as stack:

        def take() -> None:
            [part] = tmp_path.iterdir()
            held = stack.enter_context(part.open("rb"))
            fcntl.flock(held, fcntl.LOCK_EX)
            stack.callback(part.unlink, missing_ok=True)

        before_it_is_held(monkeypatch, take)
        with fresh(tmp_path) as new:
            new.file.write(b"whole")
            stack.close()
            new.named(tmp_path / "monday")
    assert [path.name for path in tmp_path.iterdir()] == ["monday"]


def test_whoever_takes_every_file_away_is_told_of_and_keeps_nobody_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def take() -> None:
        for part in tmp_path.iterdir():
            part.unlink()

    before_it_is_held(monkeypatch, take, often=1000)
    with pytest.raises(Failed, match="takes away"), fresh(tmp_path):
        pass
    assert list(tmp_path.iterdir()) == []


# — a row of COPY —

VALUES = st.lists(
    st.none() | st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=30),
    min_size=1,
    max_size=6,
)


@given(VALUES)
@settings(deadline=None, max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_row_is_what_postgres_copied(connection: psycopg.Connection, values: list[str | None]) -> None:
    columns = ", ".join(f"%s::text AS c{number}" for number in range(len(values)))
    with connection.cursor() as cursor, cursor.copy(f"COPY (SELECT {columns}) TO STDOUT".encode(), values) as copy:
        [line] = [bytes(row) for row in copy]
    assert fields(line[:-1]) == [None if value is None else value.encode() for value in values]


@given(st.binary(max_size=60))
@settings(deadline=None)
def test_bytes_are_what_postgres_copied(data: bytes) -> None:
    # As COPY writes a bytea: a backslash is doubled.
    assert fields(b"\\\\x" + data.hex().encode() + b"\t\\N") == [b"\\x" + data.hex().encode(), None]


@pytest.fixture(scope="module")
def connection(postgres: OwnPostgres) -> Iterator[psycopg.Connection]:
    with postgres.connect() as connection:
        yield connection
