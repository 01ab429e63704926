"""
What comes in: forms, addresses to go back to, numbers in an address.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from urllib.parse import parse_qsl
from uuid import UUID

from starlette.requests import Request

from company_agents.errors import CompanyAgentsError, WrongUsage
from company_agents.sensitive import Sensitive

MOST_BYTES = 128 * 1024
MOST_FIELDS = 2000

# These never become plain values of a form, so that no template can put one into a page by mistake.
SECRET_FIELDS = frozenset({"token", "password", "code", "link", "totp", "client_secret"})

_PATH = re.compile(r"/(?![/\\])[A-Za-z0-9_\-./?=&%~]*")


@dataclass
class Form:
    """
    A form as it was sent, and what is wrong with it. An empty one is what a page shows at first.

    `error` is for the whole form; `failed_at` names the field that it is about, if it is about one.
    """

    values: dict[str, list[str]] = field(default_factory=dict)
    error: CompanyAgentsError | None = None
    failed_at: str | None = None
    _secrets: dict[str, Sensitive] = field(default_factory=dict, repr=False)

    def text(self, name: str) -> str:
        """A field, without the spaces around it; empty where it is not there."""
        return next(iter(self.values.get(name, [])), "").strip()

    def all(self, name: str) -> list[str]:
        """All values of a field, as of checkboxes."""
        return self.values.get(name, [])

    def has(self, name: str) -> bool:
        """Whether a checkbox is ticked."""
        return name in self.values

    def ids(self, name: str) -> list[UUID]:
        """
        All values of a field, as ids.

        Raises:
            WrongUsage: one that is none.
        """
        try:
            return [UUID(value) for value in self.all(name)]
        except ValueError:
            raise WrongUsage("this is not an id of ours", hint="load the page again") from None

    def secret(self, name: str) -> Sensitive:
        """A field of `SECRET_FIELDS`; empty where it is not there."""
        return self._secrets.get(name, Sensitive(""))

    @contextlib.contextmanager
    def at(self, name: str) -> Iterator[None]:
        """What fails in here is about this field."""
        try:
            yield
        except CompanyAgentsError:
            self.failed_at = name
            raise


async def read_form(request: Request) -> Form:
    """
    The form that a request brings.

    Raises:
        WrongUsage: too large, or not a form.
    """
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > MOST_BYTES:
            raise WrongUsage("this form is too large")
    try:
        pairs = parse_qsl(body.decode("ascii"), keep_blank_values=True, max_num_fields=MOST_FIELDS, errors="strict")
    except ValueError:
        raise WrongUsage("this is not a form of ours", hint="load the page again") from None
    return _sorted(pairs)


def _sorted(pairs: Sequence[tuple[str, str]]) -> Form:
    form = Form()
    for name, value in pairs:
        if name in SECRET_FIELDS:
            form._secrets[name] = Sensitive(value)
        else:
            form.values.setdefault(name, []).append(value)
    return form


def safe_return(value: str | None) -> str:
    """
    Where to go on: a path of ours, or the start. Two slashes, a backslash or a scheme would be another site.
    """
    return value if value and _PATH.fullmatch(value) else "/"


def number(value: str | None) -> int | None:
    """
    A number in an address, as of an audit event.

    Raises:
        WrongUsage: it is none.
    """
    if not value:
        return None
    if not re.fullmatch(r"[0-9]{1,18}", value):
        raise WrongUsage("this is not a number", hint="follow the links of the page")
    return int(value)


def dollars(value: str | None) -> int | None:
    """
    An amount of money, as millionths of a US dollar.

    Raises:
        WrongUsage: it is none.
    """
    if not value:
        return None
    found = re.fullmatch(r"\$?([0-9]{1,9})(?:\.([0-9]{1,6}))?", value)
    if not found:
        raise WrongUsage("this is no amount of money", hint="write it as 2.50")
    return int(found[1]) * 1_000_000 + int((found[2] or "").ljust(6, "0"))
