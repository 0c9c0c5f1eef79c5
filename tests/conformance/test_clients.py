"""The suite's client scenarios (without sign-in): the bridge is the client that the suite's server sees, and loses nothing.

What our client passes without a bridge it has to pass through a gateway, through a router over stdio, and through both; and as
a client of the other era too.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.conformance import matrix, run
from tests.conformance.through import CROSSED, WAYS
from tests.support import counts

pytestmark = [pytest.mark.conformance, pytest.mark.timeout(120)]

PROGRAM = [sys.executable, str(Path(__file__).with_name("through.py"))]
#: protocol version -> its client scenarios in suite 0.2, those of sign-in left out
SCENARIOS = {
    "2025-06-18": ("initialize", "tools_call"),
    "2025-11-25": (
        "initialize",
        "tools_call",
        "elicitation-sep1034-client-defaults",
        "sse-retry",
        "json-schema-2020-12-preservation",
    ),
    "2026-07-28": (
        "tools_call",
        "request-metadata",
        "sep-2322-client-request-state",
        "http-standard-headers",
        "http-custom-headers",
        "http-invalid-tool-headers",
        "json-schema-ref-no-deref",
        "json-schema-2020-12-preservation",
    ),
}
#: not for a client of the other era: their servers answer a legacy initialize too, so such a client is served in its own era
SAME_ERA = ("request-metadata", "http-standard-headers", "http-custom-headers", "http-invalid-tool-headers")
CASES = [
    (version, scenario, way)
    for version, names in SCENARIOS.items()
    for scenario in names
    for way in (WAYS if scenario in SAME_ERA else WAYS + CROSSED)
]
#: the short tier: the newest versions, through the gateway and the router
SHORT = [case for case in CASES if case[0] != "2025-06-18" and case[2] in ("gateway", "router", "crossed-gateway")]


@pytest.mark.parametrize("version", SCENARIOS)
def test_these_are_all_scenarios_that_the_suite_has(version: str) -> None:
    names = [name for name in run.scenario_names("0.2", version, "client") if not name.startswith("auth/")]
    assert sorted(names) == sorted(SCENARIOS[version])


@pytest.mark.parametrize(("version", "scenario", "way"), CASES if counts.tier() == "t2" else SHORT)
def test_a_client_scenario_passes(version: str, scenario: str, way: str) -> None:
    verdict = run.run_client([*PROGRAM, way], "0.2", version, scenario)
    is_expected = scenario in matrix.expected_failures(f"client {version} {way}")
    assert verdict.is_passed is not is_expected, verdict
