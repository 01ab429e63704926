"""
Whose a key source is: two instances on one, a copy of an instance beside it, and what an operator can say about it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import shutil
import subprocess
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from company_agents.app import init_key, open_app
from company_agents.crypto.keyring import MasterKey
from company_agents.errors import CompanyAgentsError, Conflict, MayNotStart
from company_agents.keysources.failures import SourceReadOnly
from company_agents.rotation.claim import claim
from company_agents.settings import Settings, read_settings
from tests.cli.postgres import OwnPostgres, own_postgres
from tests.cli.processes import SLOWEST, Machine
from tests.rotation.place import PASSWORD, Place, Watched, nothing_is_lost, outcome, rotate, whole


@pytest.fixture
def empty(server: OwnPostgres) -> Iterator[Callable[[], str]]:
    """Makes empty databases: their addresses."""
    names: list[str] = []
    with server.connect() as administrator:

        def make() -> str:
            names.append(f"db_{uuid.uuid4().hex[:12]}")
            administrator.execute(f"CREATE DATABASE {names[-1]} OWNER app".encode())
            return server.address_of("app", PASSWORD, names[-1])

        yield make
        for name in names:
            administrator.execute(f"DROP DATABASE {name} WITH (FORCE)".encode())


def new(home: Path, address: str, **more: Any) -> Settings:
    nothing = {"database_direct_url": None, "master_key_path": None, "master_key_source": None}
    return read_settings(**{"home": home, "database_url": address, **nothing, **more})


async def started(settings: Settings) -> CompanyAgentsError | None:
    async def start() -> None:
        async with open_app(settings):
            pass

    return await outcome(start())


def the_refusal(error: CompanyAgentsError | None) -> CompanyAgentsError:
    assert isinstance(error, MayNotStart), error
    assert (error.exit_status, error.reason) == (78, "key_source_claimed")
    return error


# — two instances —


def test_of_two_new_instances_on_one_source_at_once_one_wins_and_the_other_does_not_start(
    empty: Callable[[], str], tmp_path: Path
) -> None:
    path = str(tmp_path / "shared" / "master.key")
    with contextlib.ExitStack() as stack:
        machines = [
            Machine(tmp_path / name / "home", more={"DATABASE_URL": empty(), "MASTER_KEY_PATH": path})
            for name in ("one", "two")
        ]
        children = [machine.start("key", "status", "--json", stdin=subprocess.DEVNULL) for machine in machines]
        for child in children:
            stack.enter_context(child)
        said = [child.communicate(timeout=SLOWEST) for child in children]
        statuses = [child.returncode for child in children]
    assert sorted(statuses) == [0, 78], said
    loser, winner = statuses.index(78), statuses.index(0)
    assert json.loads(said[loser][0])["error"]["code"] == "key_source_claimed"
    [key] = json.loads(said[winner][0])["keys"]
    assert [file.stem for file in (tmp_path / "shared" / "keys").glob("*.key")] == [key["key_id"]]
    # Later too.
    assert machines[loser].run("key", "status", "--json").json["error"]["code"] == "key_source_claimed"
    assert machines[winner].run("key", "status", "--json").status == 0


async def test_one_that_was_a_moment_slower_is_told_the_same_as_one_that_comes_later(place: Place) -> None:
    # Between its look at the source and its claim, another instance claims it.
    source, other, ours = Watched(place), uuid.uuid4(), uuid.uuid4()
    shutil.rmtree(place.folder)
    seen = await source.read()

    async def faster() -> None:
        await place.source.claim(other, seen)

    source.moments["before claim 1"] = faster
    the_refusal(await outcome(claim(source, seen, ours, new=True)))
    assert (await place.source.read()).owner == other


async def test_a_source_that_is_taken_over_locks_the_former_instance_out_visibly(
    place: Place, empty: Callable[[], str], tmp_path: Path
) -> None:
    path = str(place.folder / "master.key")
    settings = new(tmp_path / "second", empty(), master_key_path=path)
    refusal = the_refusal(await started(settings))
    assert "--take-over-source" in refusal.hint
    with pytest.raises(Conflict) as caught:
        await init_key(settings, adopt=False, take_over=False)
    assert (caught.value.exit_status, caught.value.reason) == (4, "key_source_claimed")
    async with place.open() as app:
        first = app.instance.id
        key, source, stale = place.only("active"), Watched(place), Watched(place)

        async def take_over() -> None:
            made = await init_key(settings, adopt=False, take_over=True)
            assert (made.created, made.key_id, made.taken_over_from) == (False, key, first)

        # It comes while the former instance rotates: between its look and its first key.
        source.moments["before check 1"] = take_over
        the_refusal(await outcome(rotate(app, source=source)))
        the_refusal(await outcome(rotate(app, source=stale)))
        the_refusal(await outcome(app.pruner.prune(None, "tester")))
    assert "add" not in source.calls + stale.calls
    refusal = the_refusal(await started(place.settings()))
    assert str(first) in refusal.sentence
    assert place.states() == {key: "active"}
    assert await started(settings) is None
    # And back again, if that was a mistake.
    made = await init_key(place.settings(), adopt=False, take_over=True)
    assert made.key_id == key
    the_refusal(await started(settings))
    await whole(place)


async def test_a_prune_whose_source_is_taken_over_meanwhile_destroys_nothing(place: Place) -> None:
    async with place.open() as app:
        await rotate(app)
        old = place.only("archived")
        place.sql("UPDATE master_keys SET ends_at = now() WHERE state = 'archived'")
        source, other = Watched(place), uuid.uuid4()

        async def take_over() -> None:
            await place.source.claim(other, await place.source.read())

        source.moments["before read 2"] = take_over
        pruner = dataclasses.replace(app.pruner, source=source)
        the_refusal(await outcome(pruner.prune(None, "tester")))
        assert "destroy" not in source.calls
    assert old in place.kept()
    await place.source.claim(app.instance.id, await place.source.read())
    async with place.open() as app:
        assert (await app.pruner.prune(None, "tester")).destroyed == [old]


# — a copy of an instance —


async def test_a_copy_on_another_server_that_rotates_and_prunes_takes_no_key_from_the_original(
    place: Place, tmp_path: Path
) -> None:
    async with place.open() as app:
        await rotate(app)
    theirs = set(place.states())
    # Its archived key is about to end, when somebody restores a dump of it elsewhere, on the same source.
    place.sql("UPDATE master_keys SET ends_at = now() WHERE state = 'archived'")
    dump = place.dump()
    with own_postgres(PASSWORD) as other_server:
        copy = Place(other_server, "agents", tmp_path / "copy", place.company, place.agent, place.values)
        settings = copy.settings(master_key_path=str(place.folder / "master.key"))
        # Whose schema is there already, with an instance of its own that has never had a key.
        the_refusal(await started(settings))
        copy.restore(dump)
        async with open_app(settings) as app:
            assert copy.sql("SELECT ends_at FROM master_keys WHERE state = 'archived'") == [{"ends_at": None}]
            await rotate(app)
            # A long time goes by.
            copy.sql("UPDATE master_keys SET ends_at = now() WHERE ends_at IS NOT NULL")
            result = await app.pruner.prune(None, "tester")
            assert result.destroyed == []
            assert {kept.key_id for kept in result.kept if "it has no end" in kept.why} == theirs
            # What it has made itself ends as ever.
            await rotate(app)
            copy.sql("UPDATE master_keys SET ends_at = now() WHERE ends_at IS NOT NULL")
            [destroyed] = (await app.pruner.prune(None, "tester")).destroyed
            assert destroyed not in theirs
    assert theirs <= place.kept()
    await whole(place)


# — `key init` —


async def test_a_first_key_is_made_once(place: Place, empty: Callable[[], str], tmp_path: Path) -> None:
    settings = new(tmp_path / "made", empty())
    made = await init_key(settings, adopt=False, take_over=False)
    assert (made.created, made.taken_over_from) == (True, None)
    before = (tmp_path / "made" / "secrets" / "master.key").read_bytes()
    for adopt, take_over in ((False, False), (True, False), (False, True), (True, True)):
        with pytest.raises(Conflict) as caught:
            await init_key(settings, adopt=adopt, take_over=take_over)
        assert (caught.value.exit_status, caught.value.reason) == (4, "key_there")
    assert (tmp_path / "made" / "secrets" / "master.key").read_bytes() == before
    assert await started(settings) is None


async def test_a_key_that_somebody_put_there_is_taken_only_where_it_is_said(
    place: Place, empty: Callable[[], str], tmp_path: Path
) -> None:
    settings, key = new(tmp_path / "put", empty()), MasterKey.generate()
    file = tmp_path / "put" / "secrets" / "master.key"
    file.parent.mkdir(parents=True, mode=0o700)
    file.write_bytes(key.secret.reveal())
    file.chmod(0o600)
    with pytest.raises(Conflict) as caught:
        await init_key(settings, adopt=False, take_over=False)
    assert (caught.value.exit_status, caught.value.reason) == (4, "key_there")
    assert not (file.parent / "keys").exists()
    made = await init_key(settings, adopt=True, take_over=False)
    assert (made.created, made.key_id) == (False, key.key_id)
    assert await started(settings) is None


async def test_no_first_key_beside_several_keys_or_without_those_that_are_registered(
    place: Place, empty: Callable[[], str], tmp_path: Path
) -> None:
    async with place.open() as app:
        await rotate(app)
    path = str(place.folder / "master.key")
    before = place.files()
    with pytest.raises(MayNotStart) as caught:
        await init_key(new(tmp_path / "several", empty(), master_key_path=path), adopt=True, take_over=True)
    assert (caught.value.exit_status, caught.value.reason) == (78, "key_not_ours")
    assert place.files() == before
    # This one has a key, and an empty source does not have it.
    elsewhere_path = tmp_path / "elsewhere" / "master.key"
    with pytest.raises(MayNotStart) as caught:
        await init_key(place.settings(master_key_path=str(elsewhere_path)), adopt=False, take_over=False)
    assert (caught.value.exit_status, caught.value.reason) == (78, "key_missing")
    assert not elsewhere_path.parent.exists()
    await whole(place)


# — a source that can only be read —


async def test_a_variable_opens_everything_and_is_never_written_rotated_or_pruned(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = (await place.source.read()).keys[0]
    monkeypatch.setenv("A_MASTER_KEY", key.secret.reveal().hex())
    settings = place.settings(master_key_source="env://A_MASTER_KEY")
    before = place.files(), place.secrets(), place.states()
    async with open_app(settings) as app:
        await nothing_is_lost(place, app)
        works = [
            rotate(app),
            app.rotator.foresee(compromised=False, say=lambda step, done, total: None),
            app.pruner.prune(None, "tester"),
            init_key(settings, adopt=True, take_over=True),
        ]
        for work in works:
            error = await outcome(work)
            assert isinstance(error, SourceReadOnly), error
            assert (error.exit_status, error.reason) == (4, "key_source_read_only")
            assert "MASTER_KEY_PATH" in error.hint
    assert (place.files(), place.secrets(), place.states()) == before
