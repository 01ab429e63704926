"""
A restore in the place of the instance that is there: what was content is that of the backup, and nothing that was taken
away since comes back.
"""

from __future__ import annotations

import shutil
import stat
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

import pyotp
import pytest
from standardwebhooks.webhooks import Webhook as Verifier

from company_agents.app import App
from company_agents.backup.backups import Made
from company_agents.backup.restore import Restored
from company_agents.errors import CompanyAgentsError, NotFound, Unauthenticated
from company_agents.identity.permissions import Role
from company_agents.integrations.integrations import Integration
from company_agents.integrations.rules import Rules
from company_agents.sensitive import Sensitive
from tests.backup.instances import (
    PASSPHRASE,
    Office,
    call,
    comes_back,
    does_its_work,
    exported,
    faults_of,
    is_back,
    refusal,
    restored,
)
from tests.conftest import LOCAL
from tests.dashboard.people import BROWSER, PASSWORD, Person, join
from tests.outgoing.servers import Recorded, Server
from tests.rotation.place import Place, nothing_is_lost, rotate, whole

Fresh = Callable[[], Place]

OLD, NEW = "the-credential-of-then-which-was-replaced", "the-credential-of-today-in-its-place"
PEOPLE = ("disabled", "reset", "revoked", "removed", "lowered")


@dataclass
class Then:
    """What there was when the backup was taken."""

    tokens: dict[str, str]
    agents: dict[str, UUID]
    integrations: dict[str, Integration]
    people: dict[str, Person]
    programs: dict[str, str]
    program_ids: dict[str, UUID]
    webhook: UUID
    task: UUID
    made: Made


@dataclass
class Now:
    """What there was before the restore."""

    instance: UUID
    dora: str
    eve: str
    program: str
    reset: Person
    states: dict[str, str]
    fence: int
    backups: set[UUID]
    events: int
    instance_events: int
    later: Made
    webhook_secret: str
    told: set[str]


@dataclass
class Replaced:
    """An instance that was restored in its own place."""

    office: Office
    place: Place
    app: App
    then: Then
    now: Now
    done: Restored

    async def refused(self, token: str, name: str = "generic", path: str = "/x") -> int:
        """The status of a call that is not to come through."""
        return (await call(self.app, name, token, path)).status


async def before(app: App, office: Office, provider: Server, hooks: Server, file: Path) -> Then:
    local = await office.local(app)
    agents, tokens = {}, {}
    for name in ("bob", "cid", "dora"):
        agent, token = await app.agents.create(local, name)
        agents[name], tokens[name] = agent.id, token.reveal_text()
    integrations = {}
    for name in ("doomed", "rotating", "guarded"):
        integrations[name] = await app.integrations.connect(
            local,
            "generic",
            Sensitive(OLD),
            name=name,
            base_url=provider.url,
            allow_private_network=True,
            allow=[office.place.agent, *agents.values()],
        )
    open_to_all = await app.integrations.connect(
        local, "generic", Sensitive(OLD), name="open", base_url=provider.url, allow_private_network=True
    )
    integrations["open"] = await app.integrations.allow_all(local, open_to_all.id, True)
    people, programs, program_ids = {}, {}, {}
    for name in PEOPLE:
        people[name] = await join(app, await app.operators.invite(local, Role.OPERATOR), name)
        program, token = await app.operators.create_token(LOCAL, "it", 30, Role.OPERATOR, people[name].operator.id)
        programs[name], program_ids[name] = token.reveal_text(), program.id
    hook, _ = await app.outbox.webhooks.create(local, f"{hooks.url}/gone", ["key.rotated"], allow_private_network=True)
    await app.memory.write(await app.identity.agent(office.agent_token), "a note of then")
    task = await app.tasks.create(local, "the title of then")
    made = await exported(app, file)
    return Then(tokens, agents, integrations, people, programs, program_ids, hook.id, task.id, made)


async def tell(app: App, hooks: Server) -> list[Recorded]:
    """Send what webhooks wait for; what arrived."""
    seen = len(hooks.requests)
    await app.outbox.deliverer.look()
    await app.outbox.deliverer.idle()
    return hooks.requests[seen:]


async def meanwhile(app: App, office: Office, place: Place, then: Then, hooks: Server, folder: Path) -> Now:
    local = await office.local(app)
    for _ in range(2):
        await rotate(app)
    _, dora = await app.agents.rotate_token(local, then.agents["dora"])
    await app.agents.pause(local, then.agents["bob"])
    await app.agents.retire(local, then.agents["cid"])
    _, eve = await app.agents.create(local, "eve")
    await app.revocation.delete(local, then.integrations["doomed"].id)
    await app.integrations.rotate(local, then.integrations["rotating"].id, Sensitive(NEW))
    await app.integrations.disallow(local, then.integrations["guarded"].id, office.place.agent)
    await app.rulebook.set(local, then.integrations["guarded"].id, Rules.read(only=["GET /allowed"]))
    await app.rulebook.replace(
        local, then.integrations["rotating"].id, then.agents["dora"], Rules.read(only=["GET /only"])
    )
    await app.integrations.allow_all(local, then.integrations["open"].id, False)
    await app.operators.disable(LOCAL, then.people["disabled"].operator.id)
    reset = await join(app, await app.operators.link(LOCAL, then.people["reset"].operator.id))
    await app.operators.revoke_token(LOCAL, then.program_ids["revoked"])
    await app.members.remove(local, then.people["removed"].operator.id)
    place.sql("UPDATE memberships SET role = 'viewer' WHERE operator_id = %(o)s", o=then.people["lowered"].operator.id)
    _, program = await app.operators.create_token(LOCAL, "later", 30, Role.OPERATOR, then.people["lowered"].operator.id)
    await app.outbox.webhooks.delete(local, then.webhook)
    _, webhook_secret = await app.outbox.webhooks.rotate_secret(local, office.webhook)
    await app.clients.configure(local, "slack", client_id="18.18", secret=Sensitive("the-client-secret-of-today"))
    await app.memory.write(await app.identity.agent(office.agent_token), "a note of later")
    place.sql("UPDATE tasks SET title = 'the title of later' WHERE id = %(t)s", t=then.task)
    await app.tasks.create(local, "a task of later")
    later = await exported(app, folder / "later")
    await app.store.flush_used()
    return Now(
        instance=app.instance.id,
        dora=dora.reveal_text(),
        eve=eve.reveal_text(),
        program=program.reveal_text(),
        reset=reset,
        states=place.states(),
        fence=place.sql("SELECT number FROM key_fence")[0]["number"],
        backups={row.id for row in await app.backups.rows()},
        events=(await app.events.newest(local.scope.company_id))[0]["seq"],
        instance_events=(await app.events.newest(None))[0]["seq"],
        later=later,
        webhook_secret=webhook_secret.reveal_text(),
        told={request.headers["webhook-id"] for request in await tell(app, hooks)},
    )


@pytest.fixture(scope="module")
async def replaced(
    office: Office,
    files: dict[str, Path],
    provider: Server,
    hooks: Server,
    tmp_path_factory: pytest.TempPathFactory,
) -> AsyncIterator[Replaced]:
    folder = tmp_path_factory.mktemp("replaced")
    shutil.copytree(office.place.home, folder / "home")
    place = office.place.copied(folder / "home")
    try:
        async with place.open() as app:
            then = await before(app, office, provider, hooks, folder / "then")
            now = await meanwhile(app, office, place, then, hooks, folder)
        done = await restored(place, folder / "then", replace=True)
        async with place.open() as app:
            yield Replaced(office, place, app, then, now, done)
    finally:
        place.drop()


def notes_in(place: Place) -> set[str]:
    """What agents have noted."""
    return {row["content"] for row in place.sql("SELECT content FROM memory")}


async def test_content_is_that_of_the_backup(replaced: Replaced) -> None:
    app, local = replaced.app, await replaced.office.local(replaced.app)
    assert replaced.done.kept_today
    texts = notes_in(replaced.place)
    assert "a note of then" in texts
    assert "a note of later" not in texts
    titles = {task.title for task in (await app.tasks.list(local)).items}
    assert "the title of then" in titles
    assert not {"the title of later", "a task of later"} & titles
    assert {agent.name for agent in (await app.agents.list(local)).items} == {"ann", "bob", "cid", "dora"}


async def test_everything_opens_is_proved_and_the_agents_that_may_work_do(replaced: Replaced, provider: Server) -> None:
    await is_back(replaced.app, replaced.office, replaced.place, provider)


# — agents —


async def test_a_token_that_was_rotated_since_stays_dead_and_todays_works(replaced: Replaced) -> None:
    assert await replaced.refused(replaced.then.tokens["dora"]) == 401
    assert (await call(replaced.app, "rotating", replaced.now.dora, "/only")).status == 200
    assert await replaced.refused(replaced.now.eve) == 401


async def test_agents_that_were_paused_or_retired_since_stay_so(replaced: Replaced) -> None:
    local = await replaced.office.local(replaced.app)
    states = {agent.name: agent.state for agent in (await replaced.app.agents.list(local)).items}
    assert states == {"ann": "active", "bob": "paused", "cid": "retired", "dora": "active"}
    for name in ("bob", "cid"):
        with pytest.raises(CompanyAgentsError):
            await replaced.app.identity.agent(replaced.then.tokens[name])
        assert await replaced.refused(replaced.then.tokens[name], "rotating") in (401, 403)


# — people —


async def test_who_was_disabled_removed_or_reset_since_stays_so(replaced: Replaced) -> None:
    app, then = replaced.app, replaced.then

    async def signs_in(person: Person, password: str = PASSWORD) -> bool:
        code = pyotp.TOTP(person.totp.reveal_text()).now()
        replaced.place.sql("UPDATE operators SET totp_step = 0")
        replaced.place.sql("DELETE FROM sign_in_failures")
        try:
            await app.sessions.sign_in(
                person.operator.name, password, code, address="127.0.0.1", browser=BROWSER["User-Agent"]
            )
        except CompanyAgentsError:
            return False
        return True

    assert not await signs_in(then.people["disabled"])
    # Their second factor of then was on a device that somebody lost.
    assert not await signs_in(then.people["reset"])
    assert await signs_in(replaced.now.reset)
    assert await signs_in(then.people["removed"])
    roles = {member.name: member.role for member in await app.members.list(await replaced.office.local(app))}
    assert "removed" not in roles
    assert (roles["lowered"], roles["revoked"]) == (Role.VIEWER, Role.OPERATOR)


async def test_tokens_of_people_that_were_revoked_since_stay_dead(replaced: Replaced) -> None:
    app, then = replaced.app, replaced.then
    for name in ("disabled", "reset", "revoked"):
        with pytest.raises(Unauthenticated):
            await app.identity.operator(then.programs[name])
    shown = {token.id: token.revoked_at for token in await app.operators.tokens(LOCAL)}
    again = {token["id"] for token in replaced.done.tokens if token["kind"] == "operator"}
    for name, program in then.program_ids.items():
        is_dead = name in ("reset", "revoked")
        assert (shown[program] is not None) == is_dead
        assert (program in again) == (name in ("removed", "lowered"))
    for name in ("removed", "lowered"):
        assert (await app.identity.operator(then.programs[name])).id == then.people[name].operator.id
    # Made after the backup: it is not there any more.
    with pytest.raises(Unauthenticated):
        await app.identity.operator(replaced.now.program)


# — integrations —


async def test_a_credential_that_was_replaced_since_is_that_of_today(replaced: Replaced, provider: Server) -> None:
    seen = len(provider.requests)
    assert (await call(replaced.app, "rotating", replaced.office.agent_token)).status == 200
    assert provider.requests[seen].headers["authorization"] == f"Bearer {NEW}"
    versions = await replaced.app.integrations.versions.list(
        (await replaced.office.local(replaced.app)).scope, replaced.then.integrations["rotating"].id
    )
    assert [version.state for version in versions if version.version == 1] in ([], ["retired"])


async def test_an_integration_that_was_deleted_since_comes_back_for_nobody(
    replaced: Replaced, provider: Server
) -> None:
    local = await replaced.office.local(replaced.app)
    found = await replaced.app.integrations.get(local, replaced.then.integrations["doomed"].id)
    assert (found.status, found.allow_all, list(found.agents)) == ("needs attention", False, [])
    assert "deleted" in found.status_reason
    seen = len(provider.requests)
    for token in (replaced.office.agent_token, replaced.now.dora):
        assert await replaced.refused(token, "doomed") in (403, 404)
    assert len(provider.requests) == seen


async def test_what_agents_may_not_do_any_more_they_may_not(replaced: Replaced, provider: Server) -> None:
    seen = len(provider.requests)
    # Disallowed by name; by the rules for all, and for one; and where everybody was let in.
    assert await replaced.refused(replaced.office.agent_token, "guarded", "/allowed") in (403, 404)
    assert await replaced.refused(replaced.now.dora, "guarded", "/other") == 403
    assert await replaced.refused(replaced.now.dora, "rotating", "/other") == 403
    assert await replaced.refused(replaced.now.dora, "open") in (403, 404)
    assert len(provider.requests) == seen
    assert (await call(replaced.app, "guarded", replaced.now.dora, "/allowed")).status == 200


async def test_a_webhook_that_was_deleted_since_stays_gone_and_the_other_goes_on(
    replaced: Replaced, hooks: Server
) -> None:
    app, local = replaced.app, await replaced.office.local(replaced.app)
    with pytest.raises(NotFound):
        await app.outbox.webhooks.get(local, replaced.then.webhook)
    kept = await app.outbox.webhooks.get(local, replaced.office.webhook)
    assert kept.status == "enabled"
    # What was told since the backup is not told again.
    assert len(replaced.now.told) >= 3
    assert not replaced.now.told & {request.headers["webhook-id"] for request in await tell(app, hooks)}
    await app.agents.rotate_token(local, replaced.then.agents["bob"])
    [request] = await tell(app, hooks)
    assert request.path == "/hook"
    # By the secret that was given since.
    assert Verifier(replaced.now.webhook_secret).verify(request.body, request.headers)["type"] == "agent.token.rotated"


async def test_what_the_company_is_to_a_provider_is_what_was_said_last(replaced: Replaced) -> None:
    local = await replaced.office.local(replaced.app)
    client = await replaced.app.clients.get(local.scope, "slack", actor="tester")
    assert client.id == "18.18"
    assert client.secret is not None
    assert client.secret.reveal_text() == "the-client-secret-of-today"


# — the instance —


async def test_the_keys_the_fence_and_the_list_of_backups_are_those_of_today(replaced: Replaced) -> None:
    place, now = replaced.place, replaced.now
    assert place.states() == now.states
    assert place.kept() == set(now.states)
    assert place.sql("SELECT number FROM key_fence")[0]["number"] > now.fence
    listed = {row.id: row for row in await replaced.app.backups.rows()}
    assert now.backups < set(listed)
    assert listed[now.later.id].state == "whole"
    [safety] = set(listed) - now.backups
    assert (listed[safety].state, listed[safety].made_by) == ("whole", "before a restore")
    assert Path(listed[safety].place.removeprefix("file://")) / listed[safety].file == Path(replaced.done.safety)


async def test_the_chains_of_today_go_on_unbroken_and_say_that_it_was_restored(replaced: Replaced) -> None:
    app, now = replaced.app, replaced.now
    assert await faults_of(app) == []
    proved = {one.chain: one.events for one in await app.events.verify_all()}
    assert proved[now.instance] >= now.instance_events
    assert proved[replaced.office.place.company] >= now.events
    company = await app.events.newest(replaced.office.place.company, limit=1000)
    assert any(event["action"] == "agent.token_rotated" for event in company if event["seq"] <= now.events)
    [said] = [event for event in await app.events.newest(None, limit=1000) if event["action"] == "instance.restored"]
    assert (said["former"], said["backup_id"]) == (str(now.instance), str(replaced.then.made.id))


async def test_what_was_open_is_closed(replaced: Replaced) -> None:
    for person in (*replaced.then.people.values(), replaced.now.reset):
        assert await replaced.app.sessions.current(person.session.reveal_text()) is None
    runs = (await replaced.app.runs.list(await replaced.office.local(replaced.app))).items
    assert {run.state for run in runs} <= {"expired", "cancelled", "finished", "failed"}


async def test_what_was_there_before_is_restored_from_the_safety_backup(
    replaced: Replaced, fresh: Fresh, provider: Server
) -> None:
    new = fresh()
    shutil.copytree(replaced.place.folder, new.folder)
    done = await restored(new, Path(replaced.done.safety), take_over=True)
    assert done.former == replaced.now.instance
    await comes_back(replaced.office, new, provider)
    async with new.open() as app:
        assert {"a note of then", "a note of later"} <= notes_in(new)
        assert (await call(app, "rotating", replaced.now.eve)).status in (403, 404)
        assert (await app.identity.agent(replaced.now.eve)).scope.company_id == replaced.office.place.company


# — others —


async def test_tokens_are_revoked_where_that_is_asked_for(
    office: Office, files: dict[str, Path], copy: Place, provider: Server
) -> None:
    await restored(copy, files["plain"], replace=True, revoke_tokens=True)
    async with copy.open() as app:
        with pytest.raises(Unauthenticated):
            await app.identity.agent(office.agent_token)
        for person in (office.owner, office.member):
            with pytest.raises(Unauthenticated):
                await app.identity.operator(person.token)
        _, token = await app.agents.rotate_token(await office.local(app), office.place.agent)
        assert (await call(app, "generic", token.reveal_text())).status == 200
        await nothing_is_lost(copy, app)


async def test_of_another_instances_backup_nothing_of_todays_is_kept(
    office: Office, files: dict[str, Path], fresh: Fresh, provider: Server
) -> None:
    other = fresh()
    async with other.open() as app:
        company = await app.companies.create(LOCAL, "what was here")
        here = await app.identity.in_company(LOCAL, company.id)
        _, token = await app.agents.create(here, "ann")
        today, key = app.instance.id, other.only("active")
    done = await restored(other, files["ring"], passphrase=PASSPHRASE, replace=True)
    assert (done.kept_today, done.former) == (False, office.id)
    assert {stat.S_IMODE(folder.stat().st_mode) for folder in Path(done.safety).parents[:2]} == {0o700}
    async with other.open() as app:
        assert app.instance.id not in (office.id, today)
        await is_back(app, office, other, provider)
        assert [row["name"] for row in other.sql("SELECT name FROM companies")] == ["the company"]
        with pytest.raises(Unauthenticated):
            await app.identity.agent(token.reveal_text())
        assert other.sql("SELECT count(*) AS n FROM audit_events WHERE chain = %(c)s", c=today) == [{"n": 0}]
        await rotate(app, finish=True)
    await whole(office.at(other))
    # And back again, from the safety backup: its key is still there.
    assert key in other.kept()
    await restored(other, Path(done.safety), replace=True)
    async with other.open() as app:
        assert (await app.keys.verify()).bad == []
        assert await faults_of(app) == []
        assert (await app.identity.agent(token.reveal_text())).scope.company_id == company.id


async def test_a_key_that_was_destroyed_since_comes_back_with_the_ring_and_is_left_by_finish(
    office: Office, files: dict[str, Path], copy: Place, provider: Server
) -> None:
    then = copy.only("active")
    async with copy.open() as app:
        await rotate(app, compromised=True)
    assert then not in copy.kept()
    assert copy.states()[then] == "destroyed"
    error = await refusal(restored(copy, files["plain"], replace=True))
    assert (error.exit_status, error.reason) == (78, "key_missing")
    await restored(copy, files["ring"], passphrase=PASSPHRASE, replace=True)
    async with copy.open() as app:
        await is_back(app, office, copy, provider)
        assert copy.states()[then] == "archived"
        await rotate(app, finish=True)
        await does_its_work(app, office, provider)
    assert then not in copy.rows_by_key()
    await whole(copy)


async def test_after_one_restore_another_from_an_even_older_backup_keeps_what_was_taken_away_between(
    office: Office, files: dict[str, Path], copy: Place, provider: Server
) -> None:
    first = await restored(copy, files["plain"], replace=True)
    async with copy.open() as app:
        await is_back(app, office, copy, provider)
        local = await office.local(app)
        _, token = await app.agents.rotate_token(local, office.place.agent)
        events = (await app.events.newest(office.place.company))[0]["seq"]
    # The backup is of the instance under the name that it had before that.
    second = await restored(copy, files["plain"], replace=True)
    assert second.kept_today
    async with copy.open() as app:
        with pytest.raises(Unauthenticated):
            await app.identity.agent(office.agent_token)
        assert (await call(app, "generic", token.reveal_text())).status == 200
        assert await faults_of(app) == []
        chains = {one.chain: one.events for one in await app.events.verify_all()}
        assert {office.id, first.id, second.id} <= set(chains)
        assert chains[office.place.company] >= events
        said = [event["former"] for event in await app.events.newest(None) if event["action"] == "instance.restored"]
        assert str(first.id) in said
        await nothing_is_lost(copy, app)


async def test_an_integration_that_was_deleted_since_needs_attention_until_somebody_gives_it(
    replaced: Replaced, provider: Server
) -> None:
    app, local = replaced.app, await replaced.office.local(replaced.app)
    await app.upkeep.look_after()
    for probing in list(app.upkeep._probing):
        await probing
    found = await app.integrations.get(local, replaced.then.integrations["doomed"].id)
    assert (found.status, list(found.agents)) == ("needs attention", [])
