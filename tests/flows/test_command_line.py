"""
Consents on the command line, as a process: a code and a link, and what is left when somebody no longer waits.
"""

from __future__ import annotations

import json
import signal
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from company_agents.app import open_app
from company_agents.settings import read_settings
from tests.cli.processes import Machine, machine_in
from tests.dashboard.people import LOCAL
from tests.flows.conftest import SECRET, write_services
from tests.oauth.server import AuthorizationServer


@dataclass(frozen=True)
class Station:
    """A machine without a browser, whose company has a client at Acme."""

    machine: Machine
    server: AuthorizationServer
    company: str

    def asking(self, name: str) -> tuple[subprocess.Popen[bytes], dict[str, Any]]:
        """A command that waits for a consent, and what it says of it."""
        words = ["integration", "connect", "acme", "--company", self.company, "--name", name, "--oauth", "--json"]
        words += ["--issuer", self.server.url, "--base-url", self.server.url, "--allow-private-network"]
        process = self.machine.start(*words, "--scope", "read")
        assert process.stderr is not None
        return process, json.loads(process.stderr.readline())

    async def kept(self) -> list[str]:
        """The names of what is sealed for the company, but for its client."""
        async with open_app(read_settings(home=self.machine.home)) as app:
            caller = await app.identity.in_company(LOCAL, (await app.companies.list(LOCAL)).items[0].id)
            names = [secret.name for secret in await app.store.list(caller.scope)]
        return [name for name in names if not name.startswith("oauth_client/")]


@pytest.fixture
def station(tmp_path: Path, server: AuthorizationServer) -> Iterator[Station]:
    server.add_client("client-1", SECRET)
    with machine_in(tmp_path) as machine:
        machine.home.mkdir(mode=0o700, parents=True, exist_ok=True)
        company = machine.json("company", "create", "Northwind")["id"]
        write_services(machine.home)
        words = ["provider", "configure", "acme", "--company", company, "--client-id", "client-1"]
        words += ["--client-secret-stdin", "--issuer", server.url, "--allow-private-network"]
        machine.json(*words, given=SECRET)
        yield Station(machine, server, company)


def test_a_code_and_a_link_are_shown_and_waited_for(station: Station) -> None:
    process, said = station.asking("by device")
    assert said["step"] == "consent"
    assert said["link"].startswith(f"{station.server.url}/device")
    station.server.decide(said["user_code"])
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    found = json.loads(out)
    assert (found["kind"], found["account"], found["scopes"]) == ("consent", "ada", ["read"])
    # The same flow again, for a new consent.
    process = station.machine.start("integration", "rotate", "--id", found["id"], "--json")
    assert process.stderr is not None
    station.server.decide(json.loads(process.stderr.readline())["user_code"])
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    assert json.loads(out)["version"] == 2


def test_a_no_is_a_refusal(station: Station) -> None:
    process, said = station.asking("refused")
    station.server.decide(said["user_code"], approve=False)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 4
    assert "denied" in json.loads(out)["error"]["message"]


async def test_who_no_longer_waits_leaves_nothing_behind(station: Station) -> None:
    process, said = station.asking("given up")
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    assert process.returncode == 130
    assert await station.kept() == []
    station.server.decide(said["user_code"])
    assert station.machine.json("integration", "list", "--company", station.company)["items"] == []


def test_the_client_itself_is_connected_at_once(station: Station) -> None:
    words = ["integration", "connect", "acme", "--company", station.company, "--oauth", "--flow", "client"]
    words += ["--issuer", station.server.url, "--base-url", station.server.url, "--allow-private-network"]
    found = station.machine.json(*words)
    assert found["kind"] == "consent"
    assert station.machine.json("integration", "rotate", "--id", found["id"])["version"] == 2


def test_the_redirect_address_is_that_of_the_orchestrator_that_runs(station: Station) -> None:
    with station.machine.up() as up:
        said = station.machine.json("provider", "configured", "--company", station.company)["items"][0]["redirect_uri"]
        assert said.startswith(f"{up.url}/oauth/callback/acme")
        assert ":3101" not in said
        assert up.stop() == 0
