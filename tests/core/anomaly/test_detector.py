"""The detector: what it foresees, what it leaves alone, and that it says nothing before it knows an endpoint."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcpbridge.core.anomaly.detector import FLOOR, Detector, Parameters, Reading, Sample, shared_shift
from mcpbridge.core.anomaly.trend import STEADY, Trend
from tests.support.counts import count
from tests.support.episodes import GRADUAL, KINDS, Score, episode, wilson

HELD_OUT = 100_000  # the parameters were looked at with seeds below 1,000 only


def feed(detector: Detector, windows: int, latency: float = 0.01, failures: int = 0, calls: int = 20) -> Reading:
    for _ in range(windows):
        reading = detector.tick(Sample(calls, failures, latency))
    return reading


def test_nothing_is_said_before_the_warm_up_is_over():
    detector = Detector()
    assert feed(detector, 30).score is None
    assert feed(detector, 1).score == 1.0


def test_a_window_without_calls_says_nothing():
    detector = Detector()
    feed(detector, 40)
    before = detector.reading
    assert feed(detector, 500, calls=0) == before


def test_latency_that_doubles_is_an_alarm_with_its_numbers():
    detector = Detector()
    feed(detector, 60)
    reading = feed(detector, 6, latency=0.02)
    assert reading.is_alarming
    assert reading.signal == "latency"
    assert reading.baseline == pytest.approx(0.01, rel=0.05)
    assert reading.value is not None
    assert 0.015 < reading.value <= 0.02
    assert reading.score == FLOOR


def test_errors_are_an_alarm_with_their_shares():
    detector = Detector()
    feed(detector, 60)
    reading = feed(detector, 6, failures=4)
    assert (reading.is_alarming, reading.signal, reading.value) == (True, "errors", 0.2)


@pytest.mark.parametrize(
    ("shifts", "shared"),
    [
        ([1.0] * 8, 1.0),
        ([1.0] * 7, 0.0),  # too few to tell
        ([0.0] * 2 + [1.0] * 6, 1.0),  # three of four
        ([0.0] * 3 + [1.0] * 5, 0.0),
        ([-1.0] * 8, 0.0),  # all faster: what is slow now is slow
        ([], 0.0),
    ],
)
def test_slowness_is_shared_when_three_of_four_have_it(shifts, shared):
    assert shared_shift(shifts) == shared


def test_what_is_shared_is_taken_off_and_not_learned():
    detector = Detector()
    feed(detector, 60)
    for _ in range(50):
        shift = detector.shift(Sample(20, 0, 0.04))
        assert shift == pytest.approx(1.386, abs=0.05)
        assert detector.tick(Sample(20, 0, 0.04), shift).score == 1.0
    assert feed(detector, 6, latency=0.02).is_alarming


def test_a_shift_is_not_known_before_the_usual_is():
    detector = Detector()
    feed(detector, 30)
    assert detector.shift(Sample(20, 0, 0.04)) is None
    feed(detector, 1)
    assert detector.shift(Sample(20, 20, None)) is None
    assert detector.shift(Sample(20, 0, 0.01)) == pytest.approx(0.0)


def test_a_certain_change_below_the_gate_does_not_matter():
    detector = Detector()
    feed(detector, 60)
    assert feed(detector, 200, latency=0.013).score == 1.0


def test_one_wild_window_is_no_alarm():
    detector = Detector()
    feed(detector, 60)
    assert not feed(detector, 1, latency=0.05).is_alarming
    assert not feed(detector, 1).is_alarming


def test_a_pause_of_three_windows_at_an_endpoint_that_is_a_little_slower_is_no_new_level():
    detector = Detector()
    feed(detector, 60)
    feed(detector, 20, latency=0.0125)
    alarms = [feed(detector, 1, latency=seconds).is_alarming for seconds in (0.05, 0.05, 0.05, *[0.0125] * 7)]
    assert not any(alarms)


def test_the_same_failures_are_an_alarm_where_none_ever_failed_and_none_where_some_always_do():
    few = (1, 1, 1, 0, 1, 0, 0, 0)  # of five calls each
    well, flawed = Detector(), Detector()
    feed(well, 120, calls=5)
    for window in range(120):
        feed(flawed, 1, calls=5, failures=int(window % 5 == 0))
    assert any(feed(well, 1, calls=5, failures=failures).is_alarming for failures in few)
    assert not any(feed(flawed, 1, calls=5, failures=failures).is_alarming for failures in few)


def test_an_alarm_ends_when_the_endpoint_is_as_before():
    detector = Detector()
    feed(detector, 60)
    assert feed(detector, 20, latency=0.04).is_alarming
    assert not feed(detector, 60).is_alarming
    assert detector.reading.score == 1.0


def test_what_stays_becomes_the_usual_in_the_end():
    detector = Detector(Parameters(relearn=50))
    feed(detector, 60)
    assert feed(detector, 40, latency=0.04).is_alarming
    assert feed(detector, 100, latency=0.04).score == 1.0


def test_a_steady_rise_has_a_time_to_its_limit():
    trend = Trend()
    for window in range(40):
        trend.tick(window * 0.1)
        assert window >= STEADY or trend.eta(10.0) is None
    assert trend.eta(10.0) == pytest.approx(61, rel=0.1)
    assert trend.eta(1.0) == 0.0
    trend.tick(0.0)
    assert trend.eta(10.0) is None


@given(st.lists(st.tuples(st.integers(0, 1000), st.integers(0, 1000), st.none() | st.floats(0, 1e6)), max_size=200))
def test_scores_stay_within_their_bounds_whatever_comes(windows):
    detector = Detector()
    for calls, failures, latency in windows:
        reading = detector.tick(Sample(calls, min(calls, failures), latency))
        assert reading.score is None or FLOOR <= reading.score <= 1.0
        assert reading.eta is None or reading.eta >= 0.0


def test_gradual_faults_of_held_out_seeds_are_foreseen_and_healthy_hours_left_alone(record_property):
    score = Score()
    for kind in KINDS:
        for number in range(count("health_episodes")):
            score.add(episode(kind, HELD_OUT + number))
    for name, hits, total in (
        ("recall", score.hits, score.faults),
        ("precision", score.hits, score.hits + score.false_alarms),
    ):
        low, high = wilson(hits, total)
        said = f"{hits}/{total} = {hits / total:.3f} ({low:.3f} to {high:.3f})"
        record_property(name, said)
        print(name, said)
    rate = score.false_alarms / score.clean_hours
    print(f"false alarms {rate:.3f} per endpoint-hour in {score.clean_hours:.0f} hours, median lead {score.median_lead} s")
    assert score.recall >= 0.95
    assert score.precision >= 0.90
    assert score.median_lead >= 60
    assert rate <= 0.05


def test_a_crash_is_never_counted_as_foreseen():
    score = Score()
    score.add(episode("crash", HELD_OUT))
    assert (score.faults, score.hits) == (0, 0)
    assert set(GRADUAL) < set(KINDS)
