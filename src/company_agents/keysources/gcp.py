"""
The master key in Google Secret Manager: one secret, and in it one version for each key.

A version cannot carry a name of its own, so the key id stands in the payload: `<key id>:<the key as base64>`. It is
written with the key in one call, and no kill can come between the two. A payload without it is a bare key, as an
operator put it there. Two versions with one key (a write that was repeated or came late) count as one, and are
destroyed as one. The hint is the alias `current`; as long as there is none, the newest bare key. Whose the secret is
says an annotation. Both are written under the secret's etag, so that nobody's change is lost.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import os
import re
import time
from collections.abc import Iterator
from typing import Any, NamedTuple
from uuid import UUID

# Read when the library is loaded: else it writes lines of its own to stderr when a handshake fails.
os.environ["GRPC_VERBOSITY"] = os.environ.get("GRPC_VERBOSITY", "NONE")

import google.auth
import grpc
from google.api_core import exceptions as api
from google.api_core import grpc_helpers
from google.auth import exceptions as auth
from google.auth.credentials import with_scopes_if_required
from google.auth.transport.requests import Request
from google.cloud.secretmanager_v1 import SecretManagerServiceClient, SecretVersion
from google.cloud.secretmanager_v1.services.secret_manager_service.transports import grpc as transports

from company_agents.crypto.keyring import MasterKey
from company_agents.errors import CompanyAgentsError, MayNotStart
from company_agents.keysources import failures
from company_agents.keysources.found import Found
from company_agents.keysources.text import key_from, key_text
from company_agents.settings import Settings

_NAME = re.compile(r"(projects/[a-z0-9.:-]+(?:/locations/([a-z0-9-]+))?)/secrets/([A-Za-z0-9_-]{1,255})")
_HOST = re.compile(r"(?:https://)?([A-Za-z0-9.-]+(?::\d+)?)/?")
_KEPT = re.compile(rb"([0-9a-f]{16}):(.+)")
_CURRENT, _CLAIM = "current", "company-agents-instance"
_NEEDED = ("secretmanager.versions.add", "secretmanager.versions.destroy", "secretmanager.secrets.update")
_SCOPES = transports.SecretManagerServiceGrpcTransport.AUTH_SCOPES
_PASSING = (api.ServiceUnavailable, api.ResourceExhausted, api.InternalServerError)
_GONE = (api.FailedPrecondition, api.NotFound)
_PAUSES = (0.1, 0.4)
_ATTEMPTS = 3
# Without these a channel that failed once would repeat its old failure for up to two minutes.
_CHANNEL = [("grpc.initial_reconnect_backoff_ms", 100), ("grpc.max_reconnect_backoff_ms", 1000)]
# Below this the one logs every request and reply, payloads and tokens, whatever switches it on; the other warns of
# a project that nobody asks for.
logging.getLogger(transports.__name__).setLevel(logging.WARNING)
logging.getLogger("google.auth._default").setLevel(logging.ERROR)


class _Held(NamedTuple):
    """A key in a version."""

    number: int
    name: str
    key: MasterKey
    kept: bool


class GcpSource:
    """Each key in a version of its own, which nothing can overwrite."""

    # An update with an etag "succeeds [if it] matches the current resource ETag" and else "fails with a
    # FAILED_PRECONDITION" (Google's guide to ETags).
    claims_alone = True

    def __init__(self, name: re.Match[str], host: str, settings: Settings) -> None:
        self.address = f"gcp-secretmanager://{name[0]}"
        self.after_destroy = ""
        self._name = name[0]
        self._parent, self._location, self._id = name.groups()
        self._host = host
        self._ca = settings.key_ca_file
        self._timeout = settings.key_timeout

    @classmethod
    def at(cls, rest: str, settings: Settings) -> GcpSource:
        """The source of `gcp-secretmanager://projects/P/secrets/S`, or with `locations/L` after the project."""
        name = _NAME.fullmatch(rest)
        if not name:
            form = "gcp-secretmanager://projects/PROJECT/secrets/SECRET, or projects/PROJECT/locations/REGION/secrets/…"
            raise failures.malformed("gcp-secretmanager", form)
        region = f"{name[2]}.rep." if name[2] else ""
        host = _HOST.fullmatch(settings.key_endpoint or f"secretmanager.{region}googleapis.com")
        if not host:
            raise failures.malformed("gcp-secretmanager", "with COMPANY_AGENTS_KEY_SOURCE_ENDPOINT=host or host:port")
        return cls(name, host[1], settings)

    async def read(self) -> Found:
        """Every enabled version; each must be a key. One that is disabled cannot be read."""
        return await asyncio.to_thread(self._read)

    async def check_writable(self, seen: Found) -> None:
        """Ask what we may do with the secret. One that is not there cannot be asked."""
        await asyncio.to_thread(self._check)

    async def claim(self, instance: UUID, seen: Found) -> None:
        """Write the annotation, if its owner is the one that was seen."""
        await asyncio.to_thread(self._claim, instance, seen)

    async def add(self, key: MasterKey, seen: Found) -> None:
        """Add a version; a secret that is not there is created."""
        await asyncio.to_thread(self._add, key)

    async def make_current(self, key_id: str, seen: Found) -> None:
        """Let the alias name the key's version."""
        await asyncio.to_thread(self._make_current, key_id)

    async def destroy(self, key_id: str, seen: Found) -> None:
        """Destroy every version that holds the key."""
        await asyncio.to_thread(self._destroy, key_id)

    def _read(self) -> Found:
        secret = self._secret()
        if secret is None:
            return Found((), None)
        versions = self._versions()
        held = self._held(versions)
        named = secret.version_aliases.get(_CURRENT)
        disabled = [number for number, version in versions.items() if _is_disabled(version)]
        if named in disabled or (disabled and not held):
            what = f"version {named if named in disabled else disabled[-1]} of {self.address} is disabled"
            raise _refusal("key_disabled", what, "enable it: gcloud secrets versions enable")
        hints = [one for one in held if (one.number == named if named is not None else not one.kept)]
        keys = {one.key.key_id: one.key for one in held}
        kept = frozenset(one.key.key_id for one in held if one.kept)
        return Found(tuple(keys.values()), hints[-1].key if hints else None, kept, self._owner(secret))

    def _check(self) -> None:
        if self._secret() is None:
            return
        allowed = self._call("test_iam_permissions", {"resource": self._name, "permissions": _NEEDED}).permissions
        missing = sorted({*_NEEDED} - {*allowed})
        if missing:
            refusal = failures.read_only(self.address)
            raise failures.SourceReadOnly(refusal.sentence, hint=f"grant {', '.join(missing)} on that secret")

    def _claim(self, instance: UUID, seen: Found) -> None:
        for _ in range(_ATTEMPTS):
            secret = self._secret()
            owner = self._owner(secret)
            if owner not in (instance, seen.owner):
                break
            if owner == instance or self._written(secret, "annotations", {_CLAIM: str(instance)}):
                return
        raise failures.changed(self.address)

    def _add(self, key: MasterKey) -> None:
        if any(one.kept and one.key == key for one in self._held(self._versions())):
            return
        data = f"{key.key_id}:{key_text(key).reveal_text()}".encode()
        request = {"parent": self._name, "payload": {"data": data, "data_crc32c": _crc32c(data)}}
        for _ in range(_ATTEMPTS):
            with contextlib.suppress(api.NotFound):
                self._call("add_secret_version", request, expects=api.NotFound, writing=True)
                return
            self._create({})
        raise failures.not_found(self.address)

    def _make_current(self, key_id: str) -> None:
        for _ in range(_ATTEMPTS):
            secret = self._secret()
            held = [one for one in self._held(self._versions()) if one.key.key_id == key_id]
            if secret is None or not held:
                raise _refusal("key_wrong", f"the key {key_id} is not at {self.address}", "put the key back")
            named, best = secret.version_aliases.get(_CURRENT), max(held, key=lambda one: one.kept).number
            if named in [one.number for one in held] or self._written(secret, "version_aliases", {_CURRENT: best}):
                return
        raise failures.changed(self.address)

    def _destroy(self, key_id: str) -> None:
        secret = self._secret()
        if secret is None:
            return
        for _ in range(_ATTEMPTS):
            versions = self._versions()
            held = [one for one in self._held(versions) if one.key.key_id == key_id]
            if not held:
                break
            for one in held:
                # Not in its state any more: destroyed by somebody else, or by us, where the reply was lost.
                with contextlib.suppress(*_GONE):
                    self._call("destroy_secret_version", {"name": one.name}, expects=_GONE, writing=True)
        else:
            raise failures.changed(self.address)
        self.after_destroy = ""
        if secret.version_destroy_ttl:
            self.after_destroy = "the secret delays destruction: until then, whoever enables the version can read it"
        elif any(_is_disabled(version) for version in versions.values()):
            self.after_destroy = "versions that somebody disabled cannot be looked into, and were left as they are"

    def _secret(self) -> Any | None:
        with contextlib.suppress(api.NotFound):
            return self._call("get_secret", {"name": self._name}, expects=api.NotFound)
        return None

    def _versions(self) -> dict[int, SecretVersion]:
        """Every version by its number, the oldest first."""
        with contextlib.suppress(api.NotFound):
            found = self._call("list_secret_versions", {"parent": self._name}, expects=api.NotFound)
            return dict(sorted((int(version.name.rpartition("/")[2]), version) for version in found))
        return {}

    def _held(self, versions: dict[int, SecretVersion]) -> list[_Held]:
        """The keys in the versions that are enabled."""
        enabled = {number: version.name for number, version in versions.items() if _is_enabled(version)}
        found = {}
        for number, name in enabled.items():
            with contextlib.suppress(*_GONE):
                found[number] = self._access(number, name)
        if len(found) < len(enabled):
            # They may have been destroyed since they were listed. If not, we do not know what is in them.
            again = self._versions()
            left = [number for number in enabled if number in again and number not in found]
            if any(_is_enabled(again[number]) for number in left):
                what = f"Google does not give out version {left[0]} of {self.address}"
                raise _refusal("key_source_refused_call", what, "is the key that encrypts the secret enabled?")
        return [*found.values()]

    def _access(self, number: int, name: str) -> _Held:
        payload = self._call("access_secret_version", {"name": name}, expects=_GONE).payload
        where = f"{self.address}, version {number}"
        if payload.data_crc32c != _crc32c(payload.data):
            raise _refusal("key_wrong", f"{where}, does not arrive as it was written", "try again; then restore it")
        kept = _KEPT.fullmatch(payload.data)
        key = key_from(kept[2] if kept else payload.data, where)
        if kept and kept[1].decode() != key.key_id:
            raise _refusal("key_wrong", f"{where}, does not hold the key that it names", "destroy it, or disable it")
        return _Held(number, name, key, kept is not None)

    def _owner(self, secret: Any | None) -> UUID | None:
        owner = secret.annotations.get(_CLAIM) if secret is not None else None
        try:
            return UUID(owner) if owner is not None else None
        except ValueError:
            what = f"the annotation {_CLAIM} of {self.address} does not say whose keys these are"
            raise _refusal("key_source_mark", what, "let it hold the instance's id") from None

    def _create(self, annotations: dict[str, str]) -> bool:
        """Create the secret; False: there was one, and it is left as it is."""
        # What lies in one region is not replicated.
        replication: dict[str, Any] = {} if self._location else {"replication": {"automatic": {}}}
        secret = {**replication, "annotations": annotations}
        with contextlib.suppress(api.AlreadyExists):
            request = {"parent": self._parent, "secret_id": self._id, "secret": secret}
            self._call("create_secret", request, expects=api.AlreadyExists, writing=True)
            return True
        return False

    def _written(self, secret: Any | None, field: str, more: dict[str, Any]) -> bool:
        """Add to a map of the secret as it was read; False: it was changed since, perhaps by us, with a reply lost."""
        if secret is None:
            return self._create(more)
        request = {
            "secret": {"name": secret.name, "etag": secret.etag, field: {**getattr(secret, field), **more}},
            "update_mask": {"paths": [field]},
        }
        with contextlib.suppress(api.FailedPrecondition):
            self._call("update_secret", request, expects=api.FailedPrecondition, writing=True)
            return True
        return False

    def _call(self, verb: str, request: dict[str, Any], *, expects: Any = (), writing: bool = False) -> Any:
        """A call, tried three times at most, and for as long as the setting says. What it `expects` is the caller's."""
        until = time.monotonic() + self._timeout
        with _explained(self.address, expects, writing):
            for pause in _PAUSES:
                with contextlib.suppress(*_PASSING):
                    return self._once(verb, request, until)
                time.sleep(pause)
            return self._once(verb, request, until)

    def _once(self, verb: str, request: dict[str, Any], until: float) -> Any:
        # Before the call: the channel would do it too, but without our limit, and its failures say less.
        if not self._credentials.valid:
            self._credentials.refresh(functools.partial(Request(), timeout=_left(until)))
        found = getattr(self._client, verb)(request=request, retry=None, timeout=_left(until))
        return [*found] if verb.startswith("list") else found

    @functools.cached_property
    def _credentials(self) -> Any:
        # Scopes later: with them, it may ask yet another service for the name of a project.
        found = with_scopes_if_required(google.auth.default()[0], _SCOPES)  # type: ignore[no-untyped-call]
        # The key of a service account signs for itself (https://google.aip.dev/auth/4111).
        itself = getattr(found, "with_always_use_jwt_access", None)
        return itself(True) if itself else found

    @functools.cached_property
    def _client(self) -> SecretManagerServiceClient:
        try:
            authorities = self._ca.read_bytes() if self._ca else None
        except OSError:
            hint = "see COMPANY_AGENTS_KEY_SOURCE_CA_FILE"
            raise _refusal("key_source_ca", f"{self._ca} cannot be read", hint) from None
        channel = grpc_helpers.create_channel(
            self._host if ":" in self._host else f"{self._host}:443",
            credentials=self._credentials,
            ssl_credentials=grpc.ssl_channel_credentials(authorities),
            options=_CHANNEL,
        )
        transport = transports.SecretManagerServiceGrpcTransport(host=self._host, channel=channel)
        return SecretManagerServiceClient(transport=transport)


def _is_enabled(version: SecretVersion) -> bool:
    return bool(version.state == SecretVersion.State.ENABLED)


def _is_disabled(version: SecretVersion) -> bool:
    """By somebody's hand. One whose destruction is only delayed looks the same, but for its time."""
    return version.state == SecretVersion.State.DISABLED and not version.scheduled_destroy_time


def _left(until: float) -> float:
    return max(until - time.monotonic(), 0.001)


def _crc32c(data: bytes) -> int:
    """CRC-32C (RFC 3720, appendix B.4), reflected."""
    found = 0xFFFFFFFF
    for byte in data:
        found ^= byte
        for _ in range(8):
            found = (found >> 1) ^ (0x82F63B78 if found & 1 else 0)
    return found ^ 0xFFFFFFFF


def _refusal(code: str, sentence: str, hint: str) -> MayNotStart:
    return MayNotStart(sentence, hint=hint, code=code)


@contextlib.contextmanager
def _explained(address: str, expects: Any, writing: bool) -> Iterator[None]:
    tokens = f"{address} (where its tokens come from)"
    try:
        yield
    except api.GoogleAPICallError as error:
        if isinstance(error, expects):
            raise
        raise _refused(address, error, writing) from error
    # What a token service answers is not repeated, not even as a cause: it may quote what it was sent.
    except auth.TransportError as error:
        raise failures.unreachable(tokens, error) from None
    except (auth.RefreshError, auth.OAuthError) as error:
        if error.retryable or isinstance(error.__cause__, auth.TransportError):
            raise failures.unreachable(tokens, error) from None
        raise failures.forbidden(address, "asks for a token for it") from None
    except (auth.GoogleAuthError, ValueError, OSError) as error:
        what = f"no credentials for {address}, or they cannot be used ({type(error).__name__})"
        hint = "set GOOGLE_APPLICATION_CREDENTIALS to their file, or give this machine a service account"
        raise _refusal("key_source_credentials", what, hint) from None


def _refused(address: str, error: api.GoogleAPICallError, writing: bool) -> CompanyAgentsError:
    if isinstance(error, api.TooManyRequests):
        return failures.throttled(address)
    if isinstance(error, api.GatewayTimeout):
        return failures.unreachable(address, TimeoutError())
    if isinstance(error, api.ServiceUnavailable):
        return failures.unreachable(address, error)
    if isinstance(error, api.ServerError):
        return failures.broken(address, error.code)
    if isinstance(error, api.Forbidden):
        return failures.read_only(address) if writing else failures.forbidden(address)
    if isinstance(error, api.Unauthorized):
        return failures.forbidden(address)
    if isinstance(error, api.NotFound):
        return failures.not_found(address)
    what = f"Google does not do a call to {address} ({type(error).__name__})"
    return _refusal(
        "key_source_refused_call", what, "look at the state of the secret, and at its key if it has its own"
    )
