"""
The master key in HashiCorp Vault or OpenBao: one document of a KV engine, version 2. Each key is a field named by its
id; the field `key` is what an operator puts there and later the hint; the field `instance` says whose it is.
"""

from __future__ import annotations

import asyncio
import re
import ssl
import time
from collections.abc import Callable
from typing import Any, TypeVar
from urllib.parse import urljoin, urlsplit
from uuid import UUID

import hvac
import requests
from hvac.adapters import RawAdapter

from company_agents.crypto.keyring import MasterKey
from company_agents.errors import CompanyAgentsError, MayNotStart
from company_agents.keysources.failures import (
    SourceChanged,
    SourceUnavailable,
    broken,
    changed,
    forbidden,
    malformed,
    not_found,
    read_only,
    sealed,
    throttled,
    unreachable,
)
from company_agents.keysources.found import Found
from company_agents.keysources.text import key_from, key_text
from company_agents.sensitive import Sensitive
from company_agents.settings import Settings

ATTEMPTS = 3
PAUSES = (0.2, 0.6)  # seconds before the second and the third attempt
HINT, OWNER = "key", "instance"

T = TypeVar("T")
Fields = dict[str, Any]

# A mount may have slashes; what follows its first `data` is the path. Nothing that an address could hide a password in.
_PART = r"(?!\.+(?:/|$))[A-Za-z0-9_.=+~-]+"
_ADDRESS = re.compile(rf"({_PART}(?:/{_PART})*?)/data/({_PART}(?:/{_PART})*)")
_KEY_ID = re.compile(r"[0-9a-f]{16}")
# What may be over in a moment. Not a timeout: that has cost its time already.
_AGAIN = ("key_source_refused", "key_source_throttled", "key_source_error", "key_source_unavailable")


class VaultSource:
    """One document. Every write is check-and-set against the version of the document that was seen."""

    claims_alone = True
    after_destroy = ""

    def __init__(self, mount: str, path: str, settings: Settings) -> None:
        self.address = f"vault://{mount}/data/{path}"
        self._mount, self._path, self._settings = mount, path, settings
        self._login = _Login(settings)

    @classmethod
    def at(cls, rest: str, settings: Settings) -> VaultSource:
        """The source of `vault://<rest>`."""
        parts = _ADDRESS.fullmatch(rest)
        if parts is None:
            raise malformed("vault", "vault://<mount>/data/<path>")
        address = urlsplit(settings.vault_addr or "")
        if address.scheme not in ("http", "https") or not address.hostname or "@" in address.netloc:
            raise MayNotStart(
                "VAULT_ADDR is not set, or is no address", hint="it is https://host:8200", code="key_address"
            )
        return cls(parts[1], parts[2], settings)

    async def read(self) -> Found:
        """Every field of ours; a document that is not there, or was deleted, is empty."""
        return await self._run(lambda document: self._found(*document.read()))

    async def check_writable(self, seen: Found) -> None:
        """Ask Vault what this token may do."""
        data, destroy = f"{self._mount}/data/{self._path}", f"{self._mount}/destroy/{self._path}"
        needed = {(data, "update"), (destroy, "update")}
        if not seen.keys and seen.owner is None:
            needed.add((data, "create"))

        def check(document: _Document) -> None:
            may = document.call("post", "sys/capabilities-self", json={"paths": [data, destroy]})
            if any(not {right, "root"} & {*may.get(path, ())} for path, right in needed):
                raise read_only(self.address)

        await self._run(check)

    async def claim(self, instance: UUID, seen: Found) -> None:
        """Write whose it is."""
        await self._change(seen, lambda fields, found: {**fields, OWNER: str(instance)})

    async def add(self, key: MasterKey, seen: Found) -> None:
        """Write the key into a field of its own."""
        text = key_text(key).reveal_text()
        await self._change(
            seen, lambda fields, found: fields if key.key_id in found.kept else {**fields, key.key_id: text}
        )

    async def make_current(self, key_id: str, seen: Found) -> None:
        """Copy a key into the field `key`, which must not hold the only copy of another."""

        def copied(fields: Fields, found: Found) -> Fields:
            if key_id not in found.kept:
                raise MayNotStart(f"the key {key_id} is not kept in {self.address}", hint="add it", code="key_missing")
            if found.current is not None and found.current.key_id not in found.kept:
                raise MayNotStart(
                    f"the field `{HINT}` of {self.address} holds the only copy of the key {found.current.key_id}",
                    hint="start the orchestrator once with it: it is then kept in a field of its own",
                    code="key_not_kept",
                )
            return {**fields, HINT: fields[key_id]}

        await self._change(seen, copied)

    async def destroy(self, key_id: str, seen: Found) -> None:
        """Write the document without the key; then destroy the versions before it that still hold it."""
        await self._change(
            seen,
            lambda fields, found: {name: fields[name] for name in fields if not _holds(name, fields[name], key_id)},
            lambda document, version: document.destroy(self._versions_with(key_id, document, version)),
        )

    def _versions_with(self, key_id: str, document: _Document, newest: int) -> list[int]:
        found = []
        # Vault drops the oldest versions: below the first one that is not there, there is none.
        for version in range(newest - 1, 0, -1):
            at, fields, gone = document.version(version)
            if not at:
                break
            # A deleted version cannot be looked into, and whoever may undelete it could.
            unseen = fields is None and not gone
            if unseen or any(_holds(name, value, key_id) for name, value in (fields or {}).items()):
                found.append(version)
        return found

    async def _change(
        self,
        seen: Found,
        change: Callable[[Fields, Found], Fields],
        then: Callable[[_Document, int], None] | None = None,
    ) -> None:
        def work(document: _Document) -> None:
            version, fields = document.read()
            if version != (seen.version or 0):
                raise changed(self.address)
            wanted = change(fields, self._found(version, fields))
            if wanted != fields:
                document.write(version, wanted)
                version += 1
            if then is not None:
                then(document, version)

        await self._run(work)

    def _found(self, version: int, fields: Fields) -> Found:
        keys = {}
        for name in sorted(name for name in fields if _KEY_ID.fullmatch(name)):
            key = self._key(name, fields[name])
            if key.key_id != name:
                raise MayNotStart(
                    f"the field {name} of {self.address} does not hold the key that its name says",
                    hint="put the right key back; the versions before this one may have it",
                    code="key_wrong",
                )
            keys[name] = key
        kept = frozenset(keys)
        current = self._key(HINT, fields[HINT]) if HINT in fields else None
        if current is not None:
            keys.setdefault(current.key_id, current)
        return Found(tuple(keys.values()), current, kept, self._owner(fields), version)

    def _key(self, name: str, value: object) -> MasterKey:
        return key_from(value if isinstance(value, str) else "", f"the field `{name}` of {self.address}")

    def _owner(self, fields: Fields) -> UUID | None:
        try:
            return UUID(str(fields[OWNER])) if OWNER in fields else None
        except ValueError:
            raise MayNotStart(
                f"the field `{OWNER}` of {self.address} does not say whose keys these are",
                hint="put the instance's id there",
                code="key_source_mark",
            ) from None

    async def _run(self, work: Callable[[_Document], T]) -> T:
        """In a thread, bounded as a whole: a server that answers byte by byte keeps nobody waiting."""

        def talk() -> T:
            with _Document(self.address, self._mount, self._path, self._settings, self._login) as document:
                return work(document)

        try:
            async with asyncio.timeout(ATTEMPTS * self._settings.key_timeout):
                return await asyncio.to_thread(talk)
        except TimeoutError as error:
            raise unreachable(self.address, error) from error


def _holds(name: str, value: object, key_id: str) -> bool:
    if name == key_id:
        return True
    try:
        return name == HINT and isinstance(value, str) and key_from(value, "").key_id == key_id
    except MayNotStart:
        return False


class _Login:
    """How a token is come by. The one of a login is kept until Vault refuses it."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._given = settings.vault_token
        self.token = Sensitive(self._given.get_secret_value()) if self._given else None

    @property
    def renews(self) -> bool:
        return self._given is None

    def request(self) -> tuple[str, dict[str, str]]:
        """The path and the body of a login."""
        settings = self._settings
        if settings.vault_role_id and settings.vault_secret_id:
            secret = settings.vault_secret_id.get_secret_value()
            mount = settings.vault_auth_mount or "approle"
            return f"auth/{mount}/login", {"role_id": settings.vault_role_id, "secret_id": secret}
        if settings.vault_kubernetes_role:
            mount = settings.vault_auth_mount or "kubernetes"
            try:
                jwt = settings.vault_kubernetes_token.read_text().strip()
            except (OSError, UnicodeDecodeError) as error:
                raise MayNotStart(
                    f"the token of the service account cannot be read: {settings.vault_kubernetes_token}",
                    hint="see that it is mounted",
                    code="key_source_credentials",
                ) from error
            return f"auth/{mount}/login", {"role": settings.vault_kubernetes_role, "jwt": jwt}
        raise MayNotStart(
            "no credentials for Vault are set",
            hint="set VAULT_TOKEN, or VAULT_ROLE_ID and VAULT_SECRET_ID, or COMPANY_AGENTS_VAULT_KUBERNETES_ROLE",
            code="key_source_credentials",
        )


class _Session(requests.Session):
    """A standby names the active server by a redirect: one is followed, and never out of TLS."""

    def __init__(self, ca: str | bool) -> None:
        super().__init__()
        self.verify = ca
        self.max_redirects = 1

    def get_redirect_target(self, resp: requests.Response) -> str | None:
        target = super().get_redirect_target(resp)
        if target and resp.url.startswith("https:") and not urljoin(resp.url, target).startswith("https:"):
            return None
        return target


class _Document:
    """The document as one thread talks to Vault about it, and what went wrong in our words."""

    def __init__(self, address: str, mount: str, path: str, settings: Settings, login: _Login) -> None:
        self._address, self._mount, self._path, self._login = address, mount, path, login
        ca, system = settings.vault_cacert or settings.key_ca_file, ssl.get_default_verify_paths()
        self._session = _Session(str(ca) if ca else system.cafile or system.capath or True)
        self._client = hvac.Client(
            url=settings.vault_addr,
            token="",  # None would be looked for in the environment and in the home
            timeout=settings.key_timeout,
            namespace=settings.vault_namespace,
            session=self._session,
            adapter=RawAdapter,
        )

    def __enter__(self) -> _Document:
        return self

    def __exit__(self, *_: object) -> None:
        self._session.close()

    def read(self) -> tuple[int, Fields]:
        """The newest version and its fields; version 0: there was never any. A deleted one has a version all the same."""
        version, fields, _ = self.version(None)
        if not version:
            self._check_mount()
        return version, fields or {}

    def version(self, number: int | None) -> tuple[int, Fields | None, bool]:
        """A version, its fields if it can be read, and whether it is destroyed."""
        params = {} if number is None else {"version": number}
        reply = self.call("get", f"{self._mount}/data/{self._path}", params=params)
        if not reply:
            return 0, None, False
        try:
            metadata = reply["metadata"]
            return int(metadata["version"]), reply["data"], bool(metadata["destroyed"])
        except (KeyError, TypeError, ValueError):
            raise self._not_version_2() from None

    def write(self, version: int, fields: Fields) -> None:
        """
        Write against a version. A reply that was lost is not the end of it: what is there now tells.

        Raises:
            SourceChanged: it has another version by now.
        """
        body = {"options": {"cas": version}, "data": fields}
        for pause in (*PAUSES, None):
            try:
                self.call("post", f"{self._mount}/data/{self._path}", attempts=1, json=body)
                return
            except (SourceUnavailable, SourceChanged) as error:
                there = self.read()
                if there == (version + 1, fields):
                    return
                if there[0] != version:
                    raise changed(self._address) from error
                if pause is None or error.reason not in _AGAIN:
                    raise
            time.sleep(pause)

    def destroy(self, versions: list[int]) -> None:
        """Destroy versions for good."""
        if versions:
            self.call("post", f"{self._mount}/destroy/{self._path}", json={"versions": versions})

    def call(self, method: str, path: str, *, attempts: int = ATTEMPTS, **more: Any) -> dict[str, Any]:
        """
        The `data` of a reply; nothing where there is nothing. Tried again where that may help, `attempts` times in all.
        """
        if self._login.token is None:
            self._log_in()
        for pause in (*PAUSES[: attempts - 1], None):
            try:
                response = self._send(method, path, **more)
                if response.status_code == 403 and self._login.renews:
                    self._log_in()
                    response = self._send(method, path, **more)
                return self._taken(response, method)
            except SourceUnavailable as error:
                if pause is None or error.reason not in _AGAIN:
                    raise
            time.sleep(pause)
        raise AssertionError("the last attempt returns or raises")

    def _send(self, method: str, path: str, **more: Any) -> requests.Response:
        self._client.token = self._login.token.reveal_text() if self._login.token else ""
        try:
            return self._client.adapter.request(method, f"/v1/{path}", raise_exception=False, **more)
        except (requests.RequestException, OSError) as error:
            raise unreachable(self._address, error) from error

    def _log_in(self) -> None:
        path, body = self._login.request()
        self._login.token = None
        response = self._send("post", path, json=body)
        if response.status_code in (400, 401, 403):
            raise forbidden(self._address, "logs in")
        if response.status_code == 404:
            raise MayNotStart(
                f"the key source {self._address} has no login at {path}",
                hint="check COMPANY_AGENTS_VAULT_AUTH_MOUNT and VAULT_NAMESPACE",
                code="key_source_not_found",
            )
        self._login.token = Sensitive(self._taken(response, "login")["client_token"])

    def _taken(self, response: requests.Response, doing: str) -> dict[str, Any]:
        status, (data, said) = response.status_code, _content(response)
        if status in (200, 404) and data is not None:
            return data
        if status == 404 and said == "":
            return {}
        if status == 204:
            return {}
        raise self._failure(status, said, doing)

    def _failure(self, status: int, said: str | None, doing: str) -> CompanyAgentsError:
        if status in (401, 403):
            return read_only(self._address) if doing == "post" else forbidden(self._address)
        if status == 404:
            return not_found(self._address)
        if status == 400 and "check-and-set" in (said or ""):
            return changed(self._address)
        if status == 429:
            return throttled(self._address)
        if status == 503 and "sealed" in (said or ""):
            return sealed(self._address)
        return broken(self._address, status)

    def _check_mount(self) -> None:
        """Nothing there looks the same in an engine of version 1."""
        response = self._send("get", f"sys/internal/ui/mounts/{self._mount}/data/{self._path}")
        mount, _ = _content(response)
        if response.status_code == 200 and mount and (mount.get("options") or {}).get("version") != "2":
            raise self._not_version_2()

    def _not_version_2(self) -> MayNotStart:
        return MayNotStart(
            f"the key source {self._address} is not on a KV engine of version 2",
            hint="take one: vault secrets enable -path=<mount> -version=2 kv",
            code="key_source_version",
        )


def _content(response: requests.Response) -> tuple[dict[str, Any] | None, str | None]:
    """What a reply of Vault holds, and the errors it names; None: it names none, and is perhaps none of Vault's."""
    try:
        content = response.json()
        errors = content.get("errors")
        data = content.get("auth") or content.get("data")
    except (ValueError, AttributeError):
        return None, None
    return (
        data if isinstance(data, dict) else None,
        " ".join(map(str, errors)) if isinstance(errors, list) else None,
    )
