"""
How events are linked. docs/spec/audit.md is the specification.
"""

from __future__ import annotations

import hmac
import json
import re
import struct
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from company_agents.sensitive import MASK, Sensitive, harmless

LABEL = b"company-agents/audit/v1"
MAC_BYTES = 32
# Made once: `json.dumps` with these arguments makes one for each call.
_JSON = json.JSONEncoder(sort_keys=True, separators=(",", ":"))
START = b""  # what the first event of a chain is linked to


def canonical(record: dict[str, Any]) -> str:
    """The record as the text that is linked: JSON in ASCII, keys sorted, no spaces, one line."""
    return _JSON.encode(record)


def link(key: Sensitive, chain: UUID, seq: int, previous: bytes, record: str) -> bytes:
    """HMAC-SHA256(audit key, label ‖ chain ‖ seq ‖ length of the previous MAC ‖ it ‖ record), 32 bytes (RFC 2104)."""
    head = LABEL + chain.bytes + struct.pack(">QI", seq, len(previous)) + previous
    return hmac.digest(key.reveal(), head + record.encode(), "sha256")


@dataclass(frozen=True, slots=True)
class Head:
    """The end of a chain; seq 0 and no MAC: an empty one."""

    seq: int = 0
    mac: bytes = START


_ID_SEGMENT = re.compile(r"^(\d+|[0-9a-fA-F-]{16,})$")


def path_template(path: str) -> str:
    """
    A path with what looks like an id, or could be a token, replaced by `{id}`: the log says which call, not which
    customer.
    """
    segments = ("{id}" if _ID_SEGMENT.match(each) or harmless(each) == MASK else each for each in path.split("/"))
    return "/".join(segments)[:200]
