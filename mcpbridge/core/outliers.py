"""Outlier ejection: a backend that does much worse than its fellows gets no new work for a while, longer each time.

    CONSECUTIVE failures in a row, or far fewer successes in an interval than the others  -> ejected for BASE s, 2 BASE s, ...
    BASE s in service without another ejection                                            -> the next one is one BASE shorter

A breaker stops what certainly fails; an ejection spares calls that might. So it never takes the last backend, nor more than
SHARE of them (one in any case), and is ignored when nothing else is left. What blames the client or is a tool's own error is no
failure here (``core.attempt``).

Decided here: a backend is compared with the others without itself, because among n equal ones a single outlier is never more
than sqrt(n - 1) standard deviations from a mean that it is part of; and it must be worse by MARGIN too, so that one failure
among hundreds ejects nobody. That makes the rule hold for two backends as for fifty.

Pure: whoever asks says what time it is, in seconds of one monotonic clock.

Source: reliability section 1 (Envoy's outlier detection: its numbers) and table 3 row 33; issue 5 item 2.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import sqrt
from typing import Final, Protocol, TypeVar

CONSECUTIVE: Final = 5  # failures in a row
INTERVAL: Final = 10.0  # seconds between two comparisons
VOLUME: Final = 100  # calls in an interval below which a backend is not compared
DEVIATIONS: Final = 1.9
MARGIN: Final = 0.1  # of the calls
BASE: Final = 30.0  # seconds of a first ejection
LONGEST: Final = 300.0
SHARE: Final = 0.1


class Record:
    """What a backend's ejections are judged by. ``until``: no new work before that; ``times``: how often in a row."""

    __slots__ = ("_calls", "_failures", "calm_since", "reason", "times", "until")

    def __init__(self) -> None:
        self.until = 0.0
        self.times = 0
        self.reason = ""
        self.calm_since = 0.0
        self._calls = self._failures = 0

    def since_last(self, calls: int, failures: int) -> tuple[int, int]:
        """Calls and failures since the last look, from the totals."""
        done = calls - self._calls, failures - self._failures
        self._calls, self._failures = calls, failures
        return done

    def end(self) -> None:
        """It was seen to be well."""
        self.until = 0.0


class Member(Protocol):
    """What an ejection knows of a backend."""

    ejection: Record

    @property
    def totals(self) -> tuple[int, int, int]:
        """Calls, failures, and the failures in a row up to now."""

    def is_eligible(self, now: float) -> bool: ...


M = TypeVar("M", bound=Member)


def after_failure(one: M, members: Sequence[M], now: float) -> bool:
    """``one`` of ``members`` has failed; whether it is ejected for it. One that has not succeeded since its last ejection is
    ejected again by a single failure."""
    in_row = one.totals[2]
    return in_row >= CONSECUTIVE and _eject(one, members, now, f"{in_row} failures in a row")


def compare(members: Sequence[M], now: float) -> list[M]:
    """Look at an interval's calls, once each INTERVAL; who is ejected now."""
    rates: list[tuple[float, M]] = []
    for one in members:
        record = one.ejection
        if record.times and now - max(record.until, record.calm_since) >= BASE:
            record.times -= 1
            record.calm_since = now
        calls, failures, _ = one.totals
        calls, failures = record.since_last(calls, failures)
        if calls >= VOLUME:
            rates.append((1.0 - failures / calls, one))
    ejected = []
    for rate, one in sorted(rates, key=lambda pair: pair[0]):
        others = [other for other, who in rates if who is not one and who not in ejected]
        if not others:
            break
        mean = sum(others) / len(others)
        deviation = sqrt(sum((other - mean) ** 2 for other in others) / len(others))
        if rate >= mean - max(DEVIATIONS * deviation, MARGIN):
            break  # those that follow did better
        if _eject(one, members, now, f"{1.0 - rate:.0%} of its calls failed, {1.0 - mean:.0%} of the others'"):
            ejected.append(one)
    return ejected


def _eject(one: M, members: Sequence[M], now: float, reason: str) -> bool:
    """Eject it, unless too many are or no other would be left."""
    if one.ejection.until > now:
        return False
    out = sum(member.ejection.until > now for member in members)
    is_last = not any(member.is_eligible(now) for member in members if member is not one)
    if is_last or out >= max(1, int(SHARE * len(members))):
        return False
    record = one.ejection
    record.times += 1
    record.until = now + min(BASE * record.times, LONGEST)
    record.reason = reason
    return True
