"""ModernLink: a legacy client with a modern server. The session lives here; every call upstream stands alone.

What the client declared in its ``initialize``, and its log level, go with every call; what the server asks comes back as a
request of this era (``rounds``). One listen stream carries what the server says by itself.

Source: mcp-eras section 3, column "legacy C x modern S".
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from functools import partial

from msgspec import Raw

from mcpbridge.core.client_session import ClientSession
from mcpbridge.core.conversation import BackendSession
from mcpbridge.core.exchange import Exchange, NoReply, Reply
from mcpbridge.core.link import LIST_CHANGED
from mcpbridge.core.server import Backend
from mcpbridge.core.state import ROUNDS
from mcpbridge.era.questions import modern_capabilities
from mcpbridge.era.rounds import play
from mcpbridge.era.translate import (
    MODERN_ONLY,
    TASKS,
    initialize_result,
    to_legacy_response,
    to_modern_request,
    without_foreign,
    without_reserved,
)
from mcpbridge.errors import BridgeError
from mcpbridge.observe.log import log
from mcpbridge.wire import message as m
from mcpbridge.wire.envelope import items, members, text
from mcpbridge.wire.message import Members, Notification, Request, Response
from mcpbridge.wire.spec import LOG_LEVELS, METHODS, SUBSCRIPTION_ID, negotiate

_log = log("era")
_NO_REPLY = NoReply()
_EMPTY = Raw(b"{}")
ACKNOWLEDGE = 10.0  # seconds a server may take to acknowledge a listen
RECONNECT = 1.0
MAX_RECONNECT = 30.0
MAX_SUBSCRIPTIONS = 1000


class ModernLink:
    """One legacy client session with one modern server: level, subscriptions and the listen stream that carries them."""

    def __init__(self, session: ClientSession, backend: Backend) -> None:
        self.session = session
        self.server = backend.server
        self.backend: Backend | None = backend
        self.is_pinned = False  # every call stands alone
        self._backend = backend  # of the listen
        self._client_info = _EMPTY
        self._version = negotiate(session.record.version)
        self._declared: Members = {}  # what the server may ask the client
        self._stamped = _EMPTY  # likewise, as it goes with every request
        self._level = text(session.level.param("level")) if session.level is not None else None
        self._uris: list[str] = []
        self._capabilities: Members = {}  # the server's
        self._listen: _Listen | None = None
        self._subscribing = asyncio.Lock()
        self._closed = False

    async def open(self, initialize: Request) -> Response:
        self._client_info = initialize.param("clientInfo") or _EMPTY
        self._declared = modern_capabilities(members(initialize.param("capabilities")), self._version)
        self._stamped = Raw(m.join(self._declared))
        discover = self._stamp(m.request(initialize.id, "server/discover", {}))
        patience = self._backend.pool.start_timeout
        try:
            async with asyncio.timeout(patience):
                talk = await self._backend.pool.modern(patience)
                response = await talk.call(discover, _NO_REPLY)
        except TimeoutError:
            detail = f"server {self.server.name!r} did not answer server/discover in {patience:g} s"
            raise BridgeError("timeout", detail, sent=False, server=self.server.name) from None
        if response.result is None:
            return response
        self._capabilities = members(members(response.result, "bad_answer").get("capabilities"), "bad_answer")
        answer = m.result(initialize.id, initialize_result(response, self._version, self.server.name))
        listens = bool(self._flags())
        self._backend.speaks["modern"] = True
        self._backend.server.remember("modern", bytes(response.result))
        self._backend.succeeded()
        if listens:
            self._listen = _Listen(self, ())
            self._backend.spawn(self._listen.run())
        return answer

    async def call(self, x: Exchange) -> Response:
        request = x.request
        if request.method == "ping":
            return m.result(request.id, {})
        if request.method == "logging/setLevel":
            return self._set_level(request)
        if request.method in ("resources/subscribe", "resources/unsubscribe"):
            return await self._subscribe(request, x)
        if request.method in MODERN_ONLY or request.method.startswith(TASKS):
            raise BridgeError("method_not_found", f"{request.method} does not exist in this protocol version", sent=False)

        send = partial(self._send, x)
        if request.method in ROUNDS:
            response = await play(x, without_foreign(request), send, self._declared, self._version)
        else:
            response = await send(request, x.reply)
        return to_legacy_response(request.method, response, self._version)

    async def _send(self, x: Exchange, request: Request, reply: Reply) -> Response:
        """One request upstream on behalf of ``x``."""
        logs = self.session if self._level is not None else None
        backend = x.backend or self._backend
        if backend is not self._backend and await backend.era_for("modern", backend.pool.patience(x.deadline)) != "modern":
            backend = self._backend
            if backend.is_draining:  # and there is none of its era to go on at: a link of the other kind takes over
                raise BridgeError("draining", f"backend {backend.name!r} takes no calls", sent=False)
        try:
            return await backend.pool.ask_modern(self._stamp(request), reply, logs, x.deadline)
        except BridgeError as error:
            if not error.sent and error.fault.blames == "backend" and backend is self._backend:
                await self._move(backend)  # the listen goes on there
            raise

    async def _move(self, lost: Backend) -> None:
        """Go on at another modern backend of the server, if there is one: the next call, and the listen, go there."""
        for backend in self.server.backends if not self.session.is_passing else ():
            if self._backend is not lost:
                return
            if backend is lost or backend.is_draining:
                continue
            with suppress(BridgeError):
                if await backend.era_for("modern", backend.pool.start_timeout) == "modern":
                    _log.warn("session moved", server=self.server.name, backend=backend.name)
                    self._backend = self.backend = backend

    async def notify(self, notification: Notification) -> None:
        if notification.method not in METHODS:  # `initialized` and roots changes have no form in the other era; vendors' have
            talk = await self._backend.pool.modern(self._backend.pool.start_timeout)
            await talk.upstream.notify(without_reserved(notification))

    async def leave(self) -> None:
        async with self._subscribing:
            left = self._backend
            await self._move(left)
            if self._backend is not left and self._listen is not None and not self._closed:
                old, self._listen = self._listen, _Listen(self, tuple(self._uris))
                self._backend.spawn(self._listen.run())
                old.stop()
                self._listen.changed()

    @property
    def is_stranded(self) -> bool:
        return False  # it finds out by asking: ``_send``

    @property
    def said(self) -> list[Request]:
        level = [m.request(0, "logging/setLevel", {"level": self._level})] if self._level is not None else []
        return level + [m.request(0, "resources/subscribe", {"uri": uri}) for uri in self._uris]

    async def close(self) -> None:
        self._closed = True
        if self._listen is not None:
            self._listen.stop()

    def _set_level(self, request: Request) -> Response:
        level = text(request.param("level"))
        if level not in LOG_LEVELS:
            raise BridgeError("invalid_params", f"level {level!r} is not one of {', '.join(LOG_LEVELS)}", sent=False)
        self._level = level
        return m.result(request.id, {})

    async def _subscribe(self, request: Request, x: Exchange) -> Response:
        """A listen cannot change: open one with the new set, wait for its acknowledgement, end the old one."""
        uri = text(request.param("uri"))
        if uri is None:
            raise BridgeError("invalid_params", "uri is missing", sent=False)
        wants = request.method == "resources/subscribe"
        async with self._subscribing:
            if wants is (uri in self._uris):
                return m.result(request.id, {})
            uris = [*self._uris, uri] if wants else [known for known in self._uris if known != uri]
            if len(uris) > MAX_SUBSCRIPTIONS:
                raise BridgeError("invalid_params", f"at most {MAX_SUBSCRIPTIONS} subscriptions", sent=False)
            fresh = await self._listen_to(tuple(uris), x) if uris or self._flags() else None
            try:
                if fresh is not None and wants and uri not in await fresh.acknowledged:
                    raise BridgeError("invalid_params", f"the server does not offer subscriptions to {uri}")
                if self._closed:
                    raise BridgeError("session_unknown", "the session has ended")
            except BridgeError:
                if fresh is not None:
                    fresh.stop()
                raise
            old, self._listen, self._uris = self._listen, fresh, uris
            if old is not None:
                old.stop()
        return m.result(request.id, {})

    async def _listen_to(self, uris: tuple[str, ...], x: Exchange) -> _Listen:
        """A further listen that the server has acknowledged. Raises BridgeError("timeout")."""
        fresh = _Listen(self, uris)
        self._backend.spawn(fresh.run())
        try:
            async with asyncio.timeout(min(ACKNOWLEDGE, x.deadline.remaining(asyncio.get_running_loop().time()))):
                await asyncio.shield(fresh.acknowledged)
        except TimeoutError:
            fresh.stop()
            raise BridgeError("timeout", f"server {self.server.name!r} did not acknowledge the subscription") from None
        except BaseException:
            fresh.stop()
            raise
        return fresh

    def _stamp(self, request: Request) -> Request:
        # A listen asks for no logs: on a pipe every message would be taken for its own, whoever's call it belongs to.
        level = None if request.method == "subscriptions/listen" else self._level
        return to_modern_request(request, client_info=self._client_info, capabilities=self._stamped, log_level=level)

    def _flags(self) -> dict[str, bool]:
        """The list changes this server can tell of."""
        flags = {}
        for kind in LIST_CHANGED:
            raw = self._capabilities.get(kind)
            if raw is not None and members(raw, "bad_answer").get("listChanged") == Raw(b"true"):
                flags[f"{kind}ListChanged"] = True
        return flags


class _Listen:
    """One `subscriptions/listen` for a link: its Reply while it runs, opened again when it is lost."""

    can_ask = False

    def __init__(self, link: ModernLink, uris: tuple[str, ...]) -> None:
        self._link = link
        self._uris = uris
        self._task: asyncio.Task[None] | None = None
        self._stopped = False
        self._is_open = False  # the server has acknowledged it this time
        self.acknowledged: asyncio.Future[list[str]] = asyncio.get_running_loop().create_future()

    async def run(self) -> None:
        self._task = asyncio.current_task()
        try:
            await self._keep()
        finally:
            if not self.acknowledged.done():
                self.acknowledged.set_result([])  # it never will be: nobody needs to wait on

    async def _keep(self) -> None:
        pause = RECONNECT
        link = self._link
        while not self._stopped and not link.session.closed:
            wanted = {**link._flags(), **({"resourceSubscriptions": list(self._uris)} if self._uris else {})}
            request = link._stamp(m.request(0, "subscriptions/listen", {"notifications": wanted}))
            backend = link._backend
            try:
                talk: BackendSession = await backend.pool.modern(backend.pool.start_timeout)
                self._is_open = False
                response = await talk.call(request, self)
                if response.error is not None and not self.acknowledged.done():
                    self.acknowledged.set_result([])  # the server has no such method: it honours nothing
                    return
            except asyncio.CancelledError:
                return
            except BridgeError as error:
                _log.debug("listen stream lost", server=link.server.name, reason=str(error))
                if not error.sent and error.fault.blames == "backend":
                    await link._move(backend)
            pause = RECONNECT if self._is_open else pause
            await asyncio.sleep(pause)
            pause = min(pause * 2, MAX_RECONNECT)

    def stop(self) -> None:
        self._stopped = True
        if self._task is not None:
            self._task.cancel("subscription changed")

    def notify(self, notification: Notification) -> None:
        if notification.method == "notifications/subscriptions/acknowledged":
            self._is_open = True
            if not self.acknowledged.done():
                self.acknowledged.set_result(_honoured(notification))
            else:
                self.changed()
            return
        if not self._stopped:
            meta = {key: raw for key, raw in notification.meta.items() if key != SUBSCRIPTION_ID}
            self._link.session.notified(self._link.server, notification.with_meta(meta))

    async def ask(self, request: Request, asker: Reply | None = None) -> Response:
        raise LookupError("a listen stream is not asked")

    def changed(self) -> None:
        """After a gap anything may have changed: the client re-reads what it cares about."""
        link = self._link
        for flag in link._flags():
            kind = flag.removesuffix("ListChanged")
            link.session.notified(link.server, m.notification(f"notifications/{kind}/list_changed"))
        for uri in self._uris:
            link.session.notified(link.server, m.notification("notifications/resources/updated", {"uri": uri}))


def _honoured(acknowledgement: Notification) -> list[str]:
    """The resources that a server will tell of; none when it says nonsense."""
    try:
        uris = items(members(acknowledgement.param("notifications"), "bad_answer").get("resourceSubscriptions"), "bad_answer")
    except BridgeError:
        return []
    return [uri for raw in uris if (uri := text(raw)) is not None]
