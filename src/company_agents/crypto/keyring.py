"""
Master keys and the ring that holds them by key id.
"""

from __future__ import annotations

import hmac
import secrets
from dataclasses import dataclass, field

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from company_agents.errors import Failed, WrongUsage
from company_agents.sensitive import Sensitive

KEY_BYTES = 32  # AES-256, FIPS 197
KEY_ID_LABEL = b"company-agents/key-id/v1"
KEY_ID_BYTES = 8


class UnknownKey(Failed):
    """the key that sealed this value is not in the ring"""

    code = "unknown_key"


def key_id_of(key: bytes) -> str:
    """
    The fingerprint of a key: HMAC-SHA256(key, fixed label), first 8 bytes, hex. One-way (RFC 2104), so it may be shown.
    """
    return hmac.digest(key, KEY_ID_LABEL, "sha256")[:KEY_ID_BYTES].hex()


@dataclass(frozen=True, slots=True)
class MasterKey:
    """
    A key and its id. Two are equal when their keys are.

    Raises:
        WrongUsage: not 32 bytes.
    """

    secret: Sensitive
    key_id: str = field(init=False, compare=False)
    aead: AESGCM = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        if len(self.secret) != KEY_BYTES:
            raise WrongUsage(f"a master key has {KEY_BYTES} bytes, this has {len(self.secret)}")
        object.__setattr__(self, "key_id", key_id_of(self.secret.reveal()))
        object.__setattr__(self, "aead", AESGCM(self.secret.reveal()))

    @classmethod
    def generate(cls) -> MasterKey:
        """A new key from the operating system's generator."""
        return cls(Sensitive(secrets.token_bytes(KEY_BYTES)))


@dataclass(frozen=True, slots=True)
class KeyRing:
    """
    The keys that a source holds. Opening looks a key up by its id and never tries another.
    """

    keys: tuple[MasterKey, ...] = ()
    _by_id: dict[str, MasterKey] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_by_id", {key.key_id: key for key in self.keys})

    def get(self, key_id: str) -> MasterKey:
        """
        Raises:
            UnknownKey: the ring does not hold it.
        """
        try:
            return self._by_id[key_id]
        except KeyError:
            raise UnknownKey(
                f"the key {key_id} is not in the ring",
                hint="put it back into the key source; `key status` shows the states",
            ) from None

    def __contains__(self, key_id: object) -> bool:
        return key_id in self._by_id
