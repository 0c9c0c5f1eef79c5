"""Arguments of the router become flags."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from mcpbridge.cli.router import _flags
from mcpbridge.config.load import load_router
from mcpbridge.config.sections import EndpointSpec
from mcpbridge.gateways import gateway_address
from mcpbridge.router import direct_only
from tests.support import peers


@pytest.mark.requirement("cli.router.command")
def test_what_follows_two_dashes_is_the_only_server_word_for_word() -> None:
    path, flags, _ = _flags("mcp-router", ["--log-level", "debug", "--", "npx", "-y", "--config", "x", "--", "a b"])
    assert path is None and flags.only_servers
    assert flags.servers[0].endpoints == (EndpointSpec(command="npx", args=("-y", "--config", "x", "--", "a b")),)
    assert flags.values == {"logging.level": "debug"}


@pytest.mark.requirement("cli.router.url")
def test_an_address_is_the_only_server() -> None:
    for arguments in (["https://x.example/mcp"], ["--log-level", "info", "https://x.example/mcp"]):
        _, flags, _ = _flags("mcp-router", arguments)
        assert flags.only_servers and flags.servers[0].endpoints == (EndpointSpec(url="https://x.example/mcp"),)


@pytest.mark.requirement("cli.server")
def test_named_servers_come_on_top_of_the_file() -> None:
    path, flags, _ = _flags("mcp-router", ["--server", "a=http://x/mcp", "--config", "f.yaml", "--server", "b=uvx 'c d'"])
    assert path == "f.yaml" and not flags.only_servers
    assert [(server.name, server.endpoints[0].target) for server in flags.servers] == [("a", "http://x/mcp"), ("b", "uvx")]


def test_misuse_ends_with_64() -> None:
    with pytest.raises(SystemExit) as ended:
        _flags("mcp-router", ["npx", "x"])
    assert ended.value.code == 64


@pytest.mark.requirement("cli.router.direct-mode")
def test_the_direct_mode_uses_servers_of_its_protocol_and_without_any_answers_for_itself(tmp_path: Path) -> None:
    (tmp_path / "router.yaml").write_text(
        "gateway: {url: http://127.0.0.1:1/mcp}\nservers: [{name: web, url: http://127.0.0.1:1/mcp}]\n"
    )
    calls = [("initialize", {}), ("ping", {}), ("tools/list", {}), ("prompts/list", {}), ("resources/list", {}),
             ("tools/call", {"name": "x"}), ("prompts/get", {"name": "x"}), ("nothing/known", {})]  # fmt: skip
    said = "".join(
        json.dumps({"jsonrpc": "2.0", "id": id, "method": method, "params": params}) + "\n"
        for id, (method, params) in enumerate(calls)
    )
    command = [*peers.BRIDGE, "router", "--config", str(tmp_path / "router.yaml"), "--direct-mode", "stdio"]
    done = subprocess.run(command, input=said, capture_output=True, text=True, timeout=20, env=peers.environment())
    answers = {answer["id"]: answer for answer in map(json.loads, done.stdout.splitlines())}
    assert done.returncode == 0
    assert answers[0]["result"]["serverInfo"]["name"] == "mcpbridge"
    assert [answers[id]["result"] for id in range(1, 5)] == [{}, {"tools": []}, {"prompts": []}, {"resources": []}]
    assert [answers[id]["error"]["code"] for id in (5, 6, 7)] == [-32601] * 3


@pytest.mark.requirement("cli.router.direct-mode.values")
def test_an_unknown_protocol_of_the_direct_mode_is_64_with_the_list(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        _flags("mcp-router", ["--direct-mode", "pigeon"])
    assert ended.value.code == 64
    assert "one of stdio, websocket, http, sse, tcp_binary" in capsys.readouterr().err


@pytest.mark.requirement("cli.router.direct-mode.values")
def test_direct_mode_takes_the_five_protocols_and_no_other(capsys):
    for name in ("stdio", "websocket", "http", "sse", "tcp_binary"):
        assert _flags("mcp-router", ["--direct-mode", name])[2] == name
    with pytest.raises(SystemExit) as ended:
        _flags("mcp-router", ["--direct-mode", "smtp"])
    assert ended.value.code == 64
    assert "stdio, websocket, http, sse, tcp_binary" in capsys.readouterr().err


@pytest.mark.requirement("cli.router.direct-mode")
def test_direct_mode_leaves_servers_of_one_protocol_and_no_gateway(tmp_path):
    servers = [{"name": "a", "command": "x"}, {"name": "b", "url": "http://h/mcp"}, {"name": "c", "url": "ws://h/ws"}]
    path = tmp_path / "router.yaml"
    path.write_text(json.dumps({"gateway": {"url": "http://g:1"}, "direct_clients": {"servers": servers}}))
    loaded = load_router(str(path), {})
    for protocol, name in (("stdio", "a"), ("http", "b"), ("websocket", "c")):
        config = direct_only(loaded, protocol).config
        assert [spec.name for spec in config.servers] == [name] and gateway_address(config) == ""
    assert direct_only(loaded, "sse").config.servers == ()


@pytest.mark.requirement("cli.router.direct-mode")
def test_direct_mode_without_such_a_server_answers_lists_itself(tmp_path):
    said = [
        {"id": 1, "method": "initialize", "params": {}},
        {"id": 2, "method": "tools/list"},
        {"id": 3, "method": "ping"},
        {"id": 4, "method": "vendor/thing"},
    ]
    done = subprocess.run(
        [sys.executable, "-m", "mcpbridge", "router", "--direct-mode", "stdio"],
        input="".join(json.dumps({"jsonrpc": "2.0", **one}) + "\n" for one in said), capture_output=True, text=True, timeout=20,
        env={"PATH": os.environ["PATH"], "HOME": str(tmp_path), "PYTHONPATH": os.getcwd(), "MCP_GATEWAY_URL": "http://127.0.0.1:1"},
    )  # fmt: skip
    answers = {one["id"]: one for one in map(json.loads, done.stdout.splitlines())}
    assert done.returncode == 0 and "protocolVersion" in answers[1]["result"]
    assert answers[2]["result"] == {"tools": []} and answers[3]["result"] == {}
    assert answers[4]["error"]["code"] == -32601


def test_a_line_said_twice_runs_once_and_what_is_above_the_limit_is_told_to_wait(tmp_path):
    (tmp_path / "router.yaml").write_text(
        "advanced: {deduplication: {enabled: true}}\nlocal: {rate_limit: {enabled: true, requests_per_sec: 0.001, burst: 2}}\n"
        "metrics: {enabled: false}\n"
    )
    said = [
        {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": {}},
        {"jsonrpc": "2.0", "id": 2, "method": "ping"},
        {"jsonrpc": "2.0", "id": 2, "method": "ping"},
        {"jsonrpc": "2.0", "id": 3, "method": "ping"},
    ]
    output, _, code = peers.execute(
        [*peers.BRIDGE, "router", "--config", str(tmp_path / "router.yaml")],
        input_text="".join(json.dumps(line) + "\n" for line in said),
        timeout=30,
    )
    answers = [json.loads(line) for line in output.splitlines()]
    assert code == 0 and {answer["id"] for answer in answers} == {1, 2, 3}
    (refused,) = [answer for answer in answers if "error" in answer]
    assert (refused["id"], refused["error"]["code"], refused["error"]["data"]["reason"]) == (3, 1010, "rate_limited")
