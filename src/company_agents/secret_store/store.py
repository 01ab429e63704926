"""
The one way to a secret. Written: sealed under the active key, bound to its place. Used: recorded first, then
opened in memory for one call.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4

from company_agents.audit.log import AuditLog, SinkDown
from company_agents.companies.scope import CompanyScope, Scope
from company_agents.crypto.cipher import Sealed, seal, unseal
from company_agents.crypto.keyring import UnknownKey
from company_agents.crypto.place import Place
from company_agents.db.database import Database, Row, Tx
from company_agents.errors import CompanyAgentsError, MayNotStart, NotFound, Tampered
from company_agents.secret_store.keys import HeldKeys
from company_agents.sensitive import Sensitive


@dataclass(frozen=True, slots=True)
class SecretInfo:
    """What may be known of a secret: everything but its value."""

    id: UUID
    name: str
    created_at: datetime
    updated_at: datetime
    last_used_at: datetime | None


class Gone(NotFound):
    """A secret that was there a moment ago: rotated or deleted since it was looked up."""


@dataclass(slots=True)
class Use:
    """One recorded use of a secret. `ended` says how it went; the event is written when the use closes."""

    secret: Sensitive
    outcome: dict[str, Any] = field(default_factory=dict)

    def ended(self, result: str, **facts: Any) -> None:
        """Say how it went, once it is known."""
        self.outcome = {"result": result, **facts}


@dataclass
class SecretStore:
    """
    Secrets by id, in a scope.
    """

    db: Database
    keys: HeldKeys
    audit: AuditLog
    _used: dict[tuple[UUID | None, UUID], datetime] = field(default_factory=dict)

    async def put(self, tx: Tx, name: str, value: Sensitive) -> UUID:
        """
        Store a new secret in the scope of a transaction, which should be short: it holds the writers' lock.

        Raises:
            Conflict: there is one of this name.
            WrongUsage: it is longer than 64 KiB.
        """
        secret_id = uuid4()
        key_id, sealed = await self._seal(tx, secret_id, name, value)
        await tx.run(
            "secret_insert",
            id=secret_id,
            company_id=tx.company_id,
            name=name,
            value=sealed.value,
            nonce=sealed.nonce,
            key_id=key_id,
        )
        return secret_id

    async def replace(self, tx: Tx, name: str, value: Sensitive) -> UUID:
        """
        Replace the value of a secret, by its name; its id stays.

        Raises:
            NotFound: there is none of this name.
        """
        row = await tx.one("secret_by_name", company_id=tx.company_id, name=name)
        if row is None:
            raise NotFound(f"there is no secret {name}")
        key_id, sealed = await self._seal(tx, row["id"], name, value)
        await tx.run("secret_replace", id=row["id"], value=sealed.value, nonce=sealed.nonce, key_id=key_id)
        secret_id: UUID = row["id"]
        return secret_id

    async def set(self, tx: Tx, name: str, value: Sensitive) -> UUID:
        """Replace the value of a secret by its name, or store it where there is none: a restore may have left it out."""
        row = await tx.one("secret_by_name", company_id=tx.company_id, name=name)
        return await (self.replace if row else self.put)(tx, name, value)

    async def delete(self, tx: Tx, secret_id: UUID) -> None:
        """Delete a secret; one that is not there is no error."""
        await tx.run("secret_delete", id=secret_id)

    async def list(self, scope: Scope) -> list[SecretInfo]:
        """The secrets of a scope, without their values."""
        async with scope.transaction() as tx:
            return [SecretInfo(**row) for row in await tx.all("secret_list", company_id=scope.company_id)]

    @contextlib.asynccontextmanager
    async def use(self, scope: CompanyScope, secret_id: UUID, **facts: Any) -> AsyncIterator[Use]:
        """
        Open a secret for one call. *begun* is committed before it is opened; *ended* follows, with the result.
        `facts` say who uses it and for what.

        Raises:
            Unavailable: the use could not be recorded; the secret stays closed.
            Gone: it is not in this scope, or not any more.
            Tampered: the row is not what was sealed. Recorded.
        """
        use_id = uuid4().hex
        result: dict[str, Any] = {"result": "failed"}
        try:
            row = await self.audit.append_and_read(scope.company_id, secret_id, "credential.begun", use=use_id, **facts)
        except asyncio.CancelledError:
            self.audit.note(scope.company_id, "credential.ended", use=use_id, **{**_who(facts), **result})
            raise
        except SinkDown as error:
            result["error"] = error.reason
            self.audit.note(scope.company_id, "credential.ended", use=use_id, **{**_who(facts), **result})
            raise
        try:
            if row is None:
                raise Gone("the credential is not there any more")
            use = Use(await self.open_row(row))
            self._used[(scope.company_id, secret_id)] = datetime.now(UTC)
            try:
                yield use
            finally:
                result = use.outcome or result
        except CompanyAgentsError as error:
            result = {"result": "failed", **result, "error": error.reason}
            raise
        finally:
            # Not awaited: it rides with the next event, and a death before it leaves the honest record, begun.
            self.audit.note(scope.company_id, "credential.ended", use=use_id, **{**_who(facts), **result})

    async def open_row(self, row: Row) -> Sensitive:
        """
        Open a row of `secrets`. For our own tokens and keys, which are opened without an event.

        Raises:
            Tampered: the row is not what was sealed. Recorded in the chain of its company.
            UnknownKey: the key that sealed it is neither here nor at the source.
        """
        place = Place(row["company_id"], row["id"], row["name"], row["key_id"])
        try:
            key = await self.keys.get(row["key_id"])
            return unseal(key, place, Sealed(bytes(row["nonce"]), bytes(row["value"])))
        except (Tampered, UnknownKey) as error:
            if isinstance(error, UnknownKey) and await self._is_registered(row["key_id"]):
                # A key that there was: it is missing, and the row may be whole.
                raise
            self.audit.refusal(row["company_id"], "secret.tampered", secret=row["id"], name=row["name"])
            if isinstance(error, Tampered):
                raise
            raise Tampered(
                f"the secret {row['id']} names a key that there never was",
                hint="the row was altered; restore it from a backup, or connect the integration again",
            ) from error

    async def open_own(self, scope: Scope, name: str) -> Sensitive | None:
        """One of our own secrets by its name, or None."""
        async with scope.transaction() as tx:
            row = await tx.one("secret_by_name", company_id=scope.company_id, name=name)
        return await self.open_row(row) if row else None

    def used(self, company_id: UUID | None, secret_id: UUID) -> None:
        """Remember that a secret was used now; written with the next batch."""
        self._used[(company_id, secret_id)] = datetime.now(UTC)

    async def flush_used(self) -> None:
        """Write when secrets were last used. Called every few seconds, and at a clean stop."""
        used, self._used = self._used, {}
        by_company: dict[UUID | None, list[tuple[UUID, datetime]]] = {}
        for (company_id, secret_id), at in used.items():
            by_company.setdefault(company_id, []).append((secret_id, at))
        try:
            while by_company:
                company_id, rows = by_company.popitem()
                # Sorted, so that two replicas lock rows in one order.
                ids, times = zip(*sorted(rows), strict=True)
                try:
                    await self.db.call("secrets_touch", (company_id, list(ids), list(times)))
                except BaseException:
                    by_company[company_id] = rows
                    raise
        finally:
            for company_id, rows in by_company.items():
                for secret_id, at in rows:
                    self._used.setdefault((company_id, secret_id), at)

    async def _is_registered(self, key_id: str) -> bool:
        return bool((await self.db.call("master_key_registered", (key_id,)))[0]["found"])

    async def _seal(self, tx: Tx, secret_id: UUID, name: str, value: Sensitive) -> tuple[str, Sealed]:
        row = await tx.one("secrets_writer")
        if row is None:
            raise MayNotStart("there is no active master key", hint="run `company-agents key status`")
        key = self.keys.for_sealing(row["key_id"], row["seals"])
        return key.key_id, seal(key, Place(tx.company_id, secret_id, name, key.key_id), value)


def _who(facts: dict[str, Any]) -> dict[str, Any]:
    return {name: facts[name] for name in ("actor", "integration", "version") if name in facts}
