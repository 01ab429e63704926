"""
Runs over a scripted model, through the real doors on a real socket.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import socket
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
import uvicorn

from company_agents.app import App
from company_agents.asgi import Front
from company_agents.integrations.integrations import Integration
from company_agents.mcp_server import mcp_door
from company_agents.runs.adapters.base import Adapter, Outcome, Stream, Work
from company_agents.runs.adapters.llm import LlmAdapter
from company_agents.runs.adapters.llm_client import Waits
from company_agents.runs.parts import RunParts
from company_agents.sensitive import Sensitive
from tests.adapters.llm_server import ANTHROPIC_KEY, OPENAI_KEY, Llm, llm_stand_in
from tests.conftest import Tenant
from tests.mcp.slack import TOKEN, Slack, slack_stand_in

KEYS = {"anthropic": ANTHROPIC_KEY, "openai": OPENAI_KEY}


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.ready = asyncio.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.ready.set()


@contextlib.asynccontextmanager
async def serving_front(app: App) -> AsyncIterator[str]:
    """All doors of an app on a free port of this machine."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        app = dataclasses.replace(app, settings=app.settings.model_copy(update={"public_url": url}))
        mcp = mcp_door(app)
        front = Front(app, mcp.asgi)
        server = _Server(uvicorn.Config(front, log_config=None, lifespan="off", access_log=False))

        async def run() -> None:
            # In one task from end to end: the SDK's task group wants to be left by the task that entered it.
            async with mcp.lifespan():
                await server.serve(sockets=[listener])

        running = asyncio.create_task(run())
        await server.ready.wait()
        try:
            yield url
        finally:
            server.should_exit = True
            await running


@contextlib.asynccontextmanager
async def executing(app: App, kinds: Mapping[str, Adapter], home: Path, url: str) -> AsyncIterator[None]:
    """An orchestrator that executes runs of these kinds, at the doors at `url`; their workspaces are in `home`."""
    parts = RunParts.build(app.store, app.audit, app.integrations.versions, adapters=kinds)
    dispatcher = parts.dispatcher(
        *(uuid.uuid4(), kinds, home),
        url=url,
        at_once=5,
        sealed=lambda: app.held.sealed,
        clean=app.redactor.clean,
    )
    dispatcher.start()
    try:
        yield
    finally:
        await dispatcher.close()


@pytest.fixture(scope="session")
async def doors(app: App) -> AsyncIterator[str]:
    async with serving_front(app) as url:
        yield url


@pytest.fixture
async def llm() -> AsyncIterator[Llm]:
    async with llm_stand_in() as started:
        yield started


@pytest.fixture
async def slack() -> AsyncIterator[Slack]:
    async with slack_stand_in() as started:
        yield started


@dataclass
class Written:
    """What a run has put out."""

    pieces: list[tuple[Stream, str]] = field(default_factory=list)

    async def write(self, stream: Stream, text: str) -> None:
        self.pieces.append((stream, text))

    def of(self, stream: Stream) -> str:
        return "".join(text for found, text in self.pieces if found == stream)


@dataclass
class Desk:
    """A company whose agent works by a model, and may call it and two other services."""

    app: App
    tenant: Tenant
    url: str
    api: str
    model: Integration
    workspace: Path
    config: dict[str, Any] = field(default_factory=dict)
    token: str = ""
    run_id: UUID | None = None

    async def work(self, prompt: str = "", task: UUID | None = None) -> Work:
        """One start of one run, as its adapter gets it."""
        adapter = LlmAdapter()
        run, token = await self.app.runs.open(self.tenant.agent)
        self.run_id, self.token = run.id, token.reveal_text()
        return Work(
            run_id=run.id,
            company_id=run.company_id,
            agent_id=run.agent_id,
            agent_name="ann",
            fence=run.fencing_token,
            prompt=prompt,
            task_id=task,
            config=adapter.check({"integration": "model", "model": "stand-in", "api": self.api, **self.config}),
            unsandboxed=False,
            token=token,
            workspace=self.workspace,
            url=self.url,
            seconds=60,
        )

    async def run(self, written: Written, prompt: str = "", task: UUID | None = None) -> Outcome:
        """Do it; what the providers are asked again for, is asked at once."""
        work = await self.work(prompt, task)
        return await LlmAdapter(waits=Waits(0, 0)).execute(work, written)

    async def connect(self, name: str, provider: str, url: str, token: str) -> Integration:
        """A service that the agent may use."""
        return await self.app.integrations.connect(
            self.tenant.local,
            provider,
            Sensitive(token),
            name=name,
            base_url=url,
            allow_private_network=True,
            allow=[self.tenant.agent.agent_id()],
        )


MakeDesk = Callable[..., Awaitable[Desk]]


@pytest.fixture
def desk(
    app: App, tenant: Callable[[], Awaitable[Tenant]], doors: str, llm: Llm, slack: Slack, tmp_path: Path
) -> MakeDesk:
    async def make(api: str = "anthropic", **config: Any) -> Desk:
        found = await tenant()
        made: Any = Desk(app, found, doors, api, None, tmp_path, config)  # type: ignore[arg-type]
        made.model = await made.connect("model", api, llm.url, KEYS[api])
        await made.connect("chat", "slack", slack.url, TOKEN)
        return made

    return make
