"""
A key as an operator puts it somewhere: raw, or as text.
"""

from __future__ import annotations

import base64
import binascii
import re

from company_agents.crypto.keyring import KEY_BYTES, MasterKey
from company_agents.errors import MayNotStart
from company_agents.sensitive import Sensitive

# 32 bytes take 43 characters in base64 and one more of padding (RFC 4648, 4 and 5), 64 in hex.
_BASE64 = re.compile(rb"[A-Za-z0-9+/_-]{43}=?")
_HEX = re.compile(rb"[0-9A-Fa-f]{64}")


def key_from(content: bytes | str, where: str) -> MasterKey:
    """
    A key from 32 raw bytes, or their base64, base64url or hex; blanks around a text do not count.

    Raises:
        MayNotStart: it is none of these. What it was is not repeated.
    """
    raw = content.encode(errors="replace") if isinstance(content, str) else content
    text = raw.strip()
    if len(raw) == KEY_BYTES:
        return MasterKey(Sensitive(raw))
    if _HEX.fullmatch(text):
        return MasterKey(Sensitive(binascii.unhexlify(text)))
    if _BASE64.fullmatch(text):
        found = base64.b64decode(text.rstrip(b"=") + b"=", altchars=b"-_" if {*b"-_"} & {*text} else None)
        return MasterKey(Sensitive(found))
    raise MayNotStart(
        f"what is at {where} is no key",
        hint=f"a key is {KEY_BYTES} bytes: raw, or as base64, base64url or hex",
        code="key_length",
    )


def key_text(key: MasterKey) -> Sensitive:
    """A key as base64, for a source that keeps text."""
    return Sensitive(base64.b64encode(key.secret.reveal()))
