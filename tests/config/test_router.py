"""What no row of the router can check alone."""

from __future__ import annotations

from mcpbridge.config.problems import Place
from mcpbridge.config.router import RouterConfig, check
from mcpbridge.config.rows import build
from mcpbridge.config.sections import ServerSpec


def test_logs_never_go_to_stdout() -> None:
    config = build(RouterConfig, {"logging.output": "stdout"})
    (problem,) = check(config, {"logging.output": Place("r.yaml", 3, 4)})
    assert str(problem) == "r.yaml:3:4: logging.output: stdout carries MCP messages only (use stderr or a file path)"
    assert check(RouterConfig(), {}) == []


def test_direct_servers_can_be_switched_off() -> None:
    values = {"direct_clients.servers": (ServerSpec(name="a"),)}
    assert [spec.name for spec in build(RouterConfig, values).servers] == ["a"]
    assert build(RouterConfig, {**values, "direct_clients.enabled": False}).servers == ()
