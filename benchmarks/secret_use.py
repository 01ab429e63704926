"""
What a recorded use of a secret costs, against the least that it must do: read the row, commit one event, open.
"""

from __future__ import annotations

import itertools
import os
import uuid
from collections.abc import AsyncIterator

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from benchmarks.harness import Ratio, compare
from benchmarks.instance import LOCAL, opened_app
from company_agents.app import App
from company_agents.companies.scope import CompanyScope
from company_agents.sensitive import Sensitive


async def run() -> AsyncIterator[Ratio]:
    """The three figures, one after the other."""
    async with opened_app() as app:
        scopes = [await _scope(app, f"bench {index}") for index in range(16)]
        ids = [await _secret(app, scope) for scope in scopes]
        baseline = await _baseline(app, scopes[0])

        async def one_company() -> None:
            async with app.store.use(scopes[0], ids[0], actor="bench", host="bench", method="GET", path="/") as use:
                use.ended("replied", status=200)

        turns = itertools.cycle(zip(scopes, ids, strict=True))

        async def many_companies() -> None:
            scope, secret = next(turns)
            async with app.store.use(scope, secret, actor="bench", host="bench", method="GET", path="/") as use:
                use.ended("replied", status=200)

        for workers, times in ((1, 400), (16, 2000)):
            name = f"secret_store.use, {workers} at once, against SELECT + INSERT + AES-GCM"
            yield await compare(name, one_company, baseline, times=times, workers=workers, goal=0.7)
        name = "16 uses at once: one company, against sixteen companies"
        yield await compare(name, one_company, many_companies, times=2000, workers=16, goal=0.8)


async def _scope(app: App, name: str) -> CompanyScope:
    company = await app.companies.create(LOCAL, f"{name} {uuid.uuid4().hex[:8]}")
    return CompanyScope(company.id, app.store.db)


async def _secret(app: App, scope: CompanyScope) -> uuid.UUID:
    async with scope.transaction() as tx:
        return await app.store.put(tx, "bench", Sensitive(os.urandom(64)))


async def _baseline(app: App, scope: CompanyScope):
    """One SELECT by primary key, one committed INSERT, one AES-GCM opening, over the same pool."""
    db = app.store.db
    async with await db.logins.migrate.connect() as connection:
        await connection.execute("CREATE TABLE bench_rows (id uuid PRIMARY KEY, value bytea, nonce bytea)")
        await connection.execute("CREATE TABLE bench_events (id bigserial PRIMARY KEY, record text)")
        await connection.execute("GRANT SELECT, INSERT ON bench_rows, bench_events TO company_agents_serve")
        await connection.execute("GRANT USAGE ON SEQUENCE bench_events_id_seq TO company_agents_serve")
        key, nonce, row_id = AESGCM(os.urandom(32)), os.urandom(12), uuid.uuid4()
        value = key.encrypt(nonce, os.urandom(64), b"place")
        await connection.execute("INSERT INTO bench_rows VALUES (%s, %s, %s)", (row_id, value, nonce))
    record = '{"action":"credential.begun","actor":"bench","host":"bench","method":"GET","path":"/"}'

    async def bare() -> None:
        async with db.connection() as connection:
            await connection.execute("INSERT INTO bench_events (record) VALUES (%s)", (record,))
            cursor = await connection.execute(
                "SELECT value, nonce FROM bench_rows WHERE id = %s", (row_id,), binary=True
            )
            row = await cursor.fetchone()
            assert row is not None
            key.decrypt(bytes(row["nonce"]), bytes(row["value"]), b"place")

    return bare
