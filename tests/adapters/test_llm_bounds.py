"""
What a model's server may answer: how much, in how many pieces, and with which characters.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Iterable
from typing import Any

import pytest

from company_agents.errors import Failed
from company_agents.runs.adapters import llm_client
from company_agents.runs.adapters.base import Outcome
from company_agents.runs.adapters.llm_anthropic import MessageReader
from company_agents.runs.adapters.llm_client import events
from company_agents.runs.adapters.llm_openai import ChunkReader
from company_agents.runs.adapters.llm_talk import MOST_CALLS, MOST_PARTS, Broken
from company_agents.runs.adapters.llm_tools import MOST_UNKNOWN
from tests.adapters.conftest import KEYS, MakeDesk, Written
from tests.adapters.llm_server import Llm, Refuse, Say, results

APIS = sorted(KEYS)
MIB = 1024 * 1024
DEEP = '{"a":' * 400 + "1" + "}" * 400


async def one_by_one(pieces: Iterable[bytes]) -> AsyncIterator[bytes]:
    for piece in pieces:
        await asyncio.sleep(0)
        yield piece


async def read(pieces: Iterable[bytes]) -> list[str]:
    return [data async for data in events(one_by_one(pieces))]


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
async def test_an_event_is_the_same_wherever_it_is_cut(end: str) -> None:
    stream = end.join(
        [": hello", "", "event: x", "data: one", "data:  zwei, drü€", "", "", "data:", "", "data: half", ""]
    )
    whole = stream.encode()
    for size in range(1, len(whole) + 1):
        found = await read(whole[at : at + size] for at in range(0, len(whole), size))
        assert found == ["one\n zwei, drü€", ""], size


async def test_lines_of_data_that_never_become_an_event_are_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(llm_client, "MOST_EVENT", 1000)
    with pytest.raises(Broken, match="larger than any"):
        await read([b"data:\n"] * 300)
    with pytest.raises(Broken, match="larger than any"):
        await read([b"data: ", *[b"a"] * 1000])
    assert await read([b"data: a\n\n"] * 200) == ["a"] * 200


async def test_a_long_line_in_many_pieces_is_read_once() -> None:
    async with asyncio.timeout(20):
        [found] = await read([b"data: ", *[b"a" * 256] * (8 * MIB // 256), b"\n\n"])
    assert len(found) == 8 * MIB


@pytest.mark.parametrize("api", APIS)
async def test_an_answer_without_an_end_fails_the_run_and_is_not_asked_for_again(
    desk: MakeDesk, llm: Llm, monkeypatch: pytest.MonkeyPatch, api: str
) -> None:
    assert llm_client.MOST_ANSWER == 32 * MIB
    monkeypatch.setattr(llm_client, "MOST_ANSWER", MIB // 8)
    here = await desk(api)
    llm.play(Say("on and on " * 1000), Say("too late"))
    with pytest.raises(Failed, match="an answer of the model is larger than"):
        await here.run(Written(), "say something")
    assert len(llm.bodies) == 1


@pytest.mark.parametrize("api", APIS)
async def test_an_answer_has_so_many_calls_and_no_more(desk: MakeDesk, llm: Llm, api: str) -> None:
    here, written = await desk(api), Written()
    llm.play(Say(calls=[("x" * 5000, {})] * MOST_CALLS), Say("I see."))
    assert await here.run(written, "say something") == Outcome("finished")
    said = results(llm.bodies[1])
    assert len(said) == MOST_CALLS == 128
    assert len(set(said)) == 1
    assert "there is no such tool" in said[0] and len(said[0]) < MOST_UNKNOWN + 100
    assert len(written.of("note")) < MOST_CALLS * 4000
    llm.play(Say(calls=[("whoami", {})] * (MOST_CALLS + 1)), Say("too late"))
    with pytest.raises(Failed, match="more than 128 calls"):
        await here.run(Written(), "say something")
    assert len(llm.bodies) == 3


def test_an_answer_has_so_many_parts_and_no_more() -> None:
    reader = MessageReader()

    def begin(index: int) -> None:
        block = {"type": "content_block_start", "index": index, "content_block": {"type": "anything"}}
        reader.feed(json.dumps(block))

    for index in range(MOST_PARTS):
        begin(index)
    with pytest.raises(Failed, match="more than 1024 parts"):
        begin(MOST_PARTS)


def test_what_is_no_answer_is_said_to_be_none() -> None:
    def message(*happened: dict[str, Any]) -> MessageReader:
        reader = MessageReader()
        ended = [{"type": "message_delta", "delta": {"stop_reason": "end_turn"}}, {"type": "message_stop"}]
        for event in [*happened, *ended]:
            reader.feed(json.dumps(event))
        return reader

    with pytest.raises(Broken, match="no message"):
        message({"type": "content_block_start", "index": 0, "content_block": {"type": "tool_use"}}).answer()
    with pytest.raises(Broken, match="no event"):
        message({"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": 5}})
    with pytest.raises(Broken, match=r"it broke off: a b c$"):
        message({"type": "error", "error": {"type": "a\0b\ud800c"}})
    for reader in (MessageReader(), ChunkReader()):
        with pytest.raises(Broken):
            reader.feed("[" * 100_000)
    with pytest.raises(Broken, match="no chunk"):
        ChunkReader().feed(json.dumps({"choices": [{"finish_reason": ["stop"]}]}))


@pytest.mark.parametrize("api", APIS)
async def test_a_call_that_cannot_be_sent_is_an_error_that_the_model_is_told(
    desk: MakeDesk, llm: Llm, caplog: pytest.LogCaptureFixture, api: str
) -> None:
    caplog.set_level(logging.WARNING)
    here, written = await desk(api), Written()
    llm.play(
        Say(
            calls=[
                ("memory_write", '{"content": "private words \\ud800"}'),
                ("memory_write", '{"\\udfff": "private words"}'),
                ("memory_write", DEEP),
                ("memory_write", '{"content": "private words \\u0000"}'),
                ("memory_write", '{"content": "whole \\ud83d\\ude00"}'),
            ]
        ),
        Say("I see."),
    )
    assert await here.run(written, "say something") == Outcome("finished")
    assert llm.problems == []
    *wrong, nul, good = results(llm.bodies[1])
    assert len(wrong) == 3
    assert all("nothing was called" in said for said in wrong)
    assert "error" in json.loads(nul)
    assert "error" not in json.loads(good)
    assert [found.content for found in await here.app.memory.search(here.tenant.agent, "", 10)] == ["whole 😀"]
    assert "private words" not in caplog.text


@pytest.mark.parametrize("api", APIS)
async def test_what_is_said_of_an_end_is_a_line_that_can_be_kept(desk: MakeDesk, llm: Llm, api: str) -> None:
    here = await desk(api)
    llm.play(Say(calls=[("finish_run", '{"outcome": "failed", "reason": "a\\u0000b\\n\\u001b[31m c\\u0085"}')]))
    assert await here.run(Written(), "say something") == Outcome("failed", "a b [31m c")
    half = Say(calls=[("finish_run", '{"outcome": "failed", "reason": "a\\ud800"}')])
    llm.play(half, Say(calls=[("finish_run", {"outcome": "failed", "reason": " \0\x1b"})]), Say("I give up."))
    assert await here.run(Written(), "say something") == Outcome("finished")
    [halved], [empty] = results(llm.bodies[2]), results(llm.bodies[3])
    assert "half a character" in halved and "say in reason" in empty
    llm.play(Refuse(404, "no \0 model\x07 \ud800here"))
    with pytest.raises(Failed) as failed:
        await here.run(Written(), "say something")
    assert failed.value.sentence == "the model's provider answered 404: no model here"
