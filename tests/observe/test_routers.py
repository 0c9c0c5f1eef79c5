"""Sockets of running routers: whose directory it is, and what becomes of those that dead ones left."""

from __future__ import annotations

import os
import socket
import stat
import sys
from pathlib import Path

import pytest

from mcpbridge.observe.routers import new_socket, pid_of, runtime_directory, sockets

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="unix sockets")


@pytest.fixture(autouse=True)
def runtime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    return tmp_path / "mcpbridge"


def listening(path: Path) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX)
    sock.bind(str(path))
    sock.listen(1)
    return sock


def test_the_directory_is_made_for_its_owner_alone_and_one_that_was_wider_is_closed(runtime: Path) -> None:
    assert new_socket().parent == runtime
    assert stat.S_IMODE(runtime.stat().st_mode) == 0o700
    runtime.chmod(0o777)
    new_socket()
    assert stat.S_IMODE(runtime.stat().st_mode) == 0o700


def test_a_link_in_place_of_the_directory_is_refused_and_nothing_is_looked_for_behind_it(runtime: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    runtime.symlink_to(other)
    with pytest.raises(OSError, match="link"):
        new_socket()
    with listening(other / f"router-{os.getpid()}-0000.sock"):
        assert sockets() == []


def test_without_a_runtime_directory_of_ours_the_state_directory_has_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for given in ("", "relative", str(tmp_path / "missing")):
        monkeypatch.setenv("XDG_RUNTIME_DIR", given)
        assert runtime_directory() == tmp_path / "state" / "mcpbridge" / "run"
    assert new_socket().parent == tmp_path / "state" / "mcpbridge" / "run"


def test_those_who_listen_are_found_by_number_and_what_dead_ones_left_is_removed(runtime: Path) -> None:
    runtime.mkdir(mode=0o700)
    alive = [runtime / "router-12-aaaa.sock", runtime / "router-9-bbbb.sock"]
    dead, note, named = runtime / "router-3-cccc.sock", runtime / "router-4-dddd.sock", runtime / "other.sock"
    listening(dead).close()
    listening(named).close()
    note.write_text("no socket")
    with listening(alive[0]), listening(alive[1]):
        assert sockets() == [alive[1], alive[0]]
    assert not dead.exists()
    assert note.exists() and named.exists(), "only sockets of routers are ours to remove"
    assert [pid_of(path) for path in (*alive, named)] == [12, 9, 0]
