"""What several tests of the HTTP/1.1 engine share: request bytes and a handler that waits."""

from __future__ import annotations

import asyncio

from tests.support.http_vectors import request

GET = request(b"GET /a?b=c HTTP/1.1")
NEXT = b"GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n"


def post(body: bytes, *fields: bytes, path: bytes = b"/") -> bytes:
    return request(b"POST " + path + b" HTTP/1.1", b"Content-Length: %d" % len(body), *fields) + body


def chunked(*chunks: bytes) -> bytes:
    head = request(b"POST / HTTP/1.1", b"Transfer-Encoding: chunked")
    return head + b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks) + b"0\r\n\r\n"


class Gate:
    """A handler that waits to be let on, and tells what happened to it."""

    def __init__(self) -> None:
        self.entered = asyncio.Event()
        self.open = asyncio.Event()
        self.cancelled = asyncio.Event()
        self.running = 0
        self.most_running = 0

    async def __call__(self, request, responder) -> None:
        self.running += 1
        self.most_running = max(self.running, self.most_running)
        self.entered.set()
        try:
            await self.open.wait()
            await responder.respond(200, [], request.path.encode())
        except asyncio.CancelledError:
            self.cancelled.set()
            raise
        finally:
            self.running -= 1
