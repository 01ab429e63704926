"""
What left, read back the way that somebody does who has only the lines and docs/spec/audit.md.
"""

from __future__ import annotations

import asyncio
import base64
import json
import struct
from pathlib import Path
from typing import Any
from uuid import UUID

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from company_agents.app import App


def lines_of(file: Path) -> list[dict[str, Any]]:
    """The whole lines; the last may be on its way."""
    data = file.read_bytes()
    return parsed(data[: data.rfind(b"\n") + 1])


def parsed(data: bytes) -> list[dict[str, Any]]:
    return [json.loads(line) for line in data.splitlines()]


def seqs(lines: list[dict[str, Any]], chain: UUID) -> list[int]:
    """The numbers of the events of a chain, as they came."""
    return [line["seq"] for line in lines if line["kind"] == "event" and line["chain"] == str(chain)]


def actions(lines: list[dict[str, Any]], chain: UUID) -> list[str]:
    events = (line for line in lines if line["kind"] == "event" and line["chain"] == str(chain))
    return [json.loads(line["record"])["action"] for line in events]


def is_signed(line: dict[str, Any], public: bytes) -> None:
    """Raises InvalidSignature where it is not."""
    text = b"company-agents/audit-head/v1" + UUID(line["chain"]).bytes + struct.pack(">Q", line["seq"])
    text += bytes.fromhex(line["mac"]) + line["at"].encode()
    Ed25519PublicKey.from_public_bytes(public).verify(base64.b64decode(line["signature"]), text)


async def end_of(app: App, chain: UUID) -> int:
    """The number of the newest event of a chain, once nothing waits to be written."""
    company = None if chain == app.instance.id else chain
    await app.audit.append(company, "test.looked")
    return int((await app.events.newest(company, limit=1))[0]["seq"])


async def until(true: Any, seconds: float = 20.0) -> None:
    """Wait until something is so."""
    async with asyncio.timeout(seconds):
        while not true():
            await asyncio.sleep(0.02)
