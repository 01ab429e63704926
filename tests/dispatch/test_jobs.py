"""
The job engine is a messenger: what it loses, says twice, or cannot say for a while neither loses nor doubles a run. Its schema
is its own.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID

import psycopg
import pytest
from psycopg.rows import dict_row

from company_agents.app import App
from company_agents.db.job_engine import JobStep, apply_job_steps, known_job_steps, pending_job_steps
from company_agents.errors import MayNotStart
from tests.dispatch.conftest import Desk, MakeDesk, Orchestrate, Scripted, hang, until
from tests.promises.evidence import Past, address, sql

JOBS = "company_agents_jobs.procrastinate_jobs"


async def jobs_of(superuser: Past, run_id: UUID) -> list[dict[str, Any]]:
    return await sql(superuser, f"SELECT * FROM {JOBS} WHERE args->>'run' = %(r)s", r=str(run_id))


async def none_of(superuser: Past, run_id: UUID) -> bool:
    return await jobs_of(superuser, run_id) == []


async def test_a_job_has_two_ids_in_it_and_is_gone_with_the_start_of_its_run(
    desk: MakeDesk, orchestrator: Orchestrate, superuser: Past
) -> None:
    here = await desk()
    run = await here.start("the secret of the day is xoxb-17")
    [job] = await jobs_of(superuser, run.id)
    assert job["args"] == {"company": str(here.tenant.company.id), "run": str(run.id)}
    assert "xoxb" not in json.dumps(job, default=str)
    await orchestrator()
    await here.becomes(run.id, "finished")
    await until(lambda: none_of(superuser, run.id), "its job is still there")


async def test_a_run_is_told_of_with_what_queues_it_or_not_at_all(desk: MakeDesk, superuser: Past, app: App) -> None:
    here = await desk()
    with contextlib.suppress(ZeroDivisionError):
        async with here.local.scope.transaction() as tx:
            await app.runs.moves.announce(tx, here.agent)
            raise ZeroDivisionError
    assert await none_of(superuser, here.agent)


async def test_a_job_that_was_lost_loses_no_run(desk: MakeDesk, orchestrator: Orchestrate, superuser: Past) -> None:
    here = await desk()
    run = await here.start()
    await sql(superuser, f"DELETE FROM {JOBS} WHERE args->>'run' = %(r)s", r=str(run.id))
    there = await orchestrator()
    await here.becomes(run.id, "finished")
    assert len(there.works(run.id)) == 1


async def test_a_job_that_is_told_twice_doubles_no_run(
    desk: MakeDesk, orchestrator: Orchestrate, superuser: Past
) -> None:
    here = await desk()
    there = await orchestrator(adapter=Scripted(does=hang))
    run = await here.start()
    await there.begins(run.id)
    twice = f"""INSERT INTO {JOBS} (queue_name, task_name, args)
                SELECT 'runs', 'run', jsonb_build_object('company', %(c)s::text, 'run', %(r)s::text)
                FROM generate_series(1, 5)"""
    await sql(superuser, twice, c=str(run.company_id), r=str(run.id))

    async def one_left() -> bool:
        return len(await jobs_of(superuser, run.id)) == 1

    await until(one_left, "the jobs were not taken")
    assert len(there.works(run.id)) == 1
    assert (await here.run(run.id)).fencing_token == 1


async def test_the_job_of_an_orchestrator_that_died_before_it_claimed_is_told_anew(
    desk: MakeDesk, orchestrator: Orchestrate, superuser: Past
) -> None:
    here = await desk()
    run = await here.start()
    dead = "INSERT INTO company_agents_jobs.procrastinate_workers (last_heartbeat) VALUES (now() - interval '1 minute')"
    [worker] = await sql(superuser, f"{dead} RETURNING id")
    took = f"UPDATE {JOBS} SET status = 'doing', worker_id = %(w)s WHERE args->>'run' = %(r)s"
    await sql(superuser, took, w=worker["id"], r=str(run.id))
    await orchestrator()
    await here.becomes(run.id, "finished")


async def test_an_engine_that_is_away_for_a_while_keeps_runs_waiting_and_loses_none(
    desk: MakeDesk, orchestrator: Orchestrate, superuser: Past
) -> None:
    here = await desk()
    there = await orchestrator()
    await sql(superuser, "ALTER SCHEMA company_agents_jobs RENAME TO elsewhere")
    try:
        runs = [await here.start() for _ in range(3)]
        assert [run.state for run in runs] == ["queued"] * 3
    finally:
        await sql(superuser, "ALTER SCHEMA elsewhere RENAME TO company_agents_jobs")
    for run in runs:
        await here.becomes(run.id, "finished")
        assert len(there.works(run.id)) == 1


async def test_a_database_that_is_away_for_a_moment_ends_no_run(
    desk: MakeDesk, orchestrator: Orchestrate, superuser: Past
) -> None:
    here, done = await desk(), asyncio.Event()

    async def wait(work: Any, output: Any) -> Any:
        await done.wait()
        return await Scripted().execute(work, output)

    there = await orchestrator(adapter=Scripted(does=wait))
    run = await here.start()
    await there.begins(run.id)
    # Every connection of the orchestrators is cut off, those of the engine too.
    cut = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'company_agents_serve'"
    await sql(superuser, cut)
    again = await until(lambda: started(here), "the database did not come back")
    done.set()
    for each in (run.id, again):
        await here.becomes(each, "finished")
        assert len(there.works(each)) == 1


async def started(here: Desk) -> UUID | None:
    with contextlib.suppress(Exception):
        return (await here.start()).id
    return None


# — the schema —


@pytest.fixture
async def empty(app: App, superuser: Past) -> AsyncIterator[psycopg.AsyncConnection[dict[str, Any]]]:
    """The role that migrates, in a database without the schema of the engine."""
    await sql(superuser, "DROP DATABASE IF EXISTS jobs_of_tests")
    await sql(superuser, "CREATE DATABASE jobs_of_tests OWNER company_agents_migrate")
    conninfo = psycopg.conninfo.make_conninfo(address(app, "company_agents_migrate"), dbname="jobs_of_tests")
    async with await psycopg.AsyncConnection.connect(conninfo, autocommit=True, row_factory=dict_row) as connection:
        yield connection
    await sql(superuser, "DROP DATABASE jobs_of_tests WITH (FORCE)")


FUNCTIONS = """
SELECT p.proname || '(' || pg_get_function_identity_arguments(p.oid) || ')' AS name, md5(p.prosrc) AS text FROM pg_proc p
WHERE p.pronamespace = 'company_agents_jobs'::regnamespace ORDER BY 1
"""
COLUMNS = """
SELECT table_name || '.' || column_name AS name, data_type AS text FROM information_schema.columns
WHERE table_schema = 'company_agents_jobs' ORDER BY 1
"""


async def shape(connection: Any) -> list[tuple[str, str]]:
    """The functions and columns of the schema."""
    return [
        (row["name"], row["text"])
        for query in (FUNCTIONS, COLUMNS)
        for row in await (await connection.execute(query)).fetchall()
    ]


async def test_the_steps_of_a_newer_library_are_applied_to_the_schema_of_an_older_one(
    empty: psycopg.AsyncConnection[dict[str, Any]],
) -> None:
    steps = known_job_steps()
    assert [step.name for step in steps] == sorted(step.name for step in steps)
    # What a library without its last twelve steps would have made, by its own text.
    old, new = steps[:-12], steps[-12:]
    await empty.execute("CREATE SCHEMA company_agents_jobs")
    await empty.execute(
        "CREATE TABLE company_agents_jobs.steps (name text PRIMARY KEY, applied_at timestamptz NOT NULL DEFAULT now())"
    )
    await empty.execute("SET search_path = company_agents_jobs")
    for step in old:
        await empty.execute(step.text.encode(), prepare=False)
        await empty.execute("INSERT INTO steps (name) VALUES (%s)", (step.name,))
    await empty.execute("RESET search_path")
    assert await pending_job_steps(empty, steps) == new
    await apply_job_steps(empty, steps)
    assert await pending_job_steps(empty, steps) == []
    stepwise = await shape(empty)
    # The same as what the library makes at once.
    await empty.execute("DROP SCHEMA company_agents_jobs CASCADE")
    await apply_job_steps(empty, steps)
    assert stepwise == await shape(empty)


async def test_a_step_that_does_not_apply_leaves_nothing_and_is_tried_again(
    empty: psycopg.AsyncConnection[dict[str, Any]],
) -> None:
    steps = known_job_steps()
    await apply_job_steps(empty, steps)
    bad = JobStep("99.00.00_01_pre_bad", "CREATE TABLE half (n int); SELECT nothing_like_it()")
    with pytest.raises(MayNotStart, match=r"99\.00\.00_01_pre_bad"):
        await apply_job_steps(empty, [*steps, bad])
    good = JobStep(bad.name, "CREATE TABLE half (n int)")
    await apply_job_steps(empty, [*steps, good])
    assert await pending_job_steps(empty, [*steps, good]) == []
    # An older library finds more than it knows, and has nothing to do.
    await apply_job_steps(empty, steps)


async def test_requests_can_put_jobs_into_the_schema_and_change_nothing_of_it(app: App, superuser: Past) -> None:
    [row] = await sql(
        superuser,
        """SELECT has_schema_privilege('company_agents_serve', 'company_agents_jobs', 'CREATE') AS make,
                  has_table_privilege('company_agents_serve', 'company_agents_jobs.steps', 'INSERT, UPDATE, DELETE') AS steps,
                  has_table_privilege('company_agents_serve', 'company_agents_jobs.procrastinate_jobs', 'INSERT') AS put,
                  has_table_privilege('company_agents_serve', 'company_agents_jobs.procrastinate_jobs', 'TRUNCATE') AS empty""",
    )
    assert row == {"make": False, "steps": False, "put": True, "empty": False}
