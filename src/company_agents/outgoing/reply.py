"""
A reply on its way in: decoded, bounded, searched, and only then released.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator

import aiohttp
from multidict import CIMultiDict, CIMultiDictProxy

from company_agents.errors import Refused, Unavailable
from company_agents.outgoing import decoding, header_rules
from company_agents.outgoing.failures import FOREIGN
from company_agents.outgoing.reply_search import Patterns, Searcher

Explain = Callable[[Exception], Exception]

# Stands in no header, and in nothing that is searched for.
_APART = b"\x01"


class StreamedReply:
    """
    A reply whose body is read as it comes. `removed` grows while it is read.

    Raises:
        Refused: it cannot be searched: a part of the content, an unknown content encoding or character set.
    """

    def __init__(
        self, response: aiohttp.ClientResponse, host: str, patterns: Patterns, limit: int | None, explain: Explain
    ) -> None:
        self.status = response.status
        self._response = response
        self._host = host
        self._limit = limit
        self._explain = explain
        self._patterns = patterns
        self._searcher = Searcher(patterns)
        self._decoder = self._searchable()
        self.headers = self._searched_headers()

    @property
    def removed(self) -> int:
        """In how many places the credential stood, so far."""
        return self._searcher.hits

    @property
    def has_arrived(self) -> bool:
        """Whether all of the body is here, so that reading it waits for nobody."""
        return self._response.content.is_eof()

    @property
    def length(self) -> int | None:
        """To HEAD: how many bytes GET would have, where that is said and they are not encoded."""
        said = self._response.headers.get("Content-Length", "")
        plain = "Content-Encoding" not in self._response.headers
        return int(said) if self._response.method == "HEAD" and plain and said.isdigit() else None

    def _searchable(self) -> decoding.Decoder:
        if self.status == 206:
            raise Refused(f"{self._host} answered with a part of the content (206), which cannot be searched")
        if self.status == 101:
            raise Refused(f"{self._host} wants another protocol (101), which cannot be searched")
        empty = self._response.method == "HEAD" or self.status in (204, 304)
        decoder = decoding.decoder([] if empty else self._response.headers.getall("Content-Encoding", []))
        if decoder is None:
            raise Refused(f"{self._host} answered in an unknown content encoding, which cannot be searched")
        if not empty and not decoding.keeps_ascii(self._response.headers.getall("Content-Type", [])):
            raise Refused(
                f"{self._host} answered in a character set that cannot be searched", hint="ask for UTF-8, or for none"
            )
        return decoder

    def _searched_headers(self) -> CIMultiDictProxy[str]:
        pairs = header_rules.of_reply(self._response.raw_headers)
        if not self._patterns.may_be_in(_APART.join(part for pair in pairs for part in pair)):
            return CIMultiDictProxy(
                CIMultiDict((name.decode("latin-1"), value.decode("latin-1")) for name, value in pairs)
            )
        found: CIMultiDict[str] = CIMultiDict()
        for name, value in pairs:
            # A name cannot hold the words that say what was removed, so the whole header goes.
            if self._searcher.scrub(name) == name:
                found.add(name.decode("latin-1"), self._searcher.scrub(value).decode("latin-1"))
        return CIMultiDictProxy(found)

    async def body(self) -> AsyncIterator[bytes]:
        """
        The body, decoded and searched, in chunks that are never empty.

        Raises:
            Refused: it is larger than the limit, or not what its content encoding says.
            Unavailable: it broke off.
        """
        taken = given = 0
        last = b""
        async for data in self._raw():
            taken += len(data)
            self._check_size(taken)
            for piece in self._decoded(data):
                given += len(piece)
                self._check_size(given)
                if not last and len(piece) < decoding.PIECE and self._response.content.at_eof():
                    # As a rule this is the end: with that it is searched once, and not as what more may follow.
                    last = piece
                    continue
                if safe := self._searcher.feed(last + piece):
                    yield safe
                last = b""
                if len(piece) == decoding.PIECE:
                    # There is more of the same: others have their turn in between.
                    await asyncio.sleep(0)
        self._check_complete()
        if rest := self._searcher.finish(last):
            yield rest

    async def _raw(self) -> AsyncIterator[bytes]:
        failure: Exception
        while True:
            try:
                data = await self._response.content.readany()
            except FOREIGN as exc:
                failure = self._explain(exc)
                break
            if not data:
                return
            yield data
        raise failure

    def _decoded(self, data: bytes) -> Iterator[bytes]:
        try:
            yield from self._decoder.feed(data)
        except decoding.Undecodable as exc:
            raise Refused(f"what {self._host} answered is not what its content encoding says") from exc

    def _check_complete(self) -> None:
        try:
            self._decoder.finish()
        except decoding.Truncated as exc:
            raise Unavailable(f"the connection with {self._host} broke off") from exc

    def _check_size(self, size: int) -> None:
        if self._limit is not None and size > self._limit:
            raise Refused(
                f"the reply of {self._host} is larger than {self._limit} bytes", hint="ask for less at a time"
            )
