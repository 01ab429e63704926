"""
The chains leave to real syslog listeners and to a receiver of webhooks.
"""

from __future__ import annotations

import asyncio
import base64
import re
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from company_agents.app import App
from company_agents.audit.log import SinkDown
from tests.conftest import Tenant
from tests.outbox.conftest import Beside
from tests.outbox.lines import end_of, is_signed, parsed, seqs, until
from tests.outgoing.servers import authority, reply, serve
from tests.promises.evidence import Past, connect_integration, sql

HEADER = re.compile(
    rb"<110>1 \d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z \S+ company-agents \d+ audit - (\{.*\})", re.DOTALL
)


@dataclass
class Listener:
    """Messages as they came."""

    messages: list[bytes] = field(default_factory=list)
    connections: list[asyncio.StreamWriter] = field(default_factory=list)
    port: int = 0

    @property
    def data(self) -> bytes:
        found = [HEADER.fullmatch(message) for message in self.messages]
        assert all(found)
        return b"".join(match[1] + b"\n" for match in found if match)

    async def talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections.append(writer)
        try:
            while True:
                length = int(await reader.readuntil(b" "))
                self.messages.append(await reader.readexactly(length))
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()


class Datagrams(asyncio.DatagramProtocol):
    def __init__(self, listener: Listener) -> None:
        self.listener = listener

    def datagram_received(self, data: bytes, addr: object) -> None:
        self.listener.messages.append(data)


@asynccontextmanager
async def listening(kind: str, folder: Path) -> AsyncIterator[tuple[Listener, str]]:
    """A listener, and the address that a sink has for it."""
    found, loop = Listener(), asyncio.get_running_loop()
    path = folder / "log"
    closing: asyncio.BaseTransport | asyncio.Server
    if kind == "udp":
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 * 1024 * 1024)
        sock.bind(("127.0.0.1", 0))
        transport, _ = await loop.create_datagram_endpoint(lambda: Datagrams(found), sock=sock)
        closing, address = transport, f"syslog://127.0.0.1:{transport.get_extra_info('sockname')[1]}"
    elif kind == "unix datagrams":
        closing, _ = await loop.create_datagram_endpoint(
            lambda: Datagrams(found), family=socket.AF_UNIX, local_addr=str(path)
        )
        address = f"syslog+unix://{path}"
    elif kind == "unix":
        closing = await asyncio.start_unix_server(found.talk, path)
        address = f"syslog+unix://{path}"
    else:
        tls = authority(folder, "127.0.0.1").server if kind == "tls" else None
        server = await asyncio.start_server(found.talk, "127.0.0.1", 0, ssl=tls)
        found.port = server.sockets[0].getsockname()[1]
        closing, address = server, f"syslog+{kind}://127.0.0.1:{found.port}"
    try:
        yield found, address
    finally:
        closing.close()


@pytest.mark.parametrize("kind", ["udp", "tcp", "tls", "unix", "unix datagrams"])
async def test_every_event_leaves_to_a_syslog_server_in_order_with_signed_heads(
    beside: Beside, app: App, mine: Tenant, tmp_path: Path, kind: str
) -> None:
    async with listening(kind, tmp_path) as (listener, address):
        ca_file = {"ca_file": tmp_path / "ca.pem"} if kind == "tls" else {}
        async with beside(address, **ca_file) as other:
            await app.agents.rotate_token(mine.local, mine.agent.agent_id())
            end = await end_of(app, mine.company.id)
            await until(lambda: end in seqs(parsed(listener.data), mine.company.id))
            public = {key.number: key.public for key in await other.outbox.head_keys.public()}
        lines = parsed(listener.data)
        assert seqs(lines, mine.company.id)[:end] == list(range(1, end + 1))
        for head in (line for line in lines if line["kind"] == "head"):
            is_signed(head, public[head["head_key"]])


async def test_a_server_with_a_certificate_of_nobody_gets_nothing(beside: Beside, mine: Tenant, tmp_path: Path) -> None:
    async with listening("tls", tmp_path) as (listener, address), beside(f"required {address}") as other:
        with pytest.raises(SinkDown, match="certificate"):
            await other.outbox.sinks.out(mine.company.id, 1)
        assert listener.messages == []


async def test_a_connection_that_was_closed_is_made_anew_and_nothing_is_missing(
    beside: Beside, app: App, mine: Tenant, tmp_path: Path
) -> None:
    async with listening("tcp", tmp_path) as (listener, address), beside(address):
        end = 0
        for n in range(3):
            await app.audit.append(mine.company.id, "test.one", n=n)
            end = await end_of(app, mine.company.id)
            await until(lambda end=end: end in seqs(parsed(listener.data), mine.company.id))
            for writer in listener.connections:
                writer.close()
                await writer.wait_closed()
        found = seqs(parsed(listener.data), mine.company.id)
        assert sorted(set(found)) == list(range(1, end + 1))
        assert len(listener.connections) == 3


async def test_what_grew_while_the_server_was_away_leaves_when_it_is_back(
    beside: Beside, app: App, mine: Tenant, tmp_path: Path
) -> None:
    async with listening("tcp", tmp_path) as (listener, address):
        pass
    async with beside(address) as other:
        await app.audit.append(mine.company.id, "test.one")

        async def problem() -> str:
            return (await other.outbox.sinks.states(mine.local.principal))[0].problem

        async with asyncio.timeout(20):
            while "refused" not in await problem():
                await asyncio.sleep(0.05)
        back = Listener()
        server = await asyncio.start_server(back.talk, "127.0.0.1", listener.port)
        async with server:
            end = await end_of(app, mine.company.id)
            await until(lambda: end in seqs(parsed(back.data), mine.company.id), 40)
            async with asyncio.timeout(20):
                while await problem():
                    await asyncio.sleep(0.05)


async def test_a_required_server_stops_uses_on_every_orchestrator_until_the_event_is_out(
    beside: Beside, app: App, mine: Tenant, tmp_path: Path
) -> None:
    fine = reply(b'{"fine": true}', content_type="application/json")
    async with serve(fine) as provider, listening("tcp", tmp_path) as (listener, address):
        integration = await connect_integration(app, mine, provider)
        async with beside(f"required {address}") as one, beside(f"required {address}") as two:
            for n in range(5):
                for each in (one, two):
                    await each.requests.request(mine.agent, str(integration.id), "GET", f"/things/{n}")
            end = await end_of(one, mine.company.id)
            await until(lambda: end in seqs(parsed(listener.data), mine.company.id))
            # The last use may have ended, on record, since that end was looked at.
            found = seqs(parsed(listener.data), mine.company.id)
            assert found == list(range(1, len(found) + 1))
            assert len([each for each in provider.requests if each.path.startswith("/things/")]) == 10


async def test_two_orchestrators_send_each_event_and_no_event_before_the_one_before_it(
    beside: Beside, app: App, mine: Tenant, tmp_path: Path
) -> None:
    async with listening("tcp", tmp_path) as (listener, address), beside(address) as one, beside(address) as two:
        for n in range(20):
            await asyncio.gather(*(each.audit.append(mine.company.id, "test.one", n=n) for each in (one, two)))
        end = await end_of(app, mine.company.id)
        await until(lambda: end in seqs(parsed(listener.data), mine.company.id))
        # Nobody died, so that nothing had to be sent again.
        assert seqs(parsed(listener.data), mine.company.id) == list(range(1, end + 1))


async def test_a_receiver_gets_the_lines_as_they_would_stand_in_a_file_signed_with_the_head_key(
    beside: Beside, app: App, mine: Tenant, superuser: Past, tmp_path: Path
) -> None:
    answers = [reply(b"", "500 Oops"), reply(b"", "204 No Content")]
    async with serve(lambda _: answers.pop(0) if len(answers) > 1 else answers[0]) as server:
        async with beside(f"{server.url}/audit") as other:
            await app.agents.rotate_token(mine.local, mine.agent.agent_id())
            end = await end_of(app, mine.company.id)

            def taken() -> bytes:
                return b"".join(request.body for request in server.requests[1:])

            await until(lambda: end in seqs(parsed(taken()), mine.company.id), 40)
            public = {key.number: key.public for key in await other.outbox.head_keys.public()}
        for request in server.requests:
            assert request.path == "/audit"
            kind, _, signature = request.headers["webhook-signature"].partition(",")
            assert kind == "v1a"
            signed = f"{request.headers['webhook-id']}.{request.headers['webhook-timestamp']}.".encode() + request.body
            Ed25519PublicKey.from_public_bytes(public[1]).verify(base64.b64decode(signature), signed)
        # What it refused came again under the same id.
        assert server.requests[0].headers["webhook-id"] in {
            request.headers["webhook-id"] for request in server.requests[1:]
        }
        file = tmp_path / "kept.jsonl"
        file.write_bytes(taken())
        compared = await app.events.compare(file)
        assert [fault for fault in compared.faults if fault.chain == mine.company.id] == []
        assert compared.events >= end
        await sql(superuser, "DELETE FROM audit_sink_cursors")


async def test_the_token_in_the_address_of_a_receiver_is_said_nowhere(
    beside: Beside, mine: Tenant, superuser: Past, caplog: pytest.LogCaptureFixture
) -> None:
    async with serve(reply(b"", "500 Oops")) as server:
        async with beside(f"required {server.url}/in/path-token?token=query-token") as other:
            [shipper] = other.outbox.sinks._shippers
            assert shipper.address.shown == server.url
            for problem in (RuntimeError("x"), SinkDown("x")):
                await shipper._failed(problem)
                with pytest.raises(SinkDown) as refused:
                    await other.outbox.sinks.out(mine.company.id, 1)
                assert "-token" not in f"{refused.value!r} {refused.value.sentence} {refused.value.hint}"
            [state] = await other.outbox.sinks.states(mine.local.principal)
            assert (state.address, "-token" in state.problem) == (server.url, False)
            assert "-token" not in repr(shipper.address)
        assert "-token" not in caplog.text
        rows = await sql(superuser, "SELECT address, problem FROM audit_sinks")
        assert server.url in {row["address"] for row in rows}
        assert "-token" not in str(rows)
        await sql(superuser, "DELETE FROM audit_sink_cursors")


def test_the_offer_for_a_syslog_server_is_none_of_http() -> None:
    from company_agents.outbox.syslog import _tls

    context = _tls(None)
    assert context.verify_mode is ssl.CERT_REQUIRED
    assert context.check_hostname
