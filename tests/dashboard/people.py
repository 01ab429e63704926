"""
People of tests: they join the way people do, and open the dashboard without a browser or with one.
"""

from __future__ import annotations

import re
import uuid
from dataclasses import dataclass

import httpx2
import pyotp

from company_agents.app import App
from company_agents.dashboard import dashboard_app
from company_agents.dashboard.guard import cookie_name
from company_agents.identity.operators import Operator
from company_agents.identity.passwords import new_totp_secret
from company_agents.identity.permissions import Kind, Role
from company_agents.identity.principal import Caller, Principal, Via
from company_agents.sensitive import Sensitive

LOCAL = Principal(Kind.LOCAL, "tester", Via.CLI)
PASSWORD = "four quiet words here"
BROWSER = {"Sec-Fetch-Site": "same-origin", "User-Agent": "Mozilla/5.0 (X11; Linux x86_64) Chrome/140.0 Safari/537.36"}


@dataclass(frozen=True)
class Person:
    """Somebody who has joined, and a session of theirs."""

    app: App
    operator: Operator
    totp: Sensitive
    session: Sensitive

    def client(self, **headers: str) -> httpx2.AsyncClient:
        """Their browser, as far as requests go."""
        return client(self.app, cookies={cookie_name(self.app.settings): self.session.reveal_text()}, **headers)


def client(app: App, cookies: dict[str, str] | None = None, **headers: str) -> httpx2.AsyncClient:
    """Somebody's browser, as far as requests go."""
    transport = httpx2.ASGITransport(dashboard_app(app), raise_app_exceptions=False)
    return httpx2.AsyncClient(
        transport=transport, base_url=app.settings.url, cookies=cookies, headers={**BROWSER, **headers}
    )


async def join(app: App, link: Sensitive, name: str | None = None) -> Person:
    """Use a sign-in link."""
    totp = new_totp_secret()
    code = pyotp.TOTP(totp.reveal_text()).now()
    name = name or f"person {uuid.uuid4().hex[:8]}"
    operator = await app.operators.join(link.reveal_text(), name, PASSWORD, totp, code)
    session = await app.sessions.open(operator.id, address="127.0.0.1", browser=BROWSER["User-Agent"])
    return Person(app, operator, totp, session)


async def owner(app: App, name: str | None = None) -> Person:
    """An owner of the instance."""
    return await join(app, await app.operators.link(LOCAL), name)


async def member(app: App, caller: Caller, role: Role) -> Person:
    """Somebody with a role in a company."""
    return await join(app, await app.operators.invite(caller, role))


def text_of(page: str) -> str:
    """What a page says, without its tags."""
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", page))
