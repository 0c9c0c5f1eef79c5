"""Tasks behind a real gateway with sign-in: an id that another token's holder has got hold of opens nothing."""

from __future__ import annotations

import json
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.peers import free_port, running, wait_listening

TOKENS = {name: f"{name}-token-0123456789abcdef0123456789ab" for name in ("ann", "bob")}
KEY = "Zq8xW2vN5mL7kP9rT4yB6cD1fG3hJ5sA"
VERSION = "2026-07-28"
META = {"io.modelcontextprotocol/protocolVersion": VERSION, "io.modelcontextprotocol/clientCapabilities": {}}
WORKER = """
import json, sys
heard = []
for line in sys.stdin:
    request = json.loads(line)
    if "id" not in request:
        continue
    method, params = request["method"], request.get("params", {})
    answer = {"jsonrpc": "2.0", "id": request["id"]}
    if method == "server/discover":
        offered = {"tools": {}, "extensions": {"io.modelcontextprotocol/tasks": {}}}
        answer["result"] = {"resultType": "complete", "supportedVersions": ["2026-07-28"], "capabilities": offered,
                            "ttlMs": 0, "cacheScope": "private"}
    elif method == "initialize":
        answer["error"] = {"code": -32601, "message": "Method not found"}
    elif method == "tools/list":
        answer["result"] = {"resultType": "complete", "tools": [], "ttlMs": 0, "cacheScope": "private"}
    elif method == "tools/call":
        answer["result"] = {"resultType": "task", "taskId": "1", "status": "working", "ttlMs": None}
    else:
        heard.append([method, params["taskId"]])
        answer["result"] = {"resultType": "complete", "taskId": params["taskId"], "status": "completed",
                            "result": {"content": [], "heard": heard}}
    print(json.dumps(answer), flush=True)
"""


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("tasks")
    (folder / "worker.py").write_text(WORKER)
    port = free_port()
    scopes = ["mcp:read", "mcp:write"]
    holders = [{"name": name, "token": token, "scopes": scopes} for name, token in TOKENS.items()]
    worker = {"command": sys.executable, "args": [str(folder / "worker.py")]}
    config = {
        "server": {"port": port, "tls": {"enabled": False}},
        "metrics": {"endpoint": f"127.0.0.1:{free_port()}"},
        "auth": {"jwt": {"secret": KEY}, "static_tokens": holders},
        "servers": [{"name": "one", **worker}, {"name": "two", **worker}],
    }
    path = folder / "gateway.yaml"
    path.write_text(json.dumps(config))
    path.chmod(0o600)
    with running([sys.executable, "-m", "mcpbridge", "gateway", "--config", str(path)]) as process:
        wait_listening(process, f"http://127.0.0.1:{port}/healthz")
        yield f"http://127.0.0.1:{port}"


def ask(url: str, who: str, method: str, **params: Any) -> Any:
    """The answer's result, or its error."""
    body = json.dumps({"jsonrpc": "2.0", "id": 1, "method": method, "params": {**params, "_meta": META}}).encode()
    headers = {
        "Authorization": f"Bearer {TOKENS[who]}",
        "Content-Type": "application/json",
        "Accept": "application/json, text/event-stream",
        "MCP-Protocol-Version": VERSION,
        "Mcp-Method": method,
        "Mcp-Name": params.get("taskId") or params.get("name", ""),
    }
    try:
        with urllib.request.urlopen(urllib.request.Request(url, body, headers), timeout=10) as answer:
            said = json.load(answer)
    except urllib.error.HTTPError as error:
        said = json.load(error)
    return said["result"] if "result" in said else said["error"]


@pytest.mark.parametrize(("path", "tool"), [("/mcp/one", "t"), ("/mcp", "two__t")])
def test_a_task_is_read_and_cancelled_by_its_own_caller_only(base: str, path: str, tool: str) -> None:
    url = base + path
    id = ask(url, "ann", "tools/call", name=tool)["taskId"]
    for method in ("tasks/get", "tasks/update", "tasks/cancel"):
        for who, wrong in (("bob", id), ("bob", "1"), ("ann", "1"), ("ann", "two:1"), ("bob", "two:1"), ("ann", id[:-1])):
            refused = ask(url, who, method, taskId=wrong)
            assert (refused["code"], refused["message"]) == (-32602, "Invalid params: unknown task"), (method, who, wrong)
    assert ask(url, "bob", "tools/call", name=tool)["taskId"] != id
    said = ask(url, "ann", "tasks/get", taskId=id)
    assert (said["taskId"], said["result"]["heard"]) == (id, [["tasks/get", "1"]])
