"""
Integrations by consent with an authorization server of the tests, and what can be seen of them.
"""

from __future__ import annotations

import dataclasses
import uuid
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from company_agents.app import App
from company_agents.companies.scope import CompanyScope
from company_agents.integrations.attempts import Attempts
from company_agents.integrations.credential import Credential, destination_for
from company_agents.integrations.integrations import Integration
from company_agents.integrations.oauth.model import Consent
from company_agents.integrations.refresh import Refresher
from company_agents.integrations.versions import secret_name
from company_agents.sensitive import Sensitive
from tests.conftest import Tenant, write_provider_files
from tests.oauth.server import AuthorizationServer
from tests.promises.evidence import Past, recorded, sql

CLIENT, SECRET = "client-1", "secret-of-client-1-that-nobody-sees"

SERVICE = """
name = "{name}"
title = "{title}"
description = "A service of the tests."
base_url = "https://api.{name}.example"
sources = ["https://docs.{name}.example/oauth"]

[credential]
template = "Bearer {{token}}"

[probe]
path = "/api/me"
error = ["error"]
account = "login"

[oauth]
flows = ["code", "device", "client"]
issuer = "https://login.{name}.example"
{more}
[oauth.refresh]
{refresh}
"""

# Refresh tokens that are used once; once, and within a minute again; and as often as one likes.
ONCE, WINDOW, OFTEN = "acme-once", "acme-window", "acme-often"
SERVICES = {
    ONCE: ("", "single_use = true"),
    WINDOW: ("", "single_use = true\nreuse_window = 60"),
    OFTEN: ("", "single_use = false"),
    "acme-tested": ("test_mode_days = 7", "single_use = false"),
    "acme-absolute": ("", "single_use = false\nabsolute_days = 90\nidle_days = 30"),
}


def service_files() -> dict[str, str]:
    """Their files, by their names."""
    return {
        name: SERVICE.format(name=name, title=name.title(), more=more, refresh=refresh)
        for name, (more, refresh) in SERVICES.items()
    }


def write_services(home: Path) -> None:
    """Drop them into a home."""
    write_provider_files(home, service_files())


@dataclass
class World:
    """One company with its client at one server."""

    app: App
    tenant: Tenant
    server: AuthorizationServer
    superuser: Past

    @property
    def scope(self) -> CompanyScope:
        return self.tenant.local.scope

    async def client(self, provider: str) -> None:
        """Say what the company is to the server. Once for each provider."""
        self.server.add_client(CLIENT, SECRET)
        await self.app.clients.configure(
            self.tenant.local,
            provider,
            client_id=CLIENT,
            secret=Sensitive(SECRET),
            issuer=self.server.url,
            allow_private=True,
        )

    async def consent(self, provider: str = ONCE, **more: Any) -> Integration:
        """An integration with a consent that was given just now."""
        try:
            client = await self.app.clients.get(self.scope, provider, self.server.url)
        except Exception:
            await self.client(provider)
            client = await self.app.clients.get(self.scope, provider, self.server.url)
        granted = self.server.grant(CLIENT)
        given: dict[str, Any] = {
            "flow": "code",
            "client_id": CLIENT,
            "endpoints": client.endpoints,
            "refresh": Sensitive(granted.refresh or ""),
            "expires_at": datetime.now(UTC) + timedelta(seconds=granted.expires_in),
            "scopes": ("read",),
        }
        service = self.app.providers.get(provider)
        destination = destination_for(service, self.server.url, allow_private=True, header=None)
        credential = Credential(destination, Sensitive(granted.access), Consent(**{**given, **more}))
        return await self.app.integrations.establish(
            self.tenant.local, service, credential, name=f"it {uuid.uuid4().hex[:12]}", allow_all=True
        )

    async def set(self, integration: Integration, what: str, version: int = 1) -> None:
        """Change a version's row past us, as time would."""
        await sql(
            self.superuser,
            f"UPDATE credential_versions SET {what} WHERE integration_id = %(i)s AND version = %(v)s",
            i=integration.id,
            v=version,
        )

    async def is_due(self, integration: Integration, *, dead: bool = False, version: int = 1) -> None:
        ended = ", expires_at = now() - interval '1 second'" if dead else ""
        await self.set(integration, f"refresh_due_at = now(){ended}", version)

    async def row(self, integration: Integration, version: int = 1) -> dict[str, Any]:
        (row,) = await sql(
            self.superuser,
            "SELECT *, now() AS now FROM credential_versions WHERE integration_id = %(i)s AND version = %(v)s",
            i=integration.id,
            v=version,
        )
        return row

    async def credential(self, integration: Integration, version: int = 1) -> Credential:
        """What is sealed."""
        value = await self.app.store.open_own(self.scope, secret_name(integration.id, version))
        assert value is not None
        return Credential.opened(value)

    async def token(self, integration: Integration, version: int = 1) -> str:
        return (await self.credential(integration, version)).token.reveal_text()

    async def now(self, integration: Integration) -> Integration:
        return await self.app.integrations.get(self.tenant.local, integration.id)

    async def history(self, integration: Integration) -> list[tuple[str, str]]:
        """Statuses and what showed them, oldest first."""
        found = await self.app.integrations.statuses.history(self.scope, integration.id)
        return [(seen.status, seen.seen_by) for seen in reversed(found)]

    async def events(self, integration: Integration, action: str) -> list[dict[str, Any]]:
        return await recorded(self.app, self.tenant.company.id, action, integration=integration.id)

    def refreshes(self) -> int:
        """Refreshes that were asked for."""
        return sum(call.fields.get("grant_type") == "refresh_token" for call in self.server.calls_to("/token"))

    async def refresh(self, refresher: Refresher | None = None) -> list[bool]:
        """Refresh what is due, once and to the end."""
        refresher = refresher or patient(self.app)
        attempts = await refresher.attempts.claim(self.scope, 100)
        return [await refresher.start(self.scope, attempt) for attempt in attempts]


def patient(app: App, *, lease: float = 60, **how: Any) -> Refresher:
    """Another refresher on the parts of an app, as a second replica has one; waits are short."""
    attempts = Attempts(app.store, app.integrations.statuses, lease)
    defaults = {"pause": 0.01, "age": 0, "first_wait": 3600, "longest_wait": 3600}
    return dataclasses.replace(app.refresher, attempts=attempts, _running=set(), **{**defaults, **how})
