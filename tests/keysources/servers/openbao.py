"""
A real OpenBao, which speaks Vault's API, in memory on a free port of this machine.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import os
import subprocess
import sys
import time
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import requests
from pydantic import SecretStr

from company_agents.crypto.keyring import MasterKey
from company_agents.sensitive import Sensitive
from company_agents.settings import Settings
from tests.keysources.place import free_port, settings_for

BAO = str(Path(sys.executable).with_name("bao"))
ROOT_TOKEN = "made-up-root-token"
SLOWEST = 30.0


class Bao:
    """The server, as its operator uses it."""

    def __init__(self, url: str, folder: Path, ca: Path | None = None) -> None:
        self.url = url
        self.folder = folder
        self.ca = ca
        self._http = requests.Session()
        self._http.trust_env = False
        self._http.verify = str(ca) if ca else True

    def call(self, method: str, path: str, *, token: str = ROOT_TOKEN, namespace: str = "", **body: Any) -> Any:
        """What Vault answers, as its operator asks; {} where it answers with nothing."""
        headers = {"X-Vault-Token": token, **({"X-Vault-Namespace": namespace} if namespace else {})}
        reply = self._http.request(method, f"{self.url}/v1/{path}", json=body or None, headers=headers, timeout=SLOWEST)
        if reply.status_code == 404:
            return {}
        assert reply.ok, reply.text
        return reply.json() if reply.content else {}

    def raw(self, method: str, path: str, headers: dict[str, str], body: bytes) -> tuple[int, bytes]:
        """The status and the body of one request, as it is."""
        reply = self._http.request(method, f"{self.url}{path}", data=body, headers=headers, timeout=SLOWEST)
        return reply.status_code, reply.content

    def settings(self, path: str | None = None, *, mount: str = "kv", **given: Any) -> Settings:
        """Settings of a document that is not there yet."""
        return settings_for(
            self.folder,
            f"vault://{mount}/data/{path or f'company-agents/{uuid.uuid4().hex}'}",
            **{
                "vault_addr": self.url,
                "vault_token": SecretStr(ROOT_TOKEN),
                "vault_cacert": self.ca,
                "key_timeout": 5.0,
                **given,
            },
        )

    def put(self, settings: Settings, fields: dict[str, Any]) -> None:
        """Put a document there by hand."""
        self.call("POST", address(settings), data=fields)

    def versions(self, settings: Settings) -> list[dict[str, Any]]:
        """The fields of every version that Vault still gives out, the oldest first; deleted ones are brought back."""
        metadata = self.call("GET", address(settings).replace("/data/", "/metadata/", 1))
        numbers = sorted(int(number) for number in metadata["data"]["versions"]) if metadata else []
        self.call("POST", address(settings).replace("/data/", "/undelete/", 1), versions=numbers)
        read = [self.call("GET", f"{address(settings)}?version={number}") for number in numbers]
        return [reply["data"]["data"] for reply in read if reply and reply["data"]["data"] is not None]

    def policy(self, rules: str, **more: Any) -> str:
        """A token that may do what the rules say, and by Vault's own default look at itself."""
        name = uuid.uuid4().hex
        self.call("POST", f"sys/policies/acl/{name}", policy=rules)
        return str(self.call("POST", "auth/token/create", policies=[name], **more)["auth"]["client_token"])


def address(settings: Settings) -> str:
    """The path of the document in Vault's API."""
    assert settings.master_key_source
    return settings.master_key_source.get_secret_value().removeprefix("vault://")


class Vault:
    """Documents in an OpenBao."""

    compares = True
    empty = ""
    secrets: tuple[str, ...] = (ROOT_TOKEN,)

    def __init__(self, bao: Bao) -> None:
        self._bao = bao

    def settings(self) -> Settings:
        return self._bao.settings()

    async def put_by_hand(self, settings: Settings, key: MasterKey) -> Settings:
        await asyncio.to_thread(self._bao.put, settings, {"key": key.secret.reveal().hex()})
        return settings

    async def holds(self, settings: Settings, key: MasterKey) -> bool:
        versions = await asyncio.to_thread(self._bao.versions, settings)
        return any(key.secret == found for fields in versions for found in keys_in(fields))

    def unreachable(self) -> tuple[Settings, str]:
        return self._bao.settings(vault_addr=f"http://127.0.0.1:{free_port()}"), "key_source_refused"


def keys_in(fields: dict[str, Any]) -> Iterator[Sensitive]:
    """Whatever in the fields may be a key."""
    for value in fields.values():
        for decode in (bytes.fromhex, base64.b64decode):
            with contextlib.suppress(ValueError):
                yield Sensitive(decode(value))


@contextmanager
def openbao(folder: Path, *options: str, ca: Path | None = None) -> Iterator[Bao]:
    """A server in memory, with an engine of version 2 at `kv`."""
    port = free_port()
    scheme = "https" if ca else "http"
    with running(
        folder,
        "-dev",
        f"-dev-root-token-id={ROOT_TOKEN}",
        f"-dev-listen-address=127.0.0.1:{port}",
        "-dev-no-store-token",
        *options,
    ):
        bao = Bao(f"{scheme}://127.0.0.1:{port}", folder, ca)
        _await(bao)
        bao.call("POST", "sys/mounts/kv", type="kv", options={"version": "2"})
        yield bao


@contextmanager
def running(folder: Path, *options: str) -> Iterator[subprocess.Popen[bytes]]:
    """A server process."""
    with open(folder / "openbao.log", "wb") as log:
        process = subprocess.Popen(
            [BAO, "server", *options],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env={"PATH": os.defpath, "HOME": str(folder)},
        )
    try:
        yield process
    finally:
        process.kill()
        process.wait(SLOWEST)


def _await(bao: Bao) -> None:
    """Until it answers."""
    until = time.monotonic() + SLOWEST
    while True:
        try:
            # Its mounts come a moment after its port, and with -dev-tls its port after its certificates.
            bao.call("GET", "sys/mounts")
            return
        except (OSError, AssertionError):
            assert time.monotonic() < until, (bao.folder / "openbao.log").read_text()
            time.sleep(0.02)


@asynccontextmanager
async def place(folder: Path) -> AsyncIterator[Vault]:
    with openbao(folder) as bao:
        yield Vault(bao)
