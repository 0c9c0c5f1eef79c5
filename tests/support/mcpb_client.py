"""The smallest MCPB client, from the text of the protocol and without our codec: frames out, frames in."""

from __future__ import annotations

import asyncio
import contextlib
import json
import ssl
import struct
from collections.abc import AsyncIterator
from typing import Any

from tests.support.raw import INITIALIZED, MODERN, Json, initialize, modern_meta, request

HEADER = struct.Struct(">4sHHI")
REQUEST, RESPONSE, CONTROL, HEALTH, ERROR, NEGOTIATE, ACK = range(1, 8)
OFFER = {"min_version": 1, "max_version": 1, "preferred_version": 1, "supported_versions": [1]}

__all__ = ["MODERN", "McpbClient", "client", "frame"]


def frame(
    kind: int, payload: bytes | Json = b"", *, magic: bytes = b"MCPB", version: int = 1, length: int | None = None
) -> bytes:
    """The bytes of one frame, with any lie in its header."""
    data = payload if isinstance(payload, bytes) else json.dumps(payload).encode()
    return HEADER.pack(magic, version, kind, len(data) if length is None else length) + data


class McpbClient:
    """One connection. Every wait ends after 10 seconds unless told otherwise."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        self.received: list[Json] = []  # messages that were read while another one was waited for
        self.answers: dict[str, Any] = {}  # method of a question -> result to answer it with
        self.asked: list[Json] = []

    # frames

    def write(self, data: bytes) -> None:
        self.writer.write(data)

    async def frame(self, timeout: float = 10.0) -> tuple[int, bytes]:
        """The next frame. Raises EOFError at the end."""
        async with asyncio.timeout(timeout):
            try:
                head = await self.reader.readexactly(HEADER.size)
                magic, version, kind, length = HEADER.unpack(head)
                assert (magic, version) == (b"MCPB", 1), head
                return kind, await self.reader.readexactly(length)
            except (asyncio.IncompleteReadError, ConnectionError) as error:
                raise EOFError(str(error)) from error

    async def error(self) -> Json:
        """The error frame that comes next but for health frames, and the end behind it."""
        while (found := await self.frame())[0] == HEALTH:
            pass
        assert found[0] == ERROR, found
        await self.end()
        said: Json = json.loads(found[1])
        return said

    async def end(self) -> None:
        """Wait until the other side ends the connection, saying nothing but health frames."""
        with contextlib.suppress(EOFError):
            while (found := await self.frame())[0] == HEALTH:
                pass
            raise AssertionError(found)

    async def negotiate(self, token: str | None = None) -> None:
        self.write(frame(NEGOTIATE, OFFER))
        kind, payload = await self.frame()
        assert (kind, json.loads(payload)) == (ACK, {"agreed_version": 1}), (kind, payload)
        if token is not None:
            self.write(frame(CONTROL, {"authorization": f"Bearer {token}"}))

    async def alive(self, payload: bytes = b"") -> None:
        """A health frame, there and back."""
        self.write(frame(HEALTH, payload))
        assert await self.frame() == (HEALTH, payload)

    # messages

    def send(self, message: Json | bytes) -> None:
        self.write(frame(REQUEST, message))

    async def message(self, timeout: float = 10.0) -> Json:
        """The next message; questions with a prepared answer are answered on the way."""
        while True:
            kind, payload = await self.frame(timeout)
            if kind == HEALTH:
                continue
            assert kind == RESPONSE, (kind, payload[:300])
            found: Json = json.loads(payload)
            if "method" in found and "id" in found and found["method"] in self.answers:
                self.asked.append(found)
                self.send({"jsonrpc": "2.0", "id": found["id"], "result": self.answers[found["method"]]})
                continue
            return found

    async def answer(self, id: int | str | None, timeout: float = 10.0) -> Json:
        """The response with this id; what comes before it is kept in ``received``."""
        async with asyncio.timeout(timeout):
            while True:
                found = await self.message(timeout)
                if "method" not in found and found.get("id") == id:
                    return found
                self.received.append(found)

    async def notification(self, method: str) -> Json:
        """The next notification of this method, also among ``received``."""
        for found in self.received:
            if found.get("method") == method:
                self.received.remove(found)
                return found
        while (found := await self.message()).get("method") != method:
            self.received.append(found)
        return found

    async def call(self, id: int | str, method: str, **params: Any) -> Json:
        self.send(request(id, method, **params))
        return await self.answer(id)

    async def open_legacy(self, **capabilities: Any) -> Json:
        self.send(initialize("hello", **capabilities))
        answer = await self.answer("hello")
        self.send(INITIALIZED)
        result: Json = answer["result"]
        return result

    async def call_modern(self, id: int | str, method: str, *, capabilities: Json | None = None, **params: Any) -> Json:
        meta = {**modern_meta(**(capabilities or {})), **params.pop("meta", {})}
        self.send(request(id, method, _meta=meta, **params))
        return await self.answer(id)

    async def close(self) -> None:
        self.writer.close()
        with contextlib.suppress(OSError, TimeoutError):
            async with asyncio.timeout(5):
                await self.writer.wait_closed()


@contextlib.asynccontextmanager
async def client(
    port: int,
    *,
    host: str = "127.0.0.1",
    context: ssl.SSLContext | None = None,
    negotiated: bool = True,
    token: str | None = None,
) -> AsyncIterator[McpbClient]:
    """A connection for the time of the block, negotiated and signed in."""
    async with asyncio.timeout(10):
        options: Json = {"ssl": context, "server_hostname": "localhost"} if context is not None else {}
        found = McpbClient(*await asyncio.open_connection(host, port, limit=32 * 1024 * 1024, **options))
    try:
        if negotiated:
            await found.negotiate(token)
        yield found
    finally:
        await found.close()
