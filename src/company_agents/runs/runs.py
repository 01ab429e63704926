"""
Runs: open, renew, finish, cancel, expire.

A run is owned by whoever has its token, for as long as its lease: that is decided by the database's clock, on each call.
Whoever writes to it names the fencing token that they began with. What ends a run deletes its token, and then retires the
credential versions that only it still held; should the process die in between, `sweep` does that.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import structlog

from company_agents.audit.log import AuditLog
from company_agents.companies.scope import CompanyScope
from company_agents.db.database import Database, Tx
from company_agents.errors import Conflict, NotFound, Sealed, TooMany, WrongUsage
from company_agents.identity.paging import Page, cursor_params, page
from company_agents.identity.permissions import Kind, Permission
from company_agents.identity.principal import Caller
from company_agents.identity.tokens import new_run_token
from company_agents.integrations.versions import Cut, Versions, held
from company_agents.secret_store.store import SecretStore
from company_agents.sensitive import Sensitive

# Seconds; docs/runs.md has both. Long enough to outlive a restart of an orchestrator or a failover of the database, short
# enough that the token of a run whose holder died is of no use soon.
LEASE = 300
# A holder renews when this share of it is over: two more attempts fit in before it ends.
RENEW_AT = 0.6
# Seconds from its start; however often it is renewed, a run and its token do not outlive that: one whose holder renews for
# ever would keep an old credential from retiring for ever, and a token that was stolen would be good for ever.
LONGEST = 24 * 3600
# Runs of one agent under way at once: each holds credentials, and one that opens them in a loop is out of order.
MOST_RUNNING = 100
# Days for which a run that has ended is kept (0005_runs.sql looks for older ones), and how many of a company one sweep deletes.
KEPT_DAYS = 90
MOST_SWEPT = 1000
# Seconds between two sweeps of a replica.
SWEEP_EVERY = 10.0
# What nobody did, the orchestrator does: the record names no actor then.
SWEEPER = None

STATES = ("queued", "running", "finished", "failed", "expired", "cancelled")
OUTCOMES = ("finished", "failed")
MOST_TEXT = 1000

log = structlog.stdlib.get_logger("company_agents.runs")


@dataclass(frozen=True, slots=True)
class Pin:
    """The version of an integration that a run uses; with a time of `cut_at`, it may no more."""

    integration: UUID
    name: str
    version: int
    pinned_at: datetime
    cut_at: datetime | None


@dataclass(frozen=True, slots=True)
class Run:
    """One piece of work by one agent. A listed one comes without its pins."""

    id: UUID
    company_id: UUID
    agent_id: UUID
    state: str
    purpose: str
    reason: str
    fencing_token: int
    lease_until: datetime | None
    created_at: datetime
    started_at: datetime | None
    ended_at: datetime | None
    pins: list[Pin] = field(default_factory=list)


@dataclass(frozen=True)
class Runs:
    """The runs of a caller's company."""

    db: Database
    store: SecretStore
    audit: AuditLog
    versions: Versions

    async def open(self, caller: Caller, purpose: str = "") -> tuple[Run, Sensitive]:
        """
        Begin a run of the agent that calls. Its token is shown this once; it is pinned to the present versions of all that
        the agent may use.

        Raises:
            TooMany: the agent has as many under way as one may have.
        """
        caller.require(Permission.RUN_OPEN)
        _check_text(purpose, "a purpose")
        run_id, agent_id, company_id = uuid4(), caller.agent_id(), caller.scope.company_id
        token = new_run_token(company_id, run_id)
        async with caller.scope.transaction() as tx:
            await tx.run("agent_hold", agent_id=agent_id)
            under_way = await tx.one("runs_under_way", agent_id=agent_id)
            if under_way is not None and under_way["count"] >= MOST_RUNNING:
                raise TooMany(
                    f"this agent has {under_way['count']} runs under way, and may have no more",
                    retry_after=LEASE,
                    hint="finish those that are done, or end them with `company-agents run cancel`",
                )
            given = {"id": run_id, "company_id": company_id, "agent_id": agent_id, "purpose": purpose}
            await tx.run("run_insert", lease=LEASE, **given)
            await self.store.put(tx, _token_name(run_id), token)
            await self.versions.pin(tx, run_id, agent_id)
            run = await _run(tx, run_id)
            await self.audit.append(
                company_id, "run.opened", actor=caller.label, run=run_id, agent=agent_id, pins=len(run.pins)
            )
        return run, token

    async def list(
        self,
        caller: Caller,
        *,
        agent: UUID | None = None,
        state: str | None = None,
        after: str | None = None,
        limit: int = 50,
    ) -> Page[Run]:
        """The runs, oldest first, without their pins; an agent's own, and of a run itself."""
        caller.require(Permission.RUN_READ)
        if state is not None and state not in STATES:
            raise WrongUsage(f"a run has no such state; it may be {', '.join(STATES)}")
        params = {**cursor_params(after, limit), "state": state, "run_id": caller.principal.run_id}
        own = _agent_of(caller)
        if own is not None and agent not in (None, own):
            return page([], limit)
        async with caller.scope.transaction() as tx:
            rows = await tx.all("run_list", agent_id=own or agent, **params)
        return page([Run(**row) for row in rows], limit)

    async def get(self, caller: Caller, run_id: UUID) -> Run:
        """
        Raises:
            NotFound: no such run in this company, or not this caller's.
        """
        caller.require(Permission.RUN_READ)
        async with caller.scope.transaction() as tx:
            return await _run(tx, run_id, caller)

    async def renew(self, caller: Caller, run_id: UUID, fencing_token: int) -> Run:
        """
        Begin the lease anew, before it ends. It does not outlive the run's longest life.

        Raises:
            NotFound: no such run, or not this caller's.
            Conflict: it has ended or its lease has (`run_over`), or somebody else has taken it on (`stale_fence`).
        """
        caller.require(Permission.RUN_HOLD)
        async with caller.scope.transaction() as tx:
            await _run(tx, run_id, caller)
            if not await tx.run("run_renew", id=run_id, fence=fencing_token, lease=LEASE, longest=LONGEST):
                raise await _lost(tx, run_id, fencing_token)
            return await _run(tx, run_id)

    async def finish(
        self, caller: Caller, run_id: UUID, fencing_token: int, *, outcome: str = "finished", reason: str = ""
    ) -> Run:
        """
        End a run: its token is dead from then on. Asked for again, with the same outcome, it says that it is so.

        Raises:
            NotFound, Conflict: as for `renew`.
        """
        caller.require(Permission.RUN_HOLD)
        if outcome not in OUTCOMES:
            raise WrongUsage(f"a run ends as {' or '.join(OUTCOMES)}")
        _check_text(reason, "a reason")
        left: Sequence[UUID] = ()
        async with caller.scope.transaction() as tx:
            await _run(tx, run_id, caller)
            if await tx.run("run_end", id=run_id, fence=fencing_token, state=outcome, reason=reason):
                left = await self._ended(tx, run_id, f"run.{outcome}", caller.label)
            run = await _run(tx, run_id)
            if (run.state, run.fencing_token) != (outcome, fencing_token):
                raise await _lost(tx, run_id, fencing_token)
        await self._let_go(caller.scope, left, caller.label)
        return run

    async def cancel(self, caller: Caller, run_id: UUID, reason: str = "") -> Run:
        """
        End somebody's run: its token is refused from the moment that this returns.

        Raises:
            NotFound: no such run in this company.
            Conflict: it has ended otherwise.
        """
        caller.require(Permission.RUN_CANCEL)
        _check_text(reason, "a reason")
        left: Sequence[UUID] = ()
        async with caller.scope.transaction() as tx:
            await _run(tx, run_id)
            if await tx.run("run_cancel", id=run_id, reason=reason):
                left = await self._ended(tx, run_id, "run.cancelled", caller.label)
            run = await _run(tx, run_id)
            if run.state != "cancelled":
                raise Conflict(f"this run is {run.state}: there is nothing to cancel", code="run_over")
        await self._let_go(caller.scope, left, caller.label)
        return run

    async def cut(
        self, caller: Caller, integration_id: UUID, *, version: int | None = None, every: bool = False
    ) -> Cut:
        """
        Cut runs off from the versions of an integration that they hold: from one, from every, else from all that drain.
        Counts at their next call, on every replica.

        Raises:
            NotFound: no such integration, or no such version of it.
        """
        caller.require(Permission.RUN_CUT)
        async with caller.scope.transaction() as tx:
            await held(tx, integration_id)
            known = {"integration_id": integration_id, "version": version}
            if version is not None and await tx.one("version_state", **known) is None:
                raise NotFound(
                    f"there is no version {version} of this integration",
                    hint="`company-agents integration show --id ID` lists them",
                )
            cut = await self.versions.cut(tx, integration_id, caller.label, version=version, every=every)
        # What was asked for is done by now; the sweep tries this again.
        with contextlib.suppress(Exception):
            await self.versions.revoke_retired(caller.scope, caller.label, integration_id)
        return cut

    async def sweep(self) -> None:
        """
        End what has outlived its lease, retire what no run holds any more, revoke what has retired; in every company.
        What one company's trouble is keeps none of the others waiting.
        """
        for row in await self.db.call("companies_to_sweep", ()):
            scope = CompanyScope(row["company_id"], self.db)
            try:
                await self.sweep_company(scope)
            except Sealed:
                return
            except Exception as error:
                log.warning("a company could not be swept", company=str(scope.company_id), error=type(error).__name__)

    async def sweep_company(self, scope: CompanyScope) -> None:
        """The same for one company."""
        while await self._expired(scope):
            pass
        async with scope.transaction() as tx:
            await tx.run("runs_prune", days=KEPT_DAYS, most=MOST_SWEPT)
            draining = await tx.all("integrations_draining", integrations=None)
        for row in draining:
            await self.versions.settle_now(scope, row["id"], SWEEPER)
        await self.versions.revoke_retired(scope, SWEEPER)

    async def _expired(self, scope: CompanyScope) -> int:
        async with scope.transaction() as tx:
            rows = await tx.all("runs_expire", longest=LONGEST)
            for row in rows:
                await self._ended(tx, row["id"], "run.expired", SWEEPER, agent=row["agent_id"])
        return len(rows)

    async def _ended(self, tx: Tx, run_id: UUID, action: str, actor: str | None, **facts: Any) -> Sequence[UUID]:
        """Take what only a run under way has: its token, and its pins. Returns the integrations that it was pinned to."""
        token = await tx.one("secret_by_name", company_id=tx.company_id, name=_token_name(run_id))
        if token is not None:
            await self.store.delete(tx, token["id"])
        left = await tx.all("pins_drop", run_id=run_id)
        await self.audit.append(tx.company_id, action, actor=actor, run=run_id, **facts)
        return [row["integration_id"] for row in left]

    async def _let_go(self, scope: CompanyScope, integrations: Sequence[UUID], actor: str) -> None:
        # In transactions of their own: whoever rotates locks the integration first, and looks at its runs then.
        with contextlib.suppress(Exception):
            async with scope.transaction() as tx:
                left = await tx.all("integrations_draining", integrations=[*integrations])
            for row in left:
                await self.versions.settle_now(scope, row["id"], actor)


async def _run(tx: Tx, run_id: UUID, caller: Caller | None = None) -> Run:
    """A run with its pins, if it is this caller's."""
    row = await tx.one("run_get", id=run_id, agent_id=_agent_of(caller) if caller else None)
    if row is None or (caller and caller.principal.run_id not in (None, run_id)):
        raise NotFound("this run does not exist", hint="`company-agents run list --company ID` shows them")
    return Run(**row, pins=[Pin(**pin) for pin in await tx.all("pins_of_run", run_id=run_id)])


async def _lost(tx: Tx, run_id: UUID, fencing_token: int) -> Conflict:
    """Why who was the holder is none any more."""
    row = await tx.one("run_get", id=run_id, agent_id=None)
    assert row is not None
    if row["fencing_token"] != fencing_token:
        return Conflict(
            "somebody else has taken this run on", hint="stop: what you write now is not wanted", code="stale_fence"
        )
    last = row["started_at"] and row["started_at"] + timedelta(seconds=LONGEST)
    if row["state"] in ("running", "expired") and last is not None and row["lease_until"] >= last:
        return Conflict(
            f"this run has had its longest life of {LONGEST // 3600} hours",
            hint="stop; work that is still to be done needs a new run",
            code="run_over",
        )
    state = "over its time: its lease ran out" if row["state"] == "running" else row["state"]
    return Conflict(f"this run is {state}", hint="stop; work that is still to be done needs a new run", code="run_over")


def _agent_of(caller: Caller) -> UUID | None:
    return caller.principal.id if caller.principal.kind in (Kind.AGENT, Kind.RUN) else None


def _check_text(text: str, what: str) -> None:
    if len(text) > MOST_TEXT:
        raise WrongUsage(f"{what} has at most {MOST_TEXT} characters")


def _token_name(run_id: UUID) -> str:
    return f"run_token/{run_id}"
