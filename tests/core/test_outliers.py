"""Outlier ejection: the rules by examples and properties, and what a server's calls make of them."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcpbridge.bridge import Bridge, Way
from mcpbridge.core.balance.policy import Balancing
from mcpbridge.core.exchange import Exchange
from mcpbridge.core.forward import forward
from mcpbridge.core.outliers import BASE, LONGEST, Record, after_failure, compare
from mcpbridge.core.server import Backend
from mcpbridge.errors import BridgeError
from mcpbridge.stores.memory import MemoryStore
from mcpbridge.wire import message as m
from tests.support.scripted import META, Scripted, exchange


class One:
    """A backend as the rules see it."""

    def __init__(self) -> None:
        self.ejection = Record()
        self.calls = self.failures = self.in_row = 0
        self.is_up = True

    @property
    def totals(self) -> tuple[int, int, int]:
        return self.calls, self.failures, self.in_row

    def is_eligible(self, now: float) -> bool:
        return self.is_up and self.ejection.until <= now

    def did(self, calls: int, failures: int = 0) -> One:
        self.calls += calls
        self.failures += failures
        return self


def fail(one: One, members: list[One], times: int, now: float) -> bool:
    ejected = False
    for _ in range(times):
        one.did(1, 1).in_row += 1
        ejected = after_failure(one, members, now) or ejected
    return ejected


def test_five_failures_in_a_row_eject_and_each_time_in_a_row_for_longer() -> None:
    members = [One(), One()]
    bad = members[0]
    assert not fail(bad, members, 4, 0.0)
    assert fail(bad, members, 1, 0.0)
    assert (bad.ejection.until, bad.ejection.reason) == (BASE, "5 failures in a row")
    assert not fail(bad, members, 3, 10.0)  # of calls that were on their way
    assert fail(bad, members, 1, BASE)  # it has not succeeded since
    assert bad.ejection.until == BASE + 2 * BASE
    now = bad.ejection.until
    for _ in range(20):
        assert fail(bad, members, 1, now)
        now = bad.ejection.until
    fail(bad, members, 1, now)
    assert bad.ejection.until - now == LONGEST


def test_time_in_service_makes_the_next_ejection_shorter_again() -> None:
    members = [One(), One()]
    bad = members[0]
    fail(bad, members, 5, 0.0)
    fail(bad, members, 1, BASE)
    assert bad.ejection.times == 2
    back = bad.ejection.until
    for _ in range(7):
        compare(members, back + 29.0)
    assert bad.ejection.times == 2
    compare(members, back + 30.0)
    compare(members, back + 40.0)
    assert bad.ejection.times == 1
    compare(members, back + 60.0)
    assert bad.ejection.times == 0


def test_the_last_backend_that_can_be_used_is_never_ejected() -> None:
    alone, down = [One()], [One(), One()]
    assert not fail(alone[0], alone, 50, 0.0)
    down[1].is_up = False
    assert not fail(down[0], down, 50, 0.0)
    down[1].is_up = True
    assert fail(down[0], down, 1, 1.0)
    assert not fail(down[1], down, 50, 1.0)


@given(st.integers(2, 60))
def test_at_most_a_tenth_is_ejected_and_one_in_any_case(count: int) -> None:
    members = [One() for _ in range(count)]
    out = sum(fail(one, members, 9, 0.0) for one in members)
    assert out == max(1, count // 10)
    assert any(one.is_eligible(0.0) for one in members)


def test_one_that_fails_much_more_than_the_others_is_ejected_from_two_on() -> None:
    for count in (2, 3, 5, 20):
        members = [One().did(200) for _ in range(count - 1)] + [One().did(200, 30)]
        assert compare(members, 10.0) == [members[-1]]
        assert members[-1].ejection.reason == "15% of its calls failed, 0% of the others'"
        assert compare([one.did(200, 30 * (one is members[-1])) for one in members], 20.0) == []  # it is already


def test_a_few_failures_few_calls_and_a_common_trouble_eject_nobody() -> None:
    assert compare([One().did(1000), One().did(1000, 90)], 10.0) == []
    assert compare([One().did(99, 99), One().did(500)], 10.0) == []
    assert compare([One().did(200, 110), One().did(200, 120), One().did(200, 100)], 10.0) == []


def test_only_the_calls_since_the_last_look_count() -> None:
    members = [One().did(500, 400), One().did(500, 400)]
    assert compare(members, 10.0) == []
    assert compare([one.did(200) for one in members], 20.0) == []


def bridge_of(count: int) -> tuple[Bridge, list[Backend]]:
    bridge = Bridge("gateway", MemoryStore(), None, balancing=Balancing(endpoint_strategy="round_robin"))
    server = bridge.add("s", [Way("http", f"b{n}", Scripted().dial) for n in range(count)])
    return bridge, server.backends


async def call(backends: list[Backend], outcome: Any) -> None:
    async def attempt(x: Exchange) -> m.Response:
        assert x.backend is not None
        result = outcome(x.backend)
        if isinstance(result, BaseException):
            raise result
        return m.result(1, {"content": [], "isError": result})

    with suppress(BridgeError):
        await forward(attempt)(exchange(m.request(1, "tools/call", {"_meta": META}), backends[0].server))


async def test_an_ejected_backend_gets_no_new_calls_while_another_is_there_and_the_event_says_why() -> None:
    bridge, backends = bridge_of(3)
    used: list[Backend] = []

    def outcome(backend: Backend) -> Any:
        used.append(backend)
        return BridgeError("backend_error", "boom") if backend is backends[1] else False

    while not backends[1].ejection.until:
        assert len(used) < 200
        await call(backends, outcome)
    used.clear()
    for _ in range(30):
        await call(backends, outcome)
    assert set(used) == {backends[0], backends[2]}
    [event] = bridge.events
    assert (event.event, event.server) == ("ejection", "s")
    assert event.message == "s/1 gets no new calls for a while: 5 failures in a row"
    for other in (backends[0], backends[2]):
        other.state = "down"
    used.clear()
    await call(backends, outcome)
    assert used  # it is better than nothing


async def test_a_tools_own_error_and_a_client_that_cancels_eject_nobody() -> None:
    _, backends = bridge_of(2)
    for _ in range(40):
        await call(backends, lambda _: True)
        await call(backends, lambda _: BridgeError("invalid_params"))
        with pytest.raises(asyncio.CancelledError):
            await call(backends, lambda _: asyncio.CancelledError())
    assert [b.ejection.until for b in backends] == [0.0, 0.0]
    assert [b.outcome.failures for b in backends] == [0, 0]


async def test_one_that_comes_back_from_being_down_is_not_ejected_any_more() -> None:
    _, backends = bridge_of(2)
    for _ in range(5):
        backends[0].failed(BridgeError("connection_refused", sent=False))
    assert backends[0].state == "down"
    assert backends[0].ejection.until
    backends[0].succeeded()
    assert not backends[0].ejection.until
