"""
The authorization server of the tests itself: what others rely on when they make it misbehave.
"""

from __future__ import annotations

import asyncio

import aiohttp

from company_agents.integrations.oauth.authorize import authorization_url, new_verifier
from company_agents.integrations.oauth.calls import OAuthCalls
from company_agents.sensitive import Sensitive
from tests.oauth.asked import REDIRECT, client, consented, provider
from tests.oauth.server import AuthorizationServer


async def test_a_person_decides_on_a_page_that_names_what_is_asked(server: AuthorizationServer) -> None:
    url = authorization_url(
        provider(), client(server), redirect_uri=REDIRECT, state="s", challenge=new_verifier()[1], scopes=["read"]
    )
    async with aiohttp.ClientSession() as browser:
        page = await (await browser.get(url)).text()
        assert "<li>read</li>" in page and "Approve" in page and "Deny" in page
        approved = await browser.post(url, data={"decision": "approve"}, allow_redirects=False)
        denied = await browser.post(url, data={"decision": "deny"}, allow_redirects=False)
    assert "code=" in approved.headers["Location"] and "iss=" in approved.headers["Location"]
    assert "error=access_denied" in denied.headers["Location"] and "state=s" in denied.headers["Location"]


async def test_an_address_that_was_not_registered_is_not_sent_a_code(server: AuthorizationServer) -> None:
    server.consent = "approve"
    url = authorization_url(
        provider(), client(server), redirect_uri="http://127.0.0.1:2/", state="s", challenge="c" * 43, scopes=[]
    )
    async with aiohttp.ClientSession() as browser, browser.get(url, allow_redirects=False) as reply:
        assert reply.status == 400


async def test_a_resource_takes_a_good_token_only(calls: OAuthCalls, server: AuthorizationServer) -> None:
    granted = server.grant(client(server).id, expires_in=60)
    async with aiohttp.ClientSession() as browser:
        good = {"Authorization": f"Bearer {granted.access}"}
        assert (await (await browser.get(f"{server.url}/api/me", headers=good)).json())["login"] == "ada"
        server.kill(granted.access)
        assert (await browser.get(f"{server.url}/api/me", headers=good)).status == 401
        assert (await browser.get(f"{server.url}/api/me")).status == 401


async def test_a_reply_is_held_until_it_is_released(calls: OAuthCalls, server: AuthorizationServer) -> None:
    ours = client(server)
    token = server.grant(ours.id)
    assert token.refresh
    server.misbehave("hold", seconds=30)
    asked = asyncio.create_task(calls.refresh(provider(), ours, Sensitive(token.refresh)))
    await asyncio.to_thread(server.wait_until_held)
    assert server.refresh_count(token.refresh) == 1 and not asked.done()
    server.release()
    assert server.is_good((await asked).access.reveal_text())


async def test_a_refresh_kills_the_old_access_token_where_that_is_its_way(
    calls: OAuthCalls, server: AuthorizationServer
) -> None:
    server.state.kills_access = True
    ours = client(server)
    first = await consented(calls, server, ours)
    assert first.refresh is not None
    second = await calls.refresh(provider(), ours, first.refresh)
    assert not server.is_good(first.access.reveal_text()) and server.is_good(second.access.reveal_text())


async def test_a_new_consent_kills_the_old_one_where_that_is_its_way(
    calls: OAuthCalls, server: AuthorizationServer
) -> None:
    server.state.one_consent = True
    ours = client(server)
    first, second = [await consented(calls, server, ours) for _ in range(2)]
    assert not server.is_good(first.access.reveal_text()) and server.is_good(second.access.reveal_text())


async def test_a_hundred_tokens_at_once_are_refreshed_once_each(calls: OAuthCalls, server: AuthorizationServer) -> None:
    ours = client(server)
    tokens = [server.grant(ours.id) for _ in range(100)]
    await asyncio.gather(*(calls.refresh(provider(), ours, Sensitive(token.refresh or "")) for token in tokens))
    assert [server.refresh_count(token.access) for token in tokens] == [1] * 100
