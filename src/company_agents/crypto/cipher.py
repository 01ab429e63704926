"""
AES-256-GCM with the master key itself and a fresh random nonce per write (NIST SP 800-38D).
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass

from cryptography.exceptions import InvalidTag

from company_agents.crypto.keyring import MasterKey
from company_agents.crypto.place import Place
from company_agents.errors import Tampered, WrongUsage
from company_agents.sensitive import Sensitive

NONCE_BYTES = 12  # SP 800-38D, 8.2.2: the random construction wants 96 bits
TAG_BYTES = 16
MAX_VALUE_BYTES = 64 * 1024

# SP 800-38D, 8.3: with random nonces, at most 2^32 values under one key. Half of the bits earlier we ask for a rotation.
SEALS_URGE_ROTATION = 2**31
SEALS_LIMIT = 2**32


@dataclass(frozen=True, slots=True)
class Sealed:
    """What is stored: the nonce, and the ciphertext with its 16-byte tag at the end."""

    nonce: bytes
    value: bytes


def seal(key: MasterKey, place: Place, value: Sensitive) -> Sealed:
    """
    Seal a value of 0 bytes to 64 KiB for its place.

    Raises:
        WrongUsage: the value is longer than 64 KiB, or the place names another key.
    """
    if len(value) > MAX_VALUE_BYTES:
        raise WrongUsage(f"a secret has at most {MAX_VALUE_BYTES} bytes, this has {len(value)}")
    return _seal_with_nonce(key, place, value, secrets.token_bytes(NONCE_BYTES))


def unseal(key: MasterKey, place: Place, sealed: Sealed) -> Sensitive:
    """
    Open a value at its place.

    Raises:
        Tampered: value, nonce, or any part of the place is not what was sealed.
    """
    if place.key_id != key.key_id or len(sealed.nonce) != NONCE_BYTES:
        raise Tampered(f"the secret {place.secret_id} is not what was sealed")
    try:
        return Sensitive(key.aead.decrypt(sealed.nonce, sealed.value, place.additional_data()))
    except (InvalidTag, ValueError):
        raise Tampered(
            f"the secret {place.secret_id} does not open at its place",
            hint="the row was altered or moved; restore it from a backup, or connect the integration again",
        ) from None


def _seal_with_nonce(key: MasterKey, place: Place, value: Sensitive, nonce: bytes) -> Sealed:
    # For the test vectors only: a nonce that repeats under one key gives the key's secrecy away.
    if place.key_id != key.key_id:
        raise WrongUsage("a place names the key that seals it")
    return Sealed(nonce, key.aead.encrypt(nonce, value.reveal(), place.additional_data()))
