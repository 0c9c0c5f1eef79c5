"""Overload of a running gateway: what is measured, how often, and what is done about it.

    every LOOK    memory and loop lag        at most every COUNT s: open files (all look-ups of a directory; dear with many)
    level 1       idle HTTP connections are closed, answers close theirs
    level 2       new requests are refused with 503 and server_busy, over every protocol; pings and what has begun go on
    level 3       new connections are refused

Source: reliability section 1 and table 3 rows 29, 34; contract ``overload``; the pure part is ``core.overload``.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Final

from mcpbridge.core.exchange import Exchange, Handler, Policy, SessionOp
from mcpbridge.core.overload import Limits, Overload, Reading
from mcpbridge.core.state import continues
from mcpbridge.errors import BridgeError
from mcpbridge.observe.log import log
from mcpbridge.observe.snapshot import Event, timestamp
from mcpbridge.transports.doors import ConnectionLimits
from mcpbridge.wire.message import Request, Response

LOOK: Final = 0.25  # seconds
COUNT: Final = 1.0  # seconds between two counts of many open files
MANY: Final = 1000  # connections
SHARE: Final = 0.9  # of the memory that a control group allows us
WAIT: Final = 2  # seconds told to who is refused
_GROUPS: Final = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")

_log = log("overload")


class Shedding:
    """Looks, tells and acts. ``lag``: seconds that the event loop is late; ``calls``: in flight on servers; ``shed``: lets idle
    connections go, or no longer."""

    def __init__(
        self,
        overload: Overload,
        connections: ConnectionLimits,
        lag: Callable[[], float],
        calls: Callable[[], int],
        shed: Callable[[bool], None],
        tell: Callable[[Event], None],
    ) -> None:
        self.overload = overload
        self._connections = connections
        self._lag = lag
        self._calls = calls
        self._shed = shed
        self._tell = tell
        self._others = 0  # open files beside the connections of clients
        self._counted_at = float("-inf")

    async def follow(self) -> None:
        """Look until cancelled."""
        while True:
            self.look(time.monotonic())
            await asyncio.sleep(LOOK)

    def look(self, now: float) -> None:
        """One look at ``now`` (monotonic)."""
        overload = self.overload
        connections = self._connections
        if overload.limits.files is not None and (connections.open < MANY or now - self._counted_at >= COUNT):
            self._others, self._counted_at = open_files() - connections.open, now
        files = self._others + connections.open
        before = overload.level
        if overload.look(Reading(memory_used(), self._lag(), files, self._calls()), now):
            self._told(before)
            self._shed(overload.level > 0)
        room = overload.room(files)
        connections.ceiling = None if room is None else connections.open + room
        connections.cause = overload.cause or "descriptors are short"

    def _told(self, before: int) -> None:
        level, cause = self.overload.level, self.overload.cause
        said = f"overload level {level}: {cause}" if level else "overload is over"
        write = _log.warn if level > before else _log.info
        write(said, event="overload", level_now=level)
        self._tell(Event(timestamp(time.time()), "warn" if level > before else "info", "overload", said))


def refusing_in(overload: Overload) -> Policy:
    """New work is refused from level 2 on."""

    def policy(x: Exchange, handler: Handler) -> Awaitable[Response | None]:
        if overload.level >= 2 and _is_new(x):
            raise BridgeError("server_busy", f"this gateway is overloaded: {overload.cause}", sent=False, retry_after=WAIT)
        return handler(x)

    return policy


def limits_of(*, memory: int, lag: float, reserve: int, calls: int) -> Limits:
    """The limits of this process from the configured ones; 0 is the system's, or none. With few descriptors the reserve is at
    most a quarter of them. ``calls``: in flight."""
    files = files_allowed()
    if files is not None:
        reserve = min(reserve, files // 4)
    return Limits(memory or memory_allowed(), lag or None, files, reserve, calls)


def _is_new(x: Exchange) -> bool:
    if isinstance(x.message, Request):
        return x.view.method != "ping" and not continues(x)
    return isinstance(x.message, SessionOp) and x.message.method == "CONNECT"


def memory_used() -> int:
    """Bytes of memory that the process holds; 0 where the system does not tell it for nothing."""
    with suppress(OSError, ValueError, IndexError), open("/proc/self/statm", "rb") as file:
        return int(file.read(128).split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return 0


def memory_allowed() -> int | None:
    """SHARE of what a control group allows this process; None without one."""
    for path in _GROUPS:
        with suppress(OSError, ValueError), open(path, encoding="ascii") as file:
            allowed = int(file.read(64))
            if allowed < 1 << 50:  # version 1 says a huge number for none
                return int(allowed * SHARE)
    return None


def open_files() -> int:
    """Descriptors of this process; 0 where they cannot be counted."""
    for folder in ("/proc/self/fd", "/dev/fd"):
        with suppress(OSError):
            return len(os.listdir(folder))
    return 0


def files_allowed() -> int | None:
    """Descriptors that the system allows this process; None where there is no such limit."""
    if sys.platform == "win32":
        return None
    import resource

    soft, _hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    return None if soft == resource.RLIM_INFINITY else soft
