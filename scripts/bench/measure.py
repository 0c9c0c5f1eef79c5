"""One sample: load on an endpoint, the processor account of the hop around it; and what is known about the machine."""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from messages import Dialect
from processes import ROOT, pinned, python


class Sample(NamedTuple):
    """One run. Latencies and CPU in microseconds; ``cpu_us`` is the hop's CPU per call, without load generator and backend."""

    calls_per_second: float
    p50_us: float | None
    p99_us: float | None
    cpu_us: float | None
    rss_mb: float
    errors: int
    first_error: str


class Load(NamedTuple):
    """How to load one endpoint."""

    kind: str
    target: Sequence[str]
    dialect: Dialect
    clients: int
    seconds: float
    core: int | None


def sample(load: Load, cpu_ns: Callable[[], int], rss_mb: Callable[[], float]) -> Sample:
    """Run the load generator once. ``cpu_ns`` and ``rss_mb`` read the hop. Raises RuntimeError when it cannot even begin."""
    options = ["--dialect", load.dialect, "--clients", str(load.clients), "--seconds", str(load.seconds)]
    command = python("load.py", load.kind, *options, "--", *load.target)
    process = subprocess.Popen(
        pinned(command, load.core), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdin and process.stdout and process.stderr
    if process.stdout.readline().strip() != "ready":
        _, told = process.communicate()
        raise RuntimeError(f"no call came through: {told.strip()[-600:]}")
    before = cpu_ns()
    process.stdin.write("go\n")
    process.stdin.flush()
    line = process.stdout.readline()
    used = cpu_ns() - before
    resident = rss_mb()
    process.communicate()
    result = json.loads(line)
    calls = result["calls"]
    return Sample(
        calls_per_second=calls / result["seconds"],
        p50_us=result["p50_us"],
        p99_us=result["p99_us"],
        cpu_us=used / 1000 / calls if calls else None,
        rss_mb=resident,
        errors=result["errors"],
        first_error=result["first_error"],
    )


def median(values: Sequence[float | None]) -> float | None:
    """The median of what was measured."""
    known = [value for value in values if value is not None]
    return statistics.median(known) if known else None


def machine() -> dict[str, object]:
    """Processor, cores, memory, kernel, Python, load average, time, commit."""
    return {
        "cpu": _after("/proc/cpuinfo", "model name"),
        "cores": os.cpu_count(),
        "memory": _after("/proc/meminfo", "MemTotal"),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "node": _output("node", "--version"),
        "load_average": os.getloadavg(),
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": _output("git", "-C", str(ROOT), "rev-parse", "--short", "HEAD"),
    }


def _after(path: str, name: str) -> str | None:
    for line in Path(path).read_text().splitlines():
        if line.startswith(name):
            return line.partition(":")[2].strip()
    return None


def _output(*command: str) -> str | None:
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None
