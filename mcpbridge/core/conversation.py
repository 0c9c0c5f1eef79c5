"""A live conversation with a backend, and the key that says who may share it.

Source: architecture section 6.5.
"""

from __future__ import annotations

from time import monotonic
from typing import TYPE_CHECKING, NamedTuple, Protocol

from msgspec import Raw

from mcpbridge.core.exchange import Era, Reply
from mcpbridge.core.ports import Inbox, Upstream
from mcpbridge.errors import BridgeError
from mcpbridge.wire import message as m
from mcpbridge.wire.message import Notification, Request, Response
from mcpbridge.wire.spec import LISTEN_FLAGS

if TYPE_CHECKING:
    from mcpbridge.core.lease import Asker
    from mcpbridge.core.pool import Pool

_NEWS = frozenset(LISTEN_FLAGS.values())


class SessionKey(NamedTuple):
    """Who may share a conversation: era, principal, protocol version, digest of the declared capabilities."""

    era: Era
    principal: str = ""
    version: str = ""
    capabilities: str = ""


MODERN_KEY = SessionKey("modern")
"""All modern calls of a backend share one conversation."""


class Owner(Inbox, Protocol):
    """The link that a conversation belongs to."""

    @property
    def is_idle(self) -> bool:
        """Whether the conversation may be ended to make room; it is opened again when it is needed."""


class Refused(Exception):
    """The server answered ``initialize`` with a JSON-RPC error: passed to the client verbatim, not a failure of the backend."""

    def __init__(self, response: Response) -> None:
        self.response = response
        super().__init__("the server refused to initialize")


class BackendSession:
    """One live conversation with a backend. As its Inbox it hands on what the server says outside any call."""

    def __init__(self, pool: Pool, key: SessionKey, owner: Owner | None) -> None:
        self.pool = pool
        self.key = key
        self.owner = owner  # the one link it belongs to; None when shared
        self.upstream: Upstream
        self.hello: Response | None = None
        self.listeners: list[Inbox] = []
        self.users = 0  # calls in flight, and links and listens that stay
        self.last_used = 0.0
        self.is_open = False  # its handshake is done
        self.log_owner: object | None = None  # whose calls may ask for logs now; see Pool.lease_logs
        self.log_calls = 0
        self.log_level: str | None = None  # as set for modern clients
        self.subscriptions: dict[str, int] = {}  # resource URI -> listens of modern clients that want it
        self.is_initialized = False  # `notifications/initialized` was sent
        self.asker: Asker | None = None  # the call that is asked what the server asks now; see core/lease
        self.callers: list[Inbox] = []  # calls in flight that cannot be asked, on a pipe: a question belongs to the only one
        self.is_leased = False
        self.is_tainted = False  # what its server asks may be about a call that was cut short
        self.roots: Raw | None = None  # the result of roots/list that its client gave last
        self.cause: BaseException | None = None
        self.is_closed = False

    @property
    def is_idle(self) -> bool:
        """Whether it can be ended to make room for another."""
        if not self.is_open:
            return False
        if self.owner is not None:
            return self.owner.is_idle
        return self.users == 0 and self.log_calls == 0

    async def call(self, request: Request, reply: Reply) -> Response:
        """``Upstream.call``; while it runs the conversation is in use.

        Raises BridgeError("backend_session_lost", ``sent=False``) for a call that certainly never left us because the
        conversation had just ended: who asked tries it again once, on a fresh one of the same backend.
        """
        if self.is_closed:
            raise self._lost()
        self.users += 1
        try:
            return await self.upstream.call(request, reply)
        except BridgeError as error:
            if error.sent or not self.is_closed:
                raise
            raise self._lost() from error
        finally:
            self.users -= 1
            self.last_used = monotonic()

    def _lost(self) -> BridgeError:
        name = self.pool.backend.server.name
        detail = f"server {name!r}: the conversation had just ended: {self.cause or 'it was not needed any more'}"
        return BridgeError("backend_session_lost", detail, sent=False, server=name)

    def notified(self, notification: Notification) -> None:
        for listener in list(self.listeners):
            listener.notified(notification)
        if self.owner is None and notification.method in _NEWS:
            # A server may tell the caller's conversation alone; who listens does so on the shared one.
            shared = self.pool.shared_now(self.key)
            for listener in list(shared.listeners) if shared is not None and shared is not self else ():
                listener.notified(notification)

    async def asked(self, request: Request) -> Response:
        if self.owner is not None:
            return await self.owner.asked(request)
        if request.method == "ping":
            return m.result(request.id, {})
        if self.asker is not None:
            return await self.asker.asked(request)
        if request.method == "roots/list" and self.roots is not None:
            return m.result(request.id, self.roots)
        if len(self.callers) == 1:
            return await self.callers[0].asked(request)
        # No call is in flight that could be asked, or nobody declared the capability (MCP lifecycle, SEP-2260).
        error = {"code": -32601, "message": f"Method not found: {request.method}: no client can be asked now"}
        return m.error(request.id, error)

    def closed(self, cause: BaseException | None) -> None:
        if self.is_closed:
            return
        self.is_closed = True
        self.cause = cause
        self.pool.ended(self)
        for listener in list(self.listeners):
            listener.closed(cause)

    async def close(self) -> None:
        """End the conversation on purpose; its listeners are not told."""
        self.listeners.clear()
        was_closed, self.is_closed = self.is_closed, True
        if not was_closed:
            self.pool.ended(self)
        if hasattr(self, "upstream"):
            await self.upstream.close()
