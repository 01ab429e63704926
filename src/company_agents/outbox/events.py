"""
The events that a webhook can ask for, made from the audit events that they come from.
"""

from __future__ import annotations

import hashlib
import json
import struct
from dataclasses import dataclass
from typing import Any
from uuid import UUID

NEEDS_ATTENTION = "integration.needs_attention"
INTEGRATION_ROTATED = "integration.rotated"
ROTATION_DUE = "integration.rotation_due"
AGENT_TOKEN_ROTATED = "agent.token.rotated"
APPROVAL_ASKED = "approval.asked"
KEY_ROTATED = "key.rotated"
BACKUP_FAILED = "backup.failed"
BACKUP_LATE = "backup.late"
BUDGET_NEAR = "budget.near"
BUDGET_SPENT = "budget.spent"
# Sent when somebody asks for it, to see that it arrives.
TEST = "webhook.test"

_LABEL = b"company-agents/event/v1"


@dataclass(frozen=True, slots=True)
class Kind:
    """An event: what it says, the audit event that it is made from, and the facts that go out with it."""

    meaning: str
    action: str
    facts: tuple[str, ...]
    of_instance: bool = False


_INTEGRATION = ("integration", "provider", "name", "version", "reason", "hint", "due_at")

_BUDGET = ("agent", "month", "unit", "limit", "spent")

_APPROVAL = ("approval", "integration", "agent", "method", "host", "path", "version", "expires_at")

KINDS: dict[str, Kind] = {
    NEEDS_ATTENTION: Kind("a credential stopped working, or will soon", "integration.needs_attention", _INTEGRATION),
    INTEGRATION_ROTATED: Kind("a credential was replaced", "integration.rotated", _INTEGRATION),
    ROTATION_DUE: Kind("a credential is older than its rotation period", "integration.rotation_due", _INTEGRATION),
    AGENT_TOKEN_ROTATED: Kind("an agent has a new token", "agent.token_rotated", ("agent",)),
    BUDGET_NEAR: Kind("four fifths of a month's budget are spent", "budget.near", _BUDGET),
    BUDGET_SPENT: Kind("a month's budget is spent: paid calls are refused", "budget.spent", _BUDGET),
    # What the request says is nobody's but who decides: method, host, and a template of the path.
    APPROVAL_ASKED: Kind("an agent's request waits for a person", "approval.asked", _APPROVAL),
    # Of the instance, and so for every company that asks: which keys, and when. How many secrets moved is nobody's.
    KEY_ROTATED: Kind("the master key was rotated", "key.rotated", ("key", "new_key"), of_instance=True),
    # Why is for the operator of the machine: it may name folders and hosts.
    BACKUP_FAILED: Kind("a backup of the instance failed", "backup.failed", ("backup",), of_instance=True),
    BACKUP_LATE: Kind("the newest scheduled backup is too old", "backup.late", ("last_at",), of_instance=True),
}


@dataclass(frozen=True, slots=True)
class Message:
    """One event as it goes out: the same text each time that it is sent."""

    id: str
    type: str
    payload: str


def message(kind: str, chain: UUID, company_id: UUID, seq: int, record: str) -> Message:
    """The message of an audit event, whose id is made from its place in its chain and its moment."""
    known, found = KINDS[kind], json.loads(record)
    data = {"company": str(company_id), **{name: found[name] for name in known.facts if name in found}}
    return Message(message_id(chain, seq, found["at"]), kind, payload(kind, found["at"], data))


def message_id(chain: UUID, seq: int, at: str) -> str:
    """
    An id that says nothing of how many events there were before. After a restore a chain goes on from an earlier place: the
    moment tells what comes then from what was sent from there before.
    """
    return "evt_" + hashlib.sha256(_LABEL + chain.bytes + struct.pack(">Q", seq) + at.encode()).hexdigest()[:32]


def payload(kind: str, at: str, data: dict[str, Any]) -> str:
    """The body of a message: type, timestamp, data."""
    shown = {"type": kind, "timestamp": at.replace("+00:00", "Z"), "data": data}
    return json.dumps(shown, separators=(",", ":"))


def pattern(kind: str) -> str:
    """What a record of this kind of event holds, for LIKE."""
    return '%"action":"' + KINDS[kind].action.replace("_", r"\_") + '"%'


def kind_of(record: str, wanted: list[str]) -> str | None:
    """Which of these events a record is, or None."""
    action = json.loads(record).get("action")
    return next((kind for kind in wanted if KINDS[kind].action == action), None)
