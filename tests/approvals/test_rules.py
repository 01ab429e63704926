"""
What an agent may call: rules hold however a path is written, and whatever a provider makes of it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any
from urllib.parse import quote, unquote_to_bytes

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from company_agents.errors import Refused, WrongUsage
from company_agents.integrations import rules
from company_agents.integrations.oauth.model import Endpoints
from company_agents.integrations.rules import NOTHING_SAID, Rules, judge, may_follow, read_rule
from company_agents.integrations.wanted import Asked, Wanted
from company_agents.outgoing.client import OutgoingRequest
from company_agents.outgoing.destination import Destination, Placement
from company_agents.outgoing.match import Target
from company_agents.sensitive import Sensitive


def row(*, only: list[str] | None = None, ask: list[str] | None = None) -> dict[str, Any]:
    return {"allows": only or [], "asks": ask or [], "per_minute": None}


def call(method: str, path: str, **more: Any) -> OutgoingRequest:
    return OutgoingRequest(method, path, more.get("query", ""), more.get("headers", ()), more.get("body", b""))


def is_allowed(only: str | list[str], method: str, path: str, **more: Any) -> bool:
    try:
        judge(row(only=[only] if isinstance(only, str) else only), call(method, path, **more))
    except Refused as refused:
        assert (refused.reason, refused.http_status) == ("not_allowed_here", 403)
        return False
    return True


def is_asked(ask: str, method: str, path: str) -> bool:
    return judge(row(ask=[ask]), call(method, path))


# — the words of a rule —


@pytest.mark.parametrize(
    ("rule", "method", "path", "allowed"),
    [
        ("GET /repos/**", "GET", "/repos/a/b/issues", True),
        ("GET /repos/**", "GET", "/repos", True),
        ("GET /repos/**", "GET", "/repos/", True),
        ("GET /repos/**", "GET", "/reposx", False),
        ("GET /repos/**", "GET", "/api/repos/a", False),
        ("GET /repos/**", "POST", "/repos/a", False),
        ("GET /repos/**", "HEAD", "/repos/a", True),
        ("HEAD /repos/**", "GET", "/repos/a", False),
        ("GET,POST /repos/*/issues", "POST", "/repos/a/issues", True),
        ("GET,POST /repos/*/issues", "POST", "/repos/a/b/issues", False),
        ("GET,POST /repos/*/issues", "POST", "/repos//issues", False),
        ("* /v1/refunds", "DELETE", "/v1/refunds", True),
        ("* /v1/refunds", "GET", "/v1/refunds/", False),
        ("* /v1/refunds", "GET", "/v1/Refunds", False),
        ("* /**", "PATCH", "/", True),
        ("* /", "GET", "/", True),
        ("* /", "GET", "/a", False),
        ("GET /repos/**/issues", "GET", "/repos/issues", True),
        ("GET /repos/**/issues", "GET", "/repos/a/b/issues", True),
        ("GET /repos/**/issues", "GET", "/repos/a/issues/b", False),
        ("POST /models/*:generate*", "POST", "/models/one:generateContent", True),
        ("POST /models/*:generate*", "POST", "/models/one:embedContent", False),
        ("GET /files/report-*.csv", "GET", "/files/report-.csv", True),
        ("GET /a/**/b/**/c", "GET", "/a/x/b/y/b/z/c", True),
        ("GET /a/**/b/**/c", "GET", "/a/x/b/y/b/z/d", False),
    ],
)
def test_a_rule_means_these_calls_and_no_others(rule: str, method: str, path: str, allowed: bool) -> None:
    assert is_allowed(rule, method, path) is allowed


@pytest.mark.parametrize(
    ("rule", "path"),
    [
        ("POST /v1/refunds", "/v1/refunds/"),
        ("POST /v1/refunds", "/v1/refunds//"),
        ("POST /v1/refunds", "/V1/ReFunds"),
        ("POST /v1/refunds", "/v1/refunds.json"),
        ("POST /v1/refunds", "/v1/refunds.geojson"),
        ("POST /v1/refunds", "/v1/refunds.a-b"),
        ("POST /v1/refunds", "/v1/refunds."),
        ("POST /v1/refunds", "/v1/refunds%20"),
        ("POST /v1/refunds", "/v1//refunds"),
        ("POST /v1/refunds", "/v1/refunds;a=b"),
        ("POST /v1/refunds", "/v1;a=b/refunds;c"),
        ("POST /v1/refunds", "/v1/%72efunds"),
        ("POST /v1/refunds", "/v1%2Frefunds"),
        ("POST /v1/refunds", "/v1%252frefunds"),
        ("POST /v1/refunds", "/v1/%2572efunds%3Ba"),
        ("POST /v1/refunds", "/v1%5Crefunds"),
        # To a server that splits first, the id is `a/b`.
        ("POST /charges/*/refund", "/charges/a%2Fb/%72efund"),
        ("POST /a/*y", "/a;x/b%3By"),
    ],
)
def test_a_person_is_asked_whichever_way_the_path_is_written(rule: str, path: str) -> None:
    assert is_asked(rule, "POST", path)
    assert not is_asked(rule, "POST", "/v1/charges")


@pytest.mark.parametrize(
    "path",
    ["/repos/a%2F..%2Fb", "/repos%2Fa", "/repos/%61", "/repos/a%2Fb", "/repos/a;x=y", "/repos/a%3Bb", "/repos//a"],
)
def test_what_one_reading_does_not_allow_is_not_allowed(path: str) -> None:
    # `%61` is allowed by each: what stands for `*` may be anything.
    expected = path in ("/repos/%61", "/repos/a;x=y", "/repos/a%3Bb")
    assert is_allowed("GET /repos/*", "GET", path) is expected
    assert not is_allowed("GET /repos/a", "GET", path)


def test_nothing_is_restricted_where_nothing_is_said() -> None:
    headers = {"X-HTTP-Method-Override": "DELETE"}
    assert judge(row(), call("POST", "/a%2Fb//c;d", headers=headers, query="_method=delete")) is False
    assert judge(row(ask=["POST /b"]), call("GET", "/anything")) is False


def test_several_rules_allow_what_each_of_them_does() -> None:
    both = ["GET /a/*", "GET /a/*/*"]
    assert is_allowed(both, "GET", "/a/b") and is_allowed(both, "GET", "/a/b/c") and not is_allowed(both, "GET", "/a")
    # One reading is allowed by the one, and the other by the other.
    assert is_allowed(both, "GET", "/a/b%2Fc") and not is_allowed(both[:1], "GET", "/a/b%2Fc")


@pytest.mark.parametrize(
    "text",
    [
        *(
            "",
            "GET",
            "/repos",
            "GET repos/**",
            "GET //repos",
            "GET /re%70os",
            "GET /a /b",
            "GET /a;b",
            "GET /a?b",
            "G@T /a",
        ),
        *(
            "GET /a**",
            "GET /**a/b",
            "GET /a/../b",
            "GET /a//b",
            "GET,* /a",
            "*GET /a",
            "GET, /a",
            "GET /ä",
            "GET /" + "a" * 300,
        ),
    ],
)
def test_what_is_no_rule_is_refused_when_it_is_said(text: str) -> None:
    with pytest.raises(WrongUsage):
        Rules.read(only=[text])


def test_rules_are_kept_in_one_form() -> None:
    said = Rules.read(only=["post,get   /repos/**", "GET,POST /repos/**"], ask=[], per_minute=0)
    assert said == Rules(only=("GET,POST /repos/**",), ask=(), per_minute=0)
    with pytest.raises(WrongUsage):
        Rules.read(only=[f"GET /{number}" for number in range(101)])
    for wrong in (-1, 1_000_001):
        with pytest.raises(WrongUsage):
            Rules.read(per_minute=wrong)


def test_the_refusal_says_what_may_be_called_and_repeats_no_token() -> None:
    with pytest.raises(Refused) as refused:
        judge(row(only=["GET /repos/**"]), call("POST", "/hooks/T17/B17/xoxb17tokenthatwentwherenonebelongs"))
    assert "xoxb" not in refused.value.sentence and "GET /repos/**" in refused.value.hint


# — requests that ask to be taken for others —

METHODS = ["X-HTTP-Method-Override", "x_http_method_override", "X-HTTP-Method", "X-Method-Override"]
PATHS = ["X-Original-URL", "X-Rewrite-URL"]
FORM = {"Content-Type": "application/x-www-form-urlencoded"}
PARTS = {"Content-Type": "multipart/form-data; boundary=b"}
JSON = {"content-type": "application/json"}
HOW: dict[str, dict[str, Any]] = {
    **{name: {"headers": {name: "DELETE"}} for name in METHODS},
    "a parameter": {"query": "a=b&_method=delete"},
    "a parameter in other letters": {"query": "a;%5FMethod=delete"},
    "a form": {"headers": FORM, "body": b"a=b&_method=delete"},
    "a parameter with a zero byte": {"query": "_method%00=delete"},
    "a parameter that begins with a dot": {"query": ".method=delete"},
    "a parameter in brackets": {"query": "[_method]=delete"},
    "a form that is not called one": {"body": b"a=b&_method=delete"},
    "a form with a zero byte": {"headers": FORM, "body": b"_method%00x=delete"},
    "a part with a long head": {
        "headers": PARTS,
        "body": b'--b\r\nContent-Disposition: form-data; filename="' + b"a" * 500 + b'"; name="_method"\r\n\r\nDELETE',
    },
    "a part with a head of two lines": {
        "headers": PARTS,
        "body": b'--b\r\nContent-Disposition: form-data; x=y;\r\n name="_method"\r\n\r\nDELETE',
    },
    "a part with an encoded name": {
        "headers": PARTS,
        "body": b"--b\r\nContent-Disposition: form-data; name*=utf-8''%5Fmethod\r\n\r\nDELETE",
    },
    "a part that begins with a dot": {
        "headers": PARTS,
        "body": b'--b\r\nContent-Disposition: form-data; name=".method"\r\n\r\nDELETE',
    },
    "a form, encoded": {"headers": FORM, "body": b"a=b&%5fmethod=delete"},
    "a form of parts": {
        "headers": PARTS,
        "body": b'--b\r\nContent-Disposition: form-data; name="_method"\r\n\r\nDELETE\r\n--b--\r\n',
    },
    "JSON": {"headers": JSON, "body": b'{"a": 1, "_method": "DELETE"}'},
    "JSON, escaped": {"headers": JSON, "body": b'{"\\u005fm\\u0065thod": "DELETE"}'},
    "JSON, called something else": {"headers": {"content-type": "text/plain"}, "body": b'{"_method":"DELETE"}'},
}


@pytest.mark.parametrize("more", HOW.values(), ids=HOW)
def test_another_method_is_not_said_beside_the_request_where_methods_are_restricted(more: dict[str, Any]) -> None:
    assert not is_allowed("POST /things", "POST", "/things", **more)
    with pytest.raises(Refused, match="another method"):
        judge(row(ask=["DELETE /things"]), call("POST", "/things", **more))
    # Where every method may be used, it is no way around anything.
    assert is_allowed("* /things", "POST", "/things", **more)


@pytest.mark.parametrize("name", PATHS)
def test_another_path_is_not_said_beside_the_request_where_paths_are_restricted(name: str) -> None:
    assert not is_allowed("* /things", "GET", "/things", headers=[("A", "b"), (name, "/admin")])


@pytest.mark.parametrize(
    "more",
    [
        {"headers": JSON, "body": b'{"text": "def my_method(): pass", "\\"_method\\": 1": 2}'},
        {"headers": JSON, "body": b'{"request": {"_method": "of its own"}}'},
        {"headers": FORM, "body": b"a=_method&method=1"},
        {
            "headers": PARTS,
            "body": b'--b\r\nContent-Disposition: form-data; name="f"\r\n\r\n<input name="_method">\r\n--b--',
        },
        {"query": "method=flickr.photos.search"},
        {"headers": {"X-Method": "a"}},
    ],
)
def test_what_only_looks_like_it_is_sent(more: dict[str, Any]) -> None:
    assert is_allowed("POST /things", "POST", "/things", **more)


async def test_a_body_that_streams_ends_where_it_says_another_method() -> None:
    async def pieces(*each: bytes) -> Any:
        for piece in each:
            yield piece

    restricted = row(only=["POST /things"])
    head = b'--b\r\nContent-Disposition: form-data; name="_me'
    passed = []
    with pytest.raises(Refused):
        async for piece in rules.watched(restricted, pieces(b"x" * 10_000, head, b'thod"\r\n\r\nDELETE')):  # type: ignore[union-attr]
            passed.append(piece)
    assert passed == [b"x" * 10_000, head]
    with pytest.raises(Refused):
        endless = pieces(b'--b\r\ncontent-disposition: form-data; a="', *[b"x" * 3000] * 3, b'"; name=_method\r\n')
        async for _ in rules.watched(restricted, endless):  # type: ignore[union-attr]
            pass
    fine = pieces(b"x", b"y")
    assert [piece async for piece in rules.watched(restricted, fine)] == [b"x", b"y"]  # type: ignore[union-attr]
    assert rules.watched(row(only=["* /things"]), fine) is fine
    # A form that streams is one that nobody could look at.
    assert not is_allowed("POST /things", "POST", "/things", headers=FORM, body=fine)
    assert not is_allowed("POST /things", "POST", "/things", body=fine)
    assert is_allowed("PUT /things", "PUT", "/things", body=fine)


# — by consent —


def test_what_is_asked_for_by_consent_keeps_its_rules_until_the_answer_comes() -> None:
    said = Rules.read(only=["GET /a"], ask=[], per_minute=7)
    wanted = Wanted("slack", name="it", scopes=("read",), rules=said)
    destination = Destination.at("https://slack.com", Placement.header())
    asked = Asked("code", wanted, "client", Endpoints("https://slack.com/token"), destination, Sensitive("a verifier"))
    assert Asked.opened(asked.sealed_form()).wanted == wanted
    # One that was begun before there were rules says nothing.
    older = json.loads(asked.sealed_form().reveal())
    del older["wanted"]["rules"]
    assert Asked.opened(Sensitive(json.dumps(older))).wanted.rules == NOTHING_SAID


# — redirects —


def test_a_redirect_is_followed_only_to_where_the_agent_may_go_unasked() -> None:
    said = row(only=["GET /public/**", "POST /v1/refunds"], ask=["POST /v1/refunds"])

    def to(method: str, path: str, query: str = "") -> bool:
        return may_follow(said, Target("https", "api.example.com", 443, method, path, query))

    assert to("GET", "/public/a")
    assert not to("GET", "/private/a")
    assert not to("POST", "/v1/refunds")
    assert not to("GET", "/public/a", "_method=delete")
    # It can be read in so many ways that nobody says which.
    assert not to("GET", "/public/%" + "25" * 200 + "41")


# — properties: a rule against everything that a server could be —

PIECES = [
    *("a", "b", "repos", "refunds", "x.json", "%61", "%2f", "%2F", "%252f", "%25", "%3b", ";", ";a=b", "/", "//", "\\"),
    *("%5c", "A", "%41", "..", "%2e", "*", "%00", "%ff", "%c3%a9", ".", "~"),
]
paths = st.lists(st.sampled_from(PIECES), max_size=8).map(lambda pieces: "/" + "".join(pieces).lstrip("/"))
segments = st.sampled_from(["a", "b", "repos", "*", "**", "a*", "*b", "re*s", "x.json", "*.json"])
patterns = st.lists(segments, min_size=1, max_size=4).map(lambda each: "/" + "/".join(each))

Server = Callable[[tuple[str, ...]], tuple[str, ...]]


def _decode(text: str) -> str:
    return (
        unquote_to_bytes(text).decode("latin-1")
        if text.isascii()
        else unquote_to_bytes(text.encode("latin-1")).decode("latin-1")
    )


# What one layer of a server may do: to the path while it is one text, and to its segments once it is split.
TEXT: dict[str, Callable[[str], str]] = {
    "decode": _decode,
    "backslash": lambda text: text.replace("\\", "/"),
    "merge": lambda text: re.sub("//+", "/", text),
    "parameters": lambda text: re.sub(";[^/]*", "", text),
}
SEGMENT: dict[str, Callable[[tuple[str, ...]], tuple[str, ...]]] = {
    "decode": lambda each: tuple(map(_decode, each)),
    "parameters": lambda each: tuple(part.partition(";")[0] for part in each),
    "merge": lambda each: (*(part for part in each[:-1] if part), *each[-1:]),
}
servers = st.tuples(
    st.lists(st.sampled_from(sorted(TEXT)), max_size=4), st.lists(st.sampled_from(sorted(SEGMENT)), max_size=3)
)


def read_by(server: tuple[list[str], list[str]], path: str) -> tuple[str, ...]:
    """What such a server makes of a path."""
    for name in server[0]:
        path = TEXT[name](path)
    found = tuple(path.removeprefix("/").split("/"))
    for name in server[1]:
        found = SEGMENT[name](found)
    return found


def reference(pattern: tuple[str, ...], path: tuple[str, ...]) -> bool:
    """What a pattern means, without any cleverness."""
    if not pattern:
        return not path
    if pattern[0] == "**":
        return any(reference(pattern[1:], path[count:]) for count in range(len(path) + 1))
    if not path or not reference(pattern[1:], path[1:]):
        return False
    if pattern[0] == "*":
        return path[0] != ""
    return re.fullmatch(".*".join(map(re.escape, pattern[0].split("*"))), path[0], re.DOTALL) is not None


@settings(max_examples=400, deadline=None)
@given(pattern=patterns, path=paths, server=servers)
@example(pattern="/a/*", path="/a/b%2Fc", server=(["decode"], []))
@example(pattern="/a/**", path="/a;/..", server=([], ["parameters"]))
def test_what_is_allowed_is_what_the_rule_says_to_every_server(
    pattern: str, path: str, server: tuple[list[str], list[str]]
) -> None:
    if is_allowed(f"GET {pattern}", "GET", path):
        assert reference(read_rule(f"GET {pattern}").path, read_by(server, path))


@settings(max_examples=400, deadline=None)
@given(pattern=patterns, path=paths, server=servers, lower=st.booleans(), bare=st.booleans())
@example(pattern="/a/*b", path="/a;x/b%3Bb", server=(["parameters", "decode"], []), lower=False, bare=False)
def test_a_person_is_asked_of_what_any_server_could_take_for_what_the_rule_says(
    pattern: str, path: str, server: tuple[list[str], list[str]], lower: bool, bare: bool
) -> None:
    seen = read_by(server, path)
    if bare and len(seen) > 1 and not seen[-1]:
        seen = seen[:-1]
    rule = read_rule(f"GET {pattern}").path
    if lower:
        seen, rule = tuple(map(str.lower, seen)), tuple(map(str.lower, rule))
    if reference(rule, seen):
        try:
            assert is_asked(f"GET {pattern}", "GET", path)
        except Refused:
            # It can be read in so many ways that it is not sent at all.
            assert "%" in path


@settings(max_examples=300, deadline=None)
@given(
    path=st.lists(st.text(max_size=6).map(lambda text: quote(text, safe="")), max_size=6).map(
        lambda each: "/" + "/".join(each)
    )
)
def test_a_path_whose_text_is_encoded_as_it_should_be_is_below_its_own_beginning(path: str) -> None:
    assert is_allowed("GET /**", "GET", path)


@settings(max_examples=300, deadline=None)
@given(pattern=patterns, path=st.lists(st.sampled_from(["a", "b", "repos", "", "x.json"]), max_size=7).map(tuple))
def test_matching_is_what_the_reference_says(pattern: str, path: tuple[str, ...]) -> None:
    rule = read_rule(f"GET {pattern}").path
    assert rules.matches(rule, path) == reference(rule, path)


def test_a_path_and_a_rule_that_are_made_to_take_long_do_not() -> None:
    many = ["GET /" + "/".join(["**", "a"] * 20) + "/b" for _ in range(3)]
    assert not is_allowed(many, "GET", "/a" * 128)
    assert not is_allowed("GET /*a*a*a*a*a*a*a*b", "GET", "/" + "a" * 8000)
    assert not is_allowed("GET /**", "GET", "/a" * 200)
