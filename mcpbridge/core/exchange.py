"""Exchange: one client message and everything that happens until it is answered. Law: it ends exactly once.

Policies see the exchange through ``view`` (the same for both eras); the bytes stay in the client's own dialect in
``message``. A policy refuses by raising ``BridgeError``; the listener formats the reply.

Source: architecture sections 4-6.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol

from msgspec import Struct, field

from mcpbridge.wire.envelope import members, text
from mcpbridge.wire.message import Members, Message, Notification, Request, Response
from mcpbridge.wire.spec import CLIENT_CAPABILITIES, LOG_LEVEL, PROTOCOL_VERSION, name_of

if TYPE_CHECKING:
    from mcpbridge.core.balance.policy import Strategy
    from mcpbridge.core.client_session import BackChannel, ClientSession
    from mcpbridge.core.server import Backend, Server
    from mcpbridge.core.session import Session

Era = Literal["modern", "legacy"]
_REMEMBERED = frozenset({"initialize", "logging/setLevel", "resources/subscribe", "resources/unsubscribe"})
QUESTION_WAIT = 600.0  # seconds a server's question waits for the client (contract routing.parked_ttl)


@dataclass(slots=True, frozen=True)
class Principal:
    """Who calls: issuer + subject identify; scopes say what the present token allows (decision 6)."""

    issuer: str
    subject: str
    scopes: frozenset[str] = frozenset()
    client_id: str = ""

    @property
    def key(self) -> str:
        """What sessions and pools are bound to."""
        return f"{self.issuer}\x1f{self.subject}"


ANONYMOUS = Principal("", "anonymous", frozenset({"mcp:read", "mcp:write", "mcp:admin"}))
"""The one principal of a bridge that runs without sign-in, which is possible on loopback and stdio only."""


class Caller(Struct):  # like View and Exchange: made for every message, which costs a dataclass three times as much
    """Where a message came from. ``headers`` are lower-case names; empty for transports without headers."""

    protocol: str  # frontend protocol: stdio websocket http sse tcp_binary
    era: Era
    address: str = ""
    headers: Mapping[str, str] = {}
    principal: Principal | None = None  # set by the authenticate policy
    request_id: str | None = None  # of the HTTP request, for logs and errors
    connection: object | None = None  # identity of the client connection; None when each message stands alone
    is_rewritten: bool = False  # its headers speak of another call than its message does now


class View(Struct):
    """What policies may look at, filled from ``_meta`` for modern clients and from the session for legacy ones."""

    method: str
    name: str | None = None  # params.name (tools, prompts) or params.uri (resources)
    version: str = ""
    capabilities: Members = {}  # what the client declared
    log_level: str | None = None


def view_of(message: Message, era: Era) -> View:
    """What policies see of a message. Modern clients say it in ``_meta``; a legacy client's session knows the rest."""
    if isinstance(message, Response):
        return View("(response)")
    member = name_of(message.method)
    view = View(message.method, text(message.param(member)) if member is not None else None)
    if era == "modern":
        view.version = text(message.meta.get(PROTOCOL_VERSION)) or ""
        view.log_level = text(message.meta.get(LOG_LEVEL))
        declared = message.meta.get(CLIENT_CAPABILITIES)
        if declared is not None and bytes(declared)[:1] == b"{":
            view.capabilities = members(declared)
    return view


class Reply(Protocol):
    """The way back to the client while it waits for this answer."""

    @property
    def can_ask(self) -> bool:
        """Whether ``ask`` can reach the client."""

    def notify(self, notification: Notification) -> None:
        """Send a notification related to this call, at once and in order. Never blocks; a client too slow loses the call."""

    async def ask(self, request: Request, asker: Reply | None = None) -> Response:
        """Put a question of the server to the client and wait for its answer, which may be a JSON-RPC error.

        ``asker.notify`` takes the client's progress on it, which is nobody's else.
        """


class NoReply:
    """The way back of a message that nobody waits for."""

    can_ask = False

    def notify(self, notification: Notification) -> None:
        return None

    async def ask(self, request: Request, asker: Reply | None = None) -> Response:
        raise LookupError("no client is waiting")


class Deadline:
    """A point in time that stands still while a question is with the client. Seconds of the loop's monotonic clock.

    ``limit`` caps what progress may add: each ``extend`` restarts the budget, the sum never passes ``limit`` budgets.
    """

    __slots__ = ("_ends", "_hard", "_paused_at", "_pauses", "_watchers", "budget")

    def __init__(self, budget: float, now: float, limit: float = 10.0) -> None:
        self.budget = budget
        self._ends = now + budget
        self._hard = now + budget * limit
        self._pauses = 0
        self._paused_at = 0.0
        self._watchers: list[Callable[[], None]] = []

    def remaining(self, now: float) -> float:
        """Seconds left, never negative; the value at the pause while paused."""
        return max(0.0, self._ends - (self._paused_at if self._pauses else now))

    @property
    def paused(self) -> bool:
        return self._pauses > 0

    def pause(self, now: float) -> None:
        """The clock stops until the matching ``resume``; pauses nest."""
        if self._pauses == 0:
            self._paused_at = now
        self._pauses += 1
        self._changed()

    def resume(self, now: float) -> None:
        self._pauses -= 1
        if self._pauses == 0:
            self._ends += now - self._paused_at
            self._hard += now - self._paused_at
        self._changed()

    def extend(self, now: float) -> None:
        """Progress was seen: the budget starts anew, up to the hard end."""
        now = self._paused_at if self._pauses else now
        self._ends = max(self._ends, min(now + self.budget, self._hard))
        self._changed()

    def watch(self, changed: Callable[[], None]) -> None:
        """Call ``changed`` after every pause, resume and extension; the parts of one exchange share its deadline."""
        self._watchers.append(changed)

    def unwatch(self, changed: Callable[[], None]) -> None:
        """Stop; once for each ``watch``, and nothing when it has stopped already."""
        if changed in self._watchers:
            self._watchers.remove(changed)

    def _changed(self) -> None:
        for changed in list(self._watchers):
            changed()


class Exchange(Struct):
    """One client message and what happens to it; the law and the life are in the module."""

    message: Message | SessionOp
    view: View
    caller: Caller
    reply: Reply
    deadline: Deadline
    target: Server | tuple[Server, ...] | None = None  # one server, the servers of an aggregate, or not yet routed
    session: ClientSession | None = None  # legacy clients only
    session_id: str | None = None  # as the client named it (HTTP); the sessions policy resolves it
    open_back: Callable[[Session], BackChannel] | None = None  # the frontend's way to reach the client outside a call
    backend: Backend | None = None
    answered_by: list[Backend] = []  # when several servers' answers made one, in their order
    attempts: int = 0
    worked: float = 0.0  # seconds in which attempts between two protocols ran, waits left out
    started: float = field(default_factory=time.monotonic)
    cancel_reason: str | None = None
    force_protocol: str | None = None
    strays: bool = False  # where its session is it failed, so it goes elsewhere; the session stays
    strategy: Strategy | None = None  # of balancing, for this exchange
    is_part: bool = False  # of a client's message to several servers as one
    notes: dict[str, Any] = {}  # small facts for the access log, e.g. session id to announce

    @property
    def request(self) -> Request:
        assert isinstance(self.message, Request)
        return self.message

    @property
    def roams(self) -> bool:
        """Whether it goes wherever balancing sends it although its session is legacy, in a conversation beside that one's."""
        return self.session is not None and (self.strays or self.session.is_passing) and self.may_roam

    @property
    def may_roam(self) -> bool:
        """Whether any conversation with its server does as well: what one remembers (level, subscriptions, tasks) does not."""
        message = self.message
        if not isinstance(message, Request):
            return False
        return message.method not in _REMEMBERED and not message.method.startswith("tasks/") and message.param("task") is None

    def derive(
        self, message: Request | Notification, target: Server | tuple[Server, ...] | None, reply: Reply | None = None
    ) -> Exchange:
        """A part of this exchange towards one server of an aggregate: same caller, session and deadline."""
        return Exchange(
            message,
            View(message.method, self.view.name, self.view.version, self.view.capabilities, self.view.log_level),
            self.caller,
            reply or self.reply,
            self.deadline,
            target,
            self.session,
            force_protocol=self.force_protocol,
            strategy=self.strategy,
            is_part=True,
        )


SessionMethod = Literal["GET", "DELETE", "BATCH", "CONNECT", "SPEAK"]


@dataclass(slots=True, frozen=True)
class SessionOp:
    """What a transport says beside its JSON-RPC messages. Streamable HTTP about a session: open its stream (GET), end it
    (DELETE), or a BATCH comes, which must be known to be its before it is split. Duplex transports: somebody wants to
    CONNECT, or to SPEAK on what is open.

    It passes the same front ring as every message: one choke point for authentication, limits and audit.
    """

    method: SessionMethod


Handler = Callable[[Exchange], Awaitable[Response | None]]
"""Answers an exchange: the Response of a request, None for anything else. Raises BridgeError."""

Policy = Callable[[Exchange, Handler], Awaitable[Response | None]]
"""The only middleware shape: look, then refuse by raising, or ``return await handler(exchange)``.

One that does nothing after the handler is a plain function that returns ``handler(exchange)``: a call passes ten of them, and
each coroutine costs a third of a microsecond.
"""
