"""A server that says what it is told to: every message brings the bytes it is answered with. Speaks raw stdio and HTTP.

    python server.py --log FILE [--http] [--modern]

A message's ``params.plan`` is ``{"say": [{"on", "text", "wait"}, ...], "answer", "after"}``: texts are written as they are, on
the stream of the call, the free or the listen stream; ``@ID@``, ``@TOKEN@`` and ``@SUB@`` become the ids this server was given.
What it receives goes to the log, one line each: the conversation, a space, base64 of the bytes. Only the standard library.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import json
import os
import sys
from collections.abc import Callable
from typing import Any

DISCOVER = {
    "resultType": "complete",
    "supportedVersions": ["2026-07-28"],
    "capabilities": {"tools": {}, "resources": {}, "prompts": {}},
    "ttlMs": 0,
    "cacheScope": "private",
}
Write = Callable[[bytes], None]


class Conversation:
    """One client: a child's pipe, a legacy HTTP session, or all modern HTTP clients."""

    def __init__(self, name: str, log: Any, modern: bool, free: Write) -> None:
        self.name = name
        self.log = log
        self.modern = modern
        self.free = free
        self.listen: tuple[Write, str] | None = None
        self.answers: dict[str, asyncio.Future[None]] = {}

    def received(self, raw: bytes) -> Any:
        """Note a message; an answer goes to its question at once. Returns it parsed."""
        self.log.write(f"{self.name} {base64.b64encode(raw).decode()}\n")
        self.log.flush()
        message = json.loads(raw)
        if "method" not in message and (waiting := self.answers.pop(json.dumps(message["id"]), None)):
            waiting.set_result(None)
        return message

    async def handle(self, message: Any, call: Write) -> None:
        """Do what a request or notification says; the last thing said on ``call`` is the answer."""
        params = message.get("params") or {}
        plan = params.get("plan") or {}
        id = json.dumps(message.get("id"))
        token = json.dumps((params.get("_meta") or {}).get("progressToken"))
        await self.say(plan.get("say", []), call, id, token)
        if "id" not in message:
            return
        if message["method"] == "subscriptions/listen" and self.modern:
            self.listen = (call, id)
            meta = {"io.modelcontextprotocol/subscriptionId": message["id"]}
            note = {"method": "notifications/subscriptions/acknowledged", "params": {"_meta": meta, "notifications": {}}}
            call(json.dumps({"jsonrpc": "2.0", **note}).encode())
            return
        answer = plan.get("answer") or own(message, self.modern)
        call(answer.replace("@ID@", id).encode())
        await self.say(plan.get("after", []), call, id, token)

    async def say(self, items: list[Any], call: Write, id: str, token: str) -> None:
        for item in items:
            write, sub = {"call": (call, ""), "free": (self.free, ""), "listen": self.listen or (call, "")}[item["on"]]
            waiting = None
            if item.get("wait"):
                waiting = self.answers[item["wait"]] = asyncio.get_running_loop().create_future()
            write(item["text"].replace("@ID@", id).replace("@TOKEN@", token).replace("@SUB@", sub).encode())
            if waiting is not None:
                await waiting


def own(message: Any, modern: bool) -> str:
    """The answer to a message without a plan: the handshakes, and what a bridge asks for itself."""
    method = message["method"]
    if method == "initialize" and not modern:
        said = {
            "protocolVersion": message["params"]["protocolVersion"],
            "capabilities": {"tools": {"listChanged": True}, "resources": {"subscribe": True}, "logging": {}, "x-vendor": {}},
            "serverInfo": {"name": "scripted", "version": "1.0", "vendor": 1.50},
        }
    elif method == "server/discover" and modern:
        said = DISCOVER
    elif method == "tools/list":
        said = {"tools": []} | ({"resultType": "complete", "ttlMs": 0, "cacheScope": "private"} if modern else {})
    else:
        error = {"code": -32601, "message": f"Method not found: {method}"}
        return '{"jsonrpc":"2.0","id":@ID@,"error":' + json.dumps(error) + "}"
    return '{"jsonrpc":"2.0","id":@ID@,"result":' + json.dumps(said) + "}"


async def stdio(log: Any, modern: bool) -> None:
    reader = asyncio.StreamReader(limit=1 << 24)
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)

    def write(text: bytes) -> None:
        sys.stdout.buffer.write(text + b"\n")
        sys.stdout.buffer.flush()

    talk = Conversation(f"pipe-{os.getpid()}", log, modern, write)
    todo: asyncio.Queue[Any] = asyncio.Queue()

    async def work() -> None:
        while True:
            await talk.handle(await todo.get(), write)

    worker = asyncio.create_task(work())
    while line := await reader.readline():
        message = talk.received(line.strip())
        if "method" in message:
            todo.put_nowait(message)
    worker.cancel()


class Http:
    """Streamable HTTP, as little of it as both eras need."""

    def __init__(self, log: Any, modern: bool) -> None:
        self.log = log
        self.modern = modern
        self.talks: dict[str, Conversation] = {}
        self.boxes: dict[str, asyncio.Queue[bytes]] = {}

    def open(self, name: str) -> Conversation:
        box = self.boxes[name] = asyncio.Queue()
        talk = self.talks[name] = Conversation(name, self.log, self.modern, box.put_nowait)
        return talk

    async def connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                lines = head.decode("latin-1").split("\r\n")
                headers = {k.lower(): v.strip() for k, _, v in (line.partition(":") for line in lines[1:] if line)}
                body = await reader.readexactly(int(headers.get("content-length", "0")))
                await self.request(lines[0].split()[0], headers, body, writer)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    async def request(self, method: str, headers: dict[str, str], body: bytes, writer: asyncio.StreamWriter) -> None:
        name = "modern" if self.modern else headers.get("mcp-session-id", "")
        extra: list[str] = []
        if method == "POST" and not self.modern and json.loads(body).get("method") == "initialize":
            name = f"session-{len(self.talks) + 1}"
            extra = [f"mcp-session-id: {name}"]
        talk = self.talks.get(name) or (self.open(name) if extra or self.modern else None)
        if talk is None or (self.modern and method != "POST"):
            reply(writer, 405 if self.modern else 400 if not name else 404)
            return
        if method == "DELETE":
            reply(writer, 200)
        elif method == "GET":
            await self.stream(name, writer)
        else:
            await self.post(talk, body, extra, writer)

    async def post(self, talk: Conversation, body: bytes, extra: list[str], writer: asyncio.StreamWriter) -> None:
        message = talk.received(body)
        if "method" not in message or "id" not in message:
            if "method" in message:
                await talk.handle(message, lambda _text: None)
            reply(writer, 202)
            return
        said: list[bytes] = []
        started = False
        plan = (message.get("params") or {}).get("plan") or {}
        lasts = message["method"] == "subscriptions/listen"
        streams = lasts or any(item["on"] == "call" for item in plan.get("say", []))

        def write(text: bytes) -> None:
            nonlocal started
            if not streams:
                said.append(text)
                return
            if not started:
                started = True
                start(writer)
            event(writer, text)

        await talk.handle(message, write)
        if lasts:
            await asyncio.Event().wait()
        if streams:
            writer.write(b"0\r\n\r\n")
        else:
            reply(writer, 200, said[-1], extra)

    async def stream(self, name: str, writer: asyncio.StreamWriter) -> None:
        start(writer)
        while True:
            event(writer, await self.boxes[name].get())
            await writer.drain()


def reply(writer: asyncio.StreamWriter, status: int, body: bytes = b"", extra: list[str] | None = None) -> None:
    lines = [f"HTTP/1.1 {status} X", "content-type: application/json", f"content-length: {len(body)}", *(extra or []), "", ""]
    writer.write("\r\n".join(lines).encode() + body)


def start(writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n")


def event(writer: asyncio.StreamWriter, text: bytes) -> None:
    data = b"data: " + text + b"\n\n"
    writer.write(b"%x\r\n%s\r\n" % (len(data), data))


async def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--log", required=True)
    parser.add_argument("--http", action="store_true")
    parser.add_argument("--modern", action="store_true")
    options = parser.parse_args()
    with open(options.log, "a") as log:
        if not options.http:
            await stdio(log, options.modern)
            return
        server = await asyncio.start_server(Http(log, options.modern).connection, "127.0.0.1", 0, limit=1 << 24)
        print(json.dumps({"port": server.sockets[0].getsockname()[1]}), flush=True)
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main())
