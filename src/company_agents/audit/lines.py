"""
The chains as they leave: one line of JSON for an event, and one, signed, for the end of a chain. docs/spec/audit.md has
the format.
"""

from __future__ import annotations

import base64
import binascii
import json
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from uuid import UUID

LABEL = b"company-agents/audit-head/v1"
MOST_LINE = 1024 * 1024

EVENT, HEAD, AGAIN = "event", "head", "again"

Sign = Callable[[bytes], bytes]


@dataclass(frozen=True, slots=True)
class Line:
    """A line that was read back. `record` and `audit_key` are an event's; the last three are a head's."""

    kind: str
    chain: UUID
    seq: int
    mac: bytes
    record: str = ""
    audit_key: int = 0
    at: str = ""
    head_key: int = 0
    signature: bytes = b""

    @property
    def signed(self) -> bytes:
        """What the signature of a head is over."""
        return signed_text(self.chain, self.seq, self.mac, self.at)


def event_line(chain: UUID, row: dict[str, Any]) -> str:
    """An event, with the exact text that was linked, its MAC and the number of the audit key."""
    return _line(
        {
            "kind": EVENT,
            "chain": str(chain),
            "seq": row["seq"],
            "record": row["record"],
            "audit_key": row["audit_key"],
            "mac": row["mac"].hex(),
        }
    )


def head_line(chain: UUID, seq: int, mac: bytes, at: str, number: int, sign: Sign) -> str:
    """Where a chain ended at a moment, signed with the head key of this number."""
    signature = base64.b64encode(sign(signed_text(chain, seq, mac, at))).decode()
    return _line(
        {
            "kind": HEAD,
            "chain": str(chain),
            "seq": seq,
            "mac": mac.hex(),
            "at": at,
            "head_key": number,
            "signature": signature,
        }
    )


def again_line(chain: UUID, seq: int, mac: bytes) -> str:
    """Of a chain that does not go on from what left of it: what follows is the chain as it is now, from its first event."""
    return _line({"kind": AGAIN, "chain": str(chain), "seq": seq, "mac": mac.hex()})


def signed_text(chain: UUID, seq: int, mac: bytes, at: str) -> bytes:
    """What is signed of a head: label ‖ chain ‖ seq ‖ MAC ‖ moment."""
    return LABEL + chain.bytes + struct.pack(">Q", seq) + mac + at.encode()


def read_line(text: bytes) -> Line | None:
    """A line, or None where it is not a whole one."""
    try:
        found = json.loads(text)
        kind, seq = found["kind"], found["seq"]
        if kind not in (EVENT, HEAD, AGAIN) or type(seq) is not int or not 0 <= seq < 2**63:
            return None
        line = Line(kind, UUID(found["chain"]), seq, bytes.fromhex(found["mac"]))
        if kind == EVENT:
            return Line(EVENT, line.chain, seq, line.mac, str(found["record"]), int(found["audit_key"]))
        if kind == HEAD:
            signature = base64.b64decode(found["signature"], validate=True)
            at, number = str(found["at"]), int(found["head_key"])
            return Line(HEAD, line.chain, seq, line.mac, "", 0, at, number, signature)
        return line
    except (ValueError, TypeError, KeyError, AttributeError, binascii.Error, RecursionError):
        return None


def _line(fields: dict[str, Any]) -> str:
    return json.dumps(fields, separators=(",", ":")) + "\n"
