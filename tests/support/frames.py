"""A WebSocket peer without opinions: it sends exactly the frames, or bytes, that a test says, and reads what comes."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import struct
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

CONT, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10
KEY = base64.b64encode(b"0123456789abcdef").decode()
GUID = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # RFC 6455 section 1.3


class Frame(NamedTuple):
    opcode: int
    payload: bytes = b""
    fin: bool = True
    rsv: int = 0

    def encode(self, *, mask: bool, length: int | None = None) -> bytes:
        """``length`` claims another payload length than there is."""
        size = len(self.payload) if length is None else length
        first = (0x80 if self.fin else 0) | self.rsv << 4 | self.opcode
        bit = 0x80 if mask else 0
        if size < 126:
            head = struct.pack("!BB", first, bit | size)
        elif size < 65536:
            head = struct.pack("!BBH", first, bit | 126, size)
        else:
            head = struct.pack("!BBQ", first, bit | 127, size)
        if not mask:
            return head + self.payload
        key = b"\x37\xfa\x21\x3d"
        stream = (key * (len(self.payload) // 4 + 1))[: len(self.payload)]
        masked = (int.from_bytes(self.payload) ^ int.from_bytes(stream)).to_bytes(len(self.payload))
        return head + key + masked


def close(code: int, reason: str = "") -> Frame:
    return Frame(CLOSE, struct.pack("!H", code) + reason.encode())


def fragments(payload: bytes, *cuts: int) -> list[Frame]:
    """A text message cut at these places."""
    edges = [0, *cuts, len(payload)]
    parts = [payload[a:b] for a, b in pairwise(edges)]
    return [Frame(CONT if i else TEXT, part, i == len(parts) - 1) for i, part in enumerate(parts)]


def accept_for(key: str) -> str:
    return base64.b64encode(hashlib.sha1((key + GUID).encode()).digest()).decode()


def upgrade_request(path: str = "/ws", host: str = "127.0.0.1", fields: Sequence[str] = (), *, version: str = "13") -> bytes:
    lines = [
        f"GET {path} HTTP/1.1",
        f"Host: {host}",
        "Upgrade: websocket",
        "Connection: Upgrade",
        f"Sec-WebSocket-Key: {KEY}",
        f"Sec-WebSocket-Version: {version}",
        *fields,
    ]
    return "\r\n".join(lines).encode() + b"\r\n\r\n"


class RawPeer:
    """One side of a connection whose handshake is done, or not. Every wait ends after 5 seconds."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, is_client: bool) -> None:
        self.reader = reader
        self.writer = writer
        self.is_client = is_client

    def write(self, data: bytes) -> None:
        self.writer.write(data)

    def send(self, *frames: Frame) -> None:
        for frame in frames:
            self.writer.write(frame.encode(mask=self.is_client))

    async def head(self) -> tuple[int, dict[str, str]]:
        async with asyncio.timeout(5):
            lines = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines[1:-2])}
        return int(lines[0].split(" ")[1]), headers

    async def upgrade(self, path: str = "/ws", fields: Sequence[str] = (), host: str = "127.0.0.1") -> dict[str, str]:
        """The client's opening handshake."""
        self.write(upgrade_request(path, host, fields))
        status, headers = await self.head()
        assert status == 101, status
        assert headers["sec-websocket-accept"] == accept_for(KEY)
        return headers

    async def accept(self) -> list[str]:
        """The server's side of it; returns the lines of the request."""
        async with asyncio.timeout(5):
            lines = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")[:-2]
        key = next(line.partition(": ")[2] for line in lines if line.lower().startswith("sec-websocket-key"))
        self.write(
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Protocol: mcp\r\nSec-WebSocket-Accept: " + accept_for(key).encode() + b"\r\n\r\n"
        )
        return lines

    async def frame(self) -> Frame:
        """The next frame. Raises IncompleteReadError or ConnectionError when there is none."""
        async with asyncio.timeout(5):
            first, second = await self.reader.readexactly(2)
            assert bool(second & 0x80) is not self.is_client, "masked by the wrong side"
            size = second & 0x7F
            if size == 126:
                (size,) = struct.unpack("!H", await self.reader.readexactly(2))
            elif size == 127:
                (size,) = struct.unpack("!Q", await self.reader.readexactly(8))
            key = await self.reader.readexactly(4) if second & 0x80 else b""
            payload = await self.reader.readexactly(size)
            if key:
                stream = (key * (size // 4 + 1))[:size]
                payload = (int.from_bytes(payload) ^ int.from_bytes(stream)).to_bytes(size)
            return Frame(first & 0x0F, payload, bool(first & 0x80), first >> 4 & 7)

    async def message(self) -> bytes:
        """The next text message; pings on the way are answered."""
        while True:
            frame = await self.frame()
            if frame.opcode == PING:
                self.send(Frame(PONG, frame.payload))
                continue
            assert frame.opcode == TEXT and frame.fin, frame
            return frame.payload

    async def end(self) -> tuple[list[Frame], int | None]:
        """Everything until the connection ends, and the close code: 1005 without one, None without a close frame."""
        frames: list[Frame] = []
        try:
            while True:
                frames.append(await self.frame())
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        if not frames or frames[-1].opcode != CLOSE:
            return frames, None
        payload = frames.pop().payload
        return frames, struct.unpack("!H", payload[:2])[0] if payload else 1005

    async def leave(self) -> None:
        self.writer.close()
        try:
            async with asyncio.timeout(5):
                await self.writer.wait_closed()
        except OSError:
            pass
