"""The official conformance suites against the bridge in front of a dual-era server, same era on both sides.

The suites drive servers over HTTP only, so the stdio half of the bridge is under test as the gateway's backend side (cells
``to stdio``) and, in the full tier, as the router's frontend between two gateways (cells ``two hops``).
"""

from __future__ import annotations

import contextlib
import shlex
from collections.abc import Callable, Iterator

import pytest

from tests.conformance import run
from tests.support import counts, peers

pytestmark = [pytest.mark.conformance, pytest.mark.timeout(600)]

#: (suite, protocol version) -> (scenarios it has, how many must pass with the bridge in front)
REQUIRED = {
    ("0.1.16", "2025-11-25"): (32, 31),
    ("0.2", "2025-06-18"): (27, 26),
    ("0.2", "2025-11-25"): (33, 32),
    ("0.2", "2026-07-28"): (40, 38),
}
#: scenarios no cell may lose, where the suite has them
NEVER_LOST = ("dns-rebinding-protection", "tools-call-elicitation", "tools-call-sampling", "server-stateless")


@contextlib.contextmanager
def to_http(dual: str) -> Iterator[str]:
    with peers.gateway({"dual": dual}) as bridge:
        yield bridge.url("dual")


@contextlib.contextmanager
def to_stdio(dual: str) -> Iterator[str]:
    with peers.gateway({"dual": peers.DUAL_STDIO}) as bridge:
        yield bridge.url("dual")


@contextlib.contextmanager
def two_hops(dual: str) -> Iterator[str]:
    """Suite → gateway → router over stdio → gateway → server."""
    with peers.gateway({"dual": dual}) as inner:
        with peers.gateway({"dual": shlex.join(peers.router(inner.url("dual")))}) as outer:
            yield outer.url("dual")


CELLS = {"http to http": to_http, "http to stdio": to_stdio, "two hops": two_hops}


@pytest.mark.parametrize(("suite", "version"), REQUIRED)
def test_the_server_passes_the_whole_suite_without_the_bridge(
    suite: str, version: str, baseline: Callable[[str, str], run.Outcome]
) -> None:
    outcome = baseline(suite, version)
    assert (len(outcome.scenarios), outcome.passed) == (REQUIRED[suite, version][0],) * 2, outcome.table()


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize(("suite", "version"), REQUIRED)
def test_the_suite_passes_through_the_bridge(
    cell: str,
    suite: str,
    version: str,
    dual_url: str,
    baseline: Callable[[str, str], run.Outcome],
    report: Callable[[str, run.Outcome, run.Outcome], None],
) -> None:
    if cell == "two hops" and counts.tier() != "t2":
        pytest.skip("two hops belong to the full tier")
    with CELLS[cell](dual_url) as url:
        outcome = run.run(url, suite, version)
    report(cell, outcome, baseline(suite, version))
    total, required = REQUIRED[suite, version]
    assert len(outcome.scenarios) == total
    assert outcome.passed >= required, outcome.table()
    lost = [scenario.name for scenario in outcome.failures if scenario.name in NEVER_LOST]
    assert not lost, outcome.table()
