"""When a rising level will reach a limit: Holt's linear trend, believed only after a steady rise.

Source: Holt 1957; reliability section 5 (monotone over at least six windows).
"""

from __future__ import annotations

STEADY = 6  # windows in a row that rose
_RATE = 0.3
_LEAST_SLOPE = 1e-3  # per window; below it "soon" means nothing


class Trend:
    """Level and slope of a series, one value per window."""

    __slots__ = ("_last", "_level", "_rises", "_slope")

    def __init__(self) -> None:
        self._level: float | None = None
        self._slope = 0.0
        self._rises = 0
        self._last = 0.0

    def tick(self, value: float) -> None:
        """The value of the next window."""
        if self._level is None:
            self._level = self._last = value
            return
        before = self._level
        self._level += self._slope + _RATE * (value - self._level - self._slope)
        self._slope += _RATE * (self._level - before - self._slope)
        self._rises = self._rises + 1 if value > self._last else 0
        self._last = value

    def eta(self, limit: float) -> float | None:
        """Windows until ``limit``; 0 beyond it; None when the series does not rise steadily."""
        if self._level is None or self._rises < STEADY or self._slope < _LEAST_SLOPE:
            return None
        return max(0.0, (limit - self._level) / self._slope)
