"""
What each process does, step by step, as `company_agents.rotation` has it; between any two steps somebody else may move. The
export is as the design has it. A program is given where its process is, and yields every move that it may make.
"""

from __future__ import annotations

from tests.model.world import RUNNING, At, Database, Key, Move, Moves, Program, Source, changed_source, with_database


def rotator(at: At) -> Moves:
    """`key rotate`, and `key rotate --compromised`."""
    step, db, me = at.me.step, at.db, at.me
    if step == "":
        for event, leaked in (("rotate", False), ("compromise", True)):
            if db.lock is None and db.started and at.world.may(event):
                yield At(at.case, at.world.spend(event), at.seat).take("look", leaked=leaked)
    elif step == "look":
        yield _plan(at)
    elif step == "register":
        yield _registered(at)
    elif step == "confirmed":
        if me.new in at.source.kept or not at.rules.read_back:
            yield at.to("read", f"sees that key {me.new} is still there", "switch")
        else:
            yield at.stop("the source does not have the key")
    elif step == "switch":
        yield from _switch(at)
    elif step == "rewrap":
        yield _rewrap(at)
    elif step == "rewrap.write":
        if at.overtaken or db.keys[me.new].state != "active":
            yield at.stop("overtaken")
        else:
            moved = db.move(me.row, me.new, me.value)
            yield at.to("commit", f"COMMIT: row {me.row} → key {me.new}", "rewrap", db=moved, row=-1, value=-1)
    elif step == "verify":
        if at.overtaken:
            yield at.stop("overtaken")
        elif not _somebody_writes(at):
            yield at.to("fence", "waited for every writer", "count")
    elif step == "count":
        if at.overtaken or any(key == me.old for key, _ in db.rows):
            yield at.stop("rows came back, or overtaken")
        else:
            yield at.to("fence", f"sees no row under key {me.old}", _first(at, "archive"))
    elif step == "archived":
        yield _archived(at)
    else:
        yield from _source_or_destroy(at)


def _plan(at: At) -> Move:
    """What there is to do, by the states and by the source as both are now."""
    db, kept = at.db, at.source.kept
    [active] = db.of("active")
    retiring, staged = db.of("retiring"), db.of("staged")[:1]
    if _not_ours(at):
        return at.stop("the source is another's")
    if at.me.leaked and any(not db.keys[key].leaked for key in retiring):
        return at.stop("a rotation is half done")
    if retiring:
        return at.to("read", f"resumes {retiring[0]} → {active}", "rewrap", new=active, old=retiring[0])
    # A key that lay there when the active one leaked may have leaked too; and what was said of it once stays said.
    stale = staged if at.me.leaked and not db.keys[active].leaked else []
    leaked = at.me.leaked or db.keys[active].leaked
    if staged and staged[0] in kept and not stale and _opens(at):
        return at.to("read", f"resumes with {staged[0]}", "confirmed", new=staged[0], old=active, leaked=leaked)
    elsewhere = {key for key, _ in db.rows} - {active}
    lost = [key for key in db.of("archived", "destroying") if db.keys[key].leaked and key not in elsewhere]
    if lost:
        return at.to("read", f"goes on to destroy {lost[0]}", "mark", old=lost[0])
    if elsewhere and not leaked:
        return at.to("read", "moves rows that are under other keys", "rewrap", new=active)
    if not _opens(at):
        return at.stop("a row does not open")
    new, world = at.world.next_key, at.world._replace(next_key=at.world.next_key + 1)
    assert new < len(db.keys), "the model has too few keys"
    at = At(at.case, world, at.seat)
    aside = stale[0] if stale else -1
    return at.to("read", f"makes key {new}", _first(at, "stage"), new=new, old=active, leaked=leaked, stale=aside)


def _registered(at: At) -> Move:
    db, me = at.db, at.me
    if at.overtaken or db.keys[me.new].state or (me.stale >= 0 and db.keys[me.stale].state != "staged"):
        return at.stop("overtaken")
    changes = {me.new: Key("staged")}
    if me.stale >= 0:
        changes[me.stale] = db.keys[me.stale]._replace(state="archived", ends=True)
    if me.leaked and db.keys[me.old].state == "active":
        changes[me.old] = db.keys[me.old]._replace(leaked=True)
    return at.to("commit", f"COMMIT: key {me.new} staged", "confirmed", db=db.set(changes), stale=-1)


def _switch(at: At) -> Moves:
    db, new, old = at.db, at.me.new, at.me.old
    if at.overtaken or db.keys[old].state != "active" or db.keys[new].state != "staged":
        yield at.stop("overtaken")
    elif not _somebody_writes(at):
        retired = db.keys[old]._replace(state="retiring", leaked=at.me.leaked)
        after = db.set({old: retired, new: db.keys[new]._replace(state="active")})
        yield at.to("commit", f"COMMIT: {new} active, {old} retiring", "rewrap", db=after._replace(settled=False))


def _rewrap(at: At) -> Move:
    db, new = at.db, at.me.new
    if at.overtaken or db.keys[new].state != "active":
        return at.stop("overtaken")
    others = [row for row, (key, _) in enumerate(db.rows) if key != new]
    for row in others:
        key, value = db.rows[row]
        if key in at.source.kept and at.rules.compare_rows:
            return at.to("row", f"COMMIT: row {row} → key {new}", "rewrap", db=db.move(row, new, value))
        if key in at.source.kept:
            return at.to("", f"reads row {row}", "rewrap.write", row=row, value=value)
    if others or at.me.old < 0:
        return at.stop("done, or rows that do not open are left")
    return at.to("", "sees no row left", "verify")


def _archived(at: At) -> Move:
    db, old = at.db, at.me.old
    key = db.keys[old]
    if at.overtaken or key.state != "retiring":
        return at.stop("overtaken")
    ends = key.leaked or not (key.shared and at.rules.shared_keys_never_end)
    after = db.set({old: key._replace(state="archived", ends=ends)})._replace(settled=True)
    return at.to("commit", f"COMMIT: {old} archived", "mark" if key.leaked else "", db=after)


def pruner(at: At) -> Moves:
    """`key prune`, by itself: of those whose time is over."""
    db, rules = at.db, at.rules
    if at.me.step == "":
        if db.lock is None and db.started and at.world.may("prune"):
            yield At(at.case, at.world.spend("prune"), at.seat).take("look")
    elif at.me.step == "look":
        # The manifests of whole backups are read again.
        manifests = rules.prune_sees_backups and rules.backup_needs_states
        known = db.backups | (at.world.files if manifests else frozenset())
        at = At(at.case, with_database(at.world, at.where, db._replace(backups=known)), at.seat)
        ready = [key for key, entry in enumerate(db.keys) if _time_is_over(entry) and not _is_needed(at, key)]
        if (RUNNING in db.backups and rules.prune_sees_backups) or _not_ours(at) or at.overtaken or not ready:
            yield at.stop("nothing to do, or it may not")
            return
        for key in ready:
            yield at.to("fence", f"chooses key {key}", "mark", old=key)
    else:
        yield from _source_or_destroy(at)


def _source_or_destroy(at: At) -> Moves:
    """The steps at the source, and those by which a key is destroyed."""
    db, old, step = at.db, at.me.old, at.me.step
    key = db.keys[old] if old >= 0 else Key()
    if step == "mark":
        running = RUNNING in db.backups and at.rules.prune_sees_backups
        if at.overtaken or running or key.state not in ("archived", "destroying") or _is_needed(at, old):
            yield at.stop("overtaken, or it is needed")
        elif at.rules.mark_before_destroy:
            marked = db.set({old: key._replace(state="destroying")})
            yield at.to("commit", f"COMMIT: {old} destroying", _first(at, "destroy"), db=marked)
        else:
            yield at.to("", f"is about to destroy {old}", _first(at, "destroy"))
    elif step == "destroyed":
        if at.overtaken or key.state not in ("archived", "destroying"):
            yield at.stop("overtaken")
        else:
            gone = db.set({old: key._replace(state="destroyed")})
            yield at.to("commit", f"COMMIT: {old} destroyed", "", db=gone)
    else:
        yield from _at_source(at, *step.split("."))


def _first(at: At, work: str) -> str:
    return f"{work}.read" if at.rules.read_before_check else f"{work}.check"


def _at_source(at: At, work: str, step: str) -> Moves:
    """A write to the source: read it, see that the fence holds, write against what was read, read it back."""
    right = at.rules.read_before_check
    if step == "read":
        if _not_ours(at):
            yield at.stop("the source is another's")
        else:
            yield at.to("read", "reads the source", f"{work}.{'check' if right else 'write'}", fresh=at.case.compares)
    elif step == "check":
        if at.me.fence:
            yield at.to("fence", "sees that the fence holds", f"{work}.{'write' if right else 'read'}")
        else:
            yield at.stop("overtaken")
    elif step == "back":
        if at.me.new in at.source.kept:
            yield at.to("read", f"reads key {at.me.new} back", "register")
        else:
            yield at.stop("the source does not have the key")
    else:
        yield from _written(at, work)


def _written(at: At, work: str) -> Moves:
    source, new, old = at.source, at.me.new, at.me.old
    if work == "stage":
        after = source._replace(kept=source.kept | {new})
        if not at.rules.keys_by_id:
            after = source._replace(kept=source.kept - {source.hint} | {new}, hint=new)
        then = "stage.back" if at.rules.read_back else "register"
        yield at.write("add", f"SOURCE: adds key {new}", after, then)
        if at.world.may("source loses a write"):
            at = At(at.case, at.world.spend("source loses a write"), at.seat)
            yield at.write("add", f"SOURCE: says that it has added key {new}", source, then)
    elif work == "archive":
        yield at.write("hint", f"SOURCE: the hint names {new}", source._replace(hint=new), "archived")
    else:
        if at.db.keys[old].leaked:
            at = At(at.case, at.world._replace(given_up=at.world.given_up | {old}), at.seat)
        yield at.write("destroy", f"SOURCE: destroys {old}", source._replace(kept=source.kept - {old}), "destroyed")


def writer(at: At) -> Moves:
    """Somebody who replaces a secret: holds the writers' lock, and reads the active key under it."""
    db, me = at.db, at.me
    if me.step == "":
        if db.started and at.world.may("write"):
            [active] = db.of("active")
            for row in range(len(db.rows)) if active in at.source.kept else ():
                world = at.world.spend("write")
                holding = At(at.case, world, at.seat)
                yield holding.to("", f"holds the writers' lock, key {active} is active", "holds", new=active, row=row)
    else:
        value = db.written[me.row] + 1
        written = (*db.written[: me.row], value, *db.written[me.row + 1 :])
        after = db.move(me.row, me.new, value)._replace(written=written)
        yield at.to("commit", f"COMMIT: row {me.row} has a new value under key {me.new}", "", db=after)


def export(at: At) -> Moves:
    """A backup: registered as running before its snapshot, and with the keys that it needs once it is whole."""
    db, seen = at.db, at.me.seen
    if at.me.step == "":
        if db.started and at.world.may("export"):
            at = At(at.case, at.world.spend("export"), at.seat)
            running = db.backups | {RUNNING} if at.rules.registered_before_snapshot else db.backups
            yield at.to("commit", "begins", "snapshot", db=db._replace(backups=running))
    elif at.me.step == "snapshot":
        # A staged key that the source has lost is needed by nobody.
        needs = db.needs() & at.source.kept
        yield at.to("", "takes its snapshot", "file", seen=needs, value=db.rows[0][0])
    elif at.me.step == "file":
        assert isinstance(seen, frozenset)
        at = At(at.case, at.world._replace(files=at.world.files | {seen}), at.seat)
        yield at.to("", "FILE: the backup is whole", "whole", seen=seen, value=at.me.value)
    else:
        assert isinstance(seen, frozenset)
        known = seen if at.rules.backup_needs_states else frozenset({at.me.value})
        yield at.to(
            "commit", "COMMIT: registers the backup", "", db=db._replace(backups=db.backups - {RUNNING} | {known})
        )


def start(at: At) -> Moves:
    """The start of an orchestrator or a command: compare, and reconcile under the lock of the rotator."""
    db, source, seen, again = at.db, at.source, at.me.seen, at.rules.start_looks_again
    if at.me.step == "":
        if at.world.may("start") or not db.started:
            at = At(at.case, at.world.spend("start"), at.seat)
            yield at.to("", "starts: reads the states", "source", seen=(_states(db), source))
        return
    assert isinstance(seen, tuple)
    if at.me.step == "source":
        missing = _missing(seen[0], source)
        if _not_ours(at):
            yield at.stop("the source is another's")
        elif missing and again:
            yield at.to("", "misses a key", "source again", seen=seen)
        else:
            yield _judged(at, missing, (seen[0], source))
    elif at.me.step == "source again":
        seen = (seen[0], source)
        yield at.to("read", "reads the source again", "states again", seen=seen, fresh=at.case.compares)
    elif at.me.step == "states again":
        # Needed before and after: what was destroyed in between is marked by now.
        missing = [key for key in _missing(seen[0], seen[1]) if key in _missing(db, seen[1])]
        yield _judged(at, missing, (_states(db), seen[1]))
    elif at.me.step == "compare":
        yield _compared(at, *seen)
    elif at.me.step == "again":
        seen = (_states(db), source)
        yield at.to("read", "reads both again, under the lock", "hint", seen=seen, fresh=at.case.compares)
    elif at.me.step == "hint":
        [active] = seen[0].of("active")
        if source.hint != active and (at.me.fresh or not at.case.compares):
            hinted = changed_source(at.world, source._replace(hint=active))
            yield At(at.case, hinted, at.seat).to("hint", f"SOURCE: the hint names {active}", "commit")
        else:
            yield at.to("", "leaves the hint", "commit")
    elif at.me.step == "commit":
        yield at.to("commit", "COMMIT: reconciles", "", db=_reconciled(at, *seen))


def _judged(at: At, missing: list[int], seen: tuple[Database, Source]) -> Move:
    if missing and not _may_be_gone(at.db, at.source, missing):
        return at.to("", "is REFUSED", "refused")
    if at.me.step == "source":
        return at.to("read", "reads the source", "compare", seen=seen, fresh=at.case.compares)
    return at.to("", "reads the states again", "compare", seen=seen)


def _compared(at: At, seen: Database, source: Source) -> Move:
    [active] = seen.of("active")
    differs = _unknown(seen, source) or _lost(seen, source) or at.db.elsewhere or _missing(seen, source)
    if not differs and source.hint == active:
        return at.to("", "finds all as it should be", "", db=_without_dead_exports(at, at.db))
    if at.db.lock is not None:
        return at.to("", "leaves it to the rotation under way", "", db=at.db._replace(started=True))
    # In the transaction of the start, and not to be seen before its end.
    return at.take("again" if at.rules.start_looks_again else "hint", kind="")


def _states(db: Database) -> Database:
    """What a start reads of a database."""
    return Database(db.keys, (), ())


def _reconciled(at: At, seen: Database, source: Source) -> Database:
    db, rules = at.db, at.rules
    changes: dict[int, Key] = {}
    for key in _unknown(seen, source) if rules.unknown_keys_adopted else ():
        if db.keys[key].state in ("", "destroying", "destroyed"):
            changes[key] = db.keys[key]._replace(state="archived", ends=False)
    for key in _lost(seen, source) if rules.staged_dropped else ():
        changes[key] = Key() if db.keys[key].state == "staged" else db.keys[key]
    for key in _missing(seen, source):
        changes[key] = db.keys[key]._replace(state="destroyed")
    db = db.set(changes)
    if db.elsewhere and rules.ends_taken_away:
        in_use = {key: db.keys[key] for key in db.of("staged", "active", "retiring", "archived")}
        endless = {key: entry._replace(ends=entry.ends and entry.leaked, shared=True) for key, entry in in_use.items()}
        db = db.set(endless)
    return _without_dead_exports(at, db._replace(elsewhere=False))


def _without_dead_exports(at: At, db: Database) -> Database:
    """A backup that died while it was made is forgotten."""
    exporting = any(
        process.step and seat.role == "export" for process, seat in zip(at.world.processes, at.case.seats, strict=True)
    )
    return db._replace(backups=db.backups if exporting else db.backups - {RUNNING}, started=True)


def _unknown(db: Database, source: Source) -> list[int]:
    return [key for key in source.kept if db.keys[key].state in ("", "destroyed")]


def _lost(db: Database, source: Source) -> list[int]:
    return [key for key in db.of("staged") if key not in source.kept]


def _missing(db: Database, source: Source) -> list[int]:
    return [key for key in db.of("active", "retiring", "archived") if key not in source.kept]


def _may_be_gone(db: Database, source: Source, missing: list[int]) -> bool:
    """After it has gone back, an operator may give up an archived key that no row needs: `key prune --gone`."""
    return db.old and all(db.keys[key].state == "archived" and key not in dict(db.rows) for key in missing)


def _not_ours(at: At) -> bool:
    return at.rules.source_has_owner and at.source.owner != at.db.instance


def _opens(at: At) -> bool:
    return all(key in at.source.kept for key, _ in at.db.rows)


def _somebody_writes(at: At) -> bool:
    return at.rules.writers_lock and any(
        process.step and seat.role == "writer" and seat.database == at.where
        for process, seat in zip(at.world.processes, at.case.seats, strict=True)
    )


def _time_is_over(key: Key) -> bool:
    return key.state == "destroying" or (key.state == "archived" and key.ends)


def _is_needed(at: At, key: int) -> bool:
    by_row = at.rules.prune_sees_rows and key in dict(at.db.rows)
    by_backup = at.rules.prune_sees_backups and any(key in backup for backup in at.db.backups)
    return by_row or (by_backup and not at.db.keys[key].leaked)


PROGRAMS: dict[str, Program] = {
    "rotator": rotator,
    "pruner": pruner,
    "writer": writer,
    "export": export,
    "start": start,
}
