"""
What was spent, drawn: bars for each day, beside an even share of the month's budget.
"""

from __future__ import annotations

import calendar
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta

from company_agents.integrations.costs import DaySum, ModelSum, Sum

DAYS = 30


@dataclass(frozen=True, slots=True)
class Chart:
    """
    Days, the oldest first, and how high the highest bar may be. `share` is what of a month's budget falls to one day,
    where there is a budget. Money in millionths of a US dollar.
    """

    days: list[tuple[date, Sum]]
    most: int
    share: int | None

    @property
    def total(self) -> int:
        """Of all days."""
        return sum(spent.micros for _, spent in self.days)

    @property
    def dearest(self) -> int:
        """Of the dearest day."""
        return max(spent.micros for _, spent in self.days)


def chart(sums: Iterable[DaySum], month_micros: int | None, today: date | None = None) -> Chart:
    """The last thirty days."""
    today = today or datetime.now(UTC).date()
    found: dict[date, Sum] = {}
    for one in sums:
        found[one.day] = _together(found.get(one.day, Sum()), one)
    days = [today - timedelta(days=ago) for ago in range(DAYS - 1, -1, -1)]
    share = month_micros // calendar.monthrange(today.year, today.month)[1] if month_micros else None
    spent = [(day, found.get(day, Sum())) for day in days]
    return Chart(spent, max(share or 0, *(one.micros for _, one in spent)), share)


def by_model(sums: Iterable[DaySum]) -> list[ModelSum]:
    """The same by model, the dearest first."""
    found: dict[tuple[str, str], Sum] = {}
    for one in sums:
        found[one.provider, one.model] = _together(found.get((one.provider, one.model), Sum()), one)
    models = [
        ModelSum(one.calls, one.tokens, one.micros, one.unpriced, one.estimated, provider, model)
        for (provider, model), one in found.items()
    ]
    return sorted(models, key=lambda one: (-one.micros, -one.tokens, one.provider, one.model))


def _together(one: Sum, other: Sum) -> Sum:
    return Sum(
        one.calls + other.calls,
        one.tokens + other.tokens,
        one.micros + other.micros,
        one.unpriced + other.unpriced,
        one.estimated + other.estimated,
    )
