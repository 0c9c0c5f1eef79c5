"""The HTTP/1.1 server: listening sockets, the limits over all connections, one clock for all of them, orderly end.

    start ──► (serving) ──► stop_accepting ──► drain ──► close

A plaintext port is accepted by the loop; a TLS port here, so that the first byte is seen before a handshake is paid for and
plain HTTP gets a readable answer.

Source: architecture sections 5 and 8; contract sections 6.2, 6.3; reliability section 1 (limits), table 3 rows 19 and 29.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import socket
import ssl
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final

from mcpbridge.observe.log import log
from mcpbridge.transports.http1.connection import ServerConnection
from mcpbridge.transports.http1.request import HttpRefusal, HttpRequest, Responder
from mcpbridge.wire.http1 import RequestHead, encode_fields, status_line

__all__ = ["Admit", "HttpRefusal", "HttpRequest", "HttpServer", "RequestHandler", "Responder", "address_key"]

BACKLOG: Final = 4096
HANDSHAKE_TIME: Final = 5.0  # seconds from accept to the end of the TLS handshake
SHUTDOWN_TIME: Final = 2.0  # seconds to wait for a TLS close_notify
TICK: Final = 1.0  # seconds between two looks at every connection
MAX_LINGERING: Final = 512  # refused connections kept open so that their clients can read why
CLOSE_TIME: Final = 5.0  # seconds that cancelled requests may take to end

_DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_TEXT = ("content-type", "text/plain; charset=utf-8")

RequestHandler = Callable[[HttpRequest, Responder], Awaitable[None]]
"""Answers one request; runs as a task of its own, cancelled when the client goes (unless ``responder.on_gone`` is set)."""

Admit = Callable[[RequestHead, str], "int | HttpRefusal"]
"""Looks at a head and the peer's address before any body is asked for: the body limit in bytes, or a refusal."""

_log = log("http1")


class HttpServer:
    """Serves any number of listening sockets with one handler."""

    def __init__(
        self,
        handler: RequestHandler,
        *,
        admit: Admit | None = None,
        on_error: Callable[[HttpRequest, Exception | None], HttpRefusal] | None = None,
        sniff: Callable[[bytes], asyncio.Protocol | None] | None = None,
        max_header: int = 32768,
        max_body: int = 1048576,
        max_buffer: int = 8 * 1024 * 1024,
        max_connections: int = 10000,
        max_connections_per_ip: int = 100,
        base_headers: Sequence[tuple[str, str]] = (),
        tls_headers: Sequence[tuple[str, str]] = (),
        idle_timeout: float = 300,
        header_timeout: float = 10,
    ) -> None:
        """Sizes in bytes, times in seconds. ``base_headers`` go into every answer, ``tls_headers`` also, over TLS.

        ``on_error`` makes the answer of a handler that raised (None: it ended without an answer). ``sniff`` is asked when a
        connection starts with neither HTTP nor TLS: the protocol it returns takes the connection over.
        """
        self.handler = handler
        self.admit = admit
        self.on_error = on_error
        self.sniff = sniff
        self.max_header = max_header
        self.max_body = max_body
        self.max_buffer = max_buffer
        self.max_connections = max_connections
        self.max_connections_per_ip = max_connections_per_ip
        self.idle_timeout = idle_timeout
        self.header_timeout = header_timeout
        self.refused: Counter[int] = Counter()  # answers of the engine itself, by status
        self.is_draining = False
        self.now = 0.0  # loop time of the last tick: exact enough for every limit here, and free
        self.base = self.base_tls = b""
        self.loop: asyncio.AbstractEventLoop
        self._base_headers = tuple(base_headers)
        self._tls_headers = tuple(tls_headers)
        self._connections: set[ServerConnection] = set()
        self._lingering: set[ServerConnection] = set()
        self._counts: Counter[str] = Counter()  # open connections by address key
        self._counted = 0
        self._handshakes: set[asyncio.Task[None]] = set()
        self._acceptors: list[asyncio.Task[None]] = []
        self._listeners: list[asyncio.AbstractServer] = []
        self._sockets: list[socket.socket] = []
        self._timer: asyncio.TimerHandle | None = None
        self._emptied: asyncio.Future[None] | None = None
        self._said: dict[str, float] = {}

    @property
    def connections(self) -> int:
        """Open connections that count towards the limits."""
        return self._counted

    @property
    def active(self) -> int:
        """Open connections with a request being answered."""
        return sum(connection.is_active for connection in self._connections)

    # -- life cycle

    async def start(self, host: str, port: int, ssl: ssl.SSLContext | None = None) -> tuple[str, int]:
        """Listen on every address of ``host``; port 0 takes a free one. Returns the address bound first.

        Raises OSError when the address cannot be had. May be called again for further addresses.
        """
        if self._timer is None:
            self.loop = asyncio.get_running_loop()
            self._tick()
        sockets = await _bind(self.loop, host, port)
        for listener in sockets:
            if ssl is None:
                self._listeners.append(
                    await self.loop.create_server(lambda: ServerConnection(self, tls=False), sock=listener, backlog=BACKLOG)
                )
            else:
                self._sockets.append(listener)
                self._acceptors.append(self.loop.create_task(self._accept_tls(listener, ssl)))
        address = sockets[0].getsockname()
        return address[0], address[1]

    def stop_accepting(self) -> None:
        """Close the listening sockets; open connections go on."""
        for listener in self._listeners:
            listener.close()
        for task in self._acceptors:
            task.cancel()
        for sock in self._sockets:
            self.loop.remove_reader(sock.fileno())
            sock.close()
        self._listeners, self._acceptors, self._sockets = [], [], []

    async def drain(self, timeout: float) -> None:
        """Close idle connections now, the others after their answer; wait ``timeout`` seconds at most for all to be gone."""
        self.is_draining = True
        for connection in list(self._connections):
            connection.close_if_idle()
        if self._connections:
            self._emptied = self.loop.create_future()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(timeout):
                    await self._emptied
            self._emptied = None

    async def close(self) -> None:
        """Cut what is left and wait, bounded, until its requests have ended. Idempotent."""
        if self._timer is None:
            return
        self.stop_accepting()
        self._timer.cancel()
        tasks = [task for connection in list(self._connections) if (task := connection.abort()) is not None]
        for handshake in self._handshakes:
            handshake.cancel()
        tasks += self._handshakes
        if tasks:
            _, late = await asyncio.wait(tasks, timeout=CLOSE_TIME)
            if late:
                _log.warn("requests did not end after cancellation", count=len(late))
        if self._connections:
            await self.drain(CLOSE_TIME)
        self._timer = None

    # -- limits

    def adopt(self, connection: ServerConnection, peer: str) -> int:
        """Take a new connection in. Returns the status to refuse it with, or 0."""
        self._connections.add(connection)
        if connection.key is not None:
            return 0
        key = address_key(peer)
        status = self._claim(key)
        if not status:
            connection.key = key
        return status

    def forget(self, connection: ServerConnection) -> None:
        """The connection is over. Idempotent."""
        self._connections.discard(connection)
        self._lingering.discard(connection)
        if connection.key is not None:
            self._release(connection.key)
            connection.key = None
        if self._emptied is not None and not self._connections and not self._emptied.done():
            self._emptied.set_result(None)

    def linger(self, connection: ServerConnection) -> bool:
        """Whether one more refused connection may stay open for its client to read the answer."""
        if len(self._lingering) >= MAX_LINGERING:
            return False
        self._lingering.add(connection)
        return True

    def _claim(self, key: str) -> int:
        if self._counted >= self.max_connections:
            return 503
        if self._counts[key] >= self.max_connections_per_ip:
            return 429
        self._counts[key] += 1
        self._counted += 1
        return 0

    def _release(self, key: str) -> None:
        self._counted -= 1
        self._counts[key] -= 1
        if not self._counts[key]:
            del self._counts[key]

    # -- TLS

    async def _accept_tls(self, listener: socket.socket, context: ssl.SSLContext) -> None:
        while True:
            try:
                sock, address = await self.loop.sock_accept(listener)
            except ConnectionError:
                continue  # gone before we took it
            except OSError as error:
                if listener.fileno() < 0:
                    return
                self.say(f"cannot accept connections: {error.strerror}", "")
                await asyncio.sleep(1)  # out of descriptors or memory: trying at once would only burn the core
                continue
            key = address_key(address[0])
            status = self._claim(key)
            if status:
                self.refused[status] += 1
                sock.close()
                continue
            task = self.loop.create_task(self._open_tls(sock, key, address[0], context))
            self._handshakes.add(task)
            task.add_done_callback(self._handshakes.discard)

    async def _open_tls(self, sock: socket.socket, key: str, peer: str, context: ssl.SSLContext) -> None:
        handed_over = False
        try:
            async with asyncio.timeout(HANDSHAKE_TIME):
                await _readable(self.loop, sock)
                first = sock.recv(1, socket.MSG_PEEK)
                if first == b"\x16":
                    await self.loop.connect_accepted_socket(
                        lambda: ServerConnection(self, tls=True, key=key),
                        sock,
                        ssl=context,
                        ssl_handshake_timeout=HANDSHAKE_TIME,
                        ssl_shutdown_timeout=SHUTDOWN_TIME,
                    )
                    handed_over = True
                elif first.isalpha():
                    await self._refuse_plain(sock)
        except (OSError, TimeoutError) as error:  # ssl.SSLError is an OSError
            self.say("TLS handshake failed", peer, cause=str(error) or type(error).__name__)
        finally:
            if not handed_over:
                self._release(key)
                sock.close()

    async def _refuse_plain(self, sock: socket.socket) -> None:
        """Answer plain HTTP in plain HTTP, then wait for the client to close so that no reset takes the answer away."""
        self.refused[400] += 1
        body = b"This port speaks HTTPS. Use https:// in the URL.\n"
        fields = encode_fields((_TEXT, ("content-length", str(len(body))), ("connection", "close")))
        await self.loop.sock_sendall(sock, status_line(400) + self.base + fields + b"\r\n" + body)
        sock.shutdown(socket.SHUT_WR)
        room = 65536
        while room > 0 and (data := await self.loop.sock_recv(sock, 16384)):
            room -= len(data)

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


async def _bind(loop: asyncio.AbstractEventLoop, host: str, port: int) -> list[socket.socket]:
    found = await loop.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    sockets: list[socket.socket] = []
    try:
        for family, kind, protocol, _, address in dict.fromkeys(found):
            sock = socket.socket(family, kind, protocol)
            sockets.append(sock)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            # Port 0 means one free port for all addresses of the host, not one each.
            sock.bind((address[0], port, *address[2:]))
            port = sock.getsockname()[1]
            sock.listen(BACKLOG)
            sock.setblocking(False)
    except BaseException:
        for sock in sockets:
            sock.close()
        raise
    return sockets


async def _readable(loop: asyncio.AbstractEventLoop, sock: socket.socket) -> None:
    ready: asyncio.Future[None] = loop.create_future()

    def wake() -> None:
        if not ready.done():
            ready.set_result(None)

    loop.add_reader(sock.fileno(), wake)
    try:
        await ready
    finally:
        loop.remove_reader(sock.fileno())


def address_key(peer: str) -> str:
    """What per-address limits count: the address, an IPv6 network of 64 bits, or the IPv4 address inside a mapped one."""
    if ":" not in peer:
        return peer
    address = ipaddress.IPv6Address(peer.partition("%")[0])
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return str(ipaddress.IPv6Address(int(address) >> 64 << 64)) + "/64"


def _http_date(wall: float) -> str:
    moment = time.gmtime(wall)
    return (
        f"{_DAYS[moment.tm_wday]}, {moment.tm_mday:02} {_MONTHS[moment.tm_mon - 1]} {moment.tm_year} "
        f"{moment.tm_hour:02}:{moment.tm_min:02}:{moment.tm_sec:02} GMT"
    )
