"""What is counted, what measurements make of weights, and which weights are none."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcpbridge.core.balance.measured import Measured, Share, factors_of
from mcpbridge.core.balance.policy import Balancing, Factors, wrong_weights


def test_a_share_counts_five_minutes_and_all_since_the_start() -> None:
    share = Share()
    for second in range(0, 1200, 10):
        share.add(second % 20 == 0, 1000.0 + second)
    calls, failures = share.counts(2190.0)
    assert (calls, failures) == (30, 15)
    assert share.counts(2190.0 + 150)[0] == 15
    assert share.counts(5000.0) == (0, 0)
    share.clear()
    assert share.counts(2190.0) == (0, 0)
    assert share.total == 120


def test_the_fast_keeps_its_weight_the_slow_and_the_failing_get_less_and_who_was_hardly_used_keeps_it() -> None:
    factors, lacking = factors_of(
        {
            "stdio": Measured(100, 0, 0.010),
            "http": Measured(100, 20, 0.020),
            "sse": Measured(50, 50, 10.0),
            "websocket": Measured(19, 0, 9.0),
            "tcp_binary": Measured(0, 0, None),
        }
    )
    assert factors == {"stdio": Factors(1.0, 1.0), "http": Factors(0.5, 0.8), "sse": Factors(0.1, 0.1)}
    assert lacking == ["websocket", "tcp_binary"]
    policy = Balancing(weights={"http": 2.0, "sse": 1.0}, factors=factors)
    assert policy.weight("http") == pytest.approx(0.8)
    assert policy.weight("sse") == pytest.approx(0.1)  # a tenth is left
    policy.weights["http"] = 9.0
    policy.reset()
    assert (policy.weight("http"), policy.weight("sse")) == (2.0, 1.0)


@given(st.dictionaries(st.text(max_size=3), st.one_of(st.floats(), st.integers(), st.booleans(), st.text(), st.none())))
def test_weights_are_finite_numbers_in_their_range_and_not_all_zero(weights: dict[str, object]) -> None:
    reason = wrong_weights(weights, "protocols")
    good = all(type(w) in (int, float) and math.isfinite(w) and (w == 0 or 1e-9 <= w <= 100) for w in weights.values())  # type: ignore[arg-type,operator]
    assert (reason is None) == (good and (not weights or any(weights.values())))
