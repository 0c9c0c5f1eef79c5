"""The listening half: an HTTP request that asks for a WebSocket becomes a client of the bridge.

    GET /ws, /ws/{server} or / with Upgrade ──► handshake checked ──► admit ──► 101 ──► serve

Host and Origin were checked by the faces before; sign-in is ``admit``, answered as HTTP (401, 403) before any 101.

Source: RFC 6455 section 4.2; contract http.gateway.ws, http.common.origin; architecture section 8.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import partial
from typing import Final

from websockets.datastructures import Headers
from websockets.frames import CloseCode
from websockets.http11 import Request
from websockets.protocol import OPEN
from websockets.server import ServerProtocol
from websockets.typing import Subprotocol

from mcpbridge.core.duplex import Admit, Arrival, Serve
from mcpbridge.errors import BridgeError, to_wire
from mcpbridge.transports.http1.server import HttpRequest, Responder
from mcpbridge.transports.websocket import deflate
from mcpbridge.transports.websocket.connection import CONTROL, WebSocketConnection
from mcpbridge.wire import message as m

VERSION: Final = "13"
MCP: Final = Subprotocol("mcp")
_HANDSHAKE_ONLY: Final = ("connection", "upgrade")  # not of interest once it is one; nor are those named sec-websocket-*


class WebSocketFrontend:
    """Serves WebSocket clients of an HTTP server. ``max_message`` in bytes, inflated.

    When we close, it is with 1001 once ``draining`` is set, and with 1008 before: the client may not go on, and was told why.
    """

    def __init__(
        self, serve: Serve, admit: Admit, draining: asyncio.Event, *, max_message: int = 10_485_760, compression: bool = False
    ) -> None:
        self._serve = serve
        self._admit = admit
        self._draining = draining
        self._max_message = max_message
        self._extensions = deflate.SERVER if compression else None

    async def handle(self, request: HttpRequest, responder: Responder, server: str | None = None) -> None:
        """Answer a request to a WebSocket endpoint, and talk with its client to the end. ``server``: the one it names."""
        if request.method != "GET":
            await responder.respond(405, [("allow", "GET")])
            return
        if not request.upgrades_to("websocket"):
            await responder.respond(426, [("upgrade", "websocket"), ("connection", "upgrade"), _TEXT], _NOT_ONE)
            return
        if request.headers.get("sec-websocket-version") != VERSION:
            await responder.respond(426, [("sec-websocket-version", VERSION), ("upgrade", "websocket"), _TEXT], _OTHER_VERSION)
            return
        negotiation = ServerProtocol(extensions=self._extensions, subprotocols=[MCP], select_subprotocol=_select)
        answer = negotiation.accept(Request(request.target, Headers(_fields(request))))
        if answer.status_code != 101:
            await responder.respond(answer.status_code, [_TEXT], bytes(answer.body))
            return
        headers = {
            name: value
            for name, value in request.headers.items()
            if name not in _HANDSHAKE_ONLY and not name.startswith("sec-websocket-")
        }
        arrival = Arrival("websocket", request.peer, headers, server)
        try:
            await self._admit(arrival)
        except BridgeError as error:
            await _refuse(responder, error)
            return
        protocol = ServerProtocol(state=OPEN, max_size=self._max_message + CONTROL)
        protocol.extensions = [deflate.Bounded(extension) for extension in negotiation.extensions]
        protocol.subprotocol = negotiation.subprotocol
        connection = WebSocketConnection(protocol, self._max_message, self._goodbye)
        fields = [field for field in answer.headers.raw_items() if field[0].lower().startswith(("upgrade", "sec-"))]
        responder.upgrade(fields, connection, partial(self._serve, connection, arrival))

    def _goodbye(self) -> CloseCode:
        return CloseCode.GOING_AWAY if self._draining.is_set() else CloseCode.POLICY_VIOLATION


_TEXT = ("content-type", "text/plain; charset=utf-8")
_NOT_ONE = b"This is a WebSocket endpoint: connect with a WebSocket client, or POST to /mcp.\n"
_OTHER_VERSION = b"Only WebSocket version 13 is spoken here.\n"


def _fields(request: HttpRequest) -> Sequence[tuple[str, str]]:
    return [(name, value) for name, value in request.headers.items() if name in _HANDSHAKE_ONLY or name.startswith("sec-")]


def _select(_protocol: ServerProtocol, offered: Sequence[Subprotocol]) -> Subprotocol | None:
    """``mcp`` when offered; a client that offers only others decides for itself whether it goes on without."""
    return MCP if MCP in offered else None


async def _refuse(responder: Responder, error: BridgeError) -> None:
    """Say in HTTP why a client is not let in."""
    headers = [("content-type", "application/json")]
    challenge = error.data.pop("challenge", None)
    if challenge:
        headers.append(("www-authenticate", challenge))
    if error.retry_after is not None:
        headers.append(("retry-after", error.retry_after))
    await responder.respond(error.fault.status, headers, m.error(None, to_wire(error)).encode())
