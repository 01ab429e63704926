"""
The provider's own addresses in its replies become ours, so that a client stays with us: in headers that are about where to go
next, and in the fields of JSON that the provider's file names. Everything else comes as it came.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import AsyncIterator, Callable, Iterable
from dataclasses import dataclass
from urllib.parse import urlsplit

from company_agents.errors import WrongUsage
from company_agents.gateway.address import Base
from company_agents.integrations.provider_replies import Addresses
from company_agents.outgoing.destination import Destination, origin, parse_origin

_HEADERS = frozenset({"location", "content-location", "link"})

# The longest that is looked for: a field's name and the origin behind it; and one with a whole address of an upload.
_SHORT, _LONG = 512, 8 * 1024
_VALUE = 4096

# Given where a file may be sent to, and the rest of the address; makes a pass for it.
Passing = Callable[[str, str, str], str]


@dataclass(frozen=True)
class Rewriting:
    """
    How the replies to one call are rewritten. `based` says where its client has the integration; `passing` makes a pass for an
    upload's origin, path and query.
    """

    destination: Destination
    addresses: Addresses
    based: Callable[[], Base]
    passing: Passing

    @functools.cached_property
    def base(self) -> Base:
        """Asked for once, and by few replies."""
        return self.based()

    def header(self, name: str, value: str) -> str:
        """The value of a header, which is the same where it names nothing of the provider's."""
        folded = name.lower()
        if folded not in _HEADERS and folded not in map(str.lower, self.addresses.headers):
            return value
        if folded == "link":
            return re.sub(r"<([^<>]*)>", lambda found: f"<{self._address(found[1])}>", value)
        return self._address(value)

    def _address(self, text: str) -> str:
        if text.startswith("/") and not text.startswith("//"):
            return self.base.url + text
        if text.startswith("//"):
            text = f"{self.destination.scheme}:{text}"
        for there, here in self._places():
            if text.startswith(there) and text[len(there) : len(there) + 1] in ("", "/", "?", "#"):
                return here + text[len(there) :]
        return text

    def _places(self) -> list[tuple[str, str]]:
        destination = self.destination
        return [
            (
                origin(destination.scheme, host, destination.port),
                self.base.url if host == destination.host else self.base.at(host),
            )
            for host in destination.hosts
        ]

    async def body(self, content_type: str, pieces: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        """The body of a reply, as it comes. JSON is read as bytes, not as values: nothing else of it changes."""
        kind = content_type.partition(";")[0].strip().lower()
        looked_for = self._looked_for() if kind == "application/json" or kind.endswith("+json") else None
        if looked_for is None:
            async for piece in pieces:
                yield piece
            return
        pattern, kept = looked_for
        held = b""
        async for piece in pieces:
            held += piece
            if len(held) > kept:
                done, held = self._replaced(pattern, held, len(held) - kept)
                if done:
                    yield done
        done, _ = self._replaced(pattern, held, len(held))
        if done:
            yield done

    def _looked_for(self) -> tuple[re.Pattern[bytes], int] | None:
        if not self.addresses.fields and not self.addresses.uploads:
            return None
        origins = tuple(there for there, _ in self._places())
        uploads = tuple(upload.field for upload in self.addresses.uploads)
        return _pattern(self.addresses.fields, origins, uploads)

    def _replaced(self, pattern: re.Pattern[bytes], text: bytes, until: int) -> tuple[bytes, bytes]:
        """What begins before `until`, replaced, and the rest: nothing that is looked for is longer than that."""
        parts: list[bytes] = []
        at = 0
        for found in pattern.finditer(text):
            if found.start() >= until:
                break
            assert found.lastgroup is not None
            parts += (text[at : found.start(found.lastgroup)], self._value(found))
            at = found.end(found.lastgroup)
        end = max(at, until)
        return b"".join([*parts, text[at:end]]), text[end:]

    def _value(self, found: re.Match[bytes]) -> bytes:
        if found.lastgroup == "origin":
            there = found["origin"].replace(b"\\/", b"/").decode()
            return dict(self._places())[there].encode()
        whole = found["whole"]
        try:
            text = json.loads(b'"' + whole + b'"')
        except ValueError:
            return whole
        name = found["upload"].decode()
        upload = next(upload for upload in self.addresses.uploads if _is_named(upload.field, name))
        return json.dumps(self._upload(text, upload.origins))[1:-1].encode()

    def _upload(self, text: str, origins: Iterable[str]) -> str:
        parts = urlsplit(text)
        try:
            there = origin(*parse_origin(f"{parts.scheme}://{parts.netloc}"))
        except WrongUsage:
            return text
        if there not in (origin(*parse_origin(each)) for each in origins) or parts.fragment:
            return text
        passed = self.base.passing(self.passing(there, parts.path or "/", parts.query)) + (parts.path or "/")
        return f"{passed}?{parts.query}" if parts.query else passed


def _is_named(field: str, name: str) -> bool:
    return name.endswith(field[1:]) if field.startswith("*") else name == field


@functools.lru_cache(256)
def _pattern(
    fields: tuple[str, ...], origins: tuple[str, ...], uploads: tuple[str, ...]
) -> tuple[re.Pattern[bytes], int] | None:
    """What is looked for, and how long it is at most. A quotation mark within a text of JSON has a backslash before it."""
    ways = []
    if uploads:
        ways.append(rf'"(?P<upload>{_names(uploads)})"\s{{0,8}}:\s{{0,8}}"(?P<whole>(?:[^"\\]|\\.){{0,{_VALUE}}})"')
    if fields:
        spelled = "|".join(re.escape(there).replace("/", r"\\?/") for there in origins)
        names = rf'"(?:{_names(fields)})"\s{{0,8}}:\s{{0,8}}"'
        ways.append(rf'{names}(?P<origin>{spelled})(?=[/?#"\\{{])')
    if not ways:
        return None
    text = r"(?<!\\)(?:" + "|".join(ways) + ")"
    return re.compile(text.encode()), _LONG if uploads else _SHORT


def _names(fields: tuple[str, ...]) -> str:
    return "|".join(
        r'[^"\\]{0,100}' + re.escape(field[1:]) if field.startswith("*") else re.escape(field) for field in fields
    )
