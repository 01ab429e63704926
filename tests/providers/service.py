"""
A service on loopback that behaves as a provider's file says: one address for each of its hosts, so that a credential that
goes to another one of them is seen. It reads the file by itself, and shares no code with what it tests.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote_plus, urlencode, urlsplit

from aiohttp import web
from joserfc import jwk, jwt

from company_agents.integrations.provider import CredentialPlace, Provider
from tests.providers.dotted import put

ACCOUNT = "ann@acme.example"
CLIENT_ID = "client:1"
CLIENT_SECRET = "a secret of client 1"
REDIRECT = "http://127.0.0.1:1/oauth/callback"
INSTALLATION = "4711"
LIFE = 3600
SAID = "this credential is not good"
GRANTS = {"device": "urn:ietf:params:oauth:grant-type:device_code"}


class Wrong(Exception):
    """A request is not as the file says."""


@dataclass
class Service:
    """What the service knows. `now`: its clock, which a test moves."""

    provider: Provider
    ports: dict[str, int] = field(default_factory=dict)
    api_tokens: set[str] = field(default_factory=set)
    access: dict[str, tuple[str, ...]] = field(default_factory=dict)
    refresh: dict[str, tuple[str, ...]] = field(default_factory=dict)
    used: dict[str, float] = field(default_factory=dict)
    codes: dict[str, dict[str, str]] = field(default_factory=dict)
    devices: dict[str, tuple[str, ...] | None] = field(default_factory=dict)
    wrong: list[str] = field(default_factory=list)
    calls: list[web.Request] = field(default_factory=list)
    bodies: list[bytes] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)
    # A word that the next request to the token endpoint is refused with.
    refuse: str | None = None
    app_key: bytes = b""
    now: float = 0.0

    # — hosts —

    def at(self, url: str) -> str:
        """An address of the provider, here."""
        parts = urlsplit(url)
        return f"http://127.0.0.1:{self.ports[parts.netloc]}{parts.path}{'?' + parts.query if parts.query else ''}"

    def here(self) -> Provider:
        """The provider with its hosts replaced, and nothing else."""
        data = self.provider.model_dump(mode="json")
        if data["base_url"]:
            data["base_url"] = self.at(data["base_url"]).rstrip("/")
        for name, value in (data["oauth"] or {}).items():
            if name == "issuer" or (name.endswith("_url") and value):
                data["oauth"][name] = value and self.local(value)
        # They share the port of the first: none of them is asked here.
        data["extra_hosts"] = []
        return Provider.model_validate(data)

    def local(self, url: str) -> str:
        if url.startswith("https://{host}"):
            return url.replace("https://", "http://")
        return self.at(url).rstrip("/") if urlsplit(url).path in ("", "/") else self.at(url)

    @property
    def base_url(self) -> str | None:
        """What a person gives as the address, where the provider has none of its own."""
        return None if self.provider.base_url else self.at(api_address(self.provider)).rstrip("/")

    # — requests —

    async def answer(self, request: web.Request) -> web.StreamResponse:
        self.bodies.append(await request.read())
        oauth = self.provider.oauth
        host = next(name for name, port in self.ports.items() if port == _port(request))
        try:
            if oauth is not None:
                for kind in ("authorization", "token", "device", "revocation", "introspection"):
                    url = getattr(oauth, f"{kind}_url") or (self._discovered(kind) if oauth.issuer else None)
                    if url and self._is(url, host, request.path):
                        self.asked.append(kind)
                        return await getattr(self, f"_at_{kind}")(request)
                if oauth.issuer and (host, request.path) == (_host(oauth.issuer), "/.well-known/openid-configuration"):
                    return self._about(oauth.issuer)
            if host == _host(api_address(self.provider)) and not request.path.startswith("/.well-known/"):
                self.calls.append(request)
                return self._called(request)
        except Wrong as wrong:
            self.wrong.append(f"{request.method} {host}{request.path}: {wrong}")
            return web.json_response({"error": "invalid_request"}, status=400)
        return web.json_response({"message": "there is nothing here"}, status=404)

    def _is(self, url: str, host: str, path: str) -> bool:
        parts = urlsplit(url)
        if parts.netloc.replace("{host}", _host(api_address(self.provider))) != host:
            return False
        pattern = re.escape(parts.path).replace(re.escape("{client_id}"), re.escape(CLIENT_ID))
        return re.fullmatch(pattern.replace(re.escape("{installation}"), r"\d+"), path) is not None

    def _called(self, request: web.Request) -> web.StreamResponse:
        probe = self.provider.probe
        for name, value in self.provider.headers.items():
            _check(request.headers.get(name) == value, f"the header {name}")
        token = self._credential(request)
        if probe is None:
            return web.json_response({} if token else {"error": SAID}, status=200 if token else 401)
        _check((request.method, request.path) == (probe.method, probe.path), "the probe's method and path")
        if probe.body:
            _check(self.bodies[-1] == probe.body.encode(), "the probe's body")
            _check(request.content_type == "application/json", "the probe's content type")
        if token:
            reply = put(probe.account, ACCOUNT, put(probe.ok, True, None))
            headers = {probe.scopes_header: "one, two"} if probe.scopes_header else {}
            return web.json_response(reply if reply is not None else {}, headers=headers)
        if self.provider.refused_codes:
            code = sorted(self.provider.refused_codes)[0]
            return web.json_response(put(probe.error[0], code, put(probe.ok, False, None)))
        return web.json_response(put(probe.error[0], SAID, None), status=401)

    def _credential(self, request: web.Request) -> str | None:
        """The token in a call, if it stands where the file says, and is good."""
        oauth = self.provider.oauth
        places = [(self.provider.credential, self.api_tokens)]
        places.append(((oauth and oauth.credential) or self.provider.credential, set(self.access)))
        return next((token for place, good in places for token in good if _carries(request, place, token)), None)

    # — the authorization server —

    def _discovered(self, kind: str) -> str:
        assert self.provider.oauth is not None
        return f"{str(self.provider.oauth.issuer).rstrip('/')}/{kind}"

    def _about(self, issuer: str) -> web.StreamResponse:
        found = {
            f"{kind}_endpoint": self.at(self._discovered(kind)) for kind in ("authorization", "token", "revocation")
        }
        return web.json_response({"issuer": self.local(issuer), "response_types_supported": ["code"], **found})

    async def _at_authorization(self, request: web.Request) -> web.StreamResponse:
        oauth, query = self.provider.oauth, dict(request.query)
        assert oauth is not None
        wanted = {"response_type": "code", "client_id": CLIENT_ID, "redirect_uri": REDIRECT, **oauth.parameters}
        for name, value in wanted.items():
            _check(query.get(name) == value, f"the parameter {name}")
        names = [scope.name for scope in oauth.scopes]
        _check(query.get(oauth.scope_parameter) == (oauth.scope_separator.join(names) if names else None), "the scopes")
        _check(query.get("code_challenge_method") == ("S256" if oauth.pkce else None), "PKCE")
        code = secrets.token_urlsafe(16)
        self.codes[code] = query
        reply = {"code": code, "state": query["state"]}
        if oauth.iss_in_reply:
            reply["iss"] = self.local(str(oauth.issuer))
        raise web.HTTPFound(f"{REDIRECT}?{urlencode(reply)}")

    async def _at_device(self, request: web.Request) -> web.StreamResponse:
        fields = self._fields(request, as_json=False)
        self._check_client(request, fields)
        oauth = self.provider.oauth
        assert oauth is not None
        _check(fields["scope"] == oauth.scope_separator.join(scope.name for scope in oauth.scopes), "the scopes")
        code = secrets.token_urlsafe(16)
        self.devices[code] = None
        return web.json_response(
            {
                "device_code": code,
                "user_code": "ABCD-1234",
                "verification_uri": self.at(str(oauth.device_url)),
                "expires_in": 900,
                "interval": 1,
            }
        )

    async def _at_revocation(self, request: web.Request) -> web.StreamResponse:
        oauth = self.provider.oauth
        assert oauth is not None
        by_id = "{client_id}" in str(oauth.revocation_url)
        fields = self._fields(request, as_json=by_id)
        # Where the client's id is in the address, its API is asked, which takes Basic and nothing else.
        self._check_client(request, fields, "basic" if by_id else oauth.auth)
        _check(request.method == ("DELETE" if by_id else "POST"), "the method")
        token = fields["access_token" if by_id else "token"]
        if oauth.revocation_ends_all:
            self.access.clear()
            self.refresh.clear()
        self.access.pop(token, None)
        self.refresh.pop(token, None)
        return web.Response(status=204 if by_id else 200)

    async def _at_introspection(self, request: web.Request) -> web.StreamResponse:
        fields = self._fields(request, as_json=False)
        self._check_client(request, fields)
        return web.json_response({"active": fields["token"] in self.access})

    # — what a token request has to be —

    def _fields(self, request: web.Request, *, as_json: bool) -> dict[str, str]:
        if as_json:
            _check(request.content_type == "application/json", "JSON")
            fields: dict[str, str] = json.loads(self.bodies[-1])
            return fields
        _check(request.content_type == "application/x-www-form-urlencoded", "a form")
        pairs = [part.partition("=") for part in self.bodies[-1].decode().split("&")]
        return {unquote_plus(name): unquote_plus(value) for name, _, value in pairs}

    def _check_client(self, request: web.Request, fields: dict[str, str], auth: str | None = None) -> None:
        assert self.provider.oauth is not None
        if (auth or self.provider.oauth.auth) == "basic":
            _check("client_secret" not in fields, "no secret beside Basic")
            scheme, _, pair = request.headers.get("Authorization", "").partition(" ")
            _check(scheme == "Basic", "Basic")
            user, _, password = base64.b64decode(pair).decode().partition(":")
            given = (unquote_plus(user), unquote_plus(password))
        else:
            _check("Authorization" not in request.headers, "no Authorization beside the fields")
            given = (fields.get("client_id", ""), fields.get("client_secret", ""))
        _check(given == (CLIENT_ID, CLIENT_SECRET), "the client's id and secret")

    async def _at_token(self, request: web.Request) -> web.StreamResponse:
        oauth = self.provider.oauth
        assert oauth is not None
        if oauth.quirk == "github_app":
            return self._installation(request)
        fields = self._fields(request, as_json=oauth.token_request == "json")
        self._check_client(request, fields)
        for name, value in oauth.token_parameters.items():
            _check(fields.get(name) == value, f"the parameter {name}")
        for name, value in oauth.token_headers.items():
            _check(request.headers.get(name) == value, f"the header {name}")
        if self.refuse is not None:
            word, self.refuse = self.refuse, None
            return self._refused(word)
        grant = fields["grant_type"]
        if grant == "authorization_code":
            return self._redeemed(fields)
        if grant == "refresh_token":
            return self._refreshed(fields["refresh_token"])
        if grant == "client_credentials":
            names = tuple(scope.name for scope in oauth.scopes)
            wanted = oauth.scope_separator.join(names) if names else None
            _check(fields.get(oauth.scope_parameter) == wanted, "the scopes")
            return self._given(names, refresh=False)
        _check(grant == GRANTS["device"], "the grant type")
        scopes = self.devices[fields["device_code"]]
        return self._refused("authorization_pending") if scopes is None else self._given(scopes)

    def _redeemed(self, fields: dict[str, str]) -> web.StreamResponse:
        oauth = self.provider.oauth
        assert oauth is not None
        asked = self.codes.pop(fields["code"], None)
        if asked is None:
            return self._refused("invalid_grant")
        _check(fields["redirect_uri"] == asked["redirect_uri"], "the redirect address")
        verifier = fields.get("code_verifier")
        _check((verifier is not None) == oauth.pkce, "the verifier")
        if verifier is not None:
            challenge = base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).rstrip(b"=").decode()
            _check(challenge == asked["code_challenge"], "the verifier")
        if oauth.one_consent:
            self.access.clear()
            self.refresh.clear()
        return self._given(tuple(scope.name for scope in oauth.scopes))

    def _refreshed(self, token: str) -> web.StreamResponse:
        oauth = self.provider.oauth
        assert oauth is not None
        assert oauth.refresh is not None
        scopes = self.refresh.get(token)
        used = self.used.get(token)
        late = used is not None and self.now > used + oauth.refresh.reuse_window
        if scopes is None or late or (used is not None and not oauth.refresh.reuse_window):
            return self._refused(min(oauth.gone_codes, default="invalid_grant"))
        if oauth.refresh.kills_access:
            self.access.clear()
        if oauth.refresh.single_use:
            self.used.setdefault(token, self.now)
        return self._given(scopes, refresh=oauth.refresh.single_use)

    def _given(self, scopes: tuple[str, ...], *, refresh: bool = True) -> web.StreamResponse:
        oauth = self.provider.oauth
        assert oauth is not None
        access = f"access-{secrets.token_urlsafe(24)}"
        self.access[access] = scopes
        reply = put(oauth.access_field, access, {"token_type": "bearer"})
        if scopes:
            reply = put(oauth.scope_field, oauth.scope_separator.join(scopes), reply)
        if oauth.refresh is not None:
            if oauth.lifetime is None:
                reply = put(oauth.expires_field, LIFE, reply)
            if refresh:
                token = f"refresh-{secrets.token_urlsafe(24)}"
                self.refresh[token] = scopes
                reply = put(oauth.refresh_field, token, reply)
        if oauth.account_field:
            reply = put(oauth.account_field, ACCOUNT, reply)
        if oauth.quirk == "slack":
            reply = {**reply, "ok": True, "token_type": "bot"}
        return self._said(reply, 200)

    def _refused(self, word: str) -> web.StreamResponse:
        slack = self.provider.oauth is not None and self.provider.oauth.quirk == "slack"
        return self._said({"error": word, **({"ok": False} if slack else {})}, 400)

    def _said(self, reply: dict[str, Any], status: int) -> web.StreamResponse:
        # Two services refuse with 200, and one of them answers as a form.
        if self.provider.name == "github":
            return web.Response(text=urlencode(reply), content_type="application/x-www-form-urlencoded")
        return web.json_response(reply, status=200 if self.provider.name == "slack" else status)

    def _installation(self, request: web.Request) -> web.StreamResponse:
        scheme, _, proof = request.headers.get("Authorization", "").partition(" ")
        _check(scheme == "Bearer", "a bearer token")
        claims = jwt.decode(proof, jwk.RSAKey.import_key(self.app_key), algorithms=["RS256"]).claims
        _check(claims["iss"] == CLIENT_ID, "the app")
        _check(0 < claims["exp"] - claims["iat"] <= 600, "a proof of ten minutes at most")
        if request.path.split("/")[3] != INSTALLATION:
            return web.json_response({"message": "Not Found"}, status=404)
        access = f"ghs_{secrets.token_urlsafe(24)}"
        self.access[access] = ("contents:read",)
        reply = {"token": access, "expires_at": "2099-01-01T00:00:00Z", "permissions": {"contents": "read"}}
        return web.json_response(reply, status=201)


def api_address(provider: Provider) -> str:
    """Where its calls go: its own address, or what one of a customer looks like."""
    return provider.base_url or provider.address_hint or "https://api.acme.example"


def hosts(provider: Provider) -> list[str]:
    """All hosts that are asked, each once."""
    oauth = provider.oauth
    urls = [
        api_address(provider),
        *(oauth.urls() if oauth else ()),
        *([oauth.issuer] if oauth and oauth.issuer else []),
    ]
    return list(dict.fromkeys(_host(url) for url in urls if "{host}" not in url))


@asynccontextmanager
async def serving(provider: Provider) -> AsyncIterator[Service]:
    """The service, as long as the context lasts."""
    service = Service(provider)
    application = web.Application()
    application.router.add_route("*", "/{path:.*}", service.answer)
    runner = web.AppRunner(application, access_log=None)
    await runner.setup()
    try:
        for host in hosts(provider):
            site = web.TCPSite(runner, "127.0.0.1", 0)
            await site.start()
            service.ports[host] = runner.addresses[-1][1]
        yield service
    finally:
        await runner.cleanup()


def _host(url: str) -> str:
    return urlsplit(url).netloc


def _port(request: web.Request) -> int:
    assert request.transport is not None
    port: int = request.transport.get_extra_info("sockname")[1]
    return port


def _check(good: bool, what: str) -> None:
    if not good:
        raise Wrong(what)


def _carries(request: web.Request, place: CredentialPlace, token: str) -> bool:
    filled = place.template.replace("{token}", token)
    if place.kind == "query":
        return request.query.get(place.name) == token
    if place.kind == "basic":
        filled = "Basic " + base64.b64encode(filled.encode()).decode()
    return request.headers.get(place.name) == filled
