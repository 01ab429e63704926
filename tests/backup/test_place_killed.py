"""
What a kill leaves of a fetch has a name by which it is found and taken away.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path

import pytest

from tests.backup.test_places import name
from tests.outgoing.servers import Recorded, serve

SIZE = 6_000_000

PROGRAM = """
import asyncio, pathlib, sys
from pydantic import SecretStr
from company_agents.backup.places import open_place
from company_agents.settings import read_settings

home, backups, endpoint, name = pathlib.Path(sys.argv[1]), *sys.argv[2:]
settings = read_settings(home=home).model_copy(update={
    "backups": backups, "backup_endpoint": endpoint,
    "aws_access_key_id": "made-up", "aws_secret_access_key": SecretStr("made-up"),
})
asyncio.run(open_place(settings).get(name, home / "data" / ".fetched-0123456789"))
"""


@pytest.mark.timeout(120)
async def test_a_fetch_from_a_store_that_is_killed_leaves_only_what_is_cleared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stalls(request: Recorded) -> bytes:
        head = f'HTTP/1.1 200 OK\r\ncontent-length: {SIZE}\r\netag: "e"\r\n\r\n'.encode()
        return head if request.line.startswith("HEAD") else head + bytes(SIZE // 2)

    monkeypatch.setenv("NO_PROXY", "*")
    data = tmp_path / "data"
    data.mkdir()
    async with serve(stalls) as server:
        command = [sys.executable, "-c", PROGRAM, str(tmp_path), "s3://my-bucket/x", server.url, name()]
        with subprocess.Popen(command) as process:
            try:
                while not any(path.stat().st_size for path in data.iterdir()):
                    assert process.poll() is None
                    await asyncio.sleep(0.01)
            finally:
                process.kill()
    left = {path.name for path in data.iterdir()}
    # `Backups.fetched` clears these; none has the name under which a whole one would have been.
    assert left == {path.name for path in data.glob(".fetched-*")} != set()
    assert ".fetched-0123456789" not in left
