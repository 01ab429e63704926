"""
Whatever a token endpoint writes, it is read or refused, and never more than that.
"""

from __future__ import annotations

import contextlib
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from multidict import CIMultiDict, CIMultiDictProxy

from company_agents.integrations.oauth.endpoint import Heard
from company_agents.integrations.oauth.grants import LONGEST_LIFE, Unusable, granted, lifetime, scopes
from company_agents.integrations.oauth.replies import Unreadable, at, errors, read
from company_agents.integrations.oauth.said import said
from company_agents.integrations.provider import OAuth
from company_agents.outgoing.exchange import Answer
from company_agents.sensitive import MASK, Sensitive

OAUTH = OAuth(flows=())
NOW = 1_700_000_000.0
ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=12), inner, max_size=4),
    max_leaves=20,
)
FIELDS = st.sampled_from(
    ["access_token", "refresh_token", "expires_in", "scope", "token_type", "error", "refresh_token_expires_in", "ok"]
)


def answer(body: bytes, kind: str = "application/json", status: int = 200) -> Answer:
    return Answer(status, CIMultiDictProxy(CIMultiDict({"Content-Type": kind})), body)


@given(
    st.binary(max_size=300) | ANYTHING.map(lambda value: json.dumps(value).encode()),
    st.sampled_from(
        [
            "application/json",
            "application/x-www-form-urlencoded",
            "text/plain",
            "text/html",
            "",
            "x/y; charset=utf-16",
        ]
    ),
)
@settings(deadline=None)
def test_any_body_is_read_as_fields_or_refused(body: bytes, kind: str) -> None:
    with contextlib.suppress(Unreadable):
        assert read(answer(body, kind)).keys() >= set()


@given(st.dictionaries(FIELDS, ANYTHING, max_size=8))
@settings(max_examples=300, deadline=None)
def test_whatever_is_granted_can_be_sent_and_planned_with(fields: dict[str, Any]) -> None:
    try:
        found = granted(fields, OAUTH, now=NOW)
    except Unusable as error:
        assert not any(isinstance(value, str) and len(value) > 12 and value in str(error) for value in fields.values())
        return
    for token in (found.access, found.refresh):
        if token is not None:
            text = token.reveal_text()
            assert text.isascii() and text.isprintable() and 8 <= len(text) <= 16_384
    for life in (found.expires_in, found.refresh_expires_in):
        assert life is None or 0 < life <= LONGEST_LIFE
    assert all(found.scopes)


@given(st.dictionaries(st.text(max_size=12) | FIELDS, ANYTHING, max_size=8), st.integers(100, 599))
@settings(deadline=None)
def test_whatever_is_wrong_is_said_in_harmless_words(fields: dict[str, Any], status: int) -> None:
    for word in errors(fields, status=status):
        shown = said(word)
        assert shown == MASK or (len(shown) <= 60 and shown.isascii() and shown.isprintable())


@given(st.text(alphabet="abcdefghijklmnopqrstuvwxyzABC0123456789_-", min_size=8, max_size=80), st.text(max_size=30))
@settings(deadline=None)
def test_a_secret_that_was_sent_is_never_in_what_is_said(secret: str, around: str) -> None:
    for word in (secret, f"{around}{secret}{around}", f"bad {secret}"):
        shown = said(word, [Sensitive(secret)])
        assert secret not in shown or shown in ("invalid_grant", "invalid_client", "expired_token", "slow_down")


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (3600, 3600),
        ("3600", 3600),
        (" 3600 ", 3600),
        (3599.5, 3599.5),
        ("3599.5", 3599.5),
        (0.5, 0.5),
        (0, None),
        (-1, None),
        ("-1", None),
        ("never", None),
        ("1e9", None),
        ("٣٦٠٠", None),
        ("", None),
        (None, None),
        (True, None),
        (float("inf"), None),
        (float("nan"), None),
        (10**400, None),
        ([3600], None),
        (999_999_999, LONGEST_LIFE),
        (NOW + 600, 600),
        ((NOW + 600) * 1000, 600),
        (NOW - 600, None),
        ("2023-11-14T22:23:20Z", 600),
        ("2023-11-14T22:23:20+00:00", 600),
        ("2023-11-14T22:23:20", 600),
        ("2023-11-14T22:03:20Z", None),
        ("9999-12-31T23:59:59Z", LONGEST_LIFE),
        ("0001-01-01T00:00:00+14:00", None),
    ],
)
def test_a_lifetime_is_seconds_from_now_or_it_is_not_said(value: Any, seconds: float | None) -> None:
    assert lifetime(value, NOW) == seconds


@given(ANYTHING)
@settings(deadline=None)
def test_any_lifetime_is_bounded(value: Any) -> None:
    found = lifetime(value, NOW)
    assert found is None or 0 < found <= LONGEST_LIFE


@pytest.mark.parametrize(
    ("value", "separator", "found"),
    [
        ("a b", " ", ("a", "b")),
        ("a,b", " ", ("a", "b")),
        ("a, b,,a", ",", ("a", "b")),
        ("a|b:c", "|", ("a", "b:c")),
        (["a", "b", 7, ""], " ", ("a", "b")),
        ("", " ", ()),
        (None, " ", ()),
        ({"a": 1}, " ", ()),
        ("a b", "", ("a", "b")),
    ],
)
def test_scopes_are_a_list_or_a_text(value: Any, separator: str, found: tuple[str, ...]) -> None:
    assert scopes(value, separator) == found


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (b'{"a": 1, "a": 2}', "application/json"),
        (b'{"x": {"a": 1, "a": 2}}', "application/json"),
        (b"a=1&a=2", "application/x-www-form-urlencoded"),
        (b"a=%ff", "text/html"),
        ("a=ü".encode(), "application/x-www-form-urlencoded"),
        (b"&".join(b"a%d=1" % n for n in range(1001)), "application/x-www-form-urlencoded"),
        (b'{"a": Infinity}', "application/json"),
        (b'{"a": ' + b"9" * 5000 + b"}", "application/json"),
    ],
)
def test_what_could_be_read_in_two_ways_is_not_read(body: bytes, kind: str) -> None:
    with pytest.raises(Unreadable):
        read(answer(body, kind))


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (b'\xef\xbb\xbf{"a": "1"}', "application/json"),
        (b' \n{"a": "1"}', "text/html"),
        (b'{"a": "1", "a": "1"}', ""),
        (b"a=1\n", "application/x-www-form-urlencoded; charset=utf-8"),
    ],
)
def test_what_real_servers_write_is_read(body: bytes, kind: str) -> None:
    assert read(answer(body, kind)) == {"a": "1"}


@pytest.mark.parametrize(
    ("path", "found"),
    [("a.b", 1), ("l.0", 2), ("l.1", None), ("l.-1", None), ("l.²", None), ("a.b.c", None), ("x", None), ("", None)],
)
def test_a_field_is_found_by_its_path(path: str, found: Any) -> None:
    assert at({"a": {"b": 1}, "l": [2]}, path) == found


def test_nothing_of_a_reply_shows_in_its_representation() -> None:
    heard = Heard(answer(b'{"access_token": "a-good-token"}'), {"access_token": "a-good-token"}, (), NOW)
    assert "a-good-token" not in repr(heard)
