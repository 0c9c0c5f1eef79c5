"""What happens to the endpoints of the health benchmark, from a seed; and what the alarms about them were worth. Pure.

    episode(kind, seed, ...)     -> Conditions, one per window; ``onset`` (first bad window) and ``failure`` (unusable)
    Score.add(episodes, alarms)  -> hits, misses, false alarms, leads, clean windows

Windows are the unit of time here: five seconds of an operator's clock each, as the detector's default has it; the benchmark
plays them faster. Latencies are not scaled.

Unlike the generator of 8.8, so that a gateway on one core can play it: 4 to 8 calls per window (there 6 to 61); in return the
final shares of errors and resets are higher (0.3 to 0.7, there 0.1 to 0.5; "both" 0.1 to 0.5, there 0.05 to 0.3). Its kind
"step" is left out. The held-out seeds from 100,000 on have been seen: after more tuning begin elsewhere (``--first``).

Source: reliability sections 5 and 8.8 (generator, scoring); issue 5 item 5.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from math import exp, log, pi, sin, sqrt
from random import Random
from typing import NamedTuple

WINDOW = 5.0  # seconds of an operator's clock
WINDOWS = 720  # one hour
WARM_UP = 30  # windows in which the detector says nothing: no clean time
GRADUAL = ("latency", "queue", "errors", "resets", "both")
KINDS = ("healthy", *GRADUAL, "crash")
TRAINING, HELD_OUT = 0, 100_000  # where the seeds begin; whoever tunes the detector looks at the first only


class Condition(NamedTuple):
    """One window of one endpoint. Times in seconds, shares of calls from 0 to 1."""

    service: float  # how long the backend works at a call
    errors: float = 0.0  # share it answers with HTTP 500
    added: float = 0.0  # latency of the way, give or take a quarter
    resets: float = 0.0  # share of answers that become a reset of the connection
    load: float = 1.0  # times its usual calls
    restarts: bool = False  # all its connections are reset, once


@dataclass(frozen=True)
class Episode:
    """``calls``: per window on the mean. ``is_serial``: the backend does one call at a time, others wait in line.

    ``failure`` is the first window in which the endpoint is unusable; both labels are None when it is healthy.
    """

    name: str
    kind: str
    calls: float
    is_serial: bool
    conditions: tuple[Condition, ...]
    onset: int | None = None
    failure: int | None = None

    @property
    def clean(self) -> int:
        """Windows without a fault in which an alarm would be false."""
        return max(0, (len(self.conditions) if self.onset is None else self.onset) - WARM_UP)


def episode(kind: str, seed: int, seconds: float, windows: int = WINDOWS) -> Episode:
    """The same for the same arguments. ``seconds``: of a window as it is played, from which the load follows."""
    draw = Random(f"{kind}:{seed}")
    calls = draw.uniform(4, 8)
    is_serial = kind == "queue" or draw.random() < 0.3
    base = draw.uniform(log(0.004), log(0.01)) if is_serial else draw.uniform(log(0.005), log(0.04))
    noise_of, wave, phase = draw.uniform(0.05, 0.25), draw.uniform(0, 0.25), draw.uniform(0, 2 * pi)
    usual_errors = draw.choice((0.0, 0.0, 0.001, 0.005, 0.02))
    plateau_at, plateau = _some(draw, windows, 0.5), draw.uniform(0.15, 0.3)  # a release that is a little slower, undone
    busy_at, restarts_at = _some(draw, windows, 0.3), _some(draw, windows, 0.3)
    onset = failure = None
    if kind != "healthy":
        onset = draw.randrange(windows * 5 // 18, windows * 25 // 36)
        failure = min(windows - 1, onset + draw.randrange(12, 73))
        if kind == "crash":
            onset = failure
    slower = {"latency": draw.uniform(1.2, 3), "both": draw.uniform(0.6, 1.5)}.get(kind, 0.0)
    failing = draw.uniform(0.1, 0.5) if kind == "both" else draw.uniform(0.3, 0.7)
    noise, conditions = 0.0, []
    for window in range(windows):
        noise = 0.6 * noise + draw.gauss(0, noise_of / sqrt(calls))
        x = base + noise + wave * sin(2 * pi * window / WINDOWS + phase)
        if draw.random() < 0.006:
            x += draw.uniform(0.4, 1.6)  # a pause to collect garbage
        if plateau_at <= window < plateau_at + 60:
            x += plateau
        bad = 0.0
        if onset is not None and failure is not None and onset <= window:
            bad = min(1.0, (window - onset + 1) / max(1, failure - onset))
        service = exp(x)
        if kind == "queue" and bad:
            service += bad * (1.1 * seconds / calls - exp(base))  # in the end more comes than it can do
        conditions.append(
            Condition(
                service=service,
                errors=usual_errors + {"errors": bad, "both": bad * bad}.get(kind, 0.0) * failing,
                added=exp(base) * (exp({"latency": bad**1.5, "both": bad}.get(kind, 0.0) * slower) - 1.0),
                resets=(bad if kind == "resets" else 0.0) * failing,
                load=3.0 if busy_at <= window < busy_at + 60 else 1.0,
                restarts=window == restarts_at,
            )
        )
    return Episode(f"{kind}-{seed}", kind, calls, is_serial, tuple(conditions), onset, failure)


def _some(draw: Random, windows: int, chance: float) -> int:
    """When something happens that happens to this share of all endpoints; after the end when not."""
    at = draw.randrange(windows // 7, windows * 11 // 12)
    return at if draw.random() < chance else windows


def cast(first: int, healthy: int, each: int, crashes: int, seconds: float, windows: int = WINDOWS) -> list[Episode]:
    """The endpoints of one round: ``each`` of every gradual kind. ``first``: the first seed."""
    numbers = {"healthy": healthy, "crash": crashes} | dict.fromkeys(GRADUAL, each)
    return [episode(kind, first + number, seconds, windows) for kind in KINDS for number in range(numbers[kind])]


class Alarm(NamedTuple):
    """One prediction of the gateway. ``at``: windows since the beginning."""

    name: str
    at: float


@dataclass
class Score:
    """Counts over all rounds. ``leads``: seconds of an operator's clock, 0 for a fault not foreseen; ``clean``: windows."""

    clean: int = 0
    false_alarms: list[str] = field(default_factory=list)
    kinds: dict[str, list[float]] = field(default_factory=dict)  # the leads of each
    crashes: int = 0

    @property
    def leads(self) -> list[float]:
        return sorted(lead for leads in self.kinds.values() for lead in leads)

    @property
    def hits(self) -> int:
        return sum(lead > 0 for lead in self.leads)

    @property
    def hours(self) -> float:
        """Clean endpoint-hours."""
        return self.clean * WINDOW / 3600

    def add(self, episodes: Iterable[Episode], alarms: Sequence[Alarm]) -> None:
        """Match alarms with labels.

        Before the onset, or without one: false. The first from the onset until the failure is a hit; what comes later says
        nothing new. A crash cannot be foreseen: it counts for false alarms only.
        """
        for one in episodes:
            own = sorted(alarm.at for alarm in alarms if alarm.name == one.name)
            until = float(len(one.conditions)) if one.onset is None else float(one.onset)
            self.clean += one.clean
            self.false_alarms += [f"{one.name} at window {at:.1f}" for at in own if at < until]
            self.crashes += one.kind == "crash"
            if one.kind in GRADUAL and one.failure is not None:
                within = [at for at in own if until <= at < one.failure]
                lead = (one.failure - within[0]) * WINDOW if within else 0.0
                self.kinds.setdefault(one.kind, []).append(lead)


class Share(NamedTuple):
    """A number with the ends of its interval at 95 %."""

    value: float
    low: float
    high: float


def wilson(hits: float, total: int, z: float = 1.96) -> Share:
    """A share and its interval; of nothing, anything from 0 to 1. Source: Wilson 1927."""
    if total == 0:
        return Share(0.0, 0.0, 1.0)
    share, square = hits / total, z * z / total
    middle = (share + square / 2) / (1 + square)
    half = z * sqrt(share * (1 - share) / total + square / (4 * total)) / (1 + square)
    return Share(share, max(0.0, middle - half), min(1.0, middle + half))


def quantile(ordered: Sequence[float], share: float) -> Share:
    """A quantile; the ends are the values at the ends of Wilson's interval of its rank."""
    if not ordered:
        return Share(0.0, 0.0, 0.0)
    last = len(ordered) - 1
    ranks = wilson(share * len(ordered), len(ordered))
    return Share(*(ordered[min(last, int(rank * len(ordered)))] for rank in ranks))
