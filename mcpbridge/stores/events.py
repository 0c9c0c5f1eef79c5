"""The event logs of this process's legacy HTTP sessions, in memory.

Each log is bounded by events, bytes and age; all together by bytes, so that many sessions cannot fill the memory: then the
session that was silent for longest loses its oldest events first. The newest event of a session is kept whatever its size: it
may be the answer that a client comes back for.

Source: contract ``sessions.event_log_max_bytes``; shared decision 3.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from typing import NamedTuple

from mcpbridge.core.session import Session

MAX_EVENTS = 1000  # of one session
MAX_TOTAL = 268_435_456  # bytes of all sessions
OVERHEAD = 200  # bytes an event costs beside its own


class _Event(NamedTuple):
    stream: str
    number: int
    at: float
    data: bytes

    @property
    def size(self) -> int:
        return len(self.data) + OVERHEAD


class MemoryEvents:
    """Makes the logs. ``max_bytes`` and ``max_events`` per session, ``max_age`` in seconds, ``max_total`` in bytes."""

    def __init__(
        self,
        *,
        max_bytes: int = 1_048_576,
        max_events: int = MAX_EVENTS,
        max_age: float = 1800.0,
        max_total: int = MAX_TOTAL,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.max_bytes = max_bytes
        self.max_events = max_events
        self.max_age = max_age
        self.clock = clock
        self.size = 0
        self._max_total = max_total
        self._logs: dict[MemoryLog, None] = {}  # those with events, longest silent first

    def open(self, _session: Session) -> MemoryLog:
        return MemoryLog(self)

    def grown(self, log: MemoryLog) -> None:
        """An event was appended to ``log``: it is the last one to lose any."""
        self._logs.pop(log, None)
        self._logs[log] = None
        while self.size > self._max_total and len(self._logs) > 1:
            silent = next(iter(self._logs))
            silent.forget_oldest()
            if not len(silent):
                del self._logs[silent]

    def emptied(self, log: MemoryLog) -> None:
        self._logs.pop(log, None)


class MemoryLog:
    """The events of one session (an EventLog)."""

    __slots__ = ("_all", "_events", "_is_closed", "_size")

    def __init__(self, all: MemoryEvents) -> None:
        self._all = all
        self._events: deque[_Event] = deque()
        self._size = 0
        self._is_closed = False

    def __len__(self) -> int:
        return len(self._events)

    def append(self, stream: str, number: int, event: bytes) -> None:
        if self._is_closed:
            return
        all = self._all
        kept = _Event(stream, number, all.clock(), event)
        self._events.append(kept)
        self._size += kept.size
        all.size += kept.size
        self._expire(kept.at)
        while len(self._events) > 1 and (self._size > all.max_bytes or len(self._events) > all.max_events):
            self.forget_oldest()
        all.grown(self)

    async def after(self, stream: str, number: int) -> list[tuple[int, bytes]]:
        self._expire(self._all.clock())
        return [(event.number, event.data) for event in self._events if event.stream == stream and event.number > number]

    def close(self) -> None:
        self._is_closed = True
        while self._events:
            self.forget_oldest()
        self._all.emptied(self)

    def forget_oldest(self) -> None:
        oldest = self._events.popleft()
        self._size -= oldest.size
        self._all.size -= oldest.size

    def _expire(self, now: float) -> None:
        while self._events and now - self._events[0].at >= self._all.max_age:
            self.forget_oldest()
