"""The metrics page: complete, parseable, and without values nobody measured."""

from __future__ import annotations

import subprocess
import sys

import pytest
from prometheus_client.parser import text_string_to_metric_families

from mcpbridge.admin.prometheus import CONTENT_TYPE, expose
from mcpbridge.observe.metrics import HISTOGRAM_BOUNDS, METRICS, Registry


def samples(page: bytes) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(page.decode())
        for sample in family.samples
    }


def test_every_row_has_help_and_type_from_the_start():
    lines = expose(Registry().collect()).decode().splitlines()
    for row in METRICS.values():
        assert f"# HELP {row.name} {row.help}" in lines
        assert f"# TYPE {row.name} {row.kind}" in lines
    assert CONTENT_TYPE.startswith("text/plain; version=0.0.4")


def test_nothing_is_invented_before_the_first_request():
    page = expose(Registry().collect())
    names = {name for name, _ in samples(page)}
    assert names == {
        "mcp_gateway_anomaly_detection_alerts_total",
        "mcp_gateway_connections_total",
        "mcp_gateway_event_loop_blocks_total",
        "mcp_gateway_health_checks_total",
        "mcp_gateway_outlier_ejections_total",
        "mcp_gateway_load_balancer_requests_total",
        "mcp_gateway_protocol_conversion_total",
        "mcp_gateway_protocol_detection_cache_hits_total",
        "mcp_gateway_protocol_detection_cache_misses_total",
        "mcp_gateway_protocol_detection_total",
    }
    assert set(samples(page).values()) == {0.0}
    assert b"_created" not in page and b"NaN" not in page


@pytest.mark.requirement("http.router.metrics", "metric.relabel")
def test_each_program_has_its_own_series_only():
    for role, other in (("router", "gateway"), ("gateway", "router")):
        page = expose(Registry(role=role).collect(), role).decode()
        assert f"mcp_{role}_protocol_detection_total" in page and f"mcp_{other}_" not in page


def test_the_lines_are_exactly_those_of_the_format():
    registry = Registry(lambda: 0.0)
    registry.inc("mcp_gateway_requests_total", 3, method="POST", status="200", protocol="http")
    page = expose(registry.collect()).decode()
    assert 'mcp_gateway_requests_total{method="POST",protocol="http",status="200"} 3.0' in page
    assert "\nmcp_gateway_requests_total_total" not in page
    assert page.endswith("\n")


def test_a_summary_shows_three_quantiles_sum_and_count():
    registry = Registry(lambda: 0.0)
    summary = registry.summary("mcp_gateway_request_duration_seconds", protocol="websocket")
    for millis in range(1, 101):
        summary.observe(millis / 1000)
    found = samples(expose(registry.collect()))
    name, labels = "mcp_gateway_request_duration_seconds", ("protocol", "websocket")
    for q, expected in (("0.5", 0.050), ("0.95", 0.095), ("0.99", 0.099)):
        assert found[name, (labels, ("quantile", q))] == pytest.approx(expected, rel=0.02)
    assert found[f"{name}_count", (labels,)] == 100
    assert found[f"{name}_sum", (labels,)] == pytest.approx(5.05)


def test_quantiles_vanish_when_the_window_is_empty_but_the_totals_stay():
    now = [0.0]
    registry = Registry(lambda: now[0])
    registry.observe("mcp_gateway_request_duration_seconds", 0.1, protocol="http")
    now[0] = 1000.0
    page = expose(registry.collect()).decode()
    assert "quantile=" not in page
    assert 'mcp_gateway_request_duration_seconds_count{protocol="http"} 1.0' in page


def test_histogram_buckets_are_cumulative_and_end_at_infinity():
    registry = Registry()
    histogram = registry.histogram("mcp_gateway_request_duration_histogram_seconds", protocol="http")
    for value in (0.0001, 0.3, 99.0):
        histogram.observe(value)
    found = samples(expose(registry.collect()))
    name = "mcp_gateway_request_duration_histogram_seconds_bucket"
    counts = [found[name, (("le", str(bound)), ("protocol", "http"))] for bound in HISTOGRAM_BOUNDS]
    assert counts == sorted(counts) and counts[0] == 1 and counts[-1] == 2
    assert found[name, (("le", "+Inf"), ("protocol", "http"))] == 3


def test_reserved_words_are_labels_like_any_other():
    registry = Registry()
    registry.inc("mcp_gateway_protocol_conversion_total", **{"from": "http", "to": "stdio", "result": "success"})
    key = (("from", "http"), ("result", "success"), ("to", "stdio"))
    assert samples(expose(registry.collect()))["mcp_gateway_protocol_conversion_total", key] == 1.0


def test_importing_the_module_does_not_import_the_library():
    code = "import sys, mcpbridge.admin.prometheus; sys.exit('prometheus_client' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=20, check=False).returncode == 0
