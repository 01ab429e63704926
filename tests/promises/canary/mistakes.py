"""
Secrets that are put where none belongs: into a path, a name, an argument, an address.
"""

from __future__ import annotations

import dataclasses
import json
from typing import Any
from urllib.parse import quote

from tests.promises.canary.doors import bearer
from tests.promises.canary.search import made_up
from tests.promises.canary.story import Story


def _calls(secret: str) -> list[tuple[str, Any]]:
    good: dict[str, Any] = {"integration": "by-cli", "method": "GET", "path": "/api/fine"}
    segment = quote(secret, safe="")
    return [
        ("whoami", {secret: 1}),
        ("whoami", secret),
        ("whoami", [secret]),
        (secret, {}),
        *(("task_list", {name: secret}) for name in ("status", "assignee", "after", "limit")),
        *((tool, {"id": secret}) for tool in ("task_get", "memory_get", "memory_delete", "task_update")),
        ("integration_request", {**good, secret: 1}),
        # What is a method goes to the provider, which may well repeat it.
        ("integration_request", {**good, "method": f"{secret}:"}),
        *(("integration_request", {**good, name: secret}) for name in ("integration", "path", "headers")),
        *(
            ("integration_request", {**good, "path": path})
            for path in (f"/{segment}", f"/a/{segment}.json", f"/b//{secret}")
        ),
        ("integration_request", {**good, "query": secret}),
        ("integration_request", {**good, "query": {secret: {}}}),
        ("integration_request", {**good, "query": {"a": [[secret]], "b": secret}}),
        ("integration_request", {**good, "query": {"a": secret}}),
        *(
            ("integration_request", {**good, "headers": headers})
            for headers in ({secret: "x"}, {secret: "\0"}, {"X-A": f"{secret}\0"}, {"X-A": secret}, {"X-A": [secret]})
        ),
    ]


def by_agents(story: Story, secret: str) -> None:
    """In a call of a tool, and in what is around it."""
    doors, ann = story.doors, story.tokens["ann"]
    segment = quote(secret, safe="")
    for tool, arguments in _calls(secret):
        spelled = json.dumps(arguments).replace(json.dumps(secret)[1:-1], "…")
        doors.tool(ann, tool, arguments, name=f"tool {'…' if tool == secret else tool} with {spelled}")
    doors.rpc(ann, secret, {}, name="method …")
    doors.rpc(ann, "tools/call", secret, name="parameters …")
    doors.rpc(ann, "tools/call", {"name": "whoami", secret: 1}, name="parameter …")
    for header in (
        "MCP-Protocol-Version",
        "Mcp-Method",
        "Mcp-Name",
        "Mcp-Session-Id",
        "Last-Event-ID",
        "Origin",
        "Accept",
    ):
        doors.rpc(ann, "tools/call", {"name": "whoami"}, {header: secret}, name=f"{header}: …")
    doors.http("POST", f"/mcp?token={segment}", b"{}", name="/mcp?token=…")
    doors.http("POST", f"/mcp/{segment}", b"{}", bearer(ann), name="/mcp/…")
    doors.http("POST", "/mcp", secret.encode(), {**bearer(ann), "Content-Type": "application/json"}, name="a body …")


def _bodies(secret: str, good: dict[str, Any]) -> list[Any]:
    urls = (f"https://u:{secret}@a.example", f"https://{quote(secret, safe='')}", secret, f"https://a.example/{secret}")
    switches = ("provider", "header", "allow_private_network", "allow_all", "allow")
    return [
        {secret: 1},
        {**good, secret: 1},
        *(
            {**good, name: value}
            for name in ("provider", "name", "token")
            for value in ([secret], {secret: 1}, secret * 20)
        ),
        *({**good, "base_url": url} for url in urls),
        *({**good, name: secret} for name in switches),
        {**good, "allow": [secret]},
        secret,
        [secret],
        secret.encode(),
        b'{"token": "' + secret.encode(),
    ]


def by_programs(story: Story, secret: str) -> None:
    """In a request to the REST door."""
    doors, token, segment = story.doors, story.operator_token, quote(secret, safe="")
    api = f"/v1/companies/{story.company}"
    good = {"provider": "slack", "token": story.provider_token("a token beside a mistake", good=False)}
    for path in (f"/v1/{segment}", f"/v1/companies/{segment}", f"{api}/{segment}", f"{api}/integrations/{segment}"):
        for method in ("GET", "DELETE"):
            doors.rest(token, method, path, name=f"{method} {path.replace(segment, '…')}")
    for query in ("after", "limit", "before", "unknown", "token"):
        doors.rest(token, "GET", f"{api}/audit?{query}={segment}", name=f"GET audit?{query}=…")
        doors.http("GET", f"{api}/audit?{query}={segment}", name=f"GET audit?{query}=… by nobody")
    for number, body in enumerate(_bodies(secret, good)):
        doors.rest(token, "POST", f"{api}/integrations", body, name=f"wrong body {number}")
    for headers in (
        {"Content-Type": secret},
        {"Host": secret},
        {"Authorization": secret},
        {"Authorization": f"Basic {secret}"},
    ):
        doors.rest(token, "POST", f"{api}/integrations", good, headers, name=f"a header {[*headers]}")
    doors.rest(f"{secret} {secret}", "GET", api, name="a bearer of two words")
    doors.rest(
        token,
        "POST",
        f"{api}/integrations/{story.integrations['by-rest']}/rotate",
        {**good, "more": secret},
        name="rotate",
    )


def by_people(story: Story, secret: str) -> None:
    """In an address or a form of the dashboard."""
    doors, cookie, segment = story.doors, story.cookie, quote(secret, safe="")
    company = f"/companies/{story.company}"
    for path in (
        f"/{segment}",
        f"/companies/{segment}",
        f"{company}/integrations/connect/{segment}",
        f"/join?token={segment}",
    ):
        doors.page(cookie, path, name=f"GET {path.replace(segment, '…')}")
        doors.page("", path, name=f"GET {path.replace(segment, '…')} by nobody")
    for query in ("after", "before", "kind", "done"):
        doors.page(cookie, f"{company}/audit?{query}={segment}", name=f"GET audit?{query}=…")
    doors.page(segment, "/companies", name="a cookie …")
    for path, form in (
        (f"{company}/integrations/connect/slack", {"name": "wrong", "who": secret, "token": secret, secret: secret}),
        (f"{company}/integrations/connect/slack", {"name": "wrong", "who": "named", "agent": secret, "token": secret}),
        (f"{company}/invite", {"role": secret}),
        ("/sign-in", {"name": "olivia", "password": secret, "code": secret, "return": "/"}),
        ("/join", {"link": secret, "totp": secret, "password": secret}),
        (f"{company}/agents/{story.agents['ben']}/rotate-token", {"seen": secret}),
    ):
        doors.page(cookie, path, form, name=f"POST {path}")
        doors.page("", path, form, name=f"POST {path} by nobody")


def on_the_command_line(story: Story, secret: str) -> None:
    """As an argument, an option, or its value."""
    connect = ["integration", "connect", "slack", "--company", story.company, "--name", "wrong", "--token-stdin"]
    words: list[list[str]] = [
        [secret],
        ["integration", secret],
        ["integration", "list", "--company", secret],
        ["integration", "show", "--id", secret],
        ["integration", "show", f"--{secret}"],
        ["integration", "show", f"--id={story.company}", secret],
        ["integration", "list", "--company", story.company, "--limit", secret],
        ["integration", "list", "--company", story.company, "--after", secret],
        [*connect, "--token", secret],
        [*connect, f"--token={secret}"],
        [*connect, secret],
        [*connect[:2], secret, *connect[3:]],
        [*connect, "--base-url", f"https://user:{secret}@a.example"],
        [*connect, "--base-url", secret],
        [*connect, "--allow", secret],
        [*connect, "--header", secret],
        ["provider", "show", secret],
        ["operator", "token", "create", "--operator", story.olivia, "--name", "x", "--role", secret],
        ["audit", "tail", "--limit", secret],
        ["up", "--port", secret],
        ["doctor", secret],
    ]
    for each in words:
        for form in ([], ["--json"]):
            done = story.doors.cli(*each, *form, name=" ".join(each + form).replace(secret, "…"))
            assert done.status != 0, done


def on_standard_input(story: Story) -> None:
    """What is no token, among it what is not even text."""
    core = made_up("a token that is none").encode()
    story.canaries.plant("a token that is none", core)
    words = ["integration", "connect", "slack", "--company", story.company, "--name", "wrong", "--token-stdin"]
    words += ["--base-url", story.slack.url, "--allow-private-network"]
    wrong = (b"\xff\xfe" + core, b"\0" + core, core + b"\n" + core, core * 4000, core.decode().encode("utf-16"))
    for number, data in enumerate(wrong):
        done = story.doors.quickly(*words, given=data)
        assert done.status != 0, done
        story.doors.keep(f"what is said to wrong input {number}", (done.out + done.err).encode())


def in_settings(story: Story, secret: str) -> None:
    """In a variable of the environment, and in the file."""
    file = story.machine.home / "config.toml"
    for number, line in enumerate((f"port = {json.dumps(secret)}", f"{secret}", f"call_limit = {json.dumps(secret)}")):
        file.write_text(line)
        done = story.doors.quickly("company", "list")
        assert done.status == 78, done
        story.doors.keep(f"what is said to a wrong config.toml {number}", (done.out + done.err).encode())
    file.unlink()
    for name in ("COMPANY_AGENTS_PORT", "DATABASE_URL", "MASTER_KEY_SOURCE"):
        machine = dataclasses.replace(story.machine, more={**story.machine.more, name: secret})
        done = machine.run("company", "list")
        assert done.status == 78, done
        story.doors.keep(f"what is said to a wrong {name}", (done.out + done.err).encode())
