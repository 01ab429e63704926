"""
Command-line agents that are known here: how each is told its model's address, our MCP server, and what to do.

None of them gets a credential: the token that they send is the run's own, which the gateway and the MCP server know. Neither
token nor prompt is an argument, which every user of the machine could read in the list of processes.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from company_agents.errors import Failed
from company_agents.runs.adapters.base import Work
from company_agents.runs.adapters.process_config import ProcessConfig
from company_agents.runs.sandbox.places import SYSTEM, Places, Shown

SERVER = "company_agents"
"""What our MCP server is called there; its tools begin with it."""

TOKEN = "COMPANY_AGENTS_TOKEN"

USUAL_PATH = ("/usr/local/bin", "/usr/bin", "/bin")


@dataclass(frozen=True)
class Invocation:
    """What is started: arguments after the program, variables, files of the workspace by their names."""

    arguments: list[str]
    environment: Mapping[str, str]
    files: Mapping[str, str] = field(default_factory=dict, repr=False)


@dataclass(frozen=True)
class Located:
    """A program: its path, what has to be readable for it, and folders of the search path that it needs."""

    program: Path
    readable: list[Shown]
    path: list[str]


def claude_code(config: ProcessConfig, work: Work, folder: str) -> Invocation:
    """Claude Code: MCP from a file, in which it puts the token from its environment; the prompt through standard input."""
    server = {"type": "http", "url": work.mcp_url, "headers": {"Authorization": f"Bearer ${{{TOKEN}}}"}}
    arguments = ["-p", "--mcp-config", f"{folder}/.company-agents/mcp.json", "--strict-mcp-config"]
    arguments += ["--allowedTools", f"mcp__{SERVER}"]
    if config.model:
        arguments += ["--model", config.model]
    return Invocation(
        arguments + config.arguments,
        {
            "ANTHROPIC_BASE_URL": work.gateway_url(config.integration),
            "ANTHROPIC_AUTH_TOKEN": work.token.reveal_text(),
            "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
            # Else our tools stand behind a tool that searches for tools.
            "ENABLE_TOOL_SEARCH": "false",
            "DISABLE_AUTOUPDATER": "1",
        },
        {".company-agents/mcp.json": json.dumps({"mcpServers": {SERVER: server}})},
    )


def codex(config: ProcessConfig, work: Work, folder: str) -> Invocation:
    """Codex: everything from its `config.toml`, the token from its environment; the prompt through standard input."""
    settings = {
        "model": config.model,
        "model_provider": SERVER,
        # It is in our sandbox, within which it can make none of its own.
        "sandbox_mode": "danger-full-access",
        "approval_policy": "never",
        "check_for_update_on_startup": False,
        f"model_providers.{SERVER}.name": "Company Agents",
        f"model_providers.{SERVER}.base_url": f"{work.gateway_url(config.integration)}/v1",
        f"model_providers.{SERVER}.wire_api": "responses",
        f"model_providers.{SERVER}.env_key": TOKEN,
        f"mcp_servers.{SERVER}.url": work.mcp_url,
        f"mcp_servers.{SERVER}.bearer_token_env_var": TOKEN,
        f"mcp_servers.{SERVER}.required": True,
        f"mcp_servers.{SERVER}.default_tools_approval_mode": "approve",
    }
    # A text in JSON is one in TOML.
    text = "".join(f"{name} = {json.dumps(value)}\n" for name, value in settings.items())
    arguments = ["exec", "--skip-git-repo-check", *config.arguments, "-"]
    return Invocation(arguments, {"CODEX_HOME": f"{folder}/.codex"}, {".codex/config.toml": text})


# By their names: how each is called, and its program.
KNOWN: dict[str, tuple[str, Callable[[ProcessConfig, Work, str], Invocation]]] = {
    "claude-code": ("claude", claude_code),
    "codex": ("codex", codex),
}


def locate(name: str, given: str, places: Places, *, for_others: bool) -> Located:
    """
    Find a program: the one that an operator named, else on the search path of the orchestrator. `for_others`: another user
    has to be able to start it.

    Raises:
        Failed: there is none, or that user cannot reach it.
        WrongUsage: it lies where no sandbox may look.
    """
    found = given if given and os.access(given, os.X_OK) else "" if given else shutil.which(name)
    if not found:
        raise Failed(
            f"{given or name} is not there, or cannot be started",
            hint=f"install {name}, or say where it is: `program` in the agent's configuration",
        )
    program = Path(os.path.realpath(found))
    readable, path = [_package(program)], [str(program.parent)]
    interpreter = _interpreter(program)
    if interpreter is not None:
        readable.append(interpreter)
        path.append(str(interpreter.parent))
    for needed in readable:
        if for_others and not open_to_all(needed):
            raise Failed(
                f"{needed} cannot be read by the user that this run is started as",
                hint="install it where everybody can read it: below /usr/local, or /opt",
            )
    return Located(program, [places.check(str(place)) for place in readable if not _in_system(place)], path)


def _package(program: Path) -> Path:
    """The folder of packages that it lies in, with what it needs beside it; else itself."""
    for parent in reversed(program.parents):
        if parent.name == "node_modules":
            return parent
    return program


def _interpreter(program: Path) -> Path | None:
    """What runs it, where it is a script that looks for that on the search path (`#!/usr/bin/env node`)."""
    with open(program, "rb") as file:
        first = file.read(200).partition(b"\n")[0].decode("latin-1").split()
    if len(first) < 2 or first[0] != "#!/usr/bin/env":
        return None
    found = shutil.which(first[-1])
    return Path(os.path.realpath(found)) if found else None


def _in_system(path: Path) -> bool:
    return any(path.is_relative_to(place) for place in SYSTEM)


def open_to_all(path: Path) -> bool:
    """Whether anybody may come to a place and read it: every folder on the way lets everybody through."""
    try:
        return all(parent.stat().st_mode & 0o001 for parent in path.parents) and bool(path.stat().st_mode & 0o004)
    except OSError:
        return False
