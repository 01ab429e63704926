"""
The loop: the model is asked, what it calls is called, and it is told what came of that, until it ends its turn.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from typing import Any

import aiohttp

from company_agents.errors import Failed
from company_agents.runs.adapters.base import Outcome, Output, Work
from company_agents.runs.adapters.llm_anthropic import Messages
from company_agents.runs.adapters.llm_client import CONNECT_TIME, IDLE_TIME, Model, Waits
from company_agents.runs.adapters.llm_openai import Completions
from company_agents.runs.adapters.llm_prompt import first_message, system_prompt
from company_agents.runs.adapters.llm_talk import (
    Answer,
    Call,
    Result,
    Results,
    Said,
    TooLong,
    Turn,
    Wire,
    line_of,
    shorten,
    too_long,
)
from company_agents.runs.adapters.llm_tools import Tools, tools_of

# Answers in a row that were cut off for want of room: one that never comes to an end costs and brings nothing.
MOST_CUT_OFF = 3
# Characters of the arguments of a call that the log shows.
SHOWN = 500
GO_ON = "You were cut off. Go on exactly where you stopped."


async def execute(work: Work, output: Output, waits: Waits) -> Outcome:
    """Do the work of one start; see `Adapter.execute`."""
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_TIME, sock_read=IDLE_TIME)
    async with (
        aiohttp.ClientSession(
            timeout=timeout, trust_env=False, cookie_jar=aiohttp.DummyCookieJar(), max_field_size=32 * 1024
        ) as http,
        tools_of(work) as tools,
    ):
        config = work.config
        wire: Wire = (Messages if config["api"] == "anthropic" else Completions)(config["model"], config["max_tokens"])
        system = system_prompt(work, await _company(http, work), config["system"])
        task = await tools.read("task_get", id=str(work.task_id)) if work.task_id else None
        url = work.gateway_url(config["integration"]) + config["path"]
        model = Model(http, url, wire, work.token, system, tools.listed, waits)
        return await _Loop(model, tools, output, [Said(first_message(work.prompt, task))]).run(config["max_turns"])


class _Loop:
    def __init__(self, model: Model, tools: Tools, output: Output, turns: list[Turn]) -> None:
        self._model = model
        self._tools = tools
        self._output = output
        self._turns = turns
        self._cut_off = 0

    async def run(self, most: int) -> Outcome:
        for turn in range(most):
            answer = await self._answer()
            if answer.text:
                await self._output.write("output", "\n")
            if not answer.calls and not answer.text and turn == 0:
                raise Failed("the model answered nothing at all")
            if answer.stop == "declined":
                raise Failed("the model declined to do this")
            if answer.kept or answer.text or answer.calls:
                self._turns.append(answer)
            self._cut_off = self._cut_off + 1 if answer.stop == "length" else 0
            if self._cut_off >= MOST_CUT_OFF:
                raise Failed(
                    f"{MOST_CUT_OFF} answers in a row were cut off at the most tokens that one may have",
                    hint="set more with --max-tokens",
                )
            if answer.calls:
                self._turns.append(Results(await self._called(answer.calls)))
                if self._tools.outcome is not None:
                    return self._tools.outcome
            elif answer.stop == "length":
                self._turns.append(Said(GO_ON))
            elif answer.stop == "full":
                self._make_room()
            elif answer.stop != "pause":
                return Outcome("finished")
        raise Failed(f"it was not done after {most} answers of the model", hint="set more with --max-turns")

    async def _answer(self) -> Answer:
        while True:
            try:
                return await self._model.ask(self._turns, self._said, self._again)
            except TooLong:
                self._make_room()
                await self._output.write(
                    "note", "the conversation became too long: what older calls gave is left out\n"
                )

    def _make_room(self) -> None:
        if not shorten(self._turns):
            raise too_long()

    async def _called(self, calls: Sequence[Call]) -> list[Result]:
        for call in calls:
            given = json.dumps(call.arguments, ensure_ascii=False)
            await self._output.write("note", f"→ {line_of(call.name, SHOWN)} {_brief(given)}\n")
        results = await self._tools.call_all(calls)
        for call, result in zip(calls, results, strict=True):
            said = f"error: {_brief(result.text)}" if result.is_error else f"{len(result.text)} characters"
            await self._output.write("note", f"← {line_of(call.name, SHOWN)} {said}\n")
        return results

    async def _said(self, text: str) -> None:
        await self._output.write("output", text)

    async def _again(self, why: str) -> None:
        await self._output.write("note", f"{why}\n")


def _brief(text: str) -> str:
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}… ({len(text)} characters)"


async def _company(http: aiohttp.ClientSession, work: Work) -> str:
    """What the company is called. A run without that goes on as well."""
    url = f"{work.url}/v1/companies/{work.company_id}"
    headers = {"Authorization": f"Bearer {work.token.reveal_text()}"}
    try:
        async with asyncio.timeout(CONNECT_TIME), http.get(url, headers=headers) as reply:
            found: Any = await reply.json() if reply.status == 200 else {}
            return str(found.get("name") or work.company_id)
    except (aiohttp.ClientError, TimeoutError, OSError, ValueError, AttributeError):
        return str(work.company_id)
