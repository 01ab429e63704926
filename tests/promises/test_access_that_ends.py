"""
Access that ends: with a sign-in that is set up anew, with a person who is disabled, with a member who is removed.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pyotp
import pytest

from company_agents.app import App
from company_agents.errors import Conflict, NotFound, Refused, Unauthenticated, Unavailable
from company_agents.identity.operators import Operator
from company_agents.identity.passwords import hash_password, new_totp_secret
from company_agents.identity.permissions import Kind, Role
from company_agents.identity.principal import Principal, Via
from company_agents.sensitive import Sensitive
from tests.conftest import LOCAL
from tests.dashboard.people import PASSWORD, Person, client, join, member, owner, text_of
from tests.promises.evidence import Past, no_right_to_insert, recorded, sql

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


async def test_of_two_links_for_one_person_that_are_used_at_once_one_is_good(
    app: App, monkeypatch: pytest.MonkeyPatch
) -> None:
    person = await owner(app)
    both = asyncio.Barrier(2)

    async def together(password: str) -> str:
        # Neither is in its transaction before the other is about to be.
        hashed = await hash_password(password)
        await both.wait()
        return hashed

    monkeypatch.setattr("company_agents.identity.operators.hash_password", together)
    for count in range(1, 6):
        links = [await app.operators.link(LOCAL, person.operator.id) for _ in range(2)]
        found = await asyncio.gather(*(reset(app, link) for link in links), return_exceptions=True)
        assert sorted(type(one).__name__ for one in found) == ["NotFound", "Operator"]
        assert len(await recorded(app, None, "operator.reset", actor=f"operator:{person.operator.id}")) == count


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
    with pytest.raises(Unauthenticated):
        await app.sessions.sign_in(person.operator.name, PASSWORD, later(person), address="10.0.0.9", browser="x")
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


# — a person who is disabled —


async def test_a_disabled_person_is_refused_at_once_and_everywhere(app: App) -> None:
    person, other = await owner(app), await owner(app)
    token = await a_token(app, person)

    found = await app.operators.disable(LOCAL, person.operator.id)

    assert found.disabled_at is not None
    assert await app.sessions.current(person.session.reveal_text()) is None
    with pytest.raises(Unauthenticated):
        await app.identity.operator(token.reveal_text())
    with pytest.raises(Unauthenticated):
        await app.sessions.sign_in(person.operator.name, PASSWORD, later(person), address="10.0.0.9", browser="x")
    async with person.client() as browser:
        assert (await browser.get("/account")).headers["location"].startswith("/sign-in")
    assert await app.sessions.current(other.session.reveal_text()) is not None
    [event] = await recorded(app, None, "operator.disabled", operator=person.operator.id)
    assert (event["actor"], event["sessions_ended"]) == ("local:tester", 1)
    # Once more is no other event.
    assert await app.operators.disable(LOCAL, person.operator.id) == found
    assert len(await recorded(app, None, "operator.disabled", operator=person.operator.id)) == 1


async def test_nobody_gets_in_by_a_link_that_there_was_when_somebody_was_disabled(app: App) -> None:
    person = await owner(app)
    for_them, for_another = [await app.operators.link(LOCAL, one) for one in (person.operator.id, None)]
    await app.operators.disable(LOCAL, person.operator.id)
    for link in (for_them, for_another):
        with pytest.raises(NotFound, match="used or has expired"):
            await join(app, link)
    with pytest.raises(Conflict, match="disabled"):
        await app.operators.link(LOCAL, person.operator.id)
    with pytest.raises(Conflict, match="disabled"):
        await a_token(app, person)


async def test_a_link_that_is_good_lets_nobody_in_who_is_disabled(app: App, superuser: Past) -> None:
    person = await owner(app)
    link = await app.operators.link(LOCAL, person.operator.id)
    # As of one that is made while they are being disabled.
    await sql(superuser, "UPDATE operators SET disabled_at = now() WHERE id = %(o)s", o=person.operator.id)
    with pytest.raises(NotFound):
        await reset(app, link)
    assert (await app.operators.get(person.operator.id)).disabled_at is not None
    with pytest.raises(Unauthenticated):
        await app.sessions.open(person.operator.id, address="10.0.0.9", browser="x")


async def test_who_is_enabled_again_has_their_password_and_tokens_and_no_session(app: App) -> None:
    person = await owner(app)
    token = await a_token(app, person)
    await app.operators.disable(LOCAL, person.operator.id)
    for _ in range(2):
        assert (await app.operators.enable(LOCAL, person.operator.id)).disabled_at is None
    assert len(await recorded(app, None, "operator.enabled", operator=person.operator.id)) == 1
    assert (await app.identity.operator(token.reveal_text())).id == person.operator.id
    assert await app.sessions.current(person.session.reveal_text()) is None
    await app.sessions.sign_in(person.operator.name, PASSWORD, later(person), address="10.0.0.9", browser="x")


def later(person: Person) -> str:
    """A code that joining did not take."""
    return pyotp.TOTP(person.totp.reveal_text()).at(datetime.now(UTC) + timedelta(seconds=30))


@contextlib.asynccontextmanager
async def no_other_owners(superuser: Past, *kept: Person) -> AsyncIterator[None]:
    """For a while the instance has these owners and no others."""
    where = "instance_owner AND disabled_at IS NULL AND NOT id = ANY (%(kept)s)"
    others = await sql(
        superuser,
        f"UPDATE operators SET disabled_at = now() WHERE {where} RETURNING id",
        kept=[person.operator.id for person in kept],
    )
    try:
        yield
    finally:
        ids = [row["id"] for row in others]
        await sql(superuser, "UPDATE operators SET disabled_at = NULL WHERE id = ANY (%(ids)s)", ids=ids)


async def test_the_last_owner_of_the_instance_cannot_be_disabled(app: App, superuser: Past) -> None:
    person, other = await owner(app), await owner(app)
    async with no_other_owners(superuser, person, other):
        # Both at once, each by the other: one of them stays.
        found = await asyncio.gather(
            *(app.operators.disable(LOCAL, one.operator.id) for one in (person, other)), return_exceptions=True
        )
        assert sorted(type(one).__name__ for one in found) == ["Conflict", "Operator"]
        [refusal] = [one for one in found if isinstance(one, Conflict)]
        assert (refusal.sentence, refusal.exit_status) == ("the last owner of the instance cannot be disabled", 4)


async def test_only_who_may_manage_people_disables_and_enables_them(app: App, tenant: Any) -> None:
    here = await tenant()
    person = await member(app, here.local, Role.OWNER)
    found = await app.sessions.current(person.session.reveal_text())
    assert found is not None
    for act in (app.operators.disable, app.operators.enable):
        with pytest.raises(Refused, match="instance:operator:manage"):
            await act(found[0], person.operator.id)


# — a member who is removed —


async def test_a_removed_member_does_not_find_the_company_any_more(app: App, tenant: Any) -> None:
    here, there = await tenant(), await tenant()
    boss, person = await member(app, here.local, Role.OWNER), await member(app, here.local, Role.OWNER)
    token = await app.identity.operator((await a_token(app, person, Role.OWNER)).reveal_text())
    invitation = await app.operators.invite(here.local, Role.OWNER)
    elsewhere = await app.operators.invite(there.local, Role.VIEWER)
    home = f"/companies/{here.company.id}"
    async with boss.client() as browser, person.client() as theirs:
        assert (await theirs.get(home)).status_code == 200
        await app.identity.in_company(token, here.company.id)
        listed = await browser.get(f"{home}/people")
        assert person.operator.name in text_of(listed.text)
        remove = f"{home}/people/{person.operator.id}/remove"
        assert f'href="{remove}"' in listed.text
        asked = text_of((await browser.get(remove)).text)
        assert "An agent’s token that they have seen stays good until you rotate it." in asked
        done = await browser.post(remove)
        assert done.headers["location"] == f"{home}/people?done=removed"
        left = text_of((await browser.get(f"{home}/people?done=removed")).text)
        assert "Their role in the company is gone from now on." in left
        assert person.operator.name not in left
        assert (await browser.post(remove)).status_code == 404
        assert (await theirs.get(home)).status_code == 404
    with pytest.raises(NotFound):
        await app.identity.in_company(token, here.company.id)
    with pytest.raises(NotFound):
        await app.operators.invitation(invitation.reveal_text())
    assert (await app.operators.invitation(elsewhere.reveal_text())).company_id == there.company.id
    [event] = await recorded(app, here.company.id, "member.removed", operator=person.operator.id)
    assert event["actor"] == f"operator:{boss.operator.id}"
    assert (event["role"], event["name"], event["links_void"]) == ("owner", person.operator.name, 1)


async def test_whoever_removes_themselves_is_shown_a_page_that_is_theirs(app: App, tenant: Any) -> None:
    here = await tenant()
    boss = await member(app, here.local, Role.OWNER)
    async with boss.client() as browser:
        done = await browser.post(f"/companies/{here.company.id}/people/{boss.operator.id}/remove")
        assert done.headers["location"] == "/companies?done=removed"
        assert (await browser.get(done.headers["location"])).status_code == 200


async def test_the_last_owner_of_a_company_stays_while_nobody_owns_the_instance(
    app: App, tenant: Any, superuser: Past
) -> None:
    here, somebody = await tenant(), await owner(app)
    first, second = [await member(app, here.local, Role.OWNER) for _ in range(2)]
    viewer = await member(app, here.local, Role.VIEWER)
    async with no_other_owners(superuser):
        found = await asyncio.gather(
            *(app.members.remove(here.local, one.operator.id) for one in (first, second)), return_exceptions=True
        )
        assert sorted(type(one).__name__ for one in found) == ["Conflict", "Member"]
        await app.members.remove(here.local, viewer.operator.id)
    assert somebody.operator.instance_owner
    [last] = await app.members.list(here.local)
    await app.members.remove(here.local, last.id)
    assert await app.members.list(here.local) == []


@pytest.mark.parametrize("role", [Role.VIEWER, Role.OPERATOR])
async def test_only_an_owner_sees_and_removes_members(app: App, tenant: Any, role: Role) -> None:
    here = await tenant()
    person, victim = await member(app, here.local, role), await member(app, here.local, Role.VIEWER)
    principal = Principal(Kind.OPERATOR, "x", Via.SESSION, person.operator.id, None, Role.VIEWER, Role.OWNER)
    caller = await app.identity.in_company(principal, here.company.id)
    for refused in (app.members.list(caller), app.members.remove(caller, victim.operator.id)):
        with pytest.raises(Refused, match="company:member:manage"):
            await refused


async def test_a_member_of_another_company_is_not_seen_and_not_removed(app: App, tenant: Any) -> None:
    here, there = await tenant(), await tenant()
    person = await member(app, there.local, Role.VIEWER)
    assert await app.members.list(here.local) == []
    with pytest.raises(NotFound):
        await app.members.remove(here.local, person.operator.id)
    assert [one.id for one in await app.members.list(there.local)] == [person.operator.id]


# — on record first —


async def test_access_that_cannot_be_ended_on_record_does_not_end(app: App, tenant: Any, superuser: Past) -> None:
    here, person = await tenant(), await owner(app)
    one = await member(app, here.local, Role.VIEWER)
    await a_token(app, person)
    link = await app.operators.link(LOCAL, person.operator.id)
    tables = ("operators", "memberships", "sessions", "operator_tokens", "sign_in_links", "secrets")

    async def everything() -> list[list[dict[str, Any]]]:
        await app.store.flush_used()
        return [await sql(superuser, f"SELECT t::text AS row FROM {table} t ORDER BY 1") for table in tables]

    before = await everything()
    async with no_right_to_insert(superuser):
        for change in (
            app.operators.disable(LOCAL, person.operator.id),
            app.members.remove(here.local, one.operator.id),
            reset(app, link),
        ):
            with pytest.raises(Unavailable):
                await change
    assert await everything() == before
