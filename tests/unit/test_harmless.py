"""
What a caller typed is repeated only where it cannot well be a token that went where none belongs.
"""

from __future__ import annotations

import uuid

import pytest

from company_agents.audit.chain import path_template
from company_agents.errors import WrongUsage
from company_agents.identity.tokens import new_agent_token, new_operator_token
from company_agents.outgoing.header_rules import for_request
from company_agents.sensitive import MASK, harmless

TOKENS = [
    new_agent_token(uuid.uuid4(), uuid.uuid4()).reveal_text(),
    new_operator_token(uuid.uuid4()).reveal_text(),
    "xoxb-17-made-up",
    "ghp_madeUpMadeUp1",
    "123456:made-up_like-a-bots",
    "eyJmYWtlIjoxfQ.eyJmYWtlIjoxfQ.bWFkZS11cA",
    "madeupmadeupmadeupmadeupmadeupmadeup",
    "a token\nof 2 lines",
]
ID = "2f0c3f0e-8c6b-4c55-9d3a-6f3f6f0a7b11"
WORDS = ["", "titel", "integration", "X-Slack-Signature", "chat.postMessage", "v1", "oauth-protected-resource", "2024"]


@pytest.mark.parametrize("token", TOKENS, ids=range(len(TOKENS)))
def test_what_may_be_a_token_is_masked(token: str) -> None:
    assert harmless(token) == MASK


@pytest.mark.parametrize("word", [*WORDS, ID, ID.upper()])
def test_words_and_ids_are_not(word: str) -> None:
    assert harmless(word) == word


@pytest.mark.parametrize("token", TOKENS, ids=range(len(TOKENS)))
def test_a_path_on_record_has_no_token_in_it(token: str) -> None:
    assert path_template(f"/bot{token}/sendMessage") == "/{id}/sendMessage"


def test_a_path_on_record_says_which_call_it_was() -> None:
    assert path_template("/v2/customers/17/api/chat.postMessage") == "/v2/customers/{id}/api/chat.postMessage"
    assert path_template(f"/files/{uuid.uuid4()}/{'0123456789abcdef'}") == "/files/{id}/{id}"


def test_the_name_of_a_header_is_repeated_where_it_is_one() -> None:
    with pytest.raises(WrongUsage, match="the header X-Name holds"):
        for_request({"X-Name": "\0"}, None)
    with pytest.raises(WrongUsage, match=f"the header {MASK} holds"):
        for_request({TOKENS[0]: "\0"}, None)
