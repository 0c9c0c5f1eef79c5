"""Both halves of the transport, each with a peer on the other side that sends exactly what a test says."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from websockets.uri import parse_uri

from mcpbridge.core.duplex import Arrival
from mcpbridge.core.ports import Connection
from mcpbridge.transports.http1.server import HttpServer
from mcpbridge.transports.proxy import Route
from mcpbridge.transports.websocket import dial
from mcpbridge.transports.websocket.connection import WebSocketConnection
from mcpbridge.transports.websocket.listen import WebSocketFrontend
from tests.support.frames import RawPeer
from tests.transports.http1.conftest import tls as tls


class Talk:
    """What one connection of ours does and has seen; as an application it sends every message back."""

    def __init__(self) -> None:
        self.connection: WebSocketConnection
        self.arrival: Arrival | None = None
        self.messages: list[bytes] = []
        self.cause: BaseException | None = None
        self.over = asyncio.Event()
        self.is_echo = True

    def begin(self, connection: Connection) -> None:
        assert isinstance(connection, WebSocketConnection)
        self.connection = connection
        connection.start(self._on_message, self._on_close)

    def _on_message(self, message: bytes) -> None:
        self.messages.append(message)
        if self.is_echo:
            with contextlib.suppress(ConnectionError):
                self.connection.send(message)

    def _on_close(self, cause: BaseException | None) -> None:
        assert cause is not None, "a WebSocket has no half-close"
        assert not self.over.is_set(), "told twice"
        self.cause = cause
        self.over.set()


class Hall:
    """A listener on a free port, and those who came."""

    def __init__(self) -> None:
        self.talks: list[Talk] = []
        self.arrived = asyncio.Event()
        self.refusal: Exception | None = None
        self.is_echo = True
        self.draining = asyncio.Event()
        self.host, self.port = "127.0.0.1", 0
        self.server: HttpServer
        self.peers: list[RawPeer] = []

    async def serve(self, connection: Connection, arrival: Arrival) -> None:
        talk = Talk()
        talk.arrival = arrival
        talk.is_echo = self.is_echo
        self.talks.append(talk)
        talk.begin(connection)
        self.arrived.set()
        await talk.over.wait()

    async def admit(self, arrival: Arrival) -> None:
        if self.refusal is not None:
            raise self.refusal

    async def enter(self, **options: Any) -> RawPeer:
        async with asyncio.timeout(5):
            peer = RawPeer(*await asyncio.open_connection(self.host, self.port, limit=1 << 25, **options), is_client=True)
        self.peers.append(peer)
        return peer


Open = Callable[..., Awaitable[Hall]]
Pair = Callable[..., Awaitable[tuple[RawPeer, Talk]]]


@pytest.fixture
async def hall() -> AsyncIterator[Open]:
    """``await hall(max_message=, compression=, ssl=, server={...})``: a listening WebSocketFrontend."""
    halls: list[Hall] = []

    async def start(*, ssl: Any = None, server: dict[str, Any] | None = None, **options: Any) -> Hall:
        it = Hall()
        frontend = WebSocketFrontend(it.serve, it.admit, it.draining, **options)
        it.server = HttpServer(frontend.handle, **(server or {}))
        it.host, it.port = await it.server.start("127.0.0.1", 0, ssl)
        halls.append(it)
        return it

    yield start
    for it in halls:
        for peer in it.peers:
            await peer.leave()
        async with asyncio.timeout(10):
            await it.server.close()


@pytest.fixture
async def door() -> AsyncIterator[tuple[str, asyncio.Queue[RawPeer]]]:
    """A port where a test plays the server: its URL and those who connected."""
    came: asyncio.Queue[RawPeer] = asyncio.Queue()
    peers: list[RawPeer] = []

    def enter(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        peer = RawPeer(reader, writer, is_client=False)
        peers.append(peer)
        came.put_nowait(peer)

    server = await asyncio.start_server(enter, "127.0.0.1", 0, limit=1 << 25)
    port = server.sockets[0].getsockname()[1]
    yield f"ws://127.0.0.1:{port}/ws", came
    server.close()
    for peer in peers:
        await peer.leave()


async def dialled(url: str, came: asyncio.Queue[RawPeer], max_message: int) -> tuple[RawPeer, WebSocketConnection]:
    uri = parse_uri(url)
    dialling = asyncio.ensure_future(dial.connect(uri, Route(uri.host, uri.port), None, {}, max_message, False))
    async with asyncio.timeout(5):
        peer = await came.get()
        await peer.accept()
        return peer, await dialling


@pytest.fixture(params=["listener", "dialer"])
async def pair(request: Any, hall: Open, door: tuple[str, asyncio.Queue[RawPeer]]) -> AsyncIterator[Pair]:
    """``await pair(max_message=...)``: an open connection of ours, once as the server and once as the client."""
    talks: list[tuple[RawPeer, Talk]] = []

    async def start(max_message: int = 10_485_760) -> tuple[RawPeer, Talk]:
        if request.param == "listener":
            it = await hall(max_message=max_message)
            peer = await it.enter()
            await peer.upgrade()
            async with asyncio.timeout(5):
                await it.arrived.wait()
            return peer, it.talks[0]
        talk = Talk()
        peer, connection = await dialled(*door, max_message)
        talk.begin(connection)
        talks.append((peer, talk))
        return peer, talk

    yield start
    for peer, talk in talks:
        peer.writer.transport.abort()  # instead of a goodbye, which the connection would wait for
        async with asyncio.timeout(5):
            await talk.connection.close()
