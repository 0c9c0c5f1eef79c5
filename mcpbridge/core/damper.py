"""Damper: servers that change one after the other make one client read its lists once, not once for each.

    list_changed   x x x x        x        the first at once, then one of a kind in ``WINDOW`` seconds
    told           x     x        x        the last one is never lost; whatever else is said passes at once

For clients of several servers only: what one server says to its own kind of client goes on as it comes.

Source: mcp-eras section 4 (list_changed fan-in).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Protocol

from mcpbridge.wire.message import Notification
from mcpbridge.wire.spec import LISTEN_FLAGS

WINDOW = 0.3  # seconds between two notifications of one kind
_DAMPED = frozenset(LISTEN_FLAGS.values())


class Timer(Protocol):
    """What ``later`` gives back."""

    def cancel(self) -> None: ...


Later = Callable[[float, Callable[[], None]], Timer]
"""Has something done after so many seconds."""


class Damper:
    """What one client hears of its servers' lists. ``tell`` sends; ``later`` is the running loop's ``call_later`` if None."""

    __slots__ = ("_held", "_later", "_tell", "_timers")

    def __init__(self, tell: Callable[[Notification], None], later: Later | None = None) -> None:
        self._tell = tell
        self._later = later
        self._held: dict[str, Notification] = {}  # the newest of each kind that waits
        self._timers: dict[str, Timer] = {}  # kinds whose window is open

    def notify(self, notification: Notification) -> None:
        """Tell it now, or when its kind may be told of again."""
        kind = notification.method
        if kind in self._timers:
            self._held[kind] = notification
            return
        if kind in _DAMPED:
            self._open(kind)
        self._tell(notification)

    def close(self) -> None:
        """The client is gone: nothing is told any more."""
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()
        self._held.clear()

    def _open(self, kind: str) -> None:
        later = self._later or asyncio.get_running_loop().call_later
        self._timers[kind] = later(WINDOW, lambda: self._over(kind))

    def _over(self, kind: str) -> None:
        del self._timers[kind]
        held = self._held.pop(kind, None)
        if held is not None:
            self.notify(held)
