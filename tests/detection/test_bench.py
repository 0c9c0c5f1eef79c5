"""The bars of detection over all labelled cases (decision 7; reliability section 6)."""

from __future__ import annotations

import pytest

from tests.detection.conftest import Outcome, quantile

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]


def told(wrong: list[Outcome]) -> str:
    return "\n".join(
        f"{one.case.name}: {one.verdict.result} {one.verdict.protocol} {one.verdict.era} {one.seconds * 1000:.0f} ms"
        f" ({one.starved * 1000:.0f} of them without a processor)"
        f" {one.verdict.evidence} calls {one.counts.calls}, sessions {one.counts.sessions}, open {one.left}"
        for one in wrong
    )


@pytest.mark.requirement("promise.detection")
def test_there_are_hundreds_of_cases_each_with_its_own_name(outcomes):
    assert len(outcomes) >= 300
    assert len({one.case.name for one in outcomes}) == len(outcomes)


@pytest.mark.requirement("promise.detection")
def test_no_foreign_server_is_taken_for_one_of_ours(outcomes):
    assert not [one for one in outcomes if one.is_wrong_positive], told([one for one in outcomes if one.is_wrong_positive])


@pytest.mark.requirement("promise.detection")
def test_nearly_every_verdict_is_exactly_right(outcomes):
    wrong = [one for one in outcomes if not one.is_right]
    assert len(wrong) <= 0.005 * len(outcomes), told(wrong)


@pytest.mark.requirement("promise.detection")
def test_detection_is_quick_and_never_takes_longer_than_its_budget(outcomes):
    """What other programs of the machine took of the time is not held against it."""
    late = [one for one in outcomes if one.own_seconds > 1.05]
    assert not late, told(late)
    assert quantile([one.own_seconds for one in outcomes if one.case.is_quick], 0.5) <= 0.05
    assert quantile([one.own_seconds for one in outcomes], 0.99) <= 1.0


@pytest.mark.requirement("http.router.detect.sideeffects")
def test_nothing_is_called_and_nothing_is_left_behind(outcomes):
    touched = [one for one in outcomes if one.counts.calls or one.counts.sessions or one.left]
    assert not touched, told(touched)


def test_no_target_sees_more_than_four_connections_at_once(outcomes):
    crowded = [one for one in outcomes if one.counts.most > 4]
    assert not crowded, told(crowded)
