"""
The keys that sign the ends of the audit chains as they leave: secrets of the instance, called `audit_head_key/<number>`
(Ed25519, RFC 8032); the newest one signs. Their public halves are for whoever keeps what left.
"""

from __future__ import annotations

import base64
from collections.abc import Callable
from dataclasses import dataclass

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from company_agents.db.database import Database
from company_agents.errors import Busy, Conflict
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


# What is sealed of a key that signs no more begins with this; its private half is gone.
_PUBLIC = b"public "


@dataclass(frozen=True, slots=True)
class _Opened:
    """A key as it is sealed: with its private half, as long as it signs."""

    private: Ed25519PrivateKey | None
    public: Ed25519PublicKey

    @classmethod
    def of(cls, value: Sensitive) -> _Opened:
        if value.reveal().startswith(_PUBLIC):
            return cls(None, Ed25519PublicKey.from_public_bytes(value.reveal().removeprefix(_PUBLIC)))
        private = Ed25519PrivateKey.from_private_bytes(value.reveal())
        return cls(private, private.public_key())

    def check(self, signature: bytes, text: bytes) -> bool:
        """Whether it signed this."""
        try:
            self.public.verify(signature, text)
        except InvalidSignature:
            return False
        return True


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
            number = max(keys)
            private = keys[number].private
            if private is None:
                # It was being replaced just now.
                raise Busy("the key of the signed heads was renewed just now", hint="try again")
            self._newest = number, private
        number, key = self._newest
        return number, key.sign

    async def public(self) -> list[HeadKey]:
        """The public halves, by number; the first key is made where there is none yet."""
        await self.newest()
        return [HeadKey(number, key.public.public_bytes_raw()) for number, key in sorted((await self._all()).items())]

    async def checks(self) -> dict[int, Callable[[bytes, bytes], bool]]:
        """For each number, whether a signature (first) of a text (second) is good."""
        return {number: key.check for number, key in (await self._all()).items()}

    async def renew(self) -> HeadKey:
        """
        Let a new key sign from now on; the private halves of those before it go. Other orchestrators sign with the one that
        they have opened until they start again.
        """
        keys = await self._all()
        await self._create(max(keys, default=0) + 1)
        for number, key in keys.items():
            if key.private is not None:
                public = Sensitive(_PUBLIC + key.public.public_bytes_raw())
                async with self.db.transaction(None) as tx:
                    await self.store.replace(tx, f"audit_head_key/{number}", public)
        self.forget()
        return (await self.public())[-1]

    def forget(self) -> None:
        """Drop what was opened: the instance was sealed, or there is a newer one."""
        self._newest = None

    async def _all(self) -> dict[int, _Opened]:
        async with self.db.transaction(None) as tx:
            rows = await tx.all("audit_head_keys")
        return {int(row["name"].rpartition("/")[2]): _Opened.of(await self.store.open_row(row)) for row in rows}

    async def _create(self, number: int) -> None:
        value = Sensitive(Ed25519PrivateKey.generate().private_bytes_raw())
        try:
            async with self.db.transaction(None) as tx:
                await self.store.put(tx, f"audit_head_key/{number}", value)
        except Conflict:
            # Another process was first; its key is the one.
            return
