"""
Every error of this door, as `application/problem+json` (RFC 9457).

`type` is always `about:blank`, so `title` is the phrase of the status (RFC 9457, 4.2.1); programs tell errors
apart by `code`, which is that of our errors. What is said is a sentence of ours: no value of the request and no
text of a foreign exception is ever repeated.
"""

from __future__ import annotations

import json
import traceback
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

import structlog
from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from company_agents.errors import Busy, CompanyAgentsError, TooMany, Unauthenticated

log = structlog.stdlib.get_logger("company_agents.api")

MEDIA_TYPE = "application/problem+json"

# As RFC 9110 has them now; Python had the older ones for long.
_PHRASES = {413: "Content Too Large", 422: "Unprocessable Content"}

# What the router and this door itself refuse before a room is asked: code, sentence, hint.
_HTTP: dict[int, tuple[str, str, str]] = {
    400: ("wrong_usage", "the body cannot be read", "send one JSON object in UTF-8, with no name in it twice"),
    404: ("not_found", "there is no such path", "/v1/openapi.json lists the paths"),
    405: ("method_not_allowed", "this path does not take this method", "the header Allow lists those it takes"),
    413: ("too_large", "the body is too large", "/v1/openapi.json says how much a path takes"),
    415: ("unsupported_media_type", "the body is not declared as JSON", "send Content-Type: application/json"),
}

# What is wrong with a field, by pydantic's name for it. Pydantic's own sentences may quote the value.
_WRONG: dict[str, str] = {
    "missing": "is missing",
    "bool_type": "is neither true nor false",
    "string_type": "is no text",
    "string_unicode": "is no text that can be stored",
    "dict_type": "is no object",
    "model_attributes_type": "is no object",
    "list_type": "is no list",
    "int_parsing": "is no whole number",
    "string_too_short": "is too short: at least {min_length} characters",
    "string_too_long": "is too long: at most {max_length} characters",
    "too_long": "has too many entries: at most {max_length}",
    "greater_than_equal": "is too small: at least {ge}",
    "less_than_equal": "is too large: at most {le}",
    "uuid_form": "is no id: an id looks like 01234567-89ab-cdef-0123-456789abcdef",
}


def problem(
    status: int,
    code: str,
    detail: str,
    hint: str = "",
    *,
    headers: Mapping[str, str] | None = None,
    errors: Sequence[Mapping[str, str]] = (),
    facts: Mapping[str, str] | None = None,
) -> Response:
    """One error as a response; `errors` says field by field what is wrong, `facts` what belongs to it."""
    content: dict[str, Any] = {
        "type": "about:blank",
        "title": _PHRASES.get(status) or HTTPStatus(status).phrase,
        "status": status,
        "detail": detail,
        "code": code,
        "hint": hint,
    }
    if errors:
        content["errors"] = list(errors)
    if facts:
        content["facts"] = dict(facts)
    return Response(
        json.dumps(content).encode(),
        status,
        headers={"Cache-Control": "no-store", **(headers or {})},
        media_type=MEDIA_TYPE,
    )


def add_handlers(api: FastAPI) -> None:
    """Answer every exception with a problem."""
    api.add_exception_handler(CompanyAgentsError, _ours)
    api.add_exception_handler(RequestValidationError, _invalid)
    api.add_exception_handler(HTTPException, _http)
    api.add_exception_handler(ClientDisconnect, _gone)
    api.add_exception_handler(Exception, _unexpected)


async def _ours(request: Request, error: Exception) -> Response:
    assert isinstance(error, CompanyAgentsError)
    headers: dict[str, str] = {}
    if isinstance(error, Unauthenticated):
        presented = ', error="invalid_token"' if "authorization" in request.headers else ""
        headers["WWW-Authenticate"] = f'Bearer realm="company-agents"{presented}'
    elif isinstance(error, TooMany):
        headers["Retry-After"] = str(error.retry_after)
    elif isinstance(error, Busy):
        headers["Retry-After"] = "1"
    if error.http_status >= 500:
        log.warning("failed", code=error.reason, sentence=error.sentence, **_route(request))
    return problem(error.http_status, error.reason, error.sentence, error.hint, headers=headers, facts=error.facts)


async def _invalid(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    found = error.errors()
    if any(entry["type"] == "json_invalid" for entry in found):
        return problem(400, "wrong_usage", "the body is no JSON", _HTTP[400][2])
    errors = [{"field": _field(entry), "detail": _what(entry)} for entry in found[:20]]
    first = f"{errors[0]['field']} {errors[0]['detail']}"
    return problem(422, "wrong_usage", first, "/v1/openapi.json says what goes where", errors=errors)


def _field(entry: Mapping[str, Any]) -> str:
    place, *path = entry["loc"]
    if entry["type"] == "extra_forbidden" or not path:
        # The name of a field that we do not know is the caller's own text, and may be anything.
        return f"the {place}"
    # Below the first level there are only lists, and objects with names of the caller's.
    return f"{path[0]}" + "".join(f"[{part}]" for part in path[1:] if isinstance(part, int))


def _what(entry: Mapping[str, Any]) -> str:
    if entry["type"] == "extra_forbidden":
        return "has a field that is not known"
    return _WRONG.get(entry["type"], "has a value that does not fit").format_map(entry.get("ctx") or {})


async def _http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    code, sentence, hint = _HTTP.get(error.status_code, ("refused", "this cannot be answered", ""))
    headers = dict(error.headers or {})
    if error.status_code == 405:
        headers["Allow"] = ", ".join(_methods(request))
    return problem(error.status_code, code, sentence, hint, headers=headers)


def _methods(request: Request) -> list[str]:
    # The router names those of the first route that has the path; a path is often that of several.
    fitting = (route for route in request.app.routes if route.path_regex.match(request.scope["path"]))
    return sorted({method for route in fitting for method in route.methods or ()})


async def _gone(request: Request, error: Exception) -> Response:
    # Nobody reads this; that a caller hung up in the middle of its body is no fault here.
    return problem(400, *_HTTP[400])


async def _unexpected(request: Request, error: Exception) -> Response:
    frames = traceback.extract_tb(error.__traceback__)
    # Where it was raised and what kind it is; what a foreign exception says of itself may quote a value.
    places = [f"{frame.filename}:{frame.lineno} {frame.name}" for frame in frames[-12:]]
    log.error("unexpected", error=type(error).__name__, places=places, **_route(request))
    return problem(500, "failed", "something went wrong here", "the orchestrator's log says where")


def _route(request: Request) -> dict[str, str]:
    route = request.scope.get("route")
    return {"method": request.method, "route": getattr(route, "path", "")}
