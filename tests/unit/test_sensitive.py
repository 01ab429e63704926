"""
A value that will not print, whatever is done with what holds it.
"""

from __future__ import annotations

import copy
import dataclasses
import hmac
import io
import json
import logging
import pickle
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from string import Template
from typing import Any

import pytest
import structlog

from company_agents.sensitive import Sensitive

TEXT = "sk-live-0123456789"
VALUE = Sensitive(TEXT)


@dataclass(frozen=True)
class Holder:
    name: str
    token: Sensitive


HOLDER = Holder("x", VALUE)


def logged() -> str:
    out = io.StringIO()
    logger = logging.Logger("here")
    logger.addHandler(logging.StreamHandler(out))
    logger.error("value %s %r %s", VALUE, VALUE, HOLDER, extra={"token": VALUE})
    return out.getvalue()


def structlogged() -> str:
    out = io.StringIO()
    for renderer in (structlog.processors.JSONRenderer(), structlog.processors.KeyValueRenderer()):
        logger = structlog.wrap_logger(structlog.PrintLogger(out), processors=[renderer])
        logger.info("event", token=VALUE, holder=HOLDER, nested={"a": [VALUE]})
    return out.getvalue()


def traced() -> str:
    token = VALUE
    try:
        raise ValueError(token)
    except ValueError as error:
        return "".join(traceback.TracebackException.from_exception(error, capture_locals=True).format())


SHOWN: list[Callable[[], str]] = [
    lambda: str(VALUE),
    lambda: repr(VALUE),
    lambda: f"{VALUE} {VALUE!r} {VALUE!s} {VALUE!a} {VALUE:>30}",
    lambda: "{0} {0!r}".format(VALUE),  # noqa: UP032 - this very form
    lambda: "%s %r" % (VALUE, VALUE),  # noqa: UP031 - this very form
    lambda: Template("$token").substitute(token=VALUE),
    lambda: repr([VALUE]) + repr({"token": VALUE}) + repr((VALUE,)),
    lambda: repr(HOLDER) + str(HOLDER),
    lambda: json.dumps({"token": VALUE}, default=str) + json.dumps({"token": VALUE}, default=repr),
    lambda: repr(ValueError(VALUE)) + str(ValueError(VALUE)),
    logged,
    structlogged,
    traced,
]


@pytest.mark.parametrize("show", SHOWN)
def test_a_sensitive_value_is_not_shown(show: Callable[[], str]) -> None:
    shown = show()
    assert "…" in shown or "\\u2026" in shown
    assert TEXT not in shown
    assert TEXT[3:] not in shown


@pytest.mark.parametrize(
    "serialise",
    [
        json.dumps,
        *(lambda value, protocol=protocol: pickle.dumps(value, protocol) for protocol in range(6)),
        copy.copy,
        copy.deepcopy,
        bytes,
        iter,
        hash,
        lambda value: dataclasses.asdict(Holder("x", value)),
        lambda value: {value: 1},
    ],
)
def test_a_sensitive_value_is_not_serialised(serialise: Callable[[Any], Any]) -> None:
    with pytest.raises(TypeError) as caught:
        serialise(VALUE)
    assert TEXT not in str(caught.value)


def test_revealing_is_the_exit() -> None:
    assert (VALUE.reveal(), VALUE.reveal_text()) == (TEXT.encode(), TEXT)
    assert Sensitive(b"\xff\x00").reveal() == b"\xff\x00"


def test_two_are_equal_when_their_values_are() -> None:
    assert Sensitive("a") == Sensitive(b"a")
    assert Sensitive("a") != Sensitive("b")
    assert Sensitive("a") != Sensitive("")
    assert (Sensitive("a") == "a") is False
    assert (bool(Sensitive("")), bool(VALUE), len(VALUE)) == (False, True, len(TEXT))


def test_they_are_compared_in_constant_time(monkeypatch: pytest.MonkeyPatch) -> None:
    compared = []

    def compare(one: bytes, other: bytes) -> bool:
        compared.append((one, other))
        return one == other

    monkeypatch.setattr(hmac, "compare_digest", compare)
    assert (Sensitive("a") != Sensitive("b"), Sensitive("a") == Sensitive("a")) == (True, True)
    assert compared == [(b"a", b"b"), (b"a", b"a")]


def test_it_is_a_copy_of_what_it_was_given() -> None:
    given = bytearray(b"before")
    value = Sensitive(bytes(given))
    given[:] = b"after!"
    assert value.reveal() == b"before"
