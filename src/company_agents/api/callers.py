"""
Who is calling, and in the name of which company: decided for every route before anything of the body is read.

A route is of a class here, so that one without the check cannot be written by forgetting it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Coroutine
from typing import Annotated, Any

from fastapi import Depends, Path
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from company_agents.api.fields import Id, canonical_id
from company_agents.app import App
from company_agents.errors import NotFound, Refused, Unauthenticated, WrongUsage
from company_agents.identity.identity import Identity
from company_agents.identity.principal import Caller, Principal

KIB = 1024
MOST_BODY = 256 * KIB
# A call of an agent carries what it sends: the limit of outgoing bodies, and what JSON adds to it.
MOST_SENT = 12 * KIB * KIB

_WHO = "company_agents.who"
_CALLER = "company_agents.caller"
_OURS = re.compile(r"ca_(agent|op|run)_")

Handler = Callable[[Request], Coroutine[Any, Any, Response]]


class GuardedRoute(APIRoute):
    """A route that knows its caller."""

    most_body = MOST_BODY

    def get_route_handler(self) -> Handler:
        """The handler of the route, behind the checks."""
        handle = self.inner_handler()
        has_body = self.body_field is not None
        most_body = self.most_body

        async def guarded(request: Request) -> Response:
            identity: Identity = request.scope["app"].state.parts.identity
            who = await identity.bearer(_token(request))
            request.scope[_WHO] = who
            if "cid" in request.path_params:
                request.scope[_CALLER] = await _in_company(identity, who, request.path_params["cid"])
            if has_body:
                request = incoming = _Incoming(request.scope, request.receive)
                await incoming.take(most_body)
            response = await handle(request)
            # Some answers hold a token, and all of them are for one caller.
            response.raw_headers.append((b"cache-control", b"no-store"))
            return response

        return guarded

    def inner_handler(self) -> Handler:
        """What comes after the checks: the framework's reading of parameters and writing of results."""
        return super().get_route_handler()


class QuickRoute(GuardedRoute):
    """The same, for an endpoint that takes the request as it is and gives the response itself."""

    def inner_handler(self) -> Handler:
        """The endpoint."""
        endpoint: Handler = self.endpoint
        return endpoint


class SendingRoute(GuardedRoute):
    """The same, for a route that takes what an agent sends to a provider."""

    most_body = MOST_SENT


class _Incoming(Request):
    """A request whose body is JSON, of bounded size."""

    async def take(self, most: int) -> None:
        """
        Read the body.

        Raises:
            HTTPException: it is too large, or not declared as JSON.
        """
        declared = self.headers.get("content-length", "")
        if declared.isdigit() and int(declared) > most:
            raise HTTPException(413)
        chunks: list[bytes] = []
        size = 0
        async for chunk in self.stream():
            size += len(chunk)
            if size > most:
                raise HTTPException(413)
            chunks.append(chunk)
        self._body = b"".join(chunks)
        declarations = self.headers.getlist("content-type")
        media_types = [text.partition(";")[0].strip().lower() for text in declarations]
        if (self._body or declarations) and media_types != ["application/json"]:
            raise HTTPException(415)

    async def json(self) -> Any:
        """
        The body, parsed more strictly than Python does: UTF-8 alone, no constants beyond JSON, and no name twice,
        since whoever looked at the body on its way may have read the other value.
        """
        return json.loads(self._body.decode(), parse_constant=_no_constant, object_pairs_hook=_unrepeated)


def _no_constant(name: str) -> None:
    raise ValueError("this is no JSON")


def _unrepeated(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name is there twice")
    return found


def _token(request: Request) -> str:
    found: list[bytes] = [value for name, value in request.scope["headers"] if name == b"authorization"]
    if len(found) == 1:
        scheme, _, token = found[0].decode("latin-1").partition(" ")
        if scheme.lower() == "bearer" and token.strip():
            return token.strip()
    if _OURS.search(request.scope["query_string"].decode("latin-1")):
        raise Unauthenticated(
            "a token in the address is not accepted",
            hint="send it as `Authorization: Bearer …`, and have it rotated: addresses are written to logs",
        )
    raise Unauthenticated(
        "this needs a token", hint="send `Authorization: Bearer …` with an agent's or an operator's token, once"
    )


async def _in_company(identity: Identity, who: Caller | Principal, text: str) -> Caller:
    try:
        company_id = canonical_id(text)
    except ValueError:
        raise WrongUsage("the id of the company is no id", hint="/v1/companies lists them") from None
    if isinstance(who, Principal):
        return await identity.in_company(who, company_id)
    if who.scope.company_id != company_id:
        raise NotFound("this company does not exist", hint="an agent has one company; /v1/me says which")
    return who


def who_calls(request: Request) -> Caller | Principal:
    """An agent in its company, or an operator."""
    who: Caller | Principal = request.scope[_WHO]
    return who


async def _parts(request: Request) -> App:
    app: App = request.app.state.parts
    return app


async def _caller(request: Request, cid: Annotated[Id, Path(description="the company's id")]) -> Caller:
    caller: Caller = request.scope[_CALLER]
    return caller


async def _principal(request: Request) -> Principal:
    who = who_calls(request)
    return who if isinstance(who, Principal) else who.principal


async def _operator(request: Request) -> Principal:
    who = who_calls(request)
    if not isinstance(who, Principal):
        # Own tokens are no matter of the table of permissions: an agent has none of these.
        raise Refused("only an operator may do this", hint="use an operator's token")
    return who


Parts = Annotated[App, Depends(_parts)]
InCompany = Annotated[Caller, Depends(_caller)]
Who = Annotated[Principal, Depends(_principal)]
Person = Annotated[Principal, Depends(_operator)]
