"""
The rotation of the master key: rows per second of the real command beside two baselines on the same table, what it takes
in all, and what those notice who work meanwhile.

    python -m benchmarks.rotation [ROWS]
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import statistics
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from uuid import UUID

from benchmarks.harness import Figure, Ratio
from benchmarks.instance import LOCAL, throwaway_home
from company_agents.app import App, open_app
from company_agents.crypto.cipher import Sealed, seal, unseal
from company_agents.crypto.keyring import KeyRing, MasterKey
from company_agents.crypto.place import Place
from company_agents.settings import read_settings
from tests.online.fill import fill
from tests.online.load import command, under_load

ROWS = (10_000, 100_000, 1_000_000)
ONE_BY_ONE = 5_000
# Seconds that say how it is without a rotation.
BEFORE = 10


@contextlib.asynccontextmanager
async def filled(rows: int) -> AsyncIterator[tuple[Path, App, UUID, list[UUID]]]:
    """An instance with so many secrets of 64 bytes, as it is after a while: vacuumed."""
    with throwaway_home() as home:
        async with open_app(read_settings(home=home)) as app:
            company = await app.companies.create(LOCAL, "many")
            ids = await fill(app, company.id, rows)
            await settle(app)
            yield home, app, company.id, ids


async def settle(app: App) -> None:
    """What autovacuum does sooner or later, now."""
    async with await app.store.db.logins.migrate.connect() as connection:
        await connection.execute("VACUUM ANALYZE secrets")


async def bare_update(app: App, rows: int) -> float:
    """Rows a second of one statement that writes the same bytes into the same columns: what no rotation can beat."""
    async with await app.store.db.logins.instance.connect() as connection:
        began = time.perf_counter()
        await connection.execute(
            "UPDATE secrets SET value = value || ''::bytea, nonce = nonce || ''::bytea, key_id = key_id"
        )
        return rows / (time.perf_counter() - began)


async def one_by_one(app: App, ids: list[UUID]) -> float:
    """
    Rows a second of the plain way: for each row a SELECT, open, seal, and an UPDATE that is committed. Each is moved to a
    key that nobody keeps, and back.
    """
    (own,), other = app.held.ring.keys, MasterKey.generate()
    ring = KeyRing((own, other))
    async with await app.store.db.logins.instance.connect() as connection:
        began = time.perf_counter()
        for secret_id, new in [(secret_id, new) for new in (other, own) for secret_id in ids]:
            found = await connection.execute(
                "SELECT company_id, name, value, nonce, key_id FROM secrets WHERE id = %s", (secret_id,)
            )
            row: Any = await found.fetchone()
            place = Place(row["company_id"], secret_id, row["name"], row["key_id"])
            plain = unseal(ring.get(row["key_id"]), place, Sealed(row["nonce"], row["value"]))
            again = seal(new, Place(row["company_id"], secret_id, row["name"], new.key_id), plain)
            await connection.execute(
                "UPDATE secrets SET value = %s, nonce = %s, key_id = %s WHERE id = %s AND nonce = %s",
                (again.value, again.nonce, new.key_id, secret_id, row["nonce"]),
            )
        return 2 * len(ids) / (time.perf_counter() - began)


async def measured(home: Path, *words: str) -> tuple[dict[str, Any], dict[str, float], float, float]:
    """A command: its result, when each step began (seconds), how long it took in all, its most memory (MiB)."""
    began = time.perf_counter()
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "benchmarks.rotation", "--measured", *words, "--json"),
        env={**os.environ, "COMPANY_AGENTS_HOME": str(home)},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    assert process.stderr and process.stdout
    steps: dict[str, float] = {}
    memory = 0.0
    async for line in process.stderr:
        said = _json(line)
        if "step" in said:
            steps.setdefault(said["step"], time.perf_counter() - began)
        memory = said.get("memory", memory)
    result = _json(await process.stdout.read())
    assert await process.wait() == 0, result
    return result, steps, time.perf_counter() - began, memory


def _json(line: bytes) -> dict[str, Any]:
    return json.loads(line) if line.startswith(b"{") else {}


def _measured(words: list[str]) -> int:
    """The command itself, in this process; what it took of memory at most goes to standard error."""

    from company_agents.cli.main import run as run_command

    status = run_command(words)
    # Not what getrusage says, which begins with the most that the process had that started this one.
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    print(json.dumps({"memory": int(lines["VmHWM"].split()[0]) / 1024}), file=sys.stderr)
    return status


async def alone(rows: int) -> AsyncIterator[Figure | Ratio]:
    """The command with nobody else at work."""
    async with filled(rows) as (home, app, _, ids):
        each = await one_by_one(app, ids[:: max(1, rows // ONE_BY_ONE)])
        bare = await bare_update(app, rows)
        await settle(app)
        _, _, _, idle = await measured(home, "key", "status")
        _, steps, took, memory = await measured(home, "key", "rotate")
        rewrap = steps["verify"] - steps["rewrap"]
        rate = rows / rewrap
        name = f"key rotate, {rows:,} secrets of 64 bytes"
        yield _ratio(f"{name}: rewrap / bare UPDATE", rate, bare, 0.15)
        yield _ratio(f"{name}: rewrap / row by row", rate, each, 5)
        # Twelve seconds for a million, and as much for each row of fewer, with a second for what does not grow.
        yield _figure(f"{name}: rewrap", rewrap, "s", 12 * rows / 1_000_000 + (rows < 1_000_000))
        yield _figure(f"{name}: the whole command", took, "s", 20 * rows / 1_000_000 + 2 * (rows < 1_000_000))
        yield _figure(f"{name}: memory above an idle command", memory - idle, "MiB", 100)


async def noticed(rows: int) -> AsyncIterator[Figure | Ratio]:
    """What two orchestrators notice that work meanwhile."""
    async with filled(rows) as (home, app, company, ids):
        caller = await app.identity.in_company(LOCAL, company)
        _, token = await app.agents.create(caller, "ann")
        names = [f"filled/{secret_id}" for secret_id in ids[:: max(1, rows // 400)]]
        async with under_load(home, str(company), token.reveal_text(), names) as load:
            await asyncio.sleep(BEFORE + 1)
            began = time.time()
            status, _, _ = await command(home, "key", "rotate")
            ended = time.time()
            assert status == 0
        calls = {
            kind: [call for seen in load.seen for call in seen["calls"][kind]] for kind in ("read", "write", "token")
        }
        assert not [failure for seen in load.seen for failure in seen["failures"]]
        before = [ms for at, ms in calls["read"] if began - BEFORE < at < began]
        during = [ms for at, ms in calls["read"] if began <= at <= ended]
        name = f"while {rows:,} are rotated"
        yield _figure(f"{name}: 99th percentile of a reader, times before", _p99(during) / _p99(before), "×", 2)
        yield _figure(f"{name}: the whole command", ended - began, "s", 90 * rows / 1_000_000 + 5)
        yield _figure(
            f"{name}: longest wait of a write", max(ms for at, ms in calls["write"] if began <= at <= ended), "ms", 250
        )


def _p99(values: list[float]) -> float:
    return statistics.quantiles(values, n=100)[98]


def _figure(name: str, value: float, unit: str, most: float) -> Figure:
    return Figure(name, value, value, value, unit, most)


def _ratio(name: str, ours: float, baseline: float, goal: float) -> Ratio:
    return Ratio(name, ours, baseline, ours / baseline, ours / baseline, ours / baseline, goal)


async def run(sizes: tuple[int, ...] = ROWS) -> AsyncIterator[Figure | Ratio]:
    """Every figure of the rotation."""
    for rows in sizes:
        async for figure in alone(rows):
            yield figure
    async for figure in noticed(max(sizes)):
        yield figure


async def main(sizes: tuple[int, ...]) -> None:
    """Only these."""
    async for figure in run(sizes):
        print(figure.line(), flush=True)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--measured"]:
        sys.exit(_measured(sys.argv[2:]))
    asyncio.run(main(tuple(int(word) for word in sys.argv[1:]) or ROWS))
