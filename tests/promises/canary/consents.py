"""
Consents in the story: clients at each door, consents that are given, denied, repeated, refreshed, rotated and revoked.
"""

from __future__ import annotations

import html
import re
import time
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import parse_qs, urlsplit

import httpx2

from tests.flows.conftest import write_services
from tests.oauth.server import AuthorizationServer
from tests.promises.canary.search import made_up
from tests.promises.canary.story import Story


def _client_secret(story: Story, name: str) -> str:
    story.canaries.plant(name, made_up(name))
    return made_up(name)


def consenting(story: Story) -> None:
    """All of it, against an authorization server that is there for so long."""
    write_services(story.machine.home)
    with AuthorizationServer() as server:
        server.consent = "approve"
        try:
            clients(story, server)
            by_code(story, server)
            by_device(story, server)
            going_on(story, server)
        finally:
            plant(story, server)


def clients(story: Story, server: AuthorizationServer) -> None:
    """One by each door in the place of the one before; the last one stays."""
    doors, cookie = story.doors, story.cookie
    issuer = {"issuer": server.url, "private_network": "yes", "auth": "post"}
    page = f"/companies/{story.company}/integrations/connect/acme"
    secret = _client_secret(story, "client secret by page")
    form = {"client_id": "client-1", "client_secret": secret, **issuer}
    assert doors.page(cookie, f"{page}/client", {**form, "issuer": "nowhere"}).status == 422
    assert doors.page(cookie, f"{page}/client", form).status == 303
    secret = _client_secret(story, "client secret by cli")
    words = ["provider", "configure", "acme", "--company", story.company, "--client-id", "client-1"]
    words += ["--client-secret-stdin", "--issuer", server.url, "--allow-private-network"]
    done = doors.cli(*words, given=secret)
    assert done.status == 0, done.err
    redirect = re.search(r"http\S+/oauth/callback/acme/[0-9a-f]{16}", done.out)
    assert redirect
    server.add_client("client-1", secret, redirect_uris=[doors.url + urlsplit(redirect[0]).path, redirect[0]])
    for path in ("/clients", "/clients/acme/delete", "/integrations/connect/acme/client"):
        assert doors.page(cookie, f"/companies/{story.company}{path}").status == 200
    assert doors.json("provider", "configured", "--company", story.company)["items"]


def _begun(story: Story, server: AuthorizationServer, path: str, form: dict[str, str], name: str) -> str:
    """A consent that is asked for, and answered at the provider: the path that the browser is sent back to."""
    going = story.doors.page(story.cookie, path, form, shown={f"state of {name}"}, name=f"going on, {name}")
    assert going.status == 200, going.text
    [url] = set(re.findall(r'href="([^"]+/authorize\?[^"]+)"', going.text))
    url = html.unescape(url)
    story.canaries.plant(f"state of {name}", parse_qs(urlsplit(url).query)["state"][0][-43:])
    answer = httpx2.get(url, follow_redirects=False)
    assert answer.status_code == 302
    back = urlsplit(answer.headers["location"])
    return f"{back.path}?{back.query}"


def by_code(story: Story, server: AuthorizationServer) -> None:
    """Given, brought back twice, denied, brought by nobody, and lost on the way."""
    doors = story.doors
    path = f"/companies/{story.company}/integrations/connect/acme/consent"
    form = {"base_url": server.url, "private_network": "yes", "who": "all", "scope": "read", "flow": "code"}
    back = _begun(story, server, path, {**form, "name": "by-consent"}, "a consent")
    assert doors.page("", back, name="the answer, signed out").status == 401
    assert doors.page(story.cookie, back, name="the answer").status == 303
    assert doors.page(story.cookie, back, name="the answer, again").status == 403
    server.consent = "deny"
    back = _begun(story, server, path, {**form, "name": "denied"}, "a denied consent")
    assert doors.page(story.cookie, back, name="the denial").status == 403
    server.consent = "approve"
    back = _begun(story, server, path, {**form, "name": "lost"}, "a lost consent")
    server.misbehave("lose")
    assert doors.page(story.cookie, back, name="the answer, lost").status == 503
    # One that is never answered is sealed when this is searched.
    _begun(story, server, path, {**form, "name": "unanswered"}, "an unanswered consent")


def by_device(story: Story, server: AuthorizationServer) -> None:
    """On the command line: one that is waited for until somebody says yes elsewhere."""
    words = ["integration", "connect", "acme", "--company", story.company, "--name", "by-device", "--oauth"]
    words += ["--issuer", server.url, "--base-url", server.url, "--allow-private-network", "--allow-all", "--json"]
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(story.machine.run, *words)
        until = time.monotonic() + 60
        while not server.state.devices and time.monotonic() < until:
            time.sleep(0.05)
        [device] = server.state.devices.values()
        server.decide(device.user_code)
        done = running.result()
    assert done.status == 0, done.err
    story.doors.keep("standard output of the device flow", done.out.encode())
    story.doors.keep("standard error of the device flow", done.err.encode())


def going_on(story: Story, server: AuthorizationServer) -> None:
    """They are used, refreshed, rotated and revoked."""
    doors, pages = story.doors, f"/companies/{story.company}/integrations"
    found = doors.rest(story.operator_token, "GET", f"/v1{pages}").json["items"]
    ids = {entry["name"]: entry["id"] for entry in found}
    call = {"method": "GET", "path": "/api/me"}
    for name in ("by-consent", "by-device"):
        said = doors.tool(story.tokens["ann"], "integration_request", {"integration": name, **call})
        assert said.json["result"]["isError"] is False, said.text
    one = f"{pages}/{ids['by-consent']}"
    assert doors.page(story.cookie, f"{one}/rotate").status == 200
    # So short that its next use refreshes it.
    server.state.lifetime = 2
    back = _begun(story, server, f"{one}/rotate", {}, "a rotation")
    assert doors.page(story.cookie, back, name="the answer of a rotation").status == 303
    server.state.lifetime = 3600
    time.sleep(2)
    said = doors.tool(story.tokens["ann"], "integration_request", {"integration": "by-consent", **call})
    assert said.json["result"]["isError"] is False, said.text
    assert server.refresh_count() > 0
    assert doors.page(story.cookie, one).status == 200
    assert doors.page(story.cookie, f"{pages}/{ids['by-device']}/revoke", {}).status == 303
    assert doors.page(story.cookie, f"{pages}/{ids['by-device']}").status == 200


def plant(story: Story, server: AuthorizationServer) -> None:
    """What the server gave and was told, by its kind."""
    state, canaries = server.state, story.canaries
    for kind, values in [
        ("access token", list(state.by_access)),
        ("refresh token", list(state.by_refresh)),
        ("authorization code", list(state.codes)),
        ("device code", list(state.devices)),
        (
            "code verifier",
            [str(c.fields["code_verifier"]) for c in server.calls_to("/token") if "code_verifier" in c.fields],
        ),
    ]:
        assert values, f"there was no {kind}"
        for number, value in enumerate(values, 1):
            canaries.plant(f"{kind} {number}", value)
