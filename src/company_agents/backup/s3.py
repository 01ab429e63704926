"""
Backups in a store that speaks S3's protocol: one object each, below a prefix.
"""

from __future__ import annotations

import contextlib
import os
import re
import threading
import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import boto3.exceptions
import boto3.session
import botocore.session
from boto3.s3.transfer import TransferConfig
from botocore.config import Config
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConnectTimeoutError,
    CredentialRetrievalError,
    EndpointConnectionError,
    HTTPClientError,
    IncompleteReadError,
    MetadataRetrievalError,
    NoAuthTokenError,
    NoCredentialsError,
    NoRegionError,
    PartialCredentialsError,
    ReadTimeoutError,
    RefreshWithMFAUnsupportedError,
    SSLError,
    SSOError,
    TokenRetrievalError,
)
from botocore.exceptions import ConnectionError as NotConnected

from company_agents.backup.place_failures import (
    bad_endpoint,
    explained,
    forbidden,
    malformed,
    no_credentials,
    not_there,
    too_little,
    unreachable,
    unusable,
)
from company_agents.backup.place_threads import PlaceThreads, Stopped
from company_agents.backup.places import Stored, checked_name, is_backup_name, part_of
from company_agents.errors import CompanyAgentsError
from company_agents.keysources.failures import is_private
from company_agents.settings import Settings

# AWS's rules for the names of buckets; a prefix is made of characters that mean the same everywhere.
_BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
_PREFIX = re.compile(r"[A-Za-z0-9_=.-]+(/[A-Za-z0-9_=.-]+)*")
# Seconds for a connection, and for which nothing need move on it; and how often it is tried. Somebody waits for what is
# short; a transfer may take its time.
_SHORT = Config(connect_timeout=5, read_timeout=10, retries={"mode": "standard", "total_max_attempts": 2})
_LONG = Config(connect_timeout=10, read_timeout=60, retries={"mode": "standard", "total_max_attempts": 3})
# In the thread that it is begun in: the end of the process waits for those that it would start.
_TRANSFER = TransferConfig(use_threads=False, num_download_attempts=3, preferred_transfer_client="classic")
# Seconds for all the pages of a listing.
_LISTING_TIME = 60.0
# What a reply to a call for the beginning says: which bytes it has, and of how many.
_RANGE = re.compile(r"bytes 0-\d+/(\d+|\*)")
# Parts of an upload that is not whole after so long are what a kill left behind.
_ABANDONED = timedelta(days=1)
# What the client raises where it has no credentials, also in the middle of its work: they were to be renewed.
_CREDENTIALS = (
    *(NoCredentialsError, PartialCredentialsError, CredentialRetrievalError, MetadataRetrievalError),
    *(NoAuthTokenError, TokenRetrievalError, SSOError, RefreshWithMFAUnsupportedError, NoRegionError),
)


class S3Place:
    """Objects in a bucket. boto3 sends a checksum along that the store compares, and the size is looked at afterwards."""

    def __init__(self, bucket: str, prefix: str, core: Any, options: dict[str, Any]) -> None:
        self.address = f"s3://{bucket}/{prefix}" if prefix else f"s3://{bucket}"
        self._bucket = bucket
        self._before = f"{prefix}/" if prefix else ""
        self._core = core
        self._options = options
        self._threads = PlaceThreads()
        self._session: Any = None
        self._clients: dict[Config, Any] = {}
        self._making = threading.Lock()

    @classmethod
    def at(cls, rest: str, settings: Settings) -> S3Place:
        """
        The place of `s3://<rest>`.

        Raises:
            MayNotStart: the address or the endpoint is malformed.
        """
        bucket, _, prefix = rest.rstrip("/").partition("/")
        parts = prefix.split("/")
        if not _BUCKET.fullmatch(bucket) or (prefix and not _PREFIX.fullmatch(prefix)) or {".", ".."} & {*parts}:
            raise malformed()
        endpoint = settings.backup_endpoint
        if endpoint and not is_private(endpoint):
            raise bad_endpoint()
        core = botocore.session.get_session()
        # For the session, so that what the chain of credentials calls is bounded as well.
        core.set_default_client_config(
            # Where the bucket is a part of the host's name, a store of one's own would need a name for each.
            _SHORT.merge(Config(s3={"addressing_style": "path"})) if endpoint else _SHORT
        )
        address = f"s3://{bucket}/{prefix}"
        with _explained(address, opening=True):
            # An empty AWS_CA_BUNDLE would mean to botocore that nothing is verified.
            verify = settings.ca_file or core.get_config_variable("ca_bundle") or True
        secret, token = settings.aws_secret_access_key, settings.aws_session_token
        options = {
            "endpoint_url": endpoint,
            "verify": verify if verify is True else str(verify),
            "aws_access_key_id": settings.aws_access_key_id,
            "aws_secret_access_key": secret and secret.get_secret_value(),
            "aws_session_token": token and token.get_secret_value(),
        }
        return cls(bucket, prefix, core, options)

    async def put(self, name: str, path: Path) -> None:
        """Uploaded in parts, which become an object together, or not at all."""
        key = self._key(name)
        await self._threads.transfer(lambda stop: self._put(key, path, stop))

    async def get(self, name: str, path: Path) -> None:
        """Downloaded under another name and renamed."""
        key = self._key(name)
        await self._threads.transfer(lambda stop: self._get(name, key, path, stop))

    async def beginning(self, name: str, length: int) -> bytes:
        """The first bytes of one: a call with a range."""
        key = self._key(name)
        return await self._threads.short(lambda: self._beginning(name, key, length))

    def local(self, name: str) -> Path | None:
        """None: it has to be fetched."""
        return None

    async def list(self) -> list[Stored]:
        """Every object with a name of ours directly below the prefix."""
        return [*await self._threads.listing(self._list)]

    async def delete(self, name: str) -> None:
        """Delete the object."""
        key = self._key(name)
        await self._threads.short(lambda: self._call("delete_object", writing=True, Key=key))

    def _key(self, name: str) -> str:
        return f"{self._before}{checked_name(name)}"

    def _put(self, key: str, path: Path, stop: threading.Event) -> None:
        with explained(str(path), writing=False):
            size = path.stat().st_size
        client = self._client(_LONG)
        with explained(str(path), writing=False), _explained(self.address, writing=True, files=True):
            client.upload_file(str(path), self._bucket, key, Callback=_watched(stop), Config=_TRANSFER)
        if self._call("head_object", Key=key).get("ContentLength") != size:
            raise unreachable(self.address, "error", "what it has is not what was sent", "look at the store")
        # A convenience: not every store lists them, and not every key may.
        with contextlib.suppress(CompanyAgentsError):
            self._abort_abandoned()

    def _get(self, name: str, key: str, path: Path, stop: threading.Event) -> None:
        client, part = self._client(_LONG), part_of(path)
        with explained(str(path.parent)):
            os.close(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600))
            try:
                with _explained(self.address, files=True), self._missing(name), open(part, "wb") as file:
                    client.download_fileobj(self._bucket, key, file, Callback=_watched(stop), Config=_TRANSFER)
                    file.flush()
                    os.fsync(file.fileno())
                part.replace(path)
            finally:
                part.unlink(missing_ok=True)

    def _beginning(self, name: str, key: str, length: int) -> bytes:
        if length <= 0:
            return b""
        client = self._client(_SHORT)
        with _explained(self.address), self._missing(name):
            try:
                found = client.get_object(Bucket=self._bucket, Key=key, Range=f"bytes=0-{length - 1}")
            except ClientError as error:
                if _code(error) == "InvalidRange":  # it is empty
                    return b""
                raise
            whole = _whole(found)
            with contextlib.closing(found["Body"]) as body:
                begun = b""
                while len(begun) < length and (piece := body.read(length - len(begun))):
                    begun += piece
        # What is short is whole only where the reply says that there is no more.
        if len(begun) < length and len(begun) != whole:
            raise too_little(self.address)
        return begun

    def _list(self) -> Sequence[Stored]:
        found, until = [], time.monotonic() + _LISTING_TIME
        client = self._client(_SHORT)
        with _explained(self.address):
            pages = client.get_paginator("list_objects_v2").paginate(
                Bucket=self._bucket, Prefix=self._before, Delimiter="/"
            )
            for page in pages:
                for entry in page.get("Contents", ()):
                    name = entry["Key"].removeprefix(self._before)
                    if is_backup_name(name):
                        found.append(Stored(name, entry["Size"], entry["LastModified"].astimezone(UTC)))
                if time.monotonic() > until:
                    what = "to list what it has takes too long"
                    raise unreachable(
                        self.address, "timeout", what, "give the backups a prefix, or a bucket, of their own"
                    )
        return sorted(found, key=lambda stored: stored.name)

    def _abort_abandoned(self) -> None:
        """End uploads that a kill left in the middle: their parts are paid for, and never shown."""
        for upload in self._call("list_multipart_uploads", Prefix=self._before).get("Uploads", ()):
            ours = is_backup_name(upload["Key"].removeprefix(self._before))
            if ours and datetime.now(UTC) - upload["Initiated"].astimezone(UTC) > _ABANDONED:
                self._call("abort_multipart_upload", writing=True, Key=upload["Key"], UploadId=upload["UploadId"])

    def _call(self, verb: str, *, writing: bool = False, **given: Any) -> Any:
        client = self._client(_SHORT)
        with _explained(self.address, writing=writing):
            return getattr(client, verb)(Bucket=self._bucket, **given)

    @contextlib.contextmanager
    def _missing(self, name: str) -> Iterator[None]:
        try:
            yield
        except ClientError as error:
            if _code(error) in ("NoSuchKey", "404"):
                raise not_there(name, self.address) from error
            raise

    def _client(self, config: Config) -> Any:
        # Made in the thread, at the first call: it may have to ask the machine for credentials. One after the other, since
        # a session is nothing for two threads.
        with self._making, _explained(self.address, opening=True):
            if self._session is None:
                # One only: each writes itself into the core, once more.
                self._session = boto3.session.Session(botocore_session=self._core)
            if config not in self._clients:
                self._clients[config] = self._session.client("s3", config=config, **self._options)
            return self._clients[config]


def _watched(stop: threading.Event) -> Any:
    """What boto3 calls as bytes move."""

    def moved(_: int) -> None:
        if stop.is_set():
            raise Stopped

    return moved


@contextlib.contextmanager
def _explained(address: str, *, writing: bool = False, opening: bool = False, files: bool = False) -> Iterator[None]:
    """
    What a store, or its client, says, in our words. While it is `opening`, only its settings can be at fault; with `files`, what
    a file system says is somebody else's to explain.
    """
    try:
        yield
    except (CompanyAgentsError, Stopped):
        raise
    except Exception as error:
        if files and isinstance(error, OSError) and not isinstance(error, BotoCoreError):
            raise
        raise _said(address, _cause(error), writing, opening) from error


def _cause(error: Exception) -> Exception:
    if isinstance(error, boto3.exceptions.S3UploadFailedError) and isinstance(error.__context__, Exception):
        # It keeps no more of its cause than a text, but was raised while that was handled.
        return error.__context__
    # What a download that was tried again and again ends with.
    last = getattr(error, "last_exception", None)
    return last if isinstance(last, Exception) else error


def _whole(found: dict[str, Any]) -> int | None:
    """
    How many bytes an object has, by the reply to a call for its beginning, if that says so.

    Raises:
        ValueError: it is of another piece.
    """
    if (said := found.get("ContentRange")) is None:
        return found.get("ContentLength")
    if not (matched := _RANGE.fullmatch(said)):
        raise ValueError("another piece")
    return None if matched[1] == "*" else int(matched[1])


def _said(address: str, error: Exception, writing: bool, opening: bool) -> CompanyAgentsError:
    match error:
        case ClientError():
            return _refused(address, error, writing)
        case SSLError():
            what = "its TLS certificate is not trusted, or it does not speak TLS"
            return unreachable(address, "tls", what, "check COMPANY_AGENTS_CA_FILE and COMPANY_AGENTS_BACKUP_ENDPOINT")
        case ConnectTimeoutError() | ReadTimeoutError():
            return unreachable(address, "timeout", "it does not answer in time", "is it up, and reachable from here?")
        case EndpointConnectionError():
            what = "its host's name does not resolve, or nothing takes the connection"
            return unreachable(address, "refused", what, "check COMPANY_AGENTS_BACKUP_ENDPOINT, and whether it is up")
        case IncompleteReadError():
            return too_little(address)
        case OSError() if opening:  # a program of the machine that is to have the credentials
            return no_credentials(address, error)
        case OSError() | HTTPClientError() | NotConnected() | boto3.exceptions.S3UploadFailedError():
            return unreachable(address, "unavailable", "the call failed", "is it up?")
    if opening or isinstance(error, _CREDENTIALS):
        return no_credentials(address, error)
    return unusable(address, error)


def _refused(address: str, error: ClientError, writing: bool) -> CompanyAgentsError:
    code = _code(error)
    status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    if code == "NoSuchBucket":
        return unreachable(address, "missing", "there is no such bucket", "make it, or check COMPANY_AGENTS_BACKUPS")
    # The reply to a HEAD has no more than the status; 503 is what S3 says where it asks to slow down.
    if status in (429, 503):
        return unreachable(address, "throttled", f"it asks to slow down ({status})", "try again in a minute")
    if status in (401, 403):
        return forbidden(address, writing=writing)
    if status >= 500:
        return unreachable(address, "error", f"it fails ({status})", "look at the service; then try again")
    return unreachable(
        address, "error", f"it does not do this call ({code or status})", "look at the state of the store"
    )


def _code(error: ClientError) -> str:
    return str(error.response.get("Error", {}).get("Code", ""))
