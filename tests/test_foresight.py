"""Predictive health of a bridge: from attempts to scores, events, metrics and what the paths of the API tell."""

from __future__ import annotations

import json
import sys
import urllib.request
from collections.abc import AsyncIterator, Callable

import msgspec
import pytest

from mcpbridge.admin.views import body, redacted, views
from mcpbridge.balancing import Balance
from mcpbridge.bridge import Bridge
from mcpbridge.config.gateway import GatewayConfig
from mcpbridge.core.server import Backend
from mcpbridge.errors import BridgeError
from mcpbridge.foresight import Foresight
from mcpbridge.observe.metrics import Registry
from mcpbridge.observe.snapshot import ConfigStatus, Snapshot, merge
from mcpbridge.status import Status
from mcpbridge.stores.memory import MemoryStore
from mcpbridge.wire import message as m
from tests.support.peers import free_port, running, wait_listening
from tests.support.scripted import META, Scripted, add, exchange

ANOMALY = {
    "id", "opened_at", "closed_at", "server", "protocol", "severity", "signal", "score", "baseline", "value",
    "eta_sec", "outcome",
}  # fmt: skip


class World:
    """A bridge with one backend and a clock of the test."""

    def __init__(self, bridge: Bridge, enabled: bool) -> None:
        self.bridge = bridge
        self.server = add(bridge, Scripted())
        self.backend: Backend = self.server.backends[0]
        self.registry = Registry()
        self.status = Status(self.registry)
        backends: Callable[[], list[Backend]] = lambda: self.server.backends  # noqa: E731
        clock: Callable[[], float] = lambda: self.now  # noqa: E731
        self.now = 1_000_000.0
        self.foresight = Foresight(self.registry, backends, bridge.events.append, enabled=enabled, clock=clock)
        self.status.foresight = self.foresight

    def windows(self, count: int, seconds: float = 0.01, error: BridgeError | None = None) -> None:
        """So many windows of 20 calls each."""
        x = exchange(m.request(1, "tools/call", {"_meta": META}), self.server)
        for _ in range(count):
            for _ in range(20):
                self.status.attempted(self.backend, x, seconds, error)
            self.now += self.foresight.window
            self.foresight.tick(self.now)

    def checks(self, count: int, verdict: bool | None = True) -> None:
        """So many checks, one in two windows without a call."""
        for _ in range(count):
            self.idle(2)
            self.status.checked(self.backend, verdict)

    def idle(self, windows: int) -> None:
        for _ in range(windows):
            self.now += self.foresight.window
            self.foresight.tick(self.now)

    def snapshot(self) -> Snapshot:
        return self.status.snapshot(self.bridge, {}, store="memory", phase="serving", config=ConfigStatus(None, "", None))

    def get(self, path: str) -> dict:
        status, told = views()[f"/api/v1/health/{path}"].render(self.snapshot())
        assert status == 200
        return msgspec.json.decode(body(told))

    def series(self, name: str) -> dict[tuple[str, ...], float]:
        return {reading.labels: reading.value for reading in self.registry.collect().get(name, [])}


@pytest.fixture
async def world() -> AsyncIterator[World]:
    async with Bridge("gateway", MemoryStore(), None) as bridge:
        yield World(bridge, enabled=True)


@pytest.mark.requirement("metric.mcp_gateway_predictive_health_score")
async def test_a_score_is_absent_during_the_warm_up_then_one_and_falls_when_the_server_gets_worse(world):
    name, labels = "mcp_gateway_predictive_health_score", (world.backend.protocol, world.server.name)
    world.windows(30)
    assert world.series(name) == {}
    assert world.snapshot().backends[0].health_score is None
    world.windows(1)
    assert world.series(name) == {labels: 1.0}
    world.windows(8, seconds=0.05)
    assert world.series(name) == {labels: 0.1}
    assert world.snapshot().backends[0].health_score == world.backend.score == 0.1
    assert world.backend.is_eligible(0.0)  # a score never ejects
    world.windows(60)
    assert world.backend.score == 1.0


async def test_slowness_of_most_servers_at_once_is_nobodys_fault_but_one_that_is_slower_still_is_told(world):
    servers = [world.server, *(add(world.bridge, Scripted(), f"more-{number}") for number in range(8))]
    backends = [server.backends[0] for server in servers]
    foresight = Foresight(world.registry, lambda: backends, world.bridge.events.append)

    def windows(count: int, seconds: float, first: float) -> None:
        for _ in range(count):
            for backend in backends:
                for _ in range(20):
                    foresight.attempted(backend, first if backend is backends[0] else seconds, False)
            foresight.tick(world.now)

    windows(40, 0.01, 0.01)
    windows(20, 0.05, 0.05)
    assert foresight.predictions.open == 0
    windows(20, 0.05, 0.1)
    (found,) = foresight.predictions.kept
    assert found.endpoint == backends[0].name


@pytest.mark.requirement("http.gateway.health.anomalies", "metric.mcp_gateway_anomaly_detection_alerts_total")
async def test_an_anomaly_is_told_with_its_numbers_once(world):
    assert world.get("anomalies") == {"open": 0, "anomalies": []}
    world.windows(40)
    world.windows(10, seconds=0.02)
    told = world.get("anomalies")
    assert told["open"] == 1
    (found,) = told["anomalies"]
    assert set(found) == ANOMALY
    assert (found["server"], found["signal"], found["severity"], found["outcome"]) == (
        world.server.name, "latency", "warning", "open")  # fmt: skip
    assert found["baseline"] == pytest.approx(10, rel=0.05)
    assert found["value"] > 15
    alerts = world.series("mcp_gateway_anomaly_detection_alerts_total")
    assert alerts[world.backend.protocol, "warning"] == 1.0 == sum(alerts.values())
    (event,) = [event for event in world.bridge.events if event.event == "anomaly"]
    assert "usually 10.0 ms" in event.message


@pytest.mark.requirement("metric.mcp_gateway_health_prediction_accuracy", "http.gateway.health.prediction-accuracy")
async def test_accuracy_comes_from_what_happened(world):
    name = "mcp_gateway_health_prediction_accuracy"
    refused = BridgeError("connection_refused", "127.0.0.1:1", sent=False)
    world.windows(40)
    assert world.get("prediction-accuracy")["accuracy"] is None
    assert world.series(name) == {}
    world.windows(5, seconds=0.05)
    world.backend.failed(refused)
    world.windows(1)
    told = world.get("prediction-accuracy")
    assert told["predictions"] == {"closed": 1, "confirmed": 1, "false_alarm": 0, "open": 0}
    assert (told["accuracy"], told["precision"], told["recall"], told["missed_failures"]) == (1.0, 1.0, 1.0, 0)
    assert (told["model"], told["horizon_sec"]) == ("anomaly_detection", 600)
    assert world.series(name) == {("anomaly_detection",): 1.0}
    world.backend.succeeded()
    world.windows(60)
    world.windows(5, seconds=0.05)
    world.windows(130)
    assert world.get("prediction-accuracy")["accuracy"] == 0.5
    world.backend.failed(refused)
    world.windows(1)
    assert world.get("prediction-accuracy")["recall"] == 0.5


async def test_an_idle_server_that_answers_no_check_any_more_loses_work_before_it_is_down_and_gets_it_back(world):
    refused = BridgeError("timeout", "silent", sent=False)
    world.checks(10)
    assert world.backend.score == 1.0
    world.idle(5)
    assert world.backend.score == 0.1 == world.snapshot().backends[0].health_score
    (found,) = world.get("anomalies")["anomalies"]
    assert (found["signal"], found["severity"], found["baseline"], found["outcome"]) == ("silence", "critical", 10_000, "open")
    assert found["value"] > 15_000
    (event,) = [event for event in world.bridge.events if event.event == "anomaly"]
    assert "no check was answered for" in event.message and "usually every 10.0 s" in event.message
    world.status.checked(world.backend, False)
    world.idle(1)
    assert world.backend.score == 0.1
    world.backend.missed(refused)
    world.idle(1)
    assert world.get("prediction-accuracy")["predictions"]["confirmed"] == 1
    world.backend.succeeded()
    world.status.checked(world.backend, True)
    world.idle(1)
    assert world.backend.score == 1.0


async def test_silence_is_no_sign_where_calls_are_answered_or_nobody_asks(world):
    world.checks(10)
    world.windows(20)
    assert world.backend.score == 1.0
    world.checks(3)
    world.status.checked(world.backend, None)  # left alone: a child that nobody uses
    world.idle(50)
    assert world.backend.score == 1.0
    assert world.get("anomalies")["anomalies"] == []


async def test_what_ordinary_checks_find_is_told_beside_what_was_foreseen(world):
    assert world.get("prediction-accuracy")["traditional"] == {
        "checks_total": 0, "failures_total": 0, "median_detection_ms": None,
    }  # fmt: skip
    world.checks(3)
    world.checks(1, None)
    world.checks(1, False)
    world.backend.missed(BridgeError("connection_refused", "gone", sent=False))
    world.checks(2, False)
    told = world.get("prediction-accuracy")["traditional"]
    assert told == {"checks_total": 6, "failures_total": 3, "median_detection_ms": 30_000.0}, "from the last good check on"


@pytest.mark.requirement("http.gateway.health.ml-model", "config.gateway.health_monitoring.ml_model")
async def test_the_status_of_the_model_claims_no_learned_model(world):
    world.windows(31)
    assert world.get("ml-model/status") == {
        "model": "anomaly_detection",
        "method": "robust_cusum",
        "trained": False,
        "enabled": True,
        "window_ms": 5000.0,
        "warmed_up_endpoints": 1,
        "endpoints": 1,
        "parameters": {"k": 1.0, "h": 10.0, "level_gate": 1.5, "ticks": 2},
        "evaluated_windows": 31,
    }


async def test_an_endpoint_that_is_gone_is_forgotten(world):
    world.windows(40)
    world.windows(5, seconds=0.05)
    world.server.backends.clear()
    world.foresight.tick(world.now)
    assert world.get("ml-model/status")["endpoints"] == 0
    assert world.get("anomalies") == {"open": 0, "anomalies": []}


async def test_switched_off_nothing_is_noted(world):
    world.foresight.enabled = False
    world.windows(50, seconds=0.01)
    assert world.get("ml-model/status")["evaluated_windows"] == 0
    assert world.backend.score == 1.0


def test_it_is_on_unless_told_otherwise():
    assert GatewayConfig().health_monitoring.predictive_enabled is True
    assert GatewayConfig().health_monitoring.ml_model == "anomaly_detection"


async def test_the_part_survives_a_merge_and_hiding_addresses(world):
    world.windows(31)
    snapshot = world.snapshot()
    assert merge([snapshot, snapshot]).health_monitoring == snapshot.health_monitoring
    assert redacted(snapshot).health_monitoring == snapshot.health_monitoring


@pytest.mark.requirement("config.gateway.health_monitoring.predictive_enabled", "env.MCP_PREDICTIVE_HEALTH_MONITORING")
@pytest.mark.parametrize("enabled", [True, False])
def test_a_gateway_foresees_as_it_was_told_and_says_so_on_both_ports(tmp_path, enabled):
    port, management = free_port(), free_port()
    config = {
        "server": {"port": port, "tls": {"enabled": False}},
        "auth": {"type": "none"},
        "metrics": {"endpoint": f"127.0.0.1:{management}"},
        "health_monitoring": {"prediction_window": "2s"},
    }
    (tmp_path / "gateway.yaml").write_text(json.dumps(config))
    command = [sys.executable, "-m", "mcpbridge", "gateway", "--config", str(tmp_path / "gateway.yaml")]
    with running(command, MCP_PREDICTIVE_HEALTH_MONITORING=str(enabled).lower()) as process:
        wait_listening(process, f"http://127.0.0.1:{port}/healthz")
        for each in (port, management):

            def get(path: str, at: int = each) -> dict:
                with urllib.request.urlopen(f"http://127.0.0.1:{at}/api/v1/health/{path}", timeout=5) as answer:
                    return json.load(answer)

            model = get("ml-model/status")
            assert (model["enabled"], model["window_ms"], model["trained"]) == (enabled, 2000.0, False)
            assert get("anomalies") == {"open": 0, "anomalies": []}
            assert get("prediction-accuracy")["horizon_sec"] == 240.0, "120 windows"


@pytest.mark.requirement("config.gateway.server.health_checks.cross_protocol_lb.timeout")
@pytest.mark.parametrize(
    ("most", "seconds", "is_told"), [(10.0, 14.0, False), (10.0, 16.0, True), (30.0, 16.0, False), (None, 1e6, False)]
)
async def test_scores_that_nobody_looked_at_for_too_long_are_told(world, most, seconds, is_told):
    world.windows(1)
    world.status.balance = Balance(
        world.bridge.balancing,
        world.registry,
        world.bridge.servers.values,
        world.bridge.retries,
        world.bridge.events.append,
        lambda: None,
    )
    world.status.most_late = most
    world.now += seconds  # the next look was due after 5
    told = [reason for reason in world.snapshot().reasons if reason.startswith("load-balancer: scores of health are ")]
    assert bool(told) is is_told
