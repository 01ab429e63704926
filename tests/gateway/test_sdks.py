"""
The official SDKs, unchanged but for base URL and token, against strict stand-ins.
"""

from __future__ import annotations

import asyncio
import json
from importlib import resources
from typing import Any

import anthropic
import github
import openai
import pytest
import stripe
from aiohttp import web
from slack_sdk import WebClient
from slack_sdk.errors import SlackApiError

from company_agents.app import App
from tests.conftest import provider_files
from tests.gateway.conftest import Connect
from tests.gateway.standins import Service, service

ANTHROPIC = "sk-ant-api03-" + "a" * 40
OPENAI = "sk-proj-" + "a" * 40
SLACK = "xoxb-1234567890-abcdefghijklmnopqrstuvwx"
GITHUB = "github_pat_" + "a" * 40
STRIPE = "rk_test_" + "a" * 24


async def events(request: web.Request, *sent: tuple[str | None, dict[str, Any] | str]) -> web.StreamResponse:
    """Server-sent events, one after the other."""
    answer = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
    await answer.prepare(request)
    for name, value in sent:
        head = f"event: {name}\n" if name else ""
        data = value if isinstance(value, str) else json.dumps(value)
        await answer.write(f"{head}data: {data}\n\n".encode())
    await answer.write_eof()
    return answer


# — Anthropic —


def message(text: str) -> dict[str, Any]:
    return {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": "a-model-of-ours",
        "content": [{"type": "text", "text": text}] if text else [],
        "stop_reason": "end_turn" if text else None,
        "stop_sequence": None,
        "usage": {"input_tokens": 3, "output_tokens": 2},
    }


async def stream_of_anthropic(request: web.Request) -> web.StreamResponse:
    return await events(
        request,
        ("message_start", {"type": "message_start", "message": message("")}),
        (
            "content_block_start",
            {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
        ),
        *(
            (
                "content_block_delta",
                {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": text}},
            )
            for text in ("good ", "day")
        ),
        ("content_block_stop", {"type": "content_block_stop", "index": 0}),
        (
            "message_delta",
            {
                "type": "message_delta",
                "delta": {"stop_reason": "end_turn", "stop_sequence": None},
                "usage": {"output_tokens": 2},
            },
        ),
        ("message_stop", {"type": "message_stop"}),
    )


@pytest.mark.parametrize("way", ["api_key", "auth_token"])
async def test_anthropics_client_asks_and_streams(connect: Connect, way: str) -> None:
    given: Any = {}
    async with service(("X-Api-Key", ANTHROPIC)) as api:
        api.on("GET", "/v1/models", {"data": []})
        here = await connect(api, "anthropic", ANTHROPIC)
        given[way] = here.token

        async def messages(request: web.Request) -> Any:
            streamed = (await request.json()).get("stream")
            return await stream_of_anthropic(request) if streamed else message("good day")

        api.on("POST", "/v1/messages", messages)
        asked: Any = {
            "model": "a-model-of-ours",
            "max_tokens": 9,
            "messages": [{"role": "user", "content": "hello"}],
        }
        async with anthropic.AsyncAnthropic(base_url=here.url, **given) as client:
            version = client.default_headers["anthropic-version"]
            reply = await client.messages.create(**asked)
            assert reply.content[0].text == "good day"
            async with client.messages.stream(**asked) as stream:
                assert [text async for text in stream.text_stream] == ["good ", "day"]
                assert (await stream.get_final_message()).usage.output_tokens == 2
        with pytest.raises(anthropic.AuthenticationError, match="this token is not good"):
            async with anthropic.AsyncAnthropic(base_url=here.url, api_key=here.token + "A", max_retries=0) as client:
                await client.messages.create(**asked)
            version = client.default_headers["anthropic-version"]
        # The client's own word counts, and not the file's.
        assert [each.headers["anthropic-version"] for each in api.seen] == ["2023-06-01", version, version]


# — OpenAI —


def completion(**more: Any) -> dict[str, Any]:
    return {"id": "c1", "object": "chat.completion", "created": 1, "model": "gpt-4o", **more}


def chunk(delta: dict[str, Any], reason: str | None = None) -> dict[str, Any]:
    choices = [{"index": 0, "delta": delta, "finish_reason": reason}]
    return completion(object="chat.completion.chunk", choices=choices)


def response(status: str, output: list[Any]) -> dict[str, Any]:
    return {
        **{"id": "r1", "object": "response", "created_at": 1, "status": status, "model": "gpt-4o", "output": output},
        **{"parallel_tool_calls": True, "tool_choice": "auto", "tools": [], "metadata": {}},
        **{"error": None, "incomplete_details": None, "instructions": None, "temperature": 1.0, "top_p": 1.0},
    }


async def chat(request: web.Request) -> Any:
    if (await request.json()).get("stream"):
        parts = [chunk({"role": "assistant", "content": "good "}), chunk({"content": "day"}), chunk({}, "stop")]
        return await events(request, *((None, part) for part in parts), (None, "[DONE]"))
    choice = {"index": 0, "message": {"role": "assistant", "content": "good day"}, "finish_reason": "stop"}
    return completion(choices=[choice], usage={"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5})


async def responses(request: web.Request) -> web.StreamResponse:
    place = {"item_id": "m1", "output_index": 0, "content_index": 0, "logprobs": []}
    return await events(
        request,
        (
            "response.created",
            {"type": "response.created", "sequence_number": 0, "response": response("in_progress", [])},
        ),
        *(
            (
                "response.output_text.delta",
                {"type": "response.output_text.delta", "sequence_number": number, "delta": text, **place},
            )
            for number, text in enumerate(("good ", "day"), start=1)
        ),
        (
            "response.completed",
            {"type": "response.completed", "sequence_number": 3, "response": response("completed", [])},
        ),
    )


async def test_openais_client_chats_and_streams_both_ways_that_it_has(connect: Connect) -> None:
    async with service(("Authorization", f"Bearer {OPENAI}")) as api:
        api.on("GET", "/v1/models", {"object": "list", "data": []})
        here = await connect(api, "openai", OPENAI)
        api.on("POST", "/v1/chat/completions", chat)
        api.on("POST", "/v1/responses", responses)
        asked: Any = {"model": "gpt-4o", "messages": [{"role": "user", "content": "hello"}]}
        async with openai.AsyncOpenAI(base_url=f"{here.url}/v1", api_key=here.token) as client:
            reply = await client.chat.completions.create(**asked)
            assert reply.choices[0].message.content == "good day"
            stream = await client.chat.completions.create(stream=True, **asked)
            texts = [part.choices[0].delta.content async for part in stream]
            assert texts == ["good ", "day", None]
            heard = [event async for event in await client.responses.create(model="gpt-4o", input="hello", stream=True)]
            assert [getattr(event, "delta", "") for event in heard] == ["", "good ", "day", ""]
        with pytest.raises(openai.NotFoundError, match="this integration does not exist"):
            async with openai.AsyncOpenAI(base_url=f"{here.url}x/v1", api_key=here.token) as client:
                await client.chat.completions.create(**asked)


# — Slack —


def slack_here(origin: str) -> str:
    """Slack's file with another name, and another address for uploads: the real one is not here."""
    text = resources.files("company_agents.integrations").joinpath("providers/slack.toml").read_text("utf-8")
    replaced = text.replace('name = "slack"', 'name = "slack-here"', 1).replace("https://files.slack.com", origin, 1)
    assert origin in replaced
    variables = 'variables = ["SLACK_BOT_TOKEN", "SLACK_TOKEN"]\n'
    return replaced.replace(variables, "")


def slack_api(api: Service, files: Service) -> None:
    async def post(request: web.Request) -> dict[str, Any]:
        body = await request.post() if request.content_type != "application/json" else await request.json()
        return {"ok": True, "channel": "C1", "ts": "1.2", "message": {"text": body["text"]}}

    async def upload_url(request: web.Request) -> web.Response:
        # With slashes as PHP writes them.
        text = json.dumps({"ok": True, "upload_url": f"{files.url}/upload/v1/ABC?x=%2F1", "file_id": "F1"})
        return web.Response(text=text.replace("/", "\\/"), content_type="application/json")

    async def complete(request: web.Request) -> dict[str, Any]:
        return {"ok": True, "files": [{"id": "F1", "title": "notes"}]}

    api.on("POST", "/api/auth.test", {"ok": True, "team": "us"})
    api.on("POST", "/api/chat.postMessage", post)
    api.on("POST", "/api/files.getUploadURLExternal", upload_url)
    api.on("POST", "/api/files.completeUploadExternal", complete)


async def test_slacks_client_posts_and_sends_files_which_go_without_the_credential(app: App, connect: Connect) -> None:
    # Who takes files takes them from anybody who has the address, and is told no credential.
    async with service(("Authorization", f"Bearer {SLACK}")) as api, service(None, "localhost") as files:
        slack_api(api, files)

        async def upload(request: web.Request) -> web.Response:
            return web.Response(text=f"OK - {len(await request.read())}")

        files.on("POST", "/upload/v1/ABC?x=%2F1", upload)
        with provider_files(app.settings.home, {"slack-here": slack_here(files.url)}):
            here = await connect(api, "slack-here", SLACK)
            client = WebClient(token=here.token, base_url=f"{here.url}/api/")
            posted = await asyncio.to_thread(client.chat_postMessage, channel="C1", text="hello")
            assert posted["message"]["text"] == "hello"
            content = "to be kept " * 100_000
            sent = await asyncio.to_thread(client.files_upload_v2, content=content, filename="notes.txt", channel="C1")
            assert sent["file"]["id"] == "F1"
            assert [each.body for each in files.seen] == [content.encode()]
            await app.agents.pause(here.tenant.local, here.tenant.agent.agent_id())
            with pytest.raises(SlackApiError, match="this token is not good"):
                await asyncio.to_thread(client.chat_postMessage, channel="C1", text="hello")


# — GitHub —


def github_api(api: Service) -> None:
    repo = {
        "id": 1,
        "name": "r",
        "full_name": "o/r",
        "url": f"{api.url}/repos/o/r",
        "issues_url": f"{api.url}/repos/o/r/issues{{/number}}",
        "html_url": "https://github.com/o/r",
        "owner": {"login": "o", "url": f"{api.url}/users/o"},
    }

    def page(number: int, last: int) -> Any:
        async def answer(request: web.Request) -> web.Response:
            issues = [
                {"number": number * 10 + each, "title": "an issue", "url": f"{api.url}/repos/o/r/issues/{number}"}
                for each in range(2)
            ]
            following = f"{api.url}/repositories/1/issues?page={number + 1}"
            link = {"Link": f'<{following}>; rel="next", <{api.url}/repositories/1/issues?page={last}>; rel="last"'}
            return web.json_response(issues, headers=link if number < last else {})

        return answer

    api.on("GET", "/user", {"login": "ann", "url": f"{api.url}/users/ann"})
    api.on("GET", "/repos/o/r", repo)
    api.on("GET", "/users/o", {"login": "o", "name": "Owner", "url": f"{api.url}/users/o"})
    api.on("GET", "/repos/o/r/issues", page(1, 3))
    api.on("GET", "/repositories/1/issues?page=2", page(2, 3))
    api.on("GET", "/repositories/1/issues?page=3", page(3, 3))


async def test_githubs_client_follows_pages_and_addresses_without_leaving_the_gateway(connect: Connect) -> None:
    async with service(("Authorization", f"Bearer {GITHUB}")) as api:
        github_api(api)
        here = await connect(api, "github", GITHUB)

        def work() -> tuple[list[int], str | None, str]:
            client = github.Github(base_url=here.url, auth=github.Auth.Token(here.token), seconds_between_requests=None)
            repo = client.get_repo("o/r")
            numbers = [issue.number for issue in repo.get_issues()]
            # Fetched by the address that stood in the reply.
            return numbers, repo.owner.name, repo.html_url

        numbers, owner, page = await asyncio.to_thread(work)
        assert (numbers, owner, page) == ([10, 11, 20, 21, 30, 31], "Owner", "https://github.com/o/r")
        paths = [each.target for each in api.seen]
        assert paths[1:] == [
            *("/repos/o/r", "/repos/o/r/issues", "/repositories/1/issues?page=2", "/repositories/1/issues?page=3"),
            "/users/o",
        ]


# — Stripe —


async def test_stripes_client_creates_and_pages(connect: Connect) -> None:
    async with service(("Authorization", f"Bearer {STRIPE}")) as api:
        api.on("GET", "/v1/balance", {"object": "balance"})
        here = await connect(api, "stripe", STRIPE)

        def listed(names: list[str], *, more: bool) -> dict[str, Any]:
            data = [{"id": name, "object": "customer"} for name in names]
            return {"object": "list", "url": "/v1/customers", "has_more": more, "data": data}

        async def create(request: web.Request) -> dict[str, Any]:
            return {"id": "cus_9", "object": "customer", "email": (await request.post())["email"]}

        api.on("GET", "/v1/customers?limit=2", listed(["cus_1", "cus_2"], more=True))
        api.on("GET", "/v1/customers?limit=2&starting_after=cus_2", listed(["cus_3"], more=False))
        api.on("POST", "/v1/customers", create)

        def work() -> tuple[list[str], str | None]:
            client = stripe.StripeClient(here.token, base_addresses={"api": here.url})
            made = client.v1.customers.create({"email": "ann@acme.example"})
            return [each.id for each in client.v1.customers.list({"limit": 2}).auto_paging_iter()], made.email

        assert await asyncio.to_thread(work) == (["cus_1", "cus_2", "cus_3"], "ann@acme.example")
        bad = stripe.StripeClient(here.token + "A", base_addresses={"api": here.url}, max_network_retries=0)
        with pytest.raises(stripe.AuthenticationError, match="this token is not good"):
            await asyncio.to_thread(bad.v1.customers.list, {"limit": 2})
