"""
The keys of the audit chains: secrets of the instance, called `audit_key/<number>`; the newest one links.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass

from company_agents.db.database import Database
from company_agents.errors import Conflict
from company_agents.secret_store.store import SecretStore
from company_agents.sensitive import Sensitive

KEY_BYTES = 32


@dataclass
class AuditKeys:
    """Opened once per process: every event needs the newest one."""

    db: Database
    store: SecretStore
    _newest: tuple[int, Sensitive] | None = None

    async def newest(self) -> tuple[int, Sensitive]:
        """The number and the value of the key that links new events; created where there is none yet."""
        if self._newest is None:
            keys = await self.all()
            needed = await self._needed()
            if not keys or max(keys) < needed:
                # None yet; or secrets of an earlier time were brought back, and chains are further on.
                await self._create(needed + 1)
                keys = await self.all()
            self._newest = max(keys.items())
        return self._newest

    async def renew(self) -> int:
        """Let new events be linked with a new key. Returns its number."""
        number = max(await self._needed(), *await self.all()) + 1
        await self._create(number)
        self.forget()
        return number

    def forget(self) -> None:
        """Drop what was opened: the instance was sealed, or there is a newer one."""
        self._newest = None

    async def all(self) -> dict[int, Sensitive]:
        """Every key by its number, for verifying."""
        # The audit committer asks this, while those who wait for it may hold every other connection.
        async with self.db.committer_transaction() as tx:
            rows = await tx.all("audit_keys")
        return {int(row["name"].rpartition("/")[2]): await self.store.open_row(row) for row in rows}

    async def _needed(self) -> int:
        """The number under which chains go on at least; 0: there is none yet."""
        async with self.db.committer_transaction() as tx:
            row = await tx.one("audit_key_of_head")
        return int(row["audit_key"]) if row else 0

    async def _create(self, number: int) -> None:
        try:
            async with self.db.transaction(None) as tx:
                await self.store.put(tx, f"audit_key/{number}", Sensitive(secrets.token_bytes(KEY_BYTES)))
        except Conflict:
            # Another process was first; its key is the one.
            return
