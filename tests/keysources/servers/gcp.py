"""
Google Secret Manager: its own messages, over gRPC and TLS, with a server that holds to what Google documents. It knows
who signs its tokens, compares etags, checks checksums, lists two versions a page and names projects by their number;
and it can be told to refuse, to fail, to keep silent, to lose replies and to give out payloads that are not as written.
"""

from __future__ import annotations

import json
import os
import threading
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from unittest import mock

import grpc
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from google.auth import jwt
from google.cloud import secretmanager_v1 as gsm
from google.iam.v1 import iam_policy_pb2

from company_agents.crypto.keyring import MasterKey
from company_agents.keysources.text import key_text
from company_agents.settings import Settings
from tests.keysources.place import free_port, settings_for
from tests.outgoing.servers import authority

SERVICE = "google.cloud.secretmanager.v1.SecretManagerService"
PROJECT, NUMBER = "projects/made-up", "projects/4711"
ACCOUNT = "orchestrator@made-up.iam.gserviceaccount.com"
PERMISSIONS = frozenset(f"secretmanager.{name}" for name in ("versions.add", "versions.destroy", "secrets.update"))
WRITES = {"CreateSecret", "AddSecretVersion", "UpdateSecret", "DestroySecretVersion"}
PAGE = 2
SLOWEST = 20.0
State = gsm.SecretVersion.State
Code = grpc.StatusCode

# The method and its request → a status instead of the reply; None: the reply.
Rule = Callable[[str, Any], Any]


class Failure(Exception):
    """A status other than OK."""


@dataclass
class Kept:
    """A secret of the server."""

    secret: gsm.Secret
    versions: list[gsm.SecretVersion] = field(default_factory=list)
    data: dict[str, bytes] = field(default_factory=dict)


class Google:
    """The server, and a place of the contract test."""

    compares = False
    empty = ""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.ca_file = folder / "ca.pem"
        self.port = 0
        self.kept: dict[str, Kept] = {}
        self.rule: Rule = lambda method, request: None
        self.lose: set[str] = set()
        """Methods whose next reply is lost, after they were done."""
        self.silent: set[str] = set()
        """Methods that do not answer until `answering` is set."""
        self.answering = threading.Event()
        self.corrupt: set[int] = set()
        """Numbers of versions that are not given out as they were written."""
        self.allowed = PERMISSIONS
        self.tokens: set[str] = set()
        """Tokens that are taken beside those that the service account signs for itself."""
        self.calls: list[str] = []
        self._lock = threading.Lock()
        key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        pem = serialization.Encoding.PEM
        self._private = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()).decode()
        self._public = key.public_key().public_bytes(pem, serialization.PublicFormat.SubjectPublicKeyInfo).decode()
        self.secrets = tuple(self._private.splitlines()[1:3])

    # — as an operator —

    def at(self, name: str, **given: Any) -> Settings:
        return settings_for(
            self.folder,
            f"gcp-secretmanager://{name}",
            **{
                "key_endpoint": f"127.0.0.1:{self.port}",
                "key_ca_file": self.ca_file,
                "key_timeout": 5.0,
                **given,
            },
        )

    def settings(self) -> Settings:
        return self.at(f"{PROJECT}/secrets/{uuid.uuid4().hex}")

    async def put_by_hand(self, settings: Settings, key: MasterKey) -> Settings:
        self.put(_name(settings), key.secret.reveal().hex().encode())
        return settings

    def put(self, name: str, data: bytes) -> int:
        """Add a version by hand; the secret too, where there is none."""
        if _numbered(name) not in self.kept:
            self.kept[_numbered(name)] = Kept(gsm.Secret(name=_numbered(name), etag=_etag()))
        return int(self._added(self.kept[_numbered(name)], data).name.rpartition("/")[2])

    def state(self, name: str, number: int, state: Any) -> None:
        """Enable, disable or destroy a version by hand."""
        self.of(name).versions[number - 1].state = state

    def of(self, name: str) -> Kept:
        return self.kept[_numbered(name)]

    async def holds(self, settings: Settings, key: MasterKey) -> bool:
        kept = self.kept.get(_numbered(_name(settings)))
        texts = [key.secret.reveal().hex().encode(), key_text(key).reveal()]
        return kept is not None and any(text in data for data in kept.data.values() for text in texts)

    def unreachable(self) -> tuple[Settings, str]:
        return self.at(f"{PROJECT}/secrets/none", key_endpoint=f"127.0.0.1:{free_port()}"), "key_source_refused"

    def credentials(self, file: str = "account.json", **given: str) -> Path:
        """A service account's file."""
        path = self.folder / file
        account = {
            "type": "service_account",
            "client_email": ACCOUNT,
            "private_key_id": "made-up",
            "private_key": self._private,
            "token_uri": "http://127.0.0.1:9/none",
            **given,
        }
        path.write_text(json.dumps(account))
        return path

    @contextmanager
    def ruled(self, rule: Rule) -> Iterator[None]:
        """Answer as the rule says, for as long as it takes."""
        before, self.rule = self.rule, rule
        try:
            yield
        finally:
            self.rule = before

    # — as the service —

    @contextmanager
    def serving(self, port: int = 0) -> Iterator[int]:
        """Listen, there or anywhere."""
        chain, marker, private = (self.folder / "server.pem").read_bytes().partition(b"-----BEGIN PRIVATE KEY-----")
        workers = ThreadPoolExecutor(8)
        server = grpc.server(workers, handlers=[_handlers(self)])
        port = server.add_secure_port(f"127.0.0.1:{port}", grpc.ssl_server_credentials([(marker + private, chain)]))
        server.start()
        try:
            yield port
        finally:
            self.answering.set()
            server.stop(None).wait(SLOWEST)
            workers.shutdown()

    def answer(self, method: str, request: Any, context: Any) -> Any:
        self.calls.append(method)
        try:
            self._check_token(dict(context.invocation_metadata()).get("authorization", ""))
            if method in self.silent:
                self.answering.wait(SLOWEST)
            ruled = self.rule(method, request)
            if ruled is not None:
                raise Failure(ruled)
            with self._lock:
                reply = getattr(self, f"_{method}")(request)
            if method in self.lose:
                self.lose.discard(method)
                raise Failure(Code.UNAVAILABLE)
            return reply
        except Failure as failure:
            context.abort(failure.args[0], "as a test wants it")

    def _check_token(self, authorization: str) -> None:
        kind, _, token = authorization.partition(" ")
        if token in self.tokens and kind == "Bearer":
            return
        try:
            claims = jwt.decode(token, certs=self._public)
        except ValueError:
            raise Failure(Code.UNAUTHENTICATED) from None
        if claims["iss"] != ACCOUNT or claims.get("scope") != "https://www.googleapis.com/auth/cloud-platform":
            raise Failure(Code.UNAUTHENTICATED)

    def _found(self, name: str) -> Kept:
        kept = self.kept.get(_numbered(name))
        if kept is None:
            raise Failure(Code.NOT_FOUND)
        return kept

    def _version(self, name: str) -> tuple[Kept, gsm.SecretVersion]:
        secret, _, number = name.partition("/versions/")
        kept = self._found(secret)
        if not 0 < int(number) <= len(kept.versions):
            raise Failure(Code.NOT_FOUND)
        return kept, kept.versions[int(number) - 1]

    def _added(self, kept: Kept, data: bytes) -> gsm.SecretVersion:
        name = f"{kept.secret.name}/versions/{len(kept.versions) + 1}"
        kept.versions.append(gsm.SecretVersion(name=name, state=State.ENABLED, etag=_etag()))
        kept.data[name] = data
        return kept.versions[-1]

    def _GetSecret(self, request: gsm.GetSecretRequest) -> gsm.Secret:
        return self._found(request.name).secret

    def _CreateSecret(self, request: gsm.CreateSecretRequest) -> gsm.Secret:
        name = _numbered(f"{request.parent}/secrets/{request.secret_id}")
        # A region's secrets have no policy of replication, and all others need one.
        if ("replication" in request.secret) == ("/locations/" in name):
            raise Failure(Code.INVALID_ARGUMENT)
        if name in self.kept:
            raise Failure(Code.ALREADY_EXISTS)
        secret = gsm.Secret(request.secret)
        secret.name, secret.etag = name, _etag()
        self.kept[name] = Kept(secret)
        return secret

    def _UpdateSecret(self, request: gsm.UpdateSecretRequest) -> gsm.Secret:
        kept, paths = self._found(request.secret.name), request.update_mask.paths
        if not paths or not request.secret.etag or not {*paths} <= {"annotations", "version_aliases"}:
            raise Failure(Code.INVALID_ARGUMENT)
        if request.secret.etag != kept.secret.etag:
            raise Failure(Code.FAILED_PRECONDITION)
        if any(not 0 < number <= len(kept.versions) for number in request.secret.version_aliases.values()):
            raise Failure(Code.INVALID_ARGUMENT)
        for path in paths:
            setattr(kept.secret, path, getattr(request.secret, path))
        kept.secret.etag = _etag()
        return kept.secret

    def _ListSecretVersions(self, request: gsm.ListSecretVersionsRequest) -> gsm.ListSecretVersionsResponse:
        versions = self._found(request.parent).versions[::-1]
        start = int(request.page_token or 0)
        token = str(start + PAGE) if len(versions) > start + PAGE else ""
        return gsm.ListSecretVersionsResponse(versions=versions[start : start + PAGE], next_page_token=token)

    def _AccessSecretVersion(self, request: gsm.AccessSecretVersionRequest) -> gsm.AccessSecretVersionResponse:
        kept, version = self._version(request.name)
        if version.state != State.ENABLED:
            raise Failure(Code.FAILED_PRECONDITION)
        data = kept.data[version.name]
        checksum = crc32c(data)
        if int(version.name.rpartition("/")[2]) in self.corrupt:
            data = data[:-2] + bytes([data[-2] ^ 1]) + data[-1:]
        return gsm.AccessSecretVersionResponse(name=version.name, payload={"data": data, "data_crc32c": checksum})

    def _AddSecretVersion(self, request: gsm.AddSecretVersionRequest) -> gsm.SecretVersion:
        kept, payload = self._found(request.parent), request.payload
        if "data_crc32c" not in payload or payload.data_crc32c != crc32c(payload.data):
            raise Failure(Code.INVALID_ARGUMENT)
        return self._added(kept, payload.data)

    def _DestroySecretVersion(self, request: gsm.DestroySecretVersionRequest) -> gsm.SecretVersion:
        kept, version = self._version(request.name)
        if version.state == State.DESTROYED:
            raise Failure(Code.FAILED_PRECONDITION)
        if kept.secret.version_destroy_ttl:
            version.state, version.scheduled_destroy_time = State(State.DISABLED), datetime.now(UTC)
        else:
            version.state = State(State.DESTROYED)
            del kept.data[version.name]
        return version

    def _TestIamPermissions(self, request: Any) -> Any:
        asked = set(request.permissions)
        there = _numbered(request.resource) in self.kept
        return iam_policy_pb2.TestIamPermissionsResponse(permissions=sorted(asked & self.allowed if there else ()))


def crc32c(data: bytes) -> int:
    """With a table, as most do it; the source does it bit by bit."""
    found = 0xFFFFFFFF
    for byte in data:
        found = _TABLE[(found ^ byte) & 0xFF] ^ (found >> 8)
    return found ^ 0xFFFFFFFF


def _entry(number: int) -> int:
    for _ in range(8):
        number = number >> 1 ^ (0x82F63B78 * (number & 1))
    return number


_TABLE = [_entry(number) for number in range(256)]


def _name(settings: Settings) -> str:
    assert settings.master_key_source
    return settings.master_key_source.get_secret_value().partition("://")[2]


def _numbered(name: str) -> str:
    return name.replace(PROJECT, NUMBER, 1)


def _etag() -> str:
    return f'"{uuid.uuid4().hex}"'


_MESSAGES: dict[str, tuple[Any, Any]] = {
    "GetSecret": (gsm.GetSecretRequest, gsm.Secret),
    "CreateSecret": (gsm.CreateSecretRequest, gsm.Secret),
    "UpdateSecret": (gsm.UpdateSecretRequest, gsm.Secret),
    "ListSecretVersions": (gsm.ListSecretVersionsRequest, gsm.ListSecretVersionsResponse),
    "AccessSecretVersion": (gsm.AccessSecretVersionRequest, gsm.AccessSecretVersionResponse),
    "AddSecretVersion": (gsm.AddSecretVersionRequest, gsm.SecretVersion),
    "DestroySecretVersion": (gsm.DestroySecretVersionRequest, gsm.SecretVersion),
}


def _handlers(google: Google) -> Any:
    def handler(method: str, parse: Any, write: Any) -> Any:
        return grpc.unary_unary_rpc_method_handler(
            lambda request, context: google.answer(method, request, context), parse, write
        )

    handlers = {
        method: handler(method, asked.deserialize, answered.serialize)
        for method, (asked, answered) in _MESSAGES.items()
    }
    handlers["TestIamPermissions"] = handler(
        "TestIamPermissions",
        iam_policy_pb2.TestIamPermissionsRequest.FromString,
        iam_policy_pb2.TestIamPermissionsResponse.SerializeToString,
    )
    return grpc.method_handlers_generic_handler(SERVICE, handlers)


@asynccontextmanager
async def place(folder: Path) -> AsyncIterator[Google]:
    """The server, and application default credentials as this machine would have them."""
    google = Google(folder)
    google.ca_file = authority(folder, "127.0.0.1").ca_file
    own = {"GOOGLE_APPLICATION_CREDENTIALS": str(google.credentials()), "CLOUDSDK_CONFIG": str(folder / "none")}
    with mock.patch.dict(os.environ, own), google.serving() as port:
        google.port = port
        yield google
