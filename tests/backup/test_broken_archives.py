"""
Backups that are not whole, or that somebody has made up: each is refused with a sentence that says so, by `verify` and by
`restore`, and what was there is there, byte for byte. Where a case is `signed`, everything else about it is right, as only
somebody with the master key could make it: nothing but the strictness of the reader stands between.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import shutil
import subprocess
import sys
import tarfile
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from company_agents.app import open_app
from company_agents.backup.restore import Options, Restorer
from company_agents.backup.verify import verify_here
from company_agents.crypto.keyring import MasterKey
from company_agents.db.opening import open_database
from company_agents.errors import CompanyAgentsError
from company_agents.sensitive import Sensitive
from tests.backup import archives
from tests.backup.archives import MANIFEST, SIGNATURE, Parts, entry, flipped, front, header, put_together
from tests.backup.conftest import NOBODY
from tests.backup.instances import Office, empty_database
from tests.cli.postgres import OwnPostgres
from tests.cli.processes import SLOWEST, Machine
from tests.rotation.place import Place, silent

# What is said of a file: that it is not whole, is of a later version, or was altered.
SAID = {"backup_broken", "backup_newer", "backup_schema", "tampered"}
# One that nobody signed may also be refused for that, and one without its key for that.
SAID_UNSIGNED = {*SAID, "backup_unsigned"}
# MiB that a command may have in memory, whatever the file says: it has a hundred when it has loaded the program.
MOST_MEMORY = 450


@dataclass
class Stage:
    """A good backup, the master key it is signed with; an instance that is there already, and a machine with a new one."""

    data: bytes
    parts: Parts
    key: MasterKey
    there: Place
    new: Place
    folder: Path

    def state(self) -> Any:
        """All that a restore may change, but for the backup that it makes of what is there."""
        found = []
        for place in (self.there, self.new):
            tables, seals = place.dump()
            rows = [row for row in tables["backups"].splitlines() if b"before a restore" not in row]
            found.append(({**tables, "backups": rows}, seals, place.files()))
        return found

    def safety(self) -> list[Path]:
        """The backups that it made of what is there."""
        return list((self.there.home / "data" / "backups").glob("*"))

    async def faults(self, path: Path, reasons: set[str] = SAID) -> list[str]:
        """What was not as it has to be when this file came."""
        before, found = self.state(), []
        for how, work in (
            ("verify", lambda: verify_here(self.new.settings(), path, None, silent)),
            ("verify, there", lambda: verify_here(self.there.settings(), path, None, silent)),
            ("restore", lambda: Restorer(self.new.settings(), Options(), lambda: None, silent).run(path)),
            (
                "replace",
                lambda: Restorer(self.there.settings(), Options(replace=True), lambda: None, silent).run(path),
            ),
        ):
            try:
                done: Any = await asyncio.wait_for(work(), SLOWEST)
            except CompanyAgentsError as error:
                said = f"{error.sentence} ({error.hint})"
                if error.reason not in reasons or not error.hint or self._tells(said):
                    found.append(f"{how}: {error.reason}: {said}")
            except Exception as error:
                found.append(f"{how}: {type(error).__name__}: {error}")
            else:
                if getattr(done, "would_restore", True) or not done.because or not done.hint:
                    found.append(f"{how}: it was taken")
        if self.state() != before:
            found.append("something was changed")
        return found

    def _tells(self, said: str) -> bool:
        return self.key.secret.reveal().hex() in said or "Traceback" in said or "\x1b" in said

    async def refuses(self, data: bytes, reasons: set[str] = SAID) -> None:
        assert await self.faults(archives.written(self.folder, data), reasons) == []


@pytest.fixture(scope="module")
async def stage(
    office: Office, files: dict[str, Path], postgres: OwnPostgres, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Stage]:
    folder = tmp_path_factory.mktemp("stage")
    shutil.copytree(office.place.home, folder / "there" / "home")
    (folder / "new" / "home").mkdir(parents=True, mode=0o700)
    shutil.copytree(office.place.folder, folder / "new" / "home" / "secrets")
    there = office.place.copied(folder / "there" / "home")
    new = Place(postgres, empty_database(postgres), folder / "new" / "home", NOBODY, NOBODY, {})
    data = files["plain"].read_bytes()
    key = MasterKey(Sensitive(office.place.hint()))
    stage = Stage(data, archives.take_apart(data), key, there, new, folder)
    # One that is refused makes the schema, which is there from then on.
    with pytest.raises(CompanyAgentsError, match="not signed"):
        await Restorer(new.settings(), Options(), lambda: None, silent).run(
            archives.written(folder, put_together(stage.parts, MasterKey.generate()))
        )
    for place in (new, there):
        async with contextlib.AsyncExitStack() as stack:
            await open_database(place.settings(), stack, long_lived=False)
    yield stage
    there.drop()
    new.drop()


# — as it lies there —


async def test_the_backup_itself_put_together_again_is_taken(stage: Stage, tmp_path: Path) -> None:
    for data in (stage.data, put_together(stage.parts, stage.key)):
        verdict = await verify_here(stage.new.settings(), archives.written(tmp_path, data), None, silent)
        assert (verdict.would_restore, verdict.signed) == (True, "right"), verdict.because


@pytest.mark.parametrize("tenth", range(10))
async def test_a_file_that_was_cut_off_anywhere_is_refused(tenth: int, stage: Stage, tmp_path: Path) -> None:
    places = [len(stage.data) * percent // 100 for percent in range(10 * tenth, 10 * tenth + 10)]
    if tenth == 9:
        places += [len(stage.data) - few for few in (1, 2, 3, 4, 5, 6, 7, 8, 20, 600)]
    for place in places:
        assert await stage.faults(archives.written(tmp_path, stage.data[:place])) == [], place


async def test_one_byte_that_is_another_is_found_wherever_it_is_in_the_file(stage: Stage) -> None:
    chosen = random.Random(3)
    frame = stage.data.index(b"\x50\x2a\x4d\x18")
    places = [
        *(chosen.randrange(frame) for _ in range(12)),
        *range(frame, frame + 8, 2),
        *(chosen.randrange(frame + 8, archives.FRONT) for _ in range(4)),
        *range(archives.FRONT, archives.FRONT + 12, 3),
        *(chosen.randrange(archives.FRONT, len(stage.data)) for _ in range(24)),
        *range(len(stage.data) - 8, len(stage.data), 3),
    ]
    for place in places:
        # `altered` is said by the verdict of verify, and is an error of restore.
        faults = await stage.faults(archives.written(stage.folder, flipped(stage.data, place)))
        assert faults == [], place


async def test_one_byte_that_is_another_is_found_in_every_member(stage: Stage) -> None:
    beginning = stage.data[: archives.FRONT]
    for number, (name, content) in enumerate(stage.parts.pieces):
        pieces = [*stage.parts.pieces]
        pieces[number] = (name, flipped(content, len(content) // 2) if content else b"x")
        assert (
            await stage.faults(archives.written(stage.folder, beginning + archives.packed(archives.body(pieces)))) == []
        ), name


async def test_one_byte_that_is_another_is_found_in_the_manifest_and_in_the_signature(stage: Stage) -> None:
    rest = stage.data[archives.FRONT :]
    text = json.dumps(stage.parts.manifest, indent=1).encode()
    signed = archives.signature(stage.key, text)
    chosen = random.Random(4)
    for place in [chosen.randrange(len(text)) for _ in range(12)]:
        altered = entry(MANIFEST, flipped(text, place)) + entry(SIGNATURE, signed)
        assert await stage.faults(archives.written(stage.folder, front(altered) + rest)) == [], place
    for place in range(0, len(signed), 9):
        altered = entry(MANIFEST, text) + entry(SIGNATURE, flipped(signed, place))
        assert await stage.faults(archives.written(stage.folder, front(altered) + rest), SAID_UNSIGNED) == [], place


async def test_a_signature_that_is_taken_away_is_missed(stage: Stage) -> None:
    await stage.refuses(put_together(stage.parts, None), SAID_UNSIGNED)


async def test_a_signature_with_a_key_that_is_not_here_counts_for_nothing(stage: Stage) -> None:
    await stage.refuses(put_together(stage.parts, MasterKey.generate()), SAID_UNSIGNED)


SIGNATURES = {
    "empty": b"",
    "no JSON": b"{",
    "a list": b"[]",
    "a number": b"7",
    "no mac": b'{"key_id": "x"}',
    "a mac that is no text": b'{"key_id": "x", "mac": 7}',
    "a mac that is no hex": b'{"key_id": "x", "mac": "zz"}',
    "deep": b"[" * 200_000,
    "not UTF-8": b'{"key_id": "\xff", "mac": ""}',
}


@pytest.mark.parametrize("what", SIGNATURES)
async def test_a_signature_that_is_none_is_refused(what: str, stage: Stage) -> None:
    text = json.dumps(stage.parts.manifest).encode()
    data = front(entry(MANIFEST, text) + entry(SIGNATURE, SIGNATURES[what])) + stage.data[archives.FRONT :]
    await stage.refuses(data, SAID_UNSIGNED)


# — its members —


def moved(parts: Parts, change: Callable[[list[archives.Piece]], list[archives.Piece]]) -> Parts:
    return Parts(parts.manifest, change([*parts.pieces]))


ORDERS: dict[str, Callable[[list[archives.Piece]], list[archives.Piece]]] = {
    "the first two the other way": lambda pieces: [pieces[1], pieces[0], *pieces[2:]],
    "backwards": lambda pieces: pieces[::-1],
    "the first is missing": lambda pieces: pieces[1:],
    "one is missing": lambda pieces: [*pieces[:9], *pieces[10:]],
    "the last is missing": lambda pieces: pieces[:-1],
    "all are missing": lambda pieces: [],
    "one twice": lambda pieces: [*pieces[:5], pieces[4], *pieces[5:]],
    "the last twice": lambda pieces: [*pieces, pieces[-1]],
    "one more in front": lambda pieces: [("hello", b"hello"), *pieces],
    "one more behind": lambda pieces: [*pieces, ("tables/hello/00000001", b"hello\n")],
    "a second manifest": lambda pieces: [*pieces, (MANIFEST, b"{}")],
    "a piece of a member twice": lambda pieces: [
        *pieces,
        (pieces[-1][0].replace("00000001", "00000002"), pieces[-1][1]),
    ],
}


@pytest.mark.parametrize("what", ORDERS)
async def test_members_that_are_not_those_of_the_manifest_are_refused(what: str, stage: Stage) -> None:
    await stage.refuses(put_together(moved(stage.parts, ORDERS[what]), stage.key))


LINK: dict[str, Any] = {"type": tarfile.SYMTYPE, "linkname": "/etc/passwd"}
# What stands instead of the first member, or of its header: with its right content behind it.
HEADERS: dict[str, Callable[[str, bytes], bytes]] = {
    "a symbolic link": lambda name, content: header(name, 0, **LINK) + entry(name, content),
    "a symbolic link of its name": lambda name, content: entry(name, content, **LINK),
    "a hard link": lambda name, content: entry(name, content, type=tarfile.LNKTYPE, linkname="x"),
    "a file with a link's target": lambda name, content: entry(name, content, linkname="x"),
    "a folder": lambda name, content: entry(name, content, type=tarfile.DIRTYPE),
    "a folder by its name": lambda name, content: entry(f"{name}/", content),
    "a device": lambda name, content: entry(name, content, type=tarfile.CHRTYPE),
    "a fifo": lambda name, content: entry(name, content, type=tarfile.FIFOTYPE),
    "an old file": lambda name, content: entry(name, content, type=tarfile.AREGTYPE),
    "a sparse file": lambda name, content: entry(name, content, type=tarfile.GNUTYPE_SPARSE),
    "a type that nobody knows": lambda name, content: entry(name, content, type=b"Z"),
    "an absolute name": lambda name, content: entry(f"/{name}", content),
    "a way upwards": lambda name, content: entry(f"../{name}", content),
    "a way upwards within": lambda name, content: entry(f"tables/../{name}", content),
    "a dot": lambda name, content: entry(f"./{name}", content),
    "a name with a NUL": lambda name, content: entry(b"x\0" + name.encode(), content),
    "a name that is not ASCII": lambda name, content: entry(name.replace("e", "é"), content),
    "a name that is no UTF-8": lambda name, content: entry(b"\xff\xfe" + name.encode(), content),
    "no name": lambda name, content: entry(b"", content),
    "a prefix": lambda name, content: (
        entry(
            archives.with_checksum(header(name, len(content))[:345] + b"etc".ljust(155, b"\0") + b"\0" * 12)[:100],
            content,
        )[:0]
        + archives.with_checksum(header(name, len(content))[:345] + b"etc".ljust(155, b"\0") + b"\0" * 12)
        + content
        + b"\0" * (-len(content) % 512)
    ),
    "a header of pax": lambda name, content: (
        tarfile.TarInfo("x").create_pax_global_header({"path": name}) + entry(name, content)
    ),
    "a name by pax": lambda name, content: (
        entry("pax", b"20 path=" + b"x" * 11 + b"\n", type=tarfile.XHDTYPE) + entry(name, content)
    ),
    "a long name of GNU": lambda name, content: (
        entry("././@LongLink", name.encode() + b"\0", type=tarfile.GNUTYPE_LONGNAME) + entry(name, content)
    ),
    "a size below zero": lambda name, content: sized(name, b"\xff" * 12) + content,
    "a size in other digits": lambda name, content: sized(name, b"99999999999\0") + content,
    "a size that is endless": lambda name, content: sized(name, b"\x80" + b"\x7f" * 11) + content,
    "a size that is too small": lambda name, content: entry(name, content[:-1]),
    "a checksum that is wrong": lambda name, content: flipped(entry(name, content), 150),
    "something behind it": lambda name, content: (
        entry(name, content + b"x")[: 512 + len(content) + 1]
        if len(content) % 512 == 0
        else header(name, len(content)) + content + b"x" * (-len(content) % 512)
    ),
    "no header": lambda name, content: b"\0" * 512 + content,
}


def sized(name: str, size: bytes) -> bytes:
    block = header(name, 0)
    return archives.with_checksum(block[:124] + size + block[136:])


@pytest.mark.parametrize("what", HEADERS)
async def test_a_member_that_is_no_plain_file_of_its_own_name_is_refused(what: str, stage: Stage) -> None:
    (name, content), *rest = stage.parts.pieces
    data = HEADERS[what](name, content) + archives.body(rest)
    await stage.refuses(archives.signed_front(stage.parts.manifest, stage.key) + archives.packed(data))


@pytest.mark.parametrize("what", HEADERS)
async def test_a_manifest_that_is_no_plain_file_of_its_own_name_is_refused(what: str, stage: Stage) -> None:
    text = json.dumps(stage.parts.manifest).encode()
    if what == "a size that is too small":
        text = text[:-1]
    beginning = HEADERS[what](MANIFEST, text) + entry(SIGNATURE, archives.signature(stage.key, text))
    await stage.refuses(front(beginning) + stage.data[archives.FRONT :], SAID_UNSIGNED)


FRONTS: dict[str, Callable[[bytes, bytes], bytes]] = {
    "the signature first": lambda text, signed: entry(SIGNATURE, signed),
    "two manifests": lambda text, signed: entry(MANIFEST, text) + entry(MANIFEST, text) + entry(SIGNATURE, signed),
    "two signatures": lambda text, signed: entry(MANIFEST, text) + entry(SIGNATURE, signed) * 2,
    "one more": lambda text, signed: entry(MANIFEST, text) + entry(SIGNATURE, signed) + entry("hello", b"hello"),
    "nothing": lambda text, signed: b"",
    "an end": lambda text, signed: entry(MANIFEST, text) + entry(SIGNATURE, signed) + archives.END,
    "half a block": lambda text, signed: entry(MANIFEST, text) + entry(SIGNATURE, signed) + b"\0" * 100,
}


@pytest.mark.parametrize("what", FRONTS)
async def test_a_beginning_with_anything_else_in_it_is_refused(what: str, stage: Stage) -> None:
    text = json.dumps(stage.parts.manifest).encode()
    beginning = FRONTS[what](text, archives.signature(stage.key, text))
    await stage.refuses(front(beginning) + stage.data[archives.FRONT :], SAID_UNSIGNED)


async def test_whatever_is_behind_the_end_is_refused(stage: Stage) -> None:
    skipped = b"\x50\x2a\x4d\x18" + (5).to_bytes(4, "little") + b"hello"
    empty = archives.packed(b"")
    for more in (
        b"\0",
        b"x",
        b"\n",
        b"x" * 5000,
        skipped,
        empty,
        archives.packed(b"hello"),
        stage.data,
        b"\0" * 3_000_000,
    ):
        assert await stage.faults(archives.written(stage.folder, stage.data + more)) == [], more[:20]
    body = archives.body(stage.parts.pieces)
    for data in (body + b"\0" * 512, body[:-512], body[:-1024], body + entry("hello", b"hello")):
        assert (
            await stage.faults(archives.written(stage.folder, stage.data[: archives.FRONT] + archives.packed(data)))
            == []
        )


async def test_members_in_several_frames_are_refused(stage: Stage) -> None:
    body = archives.body(stage.parts.pieces)
    half = len(body) // 2
    await stage.refuses(stage.data[: archives.FRONT] + archives.packed(body[:half]) + archives.packed(body[half:]))


# — its manifest, signed —


def changed(parts: Parts, name: str, **says: Any) -> Parts:
    other = parts.copied()
    other.member(name).update(says)
    return other


MANIFESTS: dict[str, Callable[[Parts], Any]] = {
    "a later format": lambda parts: archives.only(parts, format=2),
    "no number as a format": lambda parts: archives.only(parts, format="one"),
    "a format without an end": lambda parts: archives.only(parts, format=float("inf")),
    "a format that is no number": lambda parts: archives.only(parts, format=float("nan")),
    "a format below": lambda parts: archives.only(parts, format=0),
    "a format of a hundred digits": lambda parts: archives.only(parts, format=10**100),
    "no format": lambda parts: Parts({k: v for k, v in parts.manifest.items() if k != "format"}, parts.pieces),
    "a key that nobody knows": lambda parts: archives.only(parts, hello="hello"),
    "a key of a member that nobody knows": lambda parts: changed(parts, "tables/secrets", hello="hello"),
    "another kind": lambda parts: archives.only(parts, kind="hello"),
    "an id that is none": lambda parts: archives.only(parts, id="hello"),
    "a time that is none": lambda parts: archives.only(parts, taken_at="hello"),
    "a time before all times": lambda parts: archives.only(parts, taken_at="0001-01-01T00:00:00+14:00"),
    "a time behind all times": lambda parts: archives.only(parts, taken_at="9999-12-31T23:59:59-14:00"),
    "a time without a zone": lambda parts: archives.only(parts, taken_at="2026-01-01T00:00:00"),
    "a key of before all times": lambda parts: with_keys(parts, created_at="0001-01-01T00:00:00+14:00"),
    "a key with a NUL": lambda parts: with_keys(parts, key_id="0123456789abcde\0"),
    "a key that is none": lambda parts: with_keys(parts, key_id="hello"),
    "a key in a state that there is not": lambda parts: with_keys(parts, state="hello"),
    "a program with a NUL": lambda parts: archives.only(parts, product="\0"),
    "keys that are none": lambda parts: archives.only(parts, keys=["hello"]),
    "members that are none": lambda parts: archives.only(parts, members="hello"),
    "no members": lambda parts: archives.only(parts, members=[]),
    "a later schema": lambda parts: archives.only(parts, schema={**parts.manifest["schema"], "step": 10**6}),
    "an older schema": lambda parts: archives.only(parts, schema={**parts.manifest["schema"], "step": 3}),
    "a schema below": lambda parts: archives.only(
        parts, schema={"step": -1, "checksum": "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"}
    ),
    "another schema": lambda parts: archives.only(parts, schema={**parts.manifest["schema"], "checksum": "00" * 32}),
    "too many rows": lambda parts: changed(parts, "tables/secrets", rows=10**6),
    "too few rows": lambda parts: changed(parts, "tables/secrets", rows=1),
    "rows below zero": lambda parts: changed(parts, "tables/secrets", rows=-1),
    "a number of rows that is too large": lambda parts: changed(parts, "tables/secrets", rows=10**40),
    "too many pieces": lambda parts: changed(parts, "tables/secrets", pieces=2),
    "no pieces": lambda parts: changed(parts, "tables/secrets", pieces=0),
    "pieces below zero": lambda parts: changed(parts, "tables/secrets", pieces=-1),
    "pieces without an end": lambda parts: changed(parts, "tables/secrets", pieces=10**18),
    "bytes below zero": lambda parts: changed(parts, "tables/secrets", bytes=-(10**12)),
    "bytes without an end": lambda parts: changed(parts, "tables/secrets", bytes=10**18),
    "one byte more": lambda parts: changed(parts, "tables/secrets", bytes=parts.member("tables/secrets")["bytes"] + 1),
    "another checksum": lambda parts: changed(parts, "tables/secrets", sha256="00" * 32),
    "one column less": lambda parts: changed(
        parts, "tables/companies", columns=parts.member("tables/companies")["columns"][1:]
    ),
    "no columns": lambda parts: changed(parts, "tables/secrets", columns=[]),
    "a column twice": lambda parts: changed(
        parts, "tables/secrets", columns=["id", *parts.member("tables/secrets")["columns"][:-1]]
    ),
    "a column that is a statement": lambda parts: changed(
        parts,
        "tables/secrets",
        columns=['id") FROM STDIN; DROP TABLE secrets; --', *parts.member("tables/secrets")["columns"][1:]],
    ),
    "a column that is none": lambda parts: changed(
        parts, "tables/secrets", columns=["ctid", *parts.member("tables/secrets")["columns"][1:]]
    ),
    "a member twice": lambda parts: Parts(
        {**parts.manifest, "members": [*parts.manifest["members"], parts.manifest["members"][-1]]},
        [*parts.pieces, parts.pieces[-1]],
    ),
    "another table as well": lambda parts: with_table(parts, "hello"),
    "a table of Postgres": lambda parts: archives.renamed(parts, "tables/webhooks", "tables/pg_authid"),
    "a table of Postgres by its schema": lambda parts: archives.renamed(
        parts, "tables/webhooks", "tables/pg_catalog.pg_authid"
    ),
    "a table that is left out": lambda parts: archives.renamed(parts, "tables/webhooks", "tables/sessions"),
    "the ledger": lambda parts: with_table(parts, "schema_migrations"),
    "a table that is a statement": lambda parts: archives.renamed(
        parts, "tables/webhooks", "tables/secrets; drop table webhooks"
    ),
    "no secrets": lambda parts: without(parts, "tables/secrets"),
    "one table less": lambda parts: without(parts, "tables/webhooks"),
    "a key with fewer secrets than it has": lambda parts: with_keys(parts, rows=1),
    "a key with more secrets than it has": lambda parts: with_keys(parts, rows=10**6),
    "a key whose secrets are below zero": lambda parts: with_keys(parts, rows=-1),
    "a number of secrets that is too large": lambda parts: with_keys(parts, rows=10**40),
    "seals without an end": lambda parts: archives.only(parts, sequences={"master_key_seals": 10**30}),
    "seals below zero": lambda parts: archives.only(parts, sequences={"master_key_seals": -5}),
    "a ring that is not there": lambda parts: archives.only(parts, ring="hello"),
    "a number in words": lambda parts: changed(parts, "tables/secrets", rows="many"),
    "a name with a NUL": lambda parts: archives.renamed(parts, "tables/webhooks", "tables/web\0hooks"),
}


def with_table(parts: Parts, name: str) -> Parts:
    other = parts.copied()
    content = b"1\n"
    other.manifest["members"].append(
        {"name": f"tables/{name}", **archives.described(content), "rows": 1, "columns": ["hello"]}
    )
    other.pieces.append((f"tables/{name}/00000001", content))
    return other


def without(parts: Parts, name: str) -> Parts:
    other = parts.copied()
    other.manifest["members"] = [each for each in other.manifest["members"] if each["name"] != name]
    other.pieces = [each for each in other.pieces if archives.member_of(each[0]) != name]
    return other


def with_keys(parts: Parts, **says: Any) -> Parts:
    other = parts.copied()
    other.manifest["keys"][0].update(says)
    return other


# Of these only a database of the schema can tell.
NEED_THE_SCHEMA = {
    *("one column less", "a column that is a statement", "a column that is none", "another table as well"),
    *("a table of Postgres", "a table of Postgres by its schema", "a table that is left out", "the ledger"),
    *("a table that is a statement", "one table less"),
}


@pytest.mark.parametrize("what", MANIFESTS)
async def test_a_signed_manifest_that_does_not_say_what_is_there_is_refused(what: str, stage: Stage) -> None:
    faults = await stage.faults(archives.written(stage.folder, put_together(MANIFESTS[what](stage.parts), stage.key)))
    if what in NEED_THE_SCHEMA:
        faults = [fault for fault in faults if not fault.startswith("verify")]
    assert faults == []


TEXTS = {
    "empty": b"",
    "a list": b"[]",
    "a number": b"7",
    "nothing": b"null",
    "no JSON": b"{",
    "deep lists": b"[" * 400_000,
    "deep objects": b'{"format":' * 300_000,
    "a long number": b'{"format": ' + b"9" * 100_000 + b"}",
    "not UTF-8": b'{"format": 1, "kind": "\xff"}',
    "UTF-16": '{"format": 1}'.encode("utf-16"),
    "a NUL": b'{"format": 1\0}',
}


@pytest.mark.parametrize("what", TEXTS)
async def test_a_signed_manifest_that_is_none_is_refused(what: str, stage: Stage) -> None:
    await stage.refuses(archives.signed_front(TEXTS[what], stage.key) + stage.data[archives.FRONT :])


# — its rows, signed —


def first_row(parts: Parts, table: str, change: Callable[[bytes], bytes]) -> Parts:
    first, *rest = parts.rows(table)
    return parts.with_rows(table, [change(first), *rest])


def with_value(parts: Parts, table: str, column: str, value: bytes) -> Parts:
    place = parts.member(f"tables/{table}")["columns"].index(column)

    def change(row: bytes) -> bytes:
        values = row.split(b"\t")
        return b"\t".join([*values[:place], value, *values[place + 1 :]])

    return first_row(parts, table, change)


ROWS: dict[str, Callable[[Parts], Parts]] = {
    f"{what} of {table}": change
    for table in ("secrets", "companies")
    for what, change in {
        "a value less": lambda parts, table=table: first_row(parts, table, lambda row: row.rpartition(b"\t")[0]),
        "a value more": lambda parts, table=table: first_row(parts, table, lambda row: row + b"\tx"),
        "an empty row": lambda parts, table=table: first_row(parts, table, lambda row: b""),
        "a row that is garbage": lambda parts, table=table: first_row(parts, table, lambda row: b"\xff\x00\xfe"),
        "a break within a row": lambda parts, table=table: first_row(
            parts, table, lambda row: row[:40] + b"\n" + row[40:]
        ),
        "a carriage return": lambda parts, table=table: first_row(parts, table, lambda row: row + b"\r"),
        "an end of the copy": lambda parts, table=table: first_row(parts, table, lambda row: b"\\."),
        "an id that is none": lambda parts, table=table: with_value(parts, table, "id", b"hello"),
        "an id that is not there": lambda parts, table=table: with_value(parts, table, "id", b"\\N"),
        "a name that is not there": lambda parts, table=table: with_value(parts, table, "name", b"\\N"),
        "a name that is no UTF-8": lambda parts, table=table: with_value(parts, table, "name", b"\xff"),
        "an id twice": lambda parts, table=table: parts.with_rows(table, [*parts.rows(table), parts.rows(table)[0]]),
        "no break at the end": lambda parts, table=table: parts.replaced(
            f"tables/{table}", parts.content(f"tables/{table}")[:-1], rows=len(parts.rows(table))
        ),
    }.items()
}
ROWS |= {
    "a value of a secret that is no bytes": lambda parts: with_value(parts, "secrets", "value", b"\\\\xzz"),
    "a value of a secret that is not there": lambda parts: with_value(parts, "secrets", "value", b"\\N"),
    "a nonce that is too short": lambda parts: with_value(parts, "secrets", "nonce", b"\\\\x00"),
    "a key of a secret that is not there": lambda parts: with_value(parts, "secrets", "key_id", b"\\N"),
    "a key of a secret that nobody knows": lambda parts: with_value(parts, "secrets", "key_id", b"0123456789abcdef"),
    "a secret of a company that is not there": lambda parts: with_value(
        parts, "secrets", "company_id", b"00000000-0000-0000-0000-000000000001"
    ),
    "a secret less": lambda parts: parts.with_rows("secrets", parts.rows("secrets")[1:]),
    "no secrets": lambda parts: parts.with_rows("secrets", []),
    "no instance": lambda parts: parts.with_rows("instance", []),
    "two instances": lambda parts: parts.with_rows("instance", parts.rows("instance") * 2),
    "an agent of a company that is not there": lambda parts: with_value(
        parts, "agents", "company_id", b"00000000-0000-0000-0000-000000000001"
    ),
    "a state that there is not": lambda parts: with_value(parts, "agents", "state", b"hello"),
    "no keys": lambda parts: parts.with_rows("master_keys", []),
}
# Of these only a database of the schema can tell.
ROWS_NEED_THE_SCHEMA = {
    *(each for each in ROWS if each.endswith("of companies")),
    *("a value more of secrets", "an id twice of secrets", "a secret of a company that is not there"),
    *(
        "no instance",
        "two instances",
        "an agent of a company that is not there",
        "a state that there is not",
        "no keys",
    ),
}
ROWS_NEED_THE_SCHEMA -= {f"{what} of companies" for what in ("a carriage return", "no break at the end")}


@pytest.mark.parametrize("what", ROWS)
async def test_signed_rows_that_do_not_fit_are_refused(what: str, stage: Stage) -> None:
    faults = await stage.faults(archives.written(stage.folder, put_together(ROWS[what](stage.parts), stage.key)))
    if what in ROWS_NEED_THE_SCHEMA:
        faults = [fault for fault in faults if not fault.startswith("verify")]
    assert faults == []


# — what is no file —


async def test_what_is_no_file_or_no_backup_is_refused(stage: Stage, tmp_path: Path) -> None:
    folder, fifo, empty, gone = (tmp_path / name for name in ("folder", "fifo", "empty", "gone"))
    folder.mkdir()
    os.mkfifo(fifo)
    empty.write_bytes(b"")
    link = tmp_path / "link"
    link.symlink_to(link)
    others = [Path("/dev/zero"), Path("/dev/null"), Path("/dev/tty"), Path("/proc/self/mem")]
    for path in (folder, fifo, empty, gone, link, *others, Path(__file__)):
        assert await stage.faults(path, {*SAID, "backup_unreadable"}) == [], path


async def test_a_tar_file_and_a_compressed_one_that_are_no_backups_are_refused(stage: Stage) -> None:
    body = archives.body([("hello", b"hello" * 100_000), *stage.parts.pieces])
    for data in (body, archives.packed(body), os.urandom(200_000), b"\0" * 200_000):
        assert await stage.faults(archives.written(stage.folder, data)) == []


# — bombs —


def bombs(parts: Parts, key: MasterKey) -> dict[str, bytes]:
    """Small files that unpack to gigabytes, each in another place."""
    gigabytes = 3 * 1024**3
    secrets = parts.member("tables/secrets")
    rest = b"".join(entry(name, content) for name, content in parts.pieces[:3])
    said: dict[str, Any] = {"pieces": 1, "bytes": gigabytes}

    def body(before: bytes, size: int = gigabytes, **more: Any) -> bytes:
        return archives.zeros(size, before=before, **more)

    first = parts.pieces[0][0]
    whole = archives.signed_front(parts.manifest, key)
    small = changed(parts, archives.member_of(first), **said)
    lines = b"ab\n" * (20 * 1024**2)
    return {
        "behind the manifest": whole + body(b""),
        "as a giant member": whole + body(header(first, 8 * 1024**3 - 1)),
        "as a giant member that the manifest names": archives.signed_front(small.manifest, key)
        + body(header(first, gigabytes)),
        "behind the first members": whole + body(rest),
        "with a huge window": whole + body(rest, 2 * 1024**2, window=30),
        "as the manifest": archives.zeros(gigabytes // 64)[: archives.FRONT].ljust(archives.FRONT, b"\0"),
        "as a manifest of four million zeros": front(entry(MANIFEST, b" " * (4 * 1024**2 - 2048))) + stage_rest(parts),
        "as the secrets": put_together(parts.replaced("tables/secrets", lines, columns=secrets["columns"]), key)
        + os.urandom(100_000),
    }


def stage_rest(parts: Parts) -> bytes:
    return archives.packed(archives.body(parts.pieces))


BOMBS = (
    *("behind the manifest", "as a giant member", "as a giant member that the manifest names"),
    *("behind the first members", "with a huge window", "as the manifest", "as a manifest of four million zeros"),
    "as the secrets",
)


# What a process had before it became another program counts: so it is started by one that is small.
SMALL = """
import os, sys
_, status, used = os.wait4(os.spawnv(os.P_NOWAIT, sys.argv[1], sys.argv[1:]), 0)
print(used.ru_maxrss)
sys.exit(os.waitstatus_to_exitcode(status))
"""


def memory_of(machine: Machine, *words: str) -> tuple[int, int, str]:
    """The status of a command, how many MiB it had at most, and what it said."""
    done = subprocess.run(
        [sys.executable, "-c", SMALL, *machine.words(*words, "--json")],
        env=machine.environment,
        cwd="/",
        capture_output=True,
        timeout=SLOWEST,
    )
    said, memory = done.stdout.decode().rsplit("\n", 2)[:2]
    return done.returncode, int(memory) // 1024, said


@pytest.fixture(scope="module")
def all_bombs(stage: Stage) -> dict[str, bytes]:
    return bombs(stage.parts, stage.key)


@pytest.mark.parametrize("what", BOMBS)
async def test_a_small_file_that_unpacks_to_gigabytes_does_not_fill_the_memory(
    what: str, stage: Stage, all_bombs: dict[str, bytes]
) -> None:
    path = archives.written(stage.folder, all_bombs[what])
    assert path.stat().st_size < 4 * 1024**2
    before = stage.state()
    for place, words in (
        (stage.new, ("verify", str(path))),
        (stage.new, ("restore", str(path))),
        (stage.there, ("restore", str(path), "--replace")),
    ):
        machine = Machine(place.home, more={"DATABASE_URL": place.variables["DATABASE_URL"]})
        status, memory, said = await asyncio.to_thread(memory_of, machine, "backup", *words)
        error = json.loads(said)["error"]
        assert (status, error["code"]) == (2, "backup_broken"), error
        assert memory < MOST_MEMORY, (words, memory)
    assert stage.state() == before


# — after all of that —


async def test_after_all_that_was_refused_the_good_one_is_taken(stage: Stage, office: Office) -> None:
    path = archives.written(stage.folder, stage.data)
    for place, options in ((stage.new, Options()), (stage.there, Options(replace=True))):
        await Restorer(place.settings(), options, lambda: None, silent).run(path)
        async with open_app(place.settings()) as app:
            assert (await app.keys.verify()).bad == []
            assert [chain.faults for chain in await app.events.verify_all() if chain.faults] == []
    # Each backup that it made of what was there is whole.
    for made in stage.safety():
        verdict = await verify_here(stage.there.settings(), made, None, silent)
        assert verdict.would_restore, verdict.because
