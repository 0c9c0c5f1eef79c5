"""The judge of the suites' results, by literals."""

from __future__ import annotations

from tests.conformance.run import Outcome, Scenario, judge


def test_a_scenario_passes_with_a_success_and_no_failure() -> None:
    assert judge("x", [{"status": "SUCCESS"}, {"status": "WARNING"}, {"status": "INFO"}]).is_passed


def test_a_scenario_with_one_failure_among_successes_fails_and_names_the_cause() -> None:
    verdict = judge("x", [{"status": "SUCCESS"}, {"status": "FAILURE", "id": "lost", "errorMessage": "no $defs"}])
    assert not verdict.is_passed
    assert verdict.causes == ["lost: no $defs"]


def test_a_scenario_without_any_verdict_fails() -> None:
    assert not judge("x", [{"status": "INFO"}, {"status": "WARNING"}, {"status": "SKIPPED"}]).is_passed


def test_an_outcome_counts_scenarios_not_checks() -> None:
    outcome = Outcome("0.2", "2026-07-28", [Scenario("a", 9, 0), Scenario("b", 3, 1, ["c: d"])])
    assert outcome.passed == 1
    assert [scenario.name for scenario in outcome.failures] == ["b"]
    assert outcome.table().splitlines()[-1] == "1/2 scenarios pass (suite 0.2 at 2026-07-28)"
