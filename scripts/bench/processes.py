"""Starting what is measured, pinning it, and reading the scheduler's account of it. Linux only.

CPU is the scheduler's own figure, in nanoseconds, of every thread that a process has or had: the clock of the process
(``clock_gettime`` on its id; the kernel sums what ``/proc/<pid>/task/*/schedstat`` shows and what ended threads used).
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
ECHO_STDIO = HERE / "echo_stdio.py"
START_SECONDS = 60.0


def free_port() -> int:
    """A port of 127.0.0.1 that nobody listens on now."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def pinned(command: Sequence[str], core: int | None) -> list[str]:
    """The command on one core, or as it is when ``core`` is None."""
    return [*(["taskset", "-c", str(core)] if core is not None else []), *command]


def cores(placement: str) -> tuple[int | None, int | None]:
    """Core of the load generator and the HTTP backend, core of the hop; None where nothing can be pinned.

    ``split``: two cores, so that the hop has one of its own; ``one``: everything shares one.
    """
    allowed = sorted(os.sched_getaffinity(0))
    if shutil.which("taskset") is None or (placement == "split" and len(allowed) < 2):
        return None, None
    return allowed[0], allowed[0] if placement == "one" else allowed[1]


class Running:
    """A program in a session of its own, ended with everything it started."""

    def __init__(self, name: str, command: Sequence[str], *, port: int | None, core: int | None, log: Path) -> None:
        self.name = name
        self.log = log
        self.port = port
        environ: Mapping[str, str] = {**os.environ, "FASTMCP_CHECK_FOR_UPDATES": "off", "NO_COLOR": "1"}
        with log.open("wb") as output:
            self.process = subprocess.Popen(
                pinned(command, core),
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=output,
                env=environ,
                cwd=log.parent,
                start_new_session=True,
            )

    def wait_until_it_listens(self) -> None:
        """Return when its port accepts. Raises RuntimeError with the end of its output."""
        assert self.port is not None
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                break
            try:
                socket.create_connection(("127.0.0.1", self.port), 1).close()
                return
            except OSError:
                time.sleep(0.05)
        raise RuntimeError(f"{self.name} does not listen on {self.port}\n{self.post_mortem()}")

    def post_mortem(self) -> str:
        """Whether it still runs, and the end of what it said."""
        code = self.process.poll()
        state = "is running" if code is None else f"ended with {code}"
        return f"{self.name} {state}; it said:\n{self.log.read_text(errors='replace')[-1500:]}"

    def cpu_ns(self) -> int:
        """CPU of the program and everything it started, without echo servers."""
        return sum(_cpu_ns(pid) for pid in tree(self.process.pid) if not _is_echo(pid))

    def rss_mb(self) -> float:
        """Resident memory of the same processes, in MB."""
        pages = sum(_resident_pages(pid) for pid in tree(self.process.pid) if not _is_echo(pid))
        return pages * os.sysconf("SC_PAGE_SIZE") / 1e6

    def stop(self) -> None:
        """End it and what it started: politely, then not."""
        members = tree(self.process.pid)
        for number in (signal.SIGTERM, signal.SIGKILL):
            for pid in members:
                try:
                    os.kill(pid, number)
                except ProcessLookupError:
                    pass
            try:
                self.process.wait(3)
            except subprocess.TimeoutExpired:
                continue
            members = [pid for pid in members if _alive(pid)]
            if not members:
                return
            time.sleep(0.3)

    def __enter__(self) -> Running:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()


def tree(root: int) -> list[int]:
    """A process and all its descendants."""
    children: dict[int, list[int]] = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                parent = int(Path(f"/proc/{entry}/stat").read_text().rpartition(")")[2].split()[1])
            except OSError:
                continue
            children.setdefault(parent, []).append(int(entry))
    found = [root]
    for pid in found:
        found += children.get(pid, [])
    return found


def python(script: str, *arguments: str) -> list[str]:
    """The command of one of this directory's programs."""
    return [sys.executable, str(HERE / script), *arguments]


def _cpu_ns(pid: int) -> int:
    try:
        return time.clock_gettime_ns((~pid << 3) | 2)  # the kernel's encoding of CLOCK_PROCESS_CPUTIME_ID of a process
    except OSError:
        return 0


def _is_echo(pid: int) -> bool:
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return False
    return len(words) > 1 and words[1].endswith(ECHO_STDIO.name.encode())


def _resident_pages(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    except OSError:
        return 0


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
