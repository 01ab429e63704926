"""
The chains leave to a file of this machine, in order, each event at least once, and what stands there is whole.
"""

from __future__ import annotations

import asyncio
import os
import stat
from pathlib import Path

import pytest
from cryptography.exceptions import InvalidSignature

from company_agents.app import App
from company_agents.audit.log import SinkDown
from company_agents.errors import MayNotStart
from company_agents.outbox.addresses import read_sinks
from tests.conftest import Tenant
from tests.outbox.conftest import Beside
from tests.outbox.lines import actions, end_of, is_signed, lines_of, seqs, until
from tests.outgoing.servers import reply, serve
from tests.promises.evidence import Past, connect_integration, recorded, sql

FINE = reply(b'{"fine": true}', content_type="application/json")


async def has_all(app: App, file: Path, *chains: object) -> None:
    """Wait until the file has every event of these chains, once, in order."""
    for chain in chains:
        end = await end_of(app, chain)  # type: ignore[arg-type]
        await until(lambda chain=chain, end=end: file.exists() and end in seqs(lines_of(file), chain))
        assert seqs(lines_of(file), chain)[:end] == list(range(1, end + 1))  # type: ignore[arg-type]


async def test_every_event_of_every_chain_leaves_in_order_with_a_signed_head(
    beside: Beside, app: App, mine: Tenant, tmp_path: Path
) -> None:
    file = tmp_path / "audit.jsonl"
    async with beside(f"file://{file}") as other:
        await has_all(app, file, mine.company.id, app.instance.id)
        # What another process wrote, and what this one did.
        await app.agents.rotate_token(mine.local, mine.agent.agent_id())
        await other.audit.append(mine.company.id, "agent.paused", agent="x")
        await has_all(app, file, mine.company.id)
        keys = {key.number: key.public for key in await other.outbox.head_keys.public()}
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    lines = lines_of(file)
    assert {"agent.token_rotated", "agent.paused"} <= set(actions(lines, mine.company.id))
    heads = [line for line in lines if line["kind"] == "head"]
    assert heads
    for head in heads:
        is_signed(head, keys[head["head_key"]])
        [mac] = {
            line["mac"]
            for line in lines
            if line["kind"] == "event" and (line["chain"], line["seq"]) == (head["chain"], head["seq"])
        }
        assert mac == head["mac"]
        with pytest.raises(InvalidSignature):
            is_signed({**head, "seq": head["seq"] + 1}, keys[head["head_key"]])
    # After the last event of each chain there is a head.
    last = {line["chain"]: line["kind"] for line in lines}
    assert set(last.values()) == {"head"}


async def test_another_start_goes_on_where_the_file_ends_and_what_happened_meanwhile_leaves(
    beside: Beside, app: App, mine: Tenant, tmp_path: Path
) -> None:
    file = tmp_path / "audit.jsonl"
    async with beside(f"file://{file}"):
        await has_all(app, file, mine.company.id)
    before = file.read_bytes()
    await app.agents.rotate_token(mine.local, mine.agent.agent_id())
    async with beside(f"file://{file}"):
        await has_all(app, file, mine.company.id)
    assert file.read_bytes().startswith(before)
    assert len(set(seqs(lines_of(file), mine.company.id))) == len(seqs(lines_of(file), mine.company.id))


async def test_two_orchestrators_write_one_file_and_each_event_stands_there_once(
    beside: Beside, app: App, mine: Tenant, tmp_path: Path
) -> None:
    file = tmp_path / "audit.jsonl"
    async with beside(f"required file://{file}") as one, beside(f"required file://{file}") as two:
        for n in range(30):
            await asyncio.gather(
                one.audit.append(mine.company.id, "test.one", n=n), two.audit.append(mine.company.id, "test.two", n=n)
            )
        await has_all(app, file, mine.company.id, app.instance.id)
    found = seqs(lines_of(file), mine.company.id)
    assert found == list(range(1, len(found) + 1))


@pytest.mark.parametrize("left", [1, 5, 40, "all but the line end"])
async def test_a_line_that_was_not_finished_is_mended(
    beside: Beside, app: App, mine: Tenant, tmp_path: Path, left: int | str
) -> None:
    file = tmp_path / "audit.jsonl"
    async with beside(f"file://{file}"):
        await has_all(app, file, mine.company.id)
    whole = file.read_bytes()
    lines = whole.splitlines(keepends=True)
    torn = lines[-1][: left if isinstance(left, int) else -1]
    file.write_bytes(b"".join(lines[:-1]) + torn)
    async with beside(f"file://{file}"):
        await has_all(app, file, mine.company.id, app.instance.id)
    assert file.read_bytes().startswith(b"".join(lines[:-1]))
    assert file.read_bytes().endswith(b"}\n")


async def test_a_first_line_that_was_not_finished_is_mended(
    beside: Beside, app: App, mine: Tenant, tmp_path: Path
) -> None:
    file = tmp_path / "audit.jsonl"
    file.touch(0o600)
    file.write_bytes(b'{"kin')
    async with beside(f"file://{file}"):
        await has_all(app, file, mine.company.id, app.instance.id)


async def test_a_file_that_is_something_else_is_not_written_to(
    beside: Beside, app: App, mine: Tenant, tmp_path: Path
) -> None:
    file = tmp_path / "notes.txt"
    file.touch(0o600)
    file.write_bytes(b"my notes\nwithout an end")
    async with beside(f"required file://{file}") as other:
        with pytest.raises(SinkDown, match="something else"):
            await other.outbox.sinks.out(mine.company.id, 1)
    assert file.read_bytes() == b"my notes\nwithout an end"


async def test_a_link_or_a_file_that_others_may_write_is_refused(
    beside: Beside, app: App, mine: Tenant, tmp_path: Path
) -> None:
    target = tmp_path / "target"
    target.touch(0o600)
    linked, open_to_all, pipe = tmp_path / "linked", tmp_path / "open", tmp_path / "pipe"
    linked.symlink_to(target)
    open_to_all.touch()
    open_to_all.chmod(0o666)
    os.mkfifo(pipe, 0o600)
    for file, said in ((linked, "symbolic link"), (open_to_all, "others"), (pipe, "not a file"), (tmp_path, "written")):
        async with beside(f"required file://{file}") as other:
            with pytest.raises(SinkDown, match=said):
                await other.outbox.sinks.out(mine.company.id, 1)
    assert target.read_bytes() == b""
    assert open_to_all.read_bytes() == b""


async def test_a_file_that_was_taken_away_is_begun_anew_with_the_whole_chain(
    beside: Beside, app: App, mine: Tenant, tmp_path: Path
) -> None:
    file = tmp_path / "audit.jsonl"
    async with beside(f"file://{file}"):
        await has_all(app, file, mine.company.id)
        file.rename(tmp_path / "audit.1")
        await app.agents.rotate_token(mine.local, mine.agent.agent_id())
        await has_all(app, file, mine.company.id)


# — where nothing is used that is not out —


async def test_a_use_waits_until_its_event_is_out(beside: Beside, app: App, mine: Tenant, tmp_path: Path) -> None:
    file = tmp_path / "audit.jsonl"
    seen: list[bool] = []

    def answer(_: object) -> bytes:
        # At the provider the call is there; by then its event has to be out.
        uses = [line for line in lines_of(file) if line["kind"] == "event" and "credential.begun" in line["record"]]
        seen.append(str(mine.company.id) in {line["chain"] for line in uses})
        return FINE

    async with serve(answer) as server, beside(f"required file://{file}") as other:
        integration = await connect_integration(app, mine, server)
        seen.clear()
        for _ in range(5):
            await other.requests.request(mine.agent, str(integration.id), "GET", "/things")
        assert seen == [True] * 5


async def test_a_sink_that_cannot_be_written_stops_the_use_says_so_and_lets_it_go_on_after(
    beside: Beside, app: App, mine: Tenant, tmp_path: Path
) -> None:
    folder = tmp_path / "logs"
    async with serve(FINE) as server:
        integration = await connect_integration(app, mine, server)
        calls = len(server.requests)
        async with beside(f"required file://{folder}/audit.jsonl") as other:
            for _ in range(3):
                with pytest.raises(SinkDown) as refused:
                    await other.requests.request(mine.agent, str(integration.id), "GET", "/things")
                assert (refused.value.reason, refused.value.http_status) == ("audit_sink_down", 503)
                assert "no credential is used" in refused.value.sentence
            assert len(server.requests) == calls, "nothing reached the provider"
            ended = await recorded(other, mine.company.id, "credential.ended", error="audit_sink_down")
            assert len(ended) == 3
            [state] = await other.outbox.sinks.states(mine.local.principal)
            assert (state.required, "cannot be written" in state.problem) == (True, True)
            folder.mkdir(0o700)

            async def works() -> bool:
                try:
                    await other.requests.request(mine.agent, str(integration.id), "GET", "/things")
                except SinkDown:
                    return False
                return True

            async with asyncio.timeout(20):
                while not await works():
                    await asyncio.sleep(0.1)
            await has_all(app, folder / "audit.jsonl", mine.company.id)
            # What was refused is out, too.
            assert "credential.begun" in actions(lines_of(folder / "audit.jsonl"), mine.company.id)
            [state] = await other.outbox.sinks.states(mine.local.principal)
            assert state.problem == ""


async def test_where_it_cannot_be_said_how_the_sink_is_uses_go_on_and_it_is_said_later(
    beside: Beside, app: App, mine: Tenant, superuser: Past, tmp_path: Path
) -> None:
    sink = f"required file://{tmp_path}/audit.jsonl"
    [address] = read_sinks(sink)
    nobody = f"ALTER TABLE audit_sinks ADD CONSTRAINT nobody CHECK (sink <> '{address.id}') NOT VALID"
    await sql(superuser, nobody)
    try:
        async with beside(sink) as other:
            for _ in range(3):
                await other.outbox.sinks.out(mine.company.id, await end_of(other, mine.company.id))
            await sql(superuser, "ALTER TABLE audit_sinks DROP CONSTRAINT nobody")
            await other.outbox.sinks.out(mine.company.id, await end_of(other, mine.company.id))
            async with asyncio.timeout(20):
                while (await other.outbox.sinks.states(mine.local.principal))[0].written_at is None:
                    await asyncio.sleep(0.05)
    finally:
        await sql(superuser, "ALTER TABLE audit_sinks DROP CONSTRAINT IF EXISTS nobody")


async def test_nothing_ends_the_sending_but_a_stop(
    beside: Beside, mine: Tenant, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with beside(f"required file://{tmp_path}/audit.jsonl") as other:
        [shipper] = other.outbox.sinks._shippers
        failed = asyncio.Event()

        async def fails(*, last: bool = False) -> float:
            failed.set()
            raise RuntimeError("nobody thought of it")

        with monkeypatch.context() as patch:
            patch.setattr(shipper, "_look", fails)
            shipper.grown([mine.company.id])
            await asyncio.wait_for(failed.wait(), 20)
        await other.outbox.sinks.out(mine.company.id, 1)


async def test_a_sink_that_is_not_required_stops_nothing(
    beside: Beside, app: App, mine: Tenant, tmp_path: Path
) -> None:
    async with serve(FINE) as server:
        integration = await connect_integration(app, mine, server)
        async with beside(f"file://{tmp_path}/nowhere/audit.jsonl") as other:
            assert other.audit.out is None
            await other.requests.request(mine.agent, str(integration.id), "GET", "/things")


async def test_without_sinks_the_audit_log_asks_nobody(app: App) -> None:
    assert app.audit.out is None
    assert app.audit.grown is None


@pytest.mark.parametrize(
    "setting",
    [
        "file:relative",
        "file://host/path",
        "file:///",
        "file:///a/../b",
        "syslog://",
        "syslog://user:password@host",
        "syslog://host/path",
        "syslog://host:99999",
        "required syslog://host",
        "carrier-pigeon://coop",
        "https://user:password@example.com/",
        "file:///a, file:///a",
        "/var/log/audit.jsonl",
    ],
)
def test_an_address_that_cannot_be_used_stops_the_start_and_is_not_repeated(setting: str) -> None:
    with pytest.raises(MayNotStart) as refused:
        read_sinks(setting)
    assert "password" not in str(refused.value) or "a user name or a password" in str(refused.value)


# — what was brought back —


async def test_a_chain_that_was_rolled_back_leaves_anew_behind_a_line_that_says_so(
    beside: Beside, app: App, mine: Tenant, superuser: Past, tmp_path: Path
) -> None:
    file = tmp_path / "audit.jsonl"
    chain = mine.company.id
    for _ in range(3):
        await app.agents.rotate_token(mine.local, mine.agent.agent_id())
    async with beside(f"file://{file}"):
        await has_all(app, file, chain)
    cut = 3
    await sql(superuser, "DELETE FROM audit_events WHERE chain = %(c)s AND seq > %(s)s", c=chain, s=cut)
    back = "UPDATE audit_heads h SET seq = e.seq, mac = e.mac FROM audit_events e WHERE h.chain = %(c)s AND e.chain = h.chain AND e.seq = %(s)s"
    await sql(superuser, back, c=chain, s=cut)
    async with beside(f"file://{file}"):
        await until(lambda: any(line["kind"] == "again" for line in lines_of(file) if line["chain"] == str(chain)))
        await until(lambda: seqs(lines_of(file), chain)[-cut:] == list(range(1, cut + 1)))
    compared = await app.events.compare(file)
    assert any(fault.chain == chain for fault in compared.faults)


async def test_an_event_with_a_number_that_was_out_before_the_database_went_back_is_waited_for(
    beside: Beside, app: App, mine: Tenant, superuser: Past, tmp_path: Path
) -> None:
    file, chain = tmp_path / "audit.jsonl", mine.company.id
    async with beside(f"required file://{file}") as other:
        end = await end_of(app, chain)
        await other.outbox.sinks.out(chain, end)
        await sql(superuser, "DELETE FROM audit_events WHERE chain = %(c)s AND seq = %(s)s", c=chain, s=end)
        back = "UPDATE audit_heads h SET seq = e.seq, mac = e.mac FROM audit_events e WHERE h.chain = %(c)s AND e.chain = h.chain AND e.seq = %(s)s"
        await sql(superuser, back, c=chain, s=end - 1)
        app.audit._heads.clear()
        await app.audit.append(chain, "test.after")
        await other.outbox.sinks.out(chain, end)
        assert actions(lines_of(file), chain)[-1] == "test.after"
