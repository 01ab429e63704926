"""
Every shipped provider, driven against a service on loopback that behaves as its file says: where the credential goes, what
the probe makes of the answer, and each of its flows from the first request to the last.
"""

from __future__ import annotations

import base64
import json
from urllib.parse import parse_qsl, urlsplit

import aiohttp
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from company_agents.errors import ProbeFailed
from company_agents.integrations.credential import Credential, destination_for
from company_agents.integrations.oauth.authorize import authorization_url, new_verifier, read_callback
from company_agents.integrations.oauth.calls import OAuthCalls
from company_agents.integrations.oauth.device import Pending
from company_agents.integrations.oauth.model import Client, Endpoints, Gone, Granted, Rejected
from company_agents.integrations.probe import Proof, probe
from company_agents.integrations.provider import Provider, shipped
from company_agents.outgoing.client import Outgoing, OutgoingRequest
from company_agents.sensitive import Sensitive
from tests.providers.service import (
    ACCOUNT,
    CLIENT_ID,
    CLIENT_SECRET,
    INSTALLATION,
    LIFE,
    REDIRECT,
    SAID,
    Service,
    serving,
)

# Those whose requests are signed: tests/outgoing/test_signing.py.
ALL = [provider for provider in shipped().values() if provider.credential.kind != "sigv4"]
TOKEN = "ann@acme.example:a-made-up-token_1"


def having(*flows: str) -> list[Provider]:
    return [provider for provider in ALL if provider.oauth and set(provider.oauth.flows) & set(flows)]


def refreshing() -> list[Provider]:
    return [provider for provider in having("code") if provider.oauth and provider.oauth.refresh is not None]


def each(providers: list[Provider]) -> pytest.MarkDecorator:
    assert providers
    return pytest.mark.parametrize("provider", providers, ids=lambda provider: provider.name)


# — a token —


@each(ALL)
async def test_a_token_goes_where_the_file_says_and_the_probe_understands_the_answer(
    outgoing: Outgoing, provider: Provider
) -> None:
    async with serving(provider) as service:
        service.api_tokens.add(TOKEN)
        proof = await tried(outgoing, service, TOKEN, consent=False)
        if provider.probe is None:
            assert proof == Proof()
            assert (await called(outgoing, service, TOKEN)).status == 200
        else:
            assert proof.account == (ACCOUNT if provider.probe.account else None)
            assert proof.scopes == (("one", "two") if provider.probe.scopes_header else ())
        assert service.wrong == []
        assert len(service.calls) == 1
        assert places(service, TOKEN) == 1


@each([provider for provider in ALL if provider.probe])
async def test_a_token_that_is_refused_is_told_from_a_good_one_with_the_services_own_word(
    outgoing: Outgoing, provider: Provider
) -> None:
    async with serving(provider) as service:
        service.api_tokens.add(TOKEN)
        word = min(provider.refused_codes, default=SAID)
        with pytest.raises(ProbeFailed, match=word):
            await tried(outgoing, service, TOKEN.replace("_1", "_2"), consent=False)
        assert service.wrong == []


async def tried(outgoing: Outgoing, service: Service, token: str, *, consent: bool) -> Proof:
    provider = service.here()
    destination = destination_for(provider, service.base_url, allow_private=True, header=None, consent=consent)
    return await probe(outgoing, provider, Credential(destination, Sensitive(token)))


async def called(outgoing: Outgoing, service: Service, token: str):
    provider = service.here()
    destination = destination_for(provider, service.base_url, allow_private=True, header=None)
    request = OutgoingRequest("GET", "/anything", "", provider.headers)
    return await outgoing.call(request, destination, Sensitive(token))


def places(service: Service, token: str) -> int:
    """How often a token stands in all that was sent, as it is or within Basic."""
    count = 0
    for request, body in zip(service.calls, service.bodies, strict=True):
        texts = [str(request.rel_url), body.decode(), *request.headers.values()]
        for text in texts:
            if text.startswith("Basic "):
                text = base64.b64decode(text.removeprefix("Basic ")).decode()
            count += text.count(token)
    return count


# — a consent —


@each(having("code"))
async def test_a_consent_goes_from_the_first_request_to_revocation_as_the_file_says(
    calls: OAuthCalls, outgoing: Outgoing, provider: Provider
) -> None:
    assert provider.oauth is not None
    async with serving(provider) as service:
        client = await known(calls, service)
        granted = await consented(calls, service, client)
        scopes = tuple(scope.name for scope in provider.oauth.scopes)
        assert granted.scopes == scopes
        assert granted.account == (ACCOUNT if provider.oauth.account_field else None)
        assert (granted.refresh is not None) == (provider.oauth.refresh is not None)
        expected = (provider.oauth.lifetime or LIFE) if provider.oauth.refresh is not None else None
        assert granted.expires_in == (provider.oauth.lifetime or expected)
        await proven(outgoing, service, granted)
        if client.endpoints.introspection:
            assert await calls.introspect(service.here(), client, granted.access) is True
        revoked = await calls.revoke(service.here(), client, granted.access, "access_token")
        assert revoked == (client.endpoints.revocation is not None)
        if revoked:
            assert service.access == {}
        assert service.wrong == []


@each(having("code"))
async def test_a_code_is_good_once(calls: OAuthCalls, provider: Provider) -> None:
    async with serving(provider) as service:
        client = await known(calls, service)
        code, verifier = await agreed(service, client)
        here = service.here()
        await calls.redeem(here, client, code=code, redirect_uri=REDIRECT, verifier=verifier)
        with pytest.raises(Rejected, match="used before"):
            await calls.redeem(here, client, code=code, redirect_uri=REDIRECT, verifier=verifier)
        assert service.wrong == []


@each(refreshing())
async def test_a_refresh_behaves_as_the_file_says(calls: OAuthCalls, outgoing: Outgoing, provider: Provider) -> None:
    assert provider.oauth is not None
    rules = provider.oauth.refresh
    assert rules is not None
    async with serving(provider) as service:
        client, here = await known(calls, service), service.here()
        first = await consented(calls, service, client)
        assert first.refresh is not None
        second = await calls.refresh(here, client, first.refresh)
        assert second.access != first.access
        assert (second.refresh is not None) == rules.single_use
        await proven(outgoing, service, second)
        assert (first.access.reveal_text() in service.access) == (not rules.kills_access)
        if not rules.single_use:
            assert (await calls.refresh(here, client, first.refresh)).access != second.access
            return
        if rules.reuse_window:
            service.now = rules.reuse_window - 1
            assert (await calls.refresh(here, client, first.refresh)).refresh is not None
        service.now = rules.reuse_window + 1
        with pytest.raises(Gone):
            await calls.refresh(here, client, first.refresh)
        assert second.refresh is not None
        assert (await calls.refresh(here, client, second.refresh)).refresh is not None
        assert service.wrong == []


@each(refreshing())
async def test_every_word_that_means_gone_is_known_and_other_words_are_not(
    calls: OAuthCalls, provider: Provider
) -> None:
    assert provider.oauth is not None
    async with serving(provider) as service:
        client, here = await known(calls, service), service.here()
        granted = await consented(calls, service, client)
        assert granted.refresh is not None
        for word in ("invalid_grant", *sorted(provider.oauth.gone_codes)):
            service.refuse = word
            with pytest.raises(Gone):
                await calls.refresh(here, client, granted.refresh)
        for word in ("invalid_client", "invalid_scope"):
            service.refuse = word
            with pytest.raises(Rejected):
                await calls.refresh(here, client, granted.refresh)
        assert service.wrong == []


@each(having("device"))
async def test_a_device_is_waited_for_and_then_connected(
    calls: OAuthCalls, outgoing: Outgoing, provider: Provider
) -> None:
    assert provider.oauth is not None
    async with serving(provider) as service:
        client, here = await known(calls, service), service.here()
        scopes = tuple(scope.name for scope in provider.oauth.scopes)
        code = await calls.begin_device(here, client, scopes)
        assert code.user_code == "ABCD-1234"
        assert isinstance(await calls.poll_device(here, client, code.device_code), Pending)
        service.devices[code.device_code.reveal_text()] = scopes
        granted = await calls.poll_device(here, client, code.device_code)
        assert isinstance(granted, Granted)
        assert granted.scopes == scopes
        await proven(outgoing, service, granted)
        assert service.wrong == []


@each(having("client"))
async def test_a_client_gets_a_token_for_itself(calls: OAuthCalls, outgoing: Outgoing, provider: Provider) -> None:
    assert provider.oauth is not None
    async with serving(provider) as service:
        client = await known(calls, service)
        scopes = tuple(scope.name for scope in provider.oauth.scopes)
        granted = await calls.client_credentials(service.here(), client, scopes)
        assert granted.refresh is None
        await proven(outgoing, service, granted)
        assert service.wrong == []


@each(having("github_app"))
async def test_an_app_gets_a_token_for_an_installation(
    calls: OAuthCalls, outgoing: Outgoing, provider: Provider
) -> None:
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    async with serving(provider) as service:
        service.app_key = key.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        client = await known(calls, service, secret=Sensitive(private))
        granted = await calls.installation(service.here(), client, INSTALLATION)
        assert granted.scopes == ("contents:read",)
        assert granted.expires_in is not None
        await proven(outgoing, service, granted)
        with pytest.raises(Gone):
            await calls.installation(service.here(), client, "4712")
        assert service.wrong == []


async def known(calls: OAuthCalls, service: Service, secret: Sensitive = Sensitive(CLIENT_SECRET)) -> Client:
    """The client, with the endpoints that the file has, or that its issuer says."""
    provider = service.here()
    assert provider.oauth is not None
    endpoints: Endpoints | None = provider.endpoints(service.base_url, allow_private=True)
    if endpoints is None:
        endpoints = await calls.discover(str(provider.oauth.issuer), allow_private=True)
    return Client(CLIENT_ID, provider.oauth.auth, endpoints, secret)


async def agreed(service: Service, client: Client) -> tuple[str, Sensitive]:
    """What the browser brings back after a person said yes, and the verifier."""
    provider = service.here()
    assert provider.oauth is not None
    verifier, challenge = new_verifier()
    scopes = [scope.name for scope in provider.oauth.scopes]
    url = authorization_url(
        provider, client, redirect_uri=REDIRECT, state="state-1", challenge=challenge, scopes=scopes
    )
    async with aiohttp.ClientSession() as browser, browser.get(url, allow_redirects=False) as reply:
        assert reply.status == 302, (await reply.text(), service.wrong)
        back = dict(parse_qsl(urlsplit(reply.headers["Location"]).query))
    assert back.pop("state") == "state-1"
    return read_callback(back, issuer=client.endpoints.issuer, iss_required=client.endpoints.iss_in_reply), verifier


async def consented(calls: OAuthCalls, service: Service, client: Client) -> Granted:
    code, verifier = await agreed(service, client)
    return await calls.redeem(service.here(), client, code=code, redirect_uri=REDIRECT, verifier=verifier)


async def proven(outgoing: Outgoing, service: Service, granted: Granted) -> None:
    """The access token is taken, in the place that is for access tokens."""
    proof = await tried(outgoing, service, granted.access.reveal_text(), consent=True)
    rule = service.provider.probe
    assert proof.account == (ACCOUNT if rule and rule.account else None)


# — the service itself: a check that passes whatever happens would prove nothing —


@each(having("code"))
async def test_the_service_notices_what_is_not_as_the_file_says(
    calls: OAuthCalls, outgoing: Outgoing, provider: Provider
) -> None:
    async with serving(provider) as service:
        client = await known(calls, service)
        await consented(calls, service, client)
        wrong = Client(client.id, client.auth, client.endpoints, Sensitive("another secret"))
        code, verifier = await agreed(service, client)
        with pytest.raises(Rejected):
            await calls.redeem(service.here(), wrong, code=code, redirect_uri=REDIRECT, verifier=verifier)
        assert [said.rpartition(": ")[2] for said in service.wrong] == ["the client's id and secret"]


async def test_the_service_takes_a_token_in_no_other_place(outgoing: Outgoing) -> None:
    linear = shipped()["linear"]
    async with serving(linear) as service:
        service.api_tokens.add(TOKEN)
        with pytest.raises(ProbeFailed):
            await tried(outgoing, service, TOKEN, consent=True)
        assert json.loads(service.bodies[0])["query"]
