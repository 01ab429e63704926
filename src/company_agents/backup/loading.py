"""
What is in an archive, brought into the database: one transaction, from the locks at its beginning to the commit. Killed on any
line, the database is as it was.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import BinaryIO
from uuid import UUID

from company_agents.backup.archive import ArchiveReader, Opened
from company_agents.backup.export import Progress, Stopped, keys_of
from company_agents.backup.manifest import Manifest, broken
from company_agents.backup.schema import steps_of
from company_agents.backup.tables import LEFT_OUT
from company_agents.db.copying import CopySession, Table, unless_they_fit
from company_agents.db.database import Row
from company_agents.db.logins import Login
from company_agents.db.migrate import Migration, known_migrations
from company_agents.errors import Busy, Conflict, Sealed
from company_agents.rotation.replica import ALIVE


def orchestrator_runs(row: Row) -> Busy:
    """For a restore where somebody is at work."""
    return Busy(
        f"an orchestrator runs on this database, at {row['host']}, process {row['process']}",
        hint="stop every orchestrator, then restore",
        code="orchestrator_runs",
    )


# What a restore beside an instance that is there has to remember of it.
_TODAY = (
    *("instance", "former_instances", "master_keys", "key_fence", "backups", "companies", "secrets", "audit_events"),
    *("audit_heads", "audit_sink_cursors", "operators", "operator_tokens", "memberships", "agents", "integrations"),
    *(
        "integration_agents",
        "credential_versions",
        "oauth_clients",
        "webhooks",
        "schedules",
        "limits",
        "cost_entries",
        "spending",
    ),
    "spending_months",
)


@dataclass(frozen=True, slots=True)
class Hinted:
    """The active key of the key source, where the backup does not know it, and the source's address."""

    key_id: str
    source: str


@dataclass(slots=True)
class Loaded:
    """What came of it. `tokens` are those that work again: of agents, and of operators."""

    instance: UUID
    rows: int = 0
    kept_today: bool = False
    tokens: list[dict[str, object]] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Loading:
    """
    One restore. `replace`: what is there is given up, but for what `restore_today.sql` keeps of an instance that the backup
    is of. `events` is how many had been recorded when that was backed up. `embedded`: the database is of a home that is held, so
    that no orchestrator can be there. `source_owner` is in whose name the key source still is. `forgotten` are keys that the source does not have and no row needs.
    """

    login: Login
    opened: Opened
    instance: UUID
    replace: bool = False
    revoke_tokens: bool = False
    without_secrets: bool = False
    source_owner: UUID | None = None
    hinted: Hinted | None = None
    forgotten: tuple[str, ...] = ()
    events: int | None = None
    embedded: bool = False
    say: Progress = lambda step, done, total: None
    stop: threading.Event = field(default_factory=threading.Event)
    before_commit: Callable[[], None] = lambda: None

    @property
    def manifest(self) -> Manifest:
        """What the archive says of itself."""
        return self.opened.manifest

    def run(self, file: BinaryIO) -> Loaded:
        """
        Bring it in.

        Raises:
            Broken: the archive is not whole, or is not of the schema that it names. Nothing was changed.
            Newer: its schema is later than that of this program.
            Conflict: there is an instance, and it is not to be replaced.
            Busy: somebody is at work there.
        """
        steps = steps_of(self.manifest)
        with CopySession.open(self.login) as session, session.transaction():
            session.all("restore_wait_time")
            session.all("restore_locks")
            if not session.one("rotator_lock_now")["taken"]:
                raise Busy("the master key is being rotated just now", hint="try again when it is done")
            kept, seals = self._remember(session)
            self._nobody_there(session)
            session.run_all("restore_drop")
            _apply(session, steps, first=True)
            with unless_they_fit(broken("its rows are not those of the schema that it names")):
                rows = self._load(session, file)
            _apply(session, [step for step in known_migrations() if step.version > self.manifest.schema.step])
            bound = session.all("restore_bound_tables")
            for table in bound:
                session.run_text(table["free"])
            self._check_keys(session)
            self._set_right(session, kept, seals)
            loaded = Loaded(self.instance, rows, kept, session.all("restore_tokens"))
            for table in bound:
                session.run_text(table["bound"])
            self.before_commit()
        return loaded

    def _nobody_there(self, session: CopySession) -> None:
        """Once more, now that nobody can begin: what is written since the backup of what is there would be lost."""
        alive = [row for row in session.all("replicas_list", alive=ALIVE) if row["alive"]]
        if alive and not self.embedded:
            raise orchestrator_runs(alive[0])
        if self.events is not None and session.one("restore_audit_events")["count"] != self.events:
            raise Busy(
                "something was recorded after the backup of what is here was taken",
                hint="nothing was changed; see that nobody uses the instance, then restore again",
                code="instance_in_use",
            )

    def _remember(self, session: CopySession) -> tuple[bool, int]:
        """Today's rows, where they are to be kept; and how many seals there were."""
        # Forced row-level security binds the owner as well: what it does not show would count as not there.
        for table in session.all("restore_bound_tables"):
            session.run_text(table["free"])
        if not self.replace:
            if not session.one("restore_is_empty")["found"]:
                if session.one("restore_is_done", id=self.manifest.id)["found"]:
                    raise Conflict(
                        "this backup is what was restored here",
                        hint="`company-agents up` starts it; --replace restores it once more",
                        code="restored_already",
                    )
                raise Conflict(
                    "there is an instance here already",
                    hint="--replace puts the backup in its place, after a backup of what is there; "
                    "or choose another home with COMPANY_AGENTS_HOME",
                    code="instance_there",
                )
            return False, 0
        if session.one("instance_sealed")["sealed_at"] is not None:
            raise Sealed
        seals = session.one("backup_sequences")["seals"]
        kept = bool(session.one("today_lineage", id=self.manifest.instance)["found"])
        if kept:
            session.run_all("restore_today", tables=list(_TODAY))
        return kept, int(seals)

    def _load(self, session: CopySession, file: BinaryIO) -> int:
        tables = self._tables(session)
        self.say("laying aside", 0, 0)
        aside = session.all("restore_aside")
        for part in reversed(aside):
            session.run_text(part["away"])
        bound = session.all("restore_bound_tables")
        for table in bound:
            session.run_text(table["free"])
        session.run_all("restore_empty", tables=[table.name for table in tables.values()])
        triggers = session.all("restore_triggers")
        for table in triggers:
            session.run_text(table["away"])
        self._copy(session, file, tables)
        for table in triggers:
            session.run_text(table["again"])
        for number, part in enumerate(aside):
            self.say("indexes", number, len(aside))
            self._go_on()
            session.run_text(part["again"])
        session.run_all("restore_numbers")
        for table in bound:
            session.run_text(table["bound"])
        return self.manifest.rows

    def _check_keys(self, session: CopySession) -> None:
        """What was said of keys was said before anything was changed: it has to be true."""
        found, said = keys_of(session, self.manifest.taken_at), self.manifest.keys
        if {(key.key_id, key.state, key.rows) for key in found} != {(key.key_id, key.state, key.rows) for key in said}:
            raise broken("its keys are not those that its manifest names")

    def _tables(self, session: CopySession) -> dict[str, Table]:
        """The tables of the archive, which have to be those of its schema: nothing in it is taken for a name."""
        there = {table.name: table for table in session.tables(but=tuple(LEFT_OUT))}
        named = {m.name.removeprefix("tables/"): m for m in self.manifest.members if m.name.startswith("tables/")}
        if set(named) != set(there):
            raise broken("its tables are not those of the schema that it names")
        for name, member in named.items():
            if set(member.columns) != set(there[name].columns) or len(member.columns) != len(there[name].columns):
                raise broken(f"the columns of {name} are not those of the schema that it names")
        return {member.name: Table(name, member.columns) for name, member in named.items()}

    def _copy(self, session: CopySession, file: BinaryIO, tables: dict[str, Table]) -> None:
        reader = ArchiveReader(file, self.opened)
        pieces = reader.pieces()
        item = next(pieces, None)
        while item is not None:
            member = item[0]
            table = tables.get(member.name)
            if table is None:
                item = next((each for each in pieces if each[0] is not member), None)
                continue
            with session.into(table) as copy:
                while item is not None and item[0] is member:
                    copy.write(item[1])
                    self.say("restoring", reader.done, reader.size)
                    self._go_on()
                    item = next(pieces, None)
            if session.copied != member.rows:
                raise broken(f"{member.name} has {session.copied} rows, and its manifest says {member.rows}")

    def _go_on(self) -> None:
        if self.stop.is_set():
            raise Stopped("the restore was stopped", hint="nothing was changed")

    def _set_right(self, session: CopySession, kept: bool, seals: int) -> None:
        manifest = self.manifest
        self.say("finishing", 0, 0)
        sealed = max(int(manifest.sequences.get("master_key_seals", 0)), seals)
        session.all("restore_seals", seals=sealed, today=seals)
        name = {"backup": manifest.id, "taken_at": manifest.taken_at}
        if session.run("restore_identity", **name, without_secrets=self.without_secrets) != 1:
            raise broken("it is of no instance")
        for statement in (
            "restore_runs",
            "restore_approvals",
            "restore_schedules",
            "restore_dead_secrets",
            "restore_consents",
        ):
            session.run(statement)
        needed = [key.key_id for key in manifest.needed_keys]
        session.run("restore_backups", id=manifest.id, key_ids=needed)
        if self.without_secrets:
            _without_secrets(session)
        if kept:
            session.run("today_former")
            session.run("today_former_self", **name)
            for statement in _KEPT if not self.without_secrets else _KEPT_WITHOUT_SECRETS:
                session.run(statement)
            for row in session.all("today_dying_keys"):
                raise Conflict(
                    f"the key {row['key_id']}, which the backup needs, is just being destroyed",
                    hint="`company-agents key prune` finishes that; a backup that needs the key cannot be restored then",
                    code="key_destroying",
                )
        elif self.hinted is not None and not session.one("restore_knows_key", key_id=self.hinted.key_id)["found"]:
            session.run("restore_overtaken_key", key_id=self.hinted.key_id, seals=sealed)
            session.run("restore_hinted_key", key_id=self.hinted.key_id, source=self.hinted.source, seals=sealed)
        if self.source_owner is not None:
            session.run("restore_source_owner", owner=self.source_owner, **name)
        if self.without_secrets:
            session.run("restore_without_audit_keys")
        session.run("restore_renamed", id=self.instance)
        session.run("restore_webhooks")
        session.run("restore_key_forgotten", key_ids=list(self.forgotten))
        if self.revoke_tokens:
            session.run("restore_agent_tokens_gone")
            session.run("restore_operator_tokens_revoked")
            session.run("restore_operator_token_secrets_gone")


# In this order: what is taken away goes before what refers to it comes.
_KEPT_WITHOUT_SECRETS = (
    *("today_backups_away", "today_backups", "today_chains_away", "today_heads_away", "today_chains", "today_heads"),
    *("today_cursors", "today_audit_keys_lost", "today_operators", "today_operator_tokens", "today_memberships_away"),
    *("today_memberships", "today_agents", "today_gone_integrations", "today_allowed_away", "today_allowed"),
    *("today_limits_away", "today_limits", "today_costs_away", "today_costs", "today_spending_away", "today_spending"),
    *("today_months_away", "today_months", "today_schedules"),
)
_KEPT = (
    *("today_keys_away", "today_keys", "today_fence", "today_server", *_KEPT_WITHOUT_SECRETS),
    *("today_instance_secrets_away", "today_instance_secrets", "today_agent_tokens_away", "today_agent_tokens"),
    *(
        "today_adapter_secrets_away",
        "today_adapter_secrets",
        "today_versions_away",
        "today_version_secrets_away",
        "today_version_secrets",
    ),
    *("today_versions", "today_integrations", "today_clients_away", "today_client_secrets_away"),
    *("today_client_secrets", "today_clients", "today_webhooks_away", "today_webhook_secrets_away"),
    *("today_webhook_secrets", "today_webhooks"),
)


def _without_secrets(session: CopySession) -> None:
    for statement in (
        *("restore_without_versions", "restore_without_integrations", "restore_without_clients"),
        *("restore_without_webhooks", "restore_without_approvals", "restore_without_secrets", "restore_without_keys"),
        *("restore_operator_tokens_revoked",),
    ):
        session.run(statement)


def _apply(session: CopySession, steps: list[Migration], *, first: bool = False) -> None:
    if first:
        session.run_text(session.text("ledger_create"))
    for step in steps:
        session.run_text(step.text)
        session.run("ledger_add", version=step.version, name=step.name, checksum=step.checksum)
