"""ClientSession: a legacy client while it is here. The small plain record may outlive us; links and streams may not.

    ClientSession  --1:n-->  Link (one per server it talks to)
                   --1:1-->  BackChannel (the client's stdout, or the GET stream of its HTTP session)

Source: architecture sections 4 and 7; shared decisions 5, 6 and 14.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from mcpbridge.core.session import Session
from mcpbridge.wire.message import Notification, Request, Response

if TYPE_CHECKING:
    from mcpbridge.core.exchange import Exchange, Reply
    from mcpbridge.core.server import Backend, Server


class BackChannel(Protocol):
    """Carries to a legacy client what belongs to no request of its own, in order."""

    def notify(self, notification: Notification) -> None: ...

    async def ask(self, request: Request, reply: Reply) -> Response:
        """Put a server's question to the client; ``reply.notify`` takes the client's progress on it."""


class AnyLink(Protocol):
    """What a client session needs of its link to one server, whatever the server's era."""

    server: Server
    backend: Backend | None

    async def open(self, initialize: Request) -> Response:
        """Start the conversation on the client's behalf; the server's InitializeResult (or error) with the client's id."""

    async def call(self, x: Exchange) -> Response: ...

    async def notify(self, notification: Notification) -> None: ...

    async def close(self) -> None: ...


Outgoing = Callable[["Server", Notification], Notification | None]
"""How an endpoint shows a server's unsolicited notification to the client: as it is, rewritten, or not at all."""


class ClientSession:
    """The live half of one legacy client."""

    def __init__(self, record: Session, back: BackChannel) -> None:
        self.record = record
        self.back = back
        self.links: dict[str, AnyLink] = {}
        self.opening: dict[str, asyncio.Future[Response]] = {}  # links on their way, by server
        self.initialize: Request | None = None
        self.initialized: Notification | None = None  # the client's own notifications/initialized, once it came
        self.outgoing: Outgoing = lambda _server, notification: notification
        self.calls: dict[int | str, asyncio.Task[object]] = {}  # in flight by the client's id: what `cancelled` refers to
        self.closed = False

    @property
    def declares_nothing(self) -> bool:
        """Such clients share one backend session per principal (decision 14)."""
        return not self.record.asks

    def notified(self, server: Server, notification: Notification) -> None:
        """A server of this session said something outside any call."""
        shown = self.outgoing(server, notification)
        if shown is not None and not self.closed:
            self.back.notify(shown)

    async def close(self) -> None:
        """End every link. Idempotent."""
        if self.closed:
            return
        self.closed = True
        for task in list(self.calls.values()):
            task.cancel("session ended")
        links = list(self.links.values())
        self.links.clear()
        await asyncio.gather(*(link.close() for link in links), return_exceptions=True)
