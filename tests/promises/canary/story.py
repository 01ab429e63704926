"""
An instance that is used, with a known value in every secret field; what has to be remembered while it goes on.
"""

from __future__ import annotations

import base64
import html
import re
import time
from collections.abc import Iterable, Iterator

import pyotp

from company_agents.crypto.keyring import key_id_of
from tests.cli.processes import Machine, Up
from tests.cli.warm import Run
from tests.promises.canary import places
from tests.promises.canary.doors import Answer, Doors
from tests.promises.canary.provider import EchoingSlack
from tests.promises.canary.search import Canaries, Place, made_up, token_like

AGENT_TOKEN = re.compile(r"ca_agent_[A-Za-z0-9_-]{92}")
RUN_TOKEN = re.compile(r"ca_run_[A-Za-z0-9_-]{92}")
OPERATOR_TOKEN = re.compile(r"ca_op_[A-Za-z0-9_-]{70}")


class Story:
    """`canaries` and what the `doors` said grow with it; days.py has what happens."""

    def __init__(self, machine: Machine, run: Run, slack: EchoingSlack) -> None:
        self.machine = machine
        self.slack = slack
        self.doors = Doors(machine, run)
        self.canaries = Canaries()
        self.company = ""
        self.olivia = ""
        self.cookie = ""
        self.operator_token = ""
        self.totp: dict[str, str] = {}
        self.agents: dict[str, str] = {}
        self.tokens: dict[str, str] = {}
        self.integrations: dict[str, str] = {}
        # Every master key that there ever was, by its id; and the ids of those that were destroyed.
        self.keys: dict[str, bytes] = {}
        self.destroyed: set[str] = set()
        # Whose credential came back, in which form, and was taken out.
        self.removed: set[str] = set()
        # What was to be seen of the processes while they ran.
        self.seen: list[Place] = []

    def arrive(self, up: Up) -> str:
        """Begin to talk to an orchestrator; the link for the first owner, if there is one."""
        self.doors.url = up.url
        self.collect()
        link = (up.ready["sign_in_url"] or "").rpartition("=")[2]
        if link:
            self.canaries.plant("the first link", link)
        self.doors.keep("first line of up", up.first_line.encode(), {"the first link"} if link else ())
        return link

    def look(self, up: Up) -> None:
        """What is to be seen of the processes now."""
        self.seen += places.processes(self.machine.home, up.pid)

    def leave(self, up: Up) -> None:
        """What an orchestrator that has ended had said besides."""
        assert up.process.stdout is not None
        self.doors.keep("standard output of up", up.process.stdout.read())
        self.doors.keep("standard error of up", up.errors.encode())

    # — the master key —

    def collect(self, destroyed: Iterable[str] = ()) -> None:
        """Plant the keys that are there and were not before; these were destroyed, and had been seen before that."""
        folder = self.machine.home / "secrets"
        for file in (folder / "master.key", *(folder / "keys").glob("*.key")):
            key = file.read_bytes()
            if key_id_of(key) not in self.keys:
                self.keys[key_id_of(key)] = key
                self.canaries.plant(places.master_key(key_id_of(key)), key)
        self.destroyed.update(destroyed)
        assert self.destroyed <= self.keys.keys()

    def active(self) -> str:
        """The id of the key that is current."""
        return key_id_of((self.machine.home / "secrets" / "master.key").read_bytes())

    def home(self) -> Iterator[Place]:
        """The files of the home; a key that lives is shown where it lives."""
        return places.home_files(self.machine.home, self.keys.keys() - self.destroyed)

    # — what is secret —

    def provider_token(self, name: str, *, good: bool = True) -> str:
        """A new one; `good` is what the provider thinks of it."""
        self.canaries.plant(name, made_up(name))
        token = token_like(name)
        if good:
            self.slack.good.add(token)
        return token

    def password(self, name: str) -> str:
        """What somebody types."""
        self.canaries.plant(name, made_up(name))
        return f"quiet words of {made_up(name)}"

    def agent_token(self, text: str, name: str) -> str:
        """The token of ours that this text shows."""
        return self._token(AGENT_TOKEN, text, name)

    def run_token(self, text: str, name: str) -> str:
        """The same, of a run."""
        return self._token(RUN_TOKEN, text, name)

    def an_operator_token(self, text: str, name: str) -> str:
        """The same, of an operator."""
        return self._token(OPERATOR_TOKEN, text, name)

    def webhook_secret(self, text: str, name: str) -> str:
        """The signing secret that this text shows."""
        found = re.search(r"whsec_([A-Za-z0-9+/]{43}=)", html.unescape(text))
        assert found, f"{name} is not shown"
        self.canaries.plant(name, found[1], base64.b64decode(found[1]))
        return found[0]

    def _token(self, pattern: re.Pattern[str], text: str, name: str) -> str:
        found = pattern.search(text)
        assert found, f"{name} is not shown"
        self.canaries.plant_token(name, found[0])
        return found[0]

    def link(self, text: str, name: str) -> str:
        """The token of the sign-in link that this text shows."""
        found = re.search(r"/join\?token=([A-Za-z0-9_-]{43})", text)
        assert found, f"{name} is not shown"
        self.canaries.plant(name, found[1])
        return found[1]

    def session(self, answer: Answer, name: str) -> str:
        """The session that this answer opens."""
        assert answer.status == 303, answer.text
        cookie = answer.header("set-cookie").partition(";")[0].partition("=")[2]
        self.canaries.plant(name, cookie)
        return cookie

    # — people —

    def join(self, who: str, link: str, shown: str) -> str:
        """Use a sign-in link, at the second attempt."""
        owned = {shown, f"TOTP secret of {who}"}
        offered = self.doors.page("", f"/join?token={link}", shown=owned, name="GET /join").text
        found = re.search(r'name="totp" value="([A-Z2-7]{32})"', offered)
        assert found
        totp = self.totp[who] = found[1]
        self.canaries.plant(f"TOTP secret of {who}", totp, base64.b32decode(totp))
        form = {"link": link, "totp": totp, "name": who, "password": self.password(f"password of {who}")}
        wrong = {**form, "code": "12345x"}
        assert self.doors.page("", "/join", wrong, shown=owned, name="POST /join, wrong code").status == 422
        # A code is good once, and the next one is for signing in.
        form["code"] = pyotp.TOTP(totp).at(int(time.time()) - 30)
        joined = self.doors.page("", "/join", form, shown={f"session of {who}"}, name="POST /join")
        assert self.doors.page("", f"/join?token={link}", name="GET /join, used").status == 404
        return self.session(joined, f"session of {who}")

    def sign_in(self, who: str, password: str, code: str) -> Answer:
        """One attempt."""
        form = {"name": who, "password": password, "code": code, "return": "/companies"}
        return self.doors.page("", "/sign-in", form, shown={f"second session of {who}"}, name="POST /sign-in")
