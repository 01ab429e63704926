"""
What happens in the story: everything that takes a secret gets one, by every door, and everything goes wrong once.
"""

from __future__ import annotations

import re
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pyotp
import pytest

from tests.cli.processes import Up
from tests.database.processes import postmaster, wait_gone, wait_stopped
from tests.promises.canary import places
from tests.promises.canary.provider import ECHOES, FAULTS
from tests.promises.canary.search import Place, made_up, token_like
from tests.promises.canary.story import Story

REMOVED = b"[credential removed]"


def people(story: Story, first_link: str) -> None:
    """The owner joins, signs out and in again, mistypes, confirms, and invites somebody."""
    doors = story.doors
    cookie = story.join("olivia", first_link, "the first link")
    assert doors.page(cookie, "/sign-out", {}).status == 303
    password, wrong = story.password("password of olivia"), story.password("a mistyped password")
    assert story.sign_in("olivia", wrong, "123456").status == 401
    assert story.sign_in("nobody", wrong, "123456").status == 401
    assert story.sign_in("olivia", password, "12345x").status == 401
    found = story.sign_in("olivia", password, pyotp.TOTP(story.totp["olivia"]).now())
    story.cookie = cookie = story.session(found, "second session of olivia")
    assert doors.page(cookie, "/confirm", {"password": wrong, "return": "/account"}).status == 422
    assert doors.page(cookie, "/confirm", {"password": password, "return": "/account"}).status == 303
    made = doors.page(cookie, "/companies/new", {"name": "Acme"})
    story.company = re.findall(r"/companies/([0-9a-f-]{36})", made.header("location"))[0]
    invited = doors.page(cookie, f"/companies/{story.company}/invite", {"role": "viewer"}, shown={"an invitation"})
    story.join("victor", story.link(invited.text, "an invitation"), "an invitation")
    said = doors.json("operator", "link", shown={"a link of the command line"})
    story.link(said["url"], "a link of the command line")
    story.olivia = doors.json("operator", "list")["items"][0]["id"]


def operator_tokens(story: Story) -> None:
    """One from the page, one from the command line, which is revoked."""
    form = {"name": "ci", "role": "owner", "days": "30"}
    page = story.doors.page(story.cookie, "/account/tokens/new", form, shown={"an operator token"})
    story.operator_token = story.an_operator_token(page.text, "an operator token")
    words = ["token", "create", "--operator", story.olivia, "--name", "other"]
    made = story.doors.json("operator", *words, shown={"a revoked operator token"})
    revoked = story.an_operator_token(made["token"], "a revoked operator token")
    assert story.doors.rest(revoked, "GET", "/v1/me").status == 200
    story.doors.json("operator", "token", "revoke", "--id", made["id"])
    assert story.doors.rest(revoked, "GET", "/v1/me").status == 401


def agents(story: Story) -> None:
    """One is hired at each door, and each gets a new token there."""
    doors, api, pages = story.doors, f"/v1/companies/{story.company}/agents", f"/companies/{story.company}/agents"
    hired = doors.page(story.cookie, f"{pages}/hire", {"name": "ann"}, shown={"first token of ann"})
    first = {"ann": story.agent_token(hired.text, "first token of ann")}
    story.agents["ann"] = re.findall(rf"{pages}/([0-9a-f-]{{36}})", hired.text)[0]
    asked: dict[str, Any] = {
        "body": {"name": "ben"},
        "headers": {"Idempotency-Key": "hire"},
        "shown": {"first token of ben"},
    }
    made = doors.rest(story.operator_token, "POST", api, **asked).json
    first["ben"], story.agents["ben"] = story.agent_token(made["token"], "first token of ben"), made["id"]
    again = doors.rest(story.operator_token, "POST", api, **{**asked, "shown": ()}).json
    assert again["id"] == made["id"]
    made = doors.json("agent", "create", "cid", "--company", story.company, shown={"first token of cid"})
    first["cid"], story.agents["cid"] = story.agent_token(made["token"], "first token of cid"), made["id"]
    for who, token in first.items():
        assert doors.tool(token, "whoami", {}).json["result"]["structuredContent"]["name"] == who
        shown = {f"token of {who}"}
        path = f"{pages}/{story.agents[who]}/rotate-token"
        if who == "ann":
            seen = re.findall(r'name="seen" value="([^"]+)"', doors.page(story.cookie, path).text)[0]
            text = doors.page(story.cookie, path, {"seen": seen}, shown=shown).text
        elif who == "ben":
            text = doors.rest(story.operator_token, "POST", f"/v1{path}", shown=shown).text
        else:
            text = doors.json("agent", "rotate-token", "--id", story.agents[who], shown=shown)["token"]
        story.tokens[who] = story.agent_token(text, f"token of {who}")
        assert doors.tool(token, "whoami", {}).status == 401
        assert doors.rest(token, "GET", "/v1/me").status == 401
    runs(story)
    doors.json("agent", "pause", "--id", story.agents["cid"])
    assert doors.tool(story.tokens["cid"], "whoami", {}).status == 401


def runs(story: Story) -> None:
    """Two of one agent: one ends, one goes on."""
    doors, api = story.doors, f"/v1/companies/{story.company}/runs"
    for name in ("token of the run that ends", "token of the run that goes on"):
        headers = {"Idempotency-Key": name.replace(" ", "-")}
        asked: dict[str, Any] = {"body": {"purpose": name}, "headers": headers}
        made = doors.rest(story.tokens["ben"], "POST", api, **asked, shown={name}).json
        token = story.run_token(made["token"], name)
        assert doors.rest(story.tokens["ben"], "POST", api, **asked).json["token"] is None
        assert doors.tool(token, "whoami", {}).json["result"]["structuredContent"]["run"] == made["id"]
        fence = {"fencing_token": made["fencing_token"]}
        assert doors.rest(token, "POST", f"{api}/{made['id']}/renew", fence).status == 200
        if name.endswith("ends"):
            assert doors.rest(token, "POST", f"{api}/{made['id']}/finish", fence).status == 200
            assert doors.tool(token, "whoami", {}).status == 401


def remote_agents(story: Story) -> None:
    """The runs of each agent are handed over from now on: set at another door for each, and the secret rotated there."""
    doors, api, pages = story.doors, f"/v1/companies/{story.company}/agents", f"/companies/{story.company}/agents"
    for who, door in (("ann", "page"), ("ben", "rest"), ("cid", "cli")):
        agent, first, second = story.agents[who], f"first secret handed to {who}", f"secret handed to {who}"
        key = f"query of the address of {who}"
        story.canaries.plant(key, made_up(key))
        url = f"{story.slack.url}/runs?key={made_up(key)}"
        path, rotate = f"{agent}/adapter", f"{agent}/adapter/rotate-secret"
        if door == "page":
            form = {"kind": "http", "url": url, "private_network": "yes"}
            story.webhook_secret(doors.page(story.cookie, f"{pages}/{path}", form, shown={first}).text, first)
            seen = re.findall(r'name="seen" value="([^"]+)"', doors.page(story.cookie, f"{pages}/{rotate}").text)[0]
            text = doors.page(story.cookie, f"{pages}/{rotate}", {"seen": seen}, shown={second}).text
        elif door == "rest":
            body = {"adapter": "http", "config": {"url": url, "allow_private_network": True}}
            made = doors.rest(story.operator_token, "PUT", f"{api}/{path}", body, shown={first}).json
            story.webhook_secret(made["secret"], first)
            text = doors.rest(story.operator_token, "POST", f"{api}/{rotate}", shown={second}).text
        else:
            words = ("agent", "adapter", "--id", agent, "--http", url, "--allow-private-network")
            # What is typed is the operator's own affair.
            story.webhook_secret(doors.json(*words, shown={first})["secret"], first)
            text = doors.json("agent", "rotate-secret", "--id", agent, shown={second})["secret"]
        story.webhook_secret(text, second)
        assert made_up(key) not in doors.page(story.cookie, f"{pages}/{path}").text
        doors.json("agent", "show", "--id", agent)
        assert doors.rest(story.operator_token, "GET", f"{api}/{agent}").json["adapter"] == "http"


def webhooks(story: Story) -> None:
    """One is made at each door, and its secret rotated there; each gets a message."""
    doors, api, pages = story.doors, f"/v1/companies/{story.company}/webhooks", f"/companies/{story.company}/webhooks"
    url, wanted = f"{story.slack.url}/hook", ["agent.token.rotated", "key.rotated"]
    names = {door: f"first secret of the webhook by {door}" for door in ("page", "rest", "cli")}
    form = {"url": url, "event": wanted[0], "private_network": "yes"}
    made = doors.page(story.cookie, f"{pages}/new", form, shown={names["page"]}).text
    story.webhook_secret(made, names["page"])
    ids = {"page": re.findall(rf"{pages}/([0-9a-f-]{{36}})", made)[0]}
    body = {"url": url, "events": wanted, "allow_private_network": True}
    asked: dict[str, Any] = {"body": body, "headers": {"Idempotency-Key": "webhook"}}
    by_rest = doors.rest(story.operator_token, "POST", api, **asked, shown={names["rest"]}).json
    story.webhook_secret(by_rest["secret"], names["rest"])
    assert doors.rest(story.operator_token, "POST", api, **asked).json["secret"] is None
    words = ["create", url, "--company", story.company, "--event", wanted[0], "--allow-private-network"]
    by_cli = doors.json("webhook", *words, shown={names["cli"]})
    story.webhook_secret(by_cli["secret"], names["cli"])
    ids |= {"rest": by_rest["id"], "cli": by_cli["id"]}
    for door, webhook in ids.items():
        name = f"secret of the webhook by {door}"
        if door == "page":
            path = f"{pages}/{webhook}/rotate-secret"
            seen = re.findall(r'name="seen" value="([^"]+)"', doors.page(story.cookie, path).text)[0]
            text = doors.page(story.cookie, path, {"seen": seen}, shown={name}).text
        elif door == "rest":
            text = doors.rest(story.operator_token, "POST", f"{api}/{webhook}/rotate-secret", shown={name}).text
        else:
            text = doors.json("webhook", "rotate-secret", "--id", webhook, shown={name})["secret"]
        story.webhook_secret(text, name)
        doors.json("webhook", "show", "--id", webhook)
        assert doors.page(story.cookie, f"{pages}/{webhook}/test", {}).status == 303
        assert doors.page(story.cookie, f"{pages}/{webhook}").status == 200
        for path in (webhook, f"{webhook}/deliveries"):
            assert doors.rest(story.operator_token, "GET", f"{api}/{path}").status == 200
    assert doors.page(story.cookie, pages).status == 200
    doors.json("webhook", "list", "--company", story.company)
    # What leaves is signed with a key that is made then.
    doors.json("audit", "key")


def _api(story: Story) -> str:
    return f"/v1/companies/{story.company}/integrations"


def _pages(story: Story) -> str:
    return f"/companies/{story.company}/integrations"


def connecting(story: Story) -> None:
    """Slack is connected at each door, after a token that it refuses; and a service that is not asked."""
    doors, url = story.doors, story.slack.url
    words = ["connect", "slack", "--company", story.company, "--name", "by-cli", "--base-url", url]
    words += ["--allow-private-network", "--allow-all", "--token-stdin", "--json"]
    form = {"name": "by-page", "base_url": url, "private_network": "yes", "who": "all"}
    body = {"provider": "slack", "name": "by-rest", "base_url": url, "allow_private_network": True, "allow_all": True}
    for good in (False, True):
        tokens = {
            way: story.provider_token(f"{'the' if good else 'a refused'} token of {way}", good=good)
            for way in ("by-cli", "by-page", "by-rest")
        }
        assert doors.cli("integration", *words, given=tokens["by-cli"] + "\n").status == (0 if good else 4)
        page = doors.page(story.cookie, f"{_pages(story)}/connect/slack", {**form, "token": tokens["by-page"]})
        assert page.status == (303 if good else 422)
        for _ in range(2):
            sent = {**body, "token": tokens["by-rest"]}
            answer = doors.rest(story.operator_token, "POST", _api(story), sent, {"Idempotency-Key": "connect"})
            assert answer.status == (201 if good else 422)
    token = story.provider_token("the token of generic")
    generic = {**body, "provider": "generic", "name": "generic", "header": "X-Api-Key", "token": token}
    assert doors.rest(story.operator_token, "POST", _api(story), generic).status == 201
    found = doors.rest(story.operator_token, "GET", _api(story)).json["items"]
    story.integrations = {entry["name"]: entry["id"] for entry in found}
    assert len(story.integrations) == 4


def rotating(story: Story) -> None:
    """Each gets a new token at its door, again after a refused one; the provider revokes one, which a check finds."""
    doors, known = story.doors, story.integrations
    path = f"{_api(story)}/{known['by-rest']}"
    for good in (False, True):
        tokens = {
            way: story.provider_token(f"{'the' if good else 'a refused'} rotated token of {way}", good=good)
            for way in ("by-cli", "by-page", "by-rest")
        }
        done = doors.cli("integration", "rotate", "--id", known["by-cli"], "--token-stdin", given=tokens["by-cli"])
        assert done.status == (0 if good else 4)
        page = doors.page(story.cookie, f"{_pages(story)}/{known['by-page']}/rotate", {"token": tokens["by-page"]})
        assert page.status == (303 if good else 422)
        answer = doors.rest(story.operator_token, "POST", f"{path}/rotate", {"token": tokens["by-rest"]})
        assert answer.status == (200 if good else 422)
    story.slack.good.discard(token_like("the rotated token of by-rest"))
    assert doors.rest(story.operator_token, "POST", f"{path}/check").json["status"] == "needs attention"
    assert doors.page(story.cookie, f"{_pages(story)}/{known['by-page']}/check", {}).status == 303
    assert doors.json("integration", "check", "--id", known["by-cli"])["status"] == "connected"
    assert doors.rest(story.operator_token, "POST", f"{path}/request", {"path": "/echo/plain"}).status == 403


def calling(story: Story) -> None:
    """The agent uses what it may, and the provider sends the credential back in every way that we know."""
    for name in ("by-cli", "by-page", "generic"):
        for shape in (*ECHOES, *FAULTS, "elsewhere", "onwards"):
            given = {"integration": name, "method": "POST", "path": f"/echo/{shape}", "body": {"text": "hello"}}
            said = story.doors.tool(story.tokens["ann"], "integration_request", given, name=f"{shape} from {name}")
            assert said.status == 200
            if REMOVED in said.data:
                story.removed.add(f"{shape} from {name}")
    for shape in (*ECHOES, *FAULTS):
        path = f"{_api(story)}/{story.integrations['by-cli']}/request"
        story.doors.rest(story.tokens["ben"], "POST", path, {"path": f"/echo/{shape}"}, name=f"{shape} over REST")


def looking(story: Story) -> None:
    """Everything that shows something, at every door."""
    doors, company, ann = story.doors, story.company, story.tokens["ann"]
    integration, agent = story.integrations["by-rest"], story.agents["ben"]
    pages = [
        "",
        "/integrations",
        f"/integrations/{integration}",
        "/integrations/connect",
        "/integrations/connect/slack",
    ]
    pages += [f"/integrations/{integration}/{each}" for each in ("allow", "rotate", "delete")]
    pages += ["/agents", "/agents/hire", "/audit", "/audit?kind=integration", "/audit/verify", "/invite"]
    pages += [f"/agents/{agent}", f"/agents/{agent}/rotate-token", f"/agents/{agent}/retire"]
    everywhere = ["/companies", "/companies/new", "/people", "/people/link", "/account", "/account/tokens/new"]
    everywhere += ["/audit", "/audit/verify", "/patterns", "/confirm", "/nothing"]
    for path in (*everywhere, *(f"/companies/{company}{page}" for page in pages)):
        assert doors.page(story.cookie, path).status == (404 if path == "/nothing" else 200), path
    lists = [
        "integrations",
        f"integrations/{integration}",
        "agents",
        f"agents/{agent}",
        "tasks",
        "audit",
    ]
    for path in (
        "me",
        "companies",
        "providers",
        "operator-tokens",
        "openapi.json",
        *(f"companies/{company}/{each}" for each in lists),
    ):
        assert doors.rest(story.operator_token, "GET", f"/v1/{path}").status == 200, path
    assert doors.rest(story.operator_token, "POST", f"/v1/companies/{company}/audit/verify").json["good"] is True
    for tool in ("whoami", "integration_list", "task_list"):
        assert doors.tool(ann, tool, {}).json["result"]["isError"] is False
    doors.rpc(ann, "tools/list", {}, name="tools/list")
    assert doors.tool(ann, "task_create", {"title": "a task"}).json["result"]["isError"] is False


def operating(story: Story) -> None:
    """What an operator looks at on the command line."""
    of_company, one = ["--company", story.company], ["--id", story.integrations["by-rest"]]
    words = [
        ["doctor"],
        ["key", "status"],
        ["key", "verify"],
        ["audit", "verify"],
        ["audit", "tail"],
        ["company", "list"],
    ]
    words += [["agent", "list", *of_company], ["integration", "list", *of_company], ["integration", "show", *one]]
    words += [["operator", "list"], ["operator", "token", "list"], ["provider", "show", "slack"]]
    words += [["audit", "export"], ["audit", "tail", "--limit", "1000"], ["key", "verify", "--help"]]
    for each in words:
        for form in ([], ["--json"]):
            done = story.doors.cli(*each, *form)
            assert done.status == 0, done


def dying(story: Story, up: Up) -> list[Place]:
    """The orchestrator is killed in the middle of a call; the database as it lies there then."""
    given = {"integration": "by-cli", "method": "POST", "path": "/api/hold", "body": {}}
    with ThreadPoolExecutor(1) as pool:
        call = pool.submit(story.doors.tool, story.tokens["ann"], "integration_request", given)
        assert story.slack.held.wait(60)
        story.look(up)
        server = postmaster(story.machine.home)
        up.process.kill()
        up.process.wait()
        wait_gone(server)
        with pytest.raises(OSError):
            call.result()
    wait_stopped(story.machine.home)
    story.slack.let_go.set()
    return [*places.database_files(story.machine.home), *story.home()]
