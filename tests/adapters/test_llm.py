"""
A run over a model: what it does through the doors, what it does when the model does not, and how it ends.
"""

from __future__ import annotations

import asyncio
import json
import logging
from typing import Any

import pytest

from company_agents.app import App
from company_agents.errors import Failed, Refused
from company_agents.runs.adapters.base import Outcome
from company_agents.runs.adapters.llm import LlmAdapter
from company_agents.runs.adapters.llm_client import MOST_ATTEMPTS
from company_agents.runs.adapters.llm_loop import MOST_CUT_OFF
from company_agents.runs.adapters.llm_talk import LEFT_OUT
from company_agents.runs.adapters.llm_tools import MOST_RESULT
from tests.adapters.conftest import KEYS, MakeDesk, Written
from tests.adapters.llm_server import Broken, Cut, Garbage, Hang, Llm, Refuse, Say, results, told
from tests.mcp.slack import TOKEN, Slack

APIS = sorted(KEYS)


def request_to(integration: str, path: str, body: dict[str, Any] | None = None) -> tuple[str, dict[str, Any]]:
    method = "POST" if body is not None else "GET"
    return "integration_request", {"integration": integration, "method": method, "path": path, "body": body}


@pytest.mark.parametrize("api", APIS)
async def test_a_task_is_done_from_end_to_end_through_the_doors(
    app: App, desk: MakeDesk, llm: Llm, slack: Slack, api: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    here, written = await desk(api, system="Be brief."), Written()
    await here.connect("other chat", "generic", slack.url, TOKEN)
    task = await app.tasks.create(here.tenant.local, "Greet the team", "Say hello in #general.")
    await app.tasks.comment(here.tenant.local, task.id, "In Slack, please.")
    slack.held = asyncio.Event()

    async def once_both_wait() -> None:
        while len(slack.used) < 2:
            await asyncio.sleep(0.01)
        slack.held.set()  # type: ignore[union-attr]

    hello = {"text": "hello, team"}
    llm.play(
        Say("I will look around. ", [("task_get", {"id": str(task.id)}), ("integration_list", {})]),
        Say("", [request_to("chat", "/api/chat.postMessage", hello), request_to("other chat", "/api/echo", {})]),
        Say("It is said.", [("task_comment", {"id": str(task.id), "text": "I said hello."})]),
        Say("", [("task_update", {"id": str(task.id), "status": "done"}), ("finish_run", {"outcome": "finished"})]),
    )
    # The second call only gets its answer once the first has arrived as well: they are made at once.
    waiting = asyncio.create_task(once_both_wait())
    async with asyncio.timeout(20):
        assert await here.run(written, task=task.id) == Outcome("finished")
        await waiting

    done = await app.tasks.get(here.tenant.local, task.id)
    assert (done.status, [comment.text for comment in done.comments][-1]) == ("done", "I said hello.")
    assert json.loads(slack.seen[0]["body"]) == hello or json.loads(slack.seen[1]["body"]) == hello
    assert {bearer for bearer, _ in slack.used} == {TOKEN}
    assert llm.problems == []
    # It knew who it is, what its work was and what each tool gave.
    first = json.dumps(llm.bodies[0], ensure_ascii=False)
    assert "ann" in first and here.tenant.company.name in first and "Be brief." in first
    assert "Say hello in #general." in told(llm.bodies[0]) and "In Slack, please." in told(llm.bodies[0])
    got, listed = results(llm.bodies[1])
    assert json.loads(got)["title"] == "Greet the team"
    assert {each["name"] for each in json.loads(listed)["items"]} == {"model", "chat", "other chat"}
    assert json.loads(results(llm.bodies[2])[0])["body"]["message"] == hello
    # What it said could be read as it came, and what it did.
    assert written.of("output") == "I will look around. \nIt is said.\n"
    assert len([stream for stream, _ in written.pieces if stream == "output"]) > 4
    assert "→ task_comment" in written.of("note")
    # The run's token went to our doors, and is nowhere else.
    everywhere = [written.of("output"), written.of("note"), caplog.text, *map(str, llm.headers), *map(str, llm.bodies)]
    assert not [text for text in everywhere if here.token in text]
    assert not [text for text in everywhere[:3] if KEYS[api] in text or TOKEN in text]


@pytest.mark.parametrize("api", APIS)
async def test_a_model_that_has_too_much_to_do_is_asked_again(desk: MakeDesk, llm: Llm, api: str) -> None:
    here, written = await desk(api), Written()
    llm.play(
        Refuse(429, "slow down", "rate_limit_error", {"Retry-After": "0"}),
        Refuse(529, "Overloaded", "overloaded_error"),
        Refuse(500, "oops"),
        Cut(),
        Garbage(),
        Broken(),
        Garbage(b"data: {not json}\n\n", "text/event-stream"),
        Say("Here I am."),
    )
    assert await here.run(written, "say something") == Outcome("finished")
    assert len(llm.bodies) == MOST_ATTEMPTS == 8
    assert all(body == llm.bodies[0] for body in llm.bodies)
    assert written.of("output").endswith("Here I am.\n")
    assert written.of("note").count("asked again") == 7


async def test_it_is_not_asked_for_ever(desk: MakeDesk, llm: Llm) -> None:
    here = await desk()
    llm.play(*[Refuse(529, "Overloaded")] * 20)
    with pytest.raises(Failed, match=r"did not answer in 8 attempts.*529.*Overloaded"):
        await here.run(Written(), "say something")
    assert len(llm.bodies) == MOST_ATTEMPTS


async def test_one_that_says_when_to_ask_again_is_waited_for_no_longer_than_makes_sense(
    desk: MakeDesk, llm: Llm
) -> None:
    here = await desk()
    llm.play(Refuse(429, "come back tomorrow", headers={"Retry-After": "86400"}), Say("too late"))
    with pytest.raises(Failed, match="in 86400 seconds"):
        await here.run(Written(), "say something")
    assert len(llm.bodies) == 1


async def test_what_the_provider_refuses_for_good_is_asked_once(desk: MakeDesk, llm: Llm) -> None:
    here = await desk()
    llm.play(Refuse(404, "model: stand-in", "not_found_error"))
    with pytest.raises(Failed, match="answered 404: model: stand-in"):
        await here.run(Written(), "say something")
    assert len(llm.bodies) == 1


async def test_what_our_own_gateway_refuses_is_asked_once(app: App, desk: MakeDesk, llm: Llm) -> None:
    here, written = await desk(), Written()
    work = await here.work("say something")
    await app.runs.cut(here.tenant.local, here.model.id, every=True)
    with pytest.raises(Refused) as refused:
        await LlmAdapter().execute(work, written)
    assert refused.value.reason == "credential_cut"
    assert llm.bodies == []
    assert written.of("note") == ""


async def test_a_run_whose_token_is_dead_fails_at_once(app: App, desk: MakeDesk, llm: Llm) -> None:
    here = await desk()
    work = await here.work("say something")
    await app.runs.cancel(here.tenant.local, work.run_id)
    with pytest.raises(Failed) as failed:
        await LlmAdapter().execute(work, Written())
    assert here.token not in str(failed.value)
    assert llm.bodies == []


@pytest.mark.parametrize("api", APIS)
async def test_a_run_that_is_stopped_in_the_middle_of_an_answer_leaves_no_connection(
    desk: MakeDesk, llm: Llm, api: str
) -> None:
    here, written = await desk(api), Written()
    llm.play(Hang("one moment, please"))
    running = asyncio.create_task(here.run(written, "say something"))
    async with asyncio.timeout(20):
        await llm.begun.wait()
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        await llm.closed.wait()


@pytest.mark.parametrize("api", APIS)
async def test_what_a_tool_says_against_a_call_is_told_to_the_model(desk: MakeDesk, llm: Llm, api: str) -> None:
    here, written = await desk(api), Written()
    llm.play(
        Say(calls=[("task_get", {"id": "0b0bb7e2-7e63-4a4b-8b0a-6f2d7f0f9f5e"}), ("no_such_tool", {})]),
        Say(calls=[("memory_write", '{"content": "half a'), ("finish_run", {"outcome": "perhaps"})]),
        Say(calls=[("finish_run", {"outcome": "failed", "reason": "it cannot\nbe done"})]),
    )
    assert await here.run(written, "say something") == Outcome("failed", "it cannot be done")
    assert llm.problems == []
    missing, unknown = results(llm.bodies[1])
    assert json.loads(missing)["error"]["code"] == "not_found"
    assert "there is no such tool" in unknown and "memory_write" in unknown
    cut, wrong = results(llm.bodies[2])
    assert "nothing was called" in cut
    assert "outcome is" in wrong
    assert (await here.app.memory.search(here.tenant.agent, "", 10)) == []


@pytest.mark.parametrize("api", APIS)
async def test_an_answer_that_is_cut_off_goes_on_and_not_for_ever(desk: MakeDesk, llm: Llm, api: str) -> None:
    here, written = await desk(api), Written()
    llm.play(Say("one, two,", stop="max_tokens"), Say(" three", stop="max_tokens"), Say("."))
    assert await here.run(written, "count") == Outcome("finished")
    llm.play(*[Say("and on", stop="max_tokens")] * 9)
    llm.bodies.clear()
    with pytest.raises(Failed, match=f"{MOST_CUT_OFF} answers in a row were cut off"):
        await here.run(written, "count")
    assert len(llm.bodies) == MOST_CUT_OFF
    assert llm.problems == []


async def test_an_answer_that_pauses_goes_on(desk: MakeDesk, llm: Llm) -> None:
    here, written = await desk(), Written()
    llm.play(Say("I look,", stop="pause_turn"), Say(" and look,", stop="pause_turn"), Say(stop="max_tokens"), Say("."))
    assert await here.run(written, "look") == Outcome("finished")
    assert llm.problems == []
    last = [message["role"] for message in llm.bodies[2]["messages"]]
    assert last == ["user", "assistant"]
    assert "Go on exactly" in told(llm.bodies[3])


async def test_a_run_has_so_many_answers_and_no_more(desk: MakeDesk, llm: Llm) -> None:
    here = await desk(max_turns=3)
    llm.play(*[Say(calls=[("whoami", {})])] * 9)
    with pytest.raises(Failed, match="not done after 3 answers"):
        await here.run(Written(), "say something")
    assert len(llm.bodies) == 3


@pytest.mark.parametrize(
    ("step", "said"), [(Say("", stop="end_turn"), "nothing at all"), (Say("no", stop="refusal"), "declined")]
)
async def test_a_model_that_does_not_work_fails_the_run(desk: MakeDesk, llm: Llm, step: Say, said: str) -> None:
    here = await desk()
    llm.play(step)
    with pytest.raises(Failed, match=said):
        await here.run(Written(), "say something")


@pytest.mark.parametrize(
    ("api", "refusal"),
    [
        ("anthropic", Refuse(400, "prompt is too long: 210000 tokens > 200000 maximum", "invalid_request_error")),
        ("openai", Refuse(400, "This model's maximum context length is 8192 tokens.", "context_length_exceeded")),
    ],
)
async def test_of_a_conversation_that_is_too_long_the_older_results_are_left_out(
    desk: MakeDesk, llm: Llm, slack: Slack, api: str, refusal: Refuse
) -> None:
    here, written = await desk(api), Written()
    slack.reply = json.dumps({"ok": True, "long": "x" * (MOST_RESULT + 1000)}).encode()
    look = Say(calls=[request_to("chat", "/api/conversations.history")])
    llm.play(look, look, look, refusal, refusal, Say("I see."))
    assert await here.run(written, "read the channel") == Outcome("finished")
    assert llm.problems == []
    # What a tool gave is bounded; of three, the two older ones went, one after the other.
    before, after, last = (told(llm.bodies[at]) for at in (3, 4, 5))
    assert MOST_RESULT * 3 < len(before) < (MOST_RESULT + 5000) * 3
    assert [text.count(LEFT_OUT) for text in (before, after, last)] == [0, 1, 2]
    llm.play(refusal, refusal)
    with pytest.raises(Failed, match="longer than the model can hold"):
        await here.run(written, "read the channel")


async def test_fields_that_a_provider_does_not_take_are_left_away(desk: MakeDesk, llm: Llm) -> None:
    here, written = await desk("openai"), Written()
    llm.play(
        Refuse(
            400, "Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens' instead.", "unsupported_parameter"
        ),
        Refuse(422, "stream_options: extra fields not permitted"),
        Say("Here I am."),
    )
    assert await here.run(written, "say something") == Outcome("finished")
    assert llm.bodies[0].keys() - llm.bodies[2].keys() == {"max_tokens", "stream_options"}
    assert llm.bodies[2]["max_completion_tokens"] == 8192


async def test_a_task_that_is_gone_fails_the_run_before_anything_is_asked(desk: MakeDesk, llm: Llm) -> None:
    here = await desk()
    with pytest.raises(Failed, match="task_get gave an error"):
        await here.run(Written(), task=here.tenant.agent.agent_id())
    assert llm.bodies == []


@pytest.mark.parametrize("api", APIS)
async def test_a_budget_that_is_spent_ends_the_run(app: App, desk: MakeDesk, llm: Llm, api: str) -> None:
    here, written = await desk(api), Written()
    await app.limits.set(here.tenant.local, here.tenant.agent.agent_id(), {"month_tokens": 5})
    llm.play(Say("I will look around.", [("whoami", {})]), Say("and go on"))
    with pytest.raises(Refused, match=r"^budget: ") as refused:
        await here.run(written, "say something")
    assert refused.value.reason == "budget_spent"
    # The one that was let through was paid for; nothing more is asked, and nothing again.
    assert len(llm.bodies) == 1
    assert "asked again" not in written.of("note")
