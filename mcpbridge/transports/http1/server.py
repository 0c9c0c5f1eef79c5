"""The HTTP/1.1 server: listening sockets, the limits over all connections, one clock for all of them, orderly end.

    start ──► (serving) ──► announce ──► stop_accepting ──► drain ──► close

Source: architecture sections 5 and 8; contract sections 6.2, 6.3; reliability section 1 (limits), table 3 rows 19 and 29.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final

from mcpbridge.observe.log import log
from mcpbridge.transports.doors import BACKLOG, ConnectionLimits, TlsDoor, address_key, bind, tell_plain
from mcpbridge.transports.http1.connection import ServerConnection
from mcpbridge.transports.http1.request import REQUEST_ID, HttpRefusal, HttpRequest, Responder, request_id
from mcpbridge.transports.http1.upgrade import Handover, Upgraded
from mcpbridge.transports.unix import SocketName, listening
from mcpbridge.wire.http1 import RequestHead, encode_fields, status_line

__all__ = ["Admit", "HttpRefusal", "HttpRequest", "HttpServer", "RequestHandler", "Responder", "Upgraded"]

TICK: Final = 1.0  # seconds between two looks at every connection
MAX_LINGERING: Final = 512  # refused connections kept open so that their clients can read why
LULL: Final = 1.5 * TICK  # seconds without a request after which none is taken to be under way; times are known to a tick
CLOSE_TIME: Final = 5.0  # seconds that cancelled requests may take to end

_DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_TEXT = ("content-type", "text/plain; charset=utf-8")

RequestHandler = Callable[[HttpRequest, Responder], Awaitable[None]]
"""Answers one request; runs as a task of its own, cancelled when the client goes (unless ``responder.on_gone`` is set)."""

Explain = Callable[["str | None", int, str, str], "tuple[Sequence[tuple[str, str]], bytes]"]
"""Path (None: no head was read), status, words and request id of an answer that the engine itself makes -> headers, body."""

Admit = Callable[[RequestHead, str], "int | HttpRefusal"]
"""Looks at a head and the peer's address before any body is asked for: the body limit in bytes, or a refusal."""

_log = log("http1")


def _plainly(_path: str | None, _status: int, words: str, _id: str) -> tuple[Sequence[tuple[str, str]], bytes]:
    return [("content-type", "text/plain")], words.encode() + b"\n"


class HttpServer:
    """Serves any number of listening sockets with one handler."""

    def __init__(
        self,
        handler: RequestHandler,
        *,
        admit: Admit | None = None,
        explain: Explain | None = None,
        sniff: Callable[[bytes], asyncio.Protocol | None] | None = None,
        max_header: int = 32768,
        max_body: int = 1048576,
        max_buffer: int = 8 * 1024 * 1024,
        max_connections: int = 10000,
        max_connections_per_ip: int = 100,
        limits: ConnectionLimits | None = None,
        base_headers: Sequence[tuple[str, str]] = (),
        tls_headers: Sequence[tuple[str, str]] = (),
        idle_timeout: float = 300,
        header_timeout: float = 10,
    ) -> None:
        """Sizes in bytes, times in seconds. ``base_headers`` go into every answer, ``tls_headers`` also, over TLS.

        ``explain`` words what the engine itself refuses and the answer of a handler that raised. ``sniff`` is asked when a
        connection starts with neither HTTP nor TLS: the protocol it returns takes the connection over. ``limits`` are those of
        several frontends together; without it the two numbers are this server's own.
        """
        self.handler = handler
        self.admit = admit
        self.explain = explain or _plainly
        self.sniff = sniff
        self.max_header = max_header
        self.max_body = max_body
        self.max_buffer = max_buffer
        self.limits = limits or ConnectionLimits(max_connections, max_connections_per_ip)
        self.idle_timeout = idle_timeout
        self.header_timeout = header_timeout
        self.refused: Counter[int] = Counter()  # answers of the engine itself, by status
        self.lets_go = False  # every answer ends its connection
        self.now = 0.0  # loop time of the last tick: exact enough for every limit here, and free
        self.base = self.base_tls = b""
        self.loop: asyncio.AbstractEventLoop
        self._base_headers = tuple(base_headers)
        self._tls_headers = tuple(tls_headers)
        self._connections: set[ServerConnection | Handover] = set()
        self._lingering: set[ServerConnection] = set()
        self._door = TlsDoor(
            self.limits,
            lambda key: ServerConnection(self, tls=True, key=key),
            self._refuse_plain,
            self._count_refused,
            lambda message, peer, cause: self.say(message, peer, cause=cause),
        )
        self._listeners: list[asyncio.AbstractServer] = []
        self._names: list[SocketName] = []  # of unix sockets
        self._timer: asyncio.TimerHandle | None = None
        self._emptied: asyncio.Future[None] | None = None
        self._said: dict[str, float] = {}
        self._is_draining = False

    @property
    def connections(self) -> int:
        """Open connections that count towards the limits."""
        return sum(connection.key is not None for connection in self._connections) + self._door.waiting

    @property
    def active(self) -> int:
        """Open connections with a request being answered."""
        return sum(connection.is_active for connection in self._connections)

    # -- life cycle

    async def start(self, host: str, port: int, ssl: ssl.SSLContext | None = None) -> tuple[str, int]:
        """Listen on every address of ``host``; port 0 takes a free one. Returns the address bound first.

        Raises OSError when the address cannot be had. May be called again for further addresses.
        """
        self._begin()
        sockets = await bind(host, port)
        for listener in sockets:
            if ssl is None:
                self._listeners.append(
                    await self.loop.create_server(lambda: ServerConnection(self, tls=False), sock=listener, backlog=BACKLOG)
                )
            else:
                self._door.listen(listener, ssl)
        address = sockets[0].getsockname()
        return address[0], address[1]

    async def start_unix(self, path: str) -> None:
        """Listen on a unix socket that only its owner may use; the peer of its requests is "". Raises OSError."""
        self._begin()
        sock, name = listening(path, 0o600)
        self._names.append(name)
        server = await self.loop.create_unix_server(lambda: ServerConnection(self, tls=False), sock=sock, backlog=BACKLOG)
        self._listeners.append(server)

    def _begin(self) -> None:
        if self._timer is None:
            self.loop = asyncio.get_running_loop()
            self._tick()

    def announce(self) -> None:
        """From now on every answer says that it is the last on its connection."""
        self.lets_go = self._is_draining = True

    def stop_accepting(self) -> None:
        """Close the listening sockets; open connections go on."""
        for listener in self._listeners:
            listener.close()
        self._door.stop_accepting()
        for name in self._names:
            name.take_away()
        self._listeners, self._names = [], []

    async def drain(self, timeout: float) -> None:
        """Close connections after their next answer or LULL seconds without any; wait ``timeout`` seconds at most for all to
        be gone. One that was just used is not closed at once: its client may be sending the next request."""
        self.announce()
        self.idle_timeout = min(self.idle_timeout, LULL)
        for connection in list(self._connections):
            connection.close_if_idle(self.now - LULL)
        await self._empty(timeout)

    async def _empty(self, timeout: float) -> None:
        if self._connections:
            self._emptied = self.loop.create_future()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(timeout):
                    await self._emptied
            self._emptied = None

    def shed(self, on: bool) -> None:
        """Let connections go that are idle for a second or more, and others after their answer, until told otherwise."""
        self.lets_go = on or self._is_draining
        for connection in list(self._connections) if on else ():
            if isinstance(connection, ServerConnection):
                connection.close_if_idle(self.now - 2 * TICK)  # times are known to a tick

    async def close(self) -> None:
        """Cut what is left and wait, bounded, until its requests have ended. Idempotent."""
        if self._timer is None:
            return
        self.stop_accepting()
        self._timer.cancel()
        tasks = [task for connection in list(self._connections) if (task := connection.abort()) is not None]
        tasks += self._door.abort()
        if tasks:
            _, late = await asyncio.wait(tasks, timeout=CLOSE_TIME)
            if late:
                _log.warn("requests did not end after cancellation", count=len(late))
        if self._connections:
            await self._empty(CLOSE_TIME)
        self._timer = None

    # -- limits

    def adopt(self, connection: ServerConnection, peer: str) -> int:
        """Take a new connection in. Returns the status to refuse it with, or 0."""
        self._connections.add(connection)
        if connection.key is not None:
            return 0
        key = address_key(peer)
        status = self.limits.claim(key)
        if not status:
            connection.key = key
        return status

    def replace(self, connection: ServerConnection, handover: Handover) -> None:
        """Another protocol has the connection; it keeps its place."""
        self._connections.discard(connection)
        self._connections.add(handover)
        connection.key, handover.key = None, connection.key

    def forget(self, connection: ServerConnection | Handover) -> None:
        """The connection is over. Idempotent."""
        self._connections.discard(connection)
        self._lingering.discard(connection)
        if connection.key is not None:
            self.limits.release(connection.key)
            connection.key = None
        if self._emptied is not None and not self._connections and not self._emptied.done():
            self._emptied.set_result(None)

    def linger(self, connection: ServerConnection) -> bool:
        """Whether one more refused connection may stay open for its client to read the answer."""
        if len(self._lingering) >= MAX_LINGERING or self.limits.is_tight:
            return False
        self._lingering.add(connection)
        return True

    # -- TLS

    def _count_refused(self, status: int) -> None:
        self.refused[status] += 1

    async def _refuse_plain(self, sock: socket.socket) -> None:
        """Answer plain HTTP in plain HTTP."""
        self._count_refused(400)
        body = b"This port speaks HTTPS. Use https:// in the URL.\n"
        ending = (("content-length", str(len(body))), (REQUEST_ID, request_id(None)), ("connection", "close"))
        fields = encode_fields((_TEXT, *ending))
        await tell_plain(sock, status_line(400) + self.base + fields + b"\r\n" + body)

    # -- time

    def _tick(self) -> None:
        self._timer = self.loop.call_later(TICK, self._tick)
        self.sweep(self.loop.time(), time.time())

    def sweep(self, now: float, wall: float) -> None:
        """End what takes too long and renew the date of answers. ``now`` is loop time, ``wall`` Unix time, both in seconds."""
        self.now = now
        date = ("date", _http_date(wall))
        self.base = encode_fields((*self._base_headers, date))
        self.base_tls = encode_fields((*self._base_headers, *self._tls_headers, date))
        for connection in list(self._connections):
            connection.sweep(now)

    def say(self, message: str, peer: str, **fields: Any) -> None:
        """A warning about something a stranger can cause at will: at most one line per message and second."""
        if self.now - self._said.get(message, -TICK) >= TICK:
            self._said[message] = self.now
            _log.warn(message, peer=peer, **fields)


def _http_date(wall: float) -> str:
    moment = time.gmtime(wall)
    return (
        f"{_DAYS[moment.tm_wday]}, {moment.tm_mday:02} {_MONTHS[moment.tm_mon - 1]} {moment.tm_year} "
        f"{moment.tm_hour:02}:{moment.tm_min:02}:{moment.tm_sec:02} GMT"
    )
