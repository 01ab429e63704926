"""
The key ring in an archive: wrapped with a passphrase, in age's format, so that the stock `age` tool opens it.
"""

from __future__ import annotations

import base64
import json

import pyrage

from company_agents.backup.manifest import broken
from company_agents.crypto.keyring import KeyRing, MasterKey
from company_agents.errors import CompanyAgentsError, Refused, WrongUsage
from company_agents.sensitive import Sensitive

# The scale of zxcvbn is 0 to 4; 4 is "very unguessable", more than 10^10 guesses. A backup can be guessed at offline, for
# ever; at a second for each, which scrypt takes, that is 300 years of one processor.
LEAST_SCORE = 4
LEAST_CHARACTERS = 12
# What is behind them does not count, and zxcvbn takes long over long ones.
MOST_JUDGED = 72


class WrongPassphrase(Refused):
    """the passphrase does not open the key ring of this backup"""

    code = "passphrase_wrong"


def check_passphrase(passphrase: Sensitive) -> None:
    """
    Raises:
        WrongUsage: it is too easily guessed; the sentence says why.
    """
    # Its words take a moment to load, and no other command needs them.
    import zxcvbn

    text = passphrase.reveal_text()
    if len(text) < LEAST_CHARACTERS:
        raise _weak(f"it has fewer than {LEAST_CHARACTERS} characters")
    found = zxcvbn.zxcvbn(text[:MOST_JUDGED])
    if found["score"] < LEAST_SCORE:
        why = str(found["feedback"]["warning"]).rstrip(".").lower()
        raise _weak(why or "it can be guessed")


def _weak(why: str) -> WrongUsage:
    return WrongUsage(
        f"the passphrase is too weak: {why}", hint="take five or more random words", code="passphrase_weak"
    )


def wrap(keys: tuple[MasterKey, ...], passphrase: Sensitive) -> bytes:
    """The keys as an age file. Takes a second or two, and hundreds of MB for a moment: scrypt, as strong as the library sets it."""
    content = {"keys": [{"key_id": key.key_id, "key": base64.b64encode(key.secret.reveal()).decode()} for key in keys]}
    return bytes(pyrage.passphrase.encrypt(json.dumps(content).encode(), passphrase.reveal_text()))


def unwrap(content: bytes, passphrase: Sensitive) -> KeyRing:
    """
    The keys of an age file.

    Raises:
        WrongPassphrase: it does not open it.
        Broken: what it holds are no keys.
    """
    try:
        plain = bytes(pyrage.passphrase.decrypt(content, passphrase.reveal_text()))
    except pyrage.DecryptError:
        raise WrongPassphrase(
            "the passphrase does not open the key ring of this backup", hint="nothing was changed; try again"
        ) from None
    try:
        found = tuple(_key(entry) for entry in json.loads(plain)["keys"])
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, CompanyAgentsError):
        raise broken("its key ring holds no keys") from None
    return KeyRing(found)


def _key(entry: dict[str, str]) -> MasterKey:
    key = MasterKey(Sensitive(base64.b64decode(entry["key"], validate=True)))
    if key.key_id != entry["key_id"]:
        raise ValueError
    return key
