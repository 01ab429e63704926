"""
Providers whose new consent kills the old one of the same account: what is kept, and what is said.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

import pytest

from company_agents.app import App
from company_agents.errors import ProbeFailed
from company_agents.settings import Settings
from tests.api.conftest import serving
from tests.conftest import provider_files
from tests.promises.evidence import recorded
from tests.runs.conftest import ONE_CONSENT, Desk, MakeDesk, Revoker, Service, consent, use

PROBE = """
[probe]
path = "/me"
account = "login"
"""


@dataclass
class Keeper(Service):
    """Takes the newest token only. `status` is what it answers a probe with; `held` keeps the probe of a token waiting."""

    login: str = "ann"
    status: int = 200
    newest: str = "first-token"
    held: dict[str, asyncio.Event] = field(default_factory=dict)
    waits: asyncio.Event = field(default_factory=asyncio.Event)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        token = dict(scope["headers"]).get(b"authorization", b"").decode().removeprefix("Bearer ")
        status = self.status if token == self.newest else 401
        if (event := self.held.get(token)) is not None:
            self.waits.set()
            await event.wait()
        headers = [(b"content-type", b"application/json")]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": json.dumps({"login": self.login}).encode()})


@pytest.fixture
async def service() -> AsyncIterator[Keeper]:
    found = Keeper()
    async with serving(found) as url:
        found.url = url
        yield found


@pytest.fixture(scope="module")
def keeps_one(settings: Settings) -> Iterator[str]:
    """The name of such a provider; `keeps-many` is one that keeps any number of consents."""
    files = {
        name: ONE_CONSENT.replace("one-consent", name).replace("one_consent = true", f"one_consent = {rule}") + PROBE
        for name, rule in (("keeps-one", "true"), ("keeps-many", "false"))
    }
    with provider_files(settings.home, files):
        yield "keeps-one"


@pytest.fixture
async def here(app: App, consented: MakeDesk, keeps_one: str, revoker: Revoker) -> Desk:
    return await consented(keeps_one)


async def new_consent(desk: Desk, token: str, *, newest: bool = True) -> int:
    if newest:
        desk.service.newest = token  # type: ignore[attr-defined]
    found = await desk.app.integrations.supersede(desk.local, desk.integration.id, consent(desk.service, token))
    return found.version


async def present(desk: Desk) -> tuple[str, str, str]:
    """Token, status and reason."""
    credential = await desk.app.integrations.present(desk.local, desk.integration.id)
    now = await desk.app.integrations.get(desk.local, desk.integration.id)
    return credential.token.reveal_text(), now.status, now.status_reason


async def test_a_new_consent_that_could_not_be_tried_is_kept_and_said(here: Desk, service: Keeper) -> None:
    service.status = 503
    assert await new_consent(here, "second-token") == 2
    token, status, reason = await present(here)
    assert (token, status) == ("second-token", "needs attention")
    assert "could not be tried" in reason
    service.status = 200
    assert (await here.app.integrations.check(here.local, here.integration.id)).status == "connected"


async def test_elsewhere_one_that_could_not_be_tried_is_not_kept(
    here: Desk, consented: MakeDesk, service: Keeper
) -> None:
    here = await consented("keeps-many")
    service.status = 503
    with pytest.raises(ProbeFailed):
        await new_consent(here, "second-token")
    assert (await present(here))[:2] == ("first-token", "connected")


async def test_a_new_consent_that_is_refused_leaves_the_old_one_with_the_reason(here: Desk, service: Keeper) -> None:
    service.status = 403
    with pytest.raises(ProbeFailed):
        await new_consent(here, "second-token")
    token, status, reason = await present(here)
    assert (token, status) == ("first-token", "needs attention")
    assert "killed by a new consent" in reason


@pytest.mark.parametrize("newest", ["second-token", "third-token"])
async def test_of_two_consents_at_once_the_one_that_lives_becomes_current(
    here: Desk, service: Keeper, newest: str
) -> None:
    # Both were accepted when they were tried; the first waits for its answer until the second is current.
    service.newest = "second-token"
    service.held["second-token"] = asyncio.Event()
    first = asyncio.create_task(new_consent(here, "second-token"))
    await service.waits.wait()
    assert await new_consent(here, "third-token") == 2
    service.newest = newest
    service.held["second-token"].set()
    if newest == "second-token":
        assert await first == 3
    else:
        with pytest.raises(ProbeFailed):
            await first
    assert (await present(here))[:2] == (newest, "connected")


async def test_the_consent_of_another_account_kills_nothing(
    app: App, here: Desk, service: Keeper, revoker: Revoker
) -> None:
    _, token = await here.open()
    service.login = "bob"
    await new_consent(here, "second-token")
    assert await here.versions() == {2: ("current", 0), 1: ("draining", 1)}
    assert (await app.integrations.get(here.local, here.integration.id)).account == "bob"
    assert await events(here, 1, "credential.not_revoked") == 0
    await use(app, token, here.integration.id)


async def test_a_killed_consent_is_deleted_and_it_is_said_that_nobody_revoked_it(here: Desk, revoker: Revoker) -> None:
    await new_consent(here, "second-token")
    assert (await here.secrets(), revoker.asked) == ({"2"}, [])
    assert await events(here, 1, "credential.not_revoked") == 1


async def events(desk: Desk, version: int, action: str) -> int:
    company: UUID = desk.tenant.company.id
    return len(await recorded(desk.app, company, action, version=version))
