"""The smallest MCP clients that send exactly what a test says: bytes over HTTP/1.1 and lines over a child's stdin."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import urllib.parse
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from tests.support import peers

Json = dict[str, Any]
ACCEPT = "application/json, text/event-stream"
MODERN = "2026-07-28"
LEGACY = "2025-11-25"


def request(id: int | str, method: str, **params: Any) -> Json:
    return {"jsonrpc": "2.0", "id": id, "method": method, "params": params}


def modern_meta(**capabilities: Any) -> Json:
    """The ``_meta`` every modern request carries."""
    return {
        "io.modelcontextprotocol/protocolVersion": MODERN,
        "io.modelcontextprotocol/clientInfo": {"name": "raw", "version": "1"},
        "io.modelcontextprotocol/clientCapabilities": capabilities,
    }


def initialize(id: int | str = 1, **capabilities: Any) -> Json:
    return request(
        id, "initialize", protocolVersion=LEGACY, capabilities=capabilities, clientInfo={"name": "raw", "version": "1"}
    )


INITIALIZED: Json = {"jsonrpc": "2.0", "method": "notifications/initialized"}


@dataclass(frozen=True, slots=True)
class Answer:
    """An HTTP response read to its end; ``messages`` are its JSON-RPC messages, from JSON or from events."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def messages(self) -> list[Json]:
        if self.headers.get("content-type", "").startswith("text/event-stream"):
            blocks = self.body.replace(b"\r\n", b"\n").split(b"\n\n")
            lines = [[line[5:].strip() for line in block.split(b"\n") if line.startswith(b"data:")] for block in blocks]
            return [json.loads(b"\n".join(data)) for data in lines if b"".join(data)]
        return [json.loads(self.body)] if self.body.strip() else []


class HttpClient:
    """One keep-alive connection to a gateway; a new one is opened when the server closed it."""

    def __init__(self, url: str) -> None:
        parts = urllib.parse.urlsplit(url)
        self.host, self.port, self.path = parts.hostname or "localhost", parts.port or 80, parts.path
        self.streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        self.session: str | None = None
        self.fields: dict[str, str] = {}  # sent with every message

    async def post(self, message: Json | bytes, *, timeout: float = 30.0, **headers: str) -> Answer:
        """POST one message; headers are given with ``_`` for ``-``."""
        body = message if isinstance(message, bytes) else json.dumps(message).encode()
        head = {
            "host": f"{self.host}:{self.port}",
            "content-type": "application/json",
            "accept": ACCEPT,
            "content-length": str(len(body)),
            **({"mcp-session-id": self.session} if self.session else {}),
            **self.fields,
            **{name.replace("_", "-"): value for name, value in headers.items()},
        }
        async with asyncio.timeout(timeout):
            reader, writer = self.streams or await asyncio.open_connection(self.host, self.port)
            self.streams = reader, writer
            lines = [f"POST {self.path} HTTP/1.1", *(f"{name}: {value}" for name, value in head.items()), "", ""]
            writer.write("\r\n".join(lines).encode() + body)
            answer = await self._read(reader)
            if answer.headers.get("connection", "").lower() == "close":
                await self.close()
            return answer

    async def _read(self, reader: asyncio.StreamReader) -> Answer:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:] if line)}
        status = int(head[0].split()[1])
        if headers.get("transfer-encoding", "").lower() == "chunked":
            body = b""
            while size := int((await reader.readline()).split(b";")[0], 16):
                body += await reader.readexactly(size)
                await reader.readline()
            await reader.readline()
        else:
            body = await reader.readexactly(int(headers.get("content-length", "0")))
        return Answer(status, headers, body)

    async def open_legacy(self, **capabilities: Any) -> Json:
        """The legacy handshake; returns the initialize result."""
        answer = await self.post(initialize(**capabilities))
        assert answer.status == 200, answer
        self.session = answer.headers.get("mcp-session-id")
        await self.post(INITIALIZED, mcp_protocol_version=LEGACY)
        result: Json = answer.messages[-1]["result"]
        return result

    async def call_legacy(self, id: int | str, name: str, arguments: Json) -> Json:
        answer = await self.post(request(id, "tools/call", name=name, arguments=arguments), mcp_protocol_version=LEGACY)
        assert answer.status == 200, answer
        return answer.messages[-1]

    async def call_modern(self, id: int | str, name: str, arguments: Json) -> Json:
        message = request(id, "tools/call", name=name, arguments=arguments, _meta=modern_meta())
        answer = await self.post(message, mcp_protocol_version=MODERN, mcp_method="tools/call", mcp_name=name)
        assert answer.status == 200, answer
        return answer.messages[-1]

    async def close(self) -> None:
        if self.streams:
            self.streams[1].close()
            with contextlib.suppress(OSError):
                await self.streams[1].wait_closed()
            self.streams = None


@dataclass(slots=True)
class LineClient:
    """A router (or server) as a child: JSON lines in and out, in a process group of its own."""

    process: asyncio.subprocess.Process
    received: list[Json] = field(default_factory=list)
    noise: list[bytes] = field(default_factory=list)
    changed: asyncio.Condition = field(default_factory=asyncio.Condition)
    ended: bool = False

    def send(self, message: Json | bytes) -> None:
        assert self.process.stdin
        self.process.stdin.write(message if isinstance(message, bytes) else json.dumps(message).encode() + b"\n")

    def close_input(self) -> None:
        assert self.process.stdin
        self.process.stdin.close()

    async def read_all(self) -> None:
        """Collect every line of stdout until it ends; what is not JSON goes to ``noise``."""
        assert self.process.stdout
        while line := await self.process.stdout.readline():
            async with self.changed:
                try:
                    self.received.append(json.loads(line))
                except ValueError:
                    self.noise.append(line)
                self.changed.notify_all()
        async with self.changed:
            self.ended = True
            self.changed.notify_all()

    async def answer(self, id: int | str | None, timeout: float = 30.0) -> Json:
        """The response with this id; ``None`` finds an error without one.

        Raises: TimeoutError; EOFError when stdout ended without it.
        """

        def find() -> Json | None:
            for message in self.received:
                if "method" not in message and message.get("id") == id and type(message.get("id")) is type(id):
                    return message
            return None

        async with asyncio.timeout(timeout), self.changed:
            await self.changed.wait_for(lambda: find() is not None or self.ended)
        found = find()
        if found is None:
            raise EOFError(f"stdout ended; received {self.received[-3:]}")
        return found

    async def open_legacy(self, **capabilities: Any) -> Json:
        self.send(initialize("hello", **capabilities))
        answer = await self.answer("hello")
        self.send(INITIALIZED)
        result: Json = answer["result"]
        return result


@contextlib.asynccontextmanager
async def child(command: Sequence[str], **extra: str) -> AsyncIterator[LineClient]:
    """A child speaking lines for the time of the block; its whole group is killed at the end."""
    process = await asyncio.create_subprocess_exec(
        *command,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
        limit=32 * 1024 * 1024,
        env=peers.environment(**extra),
        start_new_session=True,
    )
    client = LineClient(process)
    reading = asyncio.create_task(client.read_all())
    try:
        yield client
    finally:
        if process.returncode is None and process.stdin:
            process.stdin.close()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(8):
                    await process.wait()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await process.wait()
        reading.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await reading
