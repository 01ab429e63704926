"""
A server that records the bytes it was sent and answers with the bytes it was given.
"""

from __future__ import annotations

import asyncio
import datetime
import ssl
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

Answer = Callable[["Recorded"], bytes | Iterable[bytes]]


@dataclass
class Recorded:
    head: bytes
    body: bytes

    @property
    def line(self) -> str:
        return self.head.split(b"\r\n")[0].decode()

    @property
    def path(self) -> str:
        return self.line.split(" ")[1]

    @property
    def headers(self) -> dict[str, str]:
        lines = self.head.decode().split("\r\n")[1:]
        pairs = [line.split(": ", 1) for line in lines if line]
        assert len({name.lower() for name, _ in pairs}) == len(pairs), "a header was sent twice"
        return {name.lower(): value for name, value in pairs}


@dataclass
class Server:
    port: int = 0
    requests: list[Recorded] = field(default_factory=list)
    connections: int = 0
    hung_up: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"


def reply(body: bytes = b"", status: str = "200 OK", **headers: str) -> bytes:
    """A reply; `content_type="…"` becomes `content-type`."""
    lines = [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join([f"HTTP/1.1 {status}", f"content-length: {len(body)}", *lines, "", ""]).encode() + body


def chunked(*parts: bytes, **headers: str) -> Iterable[bytes]:
    """A reply in pieces, each a chunk of its own."""
    lines = [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    yield "\r\n".join(["HTTP/1.1 200 OK", "transfer-encoding: chunked", *lines, "", ""]).encode()
    for part in parts:
        yield b"%x\r\n%s\r\n" % (len(part), part)
    yield b"0\r\n\r\n"


@asynccontextmanager
async def serve(answer: Answer | bytes, tls: ssl.SSLContext | None = None) -> AsyncIterator[Server]:
    """On 127.0.0.1, a free port. It hangs up after an answer of nothing, or one that says so."""
    server = Server()

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        server.connections += 1
        try:
            while True:
                recorded = Recorded(head := await reader.readuntil(b"\r\n\r\n"), await _body(head, reader))
                server.requests.append(recorded)
                parts = answer if isinstance(answer, bytes) else answer(recorded)
                last = True
                for part in [parts] if isinstance(parts, bytes) else parts:
                    writer.write(part)
                    await writer.drain()
                    last = not part or b"connection: close" in part
                if last:
                    return
        except (asyncio.IncompleteReadError, ConnectionError, ValueError):
            pass
        finally:
            server.hung_up.set()
            writer.close()

    listening = await asyncio.start_server(talk, "127.0.0.1", 0, ssl=tls)
    server.port = listening.sockets[0].getsockname()[1]
    try:
        yield server
    finally:
        listening.close()


async def _body(head: bytes, reader: asyncio.StreamReader) -> bytes:
    lowered = head.lower()
    if b"transfer-encoding: chunked" in lowered:
        body = b""
        while size := int(await reader.readline(), 16):
            body += await reader.readexactly(size)
            await reader.readline()
        await reader.readline()
        return body
    if b"content-length: " in lowered:
        return await reader.readexactly(int(lowered.split(b"content-length: ")[1].split(b"\r\n")[0]))
    return b""


@dataclass(frozen=True)
class Authority:
    """A certificate authority of our own, and the certificate of one server that it signed."""

    ca_file: Path
    server: ssl.SSLContext


def authority(folder: Path, *names: str) -> Authority:
    key, ca_key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    ca_name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "an authority")])
    now = datetime.datetime.now(datetime.UTC)

    def certificate(subject: x509.Name, public: ec.EllipticCurvePublicKey) -> x509.CertificateBuilder:
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(ca_name)
            .public_key(public)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(days=1))
            .not_valid_after(now + datetime.timedelta(days=1))
        )

    ca = certificate(ca_name, ca_key.public_key()).add_extension(x509.BasicConstraints(True, None), True)
    alternatives = x509.SubjectAlternativeName([_alternative(name) for name in names])
    leaf = certificate(x509.Name([]), key.public_key()).add_extension(alternatives, True)
    ca_file, chain_file = folder / "ca.pem", folder / "server.pem"
    pem = serialization.Encoding.PEM
    ca_file.write_bytes(ca.sign(ca_key, hashes.SHA256()).public_bytes(pem))
    private = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    chain_file.write_bytes(leaf.sign(ca_key, hashes.SHA256()).public_bytes(pem) + private)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(chain_file)
    return Authority(ca_file, context)


def _alternative(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ip_address(name))
    except ValueError:
        return x509.DNSName(name)
