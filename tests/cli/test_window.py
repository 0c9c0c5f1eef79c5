"""Which gateway ``status`` and ``tui`` look at, and what they say when none answers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mcpbridge.cli import main
from mcpbridge.cli.window import DEFAULT_URL, _management_address, window_parser
from mcpbridge.cli.window import where as found


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    monkeypatch.chdir(tmp_path)


def where(*arguments: str) -> tuple[str, str | None]:
    parser = window_parser("mcpbridge status", "x", [("x", "y")])
    return found(parser, parser.parse(list(arguments)))


def test_the_address_is_the_option_the_variable_the_configuration_or_the_default(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert where() == (DEFAULT_URL, None)
    (tmp_path / "config").mkdir()
    (tmp_path / "config/gateway.yaml").write_text("metrics: {endpoint: '0.0.0.0:9999'}\nauth: {type: none}\n")
    assert where() == ("http://127.0.0.1:9999", None)
    monkeypatch.setenv("MCP_GATEWAY_URL", "https://g.example/mcp")
    monkeypatch.setenv("MCP_AUTH_TOKEN", " token\n")
    assert where() == ("https://g.example/mcp", "token")
    monkeypatch.setenv("OTHER", "second")
    assert where("--gateway", "http://h/", "--token-env", "OTHER") == ("http://h/", "second")


def test_a_configuration_that_is_broken_is_said_and_the_default_tried(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "config").mkdir()
    (tmp_path / "config/gateway.yaml").write_text("metrics: {endpoint: here}\n")
    assert _management_address() == DEFAULT_URL
    assert "metrics.endpoint: must be host:port" in capsys.readouterr().err


def test_an_ipv6_endpoint_becomes_an_address(tmp_path: Path) -> None:
    (tmp_path / "config").mkdir()
    (tmp_path / "config/gateway.yaml").write_text("metrics: {endpoint: '[::1]:9}'}\n".replace("9}", "9"))
    assert _management_address() == "http://[::1]:9"


def test_a_gateway_that_is_not_there_is_2(free_port: int, capsys: pytest.CaptureFixture[str]) -> None:
    url = f"http://127.0.0.1:{free_port}"
    assert main(["mcpbridge", "status", "--gateway", url]) == 2
    assert "mcpbridge gateway" in capsys.readouterr().out
    assert main(["mcpbridge", "status", "--json", "--gateway", url]) == 2
    document = json.loads(capsys.readouterr().out)
    assert (document["ok"], document["url"]) == (False, url)
    assert main(["mcpbridge", "tui", "--once", "--gateway", url]) == 2
