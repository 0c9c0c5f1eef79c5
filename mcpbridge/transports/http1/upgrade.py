"""A connection that another protocol took over by 101. The server counts, drains and cuts it like every other.

    ServerConnection ──► Responder.upgrade ──► Handover ──► Upgraded (a WebSocket)

A Handover stands in the place of the connection: request, handler and parser are not kept for as long as the connection lives.

Source: RFC 9110 section 7.8 (Upgrade); shared decision 7 (memory of idle WebSockets).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from mcpbridge.observe.log import log

if TYPE_CHECKING:
    from mcpbridge.transports.http1.server import HttpServer

_log = log("http1")
Talk = Callable[[], Awaitable[None]]
"""What an upgraded connection is for; at its end the connection is closed."""


class Upgraded(asyncio.Protocol):
    """What a connection has become."""

    __slots__ = ()

    def going_away(self) -> None:
        """The server drains. Whoever talks over the connection may know already, and when the talk is over."""


class Handover(asyncio.Protocol):
    """The transport's protocol from the 101 on."""

    __slots__ = ("_server", "_successor", "_talk", "_task", "_transport", "key")
    is_active = False  # no request is being answered

    def __init__(
        self,
        server: HttpServer,
        transport: asyncio.Transport,
        successor: Upgraded,
        talk: Talk,
        handler: asyncio.Task[None] | None,
    ) -> None:
        self._server = server
        self._transport = transport
        self._successor = successor
        self._talk = talk
        self._task = handler  # until ``begin``
        self.key: str | None = None

    def begin(self) -> None:
        """The handler is done: the talk has the connection."""
        self._task = self._server.loop.create_task(self._run())

    async def _run(self) -> None:
        try:
            await self._talk()
        except Exception as error:  # noqa: BLE001 - the barrier of one connection: others go on
            _log.error("upgraded connection failed", exc=error)
        finally:
            self._task = None
            self._transport.close()

    def data_received(self, data: bytes) -> None:
        self._successor.data_received(data)

    def eof_received(self) -> bool:
        return bool(self._successor.eof_received())

    def pause_writing(self) -> None:
        self._successor.pause_writing()

    def resume_writing(self) -> None:
        self._successor.resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        self._server.forget(self)
        self._successor.connection_lost(exc)

    # -- what the server asks of every connection

    def close_if_idle(self, _since: float = 0.0) -> None:
        self._successor.going_away()

    def abort(self) -> asyncio.Task[None] | None:
        """Cut the connection and cancel its task, which is returned for awaiting."""
        task = self._task
        self._transport.abort()
        if task is not None:
            task.cancel()
        return task

    def sweep(self, now: float) -> None:
        """The times of HTTP are over; the successor keeps its own."""
