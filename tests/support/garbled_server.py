"""An MCP server of one era whose answers are garbled on request, over any of the five protocols, bytes made by hand.

``tools/call`` and ``prompts/get`` with the name of a fault (``FAULTS``) are answered in its way; every other name is answered
well. With an argument ``once`` only whoever sees its value first answers badly, so that two replicas make one bad and one good
answer; and every execution is noted in the folder, for ``runs``.

    async with serving("websocket", "modern", folder) as target          in this process, but for stdio
    python garbled_server.py ERA FOLDER                                  over stdio
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import json
import os
import struct
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.support.mcpb_client import ACK, HEALTH, NEGOTIATE, REQUEST, RESPONSE, frame

Json = dict[str, Any]
HUGE = 11 << 20  # bytes; one more than a bridge takes
FILLER = b"x" * 65536
WEBSOCKET = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"

#: fault -> the messages in place of the answer ``good`` to the request ``id``
MESSAGES: dict[str, Callable[[Any, bytes], list[bytes]]] = {
    "no JSON": lambda id, good: [b"this is no JSON"],
    "broken JSON": lambda id, good: [b'{"jsonrpc":"2.0","id":%d,"result":{oops}}' % id],
    "no UTF-8": lambda id, good: [good[:-2] + b',"\xff":1}}'],
    "deep": lambda id, good: [b'{"jsonrpc":"2.0","id":%d,"result":' % id + b"[" * 100_000],
    "foreign id": lambda id, good: [good.replace(b'"id":%d' % id, b'"id":987654321')],
    "id of another kind": lambda id, good: [good.replace(b'"id":%d' % id, b'"id":"%d"' % id)],
    "no id": lambda id, good: [b'{"jsonrpc":"2.0","result":{}}'],
    "wrong version": lambda id, good: [good.replace(b'"2.0"', b'"1.0"')],
    "no version": lambda id, good: [good.replace(b'"jsonrpc":"2.0",', b"")],
    "neither": lambda id, good: [b'{"jsonrpc":"2.0","id":%d}' % id],
    "both": lambda id, good: [good[:-1] + b',"error":{"code":1,"message":"x"}}'],
    "error of no form": lambda id, good: [b'{"jsonrpc":"2.0","id":%d,"error":"oops"}' % id],
    "a list": lambda id, good: [b"[1,2,3]"],
    "huge": lambda id, good: [b'{"jsonrpc":"2.0","id":%d,"result":"%s"}' % (id, b"x" * HUGE)],
    "never": lambda id, good: [],
}
ENDINGS = ("cut", "endless", "closes")  # of the conversation: in half an answer, in an answer without an end, before it
HARMLESS = {
    "twice": lambda id, good: [good, good],
    "unasked": lambda id, good: [b'{"jsonrpc":"2.0","id":77777,"result":{}}', b'{"jsonrpc":"2.0","method":"x/y"}', good],
}
FAULTS = (*MESSAGES, *ENDINGS)


class Mind:
    """What is answered, whatever carries it."""

    def __init__(self, era: str, folder: Path) -> None:
        self.era = era
        self.folder = folder

    def answer(self, request: Json) -> tuple[str | None, list[bytes]]:
        """How the conversation goes on (one of ``ENDINGS``, or None) and the messages of the answer."""
        method, params, id = request["method"], request.get("params", {}), request["id"]
        good = json.dumps({"jsonrpc": "2.0", "id": id} | self.outcome(method), separators=(",", ":")).encode()
        if method not in ("tools/call", "prompts/get"):
            return None, [good]
        name, once = params.get("name"), params.get("arguments", {}).get("once")
        if once is not None:
            with (self.folder / f"{once}.runs").open("a") as runs:
                runs.write("x")
            try:
                os.close(os.open(self.folder / f"{once}.seen", os.O_CREAT | os.O_EXCL))
            except FileExistsError:
                return None, [good]
        if name in ENDINGS:
            return name, [good]
        found = MESSAGES.get(name) or HARMLESS.get(name)
        return None, found(id, good) if found is not None else [good]

    def outcome(self, method: str) -> Json:
        complete = {"resultType": "complete"} if self.era == "modern" else {}
        match self.era, method:
            case "legacy", "initialize":
                capabilities = {"tools": {}, "prompts": {}}
                info = {"name": "garbled", "version": "1"}
                return {"result": {"protocolVersion": "2025-11-25", "capabilities": capabilities, "serverInfo": info}}
            case "modern", "server/discover":
                found = {"supportedVersions": ["2026-07-28"], "capabilities": {"tools": {}, "prompts": {}}}
                return {"result": {**complete, **found, "ttlMs": 0, "cacheScope": "private"}}
            case _, "tools/call":
                return {"result": {**complete, "content": [{"type": "text", "text": "well"}]}}
            case _, "prompts/get":
                said = {"role": "user", "content": {"type": "text", "text": "well"}}
                return {"result": {**complete, "messages": [said]}}
            case _, "tools/list":
                listed = {"ttlMs": 0, "cacheScope": "private"} if complete else {}
                return {"result": {**complete, **listed, "tools": [{"name": "t", "inputSchema": {"type": "object"}}]}}
            case "legacy", "ping":
                return {"result": {}}
        return {"error": {"code": -32601, "message": f"Method not found: {method}"}}


def runs(folder: Path, once: str) -> int:
    """How often the call with this value of ``once`` was executed."""
    path = folder / f"{once}.runs"
    return path.stat().st_size if path.exists() else 0


class Wire:
    """One conversation's way down. ``whole`` frames a message; a half and an endless one are its pieces."""

    def __init__(self, writer: asyncio.StreamWriter) -> None:
        self.writer = writer

    def whole(self, message: bytes) -> bytes:
        raise NotImplementedError

    def half(self, message: bytes) -> bytes:
        whole = self.whole(message)
        return whole[: len(whole) - len(message) // 2]

    def endless(self) -> tuple[bytes, bytes]:
        """How an answer without an end begins, and how it goes on."""
        raise NotImplementedError

    async def say(self, ending: str | None, messages: list[bytes]) -> bool:
        """Answer. False: the conversation is over."""
        if ending == "cut":
            self.writer.write(self.half(messages[0]))
        elif ending == "endless":
            begin, more = self.endless()
            self.writer.write(begin)
            while not self.writer.is_closing():
                self.writer.write(more)
                await self.writer.drain()
        elif ending is None:
            for message in messages:
                self.writer.write(self.whole(message))
        await self.writer.drain()
        return ending is None


class Line(Wire):
    def whole(self, message: bytes) -> bytes:
        return message + b"\n"

    def endless(self) -> tuple[bytes, bytes]:
        return b'{"jsonrpc":"2.0","id":1,"result":"', FILLER


class Socket(Wire):
    def whole(self, message: bytes) -> bytes:
        size = len(message)
        if size < 126:
            return bytes([0x81, size]) + message
        return (struct.pack(">BBH", 0x81, 126, size) if size < 65536 else struct.pack(">BBQ", 0x81, 127, size)) + message

    def endless(self) -> tuple[bytes, bytes]:
        return b"\x01\x01x", b"\x00\x7f" + struct.pack(">Q", len(FILLER)) + FILLER


class Frames(Wire):
    def whole(self, message: bytes) -> bytes:
        return frame(RESPONSE, message)

    def endless(self) -> tuple[bytes, bytes]:
        return frame(RESPONSE, b"", length=0xFFFFFFF0), FILLER


class Events(Wire):
    """A chunked event stream: HTTP+SSE's, or that of one answer (``is_one``)."""

    def __init__(self, writer: asyncio.StreamWriter, *, is_one: bool = False) -> None:
        super().__init__(writer)
        self.is_one = is_one

    def whole(self, message: bytes) -> bytes:
        return chunk(b"event: message\ndata: " + message + b"\n\n")

    def half(self, message: bytes) -> bytes:
        return chunk(b"event: message\ndata: " + message[: len(message) // 2])

    def endless(self) -> tuple[bytes, bytes]:
        return chunk(b"event: message\ndata: "), chunk(FILLER)

    async def say(self, ending: str | None, messages: list[bytes]) -> bool:
        if not self.is_one:
            return await super().say(ending, messages)
        self.writer.write(head(200, "text/event-stream", "transfer-encoding: chunked"))
        if not messages:
            await asyncio.Event().wait()
        goes_on = await super().say(ending, messages)
        if goes_on:
            self.writer.write(b"0\r\n\r\n")
        return goes_on


class Bodies(Wire):
    """Answers of Streamable HTTP as JSON: one message each, whatever the fault makes."""

    def whole(self, message: bytes) -> bytes:
        return head(200, "application/json", f"content-length: {len(message)}") + message

    def endless(self) -> tuple[bytes, bytes]:
        return head(200, "application/json", "transfer-encoding: chunked"), chunk(FILLER)

    async def say(self, ending: str | None, messages: list[bytes]) -> bool:
        if ending is None and not messages:
            await asyncio.Event().wait()
        return await super().say(ending, messages)


def head(status: int, kind: str, *fields: str) -> bytes:
    return "\r\n".join([f"HTTP/1.1 {status} X", f"content-type: {kind}", *fields, "", ""]).encode()


def chunk(data: bytes) -> bytes:
    return f"{len(data):x}\r\n".encode() + data + b"\r\n"


async def read_http(reader: asyncio.StreamReader) -> tuple[str, str, dict[str, str], bytes]:
    """Method, target, fields and body of a request."""
    lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    method, target, _ = lines[0].split(" ")
    fields = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:])}
    return method, target, fields, await reader.readexactly(int(fields.get("content-length", "0")))


class Listener:
    """The four protocols with an address."""

    def __init__(self, over: str, mind: Mind) -> None:
        self.serve = {
            "websocket": self.websocket,
            "http": self.http,
            "http-stream": self.http,
            "sse": self.sse,
            "tcp_binary": self.tcp_binary,
        }[over]
        self.over = over
        self.mind = mind
        self.streams: dict[str, Events] = {}

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
                await self.serve(reader, writer)
            writer.close()
        except BaseException:
            writer.transport.abort()
            raise

    async def take(self, wire: Wire, raw: bytes) -> bool:
        """Answer one message, if it is a request. False: the conversation is over."""
        message = json.loads(raw)
        return "id" not in message or "method" not in message or await wire.say(*self.mind.answer(message))

    async def websocket(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        _, _, fields, _ = await read_http(reader)
        if "sec-websocket-key" not in fields:  # somebody looks for a health path
            writer.write(b"HTTP/1.1 404 X\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
            return
        accept = base64.b64encode(hashlib.sha1((fields["sec-websocket-key"] + WEBSOCKET).encode()).digest()).decode()
        hello = [f"sec-websocket-accept: {accept}", "upgrade: websocket", "connection: upgrade", "sec-websocket-protocol: mcp"]
        writer.write("\r\n".join(["HTTP/1.1 101 X", *hello, "", ""]).encode())
        wire = Socket(writer)
        while True:
            first, size = await reader.readexactly(2)
            size &= 0x7F
            if size >= 126:
                size = int.from_bytes(await reader.readexactly(2 if size == 126 else 8))
            mask = await reader.readexactly(4)
            data = bytes(byte ^ mask[at % 4] for at, byte in enumerate(await reader.readexactly(size)))
            if first & 0x0F == 1 and not await self.take(wire, data):
                return
            if first & 0x0F == 8:
                return

    async def http(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        wire = Events(writer, is_one=True) if self.over == "http-stream" else Bodies(writer)
        while True:
            method, _, _, body = await read_http(reader)
            message = json.loads(body) if body else {}
            if method != "POST":
                writer.write(head(405 if method == "GET" else 200, "text/plain", "content-length: 0"))
            elif "id" not in message or "method" not in message:
                writer.write(head(202, "text/plain", "content-length: 0"))
            elif message["method"] == "initialize" and self.mind.era == "legacy":
                [hello] = self.mind.answer(message)[1]
                fields = (f"content-length: {len(hello)}", f"mcp-session-id: {os.urandom(8).hex()}")
                writer.write(head(200, "application/json", *fields) + hello)
            elif not await self.take(wire, body):
                return

    async def sse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            method, target, _, body = await read_http(reader)
            if method == "GET":
                name = f"/messages?s={len(self.streams)}"
                self.streams[name] = Events(writer)
                writer.write(head(200, "text/event-stream", "transfer-encoding: chunked"))
                writer.write(chunk(f"event: endpoint\ndata: {name}\n\n".encode()))
                await reader.read()
                return
            writer.write(head(202, "text/plain", "content-length: 0"))
            stream = self.streams[target]
            if not await self.take(stream, body):
                stream.writer.close()

    async def tcp_binary(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        wire = Frames(writer)
        while True:
            _, _, kind, size = struct.unpack(">4sHHI", await reader.readexactly(12))
            payload = await reader.readexactly(size)
            if kind == NEGOTIATE:
                writer.write(frame(ACK, {"agreed_version": 1}))
            elif kind == HEALTH:
                writer.write(frame(HEALTH, payload))
            elif kind == REQUEST and not await self.take(wire, payload):
                return


URLS = {"websocket": "ws://{}/ws", "sse": "sse://{}/sse", "tcp_binary": "tcp://{}"}


def endpoint(over: str, address: str) -> Json:
    """An endpoint of the configuration for a server at ``host:port``."""
    return {"url": URLS.get(over, "http://{}/mcp").format(address), "protocol": over.removesuffix("-stream")}


@contextlib.asynccontextmanager
async def listening(over: str, mind: Mind, port: int = 0) -> AsyncIterator[str]:
    """A server in this process; gives its ``host:port``."""
    tasks: set[asyncio.Task[None]] = set()
    listener = Listener(over, mind)

    def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.ensure_future(listener(reader, writer))
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    server = await asyncio.start_server(connected, "127.0.0.1", port, limit=1 << 20)
    try:
        yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        for task in list(tasks):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@contextlib.asynccontextmanager
async def serving(over: str, era: str, folder: Path) -> AsyncIterator[Json]:
    """A server, as an endpoint of the configuration: its url, or its command over stdio."""
    if over == "stdio":
        yield {"command": sys.executable, "args": [__file__, era, str(folder)]}
        return
    async with listening(over, Mind(era, folder)) as address:
        yield endpoint(over, address)


def over_stdio(mind: Mind) -> None:
    """Serve stdin and stdout until a fault ends it, or our client does."""

    def say(data: bytes) -> None:
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()

    line = Line(None)  # type: ignore[arg-type]
    for raw in sys.stdin.buffer:
        message = json.loads(raw)
        if "id" not in message or "method" not in message:
            continue
        ending, messages = mind.answer(message)
        if ending == "cut":
            say(line.half(messages[0]).rstrip(b"\n"))
        while ending == "endless":
            say(FILLER)
        if ending is not None:
            return
        for one in messages:
            say(line.whole(one))


if __name__ == "__main__":
    over_stdio(Mind(sys.argv[1], Path(sys.argv[2])))
