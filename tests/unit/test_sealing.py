"""
Sealing: the vectors of docs/spec/sealing.md, opened by our code and by a script that knows only the page; and
what holds for any value, place and bit.
"""

from __future__ import annotations

import ast
import base64
import hashlib
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as some

from company_agents.crypto.cipher import (
    MAX_VALUE_BYTES,
    NONCE_BYTES,
    SEALS_LIMIT,
    SEALS_URGE_ROTATION,
    TAG_BYTES,
    Sealed,
    _seal_with_nonce,
    seal,
    unseal,
)
from company_agents.crypto.keyring import KeyRing, MasterKey, UnknownKey, key_id_of
from company_agents.crypto.place import Place
from company_agents.errors import Tampered, WrongUsage
from company_agents.sensitive import Sensitive
from tests.vectors import make_sealing

ROOT = Path(__file__).resolve().parents[2]
VECTORS = ROOT / "tests" / "vectors"
KEY = MasterKey(Sensitive(b"k" * 32))

places = some.builds(
    Place,
    company_id=some.none() | some.uuids(),
    secret_id=some.uuids(),
    name=some.text(max_size=60),
    key_id=some.just(KEY.key_id),
)


@dataclass(frozen=True)
class Read:
    """A vector as it was read from its file."""

    expect: str
    key: MasterKey
    place: Place
    sealed: Sealed
    plain_length: int
    plain_sha256: str

    def opens(self) -> bool:
        try:
            plain = unseal(self.key, self.place, self.sealed).reveal()
        except Tampered:
            return False
        return (len(plain), hashlib.sha256(plain).hexdigest()) == (self.plain_length, self.plain_sha256)


def read_vectors(folder: Path) -> dict[str, Read]:
    """Every vector by its name. A folder without any is a mistake: the tests over it would pass unseen."""
    found = {file.stem: read_vector(file) for file in sorted(folder.glob("*.txt"))}
    if not found:
        raise FileNotFoundError(f"no vectors in {folder}")
    return found


def read_vector(file: Path) -> Read:
    head, _, body = file.read_text("utf-8").partition("\n\n")
    fields = dict(line.split(": ", 1) for line in head.split("\n"))
    company = None if fields["company id"] == "none" else UUID(fields["company id"])
    return Read(
        fields["expect"],
        MasterKey(Sensitive(bytes.fromhex(fields["master key"]))),
        Place(company, UUID(fields["secret id"]), fields["name"], fields["key id"]),
        Sealed(bytes.fromhex(fields["nonce"]), base64.b64decode(body)),
        int(fields["plain length"]),
        fields["plain sha256"],
    )


FOUND = read_vectors(VECTORS / "sealing")


@pytest.mark.parametrize("name", FOUND)
def test_a_vector_does_what_its_head_says(name: str) -> None:
    assert FOUND[name].opens() == (FOUND[name].expect == make_sealing.OPENS)


def test_the_vectors_have_both_kinds_and_a_name_says_which() -> None:
    kinds = {name: vector.expect for name, vector in FOUND.items()}
    assert {name: expect for name, expect in kinds.items() if (expect == make_sealing.OPENS) != ("good" in name)} == {}
    assert sorted(set(kinds.values())) == [make_sealing.REFUSED, make_sealing.OPENS]


def test_the_vectors_are_what_the_generator_writes(tmp_path: Path) -> None:
    make_sealing.write(tmp_path)
    here, anew = VECTORS / "sealing", tmp_path
    assert {file.name: file.read_text("utf-8") for file in here.iterdir()} == {
        file.name: file.read_text("utf-8") for file in anew.iterdir()
    }


def test_a_reader_that_finds_no_vectors_fails(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_vectors(tmp_path)


def test_a_script_that_knows_only_the_page_opens_the_same_vectors() -> None:
    files = [str(VECTORS / "sealing" / f"{name}.txt") for name in FOUND]
    done = subprocess.run(
        [sys.executable, "-I", VECTORS / "open_sealed.py", *files], capture_output=True, text=True, check=True
    )
    wanted = [vector.plain_sha256 if vector.expect == make_sealing.OPENS else str(False) for vector in FOUND.values()]
    assert done.stdout.split() == wanted


def test_that_script_is_short_and_imports_nothing_of_ours() -> None:
    text = (VECTORS / "open_sealed.py").read_text()
    modules = {
        name.split(".")[0]
        for node in ast.walk(ast.parse(text))
        if isinstance(node, (ast.Import, ast.ImportFrom))
        for name in ([alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module or ""])
    }
    assert modules - sys.stdlib_module_names == {"cryptography"}
    assert len(text.splitlines()) <= 25


def test_the_page_has_the_numbers_of_the_code() -> None:
    page = (ROOT / "docs" / "spec" / "sealing.md").read_text("utf-8")
    for said in (
        '"company-agents/secret/v1"',
        '"company-agents/key-id/v1"',
        f"{NONCE_BYTES} bytes",
        f"{TAG_BYTES} bytes",
        f"{MAX_VALUE_BYTES:,}".replace(",", " "),
        f"2^{SEALS_LIMIT.bit_length() - 1}",
        f"2^{SEALS_URGE_ROTATION.bit_length() - 1}",
    ):
        assert said in page, said


@given(places, some.binary(max_size=300))
def test_what_was_sealed_opens_at_its_place(place: Place, value: bytes) -> None:
    assert unseal(KEY, place, seal(KEY, place, Sensitive(value))).reveal() == value


@given(places, some.binary(max_size=100), some.integers(min_value=0))
def test_a_value_with_any_bit_flipped_does_not_open(place: Place, value: bytes, number: int) -> None:
    sealed = seal(KEY, place, Sensitive(value))
    bit = number % (len(sealed.value) * 8)
    with pytest.raises(Tampered):
        unseal(KEY, place, replace(sealed, value=make_sealing.flipped(sealed.value, bit)))


@pytest.mark.parametrize("bit", range(NONCE_BYTES * 8))
def test_a_nonce_with_any_bit_flipped_does_not_open(bit: int) -> None:
    place = Place(None, UUID(int=1), "a", KEY.key_id)
    sealed = seal(KEY, place, Sensitive(b"value"))
    with pytest.raises(Tampered):
        unseal(KEY, place, replace(sealed, nonce=make_sealing.flipped(sealed.nonce, bit)))


@given(places, places)
def test_two_places_never_share_their_bytes(one: Place, other: Place) -> None:
    assert (one == other) == (one.additional_data() == other.additional_data())


@given(places, some.binary(max_size=100))
def test_the_same_value_is_sealed_differently_each_time(place: Place, value: bytes) -> None:
    first, second = (seal(KEY, place, Sensitive(value)) for _ in range(2))
    assert first.nonce != second.nonce
    assert first.value != second.value


@pytest.mark.parametrize("length", [0, 11, 13, 16])
def test_a_nonce_of_another_length_does_not_open(length: int) -> None:
    place = Place(None, UUID(int=1), "a", KEY.key_id)
    with pytest.raises(Tampered):
        unseal(KEY, place, replace(seal(KEY, place, Sensitive(b"value")), nonce=bytes(length)))


def test_64_kib_are_sealed_and_one_byte_more_is_not() -> None:
    place = Place(None, UUID(int=1), "a", KEY.key_id)
    assert len(unseal(KEY, place, seal(KEY, place, Sensitive(bytes(MAX_VALUE_BYTES))))) == MAX_VALUE_BYTES
    with pytest.raises(WrongUsage, match="65536"):
        seal(KEY, place, Sensitive(bytes(MAX_VALUE_BYTES + 1)))


def test_a_key_seals_only_for_a_place_that_names_it() -> None:
    with pytest.raises(WrongUsage):
        seal(KEY, Place(None, UUID(int=1), "a", "0" * 16), Sensitive(b"value"))
    with pytest.raises(WrongUsage):
        _seal_with_nonce(KEY, Place(None, UUID(int=1), "a", "0" * 16), Sensitive(b"value"), bytes(12))


@pytest.mark.parametrize("length", [0, 16, 31, 33])
def test_a_master_key_has_32_bytes(length: int) -> None:
    with pytest.raises(WrongUsage, match="32"):
        MasterKey(Sensitive(bytes(length)))


def test_the_ring_looks_a_key_up_by_its_id_and_tries_no_other() -> None:
    other = MasterKey.generate()
    ring = KeyRing((KEY,))
    assert ring.get(key_id_of(b"k" * 32)) is KEY
    assert other.key_id not in ring
    with pytest.raises(UnknownKey, match=other.key_id):
        ring.get(other.key_id)


def test_neither_a_key_nor_a_ring_shows_the_key() -> None:
    key = MasterKey.generate()
    shown = repr(key) + repr(KeyRing((key,))) + str(key)
    assert key.key_id in shown
    assert key.secret.reveal().hex() not in shown
    assert repr(key.secret.reveal()) not in shown
