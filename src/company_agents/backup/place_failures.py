"""
How the place of backups fails, in one set of words for folders and stores. No sentence holds what an address may hide.
"""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Iterator

from company_agents.errors import MayNotStart, NotFound, Refused, Unavailable

# What is said where there is no room: by the disk, a quota, or a limit on files.
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_FORBIDDEN = (errno.EACCES, errno.EPERM, errno.EROFS)


class PlaceRefused(Refused):
    """the place of the backups refuses this"""

    code = "backup_place_refused"


class PlaceUnavailable(Unavailable):
    """the place of the backups is out of reach"""

    code = "backup_place_unavailable"


def malformed() -> MayNotStart:
    """An address that does not parse. It is not repeated: somebody may have put a password into it."""
    return MayNotStart(
        "the address of the backups is malformed",
        hint="COMPANY_AGENTS_BACKUPS is a folder, file:///folder or s3://bucket/prefix; credentials have settings of their own",
        code="backup_address",
    )


def bad_endpoint() -> MayNotStart:
    """An endpoint that is none, or that would show the backups to the way."""
    return MayNotStart(
        "COMPANY_AGENTS_BACKUP_ENDPOINT is no address, or sends backups in clear text",
        hint="it is https://host; http only on this machine",
        code="backup_endpoint",
    )


def no_credentials(address: str, error: BaseException) -> MayNotStart:
    """A client that has no credentials, or settings of its own that it cannot use."""
    return MayNotStart(
        f"no credentials for {address}, or AWS's own settings cannot be used ({type(error).__name__})",
        hint="set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or give this machine a role",
        code="backup_place_credentials",
    )


@contextlib.contextmanager
def needs_s3() -> Iterator[None]:
    """Around the import of the client library, which is not always installed."""
    try:
        yield
    except ImportError as error:
        raise MayNotStart(
            "backups in a store need a client library that is not installed",
            hint="pip install 'company-agents[s3]', or in a checkout: make up SOURCES=1",
            code="backup_place_extra",
        ) from error


def not_there(name: str, address: str) -> NotFound:
    """A backup that is not in its place."""
    return NotFound(f"there is no {name} at {address}", hint="`company-agents backup list` lists what there is")


def forbidden(address: str, *, writing: bool) -> PlaceRefused:
    """A place that may not be read, or written."""
    return PlaceRefused(
        f"{address} may not be {'written' if writing else 'read'}",
        hint="see what its owner, or these credentials, may do there; then try again",
    )


def unreachable(address: str, code: str, what: str, hint: str) -> PlaceUnavailable:
    """A place that does not do it now, and may do it later."""
    return PlaceUnavailable(f"{address} is out of reach: {what}", hint=hint, code=f"backup_place_{code}")


def unusable(address: str, error: BaseException) -> PlaceUnavailable:
    """A place whose answer its client makes nothing of. What that says is not repeated: it may be the store's own words."""
    what = f"what it answers cannot be used ({type(error).__name__})"
    return unreachable(address, "error", what, "look at the state of the store; then try again")


def too_little(address: str) -> PlaceUnavailable:
    """A place that sent less than there is."""
    return unreachable(address, "error", "it sent less than there is", "look at the state of the store; then try again")


@contextlib.contextmanager
def explained(where: str, *, writing: bool = True) -> Iterator[None]:
    """What a file system says, in our words."""
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            raise PlaceUnavailable(
                f"there is no room left at {where}", hint="make room there, then try again", code="backup_place_full"
            ) from error
        if error.errno in _FORBIDDEN:
            raise forbidden(where, writing=writing) from error
        if error.errno in (errno.ENOENT, errno.ENOTDIR):
            raise unreachable(
                where, "missing", "it is not there", "is its disk mounted? else make the folder"
            ) from error
        what = (error.strerror or "input/output error").lower()
        raise unreachable(where, "unavailable", what, "look at the disk that it is on") from error
