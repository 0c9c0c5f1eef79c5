"""The client side: says the steps one after the other over raw stdio or HTTP and keeps what it hears, stream by stream."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator, Iterable
from typing import Any, Protocol
from urllib.parse import urlsplit

from tests.differential.generate import VERSION, Step

PATIENCE = 15.0  # seconds for one answer
SDK_META = {
    "io.modelcontextprotocol/protocolVersion": VERSION["modern"],
    "io.modelcontextprotocol/clientCapabilities": {},
}
Heard = dict[str, list[bytes]]
"""Stream -> messages in their order. Over HTTP every POST is a stream of its own."""


def request(id: Any, method: str, **params: Any) -> bytes:
    return json.dumps({"jsonrpc": "2.0", "id": id, "method": method, "params": params}).encode()


def initialize() -> bytes:
    capabilities = {"roots": {"listChanged": True}, "sampling": {}, "elicitation": {}, "x-vendor": {"a": 1}}
    return request(
        "hello",
        "initialize",
        protocolVersion=VERSION["legacy"],
        capabilities=capabilities,
        clientInfo={"name": "differential", "version": "1"},
    )


INITIALIZED = b'{"jsonrpc":"2.0","method":"notifications/initialized","vendor":1}'
DISCOVER = request("hello", "server/discover", _meta=SDK_META)
LISTEN = request("listen", "subscriptions/listen", _meta=SDK_META, notifications={"toolsListChanged": True})


def reply_to(raw: bytes) -> bytes | None:
    """The answer that a question brings along; None for anything that is no question."""
    message = json.loads(raw)
    if "method" not in message or "id" not in message:
        return None
    id, reply = json.dumps(message["id"]), message["params"]["reply"]
    return f'{{"jsonrpc":"2.0","id":{id},{reply}}}'.encode()


class Talk(Protocol):
    """A client's connection."""

    heard: Heard
    said: int  # messages in all

    async def open(self, era: str) -> None: ...
    async def say(self, step: Step) -> None: ...
    async def close(self) -> None: ...


async def converse(talk: Talk, era: str, steps: Iterable[Step]) -> Heard:
    """Say everything and return what was heard."""
    try:
        await talk.open(era)
        for step in steps:
            try:
                async with asyncio.timeout(PATIENCE):
                    await talk.say(step)
            except TimeoutError:
                raise AssertionError(f"no full answer to {step!r}; last heard: {list(talk.heard.items())[-1]!r}") from None
        return talk.heard
    finally:
        await talk.close()


class Pipe:
    """A child's stdin and stdout: one stream each way."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.heard: Heard = {"pipe": []}
        self.said = 0

    async def open(self, era: str) -> None:
        self._write(initialize() if era == "legacy" else DISCOVER)
        await self._hear(1)
        if era == "legacy":
            self._write(INITIALIZED)
        else:
            self._write(LISTEN)
            await self._hear(1)

    async def say(self, step: Step) -> None:
        self._write(step.raw)
        await self._hear(step.is_request + step.call + step.free + step.listen)

    async def close(self) -> None:
        assert self.process.stdin
        self.process.stdin.close()
        try:
            async with asyncio.timeout(PATIENCE):
                await self.process.wait()
        except TimeoutError:
            self.process.kill()
            await self.process.wait()

    async def _hear(self, count: int) -> None:
        assert self.process.stdout
        for _ in range(count):
            line = (await self.process.stdout.readline()).strip()
            assert line, "the other side ended"
            self.heard["pipe"].append(line)
            answer = reply_to(line)
            if answer is not None:
                self._write(answer)

    def _write(self, raw: bytes) -> None:
        assert self.process.stdin
        self.said += 1
        self.process.stdin.write(raw + b"\n")


class Post:
    """One HTTP/1.1 connection, one request at a time."""

    def __init__(self, url: str) -> None:
        self._url = urlsplit(url)
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        self.headers: dict[str, str] = {}

    async def send(self, method: str, headers: dict[str, str], body: bytes = b"") -> AsyncIterator[bytes]:
        """The messages of the answer, as they come."""
        if self._streams is None:
            self._streams = await asyncio.open_connection(self._url.hostname, self._url.port, limit=1 << 24)
        reader, writer = self._streams
        given = {"host": f"localhost:{self._url.port}", "content-length": str(len(body)), **headers}
        head = "\r\n".join([f"{method} {self._url.path} HTTP/1.1", *(f"{k}: {v}" for k, v in given.items()), "", ""])
        writer.write(head.encode("latin-1") + body)
        lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        self.headers = {k.lower(): v.strip() for k, _, v in (line.partition(":") for line in lines[1:] if line)}
        status = int(lines[0].split()[1])
        if self.headers.get("transfer-encoding") == "chunked":
            assert status == 200
            async for message in self._events(reader):
                yield message
            return
        found = await reader.readexactly(int(self.headers.get("content-length", "0")))
        assert status < 300 or (found and "mcp-method" in headers), (status, found)  # modern errors have statuses of their own
        if found:
            yield found

    async def _events(self, reader: asyncio.StreamReader) -> AsyncIterator[bytes]:
        buffer = b""
        while size := int(await reader.readuntil(b"\r\n"), 16):
            buffer += (await reader.readexactly(size + 2))[:-2]
            buffer = buffer.replace(b":\r\n\r\n", b"")
            *whole, buffer = buffer.split(b"\n\n")
            for event in whole:
                data = [line[6:] for line in event.split(b"\n") if line.startswith(b"data: ")]
                if data and data[0]:
                    assert len(data) == 1
                    yield data[0]
        await reader.readexactly(2)

    def close(self) -> None:
        if self._streams is not None:
            self._streams[1].close()


class Http:
    """A Streamable HTTP client: a connection for calls, one for answers, one for the stream that lasts."""

    def __init__(self, url: str) -> None:
        self._calls, self._answers, self._lasting = Post(url), Post(url), Post(url)
        self.heard: Heard = {"lasting": []}
        self.said = 0
        self._task: asyncio.Task[None] | None = None
        self._base = {"content-type": "application/json", "accept": "application/json, text/event-stream"}
        self._expected = 0
        self._arrived = asyncio.Condition()
        self._answering = asyncio.Lock()
        self._era = ""

    async def open(self, era: str) -> None:
        self._era = era
        if era == "legacy":
            await self._post("hello", initialize(), {})
            self._base |= {"mcp-session-id": self._calls.headers["mcp-session-id"], "mcp-protocol-version": VERSION["legacy"]}
            await self._post("initialized", INITIALIZED, {})
            self._task = asyncio.create_task(self._last("GET", {"accept": "text/event-stream"}, b""))
        else:
            await self._post("hello", DISCOVER, self._modern("server/discover", None))
            self._task = asyncio.create_task(self._last("POST", self._modern("subscriptions/listen", None), LISTEN))
            await self._lasted(1)

    async def say(self, step: Step) -> None:
        headers = self._modern(step.method, step.name) if self._era == "modern" else {}
        name = f"post {len(self.heard)}"
        await self._post(name, step.raw, headers)
        assert len(self.heard[name]) == step.is_request + step.call, self.heard[name]
        await self._lasted(step.free + step.listen)

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        for connection in (self._calls, self._answers, self._lasting):
            connection.close()

    async def _post(self, name: str, raw: bytes, headers: dict[str, str]) -> None:
        self.heard[name] = []
        self.said += 1
        async for message in self._calls.send("POST", self._base | headers, raw):
            self.heard[name].append(message)
            await self._answer(message)

    async def _answer(self, message: bytes) -> None:
        answer = reply_to(message)
        if answer is not None:
            self.said += 1
            async with self._answering:
                assert [found async for found in self._answers.send("POST", self._base, answer)] == []

    async def _last(self, method: str, headers: dict[str, str], body: bytes) -> None:
        async for message in self._lasting.send(method, self._base | headers, body):
            await self._answer(message)
            async with self._arrived:
                self.heard["lasting"].append(message)
                self._arrived.notify_all()

    async def _lasted(self, count: int) -> None:
        """Wait until so many more messages came on the lasting stream."""
        self._expected += count
        async with self._arrived:
            while len(self.heard["lasting"]) < self._expected:
                if self._task is not None and self._task.done():
                    self._task.result()
                    raise AssertionError("the lasting stream ended")
                await self._arrived.wait()

    def _modern(self, method: str, name: str | None) -> dict[str, str]:
        named = {} if name is None else {"mcp-name": encoded(name)}
        return {"mcp-protocol-version": VERSION["modern"], "mcp-method": method, **named}


def encoded(name: str) -> str:
    """A name as a header value (SEP-2243)."""
    if name.isascii() and name == name.strip() and not name.startswith("=?base64?"):
        return name
    return f"=?base64?{base64.b64encode(name.encode()).decode()}?="
