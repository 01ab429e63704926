"""
Our own answers, in the shape that clients of many services show to their users: an object `error` with a message. The header
says that it is ours, and not the provider's.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

from company_agents.errors import Busy, CompanyAgentsError, Failed, TooMany, Unauthenticated

UNEXPECTED = Failed("something went wrong here", hint="the orchestrator's log says where")

# What SDKs know by name; anything else is an error of the interface.
_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    422: "invalid_request_error",
    429: "rate_limit_error",
}

Headers = list[tuple[bytes, bytes]]


def refusal(scope: Any, error: CompanyAgentsError, more: Iterable[tuple[str, str]] = ()) -> tuple[int, Headers, bytes]:
    """Status, headers and body of an error."""
    status = error.http_status
    # For a person at a terminal: git shows plain text, and nothing else.
    plain = any(name == b"user-agent" and value.startswith(b"git/") for name, value in scope["headers"])
    body = _plain(error) if plain else _json(status, error)
    headers = [
        (b"content-type", b"text/plain; charset=utf-8" if plain else b"application/json"),
        (b"content-length", str(len(body)).encode()),
        (b"cache-control", b"no-store"),
        (b"company-agents-error", error.reason.encode("ascii", "replace")),
        *((name.encode("latin-1"), value.encode("latin-1")) for name, value in more),
    ]
    if isinstance(error, Unauthenticated):
        # git and curl ask first without, and say who they are when they see this.
        headers.append((b"www-authenticate", b'Basic realm="Company Agents", charset="UTF-8"'))
    elif isinstance(error, TooMany):
        headers.append((b"retry-after", str(error.retry_after).encode()))
    elif isinstance(error, Busy):
        headers.append((b"retry-after", b"1"))
    return status, headers, body


def refused(error: CompanyAgentsError) -> Callable[[Any, Any, Any], Awaitable[None]]:
    """An application that answers every request with this error."""

    async def answer(scope: Any, receive: Any, send: Any) -> None:
        status, headers, body = refusal(scope, error)
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    return answer


def _plain(error: CompanyAgentsError) -> bytes:
    return f"{error.sentence}{f' ({error.hint})' if error.hint else ''}\n".encode()


def _json(status: int, error: CompanyAgentsError) -> bytes:
    said: dict[str, Any] = {
        "type": _TYPES.get(status, "api_error"),
        "code": error.reason,
        "message": error.sentence,
        "hint": error.hint,
        **getattr(error, "facts", {}),
    }
    # Some look for the message, or for a type, beside it.
    return json.dumps({"type": "error", "message": error.sentence, "error": said}).encode()
