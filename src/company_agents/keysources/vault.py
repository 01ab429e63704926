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
from uuid import UUID

import hvac
import requests
from hvac.adapters import RawAdapter

from company_agents.crypto.keyring import MasterKey
from company_agents.errors import CompanyAgentsError, MayNotStart
from company_agents.keysources import failures
from company_agents.keysources.failures import SourceChanged, SourceUnavailable, changed
from company_agents.keysources.found import Found
from company_agents.keysources.text import key_from, key_text
from company_agents.sensitive import Sensitive
from company_agents.settings import Settings

PAUSES = (0.2, 0.6)  # seconds before the second and the third attempt; there is no fourth
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
        self._data, self._destroy = f"{mount}/data/{path}", f"{mount}/destroy/{path}"
        self._vault = _Vault(self.address, settings)
        self._longest = (len(PAUSES) + 1) * settings.key_timeout

    @classmethod
    def at(cls, rest: str, settings: Settings) -> VaultSource:
        """The source of `vault://<rest>`."""
        parts = _ADDRESS.fullmatch(rest)
        if parts is None:
            raise failures.malformed("vault", "vault://<mount>/data/<path>")
        if not failures.is_private(settings.vault_addr or ""):
            raise _refusal(
                "key_address",
                "VAULT_ADDR is not set, or is no address",
                "it is https://host:8200; http only on this machine",
            )
        return cls(parts[1], parts[2], settings)

    async def read(self) -> Found:
        """Every field of ours; a document that is not there, or was deleted, is empty."""
        return await self._run(lambda: self._found(*self._read()))

    async def fields(self) -> Fields:
        """Whatever the document holds, as it stands there."""
        return (await self._run(self._read))[1]

    async def check_writable(self, seen: Found) -> None:
        """Ask Vault what this token may do."""
        needed = {(self._data, "update"), (self._destroy, "update")}
        if not seen.keys and seen.owner is None:
            needed.add((self._data, "create"))
        paths = {"paths": [self._data, self._destroy]}
        may = await self._run(lambda: self._vault.call("post", "sys/capabilities-self", json=paths))
        if any(not {right, "root"} & {*may.get(path, ())} for path, right in needed):
            raise failures.read_only(self.address)

    async def claim(self, instance: UUID, seen: Found) -> None:
        """Write whose it is."""
        await self._change(seen, lambda fields, found: {**fields, OWNER: str(instance)})

    async def add(self, key: MasterKey, seen: Found) -> None:
        """Write the key into a field of its own."""

        def added(fields: Fields, found: Found) -> Fields:
            return fields if key.key_id in found.kept else {**fields, key.key_id: key_text(key).reveal_text()}

        await self._change(seen, added)

    async def make_current(self, key_id: str, seen: Found) -> None:
        """Copy a key into the field `key`, which must not hold the only copy of another."""

        def copied(fields: Fields, found: Found) -> Fields:
            if key_id not in found.kept:
                raise _refusal("key_missing", f"the key {key_id} is not kept in {self.address}", "add it first")
            if found.current is not None and found.current.key_id not in found.kept:
                raise _refusal(
                    "key_not_kept",
                    f"the field `{HINT}` of {self.address} has the only copy of the key {found.current.key_id}",
                    f"copy it into a field named {found.current.key_id} first",
                )
            return {**fields, HINT: fields[key_id]}

        await self._change(seen, copied)

    async def destroy(self, key_id: str, seen: Found) -> None:
        """Write the document without the key; then destroy the versions before it that still hold it."""

        def without(fields: Fields, found: Found) -> Fields:
            return {name: value for name, value in fields.items() if not _holds(name, value, key_id)}

        await self._change(seen, without, lambda newest: self._destroy_before(newest, key_id))

    async def _change(
        self, seen: Found, change: Callable[[Fields, Found], Fields], then: Callable[[int], None] = lambda newest: None
    ) -> None:
        def work() -> None:
            version, fields = self._read()
            if version != (seen.version or 0):
                raise changed(self.address)
            wanted = change(fields, self._found(version, fields))
            if wanted != fields:
                self._write(version, wanted)
                version += 1
            then(version)

        await self._run(work)

    async def _run(self, work: Callable[[], T]) -> T:
        """In a thread, and bounded as a whole: a server that answers byte by byte keeps nobody waiting."""
        try:
            async with asyncio.timeout(self._longest):
                return await asyncio.to_thread(work)
        except TimeoutError as error:
            raise failures.unreachable(self.address, error) from error

    def _read(self) -> tuple[int, Fields]:
        """The newest version and its fields, none if it was deleted; version 0: there never was any."""
        version, fields, _ = self._version()
        if not version:
            # Nothing there looks the same in an engine of version 1.
            mount = self._vault.call("get", f"sys/internal/ui/mounts/{self._data}")
            if (mount.get("options") or {}).get("version") != "2":
                raise self._not_version_2()
        return version, fields or {}

    def _version(self, **number: int) -> tuple[int, Fields | None, bool]:
        """A version, its fields if it was not deleted, and whether it is destroyed."""
        reply = self._vault.call("get", self._data, params=number)
        if not reply:
            return 0, None, False
        try:
            return reply["metadata"]["version"], reply["data"], reply["metadata"]["destroyed"]
        except (KeyError, TypeError):
            raise self._not_version_2() from None

    def _write(self, version: int, fields: Fields) -> None:
        """Write against a version. If the reply is lost, what is there now tells."""
        for pause in (*PAUSES, None):
            try:
                self._vault.call("post", self._data, pauses=(), json={"options": {"cas": version}, "data": fields})
                return
            except (SourceUnavailable, SourceChanged) as error:
                there = self._read()
                if there == (version + 1, fields):
                    return
                if there[0] != version:
                    raise changed(self.address) from error
                if pause is None or error.reason not in _AGAIN:
                    raise
            time.sleep(pause)

    def _destroy_before(self, newest: int, key_id: str) -> None:
        found = []
        # Vault drops the oldest versions: below the first one that is not there, there is none.
        for number in range(newest - 1, 0, -1):
            version, fields, destroyed = self._version(version=number)
            if not version:
                break
            # Into a deleted version nobody can look; but somebody may undelete it.
            deleted = fields is None and not destroyed
            if deleted or any(_holds(name, value, key_id) for name, value in (fields or {}).items()):
                found.append(number)
        if found:
            self._vault.call("post", self._destroy, json={"versions": found})

    def _found(self, version: int, fields: Fields) -> Found:
        keys = {name: self._key(name, fields[name]) for name in sorted(fields) if _KEY_ID.fullmatch(name)}
        for name, key in keys.items():
            if key.key_id != name:
                raise _refusal(
                    "key_wrong",
                    f"the field {name} of {self.address} does not hold the key that its name says",
                    "put the right key back; an earlier version of the document may have it",
                )
        kept = frozenset(keys)
        current = self._key(HINT, fields[HINT]) if HINT in fields else None
        if current is not None:
            keys.setdefault(current.key_id, current)
        try:
            owner = UUID(str(fields[OWNER])) if OWNER in fields else None
        except ValueError:
            raise _refusal(
                "key_source_mark",
                f"the field `{OWNER}` of {self.address} does not say whose keys these are",
                "put the instance's id there",
            ) from None
        return Found(tuple(keys.values()), current, kept, owner, version)

    def _key(self, name: str, value: object) -> MasterKey:
        return key_from(value if isinstance(value, str) else "", f"the field `{name}` of {self.address}")

    def _not_version_2(self) -> MayNotStart:
        return _refusal(
            "key_source_version",
            f"the key source {self.address} is not in a KV engine of version 2",
            "take one: vault secrets enable -path=<mount> -version=2 kv",
        )


class _Vault:
    """Calls to Vault: logged in, tried again where that may help, and with what went wrong in our words."""

    def __init__(self, address: str, settings: Settings) -> None:
        self._address, self._settings = address, settings
        given = settings.vault_token
        self._token = _header(given.get_secret_value()) if given else None
        ca, system = settings.vault_cacert or settings.key_ca_file, ssl.get_default_verify_paths()
        self._client = hvac.Client(
            url=settings.vault_addr,
            token="",  # None would be looked for in the environment and in the home
            timeout=settings.key_timeout,
            namespace=settings.vault_namespace,
            verify=str(ca) if ca else system.cafile or system.capath or True,
            allow_redirects=False,  # they would take the token along, to wherever they lead
            adapter=RawAdapter,
        )

    def call(self, method: str, path: str, *, pauses: tuple[float, ...] = PAUSES, **more: Any) -> dict[str, Any]:
        """The `data` of a reply, {} where nothing is there; with one more attempt after each pause."""
        for pause in pauses:
            try:
                return self._called(method, path, **more)
            except SourceUnavailable as error:
                if error.reason not in _AGAIN:
                    raise
            time.sleep(pause)
        return self._called(method, path, **more)

    def _called(self, method: str, path: str, **more: Any) -> dict[str, Any]:
        token = self._token or self._logged_in()
        response = self._sent(method, path, token, **more)
        if response.status_code == 403 and not self._settings.vault_token:
            # The token of a login ends one day.
            response = self._sent(method, path, self._logged_in(), **more)
        return self._data(response, "data", writing=method == "post" and not path.startswith("sys/"))

    def _logged_in(self) -> Sensitive:
        path, body = self._credentials()
        response = self._sent("post", path, json=body)
        if response.status_code in (400, 401, 403):
            raise failures.forbidden(self._address, "logs in")
        self._token = _header(self._data(response, "auth").get("client_token", ""))
        return self._token

    def _credentials(self) -> tuple[str, dict[str, str]]:
        """The path and the body of a login."""
        settings, mount = self._settings, self._settings.vault_auth_mount
        if settings.vault_role_id and settings.vault_secret_id:
            secret = settings.vault_secret_id.get_secret_value()
            return f"auth/{mount or 'approle'}/login", {"role_id": settings.vault_role_id, "secret_id": secret}
        if not settings.vault_kubernetes_role:
            raise _refusal(
                "key_source_credentials",
                "no credentials for Vault are set",
                "set VAULT_TOKEN, or VAULT_ROLE_ID and VAULT_SECRET_ID, or COMPANY_AGENTS_VAULT_KUBERNETES_ROLE",
            )
        try:
            token = settings.vault_kubernetes_token.read_text().strip()
        except (OSError, UnicodeDecodeError) as error:
            raise _refusal(
                "key_source_credentials",
                f"the service account's token cannot be read: {settings.vault_kubernetes_token}",
                "see that it is mounted",
            ) from error
        return f"auth/{mount or 'kubernetes'}/login", {"role": settings.vault_kubernetes_role, "jwt": token}

    def _sent(self, method: str, path: str, token: Sensitive | None = None, **more: Any) -> requests.Response:
        headers = {"X-Vault-Token": token.reveal_text()} if token else {}
        send = self._client.adapter.request
        try:
            response: requests.Response = send(method, f"/v1/{path}", headers, raise_exception=False, **more)
            return response
        except (requests.RequestException, OSError, ValueError) as error:
            raise failures.unreachable(self._address, error) from error

    def _data(self, response: requests.Response, name: str, *, writing: bool = False) -> dict[str, Any]:
        status = response.status_code
        try:
            content = response.json()
        except ValueError:  # a success without a body, or somebody between us and Vault
            content = None
        data, errors = (content.get(name), content.get("errors")) if isinstance(content, dict) else (None, None)
        if status in (200, 404) and isinstance(data, dict):
            return data
        if status == 204 or (status == 404 and errors == []):
            return {}
        raise self._failure(status, str(errors), writing)

    def _failure(self, status: int, errors: str, writing: bool) -> CompanyAgentsError:
        if status in (401, 403):
            return failures.read_only(self._address) if writing else failures.forbidden(self._address)
        if status == 404:  # no such mount, or no such namespace
            return failures.not_found(self._address)
        if status == 400 and "check-and-set" in errors:
            return changed(self._address)
        if status == 429:
            return failures.throttled(self._address)
        if status == 503 and "sealed" in errors:
            return failures.sealed(self._address)
        return failures.broken(self._address, f"{status}, a redirect" if status in range(300, 400) else status)


def _header(token: str) -> Sensitive:
    """A token as it can be sent. What cannot would be quoted by the client library."""
    found = token.strip()
    if not (found.isascii() and found.isprintable()):
        raise _refusal("key_source_credentials", "the token for Vault is none", "look at how it got into its variable")
    return Sensitive(found)


def _holds(name: str, value: object, key_id: str) -> bool:
    """Whether a field is that key, or the hint to it."""
    if name != HINT or not isinstance(value, str):
        return name == key_id
    try:
        return key_from(value, "").key_id == key_id
    except MayNotStart:
        return False


def _refusal(code: str, sentence: str, hint: str) -> MayNotStart:
    return MayNotStart(sentence, hint=hint, code=code)
