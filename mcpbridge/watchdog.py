"""Watchdog: how late the event loop comes, and what it does when it does not come at all.

    loop      every TICK: measures by how much it is late, and notes that it was here
    thread    every TICK: was it here?  Not for LIMIT: the stack of the loop goes to the log, once per block

A thread, because a blocked loop can tell nothing. A process that did not run at all (stopped, or without a core) is no block:
the thread was late then, too, and keeps quiet. What holds the interpreter's lock keeps the thread out as well; such a block is
counted and told afterwards, without a stack.

Source: reliability section 3, row 35 (event loop stall); liveness is ``GET /healthz``, which a blocked loop does not answer.
"""

from __future__ import annotations

import asyncio
import sys
import threading
import time
import traceback
from collections.abc import Callable
from typing import Final

from mcpbridge.observe.log import log
from mcpbridge.observe.metrics import Registry
from mcpbridge.observe.snapshot import Event, timestamp

TICK: Final = 0.05  # seconds
LIMIT: Final = 0.25  # seconds without the loop that are a block
SHOWN: Final = 1.0  # seconds over which the longest lag is told
FRAMES: Final = 12  # innermost ones of the stack; a line of the log has room for about as many

_log = log("watchdog")


class Watchdog:
    """Watches the running loop from ``start`` to ``close``. ``lag``: seconds, the longest of the last second.

    ``tell`` gets an event when a block is over.
    """

    def __init__(self, registry: Registry, tell: Callable[[Event], None]) -> None:
        self.lag = 0.0
        self._registry = registry
        self._tell = tell
        self._due = 0.0
        self._longest = 0.0
        self._shown_at = 0.0
        self._here = 0.0  # when the loop was here last; written by the loop, read by the thread
        self._block = (0.0, "")  # since when, and where: the newest block that the thread saw
        self._is_over = threading.Event()
        self._timer: asyncio.TimerHandle | None = None
        self._thread: threading.Thread | None = None

    async def follow(self) -> None:
        """Watch until it is cancelled."""
        self.start()
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            self.close()

    def start(self) -> None:
        """Begin, on the loop's own thread."""
        now = time.monotonic()
        self._here, self._due, self._shown_at = now, now + TICK, now
        self._timer = asyncio.get_running_loop().call_later(TICK, self._tick)
        self._thread = threading.Thread(target=self._watch, args=(threading.get_ident(),), name="watchdog", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End; the thread is gone within a moment."""
        self._is_over.set()
        if self._timer is not None:
            self._timer.cancel()
        if self._thread is not None:
            self._thread.join(1.0)

    def _tick(self) -> None:
        now = time.monotonic()
        was_here = self._here
        self._longest = max(self._longest, now - self._due)
        self._here, self._due = now, now + TICK
        self._timer = asyncio.get_running_loop().call_later(TICK, self._tick)
        if now - was_here >= LIMIT:
            self._blocked(was_here, now - was_here)
        if now - self._shown_at >= SHOWN or self._longest >= LIMIT:
            self.lag, self._longest, self._shown_at = self._longest, 0.0, now
            self._registry.set("mcp_gateway_event_loop_lag_seconds", self.lag)

    def _blocked(self, since: float, seconds: float) -> None:
        seen, where = self._block
        cause = f"in {where}" if seen == since else "by what let no thread run, or the process did not run"
        said = f"the event loop did not come round for {seconds * 1000:.0f} ms, held up {cause}"
        self._registry.inc("mcp_gateway_event_loop_blocks_total")
        _log.warn(said, event="loop_blocked", duration_ms=round(seconds * 1000))
        self._tell(Event(timestamp(time.time()), "warn", "loop_blocked", said))

    # The thread

    def _watch(self, loop_thread: int) -> None:
        before = time.monotonic()
        while not self._is_over.wait(TICK):
            now = time.monotonic()
            was_here, slept, before = self._here, now - before, now
            if now - was_here >= LIMIT and was_here != self._block[0] and slept < LIMIT:
                self._dump(loop_thread, was_here, now - was_here)

    def _dump(self, loop_thread: int, since: float, seconds: float) -> None:
        frame = sys._current_frames().get(loop_thread)
        if frame is None:
            return
        stack = traceback.extract_stack(frame)[-FRAMES:]
        where = f"{stack[-1].name} ({stack[-1].filename.rpartition('/')[2]}:{stack[-1].lineno})"
        self._block = (since, where)
        told = "".join(traceback.format_list(stack))
        _log.error(f"the event loop is held up in {where}", event="loop_stack", traceback=told, after_ms=round(seconds * 1000))
