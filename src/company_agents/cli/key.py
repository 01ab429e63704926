"""
company-agents key …
"""

from __future__ import annotations

from company_agents.cli.command import Session, command, noun
from company_agents.cli.terminal import Result, count, plain, short_time
from company_agents.errors import Exit

group = noun("key", "The master key.")


@command(group, "status")
async def status(session: Session) -> Result:
    """Show the key source, the keys by id, and how much each has sealed."""
    found = await session.app.keys.status()
    data = {**plain(found), "active_key_id": found.active.key_id}
    lines = [f"source  {found.source}", ""]
    for key in found.keys:
        since = f"since {short_time(key.activated_at)}" if key.activated_at else "never active"
        sealed = f"seals {count(key.rows, 'secret')}, sealed {count(key.seals, 'time')} in all"
        lost = "" if key.in_ring else ", NOT in the source"
        lines.append(f"{key.key_id}  {key.state:<8}  {since}, {sealed}{lost}")
    urge = found.active.seals >= found.seals_urge_rotation
    note = "the active key has sealed half of what is safe: a new instance has a new one" if urge else ""
    return Result(data, text="\n".join(lines), note=note)


@command(group, "verify")
async def verify(session: Session) -> Result:
    """Open every secret in memory, and name those that do not open."""
    found = await session.app.keys.verify()
    lines = [f"{count(found.opened, 'secret')} opened, {len(found.bad)} did not"]
    lines += [f"{bad.problem}: secret {bad.id}, {bad.name}, company {bad.company_id or '—'}" for bad in found.bad]
    exit_status = Exit.FAILED if found.bad else Exit.DONE
    return Result({"ok": not found.bad, **plain(found)}, text="\n".join(lines), exit_status=exit_status)
