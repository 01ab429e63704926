"""
Getting past us into the database, and what the audit chains say afterwards.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from typing import Any, cast
from uuid import UUID

import psycopg
from psycopg.conninfo import make_conninfo
from psycopg.rows import dict_row

from company_agents.app import App
from company_agents.integrations.integrations import Integration
from company_agents.sensitive import Sensitive
from tests.conftest import Tenant
from tests.outgoing.servers import Server

Past = psycopg.AsyncConnection[dict[str, Any]]

PROVIDER_TOKEN = "a-token-of-the-provider-that-nobody-sees"


def address(app: App, role: str) -> str:
    """How a role reaches the database of an instance."""
    return make_conninfo(app.store.db.logins.serve.conninfo.reveal_text(), user=role)


async def connect_past(app: App, role: str) -> Past:
    """A connection as one of the roles, or as the superuser `postgres`; each statement commits by itself."""
    return cast(Past, await psycopg.AsyncConnection.connect(address(app, role), autocommit=True, row_factory=dict_row))


async def sql(connection: Past, query: str, **params: Any) -> list[dict[str, Any]]:
    """Run a statement: its rows, where it has any."""
    cursor = await connection.execute(query.encode(), params or None)
    return await cursor.fetchall() if cursor.description else []


@contextlib.asynccontextmanager
async def no_right_to_insert(superuser: Past) -> AsyncIterator[None]:
    """For a while no event can be written."""
    await sql(superuser, "REVOKE INSERT ON audit_events FROM company_agents_serve")
    try:
        yield
    finally:
        await sql(superuser, "GRANT INSERT ON audit_events TO company_agents_serve")


async def recorded(app: App, company_id: UUID | None, action: str, **facts: Any) -> list[dict[str, Any]]:
    """
    The events of this kind, with these facts, oldest first. What waited to be written is written by then: events
    are committed in the order in which they came.
    """
    await app.audit.append(company_id, "test.looked")
    events = reversed(await app.events.newest(company_id, limit=1000))
    wanted = {name: str(value) for name, value in facts.items()}
    return [
        event
        for event in events
        if event["action"] == action and all(str(event.get(name)) == value for name, value in wanted.items())
    ]


async def connect_integration(app: App, tenant: Tenant, server: Server, name: str = "generic") -> Integration:
    """An integration of a tenant with this server; its agent may use it."""
    return await app.integrations.connect(
        tenant.local,
        "generic",
        Sensitive(PROVIDER_TOKEN),
        name=name,
        base_url=server.url,
        allow_private_network=True,
        allow=[tenant.agent.agent_id()],
    )
