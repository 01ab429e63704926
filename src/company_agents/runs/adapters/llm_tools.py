"""
The tools of a run: those of this orchestrator, over MCP and with the run's token; and one to end it with.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from mcp.client.client import Client
from mcp.client.streamable_http import streamable_http_client
from mcp.shared._httpx_utils import create_mcp_http_client
from mcp.shared.exceptions import MCPError
from mcp_types import CallToolResult

from company_agents.errors import CompanyAgentsError, Failed
from company_agents.runs.adapters.base import Outcome, Work
from company_agents.runs.adapters.llm_talk import Call, Result, Tool, line_of

# Calls of one answer that are made at once.
MOST_AT_ONCE = 8
# Characters of what a tool gives that a model gets to read.
MOST_RESULT = 60_000
# And of the sentence that says which tools there are.
MOST_UNKNOWN = 1000
FINISH = "finish_run"
# Characters of the reason that a model gives for the end.
MOST_REASON = 1000

_NOT_SENT = (
    "the arguments are no whole JSON object, have half a character (a lone surrogate) in them, or are nested too deep; "
    "nothing was called"
)
_FINISH = Tool(
    FINISH,
    "End this run, when the work is done or cannot be done. Call it last, after your comments and updates.",
    {
        "type": "object",
        "properties": {
            "outcome": {
                "type": "string",
                "enum": ["finished", "failed"],
                "description": "finished: the work is done. failed: it is not, and you cannot do it.",
            },
            "reason": {"type": "string", "description": "One sentence: what came of it, or why it failed."},
        },
        "required": ["outcome"],
        "additionalProperties": False,
    },
)


@dataclass
class Tools:
    """What a model may call. `outcome` is there once it has ended the run."""

    client: Client
    listed: Sequence[Tool]
    outcome: Outcome | None = None
    _room: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(MOST_AT_ONCE))
    _names: frozenset[str] = field(init=False)
    # Said once, however many of its calls are of tools that there are not.
    _unknown: str = field(init=False)

    def __post_init__(self) -> None:
        names = [tool.name for tool in self.listed]
        self._names = frozenset(names)
        self._unknown = f"there is no such tool; there are {', '.join(names)}"[:MOST_UNKNOWN]

    async def call_all(self, calls: Sequence[Call]) -> list[Result]:
        """
        What the calls of one answer give, in their order; they are made at once.

        Raises:
            Failed: the run's token is refused, or the server is not there any more.
        """
        async with asyncio.TaskGroup() as group:
            made = [group.create_task(self._call(call)) for call in calls]
        return [replace(task.result(), text=_shortened(task.result().text)) for task in made]

    async def read(self, name: str, **arguments: Any) -> str:
        """
        What a tool gives, as text, all of it.

        Raises:
            Failed: it gives an error.
        """
        result = await self._call(Call("", name, arguments))
        if result.is_error:
            raise Failed(f"{name} gave an error: {_message(result.text)}")
        return result.text

    async def _call(self, call: Call) -> Result:
        if call.arguments is None:
            return _error(call, _NOT_SENT)
        if call.name == FINISH:
            return self._finish(call, call.arguments)
        if call.name not in self._names:
            return _error(call, self._unknown)
        async with self._room:
            try:
                result = await self.client.call_tool(call.name, call.arguments)
            except MCPError as error:
                return _error(call, str(error.error.message))
        return Result(call.id, _text(result), bool(result.is_error))

    def _finish(self, call: Call, given: dict[str, Any]) -> Result:
        outcome, reason = given.get("outcome"), given.get("reason", "")
        if outcome not in ("finished", "failed") or not isinstance(reason, str):
            return _error(call, "outcome is finished or failed, and reason a text")
        if outcome == "failed" and not line_of(reason, MOST_REASON):
            return _error(call, "say in reason why it failed")
        self.outcome = Outcome(outcome, line_of(reason, MOST_REASON))
        return Result(call.id, "the run ends")


@contextlib.asynccontextmanager
async def tools_of(work: Work) -> AsyncIterator[Tools]:
    """
    The tools of a run, over a connection of its own.

    Raises:
        Failed: the server cannot be reached, or refuses the run's token.
    """
    headers = {"Authorization": f"Bearer {work.token.reveal_text()}"}
    is_open = False
    try:
        async with (
            create_mcp_http_client(headers=headers) as http,
            Client(streamable_http_client(work.mcp_url, http_client=http), cache=None) as client,
        ):
            tools = Tools(client, [*await _listed(client), _FINISH])
            is_open = True
            yield tools
    except (Exception, BaseExceptionGroup) as error:
        first = _first(error)
        if is_open or not isinstance(first, Exception) or isinstance(first, CompanyAgentsError):
            raise first from None
        # Without the cause: what the libraries say of a request may hold its headers.
        failure = Failed("the tools of this run cannot be reached: its token is not good any more, or we are stopping")
    else:
        return
    raise failure


async def _listed(client: Client) -> list[Tool]:
    found: list[Tool] = []
    after: str | None = None
    while True:
        page = await client.list_tools(cursor=after)
        found += [Tool(tool.name, tool.description or "", tool.input_schema) for tool in page.tools]
        after = page.next_cursor
        if after is None:
            return [tool for tool in found if tool.name != FINISH]


def _first(error: BaseException) -> BaseException:
    """The libraries below put what went wrong into groups, also where it is one thing."""
    errors = _flat(error)
    for wanted in (asyncio.CancelledError, CompanyAgentsError):
        for error in errors:
            if isinstance(error, wanted):
                return error
    return errors[0]


def _flat(error: BaseException) -> list[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        return [found for each in error.exceptions for found in _flat(each)]
    return [error]


def _text(result: CallToolResult) -> str:
    parts = [
        part.text if part.type == "text" else f"({part.type}, which cannot be shown here)" for part in result.content
    ]
    return "\n".join(parts)


def _shortened(text: str) -> str:
    if len(text) <= MOST_RESULT:
        return text
    return f"{text[:MOST_RESULT]}\n(cut off: it has {len(text)} characters in all)"


def _error(call: Call, sentence: str) -> Result:
    return Result(call.id, json.dumps({"error": {"message": sentence}}, ensure_ascii=False), is_error=True)


def _message(text: str) -> str:
    try:
        return str(json.loads(text)["error"]["message"])
    except (ValueError, TypeError, KeyError):
        return "unknown"
