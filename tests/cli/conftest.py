"""
Homes of commands.
"""

from __future__ import annotations

import dataclasses
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.processes import Machine, Up, machine_in, ordinary_program, ordinary_user
from tests.database.processes import NOBODY, ROOT, clean


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    """A home for the tests of a file."""
    with machine_in(tmp_path_factory.mktemp("machine")) as machine:
        yield machine


@pytest.fixture(scope="module")
def up(machine: Machine) -> Iterator[Up]:
    """One orchestrator on it, for the tests that only ask."""
    with machine.up() as up:
        yield up
        up.stop()


@pytest.fixture(scope="module")
def ordinary_machine() -> Iterator[Machine]:
    """The machine of an ordinary user, with a home below their own HOME."""
    program = ordinary_program()
    if program is None:
        pytest.skip("no interpreter here that an ordinary user can run")
    folder = Path(tempfile.mkdtemp(prefix="ordinary-"))
    if ROOT:
        shutil.chown(folder, NOBODY, NOBODY)
    machine = Machine(folder / "instances" / "default", program=program, user=ordinary_user())
    machine = dataclasses.replace(machine, more={"HOME": str(folder)})
    yield machine
    clean(machine.home)
    shutil.rmtree(folder, ignore_errors=True)
