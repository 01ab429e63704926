"""
What the first member of an archive says: of what it is, which keys open it, and what else has to be in it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import ClassVar
from uuid import UUID

from pydantic import ConfigDict, TypeAdapter, ValidationError

from company_agents.errors import Refused, WrongUsage

FORMAT = 1
INSTANCE, COMPANY = "instance", "company"
# Staged ones too: between a backup and its restore one may have become active.
NEEDED_STATES = ("active", "retiring", "staged")
# Of a key that no longer was when the backup was taken: a row that names one did not open then either.
DESTROYED, UNKNOWN = "destroyed", "unknown"
TABLES = "tables/"
# No count here comes near to it, and Postgres takes it.
_MOST = 2**62
# What this program does not know, it does not pass over: a later format has another number.
_EXACTLY = ConfigDict(extra="forbid")


class Broken(WrongUsage):
    """this is no whole backup"""

    code = "backup_broken"


class Newer(Refused):
    """a backup of a newer version"""

    code = "backup_newer"


def broken(what: str) -> Broken:
    """For an archive that is not as it was written; nothing was changed because of it."""
    return Broken(
        f"the backup is not whole: {what}", hint="nothing was changed; take another copy of it, or another backup"
    )


@dataclass(frozen=True, slots=True)
class KeyNeed:
    """A master key as it was when the backup was taken, and how many of its secrets that key opens."""

    __pydantic_config__: ClassVar[ConfigDict] = _EXACTLY

    key_id: str
    state: str
    rows: int
    created_at: datetime
    activated_at: datetime | None = None
    archived_at: datetime | None = None

    @property
    def needed(self) -> bool:
        """Whether the backup cannot be used without it."""
        return self.known and (self.rows > 0 or self.state in NEEDED_STATES)

    @property
    def known(self) -> bool:
        """Whether the instance had it when the backup was taken."""
        return self.state not in (DESTROYED, UNKNOWN)

    @property
    def when(self) -> str:
        """When it was the active one, in words."""
        if self.activated_at is None:
            return "it was never active"
        end = f" to {self.archived_at:%Y-%m-%d}" if self.archived_at else " until the backup was taken"
        return f"it was active from {self.activated_at:%Y-%m-%d}{end}"


@dataclass(frozen=True, slots=True)
class Member:
    """A member, in pieces: what they are together. `columns` are a table's, in the order of its rows."""

    __pydantic_config__: ClassVar[ConfigDict] = _EXACTLY

    name: str
    pieces: int
    bytes: int
    sha256: str
    rows: int = 0
    columns: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Schema:
    """The last step of the schema, and one checksum over all of its steps (SHA-256, hex)."""

    __pydantic_config__: ClassVar[ConfigDict] = _EXACTLY

    step: int
    checksum: str


@dataclass(frozen=True, slots=True)
class Manifest:
    """Times are UTC. `ring` are the ids of the keys that lie in the archive, wrapped by a passphrase."""

    __pydantic_config__: ClassVar[ConfigDict] = _EXACTLY

    format: int
    kind: str
    id: UUID
    product: str
    instance: UUID
    taken_at: datetime
    schema: Schema
    keys: tuple[KeyNeed, ...]
    members: tuple[Member, ...]
    ring: tuple[str, ...] = ()
    company: UUID | None = None
    company_name: str = ""
    sequences: Mapping[str, int] = field(default_factory=dict)

    @property
    def needed_keys(self) -> tuple[KeyNeed, ...]:
        """The keys without which it does not open."""
        return tuple(key for key in self.keys if key.needed)

    @property
    def rows(self) -> int:
        """The rows of all of its tables."""
        return sum(member.rows for member in self.members)

    @property
    def secrets(self) -> int:
        """How many sealed secrets there are."""
        return sum(key.rows for key in self.keys)

    def member(self, name: str) -> Member | None:
        """A member by its name."""
        return next((member for member in self.members if member.name == name), None)

    def text(self) -> bytes:
        """As it stands in the archive: JSON in UTF-8."""
        return json.dumps(_ADAPTER.dump_python(self, mode="json"), indent=1).encode()


_ADAPTER = TypeAdapter(Manifest)


def read_manifest(text: bytes) -> Manifest:
    """
    Raises:
        Broken: it is none.
        Newer: it is of a later format.
    """
    try:
        found = json.loads(text)["format"]
    except (ValueError, KeyError, TypeError, RecursionError):
        raise broken("its manifest cannot be read") from None
    if isinstance(found, int) and found > FORMAT:
        raise Newer(
            f"the backup has the format {found}, and this program knows the formats up to {FORMAT}",
            hint="restore it with the version that made it, or a newer one",
        )
    try:
        manifest = _ADAPTER.validate_json(text, strict=True)
    except ValidationError:
        raise broken("its manifest does not say what a manifest has to say") from None
    if manifest.format != FORMAT or manifest.kind not in (INSTANCE, COMPANY) or not _agrees(manifest):
        raise broken("its manifest contradicts itself")
    return manifest


def _agrees(manifest: Manifest) -> bool:
    names = [member.name for member in manifest.members]
    counts = [manifest.schema.step, *manifest.sequences.values(), *(key.rows for key in manifest.keys)]
    counts += [count for member in manifest.members for count in (member.rows, member.bytes)]
    return (
        len(set(names)) == len(names)
        and all(0 <= count <= _MOST for count in counts)
        and all(map(_possible, manifest.members))
    )


def _possible(member: Member) -> bool:
    columns = len(set(member.columns)) == len(member.columns)
    if member.name.startswith(TABLES) and not member.columns:
        return False
    # No piece is empty, but for the one of an empty member.
    return columns and 1 <= member.pieces <= max(1, member.bytes)
