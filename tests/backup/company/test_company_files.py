"""
Files of a company that are not right: each is refused, and changes nothing. And those of older versions.
"""

from __future__ import annotations

import uuid
from dataclasses import replace
from pathlib import Path

import pytest

from company_agents.backup.company_tables import TRAVELS
from company_agents.backup.manifest import Broken, Newer
from company_agents.backup.ring import WrongPassphrase
from company_agents.backup.schema import schema_at
from company_agents.crypto.keyring import MasterKey
from company_agents.db.moving import NotOurs
from company_agents.errors import Tampered, WrongUsage
from company_agents.sensitive import Sensitive
from tests.backup.company.moved import (
    Source,
    altered_field,
    bring_in,
    every_row,
    fields,
    is_refused,
    manifest_of,
    members,
    remade,
    rows_of,
)
from tests.rotation.place import Place

# — files that are not right —


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

    await is_refused(target, remade(source.light, tmp_path / "f", no_number), Broken)

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
        await bring_in(app, file, allow_private_network=True)
        here = rows_of(target, source.mine)
        assert len(here["integrations"]) == len(rows_of(source.place, source.mine)["integrations"]) > 0
        assert {(str(row["allows"]), str(row["asks"]), row["per_minute"]) for row in here["integrations"]} == {
            ("[]", "[]", 0)
        }
        assert here["approvals"] == []
        agent = await app.identity.agent(source.token)
        assert (await app.requests.request(agent, str(source.integration), "GET", "/again")).status == 200
