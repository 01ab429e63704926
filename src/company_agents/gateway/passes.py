"""
Passes for uploads. Some providers answer with an address that a file is sent to without a token; a client that stays with us
finds one of ours there instead, which is good for that one address, for a few minutes, and for as long as the token is with
which it was asked for.

A pass says in whose name it was made, for which integration and origin, and until when; it ends with an HMAC under the
token of that agent or run over all of this, and the path and the query. So nothing has to be kept of it, and it dies with
the token, on every replica.
"""

from __future__ import annotations

import base64
import binascii
import struct
import time
from dataclasses import dataclass
from uuid import UUID

from company_agents.errors import Unauthenticated
from company_agents.identity.identity import Identity
from company_agents.identity.principal import Caller
from company_agents.identity.tokens import AgentClaim, RunClaim, mark_of
from company_agents.sensitive import Sensitive

LIFETIME = 15 * 60
_VERSION = 1
# Version, whether it is a run's, whether private networks may be reached, when it ends; company, who, integration.
_HEAD = struct.Struct(">B??Q16s16s16s")
_MARK = 32
_MOST = 1024


@dataclass(frozen=True, slots=True)
class UploadPass:
    """What a pass is good for."""

    company_id: UUID
    agent_id: UUID
    run_id: UUID | None
    integration_id: UUID
    origin: str
    allow_private: bool
    until: int

    @classmethod
    def for_(cls, caller: Caller, integration_id: UUID, origin: str, *, allow_private: bool) -> UploadPass:
        """A new one, for a caller that has just been given the address."""
        until = int(time.time()) + LIFETIME
        who = (caller.scope.company_id, caller.agent_id(), caller.principal.run_id)
        return cls(*who, integration_id, origin, allow_private, until)

    def sealed(self, token: str, path: str, query: str) -> str:
        """The text that stands in the address."""
        written = self._written()
        mark = mark_of(Sensitive(token), _message(written, path, query))
        return base64.urlsafe_b64encode(written + mark).decode().rstrip("=")

    def _written(self) -> bytes:
        who = self.run_id or self.agent_id
        ids = (self.company_id.bytes, who.bytes, self.integration_id.bytes)
        head = _HEAD.pack(_VERSION, self.run_id is not None, self.allow_private, self.until, *ids)
        return head + self.origin.encode()


async def opened(identity: Identity, text: str, path: str, query: str) -> tuple[Caller, UploadPass]:
    """
    Whose pass this is, and what it is good for: this path and query.

    Raises:
        Unauthenticated: not a pass of ours, or for another address, or its time is over, or its token would be refused.
    """
    refused = Unauthenticated(
        "this address for an upload is not good, or no longer", hint="ask the service for a new one"
    )
    try:
        raw = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
        written, mark = raw[:-_MARK], raw[-_MARK:]
        version, is_run, allow_private, until, company, who, integration = _HEAD.unpack_from(written)
        origin = written[_HEAD.size :].decode("ascii")
    except (binascii.Error, ValueError, struct.error):
        raise refused from None
    if version != _VERSION or len(text) > _MOST or until <= time.time():
        raise refused
    company_id, worker = UUID(bytes=company), UUID(bytes=who)
    claim = RunClaim(company_id, worker) if is_run else AgentClaim(company_id, worker)
    caller = await identity.marked(claim, _message(written, path, query), mark)
    who_calls = (company_id, caller.agent_id(), caller.principal.run_id)
    return caller, UploadPass(*who_calls, UUID(bytes=integration), origin, allow_private, until)


def _message(written: bytes, path: str, query: str) -> bytes:
    # The length makes it one reading only.
    return struct.pack(">I", len(written)) + written + f"{path}?{query}".encode()
