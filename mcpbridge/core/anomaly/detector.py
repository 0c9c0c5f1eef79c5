"""The detector of one endpoint: a robust, gated CUSUM over windows of calls. Statistics, not a learned model.

    window -> z of its log latency against a robust baseline  -> S = sum of what exceeds k       } above h, or above he, for
           -> its failures: how much likelier they are with   -> E = sum of log likelihood ratios } some windows in a row: alarm
              ke more than usual than with the usual share

Latency counts only while its level, the median of the last windows, is also ``level_gate`` times the usual: a change may be
certain and still not matter, and a pause of a window or three is no level. Failures are weighed as what they are, so many of so
many calls: one of five says little where some always fail, and much where none ever did. A window without calls says nothing.
What is slow at most endpoints at once is the gateway or its network, and is taken off every one's latency (``shared_shift``).
Only gradual faults can be foreseen; a crash comes without a warning. The work per window is constant.

Source: Page 1954 (CUSUM, in log likelihood ratios); reliability sections 5 and 8.8; the numbers of errors and the median were
chosen on the training episodes of ``scripts/bench/health_script.py``.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from math import exp, log
from typing import Literal, NamedTuple

from mcpbridge.core.anomaly.trend import Trend

Signal = Literal["latency", "errors", "silence"]


@dataclass(frozen=True, slots=True)
class Parameters:
    """``k``, ``h``: slack and threshold of the latency sum, in deviations. ``ke``: the share of failures above the usual one
    that is looked for; ``he``: threshold of the error sum, in nats."""

    k: float = 1.0
    h: float = 10.0
    level_gate: float = 1.5  # times the usual latency
    ticks: int = 2  # windows in a row
    ke: float = 0.05
    he: float = 7.0
    warm_up: int = 30  # windows with calls before anything is said
    relearn: int = 120  # windows of alarm after which what is there now is the usual


class Sample(NamedTuple):
    """One window. ``latency``: geometric mean in seconds of the calls that were answered; None without one."""

    calls: int
    failures: int
    latency: float | None


class Reading(NamedTuple):
    """What is thought of an endpoint after a window.

    ``score``: 1 as usual, 0.1 in full alarm; None while warming up. ``baseline`` and ``value`` are of ``signal``: seconds, or a
    share of calls. ``eta``: windows until the level is at twice the gate; None when it does not rise steadily.
    """

    score: float | None
    is_alarming: bool
    signal: Signal
    baseline: float | None
    value: float | None
    eta: float | None


UNKNOWN = Reading(None, False, "latency", None, None, None)

FLOOR = 0.1  # the lowest score: a server that is only suspected still gets work
_LEAST_LATENCY = 1e-7  # seconds
_LEVEL_RATE = 0.35
_LEVEL_STEP = 0.5  # of a level per window, in log units: one wild window is no new level
_RECENT = 7  # windows whose median passes the gate or not
_LEAST_DEVIATION = 0.03
_LARGEST_Z = 6.0
_CLIP = 4.0  # deviations by which one window may move the baseline
_CAP = 3.0  # thresholds at which a sum stops, so that recovery is seen
_LARGEST_ERRORS = 0.5  # thresholds that one window may add: a burst is not gradual
_FORGET = 0.995  # of the calls that tell the usual share of errors, per window
_PRIOR = (1.0, 100.0)  # failures and calls that everybody is believed to have made before: a first failure proves nothing
_LEAST_SHARING = 8  # endpoints; of fewer nobody can tell whose slowness it is


def shared_shift(shifts: Sequence[float]) -> float:
    """What three of four endpoints have in common of a window's slowness, log units, 0 or more."""
    if len(shifts) < _LEAST_SHARING:
        return 0.0
    return max(0.0, sorted(shifts)[len(shifts) // 4])


class Detector:
    """Fed once per window by ``tick``."""

    __slots__ = (
        "_bad",
        "_called",
        "_deviation",
        "_errors",
        "_failed",
        "_latency",
        "_level",
        "_mean",
        "_p",
        "_recent",
        "_seen",
        "_trend",
        "reading",
    )

    def __init__(self, parameters: Parameters = Parameters()) -> None:
        self._p = parameters
        self.reading = UNKNOWN
        self._learn()

    def _learn(self) -> None:
        """Know nothing: what comes now is the usual."""
        self._seen = 0
        self._bad = 0  # windows in a row beyond a threshold
        self._mean: float | None = None  # log seconds
        self._deviation = 0.1
        self._level = 0.0  # smooth, for the trend
        self._recent: deque[float] = deque(maxlen=_RECENT)
        self._latency = 0.0  # the sums S and E
        self._errors = 0.0
        self._failed, self._called = _PRIOR
        self._trend = Trend()

    def shift(self, sample: Sample) -> float | None:
        """By how much this window is slower than the usual, log units; None when that is not known."""
        if sample.latency is None or self._mean is None or self._seen <= self._p.warm_up:
            return None
        return log(max(sample.latency, _LEAST_LATENCY)) - self._mean

    def tick(self, sample: Sample, shared: float = 0.0) -> Reading:
        """One window is over. ``shared``: the part of its slowness that is not its own, log units."""
        if sample.calls <= 0:
            return self.reading
        p = self._p
        frozen = self.reading.is_alarming
        usual = self._watch_errors(sample.failures, sample.calls, frozen)
        if sample.latency is not None:
            self._watch_latency(log(max(sample.latency, _LEAST_LATENCY)) - shared, frozen)
        self._seen += 1
        if self._seen <= p.warm_up or self._mean is None:
            self.reading = UNKNOWN
            return self.reading
        level = sorted(self._recent)[len(self._recent) // 2]
        is_far = level - self._mean > log(p.level_gate)
        slow = self._latency / p.h if is_far else 0.0
        failing = self._errors / p.he
        self._bad = self._bad + 1 if max(slow, failing) > 1.0 else 0
        if self._bad > p.relearn:
            self._learn()
            self.reading = UNKNOWN
            return self.reading
        signal: Signal = "errors" if failing > slow else "latency"
        self.reading = Reading(
            score=max(FLOOR, 1.0 - (1.0 - FLOOR) * min(1.0, max(slow, failing))),
            is_alarming=self._bad >= p.ticks,
            signal=signal,
            baseline=usual if signal == "errors" else exp(self._mean),
            value=sample.failures / sample.calls if signal == "errors" else exp(level),
            eta=self._trend.eta(self._mean + 2 * log(p.level_gate)),
        )
        return self.reading

    def _watch_errors(self, failures: int, calls: int, frozen: bool) -> float:
        """The usual share, as it was before this window."""
        p = self._p
        usual = self._failed / self._called
        if self._seen >= p.warm_up:
            worse = min(0.9, usual + p.ke) if usual < 0.9 else usual
            ratio = failures * log(worse / usual) + (calls - failures) * log((1.0 - worse) / (1.0 - usual))
            self._errors = min(_CAP * p.he, max(0.0, self._errors + min(ratio, _LARGEST_ERRORS * p.he)))
        if not frozen:
            prior, priors = _PRIOR
            self._failed = prior + (self._failed - prior) * _FORGET + failures
            self._called = priors + (self._called - priors) * _FORGET + calls
        return usual

    def _watch_latency(self, x: float, frozen: bool) -> None:
        p = self._p
        if self._mean is None:
            self._mean = self._level = x
        z = (x - self._mean) / max(1.48 * self._deviation, _LEAST_DEVIATION)
        if self._seen >= p.warm_up:
            self._latency = min(_CAP * p.h, max(0.0, self._latency + min(z, _LARGEST_Z) - p.k))
        self._level += _LEVEL_RATE * (min(x, self._level + _LEVEL_STEP) - self._level)
        self._recent.append(x)
        self._trend.tick(self._level)
        if frozen:
            return
        step = max(0.01, 1.0 / (self._seen + 1))
        error = x - self._mean
        if self._seen >= p.warm_up:
            limit = _CLIP * self._deviation
            error = max(-limit, min(limit, error))
        self._mean += step * error
        self._deviation += step * (abs(error) - self._deviation) if self._seen else 0.0
