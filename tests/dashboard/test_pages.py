"""
Pages without a browser: who may do what, the password again, what is shown once, what is escaped.
"""

from __future__ import annotations

import ast
import re
import uuid
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from company_agents.app import App
from company_agents.dashboard import words
from company_agents.dashboard.pages import PAGES
from company_agents.dashboard.render import FOLDER, ago, lasting, machine, marked, sentence, utc
from company_agents.dashboard.visit import Page
from company_agents.errors import Failed, TooMany
from company_agents.identity.permissions import DANGEROUS, Permission, Role
from company_agents.sensitive import Sensitive
from tests.dashboard.people import LOCAL, PASSWORD, Person, client, join, member, owner, text_of
from tests.dashboard.standin import FIRST_TOKEN, SECOND_TOKEN

COMPANY_ACTS = [page for page in PAGES if page.act and "{company" in page.path]
CONFIRMED = [page for page in PAGES if page.is_confirmed]
# These show a token, which somebody at an unlocked screen is not to take away.
SHOW_A_TOKEN = ["/hire", "/rotate-token", "/tokens/new", "/link", "/invite"]


async def _slack(app: App, here: Any, provider_address: str, **options: Any) -> Any:
    return await app.integrations.connect(
        here.local, "slack", Sensitive(FIRST_TOKEN), base_url=provider_address, allow_private_network=True, **options
    )


@dataclass(frozen=True)
class World:
    """A company with an integration; somebody who may only look, and an owner of another company. No test changes any of it."""

    here: Any
    integration: Any
    viewer: Person
    stranger: Person


@pytest.fixture(scope="module")
async def world(app: App, tenant: Any, provider_address: str) -> World:
    here, there = await tenant(), await tenant()
    viewer, stranger = await member(app, here.local, Role.VIEWER), await member(app, there.local, Role.OWNER)
    return World(here, await _slack(app, here, provider_address), viewer, stranger)


def _filled(page: Page, here: Any, integration_id: object, person_id: object = None) -> str:
    values = {
        "company:uuid": here.company.id,
        "agent:uuid": here.agent.agent_id(),
        "integration:uuid": integration_id,
        "person:uuid": person_id,
        "provider": "slack",
        "flow:uuid": uuid.uuid4(),
        "webhook:uuid": uuid.uuid4(),
        "task:uuid": uuid.uuid4(),
        "run:uuid": uuid.uuid4(),
        "schedule:uuid": uuid.uuid4(),
        "approval:uuid": uuid.uuid4(),
        "backup:uuid": uuid.uuid4(),
    }
    return re.sub(r"\{([^}]+)\}", lambda found: str(values[found[1]]), page.path)


# — who may do what —


def test_every_act_in_a_company_names_its_permission() -> None:
    assert [page.path for page in COMPANY_ACTS if page.permission is None] == []


def test_every_dangerous_permission_that_a_person_has_is_asked_for_by_some_page() -> None:
    # And for one more, of which only hiring is dangerous: it shows a token.
    hiring = {Permission.AGENT_MANAGE}
    assert {page.permission for page in CONFIRMED if page.permission} == DANGEROUS | hiring
    assert [page.path for page in CONFIRMED if page.permission in hiring] == ["/companies/{company:uuid}/agents/hire"]


@pytest.mark.parametrize("page", COMPANY_ACTS, ids=lambda page: page.path)
async def test_a_viewer_sees_no_way_to_act_and_is_refused(app: App, world: World, page: Page) -> None:
    here, integration, viewer = world.here, world.integration, world.viewer
    path = _filled(page, here, integration.id, viewer.operator.id)
    async with viewer.client() as browser:
        refused = await browser.post(path, data={"name": "x", "token": SECOND_TOKEN, "who": "all", "role": "owner"})
        assert refused.status_code == 403
        assert "ask an owner of the company" in refused.text.lower()
        if page.show:
            assert (await browser.get(path)).status_code == 403
        for shown in (
            "",
            "/integrations",
            f"/integrations/{integration.id}",
            "/agents",
            f"/agents/{here.agent.agent_id()}",
            "/tasks",
            "/runs",
            "/schedules",
            "/costs",
        ):
            found = await browser.get(f"/companies/{here.company.id}{shown}")
            assert found.status_code == 200
            assert path not in found.text
            assert re.findall(r'<form[^>]+method="post"[^>]+action="([^"]+)"', found.text) == ["/sign-out"]
    assert (await app.integrations.get(here.local, integration.id)) == integration


@pytest.mark.parametrize("page", [page for page in PAGES if "{company" in page.path], ids=lambda page: page.path)
async def test_another_company_reads_like_one_that_does_not_exist(world: World, page: Page) -> None:
    here = world.here
    path = _filled(page, here, uuid.uuid4(), world.viewer.operator.id)
    async with world.stranger.client() as browser:
        found = await (browser.get(path) if page.show else browser.post(path))
    assert found.status_code == 404
    assert here.company.name not in found.text


@pytest.mark.parametrize("page", [page for page in PAGES if not page.for_anybody], ids=lambda page: page.path)
async def test_whoever_is_not_signed_in_is_sent_to_sign_in(app: App, page: Page) -> None:
    path = re.sub(r"\{[^}]+:uuid\}", str(uuid.uuid4()), page.path).replace("{provider}", "slack")
    async with client(app) as browser:
        found = await (browser.get(path) if page.show else browser.post(path))
    if page.stream:
        # A page asks for it, and nobody: there is nowhere to go.
        assert found.status_code == 401
        return
    assert found.status_code == 303
    assert found.headers["location"].startswith("/sign-in?return=")


# — the password again —


def test_every_page_that_shows_a_token_asks_for_it() -> None:
    showing = [page for page in PAGES if page.path.endswith(tuple(SHOW_A_TOKEN))]
    assert len(showing) == len(SHOW_A_TOKEN) + 1  # a link is made for somebody, or for another owner
    assert all(page.is_confirmed for page in showing)


@pytest.mark.parametrize("page", CONFIRMED, ids=lambda page: page.path)
async def test_what_is_dangerous_asks_for_the_password_and_does_nothing_before(
    app: App, somebody: Person, world: World, page: Page, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, integration = world.here, world.integration
    monkeypatch.setattr("company_agents.identity.sessions.CONFIRMED_MINUTES", 0)
    path = _filled(page, here, integration.id, somebody.operator.id)
    asked = f"/confirm?return={path.replace('/', '%2F')}"
    secret = {"token": SECOND_TOKEN, "name": integration.name, "who": "all", "role": "viewer", "days": "1"}
    async with somebody.client() as browser:
        if page.show:
            assert (await browser.get(path)).headers["location"] == asked
        if page.act:
            answer = await browser.post(path, data=secret)
            assert answer.status_code == 303
            assert answer.headers["location"] == asked
            assert SECOND_TOKEN not in answer.text
        confirm = await browser.get(asked)
        assert "Confirm your password" in confirm.text
        assert (await browser.post("/confirm", data={"return": path, "password": "wrong"})).status_code == 422
        back = await browser.post("/confirm", data={"return": path, "password": PASSWORD})
        assert back.headers["location"] == path
    assert (await app.integrations.get(here.local, integration.id)) == integration


async def test_a_password_given_a_moment_ago_is_enough(app: App, somebody: Person, tenant: Any) -> None:
    here = await tenant()
    async with somebody.client() as browser:
        found = await browser.get(f"/companies/{here.company.id}/integrations/connect")
    assert found.status_code == 200


# — joining and signing in —


async def test_a_link_is_good_once_and_looking_at_it_does_not_use_it(app: App) -> None:
    link = await app.operators.link(LOCAL)
    path = f"/join?token={link.reveal_text()}"
    async with client(app) as browser:
        assert (await browser.get(path)).status_code == 200
        looked = await browser.get(path)
        assert looked.status_code == 200
        assert looked.headers["Referrer-Policy"] == "strict-origin"
        await join(app, link)
        used = await browser.get(path)
        nothing = await browser.get("/join")
    assert used.status_code == nothing.status_code == 404
    assert "This link was used or has expired." in used.text


async def test_a_second_factor_that_is_not_the_pages_is_refused(app: App) -> None:
    link = await app.operators.link(LOCAL)
    async with client(app) as browser:
        found = await browser.post(
            "/join", data={"link": link.reveal_text(), "totp": "AAAA", "name": "x", "password": PASSWORD, "code": "1"}
        )
    assert found.status_code == 422


async def test_a_known_person_with_a_new_link_keeps_their_name(app: App) -> None:
    known = await owner(app)
    link = await app.operators.link(LOCAL, known.operator.id)
    async with client(app) as browser:
        found = await browser.get(f"/join?token={link.reveal_text()}")
    assert f"Set up your sign-in anew, {known.operator.name}" in found.text


async def test_signing_in_wrongly_says_the_same_whatever_is_wrong(app: App) -> None:
    known = await owner(app)
    answers = []
    async with client(app) as browser:
        for name, password in ((known.operator.name, "a wrong password"), ("nobody of this name", PASSWORD)):
            found = await browser.post("/sign-in", data={"name": name, "password": password, "code": "123456"})
            assert found.status_code == 401
            assert PASSWORD not in found.text
            answers.append(found.text.replace(name, "NAME"))
    assert answers[0] == answers[1]
    assert "Name, password or code is not right." in answers[0]


async def test_too_many_failures_say_how_long_to_wait(app: App) -> None:
    name = f"slow {uuid.uuid4().hex[:6]}"
    async with client(app) as browser:
        form = {"name": name, "password": "wrong", "code": "1"}
        found = [await browser.post("/sign-in", data=form) for _ in range(7)][-1]
    assert found.status_code == 429
    assert int(found.headers["Retry-After"]) > 0
    assert "Too many failed attempts." in found.text
    assert re.search(r"Try again in \d+ (second|minute)s?\b", found.text)


async def test_a_session_that_was_ended_elsewhere_is_over(app: App) -> None:
    person = await owner(app)
    other = await app.sessions.open(person.operator.id, address="10.0.0.9", browser="Mozilla/5.0 Firefox/140.0")
    found = await app.sessions.current(other.reveal_text())
    assert found is not None
    async with person.client() as browser:
        listed = await browser.get("/account")
        assert "Firefox" in listed.text
        assert "10.0.0.9" in listed.text
        ended = await browser.post(f"/account/sessions/{found[1].id}/end")
    assert ended.headers["location"] == "/account?done=session-ended"
    assert await app.sessions.current(other.reveal_text()) is None


# — shown once, or never —


async def test_a_pasted_token_is_in_no_page_and_no_address(
    app: App, somebody: Person, tenant: Any, provider_address: str
) -> None:
    here = await tenant()
    home = f"/companies/{here.company.id}"
    form = {
        "name": "slack",
        "token": FIRST_TOKEN,
        "who": "named",
        "base_url": provider_address,
        "private_network": "yes",
    }
    answers = []
    async with somebody.client() as browser:
        for wrong in ({"base_url": "ftp://x"}, {"name": ""}, {"who": ""}, {"token": "xoxb-not-a-good-token"}):
            answers.append(await browser.post(f"{home}/integrations/connect/slack", data={**form, **wrong}))
            assert answers[-1].status_code == 422
            assert 'aria-invalid="true"' in answers[-1].text or "who-problem" in answers[-1].text
        answers.append(await browser.post(f"{home}/integrations/connect/slack", data=form))
        one = answers[-1].headers["location"].partition("?")[0]
        answers.append(await browser.post(f"{one}/rotate", data={"token": "xoxb-not-a-good-token"}))
        assert answers[-1].status_code == 422
        answers.append(await browser.post(f"{one}/rotate", data={"token": SECOND_TOKEN}))
        answers += [await browser.get(path) for path in (one, f"{one}/rotate", f"{home}/integrations", f"{home}/audit")]
    for answer in answers:
        for token in (FIRST_TOKEN, SECOND_TOKEN, "xoxb-not-a-good-token"):
            assert token not in answer.text
            assert token not in str(answer.headers)


async def test_the_page_of_an_integration_says_that_its_value_is_not_to_be_seen(
    app: App, somebody: Person, tenant: Any, provider_address: str
) -> None:
    here = await tenant()
    integration = await _slack(app, here, provider_address, allow=[here.agent.agent_id()])
    async with somebody.client() as browser:
        found = await browser.get(f"/companies/{here.company.id}/integrations/{integration.id}")
    said = text_of(found.text)
    for part in ("It is shown to nobody, you included.", "Connected", "Version", "chat:write", provider_address, "ann"):
        assert part in said
    assert machine(integration.created_at) in found.text


async def test_an_operator_token_is_shown_once_and_can_be_revoked(app: App) -> None:
    person = await owner(app)
    async with person.client() as browser:
        form = {"name": "deploy", "role": "viewer", "days": "30"}
        made = await browser.post("/account/tokens/new", data=form)
        token = re.search(r"ca_op_[A-Za-z0-9_-]+", made.text)
        assert made.status_code == 200
        assert token is not None
        assert made.headers["Cache-Control"] == "no-store"
        assert (await app.identity.operator(token[0])).name == person.operator.name
        again = await browser.post("/account/tokens/new", data=form)
        assert again.status_code == 409
        listed = await browser.get("/account")
        assert "deploy" in listed.text
        assert token[0] not in listed.text + again.text
        revoke = re.search(r'action="(/account/tokens/[^"]+/revoke)"', listed.text)
        assert revoke is not None
        await browser.post(revoke[1])
        assert "1 token that ended" in (await browser.get("/account")).text


async def test_an_invitation_makes_a_member_with_that_role(app: App, somebody: Person, tenant: Any) -> None:
    here = await tenant()
    async with somebody.client() as browser:
        made = await browser.post(f"/companies/{here.company.id}/invite", data={"role": "operator"})
    link = re.search(r"/join\?token=([A-Za-z0-9_-]+)", made.text)
    assert link is not None
    assert f"{app.settings.url}/join?token=" in made.text
    invited = await join(app, Sensitive(link[1]))
    async with invited.client() as browser:
        start = await browser.get("/")
        assert start.headers["location"] == f"/companies/{here.company.id}"
        overview = await browser.get(start.headers["location"])
        assert "Hire one" in overview.text or "hire" in overview.text.lower()
        assert "Invite somebody" not in overview.text
        assert (await browser.get("/people")).status_code == 403


# — integrations and agents —


async def test_who_may_use_an_integration_is_what_was_ticked(
    app: App, somebody: Person, tenant: Any, provider_address: str
) -> None:
    here = await tenant()
    ann = here.agent.agent_id()
    bob, _ = await app.agents.create(here.local, "bob")
    integration = await _slack(app, here, provider_address, allow=[ann])
    path = f"/companies/{here.company.id}/integrations/{integration.id}/allow"
    shown = {"shown": [str(ann), str(bob.id)]}
    steps: list[tuple[dict[str, Any], bool, list[uuid.UUID]]] = [
        ({"who": "named", "agent": [str(bob.id)]}, False, [bob.id]),
        ({"who": "all"}, True, [bob.id]),
        ({"who": "named", "agent": [str(ann), str(bob.id)]}, False, sorted([ann, bob.id])),
        ({"who": "named"}, False, []),
    ]
    async with somebody.client() as browser:
        for form, for_all, agents in steps:
            answer = await browser.post(path, data={**shown, **form})
            assert answer.status_code == 303
            found = await app.integrations.get(here.local, integration.id)
            assert (found.allow_all, sorted(found.agents)) == (for_all, agents)
        assert (await browser.post(path, data={"who": "named", "agent": ["x"]})).status_code == 422
        assert (await browser.post(path, data={})).status_code == 422


async def test_the_connect_form_takes_nothing_from_the_address(app: App, somebody: Person, tenant: Any) -> None:
    here = await tenant()
    async with somebody.client() as browser:
        found = await browser.get(
            f"/companies/{here.company.id}/integrations/connect/slack",
            params={"base_url": "https://evil.example", "who": "all", "private_network": "yes"},
        )
    assert "evil.example" not in found.text
    assert 'value="all" checked' not in found.text


async def test_an_agent_can_be_paused_resumed_and_retired(app: App, somebody: Person, tenant: Any) -> None:
    here = await tenant()
    path = f"/companies/{here.company.id}/agents/{here.agent.agent_id()}"
    async with somebody.client() as browser:
        for act, state in (("pause", "Paused"), ("resume", "Active"), ("retire", "Retired")):
            answer = await browser.post(f"{path}/{act}")
            assert answer.status_code == 303
            page = await browser.get(answer.headers["location"])
            assert f"{state}</span>" in page.text
        again = await browser.post(f"{path}/resume")
        assert again.status_code == 409
        assert "This agent is retired" in again.text


async def test_names_are_shown_as_text(app: App, somebody: Person) -> None:
    bad = f"<script>alert(1)</script>\"'><img src=x onerror=alert(2)> {uuid.uuid4().hex[:8]}"
    company = await app.companies.create(LOCAL, bad)
    here = await app.identity.in_company(LOCAL, company.id)
    agent, _ = await app.agents.create(here, bad)
    integration = await app.integrations.connect(
        here, "generic", Sensitive(FIRST_TOKEN), name=bad, base_url="https://x.example", allow=[agent.id]
    )
    home = f"/companies/{company.id}"
    one = f"{home}/integrations/{integration.id}"
    places = [home, f"{home}/integrations", one, f"{one}/allow", f"{one}/rotate", f"{one}/delete", f"{home}/agents"]
    places += [f"{home}/agents/{agent.id}", f"{home}/agents/{agent.id}/retire", f"{home}/audit", f"{home}/invite"]
    async with somebody.client() as browser:
        for place in places:
            found = await browser.get(place)
            assert found.status_code == 200
            assert "&lt;script&gt;alert(1)&lt;/script&gt;" in found.text, place
            assert "<script" not in found.text, place
            assert "<img" not in found.text, place
        kept = await browser.post(f"{home}/agents/hire", data={"name": bad})
        assert kept.status_code == 409
        assert "<script" not in kept.text


# — the audit log —


async def test_the_audit_log_is_filtered_paged_and_verified(app: App, somebody: Person, tenant: Any) -> None:
    here = await tenant()
    for number in range(60):
        await app.agents.create(here.local, f"agent {number}")
    with pytest.raises(Exception, match="does not exist"):
        await app.requests.request(here.agent, "nothing", "GET", "/")
    await app.audit.append(here.company.id, "integration.checked", actor="local:tester")
    audit = f"/companies/{here.company.id}/audit"
    async with somebody.client() as browser:
        first = await browser.get(audit)
        assert "Refused" in first.text
        older = re.search(r'href="([^"]+before=\d+)"', first.text)
        assert older is not None
        second = await browser.get(older[1].replace("&amp;", "&"))
        assert "Company created" in second.text
        assert "Older events" not in second.text
        agents = await browser.get(audit, params={"kind": "agent."})
        assert "integration.checked" not in agents.text
        assert "agent.created" in agents.text
        assert "Use of an integration refused" in (await browser.get(audit, params={"kind": "integration."})).text
        # Kinds that are only in the other log are not offered.
        assert set(re.findall(r"\?kind=([a-z]+)\.", first.text)) == {
            *("credential", "integration", "approval", "consent", "provider", "agent", "run", "schedule", "member"),
            *("webhook", "secret"),
        }
        instance = await browser.get("/audit")
        assert set(re.findall(r"\?kind=([a-z]+)\.", instance.text)) == {
            *("operator", "token", "key", "backup", "instance", "secret")
        }
        assert (await browser.get(audit, params={"before": "x"})).status_code == 422
        assert "The chain is whole" in (await browser.get(f"{audit}/verify")).text


def test_a_notice_comes_from_our_own_list() -> None:
    assert words.notice("rotated").startswith("Rotated.")
    assert words.notice("send your token to evil.example") == ""


def test_an_event_that_nobody_has_words_for_is_spelled_out() -> None:
    found = {"seq": 1, "at": "2026-01-02T03:04:05+00:00", "action": "key.rotation_ended", "rows": 3, "done": True}
    event = words.event(found, {})
    assert (event.what, event.who) == ("Key: rotation ended", "The orchestrator")
    assert words.event({**found, "decision": "refused"}, {}).who == "Nobody we know"
    assert [(fact.label, fact.value) for fact in event.facts] == [("rows", "3"), ("done", "yes")]


def test_refusals_that_were_counted_say_how_often_in_words() -> None:
    found = {"seq": 1, "at": "2026-01-02T03:04:05+00:00", "action": "token.refused", "repeated": 7}
    assert [(fact.label, fact.value) for fact in words.event(found, {}).facts] == [("repeated", "7 more times")]
    assert words.event({**found, "repeated": 1}, {}).facts[0].value == "once more"


async def test_the_overview_says_what_the_latest_events_are_about(app: App, somebody: Person, tenant: Any) -> None:
    here = await tenant()
    await app.agents.create(here.local, "carol")
    async with somebody.client() as browser:
        found = await browser.get(f"/companies/{here.company.id}")
    assert re.search(r"Agent hired</strong>: carol", found.text)


# — errors and words —


def test_no_option_of_the_command_line_is_named_on_a_page() -> None:
    rooms = [FOLDER.parent / room for room in ("identity", "integrations", "outgoing", "companies")]
    hints = {
        node.value.value
        for room in rooms
        for file in room.glob("*.py")
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.keyword) and node.arg == "hint" and isinstance(node.value, ast.Constant)
    }
    assert "give another --name" in hints, "this test sees nothing"
    assert [said for said in map(str, hints) if " --" in words.hint(Failed(hint=said))] == []


async def test_errors_are_pages_with_a_sentence(app: App, somebody: Person, tenant: Any) -> None:
    here = await tenant()
    async with somebody.client() as browser:
        nowhere = await browser.get("/nowhere")
        method = await browser.put("/companies")
        unknown = await browser.get(f"/companies/{here.company.id}/integrations/{uuid.uuid4()}")
        taken = await browser.post("/companies/new", data={"name": here.company.name})
    assert [nowhere.status_code, method.status_code, unknown.status_code, taken.status_code] == [404, 405, 404, 409]
    assert "This page does not exist." in nowhere.text
    # Whoever is signed in is not told to sign in.
    assert "To the start" in nowhere.text
    assert "Sign out" in nowhere.text
    assert "This integration does not exist." in unknown.text
    # The command line's hint is not for a page.
    assert "company-agents integration list" not in unknown.text
    assert 'aria-describedby="name-problem"' in taken.text
    assert f'value="{here.company.name}"' in taken.text


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        *((0, "just now"), (59, "just now"), (60, "1 minute ago"), (200, "3 minutes ago"), (3600, "1 hour ago")),
        *((90_000, "1 day ago"), (40 * 86_400, "1 month ago"), (-30, "in less than a minute"), (-7200, "in 2 hours")),
        # What is to come is said to the nearest: a token made for thirty days does not begin with 29.
        *(
            (-30 * 86_400 + 60, "in 30 days"),
            (-12 * 3600 + 5, "in 12 hours"),
            (-89, "in 1 minute"),
            (7199, "1 hour ago"),
        ),
    ],
)
def test_how_long_ago_is_said_in_one_unit(seconds: int, said: str) -> None:
    now = datetime(2026, 3, 4, 5, 6, 7, tzinfo=UTC)
    assert ago(now - timedelta(seconds=seconds), now) == said


def test_since_when_is_said_in_one_unit() -> None:
    now = datetime(2026, 3, 4, 5, 6, 7, tzinfo=UTC)
    assert lasting(now - timedelta(hours=2), now) == "for 2 hours"
    assert lasting(now, now) == "for less than a minute"
    # Another machine's clock may be ahead.
    assert lasting(now + timedelta(minutes=2), now) == "for less than a minute"


def test_times_are_in_utc() -> None:
    at = datetime.fromisoformat("2026-03-04T01:02:03+02:00")
    assert utc(at) == "3 Mar 2026, 23:02 UTC"
    assert machine(at) == "2026-03-03T23:02:03Z"


def test_what_stands_between_backticks_is_code_and_all_of_it_is_escaped() -> None:
    assert marked("run `a <b>` & `c`, then go on") == "run <code>a &lt;b&gt;</code> &amp; <code>c</code>, then go on"
    assert marked("nothing <i>of it</i>") == "nothing &lt;i&gt;of it&lt;/i&gt;"
    assert marked("a lone ` one") == "a lone <code> one</code>"


@pytest.mark.parametrize(
    ("seconds", "said"), [(1, "1 second"), (30, "30 seconds"), (121, "3 minutes"), (900, "15 minutes")]
)
def test_how_long_to_wait_is_said_as_people_say_it(seconds: int, said: str) -> None:
    assert TooMany(retry_after=seconds).hint == f"try again in {said}"


def test_an_error_becomes_a_sentence() -> None:
    assert sentence("this is not right") == "This is not right."
    assert sentence("whose is it?") == "Whose is it?"
    assert sentence("") == ""


def test_permissions_are_known_to_templates_by_name() -> None:
    named = {
        name
        for file in (FOLDER / "templates").glob("*.html")
        for name in re.findall(r'visit\.may\("([A-Z_]+)"\)', file.read_text())
    }
    assert named
    assert named <= {permission.name for permission in Permission}


async def test_a_private_address_is_refused_in_words_of_the_page(app: App, somebody: Person, tenant: Any) -> None:
    here = await tenant()
    form = {"name": "slack", "token": FIRST_TOKEN, "who": "named", "base_url": "https://localhost:1"}
    async with somebody.client() as browser:
        found = await browser.post(f"/companies/{here.company.id}/integrations/connect/slack", data=form)
    assert found.status_code == 403
    assert "It may be in a private network" in found.text
    assert "--allow-private-network" not in found.text
    assert 'id="base_url-problem"' in found.text
    # What is folded away is not where somebody looks for what is wrong.
    assert re.search(r"<details open>\s*<summary>Advanced", found.text)
