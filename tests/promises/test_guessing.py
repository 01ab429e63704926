"""
Anybody may try to sign in: guessing slows down whoever guesses, leaves nothing behind that grows, and does not close
an account to its owner.
"""

from __future__ import annotations

import asyncio
import uuid
from typing import Any

import pytest

from company_agents.app import App
from company_agents.errors import TooMany, Unauthenticated
from company_agents.identity import passwords
from company_agents.identity.sessions import FREE_FAILURES, LONGEST_WAIT, LONGEST_WAIT_FOR_ALL
from tests.dashboard.people import PASSWORD, Person, owner
from tests.promises.evidence import Past

# Addresses of the internet, of nobody's: 1.1.1.0/24 and 2606:4700::/32 are a resolver's.
FAR, ELSEWHERE = "1.1.1.1", "1.1.1.2"


@pytest.fixture(scope="module")
async def ann(app: App) -> Person:
    return await owner(app)


async def fail(app: App, name: str, address: str) -> None:
    with pytest.raises(Unauthenticated):
        await app.sessions.sign_in(name, "not the right password", "000000", address=address, browser="")


async def wait_for(app: App, name: str, address: str) -> int:
    with pytest.raises(TooMany) as caught:
        await app.sessions.sign_in(name, PASSWORD, "000000", address=address, browser="")
    return caught.value.retry_after


async def guess(app: App, superuser: Past, name: str, address: str) -> None:
    """So often that the wait does not grow any more; each time as soon as it is over."""
    for _ in range(FREE_FAILURES + 11):
        await superuser.execute("UPDATE sign_in_failures SET blocked_until = now() WHERE who LIKE %s", [f"%{name}%"])
        await fail(app, name, address)


async def counted(superuser: Past, name: str) -> set[str]:
    found = await superuser.execute("SELECT who FROM sign_in_failures WHERE who LIKE %s", [f"%{name}%"])
    return {row["who"] for row in await found.fetchall()}


async def refused(app: App) -> list[dict[str, Any]]:
    events = await app.events.newest(None, limit=1000)
    return [event for event in events if event["action"] == "operator.sign_in_refused"]


@pytest.mark.parametrize("address", ["10.1.2.3", "127.0.0.1", "fd00::5", "100.64.0.9", "unknown"])
async def test_behind_a_proxy_nobody_closes_an_account_for_longer_than_from_everywhere(
    app: App, superuser: Past, ann: Person, address: str
) -> None:
    await guess(app, superuser, ann.operator.name, address)
    assert await wait_for(app, ann.operator.name, address) <= LONGEST_WAIT_FOR_ALL + 1


@pytest.mark.parametrize(("address", "neighbour"), [(FAR, FAR), ("2606:4700:0:1::a", "2606:4700:0:1:ffff::b")])
async def test_who_guesses_from_an_address_of_the_internet_waits_long_and_others_do_not(
    app: App, superuser: Past, address: str, neighbour: str
) -> None:
    name = f"bob {uuid.uuid4().hex[:8]}"
    await guess(app, superuser, name, address)
    assert LONGEST_WAIT_FOR_ALL < await wait_for(app, name, neighbour) <= LONGEST_WAIT + 1
    assert await wait_for(app, name, ELSEWHERE) <= LONGEST_WAIT_FOR_ALL + 1


async def test_names_that_nobody_has_are_not_put_on_record_and_are_one_event(app: App) -> None:
    address = f"198.18.0.{uuid.uuid4().int % 250}"
    names = [f"what was meant for the field below {uuid.uuid4().hex}" for _ in range(4)]
    for name in names:
        await fail(app, name, address)
    await app.audit.append(None, "test.after")
    here = [event for event in await refused(app) if event["address"] == address]
    assert len(here) == 1
    assert "name" not in here[0]


async def test_a_name_that_somebody_has_is_put_on_record(app: App) -> None:
    somebody = await owner(app)
    await fail(app, somebody.operator.name, FAR)
    await app.audit.append(None, "test.after")
    assert somebody.operator.name in {event.get("name") for event in await refused(app)}


async def test_failures_that_count_no_more_are_deleted(
    app: App, superuser: Past, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, new = (f"eve {uuid.uuid4().hex[:8]}" for _ in range(2))
    await fail(app, old, FAR)
    await superuser.execute(
        "UPDATE sign_in_failures SET updated_at = now() - interval '61 minutes' WHERE who LIKE %s", [f"%{old}%"]
    )
    monkeypatch.setattr(app.sessions, "_sweep_at", 0.0)
    await fail(app, new, FAR)
    assert await counted(superuser, old) == set()
    assert await counted(superuser, new) == {f"account:{new}", f"account:{new}|{FAR}"}


async def test_who_is_turned_away_because_of_a_crowd_has_not_failed(
    app: App, superuser: Past, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = f"mallory {uuid.uuid4().hex[:8]}"
    monkeypatch.setattr(passwords, "_waiting", passwords.MOST_WAITING)
    assert await wait_for(app, name, FAR) == 5
    assert await counted(superuser, name) == set()


async def test_a_crowd_is_turned_away_and_the_next_is_let_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(passwords, "MOST_WAITING", 3)
    done = await asyncio.gather(*(passwords.password_matches(None, PASSWORD) for _ in range(5)), return_exceptions=True)
    assert [type(each) for each in done] == [bool] * 3 + [TooMany] * 2
    assert await passwords.password_matches(None, PASSWORD) is False
