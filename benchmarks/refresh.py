"""
Consents that are due in the same minute: how many one orchestrator refreshes a second, beside what the same server answers
to a bare client that asks for the same and keeps nothing.

    python -m benchmarks.refresh [CONSENTS]
"""

from __future__ import annotations

import asyncio
import contextlib
import statistics
import sys
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import aiohttp
import uvloop

from benchmarks.harness import Figure, Ratio
from benchmarks.instance import LOCAL, opened_app
from company_agents.app import App
from company_agents.identity.principal import Caller
from company_agents.integrations.credential import Credential, destination_for
from company_agents.integrations.oauth.model import Consent
from company_agents.integrations.refresher import Upkeep
from company_agents.sensitive import Sensitive

CONSENTS = 1000
ROUNDS = 3


@contextlib.asynccontextmanager
async def token_server() -> AsyncIterator[str]:
    """Its address."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "benchmarks.token_server"),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdin and process.stdout
    try:
        yield (await process.stdout.readline()).decode().strip()
    finally:
        process.stdin.close()
        await process.wait()


async def begun(url: str, number: int) -> list[str]:
    """Refresh tokens of the server."""
    async with aiohttp.ClientSession() as session, session.get(f"{url}/begin?n={number}") as reply:
        found: list[str] = await reply.json()
        return found


async def bare(url: str, number: int, workers: int) -> float:
    """Refreshes a second of a client that does nothing else, over connections that it keeps."""
    left = await begun(url, number)
    async with aiohttp.ClientSession() as session:

        async def worker() -> None:
            while left:
                given = {"grant_type": "refresh_token", "refresh_token": left.pop(), "client_id": "bench"}
                async with session.post(f"{url}/token", data=given) as reply:
                    assert "access_token" in await reply.json()

        began = time.perf_counter()
        await asyncio.gather(*(worker() for _ in range(workers)))
        return number / (time.perf_counter() - began)


async def connected(app: App, url: str, number: int) -> Caller:
    """A company with so many consents."""
    company = await app.companies.create(LOCAL, "many")
    caller = await app.identity.in_company(LOCAL, company.id)
    await app.clients.configure(caller, "generic", client_id="bench", auth="none", issuer=url, allow_private=True)
    client = await app.clients.get(caller.scope, "generic", url)
    generic = app.providers.get("generic")
    destination = destination_for(generic, url, allow_private=True, header=None)
    for index, refresh in enumerate(await begun(url, number)):
        consent = Consent("code", "bench", client.endpoints, Sensitive(refresh), datetime.now(UTC) + timedelta(hours=1))
        credential = Credential(destination, Sensitive(f"the-first-token-{index}"), consent)
        await app.integrations.establish(caller, generic, credential, name=f"it {index}")
    return caller


async def refreshed(app: App, caller: Caller, number: int) -> float:
    """Refreshes a second of one orchestrator, from the moment at which all are due until all are written."""
    company = caller.scope.company_id
    async with await app.store.db.logins.instance.connect() as connection:

        async def ask(query: str) -> Any:
            return (await (await connection.execute(query, (company,))).fetchone()) or {}

        before = (await ask("SELECT sum(written_by) AS n FROM credential_versions WHERE company_id = %s"))["n"]
        await connection.execute(
            "UPDATE credential_versions SET refresh_due_at = now() WHERE company_id = %s", (company,)
        )
        await connection.commit()
        upkeep = Upkeep(app.store, app.providers, app.refresher, app.integrations.checks, app.settings.refreshes, 0)
        upkeep.start()
        began = time.perf_counter()
        try:
            while (
                await ask(
                    "SELECT count(*) AS n FROM credential_versions WHERE company_id = %s AND refresh_due_at <= now()"
                )
            )["n"]:
                await connection.commit()
                await asyncio.sleep(0.02)
            took = time.perf_counter() - began
        finally:
            await upkeep.close()
        await connection.commit()
        after = (await ask("SELECT sum(written_by) AS n FROM credential_versions WHERE company_id = %s"))["n"]
    assert after - before == number, "each is refreshed once"
    return number / took


async def run(number: int = CONSENTS) -> AsyncIterator[Ratio | Figure]:
    """Both, in turn."""
    async with token_server() as url, opened_app() as app:
        caller = await connected(app, url, number)
        rounds = []
        for index in range(ROUNDS + 1):
            theirs = await bare(url, number, app.settings.refreshes)
            ours = await refreshed(app, caller, number)
            # The first does not count.
            if index:
                rounds.append((ours, theirs))
        ratios = [ours / theirs for ours, theirs in rounds]
        name = f"{number:,} consents that are due, against the server's own limit"
        yield Ratio(
            name,
            statistics.median(ours for ours, _ in rounds),
            statistics.median(theirs for _, theirs in rounds),
            statistics.median(ratios),
            min(ratios),
            max(ratios),
            0.02,
        )
        took = [number / ours for ours, _ in rounds]
        yield Figure(
            f"{number:,} consents that are due, until all are refreshed",
            statistics.median(took),
            min(took),
            max(took),
            "s",
            60,
        )


async def main(number: int) -> None:
    """Only these."""
    async for figure in run(number):
        print(figure.line(), flush=True)


if __name__ == "__main__":
    uvloop.run(main(*[int(word) for word in sys.argv[1:]] or [CONSENTS]))
