"""
The process that is measured: our doors, and beside them what they are compared with.

    /v1, /mcp     ours
    /bare         a FastAPI route with one SELECT by primary key, through the same pool
    /echo/mcp     an echo tool on the SDK's server: no identity, no database
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import sys
from pathlib import Path
from uuid import UUID

import uvicorn
import uvloop
from fastapi import FastAPI
from mcp.server.mcpserver import MCPServer

from benchmarks.instance import LOCAL
from company_agents.asgi import open_front
from company_agents.settings import read_settings


def bare_api(db) -> FastAPI:
    """A route that does nothing but read a row by its primary key."""
    bare = FastAPI()

    @bare.get("/bare/{row_id}")
    async def read(row_id: UUID) -> dict[str, str]:
        async with db.connection() as connection:
            cursor = await connection.execute("SELECT id, value FROM bench_rows WHERE id = %s", (row_id,))
            row = await cursor.fetchone()
        assert row is not None
        return {"id": str(row["id"]), "value": row["value"]}

    return bare


def echo_server() -> MCPServer:
    """The SDK's server with one tool."""
    echo = MCPServer("echo")

    @echo.tool()
    async def say(text: str) -> dict[str, str]:
        """Say it again."""
        return {"text": text}

    return echo


async def serve(home: Path) -> None:
    """Serve until standard input ends; what a client needs is printed first, as JSON."""
    listening = socket.socket()
    listening.bind(("127.0.0.1", 0))
    port = listening.getsockname()[1]
    settings = read_settings(home=home, port=port)
    echo_app = echo_server().streamable_http_app(
        stateless_http=True, json_response=True, streamable_http_path="/echo/mcp"
    )
    async with open_front(settings) as (app, front), contextlib.AsyncExitStack() as stack:
        await stack.enter_async_context(echo_app.router.lifespan_context(echo_app))
        db = app.store.db
        async with await db.logins.migrate.connect() as connection:
            await connection.execute("CREATE TABLE bench_rows (id uuid PRIMARY KEY, value text)")
            await connection.execute("GRANT SELECT ON bench_rows TO company_agents_serve")
            await connection.execute("INSERT INTO bench_rows VALUES (gen_random_uuid(), 'a value') RETURNING id")
            row = await (await connection.execute("SELECT id FROM bench_rows")).fetchone()
        company = await app.companies.create(LOCAL, "bench")
        _, token = await app.agents.create(await app.identity.in_company(LOCAL, company.id), "bench")
        bare = bare_api(db)

        async def dispatch(scope, receive, send):
            path = scope["path"]
            door = bare if path.startswith("/bare/") else echo_app if path.startswith("/echo/") else front
            await door(scope, receive, send)

        config = uvicorn.Config(
            dispatch,
            loop="uvloop",
            http="httptools",
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            timeout_keep_alive=600,
        )
        server = uvicorn.Server(config)
        task = asyncio.create_task(server.serve(sockets=[listening]))
        assert row is not None
        while not server.started:
            await asyncio.sleep(0.01)
        print(json.dumps({"port": port, "row": str(row["id"]), "token": token.reveal_text()}), flush=True)
        await asyncio.to_thread(sys.stdin.read)
        server.should_exit = True
        await task


if __name__ == "__main__":
    uvloop.run(serve(Path(sys.argv[1])))
