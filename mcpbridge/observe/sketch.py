"""Quantiles of the last five minutes in bounded memory: a log-bucketed sketch that slides in slots of time.

    value -> bucket ceil(log(value) / log(gamma)), gamma = 1.01 / 0.99        any quantile within 1 % of the true value
    now   -> slot of 30 s; ten slots are the window                            an old slot is dropped as a whole

Adding is one logarithm and two dictionary accesses. Sketches of several processes add up bucket by bucket.

Source: DDSketch (Masson, Rim, Lee 2019, section 2); contract section 5 (quantiles 0.5, 0.95, 0.99, sliding 5 min window).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from math import ceil, log

import msgspec

ERROR = 0.01
_GAMMA = (1 + ERROR) / (1 - ERROR)
_PER_LOG = 1 / log(_GAMMA)
SMALLEST, LARGEST = 1e-7, 1e5
"""Seconds; what lies outside counts as the nearest of them, so a sketch has at most 1,400 buckets per slot."""

SLOT = 30.0
SLOTS = 10

_LOWEST = ceil(log(SMALLEST) * _PER_LOG)


def bucket_of(value: float) -> int:
    """The bucket of a value in seconds; zero, negative and NaN values fall into the lowest."""
    if not value > SMALLEST:
        return _LOWEST
    return ceil(log(value if value < LARGEST else LARGEST) * _PER_LOG)


def value_of(bucket: int) -> float:
    """The value that stands for a bucket: at most ``ERROR`` away from every value in it."""
    return float(2 * _GAMMA**bucket / (_GAMMA + 1))


class Window:
    """The sketch of one series. ``now`` is seconds of any clock that never goes back."""

    __slots__ = ("_counts", "_ends", "_old", "_slot")

    def __init__(self) -> None:
        self._slot = 0
        self._ends = SLOT  # of the present slot
        self._counts: dict[int, int] = {}
        self._old: list[tuple[int, dict[int, int]]] = []

    def add(self, value: float, now: float) -> None:
        """Count one value at ``now``."""
        if now >= self._ends:
            self._turn(int(now // SLOT))
        bucket = bucket_of(value)
        counts = self._counts
        counts[bucket] = counts.get(bucket, 0) + 1

    def buckets(self, now: float) -> dict[int, int]:
        """Counts by bucket over the window that ends at ``now``: between 4.5 and 5 minutes long."""
        oldest = int(now // SLOT) - SLOTS
        parts = [counts for slot, counts in self._old if slot > oldest]
        if self._slot > oldest:
            parts.append(self._counts)
        return add_up(parts)

    def _turn(self, slot: int) -> None:
        if self._counts:
            self._old.append((self._slot, self._counts))
        self._old = [(number, counts) for number, counts in self._old if number > slot - SLOTS]
        self._slot, self._ends = slot, (slot + 1) * SLOT
        self._counts = {}


def add_up(parts: Iterable[Mapping[int, int]]) -> dict[int, int]:
    """One sketch of many."""
    total: dict[int, int] = {}
    for part in parts:
        for bucket, count in part.items():
            total[bucket] = total.get(bucket, 0) + count
    return total


def quantile(buckets: Mapping[int, int], q: float) -> float | None:
    """The value below which a fraction ``q`` of the values lies; None without values."""
    count = sum(buckets.values())
    if not count:
        return None
    rank = max(1, ceil(q * count))
    for bucket in sorted(buckets):
        rank -= buckets[bucket]
        if rank <= 0:
            return value_of(bucket)
    raise AssertionError("a rank lies within the count")


class Latency(msgspec.Struct, frozen=True):
    """Percentiles over the sliding window, in milliseconds where nothing else is said; None without samples."""

    p50: float | None = None
    p95: float | None = None
    p99: float | None = None


def percentiles(buckets: Mapping[int, int], per_second: float = 1000.0) -> Latency:
    """p50, p95 and p99 of a sketch of seconds, in a unit of which a second has ``per_second``."""
    return Latency(*(None if (v := quantile(buckets, q)) is None else round(v * per_second, 3) for q in (0.5, 0.95, 0.99)))


def largest(parts: Iterable[Latency]) -> Latency:
    """Percentiles cannot be added: the largest ones, which bound the true ones from above."""
    known = list(parts)

    def most(values: Iterable[float | None]) -> float | None:
        return max((value for value in values if value is not None), default=None)

    return Latency(most(p.p50 for p in known), most(p.p95 for p in known), most(p.p99 for p in known))
