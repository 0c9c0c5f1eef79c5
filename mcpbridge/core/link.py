"""Link: one legacy client session x one legacy server. The straight path: every message both ways, known or unknown, in order.

    client session  --call/notify-->  Link  --ids patched-->  backend session
                    <--notified------       <--as it came---
                    <--asked---------       <--a question---

A link that loses its server starts it again (with the pool's back-off), replays the client's handshake, log level and
subscriptions, and tells the client that the lists may have changed. When its backend does not come back it does so on another
one of the server that takes the client in the same version.

Source: architecture sections 4 and 7; shared decision 14; mcp-eras section 3 (session end).
"""

from __future__ import annotations

import asyncio
import hashlib
import random
import time

from msgspec import Raw

from mcpbridge.core.backoff import Backoff
from mcpbridge.core.client_session import ClientSession
from mcpbridge.core.conversation import BackendSession, Refused, SessionKey
from mcpbridge.core.exchange import ANONYMOUS, QUESTION_WAIT, Exchange, NoReply, Reply
from mcpbridge.core.ports import Upward
from mcpbridge.core.server import Backend, Server
from mcpbridge.core.task_ids import SealedTasks, is_task_news, without_list
from mcpbridge.core.tasks import share, wait_shared
from mcpbridge.errors import BridgeError
from mcpbridge.observe.log import log
from mcpbridge.wire import message as m
from mcpbridge.wire.envelope import members, text
from mcpbridge.wire.message import Members, Notification, Request, Response

_log = log("link")
_NO_REPLY = NoReply()
_NEEDS_OWN = frozenset({"logging/setLevel", "resources/subscribe"})
LOOK = 0.05  # seconds between looks whether a conversation that is left has answered its calls
REPLAY = 10.0  # seconds a restarted server has to take its client's level and subscriptions
_NO_LIST = {"code": -32601, "message": "Method not found: tasks/list: several callers share this server's conversation"}
LIST_CHANGED = ("tools", "prompts", "resources")


def session_key(session: ClientSession, server: Server) -> SessionKey:
    """Who shares a legacy conversation with this client (decision 14)."""
    record = session.record
    principal = "" if server.isolation == "shared" else record.principal
    digest = hashlib.sha256(record.capabilities.encode()).hexdigest()[:16]
    return SessionKey("legacy", principal, record.version, digest)


class Link:
    """See the module. ``open`` first; afterwards ``call`` and ``notify`` in the order of the client's messages."""

    def __init__(self, session: ClientSession, backend: Backend) -> None:
        self.session = session
        self.server = backend.server
        self.backend: Backend | None = backend
        self.is_pinned = True
        self._wanted = backend  # where balancing would have the next conversation, should there be one
        self._backend = backend
        self._talk: BackendSession | None = None
        self._initialize: Request | None = None
        self._wants_own = server_wants_own(session, backend.server)
        self._order = asyncio.Lock()
        self._reaching: asyncio.Future[None] | None = None
        self._is_replayed = False  # ``_talk`` knows what the client said so far
        self._calls: dict[int, Exchange] = {}  # by identity: callers of one session may use one id twice
        self._level: Request | None = None
        self._subscribed: dict[bytes, Request] = {}
        self._tasks = _tasks_of(session, backend)
        self._hello: Response | None = None  # as the client was told
        self._closed = False

    async def open(self, initialize: Request) -> Response:
        self._initialize = initialize
        try:
            await self._reach(self._backend.pool.start_timeout)
        except Refused as refused:
            return refused.response.with_id(initialize.id)
        assert self._talk is not None and self._talk.hello is not None
        hello = self._hello = self._talk.hello
        if self.session.level is not None and "logging" in _said(_said(hello.result).get("capabilities")):
            self._level, self._is_replayed = self.session.level, False
            self._wants_own = self.server.isolation != "shared"
            await self._reach(self._backend.pool.start_timeout)
        return (hello if self._tasks is None else without_list(hello)).with_id(initialize.id)

    async def call(self, x: Exchange) -> Response:
        if not (self._stands if self._is_admitted(x) else self._is_ready):
            await self._reach_again(x)
        request, reply, tasks = x.request, x.reply, self._tasks
        if tasks is not None:
            if request.method == "tasks/list":
                return m.error(request.id, _NO_LIST)
            request, reply = tasks.request(request), tasks.reply(reply)
        if self._order.locked():  # a notification sent before this call is still on its way
            async with self._order:
                pass
        if request.method in _NEEDS_OWN and not self._wants_own and self.server.isolation != "shared":
            self._wants_own = True
            try:
                await self._reach_again(x)
            except BridgeError:
                self._wants_own = False  # it stays where it was, and may try again
                raise
        self._calls[id(x)] = x
        try:
            talk = self._talking()
            try:
                response = await talk.call(request, reply)
            except BridgeError as error:
                if error.reason != "backend_session_lost":
                    if error.sent or error.fault.blames != "backend" or not self._elsewhere():
                        raise
                    talk.closed(error)  # a session over HTTP has no connection whose end would tell
                await self._reach_again(x)  # the server did not run the call: it forgot the session, or is gone
                response = await self._talking().call(request, reply)
        finally:
            del self._calls[id(x)]
        if response.error is None:
            self._remember(request)
        return response if tasks is None else tasks.response(request, response)

    async def notify(self, notification: Notification) -> None:
        if notification.method == "notifications/initialized" and not self._wants_own:
            return  # the shared conversation was initialized when it was opened
        async with self._order:
            talk = self._talk
            if talk is None or talk.is_closed:
                return  # `initialized` is replayed when the conversation stands; the rest was about the lost one
            if notification.method == "notifications/initialized":
                if talk.is_initialized:
                    return
                talk.is_initialized = True
            await talk.upstream.notify(notification)

    async def leave(self) -> None:
        if not self._must_leave:
            return
        try:
            await self._reach(self._backend.pool.start_timeout)
        except (BridgeError, Refused) as error:
            _log.warn("session did not move", server=self.server.name, backend=self._backend.name, reason=str(error))
        else:
            self._announce()

    async def close(self) -> None:
        self._closed = True
        talk, self._talk = self._talk, None
        if talk is not None:
            await self._leave(talk)

    @property
    def is_stranded(self) -> bool:
        return self._backend.is_draining and self._hello is not None and not self.session.is_passing and not self._elsewhere()

    @property
    def said(self) -> list[Request]:
        return ([self._level] if self._level else []) + list(self._subscribed.values())

    @property
    def is_idle(self) -> bool:
        """Whether nobody would notice at once if its conversation ended: no call, and a client that hears nothing."""
        return self._is_ready and not self._calls and not self.session.back.is_listening

    # What the server says outside any call (Inbox)

    def notified(self, notification: Notification) -> None:
        if self._tasks is not None and is_task_news(notification):
            return  # all of the conversation's clients hear it, and nobody can say whose task it is
        reply = self._only_reply()
        if notification.method == "notifications/message" and reply is not None:
            reply.notify(notification)  # a pipe names no call; with one in flight it is that one's
        else:
            self.session.notified(self.server, notification)

    async def asked(self, request: Request) -> Response:
        now = asyncio.get_running_loop().time
        waiting = list(self._calls.values())
        for x in waiting:
            x.deadline.pause(now())
        try:
            reply = self._only_reply()
            if reply is not None and reply.can_ask:
                return await reply.ask(request, Upward(self._talking().upstream))
            async with asyncio.timeout(QUESTION_WAIT):
                return await self.session.ask(self.server, request, Upward(self._talking().upstream))
        except TimeoutError:
            raise BridgeError("timeout", f"the client did not answer {request.method} in {QUESTION_WAIT:g} s") from None
        finally:
            for x in waiting:
                x.deadline.resume(now())

    def closed(self, cause: BaseException | None) -> None:
        if self._closed or self.session.closed:
            return
        _log.warn(
            "server lost; starting it again",
            server=self.server.name,
            protocol=self._backend.protocol,
            reason=str(cause or "it ended"),
        )
        self._backend.spawn(self._revive())

    # Opening and reopening

    async def _revive(self) -> None:
        rules = self.server.reconnect
        backoff = Backoff(rules.initial, rules.maximum)
        failures = 0
        while not self._is_over():
            if failures or rules.is_spread:
                await asyncio.sleep(backoff.next(random.random()))
            try:
                await self._reach(self._backend.pool.start_timeout)
            except (BridgeError, Refused) as error:
                _log.debug("server still down", server=self.server.name, reason=str(error))
                failures += 1
                if 0 <= rules.attempts <= failures:
                    return  # the next call tries again
                continue
            self._announce()
            return

    def _announce(self) -> None:
        """After a restart anything may be different: the client re-reads what it cares about."""
        hello = self._talk.hello if self._talk is not None else None
        capabilities = _said(_said(hello.result if hello is not None else None).get("capabilities"))
        for kind in LIST_CHANGED:
            if kind in capabilities:
                self.session.notified(self.server, m.notification(f"notifications/{kind}/list_changed"))

    @property
    def _is_ready(self) -> bool:
        return self._stands and not self._must_leave

    @property
    def _stands(self) -> bool:
        """Whether there is a conversation of the right kind that knows what the client said."""
        talk = self._talk
        return talk is not None and not talk.is_closed and self._is_replayed and (talk.owner is self or not self._wants_own)

    def _is_admitted(self, x: Exchange) -> bool:
        """Whether its breakers let this call through to where the session is, maybe as the trial that keeps the others away."""
        return x.backend is self._backend and not self._backend.is_draining

    @property
    def _must_leave(self) -> bool:
        """Whether its backend takes no more work and there is another one."""
        return self.server.is_left(self._backend) and bool(self._elsewhere())

    async def _reach(self, remaining: float) -> None:
        """Have a live conversation of the right kind that knows what the client said so far.

        There is one start at a time; it goes on when the time of who waits for it is over.
        """
        while not self._is_ready:
            if self._is_over():
                raise BridgeError("session_unknown", "the session has ended", sent=False)
            if self._reaching is None or self._reaching.done():
                self._reaching = share(self._backend.spawn, self._start())
            await wait_shared(self._reaching, remaining, self._backend.pool.still_starting())

    async def _reach_again(self, x: Exchange) -> None:
        """``_reach`` for a call: a server that no longer takes its client is an error of that call.

        Raises BridgeError("session_moved", ``sent=False``) when the link moved: the call is tried where it is now.
        """
        before = self._backend
        self._wanted = x.backend or before
        try:
            await self._reach(self._backend.pool.patience(x.deadline))
        except Refused as refused:
            said = text(_said(refused.response.error).get("message")) or "no reason given"
            detail = f"server {self.server.name!r} refused to initialize again: {said}"
            raise BridgeError("backend_error", detail, sent=False, server=self.server.name) from refused
        if self._backend is not before and self._backend is not x.backend:
            detail = f"server {self.server.name!r}: the session goes on at another backend"
            raise BridgeError("session_moved", detail, sent=False, server=self.server.name)

    async def _start(self) -> None:
        assert self._initialize is not None
        talk = self._talk
        if talk is None or talk.is_closed or (self._wants_own and talk.owner is not self) or self._must_leave:
            fresh = await self._converse()
            if self._is_over():
                await self._leave(fresh)
                raise BridgeError("session_unknown", "the session has ended", sent=False)
            self._talk, self._is_replayed = fresh, False
            if talk is not None:
                self._backend.spawn(self._leave_in_peace(talk))  # to end a child takes seconds
        await self._replay(self._talking())
        self._is_replayed = True

    async def _converse(self) -> BackendSession:
        """A new conversation with the link's backend; if that is lost, with another one that is the same to the client."""
        try:
            if self._must_leave:
                name = self._backend.name
                raise BridgeError("draining", f"backend {name!r} takes no calls", sent=False, server=self.server.name)
            return await self._converse_with(self._backend)
        except BridgeError as error:
            for backend in self._elsewhere():
                try:
                    fresh = await self._converse_with(backend)
                except (BridgeError, Refused) as other:
                    _log.debug("no session there", server=self.server.name, backend=backend.name, reason=str(other))
                    continue
                if _version(fresh.hello) != _version(self._hello):
                    await self._leave(fresh)
                    continue
                _log.warn("session moved", server=self.server.name, backend=backend.name, reason=str(error))
                self._backend = self.backend = backend
                self._tasks = _tasks_of(self.session, backend)
                return fresh
            raise

    async def _converse_with(self, backend: Backend) -> BackendSession:
        assert self._initialize is not None
        key, pool = session_key(self.session, self.server), backend.pool
        if self._wants_own:
            fresh = await pool.own(key, self._initialize, self, pool.start_timeout)
        else:
            fresh = await pool.shared(key, self._initialize, pool.start_timeout)
        fresh.users += 1
        fresh.listeners.append(self)
        return fresh

    def _elsewhere(self) -> list[Backend]:
        """Where the session may go on; nowhere before it began: until then the call itself is tried elsewhere."""
        if self._hello is None or self.session.is_passing:  # whose next call goes elsewhere by itself
            return []
        others = [b for b in self.server.backends if b is not self._backend and not b.is_draining]
        now = time.monotonic()
        legacy = [b for b in others if b.speaks.get("legacy") is not False]
        return sorted(legacy, key=lambda b: (b.refusing(now) is not None, b is not self._wanted, b.state == "down"))

    def _is_over(self) -> bool:
        return self._closed or self.session.closed

    async def _replay(self, talk: BackendSession) -> None:
        try:
            async with asyncio.timeout(REPLAY):
                if self._wants_own and self.session.initialized is not None and not talk.is_initialized:
                    talk.is_initialized = True
                    await talk.upstream.notify(self.session.initialized)
                for request in self.said:
                    await talk.call(request, _NO_REPLY)
        except TimeoutError:
            _log.warn("server did not take its client's level and subscriptions again", server=self.server.name)

    async def _leave_in_peace(self, talk: BackendSession) -> None:
        """Leave a conversation of its own when the calls that are in flight there are over."""
        while talk.owner is self and talk.users > 1 and not talk.is_closed and not self._closed:  # noqa: ASYNC110 - rare
            await asyncio.sleep(LOOK)
        await self._leave(talk)

    async def _leave(self, talk: BackendSession) -> None:
        if self in talk.listeners:
            talk.listeners.remove(self)
            talk.users -= 1
        if talk.owner is self or (talk.is_closed and talk.users == 0):
            await talk.close()

    def _remember(self, request: Request) -> None:
        """What a new conversation must be told again."""
        if request.method == "logging/setLevel":
            self._level = request
        elif request.method in ("resources/subscribe", "resources/unsubscribe"):
            uri = bytes(request.param("uri") or b"")
            if request.method == "resources/subscribe":
                self._subscribed[uri] = request
            else:
                self._subscribed.pop(uri, None)

    def _talking(self) -> BackendSession:
        if self._talk is None:
            raise BridgeError("session_unknown", "the session has ended", sent=False)
        return self._talk

    def _only_reply(self) -> Reply | None:
        """The way back of the one call in flight, if there is exactly one and the transport itself does not name it."""
        if len(self._calls) != 1 or self._talk is None or self._talk.upstream.names_request:
            return None
        return next(iter(self._calls.values())).reply


def server_wants_own(session: ClientSession, server: Server) -> bool:
    """Whether this client needs a conversation of its own with this server."""
    if server.isolation == "shared":
        return False
    return server.isolation == "session" or not session.declares_nothing


def _is_crowd(session: ClientSession, server: Server) -> bool:
    """Whether this client shares its conversation with other principals."""
    return server.isolation == "shared" and session.record.principal != ANONYMOUS.key


def _tasks_of(session: ClientSession, backend: Backend) -> SealedTasks | None:
    """Who shares a conversation with other principals holds none of their tasks; see the module of the ids."""
    if not _is_crowd(session, backend.server):
        return None
    return backend.task_seals.of_principal(session.record.principal, backend)


def _version(hello: Response | None) -> str | None:
    return text(_said(hello.result if hello is not None else None).get("protocolVersion"))


def _said(raw: Raw | None) -> Members:
    """The members of what a server said; none when it is no object."""
    try:
        return members(raw)
    except BridgeError:
        return {}
