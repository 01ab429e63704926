"""
Who made an archive: a MAC over its manifest, with a master key of the instance. Who can alter a backup where it lies can
add an operator to its plain tables; so a restore asks for more than checksums.
"""

from __future__ import annotations

import hmac
import json

from company_agents.backup.archive import Opened
from company_agents.backup.manifest import broken
from company_agents.crypto.keyring import KeyRing, MasterKey
from company_agents.errors import Tampered

# Never what the key id is made of (keyring.KEY_ID_LABEL).
LABEL = b"company-agents/backup-manifest/v1\0"


def sign(key: MasterKey, manifest: bytes) -> bytes:
    """HMAC-SHA256(key, label ‖ the manifest as it stands in the archive), with the key's id, as JSON (RFC 2104)."""
    mac = hmac.digest(key.secret.reveal(), LABEL + manifest, "sha256")
    return json.dumps({"key_id": key.key_id, "mac": mac.hex()}).encode()


def signed_by(opened: Opened) -> str | None:
    """The id of the key that is said to have signed it; None: it is not signed."""
    return _read(opened)[0] if opened.signature is not None else None


def check(ring: KeyRing, opened: Opened) -> bool:
    """
    Whether a key of the ring signed it. False: it is not signed, or with a key that is not in the ring.

    Raises:
        Tampered: the signature is not right.
    """
    if opened.signature is None:
        return False
    key_id, mac = _read(opened)
    if key_id not in ring:
        return False
    expected = hmac.digest(ring.get(key_id).secret.reveal(), LABEL + opened.text, "sha256")
    if not hmac.compare_digest(expected, mac):
        raise Tampered(
            "the backup was altered after it was made: its signature is not right",
            hint="use another copy of it, and find out who could write to this one",
        )
    return True


def _read(opened: Opened) -> tuple[str, bytes]:
    try:
        found = json.loads(opened.signature or b"")
        return str(found["key_id"]), bytes.fromhex(found["mac"])
    except (ValueError, KeyError, TypeError, RecursionError):
        raise broken("its signature cannot be read") from None
