"""The attempt ring: what happens around one try on one backend.

Source: architecture sections 5 and 6; contract 6.4 (1008); shared decision 3.
"""

from __future__ import annotations

import asyncio
from typing import Any, cast

from mcpbridge.core.exchange import QUESTION_WAIT, Deadline, Exchange, Handler, Policy, Reply
from mcpbridge.errors import BridgeError
from mcpbridge.wire.message import Notification, Request, Response


def timeout(question_wait: float = QUESTION_WAIT) -> Policy:
    """End a try when the exchange's deadline is over. Progress extends it; a question to the client stops the clock.

    ``question_wait``: seconds the client has to answer one. A listen stream has no deadline: it lasts as long as its client.
    """

    async def policy(x: Exchange, handler: Handler) -> Response | None:
        if x.view.method == "subscriptions/listen":
            return await handler(x)
        reply = x.reply
        alarm = _Alarm(x.deadline)
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
    """Cancels the current task when the deadline is over, however often that moves: a cheaper ``asyncio.timeout``."""

    __slots__ = ("_cancelling", "_deadline", "_handle", "_loop", "_rang", "_task")

    def __init__(self, deadline: Deadline) -> None:
        self._loop = asyncio.get_running_loop()
        self._deadline = deadline
        self._task = cast("asyncio.Task[Any]", asyncio.current_task())
        self._cancelling = self._task.cancelling()
        self._rang = False
        now = self._loop.time()
        self._handle = self._loop.call_at(now + deadline.remaining(now), self._ring)
        if deadline.paused:  # by another part of the same exchange
            self._handle.cancel()
        deadline.watch(self._move)

    def silence(self) -> bool:
        """Stop; whether it rang and nobody else cancelled the task. Its own cancellation is taken back."""
        self._handle.cancel()
        self._deadline.unwatch(self._move)
        rang, self._rang = self._rang, False
        return rang and self._task.uncancel() <= self._cancelling

    def _ring(self) -> None:
        self._rang = True
        self._task.cancel("the deadline is over")

    def _move(self) -> None:
        self._handle.cancel()
        if not self._deadline.paused and not self._rang:
            now = self._loop.time()
            self._handle = self._loop.call_at(now + self._deadline.remaining(now), self._ring)


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
