"""
company-agents doctor
"""

from __future__ import annotations

import asyncio
import shutil
import stat
from dataclasses import dataclass
from typing import Annotated

import typer

from company_agents.app import App, open_app
from company_agents.cli import terminal
from company_agents.cli.command import settings_of_command
from company_agents.cli.terminal import Result, plain
from company_agents.errors import CompanyAgentsError, Exit
from company_agents.logs import Redactor, start_logging
from company_agents.settings import Settings

# Below this the database is about to fail (bytes).
LEAST_DISK = 500 * 1024 * 1024


@dataclass(frozen=True)
class Check:
    """One thing that was looked at."""

    name: str
    ok: bool
    detail: str
    hint: str = ""


def register(cli: typer.Typer) -> None:
    """Add the command."""

    @cli.command("doctor")
    def doctor(as_json: Annotated[bool, typer.Option("--json", help="print one JSON object")] = False) -> None:
        """Look at everything that must be right, and say what is not."""
        settings = settings_of_command()
        start_logging(Redactor(), folder=None, level="error")
        checks = [_home(settings), _disk(settings), *asyncio.run(_instance(settings))]
        good = all(check.ok for check in checks)
        lines = []
        for check in checks:
            lines.append(f"{'ok  ' if check.ok else 'BAD '} {check.name}: {check.detail}")
            if not check.ok and check.hint:
                lines.append(f"     hint: {check.hint}")
        terminal.show(Result({"ok": good, "checks": plain(checks)}, text="\n".join(lines)), as_json=as_json)
        raise typer.Exit(Exit.DONE if good else Exit.FAILED)


def _home(settings: Settings) -> Check:
    try:
        mode = stat.S_IMODE(settings.home.stat().st_mode)
    except FileNotFoundError:
        return Check("home", True, f"{settings.home} does not exist yet; the first command makes it")
    good = not mode & 0o077
    detail = f"{settings.home} is {'its owner alone' if good else 'open to others'}"
    return Check("home", good, detail.replace("is its", "is for its"), f"chmod 700 {settings.home}")


def _disk(settings: Settings) -> Check:
    folder = next(parent for parent in (settings.home, *settings.home.parents) if parent.exists())
    free = shutil.disk_usage(folder).free
    return Check("disk", free >= LEAST_DISK, f"{free // 1024**2} MiB free", "make room: a full disk stops every write")


async def _instance(settings: Settings) -> list[Check]:
    try:
        async with open_app(settings) as app:
            return [_database(app), await _key(app), await _secrets(app), await _audit(app)]
    except CompanyAgentsError as error:
        return [Check("start", False, error.sentence, error.hint)]


def _database(app: App) -> Check:
    kind = "your own server" if app.settings.database_url else "embedded"
    return Check("database", True, f"{kind}; schema, roles and row-level security are as they must be")


async def _key(app: App) -> Check:
    status = await app.keys.status()
    missing = [key.key_id for key in status.keys if key.rows and not key.in_ring]
    if missing:
        return Check("master key", False, f"{missing[0]} seals secrets and is not in the ring", "put it back")
    good = status.active.seals < status.seals_urge_rotation
    detail = f"{status.active.key_id} at {status.source}, {status.active.seals} seals"
    return Check("master key", good, detail, "it has sealed half of what is safe: rotate it")


async def _secrets(app: App) -> Check:
    found = await app.keys.verify()
    if found.bad:
        first = found.bad[0]
        return Check("secrets", False, f"{len(found.bad)} do not open; the first: {first.id} ({first.problem})", "`company-agents key verify`")
    return Check("secrets", True, f"{found.opened} open")


async def _audit(app: App) -> Check:
    chains = await app.events.verify_all()
    faults = [fault for chain in chains for fault in chain.faults]
    if faults:
        return Check("audit", False, f"event {faults[0].seq} of {faults[0].chain}: {faults[0].what}", "`company-agents audit verify`")
    return Check("audit", True, f"{sum(chain.events for chain in chains)} events prove themselves")
