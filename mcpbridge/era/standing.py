"""What stands for a modern client at a legacy server: the session it shares, and the way back that its calls have.

A legacy session freezes the client's capabilities, so there is one per backend, principal and capability set.

Source: mcp-eras section 3 (initialize, logging, progress); shared decision 14.
"""

from __future__ import annotations

import asyncio

from msgspec import Raw

from mcpbridge.core.conversation import BackendSession, Refused, SessionKey
from mcpbridge.core.exchange import ANONYMOUS, Exchange, NoReply, Reply
from mcpbridge.core.pool import Pool
from mcpbridge.era.questions import ASKED, capability_digest, lacking, legacy_capabilities, refused
from mcpbridge.era.translate import NEWEST_LEGACY, bridge_info, initialize_params
from mcpbridge.errors import BridgeError
from mcpbridge.wire import message as m
from mcpbridge.wire.envelope import members, text
from mcpbridge.wire.message import Notification, Request, Response
from mcpbridge.wire.spec import CLIENT_INFO

_NO_REPLY = NoReply()
_UNRELATED = frozenset(
    {
        "notifications/tools/list_changed",
        "notifications/prompts/list_changed",
        "notifications/resources/list_changed",
        "notifications/resources/updated",
    }
)
"""What modern clients hear on a listen stream only, even when a legacy server says it on a call's own stream."""
_SESSION_ONLY = frozenset({"notifications/elicitation/complete", "notifications/tasks/status"})
"""What means something only inside a legacy session."""


def key_of(x: Exchange) -> SessionKey:
    """Whose conversations this call may use. Raises BridgeError("invalid_params") for capabilities that are no objects."""
    assert x.backend is not None
    principal = "" if x.backend.server.isolation == "shared" else (x.caller.principal or ANONYMOUS).key
    capabilities = legacy_capabilities(x.view.capabilities)
    digest = capability_digest(capabilities) if capabilities else ""
    return SessionKey("legacy", principal, NEWEST_LEGACY, f"modern {digest}")


def initialize_of(x: Exchange) -> Request:
    """The handshake of a conversation for calls like this one."""
    meta = x.message.meta if isinstance(x.message, (Request, Notification)) else {}
    info = meta.get(CLIENT_INFO) or bridge_info()
    return m.request(0, "initialize", initialize_params(legacy_capabilities(x.view.capabilities), info))


def pool_of(x: Exchange) -> Pool:
    """The conversations with the backend of this call."""
    assert x.backend is not None
    return x.backend.pool


def patience(x: Exchange) -> float:
    """Seconds this call waits for a conversation."""
    return pool_of(x).patience(x.deadline)


async def shared_session(x: Exchange, remaining: float | None = None) -> BackendSession:
    """The conversation that calls like this one share. Raises BridgeError or Refused."""
    return await pool_of(x).shared(key_of(x), initialize_of(x), patience(x) if remaining is None else remaining)


async def set_level(talk: BackendSession, level: str) -> None:
    """Have the server send log messages from this level on, unless it does already."""
    if talk.log_level != level:
        answer = await talk.call(m.request(0, "logging/setLevel", {"level": level}), _NO_REPLY)
        talk.log_level = level if answer.error is None else None


def server_info(talk: BackendSession) -> Raw | None:
    """What the server calls itself."""
    return members(talk.hello.result).get("serverInfo") if talk.hello is not None and talk.hello.result is not None else None


def version_of(talk: BackendSession) -> str:
    """The protocol version that the server agreed to."""
    said = members(talk.hello.result) if talk.hello is not None and talk.hello.result is not None else {}
    return text(said.get("protocolVersion")) or NEWEST_LEGACY


def related(x: Exchange, talk: BackendSession, notification: Notification) -> Notification | None:
    """A notification that came with a call, as its client may hear it now: None when it may not."""
    method = notification.method
    if method in _UNRELATED:
        talk.notified(notification)
        return None
    if method in _SESSION_ONLY or (method == "notifications/message" and x.view.log_level is None):
        return None
    if method == "notifications/progress":
        token = x.request.meta.get("progressToken")
        if token is None:
            return None
        if notification.param("progressToken") != token:  # a later round has a token of its own
            return notification.with_params({**(notification.params or {}), "progressToken": token})
    return notification


def refused_to_start(server: str, refusal: Refused) -> BridgeError:
    """What a call is told whose server does not take the handshake."""
    error = members(refusal.response.error or b"{}", "bad_answer")
    detail = f"server refused to initialize: {text(error.get('message')) or 'no reason given'}"
    return BridgeError("backend_error", detail, sent=False, server=server)


class Way:
    """The way back of a call that cannot be parked (a Reply, and on a pipe the Inbox that is asked).

    A question that its client could never be given ends it.
    """

    can_ask = True

    def __init__(self, x: Exchange, talk: BackendSession) -> None:
        self._x = x
        self._talk = talk
        self._task = asyncio.current_task()
        self._cancelling = self._task.cancelling() if self._task is not None else 0
        self._failure: BridgeError | None = None

    def notify(self, notification: Notification) -> None:
        shown = related(self._x, self._talk, notification)
        if shown is not None:
            self._x.reply.notify(shown)

    def notified(self, notification: Notification) -> None:
        return None  # names no call

    def closed(self, cause: BaseException | None) -> None:
        return None  # the call itself fails

    async def asked(self, request: Request) -> Response:
        """A question on a pipe that can only be this call's; servers ask for roots on their own, whatever the call."""
        return refused(request, request.method, None) if request.method == "roots/list" else await self.ask(request)

    async def ask(self, request: Request, asker: Reply | None = None) -> Response:
        if request.method == "ping":
            return m.result(request.id, {})
        if request.method in ASKED and self._failure is None and self._task is not None:
            needed = lacking(request, self._x.view.capabilities)
            if needed is not None:
                self._failure = missing(request, needed)
                self._task.cancel("the client cannot be asked")
        return refused(request, request.method, None)

    def failure(self) -> BridgeError | None:
        """Why the call was ended here, if it was and nobody else cancelled it; call it once its task was cancelled."""
        if self._failure is None or self._task is None or self._task.uncancel() > self._cancelling:
            return None
        return self._failure


def missing(question: Request, needed: dict[str, object]) -> BridgeError:
    """-32021 for a call whose server asks what the client did not declare."""
    return BridgeError("missing_capability", f"the server asks {question.method}", requiredCapabilities=needed)
