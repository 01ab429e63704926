"""
The description of the door (OpenAPI), made from the routes.
"""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from fastapi.routing import APIRoute

from company_agents.api.callers import MOST_BODY, MOST_SENT
from company_agents.api.problems import MEDIA_TYPE
from company_agents.api.schemas import Problem

_TEXT = """\
Every call brings `Authorization: Bearer …` with the token of an operator (`ca_op_…`), an agent (`ca_agent_…`) or a run of
one (`ca_run_…`). What a caller may do is in the table of permissions, docs/security/permissions.md.

Errors are `application/problem+json`; `code` tells them apart. Lists are `{"items": […], "next"}`: `next` goes into
`after` (for events: `before`). Creations take an `Idempotency-Key`. No credential is ever in an answer; a token of ours
is in the one that makes it.
"""

# Which problems a route may answer, by status: the name of the shared response, and what it means.
_PROBLEMS: dict[int, tuple[str, str]] = {
    400: ("Unreadable", "The body is no JSON."),
    401: ("Unauthenticated", "No token, or one that is not good."),
    403: ("Refused", "The table of permissions, or a rule, says no."),
    404: ("NotFound", "It does not exist, or not for this caller."),
    409: ("Conflict", "The present state forbids it."),
    413: (
        "TooLarge",
        f"The body is larger than {MOST_BODY} bytes; where an agent sends to a provider, than {MOST_SENT}.",
    ),
    415: ("NotDeclaredAsJson", "The body is not declared as JSON."),
    422: ("WrongUsage", "A field, an id or a parameter is wrong; or the provider did not accept the token."),
    429: ("TooMany", "Slow down; `Retry-After` says for how long."),
    500: ("Failed", "Something went wrong here."),
    503: ("Unavailable", "A service that is needed is out of reach, or busy."),
}


def describe(api: FastAPI) -> dict[str, Any]:
    """The OpenAPI document, with the errors and the ways to sign in that every route has."""
    document: dict[str, Any] = get_openapi(
        title=api.title, version=api.version, description=_TEXT, routes=api.routes, tags=None
    )
    for route in api.routes:
        if isinstance(route, APIRoute):
            for method in route.methods or ():
                _add_problems(document["paths"][route.path_format][method.lower()], route, method)
    components = document.setdefault("components", {})
    schemas = components.setdefault("schemas", {})
    for name in ("HTTPValidationError", "ValidationError"):
        schemas.pop(name, None)
    schemas.update(_problem_schemas())
    components["responses"] = {name: _response(status, text) for status, (name, text) in _PROBLEMS.items()}
    components["securitySchemes"] = {
        "agent": {"type": "http", "scheme": "bearer", "description": "an agent's token, `ca_agent_…`"},
        "run": {"type": "http", "scheme": "bearer", "description": "the token of an agent's run, `ca_run_…`"},
        "operator": {"type": "http", "scheme": "bearer", "description": "an operator's token, `ca_op_…`"},
    }
    document["security"] = [{"agent": []}, {"run": []}, {"operator": []}]
    return document


def _add_problems(operation: dict[str, Any], route: APIRoute, method: str) -> None:
    operation["responses"].pop("422", None)
    statuses = {401, 403, 422, 429, 500, 503}
    if route.param_convertors:
        statuses.add(404)
    if method != "GET":
        statuses |= {404, 409}
    if route.body_field is not None:
        statuses |= {400, 413, 415}
    for status in sorted(statuses):
        operation["responses"][str(status)] = {"$ref": f"#/components/responses/{_PROBLEMS[status][0]}"}


def _response(status: int, text: str) -> dict[str, Any]:
    response: dict[str, Any] = {
        "description": text,
        "content": {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}},
    }
    header = {401: "WWW-Authenticate", 429: "Retry-After"}.get(status)
    if header:
        response["headers"] = {header: {"schema": {"type": "string"}}}
    return response


def _problem_schemas() -> dict[str, Any]:
    schema = Problem.model_json_schema(mode="serialization", ref_template="#/components/schemas/{model}")
    return {**schema.pop("$defs", {}), "Problem": schema}
