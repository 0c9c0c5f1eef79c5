"""Predictive health of a gateway: every attempt is noted, every window each endpoint's detector is asked.

    attempt -> Meter (calls, failures, sum of log latency)   }  every window: Detector, or phi where nobody calls,
    answer to a check -> Silence                             }  less what most endpoints are slow by at once
                                                             }  -> Backend.score, Predictions, metrics, log

A score moves work away and never ejects: that is left to what really fails.

Source: reliability section 5; contract ``health_monitoring``.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Iterable
from math import exp, log
from statistics import median

from mcpbridge.core.anomaly.detector import FLOOR, Detector, Parameters, Reading, Sample, shared_shift
from mcpbridge.core.anomaly.predictions import HORIZON, MAX_KEPT, Prediction, Predictions
from mcpbridge.core.anomaly.silence import THRESHOLD, Silence
from mcpbridge.core.server import Backend
from mcpbridge.observe import foresight as told
from mcpbridge.observe.log import log as logger
from mcpbridge.observe.metrics import Registry
from mcpbridge.observe.snapshot import Event, timestamp

MODEL = "anomaly_detection"
METHOD = "robust_cusum"
_log = logger("health")


class Meter:
    """What one endpoint did in the current window, and its detectors."""

    __slots__ = (
        "answered",
        "calls",
        "detector",
        "failures",
        "is_silent",
        "is_steady",
        "logs",
        "silence",
        "was_down",
        "well_at",
    )

    def __init__(self, parameters: Parameters) -> None:
        self.detector = Detector(parameters)
        self.silence = Silence()
        self.is_silent = False
        self.is_steady = False  # its newest check was answered
        self.was_down = False
        self.well_at: float | None = None  # when a check found it well, until one finds it down
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
        window: float = 5.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.enabled = enabled
        self.window = window
        self.predictions = Predictions(HORIZON * window)
        self._registry = registry
        self._backends = backends
        self._tell = tell
        self._parameters = Parameters()
        self._meters: dict[Backend, Meter] = {}
        self._evaluated = 0
        self._looked_at = clock()
        self._clock = clock
        self._checks = 0
        self._failed_checks = 0
        self._detections: deque[float] = deque(maxlen=MAX_KEPT)  # seconds

    @property
    def late(self) -> float:
        """Seconds by which the scores should have been looked at again; 0 when nothing is foreseen."""
        return max(0.0, self._clock() - self._looked_at - self.window) if self.enabled else 0.0

    def attempted(self, backend: Backend, seconds: float, failed: bool) -> None:
        """One call has ended. A failed one says nothing of how fast the endpoint answers."""
        if not self.enabled:
            return
        meter = self._meters.get(backend) or self._meet(backend)
        meter.calls += 1
        if failed:
            meter.failures += 1
        else:
            meter.answered += 1
            meter.logs += log(seconds if seconds > 1e-7 else 1e-7)

    def _meet(self, backend: Backend) -> Meter:
        meter = self._meters[backend] = Meter(self._parameters)
        return meter

    def checked(self, backend: Backend, verdict: bool | None) -> None:
        """A check has ended; None: it came to no verdict (``core.checks.Told``)."""
        meter, now = self._meters.get(backend) or self._meet(backend), self._clock()
        if verdict is None:
            meter.silence.pause()
            return
        self._checks += 1
        if verdict:
            if not meter.is_steady:
                meter.silence.pause()  # it comes back: what was between is no rhythm
            meter.silence.heard(now)
            meter.is_steady, meter.well_at = True, now
            return
        meter.is_steady = False
        self._failed_checks += 1
        if backend.state == "down" and meter.well_at is not None:
            self._detections.append(now - meter.well_at)
            meter.well_at = None

    async def follow(self) -> None:
        """Look once per window, for ever."""
        while True:
            before = self._clock()
            await asyncio.sleep(self.window)
            if self._clock() - before > 2 * self.window:  # it was we who were away: nobody was silent, and nobody slow
                for meter in self._meters.values():
                    meter.silence.pause()
                    meter.clear()
            self.tick(time.time())

    def tick(self, now: float) -> None:
        """A window has ended at ``now``, Unix seconds."""
        self._looked_at = self._clock()
        backends = list(self._backends())
        for gone in self._meters.keys() - set(backends):
            del self._meters[gone]
            self.predictions.forget(gone.name)
        if self.enabled:
            meters = [(backend, self._meters.get(backend) or self._meet(backend)) for backend in backends]
            windows = [(backend, meter, meter.take()) for backend, meter in meters]
            shifts = [meter.detector.shift(sample) for _, meter, sample in windows]
            shared = shared_shift([shift for shift in shifts if shift is not None])
            for backend, meter, sample in windows:
                self._look(backend, meter, sample, shared, now)
        self.predictions.expire(now)
        if self.predictions.closed:
            ratio = self.predictions.confirmed / self.predictions.closed
            self._registry.set("mcp_gateway_health_prediction_accuracy", ratio, model=MODEL)

    def _look(self, backend: Backend, meter: Meter, sample: Sample, shared: float, now: float) -> None:
        if sample.calls:
            self._evaluated += 1
            was_alarming = meter.detector.reading.is_alarming
            reading = meter.detector.tick(sample, shared)
            if reading.is_alarming and not was_alarming:
                self._alarm(backend, reading, now)
            meter.silence.pause()  # calls tell more than checks
            meter.is_silent = False
        else:
            self._listen(backend, meter, now)
        self._judge(backend, meter)
        is_out = backend.state == "down" or backend.ejection.until > time.monotonic()
        is_down = is_out or (backend.breaker is not None and backend.breaker.state != "closed")
        if is_down and not meter.was_down:
            self.predictions.failed(backend.name, now)
        meter.was_down = is_down

    def _listen(self, backend: Backend, meter: Meter, now: float) -> None:
        """A window without calls: only checks can tell."""
        silence, at = meter.silence, self._clock()
        was_silent, meter.is_silent = meter.is_silent, backend.state != "down" and silence.phi(at) >= THRESHOLD
        if meter.is_silent and not was_silent:
            self._alarm(backend, Reading(FLOOR, True, "silence", silence.usual, silence.lasts(at), None), now)

    def _judge(self, backend: Backend, meter: Meter) -> None:
        """Its score, from both."""
        found = FLOOR if meter.is_silent else meter.detector.reading.score
        backend.score = 1.0 if found is None else found
        if found is not None:
            labels = {"protocol": backend.protocol, "server": backend.server.name}
            self._registry.set("mcp_gateway_predictive_health_score", self._score_of(backend), **labels)

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
        if meter is None:
            return None
        score = FLOOR if meter.is_silent else meter.detector.reading.score
        return None if score is None else round(score, 3)

    def snapshot(self) -> told.Foresight:
        """Its part of the picture."""
        p, found = self._parameters, self.predictions
        return told.Foresight(
            enabled=self.enabled,
            model=MODEL,
            method=METHOD,
            window_ms=self.window * 1000,
            horizon_sec=found.horizon,
            parameters=told.Parameters(p.k, p.h, p.level_gate, p.ticks),
            endpoints=len(self._meters),
            warmed_up_endpoints=sum(meter.detector.reading.score is not None for meter in self._meters.values()),
            evaluated_windows=self._evaluated,
            open=found.open,
            confirmed=found.confirmed,
            false_alarm=found.false_alarms,
            missed_failures=found.missed,
            checks=self._checks,
            failed_checks=self._failed_checks,
            median_detection_ms=round(median(self._detections) * 1000, 1) if self._detections else None,
            anomalies=tuple(self._shown(one) for one in found.kept),
        )

    def _shown(self, one: Prediction) -> told.Anomaly:
        reading = one.reading
        scale = 1 if reading.signal == "errors" else 1000
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
    elif reading.signal == "silence":
        said = f"no check was answered for {now:.1f} s, usually every {usual:.1f} s"
    else:
        said = f"latency {now * 1000:.1f} ms, usually {usual * 1000:.1f} ms"
    return said if reading.eta is None else f"{said}; at its limit in about {reading.eta * window:.0f} s"
