"""
The kinds of key sources that the contract test goes through: one row each, by scheme.

To add a kind: write `place(folder)` in its module under `servers/`, as `place.py` describes, and add its row to `KINDS`.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from company_agents.crypto.keyring import MasterKey
from company_agents.settings import Settings, read_settings
from tests.keysources.place import MakePlace, settings_for
from tests.keysources.servers import azure, gcp, moto, openbao


class Files:
    """Folders of this machine."""

    compares = False
    empty = ""
    secrets: tuple[str, ...] = ()

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def settings(self) -> Settings:
        home = self._folder / uuid.uuid4().hex
        home.mkdir(mode=0o700)
        return settings_for(home, "file://secrets/master.key")

    async def put_by_hand(self, settings: Settings, key: MasterKey) -> Settings:
        path = settings.home / "secrets" / "master.key"
        path.parent.mkdir(mode=0o700, exist_ok=True)
        path.touch(mode=0o600)
        path.write_bytes(key.secret.reveal())
        return settings

    async def holds(self, settings: Settings, key: MasterKey) -> bool:
        return any(key.secret.reveal() in path.read_bytes() for path in settings.home.rglob("*") if path.is_file())

    def unreachable(self) -> None:
        return None


class Variables:
    """Variables of this process, set for as long as it takes to read them."""

    compares = False
    empty = "key_missing"
    secrets: tuple[str, ...] = ()

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def settings(self) -> Settings:
        return settings_for(self._folder, f"env://KEY_{uuid.uuid4().hex}")

    async def put_by_hand(self, settings: Settings, key: MasterKey) -> Settings:
        assert settings.master_key_source
        address = settings.master_key_source.get_secret_value()
        name = address.removeprefix("env://")
        os.environ[name] = key.secret.reveal().hex()
        try:
            return read_settings(home=self._folder, master_key_source=address)
        finally:
            del os.environ[name]

    async def holds(self, settings: Settings, key: MasterKey) -> bool:
        return settings.key_value is not None

    def unreachable(self) -> None:
        return None


@asynccontextmanager
async def files(folder: Path) -> AsyncIterator[Files]:
    yield Files(folder)


@asynccontextmanager
async def variables(folder: Path) -> AsyncIterator[Variables]:
    yield Variables(folder)


KINDS: dict[str, MakePlace] = {
    "file": files,
    "env": variables,
    "vault": openbao.place,
    "aws-secretsmanager": moto.place,
    "gcp-secretmanager": gcp.place,
    "azure-keyvault": azure.place,
}

READ_ONLY = {"env"}
"""The kinds that cannot be written."""

LOCAL = {"file", "env"}
"""The kinds that need no service, so that none can be out of reach."""
