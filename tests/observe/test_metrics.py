"""The registry of metrics: values, bounds on label values, merging of workers."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcpbridge.observe.metrics import HISTOGRAM_BOUNDS, MAX_SERIES, METRICS, Metric, Reading, Readings, Registry, merge
from mcpbridge.observe.sketch import quantile

REQUESTS = "mcp_gateway_requests_total"
DURATION = "mcp_gateway_request_duration_seconds"
HISTOGRAM = "mcp_gateway_request_duration_histogram_seconds"


def only(readings: Readings, name: str) -> Reading:
    (reading,) = readings[name]
    return reading


def test_a_counter_counts_per_label_combination():
    registry = Registry()
    handle = registry.counter(REQUESTS, method="POST", status="200", protocol="http")
    handle.inc()
    handle.inc(2)
    registry.inc(REQUESTS, method="POST", status="401", protocol="http")
    values = {reading.labels: reading.value for reading in registry.collect()[REQUESTS]}
    assert values == {("POST", "200", "http"): 3.0, ("POST", "401", "http"): 1.0}


def test_a_bound_handle_is_the_same_series_as_a_call_by_name():
    registry = Registry()
    one = registry.counter(REQUESTS, method="GET", status="200", protocol="http")
    assert registry.counter(REQUESTS, protocol="http", status="200", method="GET") is one


def test_a_gauge_holds_the_last_value():
    registry = Registry()
    registry.set("mcp_gateway_protocol_up", 1, protocol="http")
    registry.set("mcp_gateway_protocol_up", 0, protocol="http")
    assert only(registry.collect(), "mcp_gateway_protocol_up") == Reading(("http",), value=0.0)


def test_a_summary_keeps_count_and_sum_and_forgets_its_sketch():
    now = [0.0]
    registry = Registry(lambda: now[0])
    registry.observe(DURATION, 0.25, protocol="http")
    reading = only(registry.collect(), DURATION)
    assert (reading.count, reading.sum) == (1, 0.25)
    assert quantile(reading.sketch, 0.5) == pytest.approx(0.25, rel=0.01)
    now[0] = 301.0
    reading = only(registry.collect(), DURATION)
    assert (reading.count, reading.sum, reading.sketch) == (1, 0.25, {})


def test_a_histogram_counts_a_bound_into_its_own_bucket():
    registry = Registry()
    handle = registry.histogram(HISTOGRAM, protocol="sse")
    for value in (0.0005, 0.0006, 30.0, 31.0):
        handle.observe(value)
    reading = only(registry.collect(), HISTOGRAM)
    assert len(reading.buckets) == len(HISTOGRAM_BOUNDS) + 1
    assert (reading.buckets[0], reading.buckets[1], reading.buckets[-2], reading.buckets[-1]) == (1, 1, 1, 1)
    assert reading.count == 4


def test_closed_counters_start_at_zero_and_everything_else_is_absent():
    readings = Registry().collect()
    assert {reading.labels: reading.value for reading in readings["mcp_gateway_connections_total"]}[("sse", "idle")] == 0.0
    assert len(readings["mcp_gateway_connections_total"]) == 15
    assert len(readings["mcp_gateway_protocol_conversion_total"]) == 5 * 4 * 2
    for absent in (REQUESTS, DURATION, HISTOGRAM, "mcp_gateway_protocol_up", "mcp_gateway_tls_cert_not_after_seconds"):
        assert absent not in readings


def test_unknown_names_and_labels_are_mistakes_of_the_program():
    registry = Registry()
    with pytest.raises(KeyError):
        registry.inc("mcp_gateway_surprises_total")
    with pytest.raises(KeyError):
        registry.inc(REQUESTS, method="POST", status="200")
    with pytest.raises(KeyError):
        registry.gauge(REQUESTS, method="POST", status="200", protocol="http")


def test_a_hundred_thousand_distinct_values_do_not_make_more_series():
    registry = Registry()
    for i in range(100_000):
        registry.inc(REQUESTS, method=f"M{i}", status=str(i), protocol=f"p{i}")
    readings = registry.collect()[REQUESTS]
    assert len(readings) <= MAX_SERIES + 1
    assert sum(reading.value for reading in readings) == 100_000
    assert ("other", "other", "other") in {reading.labels for reading in readings}


def test_every_row_says_what_it_is():
    for name, row in METRICS.items():
        assert isinstance(row, Metric)
        assert name == row.name and name.startswith(("mcp_gateway_", "mcp_router_")) and row.help.endswith(".")
        for values in row.start:
            assert len(values) == len(row.labels)
            assert all(closed and value in closed for value, closed in zip(values, row.labels.values(), strict=True))


def test_readings_travel_as_json():
    registry = Registry()
    registry.observe(DURATION, 0.1, protocol="http")
    registry.histogram(HISTOGRAM, protocol="http").observe(0.1)
    readings = registry.collect()
    assert msgspec.json.decode(msgspec.json.encode(readings), type=Readings) == readings


def test_counters_add_up_and_gauges_follow_their_row():
    parts = []
    for not_after, up in ((2000.0, 0.0), (1000.0, 1.0)):
        registry = Registry()
        registry.inc(REQUESTS, 3, method="POST", status="200", protocol="http")
        registry.set("mcp_gateway_connections_total", 2, protocol="http", state="idle")
        registry.set("mcp_gateway_protocol_up", up, protocol="http")
        registry.set("mcp_gateway_tls_cert_not_after_seconds", not_after)
        parts.append(registry.collect())
    merged = merge(parts)
    assert only(merged, REQUESTS).value == 6.0
    assert {r.labels: r.value for r in merged["mcp_gateway_connections_total"]}[("http", "idle")] == 4.0
    assert only(merged, "mcp_gateway_protocol_up").value == 1.0
    assert only(merged, "mcp_gateway_tls_cert_not_after_seconds").value == 1000.0


values = st.lists(st.floats(1e-6, 1e3), max_size=30)


@given(values, values)
def test_two_workers_read_like_one_that_saw_everything(one, two):
    def readings(*parts: list[float]) -> Readings:
        registry = Registry(lambda: 0.0)
        summary, histogram = registry.summary(DURATION, protocol="http"), registry.histogram(HISTOGRAM, protocol="http")
        for part in parts:
            for value in part:
                summary.observe(value)
                histogram.observe(value)
        return registry.collect()

    merged, whole = merge([readings(one), readings(two)]), readings(one, two)
    for name in (DURATION, HISTOGRAM):
        left, right = only(merged, name), only(whole, name)
        assert (left.count, left.sketch, left.buckets) == (right.count, right.sketch, right.buckets)
        assert left.sum == pytest.approx(right.sum)


def test_a_series_only_one_worker_has_is_kept():
    one = Registry()
    one.inc(REQUESTS, method="POST", status="200", protocol="http")
    assert only(merge([one.collect(), Registry().collect()]), REQUESTS).value == 1.0
