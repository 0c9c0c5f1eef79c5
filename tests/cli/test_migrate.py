"""``mcpbridge config migrate``: the guide's file becomes ours, and nothing happens unasked."""

from __future__ import annotations

import io
import json
import os
import stat
from pathlib import Path

import pytest

from mcpbridge.cli import main
from mcpbridge.config.load import load_router

GUIDES = """\
# the gateway of my team
gateway:
  url: https://gw.example.com   # no path
  auth: {type: bearer, token_env: TEAM_TOKEN}
servers:
- name: time
  command: uvx
  args: [mcp-server-time]   # local
"""


class Home:
    def __init__(self, path: Path) -> None:
        self.old = path / ".config/claude-cli/mcp-router.yaml"
        self.new = path / "xdg/mcpbridge/router.yaml"
        self.old.parent.mkdir(parents=True)
        self.old.write_text(GUIDES)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    for name in ("HOME", "USERPROFILE"):
        monkeypatch.setenv(name, str(tmp_path))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "xdg"))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.chdir(tmp_path)
    return Home(tmp_path)


def migrate(*arguments: str) -> int:
    return main(["mcpbridge", "config", "migrate", *arguments])


@pytest.mark.requirement("cli.config.validate")
def test_the_file_is_copied_with_its_comments_and_loads_without_warning(home: Home, capsys: pytest.CaptureFixture[str]) -> None:
    assert migrate("--dry-run") == 0
    assert "+# the gateway of my team" in capsys.readouterr().out and not home.new.exists()
    assert migrate("--yes") == 0
    assert home.new.read_text() == GUIDES == home.old.read_text()
    assert stat.S_IMODE(home.new.stat().st_mode) == 0o600
    loaded = load_router(None, os.environ)
    assert (loaded.path, list(loaded.warnings), loaded.config.gateway.url) == (str(home.new), [], "https://gw.example.com")
    assert migrate("--yes") == 0
    assert "nothing to do" in capsys.readouterr().out


def test_undo_takes_it_back_and_the_old_file_counts_again(home: Home) -> None:
    migrate("--yes")
    assert migrate("--undo") == 0
    assert not home.new.exists() and not home.new.parent.exists()
    assert load_router(None, os.environ).path == str(home.old)


def test_a_file_of_ours_is_replaced_only_when_told_and_kept_as_backup(home: Home, capsys: pytest.CaptureFixture[str]) -> None:
    home.new.parent.mkdir(parents=True)
    home.new.write_text("version: 1\n")
    assert migrate("--yes") == 73
    assert "--replace" in capsys.readouterr().err and home.new.read_text() == "version: 1\n"
    assert migrate("--yes", "--replace") == 0
    assert home.new.read_text() == GUIDES
    assert migrate("--undo") == 0
    assert home.new.read_text() == "version: 1\n"


def test_nothing_is_written_without_a_yes(
    home: Home, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(""))
    assert migrate() == 64
    assert "--yes" in capsys.readouterr().err
    terminal = io.StringIO("n\n")
    monkeypatch.setattr(terminal, "isatty", lambda: True)
    monkeypatch.setattr("sys.stdin", terminal)
    assert migrate() == 0
    assert "nothing was written" in capsys.readouterr().out and not home.new.exists()


def test_a_file_that_does_not_load_or_is_not_there_is_said_with_its_place(
    home: Home, capsys: pytest.CaptureFixture[str]
) -> None:
    home.old.write_text(GUIDES.replace("gateway:", "gatewy:"))
    assert migrate("--yes") == 78
    said = capsys.readouterr().err
    assert f"{home.old}:2:1" in said and "did you mean gateway?" in said
    home.old.unlink()
    assert migrate("--yes", "--json") == 66
    document = json.loads(capsys.readouterr().out)
    assert (document["schema"], document["ok"]) == ("mcpbridge.config-migration/v1", False)
    assert not home.new.exists()


def test_as_a_document_and_without_the_secrets_of_the_file(home: Home, capsys: pytest.CaptureFixture[str]) -> None:
    secret = "0123456789abcdef0123456789abcdef01234567"
    home.old.write_text(f"servers:\n- name: a\n  url: https://x.example/mcp\n  headers: {{Authorization: Bearer {secret}}}\n")
    assert migrate("--dry-run") == 0
    assert secret not in capsys.readouterr().out
    assert migrate("--json", "--yes") == 0
    document = json.loads(capsys.readouterr().out)
    assert (document["from"], document["to"], document["written"]) == (str(home.old), str(home.new), True)
