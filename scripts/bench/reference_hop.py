"""The reference hop: the least a Python process can do to relay HTTP. The CI guard compares the bridge with it.

One raw Protocol per side, httptools, uvloop, upstream connections reused. No limits, no checks, no envelope, nothing a
product needs: a floor, measured in the same run, so that the guard's ratio does not depend on the machine.

    reference_hop.py PORT BACKEND_PORT        listens on 127.0.0.1, prints ``ready`` when it does

Source: performance.md, "What Python can do" (raw Protocol + httptools on both sides).
"""

from __future__ import annotations

import asyncio
import sys
from typing import cast

import httptools
import uvloop


class Upstream(asyncio.Protocol):
    """One connection to the backend, lent to one client request at a time."""

    def __init__(self, idle: list[Upstream]) -> None:
        self.idle = idle
        self.client: Client | None = None
        self.parser = httptools.HttpResponseParser(self)
        self.body = b""
        self.session = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self.parser.feed_data(data)

    def on_header(self, name: bytes, value: bytes) -> None:
        if name.lower() == b"mcp-session-id":
            self.session = value

    def on_body(self, body: bytes) -> None:
        self.body = self.body + body if self.body else body

    def on_message_complete(self) -> None:
        client, self.client = self.client, None
        body, self.body = self.body, b""
        session, self.session = self.session, b""
        status = self.parser.get_status_code()
        self.parser = httptools.HttpResponseParser(self)
        self.idle.append(self)
        if client is not None:
            client.answered(status, session, body)

    def connection_lost(self, exc: Exception | None) -> None:
        if self in self.idle:
            self.idle.remove(self)
        if self.client is not None:
            self.client.transport.close()


class Client(asyncio.Protocol):
    """One client connection; each complete request is sent on with a fresh head and the body as received."""

    def __init__(self, port: int, idle: list[Upstream]) -> None:
        self.port = port
        self.idle = idle
        self.body = b""
        self.headers: dict[bytes, bytes] = {}

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.parser = httptools.HttpRequestParser(self)

    def data_received(self, data: bytes) -> None:
        self.parser.feed_data(data)

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers[name.lower()] = value

    def on_body(self, body: bytes) -> None:
        self.body = self.body + body if self.body else body

    def on_message_complete(self) -> None:
        body, self.body = self.body, b""
        headers, self.headers = self.headers, {}
        extra = b"".join(
            [
                b"%s: %s\r\n" % item
                for item in headers.items()
                if item[0].startswith(b"mcp-") or item[0] in (b"accept", b"content-type")
            ]
        )
        head = b"%s /mcp HTTP/1.1\r\nHost: 127.0.0.1:%d\r\n%sContent-Length: %d\r\n\r\n" % (
            self.parser.get_method(),
            self.port,
            extra,
            len(body),
        )
        if self.idle:
            self.send(self.idle.pop(), head + body)
        else:
            self.dialing = asyncio.get_running_loop().create_task(self.dial(head + body))

    async def dial(self, message: bytes) -> None:
        loop = asyncio.get_running_loop()
        _, upstream = await loop.create_connection(lambda: Upstream(self.idle), "127.0.0.1", self.port)
        self.send(upstream, message)

    def send(self, upstream: Upstream, message: bytes) -> None:
        upstream.client = self
        upstream.transport.write(message)

    def answered(self, status: int, session: bytes, body: bytes) -> None:
        extra = b"Mcp-Session-Id: %s\r\n" % session if session else b""
        self.transport.write(
            b"HTTP/1.1 %d OK\r\nContent-Type: application/json\r\n%sContent-Length: %d\r\n\r\n%s"
            % (status, extra, len(body), body)
        )


async def serve(port: int, backend_port: int) -> None:
    """Relay 127.0.0.1:port to 127.0.0.1:backend_port until cancelled; one line ``ready`` on stdout says it listens."""
    idle: list[Upstream] = []
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Client(backend_port, idle), "127.0.0.1", port, backlog=1024)
    print("ready", flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(serve(int(sys.argv[1]), int(sys.argv[2])))
