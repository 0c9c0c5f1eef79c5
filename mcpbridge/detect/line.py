"""One connection of a probe: to an address that was resolved once, with little to read, and closed whatever happens.

    Site.resolve(target) -> Site(addresses) -> Line.open(site) -> write, read ... close

Source: reliability section 6 (principle 4) and threat 8 (pinned address); RFC 8305 (staggered addresses).
"""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
import stat
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from mcpbridge.core.detect import Target, is_forbidden
from mcpbridge.descriptors import HandingOver
from mcpbridge.errors import BridgeError

MAX_READ = 16_384  # bytes of one connection; what needs more proves nothing
MAX_SOCKETS = 4  # of one target at once
STAGGER = 0.1  # seconds one address has before the next is tried beside it
CONNECT_NEAR = 0.4  # seconds for a connection; a tenth of a second of it is a TLS handshake on a slow machine

Address = tuple[int, Any]
Via = Callable[[Target], "Callable[[], Awaitable[socket.socket]] | None"]
"""How a target is connected to when not directly (through a proxy); None: directly."""
Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Unreachable(Exception):
    """No connection; the text says why, in our words."""


class NoTls(Exception):
    """The handshake failed for another reason than trust; the text says why, in our words."""


class Flooded(Exception):
    """More bytes than a proof needs."""


@dataclass(slots=True)
class Site:
    """A target with its addresses. ``answered`` is True once any connection stood; ``untrusted`` why a certificate was not.

    ``tls`` says whether lines are encrypted: the scheme's choice, or what a probe found out.
    """

    target: Target
    addresses: list[Address]
    tls: bool = False
    answered: bool = False
    untrusted: str = ""
    context: ssl.SSLContext | None = None
    connect: Callable[[], Awaitable[socket.socket]] | None = None
    sockets: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(MAX_SOCKETS))

    @property
    def origin(self) -> str:
        """Scheme and authority as URLs have them."""
        return f"{'https' if self.tls else 'http'}://{self.target.authority}"

    @classmethod
    async def resolve(cls, target: Target, *, guarded: bool, context: ssl.SSLContext | None, via: Via | None = None) -> Site:
        """Find its addresses once, unless a proxy does. Raises Unreachable.

        ``guarded``: leave out those no API caller may have connected to.
        """
        tls = target.scheme in ("https", "wss", "tcps")
        if target.scheme == "unix":
            return cls(target, [(socket.AF_UNIX, _socket_at(target.path))], context=context)
        connect = via(target) if via is not None else None
        if connect is not None:
            return cls(target, [], tls=tls, context=context, connect=connect)
        is_literal = True
        try:
            found = socket.getaddrinfo(target.host, target.port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)
        except OSError:
            is_literal = False
            try:
                found = await lookup(target.host, target.port)
            except (OSError, UnicodeError):
                raise Unreachable("the host name is not known") from None
        addresses: list[Address] = [
            (family, address)
            for family, _, _, _, address in found
            if not (guarded and not is_literal and is_forbidden(str(address[0]), named_locally=target.host == "localhost"))
        ]
        if not addresses:
            raise Unreachable("the host name leads to an address that is not probed")
        return cls(target, addresses, tls=tls, context=context)


async def lookup(host: str, port: int) -> list[tuple[Any, ...]]:
    """The addresses of a name, as ``getaddrinfo`` gives them."""
    return list(await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM))


def _socket_at(path: str) -> str:
    """The path, when a socket is there. Raises Unreachable."""
    try:
        status = os.stat(path)
    except OSError as error:
        raise Unreachable(f"the socket: {(error.strerror or 'not there').lower()}") from None
    if not stat.S_ISSOCK(status.st_mode):
        raise Unreachable("the path is no socket")
    return path


class Line:
    """One open connection. Reads at most MAX_READ bytes in its life."""

    def __init__(self, site: Site, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._site = site
        self._reader = reader
        self._writer = writer
        self._left = MAX_READ
        self._is_open = True

    @classmethod
    async def open(cls, site: Site) -> Line:
        """A new connection, as soon as the target has fewer than MAX_SOCKETS.

        Raises Unreachable and NoTls.
        """
        await site.sockets.acquire()
        try:
            return cls(site, *await _open(site))
        except BaseException:
            site.sockets.release()
            raise

    async def __aenter__(self) -> Line:
        return self

    async def __aexit__(self, *_error: object) -> None:
        self.close()

    @property
    def is_usable(self) -> bool:
        """Whether another question may be asked on it."""
        return self._is_open and self._left > MAX_READ // 2 and not self._reader.at_eof()

    def write(self, data: bytes) -> None:
        """Send; a connection that is gone shows when it is read."""
        with suppress(OSError, RuntimeError):
            self._writer.write(data)

    def end(self) -> None:
        """Say no more (a TLS connection cannot say so)."""
        with suppress(OSError, RuntimeError):
            self._writer.write_eof()

    async def read(self) -> bytes:
        """What has come, b"" at the end or after a reset. Raises Flooded."""
        if self._left <= 0:
            raise Flooded
        try:
            data = await self._reader.read(self._left)
        except (OSError, ssl.SSLError):
            return b""
        self._left -= len(data)
        return data

    def close(self) -> None:
        """End it; what was written still goes out."""
        if self._is_open:
            self._is_open = False
            self._site.sockets.release()
            with suppress(OSError, RuntimeError):
                self._writer.close()


async def _open(site: Site) -> Streams:
    try:
        async with asyncio.timeout(CONNECT_NEAR):
            sock = await _connect(site)
    except TimeoutError:
        raise Unreachable("connecting took too long") from None
    except OSError as error:
        raise Unreachable(os.strerror(error.errno).lower() if error.errno else "it does not connect") from None
    site.answered = True
    try:
        if not site.tls:
            with HandingOver(sock):
                return await asyncio.open_connection(sock=sock, limit=MAX_READ)
        return await _handshake(site, sock)
    except OSError as error:  # ssl.SSLError is one
        raise NoTls(_tls_said(error)) from None


def _tls_said(error: OSError) -> str:
    """A failed handshake in words of a closed set."""
    reason = (error.reason or "").upper() if isinstance(error, ssl.SSLError) else ""
    if "CERTIFICATE" in reason or "HANDSHAKE_FAILURE" in reason:
        return "tls: it wants a certificate of ours, or refuses our offer"
    return "tls: the port does not speak TLS" if "WRONG_VERSION" in reason or "RECORD" in reason else "tls: no handshake"


async def _handshake(site: Site, sock: socket.socket) -> Streams:
    """TLS, with the certificate checked. One that is not trusted is noted, and the site is looked at all the same:
    nothing secret is sent, and who dials checks again."""
    host = site.target.host
    try:
        with HandingOver(sock):
            context = unchecked() if site.untrusted else site.context or ssl.create_default_context()
            return await asyncio.open_connection(sock=sock, ssl=context, server_hostname=host, limit=MAX_READ)
    except ssl.SSLCertVerificationError:
        site.untrusted = "tls: the certificate is not trusted"
    again = await _connect(site)
    with HandingOver(again):
        return await asyncio.open_connection(sock=again, ssl=unchecked(), server_hostname=host, limit=MAX_READ)


def unchecked() -> ssl.SSLContext:
    """A context that takes any certificate: for looking only, never for a conversation."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


async def _connect(site: Site) -> socket.socket:
    """A connected socket; the address that answered first is the only one from then on. Raises OSError."""
    if site.connect is not None:
        try:
            return await site.connect()
        except BridgeError as error:
            raise Unreachable(str(error)) from None
    if len(site.addresses) == 1:
        return await _try(*site.addresses[0])
    waiting = list(site.addresses)
    failed: OSError | None = None
    attempts: dict[asyncio.Task[socket.socket], Address] = {}
    try:
        while waiting or attempts:
            if waiting:
                address = waiting.pop(0)
                attempt = asyncio.ensure_future(_try(*address))
                attempts[attempt] = address
            done, _ = await asyncio.wait(attempts, timeout=STAGGER if waiting else None, return_when=asyncio.FIRST_COMPLETED)
            for attempt in done:
                address = attempts.pop(attempt)
                why = attempt.exception()
                if why is None:
                    site.addresses = [address]
                    return attempt.result()
                failed = why if isinstance(why, OSError) else failed
    finally:
        for attempt in attempts:
            attempt.cancel()
        for attempt in attempts:
            if attempt.done() and not attempt.cancelled() and attempt.exception() is None:
                attempt.result().close()
    raise failed or OSError("no address")


async def _try(family: int, address: Any) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        if family != getattr(socket, "AF_UNIX", None):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        await asyncio.get_running_loop().sock_connect(sock, address)
    except BaseException:
        sock.close()
        raise
    return sock
