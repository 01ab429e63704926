"""
AWS Secrets Manager: moto's server, and in front of it a proxy that does what moto does not: it knows its access key,
refuses writes, asks to slow down, fails, and loses replies.
"""

from __future__ import annotations

import http.client
import json
import os
import re
import subprocess
import sys
import threading
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import botocore.session
from pydantic import SecretStr

from company_agents.crypto.keyring import MasterKey
from company_agents.keysources.text import key_text
from company_agents.settings import Settings
from tests.keysources.place import settings_for
from tests.outgoing.servers import Recorded, reply, serve

ACCESS_KEY = "AKIAMADEUPFORTESTS00"
SECRET_KEY = "made-up-secret-key-of-the-tests-0000000"
SESSION_TOKEN = "made-up-session-token-of-the-tests"
REGION = "eu-central-1"
WRITES = {"PutSecretValue", "CreateSecret", "UpdateSecretVersionStage"}

# The operation and its parameters → a reply instead of moto's; None: moto's.
Rule = Callable[[str, dict[str, Any]], bytes | None]


class Moto:
    """A place of the contract test, and what an operator does at AWS."""

    compares = False
    empty = ""
    secrets: tuple[str, ...] = (SECRET_KEY, SESSION_TOKEN)

    def __init__(self, folder: Path, port: int) -> None:
        self.folder = folder
        self.port = port
        self.url = ""
        self.rule: Rule = lambda operation, given: None
        self.lose: set[str] = set()
        """Operations whose next reply is lost, after they were done."""
        self.calls: list[tuple[str, dict[str, Any]]] = []
        core = botocore.session.get_session()
        # An operator's own hand, past the proxy.
        self.hand: Any = core.create_client(
            "secretsmanager",
            region_name=REGION,
            endpoint_url=f"http://127.0.0.1:{port}",
            aws_access_key_id="operator",
            aws_secret_access_key="operator",
        )

    def settings(self) -> Settings:
        return self.at(f"keys/{uuid.uuid4().hex}")

    def at(self, secret: str, **given: Any) -> Settings:
        given = {
            "key_endpoint": self.url,
            "key_timeout": 5.0,
            "aws_access_key_id": ACCESS_KEY,
            "aws_secret_access_key": SecretStr(SECRET_KEY),
            "aws_session_token": SecretStr(SESSION_TOKEN),
            **given,
        }
        return settings_for(self.folder, f"aws-secretsmanager://{secret}", **given)

    async def put_by_hand(self, settings: Settings, key: MasterKey) -> Settings:
        self.put(_name(settings), SecretString=key.secret.reveal().hex())
        return settings

    def put(self, name: str, **content: Any) -> str:
        """
        What a put without labels does. In two steps: after a label was moved, moto would leave two AWSCURRENT.
        """
        current = self.version_of(name, "AWSCURRENT") if name in self.names() else None
        if current is None:
            return str(self.hand.create_secret(Name=name, **content)["VersionId"])
        version = str(self.hand.put_secret_value(SecretId=name, VersionStages=["hand"], **content)["VersionId"])
        self.move(name, "AWSCURRENT", to=version, away=current)
        self.move(name, "hand", away=version)
        return version

    def names(self) -> set[str]:
        return {secret["Name"] for secret in self.hand.list_secrets()["SecretList"]}

    def labels(self, name: str) -> dict[str, set[str]]:
        found = self.hand.describe_secret(SecretId=name)["VersionIdsToStages"]
        return {version: set(labels) for version, labels in found.items()}

    def version_of(self, name: str, label: str) -> str | None:
        return next((version for version, labels in self.labels(name).items() if label in labels), None)

    def move(self, name: str, label: str, *, to: str | None = None, away: str | None = None) -> None:
        moves = {"MoveToVersionId": to, "RemoveFromVersionId": away}
        given = {key: value for key, value in moves.items() if value}
        self.hand.update_secret_version_stage(SecretId=name, VersionStage=label, **given)

    async def holds(self, settings: Settings, key: MasterKey) -> bool:
        name = _name(settings)
        contents = [self.hand.get_secret_value(SecretId=name, VersionId=version) for version in self.labels(name)]
        return any(
            key.secret.reveal().hex() in str(found) or key_text(key).reveal_text() in str(found) for found in contents
        )

    def unreachable(self) -> tuple[Settings, str]:
        return self.at("keys/none", key_endpoint="http://127.0.0.1:9"), "key_source_refused"

    @contextmanager
    def ruled(self, rule: Rule) -> Iterator[None]:
        """Answer as the rule says, for as long as it takes."""
        before, self.rule = self.rule, rule
        try:
            yield
        finally:
            self.rule = before

    def answer(self, request: Recorded) -> bytes:
        """One request to the proxy."""
        operation = request.headers["x-amz-target"].partition(".")[2]
        given = json.loads(request.body)
        self.calls.append((operation, given))
        authorization = request.headers.get("authorization", "")
        if f"Credential={ACCESS_KEY}/" not in authorization or f"/{REGION}/secretsmanager/" not in authorization:
            return failure("UnrecognizedClientException")
        ruled = self.rule(operation, given)
        if ruled is not None:
            return ruled
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        headers = {name: value for name, value in request.headers.items() if name not in ("host", "content-length")}
        connection.request("POST", "/", request.body, headers)
        found = connection.getresponse()
        body = found.read()
        connection.close()
        if operation in self.lose:
            self.lose.discard(operation)
            return b""
        return reply(body, f"{found.status} {found.reason}", content_type="application/x-amz-json-1.1")


def failure(code: str, status: int = 400) -> bytes:
    """As AWS answers where it does not do as it was told."""
    body = json.dumps({"__type": code, "message": "as a test wants it"}).encode()
    return reply(body, f"{status} Refused", content_type="application/x-amz-json-1.1")


def read_only(operation: str, given: dict[str, Any]) -> bytes | None:
    """A rule: this access key may read."""
    return failure("AccessDeniedException") if operation in WRITES else None


@asynccontextmanager
async def place(folder: Path) -> AsyncIterator[Moto]:
    """Moto's server and the proxy, and AWS's own settings as this machine would have them."""
    process = subprocess.Popen(
        [str(Path(sys.executable).with_name("moto_server")), "-H", "127.0.0.1", "-p", "0"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    own = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
    own |= {
        "AWS_DEFAULT_REGION": REGION,
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_CONFIG_FILE": str(folder / "none"),
        "AWS_SHARED_CREDENTIALS_FILE": str(folder / "none"),
    }
    try:
        # Between two attempts boto3 waits for seconds; how long it waits is not what is tested here.
        at_once = mock.patch("botocore.retries.standard.ExponentialBackoff.delay_amount", lambda self, context: 0.01)
        with mock.patch.dict(os.environ, own, clear=True), at_once:
            moto = Moto(folder, _port(process))
            # Its log is read on, or the pipe would be full one day.
            assert process.stderr
            rest = threading.Thread(target=process.stderr.read)
            rest.start()
            async with serve(moto.answer) as server:
                moto.url = server.url
                yield moto
    finally:
        process.terminate()
        process.wait(20)


def _port(process: subprocess.Popen[str]) -> int:
    assert process.stderr
    for line in process.stderr:
        if found := re.search(r"Running on http://127\.0\.0\.1:(\d+)", line):
            return int(found[1])
    raise AssertionError("moto's server did not start")


def _name(settings: Settings) -> str:
    assert settings.master_key_source
    return settings.master_key_source.get_secret_value().partition("://")[2]
