"""
Passwords and one-time codes.
"""

from __future__ import annotations

import base64
import time

import pytest

from company_agents.errors import WrongUsage
from company_agents.identity import passwords
from company_agents.identity.passwords import (
    check_new_password,
    hash_password,
    new_totp_secret,
    password_matches,
    totp_step,
    totp_uri,
)
from company_agents.sensitive import Sensitive

GOOD = "correct horse battery staple"


@pytest.mark.parametrize(
    "password", ["", "a", "elevenchars", "x" * 257, "aaaaaaaaaaaaaaaa", "abababababababab", "1234123412341234"]
)
def test_a_weak_password_is_refused_and_not_repeated(password: str) -> None:
    with pytest.raises(WrongUsage) as caught:
        check_new_password(password)
    assert len(password) < 2 or password not in caught.value.sentence


@pytest.mark.parametrize("password", ["twelve chars", GOOD, "ünïcödé-pässwörter", "abcde" * 51])
def test_a_long_password_is_taken_whatever_its_characters(password: str) -> None:
    check_new_password(password)


async def test_a_password_is_stored_as_argon2id_with_64_mib_and_its_own_salt() -> None:
    one, other = await hash_password(GOOD), await hash_password(GOOD)
    # RFC 9106, section 4, the second recommended option.
    assert one.startswith("$argon2id$v=19$m=65536,t=3,p=4$")
    assert one != other
    assert await password_matches(one, GOOD)
    assert not await password_matches(one, GOOD + " ")


async def test_where_there_is_no_operator_the_same_work_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    verified = []
    nobody = passwords._nobody()

    class Hasher:
        def verify(self, stored: str, password: str) -> bool:
            verified.append((stored, password))
            return True

    monkeypatch.setattr(passwords, "_HASHER", Hasher())
    assert not await password_matches(None, GOOD)
    assert verified == [(nobody, GOOD)]


async def test_nobody_has_the_password_of_nobody() -> None:
    assert not await password_matches(None, "nobody has this password")


async def test_a_stored_hash_that_is_none_opens_nothing() -> None:
    assert not await password_matches("not a hash", GOOD)
    assert not await password_matches("", "nobody has this password")


# RFC 6238, appendix B: the secret of the SHA-1 vectors, and the last six digits of its codes.
RFC = Sensitive(base64.b32encode(b"12345678901234567890"))


@pytest.mark.parametrize(
    ("at", "code"), [(59, "287082"), (1111111109, "081804"), (1234567890, "005924"), (20000000000, "353130")]
)
def test_codes_are_those_of_the_rfc(monkeypatch: pytest.MonkeyPatch, at: int, code: str) -> None:
    monkeypatch.setattr(time, "time", lambda: at)
    assert totp_step(RFC, code, 0) == at // 30


@pytest.mark.parametrize(("late", "good"), [(-31, False), (-30, True), (0, True), (30, True), (59, True), (60, False)])
def test_a_code_is_good_one_step_early_or_late(monkeypatch: pytest.MonkeyPatch, late: int, good: bool) -> None:
    step = 1111111109 // 30
    monkeypatch.setattr(time, "time", lambda: step * 30 + late)
    assert totp_step(RFC, "081804", 0) == (step if good else None)


def test_a_code_is_good_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "time", lambda: 59)
    assert totp_step(RFC, "287082", 0) == 1
    assert totp_step(RFC, "287082", 1) is None


@pytest.mark.parametrize("code", ["", "28708", "2870822", "２８７０８２", "287082\n1", "-87082", "abcdef", "0x4616"])
def test_what_is_no_code_is_refused(monkeypatch: pytest.MonkeyPatch, code: str) -> None:
    monkeypatch.setattr(time, "time", lambda: 59)
    assert totp_step(RFC, code, 0) is None


def test_a_code_may_be_typed_with_a_space(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "time", lambda: 59)
    assert totp_step(RFC, "287 082", 0) == 1


def test_a_new_second_factor_has_160_bits_and_is_not_shown() -> None:
    secret = new_totp_secret()
    assert len(base64.b32decode(secret.reveal())) == 20
    assert secret != new_totp_secret()
    assert secret.reveal_text() in totp_uri(secret, "ann").reveal_text()
    assert secret.reveal_text() not in repr(totp_uri(secret, "ann"))
