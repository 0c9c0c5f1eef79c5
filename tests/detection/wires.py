"""Connections of the bench's servers: the shape in which their bytes travel, and what was done to them."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

Json = dict[str, Any]
Serve = Callable[["Wire"], Awaitable[None]]
INFO = {"name": "bench", "version": "1"}


@dataclass
class Counts:
    """What was done to the servers of one case. Sessions that are left at the end are leaks; so are connections."""

    calls: int = 0  # of anything but server/discover, initialize and ping
    sessions: set[str] = field(default_factory=set)
    connections: int = 0
    requests: int = 0
    most: int = 0


@dataclass
class Shape:
    """How a server's bytes travel. Seconds; ``pieces``: bytes of one write, 0 for all at once."""

    latency: float = 0.0
    jitter: float = 0.0
    accept: float = 0.0
    pieces: int = 0
    chunked: bool = False
    close: bool = False
    old: bool = False  # HTTP/1.0
    packed: bool = False  # gzip, though nobody asked for it
    once: bool = False  # only the first connection is served


class Wire:
    """One accepted connection, in a shape."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, shape: Shape, counts: Counts) -> None:
        self.reader, self.writer, self.shape, self.counts = reader, writer, shape, counts
        self.random = random.Random(counts.requests)

    async def line(self) -> bytes:
        return (await self.reader.readuntil(b"\n")).strip()

    async def gone(self) -> None:
        """Wait until the client leaves."""
        while await self.reader.read(4096):
            pass

    async def send(self, data: bytes) -> None:
        delay = self.shape.latency + self.random.random() * self.shape.jitter
        if delay:
            await asyncio.sleep(delay)
        step = self.shape.pieces or len(data) or 1
        for at in range(0, len(data), step):
            self.writer.write(data[at : at + step])
            if self.shape.pieces:
                await self.writer.drain()
                await asyncio.sleep(0)


@dataclass
class Request:
    method: str
    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def message(self) -> Json:
        try:
            value = json.loads(self.body)
        except ValueError:
            return {}
        return value if isinstance(value, dict) else {}


@dataclass
class Answer:
    status: int
    body: bytes = b""
    kind: str = "application/json"
    headers: dict[str, str] = field(default_factory=dict)
    stream: Callable[[Callable[[bytes], Awaitable[None]]], Awaitable[None]] | None = None  # what follows, kept open


@contextlib.asynccontextmanager
async def running(
    serve: Serve, shape: Shape, counts: Counts, *, path: str = "", tls: ssl.SSLContext | None = None, host: str = "127.0.0.1"
) -> AsyncIterator[int]:
    """Serve for the time of the block; the port."""
    served = 0

    async def accepted(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal served
        served += 1
        counts.connections += 1
        counts.most = max(counts.most, counts.connections)
        try:
            if shape.once and served > 1:
                return
            if shape.accept:
                await asyncio.sleep(shape.accept)
            await serve(Wire(reader, writer, shape, counts))
        except (OSError, asyncio.IncompleteReadError, ValueError, asyncio.LimitOverrunError):
            pass
        finally:
            counts.connections -= 1
            with contextlib.suppress(OSError):
                writer.close()

    if path:
        server = await asyncio.start_unix_server(accepted, path)
    else:
        server = await asyncio.start_server(accepted, host, 0, ssl=tls)
    try:
        yield 0 if path else server.sockets[0].getsockname()[1]
    finally:
        server.close()
