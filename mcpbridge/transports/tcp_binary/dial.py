"""dial(): a conversation with a server at the other end of a TCP connection.

    connect (TLS) -> 6 negotiate -> 7 ack [-> 3 control, 4 health -> 4 health] -> messages, a health frame after 20 s of silence

The health frame behind the token is answered when the token was accepted, so that a refused one fails the dial and no call.

Source: architecture section 8; wire.mcpb; contract backends.tcp_binary.timeout; reliability section 3 row 36.
"""

from __future__ import annotations

import asyncio
import math
import ssl as tls
from collections.abc import Callable
from typing import Final

from mcpbridge.core.exchange import Era
from mcpbridge.core.peer import MAX_GARBAGE, Peer
from mcpbridge.core.ports import Dial, Inbox, Upstream
from mcpbridge.core.tasks import Spawn
from mcpbridge.descriptors import HandingOver
from mcpbridge.errors import BridgeError
from mcpbridge.proxies import Proxy
from mcpbridge.transports.doors import HANDSHAKE_TIME, SHUTDOWN_TIME
from mcpbridge.transports.http1.dial import raise_dial_error
from mcpbridge.transports.proxy import Route
from mcpbridge.transports.tcp_binary.connection import CONSUMER, FrameConnection
from mcpbridge.wire import mcpb

SILENCE: Final = 20.0  # seconds
_BEFORE: Final = frozenset((mcpb.ACK, mcpb.HEALTH, mcpb.ERROR))
_OPEN: Final = mcpb.MESSAGES | {mcpb.CONTROL, mcpb.HEALTH, mcpb.ERROR}


def dial(
    name: str,
    spawn: Spawn,
    host: str,
    port: int,
    *,
    token: Callable[[], str | None] = lambda: None,
    ssl: tls.SSLContext | None = None,
    proxy: Proxy | None = None,
    max_message: int = mcpb.MAX_PAYLOAD,
    timeout: float = 10.0,
    silence: float | None = None,
) -> Dial:
    """How to reach server ``name`` at an address.

    ``token`` is read at each connection: the value of the Authorization header it signs in with, None for no sign-in.
    ``max_message`` in bytes; ``timeout``: seconds from the first packet to the end of the sign-in; ``silence``: seconds without
    a byte until the server is asked, and again until it counts as dead.
    """
    route = Route(host, port, proxy)

    async def run(_era: Era, inbox: Inbox) -> Upstream:
        connection: Dialed | None = None
        try:
            async with asyncio.timeout(timeout):
                connection = Dialed(token(), max_message, silence)
                await _open(connection, route, host, ssl)
                await connection.ready()
        except (OSError, TimeoutError) as error:
            if connection is not None:
                connection.fail(error)
            raise_dial_error(error, route.through)
        except BaseException as error:
            if connection is not None:
                connection.fail(error)
            raise
        peer = Peer(connection, inbox, spawn, client=False, name=name, max_garbage=MAX_GARBAGE)
        peer.start()
        return peer

    return run


async def _open(connection: Dialed, route: Route, host: str, ssl: tls.SSLContext | None) -> None:
    sock = await route.open()
    loop = asyncio.get_running_loop()
    with HandingOver(sock):
        if ssl is None:
            await loop.create_connection(lambda: connection, sock=sock)
        else:
            await loop.create_connection(
                lambda: connection,
                sock=sock,
                ssl=ssl,
                server_hostname=host,
                ssl_handshake_timeout=HANDSHAKE_TIME,
                ssl_shutdown_timeout=SHUTDOWN_TIME,
            )


class Dialed(FrameConnection):
    """Our end of a connection to a server."""

    __slots__ = ("_is_asked", "_quiet", "_ready", "_silence", "_token")
    writes = mcpb.REQUEST

    def __init__(self, token: str | None, max_message: int, quiet: float | None = None) -> None:
        super().__init__(max_message, _BEFORE)
        self._token = token
        self._quiet = quiet or SILENCE
        self._ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._is_asked = False  # a health frame of ours is not answered yet
        self._silence: asyncio.TimerHandle | None = None

    async def ready(self) -> None:
        """Wait for negotiation and sign-in. Raises BridgeError, its ``sent`` False."""
        await self._ready

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self.write(mcpb.OFFER)

    def data_received(self, data: bytes) -> None:
        self._is_asked = False
        super().data_received(data)

    def taken(self, frame: mcpb.Frame) -> None:
        kind = frame.kind
        if kind in mcpb.MESSAGES:
            self.deliver(frame.payload)
        elif kind == mcpb.ERROR:
            self.fail(_theirs(mcpb.refused(frame.payload)))
        elif kind == mcpb.ACK:
            mcpb.check_ack(frame.payload)
            self._reader.kinds = _OPEN
            if self._token is None:
                self._be_ready()
            else:
                self.write(mcpb.authorize(self._token) + mcpb.encode(mcpb.HEALTH))
                self._token = None
        elif kind == mcpb.HEALTH and self._reader.kinds == _OPEN and not self._ready.done():
            self._be_ready()

    def _be_ready(self) -> None:
        if not self._ready.done():
            self._ready.set_result(None)
        self.hold(CONSUMER)  # until there is one
        self._listen_for_life()

    def _listen_for_life(self) -> None:
        self._silence = asyncio.get_running_loop().call_later(self._quiet, self._on_silence)

    def _on_silence(self) -> None:
        """Time to look whether the server said anything since the last look."""
        if self._is_over:
            return
        if self._is_asked and not self._holds:
            self.fail(BridgeError("stream_closed", f"no answer to a health frame in {self._quiet:g} s"))
            return
        self._is_asked = True
        try:
            self.write(mcpb.encode(mcpb.HEALTH))
        except ConnectionError:
            return
        self._listen_for_life()

    def finish(self, cause: BaseException | None) -> None:
        if self._silence is not None:
            self._silence.cancel()
        if not self._ready.done():
            self._ready.set_exception(_unsent(cause))
            self._ready.exception()  # seen: the dial may have given up already
        super().finish(cause)

    def lost(self, exc: Exception | None) -> None:
        """What came before the end is still delivered, whoever holds reading."""
        self._holds = 0
        self._pump(math.inf)
        if exc is None and not self._is_over:
            self.ended()
        super().lost(exc)

    def ended(self) -> None:
        if self._reader.has_begun:
            self.finish(BridgeError("stream_closed", "the connection ended inside a frame"))
        else:
            self.finish(None)


def _theirs(said: BridgeError) -> BridgeError:
    """What a server's error frame means here: our token is no fault of our client."""
    if said.reason in ("unauthorized", "forbidden"):
        return BridgeError("backend_refused", said.detail)
    return said


def _unsent(cause: BaseException | None) -> Exception:
    if isinstance(cause, BridgeError):
        return BridgeError(cause.reason, cause.detail, sent=False, **cause.data)
    if isinstance(cause, OSError | TimeoutError):
        return cause
    return BridgeError("stream_closed", "the server closed the connection before it agreed to a version", sent=False)
