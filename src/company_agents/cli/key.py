"""
company-agents key …
"""

from __future__ import annotations

import typer

from company_agents.cli.command import Session, command
from company_agents.cli.terminal import Result, plain
from company_agents.errors import Exit

group = typer.Typer(name="key", help="The master key.", no_args_is_help=True)


@command(group, "status")
async def status(session: Session) -> Result:
    """Show the key source, the keys by id, and how much each has sealed."""
    found = await session.app.keys.status()
    data = {**plain(found), "active_key_id": found.active.key_id}
    lines = [f"source  {found.source}"]
    for key in found.keys:
        used = f"{key.seals} of {found.seals_limit} seals"
        lines.append(f"{key.key_id}  {key.state}  {key.rows} secrets  {used}  since {key.activated_at:%Y-%m-%d}")
    if found.active.seals >= found.seals_urge_rotation:
        lines.append("the active key has sealed half of what is safe: rotate it")
    return Result(data, text="\n".join(lines))


@command(group, "verify")
async def verify(session: Session) -> Result:
    """Open every secret in memory, and name those that do not open."""
    found = await session.app.keys.verify()
    lines = [f"{found.opened} secrets open"]
    lines += [f"{bad.problem}: secret {bad.id}, {bad.name}, company {bad.company_id or '—'}" for bad in found.bad]
    exit_status = Exit.FAILED if found.bad else Exit.DONE
    return Result({"ok": not found.bad, **plain(found)}, text="\n".join(lines), exit_status=exit_status)
