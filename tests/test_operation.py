"""What operators do to a running gateway: one of two backends is drained, its calls go to the other, and it is taken back."""

from __future__ import annotations

import json
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.peers import free_port, running, wait_listening

ADMIN = "admin-token-0123456789abcdef01234567"
READER = "reader-token-0123456789abcdef0123456"
SERVER = """
import json, os, sys
for line in sys.stdin:
    request = json.loads(line)
    if "id" not in request:
        continue
    answer = {"jsonrpc": "2.0", "id": request["id"]}
    if request["method"] == "server/discover":
        answer["result"] = {"resultType": "complete", "supportedVersions": ["2026-07-28"], "capabilities": {"tools": {}},
                            "ttlMs": 0, "cacheScope": "private", "serverInfo": {"name": "s", "version": "1"}}
    else:
        answer["result"] = {"resultType": "complete", "content": [{"type": "text", "text": sys.argv[1]}]}
    print(json.dumps(answer), flush=True)
"""


def post(url: str, body: Any = None, token: str = ADMIN, headers: dict[str, str] | None = None) -> tuple[int, Any]:
    """Status and JSON of one answer."""
    data = json.dumps(body if body is not None else {}).encode()
    given = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"} | (headers or {})
    request = urllib.request.Request(url, data, given, method="POST")
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


def call(base: str) -> tuple[int, Any]:
    meta = {"io.modelcontextprotocol/protocolVersion": "2026-07-28", "io.modelcontextprotocol/clientCapabilities": {}}
    body = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "who", "arguments": {}, "_meta": meta}}
    more = {"Accept": "application/json, text/event-stream", "MCP-Protocol-Version": "2026-07-28", "Mcp-Method": "tools/call",
            "Mcp-Name": "who"}  # fmt: skip
    return post(f"{base}/mcp", body, headers=more)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder, port = tmp_path_factory.mktemp("operation"), free_port()
    (folder / "server.py").write_text(SERVER)
    tokens = [("admin", ADMIN, ["mcp:admin", "mcp:write"]), ("reader", READER, ["mcp:read"])]
    config = {
        "server": {"port": port, "tls": {"enabled": False}, "tcp_health_port": 0,
                   "protocols": {"stdio": {"enabled": False}, "tcp_binary": {"enabled": False}}},
        "metrics": {"endpoint": f"127.0.0.1:{free_port()}"},
        "auth": {"static_tokens": [{"name": name, "token": token, "scopes": scopes} for name, token, scopes in tokens]},
        "servers": [{"name": "twin", "endpoints": [
            {"command": sys.executable, "args": [str(folder / "server.py"), name]} for name in ("a", "b")]}],
    }  # fmt: skip
    path = folder / "gateway.yaml"
    path.write_text(json.dumps(config))
    with running([sys.executable, "-m", "mcpbridge", "gateway", "--config", str(path)]) as process:
        wait_listening(process, f"http://127.0.0.1:{port}/healthz")
        yield f"http://127.0.0.1:{port}"


def who(base: str) -> str:
    status, answer = call(base)
    assert status == 200, answer
    return str(answer["result"]["content"][0]["text"])


@pytest.mark.requirement("http.gateway.backends.drain")
def test_a_drained_backend_gets_no_calls_until_it_is_taken_back(base: str) -> None:
    status, answer = post(f"{base}/api/v1/backends/twin/0/drain")
    assert (status, answer) == (200, {"endpoint": "twin/0", "state": "draining", "in_flight": 0})
    assert {who(base) for _ in range(20)} == {"b"}
    assert post(f"{base}/api/v1/backends/twin/1/drain")[0] == 200
    status, answer = call(base)
    assert status == 503 and "it drains" in answer["error"]["message"]
    assert post(f"{base}/api/v1/backends/twin/0/undrain")[1]["state"] in ("ok", "unknown")
    assert {who(base) for _ in range(20)} == {"a"}
    post(f"{base}/api/v1/backends/twin/1/undrain")


def test_only_admins_drain_and_only_what_there_is(base: str) -> None:
    assert post(f"{base}/api/v1/backends/twin/0/drain", token=READER)[0] == 403
    assert post(f"{base}/api/v1/backends/twin/0/drain", token="x" * 40)[0] == 401
    status, answer = post(f"{base}/api/v1/backends/twin/7/drain")
    assert status == 404 and "twin/0, twin/1" in answer["error"]["message"]
    assert post(f"{base}/api/v1/backends/twin/0/explode")[0] == 404
