"""The router as a process: what comes in on stdin, what goes out on stdout, and nothing else."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.support.peers import environment, free_port, running, wait_listening

DEMO = [sys.executable, "-m", "mcpbridge.demo.stdio"]
INITIALIZE = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "c", "version": "1"}}


def router(*arguments: str, says: list[Any], folder: Path, **variables: str) -> tuple[dict[Any, Any], int, str]:
    """Its answers by id, exit status and stderr, after it was told all of this at once."""
    lines = "".join((line if isinstance(line, str) else json.dumps({"jsonrpc": "2.0", **line})) + "\n" for line in says)
    done = subprocess.run(
        [sys.executable, "-m", "mcpbridge", "router", *arguments],
        input=lines, capture_output=True, text=True, timeout=20, cwd=folder,
        env=environment(XDG_CONFIG_HOME=str(folder), XDG_STATE_HOME=str(folder), HOME=str(folder), **variables),
    )  # fmt: skip
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    assert all(answer["jsonrpc"] == "2.0" for answer in answers), "stdout carries MCP and nothing else"
    return {answer["id"]: answer for answer in answers if "id" in answer}, done.returncode, done.stderr


def conversation(*requests: dict[str, Any]) -> list[Any]:
    return [
        {"id": 0, "method": "initialize", "params": INITIALIZE},
        {"method": "notifications/initialized"},
        *({"id": number, **request} for number, request in enumerate(requests, 1)),
    ]


def call(tool: str, **arguments: Any) -> dict[str, Any]:
    return {"method": "tools/call", "params": {"name": tool, "arguments": arguments}}


@pytest.mark.requirement("cli.router.run", "log.stderr")
def test_without_any_configuration_it_answers_for_itself_and_ends_with_its_input(tmp_path: Path) -> None:
    says = conversation({"method": "ping"}, {"method": "tools/list"}, {"method": "resources/list"}, call("x"))
    answers, status, errors = router(says=says, folder=tmp_path)
    assert status == 0
    assert answers[0]["result"]["serverInfo"]["name"] == "mcpbridge"
    assert [answers[number]["result"] for number in (1, 2, 3)] == [{}, {"tools": []}, {"resources": []}]
    assert answers[4]["error"]["code"] == -32601
    assert [json.loads(line)["message"] for line in errors.splitlines()] == ["no server is configured; lists are empty"]


@pytest.mark.requirement("cli.router.command", "cli.router.run")
def test_a_command_is_the_only_server_and_keeps_its_names(tmp_path: Path) -> None:
    answers, status, _ = router("--", *DEMO, says=conversation(call("echo", text="a b")), folder=tmp_path)
    assert (status, answers[1]["result"]["content"][0]["text"]) == (0, "a b")


@pytest.mark.requirement("cli.router.url")
def test_an_address_is_the_only_server_and_keeps_its_names(tmp_path: Path) -> None:
    port = free_port()
    with running([sys.executable, "-m", "mcpbridge.demo.http", "--port", str(port)]) as server:
        wait_listening(server, f"http://127.0.0.1:{port}/mcp")
        url = f"http://127.0.0.1:{port}/mcp"
        answers, status, _ = router(url, says=conversation(call("echo", text="hi")), folder=tmp_path)
    assert (status, answers[1]["result"]["content"][0]["text"]) == (0, "hi")


@pytest.mark.requirement("cli.server", "error.dead-fast", "error.stdio-no-such-file")
def test_servers_by_name_are_one_endpoint_and_dead_ones_are_told_at_once(tmp_path: Path) -> None:
    named = ["--server", f"a={' '.join(DEMO)}", "--server", "b=http://127.0.0.1:1/mcp", "--server", "c=/no/such/command x"]
    began = time.monotonic()
    says = conversation(call("a__echo", text="hi"), call("b__x"), call("c__x"), {"method": "tools/list"})
    answers, status, _ = router(*named, says=says, folder=tmp_path)
    assert time.monotonic() - began < 10, "nobody waited for a deadline"
    assert (status, answers[1]["result"]["content"][0]["text"]) == (0, "hi")
    refused, missing = answers[2]["error"], answers[3]["error"]
    assert (refused["code"], refused["data"]["server"], refused["data"]["retryable"]) == (1004, "b", True)
    assert (missing["code"], missing["data"]["server"], missing["data"]["path"]) == (1003, "c", "/no/such/command")
    assert missing["message"] == "stdio: no such file or directory: server 'c': /no/such/command"
    assert all(tool["name"].startswith("a__") for tool in answers[4]["result"]["tools"])
    instructions = answers[0]["result"]["instructions"]
    assert "'b' is unavailable" in instructions and "'c' is unavailable" in instructions


@pytest.mark.requirement("cli.router.initialize-empty")
def test_an_empty_initialize_is_answered(tmp_path: Path) -> None:
    answers, status, _ = router(says=[{"id": "x", "method": "initialize", "params": {}}], folder=tmp_path)
    assert status == 0
    assert answers["x"]["result"].keys() >= {"protocolVersion", "capabilities", "serverInfo"}
    assert answers["x"]["result"]["protocolVersion"] == "2025-11-25"


@pytest.mark.requirement("cli.stdin-eof")
def test_a_call_under_way_at_the_end_of_input_is_answered_and_one_too_long_gets_its_deadline(tmp_path: Path) -> None:
    says = conversation(call("sleep", seconds=0.3), call("sleep", seconds=60))
    answers, status, _ = router("--", *DEMO, says=says, folder=tmp_path, MCPBRIDGE_LOCAL__REQUEST_TIMEOUT_MS="1500")
    assert (status, "result" in answers[1], answers[2]["error"]["code"]) == (0, True, 1008)


@pytest.mark.requirement("cli.stdin-eof")
def test_a_line_that_is_no_json_stops_nothing(tmp_path: Path) -> None:
    answers, status, _ = router("--", *DEMO, says=["no json", *conversation(call("echo", text="hi"))], folder=tmp_path)
    assert (status, answers[None]["error"]["code"], "result" in answers[1]) == (0, -32700, True)
