"""Metrics in the Prometheus text format 0.0.4; owns prometheus_client.

Only this format is offered, to clients that ask for OpenMetrics too: some series are gauges whose names end in ``_total``,
which OpenMetrics forbids. HELP and TYPE of every row of METRICS are always there; samples when something was measured.

Source: contract section 5 and http.gateway.metrics; prometheus.io "Exposition formats", text format.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import accumulate
from typing import TYPE_CHECKING

from mcpbridge.observe.metrics import HISTOGRAM_BOUNDS, METRICS, Metric, Reading, Readings, Role
from mcpbridge.observe.sketch import quantile

if TYPE_CHECKING:
    from prometheus_client import Metric as Family

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
QUANTILES = (0.5, 0.95, 0.99)


def expose(readings: Readings, role: Role | None = None) -> bytes:
    """The page of ``/metrics`` of one program; without ``role`` every row of the table is on it."""
    from prometheus_client import CollectorRegistry, generate_latest

    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Page(readings, role))
    return generate_latest(registry)


class _Page:
    """Readings as prometheus_client's collector."""

    def __init__(self, readings: Readings, role: Role | None) -> None:
        self._readings = readings
        self._rows = [row for row in METRICS.values() if role in (None, row.role)]

    def describe(self) -> list[Family]:
        return []  # else registering would collect once more

    def collect(self) -> Iterator[Family]:
        return (_family(row, self._readings.get(row.name, ())) for row in self._rows)


def _family(row: Metric, readings: Iterable[Reading]) -> Family:
    from prometheus_client import Metric as Family

    # The library puts `_total` behind a counter's name itself; a gauge keeps its name.
    family = Family(row.name.removesuffix("_total") if row.kind == "counter" else row.name, row.help, row.kind)
    for reading in readings:
        labels = dict(zip(row.labels, reading.labels, strict=True))
        if row.kind in ("counter", "gauge"):
            family.add_sample(row.name, labels, reading.value)
            continue
        if row.kind == "summary":
            for q in QUANTILES:
                value = quantile(reading.sketch, q)
                if value is not None:
                    family.add_sample(row.name, {**labels, "quantile": str(q)}, value)
            family.add_sample(f"{row.name}_sum", labels, reading.sum)
            family.add_sample(f"{row.name}_count", labels, reading.count)
            continue
        bounds = [*map(str, HISTOGRAM_BOUNDS), "+Inf"]
        for bound, count in zip(bounds, accumulate(reading.buckets), strict=True):
            family.add_sample(f"{row.name}_bucket", {**labels, "le": bound}, count)
        family.add_sample(f"{row.name}_sum", labels, reading.sum)
        family.add_sample(f"{row.name}_count", labels, reading.count)
    return family
