from __future__ import annotations

import pytest

from company_agents.integrations.oauth.authorize import authorization_url, new_verifier, read_callback
from company_agents.integrations.oauth.calls import OAuthCalls
from company_agents.integrations.oauth.model import Gone, Rejected
from company_agents.sensitive import Sensitive
from tests.oauth.asked import REDIRECT, callback, client, consented, provider
from tests.oauth.server import AuthorizationServer


@pytest.mark.parametrize("auth", ["post", "basic", "none"])
async def test_a_consent_gives_tokens_that_the_resource_takes(
    calls: OAuthCalls, server: AuthorizationServer, auth: str
) -> None:
    granted = await consented(calls, server, client(server, auth))
    assert server.is_good(granted.access.reveal_text())
    assert granted.refresh is not None
    assert granted.expires_in == 3600
    assert granted.scopes == ("read", "write")


async def test_a_refresh_token_is_renewed_with_each_use(calls: OAuthCalls, server: AuthorizationServer) -> None:
    ours = client(server)
    first = await consented(calls, server, ours)
    assert first.refresh is not None
    second = await calls.refresh(provider(), ours, first.refresh)
    assert second.refresh is not None and second.refresh != first.refresh
    assert server.is_good(second.access.reveal_text())
    assert server.refresh_count(second.access.reveal_text()) == 1


async def test_a_refresh_token_that_was_used_before_is_gone_with_all_that_came_of_it(
    calls: OAuthCalls, server: AuthorizationServer
) -> None:
    ours = client(server)
    first = await consented(calls, server, ours)
    assert first.refresh is not None
    second = await calls.refresh(provider(), ours, first.refresh)
    with pytest.raises(Gone, match=r"invalid_grant \(HTTP 400\)"):
        await calls.refresh(provider(), ours, first.refresh)
    assert not server.is_good(second.access.reveal_text())
    assert second.refresh is not None
    with pytest.raises(Gone):
        await calls.refresh(provider(), ours, second.refresh)


async def test_within_the_reuse_window_a_refresh_token_is_taken_once_more(
    calls: OAuthCalls, server: AuthorizationServer
) -> None:
    server.state.reuse_window = 60
    ours = client(server)
    first = await consented(calls, server, ours)
    assert first.refresh is not None
    await calls.refresh(provider(), ours, first.refresh)
    again = await calls.refresh(provider(), ours, first.refresh)
    assert server.is_good(again.access.reveal_text())


async def test_a_server_that_does_not_rotate_sends_no_new_refresh_token(
    calls: OAuthCalls, server: AuthorizationServer
) -> None:
    server.state.rotate = False
    ours = client(server)
    first = await consented(calls, server, ours)
    assert first.refresh is not None
    second = await calls.refresh(provider(), ours, first.refresh)
    assert second.refresh is None
    assert server.is_good((await calls.refresh(provider(), ours, first.refresh)).access.reveal_text())


async def test_a_code_is_redeemed_once(calls: OAuthCalls, server: AuthorizationServer) -> None:
    ours = client(server)
    server.consent = "approve"
    verifier, challenge = new_verifier()
    url = authorization_url(provider(), ours, redirect_uri=REDIRECT, state="s", challenge=challenge, scopes=["read"])
    code = read_callback(await callback(url), issuer=server.url, iss_required=True)
    granted = await calls.redeem(provider(), ours, code=code, redirect_uri=REDIRECT, verifier=verifier)
    with pytest.raises(Rejected, match="does not take the code"):
        await calls.redeem(provider(), ours, code=code, redirect_uri=REDIRECT, verifier=verifier)
    assert not server.is_good(granted.access.reveal_text())


async def test_a_code_that_is_too_old_is_rejected(calls: OAuthCalls, server: AuthorizationServer) -> None:
    server.state.code_life = 0
    with pytest.raises(Rejected, match="too old"):
        await consented(calls, server, client(server))


async def test_a_code_without_its_verifier_is_worth_nothing(calls: OAuthCalls, server: AuthorizationServer) -> None:
    ours = client(server)
    server.consent = "approve"
    _, challenge = new_verifier()
    url = authorization_url(provider(), ours, redirect_uri=REDIRECT, state="s", challenge=challenge, scopes=["read"])
    code = read_callback(await callback(url), issuer=server.url, iss_required=True)
    other, _ = new_verifier()
    with pytest.raises(Rejected):
        await calls.redeem(provider(), ours, code=code, redirect_uri=REDIRECT, verifier=other)


async def test_a_denied_consent_is_said_so(server: AuthorizationServer) -> None:
    server.consent = "deny"
    url = authorization_url(
        provider(), client(server), redirect_uri=REDIRECT, state="s", challenge=new_verifier()[1], scopes=["read"]
    )
    reply = await callback(url)
    with pytest.raises(Rejected, match="the consent was denied"):
        read_callback(reply, issuer=server.url, iss_required=True)


@pytest.mark.parametrize("iss", ["https://other.example", None])
async def test_a_reply_of_another_server_or_of_none_is_rejected(server: AuthorizationServer, iss: str | None) -> None:
    server.consent, server.iss = "approve", iss
    url = authorization_url(
        provider(), client(server), redirect_uri=REDIRECT, state="s", challenge=new_verifier()[1], scopes=["read"]
    )
    reply = await callback(url)
    with pytest.raises(Rejected):
        read_callback(reply, issuer=server.url, iss_required=True)


async def test_a_wrong_secret_is_rejected_and_not_repeated(calls: OAuthCalls, server: AuthorizationServer) -> None:
    ours = client(server, secret=Sensitive("not-the-secret"))
    with pytest.raises(Rejected, match="invalid_client") as caught:
        await calls.client_credentials(provider(), ours, ["read"])
    assert "not-the-secret" not in f"{caught.value}{caught.value.hint}"


async def test_a_client_gets_a_token_for_itself(calls: OAuthCalls, server: AuthorizationServer) -> None:
    granted = await calls.client_credentials(provider(), client(server), ["read"])
    assert server.is_good(granted.access.reveal_text())
    assert granted.refresh is None


async def test_a_revoked_token_is_no_longer_taken(calls: OAuthCalls, server: AuthorizationServer) -> None:
    ours = client(server)
    granted = await consented(calls, server, ours)
    assert granted.refresh is not None
    assert await calls.introspect(provider(), ours, granted.access) is True
    assert await calls.revoke(provider(), ours, granted.refresh, "refresh_token") is True
    assert await calls.introspect(provider(), ours, granted.access) is False
    assert not server.is_good(granted.access.reveal_text())
    with pytest.raises(Gone):
        await calls.refresh(provider(), ours, granted.refresh)


async def test_to_revoke_what_is_revoked_is_done_already(calls: OAuthCalls, server: AuthorizationServer) -> None:
    ours = client(server)
    granted = await consented(calls, server, ours)
    for _ in range(2):
        assert await calls.revoke(provider(), ours, granted.access, "access_token") is True


async def test_a_server_without_the_endpoint_is_not_asked(calls: OAuthCalls, server: AuthorizationServer) -> None:
    ours = client(server, revocation=None, introspection=None)
    assert await calls.revoke(provider(), ours, Sensitive("access-1"), "access_token") is False
    assert await calls.introspect(provider(), ours, Sensitive("access-1")) is None
    assert server.calls == []
