"""
What is not restored: said before anything is changed, with what to do instead.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from company_agents.backup import signature
from company_agents.backup.manifest import FORMAT, Schema
from company_agents.errors import CompanyAgentsError, Exit
from company_agents.sensitive import Sensitive
from tests.backup.instances import (
    PASSPHRASE,
    Office,
    comes_back,
    manifest_of,
    refusal,
    remade,
    restored,
    rows,
    signature_of,
)
from tests.backup.test_restore import whole_folder
from tests.cli.processes import machine_in
from tests.conftest import LOCAL
from tests.outgoing.servers import Server
from tests.rotation.place import Place, elsewhere, nothing_is_lost, rotate


def untouched(place: Place) -> tuple[Any, dict[str, bytes]]:
    """What there is on a new machine: no row, and nothing in the key source but what was put there."""
    return rows(place), place.files() if place.folder.exists() else {}


async def refused(place: Place, file: Path, **options: Any) -> CompanyAgentsError:
    """How it failed; nothing was changed."""
    before = untouched(place)
    error = await refusal(restored(place, file, **options))
    assert untouched(place) == before
    assert error.hint
    return error


# — the key —


async def test_without_the_key_it_says_which_one_and_when_that_was_active(
    office: Office, files: dict[str, Path], new: Place
) -> None:
    error = await refused(new, files["plain"])
    key, day = office.place.only("active"), manifest_of(files["plain"]).taken_at
    assert (error.exit_status, error.reason) == (Exit.MAY_NOT_START, "key_missing")
    assert key in error.sentence
    assert f"active from {day:%Y-%m-%d}" in error.sentence
    assert "--without-secrets" in error.hint


def test_without_the_key_no_database_is_made(files: dict[str, Path], tmp_path: Path) -> None:
    with machine_in(tmp_path / "new") as machine:
        done = machine.run("backup", "restore", str(files["plain"]), "--json")
        assert (done.status, done.json["error"]["code"]) == (78, "key_missing")
        assert not (machine.home / "db").exists()
        assert not (machine.home / "secrets").exists()
        with_ring = machine.run("backup", "restore", str(files["ring"]), "--json")
        assert (with_ring.status, with_ring.json["error"]["code"]) == (78, "key_missing")
        assert "--passphrase-stdin" in with_ring.json["error"]["hint"]
        wrong = machine.run(
            "backup", "restore", str(files["ring"]), "--passphrase-stdin", "--json", given="not that one, no\n"
        )
        assert (wrong.status, wrong.json["error"]["code"]) == (4, "passphrase_wrong")
        assert not (machine.home / "db").exists()
        assert not (machine.home / "secrets").exists()


async def test_the_key_of_somebody_else_is_no_key(
    office: Office, files: dict[str, Path], fresh: Callable[[], Place]
) -> None:
    other = fresh()
    async with other.open():
        pass
    new = fresh()
    new.folder.mkdir(mode=0o700)
    shutil.copy(other.folder / "master.key", new.folder / "master.key")
    assert office.place.only("active") in (await refused(new, files["plain"])).sentence


async def test_a_wrong_passphrase_changes_nothing_and_the_right_one_works_then(
    office: Office, files: dict[str, Path], new: Place, provider: Server
) -> None:
    error = await refused(new, files["ring"], passphrase=Sensitive("walnut teapot harbor quilt 71 embers"))
    assert (error.exit_status, error.reason) == (4, "passphrase_wrong")
    await restored(new, files["ring"], passphrase=PASSPHRASE)
    await comes_back(office, new, provider)


async def test_a_ring_without_its_passphrase_is_asked_for(files: dict[str, Path], new: Place) -> None:
    error = await refused(new, files["ring"])
    assert (error.exit_status, error.reason) == (78, "key_missing")
    assert "--passphrase-stdin" in error.hint


# — who made it —


async def test_one_that_nobody_signed_is_taken_only_where_it_is_said(
    office: Office, files: dict[str, Path], new: Place, provider: Server, tmp_path: Path
) -> None:
    whole_folder(office, new)
    file = remade(files["plain"], tmp_path / "unsigned")
    error = await refused(new, file)
    assert (error.exit_status, error.reason) == (4, "backup_unsigned")
    assert "--unsigned" in error.hint
    await restored(new, file, unsigned=True)
    await comes_back(office, new, provider)


async def test_one_that_was_altered_is_refused_also_where_unsigned_ones_are_taken(
    office: Office, files: dict[str, Path], new: Place, tmp_path: Path
) -> None:
    # An operator more, as whoever can write where backups lie would like to have: every checksum is right.
    def planted(name: str, lines: Sequence[bytes]) -> Sequence[bytes]:
        return [line.replace(b"\tolga\t", b"\tmallory\t") for line in lines] if name == "tables/operators" else lines

    whole_folder(office, new)
    file = remade(files["plain"], tmp_path / "altered", planted, signature_of(files["plain"]))
    for options in ({}, {"unsigned": True}):
        error = await refused(new, file, **options)
        assert error.exit_status == 1
        assert "altered" in error.sentence
    # Nor with a manifest that says something else, and nothing but that.
    file = remade(files["plain"], tmp_path / "said", signature=signature_of(files["plain"]), product="another")
    assert "altered" in (await refused(new, file)).sentence


async def test_one_that_is_signed_with_a_key_that_is_not_the_instances_is_as_good_as_unsigned(
    office: Office, files: dict[str, Path], new: Place, fresh: Callable[[], Place], tmp_path: Path
) -> None:
    other = fresh()
    async with other.open() as app:
        [key] = app.held.ring.keys
    whole_folder(office, new)
    text = manifest_of(files["plain"]).text()
    file = remade(files["plain"], tmp_path / "other", signature=signature.sign(key, text))
    assert (await refused(new, file)).reason == "backup_unsigned"


# — of what it is —


async def test_one_of_a_newer_format_or_schema_is_left_to_a_newer_version(
    office: Office, files: dict[str, Path], new: Place, tmp_path: Path
) -> None:
    whole_folder(office, new)
    schema = manifest_of(files["plain"]).schema
    says: dict[str, dict[str, Any]] = {
        "format": {"format": FORMAT + 1},
        "schema": {"schema": Schema(schema.step + 1, schema.checksum)},
    }
    for what, said in says.items():
        error = await refused(new, remade(files["plain"], tmp_path / what, **said), unsigned=True)
        assert (error.exit_status, error.reason) == (4, "backup_newer")
        assert what in error.sentence
        assert "the version that made it" in error.hint


async def test_a_schema_of_the_same_number_that_is_another_is_not_taken(
    office: Office, files: dict[str, Path], new: Place, tmp_path: Path
) -> None:
    whole_folder(office, new)
    other = replace(manifest_of(files["plain"]).schema, checksum="0" * 64)
    error = await refused(new, remade(files["plain"], tmp_path / "other", schema=other), unsigned=True)
    assert error.reason == "backup_schema"


async def test_the_export_of_a_company_is_for_company_import(office: Office, new: Place, tmp_path: Path) -> None:
    file = tmp_path / "company"
    async with office.place.open() as app:
        await app.mover.export(LOCAL, str(office.place.company), file, PASSPHRASE)
    whole_folder(office, new)
    error = await refused(new, file)
    assert (error.exit_status, error.reason) == (2, "backup_of_company")
    assert "company import" in error.hint


# — where to —


async def test_where_there_is_an_instance_already_it_is_not_replaced_unasked(
    office: Office, files: dict[str, Path], copy: Place
) -> None:
    before = copy.secrets(), copy.files()
    error = await refusal(restored(copy, files["plain"]))
    assert (error.exit_status, error.reason) == (4, "instance_there")
    assert "--replace" in error.hint
    assert (copy.secrets(), copy.files()) == before


@pytest.mark.parametrize("with_replace", [False, True])
async def test_while_an_orchestrator_runs_on_the_database_nothing_is_restored(
    files: dict[str, Path], copy: Place, with_replace: bool
) -> None:
    async with copy.open(long_lived=True):
        before = copy.secrets(), copy.files()
        error = await refusal(restored(copy, files["plain"], replace=with_replace))
        assert (error.exit_status, error.reason) == (75, "orchestrator_runs")
        assert "stop every orchestrator" in error.hint
        assert (copy.secrets(), copy.files()) == before


async def test_while_a_key_is_rotated_nothing_is_restored(files: dict[str, Path], copy: Place) -> None:
    errors: list[CompanyAgentsError] = []

    def say(step: str, done: int, total: int) -> None:
        if step == "rewrap" and not errors:
            errors.append(elsewhere(lambda: refusal(restored(copy, files["plain"], replace=True))))

    async with copy.open() as app:
        await rotate(app, say=say)
        await nothing_is_lost(copy, app)
    assert [error.exit_status for error in errors] == [75]


async def test_a_sealed_instance_is_not_replaced(files: dict[str, Path], copy: Place) -> None:
    async with copy.open() as app:
        await app.panic.seal("tester")
    before = copy.secrets(), copy.files()
    error = await refusal(restored(copy, files["plain"], replace=True))
    assert error.reason == "sealed"
    assert (copy.secrets(), copy.files()) == before
