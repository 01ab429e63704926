"""
Two orchestrators, one of them in a process of its own: what is cut off ends on both, whatever state that one is in.
"""

from __future__ import annotations

import asyncio
import signal

from company_agents.settings import Settings
from tests.gateway.wire import PATIENCE
from tests.streams.conftest import World, streaming
from tests.streams.process import is_stopped, orchestrator

# Seconds within which whoever cuts something off is answered.
WITHIN = 5.5


async def test_a_cut_ends_streams_on_both_and_one_that_is_stopped_relays_nothing_more(
    world: World, settings: Settings
) -> None:
    local, integration = world.tenant.local, world.here.integration.id
    _, token = await world.run()
    with orchestrator(settings.home) as (process, url):
        async with streaming(world.here, token) as here, streaming(world.here, token, at=url) as there:
            async with asyncio.timeout(WITHIN):
                cut = await world.app.runs.cut(local, integration, every=True)
            sent = world.ticking.sent
            assert cut.runs == 1
            await asyncio.gather(here.breaks(), there.breaks())
            assert max(here.last, there.last) <= sent
        await world.ticking.hung_up()
        async with streaming(world.here, at=url) as there:
            process.send_signal(signal.SIGSTOP)
            async with asyncio.timeout(PATIENCE):
                while not is_stopped(process):
                    await asyncio.sleep(0.01)
            sent = world.ticking.sent
            async with asyncio.timeout(WITHIN):
                await world.app.agents.pause(local, world.tenant.agent.agent_id())
            # What the provider has sent meanwhile is there to be read.
            assert world.ticking.sent > sent
            process.send_signal(signal.SIGCONT)
            await there.breaks()
            assert there.last <= sent
