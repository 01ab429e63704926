"""
Archives taken apart and put together again: as they were, or as somebody who may write to them would have them. The reader
and the writer of the product are not used here.
"""

from __future__ import annotations

import copy
import dataclasses
import hashlib
import hmac
import io
import json
import struct
import tarfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import zstandard

from company_agents.crypto.keyring import MasterKey

FRONT = 64 * 1024
MANIFEST, SIGNATURE = "manifest.json", "manifest.mac"
LABEL = b"company-agents/backup-manifest/v1\0"
SKIPPED = 0x184D2A50
END = b"\0" * 1024

Piece = tuple[str, bytes]


@dataclass
class Parts:
    """What is in an archive: its manifest, and every piece with its name, in order. `head` is for what stands before."""

    manifest: dict[str, Any]
    pieces: list[Piece]

    def copied(self) -> Parts:
        """One to change."""
        return Parts(copy.deepcopy(self.manifest), list(self.pieces))

    def member(self, name: str) -> dict[str, Any]:
        """What the manifest says of a member."""
        [found] = [each for each in self.manifest["members"] if each["name"] == name]
        assert isinstance(found, dict)
        return found

    def content(self, name: str) -> bytes:
        """A member, whole."""
        return b"".join(content for piece, content in self.pieces if member_of(piece) == name)

    def replaced(self, name: str, content: bytes, **said: Any) -> Parts:
        """One in which a member is this, in one piece, and the manifest says so; `said` is what it says besides."""
        other = self.copied()
        place = next(n for n, (piece, _) in enumerate(other.pieces) if member_of(piece) == name)
        other.pieces = [each for each in other.pieces if member_of(each[0]) != name]
        other.pieces.insert(place, (f"{name}/00000001" if "/" in name else name, content))
        other.member(name).update(described(content), **{"rows": content.count(b"\n"), **said})
        return other

    def rows(self, name: str) -> list[bytes]:
        """The rows of a table, without their line breaks."""
        return self.content(f"tables/{name}").split(b"\n")[:-1]

    def with_rows(self, name: str, rows: Iterable[bytes], **said: Any) -> Parts:
        """One in which a table has these rows."""
        return self.replaced(f"tables/{name}", b"".join(row + b"\n" for row in rows), **said)


def member_of(piece: str) -> str:
    """Of which member a piece is."""
    return piece.rpartition("/")[0] if "/" in piece else piece


def described(content: bytes) -> dict[str, Any]:
    """What a manifest says of a member that is one piece."""
    return {"pieces": 1, "bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}


def take_apart(data: bytes) -> Parts:
    """An archive, read with what everybody has: zstd and tar."""
    plain = zstandard.ZstdDecompressor().stream_reader(io.BytesIO(data), read_across_frames=True).read()
    with tarfile.open(fileobj=io.BytesIO(plain)) as tar:
        found = [(info.name, tar.extractfile(info).read()) for info in tar]  # type: ignore[union-attr]
    assert found[0][0] == MANIFEST
    return Parts(json.loads(found[0][1]), [each for each in found if each[0] not in (MANIFEST, SIGNATURE)])


def header(name: str | bytes, size: int, **fields: Any) -> bytes:
    """
    A block that says what follows it. `fields` are what it has beside name and size; a `name` in bytes is put in as it is.
    """
    info = tarfile.TarInfo("x" if isinstance(name, bytes) else name)
    info.size, info.mode = size, 0o600
    for field, value in fields.items():
        setattr(info, field, value)
    block = info.tobuf(tarfile.USTAR_FORMAT, "utf-8", "surrogateescape")
    return with_checksum(name.ljust(100, b"\0") + block[100:]) if isinstance(name, bytes) else block


def with_checksum(block: bytes) -> bytes:
    """A header whose checksum is right."""
    blank = block[:148] + b" " * 8 + block[156:]
    return blank[:148] + b"%06o\0 " % sum(blank) + blank[156:]


def entry(name: str | bytes, content: bytes, **fields: Any) -> bytes:
    """A member of a tar file."""
    return header(name, len(content), **fields) + content + b"\0" * (-len(content) % 512)


def signature(key: MasterKey, text: bytes) -> bytes:
    """That of a manifest, with a key of the instance (docs/spec/backup.md)."""
    mac = hmac.digest(key.secret.reveal(), LABEL + text, "sha256")
    return json.dumps({"key_id": key.key_id, "mac": mac.hex()}).encode()


def front(entries: bytes, *, level: int = 3) -> bytes:
    """The beginning of an archive, with the room behind it."""
    frame = zstandard.ZstdCompressor(level=level, write_checksum=True).compress(entries)
    room = FRONT - len(frame) - 8
    assert room >= 0, "it does not fit"
    return frame + struct.pack("<II", SKIPPED, room) + b"\0" * room


def packed(content: bytes) -> bytes:
    """What follows the beginning."""
    return zstandard.ZstdCompressor(level=3, write_checksum=True).compress(content)


def body(pieces: Iterable[Piece]) -> bytes:
    """The members as a tar file has them, with its end."""
    return b"".join(entry(name, content) for name, content in pieces) + END


def signed_front(manifest: dict[str, Any] | bytes, key: MasterKey | None) -> bytes:
    """The beginning with this manifest; `key` signs it, where there is one."""
    text = manifest if isinstance(manifest, bytes) else json.dumps(manifest, indent=1).encode()
    signed = entry(SIGNATURE, signature(key, text)) if key is not None else b""
    return front(entry(MANIFEST, text) + signed)


def put_together(parts: Parts, key: MasterKey | None) -> bytes:
    """An archive of these parts, signed with a key that is right, where there is one."""
    return signed_front(parts.manifest, key) + packed(body(parts.pieces))


def written(folder: Path, data: bytes, name: str = "hostile.tar.zst") -> Path:
    """The file of an archive."""
    path = folder / name
    path.write_bytes(data)
    return path


def zeros(size: int, *, before: bytes = b"", after: bytes = b"", window: int = 0) -> bytes:
    """A frame that unpacks to that many zeros, between other bytes; `window` is the base 2 logarithm of its window."""
    more = {"window_log": window} if window else {}
    parameters = zstandard.ZstdCompressionParameters.from_level(3, write_checksum=True, **more)
    packer = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    block = b"\0" * (1024 * 1024)
    out = [packer.compress(before)]
    out += [packer.compress(block[: min(len(block), size - at)]) for at in range(0, size, len(block))]
    return b"".join([*out, packer.compress(after), packer.flush()])


def blocks_of(data: bytes) -> list[int]:
    """Where the members begin in a tar file that is not compressed."""
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        return [info.offset for info in tar]


def flipped(data: bytes, place: int) -> bytes:
    """With one byte that is another."""
    return data[:place] + bytes([data[place] ^ 0x41]) + data[place + 1 :]


def renamed(parts: Parts, old: str, new: str) -> Parts:
    """One in which a member has another name, in its manifest as well."""
    other = parts.copied()
    other.member(old)["name"] = new
    other.pieces = [
        (piece.replace(old, new, 1) if member_of(piece) == old else piece, content) for piece, content in other.pieces
    ]
    return other


def only(parts: Parts, **changes: Any) -> Parts:
    """One whose manifest says something else, or more."""
    return dataclasses.replace(parts, manifest={**copy.deepcopy(parts.manifest), **changes})
