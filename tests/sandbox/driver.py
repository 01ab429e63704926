"""
An orchestrator of which there is only its process adapter: it runs one command, and is killed.

    driver.py <home> <way> <workspace> <code of Python> <word>
"""

import asyncio
import sys
from pathlib import Path

from company_agents.runs.adapters.process import ProcessAdapter
from company_agents.runs.sandbox.sandbox import Sandbox
from company_agents.settings import read_settings
from tests.sandbox.conftest import Runner, Written, settings_of


class Shown(Written):
    async def write(self, stream: str, text: str) -> None:
        if stream == "output":
            sys.stdout.write(text)
            sys.stdout.flush()


async def main(home: str, way: str, folder: str, code: str, word: str) -> None:
    settings = settings_of(way, read_settings(home=home))
    runner = Runner(ProcessAdapter(Sandbox(settings)), way == "unsandboxed", Path(folder))
    outcome, _ = await runner.python(code, word, written=Shown())
    print(outcome.state, outcome.reason, flush=True)
    await asyncio.sleep(600)


asyncio.run(main(*sys.argv[1:]))
