"""
No secret is found anywhere: known values go into every secret field, the whole product is used, and then everything
that can be read is searched for them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from tests.cli.processes import machine_in
from tests.promises.canary import days, places
from tests.promises.canary.provider import echoing_slack
from tests.promises.canary.story import Story


@dataclass(frozen=True)
class Told:
    """What came of it: by kind of place, how much there was, and what was found."""

    story: Story
    bytes: dict[str, int]
    found: dict[str, list[str]]


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Told]:
    folder = tmp_path_factory.mktemp("canary")
    with machine_in(folder, COMPANY_AGENTS_LOG_LEVEL="debug") as machine, echoing_slack() as slack:
        story = Story(machine, slack)
        _told(story)
        home = machine.home
        story.canaries.plant("the master key", (home / "secrets" / "master.key").read_bytes())
        seen = {
            "doors": story.doors.said,
            "processes": story.seen,
            "tables": places.database(home),
            "database files": places.database_files(home),
            "home": places.home_files(home),
        }
        sizes: dict[str, int] = {}
        found: dict[str, list[str]] = {}
        for kind, kept in seen.items():
            sizes[kind], found[kind] = 0, []
            for place in kept:
                sizes[kind] += len(place.data)
                found[kind] += story.canaries.found(place)
        yield Told(story, sizes, found)


def _told(story: Story) -> None:
    with story.machine.up() as up:
        link = story.arrive(up)
        days.people(story, link)
        days.operator_tokens(story)
        days.agents(story)
        days.connecting(story)
        days.rotating(story)
        days.calling(story)
        story.look(up)
        assert up.stop() == 0
        story.leave(up)


@pytest.mark.parametrize("kind", ["doors", "processes", "tables", "database files", "home"])
def test_no_secret_is_found_in(told: Told, kind: str) -> None:
    assert told.bytes[kind] > 1000
    assert told.found[kind] == []
