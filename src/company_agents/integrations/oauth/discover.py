"""
Discovery (RFC 8414, OpenID Connect Discovery 1.0) and registration (RFC 7591) at any authorization server.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

from company_agents.errors import Refused, WrongUsage
from company_agents.integrations.oauth import replies
from company_agents.integrations.oauth.model import Client, Endpoints, NotNow, Rejected
from company_agents.integrations.oauth.replies import Fields
from company_agents.outgoing.exchange import Answer, Exchange, Lost, NotSent, admitted
from company_agents.sensitive import Sensitive

_AUTH = {
    "client_secret_basic": "basic",
    "client_secret_post": "post",
    "none": "none",
}
_LONGEST_ID = 1000


async def discover(exchange: Exchange, issuer: str, *, allow_private: bool) -> Endpoints:
    """
    Raises:
        WrongUsage: this is no issuer.
        Rejected: there is no metadata of this issuer, or an address in it will not do.
        NotNow: it could not be reached, or failed.
    """
    other, trouble = None, None
    for url in _places(issuer, allow_private):
        answer = await _got(exchange, url, allow_private)
        if answer.status == 429 or answer.status >= 500:
            trouble = trouble or f"{_host(url)} failed: HTTP {answer.status}"
            continue
        fields = _document(answer)
        if fields is None:
            continue
        # Exactly (RFC 8414, 3.3): whoever may write one page on a host must not speak for its server.
        if fields.get("issuer") == issuer:
            return _endpoints(fields, issuer, allow_private)
        other = other or fields.get("issuer")
    if trouble:
        raise NotNow(trouble, hint="try again later")
    if other is not None:
        raise Rejected("the server calls itself otherwise than it was called here", hint=_called(other, issuer))
    raise Rejected(
        "this server does not describe itself",
        hint="is it the issuer, exactly as the server's documentation has it? Or give its endpoints one by one",
    )


def _places(issuer: str, allow_private: bool) -> Iterator[str]:
    """Where metadata may be: inserted before the path (RFC 8414, 3.1), or behind it (OpenID Connect Discovery, 4)."""
    parts = urlsplit(issuer)
    if parts.query or "?" in issuer:
        raise WrongUsage("an issuer has neither a query nor a fragment")
    admitted("GET", issuer, allow_private=allow_private)
    origin, path = f"{parts.scheme}://{parts.netloc}", parts.path.rstrip("/")
    names = ("oauth-authorization-server", "openid-configuration")
    inserted = [f"{origin}/.well-known/{name}{path}" for name in names]
    behind = [f"{origin}{path}/.well-known/{name}" for name in reversed(names)]
    yield from dict.fromkeys([*inserted, *behind])


async def _got(exchange: Exchange, url: str, allow_private: bool) -> Answer:
    try:
        return await exchange.send("GET", url, headers={"Accept": "application/json"}, allow_private=allow_private)
    except (NotSent, Lost) as error:
        raise NotNow(error.sentence, hint=error.hint) from error
    except Refused as error:
        raise Rejected(error.sentence, hint=error.hint) from error


def _document(answer: Answer) -> Fields | None:
    if answer.status != 200:
        return None
    try:
        fields = replies.read(answer)
    except replies.Unreadable:
        return None
    return fields if isinstance(fields.get("issuer"), str) else None


def _called(other: Any, issuer: str) -> str:
    """Mostly it is a slash at the end; then the right name can be shown, as it is of the same host."""
    same = isinstance(other, str) and other.rstrip("/") == issuer.rstrip("/")
    return f"it calls itself {other}" if same else "give the issuer exactly as the server's documentation has it"


def _endpoints(fields: Fields, issuer: str, allow_private: bool) -> Endpoints:
    def at(name: str) -> str | None:
        value = fields.get(name)
        if value is None or value == "":
            return None
        try:
            if isinstance(value, str):
                admitted("POST", value, allow_private=allow_private)
                return value
        except WrongUsage:
            pass
        raise Rejected(
            f"the server names an address as its {name} that will not do",
            hint="addresses begin with https://, or are in a private network where that is allowed",
        )

    token = at("token_endpoint")
    if token is None:
        raise Rejected("the server names no token endpoint", hint="give its endpoints one by one")
    return Endpoints(
        token=token,
        issuer=issuer,
        authorization=at("authorization_endpoint"),
        device=at("device_authorization_endpoint"),
        revocation=at("revocation_endpoint"),
        introspection=at("introspection_endpoint"),
        registration=at("registration_endpoint"),
        iss_in_reply=fields.get("authorization_response_iss_parameter_supported") is True,
        allow_private=allow_private,
    )


def registration_request(*, redirect_uri: str, name: str, auth: str) -> dict[str, Any]:
    """Client metadata (RFC 7591, 2)."""
    return {
        "client_name": name,
        "redirect_uris": [redirect_uri],
        "grant_types": ["authorization_code", "refresh_token"],
        "response_types": ["code"],
        "token_endpoint_auth_method": auth,
    }


def registered(fields: Fields, endpoints: Endpoints, *, redirect_uri: str) -> Client:
    """
    The client, from the reply to its registration. What the server wrote down counts, not what it was asked for.

    Raises:
        Rejected: it is none that could be used.
    """
    client_id, secret = fields.get("client_id"), fields.get("client_secret")
    if not isinstance(client_id, str) or not client_id.isprintable() or not 0 < len(client_id) <= _LONGEST_ID:
        raise Rejected("the server registered nothing: there is no client id in its reply")
    uris = fields.get("redirect_uris")
    if isinstance(uris, list) and redirect_uri not in uris:
        raise Rejected("the server registered another redirect address than the one it was given")
    method = fields.get("token_endpoint_auth_method") or ("client_secret_basic" if secret else "none")
    auth = _AUTH.get(method) if isinstance(method, str) else None
    if auth == "none":
        return Client(client_id, auth, endpoints)
    if auth is None or not isinstance(secret, str) or not secret:
        raise Rejected("the server registered a client that cannot show who it is", hint="register it by hand")
    return Client(client_id, auth, endpoints, Sensitive(secret))


def _host(url: str) -> str:
    return urlsplit(url).netloc
