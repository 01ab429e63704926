"""
The grants and endpoints of the tests' authorization server: Authlib's own, over the state in memory.
"""

from __future__ import annotations

import secrets
import time

from authlib.integrations.flask_oauth2 import AuthorizationServer
from authlib.oauth2.rfc6749 import grants
from authlib.oauth2.rfc6750 import BearerTokenGenerator
from authlib.oauth2.rfc7009 import RevocationEndpoint
from authlib.oauth2.rfc7523 import JWTBearerClientAssertion
from authlib.oauth2.rfc7591 import ClientRegistrationEndpoint
from authlib.oauth2.rfc7636 import CodeChallenge
from authlib.oauth2.rfc7662 import IntrospectionEndpoint
from authlib.oauth2.rfc8628 import DeviceAuthorizationEndpoint, DeviceCodeGrant
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from flask import Flask
from joserfc import jwk

from tests.oauth.state import PERSON, Code, Device, RegisteredClient, State, Token

METHODS = ["client_secret_basic", "client_secret_post", "none", "client_assertion_jwt"]


def authorization_server(app: Flask, state: State, url: str) -> AuthorizationServer:
    """`url`: of the server, which is also its issuer."""

    def save_token(token, request):
        old = getattr(request, "refresh_token", None)
        code = getattr(request, "authorization_code", None)
        family = old.family if old else code.family if code else None
        state.save(token, client_id=request.client.id, user=request.user, family=family, renewed=old is not None)
        device = getattr(request, "credential", None)
        if isinstance(device, Device):
            device.used = True

    server = AuthorizationServer(app, query_client=state.clients.get, save_token=save_token)
    server.register_token_generator(
        "default",
        BearerTokenGenerator(
            lambda **_: f"access-{secrets.token_urlsafe(32)}",
            lambda **_: f"refresh-{secrets.token_urlsafe(32)}",
            lambda *_: state.lifetime if state.lifetime % 1 else int(state.lifetime),
        ),
    )
    server.register_client_auth_method("client_assertion_jwt", _assertion(state, url))
    server.register_grant(_code_grant(state), [CodeChallenge(required=True)])
    server.register_grant(_refresh_grant(state))
    server.register_grant(_client_grant())
    server.register_grant(_device_grant(state))
    for endpoint in (_revocation(state), _introspection(state), _registration(state), _device_endpoint(state, url)):
        server.register_endpoint(endpoint)
    return server


def _code_grant(state: State):
    class CodeGrant(grants.AuthorizationCodeGrant):
        TOKEN_ENDPOINT_AUTH_METHODS = METHODS

        def save_authorization_code(self, code, request):
            data = request.payload.data
            state.codes[code] = Code(
                code=code,
                client_id=request.client.id,
                redirect_uri=request.payload.redirect_uri,
                scope=request.scope or "",
                code_challenge=data.get("code_challenge"),
                code_challenge_method=data.get("code_challenge_method"),
                family=secrets.token_hex(8),
                expires_at=time.time() + state.code_life,
            )

        def query_authorization_code(self, code, client):
            found = state.codes.get(code)
            if found is None or found.client_id != client.id:
                return None
            if found.used:
                # RFC 6749, 4.1.2: what was given for it dies.
                state.kill(found.family)
                return None
            return found if time.time() < found.expires_at else None

        def delete_authorization_code(self, authorization_code):
            authorization_code.used = True

        def authenticate_user(self, authorization_code):
            return PERSON

    return CodeGrant


def _refresh_grant(state: State):
    class RefreshGrant(grants.RefreshTokenGrant):
        TOKEN_ENDPOINT_AUTH_METHODS = METHODS

        def issue_token(self, user, refresh_token):
            return self.generate_token(user=user, scope=refresh_token.scope, include_refresh_token=state.rotate)

        def authenticate_refresh_token(self, refresh_token):
            return state.refreshable(refresh_token)

        def authenticate_user(self, refresh_token):
            return refresh_token.user or PERSON

        def revoke_old_credential(self, refresh_token):
            state.refreshed(refresh_token)

    return RefreshGrant


def _client_grant():
    class ClientGrant(grants.ClientCredentialsGrant):
        TOKEN_ENDPOINT_AUTH_METHODS = METHODS

    return ClientGrant


def _device_grant(state: State):
    class DeviceGrant(DeviceCodeGrant):
        TOKEN_ENDPOINT_AUTH_METHODS = METHODS

        def query_device_credential(self, device_code):
            found = state.devices.get(device_code)
            return None if found is None or found.used else found

        def query_user_grant(self, user_code):
            device = next(device for device in state.devices.values() if device.user_code == user_code)
            return None if device.approved is None else (PERSON, device.approved)

        def should_slow_down(self, credential):
            before, credential.asked_at = credential.asked_at, time.time()
            return before is not None and time.time() < before + state.device_interval

    return DeviceGrant


def _device_endpoint(state: State, url: str):
    class DeviceEndpoint(DeviceAuthorizationEndpoint):
        CLIENT_AUTH_METHODS = METHODS

        def get_verification_uri(self):
            return f"{url}/device"

        def save_device_credential(self, client_id, scope, data):
            state.devices[data["device_code"]] = Device(
                data["device_code"], data["user_code"], client_id, scope or "", time.time() + data["expires_in"]
            )

    return DeviceEndpoint


def _known(state: State, token: str) -> Token | None:
    return state.by_access.get(token) or state.by_refresh.get(token)


def _revocation(state: State):
    class Revocation(RevocationEndpoint):
        CLIENT_AUTH_METHODS = METHODS

        def query_token(self, token_string, token_type_hint):
            return _known(state, token_string)

        def revoke_token(self, token, request):
            if request.form["token"] == token.refresh:
                state.kill(token.family)
            token.revoked = True

    return Revocation


def _introspection(state: State):
    class Introspection(IntrospectionEndpoint):
        CLIENT_AUTH_METHODS = METHODS

        def query_token(self, token_string, token_type_hint):
            return _known(state, token_string)

        def check_permission(self, token, client, request):
            return token.client_id == client.id

        def introspect_token(self, token):
            return {"active": state.bearer(token.access) is not None, "scope": token.scope, "sub": token.user}

    return Introspection


def _registration(state: State):
    class Registration(ClientRegistrationEndpoint):
        def authenticate_token(self, request):
            return "anybody"

        def get_server_metadata(self):
            return {}

        def generate_client_id(self, request):
            return f"client-{secrets.token_hex(8)}"

        def save_client(self, client_info, client_metadata, request):
            state.clients[client_info["client_id"]] = RegisteredClient(
                client_info["client_id"],
                client_info["client_secret"],
                client_metadata["token_endpoint_auth_method"],
                client_metadata["redirect_uris"],
            )

    return Registration


def _assertion(state: State, url: str):
    class Assertion(JWTBearerClientAssertion):
        def get_audiences(self):
            return [f"{url}/token", f"{url}/revoke", *([url] if state.takes_issuer_as_audience else [])]

        def validate_jti(self, claims, jti):
            fresh = jti not in state.seen_jti
            state.seen_jti.add(jti)
            return fresh

        def resolve_client_public_key(self, client):
            kind = jwk.RSAKey if isinstance(load_pem_public_key(client.public_key), rsa.RSAPublicKey) else jwk.ECKey
            return kind.import_key(client.public_key)

    return Assertion()
