"""
A restore puts the keys of a backup into whichever key source there is; and whose that is, is said before and after.
"""

from __future__ import annotations

import contextlib
import shutil
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from company_agents.app import open_app
from company_agents.backup.restore import Restorer
from company_agents.crypto.keyring import MasterKey
from company_agents.errors import CompanyAgentsError
from company_agents.keysources.base import open_source
from company_agents.sensitive import Sensitive
from company_agents.settings import Settings
from tests.backup.instances import (
    PASSPHRASE,
    Office,
    comes_back,
    is_back,
    refusal,
    restored,
    rows,
)
from tests.backup.test_restore import whole_folder
from tests.keysources.kinds import KINDS, READ_ONLY
from tests.keysources.place import Place as KeyPlace
from tests.outgoing.servers import Server
from tests.rotation.place import Place, outcome, rotate

Fresh = Callable[[], Place]


@pytest.fixture(scope="module", autouse=True)
def no_proxy() -> Iterator[None]:
    """Every server of these tests is on this machine."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NO_PROXY", "*")
        yield


@pytest.fixture(scope="module")
async def kinds(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Callable[[str], Any]]:
    """Places of each kind, started when they are first asked for."""
    found: dict[str, KeyPlace] = {}
    async with contextlib.AsyncExitStack() as stack:

        async def get(kind: str) -> KeyPlace:
            if kind not in found:
                found[kind] = await stack.enter_async_context(KINDS[kind](tmp_path_factory.mktemp(kind)))
            return found[kind]

        yield get


def settings_with(source: Settings, place: Place) -> Settings:
    """The key source of one, and the home and the database of the other."""
    own = place.settings()
    return source.model_copy(update={"home": own.home, "database_url": own.database_url, "database_pool": 3})


async def keys_in(settings: Settings) -> set[str]:
    return {key.key_id for key in (await open_source(settings).read()).keys}


async def owner_of(settings: Settings) -> uuid.UUID | None:
    return (await open_source(settings).read()).owner


async def started(settings: Settings) -> CompanyAgentsError | None:
    async def start() -> None:
        async with open_app(settings):
            pass

    return await outcome(start())


class Killed(Exception):
    """The process ended here."""


async def killed(*_: Any) -> None:
    raise Killed


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in READ_ONLY])
async def test_the_keys_of_a_ring_go_into_every_source_which_is_taken_from_an_instance_only_where_it_is_said(
    office: Office,
    files: dict[str, Path],
    fresh: Fresh,
    provider: Server,
    kinds: Any,
    kind: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    where = (await kinds(kind)).settings()
    first, second = fresh(), fresh()
    one, two = settings_with(where, first), settings_with(where, second)
    if kind == "file":
        # A folder that both machines reach.
        path = str(first.home.parent / "shared" / "master.key")
        one, two = (each.model_copy(update={"master_key_path": path, "master_key_source": None}) for each in (one, two))
    key = office.place.only("active")
    made = await restored(first, files["ring"], settings=one, passphrase=PASSPHRASE)
    assert (made.keys_added, made.notes) == ([key], [])
    assert await keys_in(one) == {key}
    await comes_back(office, first, provider, one)
    async with open_app(one) as app:
        assert (await rotate(app)).action == "rotated"
    both = {key, first.only("active")}
    assert (await owner_of(one), await keys_in(one)) == (made.id, both)

    error = await refusal(restored(second, files["plain"], settings=two))
    assert (error.exit_status, error.reason) == (78, "key_source_claimed")
    assert str(made.id) in error.sentence
    assert "--take-over-source" in error.hint
    assert rows(second) == {}
    assert (await owner_of(two), await keys_in(two)) == (made.id, both)
    # Between the commit and the claim: the next start takes the source over by itself.
    monkeypatch.setattr(Restorer, "_after", killed)
    with pytest.raises(Killed):
        await restored(second, files["plain"], settings=two, take_over=True)
    assert await owner_of(two) == made.id
    async with open_app(two) as app:
        assert (await owner_of(two), await keys_in(two)) == (app.instance.id, both)
        await is_back(app, office, second, provider)
        assert second.sql("SELECT count(*) AS n FROM former_instances WHERE takes_source") == [{"n": 0}]
        locked_out = await started(one)
        assert locked_out is not None
        assert (locked_out.exit_status, locked_out.reason) == (78, "key_source_claimed")
        assert str(app.instance.id) in locked_out.sentence


async def test_a_source_that_can_only_be_read_has_to_have_the_key(
    office: Office, files: dict[str, Path], new: Place, provider: Server, kinds: Any
) -> None:
    place = await kinds("env")
    with_other = settings_with(await place.put_by_hand(place.settings(), MasterKey.generate()), new)
    error = await refusal(restored(new, files["ring"], settings=with_other, passphrase=PASSPHRASE))
    assert (error.exit_status, error.reason) == (4, "key_source_read_only")
    assert "MASTER_KEY_PATH" in error.hint
    assert rows(new) == {}
    key = MasterKey(Sensitive(office.place.hint()))
    settings = settings_with(await place.put_by_hand(place.settings(), key), new)
    assert (await restored(new, files["plain"], settings=settings)).keys_added == []
    await comes_back(office, new, provider, settings)


# — whose the source is —


async def test_what_was_taken_over_once_is_not_taken_back_by_itself(
    office: Office, files: dict[str, Path], new: Place
) -> None:
    # Somebody gave the source to another instance after the restore: no start takes it from that one.
    whole_folder(office, new)
    done = await restored(new, files["plain"])
    assert await started(new.settings()) is None
    other = uuid.uuid4()
    source = new.source
    await source.claim(other, await source.read())
    error = await started(new.settings())
    assert error is not None
    assert error.reason == "key_source_claimed"
    # Nor the original, which is former now.
    await source.claim(office.id, await source.read())
    error = await started(new.settings())
    assert error is not None
    assert str(done.id) in error.sentence


async def test_the_original_that_shares_the_folder_of_keys_of_its_copy_is_locked_out(
    office: Office, files: dict[str, Path], copy: Place, new: Place, provider: Server
) -> None:
    # The same home, another database: the old machine is thought to be lost, and is not.
    shutil.rmtree(new.home)
    shutil.copytree(copy.home, new.home)
    both = new.settings(master_key_path=str(copy.folder / "master.key"))
    error = await refusal(restored(new, files["plain"], settings=both))
    assert error.reason == "key_source_claimed"
    await restored(new, files["plain"], settings=both, take_over=True)
    await comes_back(office, new, provider, both)
    locked_out = await started(copy.settings())
    assert locked_out is not None
    assert locked_out.reason == "key_source_claimed"


async def test_where_the_source_is_out_of_reach_nothing_is_restored(
    files: dict[str, Path], new: Place, kinds: Any
) -> None:
    where, reason = (await kinds("vault")).unreachable()
    error = await refusal(restored(new, files["ring"], settings=settings_with(where, new), passphrase=PASSPHRASE))
    assert error.reason == reason
    assert rows(new) == {}
