"""A connection of ours without a socket: bytes in, messages out. For properties and fuzzing."""

from __future__ import annotations

import asyncio
from itertools import pairwise
from typing import Any

from websockets.client import ClientProtocol
from websockets.protocol import OPEN
from websockets.server import ServerProtocol
from websockets.uri import parse_uri

from mcpbridge.transports.websocket.connection import CONTROL, WebSocketConnection


class Pipe(asyncio.Transport):
    """Takes what is written; pausing is the connection's own affair."""

    def __init__(self) -> None:
        super().__init__()
        self.written = b""
        self.is_reading = True

    def write(self, data: Any) -> None:
        self.written += bytes(data)

    def get_write_buffer_size(self) -> int:
        return 0

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        return None

    def pause_reading(self) -> None:
        self.is_reading = False

    def resume_reading(self) -> None:
        self.is_reading = True

    def close(self) -> None:
        return None

    def abort(self) -> None:
        return None


async def received(
    wire: bytes, cuts: list[int], *, is_client: bool, pauses: bool, limit: int = 1 << 20
) -> tuple[list[bytes], bytes, BaseException | None]:
    """What a connection of ours makes of these bytes in these pieces: its messages, what it wrote, how it ended."""
    protocol: Any = (
        ClientProtocol(parse_uri("ws://a/"), state=OPEN, max_size=limit + CONTROL)
        if is_client
        else ServerProtocol(state=OPEN, max_size=limit + CONTROL)
    )
    connection = WebSocketConnection(protocol, limit)
    messages: list[bytes] = []
    ends: list[BaseException | None] = []
    pipe = Pipe()
    connection.connection_made(pipe)

    def take(message: bytes) -> None:
        messages.append(message)
        if pauses:
            connection.pause()
            asyncio.get_running_loop().call_soon(connection.resume)

    connection.start(take, ends.append)
    edges = sorted({0, len(wire), *(cut % (len(wire) + 1) for cut in cuts)})
    for start, end in pairwise(edges):
        connection.data_received(wire[start:end])
        if pauses:
            await asyncio.sleep(0)
    async with asyncio.timeout(5):
        while connection._unread or not pipe.is_reading:
            await asyncio.sleep(0)
    connection.connection_lost(None)
    return messages, pipe.written, ends[0]
