"""
The master key in Azure Key Vault: one secret, and in it one version for each key, tagged with its id.

What Azure calls current is the newest version. So that a key which was only added does not become the hint, the hint is
a version of its own, a copy of the active key, as `master.key` is one; no key's version is ever written again. Whose
the keys are stands in a second secret, so that a claim is never where a key is looked for.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import re
from collections.abc import Iterator
from typing import Any
from uuid import UUID

from azure.core.exceptions import AzureError, ClientAuthenticationError, HttpResponseError
from azure.core.pipeline.transport import RequestsTransport
from azure.identity import ClientSecretCredential, CredentialUnavailableError, DefaultAzureCredential
from azure.keyvault.secrets import SecretClient, SecretProperties

from company_agents.crypto.keyring import MasterKey
from company_agents.errors import CompanyAgentsError, MayNotStart
from company_agents.keysources import failures
from company_agents.keysources.found import Found
from company_agents.keysources.text import key_from, key_text
from company_agents.settings import Settings

# Room is left for `-instance`: the name of a secret has 127 letters, digits and dashes at most.
_ADDRESS = re.compile(r"([A-Za-z0-9-]{3,24}|[A-Za-z0-9-]+(?:\.[A-Za-z0-9-]+)+)/([A-Za-z0-9-]{1,118})")
_KEY, _CURRENT = "company-agents-key", "company-agents-current"
_LONGEST_WAIT = 5.0


class AzureSource:
    """
    Each key as base64. A version that is disabled is not read: that is how a key is destroyed here.
    """

    # Two writes make two versions, and the later one counts: nothing here is exclusive.
    claims_alone = False
    after_destroy = (
        "Azure keeps a disabled version, and whoever may change the secret can enable it again; "
        "it is gone only with the whole secret, deleted and purged"
    )

    def __init__(self, vault: str, name: str, url: str, settings: Settings) -> None:
        self.address = f"azure-keyvault://{vault}/{name}"
        self._name = name
        self._url = url
        self._settings = settings

    @classmethod
    def at(cls, rest: str, settings: Settings) -> AzureSource:
        """The source of `azure-keyvault://<vault>/<secret>`."""
        address = _ADDRESS.fullmatch(rest)
        if not address:
            raise failures.malformed("azure-keyvault", "azure-keyvault://VAULT/SECRET, of letters, digits and dashes")
        vault, name = address.groups()
        host = vault if "." in vault else f"{vault}.vault.azure.net"
        return cls(vault, name, settings.key_endpoint or f"https://{host}", settings)

    async def read(self) -> Found:
        """Every version that is enabled; each must be a key."""
        return await asyncio.to_thread(self._read)

    async def check_writable(self, seen: Found) -> None:
        """Give a version the tags that it has. A secret that is empty, or not there, cannot be asked."""
        await asyncio.to_thread(self._check)

    async def claim(self, instance: UUID, seen: Found) -> None:
        """Write a version of the second secret, and see whether it is still the newest."""
        await asyncio.to_thread(self._claim, instance, seen)

    async def add(self, key: MasterKey, seen: Found) -> None:
        """Write a version with the key's tag. Two at once make two of them, which is no harm."""
        await asyncio.to_thread(self._add, key)

    async def make_current(self, key_id: str, seen: Found) -> None:
        """Write a copy of the key as the newest version."""
        await asyncio.to_thread(self._make_current, key_id)

    async def destroy(self, key_id: str, seen: Found) -> None:
        """Disable every version that holds the key, copies as well."""
        await asyncio.to_thread(self._destroy, key_id)

    def _read(self) -> Found:
        versions = self._versions()
        held = {version.version: self._key(version) for version in versions if not _tag(version, _CURRENT)}
        keys = {key.key_id: key for key in held.values()}
        hint = self._hint(versions)
        # A copy is looked into only where its key is nowhere else.
        current = None if hint is None else keys.get(_tag(hint, _KEY)) or held.get(hint.version) or self._key(hint)
        if current is not None:
            keys.setdefault(current.key_id, current)
        return Found(tuple(keys.values()), current, frozenset(_kept(versions)), self._owner())

    def _check(self) -> None:
        # A key's own version first: its tags never change.
        for version in sorted(self._versions(), key=lambda one: not _is_kept(one))[:1]:
            with self._explained(writing=True):
                self._client.update_secret_properties(self._name, version.version, tags=version.tags or {})

    def _claim(self, instance: UUID, seen: Found) -> None:
        owner = self._owner()
        if owner not in (instance, seen.owner):
            raise failures.changed(self.address)
        if owner != instance:
            self._set(f"{self._name}-instance", str(instance))
        if self._owner() != instance:
            raise failures.changed(self.address)

    def _add(self, key: MasterKey) -> None:
        version = _kept(self._versions()).get(key.key_id)
        if version is None:
            self._set(self._name, key_text(key).reveal_text(), {_KEY: key.key_id})
        elif self._key(version) != key:
            raise self._wrong(f"version {version.version} was there with another key")

    def _make_current(self, key_id: str) -> None:
        versions = self._versions()
        kept, hint, copy = _kept(versions), self._hint(versions), _last_copy(versions)
        if key_id not in kept:
            raise self._wrong(f"the key {key_id} is not there")
        if hint is None or _tag(hint, _KEY) != key_id:
            content = key_text(self._key(kept[key_id])).reveal_text()
            number = 1 if copy is None else _number(copy) + 1
            self._set(self._name, content, {_KEY: key_id, _CURRENT: str(number)})

    def _destroy(self, key_id: str) -> None:
        for version in self._versions():
            if _tag(version, _KEY) == key_id or (not _tag(version, _KEY) and self._holds(version, key_id)):
                with self._explained(writing=True):
                    self._client.update_secret_properties(self._name, version.version, enabled=False)

    def _versions(self) -> list[SecretProperties]:
        """The versions that are enabled."""
        with self._explained():
            found = self._client.list_properties_of_secret_versions(self._name)
            try:
                return [version for version in found if version.enabled]
            except HttpResponseError as error:
                if error.status_code == 404:
                    return []
                raise

    def _hint(self, versions: list[SecretProperties]) -> SecretProperties | None:
        """The version that an operator wrote last of all, else the last copy, else what an operator wrote last."""
        bare, copy = [version for version in versions if not _tag(version, _KEY)], _last_copy(versions)
        if not bare:
            return copy
        # Asked for, and not seen from the list: its times are whole seconds.
        newest = self._newest(self._name)
        last = next((version for version in bare if newest and version.version == newest[0]), None)
        return last or copy or max(bare, key=lambda version: str(version.created_on))

    def _key(self, version: SecretProperties) -> MasterKey:
        where = f"version {version.version}"
        key = key_from(self._content(version), f"{self.address}, {where}")
        if _tag(version, _KEY) not in ("", key.key_id):
            raise self._wrong(f"{where} does not hold the key that its tag says")
        return key

    def _holds(self, version: SecretProperties, key_id: str) -> bool:
        with contextlib.suppress(MayNotStart):
            return key_from(self._content(version), "").key_id == key_id
        return False

    def _content(self, version: SecretProperties) -> str:
        with self._explained():
            return self._client.get_secret(self._name, version.version).value or ""

    def _newest(self, name: str) -> tuple[str | None, str] | None:
        """The newest version and its content; None: there is none, or it is disabled."""
        with self._explained():
            try:
                found = self._client.get_secret(name)
            except HttpResponseError as error:
                if error.status_code == 404 or _is_disabled(error):
                    return None
                raise
            return found.properties.version, found.value or ""

    def _owner(self) -> UUID | None:
        found = self._newest(f"{self._name}-instance")
        try:
            return UUID(found[1].strip()) if found else None
        except ValueError:
            what = f"{self.address}-instance does not say whose keys these are"
            raise _refusal("key_source_mark", what, "put the instance's id there") from None

    def _set(self, name: str, content: str, tags: dict[str, str] | None = None) -> None:
        with self._explained(writing=True):
            self._client.set_secret(name, content, tags=tags)

    @functools.cached_property
    def _client(self) -> SecretClient:
        # Made in the thread, at the first call: the chain of credentials looks around on this machine.
        settings, own = self._settings, self._settings.key_endpoint is not None
        limits: dict[str, Any] = {"connection_timeout": settings.key_timeout, "read_timeout": settings.key_timeout}
        if settings.key_ca_file:
            limits["connection_verify"] = str(settings.key_ca_file)
        retries: dict[str, Any] = {"retry_total": 2, "retry_backoff_factor": 0.2}
        # A cloud of one's own has its own place for logging in, which Microsoft's directory does not list.
        more = {"disable_instance_discovery": own, "transport": _Transport(**limits), **retries}
        with self._explained():
            return SecretClient(
                self._url,
                _credential(settings, **more),
                verify_challenge_resource=not own,
                transport=_Transport(**limits),
                **retries,
            )

    def _explained(self, *, writing: bool = False) -> contextlib.AbstractContextManager[None]:
        return _explained(self.address, writing)

    def _wrong(self, what: str) -> MayNotStart:
        return _refusal("key_wrong", f"{self.address}: {what}", "put the right key back")


class _Transport(RequestsTransport):  # type: ignore[misc]
    def sleep(self, duration: float) -> None:
        """Before another attempt: as long as the server asks for, but not for minutes."""
        super().sleep(min(duration, _LONGEST_WAIT))


def _credential(settings: Settings, **options: Any) -> ClientSecretCredential | DefaultAzureCredential:
    tenant, client, secret = settings.azure_tenant_id, settings.azure_client_id, settings.azure_client_secret
    if tenant and client and secret:
        return ClientSecretCredential(tenant, client, secret.get_secret_value(), **options)
    if client:
        options |= {"managed_identity_client_id": client, "workload_identity_client_id": client}
    return DefaultAzureCredential(**options)


def _tag(version: SecretProperties, name: str) -> str:
    return (version.tags or {}).get(name, "")


def _number(version: SecretProperties) -> int:
    found = _tag(version, _CURRENT)
    return int(found) if found.isdecimal() else 0


def _is_kept(version: SecretProperties) -> bool:
    return bool(_tag(version, _KEY)) and not _tag(version, _CURRENT)


def _kept(versions: list[SecretProperties]) -> dict[str, SecretProperties]:
    return {_tag(version, _KEY): version for version in versions if _is_kept(version)}


def _last_copy(versions: list[SecretProperties]) -> SecretProperties | None:
    return max((one for one in versions if _tag(one, _KEY) and _tag(one, _CURRENT)), key=_number, default=None)


def _is_disabled(error: HttpResponseError) -> bool:
    return error.status_code == 403 and "SecretDisabled" in str(error)


@contextlib.contextmanager
def _explained(address: str, writing: bool) -> Iterator[None]:
    try:
        yield
    except ClientAuthenticationError as error:
        raise _not_let_in(address, error) from error
    except HttpResponseError as error:
        raise _refused(address, error, writing) from error
    except AzureError as error:
        raise failures.unreachable(address, error) from error
    except ValueError as error:
        # The library gives no token to one that asks for another service's.
        what = f"what answers for {address} does not ask for a token of Azure Key Vault"
        raise _refusal("key_source_challenge", what, "check the host in its address") from error


def _not_let_in(address: str, error: ClientAuthenticationError) -> CompanyAgentsError:
    """Why there is no token. The library says the same of everything that goes wrong on the way to one."""
    cause = error.__cause__
    if isinstance(cause, AzureError) and not isinstance(cause, HttpResponseError):
        return failures.unreachable(address, cause)
    if isinstance(error, CredentialUnavailableError) or "DefaultAzureCredential" in error.message:
        what = f"no credentials for {address} were found on this machine, or none of them is good"
        hint = "set AZURE_TENANT_ID, AZURE_CLIENT_ID and AZURE_CLIENT_SECRET, or give it a managed identity"
        return _refusal("key_source_credentials", what, hint)
    if cause is not None:
        what = f"the login for {address} does not answer as it should"
        return failures.SourceUnavailable(
            what, hint="check the tenant; then try again in a minute", code="key_source_login"
        )
    return failures.forbidden(address)


def _refused(address: str, error: HttpResponseError, writing: bool) -> CompanyAgentsError:
    status = error.status_code or 0
    if _is_disabled(error):
        # Since it was listed.
        return failures.changed(address)
    if status == 401 or (status == 403 and not writing):
        return failures.forbidden(address)
    if status == 403:
        return failures.read_only(address)
    if status == 404:
        return failures.not_found(address)
    if status == 409:
        what = f"the secret {address} was deleted, and its name is kept until it is purged"
        return _refusal("key_source_deleted", what, "recover it, or take another name")
    if status == 429:
        return failures.throttled(address)
    return failures.broken(address, status)


def _refusal(code: str, sentence: str, hint: str) -> MayNotStart:
    return MayNotStart(sentence, hint=hint, code=code)
