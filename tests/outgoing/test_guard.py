from __future__ import annotations

import asyncio
import socket
from collections.abc import Sequence
from pathlib import Path

import pytest

from company_agents.errors import Refused, Unavailable
from company_agents.outgoing import guard
from company_agents.outgoing.addresses import Reach
from company_agents.outgoing.client import Outgoing, OutgoingRequest, tls_context
from company_agents.outgoing.destination import Destination, Placement
from company_agents.sensitive import Sensitive
from company_agents.settings import read_settings
from tests.outgoing.conftest import Make
from tests.outgoing.servers import Authority, reply, serve

CREDENTIAL = Sensitive("xoxb-a-token")
GET = OutgoingRequest("GET", "/")


class Names:
    """A resolver whose answers are given one after the other; the last one stays."""

    def __init__(self, *answers: Sequence[str]) -> None:
        self.answers = list(answers)
        self.asked: list[str] = []

    async def __call__(self, host: str, port: int) -> Sequence[str]:
        self.asked.append(host)
        return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]


def public(port: int) -> Destination:
    return Destination.at(f"https://provider.example:{port}", Placement.header())


def private(port: int, scheme: str = "https") -> Destination:
    return Destination.at(f"{scheme}://provider.example:{port}", Placement.header(), allow_private=True)


@pytest.mark.parametrize("address", ["127.0.0.1", "10.0.0.1", "169.254.169.254", "::1", "fd00::1", "::ffff:127.0.0.1"])
async def test_a_name_that_leads_to_a_private_address_is_refused(make: Make, our_ca: Authority, address: str) -> None:
    async with serve(reply(), our_ca.server) as server:
        outgoing = await make(ca_file=our_ca.ca_file, resolve=Names([address]))
        with pytest.raises(Refused, match=r"provider\.example leads to an address"):
            await outgoing.call(GET, public(server.port), CREDENTIAL)
    assert server.connections == 0


async def test_one_bad_address_among_good_ones_refuses_all(make: Make, our_ca: Authority) -> None:
    async with serve(reply(), our_ca.server) as server:
        for bad in ("169.254.169.254", "0.0.0.0", "not an address", "127.1"):
            outgoing = await make(ca_file=our_ca.ca_file, resolve=Names(["127.0.0.1", bad]))
            with pytest.raises(Refused):
                await outgoing.call(GET, private(server.port), CREDENTIAL)
    assert server.connections == 0


async def test_a_private_address_is_reached_where_it_is_allowed(make: Make, our_ca: Authority) -> None:
    async with serve(reply(b"ok"), our_ca.server) as server:
        outgoing = await make(ca_file=our_ca.ca_file, resolve=Names(["127.0.0.1"]))
        assert (await outgoing.call(GET, private(server.port), CREDENTIAL)).body == b"ok"


async def test_plain_http_does_not_go_to_a_public_address(make: Make) -> None:
    outgoing = await make(resolve=Names(["8.8.8.8"]))
    with pytest.raises(Refused):
        await outgoing.call(GET, private(80, "http"), CREDENTIAL)


async def test_the_connection_goes_to_the_address_that_was_judged_without_a_second_look(make: Make) -> None:
    # The second answer stands for a name that changes between the check and the connection.
    names = Names(["127.0.0.1"], ["169.254.169.254"])
    async with serve(lambda _: reply(b"ok", connection="close")) as server:
        outgoing = await make(resolve=names)
        assert (await outgoing.call(GET, private(server.port, "http"), CREDENTIAL)).body == b"ok"
        assert names.asked == ["provider.example"]
        with pytest.raises(Refused):
            await outgoing.call(GET, private(server.port, "http"), CREDENTIAL)


async def test_a_connection_made_for_a_private_network_is_not_used_by_a_call_that_may_not_go_there(
    make: Make, our_ca: Authority
) -> None:
    async with serve(reply(b"ok"), our_ca.server) as server:
        outgoing = await make(ca_file=our_ca.ca_file, resolve=Names(["127.0.0.1"]))
        await outgoing.call(GET, private(server.port), CREDENTIAL)
        with pytest.raises(Refused):
            await outgoing.call(GET, public(server.port), CREDENTIAL)
        await outgoing.call(GET, private(server.port), CREDENTIAL)
    assert (server.connections, len(server.requests)) == (1, 2)


async def test_an_address_in_the_place_of_a_name_is_judged_at_the_socket() -> None:
    # aiohttp does not ask its resolver about addresses; a destination with this one cannot be made,
    # so the connector is asked directly.
    connector = guard.connector(Reach.PUBLIC, tls_context(None), guard.resolve, 1)
    make_socket = connector._socket_factory
    assert make_socket
    with pytest.raises(guard.ForbiddenAddress):
        make_socket((socket.AF_INET, socket.SOCK_STREAM, 0, "", ("127.0.0.1", 80)))
    make_socket((socket.AF_INET, socket.SOCK_STREAM, 0, "", ("8.8.8.8", 443))).close()
    await connector.close()


async def test_the_socket_guard_works_in_a_real_call(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    async with serve(reply()) as server:
        there = Destination.at(server.url, Placement.header(), allow_private=True)
        outgoing = await make()
        assert (await outgoing.call(GET, there, CREDENTIAL)).status == 200
        another = await make()
        monkeypatch.setattr(Destination, "reach", Reach.PUBLIC)
        with pytest.raises(Refused):
            await another.call(GET, there, CREDENTIAL)
    assert server.connections == 1


async def test_a_name_without_an_address_is_one_sentence(make: Make) -> None:
    async def unknown(host: str, port: int) -> Sequence[str]:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    for resolve in (unknown, Names([])):
        outgoing = await make(resolve=resolve)
        with pytest.raises(Unavailable, match=r"the name provider\.example could not be resolved"):
            await outgoing.call(GET, public(443), CREDENTIAL)


async def test_the_systems_own_look_up_finds_this_machine() -> None:
    assert set(await guard.resolve("localhost", 80)) <= {"127.0.0.1", "::1"}


async def test_a_certificate_of_an_unknown_authority_ends_the_call(make: Make, our_ca: Authority) -> None:
    async with serve(reply(), our_ca.server) as server:
        outgoing: Outgoing = await make(resolve=Names(["127.0.0.1"]))
        with pytest.raises(Unavailable, match=r"the certificate of provider\.example is not good") as failed:
            await outgoing.call(GET, private(server.port), CREDENTIAL)
    assert failed.value.__context__ is None
    assert not server.requests


async def test_a_certificate_for_another_name_ends_the_call(make: Make, our_ca: Authority) -> None:
    async with serve(reply(), our_ca.server) as server:
        outgoing = await make(ca_file=our_ca.ca_file, resolve=Names(["127.0.0.1"]))
        there = Destination.at(f"https://other.example:{server.port}", Placement.header(), allow_private=True)
        with pytest.raises(Unavailable, match=r"the certificate of other\.example is not good"):
            await outgoing.call(GET, there, CREDENTIAL)
    assert not server.requests


async def test_a_server_without_tls_ends_the_call(make: Make) -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        writer.close()

    async with await asyncio.start_server(talk, "127.0.0.1", 0) as server:
        outgoing = await make(resolve=Names(["127.0.0.1"]))
        with pytest.raises(Unavailable, match=r"no secure connection with provider\.example"):
            await outgoing.call(GET, private(server.sockets[0].getsockname()[1]), CREDENTIAL)


async def test_a_connection_that_does_not_come_about_in_time_is_given_up(make: Make) -> None:
    async with serve(reply()) as server:  # waits for plain HTTP, says nothing to a TLS handshake
        outgoing = await make(resolve=Names(["127.0.0.1"]), connect_time=0.05)
        with pytest.raises(Unavailable, match=r"provider\.example could not be connected to in time"):
            await outgoing.call(GET, private(server.port), CREDENTIAL)


def test_session_keys_are_not_written_where_the_environment_says(
    monkeypatch: pytest.MonkeyPatch, tmp_path: object
) -> None:
    monkeypatch.setenv("SSLKEYLOGFILE", f"{tmp_path}/keys")
    assert tls_context(None).keylog_filename is None


@pytest.mark.parametrize(
    ("networks", "address", "reached"),
    [
        ("any", "127.0.0.1", True),
        ("none", "127.0.0.1", False),
        ("127.0.0.0/8", "127.0.0.1", True),
        ("10.0.0.0/8, fd00::/8", "127.0.0.1", False),
        ("127.0.0.0/8", "::ffff:127.0.0.1", True),
        ("10.0.0.0/8", "::ffff:127.0.0.1", False),
    ],
)
async def test_of_private_networks_only_those_that_the_instance_opens_are_reached(
    make: Make, tmp_path: Path, networks: str, address: str, reached: bool
) -> None:
    async def resolve(host: str, port: int) -> list[str]:
        return [address]

    outgoing = await make(networks=read_settings(home=tmp_path, private_networks=networks).networks, resolve=resolve)
    async with serve(reply(b"ok")) as server:
        for host in ("inside.example", "127.0.0.1"):
            there = Destination.at(f"http://{host}:{server.port}", Placement.header(), allow_private=True)
            if reached:
                assert (await outgoing.call(GET, there, CREDENTIAL)).body == b"ok"
            else:
                with pytest.raises(Refused, match="may not connect to"):
                    await outgoing.call(GET, there, CREDENTIAL)
        assert bool(server.connections) is reached
