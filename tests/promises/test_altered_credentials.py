"""
What a sealed row protects, at the doors: an agent's token that was altered opens none of them, and a credential that was
altered, or whose row points elsewhere, goes nowhere but to the place that was sealed with it.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from importlib import resources
from typing import Any
from uuid import UUID

import pytest

from company_agents import integrations as room
from company_agents.api import api_app
from company_agents.app import App
from company_agents.errors import Unauthenticated
from company_agents.identity.permissions import Role
from company_agents.integrations.integrations import Integration
from company_agents.integrations.provider import Provider, Providers, read_provider
from company_agents.integrations.request import Requests
from company_agents.sensitive import Sensitive
from tests.api.conftest import serving as serving_rest
from tests.conftest import LOCAL, Tenant
from tests.dashboard.people import owner
from tests.mcp.served import Served, refused, served
from tests.mcp.slack import TOKEN, slack_stand_in
from tests.outgoing.servers import Server
from tests.promises.evidence import PROVIDER_TOKEN, Past, connect_integration, recorded, sql

MakeTenant = Callable[[], Awaitable[Tenant]]


@dataclass(frozen=True)
class Doors:
    """Both doors of agents on their sockets."""

    mcp: Served
    rest: str

    async def statuses(self, token: str) -> tuple[int, int]:
        """How a token is answered."""
        reply = await self.mcp.rpc(token, "tools/list")
        return reply.status, (await self.ask(token, "GET", "/v1/me"))[0]

    async def ask(self, token: str, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        headers = {"Authorization": f"Bearer {token}"}
        async with self.mcp.http.request(method, self.rest + path, headers=headers, json=body) as answer:
            return answer.status, json.loads(await answer.text())

    async def request(self, tenant: Tenant, integration: Integration) -> tuple[int, str, str]:
        """One call through each door: the status and the code of REST, and the code of MCP."""
        path = f"/v1/companies/{tenant.company.id}/integrations/{integration.id}/request"
        status, body = await self.ask(tenant.token, "POST", path, {"method": "GET", "path": "/things"})
        async with self.mcp.client(tenant.token) as client:
            said = await refused(
                client, "integration_request", integration=str(integration.id), method="GET", path="/things"
            )
        return status, body["code"], said["code"]


@pytest.fixture(scope="module")
async def doors(app: App) -> AsyncIterator[Doors]:
    async with served(app) as mcp, serving_rest(api_app(app)) as rest:
        yield Doors(mcp, rest)


async def secret_named(superuser: Past, name: str) -> UUID:
    [row] = await sql(superuser, "SELECT id FROM secrets WHERE name = %(n)s", n=name)
    secret: UUID = row["id"]
    return secret


# — tokens —

TOKEN_ALTERATIONS = {
    "a bit": "UPDATE secrets SET value = set_bit(value, 0, 1 - get_bit(value, 0)) WHERE id = %(row)s",
    "a bit of the nonce": "UPDATE secrets SET nonce = set_bit(nonce, 0, 1 - get_bit(nonce, 0)) WHERE id = %(row)s",
    "the token of a colleague": """UPDATE secrets s SET value = o.value, nonce = o.nonce FROM secrets o
                                   WHERE s.id = %(row)s AND o.id = %(other)s""",
    "the token of another company's agent": """UPDATE secrets s SET value = o.value, nonce = o.nonce FROM secrets o
                                               WHERE s.id = %(row)s AND o.id = %(theirs)s""",
    "the name of another agent": """UPDATE secrets SET name = name || '.' WHERE id = %(other)s;
                                    UPDATE secrets s SET name = rtrim(o.name, '.') FROM secrets o
                                    WHERE s.id = %(row)s AND o.id = %(other)s""",
    "a key that there never was": "UPDATE secrets SET key_id = 'ffffffffffffffff' WHERE id = %(row)s",
    "nothing": "UPDATE secrets SET value = '' WHERE id = %(row)s",
}


@pytest.mark.parametrize("what", TOKEN_ALTERATIONS)
async def test_an_agents_token_whose_row_was_altered_is_answered_401_at_both_doors(
    app: App, doors: Doors, tenant: MakeTenant, superuser: Past, what: str
) -> None:
    here, there = await tenant(), await tenant()
    colleague, token = await app.agents.create(here.local, "bob")
    rows = {
        "row": await secret_named(superuser, f"agent_token/{here.agent.agent_id()}"),
        "other": await secret_named(superuser, f"agent_token/{colleague.id}"),
        "theirs": await secret_named(superuser, f"agent_token/{there.agent.agent_id()}"),
    }
    assert await doors.statuses(here.token) == (200, 200)
    for statement in TOKEN_ALTERATIONS[what].split(";"):
        used = {name: value for name, value in rows.items() if f"%({name})s" in statement}
        await sql(superuser, statement, **used)
    if what == "the name of another agent":
        # The row is another's now: for its own agent there is none, and for the other it does not open.
        assert await doors.statuses(here.token) == (401, 401)
        assert await doors.statuses(token.reveal_text()) == (401, 401)
    else:
        assert await doors.statuses(here.token) == (401, 401)
        assert await doors.statuses(token.reveal_text()) == (200, 200)
    assert await doors.statuses(there.token) == (200, 200)
    assert len(await recorded(app, here.company.id, "secret.tampered", secret=rows["row"])) == 1
    assert await recorded(app, None, "token.refused", reason="does not open") != []


async def test_an_operators_token_whose_row_was_altered_is_refused(app: App, superuser: Past) -> None:
    person = (await owner(app)).operator
    made, token = await app.operators.create_token(LOCAL, "tests", 1, Role.OWNER, person.id)
    assert (await app.identity.operator(token.reveal_text())).id == person.id
    row = await secret_named(superuser, f"operator_token/{made.id}")
    await sql(superuser, "UPDATE secrets SET nonce = set_bit(nonce, 5, 1 - get_bit(nonce, 5)) WHERE id = %(r)s", r=row)
    with pytest.raises(Unauthenticated):
        await app.identity.operator(token.reveal_text())
    assert len(await recorded(app, None, "secret.tampered", secret=row)) == 1


# — credentials —

CREDENTIAL_ALTERATIONS = {
    "a bit": "UPDATE secrets SET value = set_bit(value, 9, 1 - get_bit(value, 9)) WHERE id = %(row)s",
    "its end": "UPDATE secrets SET value = substring(value FOR length(value) - 1) WHERE id = %(row)s",
    "the value of a connection elsewhere": """UPDATE secrets s SET value = o.value, nonce = o.nonce FROM secrets o
                                              WHERE s.id = %(row)s AND o.id = %(other)s""",
    "the value of another company's": """UPDATE secrets s SET value = o.value, nonce = o.nonce FROM secrets o
                                         WHERE s.id = %(row)s AND o.id = %(theirs)s""",
    "its key": "UPDATE secrets SET key_id = 'ffffffffffffffff' WHERE id = %(row)s",
    "nothing": "UPDATE secrets SET value = '' WHERE id = %(row)s",
}


async def current_secret(superuser: Past, integration: Integration) -> UUID:
    return await secret_named(superuser, f"integration/{integration.id}/{integration.version}")


@pytest.mark.parametrize("what", CREDENTIAL_ALTERATIONS)
async def test_a_credential_whose_row_was_altered_makes_no_call_at_either_door(
    app: App, doors: Doors, tenant: MakeTenant, superuser: Past, provider: Server, elsewhere: Server, what: str
) -> None:
    here, there = await tenant(), await tenant()
    integration = await connect_integration(app, here, provider)
    other = await connect_integration(app, here, elsewhere, "elsewhere")
    theirs = await connect_integration(app, there, elsewhere)
    rows = {
        "row": await current_secret(superuser, integration),
        "other": await current_secret(superuser, other),
        "theirs": await current_secret(superuser, theirs),
    }
    statement = CREDENTIAL_ALTERATIONS[what]
    await sql(superuser, statement, **{name: row for name, row in rows.items() if f"%({name})s" in statement})
    assert await doors.request(here, integration) == (500, "tampered", "tampered")
    assert (provider.connections, elsewhere.connections) == (0, 0)
    assert len(await recorded(app, here.company.id, "secret.tampered", secret=rows["row"])) == 1
    begun = await recorded(app, here.company.id, "credential.begun", integration=integration.id)
    ended = await recorded(app, here.company.id, "credential.ended", integration=integration.id, error="tampered")
    assert [event["use"] for event in begun] == [event["use"] for event in ended]
    assert len(begun) == 2
    shown = await app.integrations.get(here.local, integration.id)
    assert (shown.status, "altered" in shown.status_reason) == ("needs attention", True)


@pytest.mark.parametrize("what", ["a credential of another company", "a token of an agent", "a secret that is gone"])
async def test_an_integration_that_was_pointed_at_a_secret_which_is_no_credential_of_its_company_makes_no_call(
    app: App, doors: Doors, tenant: MakeTenant, superuser: Past, provider: Server, elsewhere: Server, what: str
) -> None:
    here, there = await tenant(), await tenant()
    integration = await connect_integration(app, here, provider)
    theirs = await connect_integration(app, there, elsewhere)
    row = await current_secret(superuser, integration)
    target = await current_secret(superuser, theirs)
    if what == "a token of an agent":
        target = await secret_named(superuser, f"agent_token/{here.agent.agent_id()}")
    if what == "a secret that is gone":
        # The foreign key would keep it; a superuser can go past that as well.
        async with superuser.transaction():
            await sql(superuser, "SET LOCAL session_replication_role = replica")
            await sql(superuser, "DELETE FROM secrets WHERE id = %(r)s", r=row)
    else:
        pointed = "UPDATE credential_versions SET secret_id = %(t)s WHERE integration_id = %(i)s"
        await sql(superuser, pointed, t=target, i=integration.id)
    status, code, said = await doors.request(here, integration)
    assert status >= 400
    assert code == said
    assert (code == "tampered") == (what == "a token of an agent")
    assert (provider.connections, elsewhere.connections) == (0, 0)
    ended = await recorded(app, here.company.id, "credential.ended", integration=integration.id)
    assert {event["result"] for event in ended} == {"failed"}
    if what == "a secret that is gone":
        await sql(superuser, "DELETE FROM credential_versions WHERE integration_id = %(i)s", i=integration.id)


async def test_an_integration_that_was_pointed_at_another_ones_credential_sends_it_to_that_ones_host_only(
    app: App, tenant: MakeTenant, superuser: Past, provider: Server, elsewhere: Server
) -> None:
    here = await tenant()
    integration = await connect_integration(app, here, provider)
    other = await connect_integration(app, here, elsewhere, "elsewhere")
    pointed = "UPDATE credential_versions SET secret_id = %(t)s WHERE integration_id = %(i)s"
    await sql(superuser, pointed, t=await current_secret(superuser, integration), i=other.id)
    assert (await app.requests.request(here.agent, "elsewhere", "GET", "/things")).status == 200
    assert (len(provider.requests), elsewhere.connections) == (1, 0)
    # The record of its end has the place that it really went to.
    [ended] = await recorded(app, here.company.id, "credential.ended", integration=other.id)
    assert ended["host"] == provider.url


# — destinations —


@pytest.mark.parametrize("column", ["destination", "provider", "both"])
async def test_a_destination_that_was_changed_in_the_database_is_not_where_the_credential_goes(
    app: App, tenant: MakeTenant, superuser: Past, provider: Server, elsewhere: Server, column: str
) -> None:
    here = await tenant()
    integration = await connect_integration(app, here, provider)
    columns = {"destination": "destination = %(u)s", "provider": "provider = 'github'"}
    changes = ", ".join(columns.values()) if column == "both" else columns[column]
    given = {"u": elsewhere.url} if "%(u)s" in changes else {}
    await sql(superuser, f"UPDATE integrations SET {changes} WHERE id = %(i)s", i=integration.id, **given)
    assert (await app.requests.request(here.agent, "generic", "GET", "/things")).status == 200
    await app.integrations.rotate(here.local, integration.id, Sensitive(PROVIDER_TOKEN + "-2"))
    assert (await app.requests.request(here.agent, "generic", "GET", "/things")).status == 200
    assert elsewhere.connections == 0
    things = [request for request in provider.requests if request.path == "/things"]
    assert [request.headers["authorization"] for request in things] == [
        f"Bearer {PROVIDER_TOKEN}",
        f"Bearer {PROVIDER_TOKEN}-2",
    ]
    ended = await recorded(app, here.company.id, "credential.ended", result="replied")
    assert {event["host"] for event in ended} == {provider.url}


@dataclass(frozen=True)
class ChangedProviders(Providers):
    """The shipped files, one of which somebody has edited."""

    changed: Provider

    def get(self, name: str) -> Provider:
        return self.changed if name == self.changed.name else super().get(name)


def edited(name: str, *replaced: tuple[str, str]) -> ChangedProviders:
    """The file of a provider with other words in it, read as every file is."""
    text = resources.files(room).joinpath("providers", f"{name}.toml").read_text("utf-8")
    for before, after in replaced:
        assert before in text
        text = text.replace(before, after)
    return ChangedProviders(read_provider(text, f"{name}.toml"))


async def test_a_providers_file_that_was_changed_does_not_send_a_credential_elsewhere(
    app: App, tenant: MakeTenant, elsewhere: Server
) -> None:
    here = await tenant()
    async with slack_stand_in() as slack:
        integration = await app.integrations.connect(
            here.local,
            "slack",
            Sensitive(TOKEN),
            base_url=slack.url,
            allow_private_network=True,
            allow=[here.agent.agent_id()],
        )
        changed = edited(
            "slack",
            ('"https://slack.com"', f'"{elsewhere.url}"'),
            ('name = "Authorization"', 'name = "X-Elsewhere"'),
            ("Bearer {token}", "{token}"),
        )
        assert changed.get("slack").base_url == elsewhere.url
        integrations = dataclasses.replace(app.integrations, providers=changed)
        requests = Requests(dataclasses.replace(app.relay, integrations=integrations))
        reply = await requests.request(here.agent, "slack", "POST", "/api/chat.postMessage", body={"text": "hello"})
        # The stand-in takes nothing but `Authorization: Bearer <its token>`.
        assert reply.body["ok"] is True
        assert (await integrations.check(here.local, integration.id)).status == "connected"
        assert (await integrations.rotate(here.local, integration.id, Sensitive(TOKEN))).version == 2
        assert [seen["path"] for seen in slack.seen] == ["/api/chat.postMessage"]
    assert elsewhere.connections == 0
