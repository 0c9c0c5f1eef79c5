"""What is counted of the choices, and what measurements make of weights. Pure: time is passed in.

    call ends -> Share.add          calls and failures of the last five minutes
    rebalance -> factors_of(...)    the slowest and the failing protocol get less, never under a tenth

Source: contract http.gateway.lb.status, http.gateway.lb.rebalance.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import Final, NamedTuple

from mcpbridge.core.balance.policy import FLOOR, Factors

SLOT: Final = 10.0  # seconds
SLOTS: Final = 30
ENOUGH: Final = 20  # calls of a protocol in the window, below which its measurements say nothing


class Share:
    """Calls and failures of one backend in a window of five minutes that slides in slots."""

    __slots__ = ("_counts", "_old", "_slot", "total")

    def __init__(self) -> None:
        self.total = 0  # since the start
        self._slot = 0
        self._counts = [0, 0]
        self._old: deque[tuple[int, list[int]]] = deque(maxlen=SLOTS)

    def add(self, failed: bool, now: float) -> None:
        """One call ended at ``now``, seconds of a clock that never goes back."""
        slot = int(now / SLOT)
        if slot != self._slot:
            self._old.append((self._slot, self._counts))
            self._slot, self._counts = slot, [0, 0]
        self.total += 1
        self._counts[0] += 1
        if failed:
            self._counts[1] += 1

    def counts(self, now: float) -> tuple[int, int]:
        """Calls and failures of the window that ends at ``now``."""
        oldest = int(now / SLOT) - SLOTS
        parts = [counts for slot, counts in (*self._old, (self._slot, self._counts)) if slot > oldest]
        return sum(part[0] for part in parts), sum(part[1] for part in parts)

    def clear(self) -> None:
        """Forget the window, not the total."""
        self._old.clear()
        self._counts = [0, 0]


class Measured(NamedTuple):
    """Of one protocol, over the window. ``p95``: seconds."""

    calls: int
    failures: int
    p95: float | None


def factors_of(measured: Mapping[str, Measured]) -> tuple[dict[str, Factors], list[str]]:
    """The factors of the protocols with enough calls, and the names of the others. The fastest one keeps its weight."""
    known = {name: one for name, one in measured.items() if one.calls >= ENOUGH and one.p95}
    best = min((one.p95 for one in known.values() if one.p95), default=0.0)
    factors = {
        name: Factors(round(max(FLOOR, best / (one.p95 or best)), 4), round(max(FLOOR, 1.0 - one.failures / one.calls), 4))
        for name, one in known.items()
    }
    return factors, [name for name in measured if name not in known]
