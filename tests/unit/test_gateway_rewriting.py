"""
The provider's own addresses become ours, in the fields and headers that its file names, and nothing else changes.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator

import pytest

from company_agents.gateway.address import Base
from company_agents.gateway.rewriting import Rewriting
from company_agents.integrations.provider_replies import Addresses
from company_agents.outgoing.destination import Destination, Placement

HERE = "http://127.0.0.1:3101/gateway/github"
DESTINATION = Destination.at("https://api.github.com", Placement.header(), extra_hosts=["uploads.github.com"])
ADDRESSES = Addresses.model_validate(
    {
        "fields": ["url", "*_url"],
        "headers": ["X-Next"],
        "uploads": [{"field": "upload_to", "origins": ["https://files.github.com"]}],
    }
)
REWRITING = Rewriting(DESTINATION, ADDRESSES, lambda: Base(HERE), lambda origin, path, query: "made")


async def body(text: str, *, size: int = 1 << 20, kind: str = "application/json") -> str:
    async def pieces() -> AsyncIterator[bytes]:
        for at in range(0, len(text), size):
            yield text[at : at + size].encode()

    return b"".join([piece async for piece in REWRITING.body(kind, pieces())]).decode()


CHANGED = {
    '{"url":"https://api.github.com/x"}': f'{{"url":"{HERE}/x"}}',
    '{"url" : "https://api.github.com"}': f'{{"url" : "{HERE}"}}',
    '{"a_url":\n  "https://api.github.com?b"}': f'{{"a_url":\n  "{HERE}?b"}}',
    '{"a_url":"https://api.github.com{/sha}"}': f'{{"a_url":"{HERE}{{/sha}}"}}',
    r'{"url":"https:\/\/api.github.com\/x"}': f'{{"url":"{HERE}\\/x"}}',
    '[{"b":{"url":"https://uploads.github.com/x"}}]': f'[{{"b":{{"url":"{HERE}/~at:uploads.github.com/x"}}}}]',
    '{"upload_to":"https://files.github.com/a?b=c"}': f'{{"upload_to":"{HERE}/~pass:made/a?b=c"}}',
    r'{"upload_to":"https:\/\/files.github.com\/a?b=\u0026"}': f'{{"upload_to":"{HERE}/~pass:made/a?b=&"}}',
}
UNCHANGED = [
    '{"urls":"https://api.github.com/x"}',
    '{"html":"https://api.github.com/x"}',
    '{"url":"https://api.github.com.evil.example/x"}',
    '{"url":"https://api.github.com:8443/x"}',
    '{"url":"https://api.github.com@evil.example/x"}',
    '{"url":"http://api.github.com/x"}',
    '{"url":"https://github.com/x"}',
    '{"url":["https://api.github.com/x"]}',
    '{"url":"see https://api.github.com/x"}',
    r'{"text":"\"url\":\"https://api.github.com/x\""}',
    r'{"text":"a \"url\": \"https://api.github.com/x"}',
    '{"upload_to":"https://evil.example/a"}',
    '{"upload_to":"https://files.github.com.evil.example/a"}',
    '{"upload_to":"https://files.github.com/a#b"}',
    '{"upload_to":"https://api.github.com/a"}',
    '{"upload_to":12}',
    '{"upload_to":"' + "x" * 5000 + '"}',
    "{",
    "",
]


@pytest.mark.parametrize("given", CHANGED)
async def test_an_address_of_the_provider_becomes_ours_however_its_reply_is_cut(given: str) -> None:
    for size in range(1, len(given) + 1):
        assert await body(given, size=size) == CHANGED[given]


@pytest.mark.parametrize("given", UNCHANGED, ids=lambda given: given[:40])
async def test_everything_else_comes_as_it_came(given: str) -> None:
    for size in (1, 7, 1 << 20):
        assert await body(given, size=size) == given


async def test_a_long_reply_is_passed_on_as_it_comes_and_changed_throughout() -> None:
    one = {"url": "https://api.github.com/x", "text": "something else " * 20}
    text = json.dumps([one] * 500)
    assert await body(text, size=1000) == text.replace("https://api.github.com", HERE)
    first = 0

    async def pieces() -> AsyncIterator[bytes]:
        nonlocal first
        for at in range(0, len(text), 1000):
            first += 1
            yield text[at : at + 1000].encode()

    given = REWRITING.body("application/json; charset=utf-8", pieces())
    assert await anext(given)
    assert first < 15


@pytest.mark.parametrize("kind", ["text/html", "text/event-stream", "", "application/octet-stream"])
async def test_what_is_no_json_is_not_looked_into(kind: str) -> None:
    text = '{"url":"https://api.github.com/x"}'
    assert await body(text, kind=kind) == text
    assert await body(text, kind="application/problem+json") != text


HEADERS = {
    ("Location", "https://api.github.com/x?y"): f"{HERE}/x?y",
    ("location", "/x"): f"{HERE}/x",
    ("Location", "//api.github.com/x"): f"{HERE}/x",
    ("Location", "//evil.example/x"): "//evil.example/x",
    ("Location", "x/y"): "x/y",
    ("Location", "https://objects.example/x"): "https://objects.example/x",
    ("Location", "https://api.github.com.evil.example/"): "https://api.github.com.evil.example/",
    ("Content-Location", "https://uploads.github.com/x"): f"{HERE}/~at:uploads.github.com/x",
    ("X-Next", "https://api.github.com/x"): f"{HERE}/x",
    ("X-Other", "https://api.github.com/x"): "https://api.github.com/x",
    (
        "Link",
        '<https://api.github.com/a?page=2>; rel="next", <https://api.github.com/a?page=9>; rel="last"',
    ): f'<{HERE}/a?page=2>; rel="next", <{HERE}/a?page=9>; rel="last"',
    ("Link", '<https://evil.example/a>; rel="next"'): '<https://evil.example/a>; rel="next"',
    ("Link", "</a?page=2>; rel=next"): f"<{HERE}/a?page=2>; rel=next",
}


@pytest.mark.parametrize(("name", "value"), HEADERS)
def test_headers_that_say_where_to_go_next_name_us(name: str, value: str) -> None:
    expected = HEADERS[name, value]
    # A relative address of another origin is made whole only where it is ours to change.
    assert REWRITING.header(name, value).removeprefix("https:") == expected.removeprefix("https:")


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("127.0.0.1:3101", "http://127.0.0.1:3101/gateway/a%20b"),
        ("localhost:3101", "http://localhost:3101/gateway/a%20b"),
        ("[::1]:3101", "http://[::1]:3101/gateway/a%20b"),
        ("Agents.Acme.Example", "https://agents.acme.example/gateway/a%20b"),
        ('localhost"x', "https://agents.acme.example/gateway/a%20b"),
        ("localhost/x", "https://agents.acme.example/gateway/a%20b"),
    ],
)
def test_a_client_stays_on_the_host_under_which_it_came(host: str, expected: str) -> None:
    scope = {"headers": [(b"host", host.encode())], "scheme": "http"}
    assert Base.of(scope, "https://agents.acme.example", "a b").url == expected
