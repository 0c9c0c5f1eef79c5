"""Predictions: what every alarm foretold, and what came of it. Pure: time is passed in.

    alarm begins -> open -> the endpoint fails hard within the horizon -> confirmed
                         -> it does not                               -> false_alarm
    it fails hard without an open one -> missed

Source: contract http.gateway.health.anomalies and prediction-accuracy; reliability section 5.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Literal

from mcpbridge.core.anomaly.detector import Reading

HORIZON = 120  # windows: ten minutes of windows of 5 s
MAX_KEPT = 200
_CRITICAL_LATENCY = 3.0  # times the usual
_CRITICAL_ERRORS = 0.2  # of the calls

Outcome = Literal["open", "confirmed", "false_alarm"]
Severity = Literal["warning", "critical"]


@dataclass(slots=True)
class Prediction:
    """One alarm of one endpoint. Times are Unix seconds."""

    id: int
    endpoint: str
    server: str
    protocol: str
    opened_at: float
    severity: Severity
    reading: Reading
    closed_at: float | None = None
    outcome: Outcome = "open"


class Predictions:
    """The newest MAX_KEPT of them, and the totals since the start. ``horizon``: seconds."""

    def __init__(self, horizon: float) -> None:
        self.horizon = horizon
        self.kept: deque[Prediction] = deque(maxlen=MAX_KEPT)  # newest first
        self.confirmed = 0
        self.false_alarms = 0
        self.missed = 0
        self._opened = 0
        self._open: dict[str, Prediction] = {}

    @property
    def open(self) -> int:
        """How many are waiting for their outcome."""
        return len(self._open)

    @property
    def closed(self) -> int:
        return self.confirmed + self.false_alarms

    def alarmed(self, endpoint: str, server: str, protocol: str, reading: Reading, now: float) -> Prediction | None:
        """An alarm has begun. None while an earlier one of the endpoint is still open."""
        if endpoint in self._open:
            return None
        self._opened += 1
        found = Prediction(self._opened, endpoint, server, protocol, now, severity(reading), reading)
        self._open[endpoint] = found
        self.kept.appendleft(found)
        return found

    def failed(self, endpoint: str, now: float) -> None:
        """The endpoint has failed hard: it is down."""
        found = self._open.get(endpoint)
        if found is None or now - found.opened_at > self.horizon:
            self.missed += 1
            return
        self._close(found, "confirmed", now)
        self.confirmed += 1

    def expire(self, now: float) -> None:
        """Close what did not come true in time."""
        for found in [one for one in self._open.values() if now - one.opened_at > self.horizon]:
            self._close(found, "false_alarm", now)
            self.false_alarms += 1

    def forget(self, endpoint: str) -> None:
        """The endpoint is no more: what was foretold of it will never be known."""
        found = self._open.pop(endpoint, None)
        if found is not None and found in self.kept:
            self.kept.remove(found)

    def _close(self, found: Prediction, outcome: Outcome, now: float) -> None:
        del self._open[found.endpoint]
        found.outcome, found.closed_at = outcome, now


def severity(reading: Reading) -> Severity:
    """How bad it already is."""
    if reading.value is None or reading.baseline is None:
        return "warning"
    if reading.signal == "silence":
        return "critical"
    if reading.signal == "errors":
        return "critical" if reading.value >= _CRITICAL_ERRORS else "warning"
    return "critical" if reading.value >= _CRITICAL_LATENCY * reading.baseline else "warning"
