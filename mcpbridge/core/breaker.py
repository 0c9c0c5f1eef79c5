"""A circuit breaker: after several failures in a row nothing is sent for a while, then a few trial calls decide.

    closed --failures in a row--> open --open_for seconds--> half open --successes--> closed
                                    ^------- a failed trial -------'

Pure: whoever asks says what time it is, in seconds of one monotonic clock.

Source: contract sections 3 (``circuit_breaker.*``) and 6 (limit.breaker).
"""

from __future__ import annotations

from collections import deque
from typing import Literal, NamedTuple

State = Literal["closed", "half_open", "open"]
UNCOUNTED = -1  # the ticket of a call whose end tells nothing


class Rules(NamedTuple):
    """``failures`` in a row within ``forget`` seconds (0: however long) open it for ``open_for`` seconds; then at most
    ``trials`` calls at once until ``successes`` of them close it. ``unsent``: whether a server that cannot be reached counts,
    or only one that fails what it was sent."""

    failures: int = 5
    successes: int = 2
    open_for: float = 30.0
    trials: int = 1
    forget: float = 60.0
    unsent: bool = True


class Breaker:
    """One breaker. A call asks ``allows``, takes a ticket by ``begin`` and gives it back by ``ended``.

    Calls that began before the state changed have no say in the new one: they tell of the past.
    """

    __slots__ = ("_failed_at", "_good", "_term", "_trials", "_until", "opened", "rules", "state")

    def __init__(self, rules: Rules = Rules()) -> None:  # noqa: B008 - immutable
        self.rules = rules
        self.state: State = "closed"
        self.opened = 0  # times it opened since the start
        self._term = 0  # rises with every state; the ticket of a call
        self._failed_at: deque[float] = deque(maxlen=rules.failures)
        self._until = 0.0  # open: the trials' time; half open: when a trial without an end is given up
        self._trials = 0
        self._good = 0

    def allows(self, now: float) -> bool:
        """Whether a call may be sent now. Changes nothing."""
        if self.state == "closed":
            return True
        return now >= self._until or (self.state == "half_open" and self._trials < self.rules.trials)

    def remaining(self, now: float) -> float:
        """Seconds until a call may be sent, at most."""
        return 0.0 if self.allows(now) else self._until - now

    def begin(self, now: float) -> int:
        """A call that was allowed is sent; the ticket to hand to ``ended``."""
        if self.state == "closed":
            return self._term
        if now >= self._until:  # the first trial, or those on the way take too long to be waited for
            self._to_half_open(now)
        elif self.state == "open":
            return UNCOUNTED
        self._trials += 1
        self._until = now + self.rules.open_for
        return self._term

    def ended(self, ticket: int, ok: bool | None, now: float = 0.0) -> None:
        """The call with ``ticket`` succeeded, failed, or (None) told nothing. ``now`` counts for failures only."""
        if ticket != self._term or self.state == "open":
            return
        if self.state == "closed":
            if ok:
                self._failed_at.clear()
            elif ok is False:
                self._failed_at.append(now)
                full = len(self._failed_at) == self.rules.failures
                if full and (not self.rules.forget or now - self._failed_at[0] <= self.rules.forget):
                    self._open(now)
            return
        self._trials -= 1
        if ok is False:
            self._open(now)
        elif ok:
            self._good += 1
            if self._good >= self.rules.successes:
                self._turn("closed")

    def may_be_well(self, now: float) -> None:
        """Somebody reached what could not be reached: trials need not wait."""
        if self.state == "open":
            self._until = min(self._until, now)

    def _open(self, now: float) -> None:
        self._turn("open")
        self.opened += 1
        self._until = now + self.rules.open_for

    def _to_half_open(self, now: float) -> None:
        good = self._good if self.state == "half_open" else 0
        self._turn("half_open")
        self._good = good
        self._until = now + self.rules.open_for

    def _turn(self, state: State) -> None:
        self.state = state
        self._term += 1
        self._trials = self._good = 0
        self._failed_at.clear()
