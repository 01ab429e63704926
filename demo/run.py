"""
make demo: the main job on a throw-away home, in about ten seconds; and then the search for where the token is not.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from aiohttp import web
from mcp.client import Client
from mcp.client.streamable_http import streamable_http_client
from mcp.shared._httpx_utils import create_mcp_http_client

from company_agents.outgoing.reply_search import encodings

TOKEN = f"xoxb-demo-{secrets.token_hex(16)}"


def say(text: str) -> None:
    """One line of the story."""
    print(text, flush=True)


def command(home: Path, *words: str, stdin: str = "") -> dict[str, Any]:
    """Run `company-agents` and return its result."""
    done = subprocess.run(
        [sys.executable, "-m", "company_agents", *words, "--json"],
        input=stdin,
        env={**os.environ, "COMPANY_AGENTS_HOME": str(home)},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise SystemExit(f"`company-agents {' '.join(words)}` ended with {done.returncode}: {done.stdout}{done.stderr}")
    result: dict[str, Any] = json.loads(done.stdout)
    return result


async def slack(received: list[str]) -> tuple[web.AppRunner, int]:
    """A stand-in for Slack that takes one bearer and no other."""

    async def answer(request: web.Request) -> web.Response:
        bearer = request.headers.get("Authorization", "")
        if bearer != f"Bearer {TOKEN}":
            return web.json_response({"ok": False, "error": "invalid_auth"})
        if request.path == "/api/auth.test":
            return web.json_response({"ok": True, "team": "Acme"})
        received.append((await request.json())["text"])
        return web.json_response({"ok": True, "echo": bearer})

    server = web.Application()
    server.router.add_route("*", "/api/{method}", answer)
    runner = web.AppRunner(server)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port: int = runner.addresses[0][1]
    return runner, port


@contextlib.contextmanager
def throwaway_home() -> Iterator[Path]:
    """A home that is gone afterwards, with what the embedded database keeps elsewhere as root."""
    folder = Path(tempfile.mkdtemp(prefix="company-agents-demo-"))
    try:
        yield folder / "home"
    finally:
        data = folder / "home" / "db"
        elsewhere = data.resolve() if data.is_symlink() else None
        shutil.rmtree(folder, ignore_errors=True)
        # The server may still be stopping.
        for _ in range(100):
            if elsewhere is None or not elsewhere.exists():
                break
            shutil.rmtree(elsewhere, ignore_errors=True)
            time.sleep(0.05)


@contextlib.contextmanager
def orchestrator(home: Path) -> Iterator[tuple[dict[str, Any], int]]:
    """A running `up`, what it says when it is ready, and its process id."""
    process = subprocess.Popen(
        [sys.executable, "-m", "company_agents", "up", "--port", "0", "--json"],
        env={**os.environ, "COMPANY_AGENTS_HOME": str(home)},
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        yield json.loads(process.stdout.readline()), process.pid
    finally:
        process.terminate()
        process.wait(30)


async def agent(url: str, token: str) -> str:
    """A standard MCP client with nothing but the agent's token; returns everything that it saw."""
    seen = []
    async with (
        create_mcp_http_client(headers={"Authorization": f"Bearer {token}"}) as http,
        Client(streamable_http_client(url, http_client=http)) as client,
    ):
        for tool, arguments in (
            ("whoami", {}),
            ("task_create", {"title": "say hello"}),
            (
                "integration_request",
                {
                    "integration": "slack",
                    "method": "POST",
                    "path": "/api/chat.postMessage",
                    "body": {"channel": "#general", "text": "hello from an agent"},
                },
            ),
        ):
            result = await client.call_tool(tool, arguments)
            text = result.model_dump_json()
            seen.append(text)
            say(f"   {tool}: {'refused' if result.is_error else 'done'}")
    return "\n".join(seen)


def searched(places: dict[str, bytes]) -> int:
    """How many places hold the token, in any encoding; each is printed."""
    wanted = encodings(TOKEN.encode())
    found = 0
    for name, content in places.items():
        hit = any(form in content for form in wanted)
        found += hit
        say(f"   {'FOUND' if hit else 'not'} in {name} ({len(content):,} bytes)")
    return found


def files_of(folder: Path) -> bytes:
    """Every file below a folder, one after the other."""
    contents = []
    for root, _, names in os.walk(folder.resolve()):
        for name in names:
            with contextlib.suppress(OSError):
                contents.append((Path(root) / name).read_bytes())
    return b"\n".join(contents)


def process_texts() -> bytes:
    """The arguments and environments of every process but this one."""
    contents = []
    for entry in Path("/proc").glob("[0-9]*"):
        if entry.name != str(os.getpid()):
            for name in ("cmdline", "environ"):
                with contextlib.suppress(OSError):
                    contents.append((entry / name).read_bytes())
    return b"\n".join(contents)


async def story(home: Path) -> int:
    """The steps, in order; returns how many places hold the token."""
    received: list[str] = []
    runner, port = await slack(received)
    with orchestrator(home) as (ready, _):
        say(f"1  the orchestrator is ready at {ready['url']}")
        company = command(home, "company", "create", "Acme")["id"]
        hired = command(home, "agent", "create", "ann", "--company", company)
        say("2  the company Acme has hired ann, who holds one token of ours and nothing else")
        words = ["integration", "connect", "slack", "--company", company, "--allow", hired["id"], "--token-stdin"]
        where = ["--base-url", f"http://127.0.0.1:{port}", "--allow-private-network"]
        connect = asyncio.to_thread(command, home, *words, *where, stdin=TOKEN)
        connected = await connect
        say(f"3  Slack is {connected['status']}: its token was tried there, and sealed with its destination")
        say("4  ann, a standard MCP client, works:")
        seen = await agent(ready["mcp_url"], hired["token"])
        say(f"5  Slack took the right token, and received: {received}")
        say(
            f"   its reply echoed the token; ann read {'[credential removed]' if 'credential removed' in seen else '?'}"
        )
        proven = command(home, "audit", "verify")
        say(f"6  the audit chains {'prove themselves' if proven['ok'] else 'DO NOT PROVE THEMSELVES'}")
        say("7  where Slack's token is not, in any encoding:")
        places = {"what ann saw": seen.encode(), "arguments and environments of all processes": process_texts()}
    data = home / "db"
    places |= {"the home, keys and logs": files_of(home), "the files of the database": files_of(data)}
    found = searched(places)
    await runner.cleanup()
    say("nothing was found" if not found else f"FOUND in {found} places")
    return 0 if received and not found else 1


def main() -> int:
    """Tell the story on a throw-away home."""
    with throwaway_home() as home:
        return asyncio.run(story(home))


if __name__ == "__main__":
    sys.exit(main())
