"""
Calls over a raw socket, and a judge that holds every answer against the door's own description.
"""

from __future__ import annotations

import asyncio
import contextlib
import copy
import functools
import http.client
import json
import socket
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import requests
import schemathesis
from schemathesis import Response
from schemathesis.checks import (
    content_type_conformance,
    not_a_server_error,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)
from schemathesis.core.failures import FailureGroup

from company_agents.app import App
from company_agents.errors import CompanyAgentsError
from company_agents.identity.permissions import Permission as P
from company_agents.identity.permissions import Role
from company_agents.sensitive import Sensitive
from tests.api.hostile import Attempt
from tests.api.world import ASKS, GOOD, TABLES, Route, World, remote_at, settle, some_approval, some_backup, with_ids
from tests.conftest import LOCAL

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]


@dataclass(frozen=True)
class Answer:
    """What came back."""

    status: int
    headers: dict[str, list[str]]
    content: bytes

    def header(self, name: str) -> str:
        return ", ".join(self.headers.get(name, []))


@dataclass(frozen=True)
class Exchange:
    """One call with its answer, and what there was to say about it."""

    route: Route
    who: str
    sent: Attempt
    answer: Answer
    # What the description does not say of such an answer.
    faults: list[str]
    changed: bool
    must_be_refused: bool = False

    def __str__(self) -> str:
        said = self.answer.content[:300].decode(errors="replace")
        return f"{self.route.operation} by {self.who}, {self.sent.how}: {self.answer.status} {said} {self.faults or ''}"


class Wire:
    """A connection that sends what it is told, byte for byte; no library corrects it on the way."""

    def __init__(self, url: str) -> None:
        found = urlsplit(url)
        assert found.hostname and found.port
        self._address = (found.hostname, found.port)
        self._socket: socket.socket | None = None

    def send(self, attempt: Attempt) -> Answer:
        """The answer to a call."""
        content = attempt.body or b""
        lines = [f"{attempt.method} {attempt.target} HTTP/1.1".encode(), b"Host: 127.0.0.1"]
        lines += [name.encode() + b": " + value for name, value in attempt.headers]
        if attempt.body is not None:
            lines.append(b"Content-Length: %d" % len(content))
        # One that nobody used for a while may have been closed just now (RFC 9112, 9.5): then nothing was done.
        for _ in range(2):
            kept = self._socket
            self._socket = connection = kept or socket.create_connection(self._address, timeout=30)
            # A server that has said no may stop listening before everything was said.
            with contextlib.suppress(ConnectionError):
                connection.sendall(b"\r\n".join([*lines, b"", b""]) + content)
            try:
                return self._receive(attempt.method, connection)
            except http.client.RemoteDisconnected:
                self.close()
                if kept is None:
                    raise
        raise AssertionError("a new connection is never a kept one")

    def _receive(self, method: str, connection: socket.socket) -> Answer:
        response = http.client.HTTPResponse(connection, method=method)
        response.begin()
        body = response.read()
        headers: dict[str, list[str]] = {}
        for name, value in response.getheaders():
            headers.setdefault(name.lower(), []).append(value)
        if response.will_close:
            self.close()
        return Answer(response.status, headers, body)

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None


class Judge:
    """Knows the description of the door."""

    def __init__(self, url: str, document: dict[str, Any]) -> None:
        self.url = url
        self.document = document
        self._judged: dict[tuple[Any, ...], list[str]] = {}
        self.schema = schemathesis.openapi.from_dict(copy.deepcopy(document), config=schemathesis.Config(seed=1))

    def described(self, route: Route) -> dict[str, Any]:
        """What the document says of a route."""
        found: dict[str, Any] = self.document["paths"][route.path][route.method.lower()]
        return found

    def faults(self, route: Route, answer: Answer) -> list[str]:
        """What is wrong with an answer."""
        varies = {name: value for name, value in answer.headers.items() if name not in ("date", "content-length")}
        alike = (route, answer.status, str(varies), answer.content)
        if alike not in self._judged:
            self._judged[alike] = self._faults(route, answer)
        return self._judged[alike]

    def _faults(self, route: Route, answer: Answer) -> list[str]:
        operation = self.schema[route.path][route.method]
        case = self.schema.make_case(operation=operation, path_parameters=dict.fromkeys(route.params, "x"))
        request = requests.Request(route.method, self.url + case.formatted_path).prepare()
        response = Response(answer.status, answer.headers, answer.content, request, 0.0, True)
        found = list(_problem_faults(answer))
        try:
            case.validate_response(response, checks=CHECKS)
        except FailureGroup as group:
            found += [f"{failure.title}: {failure.message}"[:300] for failure in group.exceptions]
        return found


def _problem_faults(answer: Answer) -> Iterator[str]:
    if "no-store" not in answer.header("cache-control"):
        yield "it may be stored on the way"
    if answer.status < 400:
        return
    if answer.header("content-type") != "application/problem+json":
        yield f"an error is {answer.header('content-type')}"
        return
    problem = json.loads(answer.content)
    if problem.get("status") != answer.status or not problem.get("code") or not isinstance(problem.get("hint"), str):
        yield "an error without status, code or hint"


@dataclass
class Traffic:
    """What was said, and what the log had to say about it."""

    exchanges: list[Exchange] = field(default_factory=list)
    # Calls that reached for the other company and changed something there.
    reached: list[Exchange] = field(default_factory=list)
    logged: list[str] = field(default_factory=list)


# Runs that routes have left open, of those that were made for them.
MOST_OPEN = 50


@dataclass
class Scene:
    """Two companies, people with tokens, and the door; used from a thread beside the door's own loop."""

    app: App
    loop: asyncio.AbstractEventLoop
    judge: Judge
    wire: Wire
    mine: World
    theirs: World
    tokens: dict[str, str]
    traffic: Traffic = field(default_factory=Traffic)
    _connection: Any = None
    _stored: str = ""
    _runs: list[uuid.UUID] = field(default_factory=list)

    # — what is stored —

    async def stored(self, company: str | None = None) -> str:
        """A sum of all rows that a call could change: of one company, or of the whole instance."""
        if self._connection is None:
            self._connection = await self.app.identity.db.logins.instance.connect()
        row = await (await self._connection.execute(_sums(company))).fetchone()
        return str(row["sums"])

    async def close(self) -> None:
        self.wire.close()
        if self._connection is not None:
            await self._connection.close()

    def stored_now(self, company: str | None = None) -> str:
        """The same, from another thread."""
        return asyncio.run_coroutine_threadsafe(self.stored(company), self.loop).result(30)

    # — calls —

    def exchange(self, route: Route, who: str, attempt: Attempt, *, must_be_refused: bool = False) -> Exchange:
        """Make a call; remember it with its answer."""
        before = self._stored or self.stored_now()
        answer = self.wire.send(attempt)
        asyncio.run_coroutine_threadsafe(settle(self.app), self.loop).result(60)
        self._stored = self.stored_now()
        faults = self.judge.faults(route, answer)
        found = Exchange(route, who, attempt, answer, faults, self._stored != before, must_be_refused)
        self.traffic.exchanges.append(found)
        return found

    async def furnished(self, route: Route) -> World:
        """Things of our company that a route may spoil: no caller is among them."""
        self._stored = ""
        caller, name = self.mine.local, f"spare {uuid.uuid4().hex[:12]}"
        ann = self.mine.tenant.agent.agent_id()
        agent, _ = await self.app.agents.create(caller, name)
        integration = await self.app.integrations.connect(
            caller,
            "generic",
            Sensitive(GOOD),
            name=name,
            base_url=self.mine.url,
            allow_private_network=True,
            allow=[ann],
            rules=ASKS,
        )
        task = await self.app.tasks.create(caller, "a spare task")
        note = await self.app.memory.write(self.mine.tenant.agent, "a spare note")
        run, _ = await self.app.runs.open(self.mine.tenant.agent)
        # Most routes leave theirs open, and an agent may have a hundred.
        self._runs.append(run.id)
        if len(self._runs) > MOST_OPEN:
            with contextlib.suppress(CompanyAgentsError):
                await self.app.runs.cancel(caller, self._runs.pop(0))
        await self.app.adapters.set(caller, agent.id, "http", remote_at(self.mine.url))
        if route.operation == "claimRun":
            run = await self.app.runs.start(caller, ann, prompt="spare work")
        schedule = await self.app.schedules.create(caller, agent.id, name, "0 9 * * *", "spare work")
        token = self.mine.ids["token_id"]
        if route.sample.persons_only:
            owner = await self.app.identity.operator(self.tokens["an owner"])
            spare, _ = await self.app.operators.create_token(LOCAL, name, 1, Role.OWNER, owner.id)
            token = str(spare.id)
        return with_ids(
            self.mine,
            agent_id=str(agent.id),
            integration_id=str(integration.id),
            task_id=str(task.id),
            memory_id=str(note.id),
            approval_id=await some_approval(self.app, self.mine.tenant, integration.id),
            run_id=str(run.id),
            schedule_id=str(schedule.id),
            token_id=token,
            backup_id=await some_backup(self.app),
        )

    def marks(self, world: World) -> set[str]:
        """What tells of a company: its ids and names, and the word that its texts hold."""
        own = {value for name, value in world.ids.items() if name not in ("name", "token_id")}
        return own | {world.tenant.company.name, mark_of(world)}

    def who_may(self, route: Route) -> str:
        """Somebody whom the table of permissions lets do it."""
        return "an owner" if route.sample.permission not in AGENTS_ONLY else "ann"


def mark_of(world: World) -> str:
    """A word that stands in the texts of this company and nowhere else."""
    return f"zebra{world.tenant.company.id.hex}"


# Of no company.
OF_INSTANCE = {"operator_tokens", "backups"}
AGENTS_ONLY = {P.MEMORY, P.INTEGRATION_USE, P.RUN_OPEN, P.RUN_HOLD}


@functools.cache
def _sums(company: str | None) -> str:
    def rows(table: str, columns: str) -> str:
        of = "id" if table == "companies" else "company_id"
        only = "" if company is None else f" WHERE {of} = '{uuid.UUID(company)}'"
        # Which transaction wrote a row, and where it lies, tells any write, and is read faster than long texts.
        what = "ctid, xmin" if columns == "*" else columns
        return (
            f"SELECT '{table}' AS name, md5(string_agg(t::text, '|' ORDER BY t::text)) AS sum"
            f" FROM (SELECT {what} FROM {table}{only}) AS t"
        )

    found = {table: columns for table, columns in TABLES.items() if company is None or table not in OF_INSTANCE}
    every = " UNION ALL ".join(rows(table, columns) for table, columns in found.items())
    return f"SELECT string_agg(name || sum, ' ' ORDER BY name) AS sums FROM ({every}) AS every"
