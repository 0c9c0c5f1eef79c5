"""Canary secrets go into every way in; none comes out of a log, a metric, a status or an error (OWASP MCP01)."""

from __future__ import annotations

import json
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from tests.support.peers import free_port, wait_listening

pytestmark = pytest.mark.security

TOKEN = "canary-token-0123456789abcdef0123456789"
WRONG = "canary-wrong-0123456789abcdef0123456789"
CHILD = "canary-child-0123456789abcdef0123456789"
COOKIE = "canary-cookie-0123456789abcdef01234567"
JWT_KEY = "canary-jwtkey-Zq8xW2vN5mL7kP9rT4yB6cD1"
LEAKY = """
import json, os, sys
print("Authorization: Bearer " + os.environ["API_TOKEN"], file=sys.stderr, flush=True)
for line in sys.stdin:
    request = json.loads(line)
    if "id" in request:
        error = {"code": -32603, "message": "no"}
        print(json.dumps({"jsonrpc": "2.0", "id": request["id"], "error": error}), flush=True)
"""


def ask(url: str, body: Any = None, **headers: str) -> bytes:
    """Status line, headers and body of one answer, whatever its status."""
    data = None if body is None else json.dumps(body).encode()
    given = {"Content-Type": "application/json", "Accept": "application/json, text/event-stream", **headers}
    try:
        with urllib.request.urlopen(urllib.request.Request(url, data, given), timeout=5) as answer:
            return f"{answer.status} {answer.headers}".encode() + answer.read()
    except urllib.error.HTTPError as error:
        return f"{error.code} {error.headers}".encode() + error.read()


@pytest.mark.requirement("log.secrets")
def test_no_secret_comes_out_of_logs_metrics_status_or_errors(tmp_path: Path) -> None:
    (tmp_path / "leaky.py").write_text(LEAKY)
    port, management = free_port(), free_port()
    config = {
        "server": {
            "port": port,
            "tls": {"enabled": False},
            "protocols": {"stdio": {"enabled": False}, "tcp_binary": {"enabled": False}},
        },
        "metrics": {"endpoint": f"127.0.0.1:{management}"},
        "logging": {"level": "trace"},
        "auth": {"type": "bearer", "static_tokens": [{"name": "ci", "token": TOKEN}], "jwt": {"secret": JWT_KEY}},
        "servers": [
            {"name": "leaky", "command": sys.executable, "args": [str(tmp_path / "leaky.py")], "env": {"API_TOKEN": CHILD}},
            {"name": "gone", "url": "http://127.0.0.1:1/mcp", "headers": {"Authorization": f"Bearer {CHILD}"}},
        ],
    }
    path = tmp_path / "gateway.yaml"
    path.write_text(json.dumps(config))
    path.chmod(0o600)
    log = tmp_path / "log"
    told = b""
    with log.open("wb") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", "mcpbridge", "gateway", "--config", str(path)], stdout=out, stderr=out
        )
    try:
        base = f"http://127.0.0.1:{port}"
        wait_listening(process, f"{base}/healthz")
        call = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "leaky__x", "arguments": {"k": CHILD}}}
        for token in (TOKEN, WRONG):
            headers = {"Authorization": f"Bearer {token}", "Cookie": f"session={COOKIE}"}
            for place in ("/mcp", "/mcp/leaky", "/mcp/gone", "/api/v1/execute", f"/nowhere?token={token}"):
                told += ask(base + place, call, **headers)
            told += ask(f"{base}/api/v1/status", **headers)
        told += ask(f"http://127.0.0.1:{management}/metrics") + ask(f"http://127.0.0.1:{management}/api/v1/status")
        process.terminate()
        process.wait(20)
    finally:
        process.kill()
        process.wait(5)
    written = log.read_bytes()
    assert b"gateway ready" in written
    assert b"Authorization" in written  # the child's line is there, masked
    for secret in (TOKEN, WRONG, CHILD, COOKIE, JWT_KEY):
        assert secret.encode() not in written
        assert secret.encode() not in told
