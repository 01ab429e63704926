"""
What every command has in common: settings, the open instance, --json, errors and exit statuses.

A command that only prints its help, or refuses its words, loads none of the instance's parts: they are imported
where they are used.
"""

from __future__ import annotations

import asyncio
import contextlib
import getpass
import inspect
import os
import pwd
import signal
import sys
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from uuid import UUID

import typer

from company_agents.cli import terminal
from company_agents.cli.help import PlainCommand, PlainGroup
from company_agents.cli.options import AsJson
from company_agents.cli.terminal import Result
from company_agents.errors import WrongUsage
from company_agents.sensitive import Sensitive

if TYPE_CHECKING:
    from company_agents.app import App
    from company_agents.companies.instance import What
    from company_agents.identity.principal import Caller, Principal
    from company_agents.settings import Settings

# The largest token that is read from a pipe, in bytes; what is longer is no token.
MOST_STDIN = 64 * 1024
# As many bytes as a prompt of 50,000 characters may have.
MOST_PROMPT_BYTES = 200_000


@dataclass(frozen=True)
class Session:
    """One run of a command on an open instance, by the user of this machine."""

    app: App
    principal: Principal
    json: bool

    async def company(self, company_id: UUID) -> Caller:
        """In the name of a company."""
        return await self.app.identity.in_company(self.principal, company_id)

    async def company_of(self, what: What, row_id: UUID) -> Caller:
        """In the name of the company that something is in."""
        return await self.company(await self.app.instance.company_of(what, row_id))


Command = Callable[..., Awaitable[Result]]


def noun(name: str, help: str) -> typer.Typer:
    """A group of commands."""
    return typer.Typer(name=name, help=help, cls=PlainGroup)


def command(
    group: typer.Typer, name: str, *, unseal: bool = False, keyless: bool = False
) -> Callable[[Command], Command]:
    """
    Make a coroutine function a command. Its first parameter is the `Session`; the others are options, to which
    --json is added. `unseal`: it also works on an instance that is sealed. `keyless`: also where the keys cannot be
    had. An option called `gone` names a key that may be missing.
    """

    def add(function: Command) -> Command:
        def run(**options: Any) -> None:
            as_json = options.pop("json_")
            result = asyncio.run(_in_session(function, options, as_json, unseal=unseal, keyless=keyless))
            terminal.show(result, as_json=as_json)
            raise typer.Exit(result.exit_status)

        group.command(name, cls=PlainCommand, help=inspect.getdoc(function))(_with_json(run, function))
        return function

    return add


def _with_json(run: Callable[..., None], function: Callable[..., Any]) -> Callable[..., None]:
    """`run` with the options of `function` (without its first parameter), and --json."""
    signature = inspect.signature(function, eval_str=True)
    options = list(signature.parameters.values())[1:]
    json_option = inspect.Parameter("json_", inspect.Parameter.KEYWORD_ONLY, default=False, annotation=AsJson)
    parameters = [*(option.replace(kind=inspect.Parameter.KEYWORD_ONLY) for option in options), json_option]
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return run


def settings_of_command(**given: Any) -> Settings:
    """
    The settings, after which variables that may hold a secret are gone from the environment.

    Raises:
        MayNotStart: a setting that cannot be used.
    """
    from company_agents.hardening import wipe_environment
    from company_agents.settings import read_settings

    settings = read_settings(**given)
    wipe_environment(settings.secret_variables)
    return settings


def local_principal() -> Principal:
    """Whoever may read the instance home may do everything; the record says who it was."""
    from company_agents.identity.permissions import Kind
    from company_agents.identity.principal import Principal, Via

    try:
        name = pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        name = str(os.getuid())
    return Principal(Kind.LOCAL, name, Via.CLI)


def read_secret(*, from_stdin: bool, prompt: str, what: str = "the token", option: str = "--token-stdin") -> Sensitive:
    """
    A secret from standard input, or typed without showing. `option` is the one that brings it in.

    Raises:
        WrongUsage: nothing came, too much did, or there is no terminal to ask on.
    """
    with interruptible():
        if from_stdin:
            # Python has no standard input where the caller has closed it.
            value = sys.stdin.buffer.read(MOST_STDIN + 1) if sys.stdin else b""
            if len(value) > MOST_STDIN:
                raise WrongUsage(
                    f"what came on standard input is too long for {what.replace('the ', 'a ')}",
                    hint=f"pipe in {what} and nothing else",
                )
            secret = Sensitive(value.strip())
        elif sys.stdin and sys.stdin.isatty():
            secret = Sensitive(_typed(prompt))
        else:
            raise WrongUsage(f"there is no terminal to ask for {what}", hint=f"give it with {option}")
    if not secret:
        raise WrongUsage(f"{what} is empty", hint=f"pipe it in with {option}, or type it when asked")
    return secret


def read_prompt(text: str | None, *, from_stdin: bool) -> str:
    """
    What an agent is to do, as it was typed, or from standard input.

    Raises:
        WrongUsage: both were given, or it is too long, or no text.
    """
    if not from_stdin:
        return text or ""
    if text is not None:
        raise WrongUsage("--prompt and --prompt-stdin exclude each other", hint="give one of them")
    with interruptible():
        value = sys.stdin.buffer.read(MOST_PROMPT_BYTES + 1) if sys.stdin else b""
    if len(value) > MOST_PROMPT_BYTES:
        raise WrongUsage("what came on standard input is too long for a prompt")
    try:
        return value.decode()
    except UnicodeDecodeError:
        raise WrongUsage("what came on standard input is no text", hint="a prompt is text in UTF-8") from None


def _typed(prompt: str) -> str:
    try:
        return getpass.getpass(f"{prompt}: ").strip()
    except EOFError:
        return ""


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """Around a read that waits for somebody: Ctrl-C ends it."""
    # asyncio takes the first Ctrl-C to cancel the task with, which a blocked read would never notice.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


async def _in_session(
    function: Command, options: dict[str, Any], as_json: bool, *, unseal: bool, keyless: bool
) -> Result:
    from company_agents.app import open_app
    from company_agents.cli.up import running_url
    from company_agents.logs import Redactor, start_logging

    settings = settings_of_command()
    if settings.public_url is None and (running := running_url(settings)):
        # What is said of addresses is said of the orchestrator that is there, whose port may have been an option.
        settings = settings.model_copy(update={"public_url": running})
    redactor = Redactor()
    start_logging(redactor, folder=None, level="error")
    opened = open_app(settings, redactor=redactor, unseal=unseal, keyless=keyless, gone=options.get("gone"))
    async with opened as app:
        return await function(Session(app, local_principal(), as_json), **options)
