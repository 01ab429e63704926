"""
What the contract test needs of a kind of key source: a real place to keep keys in, and an operator's hand there.

A kind's server module has a `place`: an async context manager that takes a folder for its files, starts what is
needed, yields a `Place` and ends it again. `kinds.py` is the table of them. `servers/openbao.py` is an example.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any, Protocol

from pydantic import SecretStr

from company_agents.crypto.keyring import MasterKey
from company_agents.settings import Settings, read_settings


class Place(Protocol):
    """A service that keeps keys, and what an operator does there without us."""

    compares: bool
    """Whether a write against an old `seen` raises `SourceChanged`; else it must change nothing wrongly."""

    empty: str
    """The reason of the refusal to read an empty place; "": it reads as an empty `Found`."""

    secrets: tuple[str, ...]
    """Passwords, tokens and the like of `settings()` and `unreachable()`, which no address or error may show."""

    def settings(self) -> Settings:
        """Settings that name a fresh empty place, another one at each call."""

    async def put_by_hand(self, settings: Settings, key: MasterKey) -> Settings:
        """Place a bare key where the operator's guide says, without our code; the settings to go on with."""

    async def holds(self, settings: Settings, key: MasterKey) -> bool:
        """Whether anything of that place still gives the key to one who may read there, old versions too."""

    def unreachable(self) -> tuple[Settings, str] | None:
        """Settings of a service that nobody serves, and the reason expected; None: a kind in `LOCAL`."""


MakePlace = Callable[[Path], AbstractAsyncContextManager[Place]]


def settings_for(home: Path, address: str, **given: Any) -> Settings:
    """Settings with this address as `MASTER_KEY_SOURCE`; `given` by the names of the fields of `Settings`."""
    read = read_settings(home=home)
    return read.model_copy(update={"master_key_path": None, "master_key_source": SecretStr(address), **given})


def free_port() -> int:
    """A port of 127.0.0.1 that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
