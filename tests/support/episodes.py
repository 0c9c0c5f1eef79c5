"""Labelled hours of one endpoint, made from a seed: healthy ones with benign disturbances, and ones that end in a failure.

Source: reliability section 8.8 (health bench, generator and scoring).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from math import exp, log, pi, sin, sqrt
from random import Random

from mcpbridge.core.anomaly.detector import Detector, Parameters, Sample

WINDOW = 5.0  # seconds
WINDOWS = 720  # one hour
GRADUAL = ("leak", "errors", "step", "both")
KINDS = ("healthy", *GRADUAL, "crash")


@dataclass(frozen=True)
class Episode:
    """``onset``: first bad window; ``failure``: the window of the hard failure. Both None when healthy."""

    kind: str
    samples: list[Sample]
    onset: int | None = None
    failure: int | None = None


def episode(kind: str, seed: int) -> Episode:
    """One hour, or less when it ends in a failure. The same for the same kind and seed."""
    draw = Random(f"{kind}:{seed}")
    base = draw.uniform(log(0.003), log(0.08))
    sd, mean_calls = draw.uniform(0.05, 0.25), draw.uniform(5, 60)
    wave, phase = draw.uniform(0, 0.25), draw.uniform(0, 2 * pi)
    base_errors = draw.choice((0.0, 0.0, 0.001, 0.005, 0.02))
    plateau_at, plateau = WINDOWS, draw.uniform(0.15, 0.3)
    onset = failure = None
    if kind == "healthy":
        if draw.random() < 0.5:
            plateau_at = draw.randrange(100, WINDOWS - 60)
    else:
        onset = draw.randrange(200, 500)
        failure = onset + draw.randrange(12, 73)
    slower = {"leak": draw.uniform(1.2, 3), "step": draw.uniform(0.5, 1.2), "both": draw.uniform(0.6, 1.5)}.get(kind, 0.0)
    failing = {"errors": draw.uniform(0.1, 0.5), "both": draw.uniform(0.05, 0.3)}.get(kind, 0.0)
    noise, samples = 0.0, []
    for window in range(failure if failure is not None else WINDOWS):
        calls = max(1, round(draw.gauss(mean_calls, sqrt(mean_calls))) + 1)
        noise = 0.6 * noise + draw.gauss(0, sd / sqrt(min(calls, 10)))
        x = base + noise + wave * sin(2 * pi * window / WINDOWS + phase)
        if draw.random() < 0.006:
            x += draw.uniform(0.4, 1.6)
        if plateau_at <= window < plateau_at + 60:
            x += plateau
        rate = base_errors
        if onset is not None and failure is not None and window >= onset and kind != "crash":
            r = (window - onset + 1) / (failure - onset)
            x += {"leak": r**1.5, "step": 1.0, "both": r}.get(kind, 0.0) * slower
            rate += (r if kind == "errors" else r * r) * failing
        failures = sum(draw.random() < rate for _ in range(calls))
        samples.append(Sample(calls, failures, exp(x)))
    return Episode(kind, samples, onset, failure)


@dataclass
class Score:
    """Counts of many episodes. ``leads``: windows from the hit to the failure. ``clean``: windows without a fault."""

    faults: int = 0
    hits: int = 0
    false_alarms: int = 0
    clean: int = 0
    leads: list[int] = field(default_factory=list)

    @property
    def recall(self) -> float:
        return self.hits / self.faults

    @property
    def precision(self) -> float:
        return self.hits / (self.hits + self.false_alarms)

    @property
    def clean_hours(self) -> float:
        return self.clean * WINDOW / 3600

    @property
    def median_lead(self) -> float:
        """Seconds."""
        return sorted(self.leads)[len(self.leads) // 2] * WINDOW

    def add(self, one: Episode, parameters: Parameters = Parameters()) -> None:  # noqa: B008 (frozen)
        """Play one episode through a new detector. A crash is not foreseeable: it counts only for false alarms."""
        detector, before, hit = Detector(parameters), False, None
        for window, sample in enumerate(one.samples):
            alarming = detector.tick(sample).is_alarming
            if alarming and not before:
                if one.onset is None or window < one.onset:
                    self.false_alarms += 1
                elif hit is None:
                    hit = window
            before = alarming
        self.clean += one.onset if one.onset is not None else len(one.samples)
        if one.kind in GRADUAL and one.failure is not None:
            self.faults += 1
            if hit is not None:
                self.hits += 1
                self.leads.append(one.failure - hit)


def wilson(hits: int, total: int, z: float = 1.96) -> tuple[float, float]:
    """The interval of a share at 95 %. Source: Wilson 1927."""
    share, square = hits / total, z * z / total
    middle = (share + square / 2) / (1 + square)
    half = z * sqrt(share * (1 - share) / total + square / (4 * total)) / (1 + square)
    return middle - half, middle + half
