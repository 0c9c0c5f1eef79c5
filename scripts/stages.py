"""The stages of the test tiers in one table, and the program that runs them one after the other within their budgets.

``stages.py T0|T1|T2 [--only NAME]... [--skip NAME]... [--record]``. T0 is the quick check, T1 what runs on every change, T2
the full run. A stage is killed at twice its budget. A stage whose peers are not installed, or that ran no test at all, did not
run: it is listed as such and, with CI=true or --record, fails the run. The last line is ``N passed, N failed, N skipped``.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import json
import os
import platform
import re
import signal
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from tests.support.counts import COUNTS  # noqa: E402 (the root is not on the path of a script)

PYTHON = sys.executable
RESULTS = ROOT / "tests" / "results"
INSTALL = (PYTHON, "tests/support/setup.py")
INSTALL_BUDGET = 420.0

#: A test with several of these marks belongs to the first one here.
SPECIAL = ("conformance", "interaction", "real", "chaos", "security", "tui", "slow")
PLAIN = " and ".join(f"not {mark}" for mark in SPECIAL)


@dataclass(frozen=True, slots=True)
class Stage:
    """One row: a command, the tiers it belongs to, seconds it may take there, and whether it needs the installed peers.

    In the command ``{results}`` becomes the folder for raw numbers, any other ``{name}`` the count of that name in the tier.
    """

    name: str
    command: tuple[str, ...]
    budget: dict[str, float]  # tier -> seconds; a tier that is absent does not run the stage
    peers: bool = False
    tests: bool = True  # a pytest run, counted in the closing line


def pytest(marks: str, *arguments: str) -> tuple[str, ...]:
    """A pytest command for the tests with these marks."""
    return (PYTHON, "-m", "pytest", "-q", "-m", marks, *arguments)


def special(mark: str, *arguments: str) -> tuple[str, ...]:
    """A pytest command for the tests that belong to this special mark."""
    return pytest(" and ".join([mark, *(f"not {earlier}" for earlier in SPECIAL[: SPECIAL.index(mark)])]), *arguments)


def bench(name: str) -> tuple[str, ...]:
    """One of the measuring programs of scripts/bench."""
    return (PYTHON, f"scripts/bench/{name}.py", "--rounds", f"{{{name}_rounds}}", "--output", f"{{results}}/{name}.json")


STAGES: tuple[Stage, ...] = (
    Stage("lint", ("ruff", "check", "."), {"T0": 10, "T1": 20, "T2": 20}, tests=False),
    Stage("format", ("ruff", "format", "--check", "--quiet", "."), {"T0": 10, "T1": 20, "T2": 20}, tests=False),
    Stage("types", ("mypy",), {"T0": 40, "T1": 120, "T2": 120}, tests=False),
    Stage("unit", pytest(PLAIN, "-n", "2"), {"T0": 60}),
    Stage("unit", pytest(f"{PLAIN} and not hypothesis", "-n", "2"), {"T1": 180, "T2": 180}),
    Stage("properties", pytest(f"{PLAIN} and hypothesis", "-n", "2", "--timeout=600"), {"T1": 60, "T2": 500}),
    Stage("fuzz", (PYTHON, "tests/fuzz/run.py", "--seconds", "{fuzz_seconds}"), {"T1": 100, "T2": 500}, tests=False),
    Stage("slow", special("slow", "-n", "2", "--dist", "loadfile"), {"T1": 240, "T2": 240}),
    Stage("conformance", special("conformance", "-n", "2"), {"T1": 200, "T2": 550}, peers=True),
    Stage("interaction", special("interaction", "-n", "2"), {"T1": 90, "T2": 150}, peers=True),
    Stage("real", special("real", "-n", "2", "--dist", "worksteal"), {"T1": 500, "T2": 900}, peers=True),
    Stage("chaos", special("chaos"), {"T1": 240, "T2": 2400}, peers=True),
    Stage("security", special("security", "-n", "2"), {"T1": 80, "T2": 90}),
    Stage("tui", special("tui", "-n", "2"), {"T1": 90, "T2": 90}),
    Stage("guard", bench("guard"), {"T1": 60, "T2": 90}, tests=False),
    Stage("slow-replica", bench("slow_replica"), {"T2": 100}, tests=False),
    Stage("bench-peers", (PYTHON, "scripts/bench/peers.py", "install"), {"T2": 140}, tests=False),
    Stage("bench", bench("hop"), {"T2": 480}, tests=False),
    Stage("quickstart", ("bash", "scripts/quickstart.sh", "--check"), {"T1": 60, "T2": 60}, tests=False),
)


@dataclass(slots=True)
class Outcome:
    """What one stage did. ``verdict``: ok, failed, killed or not run."""

    name: str
    verdict: str
    seconds: float
    budget: float
    passed: int = 0
    failed: int = 0
    skipped: int = 0
    why: str = ""
    numbers: dict[str, object] = field(default_factory=dict)


def kill_group(process: subprocess.Popen[bytes]) -> None:
    """End a stage and everything it started in its group: politely, then surely."""
    for number, patience in ((signal.SIGTERM, 10), (signal.SIGKILL, 10)):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(patience)
            return


def counts(report: Path) -> tuple[int, int, int]:
    """Passed, failed and skipped tests of one JUnit report."""
    passed = failed = skipped = 0
    for suite in ElementTree.parse(report).getroot().iter("testsuite"):  # our own file
        number = {key: int(suite.get(key, 0)) for key in ("tests", "failures", "errors", "skipped")}
        failed += number["failures"] + number["errors"]
        skipped += number["skipped"]
        passed += number["tests"] - number["failures"] - number["errors"] - number["skipped"]
    return passed, failed, skipped


def run(stage: Stage, tier: str, scratch: Path) -> Outcome:
    """Run one stage to its end, or to twice its budget."""
    budget = stage.budget[tier]
    numbers = scratch / f"{stage.name}.numbers"
    numbers.mkdir()
    report = scratch / f"{stage.name}.xml"
    command = [*stage.command, f"--junit-xml={report}"] if stage.tests else list(stage.command)
    values = {name: str(getattr(row, tier.lower())) for name, row in COUNTS.items()} | {"results": str(numbers)}
    command = [re.sub(r"\{(\w+)\}", lambda match: values[match[1]], part) for part in command]
    environment = {**os.environ, "BRIDGE_TEST_TIER": tier, "BRIDGE_TEST_RESULTS": str(numbers)}
    environment["PATH"] = f"{Path(PYTHON).parent}{os.pathsep}{environment.get('PATH', '')}"
    environment.pop("PYTHONDONTWRITEBYTECODE", None)  # hundreds of processes start, and each would compile everything again
    began = time.monotonic()
    process = subprocess.Popen(command, cwd=ROOT, env=environment, stdin=subprocess.DEVNULL, start_new_session=True)
    try:
        code = process.wait(2 * budget)
    except subprocess.TimeoutExpired:
        kill_group(process)
        code = None
    except BaseException:
        kill_group(process)
        raise
    outcome = Outcome(stage.name, "ok", time.monotonic() - began, budget)
    for path in sorted(numbers.glob("*.json")):
        outcome.numbers[path.stem] = json.loads(path.read_text())
    if stage.tests and report.exists():
        outcome.passed, outcome.failed, outcome.skipped = counts(report)
    if code is None:
        outcome.verdict, outcome.why = "killed", f"after {2 * budget:.0f} s"
    elif stage.tests and code in (0, 5) and outcome.passed + outcome.failed == 0:
        outcome.verdict, outcome.why = "not run", f"no test ran, {outcome.skipped} skipped"
    elif code != 0:
        outcome.verdict, outcome.why = "failed", f"exit {code}"
    if outcome.verdict in ("failed", "killed") and not outcome.failed:
        outcome.failed = 1  # the stage itself
    return outcome


def install(process: subprocess.Popen[bytes], began: float) -> Outcome:
    """Wait for the installation of the peers, which has run in the background since ``began``."""
    outcome = Outcome("install", "ok", 0.0, INSTALL_BUDGET)
    try:
        code = process.wait(max(1.0, 2 * INSTALL_BUDGET - (time.monotonic() - began)))
        if code != 0:
            outcome.verdict, outcome.failed, outcome.why = "failed", 1, f"exit {code}"
    except subprocess.TimeoutExpired:
        kill_group(process)
        outcome.verdict, outcome.failed, outcome.why = "killed", 1, f"after {2 * INSTALL_BUDGET:.0f} s"
    outcome.seconds = time.monotonic() - began
    return outcome


def run_all(stages: Sequence[Stage], tier: str) -> list[Outcome]:
    """Run the stages in the order of the table; the peers are installed meanwhile and waited for when first needed."""
    outcomes: list[Outcome] = []
    installer: subprocess.Popen[bytes] | None = None
    began = time.monotonic()
    ready = False
    if any(stage.peers for stage in stages):
        installer = subprocess.Popen(INSTALL, cwd=ROOT, stdin=subprocess.DEVNULL, start_new_session=True)
    try:
        with tempfile.TemporaryDirectory(prefix="mcpbridge-stages-") as scratch:
            for stage in stages:
                if stage.peers and installer is not None:
                    outcomes.append(install(installer, began))
                    ready, installer = outcomes[-1].verdict == "ok", None
                if stage.peers and not ready:
                    outcomes.append(Outcome(stage.name, "not run", 0.0, stage.budget[tier], why="the peers are not installed"))
                    continue
                print(f"== {stage.name} (budget {stage.budget[tier]:.0f} s)", flush=True)
                outcomes.append(run(stage, tier, Path(scratch)))
    finally:
        if installer is not None:
            kill_group(installer)
    return outcomes


def table(outcomes: Sequence[Outcome], wall: float) -> str:
    """The times and results of all stages, for people; ``wall`` is the whole run in seconds."""
    lines = [f"{'stage':<12} {'seconds':>8} {'budget':>7} {'passed':>7} {'failed':>7} {'skipped':>7}  verdict"]
    for one in outcomes:
        late = " (over budget)" if one.seconds > one.budget else ""
        why = f": {one.why}" if one.why else ""
        lines.append(
            f"{one.name:<12} {one.seconds:>8.1f} {one.budget:>7.0f} {one.passed:>7} {one.failed:>7} {one.skipped:>7}"
            f"  {one.verdict}{why}{late}"
        )
    lines.append(f"{'total':<12} {wall:>8.1f}  (the installation runs beside the stages before it)")
    return "\n".join(lines)


def git(*arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False, timeout=20)
    return done.stdout.strip()


def record(outcomes: Sequence[Outcome], tier: str, passed: bool) -> Path:
    """Write the verdict and the raw numbers of this run; returns the file."""
    commit = git("rev-parse", "HEAD") or "unknown"
    document = {
        "commit": commit,
        "modified": git("status", "--porcelain", "--untracked-files=no").splitlines(),
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "tier": tier,
        "verdict": "passed" if passed else "failed",
        "machine": {"cores": os.cpu_count(), "python": platform.python_version(), "platform": platform.platform()},
        "stages": [
            {
                "name": one.name,
                "verdict": one.verdict,
                "why": one.why,
                "seconds": round(one.seconds, 1),
                "passed": one.passed,
                "failed": one.failed,
                "skipped": one.skipped,
                "numbers": one.numbers,
            }
            for one in outcomes
        ],
    }
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{commit[:12]}.json"
    path.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    return path


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; returns 0 when every stage that had to run passed."""
    parser = argparse.ArgumentParser(description="run the stages of a test tier")
    parser.add_argument("tier", choices=("T0", "T1", "T2"))
    names = sorted({stage.name for stage in STAGES})
    parser.add_argument("--only", action="append", choices=names, default=[], help="run only this stage (may be repeated)")
    parser.add_argument("--skip", action="append", choices=names, default=[], help="leave this stage out (may be repeated)")
    parser.add_argument("--record", action="store_true", help="write tests/results/<commit>.json")
    options = parser.parse_args(argv)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    stages = [
        stage
        for stage in STAGES
        if options.tier in stage.budget and stage.name not in options.skip and (not options.only or stage.name in options.only)
    ]
    began = time.monotonic()
    outcomes = run_all(stages, options.tier)
    strict = options.record or os.environ.get("CI") == "true"
    passed = all(one.verdict == "ok" or (one.verdict == "not run" and not strict) for one in outcomes)
    print(f"\n{table(outcomes, time.monotonic() - began)}")
    for one in outcomes:
        if one.verdict == "not run":
            print(f"NOT RUN: {one.name}: {one.why}")
    if options.record:
        print(f"recorded in {record(outcomes, options.tier, passed).relative_to(ROOT)}")
    missed = sum(one.verdict == "not run" for one in outcomes) if strict else 0
    print(
        f"{sum(one.passed for one in outcomes)} passed, {sum(one.failed for one in outcomes) + missed} failed, "
        f"{sum(one.skipped for one in outcomes)} skipped",
        flush=True,
    )
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
