"""From a host to a connected socket: straight, or through a proxy by a tunnel. Every dialer of TCP goes this way.

    CONNECT host:443 HTTP/1.1                    ─►  proxy
    Host: host:443
    Proxy-Authorization: Basic …                 (only when the proxy's URL has a user name)
                                                 ◄─  HTTP/1.1 200 Connection established
    ══════ TLS, WebSocket or MCPB frames, end to end ══════

A plain ``http://`` server is not tunnelled: proxies commonly allow CONNECT to port 443 only, and expect absolute-form requests
instead (``Route(tunnel=False)`` connects to the proxy, the pool writes them). Which proxy, if any, is decided in
``mcpbridge.proxies``. The name of a tunnelled host is resolved by the proxy, not here.

Source: RFC 9110 section 9.3.6 (CONNECT); RFC 9112 section 3.2.2 (absolute-form); RFC 7617 (Basic).
"""

from __future__ import annotations

import asyncio
import socket
from typing import Final

from mcpbridge.errors import BridgeError
from mcpbridge.proxies import Proxy
from mcpbridge.transports.http1.dial import Resolver, connect, raise_dial_error
from mcpbridge.wire.http1 import HttpError, parse_response

MAX_REPLY: Final = 16384  # bytes of the proxy's answer to CONNECT
REPLY_TIME: Final = 10.0  # seconds until that answer is complete


class Route:
    """The way to one host and port. Keeps the last good addresses for when the resolver fails."""

    def __init__(self, host: str, port: int, proxy: Proxy | None = None, *, tunnel: bool = True) -> None:
        """``host`` is ASCII, an IPv6 address without brackets. ``tunnel`` False: only as far as the proxy."""
        self.proxy = proxy
        self._tunnel = tunnel
        self._authority = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        self._resolver = Resolver(proxy.host, proxy.port) if proxy is not None else Resolver(host, port)

    @property
    def through(self) -> str:
        """`` through the proxy HOST:PORT`` to end a message with, or nothing."""
        return f" through the proxy {self.proxy}" if self.proxy is not None else ""

    async def open(self) -> socket.socket:
        """A connected socket whose next byte is the host's. No timeout but for the proxy's answer: cancel the task.

        Raises OSError of a host that cannot be reached directly; BridgeError "backend_error" for an unknown name and
        "proxy_failed" for a proxy that cannot be used (both ``sent=False``).
        """
        if self.proxy is None:
            return await connect(await self._resolver.resolve())
        if self.proxy.fault:
            raise BridgeError("proxy_failed", self.proxy.fault, sent=False, retryable=False)
        try:
            sock = await connect(await self._resolver.resolve())
        except (OSError, BridgeError) as error:
            cause = error.detail if isinstance(error, BridgeError) else error.strerror or type(error).__name__
            raise BridgeError("proxy_failed", f"{self.proxy} is not reached: {cause}", sent=False) from error
        try:
            if self._tunnel:
                await self._ask(sock, self.proxy)
        except BaseException:
            sock.close()
            raise
        return sock

    async def _ask(self, sock: socket.socket, proxy: Proxy) -> None:
        """CONNECT, and read the answer; bytes behind it would be the host's before it was spoken to, and are refused."""
        loop = asyncio.get_running_loop()
        login = f"Proxy-Authorization: {proxy.authorization}\r\n" if proxy.authorization else ""
        request = f"CONNECT {self._authority} HTTP/1.1\r\nHost: {self._authority}\r\n{login}\r\n"
        reply = b""
        try:
            async with asyncio.timeout(REPLY_TIME):
                await loop.sock_sendall(sock, request.encode("ascii"))
                while b"\r\n\r\n" not in reply:
                    piece = await loop.sock_recv(sock, MAX_REPLY)
                    reply += piece
                    if not piece:
                        raise BridgeError("proxy_failed", f"{proxy} closed the connection", sent=False)
                    if len(reply) > MAX_REPLY or not (reply.startswith(b"HTTP/1.") or b"HTTP/1.".startswith(reply)):
                        raise BridgeError("proxy_failed", f"{proxy} does not answer like a proxy", sent=False)
            head, _, rest = reply.partition(b"\r\n\r\n")
            answer = parse_response(head + b"\r\n\r\n")
        except TimeoutError as error:
            raise BridgeError("proxy_failed", f"{proxy} does not answer", sent=False) from error
        except OSError as error:
            raise BridgeError("proxy_failed", f"{proxy} cut the connection", sent=False) from error
        except HttpError as error:
            raise BridgeError("proxy_failed", f"{proxy} does not answer like a proxy: {error.detail}", sent=False) from None
        if not 200 <= answer.status < 300:
            raise refused(proxy, answer.status)
        if rest:
            raise BridgeError("proxy_failed", f"{proxy} sent more than an answer", sent=False)


def refused(proxy: Proxy, status: int) -> BridgeError:
    """The error of a proxy that answers with this HTTP status instead of forwarding."""
    wants = " (it wants a user name and password, or others)" if status in (401, 407) else ""
    return BridgeError(
        "proxy_failed", f"{proxy} answered HTTP {status}{wants}", sent=False, status=status, retryable=status >= 500
    )


async def open_socket(host: str, port: int, *, proxy: Proxy | None = None, timeout: float = 10.0) -> socket.socket:
    """A connected TCP socket to a host, through a tunnel when there is a proxy; the caller closes it.

    ``timeout``: seconds for everything. Raises BridgeError: connection_refused, timeout, backend_error, proxy_failed, all
    ``sent=False``.
    """
    route = Route(host, port, proxy)
    try:
        async with asyncio.timeout(timeout):
            return await route.open()
    except (OSError, TimeoutError) as error:
        raise_dial_error(error, route.through)
