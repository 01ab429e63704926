"""
What a company is to a provider: sealed with where it may go, opened on record, of this company alone.
"""

from __future__ import annotations

import hashlib
from typing import Any

import pytest

from company_agents.app import App
from company_agents.errors import NotFound, Refused, Tampered, Unavailable, WrongUsage
from company_agents.integrations.oauth.model import Rejected
from company_agents.sensitive import Sensitive
from tests.flows.conftest import SECRET, Here
from tests.oauth.server import AuthorizationServer


async def test_a_client_goes_to_the_endpoints_that_its_issuer_named_when_it_was_configured(here: Here) -> None:
    here.server.metadata["token_endpoint"] = "https://evil.example/token"
    client = await here.app.clients.get(here.tenant.local.scope, "acme", here.server.url)
    assert client.endpoints.token == f"{here.server.url}/token"
    assert client.secret == Sensitive(SECRET)


async def test_each_opening_is_on_record_before_it_happens(here: Here) -> None:
    before = len(await here.events("credential.begun"))
    await here.app.clients.get(
        here.tenant.local.scope, "acme", here.server.url, actor="local:tester", purpose="refresh"
    )
    events = await here.events("credential.begun")
    assert len(events) == before + 1
    assert (events[-1]["provider"], events[-1]["purpose"], events[-1]["actor"]) == ("acme", "refresh", "local:tester")


async def test_what_is_shown_of_a_client_has_no_secret(here: Here) -> None:
    [client] = await here.app.clients.list(here.tenant.local)
    assert client.redirect_uri == (
        f"{here.app.settings.url}/oauth/callback/acme/{hashlib.sha256(here.server.url.encode()).hexdigest()[:16]}"
    )
    assert SECRET not in str(client)
    assert client.client_id == "client-1"


async def test_another_company_has_no_client(app: App, here: Here, tenant: Any) -> None:
    there = await tenant()
    assert await app.clients.list(there.local) == []
    with pytest.raises(NotFound):
        await app.clients.get(there.local.scope, "acme", here.server.url)


async def test_configured_again_it_is_replaced(here: Here) -> None:
    await here.app.clients.configure(
        here.tenant.local,
        "acme",
        client_id="client-2",
        secret=Sensitive("another-secret-of-it"),
        issuer=here.server.url,
        allow_private=True,
    )
    client = await here.app.clients.get(here.tenant.local.scope, "acme", here.server.url)
    assert (client.id, client.secret) == ("client-2", Sensitive("another-secret-of-it"))
    assert len(await here.app.clients.list(here.tenant.local)) == 1


async def test_deleted_its_secret_is_gone_too(here: Here) -> None:
    await here.app.clients.delete(here.tenant.local, "acme", here.server.url)
    with pytest.raises(NotFound):
        await here.app.clients.get(here.tenant.local.scope, "acme", here.server.url)
    names = [secret.name for secret in await here.app.store.list(here.tenant.local.scope)]
    assert [name for name in names if name.startswith("oauth_client/")] == []


async def test_a_row_that_names_another_secret_does_not_open(here: Here) -> None:
    integration = await here.connected()
    async with here.tenant.local.scope.transaction() as tx:
        current = await tx.one("integration_current", id=integration.id)
        assert current is not None
        await tx.run(
            "client_put",
            company_id=here.tenant.company.id,
            provider="acme",
            issuer=here.server.url,
            client_id="client-1",
            auth="post",
            secret_id=current["secret_id"],
        )
    with pytest.raises(Tampered):
        await here.app.clients.get(here.tenant.local.scope, "acme", here.server.url)


async def test_an_issuer_that_names_itself_otherwise_is_not_taken(here: Here) -> None:
    here.server.metadata["issuer"] = "https://login.evil.example"
    with pytest.raises((Rejected, Refused, Unavailable)):
        await here.app.clients.configure(
            here.tenant.local,
            "other",
            client_id="client-1",
            secret=Sensitive(SECRET),
            issuer=here.server.url,
            allow_private=True,
        )
    assert [client.provider for client in await here.app.clients.list(here.tenant.local)] == ["acme"]


async def test_an_issuer_in_a_private_network_has_to_be_meant(here: Here) -> None:
    with pytest.raises((WrongUsage, Unavailable, Refused)):
        await here.app.clients.configure(
            here.tenant.local, "other", client_id="client-1", secret=Sensitive(SECRET), issuer=here.server.url
        )


async def test_a_server_that_registers_clients_gives_one(app: App, tenant: Any, server: AuthorizationServer) -> None:
    there = await tenant()
    made = await app.clients.configure(
        there.local, "acme", client_id=None, issuer=server.url, allow_private=True, register=True
    )
    client = await app.clients.get(there.local.scope, "acme", server.url)
    assert client.id == made.client_id
    [call] = server.calls_to("/register")
    assert call.fields["redirect_uris"] == [app.clients.redirect_uri("acme", server.url)]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"client_id": "", "secret": Sensitive(SECRET)}, "client id is missing"),
        ({"client_id": "client-1"}, "secret is missing"),
        ({"client_id": "client-1", "secret": Sensitive(SECRET), "auth": "none"}, "public client has no secret"),
        ({"client_id": "client-1", "secret": Sensitive(SECRET), "auth": "other"}, "no such way"),
        ({"client_id": "client-1", "secret": Sensitive(SECRET), "auth": "private_key_jwt"}, "takes a private key"),
        ({"client_id": "client-1", "secret": Sensitive(SECRET), "register": True}, "has no id yet"),
        ({"client_id": "client-1", "secret": Sensitive(SECRET), "issuer": "login.example"}, "not an issuer"),
    ],
)
async def test_what_does_not_fit_is_refused_before_anybody_is_asked(
    app: App, tenant: Any, given: dict[str, Any], said: str
) -> None:
    there = await tenant()
    with pytest.raises(WrongUsage, match=said):
        await app.clients.configure(there.local, "acme", **given)
    assert await app.clients.list(there.local) == []


async def test_an_agent_configures_nothing(here: Here) -> None:
    with pytest.raises(Refused, match="company:provider:configure"):
        await here.app.clients.configure(here.tenant.agent, "acme", client_id="x", secret=Sensitive(SECRET))


async def test_the_client_of_one_server_is_none_at_another(app: App, tenant: Any) -> None:
    there = await tenant()
    await app.clients.configure(there.local, "github", client_id="client-1", secret=Sensitive(SECRET))
    assert (await app.clients.get(there.local.scope, "github")).id == "client-1"
    with pytest.raises(NotFound):
        await app.clients.get(there.local.scope, "github", "https://login.evil.example")
