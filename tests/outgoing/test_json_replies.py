"""
A reply is searched as it will be read: in JSON whatever was escaped and how, in base64 whatever its lines.
"""

from __future__ import annotations

import base64
import json
import re

import pytest

from company_agents.outgoing.client import Outgoing, OutgoingRequest
from company_agents.outgoing.destination import Destination, Placement
from company_agents.outgoing.reply_search import REMOVED, encodings
from company_agents.sensitive import Sensitive
from tests.outgoing.servers import reply, serve

TOKEN = "xoxb-a-token/of+some=length&more"
GET = OutgoingRequest("GET", "/")
GONE = REMOVED.decode()


def escaped(characters: str, text: str = TOKEN) -> str:
    return "".join(f"\\u{ord(char):04x}" if char in characters else char for char in text)


async def body_of(outgoing: Outgoing, body: str, kind: str = "application/json") -> tuple[bytes, int]:
    async with serve(reply(body.encode(), content_type=kind)) as server:
        there = Destination.at(server.url, Placement.header(), allow_private=True)
        found = await outgoing.call(GET, there, Sensitive(TOKEN))
        return found.body, found.removed


@pytest.mark.parametrize("characters", ["=", "&=", "-", "xab", "/"])
async def test_a_credential_is_removed_whichever_of_its_characters_are_escaped(
    outgoing: Outgoing, characters: str
) -> None:
    for spelled in (escaped(characters), escaped(characters).replace("/", "\\/", 1)):
        body, removed = await body_of(outgoing, f'{{"sent": ["{spelled}"], "{spelled}": "{spelled}!"}}')
        assert json.loads(body) == {"sent": [GONE], GONE: f"{GONE}!"}
        assert removed == 3


async def test_that_it_is_declared_as_something_else_changes_nothing(outgoing: Outgoing) -> None:
    # Whoever reads a refusal of a provider parses it whatever it is called.
    body, _ = await body_of(outgoing, f'{{"error": "{escaped("=")}"}}', "text/plain")
    assert json.loads(body) == {"error": GONE}


@pytest.mark.parametrize(
    "body", ['{"a":  "\\u00e9\\/ \\ud800", "b": 1e999}', '{"a": "\\u0041"} and more', "[" * 100_000 + "\\", "\\xoxb"]
)
async def test_a_body_without_it_comes_as_it_was_sent(outgoing: Outgoing, body: str) -> None:
    assert await body_of(outgoing, body) == (body.encode(), 0)


LONG = "github_pat_11ABCDEFG0abcdefghijklmn_opqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789abcdefghi"


def in_lines(text: bytes, width: int, line_end: str) -> str:
    """Base64 as Ruby (60), PEM (64) and MIME (76) have it."""
    whole = base64.b64encode(text).decode()
    return "".join(whole[at : at + width] + line_end for at in range(0, len(whole), width))


@pytest.mark.parametrize("width", [60, 64, 76])
@pytest.mark.parametrize("line_end", ["\n", "\r\n"])
@pytest.mark.parametrize("before", ["", "a", "Bearer ", "accept: */*, authorization: Bearer "])
async def test_a_credential_in_base64_that_is_broken_into_lines_is_removed(
    outgoing: Outgoing, width: int, line_end: str, before: str
) -> None:
    lines = in_lines(f"{before}{LONG} and more".encode(), width, line_end)
    for body in (lines, json.dumps({"sent": lines}), json.dumps([{"sent": lines, "at": "é"}], indent=1)):
        async with serve(reply(body.encode(), content_type="text/plain")) as server:
            there = Destination.at(server.url, Placement.header(), allow_private=True)
            found = await outgoing.call(GET, there, Sensitive(LONG))
        assert found.removed == 1
        read = re.sub(rb"\\[rn]|[\r\n]", b"", found.body)
        assert REMOVED in read
        assert [form for form in encodings(LONG.encode()) if form in read] == []
        # What stands before and after it is as it was.
        assert base64.b64encode(before.encode())[: len(before) * 8 // 6] in read
        assert base64.b64encode(f"{before}{LONG} and more".encode())[-8:] in read


async def test_lines_without_it_come_as_they_were_sent(outgoing: Outgoing) -> None:
    body = in_lines(b"nothing of the kind" * 40, 60, "\n") + '{"a": "b\\nc"}\r\n'
    assert await body_of(outgoing, body, "text/plain") == (body.encode(), 0)
