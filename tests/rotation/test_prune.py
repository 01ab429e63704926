"""
Which keys are destroyed, and which never; and a key that got out.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import shutil
import uuid
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from company_agents.app import App
from company_agents.errors import Busy, NotFound, Refused, Unavailable
from company_agents.identity.permissions import Role
from company_agents.keysources.failures import SourceUnavailable, unreachable
from company_agents.rotation.rotate import Rotated
from company_agents.sensitive import Sensitive
from tests.cli.processes import Machine
from tests.cli.warm import warm
from tests.conftest import LOCAL
from tests.dashboard.people import join, owner
from tests.outgoing.servers import reply, serve
from tests.rotation.place import (
    Place,
    Watched,
    caller,
    elsewhere,
    nothing_is_lost,
    outcome,
    rotate,
    whole,
    write,
)

OVER = "UPDATE master_keys SET ends_at = now() - interval '1 second' WHERE state = 'archived'"
BACKUP = "INSERT INTO backups (id, file, state, key_ids) VALUES (%(i)s, %(f)s, %(s)s, %(k)s)"
MOVE = "UPDATE secrets SET key_id = %(k)s WHERE name = 'secret 003'"


async def backup(app: App, file: str, state: str, *key_ids: str) -> None:
    """A backup, as the instance role registers one."""
    async with await app.store.db.logins.instance.connect() as connection:
        await connection.execute(
            BACKUP.encode(),
            {"i": uuid.uuid4(), "f": file, "s": state, "k": list(key_ids)},
        )


@contextlib.asynccontextmanager
async def making(app: App, file: str) -> AsyncIterator[None]:
    """A backup that is being made: its maker's session holds it."""
    given = {"i": uuid.uuid4(), "f": file, "s": "running", "k": []}
    async with await app.store.db.logins.instance.connect() as connection:
        await connection.execute(b"SELECT pg_advisory_lock(7301005, hashtext((%(i)s::uuid)::text))", given)
        await connection.execute(BACKUP.encode(), given)
        yield


async def kept(app: App, key_id: str, why: str, error: type[Exception] = Refused) -> None:
    """It is not destroyed: neither by its id nor by itself."""
    with pytest.raises(error, match=why):
        await app.pruner.prune(key_id, "tester")
    try:
        result = await app.pruner.prune(None, "tester")
    except Busy:
        return
    assert result.destroyed == []


async def rotated(app: App, place: Place) -> str:
    """The old key of a rotation, whose time is over."""
    result = await rotate(app)
    assert result.old_key_id is not None
    place.sql(OVER)
    return result.old_key_id


async def test_a_key_is_kept_while_anything_needs_it_and_destroyed_when_nothing_does(place: Place) -> None:
    async with place.open() as app:
        result = await rotate(app)
        old, active = result.old_key_id, result.new_key_id
        assert old is not None
        await kept(app, old, "its grace period ends")
        await kept(app, active, "it is active")
        place.sql(OVER)
        place.sql(MOVE, k=old)
        await kept(app, old, "1 secret needs it")
        place.sql(MOVE, k=active)
        await backup(app, "monday.cab", "whole", active, old)
        await kept(app, old, "the backup monday.cab needs it")
        async with making(app, "tuesday.cab"):
            await kept(app, old, "a backup is being made", Busy)
        place.sql("UPDATE backups SET state = 'gone'")
        with pytest.raises(NotFound):
            await app.pruner.prune("0123456789abcdef", "tester")
        assert place.kept() == {old, active}
        assert (await app.pruner.prune(None, "tester")).destroyed == [old]
        assert place.kept() == {active}
        assert place.states()[old] == "destroyed"
        assert old not in app.held.ring
        # Once more is no error.
        assert (await app.pruner.prune(old, "tester")).destroyed == []
        assert (await app.pruner.prune(None, "tester")).destroyed == []
    await whole(place)


async def test_one_that_comes_right_after_a_rotation_is_not_refused(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with place.open() as app, contextlib.AsyncExitStack() as stack:
        sessions = app.store.db.instance_session

        @contextlib.asynccontextmanager
        async def lingering() -> AsyncIterator[Any]:
            # As the server has them, which notices a moment later that they were closed.
            yield await stack.enter_async_context(sessions())

        monkeypatch.setattr(app.store.db, "instance_session", lingering)
        old = await rotated(app, place)
        assert (await app.pruner.prune(None, "tester")).destroyed == [old]
    await whole(place)


async def test_a_staged_or_a_retiring_key_is_never_pruned(place: Place) -> None:
    def stop_at(step: str) -> Callable[[str, int, int], None]:
        def say(now: str, done: int, total: int) -> None:
            if now == step:
                raise KeyboardInterrupt

        return say

    async with place.open() as app:
        for step, state in (("confirm", "staged"), ("rewrap", "retiring")):
            with pytest.raises(KeyboardInterrupt):
                await rotate(app, say=stop_at(step))
            place.sql(OVER)
            await kept(app, place.only(state), f"it is {state}")
        assert (await rotate(app, finish=True)).action == "finished"
    await whole(place)


def test_the_command_ends_with_the_status_of_its_refusal(place: Place) -> None:
    machine = Machine(place.home, more=place.variables)
    active = place.only("active")
    with warm(machine) as run:
        for words, status in (
            (("--id", active), 4),
            (("--id", "0123456789abcdef"), 3),
            (("--id", "no-key-id"), 2),
            (("--gone", active), 4),
        ):
            assert run("key", "prune", *words).status == status
    assert place.kept() == {active}


@pytest.mark.parametrize("moment", ["before", "after"])
async def test_a_prune_that_is_killed_around_the_destroying_is_resumed(place: Place, moment: str) -> None:
    async with place.open() as app:
        old = await rotated(app, place)
        source = Watched(place)

        async def dies() -> None:
            raise unreachable(source.address, ConnectionRefusedError())

        source.moments[f"{moment} destroy 1"] = dies
        pruner = dataclasses.replace(app.pruner, source=source)
        assert isinstance(await outcome(pruner.prune(None, "tester")), SourceUnavailable)
    assert place.states()[old] == "destroying"
    assert (old in place.kept()) is (moment == "before")
    # A start knows why it is missing, and does not bring it back.
    async with place.open() as app:
        await nothing_is_lost(place, app)
        assert place.states()[old] == "destroying"
        assert (await app.pruner.prune(None, "tester")).destroyed == [old]
    assert place.states()[old] == "destroyed"
    await whole(place)


async def test_where_the_place_of_backups_is_out_of_reach_what_is_known_counts(place: Place) -> None:
    async with place.open() as app:
        made = await app.backups.make("tester")
        old = await rotated(app, place)
        folder = place.home / "data" / "backups"
        shutil.move(folder, folder.with_name("away"))
        folder.write_text("no folder")
        with pytest.raises(Unavailable):
            await app.backups.look()
        await kept(app, old, f"the backup {made.file} needs it")
        place.sql("UPDATE backups SET state = 'gone'")
        assert (await app.pruner.prune(None, "tester")).destroyed == [old]
    await whole(place)


async def test_a_prune_that_was_overtaken_destroys_nothing(place: Place) -> None:
    async with place.open() as app:
        old = await rotated(app, place)
        source = Watched(place)

        async def overtakes() -> None:
            assert place.take_session() == 1
            place.sql("UPDATE key_fence SET number = number + 1, nonce = gen_random_uuid()")

        source.moments["after read 2"] = overtakes
        error = await outcome(dataclasses.replace(app.pruner, source=source).prune(None, "tester"))
        assert error is not None
        assert "destroy" not in source.calls
        assert old in place.kept()
    async with place.open() as app:
        assert (await app.pruner.prune(None, "tester")).destroyed == [old]


@pytest.mark.parametrize("what", ["a row", "a backup", "a running backup"])
async def test_what_comes_to_need_a_key_while_it_is_being_pruned_keeps_it(place: Place, what: str) -> None:
    async with place.open() as app:
        old = await rotated(app, place)
        source = Watched(place)

        async def comes() -> None:
            # The prune has looked, and has not begun to destroy.
            if what == "a row":
                place.sql(MOVE, k=old)
            else:
                await backup(app, "late.cab", *(("whole", old) if what == "a backup" else ("running",)))

        source.moments["after read 1"] = comes
        error = await outcome(dataclasses.replace(app.pruner, source=source).prune(None, "tester"))
        assert isinstance(error, Busy)
        assert place.states()[old] == "archived"
        assert old in place.kept()
        assert "destroy" not in source.calls


async def test_a_backup_whose_maker_was_killed_keeps_no_key(place: Place) -> None:
    async with place.open() as app:
        old = await rotated(app, place)
        await backup(app, "killed.cab", "running")
        assert (await app.pruner.prune(None, "tester")).destroyed == [old]
        assert place.sql("SELECT state, problem FROM backups") == [
            {"state": "failed", "problem": "its maker was killed"}
        ]


# — a key that got out —


async def compromised(app: App, **more: Any) -> Rotated:
    return await rotate(app, compromised=True, **more)


async def names_to_reissue(app: App) -> set[str]:
    return {entry.name.partition("/")[0] for entry in await app.keys.to_reissue()}


async def test_a_compromised_key_is_destroyed_at_once_and_the_backups_that_die_with_it_are_named(place: Place) -> None:
    old = place.only("active")
    async with place.open() as app:
        await backup(app, "monday.cab", "whole", old)
        foreseen = await app.rotator.foresee(compromised=True, say=lambda step, done, total: None)
        assert foreseen.backups == ["monday.cab"]
        assert old in place.kept()
        result = await compromised(app)
        assert (result.old_key_id, result.destroyed, result.backups) == (old, True, ["monday.cab"])
        assert place.states()[old] == "destroyed"
        assert old not in place.kept()
        assert old not in app.held.ring
    await whole(place)


async def test_a_compromised_key_outlives_only_the_backup_that_is_being_made(place: Place) -> None:
    old = place.only("active")
    async with place.open() as app:
        async with making(app, "tuesday.cab"):
            error = await outcome(compromised(app))
            assert isinstance(error, Busy)
            assert "backup is being made" in error.sentence
            assert old in place.kept()
        place.sql("UPDATE backups SET state = 'whole', key_ids = %(k)s", k=[old])
        result = await rotate(app, finish=True)
        assert (result.old_key_id, result.destroyed, result.backups) == (old, True, ["tuesday.cab"])
    await whole(place)


async def test_a_compromise_is_carried_out_also_where_rows_are_under_an_older_key(place: Place) -> None:
    async with place.open() as app:
        dump, first = place.dump(), place.only("active")
        second = (await rotate(app)).new_key_id
        tables, seals = place.dump()
        place.restore(({**tables, "secrets": dump[0]["secrets"]}, seals))
        assert set(place.rows_by_key()) == {first}
        result = await compromised(app)
        assert (result.old_key_id, result.destroyed) == (second, True)
        assert set(place.rows_by_key()) == {result.new_key_id}
    await whole(place)


async def test_the_list_of_what_is_to_be_reissued_empties_as_that_is_done_and_not_by_rotating(place: Place) -> None:
    async with serve(reply(b"{}", content_type="application/json")) as provider, place.open() as app:
        here = await caller(app, place)
        integration = await app.integrations.connect(
            here, "generic", Sensitive("a-token-of-the-provider"), base_url=provider.url, allow_private_network=True
        )
        person = await owner(app)
        made, _ = await app.operators.create_token(LOCAL, "deploy", 30, Role.OWNER, person.operator.id)
        place.sql("DELETE FROM secrets WHERE name LIKE 'secret 0%'")
        assert await app.keys.to_reissue() == []
        await compromised(app)
        expected = {"integration", "agent_token", "operator_totp", "operator_token"}
        assert await names_to_reissue(app) == expected
        # Moving rows again, and once more, replaces nothing.
        await rotate(app)
        assert await names_to_reissue(app) == expected
        assert (await app.keys.status()).to_reissue == 4
        await app.integrations.rotate(here, integration.id, Sensitive("another-token-of-the-provider"))
        assert await names_to_reissue(app) == expected - {"integration"}
        await app.agents.rotate_token(here, place.agent)
        assert await names_to_reissue(app) == {"operator_totp", "operator_token"}
        await app.operators.revoke_token(LOCAL, made.id)
        assert await names_to_reissue(app) == {"operator_totp"}
        await join(app, await app.operators.link(LOCAL, person.operator.id), person.operator.name)
        assert await app.keys.to_reissue() == []


async def test_what_was_sealed_in_the_last_moment_under_a_key_that_got_out_is_on_the_list(place: Place) -> None:
    async with place.open() as app, place.open() as other:
        with place.connect() as past:
            # The switch has begun, and waits; a value is sealed under the old key after that.
            past.execute("BEGIN")

            def last_moment() -> None:
                async def put() -> None:
                    async with place.open() as third:
                        await write(third, place, "the last one", b"sealed under the old key")

                elsewhere(put)

            async def switch() -> Rotated:
                def say(step: str, done: int, total: int) -> None:
                    if step == "switch":
                        past.execute("SELECT 1 FROM key_fence FOR UPDATE")

                return await compromised(app, say=say)

            rotating = asyncio.create_task(switch())
            async with asyncio.timeout(30):
                while not await asyncio.to_thread(
                    place.sql, "SELECT pid FROM pg_locks WHERE NOT granted AND locktype IN ('tuple', 'transactionid')"
                ):
                    await asyncio.sleep(0.02)
            await asyncio.to_thread(last_moment)
            past.execute("COMMIT")
            result = await rotating
        assert result.destroyed
        assert "the last one" in {entry.name for entry in await other.keys.to_reissue()}
