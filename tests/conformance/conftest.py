"""Set-up of the conformance cells: peers installed, and a table of all cells at the end."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.conformance import run
from tests.support import setup

#: one line per cell, printed after the tests whether they passed or not
LINES: list[str] = []


@pytest.fixture(scope="session", autouse=True)
def _installed() -> None:
    if setup.missing() and setup.main([]) != 0:
        pytest.fail("the peers could not be installed; see the lines above (python tests/support/setup.py)")


@pytest.fixture(scope="session")
def report() -> Callable[[object, run.Outcome], None]:
    """Enter one cell into the table that is printed at the end."""

    def enter(cell: object, outcome: run.Outcome) -> None:
        LINES.append(f"{cell!s:<60} {outcome.passed:>2}/{len(outcome.scenarios)}")
        for scenario in outcome.failures:
            LINES.append(f"    FAIL {scenario.name}: {'; '.join(scenario.causes) or 'no check succeeded'}")

    return enter


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if LINES:
        terminalreporter.section("conformance")
        for line in LINES:
            terminalreporter.write_line(line)
