"""
company-agents company …
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from company_agents.cli import progress
from company_agents.cli.command import Session, command, noun
from company_agents.cli.options import After, Limit, Name
from company_agents.cli.passphrase import Passphrase, PassphraseStdin, read_passphrase
from company_agents.cli.terminal import Result, count, plain

group = noun("company", "The companies of this instance.")

Company = Annotated[str, typer.Argument(metavar="COMPANY", help="its id, or its name")]
File = Annotated[str, typer.Argument(metavar="FILE", help="the file that it is moved in")]
NewName = Annotated[str | None, typer.Option("--name", metavar="NAME", help="what it is called here; else as there")]
EnableSchedules = Annotated[
    bool, typer.Option("--enable-schedules", help="its schedules start runs here at once; else they are paused")
]
RevokeTokens = Annotated[
    bool, typer.Option("--revoke-tokens", help="leave the tokens of its agents behind; else they are good here too")
]
AllowPrivate = Annotated[
    bool,
    typer.Option(
        "--allow-private-network", help="what comes with it may go into this network at once; else it is held back"
    ),
]


@command(group, "create")
async def create(session: Session, name: Name) -> Result:
    """Create a company."""
    return Result(await session.app.companies.create(session.principal, name))


@command(group, "list")
async def listing(session: Session, after: After = None, limit: Limit = 50) -> Result:
    """List the companies."""
    page = await session.app.companies.list(session.principal, after, limit)
    return Result(page, columns=("id", "name", "created_at"))


@command(group, "export")
async def export(
    session: Session,
    company: Company,
    file: File,
    passphrase: Passphrase = None,
    passphrase_stdin: PassphraseStdin = False,
) -> Result:
    """Write a company with its secrets into a file, to move it to another instance."""
    secret = read_passphrase(passphrase, passphrase_stdin, confirm=True)
    with progress.shown(session.json) as say:
        done = await session.app.mover.export(session.principal, company, _path(file), secret, say)
    text = f"{done.name} is in {done.file}: {count(done.secrets, 'secret')}, {count(done.rows, 'row')}"
    return Result(done, text=text, note=_chain_note(done.chain_faults))


@command(group, "import")
async def import_(
    session: Session,
    file: File,
    passphrase: Passphrase = None,
    passphrase_stdin: PassphraseStdin = False,
    name: NewName = None,
    enable_schedules: EnableSchedules = False,
    revoke_tokens: RevokeTokens = False,
    allow_private_network: AllowPrivate = False,
) -> Result:
    """Bring a company in from such a file."""
    secret = read_passphrase(passphrase, passphrase_stdin, confirm=False)
    with progress.shown(session.json) as say:
        done = await session.app.mover.import_(
            *(session.principal, _path(file), secret),
            name=name,
            enable_schedules=enable_schedules,
            revoke_tokens=revoke_tokens,
            allow_private_network=allow_private_network,
            say=say,
        )
    providers = {provider.name: provider for provider in session.app.providers.list()}
    known = set(providers)
    unknown = [provider for provider in done.providers if provider not in known]
    lines = [f"{done.name} is here, as {done.company}: {count(done.secrets, 'secret')}, {count(done.rows, 'row')}"]
    lines += [f"the token of {agent.name} ({agent.id}) is good on both instances" for agent in done.tokens]
    lines += _changed(done)
    lines += [f"there is no provider {provider} here: what uses it cannot be used" for provider in unknown]
    foreign = [each for each in done.goes if _is_foreign(each, providers) and each.name not in done.held_back]
    lines += [
        f"the credential of {each.name} goes to {each.origins[0]}, which is not {each.provider}" for each in foreign
    ]
    data = {**plain(done), "unknown_providers": unknown, "foreign": [each.name for each in foreign]}
    return Result(data, text="\n".join(lines), note=_chain_note(done.chain_faults))


def _path(file: str) -> Path:
    # What is said of it is true wherever one stands. A shell expands no `~` that stands in quotes.
    return Path(file).expanduser().absolute()


def _is_foreign(goes: Any, providers: Mapping[str, Any]) -> bool:
    """Whether a credential goes elsewhere than to the provider that it is said to be of, where that has one address."""
    provider = providers.get(goes.provider) if goes.what == "integration" else None
    return provider is not None and provider.base_url is not None and goes.origins[0] != provider.base_url.rstrip("/")


def _changed(done: Any) -> list[str]:
    said = (
        (done.schedules_paused, "schedule is paused", "schedules are paused"),
        (done.webhooks_disabled, "webhook is disabled", "webhooks are disabled"),
        (done.runs_ended, "run that was under way has ended", "runs that were under way have ended"),
        (done.approvals_ended, "request that waited has ended", "requests that waited have ended"),
    )
    lines = [count(number, one, many) for number, one, many in said if number]
    return [
        *lines,
        *(f"{agent} is back in the sandbox: its agent show says how to let it out" for agent in done.unsandboxed),
        *(
            f"{agent} has to be given its adapter again: it opened the sandbox, which an owner of this instance may allow"
            for agent in done.without_adapter
        ),
        *(
            f"{agent} has to be given its adapter again: it is handed its work in a private network"
            for agent in done.private_adapters
        ),
        *(f"{agent} is handed its work at {host}" for agent, host in _handed(done)),
        *(
            f"{name} has to be connected anew: its credential goes into a private network, and was left behind"
            for name in done.held_back
        ),
    ]


def _handed(done: Any) -> list[tuple[str, str]]:
    goes = (each for each in done.goes if each.what == "adapter" and each.name not in done.private_adapters)
    return [(each.name, each.origins[0]) for each in goes]


def _chain_note(faults: int) -> str:
    if not faults:
        return ""
    return (
        f"its audit chain was not whole where it came from ({count(faults, 'fault')}): keep what `company-agents audit "
        "export` says there"
    )
