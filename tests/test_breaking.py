"""Circuit breakers of a running gateway: what its file says about them, what a caller sees, what the status tells."""

from __future__ import annotations

import json
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from tests.support.peers import free_port, running, wait_listening


def ask(url: str, body: Any = None) -> tuple[int, Any, Any]:
    """Status, headers and JSON body of one answer."""
    data = None if body is None else json.dumps(body).encode()
    try:
        with urllib.request.urlopen(urllib.request.Request(url, data), timeout=5) as answer:
            return answer.status, answer.headers, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, error.headers, json.load(error)


@pytest.mark.requirement(
    "config.gateway.circuit_breaker.failure_threshold",
    "config.gateway.circuit_breaker.timeout_seconds",
    "config.gateway.circuit_breaker.per_protocol",
)
def test_a_dead_server_is_given_up_after_the_configured_failures_and_tried_again_in_time(tmp_path: Path) -> None:
    port = free_port()
    dead = {"url": f"http://127.0.0.1:{free_port()}/mcp", "protocol": "http"}
    config = {
        "server": {"port": port},
        "metrics": {"endpoint": f"127.0.0.1:{free_port()}"},
        "circuit_breaker": {"failure_threshold": 3, "timeout_seconds": 3, "per_protocol": True},
        "auth": {"type": "none"},
        "servers": [{"name": "a", **dead}, {"name": "b", **dead}],
    }
    config["server"].update(
        {"tls": {"enabled": False}, "protocols": {"stdio": {"enabled": False}, "tcp_binary": {"enabled": False}}}
    )
    path = tmp_path / "gateway.yaml"
    path.write_text(json.dumps(config))
    base = f"http://127.0.0.1:{port}"

    def call(server: str) -> tuple[int, Any, Any]:
        params = {"name": f"{server}__x", "arguments": {}}
        return ask(f"{base}/api/v1/execute", {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params})

    with running([sys.executable, "-m", "mcpbridge", "gateway", "--config", str(path)]) as process:
        wait_listening(process, f"{base}/healthz")
        assert [call("a")[2]["error"]["code"] for _ in range(3)] == [1004] * 3
        opened = time.monotonic()
        status, headers, answer = call("b")
        assert (status, answer["error"]["code"], int(headers["retry-after"])) in [(503, 1011, wait) for wait in (2, 3)]
        assert answer["error"]["data"]["retry_after"] == int(headers["retry-after"])
        assert "all servers of protocol http failed 3 times in a row" in answer["error"]["message"]
        told: Any = None  # a status is up to a second old
        while told is None or any(b["breaker"] != "open" for b in told["backends"]):
            assert time.monotonic() - opened < 2.5, told
            told = ask(f"{base}/api/v1/status")[2]
        assert next(p for p in told["protocols"] if p["name"] == "http")["breaker"] == "open"
        while (code := call("a")[2]["error"]["code"]) == 1011:
            assert time.monotonic() - opened < 10
        assert code == 1004
        assert time.monotonic() - opened > 2.9
        told = {}
        while "half open" not in str(told):  # a status is up to a second old
            assert time.monotonic() - opened < 10, told
            told = ask(f"{base}/api/v1/status")[2]["events"]
        turns = [(e["level"], e["server"], e["message"].split(": ")[:2]) for e in told if e["event"] == "breaker_state"]
        for whose, server in (("a/0", "a"), ("http", None)):
            for state in ("open", "half open"):
                assert ("warn", server, [whose, f"breaker {state}"]) in turns, turns
