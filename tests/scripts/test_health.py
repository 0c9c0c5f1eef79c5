"""The pure parts of the health benchmark: its episodes, how alarms are matched with labels, and its intervals."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts" / "bench"))

import health_script as script
from health_script import Alarm, Condition, Episode, Score, quantile, wilson

WINDOWS = 200


def labelled(kind: str, onset: int | None = None, failure: int | None = None) -> Episode:
    return Episode("one", kind, 3.0, False, (Condition(0.01),) * WINDOWS, onset, failure)


def judged(episode: Episode, *at: float) -> Score:
    score = Score()
    score.add([episode], [Alarm("one", when) for when in at])
    return score


@pytest.mark.parametrize(
    ("hits", "total", "low", "high"),
    [(0, 0, 0.0, 1.0), (0, 10, 0.0, 0.278), (10, 10, 0.722, 1.0), (1, 2, 0.095, 0.905), (95, 100, 0.888, 0.978)],
)
def test_wilsons_interval_is_that_of_the_tables(hits: int, total: int, low: float, high: float):
    found = wilson(hits, total)
    assert (round(found.low, 3), round(found.high, 3)) == (low, high)
    assert found.low <= found.value <= found.high


def test_a_quantile_lies_between_the_values_at_the_ends_of_its_rank():
    found = quantile(list(range(100)), 0.5)
    assert (found.value, found.low, found.high) == (50, 40, 59)
    assert quantile([], 0.5).value == 0.0


def test_the_first_alarm_between_onset_and_failure_is_a_hit_and_its_lead_the_time_that_was_left():
    score = judged(labelled("latency", 100, 130), 112.0, 125.0)
    assert (score.hits, score.leads, score.false_alarms) == (1, [18 * script.WINDOW], [])


@pytest.mark.parametrize("at", [(), (130.0,), (150.0,)], ids=["no alarm", "at the failure", "after it"])
def test_a_fault_without_an_alarm_before_its_failure_is_missed(at: tuple[float, ...]):
    score = judged(labelled("errors", 100, 130), *at)
    assert (score.hits, score.leads, score.false_alarms) == (0, [0.0], [])


def test_alarms_before_the_onset_are_false_each_of_them_and_do_not_count_as_foreseen():
    score = judged(labelled("resets", 100, 130), 40.0, 99.9)
    assert (score.hits, len(score.false_alarms)) == (0, 2)


def test_alarms_of_the_healthy_are_false_and_those_of_others_none_of_its_business():
    score = Score()
    score.add([labelled("healthy")], [Alarm("one", 50.0), Alarm("another", 60.0)])
    assert (len(score.false_alarms), score.leads) == (1, [])


def test_a_crash_is_neither_foreseen_nor_missed_but_may_have_false_alarms():
    score = judged(labelled("crash", 120, 120), 60.0)
    assert (score.leads, score.crashes, len(score.false_alarms)) == ([], 1, 1)


def test_clean_time_ends_at_the_onset_and_begins_after_the_warm_up():
    assert judged(labelled("healthy")).clean == WINDOWS - script.WARM_UP
    assert judged(labelled("latency", 100, 130)).clean == 100 - script.WARM_UP


@pytest.mark.parametrize("kind", script.KINDS)
def test_episodes_follow_from_their_seed_and_are_well_until_their_onset(kind: str):
    for seed in range(20):
        one = script.episode(kind, seed, 0.25)
        assert one == script.episode(kind, seed, 0.25) != script.episode(kind, seed + 1, 0.25)
        assert (one.onset is None) == (kind == "healthy")
        until = len(one.conditions) if one.onset is None else one.onset
        assert all(condition.added == condition.resets == 0.0 for condition in one.conditions[:until])
        assert max(condition.errors for condition in one.conditions[:until]) <= 0.02
        if kind in script.GRADUAL:
            assert one.onset is not None and one.failure is not None
            assert 12 <= one.failure - one.onset <= 72
            before, last = one.conditions[one.onset - 1], one.conditions[one.failure - 1]
            assert any(last[part] > 1.5 * before[part] + 0.01 for part in (0, 1, 2, 3))


def test_no_seed_is_for_training_and_for_the_test():
    rounds, healthy = 1000, 52
    assert script.TRAINING + rounds * healthy < script.HELD_OUT
