"""
What there is to know about the master key: its states, who holds it, and whether it opens everything.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from company_agents.crypto.batch import BadRow
from company_agents.crypto.cipher import SEALS_LIMIT, SEALS_URGE_ROTATION
from company_agents.db.database import Database
from company_agents.keysources.base import KeySource
from company_agents.rotation.replica import ALIVE
from company_agents.rotation.rewrap import Progress, open_all
from company_agents.secret_store.keys import HeldKeys


@dataclass(frozen=True, slots=True)
class KeyState:
    """One master key. `backups` are the files that need it."""

    key_id: str
    state: str
    source: str
    created_at: datetime
    activated_at: datetime | None
    archived_at: datetime | None
    ends_at: datetime | None
    compromised_at: datetime | None
    rewrapped: int
    seals: int
    rows: int
    in_ring: bool
    backups: list[str]


@dataclass(frozen=True, slots=True)
class ReplicaState:
    """One orchestrator: the keys that it holds, and what keeps it from one that it should hold."""

    id: UUID
    host: str
    process: int
    version: str
    key_ids: list[str]
    problem: str
    started_at: datetime
    seen_at: datetime
    alive: bool


@dataclass(frozen=True, slots=True)
class Underway:
    """A rotation or pruning that runs now, or was left unfinished (`running` says which)."""

    running: bool
    step: str
    done: int
    total: int
    started_at: datetime | None


@dataclass(frozen=True, slots=True)
class ToReissue:
    """
    A secret that was sealed under a key that got out, and has not been replaced since; `command` replaces it.
    """

    id: UUID
    company_id: UUID | None
    company: str | None
    name: str
    command: str


@dataclass(frozen=True, slots=True)
class KeyStatus:
    """The source and every key of the instance. `old` means that the active key has outlived its period (days)."""

    source: str
    keys: list[KeyState]
    replicas: list[ReplicaState]
    underway: Underway | None
    to_reissue: int
    age_days: int
    period_days: int
    seals_limit: int = SEALS_LIMIT
    seals_urge_rotation: int = SEALS_URGE_ROTATION

    @property
    def active(self) -> KeyState:
        """The key that seals."""
        return next(key for key in self.keys if key.state == "active")

    @property
    def active_key_id(self) -> str:
        """Its id."""
        return self.active.key_id

    @property
    def old(self) -> bool:
        """Whether its rotation is due."""
        return self.age_days >= self.period_days

    @property
    def worn(self) -> bool:
        """Whether it has sealed half of what is safe."""
        return self.active.seals >= self.seals_urge_rotation


@dataclass(frozen=True, slots=True)
class KeysVerified:
    """How many secrets were opened, and those that were not."""

    opened: int
    bad: list[BadRow]


@dataclass(frozen=True)
class Keys:
    """The master key, looked at. For the command line and for owners; it shows no key."""

    db: Database
    source: KeySource
    held: HeldKeys
    period: int

    async def status(self, *, counted: bool = True) -> KeyStatus:
        """Every registered key, with the rows that it seals; not `counted`, which takes as long as there are rows: 0."""
        async with self.db.instance_transaction() as tx:
            rows = {row["key_id"]: row["rows"] for row in await tx.all("secrets_by_key")} if counted else {}
            registered: list[dict[str, Any]] = await tx.all("master_keys_list")
            backups = [row for row in await tx.all("backups_list") if row["state"] != "gone"]
            replicas = [ReplicaState(**row) for row in await tx.all("replicas_list", alive=ALIVE)]
            fence = await tx.one("fence_show")
        states = [
            KeyState(
                **{name: value for name, value in row.items() if name != "recorded"},
                rows=rows.get(row["key_id"], 0),
                in_ring=row["key_id"] in self.held.ring,
                backups=[backup["file"] for backup in backups if row["key_id"] in backup["key_ids"]],
            )
            for row in registered
        ]
        active = next(key for key in states if key.state == "active")
        since = active.activated_at or active.created_at
        begun = any(key.state in ("staged", "retiring", "destroying") for key in states)
        assert fence is not None
        underway = None
        if fence["held"] or begun:
            underway = Underway(fence["held"], fence["step"], fence["done"], fence["total"], fence["started_at"])
        return KeyStatus(
            self.source.address,
            states,
            [replica for replica in replicas if replica.alive],
            underway,
            len(await self.to_reissue()),
            (datetime.now(UTC) - since) // timedelta(days=1),
            self.period,
        )

    async def verify(self, say: Progress = lambda step, done, total: None) -> KeysVerified:
        """Open every secret, in memory, and forget it."""
        rows, bad = await open_all(self.db, (await self.source.read()).ring, say)
        return KeysVerified(rows - len(bad), bad)

    async def to_reissue(self) -> list[ToReissue]:
        """What is still to be replaced because a key got out; the list empties as that is done."""
        async with self.db.instance_transaction() as tx:
            registered = await tx.all("master_keys_list")
            moments = [row["compromised_at"] for row in registered if row["compromised_at"]]
            if not moments:
                return []
            rows = await tx.all("secrets_before", moment=max(moments))
        return [ToReissue(row["id"], row["company_id"], row["company"], row["name"], _command(row)) for row in rows]


def _command(row: dict[str, Any]) -> str:
    kind, _, rest = row["name"].partition("/")
    owner = rest.partition("/")[0]
    if kind == "integration":
        return f"company-agents integration rotate --id {owner}"
    if kind == "agent_token":
        return f"company-agents agent rotate-token --id {owner}"
    if kind == "webhook":
        return f"company-agents webhook rotate-secret --id {owner}"
    if kind == "audit_head_key":
        return "company-agents audit key --renew"
    if kind == "run_token":
        return f"company-agents run cancel --id {owner}"
    if kind == "operator_token":
        return f"company-agents operator token revoke --id {owner}"
    return f"company-agents operator link --operator {owner}" if kind == "operator_totp" else ""
