"""Calls outlast an outage of their server: what never left us waits in order, bounded, until one try succeeds."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from mcpbridge.bridge import Bridge, Way
from mcpbridge.core.backoff import Reconnect
from mcpbridge.core.balance.policy import Balancing
from mcpbridge.core.breaker import Rules
from mcpbridge.core.exchange import Handler, Reply
from mcpbridge.core.outage import Outage
from mcpbridge.core.server import Server
from mcpbridge.era import Crossings
from mcpbridge.errors import BridgeError
from mcpbridge.stores.memory import MemoryStore
from mcpbridge.wire import message as m
from tests.support.scripted import DISCOVERED, META, WAIT, Scripted, Talk, exchange, until

GONE = BridgeError("websocket_refused", sent=False)
QUICK = Reconnect(0.001, 0.002)


class Gateway(Scripted):
    """A modern server that can be away, or fail a number of calls under way."""

    def __init__(self) -> None:
        super().__init__()
        self.is_away = False
        self.cuts = 0
        self.calls = 0
        self.says: m.Response | None = None
        self.answer = self._answer
        self.dialled = self._dialled

    async def _dialled(self, _era: object) -> None:
        if self.is_away:
            raise GONE

    async def _answer(self, talk: Talk, request: m.Request, reply: Reply) -> m.Response:
        if request.method == "server/discover":
            if self.is_away:
                raise GONE
            return m.result(request.id, DISCOVERED)
        if request.method == "tools/list":  # read for what its tools say of headers
            return m.result(request.id, {"resultType": "complete", "tools": []})
        self.calls += 1
        if self.cuts:
            self.cuts -= 1
            raise BridgeError("stream_closed")
        if self.is_away:
            raise GONE
        if self.says is not None:
            said, self.says = self.says, None
            return said
        return m.result(request.id, {"resultType": "complete", "content": []})


def call(method: str = "tools/call", id: int = 1) -> m.Request:
    return m.request(id, method, {"name": "t", "arguments": {}, "_meta": META})


@pytest.fixture
async def bridge() -> AsyncIterator[Bridge]:
    async with Bridge("router", MemoryStore(), Crossings(), start_timeout=WAIT) as bridge:
        yield bridge


def behind(
    bridge: Bridge, *gateways: Gateway, rules: Reconnect = QUICK, limit: int = 10, patience: float = WAIT
) -> tuple[Server, Outage, Handler]:
    server = bridge.add("gateway", [Way("websocket", str(n), gateway.dial) for n, gateway in enumerate(gateways)])
    server.balancer.policy = Balancing(is_ordered=True, panic_threshold=0.0)
    outage = Outage(server, rules, bridge.spawn, limit=limit, patience=patience)
    return server, outage, outage.around(bridge.one)


async def test_calls_wait_for_a_gateway_that_comes_back_and_run_once(bridge: Bridge) -> None:
    gateway = Gateway()
    gateway.is_away = True
    server, outage, one = behind(bridge, gateway)
    calls = [asyncio.ensure_future(one(exchange(call(id=n), server))) for n in range(3)]
    await until(lambda: outage.waiting == 3)
    gateway.is_away = False
    answers = await asyncio.wait_for(asyncio.gather(*calls), WAIT)
    assert [answer is not None and answer.id for answer in answers] == [0, 1, 2]
    assert gateway.calls == 3 and outage.waiting == 0


async def test_a_gateway_that_is_there_but_keeps_failing_is_left_to_its_breaker_at_once() -> None:
    gateway = Gateway()
    async with Bridge("router", MemoryStore(), Crossings(), start_timeout=WAIT, breaker=Rules(failures=2)) as bridge:
        server, outage, one = behind(bridge, gateway)
        gateway.cuts = 2
        for _ in range(2):
            with pytest.raises(BridgeError, match="stream closed"):
                await one(exchange(call(), server))
        with pytest.raises(BridgeError, match="failed 2 times in a row") as refused:
            await one(exchange(call(), server))
        assert (refused.value.reason, outage.waiting, gateway.calls) == ("breaker_open", 0, 2)


async def test_an_outage_is_no_matter_of_the_breaker_where_only_what_was_sent_counts() -> None:
    gateway = Gateway()
    rules = Rules(failures=1, open_for=WAIT * 10, unsent=False)
    async with Bridge("router", MemoryStore(), Crossings(), start_timeout=WAIT, breaker=rules) as bridge:
        server, outage, one = behind(bridge, gateway)
        gateway.is_away = True
        calls = [asyncio.ensure_future(one(exchange(call(id=n), server))) for n in range(5)]
        await until(lambda: outage.waiting == 5)
        breaker = server.backends[0].breaker
        assert breaker is not None and breaker.state == "closed"
        gateway.is_away = False
        assert len(await asyncio.wait_for(asyncio.gather(*calls), WAIT)) == gateway.calls == 5


async def test_a_breaker_that_an_outage_opened_lets_the_calls_through_when_the_gateway_is_back() -> None:
    gateway = Gateway()
    gateway.is_away = True
    rules = Rules(failures=1, successes=1, open_for=WAIT * 10)
    async with Bridge("router", MemoryStore(), Crossings(), start_timeout=WAIT, breaker=rules) as bridge:
        server, outage, one = behind(bridge, gateway)
        waiting = asyncio.ensure_future(one(exchange(call(), server)))
        await until(lambda: outage.waiting == 1)
        gateway.is_away = False
        assert (answer := await asyncio.wait_for(waiting, WAIT)) is not None and answer.error is None


async def test_more_calls_than_may_wait_are_refused_with_the_cause(bridge: Bridge) -> None:
    gateway = Gateway()
    gateway.is_away = True
    server, outage, one = behind(bridge, gateway, limit=1)
    first = asyncio.ensure_future(one(exchange(call(), server)))
    await until(lambda: outage.waiting == 1)
    with pytest.raises(BridgeError, match=r"1 calls wait for server 'gateway'.*refused") as refused:
        await one(exchange(call(), server))
    assert refused.value.reason == "queue_full" and not refused.value.sent
    first.cancel()
    await until(lambda: outage.waiting == 0)


async def test_an_outage_that_lasts_is_told_at_once_and_its_end_is_still_noticed(bridge: Bridge) -> None:
    gateway = Gateway()
    gateway.is_away = True
    server, _, one = behind(bridge, gateway, patience=0.0)
    with pytest.raises(BridgeError, match="refused"):
        await one(exchange(call(), server))
    gateway.is_away = False
    await until(lambda: server.backends[0].state == "ok")
    assert await one(exchange(call(), server)) is not None


async def test_after_its_attempts_the_gateway_is_left_alone_until_the_next_call(bridge: Bridge) -> None:
    gateway = Gateway()
    gateway.is_away = True
    server, _, one = behind(bridge, gateway, rules=Reconnect(0.001, 0.001, attempts=2))
    with pytest.raises(BridgeError, match="refused"):
        await asyncio.wait_for(one(exchange(call(), server)), WAIT)
    gateway.is_away = False
    assert await one(exchange(call(), server)) is not None


async def test_a_call_that_may_have_run_is_not_sent_again_and_a_read_is_once(bridge: Bridge) -> None:
    gateway = Gateway()
    server, _, one = behind(bridge, gateway)
    gateway.cuts = 1
    with pytest.raises(BridgeError) as lost:
        await one(exchange(call(), server))
    assert lost.value.reason == "stream_closed" and gateway.calls == 1
    gateway.cuts = 1
    assert await asyncio.wait_for(one(exchange(call("resources/list"), server)), WAIT) is not None
    gateway.cuts = 2
    with pytest.raises(BridgeError):
        await asyncio.wait_for(one(exchange(call("resources/list"), server)), WAIT)
    assert gateway.calls == 5


async def test_what_a_wait_cannot_mend_is_told_at_once(bridge: Bridge) -> None:
    gateway = Gateway()
    server, outage, one = behind(bridge, gateway)

    async def refused(_era: object) -> None:
        raise BridgeError("backend_refused", "the server answered HTTP 401", sent=False)

    gateway.dialled = refused
    with pytest.raises(BridgeError, match="401"):
        await one(exchange(call(), server))
    assert outage.waiting == 0


async def test_the_first_gateway_is_used_while_it_is_up_and_again_when_it_is_back(bridge: Bridge) -> None:
    first, second, third = Gateway(), Gateway(), Gateway()
    server, _, one = behind(bridge, first, second, third)
    await one(exchange(call(), server))
    first.is_away = True
    for _ in range(3):
        assert await one(exchange(call(), server)) is not None
    second.is_away = True
    assert await one(exchange(call(), server)) is not None
    assert (first.calls, second.calls, third.calls) == (2, 4, 1)
    first.is_away = False
    await server.backends[0].check(WAIT)
    assert await one(exchange(call(), server)) is not None
    assert first.calls == 3


async def test_a_gateway_that_shuts_down_gets_the_call_again_or_its_successor_does(bridge: Bridge) -> None:
    first, second = Gateway(), Gateway()
    server, _, one = behind(bridge, first, second)
    first.says = m.error(1, {"code": 1012, "message": "draining", "data": {"reason": "draining", "retryable": True}})
    answer = await asyncio.wait_for(one(exchange(call(), server)), WAIT)
    assert answer is not None and answer.error is None
    assert first.calls + second.calls == 2


async def test_calls_for_other_servers_are_not_touched(bridge: Bridge) -> None:
    gateway, other = Gateway(), Gateway()
    _, outage, one = behind(bridge, gateway)
    server = bridge.add("other", [Way("websocket", "other", other.dial)])
    other.is_away = True
    with pytest.raises(BridgeError, match="refused"):
        await one(exchange(call(), server))
    assert outage.waiting == 0
