"""
The keys of the audit chains: secrets of the instance, called `audit_key/<number>`; the newest one links.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass

from company_agents.companies.scope import InstanceScope
from company_agents.db.database import Database
from company_agents.errors import Conflict, Failed
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
            if not keys:
                await self._create(1)
                keys = await self.all()
            self._newest = max(keys.items())
        return self._newest

    def forget(self) -> None:
        """Drop what was opened: the instance was sealed."""
        self._newest = None

    async def all(self) -> dict[int, Sensitive]:
        """Every key by its number, for verifying."""
        async with self.db.transaction(None) as tx:
            names = [row["name"] for row in await tx.all("audit_keys")]
        found = {}
        for name in names:
            value = await self.store.open_own(InstanceScope(self.db), name)
            if value is None:
                raise Failed("an audit key was deleted just now")
            found[int(name.rpartition("/")[2])] = value
        return found

    async def _create(self, number: int) -> None:
        try:
            async with self.db.transaction(None) as tx:
                await self.store.put(tx, f"audit_key/{number}", Sensitive(secrets.token_bytes(KEY_BYTES)))
        except Conflict:
            # Another process was first; its key is the one.
            return
