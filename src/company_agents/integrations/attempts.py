"""
Attempts to refresh, as they stand in the database: begun there before anything is sent, and ended there after.

The number of an attempt is the fence. A result counts where no later attempt has brought one, and a failure only where it
is of the latest attempt and nothing was brought since: so one that slept cannot overwrite what is newer, and the late
reply of a first still counts where the second got nothing. All times are the database's: there is one clock.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from company_agents.companies.scope import CompanyScope
from company_agents.integrations.credential import Credential
from company_agents.integrations.endings import Ending
from company_agents.integrations.status import CONNECTED, Statuses
from company_agents.integrations.versions import secret_name
from company_agents.secret_store.store import SecretStore


@dataclass(frozen=True, slots=True)
class Attempt:
    """
    One attempt of this process. `base` is the attempt whose result it stands on; `lost` how many before it had an end that
    is not known, and `lost_for` since when (seconds). `at` is the database's time when it began, `began` our monotonic
    clock's, read before.
    """

    integration_id: UUID
    version: int
    number: int
    base: int
    secret_id: UUID
    provider: str
    created_at: datetime
    lost: int
    lost_for: float | None
    failures: int
    # Its token has ended already.
    dead: bool
    at: datetime
    began: float = field(compare=False)

    @property
    def age(self) -> float:
        """Seconds since it began, at most."""
        return time.monotonic() - self.began

    def now(self) -> datetime:
        """The database's time."""
        return self.at + timedelta(seconds=self.age)


@dataclass(frozen=True, slots=True)
class State:
    """How a version stands."""

    # The attempt that brought its token; 0: it has the first.
    written_by: int
    under_way: bool
    problem: str
    dead: bool
    ending: bool
    reason: str
    hint: str


@dataclass(frozen=True)
class Attempts:
    """`lease` is how long an attempt is left alone (seconds)."""

    store: SecretStore
    statuses: Statuses
    lease: float

    async def claim(self, scope: CompanyScope, most: int) -> list[Attempt]:
        """Begin attempts on what is due in a company, at most so many; no other replica begins the same."""
        began = time.monotonic()
        async with scope.transaction() as tx:
            rows = await tx.all("refresh_claim", most=most, lease=timedelta(seconds=self.lease))
        return [Attempt(**row, began=began) for row in rows]

    async def begin(
        self,
        scope: CompanyScope,
        integration_id: UUID,
        version: int,
        *,
        soon: float | None = None,
        base: int | None = None,
        age: float = 0,
    ) -> Attempt | None:
        """
        Begin an attempt on one version now: where it is due and ends within `soon` seconds (None: in any case), it is `age`
        seconds old, and nothing was written since `base`. None where one is under way, or has to wait for its time.
        """
        began = time.monotonic()
        async with scope.transaction() as tx:
            row = await tx.one(
                "refresh_begin",
                integration_id=integration_id,
                version=version,
                soon=None if soon is None else timedelta(seconds=soon),
                base=base,
                age=timedelta(seconds=age),
                lease=timedelta(seconds=self.lease),
            )
        return Attempt(**row, began=began) if row else None

    async def state(self, scope: CompanyScope, integration_id: UUID, version: int, soon: float) -> State | None:
        """How a version stands, or None where it is gone."""
        async with scope.transaction() as tx:
            row = await tx.one(
                "refresh_state", integration_id=integration_id, version=version, soon=timedelta(seconds=soon)
            )
        return State(**row) if row else None

    async def written(
        self,
        scope: CompanyScope,
        attempt: Attempt,
        credential: Credential,
        *,
        due: datetime | None,
        end: Ending,
    ) -> bool:
        """Write what an attempt brought, and the status. False where a later one has brought something, or it is gone."""
        consent = credential.consent
        async with scope.transaction() as tx:
            # The order in which a rotation locks them.
            await tx.run("integration_hold", id=attempt.integration_id)
            row = await tx.one(
                "refresh_written",
                **_which(attempt),
                expires_at=consent.expires_at if consent else None,
                refresh_due_at=due,
                ends_at=end.at,
                ends_because=end.because,
            )
            if row is None:
                # It may be this very result, written when the answer to that was lost.
                now = await tx.one("refresh_state", **_of(attempt), soon=timedelta(0))
                return now is not None and now["written_by"] == attempt.number
            name = secret_name(attempt.integration_id, attempt.version)
            await self.store.replace(tx, name, credential.sealed_form())
            await self.statuses.write(tx, attempt.integration_id, attempt.version, CONNECTED, seen_by="refresh")
        return True

    async def failed(
        self,
        scope: CompanyScope,
        attempt: Attempt,
        problem: str,
        *,
        retry: float | None,
        lost: bool = False,
        status: str | None = None,
        status_where_dead: str | None = None,
        reason: str = "",
        hint: str = "",
    ) -> bool:
        """
        Write that an attempt brought nothing; it is due again after `retry` seconds, or (None) never. `status` is what it
        shows, `status_where_dead` what it shows where the token has ended. False where that says nothing any more.
        """
        async with scope.transaction() as tx:
            await tx.run("integration_hold", id=attempt.integration_id)
            row = await tx.one(
                "refresh_failed",
                **_which(attempt),
                base=attempt.base,
                problem=problem,
                retry=None if retry is None else timedelta(seconds=retry),
                lost=int(lost),
            )
            if row is None:
                return False
            shown = status or (status_where_dead if row["dead"] else None)
            if shown is not None:
                await self.statuses.write(
                    tx, attempt.integration_id, attempt.version, shown, reason, hint, seen_by="refresh"
                )
        return True

    async def lost(self, scope: CompanyScope, attempt: Attempt) -> bool:
        """Write that the reply to an attempt was lost, and that it may be tried once more at once."""
        return await self._ran(scope, "refresh_lost", **_which(attempt), base=attempt.base)

    async def released(self, scope: CompanyScope, attempt: Attempt, *, again: bool = True) -> None:
        """Write that an attempt has sent nothing; `again`: that it is due in a moment, else never."""
        await self._ran(scope, "refresh_released", **_which(attempt), again=again)

    async def _ran(self, scope: CompanyScope, query: str, **params: Any) -> bool:
        async with scope.transaction() as tx:
            return await tx.run(query, **params) == 1


def _which(attempt: Attempt) -> dict[str, Any]:
    return {**_of(attempt), "attempt": attempt.number}


def _of(attempt: Attempt) -> dict[str, Any]:
    return {"integration_id": attempt.integration_id, "version": attempt.version}
