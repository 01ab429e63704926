"""
A company's days: everything that takes a secret gets one, by every door, and everything that can go wrong does.
"""

from __future__ import annotations

import base64
import json
import re
import signal
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pyotp

from tests.cli.processes import Machine, Up
from tests.database.processes import postmaster, wait_gone, wait_stopped
from tests.promises import places
from tests.promises.doors import Answer, Doors
from tests.promises.provider import ECHOES, FAULTS, EchoingSlack
from tests.promises.search import Canaries, Place, made_up, token_like

REMOVED = b"[credential removed]"


class Story:
    """What is told in order by `told`; `canaries` and `doors.said` grow with it."""

    def __init__(self, machine: Machine, slack: EchoingSlack) -> None:
        self.machine = machine
        self.slack = slack
        self.doors = Doors(machine)
        self.canaries = Canaries()
        self.company = ""
        self.agent = ""
        self.token = ""
        self.cookie = ""
        self.operator_token = ""
        self.integrations: dict[str, str] = {}
        # What was seen while it went on, and would be gone at its end.
        self.seen: list[Place] = []

    def made(self, name: str, *, good: bool = True) -> str:
        """A new provider's token, planted; `good` is what the provider thinks of it."""
        token = token_like(name)
        self.canaries.plant(name, made_up(name))
        if good:
            self.slack.good.add(token)
        return token

    def arrive(self, up: Up) -> None:
        """Begin to talk to an orchestrator."""
        self.doors.url = up.url
        link = up.ready["sign_in_url"]
        if link:
            self.canaries.plant("the first link", link.rpartition("=")[2])
        self.doors.keep("first line of up", up.first_line.encode(), {"the first link"} if link else ())

    def leave(self, up: Up) -> None:
        """What an orchestrator that has ended said besides."""
        assert up.process.stdout is not None
        self.doors.keep("standard output of up", up.process.stdout.read())
        self.doors.keep("standard error of up", up.errors.encode())

    def look(self, up: Up) -> None:
        """What can be seen only while it runs."""
        self.seen += places.processes(self.machine.home, up.pid)

    # — people —

    def join(self, link: str, who: str, shown: str) -> str:
        """Use a sign-in link, at the second attempt; the cookie of the session."""
        path = f"/join?token={link}"
        owned = {shown, f"TOTP secret of {who}"}
        offered = self.doors.page("", path, shown=owned, name="GET /join").text
        found = re.search(r'name="totp" value="([A-Z2-7]{32})"', offered)
        assert found
        totp = found[1]
        self.canaries.plant(f"TOTP secret of {who}", totp, base64.b32decode(totp))
        password = f"quiet words of {made_up(f'password of {who}')}"
        self.canaries.plant(f"password of {who}", made_up(f"password of {who}"))
        form = {"link": link, "totp": totp, "name": who, "password": password, "code": "000000x"}
        assert self.doors.page("", "/join", form, shown=owned, name="POST /join, wrong code").status == 422
        # Codes are good once; the next one is for signing in.
        form["code"] = pyotp.TOTP(totp).at(int(time.time()) - 30)
        joined = self.doors.page("", "/join", form, shown={f"session of {who}"}, name="POST /join")
        assert joined.status == 303, joined.text
        assert self.doors.page("", path, name="GET /join, used").status == 404
        return self._session(joined, f"session of {who}")

    def sign_in(self, who: str, password: str, code: str) -> Answer:
        """One attempt."""
        form = {"name": who, "password": password, "code": code, "return": "/companies"}
        return self.doors.page("", "/sign-in", form, shown={f"second session of {who}"}, name="POST /sign-in")

    def _session(self, answer: Answer, name: str) -> str:
        cookie = answer.header("set-cookie").partition(";")[0].partition("=")[2]
        self.canaries.plant(name, cookie)
        return cookie
