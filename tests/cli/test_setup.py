"""``mcpbridge setup``: gaps are told at once, the gateway is tried, all is shown before it is written; and undo."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mcpbridge.cli import main
from mcpbridge.config.edit import with_keys
from mcpbridge.config.load import load_router
from mcpbridge.setup.answers import address, hazard
from tests.cli.test_stored import keychain, token
from tests.support import peers
from tests.support.keychains import MemoryKeychain
from tests.support.terminal import at_terminal

__all__ = ["keychain"]  # a fixture: every test here has a home and a keychain of its own
Out = pytest.CaptureFixture[str]
TOKEN = "caller-0123456789abcdef0123456789ab"
CURSOR = {
    "mcpServers": {"time": {"command": "uvx", "args": ["mcp-server-time"], "env": {"API_TOKEN": "sk-abcdefgh12345678XYZ"}}}
}


@pytest.fixture(autouse=True)
def _program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """mcpbridge is on PATH, and no variable of this machine counts."""
    program = tmp_path / "bin/mcpbridge"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m mcpbridge "$@"\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setattr(sys, "argv", ["mcpbridge", *sys.argv[1:]])
    for name in ("MCP_GATEWAY_URL", "MCP_AUTH_TOKEN", "XDG_STATE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a gateway that wants TOKEN."""
    file = tmp_path_factory.mktemp("gateway") / "gateway.yaml"
    config = {
        "server": {"tls": {"enabled": False}, "protocols": {"stdio": {"enabled": False}, "tcp_binary": {"enabled": False}}},
        "auth": {"type": "bearer", "static_tokens": [{"name": "caller", "token": TOKEN, "scopes": ["mcp:read", "mcp:write"]}]},
    }
    file.write_text(json.dumps(config))
    server = {"demo": [sys.executable, "-m", "mcpbridge.demo.stdio"]}
    with peers.gateway(server, file=file, MCPBRIDGE_SERVER__TCP_HEALTH_PORT="0") as running:
        yield running.base


def setup(*arguments: str, stdin: str = "") -> int:
    before = sys.stdin
    with open(os.devnull) as nothing:
        sys.stdin = nothing
        try:
            if stdin:
                path = Path("given")
                path.write_text(stdin)
                with path.open() as given:
                    sys.stdin = given
                    return main(["mcpbridge", "setup", *arguments])
            return main(["mcpbridge", "setup", *arguments])
        finally:
            sys.stdin = before


def said(capsys: Out) -> Any:
    return json.loads(capsys.readouterr().out)


@pytest.mark.requirement("cli.setup.batch")
def test_everything_that_is_missing_is_said_at_once_and_nothing_is_asked(capsys: Out, tmp_path: Path) -> None:
    assert setup("--yes", "--json") == 64
    errors = said(capsys)["errors"]
    assert len(errors) == 2 and "--gateway-url" in errors[0] and "--token-stdin" in errors[1]
    assert setup("--yes", "--gateway-url", "https://gw.example.com", "--auth", "mtls", "--json") == 64
    assert len(said(capsys)["errors"]) == 2
    assert setup() == 64 and "--yes" in capsys.readouterr().err
    assert not (tmp_path / ".config").exists()


@pytest.mark.requirement("cli.setup.batch", "cli.setup.dir", "cli.setup.loads", "cli.setup.test")
def test_a_token_is_tried_stored_and_referred_to_and_the_written_file_is_the_one_that_works(
    gateway: str, keychain: MemoryKeychain, capsys: Out, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / ".cursor").mkdir()
    assert setup("--yes", "--gateway-url", gateway, "--token-stdin", "--clients", "cursor", "--json", stdin=TOKEN) == 0
    document = said(capsys)
    assert [check["ok"] for check in document["checks"]] == [True] * len(document["checks"]) and len(document["checks"]) >= 4
    assert keychain.items == {("mcpbridge", "gateway-token"): TOKEN} and TOKEN not in json.dumps(document)
    path = tmp_path / ".config/mcpbridge/router.yaml"
    assert path.stat().st_mode & 0o777 == 0o600 and path.parent.stat().st_mode & 0o777 == 0o700
    loaded = load_router(None, {"HOME": str(tmp_path)})
    assert loaded.path == str(path) and not loaded.warnings
    assert (loaded.config.gateway.url, loaded.config.gateway.auth.token_secure_key) == (gateway, "gateway-token")
    assert TOKEN not in path.read_text()
    entry = json.loads((tmp_path / ".cursor/mcp.json").read_text())["mcpServers"]["mcpbridge"]
    assert entry == {"command": str(tmp_path / "bin/mcpbridge"), "args": ["router"]}
    capsys.readouterr()
    assert main(["mcpbridge", "test", "--fallback-mode", "--json"]) == 0, "the router's own way through the written file"
    assert said(capsys)["uses"].startswith("gateway")


@pytest.mark.requirement("cli.setup.test")
def test_a_token_that_is_refused_writes_nothing_and_says_code_and_next_step(
    gateway: str, keychain: MemoryKeychain, capsys: Out, tmp_path: Path
) -> None:
    assert setup("--yes", "--gateway-url", gateway, "--token-stdin", "--json", stdin="wrong-" + TOKEN) == 77
    document = said(capsys)
    assert (document["ok"], document["code"]) == (False, "MCPB-AUTH-401") and document["checks"][-1]["stage"] == "sign-in"
    assert keychain.items == {} and not (tmp_path / ".config").exists()
    assert setup("--yes", "--gateway-url", gateway, "--token-stdin", "--no-test", stdin="wrong-" + TOKEN) == 0


@pytest.mark.parametrize(
    ("url", "status", "code"),
    [
        ("http://127.0.0.1:1", 69, "MCPB-NET-REFUSED"),
        ("https://no-such-host.invalid", 69, "MCPB-NET-DNS"),
        ("{tls}", 76, "MCPB-TLS-NONE"),
    ],
)
def test_an_address_that_is_wrong_is_told_with_its_code(gateway: str, capsys: Out, url: str, status: int, code: str) -> None:
    url = url.replace("{tls}", gateway.replace("http", "https"))
    assert setup("--yes", "--gateway-url", url, "--token-stdin", "--json", stdin=TOKEN) == status
    document = said(capsys)
    assert document["code"] == code and document["errors"][1]


@pytest.mark.requirement("cli.setup.batch")
def test_a_dry_run_shows_every_change_and_writes_none(keychain: MemoryKeychain, capsys: Out, tmp_path: Path) -> None:
    (tmp_path / ".cursor").mkdir()
    (tmp_path / ".cursor/mcp.json").write_text(json.dumps(CURSOR))
    before = sorted(path for path in tmp_path.rglob("*"))
    arguments = ("--yes", "--no-gateway", "--import", "all", "--clients", "cursor", "--dry-run")
    assert setup(*arguments) == 0
    out = capsys.readouterr().out
    assert (
        "+  time:" in out and '-{"mcpServers"' in out and "would store time-api_token" in out and "nothing was written" in out
    )
    assert "sk-abcdefgh" not in out, "a secret of the file that is there was shown"
    assert sorted(path for path in tmp_path.rglob("*")) == before and keychain.items == {}


def test_servers_move_behind_mcpbridge_with_their_secrets_and_one_undo_takes_all_back(
    keychain: MemoryKeychain, capsys: Out, tmp_path: Path
) -> None:
    (tmp_path / ".cursor").mkdir()
    file = tmp_path / ".cursor/mcp.json"
    file.write_text(json.dumps(CURSOR))
    assert setup("--yes", "--no-gateway", "--import", "all", "--clients", "cursor") == 0
    assert list(json.loads(file.read_text())["mcpServers"]) == ["mcpbridge"]
    (spec,) = load_router(None, {"HOME": str(tmp_path)}).config.servers
    assert (spec.name, spec.endpoints[0].env) == ("time", {"API_TOKEN": "${secret:time-api_token}"})
    assert keychain.items == {("mcpbridge", "time-api_token"): "sk-abcdefgh12345678XYZ"}
    assert setup("--yes", "--no-gateway", "--import", "all", "--clients", "cursor") == 0, "a second time changes nothing"
    assert "everything was as it should be already" in capsys.readouterr().out
    assert setup("--undo", "--json") == 0
    assert len(said(capsys)["changes"]) == 2
    assert file.read_text() == json.dumps(CURSOR) and not (tmp_path / ".config/mcpbridge").exists()


@pytest.mark.requirement("cli.setup.dir")
def test_the_file_of_the_guide_is_taken_over_and_stays_as_it_is(capsys: Out, tmp_path: Path) -> None:
    older = tmp_path / ".config/claude-cli/mcp-router.yaml"
    older.parent.mkdir(parents=True)
    text = "# mine\nversion: 1\ngateway:\n  url: wss://old.example.com\nlocal:\n  request_timeout_ms: 5000\n"
    older.write_text(text)
    arguments = ("--yes", "--gateway-url", "new.example.com", "--token-env", "MINE", "--no-test")
    assert setup(*arguments) == 0
    assert f"note: begins with {older}" in capsys.readouterr().out and older.read_text() == text
    config = load_router(None, {"HOME": str(tmp_path), "MINE": "x"}).config
    assert (config.gateway.url, config.local.request_timeout, config.gateway.auth.token_env) == (
        "https://new.example.com", 5.0, "MINE")  # fmt: skip


def test_a_file_that_cannot_be_loaded_is_named_with_its_line_and_left_alone(capsys: Out, tmp_path: Path) -> None:
    path = tmp_path / ".config/mcpbridge/router.yaml"
    path.parent.mkdir(parents=True)
    for text, status, cause in (("gateway: {urll: x}\n", 78, "urll"), ("a: [\n", 78, f"{path}:2")):
        path.write_text(text)
        assert setup("--yes", "--no-gateway") == status
        assert cause in capsys.readouterr().err and path.read_text() == text


def test_a_clients_file_that_does_not_parse_stops_everything_before_anything_is_written(capsys: Out, tmp_path: Path) -> None:
    (tmp_path / ".cursor").mkdir()
    (tmp_path / ".cursor/mcp.json").write_text('{"mcpServers": {,}}')
    assert setup("--yes", "--no-gateway", "--clients", "cursor", "--json") == 65
    document = said(capsys)
    assert document["code"] == "MCPB-CFG-PARSE" and "mcp.json:1:" in document["errors"][0]
    assert not (tmp_path / ".config/mcpbridge").exists()


@pytest.mark.requirement("cli.setup")
def test_a_person_is_asked_step_by_step_and_sees_everything_before_it_is_written(gateway: str, tmp_path: Path) -> None:
    (tmp_path / ".cursor").mkdir()
    shown, status = at_terminal(
        ["setup", "--no-tui"],
        [
            ("empty: none", gateway),
            ("Sign in with", ""),
            ("Token (hidden)", "wrong-" + TOKEN),
            ("Keep it in", "file"),
            ("start mcpbridge", "cursor"),
            ("What now", "token"),
            ("Token (hidden)", TOKEN),
            ("Write it?", "y"),
        ],
        HOME=str(tmp_path), PATH=os.environ["PATH"], PYTHON_KEYRING_BACKEND="keyring.backends.fail.Keyring",
    )  # fmt: skip
    assert status == 0, shown
    assert "MCPB-AUTH-401" in shown and "+  url:" in shown and TOKEN not in shown
    assert shown.index("+  url:") < shown.index("Write it?") < shown.index("stored gateway-token in the encrypted file")
    assert token("get", "gateway-token", "--reveal") == 0
    assert list(json.loads((tmp_path / ".cursor/mcp.json").read_text())["mcpServers"]) == ["mcpbridge"]


def test_whoever_stops_has_written_nothing(tmp_path: Path) -> None:
    shown, status = at_terminal(["setup", "--no-tui"], [("empty: none", "\x04")], HOME=str(tmp_path))
    assert status == 130 and "nothing was written" in shown and not (tmp_path / ".config").exists()


@pytest.mark.parametrize(
    ("typed", "clean"),
    [
        ("gw.example.com", "https://gw.example.com"),
        (" https://gw.example.com/mcp/ ", "https://gw.example.com/mcp"),
        ("localhost:8443", "http://localhost:8443"),
        ("[::1]:9", "http://[::1]:9"),
        ("wss://gw.example.com", "wss://gw.example.com"),
        ('"https://gw.example.com"', "https://gw.example.com"),
        ("tcp://127.0.0.1:8444", "tcp://127.0.0.1:8444"),
    ],
)
def test_addresses_are_read_as_people_write_them(typed: str, clean: str) -> None:
    assert address(typed) == clean


@pytest.mark.parametrize(
    ("typed", "cause"),
    [
        ("", "is needed"),
        ("https://", "no host"),
        ("https://u:p@x.example", "would be logged"),
        ("ftp://x.example", "begins with"),
        ("unix:///run/x", "over the network"),
        ("https://x.example:99999", "cannot be read"),
        ("https://x example", "white space"),
    ],
)
def test_addresses_that_cannot_be_are_told_why(typed: str, cause: str) -> None:
    with pytest.raises(ValueError, match=cause) as caught:
        address(typed)
    assert "u:p" not in str(caught.value)


def test_only_a_token_in_the_clear_over_a_network_is_dangerous() -> None:
    assert hazard("http://gw.example.com") and hazard("ws://10.0.0.1:1")
    assert hazard("https://gw.example.com") is hazard("http://127.0.0.1:1") is hazard("") is None


def test_keys_are_set_and_everything_else_in_a_file_stays() -> None:
    text = (
        "# gone\nversion: 1\nservers:\n  - name: a\n    command: x\n    args: [--n, '1', 2]\n"
        "gateway: {url: 'wss://a', auth: {type: bearer}}\n"
    )
    values = {"gateway.url": "wss://b", "gateway.auth.type": None, "mcpServers": {"x.y": {"command": "c"}}}
    after = with_keys(text, "f", values)
    assert after == (
        'version: 1\nservers:\n  - name: "a"\n    command: x\n    args:\n      - --n\n      - "1"\n      - 2\n'
        'gateway:\n  url: "wss://b"\n  auth: {}\nmcpServers:\n  x.y:\n    command: "c"\n'
    ).replace('"a"', "a")
    assert with_keys(after, "f", {}) == after
