"""Views: health and status paths as functions of one Snapshot, and what a stranger may see of it."""

from __future__ import annotations

import json
from typing import Any

import pytest
from msgspec.structs import replace

from mcpbridge.admin.views import body, redacted, views
from mcpbridge.observe.findings import Discovered, DiscoverySource
from mcpbridge.observe.snapshot import (
    PROTOCOL_NAMES,
    BackendStatus,
    ConfigStatus,
    Event,
    Frontend,
    ProtocolStatus,
    Sessions,
    Snapshot,
    encode,
    tally,
)

BACKENDS = (
    BackendStatus("files", "files/0", "stdio", "ok", address="npx -y server-filesystem /home/alice"),
    BackendStatus(
        "remote", "remote/0", "http", "down", address="http://10.1.2.3:8080/mcp", reason="connection refused: 10.1.2.3:8080"
    ),
    BackendStatus("odd", "odd/0", "stdio", "down", reason="it printed /root/.ssh/id_rsa"),
    BackendStatus("slow", "slow/0", "http", "degraded"),
    BackendStatus("off", "off/0", "http", "disabled"),
)
SNAPSHOT = Snapshot(
    role="gateway",
    sequence=7,
    time="2026-11-23T14:00:00.000Z",
    instance="gw-0",
    version="0.1.0",
    uptime_sec=60.0,
    status="degraded",
    healthy=True,
    protocols=(
        ProtocolStatus("http", True, True, "ok", Frontend(True, "http://127.0.0.1:8443", 3), backends=tally(BACKENDS[3:4])),
        ProtocolStatus("stdio", True, False, "down", Frontend(False), reason="cannot listen on /tmp/mcp-gateway.sock"),
    ),
    backends=BACKENDS,
    sessions=Sessions("memory", 2, True),
    reasons=("remote: connection refused (http://10.1.2.3:8080/mcp)", "stdio: no healthy backend"),
    config=ConfigStatus("/home/alice/gateway.yaml", "2026-11-23T13:00:00.000Z", None),
    events=(Event("2026-11-23T13:59:00.000Z", "warn", "backend_down", "10.1.2.3 refused alice", "http", "remote"),),
)


def view(path: str, snapshot: Snapshot = SNAPSHOT) -> tuple[int, Any]:
    status, value = views()[path].render(snapshot)
    return status, json.loads(body(value))


def test_bodies_are_one_object_with_a_trailing_newline():
    for row in views().values():
        content = body(row.render(SNAPSHOT)[1])
        assert content.endswith(b"}\n") and content.count(b"\n") == 1


@pytest.mark.requirement("http.gateway.health")
def test_health_is_the_short_form():
    status, value = view("/health")
    assert status == 200
    assert value == {
        "status": "degraded",
        "healthy": True,
        "time": "2026-11-23T14:00:00.000Z",
        "version": "0.1.0",
        "uptime_sec": 60.0,
        "protocols": {"stdio": "down", "websocket": "disabled", "http": "ok", "sse": "disabled", "tcp_binary": "disabled"},
        "backends": {"total": 4, "healthy": 2},
        "session_store": {"type": "memory", "healthy": True},
        "reasons": list(SNAPSHOT.reasons),
    }


@pytest.mark.requirement("http.common.health-status", "http.gateway.healthz", "http.gateway.readyz")
@pytest.mark.parametrize(
    ("state", "health", "ready", "alive"),
    [
        ("ok", 200, 200, 200),
        ("degraded", 200, 200, 200),
        ("down", 503, 200, 200),
        ("starting", 503, 503, 200),
        ("draining", 503, 503, 200),
    ],
)
def test_the_http_status_follows_the_state(state, health, ready, alive):
    snapshot = replace(SNAPSHOT, status=state, healthy=state in ("ok", "degraded"))
    assert view("/health", snapshot)[0] == health
    assert view("/healthz", snapshot) == (alive, {"alive": True})
    status, value = view("/readyz", snapshot)
    assert (status, value["ready"]) == (ready, ready == 200)
    assert bool(value["reasons"]) is (ready == 503)
    assert view("/ready", snapshot) == (status, value)


@pytest.mark.requirement("http.gateway.readyz")
def test_zero_backends_are_ready():
    assert view("/readyz", replace(SNAPSHOT, backends=(), status="ok"))[0] == 200


@pytest.mark.requirement("http.gateway.health.protocols")
def test_the_protocol_list_always_has_five_entries_in_order():
    status, value = view("/health/protocols")
    assert [part["name"] for part in value["protocols"]] == list(PROTOCOL_NAMES)
    assert all(isinstance(part["healthy"], bool) for part in value["protocols"])
    assert (status, value["status"], value["healthy"]) == (200, "degraded", False)


@pytest.mark.requirement("http.gateway.health.protocols")
@pytest.mark.parametrize(
    ("states", "expected"),
    [((True, True), (200, "ok", True)), ((True, False), (200, "degraded", False)), ((False, False), (503, "down", False))],
)
def test_the_protocol_list_is_down_only_when_every_enabled_one_is(states, expected):
    parts = tuple(
        replace(part, healthy=healthy, state="ok" if healthy else "down")
        for part, healthy in zip(SNAPSHOT.protocols, states, strict=True)
    )
    status, value = view("/health/protocols", replace(SNAPSHOT, protocols=parts))
    assert (status, value["status"], value["healthy"]) == expected


def test_no_enabled_protocol_at_all_is_down():
    assert view("/health/protocols", replace(SNAPSHOT, protocols=()))[0] == 503


@pytest.mark.requirement(
    "http.gateway.health.stdio",
    "http.gateway.health.websocket",
    "http.gateway.health.http",
    "http.gateway.health.sse",
    "http.gateway.health.tcp_binary",
)
@pytest.mark.parametrize("name", PROTOCOL_NAMES)
def test_each_protocol_has_a_path_with_its_object_and_the_time(name):
    status, value = view(f"/health/{name}")
    listed = next(part for part in view("/health/protocols")[1]["protocols"] if part["name"] == name)
    assert value == {**listed, "time": SNAPSHOT.time}
    assert status == (503 if name == "stdio" else 200)


def test_a_disabled_protocol_is_not_an_error():
    status, value = view("/health/sse")
    assert (status, value["enabled"], value["healthy"], value["state"]) == (200, False, False, "disabled")


@pytest.mark.requirement("http.gateway.health.ws")
def test_ws_is_another_name_of_websocket():
    assert view("/health/ws") == view("/health/websocket")


def test_the_status_is_the_snapshot_itself_and_moves_with_the_prefix():
    assert view("/api/v1/status") == (200, json.loads(encode(SNAPSHOT)))
    assert "/bridge/status" in views("/bridge") and "/api/v1/status" not in views("/bridge")


def test_only_the_three_probes_are_open_whatever_is_configured():
    assert {path for path, row in views().items() if row.is_open} == {"/health", "/healthz", "/readyz", "/ready"}


def test_a_stranger_sees_states_and_numbers_but_no_place():
    document = encode(redacted(SNAPSHOT)).decode()
    for secret in ("10.1.2.3", "/home", "alice", "npx", "/tmp", ".ssh", "127.0.0.1", "8443", "gateway.yaml", "8080"):
        assert secret not in document
    seen = redacted(SNAPSHOT)
    assert [b.address for b in seen.backends] == [None] * 5
    assert [b.reason for b in seen.backends] == [None, "connection refused", None, None, None]
    assert [b.state for b in seen.backends] == [b.state for b in SNAPSHOT.backends]
    assert seen.reasons[1] == "stdio: no healthy backend"
    assert seen.reasons[0].startswith("remote: connection refused")
    assert seen.events[0].message == "backend_down"
    assert seen.sequence == SNAPSHOT.sequence


@pytest.mark.requirement("http.gateway.health.discovery")
def test_discovery_is_down_only_without_any_provider_and_a_stranger_reads_no_fault():
    cluster = DiscoverySource("kubernetes", True, True, "degraded", 2, "2026-11-23T13:00:00.000Z", "left out: a/b: port", 7.5)
    found = Discovered("degraded", True, 30_000.0, (cluster,))
    status, value = view("/health/discovery", replace(SNAPSHOT, discovery=found))
    assert (status, value["status"], value["healthy"], value["refresh_rate_ms"]) == (200, "degraded", True, 30_000.0)
    assert value["providers"] == [
        {
            "name": "kubernetes", "enabled": True, "healthy": True, "state": "degraded", "endpoints": 2,
            "last_success": "2026-11-23T13:00:00.000Z", "last_error": "left out: a/b: port", "age_ms": 7.5,
        }
    ]  # fmt: skip
    assert view("/health/discovery", replace(SNAPSHOT, discovery=replace(found, status="down", healthy=False)))[0] == 503
    assert view("/health/discovery")[0] == 404
    shown = redacted(replace(SNAPSHOT, discovery=found)).discovery
    assert shown.providers[0].last_error == "[hidden]" and shown.providers[0].endpoints == 2


def test_the_views_of_a_stranger_agree_with_the_full_ones_in_every_shared_number():
    full, short = view("/health"), view("/health", redacted(SNAPSHOT))
    assert full[0] == short[0]
    assert {k: v for k, v in full[1].items() if k != "reasons"} == {k: v for k, v in short[1].items() if k != "reasons"}


def test_a_stranger_does_not_read_what_a_failed_server_said():
    said = "server exited: server 'odd': odd: exit status 3; stderr: cannot log in as alice with hunter2"
    stdio = replace(SNAPSHOT.protocols[1], reason=f"odd: {said}")
    seen = redacted(replace(SNAPSHOT, protocols=(stdio,), reasons=(f"stdio: odd: {said}", "sse: no healthy backend")))
    assert seen.protocols[0].reason == "odd: server exited"
    assert seen.reasons == ("stdio: odd: server exited", "sse: no healthy backend")
