"""
Homes with an embedded database in them, and their end.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from company_agents.db.embedded import Membership, join
from tests.database.processes import (
    clean,
    wait_stopped,
)


@pytest.fixture(scope="module")
def used_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    home = tmp_path_factory.mktemp("used") / "home"
    join(home).close()
    yield home
    clean(home)


@pytest.fixture
def home(used_home: Path) -> Iterator[Path]:
    """A home whose database was made before, and does not run."""
    wait_stopped(used_home)
    yield used_home
    wait_stopped(used_home)


@pytest.fixture
def fresh_home(tmp_path: Path) -> Iterator[Path]:
    home = tmp_path / "instances" / "default"
    yield home
    clean(home)


@pytest.fixture
def member(home: Path) -> Iterator[Membership]:
    with join(home) as member:
        yield member
