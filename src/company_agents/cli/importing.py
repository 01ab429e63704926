"""
company-agents integration import
"""

from __future__ import annotations

import asyncio
import dataclasses
import os
import stat
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal
from uuid import UUID

import typer

from company_agents.cli import terminal
from company_agents.cli.command import Session, command, interruptible
from company_agents.cli.options import CompanyId, an_id
from company_agents.cli.terminal import Result
from company_agents.errors import Conflict, Exit, NotFound, Refused, WrongUsage

if TYPE_CHECKING:
    from company_agents.identity.principal import Caller
    from company_agents.integrations.env_file import Variable
    from company_agents.integrations.importing import Addresses, Candidate, Importer, Item

STDIN = "-"
YES = ("y", "yes")


def register(group: typer.Typer) -> None:
    """Add it to the commands of `integration`."""
    command(group, "import")(import_)


async def import_(
    session: Session,
    company: CompanyId,
    from_env: Annotated[
        str | None, typer.Option("--from-env", metavar="FILE", help="an environment file; - is standard input")
    ] = None,
    from_vault: Annotated[
        str | None, typer.Option("--from-vault", metavar="PATH", help="a document in Vault, <mount>/data/<path>")
    ] = None,
    only: Annotated[
        list[str] | None, typer.Option("--only", metavar="NAME", help="a variable's name; can be repeated")
    ] = None,
    base_url: Annotated[
        list[str] | None,
        typer.Option("--base-url", metavar="PROVIDER=URL", help="another address of a provider; can be repeated"),
    ] = None,
    allow_private_network: Annotated[
        bool, typer.Option("--allow-private-network", help="those addresses may be in a private network")
    ] = False,
    allow: Annotated[
        list[UUID] | None,
        typer.Option("--allow", parser=an_id, metavar="ID", help="an agent that may use them; can be repeated"),
    ] = None,
    allow_all: Annotated[bool, typer.Option("--allow-all", help="every agent of the company may use them")] = False,
    yes: Annotated[
        bool, typer.Option("--yes", help="ask nothing; connect what is called like a provider's token")
    ] = False,
) -> Result:
    """Connect the providers whose tokens are in an environment file or in Vault. Each is asked for, and tried first."""
    if (from_env is None) == (from_vault is None):
        raise WrongUsage("where the tokens are is said once", hint="give --from-env FILE or --from-vault PATH")
    if not yes and (from_env == STDIN or not (sys.stdin and sys.stdin.isatty())):
        raise WrongUsage(
            "there is no terminal to ask on", hint="with --yes what is called like a provider's token is connected"
        )
    caller = await session.company(company)
    importer = session.app.importer
    addresses = _addresses(session, base_url or (), allow_private_network)
    exposed = False
    if from_env is not None:
        content, exposed = _content(from_env)
        variables = importer.from_env(content)
    else:
        assert from_vault is not None
        variables = await importer.from_vault(from_vault)
    how = _How(importer, caller, "vault" if from_env is None else "file", addresses, allow or (), allow_all)
    return await _run(session, how, variables, only or (), ask=not yes, exposed=exposed)


@dataclass(frozen=True)
class _How:
    """What all variables have in common, and what became of each so far."""

    importer: Importer
    caller: Caller
    source: Literal["file", "vault"]
    addresses: Addresses
    allow: Sequence[UUID]
    allow_all: bool
    items: list[Item] = field(default_factory=list)

    async def connect(self, candidate: Candidate, name: str) -> None:
        await self.importer.connect(
            self.caller,
            candidate,
            self.items,
            source=self.source,
            name=name,
            addresses=self.addresses,
            allow=self.allow,
            allow_all=self.allow_all,
        )


async def _run(
    session: Session, how: _How, variables: Sequence[Variable], only: Sequence[str], *, ask: bool, exposed: bool
) -> Result:
    candidates, passed_over = how.importer.recognised(variables, how.addresses, only)
    how.items.extend(passed_over)
    try:
        for candidate in candidates:
            await (_asked if ask else _unasked)(how, candidate)
    except BaseException as error:
        interrupted = isinstance(error, (KeyboardInterrupt, asyncio.CancelledError))
        # Of an error that nobody foresaw, a program gets one object, which is that.
        if interrupted or not session.json:
            done = {item.variable for item in how.items}
            left = ", ".join(each.variable for each in candidates if each.variable not in done)
            result = _result(how, variables, exposed=exposed)
            note = f"{result.note}\nended early: what is connected stays; not connected: {left or 'none'}".strip()
            terminal.show(dataclasses.replace(result, note=note), as_json=session.json)
        raise
    return _result(how, variables, exposed=exposed)


async def _unasked(how: _How, candidate: Candidate) -> None:
    from company_agents.integrations.importing import Outcome

    if not candidate.sure:
        problem = f"it looks like a token of {candidate.provider.title}, but is not called like one"
        how.items.append(candidate.item(Outcome.SKIPPED, problem, "without --yes you are asked"))
        return
    try:
        await how.connect(candidate, candidate.name)
    except Conflict as error:
        how.items.append(
            candidate.item(Outcome.SKIPPED, error.sentence, "without --yes you are asked for another name")
        )


async def _asked(how: _How, candidate: Candidate) -> None:
    from company_agents.integrations.importing import Outcome

    title = candidate.provider.title
    doubt = "" if candidate.sure else f" looks like a token of {title}, but is not called like one"
    with interruptible():
        answer = terminal.ask(f"{candidate.variable}{doubt}: connect it to {title}? [y/N]")
    name = candidate.name
    while answer is not None and answer.lower() in YES:
        with interruptible():
            given = terminal.ask(f"what the integration is called [{name}]:")
        if given is None:
            break
        try:
            await how.connect(candidate, given or name)
        except Conflict as error:
            terminal.note(f"{error.sentence}; type another name, or Ctrl-D to leave it")
            continue
        done = how.items[-1]
        terminal.note(f"{done.variable}: {done.result}{f': {done.problem}' if done.problem else ''}")
        return
    how.items.append(candidate.item(Outcome.SKIPPED, "it was not wanted"))


def _result(how: _How, variables: Sequence[Variable], *, exposed: bool) -> Result:
    from company_agents.integrations.importing import Outcome

    order = {name: place for place, name in reversed(list(enumerate(variable.name for variable in variables)))}
    items = sorted(how.items, key=lambda item: order[item.variable])
    by_result = {each: [item.variable for item in items if item.result is each] for each in Outcome}
    notes = [f"hint: {item.variable}: {item.hint}" for item in items if item.hint]
    if strangers := by_result[Outcome.NOT_RECOGNISED]:
        notes.append(f"of no provider known here, but called like secrets: {', '.join(strangers)}")
        notes.append("hint: `company-agents integration connect generic` takes the token of any service")
    if connected := by_result[Outcome.CONNECTED]:
        where = "the file" if how.source == "file" else "Vault, if nothing else reads them there"
        notes.append(f"sealed here now; next, take the values out of {where}: {', '.join(connected)}")
    if exposed:
        notes.append("the file can be read by others than its owner\nhint: chmod go-rwx it, or delete it")
    return Result(
        {"items": [_data(item) for item in items], "next": None},
        text=None if items else "nothing in it is a token of a provider known here",
        columns=("variable", "provider", "result", "problem"),
        note="\n".join(notes),
        exit_status=Exit.FAILED if by_result[Outcome.FAILED] else Exit.DONE,
    )


def _data(item: Item) -> dict[str, Any]:
    data = {"variable": item.variable, "provider": item.provider, "result": item.result, "id": item.id}
    found = {**data, "problem": item.problem}
    return {name: value for name, value in found.items() if value or name == "provider"}


def _addresses(session: Session, given: Iterable[str], allow_private: bool) -> Addresses:
    from company_agents.integrations.importing import Addresses

    base_urls = {}
    for each in given:
        provider, separator, url = each.partition("=")
        if not separator:
            raise WrongUsage("--base-url is PROVIDER=URL", hint="such as --base-url github=https://github.example.com")
        base_urls[session.app.providers.get(provider).name] = url
    return Addresses(base_urls, allow_private)


def _content(name: str) -> tuple[bytes, bool]:
    """
    What is in a file, up to one byte more than it may have; and whether others may read it.

    Raises:
        NotFound, Refused, WrongUsage: it cannot be read.
    """
    from company_agents.integrations.env_file import MOST_BYTES

    with interruptible():
        if name == STDIN:
            return (sys.stdin.buffer.read(MOST_BYTES + 1) if sys.stdin else b""), False
        try:
            with Path(name).open("rb") as file:
                mode = os.fstat(file.fileno()).st_mode
                # A pipe is what a shell makes of <(command).
                if not (stat.S_ISREG(mode) or stat.S_ISFIFO(mode)):
                    raise WrongUsage("what --from-env names is no file", hint="give an environment file")
                return file.read(MOST_BYTES + 1), stat.S_ISREG(mode) and bool(mode & 0o044)
        except FileNotFoundError:
            raise NotFound("there is no such file", hint="give the path of an environment file") from None
        except PermissionError as error:
            raise Refused("the file may not be read by this user", hint="look at whose it is") from error
        except (OSError, ValueError) as error:
            raise WrongUsage("the file cannot be read", hint="give the path of an environment file") from error
