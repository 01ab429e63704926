"""
What a provider's file and its replies cannot do: count beyond the calendar, and have a token shown.
"""

from __future__ import annotations

import pytest

from company_agents.integrations.oauth.grants import granted
from company_agents.integrations.provider import OAuth, read_provider
from company_agents.integrations.provider_files import BadText
from tests.refresh.world import SERVICE

ACCESS, REFRESH = "access-token-of-the-tests", "refresh-token-of-the-tests"
TOKENS = {"access_token": ACCESS, "refresh_token": REFRESH}


def read(more: str = "", refresh: str = "") -> OAuth:
    text = SERVICE.format(name="acme", title="Acme", more=more, refresh=refresh)
    oauth = read_provider(text, "acme.toml").oauth
    assert oauth is not None
    return oauth


@pytest.mark.parametrize("days", ["idle_days", "absolute_days"])
def test_a_consent_does_not_live_beyond_the_calendar(days: str) -> None:
    assert read(refresh=f"{days} = 36500").refresh is not None
    with pytest.raises(BadText, match=days):
        read(refresh=f"{days} = 36501")


@pytest.mark.parametrize(("name", "most"), [("test_mode_days", 36_500), ("lifetime", 315_360_000)])
def test_nor_does_a_token(name: str, most: int) -> None:
    assert getattr(read(f"{name} = {most}"), name) == most
    with pytest.raises(BadText, match=name):
        read(f"{name} = {most + 1}")


@pytest.mark.parametrize("shown", ["account_field", "scope_field"])
@pytest.mark.parametrize("token", ["access_token", "refresh_token"])
def test_the_field_of_a_token_is_not_shown(shown: str, token: str) -> None:
    with pytest.raises(BadText, match=f"{shown}: a token stands there"):
        read(f'{shown} = "{token}"')
    with pytest.raises(BadText, match=f"{shown}: a token stands there"):
        read(f'{shown} = "data.it"\n{token.removesuffix("_token")}_field = "data.it"')


@pytest.mark.parametrize("token", [ACCESS, REFRESH])
@pytest.mark.parametrize("wrapped", ["{}", "user:{}", "read,{},write"])
def test_a_value_with_a_token_in_it_is_dropped(token: str, wrapped: str) -> None:
    oauth = read('account_field = "who"')
    value = wrapped.format(token)
    got = granted({**TOKENS, "who": value, "scope": value}, oauth, now=0)
    assert (got.account, got.scopes) == (None, ())
    got = granted({**TOKENS, "who": "ann", "scope": [value, "read"]}, oauth, now=0)
    assert (got.account, got.scopes) == ("ann", ())
    got = granted({**TOKENS, "who": "ann", "scope": "read write"}, oauth, now=0)
    assert (got.account, got.scopes) == ("ann", ("read", "write"))
