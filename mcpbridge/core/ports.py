"""The plugs that rooms fit into: what the core needs of a transport, and nothing it knows about one.

    Connection   a raw duplex pipe of whole messages (stdio, websocket, tcp_binary, sse): bytes in, bytes out
    Upstream     a live conversation with one backend in one era: Peer over a Connection, or POSTs to an HTTP endpoint
    Inbox        where an Upstream puts what belongs to no call of ours
    Eras         how the two eras are told apart and bridged

Source: architecture section 4.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Protocol

from mcpbridge.core.exchange import Era, Exchange, Reply
from mcpbridge.errors import BridgeError
from mcpbridge.wire.message import Notification, Request, Response

if TYPE_CHECKING:
    from mcpbridge.core.client_session import AnyLink, ClientSession
    from mcpbridge.core.server import Backend


class Connection(Protocol):
    """A duplex pipe of whole messages. Callbacks run on the event loop, in the order of the bytes."""

    def start(self, on_message: Callable[[bytes], None], on_close: Callable[[BaseException | None], None]) -> None:
        """Begin delivery. ``on_message`` gets the bytes of one message without framing; ``on_close`` comes exactly once,
        after the last message, with the cause or None for a clean end."""

    def send(self, data: bytes) -> None:
        """Frame and write one message. Never blocks; after the connection ended it raises ConnectionError."""

    async def drain(self) -> None:
        """Wait until the write buffer is below its high-water mark."""

    def pause(self) -> None:
        """Stop reading (back-pressure) until ``resume``."""

    def resume(self) -> None: ...

    async def close(self) -> None:
        """End it and everything it owns (a child process and its group). Idempotent; bounded in time."""


class Inbox(Protocol):
    """Takes what a backend says outside any call of ours."""

    def notified(self, notification: Notification) -> None: ...

    async def asked(self, request: Request) -> Response:
        """Answer a request of the server; the answer's id is set by the caller."""

    def closed(self, cause: BaseException | None) -> None:
        """The conversation is over; calls in flight have already failed."""


class Upstream(Protocol):
    """A live conversation with one backend in one era.

    ``names_request`` is True when the transport ties a server's questions and log messages to the call they belong to
    (a POST's own stream); False for one shared pipe.
    """

    names_request: bool
    noise: str
    """The newest thing the server said that is no message, "" if none: a timeout names it."""

    async def call(self, request: Request, reply: Reply) -> Response:
        """Send a request under an id of the conversation's own and wait; the answer carries the caller's id again.

        Progress tokens and subscription ids are mapped there and back. Related notifications go to ``reply.notify``,
        related questions to ``reply.ask``. Cancelling the task cancels the call in the server's dialect.
        Raises BridgeError (``sent=False`` when certainly nothing was written).
        """

    async def notify(self, notification: Notification) -> None:
        """Send and wait until the server has taken it (HTTP: 202; a pipe: below its high-water mark)."""

    def notify_now(self, notification: Notification) -> None:
        """Send without waiting, in order with what was sent before where the transport has an order."""

    async def close(self) -> None: ...


class Upward:
    """A Reply: takes the client's progress on a server's question back to that server."""

    can_ask = False

    def __init__(self, upstream: Upstream) -> None:
        self._upstream = upstream

    def notify(self, notification: Notification) -> None:
        self._upstream.notify_now(notification)

    async def ask(self, request: Request, asker: Reply | None = None) -> Response:
        raise LookupError("a server is not asked back")


Dial = Callable[[Era, Inbox], Awaitable[Upstream]]
"""Opens a conversation with one endpoint (spawns the child, prepares the HTTP client). Raises BridgeError(sent=False)."""


class Eras(Protocol):
    """What the era room adds to the core: finding a server's era and crossing between eras.

    Without it (``None``) every server is spoken to in its client's era, which is a complete same-era bridge.
    """

    async def probe(self, upstream: Upstream, timeout: float) -> tuple[Era, Response]:
        """The era of the server behind a fresh conversation, and its DiscoverResult or InitializeResult response.
        Raises BridgeError on an outage, which is never a verdict."""

    def is_modern_only(self, response: Response) -> bool:
        """Whether this answer to a legacy ``initialize`` says that the server speaks only the modern era."""

    def may_be_modern(self, refusal: Response | BridgeError) -> bool:
        """Whether a server that did not take a legacy ``initialize`` is worth being asked for its era."""

    def link(self, session: ClientSession, backend: Backend) -> AnyLink:
        """A legacy client's link to a modern server."""

    async def call(self, x: Exchange) -> Response:
        """A modern client's request answered by the legacy backend ``x.backend``."""

    async def tell(self, x: Exchange, notification: Notification) -> None:
        """A modern client's notification, which its vendor alone knows, for the legacy backend ``x.backend``."""

    async def close(self) -> None:
        """End what outlives a request (parked calls), while the servers can still be told. Bounded in time."""
