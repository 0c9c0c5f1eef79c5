"""Peak-sensitive moving average of latency: a slow answer counts at once and is forgotten over seconds.

Source: issue 5 item 1; the cost function of Finagle's peak EWMA balancer.
"""

from __future__ import annotations

from math import exp
from typing import Final

DECAY: Final = 10.0  # seconds in which an old value loses all but 1/e of its say
UNMEASURED: Final = 1.0  # seconds assumed of a backend that has a first call and has answered none yet


class PeakLatency:
    """Seconds. What is not used fades towards zero, so that a backend that once was slow is tried again."""

    __slots__ = ("_at", "_value")

    def __init__(self) -> None:
        self._value = 0.0
        self._at = 0.0

    def add(self, seconds: float, now: float) -> None:
        """An attempt took ``seconds`` and ended at ``now``."""
        old = self._value
        if seconds < old:
            kept = exp((self._at - now) / DECAY)
            seconds = max(old * kept + seconds * (1.0 - kept), seconds)
        self._value = seconds
        self._at = now

    def cost(self, active: int, now: float) -> float:
        """What one more call would wait, about: latency times the calls it would be in flight with."""
        if not self._value:
            return UNMEASURED * (active + 1) if active else 0.0
        return self._value * exp((self._at - now) / DECAY) * (active + 1)
