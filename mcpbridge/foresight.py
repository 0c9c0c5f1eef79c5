"""Predictive health of a gateway: every attempt is noted, every window each endpoint's detector is asked.

    attempt -> Meter (calls, failures, sum of log latency) -> every WINDOW: Detector -> Backend.score, Predictions, metrics, log

A score is told and never ejects: that is left to what really fails.

Source: reliability section 5; contract ``health_monitoring``.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable
from math import exp, log

from mcpbridge.core.anomaly.detector import Detector, Parameters, Reading, Sample
from mcpbridge.core.anomaly.predictions import HORIZON, Prediction, Predictions
from mcpbridge.core.server import Backend
from mcpbridge.observe import foresight as told
from mcpbridge.observe.log import log as logger
from mcpbridge.observe.metrics import Registry
from mcpbridge.observe.snapshot import Event, timestamp

MODEL = "anomaly_detection"
METHOD = "robust_cusum"
WINDOW = 5.0  # seconds
_log = logger("health")


class Meter:
    """What one endpoint did in the current window, and its detector."""

    __slots__ = ("answered", "calls", "detector", "failures", "logs", "was_down")

    def __init__(self, parameters: Parameters) -> None:
        self.detector = Detector(parameters)
        self.was_down = False
        self.clear()

    def clear(self) -> None:
        self.calls = 0
        self.failures = 0
        self.answered = 0
        self.logs = 0.0

    def take(self) -> Sample:
        """The window that ends now; the next one begins."""
        latency = exp(self.logs / self.answered) if self.answered else None
        sample = Sample(self.calls, self.failures, latency)
        self.clear()
        return sample


class Foresight:
    """Watches the backends that ``backends`` gives. ``tell`` gets an event per alarm. ``window``: seconds."""

    def __init__(
        self,
        registry: Registry,
        backends: Callable[[], Iterable[Backend]],
        tell: Callable[[Event], None],
        *,
        enabled: bool = True,
        window: float = WINDOW,
    ) -> None:
        self.enabled = enabled
        self.window = window
        self.predictions = Predictions()
        self._registry = registry
        self._backends = backends
        self._tell = tell
        self._parameters = Parameters()
        self._meters: dict[Backend, Meter] = {}
        self._evaluated = 0

    def attempted(self, backend: Backend, seconds: float, failed: bool) -> None:
        """One call has ended. A failed one says nothing of how fast the endpoint answers."""
        if not self.enabled:
            return
        meter = self._meters.get(backend)
        if meter is None:
            meter = self._meters[backend] = Meter(self._parameters)
        meter.calls += 1
        if failed:
            meter.failures += 1
        else:
            meter.answered += 1
            meter.logs += log(seconds if seconds > 1e-7 else 1e-7)

    async def follow(self) -> None:
        """Look once per window, for ever."""
        while True:
            await asyncio.sleep(self.window)
            self.tick(time.time())

    def tick(self, now: float) -> None:
        """A window has ended at ``now``, Unix seconds."""
        backends = list(self._backends())
        for gone in self._meters.keys() - set(backends):
            del self._meters[gone]
            self.predictions.forget(gone.name)
        for backend in backends:
            meter = self._meters.get(backend)
            if meter is None:
                meter = self._meters[backend] = Meter(self._parameters)
            self._look(backend, meter, now)
        self.predictions.expire(now)
        if self.predictions.closed:
            ratio = self.predictions.confirmed / self.predictions.closed
            self._registry.set("mcp_gateway_health_prediction_accuracy", ratio, model=MODEL)

    def _look(self, backend: Backend, meter: Meter, now: float) -> None:
        sample = meter.take()
        if sample.calls:
            self._evaluated += 1
            was_alarming = meter.detector.reading.is_alarming
            reading = meter.detector.tick(sample)
            backend.score = 1.0 if reading.score is None else reading.score
            if reading.score is not None:
                labels = {"protocol": backend.protocol, "server": backend.server.name}
                self._registry.set("mcp_gateway_predictive_health_score", self._score_of(backend), **labels)
            if reading.is_alarming and not was_alarming:
                self._alarm(backend, reading, now)
        is_out = backend.state == "down" or backend.ejection.until > time.monotonic()
        is_down = is_out or (backend.breaker is not None and backend.breaker.state != "closed")
        if is_down and not meter.was_down:
            self.predictions.failed(backend.name, now)
        meter.was_down = is_down

    def _score_of(self, backend: Backend) -> float:
        """The lowest score of the server's endpoints of this protocol: they share one series."""
        return min(one.score for one in backend.server.backends if one.protocol == backend.protocol)

    def _alarm(self, backend: Backend, reading: Reading, now: float) -> None:
        server = backend.server.name
        opened = self.predictions.alarmed(backend.name, server, backend.protocol, reading, now)
        if opened is None:
            return
        labels = {"protocol": backend.protocol, "severity": opened.severity}
        self._registry.inc("mcp_gateway_anomaly_detection_alerts_total", **labels)
        said = reason(reading, self.window)
        _log.warn("backend gets worse", server=server, backend=backend.name, severity=opened.severity, reason=said)
        message = f"{backend.name} gets worse: {said}"
        self._tell(Event(timestamp(now), "warn", "anomaly", message, backend.protocol, server))

    def score(self, backend: Backend) -> float | None:
        """Of one backend; None while its usual is not known."""
        meter = self._meters.get(backend)
        score = meter.detector.reading.score if meter is not None else None
        return None if score is None else round(score, 3)

    def snapshot(self) -> told.Foresight:
        """Its part of the picture."""
        p, found = self._parameters, self.predictions
        return told.Foresight(
            enabled=self.enabled,
            model=MODEL,
            method=METHOD,
            window_ms=self.window * 1000,
            horizon_sec=HORIZON,
            parameters=told.Parameters(p.k, p.h, p.level_gate, p.ticks),
            endpoints=len(self._meters),
            warmed_up_endpoints=sum(meter.detector.reading.score is not None for meter in self._meters.values()),
            evaluated_windows=self._evaluated,
            open=found.open,
            confirmed=found.confirmed,
            false_alarm=found.false_alarms,
            missed_failures=found.missed,
            anomalies=tuple(self._shown(one) for one in found.kept),
        )

    def _shown(self, one: Prediction) -> told.Anomaly:
        reading = one.reading
        scale = 1000 if reading.signal == "latency" else 1
        return told.Anomaly(
            id=one.id,
            opened_at=timestamp(one.opened_at),
            closed_at=None if one.closed_at is None else timestamp(one.closed_at),
            server=one.server,
            protocol=one.protocol,
            severity=one.severity,
            signal=reading.signal,
            score=None if reading.score is None else round(reading.score, 3),
            baseline=None if reading.baseline is None else round(reading.baseline * scale, 3),
            value=None if reading.value is None else round(reading.value * scale, 3),
            eta_sec=None if reading.eta is None else round(reading.eta * self.window, 1),
            outcome=one.outcome,
        )


def reason(reading: Reading, window: float) -> str:
    """Why an endpoint has its score, for people. ``window``: seconds."""
    usual, now = reading.baseline or 0.0, reading.value or 0.0
    if reading.signal == "errors":
        said = f"{now:.0%} of calls fail, usually {usual:.1%}"
    else:
        said = f"latency {now * 1000:.1f} ms, usually {usual * 1000:.1f} ms"
    return said if reading.eta is None else f"{said}; at its limit in about {reading.eta * window:.0f} s"
