"""
The authorization code flow: what comes back is taken once, from whom it is waited for, or refused and recorded.
"""

from __future__ import annotations

import asyncio
import uuid
from dataclasses import replace
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit

import httpx2
import pytest

from company_agents.app import App
from company_agents.errors import CompanyAgentsError, Conflict, NotFound, ProbeFailed, Refused, WrongUsage
from company_agents.integrations.credential import Credential
from company_agents.integrations.oauth.model import Rejected
from company_agents.integrations.open_flows import read_state
from company_agents.integrations.wanted import Wanted
from company_agents.sensitive import Sensitive
from tests.flows.conftest import SECRET, Here, configure, consented
from tests.oauth.server import AuthorizationServer

NOTHING: dict[str, object] = {"secrets": [], "integrations": []}


async def refused(here: Here, params: dict[str, str], code: str, *, why: str = "", **how: Any) -> CompanyAgentsError:
    """The answer is refused, nothing is kept, and that is on record."""
    before = len(await recorded(here))
    with pytest.raises(CompanyAgentsError) as raised:
        await here.finish(params, **how)
    assert raised.value.reason == code
    *_, last = events = await recorded(here)
    assert len(events) == before + 1
    assert last["reason"] == (why or code.removeprefix("consent_"))
    return raised.value


async def recorded(here: Here) -> list[dict[str, object]]:
    # Refusals ride with the next event.
    await asyncio.sleep(0.2)
    return await here.events("consent.refused")


async def opened(here: Here, integration_id: uuid.UUID) -> Credential:
    return await here.app.integrations.present(here.tenant.local, integration_id)


async def test_a_consent_becomes_an_integration_that_works(here: Here) -> None:
    agent = here.tenant.agent.agent_id()
    integration = await here.connected(here.wanted(allow=(agent,), scopes=("read",)))
    assert (integration.kind, integration.account, integration.scopes) == ("consent", "ada", ["read"])
    assert integration.agents == [agent]
    assert integration.expires_at is not None
    reply = await here.app.requests.request(here.tenant.agent, str(integration.id), "GET", "/api/me")
    assert reply.body["login"] == "ada"
    consent = (await opened(here, integration.id)).consent
    assert consent is not None
    assert consent.flow == "code"
    assert consent.refresh is not None
    assert consent.endpoints.token == f"{here.server.url}/token"
    left = await here.left()
    assert left["secrets"] == [f"integration/{integration.id}/1"], "the verifier was kept"


async def test_the_request_has_a_challenge_and_the_code_is_redeemed_with_its_verifier(here: Here) -> None:
    begun = await here.app.flows.begin(here.tenant.local, here.wanted(), session_id=here.session)
    assert "code_challenge_method=S256" in begun.url
    assert "scope=read%20write" in begun.url
    await here.finish(await consented(begun.url))
    [call] = here.server.calls_to("/token")
    assert len(call.fields["code_verifier"]) >= 43
    assert call.fields["redirect_uri"] == here.app.clients.redirect_uri("acme", here.server.url)


async def test_an_answer_is_taken_once(here: Here) -> None:
    params = await here.asked()
    await here.finish(params)
    calls = len(here.server.calls_to("/token"))
    await refused(here, params, "consent_replayed")
    assert len(here.server.calls_to("/token")) == calls


async def test_of_many_who_bring_the_same_answer_at_once_one_is_served(here: Here) -> None:
    params = await here.asked()
    found = await asyncio.gather(*(here.finish(params) for _ in range(8)), return_exceptions=True)
    assert [type(one) for one in found if isinstance(one, BaseException)] == [Refused] * 7
    assert len(here.server.calls_to("/token")) == 1
    assert len((await here.left())["integrations"]) == 1  # type: ignore[arg-type]


@pytest.mark.parametrize("changed", ["last", "flow", "empty", "short"])
async def test_a_state_that_is_not_ours_is_refused(here: Here, changed: str) -> None:
    params = await here.asked()
    state = params["state"]
    other = {
        "last": state[:-1] + ("A" if state[-1] != "A" else "Q"),
        "flow": state[:24] + ("A" if state[24] != "A" else "B") + state[25:],
        "empty": "",
        "short": state[:-4],
    }[changed]
    await refused(here, {**params, "state": other}, "consent_state")
    assert here.server.calls_to("/token") == []
    assert (await here.left())["integrations"] == []
    # It was nobody's: the true one is still good.
    await here.finish(params)


async def test_another_session_cannot_end_what_this_one_began(here: Here) -> None:
    params = await here.asked()
    await refused(here, params, "consent_session", session=uuid.uuid4())
    assert here.server.calls_to("/token") == []
    assert await here.left() == NOTHING
    # Whoever it was has seen the state: it is used up.
    await refused(here, params, "consent_replayed")


async def test_a_state_of_another_company_is_refused(here: Here, tenant: Any) -> None:
    params, there = await here.asked(), await tenant()
    known = read_state(params["state"])
    assert known is not None
    assert known[0] == here.tenant.company.id
    with pytest.raises(Refused, match="belongs to nothing"):
        await here.app.flows.finish(there.local, here.session, "acme", params)
    assert here.server.calls_to("/token") == []
    await here.finish(params)


async def test_the_answer_of_one_provider_is_not_taken_for_anothers(
    app: App, here: Here, other_server: AuthorizationServer
) -> None:
    # The mix-up of RFC 9700, 4.4: the person began at Other, which sent them on to Acme with its own state; Acme sends
    # its code to Acme's redirect address, with Other's state.
    other_server.add_client("client-1", SECRET, redirect_uris=[app.clients.redirect_uri("other", other_server.url)])
    await configure(app, here.tenant, "other", other_server)
    begun = await app.flows.begin(
        here.tenant.local,
        here.wanted(provider="other", issuer=other_server.url, base_url=other_server.url),
        session_id=here.session,
    )
    of_other = await consented(begun.url)
    of_acme = await here.asked()
    mixed = {**of_acme, "state": of_other["state"]}
    await refused(here, mixed, "consent_mixed_up")
    assert here.server.calls_to("/token") == []
    assert other_server.calls_to("/token") == [], "Acme's code went to Other"


async def test_the_answer_of_one_server_of_a_provider_is_not_taken_for_anothers(
    app: App, here: Here, other_server: AuthorizationServer
) -> None:
    # The same mix-up, where both servers are known by one provider's name, and neither says who it is.
    evil, honest = here.server, other_server
    for server, name in ((evil, "client-1"), (honest, "client-b")):
        server.iss = None
        server.metadata["authorization_response_iss_parameter_supported"] = False
        server.add_client(name, SECRET, redirect_uris=[app.clients.redirect_uri("generic", server.url)])
        await app.clients.configure(
            here.tenant.local,
            "generic",
            client_id=name,
            secret=Sensitive(SECRET),
            issuer=server.url,
            allow_private=True,
        )
    of_evil, of_honest = [
        dict(
            parse_qsl(
                urlsplit(
                    (
                        await app.flows.begin(
                            here.tenant.local,
                            here.wanted(provider="generic", issuer=server.url, base_url=server.url),
                            session_id=here.session,
                        )
                    ).url
                ).query
            )
        )
        for server in (evil, honest)
    ]
    assert of_evil["redirect_uri"] != of_honest["redirect_uri"]
    # The evil one sends the browser on to the honest one, in the name of the client there, with the state that it was given.
    sent_on = {**of_evil, "client_id": "client-b", "redirect_uri": of_honest["redirect_uri"]}
    params = await consented(f"{honest.url}/authorize?{urlencode(sent_on)}")
    await refused(here, params, "consent_mixed_up", provider="generic", server=honest.url)
    assert evil.calls_to("/token") == [], "the honest server's code went to the evil one"


@pytest.mark.parametrize(
    ("iss", "said"),
    [("https://login.evil.example", "another server"), (None, "does not say which server")],
    ids=["wrong", "missing"],
)
async def test_an_answer_that_names_another_issuer_is_refused(here: Here, iss: str | None, said: str) -> None:
    here.server.iss = iss
    error = await refused(here, await here.asked(), "oauth_rejected", why="issuer")
    assert said in error.sentence
    assert here.server.calls_to("/token") == []
    assert await here.left() == NOTHING


async def test_a_consent_that_was_denied_leaves_nothing(here: Here) -> None:
    here.server.consent = "deny"
    error = await refused(here, await here.asked(), "oauth_rejected", why="denied")
    assert "denied" in error.sentence
    assert await here.left() == NOTHING


async def test_a_code_that_is_too_old_leaves_nothing(here: Here) -> None:
    here.server.state.code_life = -1
    error = await refused(here, await here.asked(), "oauth_rejected")
    assert "too old" in error.sentence
    assert await here.left() == NOTHING


async def test_what_took_longer_than_ten_minutes_is_refused(here: Here, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("company_agents.integrations.flows.FLOW_MINUTES", 0)
    params = await here.asked()
    await refused(here, params, "consent_late")
    assert here.server.calls_to("/token") == []
    assert await here.left() == NOTHING


async def test_what_was_never_answered_is_swept_away(here: Here, monkeypatch: pytest.MonkeyPatch) -> None:
    await here.asked()
    monkeypatch.setattr("company_agents.integrations.flows.FLOW_MINUTES", 0)
    await here.asked()
    assert len((await here.left())["secrets"]) == 2  # type: ignore[arg-type]
    await here.app.flows.open.sweep()
    assert len((await here.left())["secrets"]) == 1, "one that may still be answered went too"  # type: ignore[arg-type]


async def test_a_token_that_the_service_does_not_take_is_not_kept(here: Here) -> None:
    params = await here.asked()
    here.server.misbehave("status", on="/api/me", status=401, body='{"error": "invalid_token"}')
    with pytest.raises(ProbeFailed):
        await here.finish(params)
    assert await here.left() == NOTHING


async def test_a_reply_that_was_lost_leaves_nothing_and_says_to_begin_again(here: Here) -> None:
    params = await here.asked()
    here.server.misbehave("lose")
    await refused(here, params, "oauth_uncertain")
    assert await here.left() == NOTHING
    await here.connected()


async def test_a_client_that_was_changed_meanwhile_is_not_sent_the_code(
    app: App, here: Here, other_server: AuthorizationServer
) -> None:
    params = await here.asked()
    await app.clients.configure(
        here.tenant.local,
        "acme",
        client_id="client-2",
        secret=Sensitive(SECRET),
        issuer=here.server.url,
        allow_private=True,
    )
    await refused(here, params, "client_changed")
    assert here.server.calls_to("/token") == []


async def test_a_name_that_is_taken_is_said_before_anybody_is_asked(here: Here) -> None:
    await here.connected(here.wanted(name="mail"))
    with pytest.raises(Conflict, match="mail"):
        await here.asked(here.wanted(name="mail"))


async def test_without_a_client_nothing_is_begun(app: App, tenant: Any, server: AuthorizationServer) -> None:
    there = Here(app, await tenant(), server, uuid.uuid4())
    with pytest.raises(NotFound, match="no client at acme"):
        await there.asked()


async def test_a_provider_without_that_flow_says_which_it_has(here: Here) -> None:
    with pytest.raises(WrongUsage, match="no flow github_app"):
        await here.app.flows.at_once(here.tenant.local, here.wanted(installation="1"), "github_app")
    with pytest.raises(WrongUsage, match="has no OAuth"):
        await here.asked(here.wanted(provider="openai", issuer=""))


async def test_neither_code_nor_state_nor_verifier_is_on_record(here: Here) -> None:
    params = await here.asked()
    await here.finish(params)
    await refused(here, params, "consent_replayed")
    [call] = here.server.calls_to("/token")
    said = str(await here.app.events.after(here.tenant.company.id, 0))
    for secret in (params["code"], params["state"], call.fields["code_verifier"], SECRET):
        assert secret not in said


async def test_a_rotation_is_a_new_consent_for_the_same_address(here: Here) -> None:
    integration = await here.connected(here.wanted(scopes=("read",)))
    before = await opened(here, integration.id)
    again = here.wanted(integration_id=integration.id, base_url="https://evil.example", scopes=())
    rotated = await here.connected(again)
    assert rotated.version == 2
    after = await opened(here, integration.id)
    assert after.destination == before.destination
    assert after.consent is not None
    assert after.consent.scopes == ("read",)
    assert after.token != before.token


async def test_a_rotation_that_fails_leaves_the_old_consent(here: Here) -> None:
    integration = await here.connected()
    params = await here.asked(here.wanted(integration_id=integration.id))
    here.server.misbehave("status", on="/api/me", status=401, body='{"error": "invalid_token"}')
    with pytest.raises(ProbeFailed):
        await here.finish(params)
    assert (await here.app.integrations.get(here.tenant.local, integration.id)).version == 1
    assert here.server.is_good((await opened(here, integration.id)).token.reveal_text())


async def test_too_many_consents_at_once_are_refused(here: Here, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("company_agents.integrations.open_flows.MOST_OPEN", 2)
    for _ in range(2):
        await here.asked()
    with pytest.raises(Conflict, match="too many"):
        await here.asked()


async def test_the_client_itself_is_connected_at_once(here: Here) -> None:
    integration = await here.app.flows.at_once(here.tenant.local, here.wanted(), "client")
    consent = (await opened(here, integration.id)).consent
    assert consent is not None
    assert (consent.flow, integration.kind) == ("client", "consent")


async def test_the_clients_own_rights_go_to_no_other_address(here: Here, other_server: AuthorizationServer) -> None:
    elsewhere = here.wanted(base_url=other_server.url)
    with pytest.raises(WrongUsage, match="is not where this client of Acme is at home"):
        await here.app.flows.at_once(here.tenant.local, elsewhere, "client")
    assert here.server.calls_to("/token") == []
    assert other_server.calls == []
    # Neither by way of a token, whose address somebody else may choose.
    pasted = await here.app.integrations.connect(
        here.tenant.local,
        "acme",
        Sensitive(other_server.grant("client-1").access),
        base_url=other_server.url,
        allow_private_network=True,
    )
    with pytest.raises(WrongUsage, match="at home"):
        await here.app.flows.at_once(here.tenant.local, replace(elsewhere, integration_id=pasted.id), "client")
    assert here.server.calls_to("/token") == []


async def test_where_each_customer_has_a_host_a_token_goes_to_the_one_that_consented(here: Here) -> None:
    mine = "https://acme.zendesk.com"
    await here.app.clients.configure(here.tenant.local, "zendesk", client_id="c", secret=Sensitive(SECRET), issuer=mine)
    wanted = Wanted("zendesk", issuer=mine, base_url="https://evil.example.net", name="z")
    with pytest.raises(WrongUsage, match="at home"):
        await here.app.flows.begin(here.tenant.local, wanted, session_id=here.session)
    begun = await here.app.flows.begin(here.tenant.local, replace(wanted, base_url=mine), session_id=here.session)
    assert begun.host == "acme.zendesk.com"


async def test_any_service_with_an_issuer_can_be_connected(app: App, tenant: Any, server: AuthorizationServer) -> None:
    there = Here(app, await tenant(), server, uuid.uuid4())
    server.add_client("client-1", SECRET, redirect_uris=[app.clients.redirect_uri("generic", server.url)])
    await configure(app, there.tenant, "generic", server)
    integration = await there.finish(
        await there.asked(there.wanted(provider="generic", scopes=("read",))), provider="generic"
    )
    assert integration.scopes == ["read"]


async def test_a_browser_that_refreshes_its_page_at_the_provider_changes_nothing(here: Here) -> None:
    begun = await here.app.flows.begin(here.tenant.local, here.wanted(), session_id=here.session)
    async with httpx2.AsyncClient(follow_redirects=False) as browser:
        await browser.get(begun.url)
    await here.finish(await consented(begun.url))


async def test_a_denial_is_a_refusal_of_the_provider() -> None:
    assert issubclass(Rejected, Refused)
