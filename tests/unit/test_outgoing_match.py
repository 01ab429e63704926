from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from company_agents.errors import Refused, WrongUsage
from company_agents.outgoing.destination import Destination, Placement
from company_agents.outgoing.match import Target, admit

THERE = Destination.at("https://slack.com", Placement.header(), extra_hosts=["files.slack.com"])
ASKED = Target("https", "slack.com", 443, "GET", "/api/chat.postMessage")


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/a",
        "/a//b/",
        "/a.b/..c/.d/e..",
        "/a;b=1/c:d@e!$&'()*+,=~_-",
        "/group%2Fproject",
        "/a%5Cb",
        "/%C3%BC/%7e%7E",
        "/100%25",
        "/...",
    ],
)
def test_a_well_formed_path_is_sent_byte_for_byte(path: str) -> None:
    url = admit(THERE, replace(ASKED, path=path, query="a=%7e&b[]=1&c={x}&a"))
    assert url.raw_path_qs == path + "?a=%7e&b[]=1&c={x}&a"
    assert (url.scheme, url.raw_host, url.port) == ("https", "slack.com", 443)


@pytest.mark.parametrize(
    "path",
    [
        "",
        "a",
        "//evil.example/",
        "/a b",
        "/a\tb",
        "/a\r\nHost: evil.example",
        "/\x00",
        "/a\\b",
        "/ü",
        "/a?b",
        "/a#b",
        "/a%",
        "/a%4",
        "/a%zz",
        '/a"b',
        "/.",
        "/..",
        "/a/..",
        "/a/./b",
        "/a/../b",
        "/%2e",
        "/%2E%2e/b",
        "/.%2e/b",
        "/a%2f..%2fb",
        "/a%2F%2e%2E%2Fb",
        "/a%5c..%5Cb",
        "/a/..%5cb",
        "/%252e%252e/b",
        "/a%252f%252e%252e",
        "/%25252e%25252e",
        "/..;x=1/b",
        "/..%3bx/b",
        "/.;/b",
        "/a%00",
        "/a%0d%0aX:%20y",
        "/a%250a",
        "/a%7f",
        "/%" + "25" * 20 + "41",
        "/" + "a" * 9000,
        "https://slack.com/",
    ],
)
def test_a_path_that_servers_could_read_in_two_ways_is_refused(path: str) -> None:
    with pytest.raises(WrongUsage):
        admit(THERE, replace(ASKED, path=path))


@pytest.mark.parametrize("query", ["a b", "a#b", "a\r\nb", "ü", "\x00", "a" * 40_000])
def test_a_query_that_is_not_encoded_is_refused(query: str) -> None:
    with pytest.raises(WrongUsage):
        admit(THERE, replace(ASKED, query=query))


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "QUERY", "PROPFIND"])
def test_a_method_is_a_token_in_capitals(method: str) -> None:
    assert admit(THERE, replace(ASKED, method=method))


@pytest.mark.parametrize("method", ["", "get", "GET ", "GE T", "GET\r\n", "G/T", "GÉT"])
def test_what_is_no_method_is_refused(method: str) -> None:
    with pytest.raises(WrongUsage):
        admit(THERE, replace(ASKED, method=method))


@pytest.mark.parametrize("method", ["TRACE", "TRACK", "CONNECT"])
def test_methods_that_echo_or_tunnel_are_refused(method: str) -> None:
    with pytest.raises(Refused):
        admit(THERE, replace(ASKED, method=method))


@pytest.mark.parametrize(
    "elsewhere",
    [
        replace(ASKED, scheme="http"),
        replace(ASKED, port=80),
        replace(ASKED, host="slack.com.evil.example"),
        replace(ASKED, host="evil-slack.com"),
        replace(ASKED, host="api.slack.com"),
        replace(ASKED, host="SLACK.com"),
        replace(ASKED, host="slack.com."),
        replace(ASKED, host="files.slack.com", port=8443),
    ],
)
def test_another_scheme_host_or_port_is_refused(elsewhere: Target) -> None:
    with pytest.raises(Refused):
        admit(THERE, elsewhere)


def test_a_further_host_of_the_destination_is_admitted() -> None:
    assert admit(THERE, replace(ASKED, host="files.slack.com")).raw_host == "files.slack.com"


@settings(max_examples=500, deadline=None)
@given(path=st.text("/.%25fFeEcC\\;a?#", max_size=14).map(lambda text: "/" + text), query=st.text(max_size=8))
def test_what_is_admitted_is_what_is_sent(path: str, query: str) -> None:
    try:
        url = admit(THERE, replace(ASKED, path=path, query=query))
    except WrongUsage:
        return
    assert url.raw_path_qs == (f"{path}?{query}" if query else path)
    assert url.raw_host == "slack.com"
