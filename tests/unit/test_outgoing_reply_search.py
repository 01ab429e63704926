from __future__ import annotations

import base64
import gc
import html
import json
import random
import string
import weakref
from itertools import pairwise
from urllib.parse import quote, quote_plus

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from company_agents.errors import WrongUsage
from company_agents.outgoing.reply_search import REMOVED, Patterns, Searcher, encodings
from company_agents.outgoing.spelling import read
from company_agents.sensitive import Sensitive

VALUE = b"tok-en/with+all=sorts&of\"<things>\\ and ~'space'"


def search(value: bytes, chunks: list[bytes]) -> tuple[bytes, int]:
    searcher = Searcher(Patterns([Sensitive(value)]))
    out = b"".join([searcher.feed(chunk) for chunk in chunks]) + searcher.finish()
    return out, searcher.hits


def cut(text: bytes, places: list[int]) -> list[bytes]:
    ends = [0, *sorted(place % (len(text) + 1) for place in places), len(text)]
    return [text[start:end] for start, end in pairwise(ends)]


TEXT = VALUE.decode()
ECHOES = {
    "plain": VALUE,
    "hex": VALUE.hex().encode(),
    "hex in capitals": VALUE.hex().upper().encode(),
    "base64": base64.b64encode(VALUE),
    "base64 for URLs": base64.urlsafe_b64encode(VALUE),
    "base64 without padding": base64.b64encode(VALUE).rstrip(b"="),
    "base64, JSON with escaped slashes": base64.b64encode(VALUE).replace(b"/", b"\\/"),
    "base64, percent-encoded": quote(base64.b64encode(VALUE).rstrip(b"="), safe="").encode(),
    "percent-encoded, as Python does": quote(TEXT).encode(),
    "percent-encoded, strictly": quote(TEXT, safe="").encode(),
    "percent-encoded, small hex": quote(TEXT, safe="").replace("%2F", "%2f").replace("%2B", "%2b")
    .replace("%3D", "%3d").replace("%3C", "%3c").replace("%3E", "%3e").replace("%5C", "%5c").encode(),
    "percent-encoded, as JavaScript does": quote(TEXT, safe="!~*'()").encode(),
    "form-encoded": quote_plus(TEXT).encode(),
    "form-encoded, as browsers do": quote_plus(TEXT, safe="*").replace("~", "%7E").encode(),
    "percent-encoded throughout": "".join(f"%{byte:02X}" for byte in VALUE).encode(),
    "percent-encoded throughout, small hex": "".join(f"%{byte:02x}" for byte in VALUE).encode(),
    "JSON": json.dumps(TEXT).encode(),
    "JSON with escaped slashes": json.dumps(TEXT).replace("/", "\\/").encode(),
    "JSON, as Go does": json.dumps(TEXT).replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026").encode(),
    "JSON, as Gson does": json.dumps(TEXT).replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
    .replace("'", "\\u0027").replace("=", "\\u003d").encode(),
    "JSON, for use in a page": json.dumps(TEXT).replace("<", "\\u003C").replace(">", "\\u003E").replace("/", "\\u002F").encode(),
    "JSON throughout": "".join(f"\\u{ord(char):04x}" for char in TEXT).encode(),
    "JSON throughout, capitals": "".join(f"\\u{ord(char):04X}" for char in TEXT).encode(),
    "HTML": html.escape(TEXT).encode(),
    "HTML without quotes": html.escape(TEXT, quote=False).encode(),
    "HTML, as Go does": html.escape(TEXT, quote=False).replace('"', "&#34;").replace("'", "&#39;").replace("+", "&#43;").encode(),
}  # fmt: skip


@pytest.mark.parametrize("echo", ECHOES.values(), ids=ECHOES.keys())
def test_an_echo_in_a_common_encoding_is_removed(echo: bytes) -> None:
    out, hits = search(VALUE, [b"before " + echo + b" after"])
    assert out.replace(b'"', b"") == b"before " + REMOVED + b" after"
    assert hits == 1


@pytest.mark.parametrize("before", [b"", b"a", b"ab", b"abc", b"abcd", b"user:"])
@pytest.mark.parametrize("after", [b"", b"x", b"xy", b"xyz"])
def test_an_echo_inside_of_a_longer_base64_text_is_removed(before: bytes, after: bytes) -> None:
    for encode in (base64.b64encode, base64.urlsafe_b64encode):
        out, hits = search(VALUE, [encode(before + VALUE + after)])
        assert hits == 1
        left = out.replace(REMOVED, b"")
        assert len(left) <= len(base64.b64encode(before)) + len(base64.b64encode(after)) + 4


@pytest.mark.parametrize("order", ["utf-16", "utf-16-le", "utf-16-be"])
@pytest.mark.parametrize("text", [TEXT, base64.b64encode(VALUE).decode()], ids=["plain", "base64"])
def test_an_echo_in_utf_16_is_removed_whichever_way_round_its_bytes_are(order: str, text: str) -> None:
    out, hits = search(VALUE, cut(f"before {text} after".encode(order), [20, 41, 60]))
    assert hits == 1
    assert REMOVED in out
    assert text[4:20].encode("utf-16-le")[:-1] not in out


def test_non_ascii_values_are_found_in_json_of_both_kinds() -> None:
    for ascii_only in (True, False):
        body = json.dumps({"echo": "schlüssel-🔑-token"}, ensure_ascii=ascii_only).encode()
        assert search("schlüssel-🔑-token".encode(), [body]) == (b'{"echo": "[credential removed]"}', 1)


def test_bytes_that_are_no_text_are_found_too() -> None:
    value = bytes(range(128, 160))
    for echo in (value, value.hex().encode(), base64.b64encode(value), quote(value).encode()):
        assert search(value, [echo]) == (REMOVED, 1)


def test_a_value_under_eight_bytes_is_not_searched_for() -> None:
    with pytest.raises(WrongUsage):
        encodings(b"1234567")
    assert encodings(b"12345678")


def test_the_encodings_are_distinct_and_the_longest_comes_first() -> None:
    found = encodings(VALUE)
    assert len(set(found)) == len(found)
    assert sorted(map(len, found), reverse=True) == [len(form) for form in found]
    assert VALUE in found


def test_what_cannot_be_the_beginning_of_a_match_is_released_at_once() -> None:
    searcher = Searcher(Patterns([Sensitive(b"secret-token")]))
    assert searcher.feed(b"data: {}\n\n") == b"data: {}\n\n"
    assert searcher.feed(b"data: sec") == b"data: "
    assert searcher.feed(b"ond\n\n") == b"second\n\n"
    assert searcher.feed(b"data: secret-toke") == b"data: "
    assert searcher.feed(b"n!") == REMOVED + b"!"
    assert searcher.finish() == b""
    assert searcher.hits == 1


def test_a_beginning_without_its_end_is_released_when_the_stream_ends() -> None:
    assert search(b"secret-token", [b"a secret-", b"tok"]) == (b"a secret-tok", 0)


def test_a_false_start_does_not_hide_the_true_one() -> None:
    assert search(b"aab-aab-aac-token", [b"aab-aab-", b"aab-aac-", b"token"]) == (b"aab-" + REMOVED, 1)


def test_of_two_matches_the_earlier_counts_and_of_those_the_longer() -> None:
    patterns = Patterns([Sensitive(b"abcdefgh"), Sensitive(b"abcdefghij"), Sensitive(b"efghijklmnop")])
    for text, clean in {
        b"-abcdefghij-": b"-" + REMOVED + b"-",
        b"-abcdefghi-": b"-" + REMOVED + b"i-",
        b"-abcdefghijklmnop-": b"-" + REMOVED + b"klmnop-",
    }.items():
        for size in range(1, len(text) + 1):
            searcher = Searcher(patterns)
            chunks = [text[at : at + size] for at in range(0, len(text), size)]
            assert b"".join(map(searcher.feed, chunks)) + searcher.finish() == clean


def test_a_whole_text_is_searched_apart_from_the_stream() -> None:
    searcher = Searcher(Patterns([Sensitive(b"secret-token")]))
    searcher.feed(b"secret-")
    assert searcher.scrub(b"token, secret-token") == b"token, " + REMOVED
    assert searcher.feed(b"token") == REMOVED
    assert searcher.hits == 2


def test_a_text_made_of_false_starts_is_searched_in_one_pass() -> None:
    # With a quadratic search, this test does not end within the suite's time limit.
    value = b"ab" * 4000 + b"c"
    text = b"ab" * 2_000_000
    assert search(value, [text[at : at + 65536] for at in range(0, len(text), 65536)]) == (text, 0)


# A value in which the replacement could be found again, or one that is one byte over and over, proves nothing.
values = st.binary(min_size=8, max_size=40).filter(lambda value: len(set(value)) > 4 and value not in REMOVED)
places = st.lists(st.integers(min_value=0), max_size=12)


@settings(max_examples=300, deadline=None)
@given(value=values, text=st.binary(max_size=400), where=places)
def test_text_without_the_credential_passes_byte_for_byte(value: bytes, text: bytes, where: list[int]) -> None:
    assume(not any(form in text for form in encodings(value)))
    assert search(value, cut(text, where)) == (text, 0)


@settings(max_examples=300, deadline=None)
@given(value=values, where=places, data=st.data())
def test_a_text_that_nearly_is_the_credential_passes_byte_for_byte(
    value: bytes, where: list[int], data: st.DataObject
) -> None:
    form = data.draw(st.sampled_from(encodings(value)))
    near = form[:-1] + bytes([form[-1] ^ 1]) + form[: len(form) // 2] + form[1:]
    assume(not any(other in text for text in (near, read(near)) for other in encodings(value)))
    assert search(value, cut(near, where)) == (near, 0)


@settings(max_examples=500, deadline=None)
@given(value=values, before=st.binary(max_size=60), after=st.binary(max_size=60), where=places, data=st.data())
def test_no_encoding_comes_out_under_any_chunking(
    value: bytes, before: bytes, after: bytes, where: list[int], data: st.DataObject
) -> None:
    form = data.draw(st.sampled_from(encodings(value)))
    text = before + form + after
    out, hits = search(value, cut(text, where))
    assert hits >= 1
    assert form not in out
    assert (out, hits) == search(value, [text])


@settings(max_examples=200, deadline=None)
@given(seed=st.integers(), where=places)
def test_every_chunking_gives_the_same_even_where_the_pieces_repeat(seed: int, where: list[int]) -> None:
    dice = random.Random(seed)
    value = bytes(dice.choices(b"ab", k=8))
    text = bytes(dice.choices(b"ab", k=300))
    assert search(value, cut(text, where)) == search(value, [text]) == (text.replace(value, REMOVED), text.count(value))


def test_random_tokens_in_every_encoding_are_removed_byte_by_byte() -> None:
    dice = random.Random(7)
    for _ in range(20):
        value = "".join(dice.choices(string.printable.strip(), k=30)).encode()
        for form in encodings(value):
            out, hits = search(value, [bytes([byte]) for byte in b"(" + form + b")"])
            assert hits == 1, form
            assert form not in out


def test_calls_with_the_same_values_at_once_share_what_is_searched_for_and_it_is_forgotten_with_the_last() -> None:
    one, other = Sensitive(b"a-value-of-a-test"), Sensitive(b"another-value-of-a-test")
    first = Patterns.shared([one])
    assert Patterns.shared([Sensitive(b"a-value-of-a-test")]) is first
    assert Patterns.shared([one, other]) is not first
    # Where the one ends and the other begins is part of what they are.
    assert Patterns.shared([Sensitive(b"a-value-of-"), Sensitive(b"a-test--")]) is not Patterns.shared(
        [Sensitive(b"a-value-"), Sensitive(b"of-a-test--")]
    )
    held = weakref.ref(first)
    del first
    gc.collect()
    assert held() is None
