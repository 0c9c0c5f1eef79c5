"""The status document: its shape, and merging the pictures of several workers."""

from __future__ import annotations

import json

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcpbridge.observe.balancing import LoadBalancer, ProtocolShare
from mcpbridge.observe.pools import PoolStatus
from mcpbridge.observe.snapshot import (
    PROTOCOL_NAMES,
    BackendStatus,
    ConfigStatus,
    Event,
    Frontend,
    Latency,
    ProtocolStatus,
    Sessions,
    Snapshot,
    State,
    Tally,
    Tls,
    combine,
    decode,
    encode,
    json_schema,
    merge,
    tally,
    timestamp,
)

STATES: tuple[State, ...] = ("ok", "degraded", "down", "unknown", "disabled", "draining", "starting")


def protocol(name: str = "http", **changes: object) -> ProtocolStatus:
    base = ProtocolStatus(name=name, enabled=True, healthy=True, state="ok", frontend=Frontend(True, "127.0.0.1:8443", 3))
    return msgspec.structs.replace(base, **changes)


def backend(server: str = "weather", **changes: object) -> BackendStatus:
    base = BackendStatus(
        server=server, endpoint=f"{server}/0", protocol="http", state="ok", last_check="2026-11-23T13:00:00.000Z"
    )
    return msgspec.structs.replace(base, **changes)


def snapshot(**changes: object) -> Snapshot:
    base = Snapshot(
        role="gateway",
        sequence=7,
        time="2026-11-23T14:00:00.000Z",
        instance="gw-0",
        version="0.1.0",
        uptime_sec=60.0,
        status="ok",
        healthy=True,
        protocols=(protocol(),),
        backends=(backend(),),
        sessions=Sessions("memory", 2, True),
    )
    return msgspec.structs.replace(base, **changes)


def test_the_document_names_its_schema_and_comes_back_as_it_went():
    given = snapshot(reasons=("sse: no healthy backend",), tls=Tls("2027-02-11T00:00:00.000Z"))
    document = json.loads(encode(given))
    assert document["schema"] == "mcpbridge.status/v1"
    assert decode(encode(given)) == given


def test_unmeasured_values_are_null_and_parts_nobody_fills_are_absent():
    document = json.loads(encode(snapshot()))
    assert document["protocols"][0]["latency_ms"] == {"p50": None, "p95": None, "p99": None}
    assert document["protocols"][0]["requests_per_sec"] is None
    assert document["backends"][0]["health_score"] is None
    for later in ("load_balancer", "detection", "conversions", "discovery", "health_monitoring", "pools", "rate_limit"):
        assert later not in document


def test_the_parts_have_the_members_of_the_contract_example():
    document = json.loads(encode(snapshot()))
    assert set(document["protocols"][0]) == {
        *("name", "enabled", "healthy", "state", "reason", "frontend", "backends", "requests_per_sec", "error_rate"),
        *("latency_ms", "breaker", "last_check"),
    }
    assert set(document["backends"][0]) == {
        *("server", "namespace", "endpoint", "protocol", "address", "source", "state", "reason", "era", "version", "weight"),
        *(
            "in_flight",
            "connections",
            "breaker",
            "health_score",
            "consecutive_failures",
            "latency_ms",
            "error_rate",
            "last_check",
            "since",
        ),
    }
    assert set(document["sessions"]) == {"store", "active", "store_healthy"}
    assert set(document["config"]) == {"path", "loaded_at", "last_reload_ok"}


def test_a_newer_document_with_more_parts_still_decodes():
    document = json.loads(encode(snapshot()))
    document["weather"] = {"forecast": "fair"}
    assert decode(json.dumps(document).encode()) == snapshot()


def test_another_schema_is_refused():
    document = json.loads(encode(snapshot()))
    document["schema"] = "mcpbridge.status/v2"
    with pytest.raises(msgspec.ValidationError):
        decode(json.dumps(document).encode())


def test_500_backends_stay_below_one_mebibyte():
    many = tuple(
        backend(f"server-{i}", reason="connection refused", address="https://host.example:8443/mcp") for i in range(500)
    )
    assert len(encode(snapshot(backends=many, events=(Event("t" * 24, "info", "e", "m" * 200),) * 200))) < 1 << 20


def test_the_json_schema_covers_the_document():
    schema = json_schema()
    members = schema["$defs"]["Snapshot"]["properties"]
    lacking = {
        "detection",
        "conversions",
        "discovery",
        "health_monitoring",
        "load_balancer",
        "pools",
        "performance",
        "memory",
        "client",
        "pid",
    }  # may be absent
    assert set(members) == set(json.loads(encode(snapshot()))) | lacking


def test_timestamps_are_utc_with_milliseconds():
    assert timestamp(0.0) == "1970-01-01T00:00:00.000Z"
    assert timestamp(1795442400.5) == "2026-11-23T14:00:00.500Z"


def test_tally_counts_by_state_and_leaves_disabled_out():
    states: tuple[State, ...] = ("ok", "ok", "degraded", "down", "starting", "disabled")
    assert tally(backend(f"s{i}", state=state) for i, state in enumerate(states)) == Tally(5, 2, 1, 1, 1)


@pytest.mark.parametrize(
    ("seen", "expected"),
    [
        ((), "unknown"),
        (("ok", "ok"), "ok"),
        (("ok", "down"), "degraded"),
        (("ok", "unknown"), "ok"),
        (("down", "unknown"), "down"),
        (("disabled", "disabled"), "disabled"),
        (("disabled", "ok"), "ok"),
        (("ok", "starting"), "degraded"),
        (("draining", "down"), "down"),
        (("draining", "starting"), "draining"),
    ],
)
def test_states_of_several_workers_combine(seen, expected):
    assert combine(seen) == expected


@given(st.lists(st.sampled_from(STATES), min_size=1))
def test_combining_does_not_depend_on_the_order(states):
    assert combine(states) == combine(list(reversed(states)))


def test_merging_one_snapshot_changes_nothing_and_none_is_refused():
    assert merge([snapshot()]) == snapshot()
    with pytest.raises(ValueError, match="nothing"):
        merge([])


def test_counts_are_summed_and_times_are_the_latest():
    one = snapshot(sequence=7, config=ConfigStatus("/etc/x.yaml", "2026-11-23T10:00:00.000Z", True))
    two = snapshot(
        sequence=9,
        time="2026-11-23T14:00:01.000Z",
        uptime_sec=30.0,
        sessions=Sessions("memory", 5, False),
        config=ConfigStatus("/etc/x.yaml", "2026-11-23T11:00:00.000Z", False),
        tls=Tls("2027-02-11T00:00:00.000Z"),
    )
    merged = merge([one, two])
    assert (merged.sequence, merged.time, merged.uptime_sec) == (16, "2026-11-23T14:00:01.000Z", 60.0)
    assert merged.sessions == Sessions("memory", 7, False)
    assert merged.config == ConfigStatus("/etc/x.yaml", "2026-11-23T11:00:00.000Z", False)
    assert merged.tls.not_after == "2027-02-11T00:00:00.000Z"
    assert merged.protocols[0].frontend.connections == 6


def test_a_shared_session_store_is_counted_once():
    parts = [snapshot(sessions=Sessions("redis", 212, True)), snapshot(sessions=Sessions("redis", 211, True))]
    assert merge(parts).sessions.active == 212


def test_one_backend_of_two_workers_is_one_backend():
    one = snapshot(backends=(backend(in_flight=2, error_rate=0.1, latency_ms=Latency(1.0, 2.0, 3.0)),))
    two = snapshot(
        backends=(
            backend(
                state="down", reason="refused", in_flight=1, latency_ms=Latency(2.0), last_check="2026-11-23T13:00:05.000Z"
            ),
            backend("memory"),
        )
    )
    merged = merge([one, two])
    weather = merged.backends[0]
    assert [b.server for b in merged.backends] == ["weather", "memory"]
    assert (weather.state, weather.reason, weather.in_flight, weather.error_rate) == ("degraded", "refused", 3, 0.1)
    assert weather.latency_ms == Latency(2.0, 2.0, 3.0)
    assert merged.protocols[0].backends == Tally(2, 1, 1, 0, 0)


def test_error_rates_are_weighted_by_requests():
    one = snapshot(protocols=(protocol(requests_per_sec=9.0, error_rate=0.0),))
    two = snapshot(protocols=(protocol(requests_per_sec=1.0, error_rate=1.0),))
    merged = merge([one, two]).protocols[0]
    assert merged.requests_per_sec == 10.0
    assert merged.error_rate == pytest.approx(0.1)


def test_what_no_worker_measured_stays_unmeasured():
    merged = merge([snapshot(), snapshot()])
    assert merged.protocols[0].requests_per_sec is None
    assert merged.protocols[0].error_rate is None
    assert merged.backends[0].health_score is None


def test_protocols_keep_their_order_whoever_reports_them():
    merged = merge([snapshot(protocols=(protocol("sse"),)), snapshot(protocols=tuple(protocol(n) for n in PROTOCOL_NAMES))])
    assert [p.name for p in merged.protocols] == list(PROTOCOL_NAMES)


def test_the_event_ring_keeps_the_newest_200_in_order():
    odd = tuple(Event(timestamp(i), "info", "e", str(i)) for i in range(1, 300, 2))
    even = tuple(Event(timestamp(i), "info", "e", str(i)) for i in range(0, 300, 2))
    assert [e.message for e in merge([snapshot(events=odd), snapshot(events=even)]).events] == [str(i) for i in range(100, 300)]


def balancer(calls: dict[str, int], target: dict[str, float], **changes: object) -> LoadBalancer:
    total = sum(calls.values())
    shares = tuple(
        ProtocolShare(
            name,
            1.0,
            1.0,
            True,
            1,
            1,
            n,
            n,
            target[name] if total else None,
            n / total if total else None,
            Latency(n),
            0.5 * bool(n),
        )
        for name, n in calls.items()
    )
    base = LoadBalancer(
        healthy=True, strategy="weighted", endpoint_strategy="least_conn", health_aware=True, fallback_enabled=True,
        panic=False, since="2026-11-23T14:00:00.000Z",
        requests_total=total, eligible=2, total=2, protocols=shares, weights={}, defaults={},
        factors={}, endpoints={}, window_sec=300.0, requests_window=total, decisions_total=total,
        failovers_total=1, retries_total=1,
    )  # fmt: skip
    return msgspec.structs.replace(base, **changes)


def test_balancing_of_several_workers_adds_up_by_their_calls():
    target = {"http": 0.5, "stdio": 0.5}
    busy = balancer({"http": 60, "stdio": 20}, target, weights={"http": 2.0}, changed_at="2026-11-23T15:00:00.000Z")
    calm = balancer({"http": 0, "stdio": 20}, {"http": 0.0, "stdio": 1.0}, panic=True, panicking=("a",))
    idle = balancer({"http": 0, "stdio": 0}, target, failovers_total=0)
    merged = merge([snapshot(load_balancer=part) for part in (busy, calm, idle)] + [snapshot()]).load_balancer
    assert isinstance(merged, LoadBalancer)
    assert (merged.requests_total, merged.failovers_total, merged.panic, merged.panicking) == (100, 2, True, ("a",))
    assert merged.weights == {"http": 2.0}
    http, stdio = merged.protocols
    assert (http.actual_share, http.target_share, stdio.actual_share, stdio.target_share) == (0.6, 0.4, 0.4, 0.6)
    assert (merged.imbalance, http.latency_ms.p50, http.error_rate, http.requests_total) == (0.2, 60, 0.5, 60)
    assert decode(encode(snapshot(load_balancer=merged))).load_balancer == merged


def test_pools_of_several_workers_are_one_for_each_server_and_protocol():
    one = PoolStatus("a", "http", 3, 1, 2, 0, 100, 1, 3, 1, 0.75)
    pools = [(one,), (one, PoolStatus("b", "http", 1, 1, 0, 5, 10)), ()]
    merged = merge([snapshot(pools=part) for part in pools] + [snapshot()]).pools
    assert merged == (
        PoolStatus("a", "http", 6, 2, 4, 0, 200, 2, 6, 2, 0.75),
        PoolStatus("b", "http", 1, 1, 0, 5, 10),
    )
    assert "pools" not in json.loads(encode(merge([snapshot(), snapshot()])))
