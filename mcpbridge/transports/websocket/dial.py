"""dial(): a conversation with a server over WebSocket.

    connect ──► TLS (wss) ──► GET with Upgrade and the credential ──► 101 ──► Peer over the connection

Redirects are not followed, so a credential goes to the configured origin and nowhere else. A lost connection fails the calls in
flight (``sent``); the pool dials again for the next.

Source: RFC 6455 sections 4.1 and 4.2; contract error.websocket-refused; architecture section 8.
"""

from __future__ import annotations

import asyncio
import ssl as ssl_module
from collections.abc import Callable, Mapping
from errno import ECONNRESET
from typing import Final, cast
from urllib.parse import urlsplit, urlunsplit

from websockets.client import ClientProtocol
from websockets.exceptions import InvalidHandshake
from websockets.protocol import OPEN
from websockets.typing import Subprotocol
from websockets.uri import WebSocketURI, parse_uri

from mcpbridge.core.exchange import Era
from mcpbridge.core.peer import MAX_GARBAGE, Peer
from mcpbridge.core.ports import Dial, Inbox, Upstream
from mcpbridge.core.tasks import Spawn
from mcpbridge.descriptors import HandingOver
from mcpbridge.errors import BridgeError
from mcpbridge.proxies import Proxy
from mcpbridge.transports.http1.dial import raise_dial_error
from mcpbridge.transports.proxy import Route
from mcpbridge.transports.websocket import deflate
from mcpbridge.transports.websocket.connection import CONTROL, WebSocketConnection
from mcpbridge.wire.http1 import HttpError, encode_fields, parse_response

MAX_HEAD: Final = 65536  # bytes of the answer's head, interim ones included
MCP: Final = Subprotocol("mcp")
_SCHEMES: Final = {"ws": "ws", "wss": "wss", "http": "ws", "https": "wss"}


def dial(
    name: str,
    spawn: Spawn,
    url: str,
    *,
    headers: Callable[[], Mapping[str, str]] = dict,
    ssl: ssl_module.SSLContext | None = None,
    proxy: Proxy | None = None,
    max_message: int = 10_485_760,
    compression: bool = False,
    timeout: float = 10.0,
    silence: float | None = None,
) -> Dial:
    """How to reach server ``name`` at ``url`` (ws, wss, or http, https for the same).

    ``headers`` is read for each conversation (it may hold a credential). Without ``ssl`` a wss server is verified against the
    system's authorities. ``timeout``: seconds from the name to the end of the upgrade; ``silence``: as ``WebSocketConnection``.
    ``max_message`` in bytes, inflated.
    Raises ValueError for a URL that is none of these.
    """
    parts = urlsplit(url)
    if parts.scheme not in _SCHEMES or not parts.hostname:
        raise ValueError("the URL of a WebSocket server is ws://host[:port]/path or wss://host[:port]/path")
    uri = parse_uri(urlunsplit((_SCHEMES[parts.scheme], *parts[1:4], "")))
    route = Route(uri.host, uri.port, proxy)

    async def run(_era: Era, inbox: Inbox) -> Upstream:
        try:
            async with asyncio.timeout(timeout):
                connection = await connect(uri, route, ssl, dict(headers()), max_message, compression, silence)
        except ConnectionRefusedError as error:
            raise BridgeError("websocket_refused", f"server {name!r}", sent=False, server=name) from error
        except (OSError, TimeoutError) as error:
            raise_dial_error(error, route.through)
        peer = Peer(connection, inbox, spawn, client=False, name=name, max_garbage=MAX_GARBAGE)
        peer.start()
        return peer

    return run


async def connect(
    uri: WebSocketURI,
    route: Route,
    ssl: ssl_module.SSLContext | None,
    headers: Mapping[str, str],
    max_message: int,
    compression: bool,
    silence: float | None = None,
) -> WebSocketConnection:
    """An open WebSocket. No timeout of its own: cancel the task. Raises OSError of the network, BridgeError of the answer."""
    protocol = ClientProtocol(
        uri, subprotocols=[MCP], extensions=deflate.CLIENT if compression else None, max_size=max_message + CONTROL
    )
    request = protocol.connect()
    try:
        encode_fields(list(headers.items()))
    except ValueError as error:
        raise BridgeError("invalid_params", f"configured headers: {error}", sent=False) from None
    for field, value in headers.items():
        request.headers[field] = value
    protocol.send_request(request)
    if uri.secure and ssl is None:
        ssl = ssl_module.create_default_context()
    sock = await route.open()
    transport: asyncio.Transport | None = None
    try:
        with HandingOver(sock):
            transport, opening = await asyncio.get_running_loop().create_connection(
                lambda: _Opening(protocol),
                sock=sock,
                ssl=ssl if uri.secure else None,
                server_hostname=uri.host if uri.secure else None,
            )
        rest = await opening.answered
        if transport.is_closing():
            raise ConnectionResetError(ECONNRESET, "the server closed after the upgrade")
    except BaseException:
        if transport is not None:
            transport.abort()
        raise
    protocol.extensions = [deflate.Bounded(extension) for extension in protocol.extensions]
    connection = WebSocketConnection(protocol, max_message, silence=silence)
    transport.set_protocol(connection)
    connection.connection_made(transport)
    if rest:
        connection.data_received(rest)
    transport.resume_reading()
    return connection


class _Opening(asyncio.Protocol):
    """The opening handshake. ``answered`` gets what came behind a good answer, or the reason why it is none."""

    def __init__(self, protocol: ClientProtocol) -> None:
        self._protocol = protocol
        self._head = b""
        self._taken = 0  # bytes of interim answers
        self._transport: asyncio.Transport
        self.answered: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._transport.writelines(self._protocol.data_to_send())

    def data_received(self, data: bytes) -> None:
        self._head += data
        try:
            while not self.answered.done() and (end := self._head.find(b"\r\n\r\n") + 4) >= 4:
                self._take(self._head[:end])
            if not self.answered.done() and self._taken + len(self._head) > MAX_HEAD:
                raise BridgeError("protocol_mismatch", "the answer to the upgrade has no end", sent=False)
        except BridgeError as error:
            self._end(error)

    def connection_lost(self, exc: Exception | None) -> None:
        self._end(BridgeError("protocol_mismatch", "the server closed instead of answering the upgrade", sent=False))

    def _take(self, head: bytes) -> None:
        try:
            answer = parse_response(head)
        except HttpError as error:
            raise BridgeError("protocol_mismatch", f"no HTTP answer to the upgrade: {error.detail}", sent=False) from None
        rest = self._head[len(head) :]
        if answer.status != 101:
            self._head = rest
            self._taken += len(head)
            if answer.status >= 200 or self._taken > MAX_HEAD:
                raise _refusal(answer.status)
            return
        self._protocol.receive_data(head)
        self._protocol.events_received()
        if self._protocol.state is not OPEN:
            cause = self._protocol.handshake_exc
            why = str(cause) if isinstance(cause, InvalidHandshake) else "malformed"
            raise BridgeError("protocol_mismatch", f"the answer to the upgrade is no good: {why}", sent=False)
        self._transport.pause_reading()  # until the connection has the transport
        self.answered.set_result(rest)

    def _end(self, error: BridgeError) -> None:
        if not self.answered.done():
            self.answered.set_exception(error)
            self.answered.exception()  # seen: the dialer may have given up


def _refusal(status: int) -> BridgeError:
    """What an HTTP answer instead of 101 means for calls: a bad credential and a wrong address stay, an outage may pass."""
    if status in (401, 403):
        return BridgeError("backend_refused", f"the server answered HTTP {status}", sent=False, status=status)
    if status == 429 or status >= 500:
        return BridgeError("backend_error", f"the server answered HTTP {status}", sent=False, status=status)
    redirect = ", a redirect, which is not followed" if 300 <= status < 400 else ""
    return BridgeError("protocol_mismatch", f"no WebSocket here: HTTP {status}{redirect}", sent=False, status=status)
