"""
Moving one company to another instance: out into a file, and in from one.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID, uuid4

from company_agents.audit.chain import canonical
from company_agents.audit.log import AuditLog
from company_agents.backup import ring
from company_agents.backup.company_changes import Changes
from company_agents.backup.company_export import CompanyExport, Exported, Say, keys_of
from company_agents.backup.company_file import CompanyFile, whole_file
from company_agents.backup.company_import import AgentOfToken, CompanyImport, Imported
from company_agents.backup.company_tables import TRAVELS
from company_agents.backup.export import target_path
from company_agents.backup.files import new_file
from company_agents.companies.scope import CompanyScope
from company_agents.crypto.keyring import KeyRing
from company_agents.db.database import Database, Tx
from company_agents.db.moving import tables
from company_agents.errors import Conflict, NotFound, Sealed
from company_agents.identity.directory import good_name
from company_agents.identity.permissions import Permission
from company_agents.identity.principal import Principal
from company_agents.rotation.fence import Fence
from company_agents.rotation.panic import sealed_since
from company_agents.secret_store.audit_keys import AuditKeys
from company_agents.secret_store.keys import HeldKeys
from company_agents.sensitive import Sensitive


def silent(step: str, done: int, total: int) -> None:
    """Nobody wants to know how far it is."""


@dataclass(frozen=True)
class CompanyMover:
    """Companies out of this instance and into it."""

    db: Database
    held: HeldKeys
    audit: AuditLog
    audit_keys: AuditKeys

    async def export(
        self, principal: Principal, company: str, file: Path, passphrase: Sensitive, say: Say = silent
    ) -> Exported:
        """
        Write a company, named by its id or its name, into a new file, as of one moment, while everything runs.

        Raises:
            NotFound: there is no such company.
            WrongUsage: the passphrase is too easily guessed, or there cannot be such a file.
            Conflict: there is such a file.
            Failed: a secret does not open, or there is no room.
        """
        # It holds everything of a company, the use of its credentials too.
        principal.require(Permission.COMPANY_CREATE)
        ring.check_passphrase(passphrase)
        company_id, name = await self._find(company)
        archive = uuid4()
        with new_file(target_path(str(file))) as out:
            said = {"actor": principal.label, "archive": archive, "name": name}
            await self.audit.append(None, "company.exported", company=company_id, **said)
            await self.audit.append(company_id, "company.exported", **said)
            scope = CompanyScope(company_id, self.db)
            async with scope.transaction() as tx:
                await tx.run("audit_one_moment")
                # The first reading: from here on it is that moment. A chain of it names no key that is not there afterwards.
                await tx.run("company_move_settings")
                audit_keys = await self.audit_keys.all()
                keys = KeyRing(tuple([await self.held.get(key_id) for key_id in await keys_of(tx, company_id)]))
                work = CompanyExport(tx, company_id, self.audit.instance_id, keys, audit_keys, archive, say)
                done = await work.write(out, name, passphrase)
            # Who sealed the instance meanwhile wants no secret to leave it.
            if await sealed_since(self.db):
                raise Sealed
        return replace(done, file=str(file))

    async def import_(
        self,
        principal: Principal,
        file: Path,
        passphrase: Sensitive,
        *,
        name: str | None = None,
        enable_schedules: bool = False,
        revoke_tokens: bool = False,
        allow_private_network: bool = False,
        say: Say = silent,
    ) -> Imported:
        """
        Bring a company in from a file: all of it, or nothing. `name`: what it is called here. Without `enable_schedules` its
        schedules are paused, and its webhooks are disabled in any case: the instance that it came from may be at work still.
        With `revoke_tokens` the tokens of its agents are left behind. Without `allow_private_network` credentials that would
        go into the private network of this instance are left behind.

        Raises:
            Broken: the file is not whole, or holds what no program here would write.
            Newer: it is of a newer version.
            WrongPassphrase: the passphrase is not its own.
            Tampered: it was altered.
            Conflict: the company is here already, or its name is taken.
            Busy: the master key is being rotated or pruned.
        """
        principal.require(Permission.COMPANY_CREATE)
        name = good_name(name, "a company") if name is not None else None
        changes = Changes(
            name=name,
            enable_schedules=enable_schedules,
            revoke_tokens=revoke_tokens,
            allow_private=allow_private_network,
        )
        async with self.db.transaction(None) as tx:
            found = await tables(tx, [each.table for each in TRAVELS])
        # Nobody changes the master key meanwhile, so that to write for long keeps no rotation waiting.
        async with whole_file(file, passphrase, found, say) as source, Fence.taken(self.db) as fence:
            # What the row says does not count: this is the name that was looked at.
            called = changes.name = name or source.name
            changes.places = source.places
            await self._is_free(source.company, called)
            work = await self._write(principal, fence, source, changes, called, say)
        return _imported(source, work, called)

    async def _find(self, company: str) -> tuple[UUID, str]:
        try:
            company_id = UUID(company)
        except ValueError:
            company_id = None
        async with self.db.transaction(None) as tx:
            row = await tx.one("company_find", id=company_id, name=company)
        if row is None:
            raise NotFound("this company does not exist", hint="`company-agents company list` shows them")
        return row["id"], row["name"]

    async def _is_free(self, company: UUID, name: str) -> None:
        async with self.db.transaction(None) as tx:
            row = await tx.one("company_find", id=company, name=name)
            instance = await tx.one("company_move_instance", id=company)
        if instance is not None:
            raise Conflict(
                "this company has the id of this instance, or of one that it was before",
                hint="nothing was changed; no program here gives such an id: ask whoever gave you the file",
                code="company_is_instance",
            )
        if row is not None and row["id"] == company:
            raise Conflict(
                f"this company is here already, as {row['name']}", hint="nothing was changed", code="company_is_here"
            )
        if row is not None:
            raise Conflict(
                f"another company is called {name} here",
                hint="nothing was changed; give another --name",
                code="duplicate",
            )

    async def _write(
        self, principal: Principal, fence: Fence, source: CompanyFile, changes: Changes, name: str, say: Say
    ) -> CompanyImport:
        # Another process may have brought a newer one since this one looked.
        self.audit_keys.forget()
        number, key = await self.audit_keys.newest()
        async with self.db.transaction(None) as tx:
            head = await tx.one("audit_head", chain=self.audit.instance_id)
        async with CompanyScope(source.company, self.db).transaction() as tx:
            await tx.run("company_move_settings")
            await _chain_is_free(tx, source.company)
            moment = await tx.one("company_move_moment")
            assert moment is not None
            changes.moment, changes.instance_seq = moment["moment"], str(head["seq"] if head else 0)
            work = CompanyImport(tx, self.held, source, changes, number, key, say)
            await work.write()
            facts = {
                "actor": principal.label,
                "archive": source.manifest.id,
                "name": name,
                "instance": source.manifest.instance,
                "former_seq": source.head.seq,
                "former_mac": source.head.mac,
                "former_faults": source.head.faults,
            }
            await work.end_chain(_record("company.imported", facts))
            # The instance may have been sealed meanwhile, or the lock lost.
            await fence.check("")
            # Before it is there: what cannot be recorded does not happen.
            await self.audit.append(None, "company.imported", company=source.company, **facts)
        return work


async def _chain_is_free(tx: Tx, company: UUID) -> None:
    if await tx.one("company_head", chain=company) is not None:
        raise Conflict(
            "an audit chain of this company is here already", hint="nothing was changed", code="company_is_here"
        )


def _record(action: str, facts: dict[str, object]) -> str:
    record = {fact: value if isinstance(value, int) else str(value) for fact, value in facts.items()}
    return canonical({**record, "action": action, "at": datetime.now(UTC).isoformat(timespec="microseconds")})


def _imported(source: CompanyFile, work: CompanyImport, name: str) -> Imported:
    changes = work.changes
    tokens = [AgentOfToken(UUID(agent), changes.agents.get(agent, "")) for agent in changes.tokens]
    return Imported(
        company=source.company,
        name=name,
        archive=source.manifest.id,
        instance=source.manifest.instance,
        rows=source.manifest.rows,
        secrets=work.secrets,
        tokens=sorted(tokens, key=lambda agent: agent.name),
        schedules_paused=changes.schedules_paused,
        webhooks_disabled=changes.webhooks_disabled,
        runs_ended=changes.runs_ended,
        approvals_ended=changes.approvals_ended,
        unsandboxed=changes.unsandboxed,
        without_adapter=changes.without_adapter,
        private_adapters=changes.private_adapters,
        held_back=changes.held_back,
        goes=list(source.places.goes),
        providers=sorted(changes.providers),
        chain_faults=source.head.faults,
    )
