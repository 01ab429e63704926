"""
One real call that proves a credential, and what a reply says about one.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from company_agents.errors import ProbeFailed
from company_agents.integrations import aws
from company_agents.integrations.credential import Credential
from company_agents.integrations.provider import Provider
from company_agents.outgoing.client import Outgoing, OutgoingReply, OutgoingRequest

_MOST_SAID = 200


@dataclass(frozen=True, slots=True)
class Proof:
    """What a probe found out: whose credential it is, and what it may do, where the provider says so."""

    account: str | None = None
    scopes: tuple[str, ...] = ()


class Unproven(ProbeFailed):
    """the provider is busy or broken: it says nothing of the credential"""

    code = "unproven"


async def probe(outgoing: Outgoing, provider: Provider, credential: Credential) -> Proof:
    """
    Try a credential. A provider without a probe takes it as it is.

    Raises:
        ProbeFailed: the provider did not accept it; the sentence has what it said.
        Unproven: it did not say anything of the credential.
        Unavailable, Refused: the call could not be made.
    """
    if provider.probe is None and credential.destination.placement.kind == "sigv4":
        reply, name = await aws.identified(outgoing, credential.destination, credential.token)
        if not aws.is_known(reply):
            _check(provider, reply)
        return Proof(name)
    if provider.probe is None:
        return Proof()
    headers = {**provider.headers, **({"Content-Type": "application/json"} if provider.probe.body else {})}
    request = OutgoingRequest(
        provider.probe.method, provider.probe.path, "", headers, (provider.probe.body or "").encode()
    )
    reply = await outgoing.call(request, credential.destination, credential.token)
    _check(provider, reply)
    parsed = _json(reply.body)
    account = field(parsed, provider.probe.account) if provider.probe.account else None
    scopes = reply.headers.get(provider.probe.scopes_header or "", "")
    return Proof(
        account if isinstance(account, str) else None,
        tuple(scope for scope in (part.strip() for part in scopes.split(",")) if scope),
    )


def _check(provider: Provider, reply: OutgoingReply) -> None:
    problem = refusal(provider, reply, strict=True)
    if problem is None:
        return
    if reply.status == 429 or reply.status >= 500:
        raise Unproven(
            f"{provider.title} did not accept the credential: {problem}",
            hint="this may be no fault of the credential: try again later",
        )
    raise ProbeFailed(
        f"{provider.title} did not accept the credential: {problem}",
        hint=f"make a new one at {provider.token_page}" if provider.token_page else "check the token and the address",
    )


def refusal(provider: Provider, reply: OutgoingReply, *, strict: bool) -> str | None:
    """
    What a reply says against the credential, or None. Strict, for a probe: anything but success counts. Otherwise
    only what says that the credential itself is refused: 401, or the provider's own codes for it.
    """
    rule = provider.probe
    parsed = _json(reply.body) if rule and (rule.error or rule.ok) else None
    said = next(
        (str(text)[:_MOST_SAID] for path in (rule.error if rule else ()) if (text := field(parsed, path))), None
    )
    if said is None and provider.credential.kind == "sigv4":
        said = aws.code_of(reply)
    if strict:
        failed = not 200 <= reply.status < 300 or (
            rule is not None and rule.ok is not None and not field(parsed, rule.ok)
        )
    else:
        failed = reply.status == 401 or said in provider.refused_codes
    if not failed:
        return None
    # Some say no with a status that says yes.
    return said if said and reply.status < 300 else f"{said or 'no reason given'} (HTTP {reply.status})"


def field(value: Any, path: str) -> Any:
    """A field of parsed JSON by a dotted path; numbers index lists."""
    for part in path.split("."):
        if isinstance(value, dict):
            value = value.get(part)
        elif isinstance(value, list) and part.isdigit() and int(part) < len(value):
            value = value[int(part)]
        else:
            return None
    return value


def _json(body: bytes) -> Any:
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        return None
