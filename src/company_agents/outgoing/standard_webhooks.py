"""
Standard Webhooks: what a message is signed with, and how (the specification, "Signature scheme").
"""

from __future__ import annotations

import base64
import hmac
import json
import secrets
from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any, Self

from company_agents.errors import Failed
from company_agents.sensitive import Sensitive

PREFIX = "whsec_"
# The specification asks for 24 to 64.
SECRET_BYTES = 32
# How long a rotated secret signs beside the new one.
OVERLAP = timedelta(hours=24)
_FORMAT = 1


def new_secret() -> Sensitive:
    """A signing secret: `whsec_` and 32 random bytes in base64."""
    return Sensitive(PREFIX + base64.b64encode(secrets.token_bytes(SECRET_BYTES)).decode())


def signature(secret: Sensitive, message_id: str, timestamp: int, body: bytes) -> str:
    """`v1,` and HMAC-SHA256 over id, timestamp (seconds) and body, in base64."""
    key = base64.b64decode(secret.reveal_text().removeprefix(PREFIX))
    return "v1," + base64.b64encode(hmac.digest(key, signed_text(message_id, timestamp, body), "sha256")).decode()


def signed_text(message_id: str, timestamp: int, body: bytes) -> bytes:
    """What is signed of a message."""
    return f"{message_id}.{timestamp}.".encode() + body


def headers(message_id: str, timestamp: int, signatures: Iterable[str]) -> dict[str, str]:
    """The headers of a message."""
    return {
        "Content-Type": "application/json",
        "webhook-id": message_id,
        "webhook-timestamp": str(timestamp),
        "webhook-signature": " ".join(signatures),
    }


@dataclass(frozen=True, slots=True)
class Held:
    """
    What is sealed of a receiver: where messages go to, and what signs them. `previous` signs beside `secret` until a moment: the
    receiver has that long to learn the new one.
    """

    url: str
    allow_private: bool
    secret: Sensitive
    previous: Sensitive | None = None
    previous_until: datetime | None = None

    def rotated(self, secret: Sensitive, until: datetime) -> Held:
        """With a new secret; the present one signs until a moment, and one before it no more."""
        return replace(self, secret=secret, previous=self.secret, previous_until=until)

    def alone(self) -> Held:
        """Without the previous secret."""
        return replace(self, previous=None, previous_until=None)

    def signed(self, message_id: str, now: datetime, body: bytes) -> dict[str, str]:
        """The headers of a message that is sent now."""
        timestamp = int(now.timestamp())
        keys = [self.secret]
        if self.previous is not None and self.previous_until is not None and now < self.previous_until:
            keys.append(self.previous)
        return headers(message_id, timestamp, (signature(key, message_id, timestamp, body) for key in keys))

    def to_sealed(self) -> Sensitive:
        """The form that is sealed."""
        fields: dict[str, Any] = {
            "format": _FORMAT,
            "url": self.url,
            "allow_private": self.allow_private,
            "secret": self.secret.reveal_text(),
        }
        if self.previous is not None and self.previous_until is not None:
            fields["previous"] = self.previous.reveal_text()
            fields["previous_until"] = self.previous_until.isoformat()
        return Sensitive(json.dumps(fields, separators=(",", ":")))

    @classmethod
    def from_sealed(cls, value: Sensitive) -> Self:
        """
        Read back what `to_sealed` wrote.

        Raises:
            Failed: it is something else.
        """
        try:
            fields = json.loads(value.reveal())
            if fields["format"] != _FORMAT:
                raise ValueError("unknown format")
            previous, until = fields.get("previous"), fields.get("previous_until")
            return cls(
                str(fields["url"]),
                fields["allow_private"] is True,
                Sensitive(fields["secret"]),
                Sensitive(previous) if previous else None,
                datetime.fromisoformat(until) if until else None,
            )
        except (ValueError, TypeError, KeyError):
            pass
        # Without the cause, which quotes what was sealed.
        raise Failed("the sealed address of a receiver cannot be read", hint="delete it, and create it again")
