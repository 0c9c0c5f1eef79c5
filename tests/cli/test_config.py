"""``config validate``, ``show`` and ``schema``."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mcpbridge.cli import main


def test_where_a_file_is_looked_for_is_told_and_which_is_taken(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("MCPBRIDGE_CONFIG", raising=False)
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    assert main(["mcpbridge", "config", "path", "--for", "router", "--json"]) in (0, 66)
    places = json.loads(capsys.readouterr().out)["searched"]
    assert places[0] == str(tmp_path / ".config/mcpbridge/router.yaml")
    guides = tmp_path / ".config/claude-cli/mcp-router.yaml"
    guides.parent.mkdir(parents=True)
    guides.write_text("servers: []\n")
    assert main(["mcp-router", "config", "path"]) == 0
    assert capsys.readouterr().out.splitlines()[:2] == [f"- {places[0]}", f"* {guides}"]
    monkeypatch.setenv("MCPBRIDGE_CONFIG", str(tmp_path / "gone.yaml"))
    assert main(["mcpbridge", "config", "path", "--for", "gateway"]) == 66
    assert capsys.readouterr().out == f"- {tmp_path / 'gone.yaml'}\n"


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    monkeypatch.chdir(tmp_path)


def test_validate_says_ok_or_lists_every_fault(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "gateway.yaml").write_text("server: {port: 1}\nmcpServers: {me: {command: mcpbridge}}\n")
    assert main(["mcpbridge", "config", "validate", "gateway.yaml"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "warning: gateway.yaml:2:14: mcpServers.me: this is mcpbridge itself; skipped",
        "gateway.yaml: ok (gateway)",
    ]
    (tmp_path / "gateway.yaml").write_text("server: {prot: 1}\nrouting: 5\n")
    assert main(["mcpbridge", "config", "validate", "gateway.yaml"]) == 78
    assert [line.split(": ", 1)[1] for line in capsys.readouterr().err.splitlines()] == [
        "gateway.yaml:1:10: server.prot: unknown key (did you mean port?)",
        "gateway.yaml:2:10: routing: must be a mapping, not '5'",
    ]
    assert main(["mcpbridge", "config", "validate", "none.yaml"]) == 66


def test_validate_as_json_has_places_in_fields(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "mcp-router.yaml").write_text("gatway: {}\n")
    assert main(["mcpbridge", "config", "validate", "--json", "mcp-router.yaml"]) == 78
    document = json.loads(capsys.readouterr().out)
    assert (document["schema"], document["ok"], document["program"]) == ("mcpbridge.config-check/v1", False, "router")
    assert document["problems"] == [
        {"file": "mcp-router.yaml", "line": 1, "column": 1, "key": "gatway", "message": "gatway: unknown key",
         "hint": "did you mean gateway?"}
    ]  # fmt: skip
    (tmp_path / "mcp-router.yaml").write_text("gateway: {}\n")
    assert main(["mcpbridge", "config", "validate", "--json", "mcp-router.yaml"]) == 0
    assert json.loads(capsys.readouterr().out)["ok"] is True


def test_whose_rows_hold_follows_the_option_the_called_name_and_the_file_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "x.yaml").write_text("gateway: {url: 'http://x/'}\n")
    (tmp_path / "router.yaml").write_text("gateway: {url: 'http://x/'}\n")
    assert main(["mcpbridge", "config", "validate", "x.yaml"]) == 78
    assert main(["mcpbridge", "config", "validate", "x.yaml", "--for", "router"]) == 0
    assert main(["mcp-router", "config", "validate", "x.yaml"]) == 0
    assert main(["mcpbridge", "config", "validate", "router.yaml"]) == 0
    capsys.readouterr()


def test_show_names_origins_and_hides_secrets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    secret = "kX9v2mQ7pL4sR8tY1wZ5bN3cF6hJ0dG="
    monkeypatch.setenv("JWT_SECRET", secret)
    assert main(["mcpbridge", "config", "show", "--origin"]) == 0
    out = capsys.readouterr().out
    assert secret not in out and "auth.jwt.secret: <set, 32 chars>" in out and "# env JWT_SECRET" in out
    assert main(["mcpbridge", "config", "show", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["values"]["auth.jwt.secret"] == {"value": "<set, 32 chars>", "origin": "env", "from": "JWT_SECRET"}


@pytest.mark.parametrize("program", ["gateway", "router"])
def test_the_schema_is_one_json_document(program: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["mcpbridge", "config", "schema", "--for", program]) == 0
    assert json.loads(capsys.readouterr().out)["title"] == f"mcpbridge {program} configuration"
