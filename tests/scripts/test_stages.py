"""The runner of the stages: it counts, it kills what hangs, and nothing that did not run counts as passed."""

from __future__ import annotations

import importlib.util
import json
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
_spec = importlib.util.spec_from_file_location("stages", ROOT / "scripts" / "stages.py")
assert _spec is not None and _spec.loader is not None
stages = importlib.util.module_from_spec(_spec)
sys.modules["stages"] = stages
_spec.loader.exec_module(stages)


def row(name: str, code: str, *, budget: float = 30, peers: bool = False, tests: bool = False):
    return stages.Stage(name, (sys.executable, "-c", code), {"T1": budget}, peers=peers, tests=tests)


REPORT = """
import sys
path = sys.argv[-1].partition("=")[2]
open(path, "w").write('<testsuites><testsuite tests="5" failures="1" errors="1" skipped="1"/></testsuites>')
"""


@pytest.fixture
def fake(monkeypatch):
    """Run ``main`` over other rows than the real ones."""

    def run(rows, *arguments, installer="pass"):
        monkeypatch.setattr(stages, "STAGES", tuple(rows))
        monkeypatch.setattr(stages, "INSTALL", (sys.executable, "-c", installer))
        return stages.main(["T1", *arguments])

    monkeypatch.delenv("CI", raising=False)
    return run


def last_line(capsys: pytest.CaptureFixture[str]) -> str:
    return capsys.readouterr().out.splitlines()[-1]


def test_the_closing_line_sums_the_reports_of_all_stages(fake, capsys):
    assert fake([row("one", REPORT, tests=True), row("two", REPORT, tests=True), row("three", "pass")]) == 0
    assert last_line(capsys) == "4 passed, 4 failed, 2 skipped"


def test_a_stage_that_fails_without_a_report_counts_as_one_failure(fake, capsys):
    assert fake([row("lint", "raise SystemExit(3)"), row("other", "pass")]) == 1
    assert last_line(capsys) == "0 passed, 1 failed, 0 skipped"


def test_a_stage_is_killed_at_twice_its_budget_with_everything_it_started(fake, capsys, tmp_path):
    mark = tmp_path / "grandchild"
    code = (
        "import subprocess, sys, signal\n"
        f"subprocess.Popen(['sh', '-c', 'echo $$ > {mark}; sleep 600'])\n"
        "signal.signal(signal.SIGTERM, signal.SIG_DFL)\n"
        "signal.pause()"
    )
    assert fake([row("hang", code, budget=0.5)]) == 1
    out = capsys.readouterr().out
    assert "killed: after 1 s" in out
    assert out.splitlines()[-1] == "0 passed, 1 failed, 0 skipped"
    if sys.platform == "linux":
        state = Path(f"/proc/{mark.read_text().strip()}/stat")
        ends = time.monotonic() + 5
        while state.exists() and state.read_text().split(")")[1].split()[0] != "Z":  # a signal takes its time
            assert time.monotonic() < ends, "the grandchild lives on"
            time.sleep(0.01)


def test_a_stage_without_its_peers_did_not_run_and_fails_a_strict_run(fake, capsys, monkeypatch):
    rows = [row("real", REPORT, peers=True, tests=True)]
    broken = "raise SystemExit(1)"
    assert fake(rows, installer=broken) == 1
    out = capsys.readouterr().out
    assert "NOT RUN: real: the peers are not installed" in out
    monkeypatch.setenv("CI", "true")
    assert fake(rows, installer=broken) == 1
    assert last_line(capsys) == "0 passed, 2 failed, 0 skipped"


def test_a_stage_in_which_every_test_was_skipped_did_not_run(fake, capsys, monkeypatch):
    code = REPORT.replace('tests="5" failures="1" errors="1" skipped="1"', 'tests="3" skipped="3"')
    assert fake([row("tui", code, tests=True)]) == 0
    assert "NOT RUN: tui: no test ran, 3 skipped" in capsys.readouterr().out
    monkeypatch.setenv("CI", "true")
    assert fake([row("tui", code, tests=True)]) == 1
    assert last_line(capsys) == "0 passed, 1 failed, 3 skipped"


def test_the_peers_are_ready_before_the_first_stage_that_needs_them(fake, tmp_path):
    mark = tmp_path / "installed"
    check = f"import os, sys; sys.exit(not os.path.exists({str(mark)!r}))"
    assert fake([row("unit", "pass"), row("real", check, peers=True)], installer=f"open({str(mark)!r}, 'w')") == 0


def test_raw_numbers_and_the_verdict_are_recorded(fake, tmp_path, monkeypatch):
    monkeypatch.setattr(stages, "RESULTS", tmp_path)
    monkeypatch.setattr(stages, "ROOT", tmp_path)
    monkeypatch.setattr(stages, "git", lambda *arguments: "0123456789abcdef" if arguments[0] == "rev-parse" else "")
    code = "import os, json; open(os.environ['BRIDGE_TEST_RESULTS'] + '/hop.json', 'w').write(json.dumps({'us': 21.5}))"
    assert fake([row("bench", code)], "--record") == 0
    document = json.loads((tmp_path / "0123456789ab.json").read_text())
    assert (document["commit"], document["tier"], document["verdict"]) == ("0123456789abcdef", "T1", "passed")
    assert document["stages"][0]["numbers"] == {"hop": {"us": 21.5}}


def test_every_tier_of_the_real_table_fits_its_time():
    for tier, most in (("T0", 90), ("T1", 25 * 60), ("T2", 75 * 60)):
        budgets = [stage.budget[tier] for stage in stages.STAGES if tier in stage.budget]
        assert sum(budgets) <= most * 1.5, "a stage rarely needs its whole budget, but not three of them at once"
    for stage in stages.STAGES:
        assert set(stage.budget) <= {"T0", "T1", "T2"}


def test_every_test_belongs_to_exactly_one_stage():
    """The marks' expressions of a tier cover every combination of marks once."""
    marks = [*stages.SPECIAL, "hypothesis"]
    for tier in ("T1", "T2"):
        expressions = [
            stage.command[stage.command.index("-m", 3) + 1] for stage in stages.STAGES if stage.tests and tier in stage.budget
        ]
        for bits in range(2 ** len(marks)):
            values = {mark: bool(bits >> index & 1) for index, mark in enumerate(marks)}
            owners = [expression for expression in expressions if eval(expression, {}, values)]
            assert len(owners) == 1, (tier, values, owners)
