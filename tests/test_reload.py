"""Hot reload of a running gateway: SIGHUP, the API and a changed file; a fault changes nothing and is said with its place."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.support.peers import free_port, running, wait_listening

ADMIN = "admin-token-0123456789abcdef01234567"
READER = "reader-token-0123456789abcdef0123456"
OTHER = "other-token-0123456789abcdef01234567"
WAIT = 10.0
VERSION = "2025-11-25"
SERVER = """
import json, os, sys
for line in sys.stdin:
    request = json.loads(line)
    if "id" not in request:
        continue
    answer = {"jsonrpc": "2.0", "id": request["id"]}
    if request["method"] == "initialize":
        info = {"name": sys.argv[1], "version": "1"}
        offers = {"tools": {"listChanged": True}}
        answer["result"] = {"protocolVersion": "2025-11-25", "capabilities": offers, "serverInfo": info}
    elif request["method"] == "tools/list":
        answer["result"] = {"tools": [{"name": "who", "inputSchema": {"type": "object"}}]}
    elif request["method"] == "tools/call":
        answer["result"] = {"content": [{"type": "text", "text": f"{sys.argv[1]} {os.getpid()}"}]}
    else:
        answer["error"] = {"code": -32601, "message": "no"}
    print(json.dumps(answer), flush=True)
"""


class Running:
    """A gateway, its configuration file, and a legacy client of it."""

    def __init__(self, folder: Path, *names: str) -> None:
        self.folder = folder
        (folder / "server.py").write_text(SERVER)
        self.port, self.management = free_port(), free_port()
        self.path = folder / "gateway.yaml"
        self.process: subprocess.Popen[str]
        self.session = ""
        self.write(*names)

    @property
    def base(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def text(self, *names: str, **more: Any) -> str:
        tokens = [("admin", ADMIN, ["mcp:admin", "mcp:write", "mcp:read"]), ("reader", READER, ["mcp:read"])]
        config: dict[str, Any] = {
            "server": {"port": self.port, "tls": {"enabled": False}, "tcp_health_port": 0,
                       "protocols": {"stdio": {"enabled": False}, "tcp_binary": {"enabled": False}}},
            "metrics": {"endpoint": f"127.0.0.1:{self.management}"},
            "auth": {"static_tokens": [{"name": name, "token": token, "scopes": scopes} for name, token, scopes in tokens]},
            "servers": [{"name": name, "command": sys.executable, "args": [str(self.folder / "server.py"), name]}
                        for name in names],
        }  # fmt: skip
        return json.dumps(config | more, indent=1)

    def write(self, *names: str, **more: Any) -> None:
        fresh = self.folder / "fresh"
        fresh.write_text(self.text(*names, **more))
        fresh.rename(self.path)

    def post(self, path: str, body: Any = None, token: str = ADMIN, **headers: str) -> tuple[int, Any, Any]:
        data = json.dumps({} if body is None else body).encode()
        given = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"} | headers
        request = urllib.request.Request(f"{self.base}{path}", data, given, method="POST")
        try:
            with urllib.request.urlopen(request, timeout=WAIT) as answer:
                return answer.status, answer.headers, json.loads(answer.read() or b"{}")
        except urllib.error.HTTPError as error:
            return error.code, error.headers, json.load(error)

    def reload(self) -> Any:
        status, _, answer = self.post("/api/v1/reload")
        assert status == 200, answer
        return answer

    def rpc(self, method: str, params: Any = None, token: str = ADMIN) -> Any:
        """One message of the client's session."""
        more = {"Accept": "application/json, text/event-stream"}
        if self.session:
            more |= {"Mcp-Session-Id": self.session, "MCP-Protocol-Version": VERSION}
        body = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params or {}}
        status, headers, answer = self.post("/mcp", body, token, **more)
        self.session = self.session or headers.get("Mcp-Session-Id") or ""
        return answer if status == 200 else {"status": status, **answer}

    def initialize(self) -> None:
        self.rpc("initialize", {"protocolVersion": VERSION, "capabilities": {}, "clientInfo": {"name": "c", "version": "1"}})
        assert self.session

    def call(self, name: str) -> str:
        answer = self.rpc("tools/call", {"name": name, "arguments": {}})
        return str(answer["result"]["content"][0]["text"])

    def tools(self) -> list[str]:
        return [tool["name"] for tool in self.rpc("tools/list")["result"]["tools"]]

    def get(self, path: str) -> str:
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.management}{path}", headers={"Authorization": f"Bearer {ADMIN}"}
        )
        with urllib.request.urlopen(request, timeout=WAIT) as answer:
            return str(answer.read().decode())

    def config(self) -> Any:
        return json.loads(self.get("/api/v1/status"))["config"]

    def is_told(self, ok: bool) -> bool:
        return f"mcp_gateway_config_last_reload_successful {float(ok)}" in self.get("/metrics")


def until(condition: Callable[[], object]) -> None:
    ends = time.monotonic() + WAIT
    while not condition():
        assert time.monotonic() < ends
        time.sleep(0.05)


@contextmanager
def serving(gateway: Running, path: Path | None = None) -> Iterator[Running]:
    with running([sys.executable, "-m", "mcpbridge", "gateway", "--config", str(path or gateway.path)]) as process:
        wait_listening(process, f"{gateway.base}/healthz")
        gateway.process = process
        yield gateway


@pytest.fixture
def gateway(tmp_path: Path) -> Iterator[Running]:
    with serving(Running(tmp_path, "a", "b")) as gateway:
        yield gateway


@pytest.mark.requirement("http.gateway.reload", "metric.mcp_gateway_config_last_reload_successful")
def test_a_reload_adds_and_removes_servers_and_leaves_sessions_and_children_alone(gateway: Running) -> None:
    gateway.initialize()
    before = gateway.call("a__who")
    gateway.write("a", "c")
    assert gateway.reload() == {
        "reloaded": True,
        "errors": [],
        "changed": ["discovery.providers.static.servers"],
        "needs_restart": [],
        "servers": {"added": ["c"], "removed": ["b"], "changed": []},
    }
    assert gateway.call("a__who") == before  # the same child, the same session
    until(lambda: gateway.tools() == ["a__who", "c__who"])
    assert gateway.call("c__who").startswith("c ")
    assert "error" in gateway.rpc("tools/call", {"name": "b__who", "arguments": {}})
    assert gateway.config()["last_reload_ok"] is True
    assert gateway.is_told(True)


@pytest.mark.requirement("config.reload")
def test_a_fault_changes_nothing_and_is_said_with_its_place(gateway: Running) -> None:
    gateway.initialize()
    before = gateway.call("b__who")
    for text, line, said in [
        (gateway.text("a").replace('"servers"', '"sevrers"'), None, "sevrers"),
        (gateway.text("a") + "\n}", None, "not valid YAML"),
        (gateway.text("a", server={"tls": {"enabled": True, "cert_file": "/nowhere"}}), None, "cannot read /nowhere"),
        (gateway.text("a") + "#" * 5_000_000, 0, "larger than"),
        ("[" * 200_000, None, "nested deeper"),
    ]:
        gateway.path.write_text(text)
        answer = gateway.reload()
        assert answer["reloaded"] is False and answer["errors"], said
        (error, *_) = [one for one in answer["errors"] if said in one["message"]]
        assert error["file"] == str(gateway.path) and (line == 0 or error["line"] > 0)
        assert gateway.call("b__who") == before
        assert gateway.config()["last_reload_ok"] is False
        assert gateway.is_told(False)
    gateway.path.unlink()
    assert "no such file" in gateway.reload()["errors"][0]["message"]
    os.mkfifo(gateway.path)
    assert "no regular file" in gateway.reload()["errors"][0]["message"]
    gateway.write("a", "b")
    assert gateway.reload()["reloaded"]
    assert gateway.config()["last_reload_ok"] is True


def test_what_needs_a_restart_is_named_until_there_is_one(gateway: Running) -> None:
    more = {"routing": {"request_timeout": "5s"}, "load_balancing": {"strategy": "round_robin"}}
    gateway.write("a", "b", **more)
    answer = gateway.reload()
    assert answer["reloaded"] and answer["needs_restart"] == ["routing.request_timeout"]
    assert answer["changed"] == ["load_balancing.strategy"]
    assert gateway.reload()["needs_restart"] == ["routing.request_timeout"]
    gateway.write("a", "b")
    assert gateway.reload()["needs_restart"] == []


def test_tokens_are_rotated(gateway: Running) -> None:
    gateway.initialize()
    assert gateway.post("/api/v1/reload", token=OTHER)[0] == 401
    assert gateway.post("/api/v1/reload", token=READER)[0] == 403
    gateway.write("a", "b", auth={"static_tokens": [{"name": "admin", "token": OTHER, "scopes": ["mcp:admin", "mcp:write"]}]})
    assert gateway.reload()["changed"] == ["auth.static_tokens"]
    assert gateway.post("/api/v1/reload")[0] == 401
    assert gateway.post("/api/v1/reload", token=OTHER)[0] == 200


@pytest.mark.skipif(sys.platform == "win32", reason="no such signal")
def test_sighup_reloads_and_ends_nothing(gateway: Running) -> None:
    gateway.initialize()
    gateway.path.write_text("server: [")
    gateway.process.send_signal(signal.SIGHUP)
    until(lambda: gateway.is_told(False))
    gateway.write("a", "b", "c")
    gateway.process.send_signal(signal.SIGHUP)
    until(lambda: gateway.is_told(True) and "c__who" in gateway.tools())
    assert gateway.process.poll() is None


def test_a_changed_file_is_read_once_it_is_whole(gateway: Running) -> None:
    gateway.initialize()
    gateway.write("a")
    until(lambda: gateway.tools() == ["who"])  # names follow from the configuration: one server needs no prefix
    assert gateway.call("who").startswith("a ")
    gateway.write("a", "b")
    until(lambda: gateway.tools() == ["a__who", "b__who"])
    assert gateway.is_told(True)


@contextmanager
def mounted(folder: Path) -> Iterator[tuple[Running, Callable[..., None]]]:
    """A gateway whose file is in a directory as the kubelet keeps it, and what swaps the directory for another one."""
    place = folder / "config"
    place.mkdir()
    (place / "gateway.yaml").symlink_to("..data/gateway.yaml")
    gateway = Running(folder, "a", "b")

    def swap(number: int, *names: str) -> None:
        fresh = place / f"..{number}"
        fresh.mkdir()
        (fresh / "gateway.yaml").write_text(gateway.text(*names))
        (place / "..tmp").symlink_to(fresh.name)
        os.replace(place / "..tmp", place / "..data")

    swap(1, "a", "b")
    with serving(gateway, place / "gateway.yaml"):
        yield gateway, swap


def test_the_link_that_kubernetes_swaps_is_noticed(tmp_path: Path) -> None:
    with mounted(tmp_path) as (gateway, swap):
        gateway.initialize()
        assert gateway.tools() == ["a__who", "b__who"]
        swap(2, "b", "c")
        until(lambda: gateway.tools() == ["b__who", "c__who"])
