"""Metrics: THE table of series, and the registry that holds their values.

    code -> registry.counter(name, **labels) -> handle.inc()       bound once, then a few hundred nanoseconds per call
    registry.collect(now) -> Readings  \\
    readings of another worker         > merge -> admin.prometheus

Label values come from closed sets or from the configuration, never from a request: a value outside a closed set counts as
``other``, and so does every new combination once a series has MAX_SERIES of them. The registry has no clock of its own choice
and knows no exposition format; what no code feeds has no row here.

Source: contract section 5; reliability section 2, row 30.
"""

from __future__ import annotations

import time
from bisect import bisect_left
from collections.abc import Callable, Iterable, Sequence
from itertools import permutations, product
from typing import Literal, NamedTuple

import msgspec

from mcpbridge.observe.sketch import Window, add_up
from mcpbridge.observe.snapshot import PROTOCOL_NAMES

Kind = Literal["counter", "gauge", "summary", "histogram"]
Role = Literal["gateway", "router"]
MAX_SERIES = 500
OTHER = "other"
HISTOGRAM_BOUNDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
"""Upper bounds in seconds; a last bucket takes the rest."""

STRATEGIES = ("cross_protocol", "protocol_specific", "least_conn", "round_robin", "weighted", "priority")
_METHODS = ("GET", "POST", "DELETE")
_STATES = ("active", "idle", "draining")
_RESULTS = ("success", "failure")
_HEALTH = ("healthy", "unhealthy")
_ENDS = ("success", "error", "timeout", "cancelled")
_SEVERITIES = ("warning", "critical")
_VERDICTS = ("success", "unknown", "refused", "unreachable")


class Metric(NamedTuple):
    """One series name. ``labels``: name -> closed set of values, or None for values of the configuration or a number.

    ``merge`` says what several workers make together. ``start``: label values that exist, with 0, before anything happened.
    """

    name: str
    kind: Kind
    labels: dict[str, tuple[str, ...] | None]
    help: str
    merge: Literal["sum", "max", "min"] = "sum"
    start: tuple[tuple[str, ...], ...] = ()

    @property
    def role(self) -> Role:
        """The program whose series it is."""
        return "router" if self.name.startswith("mcp_router_") else "gateway"


def _rows() -> Iterable[Metric]:
    yield Metric(
        "mcp_gateway_connections_total",
        "gauge",
        {"protocol": PROTOCOL_NAMES, "state": _STATES},
        "Open client connections.",
        start=tuple(product(PROTOCOL_NAMES, _STATES)),
    )
    yield Metric(
        "mcp_gateway_requests_total",
        "counter",
        {"method": _METHODS, "status": None, "protocol": PROTOCOL_NAMES},
        "Finished JSON-RPC requests by HTTP method, HTTP status and frontend protocol.",
    )
    yield Metric(
        "mcp_gateway_request_duration_seconds",
        "summary",
        {"protocol": PROTOCOL_NAMES},
        "Time from the arrival of a request to its answer, quantiles over five minutes.",
    )
    yield Metric(
        "mcp_gateway_request_duration_histogram_seconds",
        "histogram",
        {"protocol": PROTOCOL_NAMES},
        "Time from the arrival of a request to its answer, for sums over replicas.",
    )
    yield Metric(
        "mcp_gateway_load_balancer_requests_total",
        "counter",
        {"strategy": STRATEGIES, "selected_protocol": PROTOCOL_NAMES},
        "Backends chosen, retries included, by strategy and backend protocol.",
        start=tuple(product(STRATEGIES, PROTOCOL_NAMES)),
    )
    yield Metric(
        "mcp_gateway_load_balancer_latency_seconds",
        "summary",
        {"backend_protocol": PROTOCOL_NAMES},
        "Time of a call on the chosen backend, quantiles over five minutes.",
    )
    yield Metric(
        "mcp_gateway_load_balancer_panic",
        "gauge",
        {},
        "1 while so few backends of a server are healthy that its health is ignored.",
    )
    yield Metric(
        "mcp_gateway_protocol_weight",
        "gauge",
        {"protocol": PROTOCOL_NAMES, "current_weight": None},
        "Weight of a protocol in balancing: as configured or set, times what its health and measurements leave of it.",
        merge="max",
    )
    yield Metric(
        "mcp_gateway_protocol_conversion_total",
        "counter",
        {"from": PROTOCOL_NAMES, "to": PROTOCOL_NAMES, "result": _RESULTS},
        "Calls whose frontend and backend protocol differ.",
        start=tuple((*pair, result) for pair in permutations(PROTOCOL_NAMES, 2) for result in _RESULTS),
    )
    yield Metric(
        "mcp_gateway_protocol_conversion_duration_seconds",
        "summary",
        {"from": PROTOCOL_NAMES, "to": PROTOCOL_NAMES},
        "Time in which a call between two protocols was worked on here, without waiting, quantiles over five minutes.",
    )
    yield Metric(
        "mcp_gateway_protocol_up",
        "gauge",
        {"protocol": PROTOCOL_NAMES},
        "1 when the protocol is enabled and healthy.",
        merge="max",
    )
    yield Metric(
        "mcp_gateway_health_checks_total",
        "counter",
        {"protocol": PROTOCOL_NAMES, "result": _HEALTH},
        "Checks of backends that came to a verdict.",
        start=tuple(product(PROTOCOL_NAMES, _HEALTH)),
    )
    yield Metric(
        "mcp_gateway_outlier_ejections_total",
        "counter",
        {"protocol": PROTOCOL_NAMES},
        "Backends that were kept from new calls for a while because they failed much more than the others of their server.",
        start=tuple((name,) for name in PROTOCOL_NAMES),
    )
    yield Metric(
        "mcp_gateway_event_loop_lag_seconds",
        "gauge",
        {},
        "Longest time in the last second that the event loop came late to what was due.",
        merge="max",
    )
    yield Metric(
        "mcp_gateway_event_loop_blocks_total",
        "counter",
        {},
        "Times the event loop did not come round for a quarter of a second; the log has the stack.",
        start=((),),
    )
    yield Metric(
        "mcp_gateway_config_last_reload_successful",
        "gauge",
        {},
        "Whether the newest load of the configuration succeeded.",
        merge="min",
    )
    yield Metric(
        "mcp_gateway_tls_cert_not_after_seconds",
        "gauge",
        {},
        "End of validity of the loaded certificate, Unix time.",
        merge="min",
    )
    yield Metric(
        "mcp_gateway_predictive_health_score",
        "gauge",
        {"protocol": PROTOCOL_NAMES, "server": None},
        "1 as usual, down to 0.1 when the server gets worse; the lowest of its endpoints. Absent while its usual is unknown.",
        merge="min",
    )
    yield Metric(
        "mcp_gateway_anomaly_detection_alerts_total",
        "counter",
        {"protocol": PROTOCOL_NAMES, "severity": _SEVERITIES},
        "Anomalies that were opened.",
        start=tuple(product(PROTOCOL_NAMES, _SEVERITIES)),
    )
    yield Metric(
        "mcp_gateway_health_prediction_accuracy",
        "gauge",
        {"model": None},
        "Predictions confirmed by a failure within ten minutes, of all that were closed.",
        merge="min",
    )
    for role in ("gateway", "router"):
        yield from _detection(role)
    yield Metric(
        "mcp_router_direct_requests_total",
        "counter",
        {"protocol": PROTOCOL_NAMES, "result": _ENDS},
        "Calls on direct servers by their protocol and end.",
    )
    yield Metric(
        "mcp_router_direct_latency_seconds",
        "summary",
        {"protocol": PROTOCOL_NAMES},
        "Time of a call on a direct server, quantiles over five minutes.",
    )
    yield Metric(
        "mcp_router_gateway_latency_seconds", "summary", {}, "Time of a call on the gateway, quantiles over five minutes."
    )
    yield Metric(
        "mcp_router_connection_pool_size", "gauge", {"protocol": PROTOCOL_NAMES}, "Connections to servers, in use and idle."
    )
    yield Metric(
        "mcp_router_connection_pool_hits_total",
        "counter",
        {"protocol": PROTOCOL_NAMES},
        "Calls that found an open connection.",
        start=tuple((name,) for name in PROTOCOL_NAMES),
    )
    yield Metric(
        "mcp_router_connection_pool_misses_total",
        "counter",
        {"protocol": PROTOCOL_NAMES},
        "Calls that had to open a connection.",
        start=tuple((name,) for name in PROTOCOL_NAMES),
    )
    yield Metric(
        "mcp_router_connection_pool_efficiency",
        "gauge",
        {"protocol": PROTOCOL_NAMES},
        "Calls that found an open connection, of all calls since the start.",
        merge="min",
    )
    yield Metric(
        "mcp_router_direct_client_up",
        "gauge",
        {"server": None, "protocol": PROTOCOL_NAMES},
        "1 when the direct server answers.",
    )


def _detection(role: str) -> Iterable[Metric]:
    name = f"mcp_{role}_protocol_detection"
    protocols = (*PROTOCOL_NAMES, "none")
    yield Metric(
        f"{name}_total",
        "counter",
        {"protocol": protocols, "result": _VERDICTS},
        "Detections by the protocol found, none without a verdict.",
        start=tuple(("none" if verdict != "success" else protocol, verdict) for verdict in _VERDICTS
                    for protocol in (PROTOCOL_NAMES if verdict == "success" else PROTOCOL_NAMES[:1])),
    )  # fmt: skip
    yield Metric(
        f"{name}_accuracy",
        "gauge",
        {"protocol": PROTOCOL_NAMES},
        "Verdicts confirmed by a session within 30 s, of all that were used.",
        merge="min",
    )
    yield Metric(f"{name}_duration_seconds", "summary", {"protocol": protocols}, "Time of a detection that was not remembered.")
    yield Metric(f"{name}_cache_hits_total", "counter", {}, "Lookups that a remembered verdict answered.", start=((),))
    yield Metric(f"{name}_cache_misses_total", "counter", {}, "Lookups that needed a probe.", start=((),))


METRICS: dict[str, Metric] = {row.name: row for row in _rows()}


class Reading(msgspec.Struct, frozen=True):
    """The value of one label combination. Which members are set depends on the kind of its metric.

    ``value``: counter and gauge. ``count`` and ``sum`` since the start: summary and histogram. ``sketch``: buckets of the
    window of a summary. ``buckets``: counts per bound of a histogram, not cumulative, one more than HISTOGRAM_BOUNDS.
    """

    labels: tuple[str, ...]
    value: float = 0.0
    count: int = 0
    sum: float = 0.0
    sketch: dict[int, int] = {}
    buckets: tuple[int, ...] = ()


Readings = dict[str, list[Reading]]
"""Metric name -> readings: a plain value that travels between processes as JSON. Names without a reading are absent."""


class Counter:
    """Handle of one counter series."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value = 0.0

    def inc(self, amount: float = 1.0) -> None:
        self.value += amount

    def read(self, labels: tuple[str, ...], now: float) -> Reading:
        return Reading(labels, value=self.value)


class Gauge:
    """Handle of one gauge series."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value = 0.0

    def set(self, value: float) -> None:
        self.value = value

    def inc(self, amount: float = 1.0) -> None:
        self.value += amount

    def read(self, labels: tuple[str, ...], now: float) -> Reading:
        return Reading(labels, value=self.value)


class Summary:
    """Handle of one summary series; values in seconds."""

    __slots__ = ("_clock", "_window", "count", "sum")

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._window = Window()
        self.count = 0
        self.sum = 0.0

    def observe(self, value: float) -> None:
        self.count += 1
        self.sum += value
        self._window.add(value, self._clock())

    def read(self, labels: tuple[str, ...], now: float) -> Reading:
        return Reading(labels, count=self.count, sum=self.sum, sketch=self._window.buckets(now))


class Histogram:
    """Handle of one histogram series; values in seconds."""

    __slots__ = ("_counts", "sum")

    def __init__(self) -> None:
        self._counts = [0] * (len(HISTOGRAM_BOUNDS) + 1)
        self.sum = 0.0

    def observe(self, value: float) -> None:
        self.sum += value
        self._counts[bisect_left(HISTOGRAM_BOUNDS, value)] += 1

    def read(self, labels: tuple[str, ...], now: float) -> Reading:
        return Reading(labels, count=sum(self._counts), sum=self.sum, buckets=tuple(self._counts))


class Registry:
    """All values of one process. Get a handle once with ``counter``, ``gauge``, ``summary`` or ``histogram`` and keep it.

    ``clock`` gives seconds that never go back; of ``role`` are the series that start at 0. An unknown name or label is a
    mistake in the program: KeyError.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic, *, role: Role = "gateway") -> None:
        self.role = role
        self._clock = clock
        self._series: dict[str, dict[tuple[str, ...], Counter | Gauge | Summary | Histogram]] = {name: {} for name in METRICS}
        for row in METRICS.values():
            for values in row.start if row.role == role else ():
                self._handle(row.kind, row.name, dict(zip(row.labels, values, strict=True)))

    def counter(self, name: str, **labels: str) -> Counter:
        """The handle of one counter series. ``from`` and other reserved words: ``**{"from": ...}``."""
        handle = self._handle("counter", name, labels)
        assert isinstance(handle, Counter)
        return handle

    def gauge(self, name: str, **labels: str) -> Gauge:
        """The handle of one gauge series."""
        handle = self._handle("gauge", name, labels)
        assert isinstance(handle, Gauge)
        return handle

    def summary(self, name: str, **labels: str) -> Summary:
        """The handle of one summary series."""
        handle = self._handle("summary", name, labels)
        assert isinstance(handle, Summary)
        return handle

    def histogram(self, name: str, **labels: str) -> Histogram:
        """The handle of one histogram series."""
        handle = self._handle("histogram", name, labels)
        assert isinstance(handle, Histogram)
        return handle

    def inc(self, name: str, amount: float = 1.0, /, **labels: str) -> None:
        """Count without a kept handle: for rare events."""
        self.counter(name, **labels).inc(amount)

    def set(self, name: str, value: float, /, **labels: str) -> None:
        """Set a gauge without a kept handle."""
        self.gauge(name, **labels).set(value)

    def remove(self, name: str, /, **labels: str) -> None:
        """Forget one series, which is no longer true; a handle of it that somebody kept counts for nobody."""
        self._series[name].pop(tuple(labels[label] for label in METRICS[name].labels), None)

    def observe(self, name: str, value: float, /, **labels: str) -> None:
        """Observe seconds without a kept handle: for rare events."""
        self.summary(name, **labels).observe(value)

    def collect(self) -> Readings:
        """What was measured so far."""
        now = self._clock()
        return {
            name: [handle.read(labels, now) for labels, handle in series.items()]
            for name, series in self._series.items()
            if series
        }

    def _handle(self, kind: Kind, name: str, labels: dict[str, str]) -> Counter | Gauge | Summary | Histogram:
        row = METRICS[name]
        if row.kind != kind or labels.keys() != row.labels.keys():
            raise KeyError(f"{name} is a {row.kind} with the labels {', '.join(row.labels) or '(none)'}")
        values = tuple(_bounded(labels[label], closed) for label, closed in row.labels.items())
        series = self._series[name]
        handle = series.get(values)
        if handle is None:
            if len(series) >= MAX_SERIES:
                values = tuple(
                    OTHER if closed is None else value for value, closed in zip(values, row.labels.values(), strict=True)
                )
                handle = series.get(values)
            if handle is None:
                handle = series[values] = self._new(kind)
        return handle

    def _new(self, kind: Kind) -> Counter | Gauge | Summary | Histogram:
        if kind == "summary":
            return Summary(self._clock)
        return Histogram() if kind == "histogram" else Gauge() if kind == "gauge" else Counter()


def _bounded(value: str, closed: tuple[str, ...] | None) -> str:
    return value if closed is None or value in closed else OTHER


def merge(parts: Sequence[Readings]) -> Readings:
    """The readings of several workers as those of one program: counters add up, sketches too, gauges as their row says."""
    merged: Readings = {}
    for name, row in METRICS.items():
        by_labels: dict[tuple[str, ...], list[Reading]] = {}
        for part in parts:
            for reading in part.get(name, []):
                by_labels.setdefault(reading.labels, []).append(reading)
        if by_labels:
            merged[name] = [_merge(row, readings) for readings in by_labels.values()]
    return merged


def _merge(row: Metric, readings: list[Reading]) -> Reading:
    values = [reading.value for reading in readings]
    return Reading(
        readings[0].labels,
        value=sum(values) if row.merge == "sum" else max(values) if row.merge == "max" else min(values),
        count=sum(reading.count for reading in readings),
        sum=sum(reading.sum for reading in readings),
        sketch=add_up(reading.sketch for reading in readings),
        buckets=tuple(sum(column) for column in zip(*(reading.buckets for reading in readings), strict=True)),
    )
