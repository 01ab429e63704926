"""
Every error the product raises, as one tree.

    CompanyAgentsError
    ├── Failed          exit 1    HTTP 500   it was tried and did not work, or a check found something
    │   └── Tampered              HTTP 500   a sealed value or a chained record is not what was written
    ├── WrongUsage      exit 2    HTTP 422   the words of the call are off; a malformed id
    ├── NotFound        exit 3    HTTP 404   a well-formed id that does not exist, or not for this caller
    ├── Refused         exit 4    HTTP 403   a rule says no
    │   ├── Unauthenticated       HTTP 401   no identity, or one that is no longer good
    │   ├── ApprovalNeeded        HTTP 403   a person has to approve it first; `facts` say which approval
    │   ├── Conflict              HTTP 409   the state of things forbids it
    │   ├── ProbeFailed           HTTP 422   the provider did not accept the credential
    │   └── TooMany               HTTP 429   slow down; `retry_after` says how long
    ├── Unavailable     exit 69   HTTP 503   a service that is needed is out of reach while running
    │   └── Sealed                HTTP 503   an owner has sealed the instance: no keys, no answers
    ├── Busy            exit 75   HTTP 503   somebody else is at it; the same call may work later
    └── MayNotStart     exit 78   HTTP 503   key, permissions, settings, or a source out of reach at start

An error has two voices: `sentence` and `hint` are for the person and hold no secret and no
internals; the cause (`raise … from …`) is for the log. `str(error)` is the sentence, so that a
stray one prints nothing worse.
"""

from __future__ import annotations

import enum
from datetime import datetime
from typing import ClassVar
from uuid import UUID


class Exit(enum.IntEnum):
    """
    Exit statuses of the command line; the numbers 69, 75 and 78 are those of BSD sysexits.h.
    """

    DONE = 0
    FAILED = 1
    USAGE = 2
    NOT_FOUND = 3
    REFUSED = 4
    UNAVAILABLE = 69
    BUSY = 75
    MAY_NOT_START = 78


class CompanyAgentsError(Exception):
    """something went wrong"""

    code: ClassVar[str] = "failed"
    exit_status: ClassVar[Exit] = Exit.FAILED
    http_status: ClassVar[int] = 500

    def __init__(self, sentence: str | None = None, *, hint: str = "", code: str | None = None) -> None:
        self.sentence = sentence or (type(self).__doc__ or "").strip()
        self.hint = hint
        self.reason = code or type(self).code
        # What programs are told beside it, by name.
        self.facts: dict[str, str] = {}
        super().__init__(self.sentence)


class Failed(CompanyAgentsError):
    """it did not work"""


class Tampered(Failed):
    """a stored value is not what was written"""

    code = "tampered"


class WrongUsage(CompanyAgentsError):
    """the words of this call are off"""

    code = "wrong_usage"
    exit_status = Exit.USAGE
    http_status = 422


class NotFound(CompanyAgentsError):
    """it does not exist"""

    code = "not_found"
    exit_status = Exit.NOT_FOUND
    http_status = 404


class Refused(CompanyAgentsError):
    """this is not allowed"""

    code = "refused"
    exit_status = Exit.REFUSED
    http_status = 403


class Unauthenticated(Refused):
    """this token is not good"""

    code = "unauthenticated"
    http_status = 401


class ApprovalNeeded(Refused):
    """a person has to approve this first"""

    code = "approval_needed"

    def __init__(self, approval: UUID, expires_at: datetime) -> None:
        super().__init__(
            f"a person has to approve this request first: approval {approval} waits until {expires_at:%Y-%m-%d %H:%M} UTC",
            hint="nothing was sent. Once it is approved, it is sent as it is now, once; to get the reply, make the same "
            "request again or ask for the approval",
        )
        self.facts = {"approval": str(approval), "expires_at": expires_at.isoformat()}


class Conflict(Refused):
    """the present state forbids it"""

    code = "conflict"
    http_status = 409


class ProbeFailed(Refused):
    """the provider did not accept the credential"""

    code = "probe_failed"
    http_status = 422


class TooMany(Refused):
    """too many attempts"""

    code = "too_many"
    http_status = 429

    def __init__(self, sentence: str | None = None, *, retry_after: int, hint: str = "") -> None:
        super().__init__(sentence, hint=hint or f"try again in {_spoken(retry_after)}")
        self.retry_after = retry_after


def _spoken(seconds: int) -> str:
    if seconds > 120:
        return f"{-(-seconds // 60)} minutes"
    return f"{seconds} second{'' if seconds == 1 else 's'}"


class Unavailable(CompanyAgentsError):
    """a service that is needed cannot be reached"""

    code = "unavailable"
    exit_status = Exit.UNAVAILABLE
    http_status = 503


class Sealed(Unavailable):
    """the instance is sealed"""

    code = "sealed"

    def __init__(self) -> None:
        super().__init__(hint="an owner unseals it: `company-agents unseal`, or the page /unseal")


class Busy(CompanyAgentsError):
    """somebody else is at it"""

    code = "busy"
    exit_status = Exit.BUSY
    http_status = 503


class MayNotStart(CompanyAgentsError):
    """the instance may not start"""

    code = "may_not_start"
    exit_status = Exit.MAY_NOT_START
    http_status = 503
