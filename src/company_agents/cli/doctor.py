"""
company-agents doctor
"""

from __future__ import annotations

import asyncio
import shutil
import stat
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import typer

from company_agents.cli import terminal
from company_agents.cli.command import settings_of_command
from company_agents.cli.help import PlainCommand
from company_agents.cli.options import AsJson
from company_agents.cli.terminal import Result, count, plain
from company_agents.cli.up import running_url
from company_agents.errors import CompanyAgentsError, Exit

if TYPE_CHECKING:
    from company_agents.app import App
    from company_agents.backup.rows import BackupRow
    from company_agents.rotation.status import KeyStatus
    from company_agents.settings import Settings

# Below this the database is about to fail (bytes).
LEAST_DISK = 500 * 1024 * 1024


@dataclass(frozen=True)
class Check:
    """One thing that was looked at; the hint says what to do where it is not ok."""

    name: str
    ok: bool
    detail: str
    hint: str = ""


def register(cli: typer.Typer) -> None:
    """Add the command."""

    @cli.command("doctor", cls=PlainCommand)
    def doctor(as_json: AsJson = False) -> None:
        """Look at everything that must be right, and say what is not."""
        settings = settings_of_command()
        checks = [
            _home(settings),
            *_left_behind(settings),
            _disk(settings),
            *_provider_files(settings),
            *_prices(settings),
        ]
        # To look is not to make: an instance begins with `up` or with a first command.
        if (settings.home / "db").exists() or settings.database_url is not None:
            checks += [_orchestrator(settings), *asyncio.run(_instance(settings))]
        checks = [replace(check, hint="") if check.ok else check for check in checks]
        good = all(check.ok for check in checks)
        lines = []
        for check in checks:
            lines.append(f"{'ok ' if check.ok else 'BAD'}  {check.name}: {check.detail}")
            if check.hint:
                lines.append(f"     hint: {check.hint}")
        terminal.show(Result({"ok": good, "checks": plain(checks)}, text="\n".join(lines)), as_json=as_json)
        raise typer.Exit(Exit.DONE if good else Exit.FAILED)


def _home(settings: Settings) -> Check:
    try:
        mode = stat.S_IMODE(settings.home.stat().st_mode)
    except OSError:
        return Check("home", True, f"{settings.home} does not exist yet; `company-agents up` makes it")
    if mode & 0o077:
        return Check("home", False, f"{settings.home} is open to others", f"chmod 700 {settings.home}")
    return Check("home", True, f"{settings.home} is for its owner alone")


def _left_behind(settings: Settings) -> list[Check]:
    from company_agents.app import left_behind

    # Nothing is wrong with it; but it takes room, and whoever deleted the home may think that it is gone.
    return [
        Check(
            "left behind",
            True,
            f"{folder} is the database of an earlier home at this place; nothing uses it now",
        )
        for folder in left_behind(settings.home)
    ]


def _disk(settings: Settings) -> Check:
    folder = next(parent for parent in (settings.home, *settings.home.parents) if parent.exists())
    free = shutil.disk_usage(folder).free
    return Check("disk", free >= LEAST_DISK, f"{free // 1024**2} MiB free", "make room: a full disk stops every write")


def _provider_files(settings: Settings) -> list[Check]:
    from company_agents.integrations.provider import Providers, shipped

    providers = Providers.at(settings.home)
    bad, own = providers.bad_files(), len(providers.list()) - len(shipped())
    if not bad:
        return [Check("providers", True, f"{count(own, 'file')} of your own, read")] if own else []
    return [Check("providers", False, str(file), "docs/providers.md has all fields") for file in bad]


def _prices(settings: Settings) -> list[Check]:
    from company_agents.integrations.prices import FILE, Prices

    prices = Prices.at(settings.home)
    hint = "docs/costs.md has all fields; until it is mended, the shipped prices count"
    bad = [Check("prices", False, str(file), hint) for file in prices.bad_files()]
    own = [Check("prices", True, f"{FILE} of your own, read")] if prices.own and prices.own.good() else []
    return bad or own


def _orchestrator(settings: Settings) -> Check:
    url = running_url(settings)
    return Check("orchestrator", True, f"runs at {url}" if url else "does not run on this home now")


async def _instance(settings: Settings) -> list[Check]:
    from company_agents.app import open_app
    from company_agents.logs import Redactor, start_logging

    start_logging(Redactor(), folder=None, level="error")
    try:
        async with open_app(settings) as app:
            return [
                *(_database(app), *await _keys(app), await _secrets(app), await _audit(app)),
                *(await _backups(app), await _sandbox(app)),
            ]
    except CompanyAgentsError as error:
        return [Check("start", False, error.sentence, error.hint)]


def _database(app: App) -> Check:
    kind = "your own server" if app.settings.database_url else "embedded"
    return Check("database", True, f"{kind}; schema, roles and row-level security are as they must be")


async def _keys(app: App) -> list[Check]:
    status = await app.keys.status()
    owner = (await app.keys.source.read()).owner
    whose = "is this instance's" if owner else "is nobody's, and can only be read: its key cannot be rotated"
    checks = [_key(status), Check("key source", True, f"{status.source} {whose}"), *_replicas(status)]
    if status.underway and not status.underway.running:
        destroying = any(key.state == "destroying" for key in status.keys)
        hint = f"`company-agents key {'prune' if destroying else 'rotate --finish'}` finishes it"
        checks.append(Check("rotation", False, "a change of the master key was left unfinished", hint))
    return checks


def _key(status: KeyStatus) -> Check:
    missing = [key.key_id for key in status.keys if key.rows and not key.in_ring]
    if missing:
        return Check("master key", False, f"{missing[0]} seals secrets and is not in the ring", "put it back")
    detail = f"{status.active.key_id}, {count(status.active.seals, 'seal')}, {count(status.age_days, 'day')} old"
    if status.worn:
        return Check("master key", False, detail, "it has sealed half of what is safe: `company-agents key rotate`")
    hint = f"its period is {count(status.period_days, 'day')}: `company-agents key rotate`"
    return Check("master key", not status.old, detail, hint)


def _replicas(status: KeyStatus) -> list[Check]:
    active = status.active.key_id
    without = [replica for replica in status.replicas if replica.problem or active not in replica.key_ids]
    if not status.replicas:
        return []
    if not without:
        return [Check("orchestrators", True, f"{len(status.replicas)} alive, and the active key is held by each")]
    first = without[0]
    detail = f"{first.host}, process {first.process}: {first.problem or f'it does not hold the key {active}'}"
    return [Check("orchestrators", False, detail, "let it reach the key source, or start it again")]


async def _secrets(app: App) -> Check:
    found = await app.keys.verify()
    if found.bad:
        detail = f"not opened: {len(found.bad)}; the first: {found.bad[0].id} ({found.bad[0].problem})"
        return Check("secrets", False, detail, "`company-agents key verify` names them all")
    return Check("secrets", True, f"{found.opened} open")


async def _audit(app: App) -> Check:
    chains = await app.events.verify_all()
    faults = [fault for chain in chains for fault in chain.faults]
    if faults:
        detail = f"event {faults[0].seq} of {faults[0].chain}: {faults[0].what}"
        return Check("audit", False, detail, "`company-agents audit verify` names them all")
    unproved = sum(chain.unproved for chain in chains)
    detail = f"{count(sum(chain.events for chain in chains) - unproved, 'event')} as written"
    if unproved:
        detail += f", {unproved} not to be proved: restored without secrets"
    return Check("audit", True, detail)


async def _backups(app: App) -> Check:
    """What is wrong with the backups, or how old the newest good one is, and where."""
    trouble = await app.backups.compared()
    rows = await app.backups.rows()
    concerns = app.backup_watch.of(rows)
    if concerns:
        more = f"; and {len(concerns) - 1} more" if len(concerns) > 1 else ""
        return Check("backups", False, f"{concerns[0].sentence}{more}", concerns[0].hint)
    if trouble is not None and app.backup_watch.scheduled:
        return Check("backups", False, trouble.sentence, trouble.hint)
    return Check("backups", True, _newest_backup(app, rows))


def _newest_backup(app: App, rows: list[BackupRow]) -> str:
    last = max((row for row in rows if row.good), key=lambda row: row.created_at, default=None)
    known = "none is known"
    if last is not None:
        place = f"in {last.place}" if last.place else "nobody knows where"
        known = f"the newest good one is {_age(last.created_at)} old, {last.name}, {place}"
    if app.backup_watch.scheduled:
        return known if last else "none yet; the schedule makes the first within a day, while an orchestrator runs"
    if app.settings.database_url is None:
        return f"none is made by schedule, `company-agents backup export` makes one; {known}"
    yours = "none is made by schedule: your Postgres service's own are yours to see to"
    return f"{yours}; `company-agents backup export` makes one; {known}"


def _age(at: datetime) -> str:
    hours = int((datetime.now(UTC) - at).total_seconds() // 3600)
    return count(hours // 24, "day") if hours >= 48 else count(max(hours, 0), "hour")


async def _sandbox(app: App) -> Check:
    from company_agents.runs.sandbox.proof import prove
    from company_agents.runs.sandbox.sandbox import Sandbox

    found = await prove(Sandbox(app.settings), app.settings)
    if found.way is None:
        # Nothing is wrong with it: not every instance has agents that are processes.
        what = "install bubblewrap to have agents that are processes"
        return Check("sandbox", True, f"{found.missing}; {what}")
    if found.reached:
        detail = f"a process in it reaches {found.reached[0]}"
        return Check("sandbox", False, detail, "start no agent that is a process, and see docs/security/sandbox.md")
    way = "another user" if found.way == "user" else found.way
    network = "; its network is open" if found.open_network else ""
    return Check("sandbox", True, f"{way}: of {count(found.tried, 'place')} to keep from it, it reaches none{network}")
