"""Overload: how much is refused while memory, time, descriptors or calls run out.

    level  0 nothing    1 idle HTTP connections are let go    2 and new work is refused    3 and new connections are refused
           beyond a limit: 1 at once, 2 after HOLD s, 3 after 2 HOLD s, some more at once; within: one step down at each look

What has begun goes on at every level: it gives back what it holds. A single late turn of the loop refuses nobody.

Decided here: at the last level new connections are answered 503 and closed, in place of being left in the system's queue: their
clients know at once and go elsewhere. Descriptors are counted now and then and, in between, by what was accepted since; so the
reserve for children, servers and files is never given to clients.

Pure: whoever asks says what time it is and what was measured.

Source: reliability section 1 (Envoy's overload manager), table 3 rows 29 and 34; contract ``overload``.
"""

from __future__ import annotations

from typing import Final, NamedTuple

HOLD: Final = 5.0  # seconds beyond a limit until the next step
FAR: Final = 1.05  # times the memory limit


class Limits(NamedTuple):
    """``memory``: bytes of the process; ``lag``: seconds the event loop is late; ``files``: descriptors the system allows,
    ``reserve`` of them not for clients; ``calls``: in flight on servers. None: no limit."""

    memory: int | None = None
    lag: float | None = 0.25
    files: int | None = None
    reserve: int = 64
    calls: int | None = None


class Reading(NamedTuple):
    """What was measured."""

    memory: int = 0
    lag: float = 0.0
    files: int = 0
    calls: int = 0


class Overload:
    """The level now, and ``cause``: why, for people."""

    __slots__ = ("_since", "cause", "level", "limits")

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.level = 0
        self.cause = ""
        self._since: float | None = None  # beyond a limit

    def look(self, reading: Reading, now: float) -> bool:
        """Judge what was measured at ``now``; whether the level has changed."""
        was = self.level
        cause, least = self._beyond(reading)
        if cause is None:
            self._since = None
            self.level = max(0, was - 1)
            if self.level == 0:
                self.cause = ""
            return self.level != was
        self.cause = cause
        if self._since is None:
            self._since = now
        steps = 1 + int((now - self._since) / HOLD)
        self.level = max(was, least, min(steps, 3))
        return self.level != was

    def _beyond(self, reading: Reading) -> tuple[str | None, int]:
        """The limit that is passed, for people, and the least level that it asks for."""
        limits = self.limits
        if limits.memory is not None and reading.memory > limits.memory:
            is_far = reading.memory > FAR * limits.memory
            return f"{reading.memory >> 20} MiB of memory are used, {limits.memory >> 20} MiB are allowed", 2 if is_far else 1
        if limits.files is not None and reading.files > limits.files - limits.reserve:
            return f"{reading.files} of {limits.files} files are open", 1
        if limits.calls is not None and reading.calls > limits.calls:
            return f"{reading.calls} calls are in flight, {limits.calls} are allowed", 2
        if limits.lag is not None and reading.lag > limits.lag:
            return f"the event loop is {reading.lag * 1000:.0f} ms late", 1
        return None, 0

    def room(self, files: int) -> int | None:
        """Connections that may still be accepted when ``files`` are open; None: as many as other limits allow."""
        if self.level == 3:
            return 0
        return None if self.limits.files is None else max(0, self.limits.files - self.limits.reserve - files)
