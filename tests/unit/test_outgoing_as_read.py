"""
A stream is searched as it will be read: whatever was escaped and how, wherever lines were broken, however it is cut.
"""

from __future__ import annotations

import base64
import html
import json
from itertools import pairwise
from urllib.parse import quote

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from company_agents.outgoing.reply_search import REMOVED, Patterns, Searcher
from company_agents.outgoing.spelling import Places, read, read_roughly, unfinished
from company_agents.sensitive import Sensitive

VALUE = "xoxb-4a/tok+en=bc&d"


def search(chunks: list[bytes], value: str = VALUE) -> tuple[bytes, int]:
    searcher = Searcher(Patterns([Sensitive(value)]))
    out = b"".join([searcher.feed(chunk) for chunk in chunks]) + searcher.finish()
    return out, searcher.hits


def cut(text: bytes, places: list[int]) -> list[bytes]:
    ends = [0, *sorted(place % (len(text) + 1) for place in places), len(text)]
    return [text[start:end] for start, end in pairwise(ends)]


def escaped(characters: str, text: str = VALUE) -> str:
    return "".join(f"\\u{ord(char):04x}" if char in characters else char for char in text)


def in_lines(text: bytes, width: int, line_end: bytes = b"\n") -> bytes:
    return line_end.join(text[at : at + width] for at in range(0, len(text), width))


BASE64 = base64.b64encode(f"user:{VALUE} and more".encode())
SPELLINGS = {
    "one character escaped in JSON": escaped("b").encode(),
    "every second one": escaped(VALUE[::2]).encode(),
    "JSON in JSON": json.dumps(escaped("=&")).encode(),
    "JSON in JSON in JSON": json.dumps(json.dumps(escaped("=&"))).encode(),
    "slashes escaped in JSON in JSON": VALUE.replace("/", "\\\\\\/").encode(),
    "percent-encoded in part": VALUE.replace("b", "%62").replace("=", "%3d").encode(),
    "percent-encoded twice": quote(quote(VALUE, safe=""), safe="").encode(),
    "percent-encoded three times": quote(quote(quote(VALUE, safe=""), safe=""), safe="").encode(),
    "JSON, percent-encoded": quote(json.dumps(VALUE.replace("/", "\\/"))[1:-1].replace("\\\\", "\\"), safe="").encode(),
    "numbers for letters, as HTML has them": "".join(f"&#{ord(char)};" for char in VALUE).encode(),
    "hexadecimal numbers": "".join(f"&#X{ord(char):04X};" for char in VALUE).encode(),
    "HTML with names for all": VALUE.replace("/", "&sol;").replace("+", "&plus;").replace("&d", "&amp;d").encode(),
    "HTML in HTML": html.escape(html.escape(VALUE)).encode(),
    "HTML in JSON, as Go writes it": html.escape(VALUE).replace("&", "\\u0026").encode(),
    "as Python shows bytes": "".join(f"\\x{ord(char):02x}" for char in VALUE).encode(),
    "base64 in short lines": in_lines(BASE64, 10),
    "base64 in lines, as mail has it": in_lines(BASE64, 12, b"\r\n"),
    "base64 in lines of old": in_lines(BASE64, 12, b"\r"),
    "base64 in lines, in JSON": json.dumps(in_lines(BASE64, 10, b"\r\n").decode()).encode(),
    "base64 in lines, in JSON in JSON": json.dumps(json.dumps(in_lines(BASE64, 10).decode())).encode(),
    "base64 in lines of an event": in_lines(BASE64, 10, b"\ndata: "),
    "base64 in lines of an event, without spaces": in_lines(BASE64, 10, b"\r\ndata:"),
    "base64 with escaped slashes, in lines": in_lines(BASE64, 9).replace(b"/", b"\\/"),
}


@pytest.mark.parametrize("spelled", SPELLINGS.values(), ids=SPELLINGS.keys())
def test_it_is_removed_however_it_is_spelled_and_wherever_it_is_cut(spelled: bytes) -> None:
    text = b"before: " + spelled + b", after"
    out, hits = search([text])
    assert hits == 1
    assert REMOVED in out
    assert VALUE.encode() not in read(out)
    assert (out.startswith(b"before: "), out.endswith(b", after")) == (True, True)
    for at in range(len(text)):
        assert search([text[:at], text[at:]]) == (out, 1)
    assert search([bytes([byte]) for byte in text]) == (out, 1)


@pytest.mark.parametrize("spelled", SPELLINGS.values(), ids=SPELLINGS.keys())
def test_it_is_removed_from_the_midst_of_a_large_text(spelled: bytes) -> None:
    around = json.dumps([{"id": number, "text": 'some "text"\n', "at": "https://a.b/?c=%2F"} for number in range(100)])
    text = around.encode() + spelled + around.encode()
    out, hits = search([text])
    assert hits == 1
    assert (out.startswith(around.encode()), out.endswith(around.encode())) == (True, True)
    assert search([text[:5000], text[5000:]]) == (out, 1)


def test_what_remains_of_json_is_json() -> None:
    body = json.dumps({"sent": [escaped("=")], "and": {escaped("x"): "é\n\"'"}}).replace("\\\\u", "\\u").encode()
    out, hits = search([body])
    gone = REMOVED.decode()
    assert (json.loads(out), hits) == ({"sent": [gone], "and": {gone: "é\n\"'"}}, 2)


def test_an_event_passes_as_soon_as_it_is_complete() -> None:
    searcher = Searcher(Patterns([Sensitive(VALUE)]))
    for event in (b"data: x\n\n", b'data: {"text": "xo"}\n\n', b"data: xox\r\n\r\n", b"data: YQ==\n\n", b": beat\n\n"):
        assert searcher.feed(event) == event


def test_only_what_could_go_on_is_held_back() -> None:
    searcher = Searcher(Patterns([Sensitive(VALUE)]))
    assert searcher.feed(b"a word.\n") == b"a word.\n"
    assert searcher.feed(b"xo\\u0078b") == b""
    assert searcher.feed(b"\\") == b""
    assert searcher.feed(b"t") == b"xo\\u0078b\\t"
    assert searcher.feed(b"a b %2") == b"a b "
    assert searcher.feed(b"0, &am") == b"%20, "
    assert searcher.feed(b"p") == b""
    assert searcher.feed(b" and") == b"&amp and"
    assert searcher.feed(b"\\u0026l") == b""
    assert searcher.finish() == b"\\u0026l"
    assert searcher.hits == 0


def test_no_more_is_held_back_than_a_match_can_be_long() -> None:
    searcher = Searcher(Patterns([Sensitive(VALUE)]))
    fed = released = 0
    for piece in [b"x" + b"\\n" * 1000, *[b"\\n" * 1000] * 50, *[b"\\" * 1000] * 50, *[b"\n" * 1000] * 50]:
        fed += len(piece)
        released += len(searcher.feed(piece))
        assert fed - released < 10_000


@pytest.mark.parametrize("unit", [b"\\", b"%5C", b"&amp;", b"%25", b"\n", b"\r\ndata:", b"\\u0026amp;", b"%", b"&"])
def test_a_text_of_nothing_but_beginnings_is_searched_in_one_pass(unit: bytes) -> None:
    # With a quadratic search, this test does not end within the suite's time limit.
    text = unit * (500_000 // len(unit)) + b"."
    assert search([text[at : at + 65536] for at in range(0, len(text), 65536)]) == (text, 0)


def test_one_character_escaped_over_and_over_is_read_at_one_go() -> None:
    # As above: each of its escapes taken off by itself would take longer than the suite may.
    text = b"&" + b"amp;" * 1_000_000 + b"lt;"
    assert read(text) == b"<"
    assert search([text]) == (text, 0)


def test_a_text_of_nothing_but_credentials_is_searched_in_one_pass() -> None:
    text = escaped("=").encode() * 20_000
    assert search([text]) == (REMOVED * 20_000, 20_000)


def test_a_value_that_looks_escaped_itself_is_found() -> None:
    for value in ("abc%41def/gh", "ab\\new/code", "a&lt;b/cdefg", "pass\\word/1"):
        for echo in (value, json.dumps(value)[1:-1], quote(value, safe=""), html.escape(value)):
            assert search([b"(" + echo.encode() + b")"], value) == (b"(" + REMOVED + b")", 1)


UNITS = ["\\", "\\\\", "u", "u0", "u00", "u0026", "x", "%", "%2", "%25", "5C", "&", "&amp;", "amp;", "lt;", "#", "#x"]
OTHERS = ["\n", "\r", "\r\n", "data: ", "data:", "da", "\\n", "\\r\\n", "n", "r", "/", '"', " ", ".", "4", "41"]
fragments = st.sampled_from([*UNITS, *OTHERS, "xox", "xoxb-4", "é"])


def spelled(character: str) -> st.SearchStrategy[str]:
    code = ord(character)
    ways = [character] * 4 + [f"\\u{code:04x}", f"\\\\u{code:04X}", f"%{code:02x}", f"%25{code:02X}", f"&#{code};"]
    return st.sampled_from([*ways, f"&#x{code:x};", f"\\x{code:02x}", f"\\u0026#{code};"])


def written(text: str) -> st.SearchStrategy[str]:
    between = st.sampled_from([""] * 12 + ["\n", "\r\n", "\\n", "\\\\n", "\\r\\n", "\ndata: ", "\r\ndata:"])
    return st.tuples(*(st.tuples(spelled(character), between) for character in text)).map(
        lambda parts: "".join(way + gap for way, gap in parts)
    )


noise = st.lists(fragments, max_size=12).map("".join)
texts = st.lists(st.one_of(noise, written(VALUE), written(BASE64.decode()), written(VALUE[:9])), max_size=4).map(
    lambda parts: "".join(parts).encode()
)
places = st.lists(st.integers(min_value=0), max_size=12)


@settings(max_examples=200, deadline=None)
@given(text=texts, where=places)
def test_every_chunking_gives_the_same(text: bytes, where: list[int]) -> None:
    whole = search([text])
    assert search(cut(text, where)) == whole
    assert search([bytes([byte]) for byte in text]) == whole


@settings(max_examples=100, deadline=None)
@given(text=texts, where=places, around=st.booleans())
def test_a_large_text_gives_the_same_as_its_pieces(text: bytes, where: list[int], around: bool) -> None:
    padding = b"." + b"some text, " * 300
    large = padding + text + (padding if around else b"")
    assert search([large]) == search([padding, *cut(text, where), padding if around else b""])


@settings(max_examples=100, deadline=None)
@given(text=written(VALUE), before=noise, after=noise, where=places)
def test_it_is_removed_under_any_chunking(text: str, before: str, after: str, where: list[int]) -> None:
    # The dot ends whatever began before it.
    out, hits = search(cut(f"{before}.{text}.{after}".encode(), where))
    assert hits >= 1
    assert VALUE.encode() not in read(out)


@settings(max_examples=150, deadline=None)
@given(text=texts)
def test_each_byte_that_is_read_has_its_place_in_the_text(text: bytes) -> None:
    was_read, spots = read(text), Places(text)
    starts = [spots.start(at) for at in range(len(was_read))]
    ends = [spots.end(at) for at in range(len(was_read))]
    assert all(start < end for start, end in zip(starts, ends, strict=True))
    assert all(end <= start for end, start in zip(ends, starts[1:], strict=False))
    assert b"".join(read(text[start:end]) for start, end in zip(starts, ends, strict=True)) == was_read


@settings(max_examples=150, deadline=None)
@given(text=texts, more=texts)
def test_what_is_finished_is_read_the_same_whatever_follows(text: bytes, more: bytes) -> None:
    finished = text[: unfinished(text)].rstrip(b"\r\n")
    assert read(text + more).startswith(read(finished))


@settings(max_examples=150, deadline=None)
@given(text=texts)
def test_the_rough_look_misses_nothing(text: bytes) -> None:
    plain = "xoxb-4a/tok+en=bc"
    if plain.encode() in read(text):
        assert plain[6:].encode() in read_roughly(text)
