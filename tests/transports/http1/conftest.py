"""A server of the engine on a free port, and a client that sends exactly the bytes it is told to."""

from __future__ import annotations

import asyncio
import datetime
import ipaddress
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from mcpbridge.transports.http1.pool import HttpPool
from mcpbridge.transports.http1.server import HttpRequest, HttpServer, Responder


class Answer(NamedTuple):
    status: int
    headers: dict[str, str]
    body: bytes


class Raw:
    """A client without opinions. Every wait ends after 5 seconds."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    def send(self, *data: bytes) -> None:
        self.writer.write(b"".join(data))

    async def answer(self, *, head_only: bool = False) -> Answer:
        async with asyncio.timeout(5):
            head = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
            status = int(head[0].split(" ")[1])
            headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in head[1:-2])}
            assert len(headers) == len(head) - 3, "a header was sent twice"
            if head_only or status < 200 or status in (204, 304):
                return Answer(status, headers, b"")
            if headers.get("transfer-encoding") == "chunked":
                body = b""
                while size := int(await self.reader.readuntil(b"\r\n"), 16):
                    body += (await self.reader.readexactly(size + 2))[:-2]
                assert await self.reader.readexactly(2) == b"\r\n"
                return Answer(status, headers, body)
            if "content-length" in headers:
                return Answer(status, headers, await self.reader.readexactly(int(headers["content-length"])))
            return Answer(status, headers, await self.reader.read())

    async def rest(self) -> bytes:
        """What comes until the server closes."""
        async with asyncio.timeout(5):
            return await self.reader.read()

    async def is_cut(self) -> bool:
        """Whether the server closed, with or without a reset."""
        try:
            return await self.rest() == b""
        except ConnectionError:
            return True

    async def ends(self) -> bool:
        """Whether the server ends the connection, whatever it says before (a TLS alert)."""
        try:
            await self.rest()
        except ConnectionError:
            pass
        return True

    async def close(self) -> None:
        self.writer.close()
        try:
            async with asyncio.timeout(5):
                await self.writer.wait_closed()
        except OSError:
            pass


class Served(HttpServer):
    """A server that knows where it listens and what it was asked."""

    host: str
    port: int
    seen: list[HttpRequest]


Serve = Callable[..., Awaitable[Served]]
Connect = Callable[..., Awaitable[Raw]]


async def echo(request: HttpRequest, responder: Responder) -> None:
    await responder.respond(200, [("x-path", request.path)], request.body)


@pytest.fixture
async def serve() -> AsyncIterator[Serve]:
    """``await serve(handler, ssl=None, host="127.0.0.1", **options of HttpServer)``."""
    servers: list[Served] = []

    async def start(
        handler: Any = echo, *, ssl: ssl.SSLContext | None = None, host: str = "127.0.0.1", **options: Any
    ) -> Served:
        async def recording(request: HttpRequest, responder: Responder) -> None:
            server.seen.append(request)
            await handler(request, responder)

        server = Served(recording, **options)
        server.seen = []
        servers.append(server)
        server.host, server.port = await server.start(host, 0, ssl)
        return server

    yield start
    for server in servers:
        async with asyncio.timeout(10):
            await server.close()


@pytest.fixture
async def connect() -> AsyncIterator[Connect]:
    """``await connect(server, ssl=None)``: a raw client."""
    clients: list[Raw] = []

    async def open_(server: Served, **options: Any) -> Raw:
        async with asyncio.timeout(5):
            raw = Raw(*await asyncio.open_connection(server.host, server.port, **options))
        clients.append(raw)
        return raw

    yield open_
    for raw in clients:
        await raw.close()


async def until(condition: Callable[[], Any]) -> None:
    """Let the loop turn until something on the other side of a socket has happened; 5 seconds at most."""
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0.001)


@pytest.fixture
def eventually() -> Callable[[Callable[[], Any]], Awaitable[None]]:
    return until


async def read_request(reader: asyncio.StreamReader) -> tuple[str, bytes]:
    """Head and body of one request with Content-Length."""
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    length = next((line[16:] for line in head.split("\r\n") if line.startswith("content-length: ")), "0")
    return head, await reader.readexactly(int(length))


class Script:
    """A server that does what a test says on each connection."""

    def __init__(self, play: Callable[[asyncio.StreamReader, asyncio.StreamWriter, int], Awaitable[None]]) -> None:
        self._play = play
        self.connections = 0
        self.ended = 0
        self.errors: list[Exception] = []
        self.url = ""

    async def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            await self._play(reader, writer, self.connections)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass  # the client went, as some tests want
        except Exception as error:
            self.errors.append(error)
        finally:
            self.ended += 1
            writer.close()


@pytest.fixture
async def scripted() -> AsyncIterator[Callable[..., Awaitable[Script]]]:
    """``await scripted(play, ssl=None)``: ``play(reader, writer, number of the connection)``; ``url`` says where."""
    started: list[tuple[asyncio.AbstractServer, Script]] = []

    async def start(play: Any, *, ssl: ssl.SSLContext | None = None) -> Script:
        script = Script(play)
        server = await asyncio.start_server(script.accept, "127.0.0.1", 0, ssl=ssl)
        script.url = f"http{'s' if ssl else ''}://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        started.append((server, script))
        return script

    yield start
    for server, script in started:
        server.close()
        await until(partial(_is_over, script))
        assert script.errors == []


def _is_over(script: Script) -> bool:
    return script.ended == script.connections


@pytest.fixture
async def pool() -> AsyncIterator[Callable[..., HttpPool]]:
    """``pool(url, **options)``: a pool that is closed at the end."""
    pools: list[HttpPool] = []

    def make(url: str, **options: Any) -> HttpPool:
        pools.append(HttpPool(url, **options))
        return pools[-1]

    yield make
    for one in pools:
        await one.close()


class Tls(NamedTuple):
    server: ssl.SSLContext
    client: ssl.SSLContext
    stranger: ssl.SSLContext  # trusts nobody


@pytest.fixture(scope="session")
def tls(tmp_path_factory: pytest.TempPathFactory) -> Tls:
    """A certificate for localhost and 127.0.0.1 that is its own authority."""
    where: Path = tmp_path_factory.mktemp("tls")
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.UTC)
    names = x509.SubjectAlternativeName([x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(names, critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    (where / "cert.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    (where / "key.pem").write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(where / "cert.pem", where / "key.pem")
    stranger = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    return Tls(server, ssl.create_default_context(cafile=str(where / "cert.pem")), stranger)
