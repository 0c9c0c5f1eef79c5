"""A raw client of each transport: messages out, messages in, nothing of the bridge in it.

    async with open_wire("websocket", faces, era) as wire:
        await wire.send({...})         every message of the server comes out of ``wire.heard``, in order

Streamable HTTP makes the same of many requests: each POST's answers join the queue, and so does a legacy session's GET stream.
"""

from __future__ import annotations

import asyncio
import json
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any, Protocol
from urllib.parse import urljoin

import aiohttp
import websockets

Json = dict[str, Any]
LIMIT = 16 << 20
HEADER = struct.Struct(">4sHHI")
PARTING = 10.0  # seconds a client waits for the end of its output
MODERN = "2026-07-28"
LEGACY = "2025-11-25"


class Wire(Protocol):
    heard: asyncio.Queue[Json]

    async def send(self, message: Json) -> None: ...

    async def cancel(self, id: int) -> None:
        """Cancel a request in the way of the transport and era."""


class Duplex:
    """What all connections have in common."""

    def __init__(self) -> None:
        self.heard: asyncio.Queue[Json] = asyncio.Queue()

    async def send(self, message: Json) -> None:
        raise AssertionError

    async def cancel(self, id: int) -> None:
        await self.send({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": id, "reason": "test"}})


class Lines(Duplex):
    """A unix socket."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        super().__init__()
        self.reader, self.writer = reader, writer

    async def send(self, message: Json) -> None:
        self.writer.write(json.dumps(message).encode() + b"\n")
        await self.writer.drain()

    async def listen(self) -> None:
        while line := await self.reader.readline():
            self.heard.put_nowait(json.loads(line))


class Frames(Lines):
    """MCPB frames over TCP."""

    def write(self, kind: int, payload: bytes) -> None:
        self.writer.write(HEADER.pack(b"MCPB", 1, kind, len(payload)) + payload)

    async def frame(self) -> tuple[int, bytes]:
        magic, _version, kind, size = HEADER.unpack(await self.reader.readexactly(HEADER.size))
        assert magic == b"MCPB"
        return kind, await self.reader.readexactly(size)

    async def greet(self) -> None:
        offer = {"min_version": 1, "max_version": 1, "preferred_version": 1, "supported_versions": [1]}
        self.write(6, json.dumps(offer).encode())
        assert (await self.frame())[0] == 7

    async def send(self, message: Json) -> None:
        self.write(1, json.dumps(message).encode())
        await self.writer.drain()

    async def listen(self) -> None:
        while True:
            kind, payload = await self.frame()
            if kind == 2:
                self.heard.put_nowait(json.loads(payload))


class Socket(Duplex):
    """WebSocket."""

    def __init__(self, socket: websockets.ClientConnection) -> None:
        super().__init__()
        self.socket = socket

    async def send(self, message: Json) -> None:
        await self.socket.send(json.dumps(message))

    async def listen(self) -> None:
        async for text in self.socket:
            self.heard.put_nowait(json.loads(text))


async def events(response: aiohttp.ClientResponse) -> AsyncIterator[tuple[str, str]]:
    """Events of a stream: their kind and data."""
    kind, data = "message", []
    buffer = b""
    async for chunk in response.content.iter_any():
        buffer += chunk
        *lines, buffer = buffer.split(b"\n")
        for line in (raw.decode().rstrip("\r") for raw in lines):
            if line.startswith("event:"):
                kind = line[6:].strip()
            elif line.startswith("data:"):
                data.append(line[5:].removeprefix(" "))
            elif not line and data:
                yield kind, "\n".join(data)
                kind, data = "message", []


class Stream(Duplex):
    """HTTP+SSE."""

    def __init__(self, http: aiohttp.ClientSession, url: str) -> None:
        super().__init__()
        self.http, self.url = http, url
        self.endpoint: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    async def send(self, message: Json) -> None:
        async with self.http.post(await self.endpoint, json=message) as response:
            assert response.status == 202, await response.text()

    async def listen(self) -> None:
        async with self.http.get(self.url, headers={"accept": "text/event-stream"}) as response:
            assert response.status == 200, await response.text()
            async for kind, data in events(response):
                if kind == "endpoint":
                    self.endpoint.set_result(urljoin(self.url, data))
                elif data:
                    self.heard.put_nowait(json.loads(data))


class Posts(Duplex):
    """Streamable HTTP in one era."""

    def __init__(self, http: aiohttp.ClientSession, url: str, era: str) -> None:
        super().__init__()
        self.http, self.url, self.era = http, url, era
        self.session: str | None = None
        self.asked: dict[int, asyncio.Task[None]] = {}
        self.running: set[asyncio.Task[None]] = set()

    def headers(self, message: Json) -> dict[str, str]:
        headers = {"accept": "application/json, text/event-stream"}
        if self.era == "modern":
            headers |= {"mcp-protocol-version": MODERN, "mcp-method": message["method"]}
            params = message.get("params", {})
            if (name := params.get("name") or params.get("uri")) and message["method"] in (
                "tools/call",
                "prompts/get",
                "resources/read",
            ):
                headers["mcp-name"] = name
        elif self.session is not None:
            headers |= {"mcp-session-id": self.session, "mcp-protocol-version": LEGACY}
        return headers

    async def send(self, message: Json) -> None:
        post = asyncio.create_task(self.post(message))
        self.running.add(post)
        post.add_done_callback(self.running.discard)
        if "method" in message and "id" in message:
            self.asked[message["id"]] = post
        if message.get("method") == "initialize" or "id" not in message or "method" not in message:
            await post
        if message.get("method") == "notifications/initialized":
            ready = asyncio.Event()
            self.running.add(asyncio.create_task(self.get(ready)))
            await ready.wait()

    async def post(self, message: Json) -> None:
        async with self.http.post(self.url, json=message, headers=self.headers(message)) as response:
            self.session = response.headers.get("mcp-session-id", self.session)
            await self.take(response)

    async def get(self, ready: asyncio.Event) -> None:
        headers = {**self.headers({}), "accept": "text/event-stream"}
        async with self.http.get(self.url, headers=headers) as response:
            ready.set()
            assert response.status == 200, await response.text()
            await self.take(response)

    async def take(self, response: aiohttp.ClientResponse) -> None:
        if response.content_type == "text/event-stream":
            async for _kind, data in events(response):
                if data:
                    self.heard.put_nowait(json.loads(data))
        elif response.status != 202 and (body := await response.read()):
            self.heard.put_nowait(json.loads(body))

    async def cancel(self, id: int) -> None:
        if self.era == "modern":
            self.asked[id].cancel()
        else:
            await super().cancel(id)

    async def listen(self) -> None:
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            for task in list(self.running):
                task.cancel()
            await asyncio.gather(*self.running, return_exceptions=True)


@asynccontextmanager
async def open_command(command: str, *reading: str) -> AsyncIterator[Wire]:
    """A client at the stdin and stdout of a shell command, or at those of two (``reading`` is the one it listens to).

    It says that it is through and listens to the end: who comes next at a pair of pipes must not meet what is left of it.
    """
    pipe = asyncio.subprocess.PIPE
    first = await asyncio.create_subprocess_shell(f"exec {command}", stdin=pipe, stdout=pipe, limit=LIMIT)
    processes = [first]
    for other in reading:
        processes.append(await asyncio.create_subprocess_shell(f"exec {other}", stdout=pipe, limit=LIMIT))
    reader, writer = processes[-1].stdout, first.stdin
    assert reader is not None and writer is not None
    wire = Lines(reader, writer)
    listening = asyncio.create_task(wire.listen())
    try:
        yield wire
    finally:
        writer.close()
        await asyncio.wait([listening], timeout=PARTING)
        listening.cancel()
        for process in processes:
            with suppress(ProcessLookupError):
                process.kill()
            await process.wait()
        with suppress(asyncio.CancelledError, ConnectionError):
            await listening


@asynccontextmanager
async def open_wire(protocol: str, address: str, era: str) -> AsyncIterator[Wire]:
    """A client at a frontend of the gateway. ``address``: a path, a URL, or ``host:port`` for TCP."""
    timeout = aiohttp.ClientTimeout(total=60)
    async with aiohttp.ClientSession(timeout=timeout, read_bufsize=LIMIT) as http:
        wire: Lines | Frames | Socket | Stream | Posts
        socket: websockets.ClientConnection | None = None
        match protocol:
            case "stdio":
                wire = Lines(*await asyncio.open_unix_connection(address, limit=LIMIT))
            case "tcp_binary":
                host, _, port = address.rpartition(":")
                wire = Frames(*await asyncio.open_connection(host, int(port), limit=LIMIT))
                await wire.greet()
            case "websocket":
                socket = await websockets.connect(address, subprotocols=[websockets.Subprotocol("mcp")], max_size=LIMIT)
                wire = Socket(socket)
            case "sse":
                wire = Stream(http, address)
            case _:
                wire = Posts(http, address, era)
        listening = asyncio.create_task(wire.listen())
        try:
            yield wire
        finally:
            listening.cancel()
            with suppress(asyncio.CancelledError, ConnectionError, asyncio.IncompleteReadError):
                await listening
            if socket is not None:
                await socket.close()
            if isinstance(wire, Lines):
                wire.writer.close()
                with suppress(ConnectionError):
                    await wire.writer.wait_closed()
