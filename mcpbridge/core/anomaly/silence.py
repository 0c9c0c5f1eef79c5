"""Silence of an idle link: how unlikely it is that an answer to a check is only late. Pure: time is passed in, in seconds.

    answers come every `usual` seconds, give or take `spread`  ->  phi(t) = -log10 P(an answer takes longer than t)

phi 8: one silence of a hundred million is that long by chance. Says nothing before it knows the rhythm.

Source: Hayashibara et al. 2004 (phi accrual failure detector); reliability section 5 (threshold 8).
"""

from __future__ import annotations

from math import erfc, log10, sqrt

THRESHOLD = 8.0
_WARM_UP = 6  # intervals
_RATE = 0.1
_LEAST_SPREAD = 0.1  # of the usual: a rhythm that was exact so far may still vary
_LARGEST = 3.0  # times the usual: what one interval may teach
_LEAST_CHANCE = 1e-30


class Silence:
    """The rhythm of one link."""

    __slots__ = ("_heard_at", "_seen", "_variance", "usual")

    def __init__(self) -> None:
        self.usual = 0.0  # seconds between two answers
        self._variance = 0.0
        self._seen = 0
        self._heard_at: float | None = None

    def heard(self, now: float) -> None:
        """A check was answered."""
        if self._heard_at is not None:
            self._learn(now - self._heard_at)
        self._heard_at = now

    def pause(self) -> None:
        """Nothing is expected until the next answer: nobody asks, or calls tell more."""
        self._heard_at = None

    def lasts(self, now: float) -> float:
        """Seconds since the last answer; 0 when none is expected."""
        return 0.0 if self._heard_at is None else now - self._heard_at

    def phi(self, now: float) -> float:
        """0 while nothing is expected, or its rhythm is not known."""
        if self._heard_at is None or self._seen < _WARM_UP:
            return 0.0
        spread = max(sqrt(self._variance), _LEAST_SPREAD * self.usual)
        chance = erfc((now - self._heard_at - self.usual) / (spread * sqrt(2.0))) / 2.0
        return -log10(max(chance, _LEAST_CHANCE))

    def _learn(self, interval: float) -> None:
        if self._seen:
            interval = min(interval, _LARGEST * self.usual)
        self._seen += 1
        step = max(_RATE, 1.0 / self._seen)
        error = interval - self.usual
        self.usual += step * error
        self._variance += step * ((1.0 - step) * error * error - self._variance)
