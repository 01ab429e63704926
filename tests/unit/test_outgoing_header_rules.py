from __future__ import annotations

import pytest

from company_agents.errors import WrongUsage
from company_agents.outgoing.header_rules import for_request, of_reply

DROPPED = [
    "Host",
    "Connection",
    "Keep-Alive",
    "Proxy-Authorization",
    "Proxy-Connection",
    "TE",
    "Trailer",
    "Transfer-Encoding",
    "Upgrade",
    "Content-Length",
    "Authorization",
    "Cookie",
    "X-Forwarded-For",
    "X-Forwarded-Host",
    "Forwarded",
    "Range",
    "If-Range",
    "Accept-Encoding",
    "Expect",
    "User-Agent",
    "transfer_encoding",
    "X_Forwarded_For",
    "AUTHORIZATION",
    "A-IM",
    "Accept-Charset",
]


@pytest.mark.parametrize("name", DROPPED)
def test_headers_that_are_ours_or_dangerous_are_dropped(name: str) -> None:
    assert list(for_request({name: "x", "Accept": "*/*"}, None).items()) == [("Accept", "*/*")]


@pytest.mark.parametrize("name", ["X-Api-Key", "x-api-key", "X_Api_Key"])
def test_the_header_that_carries_the_credential_is_dropped(name: str) -> None:
    assert not for_request({name: "mine"}, "X-API-Key")


def test_headers_that_connection_names_are_dropped() -> None:
    assert list(for_request([("Connection", "close, X-Hop"), ("x-hop", "1"), ("X-Other", "2")], None)) == ["X-Other"]


def test_all_other_headers_travel_in_their_order_and_number() -> None:
    pairs = [("Accept", "a/b"), ("X-One", "1"), ("accept", "c/d"), ("X-Text", "grün\tund mehr")]
    assert list(for_request(pairs, None).items()) == pairs


@pytest.mark.parametrize("name", ["", "a b", "a:b", "a\r\nb", "ä", "a\x00", "(a)"])
def test_what_is_no_name_is_refused(name: str) -> None:
    with pytest.raises(WrongUsage):
        for_request({name: "x"}, None)


@pytest.mark.parametrize("value", ["a\r\nX: y", "a\nb", "a\rb", "a\x00b", "\x7f", "\x85", "\ud800"])
def test_what_is_no_value_is_refused_and_not_repeated(value: str) -> None:
    with pytest.raises(WrongUsage) as refused:
        for_request({"X-Name": value}, None)
    assert value not in refused.value.sentence


def test_of_a_reply_what_is_about_one_hop_or_opens_a_session_is_kept_back() -> None:
    raw = [
        (b"Connection", b"x-hop"),
        (b"X-Hop", b"1"),
        (b"Transfer-Encoding", b"chunked"),
        (b"Content-Encoding", b"gzip"),
        (b"Content-Length", b"5"),
        (b"Set-Cookie", b"session=1"),
        (b"Proxy-Authenticate", b"x"),
        (b"Content-Type", b"text/plain"),
        (b"X-Two", b"1"),
        (b"X-Two", b"2"),
    ]
    assert of_reply(raw) == [(b"Content-Type", b"text/plain"), (b"X-Two", b"1"), (b"X-Two", b"2")]
