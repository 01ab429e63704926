"""
What there is to know of one integration beside its row: its versions, how its status came about, and how it is used.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from uuid import UUID

from company_agents.audit.log import AuditLog
from company_agents.errors import WrongUsage
from company_agents.identity.permissions import Permission
from company_agents.identity.principal import Caller
from company_agents.integrations.integrations import Integration, Integrations
from company_agents.integrations.status import Seen, Statuses
from company_agents.integrations.versions import Version

DAYS = 30
# Events of the company that are looked at for uses, from the newest on; of more, the page says that it is not all.
MOST_EVENTS = 200_000
MOST_PERIOD = 3650


@dataclass(frozen=True, slots=True)
class Details:
    """
    Newest first, but for `uses`: calls of agents by day, the last thirty, today last.
    """

    versions: list[Version]
    history: list[Seen]
    uses: list[tuple[date, int]]
    # More happened in that time than was looked at: the older days have more uses than it says.
    uses_partial: bool


@dataclass(frozen=True)
class Looks:
    """Looks at integrations of a caller's company, closely."""

    audit: AuditLog
    integrations: Integrations
    statuses: Statuses
    most_events: int = MOST_EVENTS

    async def of(self, caller: Caller, integration_id: UUID) -> Details:
        """
        Raises:
            NotFound: no such integration in this company, or not for this agent.
        """
        await self.integrations.get(caller, integration_id)
        return Details(
            await self.integrations.versions.list(caller.scope, integration_id),
            await self.statuses.history(caller.scope, integration_id, 20),
            *await self._uses(caller, integration_id),
        )

    async def remind(self, caller: Caller, integration_id: UUID, days: int | None) -> Integration:
        """
        Ask for a rotation so many days after the last one; None: never.

        Raises:
            NotFound: no such integration.
            WrongUsage: fewer than a day, or more than ten years.
        """
        caller.require(Permission.INTEGRATION_ROTATE)
        if days is not None and not 1 <= days <= MOST_PERIOD:
            raise WrongUsage(f"a rotation is asked for after 1 to {MOST_PERIOD} days", hint="or never: leave it empty")
        await self.integrations.get(caller, integration_id)
        await self.audit.append(
            caller.scope.company_id,
            "integration.reminder_set",
            actor=caller.label,
            integration=integration_id,
            days=days or "never",
        )
        async with caller.scope.transaction() as tx:
            await tx.run("rotate_every", id=integration_id, days=days)
        return await self.integrations.get(caller, integration_id)

    async def _uses(self, caller: Caller, integration_id: UUID) -> tuple[list[tuple[date, int]], bool]:
        async with caller.scope.transaction() as tx:
            rows = await tx.all(
                "uses_per_day",
                chain=caller.scope.company_id,
                integration=str(integration_id),
                most=self.most_events,
                days=DAYS,
            )
            more = await tx.one("uses_beyond", chain=caller.scope.company_id, most=self.most_events, days=DAYS)
        found = {row["day"]: row["count"] for row in rows}
        today = datetime.now(UTC).date()
        days = [today - timedelta(days=ago) for ago in range(DAYS - 1, -1, -1)]
        return [(day, found.get(day, 0)) for day in days], more is not None
