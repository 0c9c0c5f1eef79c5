"""One request of the HTTP/1.1 server and the way back of its answer. Source: architecture section 5."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from random import getrandbits
from typing import TYPE_CHECKING, Final, NamedTuple

from mcpbridge.wire.chunked import LAST_CHUNK, encode_chunk
from mcpbridge.wire.http1 import Headers, RequestHead

if TYPE_CHECKING:
    from mcpbridge.transports.http1.connection import ServerConnection
    from mcpbridge.transports.http1.upgrade import Talk, Upgraded

SLICE: Final = 262144  # bytes of a large answer that are written before waiting for the client
REQUEST_ID: Final = "x-request-id"
_REQUEST_ID = re.compile(r"[A-Za-z0-9_-]{1,255}").fullmatch


def request_id(given: str | None) -> str:
    """The id by which a request is found in the logs of both sides: the client's own when it is one, else a new one.

    Source: contract http.common.request-id, limit.input.request-id.
    """
    return given if given is not None and _REQUEST_ID(given) else f"{getrandbits(64):016x}"


class HttpRequest:
    """A complete request: its head passed every check, its body is whole. ``id`` goes back in ``X-Request-Id``."""

    __slots__ = ("body", "headers", "id", "method", "minor", "path", "peer", "peer_port", "query", "target", "tls")

    def __init__(self, head: RequestHead, body: bytes, peer: str, peer_port: int, tls: bool, id: str) -> None:
        self.method: str = head.method
        self.target: str = head.target
        self.path: str = head.path
        self.query: str = head.query
        self.minor: int = head.minor  # HTTP/1.minor
        self.headers: Headers = head.headers
        self.body = body
        self.peer = peer  # IP address; "" on a unix socket
        self.peer_port = peer_port
        self.tls = tls
        self.id = id

    def upgrades_to(self, protocol: str) -> bool:
        """Whether the client asks to go on in ``protocol`` (lower case). Source: RFC 9110 section 7.8."""
        if self.minor == 0 or (self.headers.get("upgrade") or "").lower() != protocol:
            return False
        return "upgrade" in [token.strip() for token in (self.headers.get("connection") or "").lower().split(",")]


class HttpRefusal(NamedTuple):
    """An answer to a head whose request is not let in."""

    status: int
    headers: Sequence[tuple[str, str]] = ()
    body: bytes = b""


class Responder:
    """The way back of one request. After the client has gone every method does nothing; ``gone`` says so."""

    __slots__ = ("_chunked", "_connection", "_has_body", "_keep_alive", "ended", "gone", "on_gone", "started")

    def __init__(self, connection: ServerConnection, head: RequestHead) -> None:
        self._connection = connection
        self._has_body = head.method != "HEAD"
        self._chunked = head.minor == 1
        self._keep_alive = head.keep_alive
        self.started = False
        self.ended = False
        self.gone = False
        self.on_gone: Callable[[], None] | None = None

    async def respond(self, status: int, headers: Sequence[tuple[str, str]] = (), body: bytes = b"") -> None:
        """Answer with a whole body; a large one is written at the pace of the client."""
        connection = self._connection
        head = connection.answer_head(status, headers, len(body), self._keep_alive)
        self._begin()
        if not self.gone:
            if not self._has_body or status in (204, 304):
                connection.write(head)
            elif len(body) <= SLICE:
                connection.write(head + body)
            else:
                connection.write(head)
                view = memoryview(body)
                for at in range(0, len(body), SLICE):
                    connection.write(view[at : at + SLICE])
                    await connection.drain()
        self.ended = True

    def start_now(self, status: int, headers: Sequence[tuple[str, str]] = ()) -> None:
        """Begin an answer of unknown length; chunked, or until close for HTTP/1.0."""
        length, keep_alive = (None, self._keep_alive) if self._chunked else (-1, False)
        head = self._connection.answer_head(status, headers, length, keep_alive)
        self._begin()
        if not self.gone:
            self._connection.write(head)

    async def start(self, status: int, headers: Sequence[tuple[str, str]] = ()) -> None:
        """``start_now``, for callers that await every step of an answer."""
        self.start_now(status, headers)

    def send(self, chunk: bytes) -> None:
        """Write a part of a started answer; never blocks. A client that lies ``max_buffer`` behind loses the connection."""
        if not self.started or self.ended:
            raise RuntimeError("send before start or after end")
        if chunk and not self.gone and self._has_body:
            self._connection.write_stream(encode_chunk(chunk) if self._chunked else chunk)

    async def drain(self) -> None:
        """Wait until the client has taken most of what was sent."""
        if not self.gone:
            await self._connection.drain()

    async def end(self) -> None:
        """Finish a started answer. Idempotent."""
        if not self.started:
            raise RuntimeError("end before start")
        if not self.ended:
            self.ended = True
            if not self.gone and self._chunked and self._has_body:
                self._connection.write(LAST_CHUNK)

    def upgrade(self, headers: Sequence[tuple[str, str]], successor: Upgraded, talk: Talk) -> None:
        """Answer 101 and hand the connection over. ``headers`` name the new protocol.

        ``successor`` gets what came behind the head as its first bytes. ``talk`` runs once the handler has returned; when it
        ends, so does the connection.
        """
        self._begin()
        self.ended = True
        if not self.gone:
            self._connection.upgrade(headers, successor, talk)

    def _begin(self) -> None:
        if self.started:
            raise RuntimeError("a request is answered once")
        self.started = True
