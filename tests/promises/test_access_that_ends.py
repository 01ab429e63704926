"""
Access that ends: with a sign-in that is set up anew, with a person who is disabled, with a member who is removed.
"""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import pyotp
import pytest

from company_agents.app import App
from company_agents.errors import NotFound, Unauthenticated
from company_agents.identity.operators import Operator
from company_agents.identity.passwords import new_totp_secret
from company_agents.identity.permissions import Role
from company_agents.sensitive import Sensitive
from tests.conftest import LOCAL
from tests.dashboard.people import PASSWORD, Person, client, owner, text_of
from tests.promises.evidence import Past, recorded, sql

NEW_PASSWORD = "five other words for tonight"


async def a_token(app: App, person: Person, role: Role = Role.VIEWER) -> Sensitive:
    """A token for a person's programs."""
    _, token = await app.operators.create_token(LOCAL, "deploy", 30, role, person.operator.id)
    return token


async def reset(app: App, link: Sensitive) -> Operator:
    """Set a sign-in up anew, with a new password."""
    totp = new_totp_secret()
    code = pyotp.TOTP(totp.reveal_text()).now()
    return await app.operators.join(link.reveal_text(), "", NEW_PASSWORD, totp, code)


# — a sign-in that is set up anew —


async def test_a_reset_ends_sessions_tokens_and_other_links_and_is_recorded_with_them(
    app: App, superuser: Past
) -> None:
    person, other = await owner(app), await owner(app)
    token, others = await a_token(app, person), await a_token(app, other)
    stale, link = [await app.operators.link(LOCAL, person.operator.id) for _ in range(2)]
    for_other = await app.operators.link(LOCAL, other.operator.id)
    assert (await app.identity.operator(token.reveal_text())).id == person.operator.id

    await reset(app, link)

    assert await app.sessions.current(person.session.reveal_text()) is None
    with pytest.raises(Unauthenticated):
        await app.identity.operator(token.reveal_text())
    with pytest.raises(NotFound, match="used or has expired"):
        await reset(app, stale)
    made = await app.operators.tokens(LOCAL)
    [revoked] = [one for one in made if one.operator_id == person.operator.id]
    assert revoked.revoked_at is not None
    assert await sql(superuser, "SELECT FROM secrets WHERE name = %(n)s", n=f"operator_token/{revoked.id}") == []
    # Nobody else loses anything.
    assert (await app.identity.operator(others.reveal_text())).id == other.operator.id
    assert await app.sessions.current(other.session.reveal_text()) is not None
    assert (await app.operators.invitation(for_other.reveal_text())).operator_id == other.operator.id

    [event] = await recorded(app, None, "operator.reset", actor=f"operator:{person.operator.id}")
    assert (event["sessions_ended"], event["links_void"], event["tokens_revoked"]) == (1, 1, [str(revoked.id)])


async def test_of_two_links_for_one_person_that_are_used_at_once_one_is_good(app: App) -> None:
    person = await owner(app)
    links = [await app.operators.link(LOCAL, person.operator.id) for _ in range(2)]
    found = await asyncio.gather(*(reset(app, link) for link in links), return_exceptions=True)
    assert sorted(type(one).__name__ for one in found) == ["NotFound", "Operator"]
    assert len(await recorded(app, None, "operator.reset", actor=f"operator:{person.operator.id}")) == 1


async def test_whoever_was_signing_in_with_the_old_password_during_a_reset_gets_no_session(
    app: App, monkeypatch: pytest.MonkeyPatch
) -> None:
    person = await owner(app)
    link = await app.operators.link(LOCAL, person.operator.id)
    open_session = app.sessions.open

    async def after_a_reset(*given: Any, **named: Any) -> Sensitive:
        await reset(app, link)
        return await open_session(*given, **named)

    # Between a password that was right and the session that it opens.
    monkeypatch.setattr(app.sessions, "open", after_a_reset)
    # A step later than the one that joining took.
    code = pyotp.TOTP(person.totp.reveal_text()).at(datetime.now(UTC) + timedelta(seconds=30))
    with pytest.raises(Unauthenticated):
        await app.sessions.sign_in(person.operator.name, PASSWORD, code, address="10.0.0.9", browser="x")
    assert await app.sessions.list(await _principal(app, person)) == []


async def _principal(app: App, person: Person) -> Any:
    token = await a_token(app, person)
    return await app.identity.operator(token.reveal_text())


async def test_the_page_of_a_reset_says_what_it_ends_and_that_of_an_invitation_does_not(app: App) -> None:
    person = await owner(app)
    said = []
    for link in (await app.operators.link(LOCAL, person.operator.id), await app.operators.link(LOCAL)):
        async with client(app) as browser:
            said.append(text_of((await browser.get(f"/join?token={link.reveal_text()}")).text))
    ends = "your sessions elsewhere end, the tokens of your programs are revoked, and other links for you are void"
    assert [ends in page for page in said] == [True, False]
    async with person.client() as browser:
        asked = text_of((await browser.get(f"/people/{person.operator.id}/link")).text)
    assert "the tokens of their programs are revoked, and other links for them are void" in asked
