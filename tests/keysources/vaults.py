"""
What the tests of `vault` share: made-up keys, the error of a refusal, a proxy that loses replies.
"""

from __future__ import annotations

import base64
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TypeVar

import pytest

from company_agents.crypto.keyring import MasterKey
from company_agents.errors import CompanyAgentsError
from company_agents.keysources.base import open_source
from company_agents.keysources.found import Found
from company_agents.keysources.vault import VaultSource
from company_agents.settings import Settings
from tests.keysources.servers.openbao import ROOT_TOKEN, Bao
from tests.outgoing.servers import Recorded, Server, reply, serve

E = TypeVar("E", bound=CompanyAgentsError)
KEY, OTHER = MasterKey.generate(), MasterKey.generate()
JSON = {"content_type": "application/json"}
GONE = b""


def opened(settings: Settings) -> VaultSource:
    source = open_source(settings)
    assert isinstance(source, VaultSource)
    return source


async def add(source: VaultSource, *keys: MasterKey) -> Found:
    for key in keys:
        await source.add(key, await source.read())
    return await source.read()


def text(key: MasterKey) -> str:
    return base64.b64encode(key.secret.reveal()).decode()


async def refusal(work: Callable[[], Awaitable[object]], kind: type[E], *secrets: str) -> E:
    """The error, which says what to do, and nothing that is secret."""
    with pytest.raises(kind) as caught:
        await work()
    error = caught.value
    seen = f"{error.sentence} {error.hint} {''.join(traceback.format_exception(error))}"
    assert error.hint
    assert [word for word in (ROOT_TOKEN, text(KEY), text(OTHER), *secrets) if word in seen] == []
    return error


@asynccontextmanager
async def between(bao: Bao, meddle: Callable[[int, Recorded], bytes | None] | None = None) -> AsyncIterator[Server]:
    """
    A proxy before the server. `meddle` is told of each write by its number, from 1: what it returns is answered in the
    server's place, and an answer of nothing hangs up.
    """
    count = 0

    def answer(request: Recorded) -> bytes:
        nonlocal count
        if meddle is not None and request.line.startswith("POST"):
            count += 1
            answered = meddle(count, request)
            if answered is not None:
                return answered
        return forwarded(bao, request)

    async with serve(answer) as server:
        yield server


def forwarded(bao: Bao, request: Recorded) -> bytes:
    method, path, _ = request.line.split(" ")
    headers = {name: value for name, value in request.headers.items() if name.startswith("x-vault")}
    status, body = bao.raw(method, path, headers, request.body)
    return reply(body, f"{status} As It Is", **JSON)
