"""Pool: the live conversations with one backend, and who may use which.

    modern                one conversation for everybody (a further one when calls ask for logs over a shared pipe)
    legacy, declared      a session of its own for each client that declared something, subscribed or set a log level
    legacy, undeclared    one session per principal and version, shared and multiplexed
    legacy, leased        one to itself for a modern client's call that may be asked (core/lease)

Children are capped per server; idle ones end first, then parked calls of whoever holds the most; overflow waits, then
`server_busy`. A backend that keeps failing to start is not started again before its back-off is over.

Source: architecture section 6.5; shared decision 14.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from contextlib import suppress
from time import monotonic

from mcpbridge.core.backoff import Backoff
from mcpbridge.core.conversation import MODERN_KEY, BackendSession, Owner, Refused, SessionKey
from mcpbridge.core.exchange import Deadline, NoReply, Reply
from mcpbridge.core.lease import Leases
from mcpbridge.core.server import Backend
from mcpbridge.core.tasks import share, wait_shared
from mcpbridge.errors import BridgeError
from mcpbridge.wire import message as m
from mcpbridge.wire.message import Request, Response

_NO_REPLY = NoReply()
Check = Callable[[], None]
"""Raises when what is being opened is not wanted any more."""
MIN_IDLE = 1.0  # seconds without use after which a conversation may be ended to make room
LOOK = 0.25  # seconds between looks for one that became idle
PATIENCE = 15.0  # seconds a call waits for a server that is (and goes on) starting; longer than the era probe's silence
MAX_WAITING = 1000  # calls that wait for a place; a further one is told at once
QUEUE_WAIT = 5.0  # seconds a call waits for a free child (reliability section 1: queue wait 5 s)


class Pool:
    """All conversations with ``backend``.

    ``limit``: most conversations at once. ``start_timeout``: seconds for dial and handshake (an ``npx`` may install first).
    """

    def __init__(
        self,
        backend: Backend,
        *,
        limit: int,
        start_timeout: float,
        backoff: Backoff | None,
        idle_timeout: float = 0.0,
        reuse: bool = True,
    ) -> None:
        self.backend = backend
        self.limit = limit
        self.start_timeout = start_timeout
        self.idle_timeout = idle_timeout  # seconds; 0: shared conversations are kept
        self.reuse = reuse  # False: a conversation for each modern call
        self._backoff = backoff
        self._not_before = 0.0
        self._last_failure: BridgeError | None = None
        self._live: set[BackendSession] = set()
        self._starting = 0
        self._shared: dict[SessionKey, asyncio.Future[BackendSession]] = {}
        self._freed = asyncio.Event()
        self.leases = Leases(self)
        self.hits = 0
        self.misses = 0
        self.waiting = 0  # for a place

    @property
    def is_child(self) -> bool:
        """Whether a conversation is a process of ours."""
        return self._backoff is not None

    def any_legacy(self) -> BackendSession | None:
        """A live legacy conversation, whoever uses it; None if there is none."""
        return next((s for s in self._live if s.key.era == "legacy" and s.is_open and not s.is_closed), None)

    @property
    def is_busy(self) -> bool:
        """Whether a call has a conversation to itself, if only while its client is asked."""
        return any(session.is_leased for session in self._live)

    @property
    def size(self) -> int:
        return len(self._live) + self._starting

    @property
    def in_use(self) -> int:
        """Conversations that somebody uses or waits for."""
        return self._starting + sum(not session.is_idle for session in self._live)

    async def tidy(self) -> int:
        """End the conversations that nobody uses; how many. Children stay: their start takes seconds."""
        if self.is_child:
            return 0
        idle = [s for s in self._live if s.owner is None and s.is_idle and monotonic() - s.last_used >= MIN_IDLE]
        for session in idle:
            await session.close()
        return len(idle)

    def noise(self) -> str:
        """The newest thing a child wrote on its output that is no message, to name in a timeout; "" if none did."""
        return next((said for s in list(self._live) if (said := s.upstream.noise)), "")

    async def shared(self, key: SessionKey, initialize: Request | None, remaining: float) -> BackendSession:
        """The conversation for ``key``, opened once for all who wait for it.

        ``initialize`` is the handshake of a legacy one; its client's own params go to the server. Waits up to ``remaining``
        seconds. Raises BridgeError (``sent=False``) or Refused.
        """
        future = self._shared.get(key)
        if future is not None and future.done() and (future.exception() is not None or future.result().is_closed):
            future = None
        if future is None:
            self.misses += 1
            future = self._shared[key] = share(self.backend.spawn, self._open(key, initialize, None))
            future.add_done_callback(lambda done: self._forget_failed(key, done))
        else:
            self.hits += 1
        session = await wait_shared(future, remaining, self.still_starting())
        session.last_used = monotonic()
        return session

    async def own(self, key: SessionKey, initialize: Request, owner: Owner, remaining: float) -> BackendSession:
        """A conversation for one client alone. Its server's questions go to ``owner``. Raises as ``shared``."""
        self.misses += 1
        future = share(self.backend.spawn, self._open(key, initialize, owner))
        try:
            return await wait_shared(future, remaining, self.still_starting())
        except (asyncio.CancelledError, BridgeError):
            future.add_done_callback(self._discard)  # whoever wanted it is gone: it must not live on without an owner
            raise

    async def another(self, key: SessionKey, initialize: Request, check: Check) -> BackendSession:
        """A further conversation for ``key``, beside the shared one. Raises as ``shared``.

        ``check`` raises when it is not wanted any more; asked until there is a place for it.
        """
        self.misses += 1
        return await self._open(key, initialize, None, check)

    def shared_now(self, key: SessionKey) -> BackendSession | None:
        """The conversation that everybody with this key gets, if it is there."""
        future = self._shared.get(key)
        return future.result() if future is not None and future.done() and future.exception() is None else None

    def is_shared(self, session: BackendSession) -> bool:
        """Whether it is the conversation that everybody with its key gets."""
        return self.shared_now(session.key) is session

    async def modern(self, remaining: float) -> BackendSession:
        """The conversation all modern calls share."""
        return await self.shared(MODERN_KEY, None, remaining)

    async def ask_modern(self, request: Request, reply: Reply, logs: object | None, deadline: Deadline) -> Response:
        """One modern call on a conversation for it; a second time on a fresh one if the first had just ended.

        ``logs``: the client that wants log messages of it, if it does; see ``lease_logs``. Raises BridgeError.
        """
        try:
            return await self._ask_modern(request, reply, logs, self.patience(deadline))
        except BridgeError as error:
            if error.reason != "backend_session_lost":
                raise
            return await self._ask_modern(request, reply, logs, self.patience(deadline))

    async def _ask_modern(self, request: Request, reply: Reply, logs: object | None, remaining: float) -> Response:
        if not self.reuse:
            talk = await self._own_modern(remaining)
            try:
                return await talk.call(request, reply)
            finally:
                await talk.close()
        if logs is None:
            return await (await self.modern(remaining)).call(request, reply)
        talk = await self.lease_logs(MODERN_KEY, None, logs, remaining)
        try:
            return await talk.call(request, reply)
        finally:
            self.release_logs(talk)

    async def _own_modern(self, remaining: float) -> BackendSession:
        try:
            async with asyncio.timeout(remaining):
                return await self._open(MODERN_KEY, None, None)
        except TimeoutError:
            raise BridgeError("timeout", self.still_starting(), sent=False, server=self.backend.server.name) from None

    async def probe_session(self) -> BackendSession:
        """A modern conversation to ask ``server/discover`` on; it stays the shared one if the server turns out modern."""
        return await self.shared(MODERN_KEY, None, self.start_timeout)

    async def lease_logs(self, base: SessionKey, initialize: Request | None, owner: object, remaining: float) -> BackendSession:
        """A conversation on which only ``owner``'s calls ask for logs until ``release_logs``.

        Over a pipe a log message names no call, so two clients must never ask for logs on the same pipe at once.
        """
        for number in range(self.limit):
            key = base if number == 0 else base._replace(capabilities=f"{base.capabilities}#{number}")
            session = await self.shared(key, initialize, remaining)
            if session.upstream.names_request or session.log_owner in (None, owner):
                session.log_owner = owner
                session.log_calls += 1
                return session
        raise BridgeError(
            "server_busy", f"server {self.backend.server.name!r}: all {self.limit} conversations are in use", sent=False
        )

    def release_logs(self, session: BackendSession) -> None:
        session.log_calls -= 1
        if session.log_calls == 0:
            session.log_owner = None

    async def close(self) -> None:
        """End every conversation; bounded by what a child needs to be killed."""
        sessions = list(self._live)
        self._shared.clear()
        await asyncio.gather(*(session.close() for session in sessions), return_exceptions=True)

    def ended(self, session: BackendSession) -> None:
        """A conversation is over: its place is free."""
        self._live.discard(session)
        self.leases.ended(session)
        if self.is_shared(session):
            del self._shared[session.key]
        self._freed.set()
        if isinstance(session.cause, BridgeError):
            self._last_failure = session.cause
            if self._backoff is not None:
                now = monotonic()
                self._not_before = now + self._backoff.crashed(now, random.random())
            self.backend.failed(session.cause)

    async def sweep(self) -> None:
        """End shared conversations nobody used for the idle timeout."""
        now = monotonic()
        await self.leases.sweep(now)
        if not self.idle_timeout:
            return
        for session in [s for s in self._live if s.owner is None and s.is_idle and now - s.last_used > self.idle_timeout]:
            await session.close()

    def _forget_failed(self, key: SessionKey, done: asyncio.Future[BackendSession]) -> None:
        if done.exception() is not None and self._shared.get(key) is done:
            del self._shared[key]

    async def _open(
        self, key: SessionKey, initialize: Request | None, owner: Owner | None, check: Check | None = None
    ) -> BackendSession:
        await self._take_place(key.principal, check)
        session = BackendSession(self, key, owner)
        try:
            async with asyncio.timeout(self.start_timeout):
                await self._start(session, initialize)
        except TimeoutError:
            await session.close()
            noise = session.upstream.noise if hasattr(session, "upstream") else ""
            said = f"; it wrote {noise!r} instead" if noise else ""
            error = BridgeError(
                "timeout",
                f"server {self.backend.server.name!r} did not finish its handshake in {self.start_timeout:g} s{said}",
                sent=False,
                server=self.backend.server.name,
            )
            self._failed(error)
            self.backend.failed(error)
            raise error from None
        except BridgeError as error:
            await session.close()
            data = {"server": self.backend.server.name} | error.data
            named = f"server {self.backend.server.name!r}"
            detail = error.detail if error.detail.startswith(named) else f"{named}: {error.detail}" if error.detail else named
            failure = BridgeError(error.reason, detail, sent=False, **data)
            self._failed(failure)
            self.backend.failed(failure)
            raise failure from error
        except BaseException:
            await session.close()
            raise
        finally:
            self._freed.set()
        session.last_used = monotonic()
        session.is_open = True
        if session.is_closed:
            raise BridgeError("server_exited", f"server {self.backend.server.name!r} ended during its handshake", sent=False)
        self._not_before = 0.0
        if self._backoff is not None:
            self._backoff.reset()
        if initialize is not None:  # a modern conversation has not said anything yet
            self.backend.succeeded()
        return session

    async def _start(self, session: BackendSession, initialize: Request | None) -> None:
        try:
            session.upstream = await self.backend.dial(session.key.era, session)
            self._live.add(session)
        finally:
            self._starting -= 1
        if initialize is None:
            return
        session.hello = await session.upstream.call(initialize, _NO_REPLY)
        if session.hello.error is not None:
            raise Refused(session.hello)
        self.backend.speaks["legacy"] = True
        self.backend.server.remember("legacy", bytes(session.hello.result or b"{}"))
        if session.owner is None:
            session.is_initialized = True
            await session.upstream.notify(m.notification("notifications/initialized"))

    async def _take_place(self, principal: str, check: Check | None) -> None:
        now = monotonic()
        if now < self._not_before and self._last_failure is not None:
            wait = self._not_before - now
            failure = self._last_failure
            detail = f"{failure.detail or failure} (next start in {wait:.0f} s)"
            raise BridgeError(failure.reason, detail, sent=False, **({"server": self.backend.server.name} | failure.data))
        ends = now + QUEUE_WAIT
        made_way = False
        while True:
            if check is not None:
                check()
            if self.size < self.limit:
                break
            now = monotonic()
            idle = [s for s in self._live if s.is_idle and now - s.last_used >= MIN_IDLE]
            if idle:
                # A client that comes back finds a new conversation with its handshake and subscriptions replayed.
                await min(idle, key=lambda s: (s.owner is not None, s.last_used)).close()
                continue
            if now >= ends:
                raise BridgeError("server_busy", f"all {self.limit} conversations are in use", sent=False)
            if not made_way and ends - now <= QUEUE_WAIT - MIN_IDLE:
                made_way = self.leases.make_way(principal, self._live)
            self._freed.clear()
            if self.waiting >= MAX_WAITING:
                raise BridgeError(
                    "server_busy",
                    f"all {self.limit} conversations are in use, and {MAX_WAITING} calls wait for one",
                    sent=False,
                )
            self.waiting += 1
            try:
                with suppress(TimeoutError):  # one that was in use becomes idle without telling anybody
                    async with asyncio.timeout(min(LOOK, ends - now)):
                        await self._freed.wait()
            finally:
                self.waiting -= 1
        self._starting += 1

    def _failed(self, error: BridgeError) -> None:
        self._last_failure = error
        if self._backoff is not None:
            self._not_before = monotonic() + self._backoff.next(random.random())

    def patience(self, deadline: Deadline) -> float:
        """Seconds a call waits for a conversation: its user hears of a silent server long before the deadline."""
        return min(PATIENCE, deadline.remaining(monotonic()))

    def still_starting(self) -> str:
        """What a call is told that waited in vain for a server to start."""
        noise = self.noise()
        said = f" and wrote {noise!r}, which is not JSON-RPC" if noise else ""
        return f"server {self.backend.server.name!r} is still starting: no answer yet{said}"

    def _discard(self, future: asyncio.Future[BackendSession]) -> None:
        if future.exception() is None:
            session = future.result()

            async def end() -> None:
                await session.close()

            self.backend.spawn(end())
