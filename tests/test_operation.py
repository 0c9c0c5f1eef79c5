"""What operators do to a running gateway: one of two backends is drained, its calls go to the other, and it is taken back."""

from __future__ import annotations

import json
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest

from mcpbridge.cli import main
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


@pytest.mark.requirement("http.gateway.backends.test")
def test_a_backend_is_tested_stage_by_stage_without_calling_a_tool(base: str) -> None:
    status, answer = post(f"{base}/api/v1/backends/twin/0/test")
    assert (status, answer["endpoint"], answer["protocol"], answer["era"]) == (200, "twin/0", "stdio", "modern")
    assert [stage["stage"] for stage in answer["stages"]] == ["start", "initialize", "tools/list"], answer
    assert post(f"{base}/api/v1/backends/twin/7/test")[0] == 404
    assert post(f"{base}/api/v1/backends/twin/0/test", token=READER)[0] == 403


@pytest.mark.requirement("cli.backends")
def test_the_command_lists_drains_weighs_and_tests(
    base: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def backends(*arguments: str, token: str = ADMIN) -> tuple[int, str]:
        monkeypatch.setenv("MCP_AUTH_TOKEN", token)
        status = main(["mcpbridge", "backends", *arguments, "--gateway", base])
        said = capsys.readouterr()
        return status, said.out + said.err

    status, told = backends("list", token=READER)
    assert status == 0
    assert [line.split()[:2] for line in told.splitlines()] == [["NAME", "PROTOCOL"], ["twin/0", "stdio"], ["twin/1", "stdio"]]
    assert [one["endpoint"] for one in json.loads(backends("list", "--json")[1])["backends"]] == ["twin/0", "twin/1"]
    assert backends("drain", "twin/0") == (0, "twin/0: draining, 0 calls in flight\n")
    assert {who(base) for _ in range(10)} == {"b"}
    assert backends("undrain", "twin/0")[1].startswith("twin/0: ")
    assert backends("weight", "twin/1", "2.5") == (0, "twin/1: weight 2.5\n")
    status, told = backends("test", "twin/1")
    assert (status, [line.split()[:2] for line in told.splitlines()][1]) == (0, ["ok", "initialize"])
    status, told = backends("drain", "twin/9")
    assert (status, "no backend is named 'twin/9'; there are: twin/0, twin/1" in told) == (1, True)
    assert backends("weight", "twin/9", "1")[0] == 1
    assert backends("drain", "twin/0", token=READER)[0] == 77
    assert backends("drain", "twin/0", token="x" * 40)[0] == 77


@pytest.mark.parametrize(
    "arguments",
    [
        ["list", "a"],
        ["drain"],
        ["weight", "a"],
        ["drain", "a", "1"],
        ["weight", "a", "nan"],
        ["weight", "a", "-1"],
        ["blow", "a"],
    ],
)
def test_a_command_line_that_makes_no_sense_is_64(arguments: list[str]) -> None:
    assert main(["mcpbridge", "backends", *arguments, "--gateway", "http://127.0.0.1:1"]) == 64
