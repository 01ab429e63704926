"""
Writes `sealing/*.txt`: one file, one fault (or none), a readable head, and the sealed bytes in base64 below it.

    python -m tests.vectors.make_sealing

Everything in here is fixed, nonces too, so that the same files come out again; a test compares them. Real seals
have a nonce from the operating system, and no way to choose one.
"""

from __future__ import annotations

import base64
import hashlib
from dataclasses import dataclass, replace
from pathlib import Path
from uuid import UUID

from company_agents.crypto.cipher import MAX_VALUE_BYTES, Sealed, _seal_with_nonce
from company_agents.crypto.keyring import MasterKey
from company_agents.crypto.place import Place
from company_agents.sensitive import Sensitive

FOLDER = Path(__file__).with_name("sealing")
OPENS, REFUSED = "opens", "does not open"

KEY = MasterKey(Sensitive(bytes(range(32))))
OTHER_KEY = MasterKey(Sensitive(bytes(range(32, 64))))
COMPANY = UUID("11111111-1111-4111-8111-111111111111")
OTHER_COMPANY = UUID("22222222-2222-4222-8222-222222222222")
SECRET = UUID("33333333-3333-4333-8333-333333333333")
OTHER_SECRET = UUID("44444444-4444-4444-8444-444444444444")
NONCE = bytes.fromhex("0102030405060708090a0b0c")
VALUE = b"xoxb-not-a-real-token-0123456789"
PLACE = Place(COMPANY, SECRET, "anthropic_api_key", KEY.key_id)


@dataclass(frozen=True)
class Vector:
    """What an opener is given, and what is to come of it."""

    file: str
    about: str
    place: Place
    sealed: Sealed
    plain: bytes = VALUE
    key: MasterKey = KEY
    expect: str = REFUSED

    def text(self) -> str:
        head = {
            "expect": self.expect,
            "about": self.about,
            "master key": self.key.secret.reveal().hex(),
            "company id": str(self.place.company_id or "none"),
            "secret id": str(self.place.secret_id),
            "name": self.place.name,
            "key id": self.place.key_id,
            "nonce": self.sealed.nonce.hex(),
            "plain length": str(len(self.plain)),
            "plain sha256": hashlib.sha256(self.plain).hexdigest(),
        }
        lines = [f"{name}: {value}" for name, value in head.items()]
        return "\n".join(lines) + "\n\n" + base64.encodebytes(self.sealed.value).decode()


def good(file: str, about: str, place: Place, plain: bytes, key: MasterKey = KEY) -> Vector:
    return Vector(file, about, place, _seal_with_nonce(key, place, Sensitive(plain), NONCE), plain, key, OPENS)


def flipped(data: bytes, bit: int) -> bytes:
    changed = bytearray(data)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


def vectors() -> list[Vector]:
    """Every vector."""
    base = good("good", "an ordinary secret of a company", PLACE, VALUE)
    sealed = base.sealed
    other_place = replace(PLACE, key_id=OTHER_KEY.key_id)

    # Without lengths between the fields, these two places would be the same bytes.
    joined = Place(None, SECRET, "0123456789abcdef/tail", KEY.key_id)
    shifted = Place(SECRET, UUID(bytes=b"0123456789abcdef"), "/tail", KEY.key_id)

    def bad(file: str, about: str, *, place: Place = PLACE, seal: Sealed = sealed, key: MasterKey = KEY) -> Vector:
        return Vector(file, about, place, seal, key=key)

    def bit(number: int) -> Sealed:
        return replace(sealed, value=flipped(sealed.value, number))

    last = len(sealed.value) * 8 - 1
    return [
        base,
        good("good_empty", "a value of no bytes", PLACE, b""),
        good("good_64_kib", "the longest value", PLACE, b"\xa5" * MAX_VALUE_BYTES),
        good("good_not_text", "a value that is no UTF-8", PLACE, bytes(range(255, -1, -1))),
        good("good_unicode_name", "a name beyond ASCII", replace(PLACE, name="schlüssel/鍵/🗝"), VALUE),
        good("good_instance", "a secret of the instance: no company", replace(PLACE, company_id=None), VALUE),
        good("good_other_key", "sealed by a second key", other_place, VALUE, OTHER_KEY),
        good("good_field_boundary", "a name that begins like an id", joined, VALUE),
        bad("bad_company", "moved to another company", place=replace(PLACE, company_id=OTHER_COMPANY)),
        bad("bad_company_to_instance", "moved to the instance", place=replace(PLACE, company_id=None)),
        bad("bad_secret_id", "moved to another row", place=replace(PLACE, secret_id=OTHER_SECRET)),
        bad("bad_name", "moved to another name", place=replace(PLACE, name="anthropic_api_kez")),
        bad("bad_name_case", "the name in other letters", place=replace(PLACE, name="Anthropic_api_key")),
        bad("bad_key_id", "the row names another key", place=other_place),
        bad("bad_key_id_and_key", "the row names another key, and that key is tried", place=other_place, key=OTHER_KEY),
        bad("bad_wrong_key", "another key under the same id", key=OTHER_KEY),
        bad("bad_value_first_bit", "the first bit of the value is flipped", seal=bit(0)),
        bad("bad_value_middle_bit", "a bit in the middle of the value is flipped", seal=bit(133)),
        bad("bad_tag_first_bit", "the first bit of the tag is flipped", seal=bit(last - 127)),
        bad("bad_tag_last_bit", "the last bit of the tag is flipped", seal=bit(last)),
        bad("bad_nonce_bit", "a bit of the nonce is flipped", seal=replace(sealed, nonce=flipped(NONCE, 50))),
        bad("bad_truncated", "the last byte is missing", seal=replace(sealed, value=sealed.value[:-1])),
        bad("bad_tag_missing", "the whole tag is missing", seal=replace(sealed, value=sealed.value[:-16])),
        bad("bad_extended", "a byte too many", seal=replace(sealed, value=sealed.value + b"\0")),
        bad("bad_nothing", "no bytes at all", seal=replace(sealed, value=b"")),
        replace(
            good("bad_field_boundary", "the same fields, divided elsewhere", joined, VALUE),
            place=shifted,
            expect=REFUSED,
        ),
    ]


def write(folder: Path) -> None:
    """Write every vector into a folder."""
    folder.mkdir(exist_ok=True)
    for vector in vectors():
        (folder / f"{vector.file}.txt").write_text(vector.text(), "utf-8")


if __name__ == "__main__":
    write(FOLDER)
