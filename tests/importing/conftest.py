"""
What the tests of imports stand on: a home with providers of its own, a stand-in for one of them, and a Vault.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.processes import Machine, Up, machine_in
from tests.cli.standin import StandIn, stand_in
from tests.cli.warm import Run, warm
from tests.importing.providers import ACME, INNER, NOTES, TOKEN
from tests.keysources.servers.openbao import ROOT_TOKEN, Bao, openbao


@pytest.fixture(scope="module", autouse=True)
def no_proxy() -> Iterator[None]:
    """Every server of these tests is on this machine."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NO_PROXY", "*")
        yield


@pytest.fixture(scope="module")
def bao(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bao]:
    with openbao(tmp_path_factory.mktemp("bao")) as bao:
        yield bao


@pytest.fixture(scope="module")
def machine(bao: Bao, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    more = {"VAULT_ADDR": bao.url, "VAULT_TOKEN": ROOT_TOKEN, "NO_PROXY": "*", "COMPANY_AGENTS_LOG_LEVEL": "debug"}
    with machine_in(tmp_path_factory.mktemp("machine"), **more) as machine:
        folder = machine.home / "providers"
        machine.home.mkdir(mode=0o700)
        folder.mkdir(mode=0o700)
        (folder / "acme.toml").write_text(ACME)
        (folder / "notes.toml").write_text(NOTES)
        (folder / "inner.toml").write_text(INNER)
        yield machine


@pytest.fixture(scope="module")
def up(machine: Machine) -> Iterator[Up]:
    """Holds the database, which each command would start anew."""
    with machine.up() as up:
        yield up
        up.stop()


@pytest.fixture(scope="module")
def run(machine: Machine, up: Up) -> Iterator[Run]:
    """Commands on a running instance."""
    with warm(machine) as run:
        yield run


@pytest.fixture
def company(run: Run) -> str:
    """A new company."""
    return str(run("company", "create", f"company {uuid.uuid4().hex[:12]}", "--json").json["id"])


@pytest.fixture(scope="module")
def _acme() -> Iterator[StandIn]:
    with stand_in() as found:
        yield found


@pytest.fixture
def acme(_acme: StandIn) -> StandIn:
    """The service of which the tests have tokens; it takes one."""
    _acme.token, _acme.answer = TOKEN, None
    _acme.seen.clear()
    return _acme


@pytest.fixture
def env_file(tmp_path: Path) -> Path:
    """A file with one token that Acme takes, as its owner alone may read it."""
    file = tmp_path / "app.env"
    file.write_text(f"# what the shop runs with\nexport ACME_TOKEN='{TOKEN}'\nDEBUG=1\n")
    file.chmod(0o600)
    return file
