"""
The keys that sign the ends of the audit chains as they leave: secrets of the instance, called `audit_head_key/<number>`
(Ed25519, RFC 8032); the newest one signs. Their public halves are for whoever keeps what left.
"""

from __future__ import annotations

import base64
from collections.abc import Callable
from dataclasses import dataclass

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from company_agents.db.database import Database
from company_agents.errors import Conflict
from company_agents.secret_store.store import SecretStore
from company_agents.sensitive import Sensitive


@dataclass(frozen=True, slots=True)
class HeadKey:
    """The public half of a head key."""

    number: int
    public: bytes

    @property
    def text(self) -> str:
        """As it is shown: 32 bytes in base64."""
        return base64.b64encode(self.public).decode()


@dataclass
class HeadKeys:
    """Opened once per process, where something leaves."""

    db: Database
    store: SecretStore
    _newest: tuple[int, Ed25519PrivateKey] | None = None

    async def newest(self) -> tuple[int, Callable[[bytes], bytes]]:
        """The number of the key that signs, and how to sign with it; created where there is none yet."""
        if self._newest is None:
            keys = await self._all()
            if not keys:
                await self._create(1)
                keys = await self._all()
            self._newest = max(keys.items(), key=lambda entry: entry[0])
        number, key = self._newest
        return number, key.sign

    async def public(self) -> list[HeadKey]:
        """The public halves, by number; the first key is made where there is none yet."""
        await self.newest()
        keys = sorted((await self._all()).items(), key=lambda entry: entry[0])
        return [HeadKey(number, key.public_key().public_bytes_raw()) for number, key in keys]

    async def checks(self) -> dict[int, Callable[[bytes, bytes], bool]]:
        """For each number, whether a signature (first) of a text (second) is good."""

        def check_of(key: Ed25519PrivateKey) -> Callable[[bytes, bytes], bool]:
            public = key.public_key()

            def check(signature: bytes, text: bytes) -> bool:
                try:
                    public.verify(signature, text)
                except InvalidSignature:
                    return False
                return True

            return check

        return {number: check_of(key) for number, key in (await self._all()).items()}

    async def renew(self) -> HeadKey:
        """Let a new key sign from now on; other orchestrators go on with the one that they have until they start again."""
        await self._create(max(await self._all(), default=0) + 1)
        self.forget()
        return (await self.public())[-1]

    def forget(self) -> None:
        """Drop what was opened: the instance was sealed, or there is a newer one."""
        self._newest = None

    async def _all(self) -> dict[int, Ed25519PrivateKey]:
        async with self.db.transaction(None) as tx:
            rows = await tx.all("audit_head_keys")
        opened = {int(row["name"].rpartition("/")[2]): await self.store.open_row(row) for row in rows}
        return {number: Ed25519PrivateKey.from_private_bytes(value.reveal()) for number, value in opened.items()}

    async def _create(self, number: int) -> None:
        value = Sensitive(Ed25519PrivateKey.generate().private_bytes_raw())
        try:
            async with self.db.transaction(None) as tx:
                await self.store.put(tx, f"audit_head_key/{number}", value)
        except Conflict:
            # Another process was first; its key is the one.
            return
