"""Second tries at a running gateway: what goes to another backend after it may have run, what never does, and when."""

from __future__ import annotations

import json
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.support.peers import free_port, running, wait_listening

SERVER = """
import json, sys, time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

TOOLS = [{"name": "reads", "inputSchema": {"type": "object"}, "annotations": {"readOnlyHint": True}},
         {"name": "adds", "inputSchema": {"type": "object"}}]
FAULT = sys.argv[2]

class Answers(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        method = request["method"]
        if method == "tools/call":
            with open(sys.argv[3], "a") as file:
                file.write(request["params"]["name"] + "\\n")
            if FAULT == "breaks":
                self.close_connection = True
                return
        if method == "prompts/list" and FAULT == "hangs":
            time.sleep(30)
        result = {"resultType": "complete", "supportedVersions": ["2026-07-28"], "capabilities": {"tools": {}}, "ttlMs": 0,
                  "cacheScope": "private", "serverInfo": {"name": "s", "version": "1"}, "tools": TOOLS, "content": [],
                  "prompts": []}
        body = json.dumps({"jsonrpc": "2.0", "id": request.get("id"), "result": result}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass

server = ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Answers)
server.daemon_threads = True
server.serve_forever()
"""
Call = Callable[..., Any]


@contextmanager
def gateway(folder: Path, fault: str, **routing: Any) -> Iterator[Call]:
    """A gateway before two replicas, one of which has a fault; what calls a method there."""
    port = free_port()
    with ExitStack() as stack:
        (folder / "server.py").write_text(SERVER)
        endpoints = []
        for kind in (fault, "none"):
            at = free_port()
            stack.enter_context(running([sys.executable, str(folder / "server.py"), str(at), kind, str(folder / "calls")]))
            endpoints.append({"url": f"http://127.0.0.1:{at}/mcp", "protocol": "http"})
        config = {
            "server": {"port": port, "tls": {"enabled": False},
                       "protocols": {"stdio": {"enabled": False}, "tcp_binary": {"enabled": False}}},
            "metrics": {"endpoint": f"127.0.0.1:{free_port()}"},
            "auth": {"type": "none"},
            "circuit_breaker": {"failure_threshold": 1000},
            "routing": {"health_check_interval": "200ms", "strategy": "round_robin", **routing},
            "servers": [{"name": "s", "endpoints": endpoints}],
        }  # fmt: skip
        path = folder / "gateway.yaml"
        path.write_text(json.dumps(config))
        process = stack.enter_context(running([sys.executable, "-m", "mcpbridge", "gateway", "--config", str(path)]))
        base = f"http://127.0.0.1:{port}"
        wait_listening(process, f"{base}/healthz")

        def call(method: str, **params: Any) -> Any:
            body = json.dumps({"jsonrpc": "2.0", "id": 1, "method": method, "params": params}).encode()
            try:
                with urllib.request.urlopen(urllib.request.Request(f"{base}/api/v1/execute", body), timeout=20) as answer:
                    return json.load(answer)
            except urllib.error.HTTPError as error:
                return json.load(error)

        began = time.monotonic()
        while True:  # both have been seen to be well
            with urllib.request.urlopen(f"{base}/api/v1/status", timeout=5) as answer:
                if [one["state"] for one in json.load(answer)["backends"]] == ["ok", "ok"]:
                    break
            assert time.monotonic() - began < 15
        yield call


def test_a_read_only_tool_goes_on_at_another_backend_and_any_other_runs_once(tmp_path: Path) -> None:
    with gateway(tmp_path, "breaks") as call:
        assert "result" in call("tools/list")
        calls = tmp_path / "calls"
        assert all("result" in call("tools/call", name="reads", arguments={}) for _ in range(4))
        assert calls.read_text().count("reads") > 4  # some ran twice
        answers = [call("tools/call", name="adds", arguments={}) for _ in range(10)]
        assert calls.read_text().count("adds") == len(answers)
        assert [a["error"]["code"] for a in answers if "error" in a][:1] == [1006]


@pytest.mark.requirement("config.gateway.routing.attempt_timeout", "config.gateway.routing.max_attempts")
def test_a_list_that_does_not_come_is_asked_for_elsewhere_after_the_configured_time(tmp_path: Path) -> None:
    with gateway(tmp_path, "hangs", attempt_timeout="300ms") as call:
        began = time.monotonic()
        took = []
        for _ in range(4):
            began = time.monotonic()
            assert "result" in call("prompts/list")
            took.append(time.monotonic() - began)
        assert 0.3 < max(took) < 3
    with gateway(tmp_path, "hangs", attempt_timeout="300ms", max_attempts=1, request_timeout="2s") as call:
        answers = [call("prompts/list") for _ in range(2)]
        assert sorted(answer.get("error", {}).get("code", 0) for answer in answers) == [0, 1008]
