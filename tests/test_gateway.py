"""The gateway as a process: what its children inherit, and how its paths refuse."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.peers import environment, errors_of, free_port, running, wait_listening

TOKEN = "ci-token-0123456789abcdef0123456789ab"
KEY = "Zq8xW2vN5mL7kP9rT4yB6cD1fG3hJ5sA"
TELLER = """
import json, os, sys
for line in sys.stdin:
    request = json.loads(line)
    if "id" not in request:
        continue
    answer = {"jsonrpc": "2.0", "id": request["id"]}
    if request["method"] == "initialize":
        info = {"name": "teller", "version": "1"}
        answer["result"] = {"protocolVersion": "2025-11-25", "capabilities": {"tools": {}}, "serverInfo": info}
    elif request["method"] == "tools/call":
        text = json.dumps(dict(os.environ))
        answer["result"] = {"content": [{"type": "text", "text": text}]}
    else:
        answer["error"] = {"code": -32601, "message": "no"}
    print(json.dumps(answer), flush=True)
"""


def ask(url: str, body: Any = None, method: str | None = None) -> tuple[int, Any, Any]:
    """Status, headers and JSON body of one answer to the holder of TOKEN."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Authorization": f"Bearer {TOKEN}"}, method=method)
    try:
        with urllib.request.urlopen(request, timeout=5) as answer:
            return answer.status, answer.headers, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, error.headers, json.load(error)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("gateway")
    (folder / "teller.py").write_text(TELLER)
    port = free_port()
    config = {
        "server": {"port": port, "tls": {"enabled": False}},
        "metrics": {"endpoint": f"127.0.0.1:{free_port()}"},
        "auth": {
            "jwt": {"secret": "${OUR_KEY}"},
            "static_tokens": [{"name": "ci", "token": "${CI_TOKEN}", "scopes": ["mcp:read", "mcp:write"]}],
        },
        "servers": [
            {
                "name": "teller",
                "command": sys.executable,
                "args": [str(folder / "teller.py")],
                "env": {"GIVEN": "${DOCS_TOKEN}"},
            },
            {"name": "second", "command": sys.executable, "args": [str(folder / "teller.py")]},
            {"name": "docs", "url": "http://127.0.0.1:1/mcp", "token_env": "DOCS_TOKEN"},
            {"name": "wiki", "url": "http://127.0.0.1:1/mcp", "headers": {"Authorization": "Bearer ${WIKI_TOKEN}"}},
        ],
    }
    path = folder / "gateway.yaml"
    path.write_text(json.dumps(config))
    variables = {"OUR_KEY": KEY, "CI_TOKEN": TOKEN, "DOCS_TOKEN": "docs-token", "CITY": "Reykjavik"}
    variables |= {"WIKI_TOKEN": "wiki-token", "MCP_LOGGING_LEVEL": "warn", "MCP_METRICS_ENABLED": "true", "MCP_OTHER": "theirs"}
    with running([sys.executable, "-m", "mcpbridge", "gateway", "--config", str(path)], **variables) as process:
        wait_listening(process, f"http://127.0.0.1:{port}/healthz")
        yield f"http://127.0.0.1:{port}"


def test_a_child_inherits_neither_secrets_nor_settings_of_the_gateway(base: str) -> None:
    call = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "teller__env", "arguments": {}}}
    status, _, answer = ask(f"{base}/api/v1/execute", call)
    assert status == 200, answer
    seen = json.loads(answer["result"]["content"][0]["text"])
    ours = {"OUR_KEY", "CI_TOKEN", "DOCS_TOKEN", "WIKI_TOKEN", "MCP_LOGGING_LEVEL", "MCP_METRICS_ENABLED"}
    assert ours & seen.keys() == set()
    assert (seen["CITY"], seen["GIVEN"], seen["MCP_OTHER"]) == ("Reykjavik", "docs-token", "theirs")


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE"])
def test_execute_says_which_method_it_takes(base: str, method: str) -> None:
    status, headers, answer = ask(f"{base}/api/v1/execute", method=method)
    assert (status, headers["allow"], answer["error"]["code"]) == (405, "POST", "MCPB-HTTP-405")


def test_an_unknown_server_is_named_as_the_reason(base: str) -> None:
    status, _, answer = ask(f"{base}/mcp/nobody", {})
    assert status == 404
    assert answer["error"]["message"].startswith("no server has this name")


@pytest.mark.parametrize("key", ["server.port", "metrics.endpoint"])
def test_an_address_that_is_taken_is_no_bug(key: str, tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        ports = {"server.port": free_port(), "metrics.endpoint": free_port(), key: taken.getsockname()[1]}
        path = tmp_path / "gateway.yaml"
        path.write_text(
            f"server:\n  port: {ports['server.port']}\n  tls: {{enabled: false}}\n"
            f"auth: {{type: none}}\nmetrics:\n  endpoint: 127.0.0.1:{ports['metrics.endpoint']}\n"
        )
        command = [sys.executable, "-m", "mcpbridge", "gateway", "--config", str(path)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, env=environment())
    line = json.loads(done.stderr.splitlines()[-1])
    place = "2:3" if key == "server.port" else "6:3"
    assert done.returncode == 75
    assert line["message"].startswith(f"{path}:{place}: {key}: cannot listen on 127.0.0.1:{ports[key]}: address already in use")
    assert "bug" not in done.stderr


@pytest.mark.requirement("http.gateway.execute.jq")
def test_execute_names_the_one_backend_of_a_call_and_all_of_a_merged_list(base: str) -> None:
    call = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "teller__env", "arguments": {}}}
    _, _, answer = ask(f"{base}/api/v1/execute", call)
    assert (answer["protocol_used"], answer["backend"], "backends" in answer) == ("stdio", "teller/0", False)
    _, _, answer = ask(f"{base}/api/v1/execute", {"jsonrpc": "2.0", "id": 2, "method": "tools/list"})
    assert (answer["protocol_used"], answer["backend"], answer["backends"]) == ("stdio", None, ["teller/0", "second/0"])
    unavailable = answer["result"]["_meta"]["mcpbridge/unavailable"]
    assert unavailable["docs"].startswith("connection refused: server 'docs'") and unavailable["docs"].count("'docs'") == 1


@pytest.mark.requirement("cli.gateway.run")
def test_the_log_says_ready_once_with_every_listener_and_the_socket_answers_and_goes(tmp_path: Path) -> None:
    path = str(tmp_path / "gw.sock")
    variables = {
        "MCPBRIDGE_SERVER__PORT": "0",
        "MCPBRIDGE_SERVER__STDIO_SOCKET": path,
        "MCPBRIDGE_SERVER__PROTOCOLS__STDIO__ENABLED": "true",
        "MCPBRIDGE_METRICS__ENDPOINT": f"127.0.0.1:{free_port()}",
    }
    (tmp_path / "teller.py").write_text(TELLER)
    command = [sys.executable, "-m", "mcpbridge", "gateway", "--server", f"t={sys.executable} {tmp_path / 'teller.py'}"]
    with running(command, **variables) as process:
        deadline = time.monotonic() + 20
        while "gateway ready" not in errors_of(process) and time.monotonic() < deadline:
            time.sleep(0.05)
        ready = [line for line in map(json.loads, errors_of(process).splitlines()) if line["message"] == "gateway ready"]
        assert len(ready) == 1
        assert ready[0]["listeners"]["stdio"] == f"unix://{path}"
        assert ready[0]["listeners"]["http"].startswith("http://127.0.0.1:")
        with socket.socket(socket.AF_UNIX) as client:  # what `echo ... | socat - UNIX-CONNECT:path` does
            client.settimeout(10)
            client.connect(path)
            client.sendall(b'{"jsonrpc":"2.0","id":0,"method":"initialize","params":{}}\n')
            client.shutdown(socket.SHUT_WR)
            said = b"".join(iter(lambda: client.recv(65536), b""))
        assert json.loads(said)["result"]["serverInfo"]["name"] == "teller"
        process.terminate()
        assert process.wait(10) == 0
    assert not Path(path).exists()


def test_a_foreign_file_in_place_of_the_socket_is_73(tmp_path: Path) -> None:
    path = tmp_path / "gw.sock"
    path.write_text("precious")
    variables = {
        "MCPBRIDGE_SERVER__PORT": "0",
        "MCPBRIDGE_SERVER__STDIO_SOCKET": str(path),
        "MCPBRIDGE_SERVER__PROTOCOLS__STDIO__ENABLED": "true",
        "MCPBRIDGE_METRICS__ENDPOINT": f"127.0.0.1:{free_port()}",
    }
    command = [sys.executable, "-m", "mcpbridge", "gateway"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=20, env=environment(**variables))
    assert done.returncode == 73
    assert "there is a file that is no socket" in done.stderr
    assert path.read_text() == "precious"


def test_a_socket_that_another_gateway_listens_at_is_75_and_stays(tmp_path: Path) -> None:
    path = str(tmp_path / "gw.sock")
    variables = {
        "MCPBRIDGE_SERVER__PORT": "0",
        "MCPBRIDGE_SERVER__STDIO_SOCKET": path,
        "MCPBRIDGE_SERVER__PROTOCOLS__STDIO__ENABLED": "true",
        "MCPBRIDGE_METRICS__ENDPOINT": f"127.0.0.1:{free_port()}",
    }
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(path)
        other.listen()
        command = [sys.executable, "-m", "mcpbridge", "gateway"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, env=environment(**variables))
        assert done.returncode == 75
        assert f"server.stdio_socket: cannot listen on {path}: address already in use" in done.stderr
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(path)
