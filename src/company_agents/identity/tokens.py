"""
What our tokens look like: `ca_<kind>_`, the payload in base64url, and six characters of checksum, so that one
can be recognised in a leak (`docs/spec/tokens.md`). The checksum proves nothing; the stored token does.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import secrets
import zlib
from dataclasses import dataclass
from uuid import UUID

from company_agents.sensitive import Sensitive

AGENT_PREFIX = "ca_agent_"
RUN_PREFIX = "ca_run_"
OPERATOR_PREFIX = "ca_op_"
RANDOM_BYTES = 32
_CHECKSUM = 6


@dataclass(frozen=True, slots=True)
class AgentClaim:
    """What an agent token says of itself, unproved."""

    company_id: UUID
    agent_id: UUID


@dataclass(frozen=True, slots=True)
class RunClaim:
    """What a run token says of itself, unproved."""

    company_id: UUID
    run_id: UUID


@dataclass(frozen=True, slots=True)
class OperatorClaim:
    """What an operator token says of itself, unproved."""

    token_id: UUID


def new_agent_token(company_id: UUID, agent_id: UUID) -> Sensitive:
    """A token: company id ‖ agent id ‖ 32 random bytes."""
    return _encode(AGENT_PREFIX, company_id.bytes + agent_id.bytes + secrets.token_bytes(RANDOM_BYTES))


def new_run_token(company_id: UUID, run_id: UUID) -> Sensitive:
    """A token: company id ‖ run id ‖ 32 random bytes."""
    return _encode(RUN_PREFIX, company_id.bytes + run_id.bytes + secrets.token_bytes(RANDOM_BYTES))


def new_operator_token(token_id: UUID) -> Sensitive:
    """A token: token id ‖ 32 random bytes."""
    return _encode(OPERATOR_PREFIX, token_id.bytes + secrets.token_bytes(RANDOM_BYTES))


def read_agent_token(token: str) -> AgentClaim | None:
    """The claim of an agent token, or None where it is not one, whole and with the right checksum."""
    payload = _decode(AGENT_PREFIX, token, 32 + RANDOM_BYTES)
    return AgentClaim(UUID(bytes=payload[:16]), UUID(bytes=payload[16:32])) if payload else None


def read_run_token(token: str) -> RunClaim | None:
    """The claim of a run token, or None where it is not one, whole and with the right checksum."""
    payload = _decode(RUN_PREFIX, token, 32 + RANDOM_BYTES)
    return RunClaim(UUID(bytes=payload[:16]), UUID(bytes=payload[16:32])) if payload else None


def read_operator_token(token: str) -> OperatorClaim | None:
    """The claim of an operator token, or None where it is not one, whole and with the right checksum."""
    payload = _decode(OPERATOR_PREFIX, token, 16 + RANDOM_BYTES)
    return OperatorClaim(UUID(bytes=payload[:16])) if payload else None


def is_ours(token: str) -> bool:
    """Whether this is a token of ours, of whichever kind, whole and with the right checksum."""
    return any(read(token) is not None for read in (read_agent_token, read_run_token, read_operator_token))


_MARK = b"company-agents/mark/v1"


def mark_of(token: Sensitive, message: bytes) -> bytes:
    """HMAC-SHA256(token, label ‖ message), 32 bytes (RFC 2104): what only the holder of a token, and we, can make."""
    return hmac.digest(token.reveal(), _MARK + message, "sha256")


def _encode(prefix: str, payload: bytes) -> Sensitive:
    body = prefix + base64.urlsafe_b64encode(payload).decode().rstrip("=")
    return Sensitive(body + _checksum(body))


def _decode(prefix: str, token: str, length: int) -> bytes | None:
    if not token.startswith(prefix) or not token.isascii():
        return None
    body, checksum = token[:-_CHECKSUM], token[-_CHECKSUM:]
    encoded = body[len(prefix) :]
    try:
        payload = base64.b64decode(encoded + "=" * (-len(encoded) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        return None
    # Encoded anew, because base64 has several spellings of the same bytes and a token has one.
    if len(payload) != length or checksum != _checksum(body) or _encode(prefix, payload).reveal() != token.encode():
        return None
    return payload


def _checksum(body: str) -> str:
    return base64.urlsafe_b64encode(zlib.crc32(body.encode()).to_bytes(4, "big")).decode()[:_CHECKSUM]
