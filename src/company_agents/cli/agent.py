"""
company-agents agent …
"""

from __future__ import annotations

import dataclasses
import shlex
from typing import TYPE_CHECKING, Annotated, Any

import typer

from company_agents.cli.command import Session, command, noun, read_secret
from company_agents.cli.options import After, CompanyId, Limit, Name, SomeId, a_number
from company_agents.cli.terminal import Result
from company_agents.errors import WrongUsage

if TYPE_CHECKING:
    from company_agents.identity.agents import Agent
    from company_agents.sensitive import Sensitive

group = noun("agent", "The agents of a company, their tokens, and how their runs are executed.")

# What `show` alone has.
_DETAIL = "adapter_config"
_CAN_READ_IT = "UNSANDBOXED: its process can read the master key, and with it whatever every company has"


@command(group, "create")
async def create(session: Session, name: Name, company: CompanyId) -> Result:
    """Hire an agent. Its token is shown this once."""
    return _with_token(*await session.app.agents.create(await session.company(company), name))


@command(group, "list")
async def listing(session: Session, company: CompanyId, after: After = None, limit: Limit = 50) -> Result:
    """List the agents of a company."""
    page = await session.app.agents.list(await session.company(company), after, limit)
    columns = ("id", "name", "state", "adapter", "unsandboxed", "token_created_at", "token_last_used_at")
    unsafe = [agent.name for agent in page.items if agent.unsandboxed]
    listed = [
        {name: value for name, value in dataclasses.asdict(each).items() if name != _DETAIL} for each in page.items
    ]
    data = {"items": listed, "next": page.next}
    return Result(data, columns=columns, note=f"{_CAN_READ_IT}: {', '.join(unsafe)}" if unsafe else "")


@command(group, "show")
async def show(session: Session, id: SomeId) -> Result:
    """Show an agent, and how its runs are executed."""
    return _shown(await session.app.agents.get(await session.company_of("agent", id), id))


@command(group, "adapter")
async def adapter(
    session: Session,
    id: SomeId,
    process: Annotated[bool, typer.Option("--process", help="its runs are a program on this machine")] = False,
    llm: Annotated[bool, typer.Option("--llm", help="its runs are a loop over a model")] = False,
    http: Annotated[
        str | None, typer.Option("--http", metavar="URL", help="its runs are handed over to the agent at this address")
    ] = None,
    none: Annotated[bool, typer.Option("--none", help="it opens its runs itself")] = False,
    preset: Annotated[
        str | None, typer.Option("--preset", metavar="NAME", help="process: a program that is known here")
    ] = None,
    program: Annotated[
        str | None, typer.Option("--program", metavar="PATH", help="process: where that is, if not on the search path")
    ] = None,
    argument: Annotated[
        list[str] | None,
        typer.Option("--argument", metavar="WORD", help="process: one more word for the preset; can be repeated"),
    ] = None,
    run_command: Annotated[
        str | None, typer.Option("--command", metavar="WORDS", help="process: the program and its words, in one text")
    ] = None,
    environment: Annotated[
        list[str] | None,
        typer.Option("--environment", metavar="NAME=VALUE", help="process: a variable, not secret; can be repeated"),
    ] = None,
    network: Annotated[
        str | None,
        typer.Option("--network", metavar="NETWORK", help="process: orchestrator (alone), or open"),
    ] = None,
    readable: Annotated[
        list[str] | None,
        typer.Option("--readable", metavar="PATH", help="process: what else it may read; can be repeated"),
    ] = None,
    unsandboxed: Annotated[
        bool, typer.Option("--unsandboxed", help="process: outside of any sandbox. It CAN READ THE MASTER KEY then")
    ] = False,
    integration: Annotated[
        str | None, typer.Option("--integration", metavar="NAME", help="llm, preset: of the model, by name or id")
    ] = None,
    model: Annotated[
        str | None, typer.Option("--model", metavar="MODEL", help="llm, preset: what the provider calls it")
    ] = None,
    api: Annotated[
        str | None, typer.Option("--api", metavar="API", help="llm: whose interface it has: anthropic or openai")
    ] = None,
    path: Annotated[
        str | None, typer.Option("--path", metavar="PATH", help="llm: where that is, if not at the usual path")
    ] = None,
    max_tokens: Annotated[
        int | None,
        typer.Option("--max-tokens", parser=a_number(1, 1_000_000), metavar="N", help="llm: of one answer (8192)"),
    ] = None,
    max_turns: Annotated[
        int | None, typer.Option("--max-turns", parser=a_number(1, 1000), metavar="N", help="llm: of one run (100)")
    ] = None,
    system_stdin: Annotated[
        bool, typer.Option("--system-stdin", help="llm: read more of the system prompt from standard input")
    ] = False,
    allow_private_network: Annotated[
        bool,
        typer.Option("--allow-private-network", help="http: the host may be in a private network, or this machine"),
    ] = False,
) -> Result:
    """Say how an agent's runs are executed. One of --process, --llm, --http and --none; nothing of it may be secret."""
    given: dict[str, dict[str, Any]] = {
        "process": {
            "preset": preset,
            "program": program,
            "integration": integration,
            "model": model,
            "arguments": argument or None,
            "command": None if run_command is None else _words(run_command),
            "environment": _variables(environment) or None,
            "network": network,
            "readable": readable or None,
        },
        "llm": {
            "integration": integration,
            "model": model,
            "api": api,
            "path": path,
            "max_tokens": max_tokens,
            "max_turns": max_turns,
            "system": system_stdin or None,
        },
        "http": {"allow_private_network": allow_private_network or None},
    }
    kind = _kind(given, {"process": process, "llm": llm, "http": http is not None, "none": none})
    caller = await session.company_of("agent", id)
    if kind == "none":
        if unsandboxed:
            raise WrongUsage("--unsandboxed is for --process")
        return _shown(await session.app.adapters.remove(caller, id))
    config = {name: value for name, value in given[kind].items() if value is not None}
    if kind == "http":
        config["url"] = http
    if system_stdin:
        what = {"what": "the system prompt", "option": "--system-stdin"}
        config["system"] = read_secret(from_stdin=True, prompt="", **what).reveal_text()
    agent, secret = await session.app.adapters.set(caller, id, kind, config, unsandboxed=unsandboxed)
    return _shown(agent, secret)


@command(group, "rotate-secret")
async def rotate_secret(session: Session, id: SomeId) -> Result:
    """Give a remote agent a new signing secret, shown this once. The old one signs beside it for 24 hours."""
    agent, secret, until = await session.app.adapters.rotate_secret(await session.company_of("agent", id), id)
    data = {"id": agent.id, "secret": secret, "previous_until": until}
    return Result(data, note="the secret is shown this once; the agent verifies with it what it is handed")


@command(group, "pause")
async def pause(session: Session, id: SomeId) -> Result:
    """Refuse an agent's token until it is resumed."""
    return _shown(await session.app.agents.pause(await session.company_of("agent", id), id))


@command(group, "resume")
async def resume(session: Session, id: SomeId) -> Result:
    """Take a paused agent's token again."""
    return _shown(await session.app.agents.resume(await session.company_of("agent", id), id))


@command(group, "retire")
async def retire(session: Session, id: SomeId) -> Result:
    """Refuse an agent's token for good; its history stays."""
    return _shown(await session.app.agents.retire(await session.company_of("agent", id), id))


@command(group, "rotate-token")
async def rotate_token(session: Session, id: SomeId) -> Result:
    """Give an agent a new token, shown this once; the old one is refused from now on."""
    return _with_token(*await session.app.agents.rotate_token(await session.company_of("agent", id), id))


def _kind(given: dict[str, dict[str, Any]], chosen: dict[str, bool]) -> str:
    """
    Which adapter is meant.

    Raises:
        WrongUsage: none or several, or an option of another one.
    """
    kinds = [kind for kind, is_chosen in chosen.items() if is_chosen]
    if len(kinds) != 1:
        raise WrongUsage("say one of --process, --llm, --http URL and --none")
    taken = given.get(kinds[0], {})
    for other, options in given.items():
        for name, value in options.items():
            if value is not None and name not in taken:
                spelled = {"system": "system-stdin", "arguments": "argument"}.get(name, name.replace("_", "-"))
                raise WrongUsage(f"--{spelled} is for --{other}")
    return kinds[0]


def _words(text: str) -> list[str]:
    try:
        return shlex.split(text)
    except ValueError:
        raise WrongUsage("a quotation mark in --command is not closed") from None


def _variables(given: list[str] | None) -> dict[str, str]:
    split = [text.partition("=") for text in given or ()]
    if not all(name and sign for name, sign, _ in split):
        raise WrongUsage("--environment takes NAME=VALUE")
    return {name: value for name, _, value in split}


def _shown(agent: Agent, secret: Sensitive | None = None) -> Result:
    notes = [_CAN_READ_IT] if agent.unsandboxed else []
    data = dataclasses.asdict(agent)
    if secret is not None:
        data["secret"] = secret
        notes.append("the secret is shown this once; the agent verifies with it what it is handed")
    return Result(data, note="\n".join(notes))


def _with_token(agent: Agent, token: Sensitive) -> Result:
    data: dict[str, Any] = {"id": agent.id, "name": agent.name, "company_id": agent.company_id, "token": token}
    return Result(data, note="the token is shown this once: keep it where the agent finds it, and nowhere else")
