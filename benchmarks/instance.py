"""
A throw-away instance to measure on.
"""

from __future__ import annotations

import contextlib
import shutil
import tempfile
import time
from collections.abc import AsyncIterator
from pathlib import Path

from company_agents.app import App, open_app
from company_agents.identity.permissions import Kind
from company_agents.identity.principal import Principal, Via
from company_agents.settings import read_settings

LOCAL = Principal(Kind.LOCAL, "bench", Via.CLI)


@contextlib.contextmanager
def throwaway_home():
    """A home that is gone afterwards, with what the embedded database keeps elsewhere."""
    folder = Path(tempfile.mkdtemp(prefix="company-agents-bench-"))
    home = folder / "home"
    try:
        yield home
    finally:
        elsewhere = (home / "db").resolve() if (home / "db").is_symlink() else None
        shutil.rmtree(folder, ignore_errors=True)
        # The server may still be stopping.
        for _ in range(100):
            if elsewhere is None or not elsewhere.exists():
                break
            shutil.rmtree(elsewhere, ignore_errors=True)
            time.sleep(0.05)


@contextlib.asynccontextmanager
async def opened_app() -> AsyncIterator[App]:
    """An opened instance on a throw-away home."""
    with throwaway_home() as home:
        async with open_app(read_settings(home=home)) as app:
            yield app
