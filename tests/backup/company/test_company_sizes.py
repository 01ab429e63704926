"""
Files that somebody made who knows the passphrase: larger than they look, with less in them than there has to be, or with names
and heads that are none. Each is refused and changes nothing.
"""

from __future__ import annotations

import dataclasses
import gc
import json
from pathlib import Path

import pyrage
import pytest

from company_agents.backup import ring, signature
from company_agents.backup.archive import HEADS, RING, ArchiveWriter
from company_agents.backup.company_changes import Changes
from company_agents.backup.manifest import Broken
from company_agents.backup.schema import schema_at
from tests.backup.company.moved import (
    PASSPHRASE,
    Change,
    Source,
    bring_in,
    every_row,
    fields,
    is_refused,
    manifest_of,
    members,
    refused,
    remade,
    rows_of,
    transport_key,
    with_fields,
    with_sealed,
)
from tests.backup.company.test_company_undisturbed import peak
from tests.rotation.place import Place

# — sizes —


def repeated(source: Source, to: Path, table: str, row: bytes, number: int) -> Path:
    """A file in which a table is one row, over and over."""
    with to.open("w+b") as out:
        key, was = transport_key(source.light), manifest_of(source.light)
        writer = ArchiveWriter(out)
        for name, content in members(source.light).items():
            if name in (RING, HEADS):
                writer.add(name, content)
            else:
                writer.begin(name, fields(was, name.removeprefix("tables/")).columns)
                writer.write(row * number if name == f"tables/{table}" else content, number or content.count(b"\n"))
        counted = [
            dataclasses.replace(each, rows=number if each.name == f"tables/{table}" else was_one.rows)
            for each in writer.members()
            if (was_one := was.member(each.name)) is not None
        ]
        text = dataclasses.replace(was, members=tuple(counted)).text()
        writer.finish(text, signature.sign(key, text))
    return to


async def test_a_small_file_takes_little_memory_whatever_it_unpacks_to(
    source: Source, target: Place, tmp_path: Path
) -> None:
    columns = len(fields(manifest_of(source.light), "memory").columns)
    size = 60_000_000
    bombs = {
        "empty": b"\t" * (columns - 1) + b"\n",
        "lines": b"\n",
        "tabs": b"\t" * size + b"\n",
        "long": b"x" * size + b"\t" * (columns - 1) + b"\n",
    }
    async with target.open() as app:
        before = every_row(target)
        for name, row in bombs.items():
            file = repeated(source, tmp_path / name, "memory", row, max(1, size // len(row)))
            assert file.stat().st_size < 400_000
            gc.collect()
            grown = peak()
            with pytest.raises(Broken, match=r"tables/memory (has more rows|holds a row)"):
                await bring_in(app, file)
            assert grown() < 400, name
            file.unlink()
        assert every_row(target) == before


async def test_a_table_without_its_columns_is_refused_before_a_row_of_it_is_read(
    source: Source, target: Place, tmp_path: Path
) -> None:
    light = source.light
    member = fields(manifest_of(light), "schedules")
    kept = [index for index, column in enumerate(member.columns) if column != "enabled"]

    def without(contents: dict[str, bytes]) -> None:
        rows = (row.split(b"\t") for row in contents[member.name].splitlines())
        contents[member.name] = b"".join(b"\t".join(row[index] for index in kept) + b"\n" for row in rows)

    columns = {member.name: tuple(member.columns[index] for index in kept)}
    said = await is_refused(target, remade(light, tmp_path / "a", without, columns=columns), Broken)
    assert "not every column" in said
    # Nor in a file of an older version: they would arrive enabled.
    older = remade(light, tmp_path / "b", without, columns=columns, schema=schema_at(12))
    assert "not the columns" in await is_refused(target, older, Broken)
    never = dataclasses.replace(schema_at(0), step=0)
    assert "never was" in await is_refused(target, remade(light, tmp_path / "c", schema=never), Broken)


def test_what_is_changed_has_to_be_among_the_columns() -> None:
    with pytest.raises(KeyError):
        Changes(moment="2026-01-01 00:00:00+00").apply("schedules", ["id", "next_at"], [["1", None]])


async def test_secrets_of_any_size_do_not_arrive(source: Source, target: Place, tmp_path: Path) -> None:
    light = source.light
    await refused(
        *(target, source, tmp_path),
        [
            (with_sealed(light, "secret 7", lambda _: bytes(64 * 1024 + 1)), Broken, "longer than any can be"),
            (with_fields(light, "secrets", nonce="\\\\x00"), Broken, "longer than any can be"),
            (with_fields(light, "secrets", value="\\\\xzz"), Broken, "bytes that are none"),
        ],
    )


# — names, and heads —


async def test_names_that_do_not_show_are_refused(source: Source, target: Place, tmp_path: Path) -> None:
    for name in ("x\x1b[2J", "y" * 5000, "two\nlines", "", " "):
        said = await is_refused(target, remade(source.light, tmp_path / "m", company_name=name), Broken)
        assert name.strip() == "" or name not in said
    await refused(
        *(target, source, tmp_path),
        [
            (with_fields(source.light, table, name=name), Broken, f"tables/{table} holds a name")
            for table in ("agents", "integrations", "schedules")
            for name in ("a\x1b[31m\u202e", " ann")
        ],
    )


async def test_the_name_that_was_looked_at_is_the_one_that_arrives(
    source: Source, target: Place, tmp_path: Path
) -> None:
    file = remade(source.light, tmp_path / "a", with_fields(source.light, "companies", name="evil \x1b[2J"))
    async with target.open() as app:
        assert (await bring_in(app, file)).name == "Acme"
        assert [row["name"] for row in rows_of(target, source.mine)["companies"]] == ["Acme"]


async def test_a_head_that_is_none_is_refused(source: Source, target: Place, tmp_path: Path) -> None:
    good = json.loads(members(source.light)[HEADS])
    heads = [json.dumps(good | {"seq": seq}) for seq in (True, 1.0, -1, 2**48, "1", None, float("inf"))]
    heads += [
        "[" * 60_000,
        "[]",
        "1",
        json.dumps(good | {"faults": "x"}),
        json.dumps(good | {"mac": 1}),
        '{"seq": 1e999}',
    ]

    def to(head: str) -> Change:
        return lambda contents: contents.update({HEADS: head.encode()})

    await refused(target, source, tmp_path, [(to(head), Broken, "the head of its audit chain") for head in heads])


@pytest.mark.parametrize("content", [b"[" * 60_000, b'{"keys": [[]]}', b'{"keys": [1]}', b"[]", b'{"keys": {"a": 1}}'])
def test_a_key_ring_that_holds_no_keys_is_refused(content: bytes) -> None:
    wrapped = bytes(pyrage.passphrase.encrypt(content, PASSPHRASE.reveal_text()))
    with pytest.raises(Broken, match="holds no keys"):
        ring.unwrap(wrapped, PASSPHRASE)
