"""
Passwords and one-time codes.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import hmac
import time
from collections.abc import AsyncIterator
from typing import Literal

import argon2
import pyotp

from company_agents.errors import TooMany, WrongUsage
from company_agents.sensitive import Sensitive

LEAST_PASSWORD = 12
MOST_PASSWORD = 256

# RFC 9106, the second recommended option (64 MiB): the first takes 2 GiB per attempt.
_HASHER = argon2.PasswordHasher.from_parameters(argon2.profiles.RFC_9106_LOW_MEMORY)
# Two hashes at a time: each takes 64 MiB, and four threads.
_TWO_AT_A_TIME = asyncio.Semaphore(2)
# Anybody may try to sign in. More than so many do not queue up: whoever came last would wait for minutes.
MOST_WAITING = 40
_waiting = 0


def check_new_password(password: str) -> None:
    """
    Raises:
        WrongUsage: shorter than 12 characters or longer than 256 (NIST SP 800-63B asks for length, not for classes).
    """
    if not LEAST_PASSWORD <= len(password) <= MOST_PASSWORD:
        raise WrongUsage(f"a password has {LEAST_PASSWORD} to {MOST_PASSWORD} characters")
    if len(set(password)) < 5:
        raise WrongUsage("this password repeats a few characters", hint="a sentence of four words is better")


def check_crowd() -> None:
    """
    Raises:
        TooMany: too many wait for their turn.
    """
    if _waiting >= MOST_WAITING:
        raise TooMany("too many people sign in at this moment", retry_after=5)


@contextlib.asynccontextmanager
async def _in_turn() -> AsyncIterator[None]:
    global _waiting
    check_crowd()
    _waiting += 1
    try:
        async with _TWO_AT_A_TIME:
            yield
    finally:
        _waiting -= 1


async def hash_password(password: str) -> str:
    """
    The password's Argon2id hash, in the PHC string format.

    Raises:
        TooMany: too many wait for theirs.
    """
    async with _in_turn():
        return await asyncio.to_thread(_HASHER.hash, password)


@functools.cache
def _nobody() -> str:
    """
    Verified against where there is no such operator, so that an unknown name takes as long as a wrong password.
    Made when it is first needed: a third of a second that a command without passwords would pay at its start.
    """
    return _HASHER.hash("nobody has this password")


async def password_matches(stored: str | None, password: str) -> bool:
    """
    Whether it is the password; as slow where there is none (`stored` is None).

    Raises:
        TooMany: too many wait for theirs.
    """
    if len(password) > MOST_PASSWORD:
        return False

    def verify() -> Literal[True]:
        # Asked for in either case: the first attempt of a process is slower for known names too.
        nobody = _nobody()
        return _HASHER.verify(nobody if stored is None else stored, password)

    async with _in_turn():
        try:
            return await asyncio.to_thread(verify) and stored is not None
        except (argon2.exceptions.VerificationError, ValueError):  # the latter: what is stored is no hash at all
            return False


def new_totp_secret() -> Sensitive:
    """A secret for one-time codes: 160 bits, base32 (RFC 4226, 4)."""
    return Sensitive(pyotp.random_base32())


def totp_uri(secret: Sensitive, name: str) -> Sensitive:
    """What an authenticator app reads from a QR code; it has the secret in it."""
    return Sensitive(pyotp.TOTP(secret.reveal_text()).provisioning_uri(name=name, issuer_name="Company Agents"))


def totp_step(secret: Sensitive, code: str, after: int) -> int | None:
    """
    The time step of a good code, 30 s long (RFC 6238), one step early or late; None for a bad one or for a
    step that is not after `after`: a code is good once.
    """
    digits = code.replace(" ", "")
    if not (digits.isascii() and digits.isdigit()):
        return None
    totp = pyotp.TOTP(secret.reveal_text())
    now = int(time.time()) // totp.interval
    good = [step for step in (now - 1, now, now + 1) if hmac.compare_digest(totp.generate_otp(step), digits)]
    return next((step for step in good if step > after), None)
