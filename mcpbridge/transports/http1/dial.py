"""From a host name to a connected socket: resolve off the loop, try addresses staggered, say what went wrong.

Source: RFC 8305 (staggering); architecture section 5; reliability table 3 rows 27 and 36.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from typing import Any, Final, NoReturn

from mcpbridge.errors import BridgeError

STAGGER: Final = 0.25  # seconds one address has before the next is tried beside it
RESOLVE_TIME: Final = 2.0  # seconds for the resolver
STALE_TIME: Final = 300.0  # seconds that addresses are used on while the resolver fails
USER_TIMEOUT_MS: Final = 30000  # milliseconds that sent bytes may stay unacknowledged

Address = tuple[int, Any]
"""Family and socket address."""


class Resolver:
    """The addresses of one host. Keeps the last good ones for when the resolver fails."""

    def __init__(self, host: str, port: int) -> None:
        self._host = host
        self._port = port
        self._known: list[Address] = []
        self._known_at = 0.0

    async def resolve(self) -> list[Address]:
        """Addresses in the order to try, families alternating. Raises BridgeError("backend_error", sent=False)."""
        loop = asyncio.get_running_loop()
        try:
            found = socket.getaddrinfo(self._host, self._port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)
            return [(family, address) for family, _, _, _, address in found]
        except socket.gaierror:
            pass  # a name, not a literal
        try:
            async with asyncio.timeout(RESOLVE_TIME):
                found = await loop.getaddrinfo(self._host, self._port, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError, TimeoutError) as error:
            if self._known and loop.time() - self._known_at < STALE_TIME:
                return self._known
            raise BridgeError("backend_error", f"host name not resolved ({error})", sent=False) from None
        self._known = _alternate([(family, address) for family, _, _, _, address in found])
        self._known_at = loop.time()
        return self._known


def _alternate(addresses: list[Address]) -> list[Address]:
    """First of each family in turn, so that a dead IPv6 costs one STAGGER and not one per address."""
    first = [address for address in addresses if address[0] == addresses[0][0]]
    other = [address for address in addresses if address[0] != addresses[0][0]]
    mixed: list[Address] = []
    while first or other:
        mixed += first[:1] + other[:1]
        first, other = first[1:], other[1:]
    return mixed


async def connect(addresses: list[Address]) -> socket.socket:
    """The first socket that connects. Raises OSError of the first address that failed."""
    waiting = list(addresses)
    running: set[asyncio.Task[socket.socket]] = set()
    failures: list[OSError] = []
    loop = asyncio.get_running_loop()
    try:
        while waiting or running:
            if waiting:
                running.add(loop.create_task(_connect(*waiting.pop(0))))
            done, running = await asyncio.wait(
                running, timeout=STAGGER if waiting else None, return_when=asyncio.FIRST_COMPLETED
            )
            connected: list[socket.socket] = []
            for task in done:
                try:
                    connected.append(task.result())
                except OSError as error:
                    failures.append(error)
            for spare in connected[1:]:
                spare.close()
            if connected:
                return connected[0]
        raise failures[0]
    finally:
        for task in running:
            task.cancel()
        for task in running:
            with contextlib.suppress(OSError, asyncio.CancelledError):
                (await task).close()


async def _connect(family: int, address: Any) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        if hasattr(socket, "TCP_USER_TIMEOUT"):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, USER_TIMEOUT_MS)
        await asyncio.get_running_loop().sock_connect(sock, address)
    except BaseException:
        sock.close()
        raise
    return sock


def raise_dial_error(error: Exception) -> NoReturn:
    """Turn what connecting raised into a BridgeError with ``sent=False``; no address in it, for clients may see it."""
    if isinstance(error, TimeoutError):
        raise BridgeError("timeout", "connecting took too long", sent=False) from error
    if isinstance(error, ConnectionRefusedError):
        raise BridgeError("connection_refused", sent=False) from error
    if isinstance(error, ssl.SSLCertVerificationError):
        raise BridgeError("backend_error", f"TLS certificate refused: {error.verify_message}", sent=False) from error
    if isinstance(error, ssl.SSLError):
        raise BridgeError("backend_error", f"TLS handshake failed: {error.reason or 'no reason given'}", sent=False) from error
    cause = error.strerror if isinstance(error, OSError) and error.strerror else type(error).__name__
    raise BridgeError("backend_error", f"cannot connect: {cause}", sent=False) from error
