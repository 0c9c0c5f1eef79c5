"""Keys about how servers are reached and looked at, each unlike its default, in front of real sockets."""

from __future__ import annotations

import contextlib
import json
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from websockets.datastructures import Headers
from websockets.http11 import Request as WsRequest
from websockets.http11 import Response as WsResponse
from websockets.sync.server import ServerConnection, serve

from tests.support.peers import free_port, running, wait_listening
from tests.support.scripted import DISCOVERED
from tests.test_balancing import ask
from tests.test_management import router
from tests.test_pools import META, until

PROTOCOLS = {"http": "http", "ws": "websocket"}


def answer_to(message: dict[str, Any]) -> dict[str, Any]:
    """What a small modern server says."""
    said = {"server/discover": DISCOVERED, "tools/call": {"resultType": "complete", "content": []}}.get(message["method"])
    answer = {"error": {"code": -32601, "message": "Method not found"}} if said is None else {"result": said}
    return {"jsonrpc": "2.0", "id": message.get("id"), **answer}


class Plain(ThreadingHTTPServer):
    """A modern server over HTTP. ``connections`` counts those that were made."""

    daemon_threads = True

    def __init__(self, kind: str) -> None:
        self.connections = 0
        self.authorization: str | None = None
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def setup(self) -> None:
                super().setup()
                outer.connections += 1

            def do_POST(self) -> None:
                outer.authorization = self.headers["authorization"]
                message = json.loads(self.rfile.read(int(self.headers["content-length"])))
                body = json.dumps(answer_to(message)).encode()
                self.send_response(200)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        super().__init__(("127.0.0.1", 0), Handler)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/mcp"


@contextlib.contextmanager
def plain(kind: str) -> Iterator[Plain]:
    with Plain(kind) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


class Sockets:
    """A modern server over WebSocket that says ``health`` at /well, and 404 elsewhere."""

    def __init__(self) -> None:
        self.health = 200
        self.connections = 0
        self.asked: list[str] = []

    def talk(self, socket: ServerConnection) -> None:
        self.connections += 1
        for line in socket:
            message = json.loads(line)
            if "id" in message:
                socket.send(json.dumps(answer_to(message)))

    def request(self, _socket: ServerConnection, request: WsRequest) -> WsResponse | None:
        if "upgrade" in request.headers:
            return None
        self.asked.append(request.path)
        return WsResponse(self.health if request.path == "/well" else 404, "", Headers({"Content-Length": "0"}), b"")


@contextlib.contextmanager
def sockets() -> Iterator[tuple[Sockets, str]]:
    state = Sockets()
    with serve(state.talk, "127.0.0.1", 0, process_request=state.request) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield state, f"ws://127.0.0.1:{server.socket.getsockname()[1]}/mcp"
        server.shutdown()


@contextlib.contextmanager
def gateway(folder: Path, servers: dict[str, str], config: dict[str, Any], **env: str) -> Iterator[str]:
    """Where a running one listens."""
    port, management = free_port(), free_port()
    frontends = {"stdio": {"enabled": False}, "tcp_binary": {"enabled": False}}
    path = folder / "gateway.yaml"
    path.write_text(
        json.dumps(
            {
                "server": {"port": port, "tls": {"enabled": False}, "tcp_health_port": 0, "protocols": frontends},
                "metrics": {"endpoint": f"127.0.0.1:{management}"},
                "auth": {"type": "none"},
                "servers": [
                    {"name": name, "url": url, "protocol": url[:4].replace("ws:/", "websocket")}
                    for name, url in servers.items()
                ],
                **config,
            }
        )
    )
    with running([sys.executable, "-m", "mcpbridge", "gateway", "--config", str(path)], **env) as process:
        wait_listening(process, f"http://127.0.0.1:{port}/healthz")
        yield f"http://127.0.0.1:{port}"


def call(base: str, server: str) -> dict[str, Any]:
    message = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": f"{server}__t", "arguments": {}}}
    answer: dict[str, Any] = ask(f"{base}/api/v1/execute", message)[1]
    return answer


@pytest.mark.requirement("config.gateway.backends.http.content_types")
def test_an_answer_of_a_type_that_is_not_listed_is_the_servers_fault(tmp_path: Path) -> None:
    kind = "application/vnd.mcp+json"
    with plain(kind) as listed, plain("application/json") as other:
        servers = {"listed": listed.url, "other": other.url}
        with gateway(tmp_path, servers, {"backends": {"http": {"content_types": [kind]}}}) as base:
            assert call(base, "listed")["result"]["content"] == []
            error = call(base, "other")["error"]
            assert "content type 'application/json'" in error["message"]


@pytest.mark.requirement("config.gateway.backends.websocket.health_check_path")
def test_a_websocket_server_is_down_while_its_health_path_says_so(tmp_path: Path) -> None:
    with sockets() as (state, url):
        config = {
            "backends": {"websocket": {"health_check_path": "/well"}},
            "health_monitoring": {"health_check_interval": "100ms", "failure_threshold": 2, "recovery_threshold": 1},
        }
        with gateway(tmp_path, {"s": url}, config) as base:

            def told() -> dict[str, Any]:
                found: dict[str, Any] = ask(f"{base}/api/v1/status")[1]["backends"][0]
                return found

            until(told, lambda one: one["state"] == "ok")
            state.health = 503
            assert "HTTP 503 at /well" in until(told, lambda one: one["state"] == "down")["reason"]
            state.health = 404  # nothing of the kind is offered, and it is not asked again
            until(told, lambda one: one["state"] == "ok")
            asked, checks = len(state.asked), told()["last_check"]
            until(told, lambda one: one["last_check"] != checks)
            assert len(state.asked) == asked
    assert set(state.asked) == {"/well"}


@pytest.mark.requirement("config.gateway.connection.pooling_enabled", "env.MCP_CONNECTION_POOLING_ENABLED")
@pytest.mark.parametrize("by", ["key", "variable", "nothing"])
def test_without_pooling_every_call_connects_anew_and_hangs_up(tmp_path: Path, by: str) -> None:
    config: dict[str, Any] = {"health_monitoring": {"health_check_interval": "1h"}}
    if by == "key":
        config["connection"] = {"pooling_enabled": False}
    env = {"MCP_CONNECTION_POOLING_ENABLED": "false"} if by == "variable" else {}
    with plain("application/json") as web, sockets() as (state, url):
        with gateway(tmp_path, {"web": web.url, "socket": url}, config, **env) as base:
            assert "result" in call(base, "web") and "result" in call(base, "socket")
            before = web.connections, state.connections
            for _ in range(5):
                assert "result" in call(base, "web") and "result" in call(base, "socket")
            made = web.connections - before[0], state.connections - before[1]
            assert made == ((0, 0) if by == "nothing" else (5, 5))


@pytest.mark.requirement("env.MCP_CONNECTION_POOLING_ENABLED")
@pytest.mark.parametrize("value", ["false", "true"])
def test_a_router_without_pooling_keeps_no_connection(tmp_path: Path, value: str) -> None:
    env = {"MCP_CONNECTION_POOLING_ENABLED": value}
    with plain("application/json") as web:
        server = {"name": "s", "url": web.url, "protocol": "http"}
        (tmp_path / "router.yaml").write_text(json.dumps({"servers": [server]}))
        with router(tmp_path, "--config", str(tmp_path / "router.yaml"), **env) as window:
            params = {"name": "s__t", "arguments": {}, "_meta": META}
            for id in range(5):
                assert "result" in window.ask({"id": id, "method": "tools/call", "params": params})
            assert (web.connections >= 5) is (value == "false")
            enabled = window.get("/api/v1/performance")[1]["connection_pooling"]["enabled"]
            assert enabled is (value == "true")
