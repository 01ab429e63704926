"""
An authorization server of others' making (Authlib's server side, Flask) on loopback, that misbehaves when it is told to.

    with AuthorizationServer() as server:
        client = server.add_client("client-1", "secret-of-client-1", redirect_uris=["http://127.0.0.1:1/callback"])
        server.misbehave("lose", on="/token")          the next token request is carried out, its reply is lost

It has `/authorize` (a page with the buttons "Approve" and "Deny"), `/token`, `/device_authorization`, `/device`, `/revoke`,
`/introspect`, `/register`, its metadata, and a resource `/api/me` that wants a bearer token.

Settings stand in `server.state` (see state.py): `rotate`, `reuse_window`, `lifetime`, `kills_access`, `one_consent`, …; and here:
`consent` ("page", "approve", "deny": without a person), `iss` (what authorization replies carry; None: nothing), `style`
("standard", "slack", "github": how the token endpoint answers), `clock_offset` (seconds).
"""

from __future__ import annotations

import io
import json
import os
import secrets
import socket
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from email.utils import formatdate
from typing import Any, Self
from urllib.parse import parse_qsl, urlencode

from authlib.common.urls import add_params_to_uri
from authlib.oauth2 import OAuth2Error
from flask import Flask, Response, jsonify, redirect, render_template_string, request
from werkzeug.serving import WSGIRequestHandler, make_server

from tests.oauth.protocol import authorization_server
from tests.oauth.state import PERSON, SCOPES, RegisteredClient, State, Token

# It is on loopback, and Authlib wants to be told.
os.environ.setdefault("AUTHLIB_INSECURE_TRANSPORT", "1")

_PAGE = """<!doctype html><title>Consent</title>
<h1>{{ client }} asks for</h1>
<ul>{% for scope in scopes %}<li>{{ scope }}</li>{% endfor %}</ul>
<form method="post"><button name="decision" value="approve">Approve</button>
<button name="decision" value="deny">Deny</button></form>"""

_DEVICE_PAGE = """<!doctype html><title>Device</title>
<form method="post"><label>Code <input name="user_code" value="{{ code }}"></label>
<button name="decision" value="approve">Approve</button><button name="decision" value="deny">Deny</button></form>"""

Start = Callable[..., Any]


@dataclass
class Misbehaviour:
    """
    How the next `times` requests to a path are mistreated:

        lose      carried out; then the connection is closed without a reply
        refuse    not carried out; the connection is closed at once
        hold      carried out; the reply waits for `server.release()` (or for `seconds`)
        slow      held up for `seconds` before it is carried out
        busy      not carried out; 429, with Retry-After where `retry_after` is given
        status    not carried out; `status`, with `body` and `headers`
        replace   carried out; the reply is `status`, `body` and `headers`
        change    carried out; its JSON is changed by the function `change`
    """

    kind: str
    on: str
    times: int
    seconds: float = 5.0
    status: int = 500
    body: str | bytes = ""
    headers: dict[str, str] = field(default_factory=dict)
    retry_after: str | None = None
    change: Callable[[dict[str, Any]], Any] | None = None


@dataclass
class Call:
    """One request, as it came. `fields`: of a form or of JSON. `status`: None where no reply was sent."""

    method: str
    path: str
    headers: dict[str, str]
    fields: dict[str, Any]
    status: int | None = None


class AuthorizationServer:
    """Runs between `start` and `stop`, or as a context manager."""

    def __init__(self) -> None:
        self.state = State()
        self.consent = "page"
        self.style = "standard"
        self.clock_offset = 0.0
        self.calls: list[Call] = []
        self._misbehaviours: list[Misbehaviour] = []
        self._published: dict[str, tuple[Any, int]] = {}
        self._released = threading.Event()
        self._held = threading.Semaphore(0)
        self._server = make_server("127.0.0.1", 0, self._serve, threaded=True, request_handler=_handler(self))
        self.url = f"http://127.0.0.1:{self._server.port}"
        # What authorization replies carry as `iss`.
        self.iss: str | None = self.url
        self.metadata: dict[str, Any] = self._metadata()
        self._app = self._routes()
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)

    def start(self) -> Self:
        self._thread.start()
        return self

    def stop(self) -> None:
        self._released.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(5)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    # What tests say to it.

    def add_client(
        self,
        id: str = "client-1",
        secret: str = "secret-of-client-1",
        *,
        auth: str = "client_secret_post",
        redirect_uris: Iterable[str] = (),
        public_key: bytes = b"",
    ) -> RegisteredClient:
        client = RegisteredClient(id, secret, auth, list(redirect_uris), public_key)
        self.state.clients[id] = client
        return client

    def grant(self, client_id: str, *, scope: str = "read", expires_in: float | None = None) -> Token:
        """A consent without a browser: an access token and a refresh token, of a family of their own."""
        given = {
            "access_token": f"access-{secrets.token_urlsafe(32)}",
            "refresh_token": f"refresh-{secrets.token_urlsafe(32)}",
            "scope": scope,
            "expires_in": self.state.lifetime if expires_in is None else expires_in,
        }
        with self.state.lock:
            return self.state.save(given, client_id=client_id, user=PERSON, family=None)

    def misbehave(self, kind: str, *, on: str = "/token", times: int = 1, **how: Any) -> Misbehaviour:
        """From the next request to `on` (a path), for so many of them. Later ones wait for the earlier ones to be over."""
        misbehaviour = Misbehaviour(kind, on, times, **how)
        with self.state.lock:
            self._released.clear()
            self._misbehaviours.append(misbehaviour)
        return misbehaviour

    def behave(self) -> None:
        """Forget all misbehaviour, and let go what is held."""
        with self.state.lock:
            self._misbehaviours.clear()
        self.release()

    def release(self) -> None:
        """Let go what `hold` and `slow` keep waiting."""
        self._released.set()

    def wait_until_held(self, seconds: float = 10) -> None:
        """Until one more request has been carried out, and its reply is held."""
        assert self._held.acquire(timeout=seconds), "nothing was held"

    def refresh_count(self, token: str | None = None) -> int:
        """Refreshes that were carried out: of the family of this access or refresh token, or all."""
        with self.state.lock:
            if token is None:
                return sum(self.state.refreshes.values())
            found = self.state.by_access.get(token) or self.state.by_refresh.get(token)
            return self.state.refreshes.get(found.family, 0) if found else 0

    def is_good(self, access: str) -> bool:
        """Whether the resource would take this access token now."""
        with self.state.lock:
            return self.state.bearer(access) is not None

    def is_dead(self, token: str) -> bool:
        """Whether the whole family of this token was revoked."""
        with self.state.lock:
            found = self.state.by_access.get(token) or self.state.by_refresh.get(token)
            return found is None or found.family in self.state.dead_families

    def kill(self, token: str) -> None:
        """Revoke the consent behind a token, as a person does on the provider's pages."""
        with self.state.lock:
            found = self.state.by_access.get(token) or self.state.by_refresh[token]
            self.state.kill(found.family)

    def decide(self, user_code: str, *, approve: bool = True) -> None:
        """What a person does on the page of the device flow."""
        with self.state.lock:
            next(d for d in self.state.devices.values() if d.user_code == user_code).approved = approve

    def publish(self, path: str, content: Any, status: int = 200) -> None:
        """Answer with this JSON at a path of its own, or in place of what is there."""
        self._published[path] = (content, status)

    def calls_to(self, path: str) -> list[Call]:
        with self.state.lock:
            return [call for call in self.calls if call.path == path]

    def now(self) -> float:
        """By its own clock."""
        return time.time() + self.clock_offset

    # How it answers.

    def _serve(self, environ: dict[str, Any], start_response: Start) -> Iterable[bytes]:
        body = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
        call = _call(environ, body)
        with self.state.lock:
            self.calls.append(call)
            found = next((one for one in self._misbehaviours if one.on == call.path and one.times > 0), None)
            if found:
                found.times -= 1
        if found and found.kind == "slow":
            self._released.wait(found.seconds)
        if found and found.kind == "refuse":
            return _hang_up(environ)
        if found and found.kind in ("busy", "status"):
            reply = _given(found)
        else:
            with self.state.lock:
                reply = self._carried_out(environ, call, body)
            if found:
                if found.kind == "hold":
                    self._held.release()
                    self._released.wait(found.seconds)
                if found.kind == "lose":
                    return _hang_up(environ)
                reply = _changed(found, reply)
        call.status = reply.status_code
        return reply(environ, start_response)

    def _carried_out(self, environ: dict[str, Any], call: Call, body: bytes) -> Response:
        if call.path in self._published:
            content, status = self._published[call.path]
            return Response(json.dumps(content), status, content_type="application/json")
        if call.path == "/token" and "json" in environ.get("CONTENT_TYPE", ""):
            # Authlib knows forms only.
            body = urlencode(call.fields).encode()
            environ = {**environ, "CONTENT_TYPE": "application/x-www-form-urlencoded", "CONTENT_LENGTH": str(len(body))}
        with self._app.request_context({**environ, "wsgi.input": io.BytesIO(body)}):
            reply: Response = self._app.full_dispatch_request()
        return _styled(self.style, reply) if call.path == "/token" else reply

    def _metadata(self) -> dict[str, Any]:
        return {
            "issuer": self.url,
            "authorization_endpoint": f"{self.url}/authorize",
            "token_endpoint": f"{self.url}/token",
            "device_authorization_endpoint": f"{self.url}/device_authorization",
            "revocation_endpoint": f"{self.url}/revoke",
            "introspection_endpoint": f"{self.url}/introspect",
            "registration_endpoint": f"{self.url}/register",
            "response_types_supported": ["code"],
            "scopes_supported": list(SCOPES),
            "code_challenge_methods_supported": ["S256"],
            "authorization_response_iss_parameter_supported": True,
        }

    def _routes(self) -> Flask:
        app = Flask(__name__)
        server = authorization_server(app, self.state, self.url)

        @app.get("/.well-known/oauth-authorization-server")
        def metadata():
            return jsonify(self.metadata)

        @app.route("/authorize", methods=["GET", "POST"])
        def authorize():
            try:
                grant = server.get_consent_grant(end_user=PERSON)
            except OAuth2Error as error:
                return server.handle_error_response(None, error)
            if request.method == "GET" and self.consent == "page":
                scopes = (grant.request.payload.scope or "").split()
                return render_template_string(_PAGE, client=grant.client.id, scopes=scopes)
            decision = request.form.get("decision") or self.consent
            user = PERSON if decision == "approve" else None
            reply = server.create_authorization_response(grant_user=user, grant=grant)
            return redirect(add_params_to_uri(reply.location, {"iss": self.iss})) if self.iss else reply

        @app.post("/token")
        def token():
            return server.create_token_response()

        @app.route("/device", methods=["GET", "POST"])
        def device():
            if request.method == "GET":
                return render_template_string(_DEVICE_PAGE, code=request.args.get("user_code", ""))
            self.decide(request.form["user_code"], approve=request.form["decision"] == "approve")
            return "You may close this page."

        for path, name in [
            ("/revoke", "revocation"),
            ("/introspect", "introspection"),
            ("/register", "client_registration"),
            ("/device_authorization", "device_authorization"),
        ]:
            app.post(path, endpoint=name)(lambda name=name: server.create_endpoint_response(name))

        @app.route("/api/me", methods=["GET", "POST"])
        def me():
            kind, _, access = request.headers.get("Authorization", "").partition(" ")
            found = self.state.bearer(access) if kind == "Bearer" else None
            if found is None:
                return jsonify(error="invalid_token"), 401, {"WWW-Authenticate": 'Bearer error="invalid_token"'}
            return jsonify(ok=True, login=found.user or found.client_id, scope=found.scope)

        return app


def _handler(server: AuthorizationServer) -> type[WSGIRequestHandler]:
    class Handler(WSGIRequestHandler):
        protocol_version = "HTTP/1.1"

        def log(self, *_: Any) -> None:
            pass

        def date_time_string(self, timestamp=None):
            return formatdate(server.now(), usegmt=True)

    return Handler


def _call(environ: dict[str, Any], body: bytes) -> Call:
    headers = {name[5:].replace("_", "-").lower(): value for name, value in environ.items() if name.startswith("HTTP_")}
    kind = headers["content-type"] = environ.get("CONTENT_TYPE", "")
    fields = json.loads(body) if "json" in kind and body else dict(parse_qsl(body.decode()))
    return Call(environ["REQUEST_METHOD"], environ["PATH_INFO"], headers, fields)


def _hang_up(environ: dict[str, Any]) -> Iterable[bytes]:
    environ["werkzeug.socket"].shutdown(socket.SHUT_RDWR)
    # What werkzeug takes for a client that left, quietly.
    raise ConnectionResetError


def _given(how: Misbehaviour) -> Response:
    if how.kind == "busy":
        headers = {"Retry-After": how.retry_after} if how.retry_after is not None else {}
        return Response("slow down", 429, headers)
    return Response(how.body, how.status, how.headers)


def _changed(how: Misbehaviour, reply: Response) -> Response:
    if how.kind == "replace":
        return _given(how)
    if how.kind == "change" and how.change:
        content = reply.get_json()
        content = how.change(content) or content
        return Response(json.dumps(content), reply.status_code, content_type="application/json")
    return reply


def _styled(style: str, reply: Response) -> Response:
    content = reply.get_json()
    if style == "github":
        return Response(urlencode(content), 200, content_type="application/x-www-form-urlencoded; charset=utf-8")
    if style == "slack":
        if "error" in content:
            return Response(json.dumps({"ok": False, "error": content["error"]}), 200, content_type="application/json")
        team = {"id": "T1", "name": "Acme"}
        nested = {"ok": True, **content, "token_type": "bot", "team": team, "authed_user": {"id": "U1"}}
        nested["scope"] = nested.get("scope", "").replace(" ", ",")
        return Response(json.dumps(nested), 200, content_type="application/json")
    return reply
