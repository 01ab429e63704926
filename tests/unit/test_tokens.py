"""
Tokens: recognised whole or not at all.
"""

from __future__ import annotations

import base64
import re
from pathlib import Path
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as some

from company_agents.identity.tokens import (
    AgentClaim,
    OperatorClaim,
    RunClaim,
    _checksum,
    new_agent_token,
    new_operator_token,
    new_run_token,
    read_agent_token,
    read_operator_token,
    read_run_token,
)

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "spec" / "tokens.md").read_text("utf-8")
COMPANY, AGENT = UUID(int=7), UUID(int=2**127)
TOKEN = new_agent_token(COMPANY, AGENT).reveal_text()
RUN_TOKEN = new_run_token(COMPANY, AGENT).reveal_text()
OPERATOR_TOKEN = new_operator_token(AGENT).reveal_text()


def read(token: str) -> AgentClaim | RunClaim | OperatorClaim | None:
    return read_agent_token(token) or read_run_token(token) or read_operator_token(token)


@given(some.uuids(), some.uuids())
def test_a_token_says_whose_it_is(company: UUID, agent: UUID) -> None:
    assert read_agent_token(new_agent_token(company, agent).reveal_text()) == AgentClaim(company, agent)
    assert read_run_token(new_run_token(company, agent).reveal_text()) == RunClaim(company, agent)
    assert read_operator_token(new_operator_token(agent).reveal_text()) == OperatorClaim(agent)


def test_two_tokens_of_one_agent_differ() -> None:
    assert new_agent_token(COMPANY, AGENT) != new_agent_token(COMPANY, AGENT)


@pytest.mark.parametrize("token", [TOKEN, RUN_TOKEN, OPERATOR_TOKEN], ids=["agent", "run", "operator"])
def test_no_part_of_a_token_is_one(token: str) -> None:
    assert read(token) is not None
    parts = [token[:end] for end in range(len(token))] + [token[start:] for start in range(1, len(token))]
    assert [part for part in parts if read(part) is not None] == []


@pytest.mark.parametrize("token", [TOKEN, RUN_TOKEN, OPERATOR_TOKEN], ids=["agent", "run", "operator"])
def test_a_token_with_one_character_changed_is_none(token: str) -> None:
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_=+/. \n\0é"
    changed = [
        token[:at] + character + token[at + 1 :]
        for at in range(len(token))
        for character in alphabet
        if character != token[at]
    ]
    assert [one for one in changed if read(one) is not None] == []


@given(some.integers(0, len(TOKEN)), some.text(min_size=1, max_size=3))
def test_a_token_with_something_put_in_is_none(at: int, text: str) -> None:
    assert read(TOKEN[:at] + text + TOKEN[at:]) is None


@given(
    some.text(max_size=120)
    | some.text(max_size=100).map("ca_agent_".__add__)
    | some.text(max_size=100).map("ca_run_".__add__)
    | some.text().map("ca_op_".__add__)
)
def test_any_other_text_is_no_token(text: str) -> None:
    assert read(text) is None


def test_a_token_has_one_spelling() -> None:
    # 48 bytes fill their base64 exactly; the 64 of an agent token leave four bits that say nothing.
    body = TOKEN[:-6]
    last = body[-1]
    spellings = [
        body[:-1] + other
        for other in "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
        if other != last and decoded(body[:-1] + other) == decoded(body)
    ]
    assert len(spellings) == 15
    assert [read(other + _checksum(other)) for other in spellings] == [None] * 15


def decoded(body: str) -> bytes:
    return base64.urlsafe_b64decode(body.removeprefix("ca_agent_") + "==")


def test_one_kind_is_not_read_as_the_other() -> None:
    assert read_operator_token(TOKEN) is None
    assert read_agent_token(OPERATOR_TOKEN) is None
    assert read_run_token(TOKEN) is None
    assert read_agent_token(RUN_TOKEN) is None
    assert read_operator_token(RUN_TOKEN) is None
    renamed = "ca_run_" + TOKEN.removeprefix("ca_agent_")
    assert read_run_token(renamed) is None
    renamed = "ca_op_" + TOKEN.removeprefix("ca_agent_")[:-6]
    assert read_operator_token(renamed + _checksum(renamed)) is None


def test_a_leak_scanner_finds_them_by_the_expressions_of_the_page() -> None:
    agent, run, operator = (re.compile(found) for found in re.findall(r"^    (ca_\S+)$", PAGE, re.MULTILINE))
    for _ in range(50):
        one, other = new_agent_token(COMPANY, AGENT).reveal_text(), new_operator_token(AGENT).reveal_text()
        third = new_run_token(COMPANY, AGENT).reveal_text()
        text = f"export TOKEN='{one}'\n{other}, and {one}\"}}{third}"
        assert agent.findall(text) == [one, one]
        assert run.findall(text) == [third]
        assert operator.findall(text) == [other]
    assert agent.findall(TOKEN + "x") == []
