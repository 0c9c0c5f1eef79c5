"""``mcpbridge tools --disable``: which file it changes, what it shows, and when it changes nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from mcpbridge.cli import main

ROUTER = "servers:\n- name: files  # mine\n  command: x\n- name: other\n  command: y\n"


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "xdg"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "xdg/mcpbridge").mkdir(parents=True)
    return tmp_path / "xdg/mcpbridge"


def tools(*arguments: str) -> int:
    return main(["mcpbridge", "tools", *arguments])


def test_one_line_is_added_shown_kept_as_backup_and_taken_back(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (home / "router.yaml").write_text(ROUTER)
    assert tools("--disable", "files", "delete_*", "--dry-run") == 0
    assert '+  tools: {deny: ["delete_*"]}' in capsys.readouterr().out
    assert (home / "router.yaml").read_text() == ROUTER
    assert tools("--disable", "files", "delete_*") == 0
    assert (home / "router.yaml").read_text() == ROUTER.replace(
        "  command: x\n", '  command: x\n  tools: {deny: ["delete_*"]}\n'
    )
    (backup,) = [path for path in home.iterdir() if path.name != "router.yaml"]
    assert backup.read_text() == ROUTER and str(backup) in capsys.readouterr().out
    assert tools("--disable", "files", "delete_*") == 0
    assert "already" in capsys.readouterr().out
    assert tools("--enable", "files", "delete_*") == 0
    assert "tools: {deny: []}" in (home / "router.yaml").read_text()


def test_the_gateways_file_is_changed_when_it_has_the_server(home: Path) -> None:
    (home / "router.yaml").write_text(ROUTER)
    (home / "gateway.yaml").write_text("auth: {type: none}\nservers: [{name: far, url: 'http://127.0.0.1:1/mcp'}]\n")
    assert tools("--disable", "far", "x") == 0
    assert "tools: {deny: [x]}" in (home / "gateway.yaml").read_text()
    assert (home / "router.yaml").read_text() == ROUTER


def test_a_file_whose_anchor_would_change_two_servers_is_left_alone(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = "servers:\n- {name: files, command: x, tools: &t {deny: [a]}}\n- {name: other, command: y, tools: *t}\n"
    (home / "router.yaml").write_text(text)
    assert tools("--disable", "files", "b") == 78
    assert "by hand" in capsys.readouterr().err and (home / "router.yaml").read_text() == text


def test_an_unknown_server_a_missing_file_and_a_broken_one_are_said(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert tools("--disable", "files", "b") == 66
    (home / "router.yaml").write_text(ROUTER)
    assert tools("--disable", "fiels", "b") == 78
    assert "no server is named 'fiels'" in capsys.readouterr().err
    (home / "router.yaml").write_text(ROUTER + "nonsense: 1\n")
    assert tools("--disable", "files", "b") == 78
    assert "router.yaml:6" in capsys.readouterr().err
    assert tools("--enable", "files", "b", "--config", str(home / "none.yaml")) == 66
    assert tools("--disable", "files", "b", "http://h/") == 64
