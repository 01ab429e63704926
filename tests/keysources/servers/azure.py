"""
Azure Key Vault and its login, on one https server of our own: challenge, tokens, versions in pages, and every refusal.

As the vendor's does it: a request without a good token is answered with a challenge; versions are listed in the order of
their ids; their times are whole seconds; a disabled version is not given out.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import time
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock
from urllib.parse import parse_qs, urlsplit

from pydantic import SecretStr

from company_agents.crypto.keyring import MasterKey
from company_agents.keysources.text import key_text
from company_agents.settings import Settings
from tests.keysources.place import settings_for
from tests.outgoing.servers import Authority, Recorded, authority, reply, serve

TENANT = "5b1d1f5e-0000-4000-8000-00000000aaaa"
CLIENT = "5b1d1f5e-0000-4000-8000-00000000bbbb"
CLIENT_SECRET = "made-up-client-secret-of-the-tests"
TOKEN = "made-up-access-token-of-the-tests"
PAGE = 2

# The request → a reply instead of the server's own; None: its own.
Rule = Callable[[Recorded], bytes | None]


@dataclass
class Version:
    value: str
    tags: dict[str, str]
    id: str = field(default_factory=lambda: secrets.token_hex(16))
    enabled: bool = True
    created: int = field(default_factory=lambda: int(time.time()))


class Azure:
    """A place of the contract test, and what an operator does in the portal."""

    compares = False
    empty = ""
    secrets: tuple[str, ...] = (CLIENT_SECRET, TOKEN)

    def __init__(self, folder: Path, own: Authority) -> None:
        self.folder = folder
        self.authority = own
        self.url = ""
        self.vault: dict[str, list[Version]] = {}
        self.deleted: set[str] = set()
        self.rule: Rule = lambda request: None
        self.lose: set[str] = set()
        """Methods whose next reply is lost, after the request was done."""
        self.requests: list[Recorded] = []

    def settings(self) -> Settings:
        return self.at(f"tests/{uuid.uuid4().hex}")

    def at(self, rest: str, **given: Any) -> Settings:
        given = {
            "key_endpoint": self.url,
            "key_ca_file": self.authority.ca_file,
            "key_timeout": 5.0,
            "azure_tenant_id": TENANT,
            "azure_client_id": CLIENT,
            "azure_client_secret": SecretStr(CLIENT_SECRET),
            **given,
        }
        return settings_for(self.folder, f"azure-keyvault://{rest}", **given)

    async def put_by_hand(self, settings: Settings, key: MasterKey) -> Settings:
        assert settings.master_key_source
        name = settings.master_key_source.get_secret_value().rpartition("/")[2]
        self.put(name, key.secret.reveal().hex())
        return settings

    def put(self, name: str, value: str, **tags: str) -> Version:
        version = Version(value, tags)
        self.vault.setdefault(name, []).append(version)
        return version

    async def holds(self, settings: Settings, key: MasterKey) -> bool:
        assert settings.master_key_source
        name = settings.master_key_source.get_secret_value().rpartition("/")[2]
        forms = (key.secret.reveal().hex(), key_text(key).reveal_text())
        return any(version.value in forms for version in self.vault.get(name, ()))

    def unreachable(self) -> tuple[Settings, str]:
        return self.at("tests/none", key_endpoint="https://127.0.0.1:9"), "key_source_refused"

    @contextmanager
    def ruled(self, rule: Rule) -> Iterator[None]:
        """Answer as the rule says, for as long as it takes."""
        before, self.rule = self.rule, rule
        try:
            yield
        finally:
            self.rule = before

    def answer(self, request: Recorded) -> bytes:
        """One request."""
        self.requests.append(request)
        method, target = request.line.split(" ")[:2]
        path = urlsplit(target).path
        if path.startswith(f"/{TENANT}/"):
            ruled = self.rule(request)
            return self._login(path, request) if ruled is None else ruled
        if request.headers.get("authorization") != f"Bearer {TOKEN}":
            assert not request.body, "a secret was sent before anybody knew who asks"
            challenge = f'Bearer authorization="{self.url}/{TENANT}", resource="https://vault.azure.net"'
            return _json(401, _error("Unauthorized"), www_authenticate=challenge)
        ruled = self.rule(request)
        if ruled is not None:
            return ruled
        assert "api-version=" in target
        found = self._secret(method, path, target, json.loads(request.body) if request.body else {})
        if method in self.lose:
            self.lose.discard(method)
            return b""
        return found

    def _login(self, path: str, request: Recorded) -> bytes:
        if path.endswith("/.well-known/openid-configuration"):
            base = f"{self.url}/{TENANT}"
            return _json(
                200,
                {
                    "issuer": f"{base}/v2.0",
                    "authorization_endpoint": f"{base}/oauth2/v2.0/authorize",
                    "token_endpoint": f"{base}/oauth2/v2.0/token",
                },
            )
        given = {name: values[0] for name, values in parse_qs(request.body.decode()).items()}
        if (given.get("client_id"), given.get("client_secret")) != (CLIENT, CLIENT_SECRET):
            refusal = {"error": "invalid_client", "error_description": "AADSTS7000215: Invalid client secret provided."}
            return _json(401, refusal)
        assert given["scope"] == "https://vault.azure.net/.default"
        return _json(200, {"token_type": "Bearer", "expires_in": 3600, "access_token": TOKEN})

    def _secret(self, method: str, path: str, target: str, given: dict[str, Any]) -> bytes:
        match = re.fullmatch(r"/secrets/([A-Za-z0-9-]{1,127})(?:/([a-z0-9]*))?", path)
        assert match, path
        name, version = match[1], match[2] or ""
        if name in self.deleted:
            return _json(409, _error("ObjectIsDeletedButRecoverable")) if method == "PUT" else _not_found()
        if method == "PUT":
            return _json(200, self._bundle(name, self.put(name, given["value"], **(given.get("tags") or {}))))
        there = self.vault.get(name, [])
        if version == "versions":
            return self._page(name, there, target)
        found = there[-1] if there and not version else next((one for one in there if one.id == version), None)
        if found is None:
            return _not_found()
        if method == "PATCH":
            found.tags = given["tags"] if given.get("tags") is not None else found.tags
            found.enabled = (given.get("attributes") or {}).get("enabled", found.enabled)
            return _json(200, self._bundle(name, found, value=False))
        if not found.enabled:
            return _json(403, _error("Forbidden", "SecretDisabled"))
        return _json(200, self._bundle(name, found))

    def _page(self, name: str, there: list[Version], target: str) -> bytes:
        if not there:
            return _not_found()
        skip = int(parse_qs(urlsplit(target).query).get("$skiptoken", ["0"])[0])
        ordered = sorted(there, key=lambda one: one.id)
        page: dict[str, Any] = {
            "value": [self._bundle(name, one, value=False) for one in ordered[skip : skip + PAGE]],
            "nextLink": None,
        }
        if skip + PAGE < len(ordered):
            page["nextLink"] = f"{self.url}/secrets/{name}/versions?api-version=7.6&$skiptoken={skip + PAGE}"
        return _json(200, page)

    def _bundle(self, name: str, version: Version, *, value: bool = True) -> dict[str, Any]:
        attributes = {"enabled": version.enabled, "created": version.created, "updated": version.created}
        shown = {"id": f"{self.url}/secrets/{name}/{version.id}", "attributes": attributes, "tags": version.tags}
        return shown | ({"value": version.value} if value else {})


def refused(status: int, code: str = "Forbidden") -> bytes:
    """As Key Vault answers where it does not do as it was told."""
    return _json(status, _error(code))


def read_only(request: Recorded) -> bytes | None:
    """A rule: this client may read."""
    return refused(403) if request.line.startswith(("PUT", "PATCH")) else None


def _not_found() -> bytes:
    return _json(404, _error("SecretNotFound"))


def _error(code: str, inner: str | None = None) -> dict[str, Any]:
    error: dict[str, Any] = {"code": code, "message": "as a test wants it"}
    return {"error": error | ({"innererror": {"code": inner}} if inner else {})}


def _json(status: int, content: dict[str, Any], **headers: str) -> bytes:
    return reply(json.dumps(content).encode(), f"{status} Answer", content_type="application/json", **headers)


@asynccontextmanager
async def place(folder: Path) -> AsyncIterator[Azure]:
    """The server, and this machine's own settings for Azure pointed at it."""
    own = authority(folder, "127.0.0.1")
    azure = Azure(folder, own)
    async with serve(azure.answer, own.server) as server:
        azure.url = f"https://127.0.0.1:{server.port}"
        kept = {
            name: value for name, value in os.environ.items() if not name.startswith(("AZURE_", "IDENTITY_", "MSI_"))
        }
        with mock.patch.dict(os.environ, kept | {"AZURE_AUTHORITY_HOST": azure.url}, clear=True):
            yield azure
