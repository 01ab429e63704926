"""
The master key in AWS Secrets Manager: one secret, and in it one version for each key, with a staging label of its own.

AWS deletes versions that have no label, in its own time; so a key's label is taken away only to destroy it. AWSCURRENT
is the hint. A secret has room for 20 labels: 17 keys beside AWSCURRENT, AWSPREVIOUS and the label of the claim.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import re
from collections.abc import Iterator
from typing import Any
from uuid import UUID, uuid5

import boto3.session
import botocore.session
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError, HTTPClientError
from botocore.exceptions import ConnectionError as NotConnected

from company_agents.crypto.keyring import MasterKey
from company_agents.errors import CompanyAgentsError, MayNotStart
from company_agents.keysources import failures
from company_agents.keysources.found import Found
from company_agents.keysources.text import key_from, key_text
from company_agents.sensitive import Sensitive
from company_agents.settings import Settings

_ARN = re.compile(r"arn:aws[a-z-]*:secretsmanager:([a-z0-9-]+):\d{12}:secret:[A-Za-z0-9/_+=.@-]+")
_NAME = re.compile(r"[A-Za-z0-9/_+=.@-]{1,512}")
_CURRENT, _PREVIOUS, _CLAIM = "AWSCURRENT", "AWSPREVIOUS", "ca-instance"
_INSTANCE = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_MOST_LABELS = 20
# Version ids are derived from this: a repeated or delayed write is the same version. Never to be changed.
_NAMESPACE = UUID("6f0a2c1e-5d0b-5c63-9b1f-8f2f5a3d7c41")


class AwsSource:
    """Each key as base64, in a version whose id is derived from the key's, under the label `ca-<key id>`."""

    # "If a version with this value [of ClientRequestToken] already exists and [its content is] different …, then the
    # request fails because you can't modify a secret version" (AWS's reference of PutSecretValue). The claim's token is
    # fixed, and a take-over's is derived from the version that it replaces: of two instances, one wins.
    claims_alone = True
    after_destroy = (
        "AWS deletes a version without a label in its own time; until then, whoever may read the secret "
        "can read the key by that version's id"
    )

    def __init__(self, secret: str, core: Any, options: dict[str, Any]) -> None:
        self.address = f"aws-secretsmanager://{secret}"
        self._secret = secret
        self._core = core
        self._options = options

    @classmethod
    def at(cls, rest: str, settings: Settings) -> AwsSource:
        """The source of `aws-secretsmanager://<arn or name>`."""
        arn = _ARN.fullmatch(rest)
        if not arn and not _NAME.fullmatch(rest):
            raise failures.malformed("aws-secretsmanager", "aws-secretsmanager://NAME, or the secret's whole ARN")
        if settings.key_endpoint and not failures.is_private(settings.key_endpoint):
            what = "COMPANY_AGENTS_KEY_SOURCE_ENDPOINT is no address, or sends keys in clear text"
            raise _refusal("key_address", what, "it is https://host; http only on this machine")
        core = botocore.session.get_session()
        retries = {"mode": "standard", "total_max_attempts": 3}
        # For the session, so that what the chain of credentials calls is bounded as well.
        core.set_default_client_config(
            Config(connect_timeout=settings.key_timeout, read_timeout=settings.key_timeout, retries=retries)
        )
        with _explained(f"aws-secretsmanager://{rest}"):
            region = arn[1] if arn else core.get_config_variable("region") or os.environ.get("AWS_REGION")
            # An empty AWS_CA_BUNDLE would mean to botocore that nothing is verified.
            verify = settings.key_ca_file or core.get_config_variable("ca_bundle") or True
        if not region:
            what = f"aws-secretsmanager://{rest} does not say in which region it is"
            raise _refusal("key_source_region", what, "give the secret's whole ARN, or set AWS_DEFAULT_REGION")
        secret, token = settings.aws_secret_access_key, settings.aws_session_token
        options = {
            "region_name": region,
            "endpoint_url": settings.key_endpoint,
            "verify": verify if verify is True else str(verify),
            "aws_access_key_id": settings.aws_access_key_id,
            "aws_secret_access_key": secret and secret.get_secret_value(),
            "aws_session_token": token and token.get_secret_value(),
        }
        return cls(rest, core, options)

    async def read(self) -> Found:
        """Every version with a key's label, and the current one, which may be an operator's."""
        return await asyncio.to_thread(self._read)

    async def check_writable(self, seen: Found) -> None:
        """
        Put a version again that is there, which AWS ignores, and take a label away that it has not, which AWS refuses:
        but neither before it has seen whether we may. A secret that is empty, or not there, cannot be asked.
        """
        await asyncio.to_thread(self._check)

    async def claim(self, instance: UUID, seen: Found) -> None:
        """Put the version whose id follows from what was seen: only one content can ever have it."""
        await asyncio.to_thread(self._claim, instance, seen)

    async def add(self, key: MasterKey, seen: Found) -> None:
        """Put a version with its label; a secret that is not there is created."""
        await asyncio.to_thread(self._add, key)

    async def make_current(self, key_id: str, seen: Found) -> None:
        """Move AWSCURRENT."""
        await asyncio.to_thread(self._make_current, key_id)

    async def destroy(self, key_id: str, seen: Found) -> None:
        """Take every label from every version that holds the key."""
        await asyncio.to_thread(self._destroy, key_id)

    def _read(self) -> Found:
        keys: dict[str, MasterKey] = {}
        kept, current, owner, claim = set(), None, None, None
        for version, labels in self._versions().items():
            if _CLAIM in labels:
                owner, claim = self._owner(version), version
            elif (key := self._key(version, labels)) is not None:
                keys[key.key_id] = key
                kept |= {key.key_id} if f"ca-{key.key_id}" in labels else set()
                current = key if _CURRENT in labels else current
        return Found(tuple(keys.values()), current, frozenset(kept), owner, claim)

    def _key(self, version: str, labels: frozenset[str]) -> MasterKey | None:
        """The key in a version, where its labels say that it is to be one."""
        named = {label.removeprefix("ca-") for label in labels if label.startswith("ca-")}
        content = self._content(version) if named or labels & {_CURRENT, _PREVIOUS} else None
        if content is None:
            return None
        if not named and (_CURRENT not in labels or _INSTANCE.fullmatch(str(content))):
            # A key that was kept, and lost its label to somebody's hand, is recognised by its version's id. A claim that
            # was the first version is current from birth, and when it is taken over it loses its own label only.
            key = _key_or_none(content)
            return key if key is not None and version == _version_of(key.key_id) else None
        key = key_from(content, f"{self.address}, version {version}")
        if named - {key.key_id}:
            raise self._wrong(f"version {version} does not hold the key that its label says")
        return key

    def _check(self) -> None:
        versions = self._versions()
        if len(frozenset({_CURRENT, _PREVIOUS, _CLAIM}).union(*versions.values())) >= _MOST_LABELS:
            raise _full(self.address)
        for version, labels in [*versions.items()][:1]:
            content = self._content(version)
            again: dict[str, Any] = {"SecretBinary" if isinstance(content, bytes) else "SecretString": content}
            self._call("put_secret_value", ClientRequestToken=version, VersionStages=[*labels], **again)
            with contextlib.suppress(self._errors.InvalidParameterException):
                self._call("update_secret_version_stage", VersionStage="ca-check", RemoveFromVersionId=version)

    def _claim(self, instance: UUID, seen: Found) -> None:
        if seen.owner != instance:
            version = str(uuid5(_NAMESPACE, f"instance after {seen.version}"))
            self._put(version, Sensitive(str(instance)), _CLAIM)
        claim = _holder(self._versions(), _CLAIM)
        if claim is None or self._owner(claim) != instance:
            raise failures.changed(self.address)

    def _add(self, key: MasterKey) -> None:
        label, version = f"ca-{key.key_id}", _version_of(key.key_id)
        holder = _holder(self._versions(), label)
        if holder is None:
            holder = version
            self._put(version, key_text(key), label)
            if label not in self._versions().get(version, ()):
                # It was there without its label, and AWS ignores what is put again.
                self._move(label, to=version)
        if _key_or_none(self._content(holder)) != key:
            raise self._wrong(f"version {holder} was there with another content")

    def _make_current(self, key_id: str) -> None:
        versions = self._versions()
        target, holder = _holder(versions, f"ca-{key_id}"), _holder(versions, _CURRENT)
        if target is None:
            raise self._wrong(f"the key {key_id} is not there")
        if target == holder:
            return
        bare = _key_or_none(self._content(holder)) if holder is not None else None
        if bare is not None and _holder(versions, f"ca-{bare.key_id}") is None:
            raise _refusal(
                "key_not_kept",
                f"AWSCURRENT at {self.address} has the only copy of the key {bare.key_id}",
                "add it first",
            )
        self._move(_CURRENT, to=target, away=holder)

    def _destroy(self, key_id: str) -> None:
        own = f"ca-{key_id}"
        found = {
            version: labels
            for version, labels in self._versions().items()
            if own in labels or getattr(_key_or_none(self._content(version)), "key_id", None) == key_id
        }
        if _holder(found, _CURRENT) is not None:
            what = f"the key {key_id} is what AWSCURRENT names at {self.address}, and AWS does not let go of that"
            raise _refusal("key_current", what, "move AWSCURRENT to the version of the active key first")
        for version, labels in found.items():
            # The key's own label last: killed in between, the next attempt finds what is left.
            for label in sorted(labels, key=lambda one: one == own):
                self._move(label, away=version)

    def _versions(self) -> dict[str, frozenset[str]]:
        """
        The labels of each version that has any. From DescribeSecret, which has all of them in one answer: between two
        pages of ListSecretVersionIds a label can move.
        """
        try:
            found = self._call("describe_secret", writing=False)
        except self._errors.ResourceNotFoundException:
            return {}
        if found.get("DeletedDate"):
            what = f"the secret {self.address} is scheduled for deletion"
            raise _refusal("key_source_deleted", what, "restore it: aws secretsmanager restore-secret")
        stages = found.get("VersionIdsToStages", {}).items()
        return {version: frozenset(labels) for version, labels in stages if labels}

    def _content(self, version: str) -> str | bytes | None:
        with contextlib.suppress(self._errors.ResourceNotFoundException):  # a version can have labels and no content
            found: dict[str, Any] = self._call("get_secret_value", writing=False, VersionId=version)
            return found.get("SecretString") or found.get("SecretBinary")
        return None

    def _owner(self, version: str) -> UUID:
        try:
            return UUID(str(self._content(version)).strip())
        except ValueError:
            what = f"the version with the label {_CLAIM} at {self.address} does not say whose keys these are"
            raise _refusal("key_source_mark", what, "move the label to one that has the instance's id") from None

    def _put(self, version: str, content: Sensitive, label: str) -> None:
        """Put a version; where there is one with this id, nothing changes, whatever is in it."""
        put: dict[str, Any] = {"ClientRequestToken": version, "VersionStages": [label]}
        put["SecretString"] = content.reveal_text()
        with contextlib.suppress(self._errors.ResourceExistsException):
            try:
                self._call("put_secret_value", **put)
            except self._errors.ResourceNotFoundException:
                if _ARN.fullmatch(self._secret):
                    raise failures.not_found(self.address) from None
                # Empty at first: a content given here would have no label but AWSCURRENT.
                with contextlib.suppress(self._errors.ResourceExistsException):
                    self._call("create_secret", id_as="Name", Description="the master key of Company Agents")
                self._call("put_secret_value", **put)

    def _move(self, label: str, *, to: str | None = None, away: str | None = None) -> None:
        moves: dict[str, Any] = {"MoveToVersionId": to, "RemoveFromVersionId": away}
        try:
            moves = {name: version for name, version in moves.items() if version}
            self._call("update_secret_version_stage", VersionStage=label, **moves)
        except self._errors.InvalidParameterException as error:
            # Not where it was when we looked: moved by somebody else, or by us, where the reply was lost.
            if _holder(self._versions(), label) != to:
                raise failures.changed(self.address) from error

    def _call(self, verb: str, *, writing: bool = True, id_as: str = "SecretId", **given: Any) -> Any:
        """One call. What can be as the caller expects it is the caller's to handle; the rest is said in our words."""
        with _explained(self.address, writing=writing):
            return getattr(self._client, verb)(**{id_as: self._secret}, **given)

    @functools.cached_property
    def _client(self) -> Any:
        # Made in the thread, at the first call: it may have to ask the machine for credentials.
        with _explained(self.address):
            return boto3.session.Session(botocore_session=self._core).client("secretsmanager", **self._options)

    @property
    def _errors(self) -> Any:
        return self._client.exceptions

    def _wrong(self, what: str) -> MayNotStart:
        return _refusal("key_wrong", f"{self.address}: {what}", "put the right key back")


def _version_of(key_id: str) -> str:
    return str(uuid5(_NAMESPACE, f"key {key_id}"))


def _holder(versions: dict[str, frozenset[str]], label: str) -> str | None:
    return next((version for version, labels in versions.items() if label in labels), None)


def _key_or_none(content: str | bytes | None) -> MasterKey | None:
    with contextlib.suppress(MayNotStart):
        return key_from(content or "", "")
    return None


def _full(address: str) -> MayNotStart:
    what = f"the secret {address} has no room for another key: AWS keeps {_MOST_LABELS} labels for a secret"
    return _refusal("key_source_full", what, "prune keys that nothing needs")


def _refusal(code: str, sentence: str, hint: str) -> MayNotStart:
    return MayNotStart(sentence, hint=hint, code=code)


@contextlib.contextmanager
def _explained(address: str, *, writing: bool = False) -> Iterator[None]:
    try:
        yield
    except ClientError as error:
        if re.match(r"Resource|InvalidParameter", _code(error)):
            raise
        raise _refused(address, error, writing) from error
    except (HTTPClientError, NotConnected) as error:
        raise failures.unreachable(address, error) from error
    except (BotoCoreError, ValueError) as error:
        raise _refusal(
            "key_source_credentials",
            f"no credentials for {address}, or AWS's own settings cannot be used ({type(error).__name__})",
            "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or give this machine a role",
        ) from error


def _code(error: ClientError) -> str:
    return str(error.response.get("Error", {}).get("Code", ""))


def _refused(address: str, error: ClientError, writing: bool) -> CompanyAgentsError:
    code = _code(error)
    status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    if status == 429 or re.search(r"Throttl|TooManyRequests|RequestLimit", code):
        return failures.throttled(address)
    if code == "LimitExceededException":
        return _full(address)
    if status >= 500 or code.startswith("InternalService"):
        return failures.broken(address, status)
    if code.startswith("AccessDenied") and writing:
        return failures.read_only(address)
    # Credentials that are wrong, unknown or expired are a 400 here; so is a KMS key that may not be used.
    if status in (401, 403) or re.search(r"Access|Auth|Client|Token|Signature|cryption", code):
        return failures.forbidden(address)
    what = f"AWS does not do a call to {address} ({code or status})"
    return _refusal("key_source_refused_call", what, "look at the state of the secret")
