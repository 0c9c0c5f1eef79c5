"""Predictions: confirmed by a failure in time, else a false alarm; a failure that nobody foretold is missed."""

from __future__ import annotations

import pytest

from mcpbridge.core.anomaly.detector import Reading
from mcpbridge.core.anomaly.predictions import HORIZON, MAX_KEPT, Predictions, severity

SLOW = Reading(0.1, True, "latency", 0.01, 0.02, None)


def test_a_failure_within_the_horizon_confirms_and_one_after_it_does_not():
    found = Predictions(HORIZON)
    for endpoint, failed_at in (("a", HORIZON), ("b", HORIZON + 1)):
        assert found.alarmed(endpoint, "s", "http", SLOW, 0.0)
        found.expire(failed_at)
        found.failed(endpoint, failed_at)
    assert (found.confirmed, found.false_alarms, found.missed, found.open) == (1, 1, 1, 0)
    assert [one.outcome for one in found.kept] == ["false_alarm", "confirmed"]
    assert [one.closed_at for one in found.kept] == [HORIZON + 1, HORIZON]


def test_an_endpoint_has_one_open_prediction():
    found = Predictions(HORIZON)
    assert found.alarmed("a", "s", "http", SLOW, 0.0)
    assert found.alarmed("a", "s", "http", SLOW, 1.0) is None
    assert found.open == len(found.kept) == 1


def test_what_was_foretold_of_an_endpoint_that_is_gone_counts_for_nothing():
    found = Predictions(HORIZON)
    found.alarmed("a", "s", "http", SLOW, 0.0)
    found.forget("a")
    found.expire(HORIZON * 2)
    assert (found.open, found.closed, list(found.kept)) == (0, 0, [])


def test_the_newest_are_kept_and_those_dropped_still_get_their_outcome():
    found = Predictions(HORIZON)
    for number in range(MAX_KEPT + 50):
        found.alarmed(str(number), "s", "http", SLOW, 0.0)
    found.forget("0")
    found.expire(HORIZON + 1)
    assert (len(found.kept), found.false_alarms) == (MAX_KEPT, MAX_KEPT + 49)


@pytest.mark.parametrize(
    ("reading", "expected"),
    [
        (SLOW, "warning"),
        (SLOW._replace(value=0.03), "critical"),
        (SLOW._replace(signal="errors", baseline=0.0, value=0.1), "warning"),
        (SLOW._replace(signal="errors", baseline=0.0, value=0.2), "critical"),
    ],
)
def test_severity_is_how_bad_it_already_is(reading, expected):
    assert severity(reading) == expected
