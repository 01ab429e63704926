"""
The table of tools. A tool is a function of a caller and its arguments; who the caller is, the gate has settled,
and what is theirs, the rooms behind know.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from typing import Any
from uuid import UUID

from pydantic import TypeAdapter

from company_agents.app import App
from company_agents.errors import ApprovalNeeded, NotFound, WrongUsage
from company_agents.identity.paging import Page
from company_agents.identity.principal import Caller
from company_agents.integrations.integrations import Integration
from company_agents.integrations.request import Reply, shown_reply
from company_agents.integrations.rules import Rules
from company_agents.mcp_server import arguments as takes
from company_agents.mcp_server.answers import MOST_DEPTH, is_deeper
from company_agents.work.memory import Memory
from company_agents.work.tasks import Comment, Task


@dataclass(frozen=True, slots=True)
class Me:
    """The agent that calls; and its run, where that does."""

    id: UUID
    company_id: UUID
    name: str
    state: str
    run: UUID | None = None


@dataclass(frozen=True, slots=True)
class Deleted:
    """What is gone."""

    id: UUID
    deleted: bool = True


@dataclass(frozen=True, slots=True)
class Usable:
    """An integration as an agent sees it. Which other agents may use it, is not an agent's to know."""

    id: UUID
    provider: str
    name: str
    destination: str
    status: str
    status_reason: str
    status_since: datetime
    scopes: list[str]
    created_at: datetime
    last_used_at: datetime | None
    # Rules such as `GET /repos/**`. No `only`: anything may be called.
    only: list[str]
    ask: list[str]
    per_minute: int | None


@dataclass(frozen=True, slots=True)
class Asked:
    """A request of this agent that a person has to approve, or had to, and the reply once there is one."""

    id: UUID
    state: str
    integration: str
    method: str
    path: str
    note: str
    reason: str
    created_at: datetime
    expires_at: datetime
    next_step: str
    reply: Reply | None


_UNTIL_APPROVED = (
    "nothing was sent yet. Once a person approves, this very request is sent by itself, once. Do other work meanwhile, and "
    "ask for the reply with approval_get and the id in facts, or make the same request again with wait_seconds. Do not send "
    "it in another form: that would be a second request"
)
_NEXT = {
    "waiting": "nobody has decided yet: ask again later, with wait_seconds",
    "approved": "it was approved and is about to be sent: ask again in a moment, with wait_seconds",
    "sending": "it is being sent: ask again in a moment, with wait_seconds",
    "done": "it was sent; the reply is here for as long as it is kept",
    "failed": "it was not sent; reason says why. Make the request again to have it approved again",
    "uncertain": "it may have been sent, and there is no reply. Look at the service before you ask for the same again",
    "refused": "a person refused it; note says why, where they said so. Do not make the same request again",
    "expired": "nobody decided in time, and it was not sent. Make the request again if it is still wanted",
}


@dataclass(frozen=True)
class Tool:
    """One tool: what a model reads of it, and what it does."""

    name: str
    description: str
    takes: type[takes.Arguments]
    gives: Any
    call: Callable[[App, Caller, Any], Awaitable[Any]]
    # For clients that ask their user before a call: https://modelcontextprotocol.io, «tool annotations».
    reads_only: bool = False
    destructive: bool = False
    idempotent: bool = False
    open_world: bool = False

    @cached_property
    def _adapter(self) -> TypeAdapter[Any]:
        return TypeAdapter(self.gives)

    @cached_property
    def input_schema(self) -> dict[str, Any]:
        """JSON Schema of the arguments."""
        return self.takes.model_json_schema(schema_generator=takes.Schema)

    @cached_property
    def output_schema(self) -> dict[str, Any]:
        """JSON Schema of the result."""
        return self._adapter.json_schema(mode="serialization", schema_generator=takes.Schema)

    async def run(self, app: App, caller: Caller, given: dict[str, Any]) -> dict[str, Any]:
        """
        Call it.

        Raises:
            WrongUsage: the arguments do not fit.
            CompanyAgentsError: what the room behind it says.
        """
        result = await self.call(app, caller, takes.read(self.takes, given))
        plain: dict[str, Any] = result if isinstance(result, dict) else self._adapter.dump_python(result, mode="json")
        return plain


async def _whoami(app: App, caller: Caller, given: takes.Nothing) -> dict[str, Any]:
    # Written out, because this one is called often; a token of an agent that is not active gets no further than
    # the gate.
    return {
        "id": str(caller.agent_id()),
        "company_id": str(caller.scope.company_id),
        "name": caller.principal.name,
        "state": "active",
        "run": str(caller.principal.run_id) if caller.principal.run_id else None,
    }


async def _memory_write(app: App, caller: Caller, given: takes.MemoryWrite) -> Memory:
    return await app.memory.write(caller, given.content, given.title, given.tags, given.id)


async def _memory_search(app: App, caller: Caller, given: takes.MemorySearch) -> Page[Memory]:
    return Page(await app.memory.search(caller, given.query, given.limit))


async def _memory_get(app: App, caller: Caller, given: takes.Note) -> Memory:
    return await app.memory.get(caller, given.id)


async def _memory_delete(app: App, caller: Caller, given: takes.Note) -> Deleted:
    await app.memory.delete(caller, given.id)
    return Deleted(given.id)


async def _task_list(app: App, caller: Caller, given: takes.TaskList) -> Page[Task]:
    return await app.tasks.list(
        caller,
        status=given.status,
        assignee=_agent(caller, given.assignee),
        after=given.after,
        limit=given.limit,
    )


async def _task_get(app: App, caller: Caller, given: takes.TaskGet) -> Task:
    return await app.tasks.get(caller, given.id)


async def _task_create(app: App, caller: Caller, given: takes.TaskCreate) -> Task:
    return await app.tasks.create(caller, given.title, given.description, _agent(caller, given.assignee))


async def _task_update(app: App, caller: Caller, given: takes.TaskUpdate) -> Task:
    return await app.tasks.update(
        caller,
        given.id,
        title=given.title,
        description=given.description,
        status=given.status,
        assignee="nobody" if given.assignee == "nobody" else _agent(caller, given.assignee),
    )


async def _task_comment(app: App, caller: Caller, given: takes.TaskComment) -> Comment:
    return await app.tasks.comment(caller, given.id, given.text)


async def _integration_list(app: App, caller: Caller, given: takes.IntegrationList) -> Page[Usable]:
    found = await app.integrations.list(caller, given.after, given.limit)
    rules = await app.rulebook.for_agent(caller, [integration.id for integration in found.items])
    return Page([_usable(integration, rules.get(integration.id, Rules())) for integration in found.items], found.next)


async def _integration_request(app: App, caller: Caller, given: takes.IntegrationRequest) -> dict[str, Any]:
    if is_deeper([given.query, given.body], MOST_DEPTH):
        raise WrongUsage(f"query and body may be nested {MOST_DEPTH} levels deep")
    try:
        reply = await app.requests.request(
            caller,
            given.integration,
            given.method,
            given.path,
            query=given.query,
            headers=given.headers,
            body=given.body,
            wait=given.wait_seconds,
        )
    except NotFound as error:
        raise NotFound(error.sentence, hint="integration_list shows the ones that you may use") from error
    except ApprovalNeeded as error:
        error.hint = _UNTIL_APPROVED
        raise
    return _answered(reply)


async def _approval_get(app: App, caller: Caller, given: takes.ApprovalGet) -> Asked:
    found, kept = await app.asking.result(caller, given.id, wait=given.wait_seconds)
    said = {name: getattr(found, name) for name in Asked.__dataclass_fields__ if name not in ("next_step", "reply")}
    whole = None if kept is None else shown_reply(kept.status, kept.headers, kept.content)
    reply = None if whole is None else Reply(**_answered(whole))
    return Asked(**said, next_step=_NEXT[found.state], reply=reply)


def _answered(reply: Reply) -> dict[str, Any]:
    body = "(JSON, nested too deeply to be shown)" if is_deeper(reply.body, MOST_DEPTH) else reply.body
    return {"status": reply.status, "headers": reply.headers, "body": body}


def _agent(caller: Caller, assignee: takes.Assignee | None) -> UUID | None:
    return caller.agent_id() if assignee == "me" else assignee


def _usable(integration: Integration, rules: Rules) -> Usable:
    known = {name: getattr(integration, name) for name in Usable.__dataclass_fields__ if hasattr(integration, name)}
    return Usable(**known, only=[*(rules.only or ())], ask=[*(rules.ask or ())], per_minute=rules.per_minute or None)


TOOLS: dict[str, Tool] = {
    tool.name: tool
    for tool in (
        Tool(
            "whoami",
            "Who you are: your agent id and name, your state, and the id of the company that you work for.",
            takes.Nothing,
            Me,
            _whoami,
            reads_only=True,
        ),
        Tool(
            "memory_write",
            "Keep a note that outlasts this conversation. Only you can read it. With an id, the note of that id is "
            "replaced as a whole: content, title and tags. Never put passwords, tokens or keys into a note.",
            takes.MemoryWrite,
            Memory,
            _memory_write,
        ),
        Tool(
            "memory_search",
            "Find your notes by words in title, content and tags, the best match first.",
            takes.MemorySearch,
            Page[Memory],
            _memory_search,
            reads_only=True,
        ),
        Tool("memory_get", "Read one of your notes.", takes.Note, Memory, _memory_get, reads_only=True),
        Tool(
            "memory_delete",
            "Delete one of your notes for good.",
            takes.Note,
            Deleted,
            _memory_delete,
            destructive=True,
        ),
        Tool(
            "task_list",
            "The tasks of your company, oldest first, without their comments. Give `next` as `after` to go on; "
            "it is null on the last page.",
            takes.TaskList,
            Page[Task],
            _task_list,
            reads_only=True,
        ),
        Tool("task_get", "One task with its comments.", takes.TaskGet, Task, _task_get, reads_only=True),
        Tool("task_create", "Add a task for your company. It starts as open.", takes.TaskCreate, Task, _task_create),
        Tool(
            "task_update",
            "Change a task: only what you give changes, the rest stays.",
            takes.TaskUpdate,
            Task,
            _task_update,
            destructive=True,
            idempotent=True,
        ),
        Tool("task_comment", "Add a comment to a task.", takes.TaskComment, Comment, _task_comment),
        Tool(
            "integration_list",
            "The services that you may call with integration_request: their names, their hosts, whether they work at "
            "present, what of them you may call (`only`; empty: anything), and what a person approves first (`ask`).",
            takes.IntegrationList,
            Page[Usable],
            _integration_list,
            reads_only=True,
        ),
        Tool(
            "integration_request",
            "Make one HTTP request to a service of your company, as its API documents it. The credential is added on "
            "the way: you neither have nor need it, so send no Authorization header or key of your own. Gives the "
            "status, the headers (names in lower case) and the body: parsed JSON, else text, else base64 in an "
            "object {base64}. A status of 400 or more is the service's own answer and no error of this tool. The error "
            "approval_needed means that a person has to approve this request first and that it waits: once they have, it is "
            "sent as it is, by itself; get the reply with approval_get.",
            takes.IntegrationRequest,
            Reply,
            _integration_request,
            destructive=True,
            open_world=True,
        ),
        Tool(
            "approval_get",
            "What became of a request of yours that a person has to approve: its state, what to do next, and the reply once "
            "it was sent. With wait_seconds it waits for that, at most a minute at a time.",
            takes.ApprovalGet,
            Asked,
            _approval_get,
            idempotent=True,
        ),
    )
}
