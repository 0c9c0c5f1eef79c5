"""A real keychain, gnome-keyring on a bus of its own: unlocked, locked, never opened, and no bus at all."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support.peers import environment

pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(shutil.which("gnome-keyring-daemon") is None, reason="gnome-keyring is not installed"),
]
SECRET = "sé-cret-" + "x" * 3000
UNLOCK = "echo -n {} | gnome-keyring-daemon --unlock --components=secrets >/dev/null 2>&1; "


def session(home: Path, script: str, *, bus: bool = True) -> list[tuple[int, Any]]:
    """Run each line ``mcpbridge ARGS`` of a script; exit statuses and JSON documents of all in order."""
    env = {**environment(), "HOME": str(home), "XDG_RUNTIME_DIR": str(home / "run"), "BRIDGE": f"{sys.executable} -m mcpbridge"}
    for name in ("DBUS_SESSION_BUS_ADDRESS", "DISPLAY", "WAYLAND_DISPLAY", "XDG_DATA_HOME", "PYTHON_KEYRING_BACKEND"):
        env.pop(name, None)
    env["PYTHONPATH"] = os.getcwd()
    (home / "run").mkdir(mode=0o700, exist_ok=True)
    shell = ["bash", "-c", script]
    done = subprocess.run(
        ["dbus-run-session", "--", *shell] if bus else shell,
        env=env, capture_output=True, text=True, timeout=60, cwd=home,
    )  # fmt: skip
    lines = [line for line in done.stdout.splitlines() if line.startswith(("{", "exit "))]
    assert len(lines) % 2 == 0, (done.stdout, done.stderr)
    return [(int(code.removeprefix("exit ")), json.loads(said)) for said, code in zip(lines[::2], lines[1::2], strict=True)]


def line(arguments: str) -> str:
    return f"$BRIDGE token {arguments} --json; echo exit $?; "


@pytest.mark.requirement("cli.token.store")
def test_a_secret_survives_the_session_and_a_wrong_password_says_that_the_keychain_is_locked(tmp_path: Path) -> None:
    (tmp_path / "value").write_text(SECRET + "\n")
    first = session(tmp_path, UNLOCK.format("right") + line("set k --file value") + line("list"))
    assert [code for code, _ in first] == [0, 0] and first[0][1]["store"] == "keychain"
    assert [row["name"] for row in first[1][1]["secrets"]] == ["k"]
    (shown,) = session(tmp_path, UNLOCK.format("right") + line("get k --reveal"))
    assert shown == (0, {"schema": "mcpbridge.secrets/v1", "name": "k", "value": SECRET})
    locked = session(tmp_path, UNLOCK.format("wrong") + line("get k --reveal") + line("set k --file value"))
    assert [(code, said["code"]) for code, said in locked] == [(75, "MCPB-KEY-LOCKED")] * 2
    assert "--store file" in locked[1][1]["error"]
    gone = session(tmp_path, UNLOCK.format("right") + line("delete k") + line("get k --reveal"))
    assert [code for code, _ in gone] == [0, 66]


def test_a_keychain_that_nobody_ever_opened_is_not_taken_for_one(tmp_path: Path) -> None:
    (tmp_path / "value").write_text("abc")
    script = "gnome-keyring-daemon --start --components=secrets >/dev/null 2>&1; "
    ((code, said),) = session(tmp_path, script + line("set k --file value"))
    assert (code, said["code"]) == (75, "MCPB-KEY-LOCKED")


def test_without_a_bus_there_is_no_keychain_and_the_file_has_to_be_asked_for(tmp_path: Path) -> None:
    (tmp_path / "value").write_text("abc")
    script = line("set k --file value") + line("set k --file value --store file") + line("get k --reveal")
    none, stored, shown = session(tmp_path, script, bus=False)
    assert (none[0], none[1]["code"]) == (75, "MCPB-KEY-NONE") and stored[0] == 0
    assert shown[1]["value"] == "abc"
