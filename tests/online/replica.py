"""
An orchestrator under load, as a process of its own: readers open secrets, writers replace them, and agents' tokens are
checked, until standard input ends. What it saw goes to standard output as one JSON object.

    python -m tests.online.replica HOME COMPANY TOKEN WRITER SECRETS…

HOME has the instance; TOKEN is an agent's; WRITER begins the values that this process writes. Each secret is written by
one process only, so that what it should hold at the end is known.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import random
import sys
import time
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass, field
from uuid import UUID

from company_agents.app import App, open_app
from company_agents.companies.scope import CompanyScope
from company_agents.sensitive import Sensitive
from company_agents.settings import read_settings

READERS, WRITERS, CHECKERS = 3, 2, 1
# Seconds between two calls of one worker: a load, and room for the rotation on two cores.
PAUSE = 0.004


@dataclass
class Seen:
    """Every call as its end (seconds of the clock) and how long it took (ms); what failed; the last value written."""

    calls: dict[str, list[tuple[float, float]]] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)
    written: dict[str, str] = field(default_factory=dict)


async def main(home: str, company: str, token: str, writer: str, *names: str) -> None:
    """Work until standard input ends."""
    seen = Seen()
    async with open_app(read_settings(home=home), long_lived=True) as app:
        scope = CompanyScope(UUID(company), app.store.db)
        over = asyncio.Event()
        calls = {
            "read": [_reader(app, scope, names) for _ in range(READERS)],
            "write": [_writer(app, scope, names[n::WRITERS], writer, seen) for n in range(WRITERS)],
            "token": [_checker(app, token) for _ in range(CHECKERS)],
        }
        workers = [
            asyncio.create_task(_work(kind, call, seen, over)) for kind, several in calls.items() for call in several
        ]
        print("ready", flush=True)
        await asyncio.to_thread(sys.stdin.read)
        over.set()
        await asyncio.gather(*workers)
    print(json.dumps(asdict(seen)), flush=True)


async def _work(kind: str, call: Callable[[], Awaitable[None]], seen: Seen, over: asyncio.Event) -> None:
    taken = seen.calls.setdefault(kind, [])
    while not over.is_set():
        began = time.perf_counter()
        try:
            await call()
        except Exception as error:
            seen.failures.append(f"{kind}: {type(error).__name__}: {error}")
        taken.append((time.time(), (time.perf_counter() - began) * 1000))
        await asyncio.sleep(PAUSE)


def _reader(app: App, scope: CompanyScope, names: tuple[str, ...]) -> Callable[[], Awaitable[None]]:
    async def read() -> None:
        secret_id = UUID(random.choice(names).partition("/")[2])
        async with app.store.use(scope, secret_id, actor="load") as use:
            assert len(use.secret)

    return read


def _writer(
    app: App, scope: CompanyScope, names: tuple[str, ...], writer: str, seen: Seen
) -> Callable[[], Awaitable[None]]:
    numbers = itertools.count()

    async def write() -> None:
        name, value = random.choice(names), f"{writer} {next(numbers)} " + "v" * 40
        async with scope.transaction() as tx:
            await app.store.replace(tx, name, Sensitive(value))
        seen.written[name] = value

    return write


def _checker(app: App, token: str) -> Callable[[], Awaitable[None]]:
    async def check() -> None:
        await app.identity.agent(token)

    return check


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
