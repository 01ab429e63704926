"""
git over http, unchanged but for address and token, against a local git server that takes one user and password.
"""

from __future__ import annotations

import asyncio
import base64
import os
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from aiohttp import web

from tests.gateway.conftest import Connect, Here
from tests.gateway.standins import Service, service

SECRET = "github_pat_" + "a" * 40
BASIC = "Basic " + base64.b64encode(f"x-access-token:{SECRET}".encode()).decode()

# Nothing of the person who runs the tests: neither their settings, nor their helpers that know passwords.
ENVIRONMENT = {
    **{name: value for name, value in os.environ.items() if name in ("PATH", "LANG")},
    **{"GIT_CONFIG_NOSYSTEM": "1", "GIT_CONFIG_GLOBAL": "/dev/null", "GIT_TERMINAL_PROMPT": "0"},
    **{f"GIT_{who}_NAME": "Ann" for who in ("AUTHOR", "COMMITTER")},
    **{f"GIT_{who}_EMAIL": "ann@acme.example" for who in ("AUTHOR", "COMMITTER")},
}


def git(folder: Path, *words: str, input: bytes | None = None) -> str:
    """Run git in a folder; what it says."""
    done = subprocess.run(
        ["git", *words],
        cwd=folder,
        env={**ENVIRONMENT, "HOME": str(folder)},
        input=input,
        capture_output=True,
        timeout=60,
    )
    if done.returncode:
        raise RuntimeError(done.stderr.decode())
    return done.stdout.decode()


async def run(folder: Path, *words: str) -> str:
    return await asyncio.to_thread(git, folder, *words)


def git_server(root: Path) -> object:
    """What git's own server program answers, as it streams (gitprotocol-http(5))."""

    async def answer(request: web.Request) -> web.StreamResponse:
        environment = {
            **{"PATH": os.environ["PATH"], "GIT_PROJECT_ROOT": str(root), "GIT_HTTP_EXPORT_ALL": "1"},
            **{"PATH_INFO": request.path, "QUERY_STRING": request.query_string, "REQUEST_METHOD": request.method},
            **{"CONTENT_TYPE": request.headers.get("Content-Type", ""), "REMOTE_USER": "x-access-token"},
            "GIT_PROTOCOL": request.headers.get("Git-Protocol", ""),
            "HTTP_CONTENT_ENCODING": request.headers.get("Content-Encoding", ""),
            **({"CONTENT_LENGTH": str(request.content_length)} if request.content_length is not None else {}),
        }
        program = await asyncio.create_subprocess_exec(
            *("git", "http-backend"), env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        assert program.stdin is not None
        assert program.stdout is not None
        program.stdin.write(await request.read())
        program.stdin.close()
        head = await program.stdout.readuntil(b"\r\n\r\n")
        headers = dict(line.split(": ", 1) for line in head.decode().strip().split("\r\n"))
        reply = web.StreamResponse(status=int(headers.pop("Status", "200").split()[0]), headers=headers)
        await reply.prepare(request)
        while piece := await program.stdout.read(64 * 1024):
            await reply.write(piece)
        await program.wait()
        await reply.write_eof()
        return reply

    return answer


class Everything(dict[tuple[str, str], object]):
    """The same answer for what git asks for, and for nothing else."""

    def get(self, key: object, default: object = None) -> object:
        assert isinstance(key, tuple)
        method, target = map(str, key)
        path, _, query = target.partition("?")
        good = {
            "GET": path.endswith("/info/refs") and query in ("service=git-upload-pack", "service=git-receive-pack"),
            "POST": path.endswith(("/git-upload-pack", "/git-receive-pack")) and not query,
        }
        return self["", ""] if good.get(method) and path.startswith("/o/r.git/") else None


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Service]:
    root = tmp_path / "served"
    (root / "o").mkdir(parents=True)
    git(root, "init", "--quiet", "--bare", "--initial-branch=main", "o/r.git")
    git(root / "o" / "r.git", "config", "http.receivepack", "true")
    async with service(("Authorization", BASIC)) as started:
        started.answers = Everything({("", ""): git_server(root)})  # type: ignore[assignment]
        yield started


@pytest.fixture
async def forge(connect: Connect, server: Service) -> Here:
    return await connect(server, "github-git", SECRET)


def with_token(here: Here, user: str = "x-access-token", password: str | None = None) -> str:
    return f"{here.url.replace('://', f'://{user}:{here.token if password is None else password}@')}/o/r.git"


def branches(folder: Path, number: int) -> None:
    """Many branches of one commit each, quickly."""
    commit = "commit refs/heads/b{0}\ncommitter Ann <ann@acme.example> {1} +0000\ndata 1\nn\n"
    git(
        folder,
        "fast-import",
        "--quiet",
        input="".join(commit.format(n, 1_700_000_000 + n) for n in range(number)).encode(),
    )


async def test_git_pushes_clones_and_fetches(tmp_path: Path, forge: Here, server: Service) -> None:
    work, clone = tmp_path / "work", tmp_path / "clone"
    await run(tmp_path, "init", "--quiet", "--initial-branch=main", str(work))
    # More than git keeps in memory to send with a length: it goes in chunks.
    (work / "large.bin").write_bytes(os.urandom(300_000))
    await run(work, "add", "large.bin")
    await run(work, "commit", "--quiet", "-m", "a large file")
    await run(work, "remote", "add", "origin", with_token(forge))
    await run(work, "-c", "http.postBuffer=65536", "push", "--quiet", "origin", "main")

    # So many that the question for them is long enough to be compressed.
    branches(work, 40)
    await run(work, "push", "--quiet", "--all")
    await run(tmp_path, "clone", "--quiet", with_token(forge), str(clone))
    assert (clone / "large.bin").read_bytes() == (work / "large.bin").read_bytes()

    (work / "small.txt").write_text("small\n")
    await run(work, "add", "small.txt")
    await run(work, "commit", "--quiet", "-m", "a small file")
    await run(work, "push", "--quiet", "origin", "main")
    await run(clone, "fetch", "--quiet", "origin")
    assert (await run(clone, "show", "origin/main:small.txt")) == "small\n"

    by_path = [(each.method, each.target.removeprefix("/o/r.git"), each.headers) for each in server.seen]
    assert {method for method, _, _ in by_path} == {"GET", "POST"}
    pushed = [headers for _, path, headers in by_path if path == "/git-receive-pack"]
    assert any(headers.get("Transfer-Encoding") == "chunked" for headers in pushed)
    asked = [headers for _, path, headers in by_path if path == "/git-upload-pack"]
    assert any(headers.get("Content-Encoding") == "gzip" for headers in asked)
    assert all(headers.get("Git-Protocol") == "version=2" for headers in asked)


async def test_git_asks_first_without_a_token_and_is_told_to_say_who_it_is(
    tmp_path: Path, forge: Here, server: Service
) -> None:
    with pytest.raises(RuntimeError, match="could not read Username"):
        await run(tmp_path, "ls-remote", f"{forge.url}/o/r.git")
    assert server.seen == []


@pytest.mark.parametrize("pair", ["user", "password", "user alone"])
async def test_git_may_have_the_token_as_user_or_as_password(tmp_path: Path, forge: Here, pair: str) -> None:
    user, password = {
        "user": (forge.token, "x-oauth-basic"),
        "password": ("anybody", forge.token),
        "user alone": (forge.token, ""),
    }[pair]
    assert await run(tmp_path, "ls-remote", with_token(forge, user, password)) == ""


async def test_an_address_of_the_provider_may_stay_in_use(tmp_path: Path, forge: Here) -> None:
    instead = f"url.{with_token(forge).removesuffix('o/r.git')}.insteadOf=https://github.com/"
    assert await run(tmp_path, "-c", instead, "ls-remote", "https://github.com/o/r.git") == ""


async def test_git_shows_why_it_was_refused(tmp_path: Path, forge: Here, server: Service) -> None:
    with pytest.raises(RuntimeError, match=r"remote: this integration does not exist"):
        await run(tmp_path, "ls-remote", with_token(forge).replace("/gateway/github-git/", "/gateway/other/"))
    assert server.seen == []
