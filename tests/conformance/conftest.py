"""Set-up of the conformance cells: peers installed, the without-bridge baseline of the same run, and a table at the end."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from tests.conformance import run
from tests.support import peers, setup

#: one line per cell, printed after the tests whether they passed or not
LINES: list[str] = []


@pytest.fixture(scope="session", autouse=True)
def _installed() -> None:
    if setup.missing() and setup.main([]) != 0:
        pytest.fail("the peers could not be installed; see the lines above (python tests/support/setup.py)")


@pytest.fixture(scope="session")
def dual_url() -> Iterator[str]:
    with peers.own_http("dual") as url:
        yield url


@pytest.fixture(scope="session")
def baseline(dual_url: str) -> Callable[[str, str], run.Outcome]:
    """Outcome of a suite against the server itself, once per suite and version."""
    known: dict[tuple[str, str], run.Outcome] = {}

    def measure(suite: str, version: str) -> run.Outcome:
        if (suite, version) not in known:
            known[suite, version] = run.run(dual_url, suite, version)
        return known[suite, version]

    return measure


@pytest.fixture(scope="session")
def report() -> Callable[[str, run.Outcome, run.Outcome], None]:
    """Enter one cell into the table that is printed at the end."""

    def enter(cell: str, outcome: run.Outcome, without: run.Outcome) -> None:
        total = len(outcome.scenarios)
        LINES.append(
            f"{cell:<26} suite {outcome.suite:<6} {outcome.version}  {outcome.passed:>2}/{total}"
            f"  (without bridge {without.passed}/{len(without.scenarios)})"
        )
        for scenario in outcome.failures:
            LINES.append(f"    FAIL {scenario.name}: {'; '.join(scenario.causes) or 'ran no check'}")

    return enter


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if LINES:
        terminalreporter.section("conformance")
        for line in LINES:
            terminalreporter.write_line(line)
