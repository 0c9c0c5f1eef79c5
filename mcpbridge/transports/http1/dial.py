"""From a host name to a connected socket: resolve off the loop, try addresses staggered, say what went wrong.

Source: RFC 8305 (staggering); architecture section 5; reliability table 3 rows 27 and 36.
"""

from __future__ import annotations

import asyncio
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
    if len(addresses) == 1:
        return await _connect(*addresses[0])
    waiting = list(addresses)
    attempts: list[asyncio.Task[socket.socket | OSError]] = []
    winner: socket.socket | None = None
    try:
        async with asyncio.TaskGroup() as group:
            running: set[asyncio.Task[socket.socket | OSError]] = set()
            while winner is None and (waiting or running):
                if waiting:
                    attempts.append(group.create_task(_attempt(*waiting.pop(0))))
                    running.add(attempts[-1])
                done, running = await asyncio.wait(
                    running, timeout=STAGGER if waiting else None, return_when=asyncio.FIRST_COMPLETED
                )
                winner = next((sock for task in done if isinstance(sock := task.result(), socket.socket)), None)
            for task in running:
                task.cancel()
    except BaseException:
        if winner is not None:
            winner.close()
        raise
    finally:
        for task in attempts:
            if task.done() and not task.cancelled() and isinstance(late := task.result(), socket.socket) and late is not winner:
                late.close()
    if winner is not None:
        return winner
    raise next(error for task in attempts if isinstance(error := task.result(), OSError))


async def _attempt(family: int, address: Any) -> socket.socket | OSError:
    try:
        return await _connect(family, address)
    except OSError as error:
        return error


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


def raise_dial_error(error: Exception, through: str = "") -> NoReturn:
    """Turn what connecting raised into a BridgeError with ``sent=False``; no address in it, for clients may see it.

    ``through`` ends the message, for a connection that leads over a proxy.
    """
    if isinstance(error, TimeoutError):
        raise BridgeError("timeout", f"connecting took too long{through}", sent=False) from error
    if isinstance(error, ConnectionRefusedError):
        raise BridgeError("connection_refused", sent=False) from error
    if isinstance(error, ssl.SSLCertVerificationError):
        cause = f"TLS certificate refused: {error.verify_message}"
    elif isinstance(error, ssl.SSLError):
        cause = f"TLS handshake failed: {error.reason or 'no reason given'}"
    else:
        name = error.strerror if isinstance(error, OSError) and error.strerror else type(error).__name__
        cause = f"cannot connect: {name}"
    raise BridgeError("backend_error", f"{cause}{through}", sent=False) from error
