"""How many calls may be sent twice: a share of all, so that a sick server is not buried under retries of its own failures.

Pure: whoever asks says what time it is. A call costs one addition; only a retry looks at the clock.

Source: reliability section 1 (Linkerd's budget: 20 % of the calls and 10 a second, over 10 s).
"""

from __future__ import annotations

RATIO = 0.2  # retries per call
FLOOR = 10.0  # retries a second that are always possible
WINDOW = 10.0  # seconds in which what was earned fades


class Retries:
    """The budget, and what was spent: ``total`` calls sent again, ``failovers`` calls given to another backend at all."""

    __slots__ = ("_at", "_balance", "_seen", "calls", "failovers", "refused", "total")

    def __init__(self) -> None:
        self.calls = 0  # counted up by whoever sends one
        self.total = 0
        self.failovers = 0
        self.refused = 0  # retries there was no budget for
        self._seen = 0
        self._at = float("-inf")
        self._balance = 0.0

    def spend(self, now: float) -> bool:
        """Whether one call may be sent again at ``now``; if so it is counted."""
        elapsed = now - self._at
        calls = self.calls - self._seen
        self._at, self._seen = now, self.calls
        kept = max(0.0, 1.0 - elapsed / WINDOW)
        earned = FLOOR * min(elapsed, WINDOW) + RATIO * calls * min(1.0, WINDOW / elapsed if elapsed else 1.0)
        self._balance = self._balance * kept + earned
        if self._balance < 1.0:
            self.refused += 1
            return False
        self._balance -= 1.0
        self.total += 1
        return True
