"""
What a key source can do, and which kinds there are.

A source only ever adds keys, each at an address that contains its key id. It never moves or overwrites one; only
`destroy` takes one away. Which key is active is decided by the database: `current` is a hint for people.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Protocol
from uuid import UUID

from company_agents.crypto.keyring import MasterKey
from company_agents.errors import MayNotStart
from company_agents.keysources.env import EnvSource
from company_agents.keysources.failures import needs_extra
from company_agents.keysources.file import FileSource
from company_agents.keysources.found import Found
from company_agents.settings import Settings


class KeySource(Protocol):
    """
    One place that keeps master keys. A write takes what was read before: where the source can compare, it writes
    only if nothing was changed since (`SourceChanged`). Each write is whole or not at all, is on the disk of the source
    when it returns, and changes nothing when it is done a second time.

    Raises of everything here:
        MayNotStart: the source, or a key in it, may not be used as it is.
        SourceUnavailable: it cannot be reached.
    and of the writes:
        SourceReadOnly: it may be read only.
        SourceChanged: somebody else wrote to it meanwhile.
    """

    address: str
    """The address, safe to show."""

    claims_alone: bool
    """Whether `claim` is exclusive: of two instances, one wins. Where it is not, `key init` claims."""

    after_destroy: str
    """What remains of a key that was destroyed, as a sentence for people; empty: nothing."""

    async def read(self) -> Found:
        """Every key by its id, the hint, and whose the source is."""

    async def check_writable(self, seen: Found) -> None:
        """See whether keys can be added, without changing anything that counts."""

    async def claim(self, instance: UUID, seen: Found) -> None:
        """
        Note whose the source is. One that was another's when it was seen is taken over; one that becomes another's
        meanwhile raises `SourceChanged`.
        """

    async def add(self, key: MasterKey, seen: Found) -> None:
        """Add a key beside the others; adding one that is there changes nothing."""

    async def make_current(self, key_id: str, seen: Found) -> None:
        """Let the hint name a key that was added."""

    async def destroy(self, key_id: str, seen: Found) -> None:
        """Take a key away for good; one that is not there is no error."""


def _vault(rest: str, settings: Settings) -> KeySource:
    from company_agents.keysources.vault import VaultSource

    return VaultSource.at(rest, settings)


def _aws(rest: str, settings: Settings) -> KeySource:
    from company_agents.keysources.aws import AwsSource

    return AwsSource.at(rest, settings)


def _gcp(rest: str, settings: Settings) -> KeySource:
    from company_agents.keysources.gcp import GcpSource

    return GcpSource.at(rest, settings)


def _azure(rest: str, settings: Settings) -> KeySource:
    from company_agents.keysources.azure import AzureSource

    return AzureSource.at(rest, settings)


# By scheme: the extra that its client library comes with, and how it is made.
KINDS: dict[str, tuple[str, Callable[[str, Settings], KeySource]]] = {
    "file": ("", FileSource.at),
    "env": ("", EnvSource.at),
    "vault": ("vault", _vault),
    "aws-secretsmanager": ("aws", _aws),
    "gcp-secretmanager": ("gcp", _gcp),
    "azure-keyvault": ("azure", _azure),
}


def open_source(settings: Settings) -> KeySource:
    """
    The key source that the settings name; the file of the guide when they name none.

    Raises:
        MayNotStart: `MASTER_KEY_PATH` and `MASTER_KEY_SOURCE` differ, the scheme is unknown, the address is malformed,
            or a client library is missing.
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
    if not separator or scheme not in KINDS or not rest:
        raise MayNotStart(
            "the scheme of MASTER_KEY_SOURCE is not known",
            hint=f"it may be {', '.join(name + '://' for name in KINDS)}",
            code="key_source_unknown",
        )
    extra, make = KINDS[scheme]
    with needs_extra(extra):
        return make(rest, settings)


def _file_address(source: str, home: Path) -> str:
    scheme, _, rest = source.partition("://")
    return f"file://{(home / Path(rest).expanduser()).absolute()}" if scheme == "file" else source
