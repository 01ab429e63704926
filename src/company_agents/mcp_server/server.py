"""
The protocol: the official SDK's server with our table of tools. Stateless: any replica answers any call.

No subscriptions: the tools do not change while a process runs, so no capability says that they would, and
`subscriptions/listen` is answered like any method that is not there. Nothing of a caller is held open between two
calls, so there is no stream that could outlive a token.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import structlog
from mcp.server.caching import CacheHint
from mcp.server.context import CallNext, HandlerResult, ServerRequestContext
from mcp.server.lowlevel import Server
from mcp.shared.exceptions import MCPError
from mcp_types import (
    INVALID_PARAMS,
    METHOD_NOT_FOUND,
    CallToolRequestParams,
    ListToolsResult,
    PaginatedRequestParams,
    ToolAnnotations,
)
from mcp_types import Tool as ListedTool

from company_agents.app import App
from company_agents.errors import CompanyAgentsError, WrongUsage
from company_agents.identity.principal import Caller
from company_agents.mcp_server.answers import UNEXPECTED, bad, good
from company_agents.mcp_server.tools import TOOLS, Tool
from company_agents.sensitive import harmless

# Where in the ASGI scope the gate leaves who is calling.
CALLER = "company_agents.caller"

INSTRUCTIONS = (
    "You are an agent of a company. Here you keep notes (memory_…), see and move the company's tasks (task_…), and "
    "call the services that you are allowed to use (integration_…). You never get a credential: integration_request "
    "makes the call for you and adds it on the way. Some calls need a person's approval first (approval_get). An error has "
    "a code, a message and a hint what to do next."
)

# How long a client may keep the list of tools: they change only with a new version of the orchestrator.
_FRESH_MS = 300_000

log = structlog.stdlib.get_logger("company_agents.mcp_server")


def protocol_server(app: App) -> Server[Any]:
    """The SDK's server for an app. It answers whoever the gate lets through."""
    listed = ListToolsResult(tools=[_listed(tool) for tool in TOOLS.values()])

    async def list_tools(ctx: ServerRequestContext[Any], params: PaginatedRequestParams | None) -> ListToolsResult:
        return listed

    async def call_tool(ctx: ServerRequestContext[Any], params: CallToolRequestParams) -> dict[str, Any]:
        tool = TOOLS.get(params.name)
        if tool is None:
            raise MCPError(INVALID_PARAMS, "there is no tool of this name; tools/list shows the ones that there are")
        return await _called(app, tool, _caller(ctx), params.arguments or {})

    server: Server[Any] = Server(
        "company-agents",
        title="Company Agents",
        version=app.version,
        instructions=INSTRUCTIONS,
        cache_hints={"tools/list": CacheHint(ttl_ms=_FRESH_MS)},
        get_tool_input_schema=_input_schema,
        on_list_tools=list_tools,
    )
    server.add_request_handler("tools/call", CallToolRequestParams, call_tool)
    # In place of the SDK's tracing, which would see arguments and results.
    server.middleware[:] = [_unknown_method]
    return server


async def _unknown_method(ctx: ServerRequestContext[Any, Any], call_next: CallNext) -> HandlerResult:
    try:
        return await call_next(ctx)
    except MCPError as error:
        # The SDK repeats the method, whatever was sent as one.
        if error.code == METHOD_NOT_FOUND:
            raise MCPError(error.code, error.message, harmless(ctx.method)) from None
        raise


async def _called(app: App, tool: Tool, caller: Caller, given: dict[str, Any]) -> dict[str, Any]:
    try:
        return good(await tool.run(app, caller, given))
    except CompanyAgentsError as error:
        return bad(error)
    except UnicodeEncodeError:
        return bad(WrongUsage("a text has half a character (a lone surrogate), which cannot be sent or kept"))
    except Exception:
        # The log's formatter keeps where it was raised, and nothing that it said.
        log.exception("tool failed", tool=tool.name)
        return bad(UNEXPECTED)


def _caller(ctx: ServerRequestContext[Any]) -> Caller:
    # Through the request and nothing that calls share: what runs for one caller cannot find another.
    assert ctx.request is not None
    caller: Caller = ctx.request.scope[CALLER]
    return caller


def _input_schema(name: str) -> Mapping[str, Any] | None:
    tool = TOOLS.get(name)
    return None if tool is None else tool.input_schema


def _listed(tool: Tool) -> ListedTool:
    return ListedTool(
        name=tool.name,
        description=tool.description,
        input_schema=tool.input_schema,
        output_schema=tool.output_schema,
        annotations=ToolAnnotations(
            read_only_hint=tool.reads_only,
            destructive_hint=tool.destructive,
            idempotent_hint=tool.idempotent or tool.reads_only,
            open_world_hint=tool.open_world,
        ),
    )
