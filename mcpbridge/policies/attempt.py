"""The attempt ring: what happens around one try on one backend.

Source: architecture sections 5 and 6; contract 6.4 (1008); shared decision 3.
"""

from __future__ import annotations

import asyncio
from typing import Any, cast

from mcpbridge.core.exchange import QUESTION_WAIT, Deadline, Exchange, Handler, Policy, Reply
from mcpbridge.errors import BridgeError
from mcpbridge.wire.message import Notification, Request, Response

TICK = 1.0  # seconds between two looks at the deadlines that are far away
NEAR = 2 * TICK  # seconds; a deadline that is nearer has a timer of its own, so that it is over on time


def timeout(question_wait: float = QUESTION_WAIT) -> Policy:
    """End a try when the exchange's deadline is over. Progress extends it; a question to the client stops the clock.

    ``question_wait``: seconds the client has to answer one. A listen stream has no deadline: it lasts as long as its client.
    """

    far = _Far()

    async def policy(x: Exchange, handler: Handler) -> Response | None:
        if x.view.method == "subscriptions/listen":
            return await handler(x)
        reply = x.reply
        alarm = _Alarm(x.deadline, far, asyncio.get_running_loop())
        x.reply = _Timed(reply, x.deadline, question_wait)
        try:
            return await handler(x)
        except asyncio.CancelledError:
            if alarm.silence():
                raise BridgeError("timeout", _late(x), server=x.backend.server.name if x.backend else None) from None
            raise
        finally:
            alarm.silence()
            x.reply = reply

    return policy


class _Alarm:
    """Cancels the current task when the deadline is over, however often that moves: a cheaper ``asyncio.timeout``.

    Almost every call is over long before its deadline, so that one has no timer of its own until the deadline is near.
    """

    __slots__ = ("_cancelling", "_deadline", "_far", "_handle", "_rang", "_task")

    def __init__(self, deadline: Deadline, far: _Far, loop: asyncio.AbstractEventLoop) -> None:
        self._deadline = deadline
        self._far = far
        self._task = cast("asyncio.Task[Any]", asyncio.current_task(loop))
        self._cancelling = self._task.cancelling()
        self._rang = False
        self._handle: asyncio.TimerHandle | None = None
        self.wind(loop)
        deadline.watch(self._move)

    def wind(self, loop: asyncio.AbstractEventLoop) -> None:
        """Set the timer when the deadline comes soon, wait with the others when not; neither while it is paused."""
        if self._deadline.paused:  # maybe by another part of the same exchange
            return
        now = loop.time()
        remaining = self._deadline.remaining(now)
        if remaining > NEAR:
            self._far.add(self, loop)
        else:
            self._handle = loop.call_at(now + remaining, self._ring)

    def silence(self) -> bool:
        """Stop; whether it rang and nobody else cancelled the task. Its own cancellation is taken back."""
        self._unwind()
        self._deadline.unwatch(self._move)
        rang, self._rang = self._rang, False
        return rang and self._task.uncancel() <= self._cancelling

    def _unwind(self) -> None:
        if self._handle is None:
            self._far.alarms.discard(self)
        else:
            self._handle.cancel()
            self._handle = None

    def _ring(self) -> None:
        self._rang = True
        self._task.cancel("the deadline is over")

    def _move(self) -> None:
        if not self._rang:
            self._unwind()
            self.wind(asyncio.get_running_loop())


class _Far:
    """Alarms whose deadline is not near yet: one timer looks at all of them, and none runs while there are none."""

    __slots__ = ("_ticking", "alarms")

    def __init__(self) -> None:
        self.alarms: set[_Alarm] = set()
        self._ticking: asyncio.AbstractEventLoop | None = None  # where the timer runs

    def add(self, alarm: _Alarm, loop: asyncio.AbstractEventLoop) -> None:
        self.alarms.add(alarm)
        if self._ticking is not loop:
            self._ticking = loop
            loop.call_later(TICK, self._tick, loop)

    def _tick(self, loop: asyncio.AbstractEventLoop) -> None:
        alarms, self.alarms = self.alarms, set()
        for alarm in alarms:
            alarm.wind(loop)  # back to the others, or to a timer of its own
        if self.alarms:
            loop.call_later(TICK, self._tick, loop)
        else:
            self._ticking = None


def _late(x: Exchange) -> str:
    if x.backend is None:
        return f"no answer to {x.view.method}"
    noise = x.backend.pool.noise()
    said = f"; it wrote {noise!r} on its output, which is not JSON-RPC" if noise else ""
    return f"server {x.backend.server.name!r} did not answer {x.view.method} in {x.deadline.budget:g} s{said}"


class _Timed:
    """The client's reply, telling the deadline of progress and questions."""

    __slots__ = ("_deadline", "_reply", "_wait", "can_ask")

    def __init__(self, reply: Reply, deadline: Deadline, wait: float) -> None:
        self._reply = reply
        self._deadline = deadline
        self._wait = wait
        self.can_ask = reply.can_ask

    def notify(self, notification: Notification) -> None:
        if notification.method == "notifications/progress":
            self._deadline.extend(asyncio.get_running_loop().time())
        self._reply.notify(notification)

    async def ask(self, request: Request, asker: Reply | None = None) -> Response:
        time = asyncio.get_running_loop().time
        self._deadline.pause(time())
        try:
            async with asyncio.timeout(self._wait):
                return await self._reply.ask(request, asker)
        except TimeoutError:
            detail = f"the client did not answer {request.method} in {self._wait:g} s"
            raise BridgeError("unanswered", detail) from None
        finally:
            self._deadline.resume(time())
