"""
A reply in JSON is searched as it will be read, whatever was escaped in it and how.
"""

from __future__ import annotations

import json

import pytest

from company_agents.outgoing.client import Outgoing, OutgoingRequest
from company_agents.outgoing.destination import Destination, Placement
from company_agents.outgoing.reply_search import REMOVED
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
