"""
What a server does wrong, on purpose and over real sockets, and which of the four failures it ends in.
"""

from __future__ import annotations

from email.utils import formatdate

import pytest

from company_agents.integrations.oauth.calls import OAuthCalls
from company_agents.integrations.oauth.model import OAUTH_FAILURES, Client, Endpoints, Gone, NotNow, Rejected, Uncertain
from company_agents.outgoing.exchange import Exchange
from company_agents.sensitive import Sensitive
from tests.oauth.asked import client, consented, provider
from tests.oauth.server import AuthorizationServer

PAGE = "<!doctype html><title>Sign in to the hotel's network</title>"
HTML = {"Content-Type": "text/html"}
JSON = {"Content-Type": "application/json"}


@pytest.fixture
def ours(server: AuthorizationServer) -> Client:
    return client(server)


@pytest.fixture
def refresh(server: AuthorizationServer, ours: Client) -> Sensitive:
    token = server.grant(ours.id).refresh
    assert token
    return Sensitive(token)


async def test_a_reply_that_is_lost_after_the_token_was_rotated_is_uncertain(
    calls: OAuthCalls, server: AuthorizationServer, ours: Client, refresh: Sensitive
) -> None:
    server.misbehave("lose")
    with pytest.raises(Uncertain):
        await calls.refresh(provider(), ours, refresh)
    assert server.refresh_count(refresh.reveal_text()) == 1
    assert len(server.calls_to("/token")) == 1, "it was not sent a second time by itself"


async def test_a_connection_that_is_closed_before_anything_was_done_is_uncertain_too(
    calls: OAuthCalls, server: AuthorizationServer, ours: Client, refresh: Sensitive
) -> None:
    server.misbehave("refuse")
    with pytest.raises(Uncertain):
        await calls.refresh(provider(), ours, refresh)
    assert server.refresh_count(refresh.reveal_text()) == 0


async def test_a_server_that_is_too_slow_is_uncertain(
    server: AuthorizationServer, ours: Client, refresh: Sensitive
) -> None:
    exchange = Exchange(call_time=0.3)
    await exchange.start()
    server.misbehave("hold", seconds=30)
    with pytest.raises(Uncertain, match="in time"):
        await OAuthCalls(exchange).refresh(provider(), ours, refresh)
    await exchange.close()
    assert server.refresh_count(refresh.reveal_text()) == 1


async def test_a_server_that_is_not_there_is_not_now(calls: OAuthCalls) -> None:
    nowhere = Client("client-1", "none", Endpoints("http://127.0.0.1:9/token", allow_private=True))
    with pytest.raises(NotNow, match="connection refused"):
        await calls.refresh(provider(), nowhere, Sensitive("refresh-1"))


async def test_a_name_that_is_not_known_is_not_now(calls: OAuthCalls) -> None:
    nowhere = Client("client-1", "none", Endpoints("https://nowhere.invalid/token"))
    with pytest.raises(NotNow):
        await calls.refresh(provider(), nowhere, Sensitive("refresh-1"))


@pytest.mark.parametrize(
    ("given", "seconds"),
    [("7", 7.0), (None, None), ("soon", None), ("-3", None), ("999999999999", 86_400.0), ("", None)],
)
async def test_too_many_requests_is_not_now_and_says_when(
    calls: OAuthCalls,
    server: AuthorizationServer,
    ours: Client,
    refresh: Sensitive,
    given: str | None,
    seconds: float | None,
) -> None:
    server.misbehave("busy", retry_after=given)
    with pytest.raises(NotNow) as caught:
        await calls.refresh(provider(), ours, refresh)
    assert caught.value.retry_after == seconds
    assert server.refresh_count(refresh.reveal_text()) == 0


async def test_a_moment_to_come_back_at_is_read_by_the_servers_clock(
    calls: OAuthCalls, server: AuthorizationServer, ours: Client, refresh: Sensitive
) -> None:
    server.clock_offset = -3000
    moment = formatdate(server.now() + 120, usegmt=True)
    server.misbehave("status", status=503, headers={"Retry-After": moment})
    with pytest.raises(NotNow) as caught:
        await calls.refresh(provider(), ours, refresh)
    assert caught.value.retry_after is not None
    assert 0 < caught.value.retry_after <= 120


@pytest.mark.parametrize("status", [500, 502, 503, 504])
async def test_a_broken_server_is_uncertain_where_it_may_have_rotated(
    calls: OAuthCalls, server: AuthorizationServer, ours: Client, refresh: Sensitive, status: int
) -> None:
    server.misbehave("replace", status=status, body=PAGE, headers=HTML)
    with pytest.raises(Uncertain, match=f"HTTP {status}"):
        await calls.refresh(provider(), ours, refresh)


@pytest.mark.parametrize("how", ["lose", "refuse"])
async def test_where_nothing_can_have_changed_a_lost_reply_is_not_now(
    calls: OAuthCalls, server: AuthorizationServer, ours: Client, how: str
) -> None:
    server.misbehave(how)
    with pytest.raises(NotNow):
        await calls.client_credentials(provider(), ours, [])


@pytest.mark.parametrize(
    "body",
    [
        PAGE,
        "",
        "[]",
        '"access_token"',
        "{",
        "{}",
        '{"access_token": 7}',
        '{"access_token": "short"}',
        '{"access_token": "with space at the end "}',
        '{"access_token": "two\\nlines of it"}',
        '{"access_token": "nicht-ascii-ä"}',
        '{"access_token": "' + "x" * 16_385 + '"}',
        '{"access_token": "one-token-of-two", "access_token": "another-token"}',
        '{"access_token": "a-good-token", "token_type": "DPoP"}',
        '{"access_token": "a-good-token", "token_type": 1}',
        '{"access_token": "a-good-token", "refresh_token": 1}',
        '{"access_token": "a-good-token", "refresh_token": "short"}',
        '{"access_token": "a-good-token", "expires_in": NaN}',
        "[" * 100_000,
        '{"a":' * 100_000,
    ],
)
async def test_a_reply_that_cannot_be_used_is_uncertain_and_not_repeated(
    calls: OAuthCalls, server: AuthorizationServer, ours: Client, refresh: Sensitive, body: str
) -> None:
    server.misbehave("replace", status=200, body=body, headers=JSON)
    with pytest.raises(Uncertain) as caught:
        await calls.refresh(provider(), ours, refresh)
    said = f"{caught.value} {caught.value.hint}"
    assert len(said) < 300
    assert "a-good-token" not in said and "hotel" not in said


async def test_a_page_for_people_with_a_good_status_is_uncertain(
    calls: OAuthCalls, server: AuthorizationServer, ours: Client, refresh: Sensitive
) -> None:
    server.misbehave("replace", status=200, body=PAGE, headers=HTML)
    with pytest.raises(Uncertain, match="neither JSON nor a form"):
        await calls.refresh(provider(), ours, refresh)


async def test_a_reply_that_is_too_large_is_uncertain(
    calls: OAuthCalls, server: AuthorizationServer, ours: Client, refresh: Sensitive
) -> None:
    server.misbehave("replace", status=200, body="{" + " " * 1024 * 1024 + "}", headers=JSON)
    with pytest.raises(Uncertain, match="larger"):
        await calls.refresh(provider(), ours, refresh)


async def test_another_token_in_the_reply_is_what_the_provider_gave(
    calls: OAuthCalls, server: AuthorizationServer, ours: Client, refresh: Sensitive
) -> None:
    server.misbehave("change", change=lambda fields: {**fields, "access_token": "access-of-another"})
    granted = await calls.refresh(provider(), ours, refresh)
    assert granted.access == Sensitive("access-of-another")
    assert not server.is_good("access-of-another")


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_a_redirect_is_not_followed_with_secrets(
    calls: OAuthCalls, server: AuthorizationServer, ours: Client, refresh: Sensitive, status: int
) -> None:
    server.misbehave("status", status=status, headers={"Location": f"{server.url}/elsewhere"})
    with pytest.raises(Rejected, match="redirect"):
        await calls.refresh(provider(), ours, refresh)
    assert server.calls_to("/elsewhere") == []


@pytest.mark.parametrize(
    ("status", "body", "failure", "said"),
    [
        (400, '{"error": "invalid_grant"}', Gone, "invalid_grant"),
        (401, '{"error": "invalid_grant"}', Gone, "invalid_grant"),
        (400, '{"error": "consent_withdrawn"}', Gone, "consent_withdrawn"),
        (200, '{"ok": false, "error": "consent_withdrawn"}', Gone, "consent_withdrawn"),
        (400, '{"status": "BAD_TOKEN", "message": "missing or unknown"}', Gone, "BAD_TOKEN"),
        (400, '{"error": {"type": "OAuthException", "code": 190}}', Gone, "OAuthException"),
        (400, '{"error": "invalid_request", "reason": "Invalid Token!"}', Gone, "invalid_request"),
        (400, '{"error": "invalid_scope"}', Rejected, "invalid_scope"),
        (401, '{"error": "invalid_client"}', Rejected, "invalid_client"),
        (400, '{"error": "temporarily_unavailable"}', NotNow, "temporarily_unavailable"),
        (200, '{"ok": false, "error": "ratelimited"}', NotNow, "ratelimited"),
        (500, '{"error": "server_error"}', Uncertain, "server_error"),
        (500, '{"error": "invalid_grant"}', Uncertain, "invalid_grant"),
        (404, PAGE, Rejected, "HTTP 404"),
        (403, "", Rejected, "HTTP 403"),
        (408, "", NotNow, "HTTP 408"),
    ],
)
async def test_what_a_server_says_becomes_one_of_four_failures(
    calls: OAuthCalls,
    server: AuthorizationServer,
    ours: Client,
    refresh: Sensitive,
    status: int,
    body: str,
    failure: type[Exception],
    said: str,
) -> None:
    acme = provider(gone_codes=frozenset({"consent_withdrawn", "BAD_TOKEN", "190", "Invalid Token!"}))
    server.misbehave("status", status=status, body=body, headers=JSON)
    with pytest.raises(OAUTH_FAILURES) as caught:
        await calls.refresh(acme, ours, refresh)
    assert type(caught.value) is failure
    assert said in str(caught.value)


@pytest.mark.parametrize(
    "word",
    [
        "refresh-token-that-was-sent",
        "the token refresh-token-that-was-sent is bad",
        "secret-of-client-1",
        "<script>alert(1)</script>",
        "x" * 61,
        "a1b2c3d4e5f6a7b8",
        "two\nlines",
    ],
)
async def test_a_word_that_may_be_a_secret_is_not_repeated(
    calls: OAuthCalls, server: AuthorizationServer, ours: Client, word: str
) -> None:
    server.misbehave("change", change=lambda _: {"error": word, "error_description": word})
    with pytest.raises(Rejected) as caught:
        await calls.refresh(provider(), ours, Sensitive("refresh-token-that-was-sent"))
    assert word not in f"{caught.value} {caught.value.hint}"
    assert "…" in str(caught.value)


async def test_a_private_address_is_rejected_where_private_networks_are_not_allowed(calls: OAuthCalls) -> None:
    inside = Client("client-1", "none", Endpoints("https://localhost/token"))
    with pytest.raises(Rejected, match="may not connect to"):
        await calls.refresh(provider(), inside, Sensitive("refresh-1"))


async def test_what_was_held_back_goes_on_when_it_is_let_go(
    calls: OAuthCalls, server: AuthorizationServer, ours: Client
) -> None:
    server.misbehave("slow", seconds=0.05)
    assert server.is_good((await consented(calls, server, ours)).access.reveal_text())
