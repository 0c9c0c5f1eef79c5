"""The logs that routers keep for themselves, and ``mcpbridge logs``."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from mcpbridge.cli import main
from mcpbridge.observe import journal as journals
from mcpbridge.observe.journal import KEPT, SIZE, Journal, journal, log_directory, logs, previous


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    monkeypatch.setenv("NO_COLOR", "1")
    return tmp_path / "mcpbridge/logs"


def line(number: int, *, server: str = "memory", level: str = "info") -> str:
    at = f"2026-11-27T10:00:{number:02d}.000Z"
    members = {
        "time": at,
        "level": level,
        "message": f"said {number}",
        "component": "link",
        "protocol": "stdio",
        "server": server,
    }
    return json.dumps(members)


def told(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main(["mcpbridge", "logs", *arguments]) == 0
    return capsys.readouterr().out


def test_a_log_is_its_owners_alone_and_two_files_hold_five_megabytes(state: Path) -> None:
    one = journal()
    assert one is not None
    assert (stat.S_IMODE(one.path.stat().st_mode), stat.S_IMODE(state.stat().st_mode)) == (0o600, 0o700)
    text = "x" * 99_999
    for _ in range(60):
        one.write(text)
    sizes = [path.stat().st_size for path in logs()]
    assert len(sizes) == 2 and max(sizes) <= SIZE // 2 and sum(sizes) >= 2_500_000
    assert previous(one.path).exists()


def test_a_log_that_cannot_be_written_costs_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mcpbridge").write_text("")  # where its directory would be
    assert journal() is None
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "other"))
    one = journal()
    assert one is not None
    os.close(one._descriptor)
    one.write("lost")


def test_a_planted_link_is_not_followed(state: Path, tmp_path: Path) -> None:
    state.mkdir(parents=True)
    target = tmp_path / "target"
    (state / f"router-{os.getpid()}.log").symlink_to(target)
    assert journal() is None and not target.exists()


def test_logs_of_routers_that_ended_are_kept_for_a_while(state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    state.mkdir(parents=True)
    for number in range(KEPT + 5):
        path = state / f"router-{9_000_000 + number}.log"
        path.write_text(line(number) + "\n")
        previous(path).write_text("")
        os.utime(path, (number, number))
    monkeypatch.setattr(journals, "is_running", lambda path: path.name == "router-9000000.log")
    assert journal() is not None
    left = {path.name for path in state.iterdir()}
    assert "router-9000000.log" in left  # it runs
    assert "router-9000003.log" not in left and "router-9000003.log.1" not in left
    assert f"router-{9_000_000 + KEPT + 4}.log" in left


@pytest.mark.requirement("cli.logs")
def test_the_lines_of_all_routers_come_in_the_order_of_their_time(state: Path, capsys: pytest.CaptureFixture[str]) -> None:
    state.mkdir(parents=True)
    (state / "router-1.log.1").write_text(line(1) + "\n")
    (state / "router-1.log").write_text(line(3, server="time") + "\n" + line(5, level="warn") + "\nno JSON\n" + line(6)[:20])
    (state / "router-2.log").write_text(line(2) + "\n" + line(4) + "\n")
    assert [one.split(": ")[1].split("  ")[0] for one in told(capsys).splitlines()] == [f"said {n}" for n in range(1, 6)]
    assert told(capsys).splitlines()[4] == "2026-11-27T10:00:05.000Z WARN  link: said 5  protocol=stdio  server=memory"
    assert [json.loads(one)["message"] for one in told(capsys, "--json", "-n", "2").splitlines()] == ["said 4", "said 5"]
    assert told(capsys, "--server", "time", "--json").splitlines() == [line(3, server="time")]
    assert told(capsys, "--level", "warn", "--json").splitlines() == [line(5, level="warn")]


def test_where_no_router_ran_that_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["mcpbridge", "logs"]) == 0
    said = capsys.readouterr()
    assert said.out == "" and str(log_directory()) in said.err
    assert main(["mcpbridge", "logs", "-n", "-1"]) == 64


@pytest.mark.requirement("cli.logs")
def test_a_router_writes_what_its_editor_swallows_and_following_shows_it(tmp_path: Path) -> None:
    """Followed over the change of files when one is full."""
    env = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "XDG_STATE_HOME": str(tmp_path)}
    secret = "sk-" + "a1B2" * 10
    command = [sys.executable, "-m", "mcpbridge", "router", "--log-level", "debug", "--server", f"gone=/nowhere/{secret}"]
    ran = subprocess.run(command, env=env, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL, timeout=30, check=False)
    assert ran.returncode == 0
    (path,) = logs()
    assert "protocol assigned" in path.read_text()
    follow = [sys.executable, "-m", "mcpbridge", "logs", "-f", "--json", "-n", "0"]
    with subprocess.Popen(follow, env=env, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        one = Journal(path)
        seen: list[dict[str, Any]] = []
        number = 0
        while not seen:  # from the moment that it looks
            one.write(json.dumps({"time": "2030", "level": "info", "message": str(number)}))
            number += 1
            import select

            if select.select([process.stdout], [], [], 0.3)[0]:
                seen.append(json.loads(process.stdout.readline()))
        one.write(json.dumps({"time": "2030", "level": "info", "message": "x" * (SIZE // 2 - one._size - 200)}))
        one.write(json.dumps({"time": "2031", "level": "info", "message": "y" * 300}))  # in a file of its own
        for raw in process.stdout:
            seen.append(json.loads(raw))
            if seen[-1]["time"] == "2031":
                break
        process.terminate()
    assert previous(path).exists()
    numbers = [int(entry["message"]) for entry in seen if entry["message"].isdigit()]
    assert numbers == list(range(numbers[0], number))
