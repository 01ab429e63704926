"""
What the first member of an archive says: of what it is, which keys open it, and what else has to be in it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
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
KNOWN_STATES = ("staged", "active", "retiring", "archived", "destroying")
TABLES = "tables/"
# No count or sum here comes near to it, and Postgres takes it.
_MOST = 2**62
# A row of Postgres has no more columns; of keys, members and what a text has, the front holds fewer.
_MOST_COLUMNS, _MOST_NAMED, _LONGEST = 1600, 10_000, 1000
# Python holds each of these in every zone: a clock that is wrong is not to make a table that nobody can read.
_YEARS = range(1970, 9999)
_KEY_ID = re.compile("[0-9a-f]{16}")
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
    keys = [key.key_id for key in manifest.keys]
    rows = [member.rows for member in manifest.members]
    sizes = [member.bytes for member in manifest.members]
    sealed = [key.rows for key in manifest.keys]
    counts = [manifest.schema.step, *manifest.sequences.values(), *rows, *sizes, *sealed]
    return (
        max(len(names), len(keys), len(manifest.ring), len(manifest.sequences)) <= _MOST_NAMED
        and len(set(names)) == len(names)
        and len(set(keys)) == len(keys)
        and all(0 <= count <= _MOST for count in counts)
        and max(map(sum, (rows, sizes, sealed))) <= _MOST
        and all(map(_possible, manifest.members))
        and all(map(_possible_key, manifest.keys))
        and all(map(_KEY_ID.fullmatch, manifest.ring))
        and _texts((manifest.product, manifest.company_name, manifest.schema.checksum, *manifest.sequences))
        and _times((manifest.taken_at,))
    )


def _possible(member: Member) -> bool:
    if len(member.columns) > _MOST_COLUMNS or len(set(member.columns)) != len(member.columns):
        return False
    if member.name.startswith(TABLES) and not member.columns:
        return False
    # No piece is empty, but for the one of an empty member.
    pieces = 1 <= member.pieces <= max(1, member.bytes)
    return pieces and _texts((member.name, member.sha256, *member.columns))


def _possible_key(key: KeyNeed) -> bool:
    # A damaged row may name anything as its key, and that is said as it is.
    known = key.state in (*KNOWN_STATES, DESTROYED) and _KEY_ID.fullmatch(key.key_id) is not None
    times = (key.created_at, key.activated_at, key.archived_at)
    return (known or (key.state == UNKNOWN and _texts((key.key_id,)))) and _times(times)


def _texts(texts: Iterable[str]) -> bool:
    return all(len(text) <= _LONGEST and "\0" not in text for text in texts)


def _times(times: Iterable[datetime | None]) -> bool:
    return all(at is None or (at.tzinfo is not None and at.year in _YEARS) for at in times)
