"""
What many tests stand on: one instance per test process, on a real embedded Postgres; every test makes
companies of its own in it.
"""

from __future__ import annotations

import contextlib
import shutil
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest
import structlog

from company_agents.app import App, open_app
from company_agents.identity.directory import Company
from company_agents.identity.permissions import Kind
from company_agents.identity.principal import Caller, Principal, Via
from company_agents.settings import Settings, read_settings

LOCAL = Principal(Kind.LOCAL, "tester", Via.CLI)

# Without this a logged exception comes with every local variable of its frames, drawn: minutes, with an instance in them.
structlog.configure(
    processors=[
        structlog.processors.add_log_level,
        structlog.dev.ConsoleRenderer(colors=False, exception_formatter=structlog.dev.plain_traceback),
    ]
)


@dataclass(frozen=True)
class Tenant:
    """A company of a test: the operator's view of it, and one agent with its token."""

    company: Company
    local: Caller
    agent: Caller
    token: str


def new_settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """Of an instance in a home of its own."""
    home: Path = tmp_path_factory.mktemp("instance") / "home"
    # No orchestrator that another test has left open takes the runs of a test: that has one of its own for them.
    return read_settings(home=home, database_url=None, master_key_path=None, master_key_source=None, runs=0)


@contextlib.asynccontextmanager
async def opened(settings: Settings) -> AsyncIterator[App]:
    """The instance, which leaves nothing behind."""
    async with open_app(settings) as app:
        yield app
    # As root the embedded database keeps its files in a system folder, which is not pytest's to remove.
    if (settings.home / "db").is_symlink():
        remove((settings.home / "db").resolve())


@pytest.fixture(scope="session")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    return new_settings(tmp_path_factory)


@pytest.fixture(scope="session")
async def app(settings: Settings) -> AsyncIterator[App]:
    async with opened(settings) as found:
        yield found


def write_provider_files(home: Path, files: Mapping[str, str]) -> Path:
    """Drop provider files into a home, and return their folder."""
    folder = home / "providers"
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    for name, text in files.items():
        (folder / f"{name}.toml").write_text(text)
        (folder / f"{name}.toml").chmod(0o600)
    return folder


@contextlib.contextmanager
def provider_files(home: Path, files: Mapping[str, str]) -> Iterator[Path]:
    """The same for a while: other tests of this process have others there."""
    folder = write_provider_files(home, files)
    yield folder
    for name in files:
        (folder / f"{name}.toml").unlink(missing_ok=True)
    with contextlib.suppress(OSError):
        folder.rmdir()


def remove(folder: Path) -> None:
    """Remove a folder that a stopping server may still write to: again until it is gone, for a few seconds."""
    for _ in range(100):
        shutil.rmtree(folder, ignore_errors=True)
        if not folder.exists():
            return
        time.sleep(0.05)


@pytest.fixture(scope="session")
def tenant(app: App) -> Callable[[], Awaitable[Tenant]]:
    return tenants(app)


def tenants(app: App) -> Callable[[], Awaitable[Tenant]]:
    """Makes a new company with one agent, as often as it is called."""

    async def make() -> Tenant:
        company = await app.companies.create(LOCAL, f"company {uuid.uuid4().hex[:12]}")
        local = await app.identity.in_company(LOCAL, company.id)
        _, token = await app.agents.create(local, "ann")
        return Tenant(company, local, await app.identity.agent(token.reveal_text()), token.reveal_text())

    return make
