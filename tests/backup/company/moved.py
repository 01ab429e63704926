"""
Instances between which a company moves, what is in it, and files of it that somebody has had a hand in.
"""

from __future__ import annotations

import asyncio
import base64
import concurrent.futures
import dataclasses
import functools
import hmac
import json
import os
import shutil
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
import zstandard
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

from company_agents.app import App, open_app
from company_agents.backup import ring, signature
from company_agents.backup.archive import RING, ArchiveReader, ArchiveWriter, open_archive, opened_file
from company_agents.backup.company_import import Imported
from company_agents.backup.manifest import Manifest, Member
from company_agents.crypto.keyring import MasterKey
from company_agents.crypto.place import additional_data
from company_agents.db.moving import line, lines
from company_agents.sensitive import Sensitive
from company_agents.settings import read_settings
from tests.cli.postgres import OwnPostgres
from tests.conftest import LOCAL, Tenant
from tests.rotation.place import PASSWORD, Place

PASSPHRASE = Sensitive("orbit lantern velvet cactus 93 mosaic")

# Texts that a line of COPY has to be careful with.
AWKWARD = (
    "a tab\tand a line\nand a return\r",
    "a backslash \\ and one at the end \\",
    "\\N",
    "\\.",
    "\\t is no tab, and \\\\N is nothing",
    "\b\f\v\x01\x7f",
    "東京 😀 \u202e turned",
    '{"a", NULL, "b\\"c"}',
    "NULL",
    "it's $1 and %s and {}",
    " blanks around ",
)

TABLES = """
SELECT c.relname AS name, CASE WHEN c.relname = 'companies' THEN 'id' ELSE
    (SELECT a.attname FROM pg_attribute a
     WHERE a.attrelid = c.oid AND a.attname IN ('company_id', 'chain') AND NOT a.attisdropped) END AS owner
FROM pg_class c WHERE c.relnamespace = 'public'::regnamespace AND c.relkind = 'r' ORDER BY 1
"""


def made(work: Callable[[], Awaitable[Any]]) -> Any:
    """What a coroutine gives, in a loop of its own."""

    async def run() -> Any:
        return await work()

    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        return pool.submit(asyncio.run, run()).result()


def new_instance(server: OwnPostgres, home: Path) -> Place:
    """An instance of its own, with nothing in it."""
    name = f"db_{uuid.uuid4().hex[:12]}"
    with server.connect() as administrator:
        administrator.execute(f"CREATE DATABASE {name} OWNER app".encode())
    nobody = UUID(int=0)
    place = Place(server, name, home, nobody, nobody, {})

    async def start() -> None:
        async with open_app(read_settings(**_settings(place))):
            return

    made(start)
    return place


def _settings(place: Place) -> dict[str, Any]:
    address = place.server.address_of("app", PASSWORD, place.name)
    return {"home": place.home, "database_url": address, "master_key_path": None, "master_key_source": None}


def copy_of(place: Place, home: Path) -> Place:
    """A copy of an instance, to be changed. Nobody may have that open."""
    shutil.copytree(place.home, home)
    return place.copied(home)


@dataclass(frozen=True)
class Source:
    """
    An instance with two companies, one of which moves. `values`: what its secrets hold, by name; `file`: the company, as it was
    exported; `light`: the same, and it opens quickly.
    """

    place: Place
    mine: UUID
    agent: UUID
    token: str
    integration: UUID
    theirs: UUID
    values: dict[str, bytes]
    canaries: tuple[bytes, ...]
    file: Path
    light: Path


def tables_of(place: Place) -> dict[str, str]:
    """The tables that have rows of companies, and the column that says whose a row is."""
    return {row["name"]: row["owner"] for row in place.sql(TABLES) if row["owner"]}


def rows_of(place: Place, company: UUID) -> dict[str, list[dict[str, Any]]]:
    """Every row of a company, as JSON."""
    rows = {}
    for table, owner in tables_of(place).items():
        query = f"SELECT to_jsonb(t) AS row FROM {table} t WHERE {owner} = %(c)s ORDER BY to_jsonb(t)::text"
        rows[table] = [row["row"] for row in place.sql(query, c=company)]
    return rows


def every_row(place: Place) -> dict[str, list[str]]:
    """Every row of every table, but the signs of life and the number of who last looked at the keys."""
    names = [row["name"] for row in place.sql(TABLES) if row["name"] not in ("replicas", "key_fence")]
    return {
        name: [row["row"] for row in place.sql(f"SELECT t::text AS row FROM {name} t ORDER BY 1")] for name in names
    }


async def values_of(app: App, place: Place, company: UUID) -> dict[str, bytes]:
    """What the secrets of a company hold, by name, opened by the way that every one is."""
    rows = place.sql(
        "SELECT id, company_id, name, value, nonce, key_id FROM secrets WHERE company_id = %(c)s", c=company
    )
    return {row["name"]: (await app.store.open_row(row)).reveal() for row in rows}


async def bring_in(app: App, file: Path, passphrase: Sensitive = PASSPHRASE, **options: Any) -> Imported:
    """`company import`."""
    return await app.mover.import_(LOCAL, file, passphrase, **options)


def members(file: Path) -> dict[str, bytes]:
    """What is in an archive, member by member."""
    found: dict[str, bytes] = {}
    with opened_file(file) as source:
        opened = open_archive(source)
        for member, content in ArchiveReader(source, opened).pieces():
            found[member.name] = found.get(member.name, b"") + content
    return found


def manifest_of(file: Path) -> Manifest:
    """What an archive says of itself."""
    with opened_file(file) as source:
        return open_archive(source).manifest


def unpacked(file: Path) -> bytes:
    """Everything that is in a file, without the compression: each frame as it stands."""
    rest, found = file.read_bytes(), b""
    while rest:
        part = zstandard.ZstdDecompressor().decompressobj()
        found += part.decompress(rest)
        rest = part.unused_data
    return found


Change = Callable[[dict[str, bytes]], None]


def wrapped_lightly(key: MasterKey) -> bytes:
    """
    What `ring.wrap` makes, but that a passphrase is tried in a moment: a test that tries many files has not a second for
    each. The format is age's, https://c2sp.org/age, with 2 to the power of 4 for the work of scrypt.
    """
    content = {"keys": [{"key_id": key.key_id, "key": base64.b64encode(key.secret.reveal()).decode()}]}
    file_key, salt, nonce = os.urandom(16), os.urandom(16), os.urandom(16)
    derived = Scrypt(b"age-encryption.org/v1/scrypt" + salt, 32, 2**4, 8, 1).derive(PASSPHRASE.reveal())
    body = ChaCha20Poly1305(derived).encrypt(bytes(12), file_key, None)
    head = b"age-encryption.org/v1\n-> scrypt %s 4\n%s\n---" % (_unpadded(salt), _unpadded(body))
    mac = hmac.digest(_from(file_key, b"", b"header"), head, "sha256")
    last = bytes(11) + b"\1"
    payload = ChaCha20Poly1305(_from(file_key, nonce, b"payload")).encrypt(last, json.dumps(content).encode(), None)
    return head + b" " + _unpadded(mac) + b"\n" + nonce + payload


def _from(file_key: bytes, salt: bytes, info: bytes) -> bytes:
    return HKDF(SHA256(), 32, salt, info).derive(file_key)


def _unpadded(value: bytes) -> bytes:
    return base64.b64encode(value).rstrip(b"=")


@functools.cache
def transport_key(file: Path) -> MasterKey:
    """The key that lies in an archive."""
    [key] = ring.unwrap(members(file)[RING], PASSPHRASE).keys
    return key


def remade(
    file: Path,
    to: Path,
    change: Change = lambda members: None,
    *,
    key: MasterKey | None = None,
    columns: dict[str, tuple[str, ...]] | None = None,
    **says: Any,
) -> Path:
    """
    Another archive of the same company, with other contents, that opens quickly; signed as a right one, by whoever has the
    passphrase, or with another `key`.
    """
    was, contents = manifest_of(file), members(file)
    own = transport_key(file)
    contents[RING] = wrapped_lightly(own)
    change(contents)
    with to.open("w+b") as out:
        writer = ArchiveWriter(out)
        for name, content in contents.items():
            member = was.member(name)
            names = (columns or {}).get(name) or (member.columns if member else ())
            writer.begin(name, names)
            if "/" in name:
                for line in content.splitlines(keepends=True):
                    writer.write(line, 1)
            else:
                writer.write(content)
        manifest = dataclasses.replace(was, **{"members": writer.members(), **says})
        text = manifest.text()
        writer.finish(text, signature.sign(key or own, text))
    return to


def fields(manifest: Manifest, table: str) -> Member:
    """The member of a table."""
    found = manifest.member(f"tables/{table}")
    assert found is not None
    return found


def altered_field(content: bytes, member: Member, column: str, value: str, row: int = 0) -> bytes:
    """A table's content with one field of one row another."""
    lines = content.split(b"\n")
    cells = lines[row].split(b"\t")
    cells[member.columns.index(column)] = value.encode()
    lines[row] = b"\t".join(cells)
    return b"\n".join(lines)


async def a_company(app: App, name: str) -> Tenant:
    """A new company with an agent."""
    company = await app.companies.create(LOCAL, name)
    local = await app.identity.in_company(LOCAL, company.id)
    _, token = await app.agents.create(local, "ann")
    return Tenant(company, local, await app.identity.agent(token.reveal_text()), token.reveal_text())


async def is_refused(target: Place, file: Path, error: Any, passphrase: Sensitive = PASSPHRASE, **options: Any) -> str:
    """Bring a file in, which is refused and changes nothing. What is said then."""
    async with target.open() as app:
        before = every_row(target)
        with pytest.raises(error) as refused:
            await bring_in(app, file, passphrase, **options)
        await app.store.flush_used()
        assert every_row(target) == before
    return str(refused.value)


def with_fields(file: Path, table: str, row: int | None = 0, **values: str) -> Change:
    """A change of a file: these columns of one row of a table, or (None) of each, are these texts, as COPY writes them."""
    member = fields(manifest_of(file), table)

    def change(contents: dict[str, bytes]) -> None:
        rows = range(contents[member.name].count(b"\n")) if row is None else (row,)
        for number in rows:
            for column, value in values.items():
                contents[member.name] = altered_field(contents[member.name], member, column, value, number)

    return change


def rows_in(file: Path, table: str) -> list[dict[str, str | None]]:
    """The rows of a table in a file."""
    member = fields(manifest_of(file), table)
    return [dict(zip(member.columns, row, strict=True)) for row in lines(members(file)[member.name])]


def with_rows(file: Path, table: str, change: Callable[[dict[str, str | None]], list[dict[str, str | None]]]) -> Change:
    """A change of a file: each row of a table becomes these."""
    member = fields(manifest_of(file), table)

    def changed(contents: dict[str, bytes]) -> None:
        made = []
        for row in lines(contents[member.name]):
            for new in change(dict(zip(member.columns, row, strict=True))):
                made.append(line([new[column] for column in member.columns]))
        contents[member.name] = b"".join(made)

    return changed


def with_sealed(file: Path, prefix: str, change: Callable[[bytes], bytes]) -> Change:
    """A change of a file: what secrets hold whose names begin so is another; whoever knows the passphrase can seal it."""
    key, aead = transport_key(file), AESGCM(transport_key(file).secret.reveal())

    def resealed(row: dict[str, str | None]) -> list[dict[str, str | None]]:
        if str(row["name"]).startswith(prefix):
            whose, secret = UUID(str(row["company_id"])).bytes, UUID(str(row["id"])).bytes
            data = additional_data(whose, secret, str(row["name"]).encode(), key.key_id.encode())
            value, nonce = (bytes.fromhex(str(row[name])[2:]) for name in ("value", "nonce"))
            row["value"] = "\\x" + aead.encrypt(nonce, change(aead.decrypt(nonce, value, data)), data).hex()
        return [row]

    return with_rows(file, "secrets", resealed)


def together(*changes: Change) -> Change:
    """One change after the other."""

    def change(contents: dict[str, bytes]) -> None:
        for each in changes:
            each(contents)

    return change


async def refused(target: Place, source: Source, folder: Path, changes: list[tuple[Change, Any, str]]) -> None:
    """Each of these changes makes a file that is refused, with such a sentence."""
    async with target.open() as app:
        before = every_row(target)
        for number, (change, error, said) in enumerate(changes):
            file = remade(source.light, folder / f"file {number}", change)
            with pytest.raises(error, match=said):
                await bring_in(app, file)
            await app.store.flush_used()
            assert every_row(target) == before, (number, said)
