"""A token bucket in front of what is asked."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcpbridge.core.exchange import Exchange
from mcpbridge.errors import BridgeError
from mcpbridge.policies.rate_limit import Bucket, rate_limit
from mcpbridge.wire import message as m
from tests.support.scripted import exchange


def test_a_burst_passes_then_one_for_every_token_that_came() -> None:
    bucket = Bucket(2.0, 3, 0.0)
    assert [bucket.take(0.0) for _ in range(4)] == [0.0, 0.0, 0.0, 0.5]
    assert bucket.take(0.25) == 0.25
    assert bucket.take(0.5) == 0.0
    assert [bucket.take(100.0) for _ in range(4)] == [0.0, 0.0, 0.0, 0.5]


@given(st.lists(st.floats(0.0, 10.0), max_size=60), st.floats(0.1, 100.0), st.integers(1, 20))
def test_no_window_lets_more_through_than_burst_and_rate_give(pauses: list[float], rate: float, burst: int) -> None:
    bucket, now, taken = Bucket(rate, burst, 0.0), 0.0, 0
    for pause in pauses:
        now += pause
        taken += bucket.take(now) == 0.0
    assert taken <= burst + rate * now + 1e-6 * len(pauses)


@pytest.mark.requirement(
    "config.router.local.rate_limit.burst",
    "config.router.local.rate_limit.enabled",
    "config.router.local.rate_limit.requests_per_sec",
)
async def test_a_request_above_the_limit_is_refused_with_the_time_to_wait_and_a_notification_is_not() -> None:
    policy = rate_limit(0.001, 1)

    async def answered(x: Exchange) -> m.Response | None:
        return m.result(1, {}) if isinstance(x.message, m.Request) else None

    x = exchange(m.request(1, "tools/list"), None)  # type: ignore[arg-type]
    assert await policy(x, answered) is not None
    with pytest.raises(BridgeError) as refused:
        await policy(x, answered)
    assert refused.value.reason == "rate_limited" and 0 < refused.value.data["retry_after_ms"] <= 1_000_001
    x.message = m.notification("notifications/initialized")
    assert await policy(x, answered) is None
