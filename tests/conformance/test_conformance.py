"""The official conformance suites: against our servers without a bridge, and through the bridge in every cell of the matrix.

The suites drive servers over HTTP only, so the stdio half of the bridge is under test as the gateway's backend side and as the
router between two gateways.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.conformance import matrix, run
from tests.support import counts

pytestmark = [pytest.mark.conformance, pytest.mark.timeout(600)]

#: in the short tier the long cells do not even show up
BRIDGED = [cell for cell in matrix.bridged() if cell.is_short or counts.tier() == "t2"]


@pytest.mark.parametrize("cell", matrix.direct(), ids=str)
def test_the_server_passes_the_whole_suite_without_the_bridge(cell: matrix.Cell, report: Callable[..., None]) -> None:
    with cell.url() as url:
        outcome = run.run(url, cell.suite, cell.version)
    report(cell, outcome)
    assert (len(outcome.scenarios), outcome.passed) == (matrix.SUITES[cell.suite, cell.version],) * 2, outcome.table()


@pytest.mark.parametrize("cell", BRIDGED, ids=str)
def test_the_suite_loses_through_the_bridge_exactly_what_the_baseline_names(
    cell: matrix.Cell, report: Callable[..., None]
) -> None:
    with cell.url() as url:
        outcome = run.run(url, cell.suite, cell.version)
    report(cell, outcome)
    assert len(outcome.scenarios) == matrix.SUITES[cell.suite, cell.version]
    failed, expected = {scenario.name for scenario in outcome.failures}, matrix.expected_failures(cell)
    assert not failed - expected, f"lost: {sorted(failed - expected)}\n{outcome.table()}"
    assert not expected - failed, f"pass now, so take them from {matrix.BASELINE.name}: {sorted(expected - failed)}"
