"""What a child is started with."""

from __future__ import annotations

import os

import pytest

from mcpbridge.errors import BridgeError
from mcpbridge.observe.redact import redact
from mcpbridge.transports.stdio import launch
from mcpbridge.transports.stdio.launch import environment, prepare


def program(path, mode=0o755):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("#!/bin/sh\n")
    path.chmod(mode)
    return path


def test_our_secrets_and_settings_stay_here_unless_the_configuration_names_them():
    secrets = {"JWT_SECRET": "a", "MCP_AUTH_TOKEN": "b", "MCPBRIDGE_SEAL_KEY": "c", "REDIS_PASSWORD": "d"}
    ours = {"PATH": "/bin", "HOME": "/h", **secrets}
    assert environment(ours, {"X": "1"}) == {"PATH": "/bin", "HOME": "/h", "X": "1"}
    assert environment(ours, {"REDIS_PASSWORD": "d"})["REDIS_PASSWORD"] == "d"


def test_a_bare_command_is_found_in_the_childs_own_path(tmp_path):
    tool = program(tmp_path / "bin" / "tool")
    assert prepare(["tool"], {"PATH": str(tool.parent)}, None).path == str(tool)


def test_a_relative_command_is_found_from_the_childs_directory(tmp_path):
    tool = program(tmp_path / "bin" / "tool")
    launch = prepare(["bin/tool", "x"], {}, str(tmp_path))
    assert (launch.path, launch.argv, launch.cwd) == (str(tool), ["bin/tool", "x"], str(tmp_path))


def test_a_relative_path_directory_gives_an_absolute_program(tmp_path):
    tool = program(tmp_path / "bin" / "tool")
    assert os.path.isabs(prepare(["tool"], {"PATH": os.path.relpath(tool.parent)}, None).path)


def test_home_is_expanded_in_command_and_directory(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    tool = program(tmp_path / "bin" / "tool")
    launch = prepare(["~/bin/tool"], {}, "~/bin")
    assert (launch.path, launch.argv, launch.cwd) == (str(tool), ["~/bin/tool"], str(tool.parent))


@pytest.mark.parametrize(
    ("argv", "cwd", "reason", "path"),
    [
        (["no-such-tool"], None, "stdio_no_such_file", "no-such-tool"),
        (["./no-such-tool"], "/", "stdio_no_such_file", "./no-such-tool"),
        (["true"], "/no/such/place", "stdio_no_such_file", "/no/such/place"),
        ([], None, "stdio_no_such_file", ""),
        ([""], None, "stdio_no_such_file", ""),
        (["true", "a\0b"], None, "stdio_cannot_start", "true"),
        (["/etc/passwd"], None, "stdio_cannot_start", "/etc/passwd"),
    ],
)
def test_what_cannot_be_started_is_refused_by_name_before_anything_runs(argv, cwd, reason, path):
    with pytest.raises(BridgeError) as caught:
        prepare(argv, {}, cwd)
    assert (caught.value.reason, caught.value.data["path"], caught.value.sent) == (reason, path, False)


def test_secrets_of_the_configuration_are_never_logged_afterwards():
    prepare(["true"], {"WEATHER_API_KEY": "correct-horse-battery", "CITY": "Reykjavik"}, None)
    assert redact("correct-horse-battery in Reykjavik") == "*** in Reykjavik"


def test_a_secret_of_the_bridge_stays_here_whatever_its_variable_is_called(monkeypatch):
    monkeypatch.setattr(launch, "_withheld", set())
    monkeypatch.setenv("CI_TOKEN", "kept-here-0123456789")
    monkeypatch.setenv("DOCS_TOKEN", "sent-to-one-server")
    monkeypatch.setenv("CITY", "Reykjavik")
    monkeypatch.setenv("API_TOKEN", "part-of-a-header")
    monkeypatch.setenv("SHORT", "Bearer")
    launch.withhold(["kept-here-0123456789", "Bearer part-of-a-header", ""], ["DOCS_TOKEN", ""])
    passed = environment(os.environ, {})
    assert {"CI_TOKEN", "DOCS_TOKEN", "API_TOKEN"} & passed.keys() == set()
    assert (passed["CITY"], passed["SHORT"]) == ("Reykjavik", "Bearer")
    assert environment(os.environ, {"CI_TOKEN": "x"})["CI_TOKEN"] == "x"
