"""
Runs, as callers ask for them: start, open, claim, renew, finish, cancel, cut off, look at.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from uuid import UUID, uuid4

from company_agents.db.database import Tx
from company_agents.errors import Conflict, NotFound, WrongUsage
from company_agents.identity.paging import Page, cursor_params, page
from company_agents.identity.permissions import Permission
from company_agents.identity.principal import Caller
from company_agents.integrations.versions import Cut, Versions, held
from company_agents.runs.adapters.base import Stream
from company_agents.runs.model import (
    LONGEST,
    OUTCOMES,
    STATES,
    Run,
    agent_of,
    check_text,
    lost,
    run_in,
    stale,
    token_name,
)
from company_agents.runs.moves import Moves
from company_agents.runs.output import MOST_GIVEN, Line, lines_of, put_out
from company_agents.runs.room import check_room
from company_agents.runs.starting import Asked, Starts
from company_agents.sensitive import Sensitive

__all__ = ["LONGEST", "STATES", "Run", "Runs"]


@dataclass(frozen=True)
class Runs:
    """The runs of a caller's company."""

    moves: Moves
    versions: Versions
    starts: Starts
    # Takes open values out of a text.
    clean: Callable[[str], str] = lambda text: text

    async def start(
        self,
        caller: Caller,
        agent_id: UUID,
        *,
        prompt: str = "",
        task: UUID | None = None,
        time_limit: int | None = None,
        token_limit: int | None = None,
        micros_limit: int | None = None,
    ) -> Run:
        """
        Queue a run of an agent that has an adapter, for a task or a prompt. A limit that is higher than those of the agent
        and of the company is lowered to them.

        Raises:
            NotFound: no such agent, or no such task.
            Conflict: the agent has no adapter (`no_adapter`), or is retired.
            TooMany: it has as many runs waiting as it may.
        """
        asked = Asked(prompt, task, None, time_limit, token_limit, micros_limit)
        return await self.starts.start(caller, agent_id, asked)

    async def open(self, caller: Caller, purpose: str = "") -> tuple[Run, Sensitive]:
        """
        Begin a run of the agent that calls. Its token is shown this once; it is pinned to the present versions of all that
        the agent may use.

        Raises:
            TooMany: the agent, or its company, has as many under way as it may.
        """
        caller.require(Permission.RUN_OPEN)
        check_text(purpose, "a purpose")
        agent_id = caller.agent_id()
        async with caller.scope.transaction() as tx:
            await check_room(tx, agent_id)
            given = {"id": uuid4(), "agent_id": agent_id, "purpose": purpose, "started_by": caller.label}
            return await self.moves.opened(tx, caller.label, **given)

    async def claim(self, caller: Caller, run_id: UUID) -> tuple[Run, Sensitive]:
        """
        Begin a queued run of the agent that calls, whose runs are handed to it (adapter `http`): what `open` gives, for work
        that somebody else has started.

        Raises:
            NotFound: no such run, or not this agent's.
            Conflict: it is not queued (`not_queued`), or is executed here and not by the agent.
            TooMany: as for `open`.
        """
        caller.require(Permission.RUN_OPEN)
        agent_id = caller.agent_id()
        async with caller.scope.transaction() as tx:
            await check_room(tx, agent_id)
            await tx.run("run_hold", id=run_id)
            run = await run_in(tx, run_id, caller)
            if run.state != "queued":
                raise Conflict(
                    f"this run is {run.state}: there is nothing to claim",
                    hint="somebody was faster, or it was ended",
                    code="not_queued",
                )
            if run.adapter != "http":
                raise Conflict("this run is executed by an orchestrator, and not by its agent", hint="leave it")
            return await self.moves.begun(tx, run_id, agent_id, None, caller.label)

    async def list(
        self,
        caller: Caller,
        *,
        agent: UUID | None = None,
        state: str | None = None,
        task: UUID | None = None,
        after: str | None = None,
        limit: int = 50,
        newest: bool = False,
    ) -> Page[Run]:
        """
        The runs, oldest first (or the newest), without their pins and prompts; an agent's own, and of a run itself.
        """
        caller.require(Permission.RUN_READ)
        if state is not None and state not in STATES:
            raise WrongUsage(f"a run has no such state; it may be {', '.join(STATES)}")
        params = {**cursor_params(after, limit), "state": state, "run_id": caller.principal.run_id, "task_id": task}
        own = agent_of(caller)
        if own is not None and agent not in (None, own):
            return page([], limit)
        async with caller.scope.transaction() as tx:
            rows = await tx.all("run_list_newest" if newest else "run_list", agent_id=own or agent, **params)
        return page([Run(**row) for row in rows], limit)

    async def get(self, caller: Caller, run_id: UUID) -> Run:
        """
        Raises:
            NotFound: no such run in this company, or not this caller's.
        """
        caller.require(Permission.RUN_READ)
        async with caller.scope.transaction() as tx:
            return await run_in(tx, run_id, caller)

    async def output(self, caller: Caller, run_id: UUID, after: int = 0, limit: int = 200) -> Sequence[Line]:
        """
        What a run has put out, after a number; the numbers grow, over all its starts.

        Raises:
            NotFound: as for `get`.
        """
        caller.require(Permission.RUN_READ)
        async with caller.scope.transaction() as tx:
            await run_in(tx, run_id, caller)
            return await lines_of(tx, run_id, after, limit)

    async def put_out(
        self, caller: Caller, run_id: UUID, fencing_token: int, text: str, stream: Stream = "output"
    ) -> None:
        """
        Add to what a run has put out, for who holds it elsewhere. It is cleaned and bounded like that of any other run.

        Raises:
            NotFound, Conflict: as for `renew`.
            WrongUsage: it is too long, or nothing to read.
        """
        caller.require(Permission.RUN_HOLD)
        check_text(text, "what is put out at once", MOST_GIVEN)
        if not text.strip() or "\0" in text:
            raise WrongUsage("there is nothing to read in this", hint="send blanks together with what follows them")
        token = await self.moves.store.open_own(caller.scope, token_name(run_id))
        async with caller.scope.transaction() as tx:
            await _as_holder(tx, caller, run_id, fencing_token)
            if not await put_out(tx, run_id, fencing_token, stream, text, token, self.clean):
                raise await lost(tx, run_id, fencing_token)

    async def renew(self, caller: Caller, run_id: UUID, fencing_token: int) -> Run:
        """
        Begin the lease anew, before it ends. It does not outlive the run's longest life.

        Raises:
            NotFound: no such run, or not this caller's.
            Conflict: it has ended or its lease has (`run_over`), or somebody else has taken it on (`stale_fence`).
        """
        caller.require(Permission.RUN_HOLD)
        async with caller.scope.transaction() as tx:
            await _as_holder(tx, caller, run_id, fencing_token)
            lease = self.moves.lease
            if not await tx.run("run_renew", id=run_id, fence=fencing_token, lease=lease, longest=LONGEST):
                raise await lost(tx, run_id, fencing_token)
            return await run_in(tx, run_id)

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
        check_text(reason, "a reason")
        async with caller.scope.transaction() as tx:
            await _as_holder(tx, caller, run_id, fencing_token)
            left = await self.moves.finished(tx, run_id, fencing_token, outcome, reason, caller.label)
            run = await run_in(tx, run_id)
            if (run.state, run.fencing_token) != (outcome, fencing_token):
                raise await lost(tx, run_id, fencing_token)
        await self._let_go(caller, left)
        return run

    async def cancel(self, caller: Caller, run_id: UUID, reason: str = "") -> Run:
        """
        End somebody's run: its token is refused from the moment that this returns, and its open streams have ended. What
        executes it here is stopped within seconds.

        Raises:
            NotFound: no such run in this company.
            Conflict: it has ended otherwise.
        """
        caller.require(Permission.RUN_CANCEL)
        check_text(reason, "a reason")
        async with caller.scope.transaction() as tx:
            await run_in(tx, run_id)
            left = await self.moves.cancelled(tx, run_id, reason, caller.label)
            run = await run_in(tx, run_id)
            if run.state != "cancelled":
                raise Conflict(f"this run is {run.state}: there is nothing to cancel", code="run_over")
        await self._let_go(caller, left)
        await self.versions.closed()
        return run

    async def cut(
        self, caller: Caller, integration_id: UUID, *, version: int | None = None, every: bool = False
    ) -> Cut:
        """
        Cut runs off from the versions of an integration that they hold: from one, from every, else from all that drain.
        Counts at their next call, on every replica; their open streams have ended when this returns.

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
        await self.versions.closed()
        # What was asked for is done by now; the sweep tries this again.
        with contextlib.suppress(Exception):
            await self.versions.revoke_retired(caller.scope, caller.label, integration_id)
        return cut

    async def _let_go(self, caller: Caller, left: Sequence[UUID] | None) -> None:
        await self.moves.let_go(caller.scope, left or (), caller.label)


async def _as_holder(tx: Tx, caller: Caller, run_id: UUID, fencing_token: int) -> None:
    """A run itself holds no other start of it than the one whose token it came with."""
    await run_in(tx, run_id, caller)
    if caller.principal.run_id is not None and caller.principal.fence != fencing_token:
        raise stale()
