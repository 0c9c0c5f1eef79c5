"""An echo MCP server over Streamable HTTP, both eras: a raw asyncio Protocol, httptools, uvloop.

echo_http.py PORT [SHORTEST LONGEST]     listens on 127.0.0.1, prints ``ready`` when it does

A call of a tool takes a time between SHORTEST and LONGEST milliseconds, evenly spread; none when they are not given.
"""

from __future__ import annotations

import asyncio
import itertools
import random
import sys
from typing import cast

import httptools
import msgspec
import uvloop
from echo import answer

_sessions = itertools.count(1)
_chance = random.Random(1)
_spread = (float(sys.argv[2]) / 1000, float(sys.argv[3]) / 1000) if len(sys.argv) == 4 else None  # seconds


class EchoConnection(asyncio.Protocol):
    """One client connection; requests are answered as soon as their body is complete, in order."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.parser = httptools.HttpRequestParser(self)
        self.body = b""

    def data_received(self, data: bytes) -> None:
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserError:
            self.transport.close()

    def on_body(self, body: bytes) -> None:
        self.body = self.body + body if self.body else body

    def on_message_complete(self) -> None:
        body, self.body = self.body, b""
        method = self.parser.get_method()
        if method != b"POST":
            self.reply(b"200 OK" if method == b"DELETE" else b"405 Method Not Allowed", b"", b"")
            return
        try:
            message = answer(body)
        except msgspec.DecodeError:
            self.reply(b"400 Bad Request", b"", b"")
            return
        if message is None:
            self.reply(b"202 Accepted", b"", b"")
        elif b'"method":"initialize"' in body:
            self.reply(b"200 OK", message, b"Mcp-Session-Id: bench-%d\r\n" % next(_sessions))
        elif _spread is not None and b'"method":"tools/call"' in body:
            asyncio.get_running_loop().call_later(_chance.uniform(*_spread), self.reply, b"200 OK", message, b"")
        else:
            self.reply(b"200 OK", message, b"")

    def reply(self, status: bytes, body: bytes, extra: bytes) -> None:
        self.transport.write(
            b"HTTP/1.1 %s\r\nContent-Type: application/json\r\n%sContent-Length: %d\r\n\r\n%s"
            % (status, extra, len(body), body)
        )


async def serve(port: int) -> None:
    """Listen on 127.0.0.1 until cancelled; one line ``ready`` on stdout says that it does."""
    server = await asyncio.get_running_loop().create_server(EchoConnection, "127.0.0.1", port, backlog=1024)
    print("ready", flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(serve(int(sys.argv[1])))
