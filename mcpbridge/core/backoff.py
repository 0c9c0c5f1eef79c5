"""How long to wait before the next start of something that keeps failing. Pure: time and randomness are arguments.

Source: reliability section 3 row 12 (0.1-30 s, crash loop: 5 in 60 s); "full jitter" spreads the restarts of many bridges.
"""

from __future__ import annotations

from collections import deque
from typing import NamedTuple


class Reconnect(NamedTuple):
    """How a lost server is reached again: waits in seconds that double from ``initial`` to ``maximum``, with full jitter.

    ``attempts``: failures in a row after which nobody tries before the next call, -1 for no end. ``is_spread``: the first try
    waits too, for a server that many bridges lose at once.
    """

    initial: float = 1.0
    maximum: float = 30.0
    attempts: int = -1
    is_spread: bool = False


class Backoff:
    """Doubling waits with full jitter, from ``initial`` to ``maximum`` seconds.

    ``crashes``: how often a server that had started may die within ``window`` seconds and still be started again at once.
    """

    __slots__ = ("_crashes", "_failures", "_recent", "_window", "initial", "maximum")

    def __init__(self, initial: float = 0.1, maximum: float = 30.0, *, crashes: int = 5, window: float = 60.0) -> None:
        self.initial = initial
        self.maximum = maximum
        self._crashes = crashes
        self._window = window
        self._failures = 0
        self._recent: deque[float] = deque(maxlen=crashes)

    def next(self, random: float) -> float:
        """A start failed: the seconds to wait, between 0 and the doubled cap. ``random`` is in [0, 1)."""
        cap = min(self.maximum, self.initial * 2.0 ** min(self._failures, 64))
        self._failures += 1
        return cap * random

    def crashed(self, now: float, random: float) -> float:
        """What had started has died: the seconds to wait; 0 unless it is in a crash loop, then at least half of ``maximum``.

        A loop lasts until less than ``crashes`` lie within the last ``window`` seconds; successful starts do not end it.
        """
        in_loop = len(self._recent) == self._crashes and now - self._recent[0] < self._window
        self._recent.append(now)
        return self.maximum * (1.0 + random) / 2.0 if in_loop else 0.0

    def reset(self) -> None:
        """A start succeeded: the next failure waits the shortest time again."""
        self._failures = 0
