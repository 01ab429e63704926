"""
Two things, measured in turn: a machine that gets slower for a while does so for both.
"""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

Work = Callable[[], Awaitable[None]]

ROUNDS = 7


@dataclass(frozen=True)
class Ratio:
    """Ours against a baseline: throughput per second of each, and the median of the ratios of all rounds."""

    name: str
    ours: float
    baseline: float
    ratio: float
    lowest: float
    highest: float
    goal: float

    def line(self) -> str:
        """One row for the terminal."""
        verdict = "met" if self.ratio >= self.goal else "MISSED"
        return (
            f"{self.name:<58} {self.ours:>9,.0f}/s {self.baseline:>9,.0f}/s   "
            f"{self.ratio:5.2f} ({self.lowest:.2f}–{self.highest:.2f})   goal {self.goal:g} {verdict}"
        )


@dataclass(frozen=True)
class Figure:
    """Something that is to stay under a bound: the median of all rounds."""

    name: str
    value: float
    lowest: float
    highest: float
    unit: str
    most: float

    def line(self) -> str:
        """One row for the terminal."""
        verdict = "met" if self.value <= self.most else "MISSED"
        return (
            f"{self.name:<58} {self.value:>9.2f} {self.unit} ({self.lowest:.2f}–{self.highest:.2f})   "
            f"goal at most {self.most:.0f} {self.unit} {verdict}"
        )


async def throughput(work: Work, *, times: int, workers: int) -> float:
    """How often per second `work` was done by so many at once."""

    async def worker(share: int) -> None:
        for _ in range(share):
            await work()

    shares = [times // workers + (index < times % workers) for index in range(workers)]
    started = time.perf_counter()
    await asyncio.gather(*(worker(share) for share in shares))
    return times / (time.perf_counter() - started)


async def compare(
    name: str, ours: Work, baseline: Work, *, times: int, workers: int, goal: float, rounds: int = ROUNDS
) -> Ratio:
    """Measure both in turn, after a round that does not count; which comes first alternates."""
    pairs = []
    for index in range(rounds + 1):
        first, second = (ours, baseline) if index % 2 else (baseline, ours)
        rates = [await throughput(work, times=times, workers=workers) for work in (first, second)]
        pairs.append(tuple(rates) if index % 2 else tuple(reversed(rates)))
    counted = pairs[1:]
    ratios = [mine / theirs for mine, theirs in counted]
    return Ratio(
        name,
        statistics.median(mine for mine, _ in counted),
        statistics.median(theirs for _, theirs in counted),
        statistics.median(ratios),
        min(ratios),
        max(ratios),
        goal,
    )
