"""
What a key source can do, and which kinds there are.

A source only ever adds keys, each at an address that contains its key id. It never moves or overwrites one; only
`destroy` takes one away. Which key is active is decided by the database: `current` is a hint for people.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from company_agents.crypto.keyring import MasterKey
from company_agents.errors import MayNotStart
from company_agents.keysources.file import FileSource
from company_agents.keysources.found import Found
from company_agents.settings import Settings


class KeySource(Protocol):
    """
    Four verbs over one place that keeps master keys.

    Raises of all four:
        MayNotStart: the source, or a key in it, may not be used as it is.
    """

    address: str
    """The address, safe to show."""

    async def read(self) -> Found:
        """Every key by its id, and the hint."""

    async def add(self, key: MasterKey) -> None:
        """Add a key beside the others, whole or not at all; adding one that is there changes nothing."""

    async def make_current(self, key_id: str) -> None:
        """Let the hint name a key that was added."""

    async def destroy(self, key_id: str) -> None:
        """Take a key away for good; one that is not there is no error."""


KINDS: dict[str, Callable[[str, Path], KeySource]] = {
    "file": FileSource.at,
}


def open_source(settings: Settings) -> KeySource:
    """
    The key source that the settings name; the file of the guide when they name none.

    Raises:
        MayNotStart: `MASTER_KEY_PATH` and `MASTER_KEY_SOURCE` differ, or the scheme is unknown.
    """
    path, address = settings.master_key_path, settings.master_key_source
    source = address.get_secret_value() if address else None
    if path:
        named = f"file://{Path(path).expanduser().absolute()}"
        if source is not None and _file_address(source, settings.home) != named:
            raise MayNotStart(
                "MASTER_KEY_PATH and MASTER_KEY_SOURCE name different places",
                hint="set one of the two",
                code="key_settings_conflict",
            )
        source = named
    scheme, separator, rest = (source or "file://secrets/master.key").partition("://")
    kind = KINDS.get(scheme)
    if not separator or kind is None or not rest:
        raise MayNotStart(
            "the scheme of MASTER_KEY_SOURCE is not known",
            hint=f"it may be {', '.join(name + '://' for name in KINDS)}",
            code="key_source_unknown",
        )
    return kind(rest, settings.home)


def _file_address(source: str, home: Path) -> str:
    scheme, _, rest = source.partition("://")
    return f"file://{(home / Path(rest).expanduser()).absolute()}" if scheme == "file" else source
