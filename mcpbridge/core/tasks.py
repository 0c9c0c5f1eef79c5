"""Tasks with an owner: everything that runs beside a request belongs to the bridge's one TaskGroup."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from mcpbridge.errors import BridgeError

T = TypeVar("T")

Spawn = Callable[[Coroutine[Any, Any, None]], "asyncio.Task[None]"]
"""Starts a task that belongs to the bridge's task group; the coroutine never raises anything but CancelledError."""


class Flag:
    """``asyncio.Event`` for things of which there are many: one that nobody waits for is 48 bytes instead of 800."""

    __slots__ = ("_is_set", "_waiters")

    def __init__(self) -> None:
        self._is_set = False
        self._waiters: list[asyncio.Future[None]] | None = None

    def is_set(self) -> bool:
        return self._is_set

    def set(self) -> None:
        """Wake everyone who waits."""
        self._is_set = True
        waiters, self._waiters = self._waiters, None
        for waiter in waiters or ():
            if not waiter.done():
                waiter.set_result(None)

    def clear(self) -> None:
        self._is_set = False

    async def wait(self) -> None:
        """Return once it is set, or was set while we waited."""
        if self._is_set:
            return
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        if self._waiters is None:
            self._waiters = []
        self._waiters.append(waiter)
        try:
            await waiter
        finally:
            self._forget(waiter)

    def _forget(self, waiter: asyncio.Future[None]) -> None:
        """One who was cancelled, or woken and is gone already."""
        if self._waiters is not None and waiter in self._waiters:
            self._waiters.remove(waiter)


def share(spawn: Spawn, work: Coroutine[Any, Any, T]) -> asyncio.Future[T]:
    """Start work that several callers may wait for; its result or exception is in the future, never in the task group."""
    future: asyncio.Future[T] = asyncio.get_running_loop().create_future()

    async def run() -> None:
        try:
            value = await work
        except asyncio.CancelledError:
            if not future.done():
                future.set_exception(BridgeError("draining", "the bridge is shutting down", sent=False))
                future.exception()
            raise
        except Exception as error:  # noqa: BLE001 - told to whoever waits
            if not future.done():
                future.set_exception(error)
                future.exception()  # seen: nobody may be waiting any more
        else:
            if not future.done():
                future.set_result(value)

    def ended(_task: asyncio.Task[None]) -> None:
        if not future.done():  # cancelled before it began: nothing of ``run`` was executed
            work.close()
            future.set_exception(BridgeError("draining", "the bridge is shutting down", sent=False))
            future.exception()

    spawn(run()).add_done_callback(ended)
    return future


async def wait_shared(future: asyncio.Future[T], remaining: float, waiting_for: str) -> T:
    """Wait for shared work: our cancellation or deadline does not end it.

    Raises BridgeError("timeout", sent=False) after ``remaining`` seconds, saying what was waited for.
    """
    if not future.done():
        done, _ = await asyncio.wait([future], timeout=remaining)
        if not done:
            raise BridgeError("timeout", waiting_for, sent=False)
    return future.result()
