"""
The table of commands, and how one is run.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

import typer

from company_agents import __version__
from company_agents.cli import agent, audit, company, doctor, integration, key, operator, provider, terminal, up
from company_agents.errors import CompanyAgentsError, Exit, Failed, WrongUsage

# The shell's own number for an end by Ctrl-C: 128 + SIGINT.
INTERRUPTED = 130

cli = typer.Typer(
    name="company-agents",
    help="Companies of AI agents that do real work without ever holding a credential.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
for group in (company, agent, operator, provider, integration, key, audit):
    cli.add_typer(group.group)
up.register(cli)
doctor.register(cli)


@cli.callback(invoke_without_command=True)
def _root(version: bool = typer.Option(False, "--version", help="print the version")) -> None:
    if version:
        terminal.text_line(__version__)
        raise typer.Exit()


def run(arguments: Sequence[str]) -> int:
    """
    Run one command.

    Returns:
        The exit status: one of `errors.Exit`, or 130 after Ctrl-C.
    """
    as_json = "--json" in arguments
    try:
        return int(cli(args=list(arguments), prog_name="company-agents", standalone_mode=False) or 0)
    except CompanyAgentsError as error:
        problem = error
    except typer.TyperException as error:
        problem = _usage(error)
    except (KeyboardInterrupt, typer.Abort):
        return INTERRUPTED
    except BrokenPipeError:
        return Exit.FAILED
    except Exception as error:
        logging.getLogger("company_agents").error("unexpected error", exc_info=error)
        problem = Failed(
            f"something unexpected happened ({type(error).__name__})", hint="`company-agents doctor` looks for what is wrong"
        )
    terminal.fail(problem, as_json=as_json)
    return problem.exit_status


def _usage(error: typer.TyperException) -> CompanyAgentsError:
    said = error.format_message().strip().rstrip(".")
    # It would quote the argument, and that may be a token which went where none belongs.
    if said.startswith("Got unexpected extra"):
        said = "there is an argument too many"
    hint = "`company-agents --help` lists the commands; each has a --help of its own"
    return WrongUsage(said[:1].lower() + said[1:] if said else "a command is missing", hint=hint)
