"""
A crowd of agents at two replicas of one instance, somebody who ends what they rest upon while they call, and a
ledger of what happened in which order.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import math
import uuid
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Hashable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import pyotp

from company_agents.api import api_app
from company_agents.app import App, open_app
from company_agents.identity.directory import Company
from company_agents.identity.passwords import new_totp_secret
from company_agents.identity.permissions import Role
from company_agents.identity.principal import Caller
from company_agents.sensitive import Sensitive
from company_agents.settings import Settings
from tests.api.conftest import serving
from tests.conftest import LOCAL
from tests.mcp.served import Answer, Served, served
from tests.mcp.slack import Slack

# Integrations of a company: one that nobody touches, one whose credential is rotated, one that is deleted, and one
# that agents are allowed and disallowed.
INTEGRATIONS = ("steady", "rotating", "doomed", "guarded")
# What becomes of an agent: every fifth of them has the same fate.
FATES = ("untouched", "rotated", "paused", "retired", "disallowed")


@dataclass
class Span:
    """A time in which a thing is off: asked for, acknowledged; asked to be taken back, and that acknowledged."""

    asked: float
    acknowledged: float = math.inf
    taken_back: float = math.inf
    back: float = math.inf


@dataclass(frozen=True)
class Call:
    """A call that has ended: when it began and ended, what it rested upon, and "ok" or the code of its refusal."""

    what: str
    began: float
    ended: float
    rests_on: tuple[Hashable, ...]
    outcome: str


@dataclass(frozen=True)
class Pace:
    """So many calls and changes there will be: both go forward together, the calls at most `ahead` before."""

    calls: int
    changes: int
    ahead: int

    def allowed(self, changed: int) -> int:
        """How many calls may have begun once so many changes are made."""
        return self.ahead + self.calls * changed // self.changes


@dataclass
class Ledger:
    """What happened in which order, by a clock that counts and measures nothing."""

    pace: Pace
    spans: dict[Hashable, list[Span]] = field(default_factory=lambda: defaultdict(list))
    calls: list[Call] = field(default_factory=list)
    started: int = 0
    changed: int = 0
    _now: int = 0
    _moved: asyncio.Condition = field(default_factory=asyncio.Condition)

    def now(self) -> int:
        """A number that is larger than every one before."""
        self._now += 1
        return self._now

    async def begin(self) -> int:
        """A call begins, unless it would leave the changes behind."""
        async with self._moved:
            await self._moved.wait_for(lambda: self.started < self.pace.allowed(self.changed))
            self.started += 1
            self._moved.notify_all()
        return self.now()

    async def change(self, after: int, step: Callable[[], Awaitable[None]]) -> None:
        """Make a change once so many calls have begun."""
        async with self._moved:
            await self._moved.wait_for(lambda: self.started >= after)
        await step()
        async with self._moved:
            self.changed += 1
            self._moved.notify_all()

    async def end(self, change: Callable[[], Awaitable[Any]], *things: Hashable) -> Any:
        """Make a change that ends things; from its acknowledgement on, nothing that rests on them may succeed."""
        spans = [Span(self.now()) for _ in things]
        for thing, span in zip(things, spans, strict=True):
            self.spans[thing].append(span)
        result = await change()
        for span in spans:
            span.acknowledged = self.now()
        return result

    async def take_back(self, change: Callable[[], Awaitable[Any]], thing: Hashable) -> None:
        """Make a change that takes the last end of a thing back."""
        span = self.spans[thing][-1]
        span.taken_back = self.now()
        await change()
        span.back = self.now()

    def must_fail(self, call: Call) -> bool:
        """Whether something that the call rests upon had been ended, acknowledged, for all of its time."""
        return any(
            span.acknowledged < call.began and call.ended < span.taken_back
            for thing in call.rests_on
            for span in self.spans.get(thing, ())
        )

    def may_fail(self, call: Call) -> bool:
        """Whether something that the call rests upon was being ended, or was off, at any moment of it."""
        return any(
            span.asked < call.ended and call.began < span.back
            for thing in call.rests_on
            for span in self.spans.get(thing, ())
        )


@dataclass(frozen=True)
class Replica:
    """One orchestrator with its doors open."""

    app: App
    mcp: Served
    rest_url: str

    async def rest(self, token: str, method: str, path: str, body: Any = None) -> Answer:
        headers = {"authorization": f"Bearer {token}"}
        async with self.mcp.http.request(method, self.rest_url + path, headers=headers, json=body) as reply:
            return Answer(reply.status, reply.headers, await reply.text())


@asynccontextmanager
async def replica(settings: Settings) -> AsyncIterator[Replica]:
    """Another orchestrator on the home and database of these settings, for as many callers at once as there come."""
    async with open_app(settings) as app, served(app) as mcp, serving(api_app(app)) as rest_url:
        # No connection is used twice: one that the server is about to close would be no fault of a call.
        connector = aiohttp.TCPConnector(limit=0, force_close=True)
        async with aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=None)) as http:
            yield Replica(app, dataclasses.replace(mcp, http=http), rest_url)


async def owners_token(app: App) -> str:
    """The token of an owner of the instance, who may do everything."""
    link, secret = await app.operators.link(LOCAL), new_totp_secret()
    code = pyotp.TOTP(secret.reveal_text()).now()
    name = f"owner {uuid.uuid4().hex[:8]}"
    owner = await app.operators.join(link.reveal_text(), name, uuid.uuid4().hex, secret, code)
    _, token = await app.operators.create_token(LOCAL, "many at once", 1, Role.OWNER, owner.id)
    return token.reveal_text()


@dataclass
class Member:
    """An agent of the crowd: its fate, and its tokens, the newest last."""

    number: int
    id: uuid.UUID
    tokens: list[str]

    @property
    def fate(self) -> str:
        return FATES[self.number % len(FATES)]


@dataclass
class Firm:
    """A company of the crowd. `bearers` are the credentials of its integrations, the newest last."""

    company: Company
    local: Caller
    members: list[Member]
    integrations: dict[str, uuid.UUID]
    bearers: dict[str, list[str]]

    @property
    def path(self) -> str:
        return f"/v1/companies/{self.company.id}"


def new_bearer(slack: Slack) -> str:
    """A credential that the provider takes from now on."""
    bearer = f"xoxb-{uuid.uuid4().hex}"
    slack.good.add(bearer)
    return bearer


async def found(app: App, slack: Slack, agents: int) -> Firm:
    """A company with so many agents and every kind of integration."""
    company = await app.companies.create(LOCAL, f"firm {uuid.uuid4().hex[:12]}")
    local = await app.identity.in_company(LOCAL, company.id)
    hired = await asyncio.gather(*(app.agents.create(local, f"agent {number}") for number in range(agents)))
    members = [Member(number, agent.id, [token.reveal_text()]) for number, (agent, token) in enumerate(hired)]
    firm = Firm(company, local, members, {}, {name: [new_bearer(slack)] for name in INTEGRATIONS})
    for name, bearers in firm.bearers.items():
        integration = await app.integrations.connect(
            local,
            "slack",
            Sensitive(bearers[-1]),
            name=name,
            base_url=slack.url,
            allow_private_network=True,
            allow_all=name != "guarded",
            allow=[member.id for member in members],
        )
        firm.integrations[name] = integration.id
    return firm


@dataclass
class Crowd:
    """Everybody who calls, what they call, and what is written down of it."""

    replicas: tuple[Replica, ...]
    slack: Slack
    firms: list[Firm]
    ledger: Ledger

    async def calls_of(self, firm: Firm, member: Member, count: int) -> None:
        """So many calls of an agent, one after the other: each kind, at each replica, with new and old tokens."""
        for turn in range(count):
            at = self.replicas[(member.number + turn) % len(self.replicas)]
            name = INTEGRATIONS[(member.number + turn // 2) % len(INTEGRATIONS)]
            kind = (self._whoami, self._request, self._me, self._send)[(member.number + turn) % 4]
            began = await self.ledger.begin()
            token = member.tokens[-1 if turn % 3 else 0]
            call = kind(at, firm, member, token, name, began)
            if member.number % 10 == 9 and turn % 2:
                await give_up(call, after=(member.number * 7 + turn * 13) % 90)
            else:
                await call

    async def everywhere(self, firm: Firm, member: Member, token: str, name: str = "") -> None:
        """The same at every replica, at once: who am I; or, with an integration, a request to it."""
        one, other = self.replicas
        first, second = (self._request, self._send) if name else (self._whoami, self._me)
        await asyncio.gather(
            first(one, firm, member, token, name, self.ledger.now()),
            second(other, firm, member, token, name, self.ledger.now()),
        )

    async def _whoami(self, at: Replica, firm: Firm, member: Member, token: str, name: str, began: int) -> None:
        answer = await at.mcp.call(token, "whoami", {})
        outcome = outcome_of(answer)
        if outcome == "ok":
            assert answer.json["result"]["structuredContent"]["id"] == str(member.id)
        self._written("whoami", began, (token, member.id), outcome)

    async def _me(self, at: Replica, firm: Firm, member: Member, token: str, name: str, began: int) -> None:
        answer = await at.rest(token, "GET", "/v1/me")
        if answer.status == 200:
            assert answer.json["id"] == str(member.id)
        self._written("me", began, (token, member.id), outcome_of(answer))

    async def _request(self, at: Replica, firm: Firm, member: Member, token: str, name: str, began: int) -> None:
        answer = await at.mcp.call(token, "integration_request", {"integration": name, **post(began)})
        outcome = outcome_of(answer)
        if outcome == "ok":
            self._right_reply(answer.json["result"]["structuredContent"], began)
        self._written(f"request {name}", began, self._rests_on(firm, member, token, name), outcome)

    async def _send(self, at: Replica, firm: Firm, member: Member, token: str, name: str, began: int) -> None:
        path = f"{firm.path}/integrations/{firm.integrations[name]}/request"
        answer = await at.rest(token, "POST", path, post(began))
        if answer.status == 200:
            self._right_reply(answer.json, began)
        self._written(f"send {name}", began, self._rests_on(firm, member, token, name), outcome_of(answer))

    def _rests_on(self, firm: Firm, member: Member, token: str, name: str) -> tuple[Hashable, ...]:
        integration = firm.integrations[name]
        return (token, member.id, integration, (integration, member.id))

    def _right_reply(self, reply: dict[str, Any], number: int) -> None:
        assert reply["status"] == 200
        assert reply["body"] == {"ok": True, "message": {"text": str(number)}}

    def _written(self, what: str, began: int, rests_on: tuple[Hashable, ...], outcome: str) -> None:
        self.ledger.calls.append(Call(what, began, self.ledger.now(), rests_on, outcome))


def outcome_of(answer: Answer) -> str:
    """ "ok", or how the call was refused: by its status, or by a tool."""
    if answer.status != 200:
        return f"{answer.status} {answer.json['code']}"
    result = answer.json.get("result", {})
    if not result.get("isError"):
        return "ok"
    return f"tool {json.loads(result['content'][0]['text'])['error']['code']}"


async def uses_of(app: App, company_id: uuid.UUID) -> tuple[Counter[str], Counter[str]]:
    """How often each use begun and ended. An end is written a moment after the call: it is waited for, not long."""
    begun: Counter[str] = Counter()
    ended: Counter[str] = Counter()
    for _ in range(100):
        events = [json.loads(event["record"]) async for event in app.events.linked(company_id)]
        begun = Counter(event["use"] for event in events if event["action"] == "credential.begun")
        ended = Counter(event["use"] for event in events if event["action"] == "credential.ended")
        if begun == ended:
            break
        await asyncio.sleep(0.05)
    return begun, ended


def post(number: int) -> dict[str, Any]:
    """A message for the provider, which repeats its text."""
    return {"method": "POST", "path": "/api/chat.postMessage", "body": {"text": str(number)}}


async def give_up(call: Awaitable[None], *, after: int) -> None:
    """Hang up in the middle of a call: at another step each time, since everybody here runs in one loop."""
    task = asyncio.ensure_future(call)
    for _ in range(after):
        await asyncio.sleep(0)
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
