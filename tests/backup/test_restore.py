"""
A lost machine is back from a backup and its key: all of it works, and what was under way then is over.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from company_agents.errors import NotFound, Unauthenticated
from company_agents.identity.permissions import Role
from tests.backup.instances import (
    PASSPHRASE,
    Office,
    call,
    comes_back,
    does_its_work,
    exported,
    faults_of,
    is_back,
    restored,
)
from tests.cli.processes import ask, bearer, machine_in, tenant
from tests.cli.standin import TOKEN, StandIn, stand_in
from tests.conftest import LOCAL
from tests.oauth.server import AuthorizationServer
from tests.outgoing.servers import Server
from tests.promises.evidence import PROVIDER_TOKEN
from tests.rotation.place import Place, nothing_is_lost, rotate

FRESH = Callable[[], Place]


def key_file_alone(office: Office, place: Place) -> None:
    """What an operator has kept: the file `master.key`."""
    place.folder.mkdir(mode=0o700)
    shutil.copy(office.place.folder / "master.key", place.folder / "master.key")


def whole_folder(office: Office, place: Place) -> None:
    """The same with everything that lies beside it, and the mark of whose it is."""
    shutil.copytree(office.place.folder, place.folder)


# — a machine that is lost, by the command line —


@pytest.fixture(scope="module")
def slack() -> Iterator[StandIn]:
    with stand_in() as server:
        yield server


def test_a_lost_machine_is_back_from_a_backup_and_its_keys_file(tmp_path: Path, slack: StandIn) -> None:
    file, safe = tmp_path / "office.backup", tmp_path / "master.key"
    with machine_in(tmp_path / "lost") as lost:
        one = tenant(lost.home, slack.url, TOKEN)
        with lost.up() as up:
            works(up.url, one.token, slack)
            made = lost.json("backup", "export", str(file))
        assert file.stat().st_mode & 0o777 == 0o600
        shutil.copy(lost.home / "secrets" / "master.key", safe)
    with machine_in(tmp_path / "found") as found:
        (found.home / "secrets").mkdir(mode=0o700, parents=True)
        found.home.chmod(0o700)
        shutil.copy(safe, found.home / "secrets" / "master.key")
        verdict = found.json("backup", "verify", str(file))
        assert (verdict["would_restore"], verdict["not_opened"]) == (True, 0)
        done = found.json("backup", "restore", str(file))
        assert done["id"] != done["former"]
        assert done["active_key_id"] in made["key_ids"]
        assert [(token["kind"], token["name"], token["id"]) for token in done["tokens"]] == [
            ("agent", "ann", one.agent)
        ]
        with found.up() as up:
            works(up.url, one.token, slack)
            assert found.json("key", "verify")["bad"] == []
            assert found.run("audit", "verify", "--json").status == 0
            # Whoever wants to restore while it runs has to stop it first.
            refused = found.run("backup", "restore", "--replace", str(file), "--json")
            assert (refused.status, refused.json["error"]["code"]) == (75, "busy")
            assert up.stop() == 0
        again = found.run("backup", "restore", str(file), "--json")
        assert (again.status, again.json["error"]["code"]) == (4, "restored_already")
        assert "--replace" in again.json["error"]["hint"]


def works(url: str, token: str, slack: StandIn) -> None:
    """The agent's call arrives with the company's credential; the stand-in takes no other."""
    answer = ask(f"{url}/gateway/slack/api/chat.postMessage", b'{"text": "here"}', bearer(token))
    assert (answer.status, json.loads(answer.body)["ok"]) == (200, True)
    assert slack.seen[-1]["path"] == "/api/chat.postMessage"


# — with which key —


@pytest.mark.parametrize("kept", [key_file_alone, whole_folder])
async def test_a_plain_backup_and_what_was_kept_of_the_keys_are_enough(
    office: Office, files: dict[str, Path], new: Place, provider: Server, kept: Callable[[Office, Place], None]
) -> None:
    kept(office, new)
    done = await restored(new, files["plain"])
    assert (done.former, done.kept_today, done.keys_added, done.safety) == (office.id, False, [], "")
    await comes_back(office, new, provider)
    old = new.only("active")
    async with new.open() as app:
        assert (await rotate(app)).action == "rotated"
        await is_back(app, office, new, provider)
    assert new.kept() == {old, new.only("active")}


async def test_a_backup_with_its_ring_needs_nothing_but_the_passphrase(
    office: Office, files: dict[str, Path], new: Place, provider: Server
) -> None:
    done = await restored(new, files["ring"], passphrase=PASSPHRASE)
    key = office.place.only("active")
    assert done.keys_added == [key]
    assert (new.kept(), new.hint()) == ({key}, office.place.hint())
    await comes_back(office, new, provider)


async def test_the_passphrase_is_not_asked_for_where_the_keys_are_there(
    office: Office, files: dict[str, Path], new: Place, provider: Server
) -> None:
    whole_folder(office, new)
    assert (await restored(new, files["ring"])).keys_added == []
    await comes_back(office, new, provider)


# — what is over —


async def test_sessions_links_and_runs_of_the_past_are_over(office: Office, files: dict[str, Path], new: Place) -> None:
    whole_folder(office, new)
    await restored(new, files["plain"])
    async with new.open() as app:
        for person in (office.owner, office.member):
            assert await app.sessions.current(person.session) is None
        with pytest.raises(NotFound):
            await app.operators.invitation(office.link)
        with pytest.raises(Unauthenticated):
            await app.identity.run(office.run_token)
        local = await office.local(app)
        states = {run.id: run for run in (await app.runs.list(local)).items}
        assert (states[office.run].state, states[office.queued].state) == ("expired", "cancelled")
        assert {run.state for run in states.values()} == {"expired", "cancelled"}
        assert all("restored" in run.reason for run in states.values())
        assert {each.state for each in (await app.approvals.list(local)).items} == {"expired"}
    assert new.sql("SELECT name FROM secrets WHERE name LIKE 'run_token/%' OR name LIKE 'oauth_flow/%'") == []
    for table in ("sessions", "sign_in_links", "oauth_flows", "run_pins"):
        assert new.sql(f"SELECT count(*) AS n FROM {table}") == [{"n": 0}], table
    assert new.sql("SELECT count(*) AS n FROM runs WHERE lease_until IS NOT NULL") == [{"n": 0}]


async def test_people_sign_in_as_before_and_tokens_that_live_again_are_named(
    office: Office, files: dict[str, Path], new: Place
) -> None:
    whole_folder(office, new)
    done = await restored(new, files["plain"])
    named = {(token["kind"], str(token["id"])) for token in done.tokens}
    people = (office.owner, office.member)
    assert named == {
        ("agent", str(office.place.agent)),
        *(("operator", str(person.token_id)) for person in people),
    }
    async with new.open() as app:
        for person in people:
            assert (await app.identity.operator(person.token)).id == person.id


async def test_with_revoke_tokens_no_token_of_before_works_and_new_ones_do(
    office: Office, files: dict[str, Path], new: Place, provider: Server
) -> None:
    whole_folder(office, new)
    await restored(new, files["plain"], revoke_tokens=True)
    async with new.open() as app:
        with pytest.raises(Unauthenticated):
            await app.identity.agent(office.agent_token)
        for person in (office.owner, office.member):
            with pytest.raises(Unauthenticated):
                await app.identity.operator(person.token)
        assert (await call(app, "generic", office.agent_token)).status == 401
        local = await office.local(app)
        _, token = await app.agents.rotate_token(local, office.place.agent)
        before = len(provider.requests)
        assert (await call(app, "generic", token.reveal_text())).status == 200
        assert provider.requests[before].headers["authorization"] == f"Bearer {PROVIDER_TOKEN}"
        _, fresh = await app.operators.create_token(LOCAL, "another", 1, Role.OWNER, office.owner.id)
        assert (await app.identity.operator(fresh.reveal_text())).id == office.owner.id
        await nothing_is_lost(office.at(new), app)
        assert await faults_of(app) == []


async def test_webhooks_go_on_with_the_chain_of_the_new_name(
    office: Office, files: dict[str, Path], new: Place, hooks: Server
) -> None:
    whole_folder(office, new)
    await restored(new, files["plain"])
    async with new.open() as app:
        await app.outbox.deliverer.look()
        await app.outbox.deliverer.idle()
        before = len(hooks.requests)
        await rotate(app)
        local = await office.local(app)
        await app.agents.rotate_token(local, office.place.agent)
        await app.outbox.deliverer.look()
        await app.outbox.deliverer.idle()
        told = [json.loads(request.body)["type"] for request in hooks.requests[before:]]
        assert sorted(told) == ["agent.token.rotated", "key.rotated"]


async def test_what_is_told_after_a_restore_is_not_taken_for_what_was_told_since_the_backup(
    office: Office, files: dict[str, Path], copy: Place, new: Place, hooks: Server
) -> None:
    # Both go on from the same place of the company's chain, and a receiver keeps the ids that it has seen.
    whole_folder(office, new)
    await restored(new, files["plain"])
    ids = []
    for place in (copy, new):
        async with place.open() as app:
            await app.outbox.deliverer.look()
            await app.outbox.deliverer.idle()
            before = len(hooks.requests)
            await app.agents.rotate_token(await office.local(app), office.place.agent)
            await app.outbox.deliverer.look()
            await app.outbox.deliverer.idle()
            ids += [request.headers["webhook-id"] for request in hooks.requests[before:]]
    assert len(ids) == len(set(ids)) == 2


async def test_the_restore_is_the_first_event_under_the_new_name_and_the_old_chain_is_there(
    office: Office, files: dict[str, Path], new: Place
) -> None:
    whole_folder(office, new)
    done = await restored(new, files["plain"])
    async with new.open() as app:
        assert app.instance.id == done.id
        events = await app.events.newest(None)
        assert (events[-1]["action"], events[-1]["former"]) == ("instance.restored", str(office.id))
        assert events[-1]["backup_id"] == str(done.backup)
        proved = {one.chain: one.events for one in await app.events.verify_all()}
        assert proved[office.id] > 10
    async with new.open() as app:
        actions = [event["action"] for event in await app.events.newest(None)]
        assert actions.count("instance.restored") == 1


async def test_a_consent_is_tried_at_its_provider_and_its_status_is_what_that_says(
    office: Office, files: dict[str, Path], fresh: FRESH, consents: AuthorizationServer
) -> None:
    async def status_after(place: Place) -> tuple[str, str]:
        whole_folder(office, place)
        await restored(place, files["plain"])
        async with place.open() as app:
            before = len(consents.calls_to("/api/me"))
            await app.upkeep.look_after()
            for probing in list(app.upkeep._probing):
                await probing
            assert len(consents.calls_to("/api/me")) == before + 1
            found = await app.integrations.get(await office.local(app), office.consent)
            return found.status, found.status_hint

    assert await status_after(fresh()) == ("connected", "")
    # Its owner took it back, after the backup was taken.
    consents.kill(office.consent_token)
    status, hint = await status_after(fresh())
    assert status == "needs attention"
    assert hint


async def test_a_backup_of_a_restored_instance_restores_again(
    office: Office, files: dict[str, Path], fresh: FRESH, provider: Server, tmp_path: Path
) -> None:
    first, second = fresh(), fresh()
    whole_folder(office, first)
    one = await restored(first, files["plain"])
    async with first.open() as app:
        await does_its_work(app, office, provider)
        await exported(app, tmp_path / "second.backup", PASSPHRASE)
    two = await restored(second, tmp_path / "second.backup", passphrase=PASSPHRASE)
    assert two.former == one.id
    await comes_back(office, second, provider)
    async with second.open() as app:
        chains = {one.chain for one in await app.events.verify_all()}
        assert {office.id, one.id, two.id} <= chains
