"""``mcpbridge doctor``: what is wrong is named with its cause and the next step; what is safe is mended when asked."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
import time
import zipfile
from pathlib import Path
from typing import Any

import pytest

from mcpbridge.cli import main
from tests.support.peers import free_port

SECRET = "sk-proj-4f3c2b1a0f9e8d7c6b5a4f3c2b1a0f9e"


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for variable in (
        "XDG_STATE_HOME",
        "XDG_CONFIG_HOME",
        "XDG_DATA_HOME",
        "MCPBRIDGE_CONFIG",
        "MCP_GATEWAY_URL",
        "MCP_AUTH_TOKEN",
    ):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".config/mcpbridge").mkdir(parents=True)
    return tmp_path


def configure(home: Path, document: dict[str, Any]) -> Path:
    path = home / ".config/mcpbridge/router.yaml"
    path.write_text(json.dumps(document))
    path.chmod(0o600)
    return path


def examined(capsys: pytest.CaptureFixture[str], *arguments: str, status: int) -> dict[str, dict[str, Any]]:
    """The findings by their check."""
    assert main(["mcpbridge", "doctor", "--json", "--timeout", "20", *arguments]) == status
    document = json.loads(capsys.readouterr().out)
    assert (document["schema"], document["ok"]) == ("mcpbridge.doctor/v1", status == 0)
    return {finding["check"]: finding for finding in document["checks"]}


@pytest.mark.requirement("cli.doctor")
def test_servers_that_work_and_that_do_not_are_told_apart(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    servers = [
        {"name": "demo", "command": sys.executable, "args": ["-m", "mcpbridge.demo.stdio"], "env": {"PYTHONPATH": os.getcwd()}},
        {"name": "gone", "command": "/nowhere/server"},
    ]
    servers[0]["cwd"] = str(Path(__file__).resolve().parents[2])
    configure(home, {"servers": servers, "gateway": {"url": f"http://127.0.0.1:{free_port()}", "auth": {"type": "none"}}})
    found = examined(capsys, status=1)
    assert found["server demo"]["state"] == "ok" and "tools" in found["server demo"]["detail"]
    assert found["server gone"]["state"] == "fail" and "/nowhere/server" in found["server gone"]["detail"]
    assert found["server gone"]["action"]
    assert found["gateway"]["state"] == "fail" and "connect" in found["gateway"]["detail"] and found["gateway"]["action"]


@pytest.mark.requirement("cli.doctor")
def test_a_home_without_anything_is_well(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = examined(capsys, status=0)
    assert found["router configuration"]["detail"].startswith("no file")
    assert main(["mcpbridge", "doctor"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "nothing is wrong"


def test_a_broken_configuration_is_named_with_its_place(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = home / ".config/mcpbridge/router.yaml"
    path.write_text("servers: []\nloging:\n  level: info\n")
    found = examined(capsys, status=1)["router configuration"]
    assert f"{path}:2:1" in found["detail"] and "logging" in found["action"]


@pytest.mark.skipif(os.name != "posix", reason="modes of files")
def test_a_token_that_others_can_read_is_mended_only_when_asked(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    token = home / "token"
    token.write_text(SECRET)
    token.chmod(0o644)
    configure(home, {"gateway": {"url": f"http://127.0.0.1:{free_port()}", "auth": {"token_file": str(token)}}})
    assert examined(capsys, status=1)["token file"]["action"] == f"chmod 600 {token}"
    assert stat.S_IMODE(token.stat().st_mode) == 0o644
    assert examined(capsys, "--fix", status=1)["token file"]["state"] == "ok"  # the gateway is still not there
    assert stat.S_IMODE(token.stat().st_mode) == 0o600


def test_clients_whose_file_is_broken_or_whose_program_is_gone_are_named(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (home / ".cursor").mkdir()
    (home / ".cursor/mcp.json").write_text(
        json.dumps({"mcpServers": {"all": {"command": "/old/bin/mcpbridge", "args": ["router"]}}})
    )
    (home / ".codeium/windsurf").mkdir(parents=True)
    (home / ".codeium/windsurf/mcp_config.json").write_text('{"mcpServers": {')
    found = examined(capsys, status=1)
    assert "/old/bin/mcpbridge" in found["client cursor"]["detail"] and "clients add cursor" in found["client cursor"]["action"]
    assert "mcp_config.json:1:" in found["client windsurf"]["detail"]


def test_what_routers_logged_yesterday_is_told(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = home / ".local/state/mcpbridge/logs"
    folder.mkdir(parents=True)
    now = time.strftime("%Y-%m-%dT%H:%M:%S.000Z", time.gmtime())
    lines = [
        {"time": at, "level": "error", "message": said} for at, said in (("2020-01-01T00:00:00.000Z", "old"), (now, "new"))
    ]
    (folder / "router-1.log").write_text("".join(json.dumps(line) + "\n" for line in lines))
    found = examined(capsys, status=0)["routers"]
    assert (found["state"], found["detail"]) == ("warn", "1 errors since yesterday; newest: new")


def test_a_bundle_has_no_secret_and_never_replaces_a_file(home: Path) -> None:
    env = {
        "PATH": os.environ["PATH"],
        "HOME": str(home),
        "API_KEY": SECRET,
        "PYTHONPATH": str(Path(__file__).resolve().parents[2]),
    }
    headers = {"Authorization": f"Bearer {SECRET}", "X-Api-Key": "${API_KEY}"}
    server = {"name": "web", "url": f"http://127.0.0.1:{free_port()}/mcp?key={SECRET}", "protocol": "http", "headers": headers}
    configure(home, {"servers": [server]})
    command = [sys.executable, "-m", "mcpbridge", "doctor", "--bundle", str(home / "report.zip")]
    first = subprocess.run(command, env=env, cwd=home, capture_output=True, text=True, timeout=50, check=False)
    assert first.returncode == 1 and "report.zip" in first.stderr, first.stderr
    assert SECRET not in first.stdout + first.stderr
    assert stat.S_IMODE((home / "report.zip").stat().st_mode) == 0o600
    with zipfile.ZipFile(home / "report.zip") as archive:
        assert {"doctor.json", "machine.json", "router.json"} <= set(archive.namelist())
        assert all(SECRET.encode() not in archive.read(name) for name in archive.namelist())
    again = subprocess.run(command, env=env, cwd=home, capture_output=True, text=True, timeout=50, check=False)
    assert again.returncode == 73 and "exists" in again.stderr
