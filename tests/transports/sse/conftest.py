"""HTTP+SSE peers that do exactly what a test says: a server of bytes for the dialer, a client of bytes for the frontend."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from mcpbridge.wire.message import Notification, Request, Response, result
from tests.transports.http1.conftest import pool, read_request, until

__all__ = ["SseServer", "Told", "pool", "until"]

STREAM_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\nCache-Control: no-store\r\n\r\n"
ACCEPTED = b"HTTP/1.1 202 Accepted\r\nContent-Length: 8\r\n\r\nAccepted"
ENDPOINT = b"event: endpoint\ndata: /messages?session_id=1\n\n"


class SseServer:
    """A server of bytes: ``opening`` is what a GET gets at once, ``on_post`` answers a POST's message."""

    def __init__(self) -> None:
        self.url = ""
        self.opening = STREAM_HEAD + ENDPOINT
        self.heads: list[str] = []
        self.posted: list[Any] = []
        self.targets: list[str] = []
        self.on_post: Callable[[Any], Awaitable[bytes]] = self._answered
        self.opened = 0
        self.connections = 0
        self.most = 0  # connections at once
        self.closed = 0
        self.errors: list[Exception] = []
        self._streams: list[asyncio.StreamWriter] = []

    async def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self.most = max(self.most, self.connections)
        try:
            while True:
                head, body = await read_request(reader)
                self.heads.append(head)
                if head.startswith("GET"):
                    self.opened += 1
                    self._streams.append(writer)
                    writer.write(self.opening)
                    await reader.read()
                    self.closed += 1
                    break
                self.targets.append(head.split(" ")[1])
                self.posted.append(json.loads(body))
                writer.write(await self.on_post(self.posted[-1]))
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        except Exception as error:
            self.errors.append(error)
        finally:
            self.connections -= 1
            writer.close()

    async def _answered(self, message: Any) -> bytes:
        """The usual server: 202, and the answer of a request on the stream."""
        if "method" in message and "id" in message:
            self.say({"jsonrpc": "2.0", "id": message["id"], "result": {"by": message["method"]}})
        return ACCEPTED

    def say(self, message: Any) -> None:
        self.write(b"event: message\ndata: " + json.dumps(message).encode() + b"\n\n")

    def write(self, data: bytes) -> None:
        self._streams[-1].write(data)

    def end(self) -> None:
        self._streams[-1].close()


@pytest.fixture
async def server() -> AsyncIterator[SseServer]:
    one = SseServer()
    listener = await asyncio.start_server(one.accept, "127.0.0.1", 0)
    one.url = f"http://127.0.0.1:{listener.sockets[0].getsockname()[1]}/sse"
    yield one
    listener.close()
    for stream in one._streams:
        stream.close()
    assert one.errors == []


class Told:
    """An Inbox that remembers, and answers questions with their method."""

    def __init__(self) -> None:
        self.notifications: list[Notification] = []
        self.questions: list[Request] = []
        self.ended: list[BaseException | None] = []

    def notified(self, notification: Notification) -> None:
        self.notifications.append(notification)

    async def asked(self, request: Request) -> Response:
        self.questions.append(request)
        return result(request.id, {"answer": request.method})

    def closed(self, cause: BaseException | None) -> None:
        self.ended.append(cause)


@pytest.fixture
def told() -> Told:
    return Told()


@pytest.fixture
async def spawn() -> AsyncIterator[Callable[..., asyncio.Task[None]]]:
    """Tasks that end with the test; one that raised fails it."""
    tasks: list[asyncio.Task[None]] = []

    def start(work: Any) -> asyncio.Task[None]:
        tasks.append(asyncio.ensure_future(work))
        return tasks[-1]

    yield start
    for task in tasks:
        task.cancel()
    outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    assert [outcome for outcome in outcomes if isinstance(outcome, Exception)] == []
