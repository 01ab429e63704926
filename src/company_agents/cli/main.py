"""
The table of commands, and how one is run.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

import typer

from company_agents import __version__
from company_agents.cli import (
    agent,
    approval,
    audit,
    backup,
    company,
    consents,
    costs,
    doctor,
    importing,
    integration,
    key,
    limits,
    operator,
    panic,
    provider,
    schedule,
    terminal,
    up,
    webhook,
)
from company_agents.cli import (
    run as runs,
)
from company_agents.cli.help import PlainGroup
from company_agents.cli.usage import wrong_usage
from company_agents.errors import CompanyAgentsError, Failed

# The shell's own numbers for an end by Ctrl-C and by a closed pipe: 128 + SIGINT, 128 + SIGPIPE.
INTERRUPTED = 130
PIPE_CLOSED = 141

cli = typer.Typer(
    name="company-agents",
    help="Companies of AI agents that do real work without ever holding a credential.",
    add_completion=False,
    pretty_exceptions_enable=False,
    cls=PlainGroup,
)
up.register(cli)
importing.register(integration.group)
consents.register(provider.group)
for group in (
    company,
    agent,
    operator,
    provider,
    integration,
    key,
    runs,
    approval,
    schedule,
    limits,
    webhook,
    audit,
    backup,
):
    cli.add_typer(group.group)
costs.register(cli)
panic.register(cli)
doctor.register(cli)


@cli.callback(invoke_without_command=True)
def _root(
    context: typer.Context, version: bool = typer.Option(False, "--version", help="print the version and end")
) -> None:
    if version:
        terminal.text_line(__version__)
        raise typer.Exit()
    if context.invoked_subcommand is None:
        context.fail("Missing command.")


def run(arguments: Sequence[str]) -> int:
    """
    Run one command.

    Returns:
        The exit status: one of `errors.Exit`, 130 after Ctrl-C, or 141 when nobody reads on.
    """
    terminal.prepare()
    try:
        return _run(arguments, as_json="--json" in arguments)
    except BrokenPipeError:
        terminal.abandon()
        return PIPE_CLOSED


def _run(arguments: Sequence[str], *, as_json: bool) -> int:
    try:
        status = int(cli(args=list(arguments), prog_name="company-agents", standalone_mode=False) or 0)
        # Here, where a closed pipe is still our own affair.
        sys.stdout.flush()
        return status
    except CompanyAgentsError as error:
        problem = error
    except typer.TyperException as error:
        problem = wrong_usage(error)
        if not as_json and problem.sentence == "missing command":
            terminal.note(error.ctx.get_help())  # type: ignore[attr-defined]
            return problem.exit_status
    except (KeyboardInterrupt, typer.Abort):
        return INTERRUPTED
    except BrokenPipeError:
        raise
    except SystemExit as ended:
        # What the parser makes of a pipe that nobody reads.
        if isinstance(ended.__context__, BrokenPipeError):
            raise ended.__context__ from None
        raise
    except Exception as error:
        terminal.trace(error)
        problem = Failed(
            f"something unexpected happened ({type(error).__name__})",
            hint="`company-agents doctor` looks for what is wrong",
        )
    terminal.fail(problem, as_json=as_json)
    return problem.exit_status
