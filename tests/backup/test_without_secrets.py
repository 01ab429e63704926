"""
Where the key is lost for good: everything comes back but what was sealed, and says what to do.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyotp
import pytest

from company_agents.app import App, init_key, open_app
from company_agents.errors import CompanyAgentsError, Unauthenticated
from company_agents.identity.permissions import Role
from company_agents.integrations.credential import CredentialLost, known_destination
from company_agents.integrations.wanted import Wanted
from company_agents.sensitive import Sensitive
from tests.backup.instances import Office, call, empty_database, faults_of, refusal, restored
from tests.cli.postgres import OwnPostgres
from tests.conftest import LOCAL
from tests.dashboard.people import BROWSER, PASSWORD, join
from tests.keysources.kinds import KINDS
from tests.outgoing.servers import Server
from tests.refresh.world import OFTEN, write_services
from tests.rotation.place import Place, rotate

NEW = "a-credential-that-somebody-has-pasted-again"


@dataclass
class Without:
    """An instance that came back without its secrets, open."""

    office: Office
    place: Place
    app: App


@pytest.fixture(scope="module")
async def without(
    office: Office, files: dict[str, Path], postgres: OwnPostgres, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Without]:
    home = tmp_path_factory.mktemp("without") / "home"
    write_services(home)
    home.chmod(0o700)
    place = office.at(Place(postgres, empty_database(postgres), home, office.place.company, office.place.agent, {}))
    try:
        # No key anywhere.
        done = await restored(place, files["plain"], without_secrets=True, unsigned=True)
        assert (done.keys_added, done.tokens) == ([], [])
        async with place.open() as app:
            yield Without(office, place, app)
    finally:
        place.drop()


def said(answer: Any) -> dict[str, Any]:
    """The error of an answer of ours."""
    found: dict[str, Any] = json.loads(answer.body)["error"]
    return found


# In this order: what comes later gives new credentials.


async def test_everything_that_was_not_sealed_is_there(without: Without) -> None:
    app, place, origin = without.app, without.place, without.office.place
    local = await without.office.local(app)
    assert [agent.name for agent in (await app.agents.list(local)).items] == ["ann"]
    assert {person.name for person in await app.operators.list(LOCAL)} == {"olga", "max"}
    for table in ("tasks", "comments", "memory", "agents", "integrations", "runs", "memberships", "schedules"):
        count = f"SELECT count(*) AS n FROM {table}"
        assert place.sql(count) == origin.sql(count), table
        assert place.sql(count) != [{"n": 0}], table


async def test_a_first_key_was_made_and_nothing_is_sealed_with_another(
    without: Without, files: dict[str, Path]
) -> None:
    place = without.place
    active = place.only("active")
    assert place.states() == {active: "active"}
    assert place.kept() == {active}
    assert active != without.office.place.only("active")
    assert set(place.rows_by_key()) == {active}
    assert (await without.app.keys.verify()).bad == []
    names = {row["name"].split("/")[0] for row in place.sql("SELECT name FROM secrets")}
    assert names <= {"audit_key", "audit_head_key"}


async def test_a_call_with_a_token_of_before_is_refused_and_says_why(without: Without, provider: Server) -> None:
    seen = len(provider.requests)
    answer = await call(without.app, "generic", without.office.agent_token)
    assert (answer.status, said(answer)["code"]) == (401, "unauthenticated")
    for token in (without.office.owner.token, without.office.member.token):
        with pytest.raises(Unauthenticated):
            await without.app.identity.operator(token)
    assert len(provider.requests) == seen


async def test_every_integration_says_that_it_is_to_be_reconnected_also_after_a_look(without: Without) -> None:
    app, local = without.app, await without.office.local(without.app)

    async def looks() -> list[tuple[str, str, str]]:
        return [
            (each.status, each.status_reason, each.status_hint) for each in (await app.integrations.list(local)).items
        ]

    wanted = ("needs attention", "the instance was restored without its secrets", "reconnect it")
    assert await looks() == [wanted] * 2
    assert await app.upkeep.refresh_due() == 0
    await app.upkeep.look_after()
    for probing in list(app.upkeep._probing):
        await probing
    assert await looks() == [wanted] * 2
    for integration in (without.office.integration, without.office.consent):
        with pytest.raises(CompanyAgentsError):
            await app.integrations.check(local, integration)
    assert {look[0] for look in await looks()} == {"needs attention"}


async def test_an_agent_with_a_new_token_is_refused_until_the_integration_has_a_credential_again(
    without: Without, provider: Server
) -> None:
    app, office = without.app, without.office
    local = await office.local(app)
    _, token = await app.agents.rotate_token(local, office.place.agent)
    assert (await app.identity.agent(token.reveal_text())).agent_id() == office.place.agent
    seen = len(provider.requests)
    answer = await call(app, "generic", token.reveal_text())
    assert (answer.status, said(answer)["code"]) == (409, "credential_lost")
    assert "reconnect" in answer.body.decode()
    assert len(provider.requests) == seen

    # Where it may go was sealed with it. What the plain row says of that, whoever had the file may have written.
    for give in (
        lambda: app.integrations.rotate(local, office.integration, Sensitive(NEW)),
        lambda: app.flows.begin(local, Wanted(OFTEN, integration_id=office.consent), session_id=uuid.uuid4()),
    ):
        error = await refusal(give())
        assert error.reason in ("credential_lost", "client_missing", "not_found"), error
    error = await refusal(app.integrations.rotate(local, office.integration, Sensitive(NEW)))
    assert error.reason == "credential_lost"
    assert "connect it again" in error.hint
    assert len(provider.requests) == seen
    await app.revocation.delete(local, office.integration)
    await app.revocation.delete(local, office.consent)
    await connect_again(app, office, provider)
    assert (await call(app, "generic", token.reveal_text())).status == 200
    assert provider.requests[-1].headers["authorization"] == f"Bearer {NEW}"


async def connect_again(app: App, office: Office, provider: Server) -> None:
    """What an operator does as the hint says."""
    await app.integrations.connect(
        await office.local(app),
        "generic",
        Sensitive(NEW),
        base_url=provider.url,
        allow_private_network=True,
        allow=[office.place.agent],
    )


async def test_a_new_credential_goes_where_the_providers_file_says_and_nowhere_that_only_the_database_says(
    without: Without,
) -> None:
    slack = without.app.providers.get("slack")
    assert known_destination(slack, "https://slack.com").origin == "https://slack.com"
    for elsewhere in ("https://slack.com.evil.example", "http://slack.com", "https://slack.com:8443", ""):
        with pytest.raises(CredentialLost):
            known_destination(slack, elsewhere)
    with pytest.raises(CredentialLost):
        known_destination(without.app.providers.get("generic"), "https://slack.com")


async def test_people_get_in_again_by_a_link_that_the_command_line_makes(without: Without) -> None:
    app, owner = without.app, without.office.owner
    code = pyotp.TOTP(owner.totp.reveal_text()).now()
    with pytest.raises(CompanyAgentsError) as caught:
        await app.sessions.sign_in(owner.name, PASSWORD, code, address="127.0.0.1", browser=BROWSER["User-Agent"])
    assert caught.value.exit_status != 1, caught.value
    person = await join(app, await app.operators.link(LOCAL, owner.id))
    assert person.operator.id == owner.id
    assert await app.sessions.current(person.session.reveal_text()) is not None
    _, token = await app.operators.create_token(LOCAL, "new", 1, Role.OWNER, owner.id)
    assert (await app.identity.operator(token.reveal_text())).id == owner.id


async def test_the_record_goes_on_under_a_new_key_and_how_much_cannot_be_proved_is_said(without: Without) -> None:
    assert await faults_of(without.app) == []
    [said] = [e for e in await without.app.events.newest(None, limit=1000) if e["action"] == "instance.restored"]
    assert said["without_secrets"] is True
    proved = {one.chain: one for one in await without.app.events.verify_all()}
    own = proved[without.app.instance.id]
    assert (own.events >= 1, own.unproved) == (True, 0)
    assert all(proved[chain].unproved > 0 for chain in (without.office.id, without.office.place.company))
    # A key that is missing beyond those is none of them.
    number = without.place.sql("SELECT max(audit_key) AS n FROM audit_heads")[0]["n"]
    without.place.sql(
        "UPDATE audit_events SET audit_key = %(n)s WHERE chain = %(c)s AND seq = 1", n=number + 7, c=own.chain
    )
    [fault] = (await without.app.events.verify(None)).faults[:1]
    assert "audit key that does not exist" in fault.what
    without.place.sql(
        "UPDATE audit_events SET audit_key = %(n)s WHERE chain = %(c)s AND seq = 1", n=number, c=own.chain
    )


async def test_after_that_it_is_an_instance_like_any_other(without: Without, tmp_path: Path) -> None:
    app = without.app
    assert (await rotate(app)).action == "rotated"
    assert (await app.keys.verify()).bad == []
    made = await app.backups.export(tmp_path / "after", passphrase=None, who="tester")
    assert (await app.backups.verify_file(tmp_path / "after")).would_restore
    assert made.key_ids == [without.place.only("active")]


async def test_a_source_that_is_no_file_gets_its_first_key_by_key_init(
    office: Office, files: dict[str, Path], new: Place, tmp_path: Path
) -> None:
    async with KINDS["vault"](tmp_path) as kind:
        own = new.settings()
        settings = kind.settings().model_copy(
            update={"home": own.home, "database_url": own.database_url, "database_pool": 3}
        )
        await restored(new, files["plain"], settings=settings, without_secrets=True, unsigned=True)

        async def start() -> None:
            async with open_app(settings):
                pass

        error = await refusal(start())
        assert (error.exit_status, error.reason) == (78, "key_missing")
        assert "key init" in error.hint
        assert (await init_key(settings, adopt=False, take_over=False)).created
        async with open_app(settings) as app:
            assert (await app.keys.verify()).bad == []
            _, token = await app.agents.rotate_token(await office.local(app), office.place.agent)
            assert (await app.identity.agent(token.reveal_text())).agent_id() == office.place.agent


async def test_in_the_place_of_what_is_there_it_keeps_what_was_taken_away(
    office: Office, files: dict[str, Path], copy: Place
) -> None:
    async with copy.open() as app:
        local = await office.local(app)
        await app.agents.pause(local, office.place.agent)
        await app.operators.disable(LOCAL, office.member.id)
    for name in ("master.key", *(f"keys/{key}.key" for key in copy.kept())):
        (copy.folder / name).unlink()
    done = await restored(copy, files["plain"], replace=True, without_secrets=True, unsigned=True)
    assert done.kept_today
    async with copy.open() as app:
        local = await office.local(app)
        assert [agent.state for agent in (await app.agents.list(local)).items] == ["paused"]
        assert (await app.operators.get(office.member.id)).disabled_at is not None
        assert (await app.keys.verify()).bad == []
        assert all("does not exist" in fault for fault in await faults_of(app))
