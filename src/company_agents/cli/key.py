"""
company-agents key …
"""

from __future__ import annotations

import asyncio
from typing import Annotated, Any

import typer

from company_agents.cli import progress, terminal
from company_agents.cli.command import Session, command, noun, settings_of_command
from company_agents.cli.help import PlainCommand
from company_agents.cli.options import AsJson, GoneKeyId, KeyId
from company_agents.cli.terminal import Result, count, plain, short_time
from company_agents.errors import Exit, WrongUsage
from company_agents.hardening import step_back

group = noun("key", "The master key.")

Source = Annotated[
    str | None, typer.Option("--source", metavar="URL", help="the key source; else the one that the settings name")
]
Adopt = Annotated[bool, typer.Option("--adopt", help="take the key that was put there by hand")]
TakeOver = Annotated[
    bool, typer.Option("--take-over-source", help="take it from the instance that has it, which is locked out")
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="look whether it would work, and change nothing")]
Finish = Annotated[bool, typer.Option("--finish", help="finish what was begun, and begin nothing")]
Compromised = Annotated[
    bool, typer.Option("--compromised", help="the key got out: destroy it, and list what it sealed")
]


@group.command("init", cls=PlainCommand)
def init(source: Source = None, adopt: Adopt = False, take_over: TakeOver = False, json_: AsJson = False) -> None:
    """Make the first key of a new instance in its key source."""
    settings = settings_of_command(**({"master_key_source": source, "master_key_path": None} if source else {}))
    from company_agents.app import init_key

    made = asyncio.run(init_key(settings, adopt=adopt, take_over=take_over))
    what = "is the first key of this instance" if made.created else "is the key of this instance"
    note = f"set MASTER_KEY_SOURCE={made.source} wherever it runs" if source else ""
    if made.taken_over_from:
        note = f"the instance {made.taken_over_from} cannot use this source any more" + (f"\n{note}" if note else "")
    terminal.show(Result(made, text=f"{made.key_id} at {made.source} {what}", note=note), as_json=json_)


@command(group, "status")
async def status(session: Session) -> Result:
    """Show the key source, the keys by id, and how much each has sealed."""
    found = await session.app.keys.status()
    data = {**plain(found), "active_key_id": found.active.key_id, "old": found.old}
    lines = [f"source  {found.source}", ""]
    for key in found.keys:
        since = f"since {short_time(key.activated_at)}" if key.activated_at else "never active"
        facts = [since, f"seals {count(key.rows, 'secret')}", f"sealed {count(key.seals, 'time')} in all"]
        if key.state == "archived":
            facts.append(f"kept until {short_time(key.ends_at)}" if key.ends_at else "kept without an end")
        if key.backups:
            facts.append(f"needed by {count(len(key.backups), 'backup')}")
        if not key.in_ring and key.state not in ("destroying", "destroyed"):
            facts.append("NOT in the source")
        lines.append(f"{key.key_id}  {key.state:<9}  {', '.join(facts)}")
    for replica in found.replicas:
        holds = "holds the active key" if found.active.key_id in replica.key_ids else "does NOT hold the active key"
        lines.append(f"orchestrator at {replica.host}, process {replica.process}, {replica.problem or holds}")
    if found.underway:
        finish = "prune" if any(key.state == "destroying" for key in found.keys) else "rotate --finish"
        running = "runs now" if found.underway.running else f"was left unfinished: `company-agents key {finish}`"
        lines.append(f"a change of the master key {running}")
    return Result(data, text="\n".join(lines), note="\n".join(_warnings(found)))


def _warnings(found: Any) -> list[str]:
    warnings = []
    if found.worn:
        warnings.append("the active key has sealed half of what is safe: rotate it")
    if found.old:
        warnings.append(
            f"the active key is {found.age_days} days old, and its period is {found.period_days}: rotate it"
        )
    if found.to_reissue:
        warnings.append(
            f"{count(found.to_reissue, 'secret')} of a compromised key still to be replaced: "
            "`company-agents key reissue` lists them"
        )
    return warnings


@command(group, "verify")
async def verify(session: Session) -> Result:
    """Open every secret in memory, and name those that do not open."""
    with progress.shown(session.json) as say:
        found = await session.app.keys.verify(say)
    lines = [f"{count(found.opened, 'secret')} opened, {len(found.bad)} did not", *map(_bad_line, found.bad)]
    exit_status = Exit.FAILED if found.bad else Exit.DONE
    return Result({"ok": not found.bad, **plain(found)}, text="\n".join(lines), exit_status=exit_status)


def _bad_line(bad: Any) -> str:
    return f"{bad.problem}: secret {bad.id}, {bad.name}, company {bad.company_id or '—'}, under {bad.key_id}"


@command(group, "rotate")
async def rotate(
    session: Session, dry_run: DryRun = False, finish: Finish = False, compromised: Compromised = False
) -> Result:
    """Bring a new master key and move every secret to it, while everything runs. Ctrl-C is safe at any moment."""
    if finish and (dry_run or compromised):
        raise WrongUsage("--finish goes alone", hint="what was begun is finished as it was begun")
    step_back()
    with progress.shown(session.json) as say:
        if dry_run:
            return _foreseen(await session.app.rotator.foresee(compromised=compromised, say=say), compromised)
        who = session.principal.label
        done = await session.app.rotator.rotate(finish=finish, compromised=compromised, who=who, say=say)
    reissue = await session.app.keys.to_reissue() if done.destroyed else []
    data = {**plain(done), "ok": not done.bad, "to_reissue": plain(reissue)}
    lines = [_done_line(done), *map(_bad_line, done.bad), *(f"{backup} cannot be restored" for backup in done.backups)]
    lines += [f"replace {entry.name} of {entry.company or 'the instance'}: {entry.command}" for entry in reissue]
    note = "some rows did not open, so the old key stays; see to them, then `key rotate --finish`" if done.bad else ""
    return Result(
        data,
        text="\n".join(lines),
        note=note or done.after_destroy,
        exit_status=Exit.FAILED if done.bad else Exit.DONE,
    )


def _done_line(done: Any) -> str:
    if done.action == "nothing":
        return f"there was nothing to finish; {done.new_key_id} is active"
    line = f"{done.new_key_id} is active; {count(done.rows, 'secret')} moved in {done.seconds:.1f} s"
    if done.old_key_id and not done.bad:
        kept = f"kept until {short_time(done.ends_at)}" if done.ends_at else "kept without an end"
        kept = "destroyed" if done.destroyed else kept
        line += f"; {done.old_key_id} is {kept}"
    return line


def _foreseen(found: Any, compromised: bool) -> Result:
    does = "finish the rotation that was begun" if found.action == "finish" else "bring a new key"
    lines = [f"it would {does}: {count(found.rows, 'secret')} under {found.active_key_id}, all of them open"]
    lines.append(f"{count(found.replicas, 'orchestrator')} would have to confirm the new key")
    if compromised:
        lines.append("the old key would be destroyed at the end")
        lines += [f"{backup} could not be restored any more" for backup in found.backups]
    return Result({"ok": True, **plain(found)}, text="\n".join(lines), note="nothing was changed")


@command(group, "reissue")
async def reissue(session: Session) -> Result:
    """List what a compromised key sealed and nobody has replaced since; it ends 1 while there is anything."""
    left = await session.app.keys.to_reissue()
    status = Exit.FAILED if left else Exit.DONE
    columns = ("company", "name", "command")
    return Result({"items": left, "next": None}, columns=columns, exit_status=status)


@command(group, "prune")
async def prune(session: Session, id: KeyId = None, gone: GoneKeyId = None) -> Result:
    """Destroy archived keys whose grace period is over and that nothing needs, or the one that is named."""
    who = session.principal.label
    if gone is not None:
        if id is not None:
            raise WrongUsage("--id and --gone exclude each other")
        await session.app.pruner.forget(gone, who)
        return Result({"forgotten": gone}, text=f"{gone} is noted as destroyed")
    found = await session.app.pruner.prune(id, who)
    lines = [f"{key_id} is destroyed" for key_id in found.destroyed]
    lines += [f"{kept.key_id} is kept: {kept.why}" for kept in found.kept]
    return Result(found, text="\n".join(lines) or f"{id} was destroyed before", note=found.after_destroy)
