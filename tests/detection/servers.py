"""Small real servers for the detection bench: each answers as one kind of program does, counts what is done to it.

A ``Behaviour`` answers HTTP requests; ``http`` serves it in one of several shapes. The others are coroutines over a connection.
"""

from __future__ import annotations

import asyncio
import gzip
import json
import socket
import struct
from collections.abc import Awaitable, Callable
from typing import Any

from mcpbridge.errors import BridgeError
from mcpbridge.wire import mcpb
from mcpbridge.wire.websocket import accept_of
from tests.detection.wires import INFO, Answer, Counts, Json, Request, Serve, Wire

HTML = b"<!doctype html><title>It works</title><p>a page, whatever the path"

Behaviour = Callable[[Request, Counts], Awaitable[Answer | None]]  # None: never answers


def result(request: Request, value: Any) -> bytes:
    return json.dumps({"jsonrpc": "2.0", "id": request.message.get("id"), "result": value}).encode()


def error(id: Any, code: int, text: str = "no", **data: Any) -> bytes:
    return json.dumps(
        {"jsonrpc": "2.0", "id": id, "error": {"code": code, "message": text, **({"data": data} if data else {})}}
    ).encode()


def discovered(*versions: str) -> Json:
    return {
        "resultType": "complete",
        "supportedVersions": list(versions or ("2026-07-28",)),
        "capabilities": {"tools": {}},
        "ttlMs": 0,
        "cacheScope": "public",
    }


def initialized(version: str = "2025-06-18") -> Json:
    return {"protocolVersion": version, "capabilities": {"tools": {}}, "serverInfo": INFO}


def method_of(request: Request, counts: Counts) -> str:
    method = str(request.message.get("method", ""))
    if method not in ("", "server/discover", "initialize", "ping", "notifications/initialized"):
        counts.calls += 1
    return method


# HTTP


def http(behave: Behaviour) -> Serve:
    """Serve a behaviour over HTTP/1.1 in the wire's shape."""

    async def serve(wire: Wire) -> None:
        while True:
            head = (await wire.reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
            method, path, _version = head[0].split(" ")
            headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:] if line)}
            body = await wire.reader.readexactly(int(headers.get("content-length", 0)))
            wire.counts.requests += 1
            request = Request(method, path, headers, body)
            answer = await behave(request, wire.counts)
            if answer is None:
                await wire.gone()
                return
            await write(wire, answer)
            if answer.stream is not None:
                streaming = asyncio.ensure_future(answer.stream(wire.send))
                await wire.gone()
                streaming.cancel()
                return
            if wire.shape.close or wire.shape.old or answer.status == 101:
                return

    return serve


async def write(wire: Wire, answer: Answer, *, close: bool = False) -> None:
    shape = wire.shape
    fields = {"content-type": answer.kind, **answer.headers}
    body = answer.body
    if shape.packed and body:
        body, fields["content-encoding"] = gzip.compress(body), "gzip"
    is_open = answer.stream is not None
    if answer.status == 101 or answer.status == 204:
        pass
    elif shape.chunked and not shape.old and not is_open:
        fields["transfer-encoding"] = "chunked"
        body = (
            b"".join(b"%x\r\n%b\r\n" % (len(body[at : at + 20]), body[at : at + 20]) for at in range(0, len(body), 20))
            + b"0\r\n\r\n"
        )
    elif not is_open and not shape.old:
        fields["content-length"] = str(len(body))
    if shape.close or close:
        fields["connection"] = "close"
    lines = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    await wire.send(f"HTTP/1.{0 if shape.old else 1} {answer.status} X\r\n{lines}\r\n".encode() + body)


def legacy(on_discover: Behaviour | None = None, *, sse: bool = False, path: str = "/mcp", sessions: bool = True) -> Behaviour:
    """Streamable HTTP of 2025; ``on_discover`` answers what comes before initialize."""

    async def behave(request: Request, counts: Counts) -> Answer | None:
        if request.path != path:
            return Answer(404, b"not found", "text/plain")
        if request.method == "DELETE":
            counts.sessions.discard(request.headers.get("mcp-session-id", ""))
            return Answer(204)
        if request.method != "POST":
            return Answer(405, b"", "text/plain", {"allow": "POST, DELETE"})
        method = method_of(request, counts)
        if method == "initialize":
            headers = {}
            if sessions:
                session = f"s{counts.requests}-{len(counts.sessions)}"
                counts.sessions.add(session)
                headers["mcp-session-id"] = session
            body = result(request, initialized())
            if sse:
                return Answer(200, b": hi\n\nid: 1\ndata:\n\nevent: message\ndata: %b\n\n" % body, "text/event-stream", headers)
            return Answer(200, body, headers=headers)
        if on_discover is not None:
            return await on_discover(request, counts)
        return Answer(400, error(None, -32000, "Bad Request: No valid session ID provided"))

    return behave


def says(status: int, body: bytes = b"", kind: str = "text/plain", **headers: str) -> Behaviour:
    """The same answer to everything."""

    async def behave(request: Request, counts: Counts) -> Answer:
        method_of(request, counts)
        return Answer(status, body, kind, {name.replace("_", "-"): value for name, value in headers.items()})

    return behave


async def hangs(_request: Request, _counts: Counts) -> None:
    return None


async def unknown_method(request: Request, _counts: Counts) -> Answer:
    return Answer(200, error(request.message.get("id"), -32601, "Method not found"))


async def executes_anything(request: Request, _counts: Counts) -> Answer:
    return Answer(200, result(request, {"content": [{"type": "text", "text": "done"}]}))


def modern(
    hello: Json | None = None,
    *,
    sse: bool = False,
    path: str = "/mcp",
    refusal: str = "version",
    refuse_discover: Json | None = None,
) -> Behaviour:
    """Streamable HTTP of 2026. ``refusal``: how it answers initialize."""

    async def behave(request: Request, counts: Counts) -> Answer | None:
        if request.path != path:
            return Answer(404, b"not found", "text/plain")
        if request.method != "POST":
            return Answer(405, b"", "text/plain")
        id = request.message.get("id")
        if method_of(request, counts) == "server/discover":
            if request.headers.get("mcp-method") != "server/discover" or "mcp-protocol-version" not in request.headers:
                return Answer(400, error(id, -32020, "Header mismatch"))
            if refuse_discover is not None:
                return Answer(400, json.dumps({"jsonrpc": "2.0", "id": id, "error": refuse_discover}).encode())
            body = result(request, hello or discovered())
            if sse:
                return Answer(200, b":\r\n\r\n: keep-alive\r\n\r\ndata: %b\r\n\r\n" % body, "text/event-stream")
            return Answer(200, body)
        if refusal == "version":
            return Answer(400, error(id, -32022, "Unsupported", supported=["2026-07-28"], requested="2025-11-25"))
        if refusal == "method":
            return Answer(404, error(id, -32601, "Method not found"))
        return Answer(400, b"", "text/plain")

    return behave


def dual() -> Behaviour:
    old, new = legacy(), modern(discovered("2026-07-28", "2025-11-25", "2025-06-18"))

    async def behave(request: Request, counts: Counts) -> Answer | None:
        return await (new if request.message.get("method") == "server/discover" else old)(request, counts)

    return behave


def events(
    endpoint: str = "/messages?session=1",
    *,
    path: str = "/sse",
    delay: float = 0.0,
    before: bytes = b"",
    name: str = "endpoint",
    post: int = 405,
) -> Behaviour:
    """HTTP+SSE of 2024-11-05. ``endpoint`` "" never comes."""

    async def behave(request: Request, counts: Counts) -> Answer | None:
        method_of(request, counts)
        if request.path != path:
            return Answer(404, b"not found", "text/plain")
        if request.method != "GET":
            return Answer(post, b"no", "text/plain")

        async def stream(send: Callable[[bytes], Awaitable[None]]) -> None:
            if before:
                await send(before)
            if delay:
                await asyncio.sleep(delay)
            if endpoint:
                where = endpoint.replace("HOST", request.headers.get("host", ""))
                await send(f"event: {name}\ndata: {where}\n\n".encode())

        return Answer(200, b"", "text/event-stream", stream=stream)

    return behave


def first_of(*parts: Behaviour) -> Behaviour:
    """The first behaviour that does not say 404 or 405."""

    async def behave(request: Request, counts: Counts) -> Answer | None:
        answer: Answer | None = None
        for part in parts:
            answer = await part(request, counts)
            if answer is None or answer.status not in (404, 405):
                return answer
        return answer

    return behave


# Duplex


def replies(kind: str, *, hello: Json | None = None) -> Callable[[Json, Counts], bytes | None]:
    """How a server over a duplex transport answers one message: "modern", "legacy", "dual", "silent", "echo", "foreign"."""

    def reply(message: Json, counts: Counts) -> bytes | None:
        method, id = message.get("method"), message.get("id")
        if method not in ("server/discover", "initialize"):
            counts.calls += 1
        if kind == "silent" or (kind == "deaf" and method == "server/discover"):
            return None
        if kind == "echo":
            return json.dumps(message).encode()
        if kind == "foreign":
            return error(id, -32601, "Method not found")
        if method == "server/discover" and kind in ("modern", "dual"):
            value = hello or (discovered() if kind == "modern" else discovered("2026-07-28", "2025-11-25"))
            return json.dumps({"jsonrpc": "2.0", "id": id, "result": value}).encode()
        if method == "initialize" and kind in ("legacy", "dual", "deaf"):
            return json.dumps({"jsonrpc": "2.0", "id": id, "result": initialized()}).encode()
        return error(id, -32601, "Method not found")

    return reply


def websocket(
    kind: str,
    *,
    path: str = "/mcp",
    subprotocol: bool = False,
    accept: str = "",
    banner: str = "",
    otherwise: Behaviour | None = None,
) -> Serve:
    """A WebSocket server; ``otherwise`` answers what is no upgrade, or another path."""
    reply = replies(kind)

    async def serve(wire: Wire) -> None:
        head = (await wire.reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        method, where, _ = head[0].split(" ")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:] if line)}
        body = await wire.reader.readexactly(int(headers.get("content-length", 0)))
        wire.counts.requests += 1
        if headers.get("upgrade") != "websocket" or where != path:
            answer = await (otherwise or says(426, b"upgrade", upgrade="websocket") if where == path else says(404))(
                Request(method, where, headers, body), wire.counts
            )
            if answer is None:
                await wire.gone()
                return
            await write(wire, answer, close=True)
            return
        if subprotocol and headers.get("sec-websocket-protocol") != "mcp":
            await write(wire, Answer(400, b"subprotocol mcp"))
            return
        fields = {
            "upgrade": "websocket",
            "connection": "Upgrade",
            "sec-websocket-accept": accept or accept_of(headers["sec-websocket-key"]),
        }
        if subprotocol:
            fields["sec-websocket-protocol"] = "mcp"
        await write(wire, Answer(101, headers=fields))
        if banner:
            await wire.send(_frame(banner.encode()))
        while True:
            opcode, payload = await _read_frame(wire.reader)
            if opcode == 8:
                return
            if opcode == 10:
                continue  # the answer to our ping
            said = reply(json.loads(payload), wire.counts)
            if said is not None:
                await wire.send(_frame(said))

    return serve


def _frame(payload: bytes) -> bytes:
    half = len(payload) // 2  # in two fragments with a ping between

    def one(first: int, part: bytes) -> bytes:
        return (
            bytes((first, len(part))) + part if len(part) < 126 else bytes((first, 126)) + struct.pack(">H", len(part)) + part
        )

    return one(0x01, payload[:half]) + one(0x89, b"ping") + one(0x80, payload[half:])


async def _read_frame(reader: asyncio.StreamReader) -> tuple[int, bytes]:
    first, second = await reader.readexactly(2)
    assert second & 0x80, "a client masks"
    length = second & 0x7F
    if length == 126:
        length = struct.unpack(">H", await reader.readexactly(2))[0]
    mask = await reader.readexactly(4)
    data = await reader.readexactly(length)
    return first & 15, bytes(byte ^ mask[at % 4] for at, byte in enumerate(data))


def binary(kind: str, *, answer: bytes | None = None, auth: bool = False) -> Serve:
    """MCPB; ``answer``: the bytes said to the negotiation instead of an ack."""
    reply = replies(kind)

    async def serve(wire: Wire) -> None:
        reader = mcpb.FrameReader()
        while True:
            data = await wire.reader.read(65536)
            if not data:
                return
            reader.feed(data)
            while (frame := reader.next()) is not None:
                if frame.kind == mcpb.NEGOTIATE:
                    await wire.send(answer if answer is not None else mcpb.AGREED)
                elif auth:
                    await wire.send(mcpb.refuse(BridgeError("unauthorized", "sign in")))
                    return
                elif frame.kind == mcpb.REQUEST and (said := reply(json.loads(frame.payload), wire.counts)) is not None:
                    await wire.send(mcpb.encode(mcpb.RESPONSE, said))

    return serve


def lines(kind: str, *, noise: bytes = b"", bom: bool = False, ends: bytes = b"\n", leaves: bool = False) -> Serve:
    """JSON lines. ``noise`` comes before the first answer; ``leaves``: it ends when the first message is no initialize."""
    reply = replies(kind)

    async def serve(wire: Wire) -> None:
        first = True
        while True:
            message = json.loads(await wire.line())
            if leaves and first and message.get("method") != "initialize":
                return
            said = reply(message, wire.counts)
            if said is not None:
                await wire.send((noise if first else b"") + (b"\xef\xbb\xbf" if bom and first else b"") + said + ends)
            first = False

    return serve


# Foreign programs


def banner(text: bytes, answer: bytes = b"") -> Serve:
    """Speaks first, then answers anything with ``answer`` and leaves."""

    async def serve(wire: Wire) -> None:
        if text:
            await wire.send(text)
        await wire.reader.read(1)
        if answer:
            await wire.send(answer)

    return serve


async def echo(wire: Wire) -> None:
    while data := await wire.reader.read(4096):
        await wire.send(data)


async def black_hole(wire: Wire) -> None:
    while await wire.reader.read(4096):
        pass


async def flood(wire: Wire) -> None:
    while True:
        wire.writer.write(b"x" * 65536)
        await wire.writer.drain()


async def resets(wire: Wire) -> None:
    sock = wire.writer.get_extra_info("socket")
    await wire.reader.read(1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    wire.writer.transport.abort()


async def resets_at_once(wire: Wire) -> None:
    sock = wire.writer.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    wire.writer.transport.abort()


def alternately(*parts: Serve) -> Serve:
    """Several replicas behind one address, one connection each in turn."""
    turn = 0

    async def serve(wire: Wire) -> None:
        nonlocal turn
        turn += 1
        await parts[turn % len(parts)](wire)

    return serve
