"""The README's first command, the way a person runs it: in the foreground, stopped with Ctrl-C."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]


def children(pid: int) -> list[int]:
    """All living descendants of a process (Linux)."""
    found = [int(child) for task in Path(f"/proc/{pid}/task").iterdir() for child in (task / "children").read_text().split()]
    return found + [grandchild for child in found for grandchild in children(child)]


def is_alive(pid: int) -> bool:
    stat = Path(f"/proc/{pid}/stat")
    return stat.exists() and stat.read_text().rpartition(")")[2].split()[0] != "Z"


def hears_ctrl_c() -> None:
    """A run in the background of a script inherits that Ctrl-C is ignored; a person at a terminal does not."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.requirement("cli.quickstart")
def test_ctrl_c_ends_it_and_everything_it_started():
    command = [sys.executable, "scripts/quickstart.py", "--calls", "3"]
    with subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, preexec_fn=hears_ctrl_c
    ) as process:
        assert process.stdout is not None
        said = []
        for line in process.stdout:
            said.append(line)
            if line.startswith("Ctrl-C"):
                break
        text = "".join(said)
        assert "router -> gateway -> stdio server" in text, text
        assert "median ms" in text
        started = children(process.pid)
        assert len(started) >= 3
        os.kill(process.pid, signal.SIGINT)
        assert process.wait(30) == 0
    assert [pid for pid in started if is_alive(pid)] == []
