"""Balancing at a running gateway: one server, replicas over different protocols, real calls."""

from __future__ import annotations

import json
import sys
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.interaction.cells import House, gateway_to
from tests.support.peers import free_port, running, wait_listening

DEMO = [sys.executable, "-m", "mcpbridge.demo.stdio"]


def ask(url: str, body: Any = None, *, method: str | None = None, **headers: str) -> tuple[int, Any]:
    """Status and JSON of one answer."""
    data = body if isinstance(body, bytes) else None if body is None else json.dumps(body).encode()
    given = {name.replace("_", "-"): value for name, value in headers.items()}
    try:
        with urllib.request.urlopen(urllib.request.Request(url, data, given, method=method), timeout=10) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.load(error)


class Bench:
    """A gateway whose server has replicas over stdio, WebSocket and TCP; the last two are frontends of another gateway."""

    def __init__(self, base: str, management: str, behind: House) -> None:
        self.base = base
        self.management = management
        self.behind = behind

    def call(self, **headers: str) -> tuple[int, Any]:
        params = {"name": "echo", "arguments": {"text": "x"}}
        body = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}
        return ask(f"{self.base}/api/v1/execute", body, **headers)

    def metrics(self, name: str) -> dict[str, float]:
        """The samples of one series by their labels."""
        with urllib.request.urlopen(f"http://{self.management}/metrics", timeout=5) as answer:
            lines = answer.read().decode().splitlines()
        rows = (line.rpartition(" ") for line in lines if line.startswith((f"{name}{{", f"{name} ")))
        return {labels.removeprefix(name).strip("{}"): float(value) for labels, _, value in rows}

    def calls(self, n: int, **headers: str) -> Counter[str]:
        """Which protocol took each of ``n`` calls, all of which succeed."""
        used: Counter[str] = Counter()
        for _ in range(n):
            status, answer = self.call(**headers)
            assert status == 200 and "result" in answer, answer
            used[answer["protocol_used"]] += 1
        return used


@contextmanager
def bench(folder: Path, server: Mapping[str, Any] | None = None, **sections: Any) -> Iterator[Bench]:
    with ExitStack() as stack:
        behind = stack.enter_context(gateway_to(" ".join(DEMO)))
        port, management = free_port(), f"127.0.0.1:{free_port()}"
        config = {
            "server": {
                "port": port,
                "tls": {"enabled": False},
                "protocols": {"stdio": {"enabled": False}, "tcp_binary": {"enabled": False}},
                **(server or {}),
            },
            "metrics": {"endpoint": management},
            "auth": {"type": "none"},
            "servers": [
                {
                    "name": "s",
                    "endpoints": [
                        {"command": DEMO[0], "args": DEMO[1:]},
                        {"url": behind.addresses["websocket"]},
                        {"url": behind.addresses["tcp_binary"]},
                    ],
                }
            ],
            **sections,
        }
        path = folder / "gateway.yaml"
        path.write_text(json.dumps(config))
        process = stack.enter_context(running([sys.executable, "-m", "mcpbridge", "gateway", "--config", str(path)]))
        base = f"http://127.0.0.1:{port}"
        wait_listening(process, f"{base}/healthz")
        yield Bench(base, management, behind)


@pytest.mark.requirement("config.gateway.load_balancing.protocol_weights", "http.gateway.execute.distribution")
def test_calls_are_shared_by_weight_and_go_on_when_two_of_three_replicas_die(tmp_path: Path) -> None:
    weights = {"stdio": 2.0, "websocket": 1.0, "tcp_binary": 1.0}
    with bench(tmp_path, load_balancing={"protocol_weights": weights}) as one:
        one.calls(3)
        used = one.calls(40)
        assert set(used) == set(weights)
        assert used["stdio"] > used["websocket"] > 0 and abs(used["websocket"] - used["tcp_binary"]) <= 2, used
        one.behind.process.kill()
        one.behind.process.wait(10)
        assert one.calls(20) == {"stdio": 20}


@pytest.mark.requirement(
    "http.gateway.execute.load-balance", "http.gateway.execute.force-protocol", "config.gateway.load_balancing.strategy"
)
def test_a_call_may_ask_for_its_own_strategy(tmp_path: Path) -> None:
    with bench(tmp_path, load_balancing={"strategy": "priority"}) as one:
        assert one.calls(6) == {"stdio": 6}
        assert one.calls(9, X_Load_Balance="round-robin") == {"stdio": 3, "websocket": 3, "tcp_binary": 3}
        assert set(one.calls(12, X_Load_Balance="cross_protocol")) == {"stdio", "websocket", "tcp_binary"}
        assert one.calls(4, X_Load_Balance="round_robin", X_Force_Protocol="websocket") == {"websocket": 4}
        for wrong in ("priority", "fastest", ""):
            status, answer = one.call(X_Load_Balance=wrong)
            assert status == 400, answer
            assert "X-Load-Balance: one of cross_protocol" in answer["error"]["message"]
        counted = one.metrics("mcp_gateway_load_balancer_requests_total")
        assert counted['selected_protocol="websocket",strategy="round_robin"'] == 7.0
        assert counted['selected_protocol="stdio",strategy="priority"'] == 6.0


@pytest.mark.requirement("http.gateway.lb.weights", "http.gateway.lb.weights.put", "http.gateway.lb.reset")
def test_weights_change_at_run_time_and_bad_ones_change_nothing(tmp_path: Path) -> None:
    with bench(tmp_path) as one:
        api = f"{one.base}/api/v1/load-balancer"
        configured = ask(f"{api}/weights")[1]
        assert configured["weights"]["stdio"] == configured["defaults"]["stdio"] == 1.5
        only = {"stdio": 0, "websocket": 3, "tcp_binary": 0, "http": 0, "sse": 0}
        status, view = ask(f"{api}/weights", {"weights": only, "endpoints": {"s/0": 2.5}}, method="PUT")
        assert (status, view["weights"], view["endpoints"]["s/0"]) == (200, only, 2.5)
        assert (view["changed_by"], view["defaults"]) == ("local", configured["defaults"])
        assert one.calls(5) == {"websocket": 5}
        for body, reason in (
            ({"weights": {"http": -1}}, "http: 0 or a number from 1e-09 to 100 expected"),
            ({"weights": {"stdio": 7, "http": 101}}, "http: 0 or a number"),
            ({"weights": {"http": "NaN"}}, "http: 0 or a number"),
            ({"weights": {"http": None}}, "http: 0 or a number"),
            ({"weights": {"websocket": 0}}, "weight 0"),
            ({"weights": {"grpc": 1}}, "grpc: no protocol has this name"),
            ({"endpoints": {"s/7": 1}}, "s/7: no endpoint"),
            ({"endpoints": {"s/0": 0, "s/1": 0, "s/2": 0}}, "weight 0"),
            ({"weights": {"stdio": 7}, "endpoints": {"s/0": -1}}, "s/0: 0 or a number"),
            ({"weights": [1]}, "expected"),
            ({}, "expected"),
        ):
            status, answer = ask(f"{api}/weights", body, method="PUT")
            assert (status, reason in answer["error"]["message"]) == (400, True), answer
        for bad, reason in (
            (b'{"weights":{"http":NaN}}', "line 1 column 20"),
            (b'{"weights":{"http":1,"http":2}}', "duplicate key"),
            (b'{"weights":{"http":5e-324}}', "http: 0 or a number from 1e-09"),
            (b'{"weights":{"http":1},"endpoint":{"s/0":1}}', "endpoint: unknown member; possible are endpoints and weights"),
            (b'{"weights":{"%b":1}}' % (b"x" * 100_000), "xxx...: no protocol has this name; there are: stdio"),
        ):
            status, answer = ask(f"{api}/weights", bad, method="PUT")
            assert (status, reason in answer["error"]["message"]) == (400, True), answer
            assert len(answer["error"]["message"]) < 400
        assert ask(f"{api}/weights")[1] == view
        shown = one.metrics("mcp_gateway_protocol_weight")
        assert shown == {f'current_weight="{weight}",protocol="{name}"': float(weight) for name, weight in only.items()}
        status, answer = ask(f"{api}/reset", {})
        assert (answer["before"], answer["after"]) == (only, configured["weights"])
        assert set(one.calls(10)) == {"stdio", "websocket", "tcp_binary"}
        assert ask(f"{api}/weights")[1]["endpoints"]["s/0"] == 1.0


def test_a_server_whose_only_endpoint_is_a_last_resort_keeps_nobody_from_weighing_others(tmp_path: Path) -> None:
    servers = [
        {"name": name, "endpoints": [{"command": DEMO[0], "args": DEMO[1:], "weight": weight}]}
        for name, weight in (("s", 1), ("t", 0))
    ]
    with bench(tmp_path, servers=servers) as one:
        place = f"{one.base}/api/v1/load-balancer/weights"
        status, view = ask(place, {"endpoints": {"s/0": 2}}, method="PUT")
        assert (status, view.get("endpoints")) == (200, {"s/0": 2.0, "t/0": 0.0}), view
        status, answer = ask(place, {"endpoints": {"s/0": 0}}, method="PUT")
        assert (status, "all endpoints of server 's' would have weight 0" in answer["error"]["message"]) == (400, True), answer


@pytest.mark.requirement("http.gateway.lb.rebalance", "http.gateway.lb.performance", "http.gateway.lb.status")
def test_a_rebalance_takes_from_what_was_measured_slow(tmp_path: Path) -> None:
    with bench(tmp_path) as one:
        api = f"{one.base}/api/v1/load-balancer"
        status, answer = ask(f"{api}/rebalance", {})
        assert (status, answer["changed"]) == (200, False)
        assert answer["reason"].startswith("fewer than 20 calls in 300 s: ")
        assert one.calls(66, X_Load_Balance="round_robin") == {"stdio": 22, "websocket": 22, "tcp_binary": 22}
        status, answer = ask(f"{api}/rebalance", {})
        assert answer["changed"] and answer["reason"] == "measured", answer
        after, factors = answer["after"], ask(f"{api}/weights")[1]["factors"]
        for name, weight in after.items():
            assert 0.1 * answer["before"][name] <= weight <= answer["before"][name]
            assert weight == pytest.approx(
                answer["before"][name] * factors[name]["latency"] * factors[name]["errors"], abs=1e-3
            )
        assert max(factors[name]["latency"] for name in ("stdio", "websocket", "tcp_binary")) == 1.0
        told = ask(f"{api}/performance")[1]
        assert (told["decisions_total"], told["retries_total"]) == (66, 0)
        assert told["decision_us"]["p50"] > 0 and told["imbalance"] is not None
        shares = {part["protocol"]: part for part in ask(f"{api}/status")[1]["protocols"]}
        assert shares["stdio"]["actual_share"] == pytest.approx(1 / 3, abs=1e-4)
        assert sum(part["target_share"] for part in shares.values()) == pytest.approx(1.0, abs=1e-4)
        assert (shares["sse"]["requests_total"], shares["sse"]["eligible"], shares["sse"]["healthy"]) == (0, 0, False)


@pytest.mark.requirement(
    "http.gateway.health.load-balancer",
    "config.gateway.load_balancing.panic_threshold",
    "config.gateway.server.health_checks.cross_protocol_lb.enabled",
)
@pytest.mark.parametrize("is_part_of_health", [True, False])
def test_panic_is_told_while_too_few_are_up(tmp_path: Path, is_part_of_health: bool) -> None:
    health = {"health_checks": {"cross_protocol_lb": {"enabled": is_part_of_health}}}
    with bench(tmp_path, health, health_monitoring={"health_check_interval": "1s", "failure_threshold": 1}) as one:
        one.calls(6)
        assert ask(f"{one.base}/health/load-balancer")[1]["reasons"] == []
        one.behind.process.kill()
        one.behind.process.wait(10)
        ends, told = time.monotonic() + 15, {"panic": False}
        while not told["panic"] and time.monotonic() < ends:
            status, told = ask(f"{one.base}/health/load-balancer")
        assert (status, told["status"], told["eligible"], told["total"]) == (200, "degraded", 1, 3), told
        assert told["reasons"] == ["s: too few healthy backends, so all are used"]
        whole = ask(f"{one.base}/health")[1]
        assert ("load-balancer: s: too few healthy backends, so all are used" in whole["reasons"]) is is_part_of_health
        assert one.metrics("mcp_gateway_load_balancer_panic") == {"": 1.0}
        assert one.calls(10) == {"stdio": 10}  # what is sent to the dead goes on to the living
