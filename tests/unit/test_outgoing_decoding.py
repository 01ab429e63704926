from __future__ import annotations

import gzip
import os
import zlib

import pytest

from company_agents.outgoing.decoding import PIECE, Truncated, Undecodable, decoder, keeps_ascii

CONTENT = b"content, and more of it; " * 1000


def bare_deflate(data: bytes) -> bytes:
    compressor = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return compressor.compress(data) + compressor.flush()


def decode(coding: str, data: bytes, size: int) -> bytes:
    found = decoder([coding])
    assert found
    pieces = [piece for at in range(0, len(data), size) for piece in found.feed(data[at : at + size])]
    found.finish()
    return b"".join(pieces)


CODED = {
    "": CONTENT,
    "identity": CONTENT,
    "gzip": gzip.compress(CONTENT, mtime=0),
    "X-GZIP": gzip.compress(CONTENT[:700], mtime=0)
    + gzip.compress(b"", mtime=0)
    + gzip.compress(CONTENT[700:], mtime=0),
    "deflate": zlib.compress(CONTENT),
    " Deflate, identity": bare_deflate(CONTENT),
}


@pytest.mark.parametrize("coding", CODED)
@pytest.mark.parametrize("size", [1, 7, 100_000])
def test_known_codings_are_undone_in_any_chunking(coding: str, size: int) -> None:
    assert decode(coding, CODED[coding], size) == CONTENT


@pytest.mark.parametrize("coding", ["br", "zstd", "compress", "gzip, gzip", "gzip, br", "x"])
def test_any_other_coding_has_no_decoder(coding: str) -> None:
    assert decoder([coding]) is None
    assert decoder(["gzip", coding]) is None


@pytest.mark.parametrize("coding", ["gzip", "deflate"])
def test_a_bomb_unfolds_in_small_pieces(coding: str) -> None:
    content = bytes(50 * PIECE)
    bomb = gzip.compress(content) if coding == "gzip" else zlib.compress(content)
    found = decoder([coding])
    assert found
    sizes = [len(piece) for piece in found.feed(bomb)]
    found.finish()
    assert max(sizes) <= PIECE
    assert sum(sizes) == len(content)


def test_a_reply_of_very_many_members_is_refused() -> None:
    with pytest.raises(Undecodable):
        decode("gzip", gzip.compress(b"", mtime=0) * 1000, 65536)


@pytest.mark.parametrize("coding", ["gzip", "deflate"])
def test_content_that_is_not_what_its_coding_says_is_refused(coding: str) -> None:
    with pytest.raises(Undecodable):
        decode(coding, b"\xff" + os.urandom(100), 10)
    with pytest.raises(Undecodable):
        decode(coding, CODED[coding] + b"garbage", 100_000)


@pytest.mark.parametrize("coding", ["gzip", "deflate", " Deflate, identity"])
def test_content_that_ends_early_is_told_apart(coding: str) -> None:
    for end in (1, 20, len(CODED[coding]) - 1):
        with pytest.raises(Truncated):
            decode(coding, CODED[coding][:end], 1)


@pytest.mark.parametrize("coding", ["gzip", "deflate"])
def test_no_content_at_all_is_content(coding: str) -> None:
    assert decode(coding, b"", 1) == b""


@pytest.mark.parametrize(
    "declared",
    [
        [],
        ["application/json"],
        ["text/html; charset="],
        ["text/plain; charset=utf-8"],
        ['text/plain; CHARSET="Windows-1252"'],
        ["text/plain; charset=gb18030"],
        ["application/octet-stream; charset=binary"],
    ],
)
def test_a_character_set_with_ascii_in_it_can_be_searched(declared: list[str]) -> None:
    assert keeps_ascii(declared)


@pytest.mark.parametrize(
    "declared",
    [
        ["application/json; charset=utf-16"],
        ["text/plain;charset=UTF-16LE;q=1"],
        ["text/plain; charset='utf-32'"],
        ["text/plain; charset = IBM037"],
        ["text/plain; charset=utf-7"],
        ["text/plain; charset=x-IBM1364"],
        ["text/plain; charset=rot13"],
        ["text/plain; charset=utf-8", "text/plain; charset=utf-16"],
        ["text/plain; charset=utf-8; charset=utf-16"],
    ],
)
def test_a_character_set_in_which_ascii_is_other_bytes_or_that_is_not_known_cannot(declared: list[str]) -> None:
    assert not keeps_ascii(declared)
