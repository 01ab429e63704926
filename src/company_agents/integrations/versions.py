"""
Credential versions: one token or one consent each. A rotation makes a new one; a refresh renews one in place.

    current ──rotated──► draining ──no run holds it any more──► retired
       └───────────rotated, and no run holds it───────────────────┘

A run is pinned to the version that it began with, and holds it until it ends or is cut off. What decides is the row of the
run, in the transaction that retires a version: never a clock here. A retired consent keeps its secret for as long as it is to
be revoked at the provider; the secret of a token goes at once.
"""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from company_agents.companies.scope import CompanyScope
from company_agents.errors import CompanyAgentsError, NotFound, Tampered
from company_agents.integrations.credential import Credential, CredentialLost
from company_agents.integrations.endings import plan
from company_agents.integrations.provider import Provider
from company_agents.secret_store.store import Gone, SecretStore, Use

# How often a provider is asked to revoke a version before its secret is deleted unrevoked: at once, and then after 1, 5 and
# 25 minutes.
MOST_TRIES = 4

# Revokes a credential at its provider. False: the provider has no way. Raises `CompanyAgentsError` where it did not work.
Revoke = Callable[[CompanyScope, UUID, int, Credential], Awaitable[bool]]


async def nothing_open() -> None:
    """Where nobody relays anything."""


@dataclass(frozen=True, slots=True)
class Version:
    """A credential version, without its value; `runs` hold it."""

    version: int
    state: str
    created_at: datetime
    expires_at: datetime | None
    retired_at: datetime | None
    runs: int


@dataclass(frozen=True, slots=True)
class Cut:
    """Who was cut off from an integration: how many runs, and from which versions."""

    integration: UUID
    versions: list[int]
    runs: int


@dataclass
class Versions:
    """
    The credential versions of integrations. What takes a transaction wants the integration locked in it, unless it says
    otherwise. `revoke` is how a version that has gone is revoked at its provider; `closed` waits, after a commit, until no
    stream goes on that is no longer allowed.
    """

    store: SecretStore
    revoke: Revoke | None = None
    closed: Callable[[], Awaitable[None]] = nothing_open

    async def add(
        self, tx: Any, integration_id: UUID, version: int, credential: Credential, provider: Provider
    ) -> None:
        """Seal a credential as the current version; there must be no other."""
        now = datetime.now(UTC)
        planned = plan(provider, credential.consent, began=now, now=now)
        secret = await self.store.put(tx, secret_name(integration_id, version), credential.sealed_form())
        expires_at = credential.consent.expires_at if credential.consent else None
        await tx.run(
            "version_insert",
            company_id=tx.company_id,
            integration_id=integration_id,
            version=version,
            secret_id=secret,
            consent=credential.consent is not None,
            expires_at=expires_at,
            refresh_due_at=planned.due,
            ends_at=planned.end.at,
            ends_because=planned.end.because,
        )

    async def supersede(
        self,
        tx: Any,
        integration_id: UUID,
        version: int,
        credential: Credential,
        provider: Provider,
        actor: str | None,
        *,
        kills: bool,
    ) -> int:
        """
        Make a credential the current version in the place of `version`; its number is returned. The old one drains while
        runs hold it. Where the new consent has killed those before it (`kills`), runs that hold one move to the new one.
        """
        dead = [row["version"] for row in await tx.all("versions_live", integration_id=integration_id)] if kills else []
        await tx.run("version_drain", integration_id=integration_id)
        await self.add(tx, integration_id, version + 1, credential, provider)
        await tx.run("pins_move", integration_id=integration_id, version=version + 1, sources=dead)
        await self.settle(tx, integration_id, actor, dead=dead)
        return version + 1

    async def list(self, scope: CompanyScope, integration_id: UUID) -> list[Version]:
        """The versions of an integration, newest first (the last 100). Wants no lock."""
        async with scope.transaction() as tx:
            return [Version(**row) for row in await tx.all("version_list", integration_id=integration_id)]

    async def settle_now(self, scope: CompanyScope, integration_id: UUID, actor: str | None) -> None:
        """`settle`, with its own transaction and lock; where the integration is gone there is nothing to settle."""
        with contextlib.suppress(NotFound):
            async with scope.transaction() as tx:
                await held(tx, integration_id)
                await self.settle(tx, integration_id, actor)

    async def settle(self, tx: Any, integration_id: UUID, actor: str | None, *, dead: Sequence[int] = ()) -> None:
        """Retire what drains and is held by no run. There is nothing to revoke of a version that is `dead` already."""
        for row in await tx.all("versions_unheld", integration_id=integration_id):
            # Not of a dead one: to revoke one consent ends, at some providers, all of the same person.
            keeps = row["consent"] and self.revoke is not None and row["version"] not in dead
            await tx.run("version_retire", integration_id=integration_id, version=row["version"], keeps_secret=keeps)
            await self._record(tx.company_id, "credential.retired", actor, integration_id, row["version"])
            if not keeps:
                await self.store.delete(tx, row["secret_id"])
                if row["consent"]:
                    await self._record(tx.company_id, "credential.not_revoked", actor, integration_id, row["version"])

    async def cut(
        self, tx: Any, integration_id: UUID, actor: str | None, *, version: int | None = None, every: bool = False
    ) -> Cut:
        """
        Cut runs off from the version that they hold: from one, from every, else from all that drain. Their next call with
        this integration is refused, and no other version takes its place.
        """
        rows = await tx.all("pins_cut", integration_id=integration_id, version=version, all=every)
        for row in rows:
            await self._record(
                tx.company_id, "credential.cut", actor, integration_id, row["version"], run=row["run_id"]
            )
        await self.settle(tx, integration_id, actor)
        return Cut(integration_id, sorted({row["version"] for row in rows}), len(rows))

    async def pin(self, tx: Any, run_id: UUID, agent_id: UUID, integration_id: UUID | None = None) -> None:
        """
        Pin a run to the current versions of what its agent may use, or of one integration. Takes its locks itself: what is
        current stays so to the end of the transaction.
        """
        held = await tx.all("pins_hold", agent_id=agent_id, integration_id=integration_id)
        # In a statement of its own: only that sees what was committed while this one waited for a lock.
        await tx.run("pins_insert", run_id=run_id, integrations=[row["id"] for row in held])

    async def revoke_retired(self, scope: CompanyScope, actor: str | None, integration_id: UUID | None = None) -> None:
        """
        Revoke what has retired and was not revoked yet, and delete its secret; in its own transactions. What does not work
        is tried again later, and given up at last: each outcome is on record. Under a seal nothing is tried.
        """
        while not self.store.keys.sealed:
            # Committed before the provider is asked: whoever dies meanwhile keeps nobody else from trying.
            async with scope.transaction() as tx:
                row = await tx.one("version_claim", integration_id=integration_id)
            if row is None:
                return
            action = await self._revoked(scope, actor, row)
            if action is None:
                continue
            async with scope.transaction() as tx:
                which = {name: row[name] for name in ("integration_id", "version", "secret_id")}
                if await tx.run("version_forget", **which):
                    await self.store.delete(tx, row["secret_id"])
                    await self._record(scope.company_id, action, actor, row["integration_id"], row["version"])

    async def _revoked(self, scope: CompanyScope, actor: str | None, row: dict[str, Any]) -> str | None:
        """What became of it, as the event is called; None: not yet known."""
        integration_id, version = row["integration_id"], row["version"]
        facts = {"actor": actor, "integration": integration_id, "version": version, "purpose": "revoke"}
        asked = False
        try:
            async with self.store.use(scope, row["secret_id"], **facts) as use:
                credential = Credential.opened(use.secret)
                asked = True
                done = await self._ask(scope, integration_id, version, credential, use)
        except (Gone, Tampered):
            return "credential.not_revoked"
        except CompanyAgentsError:
            if asked:
                return "credential.not_revoked" if row["revoke_tries"] >= MOST_TRIES else None
            # Our own keys or records are out of reach.
            async with scope.transaction() as tx:
                await tx.run(
                    "version_unclaim", **{name: row[name] for name in ("integration_id", "version", "secret_id")}
                )
            return None
        return "credential.revoked" if done else "credential.not_revoked"

    async def _ask(
        self, scope: CompanyScope, integration_id: UUID, version: int, credential: Credential, use: Use
    ) -> bool:
        done = self.revoke is not None and await self.revoke(scope, integration_id, version, credential)
        use.ended("revoked" if done else "not offered")
        return done

    async def _record(
        self, company_id: UUID, action: str, actor: str | None, integration_id: UUID, version: int, **facts: Any
    ) -> None:
        await self.store.audit.append(
            company_id, action, actor=actor, integration=integration_id, version=version, **facts
        )


async def held(tx: Any, integration_id: UUID) -> dict[str, Any]:
    """
    Name, version and secret of what an integration has now; nobody changes that before this transaction ends.

    Raises:
        NotFound: no such integration in this company.
    """
    # In two statements: one that has waited for a lock sees every other table as it was before it waited.
    await tx.run("integration_hold", id=integration_id)
    return await current_version(tx, integration_id)


async def current_version(tx: Any, integration_id: UUID) -> dict[str, Any]:
    """The same, as it is at this moment."""
    row: dict[str, Any] | None = await tx.one("integration_current", id=integration_id)
    if row is None:
        raise unknown_integration()
    return row


def secret_of(row: Mapping[str, Any]) -> UUID:
    """
    The secret of a version's row.

    Raises:
        CredentialLost: it was left behind when the instance was restored, or its company moved here.
    """
    found: UUID | None = row["secret_id"]
    if found is None:
        raise CredentialLost(
            "this credential was left behind by a restore or a move, and nobody has given it again since",
            hint="have an operator reconnect the integration",
        )
    return found


def unknown_integration() -> NotFound:
    """The same for one that does not exist, is another company's, or is not for this agent."""
    return NotFound("this integration does not exist", hint="`company-agents integration list --company ID` shows them")


def secret_name(integration_id: UUID, version: int) -> str:
    """What a credential version's secret is called: indexed by the integration's id."""
    return f"integration/{integration_id}/{version}"
