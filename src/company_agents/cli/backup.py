"""
company-agents backup …
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any
from uuid import UUID

import typer

from company_agents.cli import progress, terminal
from company_agents.cli.command import Session, command, noun, settings_of_command
from company_agents.cli.help import PlainCommand
from company_agents.cli.options import AsJson, an_id
from company_agents.cli.passphrase import Passphrase, PassphraseStdin, read_passphrase
from company_agents.cli.terminal import Result, count, plain, short_time
from company_agents.errors import CompanyAgentsError, Exit, WrongUsage

if TYPE_CHECKING:
    from company_agents.backup.restore import Restored
    from company_agents.backup.verify import Verdict
    from company_agents.sensitive import Sensitive

group = noun("backup", "Backups: made, verified, restored.")

File = Annotated[str, typer.Argument(metavar="FILE", help="the backup's file")]
NewFile = Annotated[str, typer.Argument(metavar="FILE", help="the new file; `-` is standard output")]
WithMasterKey = Annotated[
    bool, typer.Option("--with-master-key", help="the key ring goes along, wrapped with a passphrase")
]
WithWorkspaces = Annotated[bool, typer.Option("--with-workspaces", help="the files go along that runs are working on")]
Replace = Annotated[
    bool, typer.Option("--replace", help="in place of the instance that is here, which is backed up first")
]
RevokeTokens = Annotated[
    bool, typer.Option("--revoke-tokens", help="no token of an agent or operator works afterwards")
]
WithoutSecrets = Annotated[
    bool, typer.Option("--without-secrets", help="everything but what is sealed; for where the key is lost")
]
Unsigned = Annotated[bool, typer.Option("--unsigned", help="also one of which nothing shows who made it")]
TakeOver = Annotated[
    bool,
    typer.Option("--take-over-source", help="take the key source from the instance that has it, which is locked out"),
]
SomeBackupId = Annotated[
    UUID | None, typer.Option("--id", parser=an_id, metavar="ID", help="this backup; else the newest")
]
BackupId = Annotated[UUID, typer.Option("--id", parser=an_id, metavar="ID", help="the backup")]


@command(group, "export")
async def export(
    session: Session,
    file: NewFile,
    with_master_key: WithMasterKey = False,
    with_workspaces: WithWorkspaces = False,
    passphrase: Passphrase = None,
    passphrase_stdin: PassphraseStdin = False,
) -> Result:
    """Make a backup in a new file, while everything goes on. The master key is not in it, unless you say so."""
    from company_agents.backup.export import target_path

    if (passphrase is not None or passphrase_stdin) and not with_master_key:
        raise WrongUsage("a passphrase is for the key ring", hint="--with-master-key takes it along")
    phrase = read_passphrase(passphrase, passphrase_stdin, confirm=True) if with_master_key else None
    with progress.shown(session.json) as say:
        given: dict[str, Any] = {
            "passphrase": phrase,
            "who": session.principal.label,
            "workspaces": with_workspaces,
            "say": say,
        }
        if file == "-":
            made = await session.app.backups.export_to(terminal.bytes_out(), **given)
        else:
            made = await session.app.backups.export(target_path(file), **given)
    keys = ", ".join(made.key_ids)
    text = f"{made.file} is whole: {count(made.rows, 'row')}, {count(made.secrets, 'secret')}, {size_text(made.size)}"
    note = f"it opens with the key {keys}, which is not in it: keep that elsewhere"
    if made.with_ring:
        note = f"it has the key {keys}, wrapped with your passphrase: who has both has everything"
    if file == "-":
        # Standard output is the backup.
        if session.json:
            terminal.progress_line(made)
        return Result(None, note="" if session.json else f"{text}\n{note}")
    return Result(made, text=text, note=note)


@group.command("verify", cls=PlainCommand)
def verify(
    file: File, passphrase: Passphrase = None, passphrase_stdin: PassphraseStdin = False, json_: AsJson = False
) -> None:
    """Read a backup whole and open every secret in it, without touching anything: would it restore here?"""
    settings = settings_of_command()
    from company_agents.backup.verify import verify_here

    given = passphrase is not None or passphrase_stdin
    phrase = read_passphrase(passphrase, passphrase_stdin, confirm=False) if given else None
    with progress.shown(json_) as say:
        found = asyncio.run(verify_here(settings, _path(file), phrase, say))
    data = {**plain(found), "ok": found.would_restore}
    status = Exit.DONE if found.would_restore else Exit.FAILED
    terminal.show(Result(data, text=_verdict_text(found), note=found.hint), as_json=json_)
    raise typer.Exit(status)


def _verdict_text(found: Verdict) -> str:
    of = f"the company {found.company}" if found.company else f"the instance {found.instance}"
    signed = {"right": "signed with a key that is here", "key not here": "signed with a key that is not here"}
    lines = [
        f"taken {short_time(found.taken_at)} of {of}, by {found.product}, schema {found.schema}",
        f"{count(found.rows, 'row')}, {count(found.secrets, 'secret')}, {size_text(found.size)}; "
        + signed.get(found.signed, found.signed),
    ]
    for key in found.keys:
        place = "here" if key.here else "NOT here"
        lines.append(f"needs the key {key.key_id} ({key.state}, {count(key.secrets, 'secret')}): {place}; {key.when}")
    if found.with_ring:
        lines.append("has its key ring, wrapped with a passphrase")
    lines.append(f"{count(found.opened, 'secret')} opened, {len(found.bad)} did not, {found.not_opened} not tried")
    lines += [f"{bad.problem}: secret {bad.id}, {bad.name}, company {bad.company_id or '—'}" for bad in found.bad]
    lines.append(f"would restore here: {'yes' if found.would_restore else 'no'}, because {found.because}")
    return "\n".join(lines)


@command(group, "make")
async def make(session: Session) -> Result:
    """Make a backup in the place of backups, without the master key, and verify it there."""
    with progress.shown(session.json) as say:
        made = await session.app.backups.make(session.principal.label, say=say)
    text = f"{made.file} is whole and verified: {count(made.rows, 'row')}, {count(made.secrets, 'secret')}, {size_text(made.size)}"
    return Result(made, text=text, note=f"it lies at {made.place}, and opens with the key {', '.join(made.key_ids)}")


@command(group, "drill")
async def drill(session: Session, id: SomeBackupId = None) -> Result:
    """Restore the newest backup into a home and a database that are thrown away, and open everything in it."""
    with progress.shown(session.json) as say:
        found = await session.app.drill.run(id, session.principal.label, say)
    # Where nothing came back, nothing was opened or proved either.
    lines = [f"{found.file}, taken {short_time(found.taken_at)}: nothing was restored"]
    if found.rows:
        lines = [
            f"{found.file}, taken {short_time(found.taken_at)}: restored in {found.seconds:.0f} s",
            f"{count(found.rows, 'row')} came back; {count(found.opened, 'secret')} opened, {len(found.bad)} did not",
            f"{count(found.events, 'audit event')} proved, {count(len(found.faults), 'fault')}",
        ]
    lines += [f"{bad.problem}: secret {bad.id}, {bad.name}, company {bad.company_id or '—'}" for bad in found.bad]
    lines.append(f"the drill failed: {found.problem}" if found.problem else "it would restore")
    status = Exit.FAILED if found.problem else Exit.DONE
    data = {**plain(found), "ok": not found.problem}
    return Result(data, text="\n".join(lines), note=found.hint, exit_status=status)


@command(group, "list", keyless=True)
async def list_(session: Session) -> Result:
    """List the backups that are known, newest first, with the keys that each needs."""
    backups = session.app.backups
    trouble, rows = await backups.compared(), await backups.listed()
    items = [
        {
            **plain(row),
            "made": short_time(row.created_at),
            "bytes": size_text(row.size) if row.size is not None else "—",
            "needs": " ".join(row.key_ids),
            "verified": row.verify_problem or (short_time(row.verified_at) if row.verified_at else "never"),
            "status": row.problem
            or (f"would not restore: the key {row.lost_keys[0]} is gone" if row.lost else row.state),
        }
        for row in rows
    ]
    return Result(
        {"items": items, "next": None},
        columns=("id", "made", "file", "bytes", "needs", "verified", "status"),
        note=f"the place of backups was not looked at: {trouble.sentence}" if trouble else "",
    )


@command(group, "forget", keyless=True)
async def forget(session: Session, id: BackupId) -> Result:
    """Give a backup up: it is removed from the place of backups, and keeps no master key any more."""
    row = await session.app.backups.forget(id, session.principal.label)
    return Result({"id": row.id}, text=f"{row.file} is forgotten")


@group.command("restore", cls=PlainCommand)
def restore(
    file: File,
    replace: Replace = False,
    revoke_tokens: RevokeTokens = False,
    without_secrets: WithoutSecrets = False,
    unsigned: Unsigned = False,
    take_over: TakeOver = False,
    passphrase: Passphrase = None,
    passphrase_stdin: PassphraseStdin = False,
    json_: AsJson = False,
) -> None:
    """Restore an instance from a backup: all of it, or nothing is changed."""
    settings = settings_of_command()
    from company_agents.app import hold_home, open_app
    from company_agents.backup.restore import Options, Restorer

    given = passphrase is not None or passphrase_stdin
    phrase = read_passphrase(passphrase, passphrase_stdin, confirm=False) if given else None

    def asked() -> Sensitive | None:
        if phrase is None and sys.stdin.isatty():
            return read_passphrase(None, False, confirm=False)
        return phrase

    async def run(say: Any) -> Restored:
        options = Options(replace, revoke_tokens, without_secrets, unsigned, take_over)
        restored = await Restorer(settings, options, asked, say).run(_path(file))
        # What a start sees to is seen to now: the key source, the record, a first key where none came back.
        try:
            async with open_app(settings) as app:
                status = await app.keys.status()
                restored.active_key_id = status.active_key_id
                under_others = sum(key.rows for key in status.keys if key.state != "active")
                if under_others:
                    left = count(under_others, "secret")
                    restored.notes.append(f"`company-agents key rotate --finish` moves {left} to the active key")
        except CompanyAgentsError as error:
            restored.starts = False
            restored.notes.append(f"it was restored, and does not start yet: {error.sentence} ({error.hint})")
        return restored

    with contextlib.ExitStack() as stack:
        stack.enter_context(hold_home(settings.home))
        say = stack.enter_context(progress.shown(json_))
        done = asyncio.run(run(say))
    terminal.show(_restored_result(done, revoke_tokens), as_json=json_)
    raise typer.Exit(Exit.DONE if done.starts else Exit.MAY_NOT_START)


def _restored_result(done: Restored, revoked: bool) -> Result:
    lines = [f"restored as it was on {short_time(done.taken_at)}: {count(done.rows, 'row')}; its id is now {done.id}"]
    if done.safety:
        lines.append(f"what was here before is in {done.safety}")
    if done.kept_today:
        lines.append(
            "kept from before: later revocations, the states of the keys, the audit chains and the list of backups"
        )
    lines += [f"the key {key_id} went into the key source" for key_id in done.keys_added]
    for token in done.tokens:
        where = f" of {token['company']}" if token["company"] else ""
        lines.append(f"works again: the token of the {token['kind']} {token['name']}{where}, {token['id']}")
    if done.tokens and not revoked:
        done.notes.append("if one of these tokens had got out: restore again with --replace --revoke-tokens")
    return Result(done, text="\n".join(lines), note="\n".join(done.notes))


def _path(file: str) -> Path:
    return Path(file).expanduser().absolute()


def size_text(size: int) -> str:
    """Bytes for people."""
    value = float(size)
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if value < 1024:
            return f"{value:.0f} {unit}" if unit == "bytes" else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} TiB"
