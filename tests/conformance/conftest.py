"""Set-up of the conformance cells: peers installed, and a table of all cells at the end."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conformance import run
from tests.support import setup

ROW = "conformance cell"


@pytest.fixture(scope="session", autouse=True)
def _installed() -> None:
    if setup.missing() and setup.main([]) != 0:
        pytest.fail("the peers could not be installed; see the lines above (python tests/support/setup.py)")


@pytest.fixture
def report(record_property: Callable[[str, object], None]) -> Callable[[object, run.Outcome], None]:
    """Enter one cell into the table that is printed at the end, and into the numbers of the stage, if it keeps some."""
    results = os.environ.get("BRIDGE_TEST_RESULTS")

    def enter(cell: object, outcome: run.Outcome) -> None:
        failures = [scenario.name for scenario in outcome.failures]
        if results:
            numbers = {"passed": outcome.passed, "scenarios": len(outcome.scenarios), "failures": failures}
            (Path(results) / f"{cell}.json").write_text(json.dumps(numbers))
        record_property(ROW, f"{cell!s:<60} {outcome.passed:>2}/{len(outcome.scenarios)}")
        for scenario in outcome.failures:
            record_property(ROW, f"    FAIL {scenario.name}: {'; '.join(scenario.causes) or 'no check succeeded'}")

    return enter


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    tests = [one for verdict in ("passed", "failed") for one in terminalreporter.stats.get(verdict, [])]
    lines = [str(value) for one in tests if one.when == "call" for name, value in one.user_properties if name == ROW]
    if lines:
        terminalreporter.section("conformance")
        for line in lines:
            terminalreporter.write_line(line)
