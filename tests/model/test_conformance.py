"""
The model is that of the code: what a real rotation, prune or start does on a real database and a real key source is a way
through the model, step by step.
"""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from company_agents.app import App, init_key, open_app
from company_agents.crypto.keyring import MasterKey
from company_agents.rotation.start import unlock
from company_agents.settings import Settings, read_settings
from tests.conftest import remove
from tests.keysources.servers.openbao import openbao
from tests.model.record import Cut, Effect, recorded, refusal
from tests.model.world import Rules


class Subject:
    """An instance, whose commands are recorded."""

    def __init__(self, app: App, compares: bool) -> None:
        self.app, self.compares = app, compares

    async def run(self, role: str, work: Callable[[Any], Awaitable[Any]], cut: str = "") -> list[Effect]:
        """What came of a command; `cut`: it ended after that call of the source."""
        async with recorded(self.app, cut) as (source, effects):
            if cut:
                with pytest.raises(Cut):
                    await work(source)
            else:
                await work(source)
        return effects

    def rotate(self, cut: str = "", **how: bool) -> Awaitable[list[Effect]]:
        async def work(source: Any) -> None:
            how.setdefault("finish", False)
            how.setdefault("compromised", False)
            rotator = replace(self.app.rotator, source=source)
            await rotator.rotate(**how, who="tester", say=lambda step, done, total: None)

        return self.run("rotator", work, cut)

    def prune(self, cut: str = "") -> Awaitable[list[Effect]]:
        async def work(source: Any) -> None:
            await replace(self.app.pruner, source=source).prune(None, "tester")

        return self.run("pruner", work, cut)

    def start(self) -> Awaitable[list[Effect]]:
        async def work(source: Any) -> None:
            await unlock(self.app.store.db, source, self.app.instance.id)

        return self.run("start", work)

    async def time_is_over(self) -> None:
        async with self.app.store.db.instance_transaction() as tx:
            await tx._connection.execute("UPDATE master_keys SET ends_at = now() WHERE ends_at IS NOT NULL")

    def refusal(self, role: str, event: str, effects: list[Effect], rules: Rules | None = None) -> str:
        return refusal(role, event, effects, compares=self.compares, rules=rules)


@pytest.fixture(scope="module", params=["file", "vault"])
async def settings(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Settings]:
    home: Path = tmp_path_factory.mktemp("model") / "home"
    if request.param == "file":
        yield read_settings(home=home, database_url=None, master_key_path=None, master_key_source=None)
    else:
        with pytest.MonkeyPatch.context() as patch, openbao(tmp_path_factory.mktemp("bao")) as bao:
            patch.setenv("NO_PROXY", "*")
            there = bao.settings().model_copy(update={"home": home, "database_url": None})
            await init_key(there, adopt=False, take_over=False)
            yield there
    if (home / "db").is_symlink():
        remove((home / "db").resolve())


@pytest.fixture(scope="module")
async def opened(settings: Settings) -> AsyncIterator[App]:
    async with open_app(settings) as app:
        yield app


@pytest.fixture
async def subject(opened: App, settings: Settings) -> Subject:
    """The instance, once what was left of a rotation before is done."""
    await opened.rotator.rotate(finish=True, compromised=False, who="tester", say=lambda step, done, total: None)
    subject = Subject(opened, compares=bool(settings.vault_addr))
    await subject.time_is_over()
    await opened.pruner.prune(None, "tester")
    return subject


def kinds(effects: list[Effect]) -> list[str]:
    """The effects that changed something."""
    return [after.kind for before, after in itertools.pairwise(effects) if after.seen != before.seen]


async def test_a_rotation_is_a_way_through_the_model(subject: Subject) -> None:
    effects = await subject.rotate()
    assert kinds(effects) == ["add", "commit", "commit", "commit", "hint", "commit"]
    assert subject.refusal("rotator", "rotate", effects) == ""


async def test_a_prune_is_a_way_through_the_model(subject: Subject) -> None:
    await subject.rotate()
    await subject.time_is_over()
    effects = await subject.prune()
    assert kinds(effects) == ["commit", "destroy", "commit"]
    assert subject.refusal("pruner", "prune", effects) == ""


async def test_a_rotation_of_a_key_that_leaked_is_a_way_through_the_model(subject: Subject) -> None:
    effects = await subject.rotate(compromised=True)
    assert kinds(effects)[-3:] == ["commit", "destroy", "commit"]
    assert subject.refusal("rotator", "compromise", effects) == ""


@pytest.mark.parametrize("cut", ["add", "hint", "destroy"])
async def test_what_was_cut_off_is_finished_on_a_way_through_the_model(subject: Subject, cut: str) -> None:
    await subject.rotate(cut, compromised=cut == "destroy")
    start = await subject.start()
    assert subject.refusal("start", "start", start) == ""
    assert kinds(start) == (["commit"] if cut == "add" else [])
    effects = await subject.rotate()
    assert effects[0].seen != effects[-1].seen
    assert subject.refusal("rotator", "rotate", effects) == ""


async def test_a_prune_that_was_cut_off_is_finished_on_a_way_through_the_model(subject: Subject) -> None:
    await subject.rotate()
    await subject.time_is_over()
    await subject.prune("destroy")
    effects = await subject.prune()
    assert kinds(effects) == ["commit"]
    assert subject.refusal("pruner", "prune", effects) == ""


async def test_a_start_that_finds_another_hint_is_a_way_through_the_model(subject: Subject) -> None:
    source, other = subject.app.rotator.source, MasterKey.generate()
    await source.add(other, await source.read())
    await source.make_current(other.key_id, await source.read())
    effects = await subject.start()
    assert kinds(effects) == ["hint", "commit"]
    assert subject.refusal("start", "start", effects) == ""


async def test_a_way_of_which_a_step_is_left_out_is_none_through_the_model(subject: Subject) -> None:
    rotation = await subject.rotate()
    await subject.time_is_over()
    prune = await subject.prune()
    for role, event, effects in (("rotator", "rotate", rotation), ("pruner", "prune", prune)):
        assert subject.refusal(role, event, effects) == ""
        for number in range(1, len(effects)):
            before, after = effects[number - 1], effects[number]
            if before.seen != after.seen:
                assert subject.refusal(role, event, [effect for effect in effects if effect.seen != after.seen])
            if after.kind in ("add", "hint", "destroy"):
                # Without the look at the fence right before it.
                assert (effects[number - 2].kind, before.kind) == ("read", "commit")
                assert subject.refusal(role, event, effects[: number - 1] + effects[number:])
            if after.kind in ("add", "destroy"):
                # With the look at the source after that at the fence. (For the hint it is read twice before.)
                swapped = [effects[number - 1], effects[number - 2]]
                assert subject.refusal(role, event, effects[: number - 2] + swapped + effects[number:])
    # Nor is the real way one through a model of other rules.
    assert subject.refusal("rotator", "rotate", rotation, Rules(read_before_check=False))
    assert subject.refusal("rotator", "rotate", rotation, Rules(read_back=False)) == ""
    assert subject.refusal("pruner", "prune", prune, Rules(mark_before_destroy=False))
