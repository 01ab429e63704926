"""
What an agent's call through an integration takes longer than the same call made directly: found, allowed, recorded and
committed, opened, sent, searched.

    python -m benchmarks.outgoing_call
"""

from __future__ import annotations

import statistics
import time
from collections.abc import AsyncIterator, Awaitable, Callable

import aiohttp
import uvloop

from benchmarks.harness import ROUNDS, Figure
from benchmarks.instance import LOCAL, opened_app
from benchmarks.refresh import token_server
from company_agents.app import App
from company_agents.identity.principal import Caller
from company_agents.sensitive import Sensitive

TIMES = 300
TOKEN = "bench-token-0123456789"


async def run() -> AsyncIterator[Figure]:
    """The median of a call through here, less that of a direct one, of each round."""
    async with opened_app() as app, token_server() as url, aiohttp.ClientSession() as session:
        caller = await _caller(app, url)

        async def ours() -> None:
            reply = await app.requests.request(caller, "bench", "GET", "/me")
            assert reply.status == 200

        async def direct() -> None:
            async with session.get(f"{url}/me", headers={"Authorization": f"Bearer {TOKEN}"}) as reply:
                await reply.read()
                assert reply.status == 200

        added = []
        for index in range(ROUNDS + 1):
            both = (ours, direct) if index % 2 else (direct, ours)
            medians = {work: await _median(work) for work in both}
            added.append(medians[ours] - medians[direct])
        # The first round does not count.
        counted = sorted(added[1:])
        yield Figure(
            "a call through an integration, beyond a direct one",
            statistics.median(counted),
            *(counted[0], counted[-1], "ms", 2),
        )


async def _caller(app: App, url: str) -> Caller:
    company = await app.companies.create(LOCAL, "bench calls")
    local = await app.identity.in_company(LOCAL, company.id)
    await app.integrations.connect(
        local,
        "generic",
        Sensitive(TOKEN),
        name="bench",
        base_url=url,
        allow_private_network=True,
        allow_all=True,
    )
    _, token = await app.agents.create(local, "ann")
    return await app.identity.agent(token.reveal_text())


async def _median(work: Callable[[], Awaitable[None]]) -> float:
    taken = []
    for _ in range(TIMES):
        began = time.perf_counter()
        await work()
        taken.append((time.perf_counter() - began) * 1000)
    return statistics.median(taken)


async def main() -> None:
    """Only this."""
    async for figure in run():
        print(figure.line(), flush=True)


if __name__ == "__main__":
    uvloop.run(main())
