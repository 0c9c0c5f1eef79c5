"""Balancing at a running gateway: one server, replicas over different protocols, real calls."""

from __future__ import annotations

import json
import sys
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.interaction.cells import House, gateway_to
from tests.support.peers import free_port, running, wait_listening

DEMO = [sys.executable, "-m", "mcpbridge.demo.stdio"]


def ask(url: str, body: Any = None, *, method: str | None = None, **headers: str) -> tuple[int, Any]:
    """Status and JSON of one answer."""
    data = None if body is None else json.dumps(body).encode()
    given = {name.replace("_", "-"): value for name, value in headers.items()}
    try:
        with urllib.request.urlopen(urllib.request.Request(url, data, given, method=method), timeout=10) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


class Bench:
    """A gateway whose server has replicas over stdio, WebSocket and TCP; the last two are frontends of another gateway."""

    def __init__(self, base: str, behind: House) -> None:
        self.base = base
        self.behind = behind

    def call(self, **headers: str) -> tuple[int, Any]:
        params = {"name": "echo", "arguments": {"text": "x"}}
        body = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}
        return ask(f"{self.base}/api/v1/execute", body, **headers)

    def calls(self, n: int, **headers: str) -> Counter[str]:
        """Which protocol took each of ``n`` calls, all of which succeed."""
        used: Counter[str] = Counter()
        for _ in range(n):
            status, answer = self.call(**headers)
            assert status == 200 and "result" in answer, answer
            used[answer["protocol_used"]] += 1
        return used


@contextmanager
def bench(folder: Path, **sections: Any) -> Iterator[Bench]:
    with ExitStack() as stack:
        behind = stack.enter_context(gateway_to(" ".join(DEMO)))
        port = free_port()
        config = {
            "server": {
                "port": port,
                "tls": {"enabled": False},
                "protocols": {"stdio": {"enabled": False}, "tcp_binary": {"enabled": False}},
            },
            "metrics": {"endpoint": f"127.0.0.1:{free_port()}"},
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
        yield Bench(base, behind)


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
