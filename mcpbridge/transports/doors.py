"""What listening sockets of every frontend share: binding, limits on open connections, and the way through a TLS handshake.

A plaintext port is accepted by the loop. A TLS port is accepted here, so that the limits are held and the first byte is seen
before a handshake is paid for.

Source: contract limit.rate.layers, ``server.max_connections*``; reliability section 1 (limits), table 3 rows 19 and 29.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import ssl
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Final

from mcpbridge.descriptors import HandingOver

BACKLOG: Final = 4096
HANDSHAKE_TIME: Final = 5.0  # seconds from accept to the end of the TLS handshake
SHUTDOWN_TIME: Final = 2.0  # seconds to wait for a TLS close_notify

Say = Callable[[str, str, str], None]
"""Warns: what happened, whose address, the cause."""


class ConnectionLimits:
    """How many client connections may be open, over every frontend that is given this object, and from one address."""

    def __init__(self, total: int = 10000, per_address: int = 100) -> None:
        self._total = total
        self._per_address = per_address
        self._counts: Counter[str] = Counter()
        self.open = 0
        self.ceiling: int | None = None  # less than ``total`` while descriptors are short or too much is going on
        self.cause = ""  # what is going on, for people

    @property
    def is_tight(self) -> bool:
        """Whether no more are taken because descriptors are short or too much is going on."""
        return self.ceiling is not None and self.open >= self.ceiling

    def refusal(self, key: str) -> int:
        """The HTTP status with which one more connection of an ``address_key`` would be refused now, or 0."""
        if self.open >= self._total or self.is_tight:
            return 503
        return 429 if self._counts.get(key, 0) >= self._per_address else 0

    def words(self, status: int) -> str:
        """Why one more is refused with ``status``, for people."""
        if status == 429:
            return f"too many connections: {self._per_address} of this address are open (server.max_connections_per_ip)"
        if self.open >= self._total:
            return f"too many connections: {self._total} are open (server.max_connections)"
        return f"too many connections just now: {self.cause or 'this gateway is overloaded'}"

    def claim(self, key: str) -> int:
        """Count one more connection of an ``address_key``. Returns the HTTP status to refuse it with, or 0."""
        status = self.refusal(key)
        if not status:
            self._counts[key] += 1
            self.open += 1
        return status

    def release(self, key: str) -> None:
        """One that was claimed is over."""
        self.open -= 1
        self._counts[key] -= 1
        if not self._counts[key]:
            del self._counts[key]


class TlsDoor:
    """Accepts on listening sockets, shakes hands, and hands what is left to a protocol.

    ``opened(key)`` makes the protocol of a connection that the limits already count under ``key``; the protocol releases it.
    ``plain(socket)`` answers a client that does not speak TLS, ``refused(status)`` counts those over a limit, who are cut off.
    """

    def __init__(
        self,
        limits: ConnectionLimits,
        opened: Callable[[str], asyncio.Protocol],
        plain: Callable[[socket.socket], Awaitable[None]],
        refused: Callable[[int], None],
        say: Say,
    ) -> None:
        self._limits = limits
        self._opened = opened
        self._plain = plain
        self._refused = refused
        self._say = say
        self._sockets: list[socket.socket] = []
        self._acceptors: list[asyncio.Task[None]] = []
        self._handshakes: set[asyncio.Task[None]] = set()

    @property
    def waiting(self) -> int:
        """Connections that are not through their handshake."""
        return len(self._handshakes)

    def listen(self, listener: socket.socket, context: ssl.SSLContext) -> None:
        """Begin to accept on a bound and listening socket."""
        self._sockets.append(listener)
        self._acceptors.append(asyncio.get_running_loop().create_task(self._accept(listener, context)))

    def stop_accepting(self) -> None:
        """Close the listening sockets; handshakes and connections go on."""
        loop = asyncio.get_running_loop()
        for task in self._acceptors:
            task.cancel()
        for sock in self._sockets:
            loop.remove_reader(sock.fileno())
            sock.close()
        self._sockets, self._acceptors = [], []

    def abort(self) -> set[asyncio.Task[None]]:
        """Cut off handshakes; their tasks are returned for awaiting."""
        for task in self._handshakes:
            task.cancel()
        return set(self._handshakes)

    async def _accept(self, listener: socket.socket, context: ssl.SSLContext) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                sock, address = await loop.sock_accept(listener)
            except ConnectionError:
                continue  # gone before we took it
            except OSError as error:
                if listener.fileno() < 0:
                    return
                self._say("cannot accept connections", "", error.strerror or str(error))
                await asyncio.sleep(1)  # out of descriptors or memory: trying at once would only burn the core
                continue
            key = address_key(address[0])
            status = self._limits.claim(key)
            if status:
                self._refused(status)
                sock.close()
                continue
            task = loop.create_task(self._open(sock, key, address[0], context))
            self._handshakes.add(task)
            task.add_done_callback(self._handshakes.discard)

    async def _open(self, sock: socket.socket, key: str, peer: str, context: ssl.SSLContext) -> None:
        loop = asyncio.get_running_loop()
        handed_over = False
        try:
            async with asyncio.timeout(HANDSHAKE_TIME):
                await _readable(loop, sock)
                first = sock.recv(1, socket.MSG_PEEK)
                if first == b"\x16":
                    with HandingOver(sock):
                        await loop.connect_accepted_socket(
                            lambda: self._opened(key),
                            sock,
                            ssl=context,
                            ssl_handshake_timeout=HANDSHAKE_TIME,
                            ssl_shutdown_timeout=SHUTDOWN_TIME,
                        )
                    handed_over = True
                elif first.isalpha():
                    await self._plain(sock)
        except (OSError, TimeoutError) as error:  # ssl.SSLError is an OSError
            self._say("TLS handshake failed", peer, str(error) or type(error).__name__)
        finally:
            if not handed_over:
                self._limits.release(key)
                sock.close()


async def tell_plain(sock: socket.socket, answer: bytes) -> None:
    """Answer a client that does not speak TLS, then wait for it to close so that no reset takes the answer away."""
    loop = asyncio.get_running_loop()
    await loop.sock_sendall(sock, answer)
    sock.shutdown(socket.SHUT_WR)
    room = 65536
    while room > 0 and (data := await loop.sock_recv(sock, 16384)):
        room -= len(data)


async def bind(host: str, port: int) -> list[socket.socket]:
    """Listening sockets on every address of ``host``, on one port for all; 0 takes a free one. Raises OSError."""
    loop = asyncio.get_running_loop()
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


def notice_dead_peers(listener: socket.socket) -> None:
    """Make the system ask after silent clients of a listening socket and cut those that are gone, within 45 s (Linux: their
    connections inherit it)."""
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in (("TCP_KEEPIDLE", 20), ("TCP_KEEPINTVL", 5), ("TCP_KEEPCNT", 4), ("TCP_USER_TIMEOUT", 30000)):
        if hasattr(socket, name):
            listener.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


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
