"""Leases: legacy conversations that one call has to itself while it is in flight, because its server may ask in them.

    take   the shared conversation of the key when nobody asks in it, else a spare one, else a new one
    give   back to whoever waits, or to the spares; one whose call was cut short is never leased again
    dial   no more at once than calls wait; one that has no place yet is given up when a freed conversation came first

Calls that cannot be asked go on using the shared conversation meanwhile: a server asks on behalf of the call that may be.
A server that was told to cancel may still ask about the old call, so its conversation must not serve another one.

Source: architecture section 6.5; shared decision 14.
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Iterable
from typing import TYPE_CHECKING, Protocol

from mcpbridge.core.ports import Inbox
from mcpbridge.core.tasks import share
from mcpbridge.errors import BridgeError
from mcpbridge.wire.message import Request

if TYPE_CHECKING:
    from mcpbridge.core.conversation import BackendSession, SessionKey
    from mcpbridge.core.pool import Pool


class Asker(Inbox, Protocol):
    """The call that a leased conversation belongs to."""

    @property
    def waits_until(self) -> float | None:
        """Until when (loop time) it waits for its client's answers; None while anything else goes on."""

    def give_way(self) -> None:
        """End it: its conversation is needed for others."""


SPARE = 300.0  # seconds a spare conversation is kept without use


class Unwanted(Exception):
    """Whoever a dial was begun for has a conversation already."""


class Leases:
    """The leased conversations of one pool."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._spares: dict[SessionKey, list[BackendSession]] = {}
        self._waiting: dict[SessionKey, deque[asyncio.Future[BackendSession]]] = {}
        self._dials: dict[SessionKey, set[object]] = {}  # in progress; one token each

    async def take(self, key: SessionKey, initialize: Request, asker: Asker, remaining: float, *, logs: bool) -> BackendSession:
        """A conversation whose questions go to ``asker`` until ``give_back``. ``logs``: its log messages must be its own too.

        Raises as ``Pool.shared``.
        """
        shared = await self._pool.shared(key, initialize, remaining)
        if not (shared.is_leased or shared.is_tainted) and (
            not logs or shared.upstream.names_request or shared.log_owner is None
        ):
            _lease(shared)
        else:
            shared = await self._spare(key, initialize, remaining)
        shared.asker = asker
        if logs:
            shared.log_owner = asker
            shared.log_calls += 1
        return shared

    def give_back(self, session: BackendSession, *, is_clean: bool) -> None:
        """The call is over. ``is_clean``: it ended by the server's answer."""
        if session.log_owner is session.asker and session.log_owner is not None:
            self._pool.release_logs(session)
        session.asker = None
        session.is_tainted = session.is_tainted or not is_clean
        session.users -= 1
        session.is_leased = False
        session.last_used = asyncio.get_running_loop().time()
        if session.is_closed:
            return
        if not session.is_tainted:
            self._offer(session)
        elif not self._pool.is_shared(session):
            self._pool.backend.spawn(session.close())

    def make_way(self, principal: str, live: Iterable[BackendSession]) -> bool:
        """End a call that waits for its client, of the principal that holds the most; whether one was found.

        Only for one that holds fewer by two: whoever answers nothing must not keep a server from everybody else.
        """
        held = Counter(session.key.principal for session in live)
        waiting = [
            (-held[session.key.principal], until, session.asker)
            for session in live
            if session.asker is not None and (until := session.asker.waits_until) is not None
            if held[session.key.principal] > held[principal] + 1
        ]
        if not waiting:
            return False
        _, _, asker = min(waiting, key=lambda one: one[:2])  # its oldest
        asker.give_way()
        return True

    def ended(self, session: BackendSession) -> None:
        """A conversation is over: it is no spare any more."""
        spares = self._spares.get(session.key)
        if spares is not None and session in spares:
            spares.remove(session)
            if not spares:
                del self._spares[session.key]

    async def sweep(self, now: float) -> None:
        """End the spares that nobody used for a while."""
        old = [s for spares in self._spares.values() for s in spares if now - s.last_used > SPARE]
        for session in old:
            if not session.is_leased:
                await session.close()

    async def _spare(self, key: SessionKey, initialize: Request, remaining: float) -> BackendSession:
        spares = self._spares.get(key)
        if spares:
            session = spares.pop()
            if not spares:
                del self._spares[key]
            _lease(session)
            return session
        waiting = self._waiting.setdefault(key, deque())
        mine: asyncio.Future[BackendSession] = asyncio.get_running_loop().create_future()
        waiting.append(mine)
        if self._missing(key) > 0:
            self._dial(key, initialize)
        try:
            async with asyncio.timeout(remaining):
                return await asyncio.shield(mine)
        except TimeoutError:
            self._unwait(mine)
            raise BridgeError("timeout", self._pool.still_starting(), sent=False) from None
        except asyncio.CancelledError:
            self._unwait(mine)
            raise
        finally:
            if mine in waiting:
                waiting.remove(mine)
            if not waiting and self._waiting.get(key) is waiting:
                del self._waiting[key]

    def _unwait(self, mine: asyncio.Future[BackendSession]) -> None:
        """Whoever waited is gone: what it was given meanwhile goes to the next."""
        if not mine.done():
            mine.cancel()
        elif mine.exception() is None:
            self.give_back(mine.result(), is_clean=True)

    def _missing(self, key: SessionKey) -> int:
        """How many calls wait for whom no dial is in progress; below zero: dials that nobody waits for."""
        return sum(not mine.done() for mine in self._waiting.get(key, ())) - len(self._dials.get(key, ()))

    def _dial(self, key: SessionKey, initialize: Request) -> None:
        token = object()
        self._dials.setdefault(key, set()).add(token)

        def check() -> None:
            if self._missing(key) < 0:
                self._undial(key, token)  # at once: of two that look now, only the surplus one goes
                raise Unwanted

        def ended(done: asyncio.Future[BackendSession]) -> None:
            self._undial(key, token)
            error = done.exception()
            if error is None:
                self._offer(done.result())
            elif not isinstance(error, Unwanted) and self._missing(key) > 0 and (mine := self._next(key)) is not None:
                mine.set_exception(error)

        share(self._pool.backend.spawn, self._pool.another(key, initialize, check)).add_done_callback(ended)

    def _undial(self, key: SessionKey, token: object) -> None:
        dials = self._dials.get(key)
        if dials is not None:
            dials.discard(token)
            if not dials:
                del self._dials[key]

    def _offer(self, session: BackendSession) -> None:
        mine = self._next(session.key)
        if mine is not None:
            _lease(session)
            mine.set_result(session)
        elif not self._pool.is_shared(session):
            self._spares.setdefault(session.key, []).append(session)

    def _next(self, key: SessionKey) -> asyncio.Future[BackendSession] | None:
        waiting = self._waiting.get(key)
        while waiting:
            mine = waiting.popleft()
            if not mine.done():
                return mine
        return None


def _lease(session: BackendSession) -> None:
    session.is_leased = True
    session.users += 1
