"""
Reads what a call has used from its reply, as the pieces pass.

It keeps what it needs and no more: a line of a stream, the whole of a reply, the end of a very long one. It changes nothing
of what passes, raises nothing, and where it understands nothing, it says what may be reckoned.
"""

from __future__ import annotations

import base64
import json
import re
import struct
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import structlog

from company_agents.integrations import usage as said_of
from company_agents.integrations.usage import Usage
from company_agents.outgoing.client import OutgoingRequest

# Bytes of one line or frame of a stream. Of a longer line the end is looked at; a longer frame is passed over.
MOST_LINE = 1024 * 1024
# Bytes of a reply that is kept whole. Up to the lower one it is simply parsed; beyond, only its outermost members are.
MOST_KEPT, MOST_PARSED = 4 * 1024 * 1024, 256 * 1024
HEAD, TAIL = 4 * 1024, 64 * 1024

# Only lines that hold one of these are parsed.
_TELLING = (b'"usage', b'"meta"', b"nvocationMetrics")
# What a model says, in the words of each API, where nobody counts it.
_TEXT = re.compile(
    rb'"(?:text|content|arguments|delta|partial_json|thinking|reasoning|reasoning_content|refusal|input)"\s*:\s*"([^"\\]*+(?:\\.[^"\\]*+)*+)"'
)
_KIND = re.compile(rb'"type"\s*:\s*"([\w.]{1,100})"')
# What a text in JSON is made of, as far as it matters for how deep a place in it is.
_TOKEN = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"?|[{}\[\]]', re.DOTALL)
_COLON = re.compile(rb"\s*:\s*")
_MODEL = re.compile(rb'(?<!\\)"(?:model|modelVersion)"\s*:\s*"([^"\\]{1,200})"')
_USAGE = re.compile(rb'(?<!\\)"(usage|usageMetadata)"\s*:\s*(?=\{)')
_MEMBERS = frozenset(
    b'"%s"' % name
    for name in (
        *(b"type", b"model", b"modelVersion", b"usage", b"usageMetadata", b"meta", b"error"),
        *(b"service_tier", b"speed", b"inference_geo"),
    )
)
_DECODER = json.JSONDecoder()
# Said at the beginning of a stream; what comes out is not in it yet.
_FIRST_WORDS = frozenset({"message_start", "response.created", "response.in_progress", "response.queued"})
_STREAMS = ("text/event-stream", "application/x-ndjson", "application/jsonl", "application/stream+json")

log = structlog.stdlib.get_logger("company_agents.costs")


class Reader:
    """
    The reader of one reply.

    Args:
        request: what was sent; its body is looked at where the reply does not say enough.
        status, headers: the head of the reply.
    """

    def __init__(self, request: OutgoingRequest, status: int, headers: Mapping[str, str]) -> None:
        self._request = request
        self._good = 200 <= status < 300
        kind = next((value for name, value in headers.items() if name.lower() == "content-type"), "")
        media_type = kind.partition(";")[0].strip().lower()
        self._take = self._take_whole
        if media_type in _STREAMS:
            self._take = self._take_lines
        elif media_type == "application/vnd.amazon.eventstream":
            self._take = self._take_frames
        self._kept = bytearray()
        self._head = b""
        self._passed_over = 0
        self._found: Usage | None = None
        self._model = ""
        self._complete = False
        self._written = 0

    def feed(self, data: bytes) -> None:
        """Take the next piece that has been released."""
        if not self._good:
            return
        try:
            self._take(data)
        except Exception as error:
            # A reply is the caller's, whatever it is; what it cost is estimated then.
            log.warning("a reply could not be read for what it cost", error=type(error).__name__)
            self._good, self._complete = False, False
            self._kept.clear()

    @property
    def is_long(self) -> bool:
        """Whether `usage` takes so long that nobody else should have to wait for it."""
        return self._take == self._take_whole and len(self._kept) > MOST_PARSED

    def usage(self) -> Usage | None:
        """
        What was used, by what has passed until now; None where nothing was, or nothing is known to have been. Of a stream
        that broke off before its end, what came out until then is estimated.
        """
        try:
            return self._usage()
        except Exception as error:
            log.warning("a reply could not be read for what it cost", error=type(error).__name__)
            return None

    def _usage(self) -> Usage | None:
        if self._take == self._take_whole and self._kept:
            self._read_whole()
        found = self._found
        if found is None and not (self._good and self._is_model_call()):
            return None
        if found is None or not found.model:
            asked = self._model or self._asked()
            found = replace(found, model=asked) if found else self._estimate(asked)
        if self._complete or found.estimated:
            return found
        return replace(found, output_tokens=max(found.output_tokens, self._out()), estimated=True)

    def _asked(self) -> str:
        return said_of.asked(self._request).model

    def _is_model_call(self) -> bool:
        """Whether a model is named, wherever it is asked; or one answers there, where the body was too long to be read."""
        return bool(self._asked()) or said_of.is_model_call(self._request.path)

    def _estimate(self, model: str) -> Usage:
        body = self._request.body
        unread = -(-(self._request.length or 0) // said_of.BYTES_PER_TOKEN)
        sent = said_of.estimated_tokens(body) if isinstance(body, bytes) else unread
        return Usage(model=model, input_tokens=sent, output_tokens=self._out(), estimated=True)

    def _out(self) -> int:
        return -(-self._written // said_of.BYTES_PER_TOKEN)

    def _take_whole(self, data: bytes) -> None:
        self._kept += data
        if len(self._kept) > MOST_KEPT:
            self._head = self._head or bytes(self._kept[:HEAD])
            del self._kept[:-TAIL]

    def _take_lines(self, data: bytes) -> None:
        start = 0
        while (end := data.find(b"\n", start)) != -1:
            if self._passed_over:
                self._passed_over = 0
                self._kept += data[start:end]
                self._long_line()
            elif self._kept:
                self._kept += data[start:end]
                self._line(bytes(self._kept))
            else:
                self._line(data[start:end])
            self._kept.clear()
            start = end + 1
        self._kept += data[start:]
        if not self._passed_over and len(self._kept) > MOST_LINE:
            self._passed_over, self._head = 1, bytes(self._kept[:HEAD])
        if self._passed_over:
            del self._kept[:-TAIL]

    def _line(self, line: bytes) -> None:
        if line.startswith(b"data:"):
            self._event(line[5:])
        elif line.startswith(b"{"):
            self._event(line)

    def _long_line(self) -> None:
        """The end of a line that was too long: OpenAI's Responses repeat in it what was asked, and then say the usage."""
        kind = _KIND.search(self._head)
        if kind is None or kind[1].decode() not in _FIRST_WORDS:
            self._read_end(bytes(self._kept[-TAIL:]))

    def _take_frames(self, data: bytes) -> None:
        """Frames of AWS: how long it is and how long its headers are, a checksum, headers, payload, a checksum."""
        if self._passed_over:
            skipped = min(self._passed_over, len(data))
            self._passed_over -= skipped
            data = data[skipped:]
        self._kept += data
        while len(self._kept) >= 12:
            whole, headers = struct.unpack_from(">II", self._kept)
            if whole > MOST_LINE or whole < headers + 16:
                self._passed_over = max(whole - len(self._kept), 0)
                del self._kept[: max(whole, 16)]
                continue
            if len(self._kept) < whole:
                return
            self._frame(bytes(self._kept[12 + headers : whole - 4]))
            del self._kept[:whole]

    def _frame(self, payload: bytes) -> None:
        if payload.startswith(b'{"bytes"'):
            payload = base64.b64decode(json.loads(payload)["bytes"])
        self._event(payload)

    def _event(self, text: bytes) -> None:
        telling = any(word in text for word in _TELLING)
        if not self._complete:
            self._written += sum(map(len, _TEXT.findall(text)))
        if not telling and (self._model or b'"model' not in text):
            return
        try:
            event = json.loads(text)
        except (ValueError, RecursionError):
            return
        if isinstance(event, dict):
            self._hear(event)

    def _hear(self, event: dict[str, Any]) -> None:
        self._model = self._model or said_of.model_of(event)
        found = said_of.said(event)
        if found is None:
            return
        self._found = found if self._found is None else self._found.merged(found)
        if event.get("type") not in _FIRST_WORDS:
            self._complete = True

    def _read_whole(self) -> None:
        body, self._kept = bytes(self._kept), bytearray()
        if self._head:
            self._read_end(body)
        else:
            for event in _parsed(body) if len(body) <= MOST_PARSED else _members(body):
                if isinstance(event, dict):
                    self._good = self._good and event.get("error") is None
                    self._hear(event)
            if self._found is None:
                self._written = sum(map(len, _TEXT.findall(body)))
        self._complete = self._found is not None

    def _read_end(self, body: bytes) -> None:
        """The last usage in what is too long to be read whole. A quote within a text would have a backslash before it."""
        places = list(_USAGE.finditer(body))
        # The request's own word comes first: much of such a reply repeats what was asked, and may name any model.
        named = _MODEL.search(self._head) or _MODEL.search(body)
        self._model = self._model or self._asked() or said_of.word(named[1].decode(errors="replace") if named else "")
        for place in reversed(places):
            text = body[place.end() :].decode(errors="replace")
            try:
                found, _ = _DECODER.raw_decode(text)
            except (ValueError, RecursionError):
                continue
            self._hear({place[1].decode(): found, "model": self._model})
            if self._found is not None:
                return


def _parsed(body: bytes) -> list[Any]:
    try:
        reply = json.loads(body)
    except (ValueError, RecursionError):
        return []
    return reply if isinstance(reply, list) else [reply]


def _members(body: bytes) -> Iterator[dict[str, Any]]:
    """
    A long reply, or each in a list of them, with those of its outermost members that tell of costs. It is never all built, and lets others
    go on meanwhile, where a parser would hold up everybody.
    """
    outer, depth = 2 if body.lstrip().startswith(b"[") else 1, 0
    found: dict[str, Any] = {}
    for token in _TOKEN.finditer(body):
        sign = token[0]
        if sign in b"{[":
            depth += 1
        elif sign in b"]}":
            depth -= 1
            if depth == outer - 1 and found:
                yield found
                found = {}
        elif depth == outer and sign in _MEMBERS and (colon := _COLON.match(body, token.end())):
            text = body[colon.end() : colon.end() + TAIL].decode(errors="replace")
            try:
                found[sign[1:-1].decode()], _ = _DECODER.raw_decode(text)
            except (ValueError, RecursionError):
                continue
