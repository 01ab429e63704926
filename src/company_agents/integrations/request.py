"""
An agent's request to a provider: found, allowed, recorded, opened, sent, searched.
"""

from __future__ import annotations

import base64
import contextlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import urlencode
from uuid import UUID

from company_agents.audit.chain import path_template
from company_agents.audit.log import AuditLog
from company_agents.errors import Busy, CompanyAgentsError, Refused, Tampered, WrongUsage
from company_agents.identity.permissions import Permission
from company_agents.identity.principal import Caller
from company_agents.integrations.credential import Credential
from company_agents.integrations.integrations import Integrations
from company_agents.integrations.probe import refusal
from company_agents.integrations.provider import Provider
from company_agents.integrations.refresh import Refresher
from company_agents.integrations.status import BROKEN, CONNECTED, EXPIRING, NEEDS_ATTENTION
from company_agents.integrations.turns import Turns
from company_agents.integrations.versions import unknown_integration
from company_agents.outgoing.client import Outgoing, OutgoingReply, OutgoingRequest
from company_agents.secret_store.store import Gone, SecretStore
from company_agents.sensitive import harmless

Query = Mapping[str, Any]

# How often an integration is looked up for one request, where its credential is rotated between that and its opening.
MOST_LOOKS = 5


@dataclass(frozen=True, slots=True)
class Reply:
    """What the provider answered: parsed JSON, else text, else `{"base64": …}`."""

    status: int
    headers: dict[str, str]
    body: Any


@dataclass(frozen=True)
class Requests:
    """Calls in the name of a company, by its agents."""

    store: SecretStore
    audit: AuditLog
    outgoing: Outgoing
    integrations: Integrations
    refresher: Refresher
    turns: Turns

    async def request(
        self,
        caller: Caller,
        integration: str,
        method: str,
        path: str,
        *,
        query: Query | None = None,
        headers: Mapping[str, str] | None = None,
        body: Any = None,
    ) -> Reply:
        """
        Make one call with an integration's credential.

        Args:
            integration: its id or its name.
            path: the absolute path on the provider's host, percent-encoded.
            body: an object or a list (sent as JSON), a string, or nothing.

        Raises:
            NotFound: no such integration, or not for this agent; both read alike.
            Refused: the run was cut off from its version (`credential_cut`), the call may not go there, or its reply may not come back.
            TooMany: the company has as many calls under way as it may.
            Unavailable: the provider, or our own record, cannot be reached.
            WrongUsage: method, path, query, headers or body will not do.
        """
        caller.require(Permission.INTEGRATION_USE)
        # Decided before anything is opened: a request that cannot be made is no use of a credential.
        outgoing_headers, content = _encoded(headers or {}, body)
        request = OutgoingRequest(method.upper(), path, _query(query or {}), outgoing_headers, content)
        # Before it is looked up: whoever waits may no longer be allowed when the turn comes.
        async with self.turns.of(caller.scope.company_id):
            return await self._requested(caller, integration, request)

    async def _requested(self, caller: Caller, integration: str, request: OutgoingRequest) -> Reply:
        for _ in range(MOST_LOOKS):
            found = await self._find(caller, integration)
            provider = self.integrations.providers.get(found["provider"])
            with contextlib.suppress(Gone):
                return _shown(await self._answered(caller, provider, found, _defaulted(request, provider)))
            # Rotated or deleted since it was found, and nothing was sent: look again.
        raise Busy("the credential is being rotated all the time", hint="try again")

    async def _answered(
        self, caller: Caller, provider: Provider, found: dict[str, Any], request: OutgoingRequest
    ) -> OutgoingReply:
        """
        The reply, and what it says of the credential. The token of a consent is renewed before it ends; where it is
        refused, it is renewed and the call made once more, whatever the method: who refuses a credential has done nothing
        yet. A body that is streamed has gone by then, so such a call is not made again.
        """
        seen_by, again = "use", (caller, str(found["id"]))
        if found["consent"] and found["is_ending"]:
            await self.refresher.fresh(caller.scope, found["id"], found["version"], actor=caller.label)
            # Whoever has waited may no longer be allowed.
            found = await self._find(*again)
        reply = await self._sent(caller, found, request)
        if found["consent"] and isinstance(request.body, bytes) and refusal(provider, reply, strict=False):
            base = found["written_by"]
            state = await self.refresher.replaced(caller.scope, found["id"], found["version"], base, actor=caller.label)
            if state is not None and state.written_by > base:
                found = await self._find(*again)
                reply = await self._sent(caller, found, request)
            elif state is not None and state.problem == "not now":
                # A new token will change that.
                seen_by = "refresh"
        await self._judge(caller, provider, found, reply, seen_by)
        return reply

    async def _sent(self, caller: Caller, found: dict[str, Any], request: OutgoingRequest) -> OutgoingReply:
        facts = {
            "actor": caller.label,
            "integration": found["id"],
            "version": found["version"],
            "host": found["destination"],
            "method": harmless(request.method)[:20],
            "path": path_template(request.path),
            "decision": "allowed",
        }
        try:
            async with self.store.use(caller.scope, found["secret_id"], **facts) as use:
                credential = Credential.opened(use.secret)
                reply = await self.outgoing.call(request, credential.destination, credential.token)
                removed = reply.removed or None
                use.ended("replied", status=reply.status, removed=removed, host=credential.destination.origin)
        except Tampered:
            reason = "the stored credential was altered: connect it again"
            await self.integrations.statuses.seen(caller.scope, found["id"], found["version"], NEEDS_ATTENTION, reason)
            raise
        return reply

    async def _find(self, caller: Caller, integration: str) -> dict[str, Any]:
        try:
            by: dict[str, Any] = {"id": UUID(integration), "name": None}
        except ValueError:
            by = {"id": None, "name": integration}
        agent_id, run_id = caller.agent_id(), caller.principal.run_id
        async with caller.scope.transaction() as tx:
            which = {"agent_id": agent_id, "run_id": run_id, "fence": caller.principal.fence, **by}
            row = await tx.one("integration_for_use", **which)
            if row is not None and run_id is not None and not row["is_pinned"]:
                # Allowed after the run began: it is pinned at its first use.
                await self.integrations.versions.pin(tx, run_id, agent_id, row["id"])
                row = await tx.one("integration_for_use", **which)
            there = await tx.one("integration_there", **by) if row is None else None
        if row is None:
            # What there is not is not named: an agent may ask for anything, and each word would be an event of its own.
            self.audit.refusal(
                caller.scope.company_id,
                "integration.refused",
                actor=caller.label,
                integration=there["id"] if there else None,
                reason="not allowed" if there else "unknown",
            )
            raise unknown_integration()
        if row["is_cut"]:
            facts = {"actor": caller.label, "integration": row["id"], "version": row["version"], "reason": "cut"}
            self.audit.refusal(caller.scope.company_id, "integration.refused", **facts)
            raise Refused(
                "this run was cut off from the credential that it began with",
                hint="nothing takes its place: a new run has the present one",
                code="credential_cut",
            )
        return row

    async def _judge(
        self, caller: Caller, provider: Provider, found: dict[str, Any], reply: OutgoingReply, seen_by: str
    ) -> None:
        problem = refusal(provider, reply, strict=False)
        status = NEEDS_ATTENTION if problem else CONNECTED
        if found["status"] == status or (problem is None and not 200 <= reply.status < 300):
            return
        if problem is None and (found["status"] == EXPIRING or found["refresh_problem"] in BROKEN):
            # It works, and will not for long; the status says that already.
            return
        reason = f"{provider.title} did not accept the credential: {problem}" if problem else ""
        try:
            await self.integrations.statuses.seen(
                caller.scope, found["id"], found["version"], status, reason, seen_by=seen_by
            )
        except CompanyAgentsError:
            # The reply is the caller's, whether or not the status could be written; the next use writes it.
            return


def _query(query: Query) -> str:
    pairs: list[tuple[str, str]] = []
    for name, value in query.items():
        for entry in value if isinstance(value, list) else [value]:
            if isinstance(entry, bool):
                pairs.append((name, "true" if entry else "false"))
            elif isinstance(entry, (str, int)) or (isinstance(entry, float) and math.isfinite(entry)):
                pairs.append((name, str(entry)))
            elif entry is not None:
                raise WrongUsage("a query parameter is neither text nor a number, nor a list of them")
    try:
        return urlencode(pairs)
    except UnicodeEncodeError:
        raise WrongUsage("the query is not text that can be sent") from None


def _encoded(headers: Mapping[str, str], body: Any) -> tuple[dict[str, str], bytes]:
    given = {str(name): str(value) for name, value in headers.items()}
    names = {name.lower() for name in given}
    if body is None:
        return given, b""
    if isinstance(body, str):
        if "content-type" not in names:
            given["Content-Type"] = "text/plain; charset=utf-8"
        return given, _utf8(body)
    if "content-type" not in names:
        given["Content-Type"] = "application/json"
    try:
        return given, _utf8(json.dumps(body, separators=(",", ":"), allow_nan=False))
    except ValueError:
        # Written as 1e400, it was a number; what Python makes of it is none that JSON has.
        raise WrongUsage("the body holds a number that is too large") from None


def _utf8(text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError:
        raise WrongUsage("the body is not text that can be sent") from None


def _defaulted(request: OutgoingRequest, provider: Provider) -> OutgoingRequest:
    given = dict(request.headers)
    names = {name.lower() for name in given}
    added = {name: value for name, value in provider.headers.items() if name.lower() not in names}
    return replace(request, headers={**added, **given})


def _shown(reply: OutgoingReply) -> Reply:
    headers: dict[str, str] = {}
    for name, value in reply.headers.items():
        key = name.lower()
        headers[key] = f"{headers[key]}, {value}" if key in headers else value
    return Reply(reply.status, headers, _body(headers.get("content-type", ""), reply.body))


def _body(content_type: str, body: bytes) -> Any:
    media_type = content_type.partition(";")[0].strip().lower()
    try:
        text = body.decode("utf-8")
    except UnicodeDecodeError:
        return {"base64": base64.b64encode(body).decode()}
    if media_type == "application/json" or media_type.endswith("+json"):
        try:
            return json.loads(text)
        except (ValueError, RecursionError):
            return text
    return text
