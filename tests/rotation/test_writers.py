"""
Whoever writes, reads and serves while the master key changes: no newer value is lost, no writer waits for long, and no
orchestrator seals under a key that is not the active one, or serves without one that it needs.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import httpx2
import pytest

from company_agents.app import App, open_app
from company_agents.asgi import Front
from company_agents.crypto.keyring import UnknownKey
from company_agents.errors import Busy, Unavailable
from company_agents.mcp_server import mcp_door
from company_agents.rotation import rotate as rotation
from company_agents.secret_store import keys as held_keys
from company_agents.sensitive import Sensitive
from company_agents.settings import Settings
from tests.rotation.place import Place, Watched, caller, nothing_is_lost, opened, outcome, rotate, write

NAME = "secret 011"
NEWER = b"what was written meanwhile"


async def until(look: Callable[[], Awaitable[object]]) -> None:
    """Until it is so."""
    async with asyncio.timeout(30):
        while not await look():
            await asyncio.sleep(0.02)


async def waits(place: Place, what: str) -> bool:
    """Whether somebody waits for a lock of this kind."""
    rows = await asyncio.to_thread(place.sql, f"SELECT pid FROM pg_locks WHERE NOT granted AND {what}")
    return bool(rows)


@contextlib.asynccontextmanager
async def a_write_that_takes_its_time(app: App, place: Place, value: bytes) -> AsyncIterator[None]:
    scope = (await caller(app, place)).scope
    async with scope.transaction() as tx:
        await app.store.replace(tx, NAME, Sensitive(value))
        yield


def the_id(place: Place) -> object:
    [row] = place.sql("SELECT id FROM secrets WHERE name = %(n)s", n=NAME)
    return row["id"]


async def test_a_row_that_is_written_between_its_reading_and_its_moving_keeps_the_newer_value(place: Place) -> None:
    source = Watched(place)
    writing: list[asyncio.Task[None]] = []
    async with place.open() as app, place.open() as other:

        async def write_slowly(begun: asyncio.Event) -> None:
            async with a_write_that_takes_its_time(other, place, NEWER):
                begun.set()
                # The row was read as it is without this write, and is now waited for.
                await until(lambda: waits(place, "locktype = 'transactionid'"))

        async def switched() -> None:
            # The source is read once between the switch and the first batch.
            begun = asyncio.Event()
            await other.held.refresh()
            writing.append(asyncio.create_task(write_slowly(begun)))
            await asyncio.wait({writing[0], asyncio.create_task(begun.wait())}, return_when=asyncio.FIRST_COMPLETED)

        def say(step: str, done: int, total: int) -> None:
            if step == "switch":
                source.moments[f"before read {source.calls.count('read') + 1}"] = switched

        result = await rotate(app, source=source, say=say)
        assert result.bad == []
        await writing[0]
        secret = next(secret for secret, value in place.values.items() if value.endswith(b"number 11"))
        assert secret == the_id(place)
        for reader in (app, other):
            assert await opened(reader, place, secret) == NEWER
        assert set(place.rows_by_key()) == {place.only("active")}


async def test_a_writer_that_takes_its_time_delays_the_switch_and_no_other_writer(place: Place) -> None:
    old = place.only("active")
    async with place.open() as app, place.open() as other:
        switching = asyncio.Event()

        def say(step: str, done: int, total: int) -> None:
            if step == "switch":
                switching.set()

        async with a_write_that_takes_its_time(other, place, NEWER):
            rotating = asyncio.create_task(rotate(app, say=say))
            await switching.wait()
            await until(lambda: waits(place, "locktype = 'advisory'"))
            # It waits a moment and goes away again; whoever came behind it is through by then.
            await asyncio.gather(*(write(other, place, f"beside {number}", b"another") for number in range(5)))
            assert place.only("active") == old
            assert not rotating.done()
        result = await rotating
        assert (result.old_key_id, result.bad) == (old, [])
        assert await opened(app, place, the_id(place)) == NEWER  # type: ignore[arg-type]
        assert set(place.rows_by_key()) == {result.new_key_id}
        # After the switch every write is under the new key.
        await write(app, place, "after it", b"later")
        assert set(place.rows_by_key()) == {result.new_key_id}


async def test_a_writer_that_never_ends_makes_the_rotation_busy_and_nothing_is_switched(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rotation, "SWITCH_ATTEMPTS", 2)
    old = place.only("active")
    async with place.open() as app, place.open() as other:
        async with a_write_that_takes_its_time(other, place, NEWER):
            error = await outcome(rotate(app))
            assert isinstance(error, Busy)
            assert error.exit_status == 75
            assert place.only("active") == old
            assert place.only("staged")
        assert (await rotate(app, finish=True)).action == "finished"
        await write(app, place, "after it", b"later")
        assert (await app.keys.verify()).bad == []


# — orchestrators that have not the new key —


@dataclasses.dataclass(frozen=True)
class Apart:
    """A second orchestrator's view of the source: a copy of the folder, which gets nothing by itself."""

    place: Place
    home: Path

    def settings(self) -> Settings:
        return self.place.settings(home=self.home)

    def deliver(self) -> None:
        shutil.copytree(self.place.folder, self.home / "secrets", dirs_exist_ok=True)


@pytest.fixture
def apart(place: Place, tmp_path: Path) -> Apart:
    apart = Apart(place, tmp_path / "apart")
    apart.deliver()
    return apart


@contextlib.asynccontextmanager
async def served(settings: Settings) -> AsyncIterator[tuple[App, httpx2.AsyncClient]]:
    """An orchestrator, and somebody who asks it."""
    async with open_app(settings, long_lived=True) as app:
        transport = httpx2.ASGITransport(Front(app, mcp_door(app).asgi))
        async with httpx2.AsyncClient(transport=transport, base_url=app.settings.url) as client:
            yield app, client


async def test_one_without_the_new_key_never_seals_under_the_old_one_and_fetches_it(
    place: Place, apart: Apart, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(held_keys, "REREAD_EVERY", 0.0)
    async with open_app(apart.settings()) as other:
        async with place.open() as app:
            new = (await rotate(app)).new_key_id
            secret = await write(app, place, NAME, NEWER)
            before = place.secrets()
            for _ in range(3):
                error = await outcome(write(other, place, "never", b"under the old key"))
                assert isinstance(error, Busy)
                assert (error.exit_status, error.reason) == (75, "key_not_here_yet")
            # Nor does it open what is sealed under it; the row is not called altered.
            refused = await outcome(opened(other, place, secret))
            # Nor could it record that it does: the new audit key is sealed under it as well.
            assert isinstance(refused, UnknownKey | Unavailable)
            assert new in refused.sentence
            assert refused.hint
            assert place.secrets() == before
            events = await app.events.newest(place.company, limit=50)
            assert "secret.tampered" not in {event["action"] for event in events}
        apart.deliver()
        assert await opened(other, place, secret) == NEWER
        await write(other, place, "now", b"under the new key")
        assert set(place.rows_by_key()) == {new}


async def test_a_write_right_after_a_rotation_elsewhere_is_busy_once_and_then_done(place: Place) -> None:
    async with place.open() as other:
        async with place.open() as app:
            new = (await rotate(app)).new_key_id
        error = await outcome(write(other, place, "soon", b"under the new key"))
        assert isinstance(error, Busy)
        assert error.reason == "key_not_here_yet"

        async def fetched() -> bool:
            return new in other.held.ring

        await until(fetched)
        await write(other, place, "soon", b"under the new key")
        assert set(place.rows_by_key()) == {new}


async def test_a_row_under_a_key_that_is_new_opens_after_one_look_at_the_source(place: Place) -> None:
    async with place.open() as other:
        source, reread = Watched(place), other.held.reread

        async def counted() -> object:
            source.calls.append("reread")
            return await reread()

        other.held.reread = counted  # type: ignore[assignment]
        async with place.open() as app:
            await rotate(app)
        secrets = list(place.values)
        values = await asyncio.gather(*(opened(other, place, secret) for secret in secrets[:8]))
        assert values == [place.values[secret] for secret in secrets[:8]]
        assert source.calls == ["reread"]


async def test_an_orchestrator_that_cannot_get_the_new_key_holds_the_switch_up_and_says_so(
    place: Place, apart: Apart, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rotation, "CONFIRM_TIME", 1.0)
    old = place.only("active")
    async with place.open() as app, served(apart.settings()) as (other, client):
        assert (await client.get("/readyz")).status_code == 200
        error = await outcome(rotate(app))
        assert isinstance(error, Unavailable)
        assert (error.exit_status, error.reason) == (69, "key_not_confirmed")
        assert "nothing was switched" in error.hint
        assert place.only("active") == old
        staged = place.only("staged")
        assert set(place.rows_by_key()) == {old}

        async def says_why() -> bool:
            answer = await client.get("/readyz")
            return answer.status_code == 503 and f"the key {staged} is not in the key source" in answer.text

        await until(says_why)
        [replica] = (await app.keys.status()).replicas
        assert staged in replica.problem
        # What it has goes on being served.
        await nothing_is_lost(place, other)
        again = await outcome(rotate(app, finish=True))
        assert isinstance(again, Unavailable)
        assert staged in again.sentence
        # It gets the key, and is well again by itself.
        apart.deliver()

        async def is_well() -> bool:
            return (await client.get("/readyz")).status_code == 200

        await until(is_well)
        assert (await rotate(app, finish=True)).new_key_id == staged
        await nothing_is_lost(place, other)


async def test_an_orchestrator_that_is_gone_is_not_waited_for(
    place: Place, apart: Apart, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rotation, "CONFIRM_TIME", 0.5)
    async with place.open() as app:
        async with open_app(apart.settings(), long_lived=True):
            assert isinstance(await outcome(rotate(app)), Unavailable)
        assert (await rotate(app)).action == "finished"
        # One that was killed says no good-bye: it has been silent for long enough.
        place.sql(
            "INSERT INTO replicas (id, host, process, version, key_ids, seen_at)"
            " VALUES (gen_random_uuid(), 'a host', 1, '0', '{}', now() - interval '20 seconds')"
        )
        assert (await rotate(app)).action == "rotated"
