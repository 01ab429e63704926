"""
What a run puts out: nothing secret, no more than so much, in the order in which it came.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence

import pytest

from company_agents.app import App
from company_agents.errors import WrongUsage
from company_agents.identity.tokens import new_agent_token
from company_agents.runs.adapters.base import Outcome, Output, Stream, Work
from company_agents.runs.output import MOST_OUTPUT, MOST_PIECE, TOO_MUCH, Line, RunLog
from company_agents.sensitive import Sensitive
from tests.dispatch.conftest import Desk, MakeDesk, Orchestrate, Scripted, until


async def put_out(
    here: Desk, orchestrator: Orchestrate, says: Sequence[tuple[Stream, str]], *, letters: bool = False
) -> list[Line]:
    """What is kept of what a run says; `TOKEN` in it is its token. With `letters`, each comes by itself."""

    async def speak(work: Work, output: Output) -> Outcome:
        for stream, text in says:
            text = text.replace("TOKEN", work.token.reveal_text())
            for piece in text if letters else [text]:
                await output.write(stream, piece)
        return Outcome("finished")

    await orchestrator(adapter=Scripted(does=speak))
    run = await here.start()
    await here.becomes(run.id, "finished")
    return list(await here.app.runs.output(here.local, run.id, limit=1000))


def text_of(lines: Sequence[Line], stream: str = "output") -> str:
    return "".join(line.text for line in lines if line.stream == stream)


async def test_it_is_kept_in_its_order_and_each_stream_by_itself(desk: MakeDesk, orchestrator: Orchestrate) -> None:
    says: list[tuple[Stream, str]] = [
        ("output", "one\ntw"),
        ("output", "o\n"),
        ("error", "oh\n"),
        ("output", "three"),
        ("note", "a note"),
    ]
    here = await desk()
    lines = await put_out(here, orchestrator, says)
    assert [(line.seq, line.stream, line.text) for line in lines] == [
        (1, "output", "one\ntwo\n"),
        (2, "error", "oh\n"),
        (3, "output", "three"),
        (4, "note", "a note"),
    ]
    run = (await here.app.runs.list(here.local)).items[0]
    assert [line.seq for line in await here.app.runs.output(here.local, run.id, 2)] == [3, 4]
    assert [line.seq for line in await here.app.runs.output(here.local, run.id, 1, 2)] == [2, 3]
    assert await here.app.runs.output(here.local, run.id, 4) == []
    with pytest.raises(WrongUsage, match="limit"):
        await here.app.runs.output(here.local, run.id, 0, 1001)


@pytest.mark.parametrize("letters", [True, False])
async def test_no_token_of_ours_is_kept_wherever_it_is_cut(
    desk: MakeDesk, orchestrator: Orchestrate, letters: bool
) -> None:
    here = await desk()
    other = new_agent_token(here.tenant.company.id, here.agent).reveal_text()
    says: list[tuple[Stream, str]] = [
        ("output", f"it is {other}, and TOKEN."),
        ("error", "x" * 20_000),
        ("error", other),
    ]
    lines = await put_out(here, orchestrator, says, letters=letters)
    assert text_of(lines) == "it is [credential removed], and [credential removed]."
    # What is at the very end, too.
    assert text_of(lines, "error") == "x" * 20_000 + "[credential removed]"


async def test_its_token_is_not_kept_in_another_form_and_an_open_value_not_at_all(
    app: App, desk: MakeDesk, orchestrator: Orchestrate
) -> None:
    here, value = await desk(), Sensitive("xoxb-a-value-that-a-call-holds-open")

    async def speak(work: Work, output: Output) -> Outcome:
        token = work.token.reveal()
        wide = token.decode().encode("utf-16-le").decode()
        for form in (token.hex(), base64.b64encode(b"user:" + token).decode(), value.reveal_text(), wide):
            await output.write("output", f"<{form}>\n")
        return Outcome("failed", f"it said {value.reveal_text()}")

    with app.redactor.holding(value):
        there = await orchestrator(adapter=Scripted(does=speak))
        run = await here.start()
        ended = await here.becomes(run.id, "failed")
    token = (await there.begins(run.id)).token.reveal()
    said = text_of(await app.runs.output(here.local, run.id))
    assert token.hex()[:40] not in said
    assert base64.b64encode(b"user:" + token).decode()[12:60] not in said
    assert value.reveal_text() not in said + ended.reason
    assert said.count("[credential removed]") == 4


async def test_so_much_of_a_run_is_kept_over_all_its_starts_and_then_one_note(app: App, desk: MakeDesk) -> None:
    assert MOST_OUTPUT == 1024 * 1024
    here = await desk()
    run, token = await app.runs.open(here.tenant.agent)
    for _ in range(2):
        log = RunLog(here.local.scope, run.id, 1, token, most=50_000)
        await log.start()
        for _ in range(6):
            await log.write("output", "y" * 7_000)
        await log.close()
    lines = await app.runs.output(here.local, run.id)
    assert len(text_of(lines)) == 50_000
    assert [line.text for line in lines if line.stream == "note"] == [TOO_MUCH]
    assert max(len(line.text) for line in lines) <= MOST_PIECE


async def test_what_cannot_be_stored_as_it_is_costs_the_run_nothing(desk: MakeDesk, orchestrator: Orchestrate) -> None:
    here = await desk()
    lines = await put_out(here, orchestrator, [("output", "a\0b\ud800c\u202e\r\n"), ("output", "after\n")])
    assert text_of(lines).startswith("a�b?c")
    assert text_of(lines).endswith("after\n")


async def test_it_can_be_read_while_the_run_goes_on(desk: MakeDesk, orchestrator: Orchestrate) -> None:
    here = await desk()

    async def speak(work: Work, output: Output) -> Outcome:
        await output.write("output", "half of a line")
        await until(lambda: here.app.runs.output(here.local, work.run_id), "nothing is to be read")
        return Outcome("finished")

    await orchestrator(adapter=Scripted(does=speak))
    await here.becomes((await here.start()).id, "finished")
