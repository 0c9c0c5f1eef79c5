"""Which failures are tried again, where, and how often."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

from mcpbridge.bridge import Bridge, Way
from mcpbridge.core.breaker import Rules
from mcpbridge.core.exchange import Exchange
from mcpbridge.core.forward import forward
from mcpbridge.core.repeats import Patience
from mcpbridge.core.retries import Retries
from mcpbridge.core.server import Server
from mcpbridge.errors import BridgeError
from mcpbridge.stores.memory import MemoryStore
from mcpbridge.wire import message as m
from tests.support.scripted import META, Scripted, client, exchange

CALL, READ = "tools/call", "tools/list"


def server_of(count: int) -> Server:
    bridge = Bridge("gateway", MemoryStore(), None)
    return bridge.add("s", [Way("stdio" if n % 2 == 0 else "http", f"b{n}", Scripted().dial, n % 2 == 0) for n in range(count)])


async def tries(server: Server, method: str, error: BridgeError, **options: Any) -> int:
    """How often a call that always fails with ``error`` is tried."""
    tried: list[Any] = []

    async def attempt(x: Exchange) -> m.Response:
        tried.append(x.backend)
        raise error

    x = exchange(m.request(1, method, {"_meta": META}), server, options.pop("session", None), **options)
    with pytest.raises(BridgeError) as caught:
        await forward(attempt)(x)
    assert caught.value is error
    assert len(set(tried)) == len(tried)  # never the same one twice
    assert x.attempts == len(tried)
    assert all(backend.active == 0 for backend in server.backends)
    return len(tried)


async def test_what_was_never_sent_is_tried_everywhere() -> None:
    assert await tries(server_of(4), CALL, BridgeError("connection_refused", sent=False)) == 4


async def test_what_was_sent_is_tried_again_once_and_only_when_it_is_safe() -> None:
    assert await tries(server_of(4), READ, BridgeError("stream_closed")) == 2
    assert await tries(server_of(4), CALL, BridgeError("stream_closed")) == 1


TOOLS = [
    {"name": "reads", "annotations": {"readOnlyHint": True}},
    {"name": "sets", "annotations": {"idempotentHint": True, "readOnlyHint": False}},
    {"name": "adds", "annotations": {"readOnlyHint": False, "destructiveHint": False}},
    {"name": "odd", "annotations": "readOnlyHint"},
    {"name": "plain"},
]


async def listed(server: Server, tools: list[Any]) -> None:
    """A list of these tools passes."""

    async def attempt(x: Exchange) -> m.Response:
        return m.result(1, {"tools": tools})

    await forward(attempt)(exchange(m.request(1, READ, {"_meta": META}), server))


async def called(server: Server, name: str, **params: Any) -> int:
    """How often a call of this tool is tried when each try ends in a broken stream."""
    tried = 0

    async def attempt(x: Exchange) -> m.Response:
        nonlocal tried
        tried += 1
        raise BridgeError("stream_closed")

    with pytest.raises(BridgeError):
        await forward(attempt)(exchange(m.request(1, CALL, {"_meta": META, "name": name, **params}), server))
    return tried


async def test_a_call_that_may_have_run_is_tried_again_only_when_its_tool_is_listed_as_read_only_or_idempotent() -> None:
    server = server_of(4)
    assert await called(server, "reads") == 1  # nothing is known yet
    await listed(server, TOOLS)
    assert [await called(server, tool["name"]) for tool in TOOLS] == [2, 2, 1, 1, 1]
    assert await called(server, "unlisted") == 1
    assert await called(server, "reads", task={}) == 1  # two tasks would be there
    await listed(server, [{"name": "reads"}])  # another version of the server
    assert await called(server, "reads") == 1
    assert await called(server, "sets") == 2


async def test_a_try_of_a_safe_method_that_takes_too_long_goes_to_another_backend_and_counts_as_a_failure() -> None:
    bridge = Bridge("gateway", MemoryStore(), None, attempt_timeout=0.05)
    server = bridge.add("s", [Way("http", f"b{n}", Scripted().dial) for n in range(2)])
    for backend in server.backends:
        backend.succeeded()
    tried: list[Any] = []

    async def attempt(x: Exchange) -> m.Response:
        tried.append(x.backend)
        if len(tried) == 1:
            await asyncio.Event().wait()
        return m.result(1, {})

    x = exchange(m.request(1, READ, {"_meta": META}), server)
    assert (await forward(attempt)(x)) is not None
    assert len(set(tried)) == 2
    assert tried[0].outcome.failures == 1
    assert tried[0].cause == "timeout: server 's' did not answer tools/list in 0.05 s"
    assert tried[1].outcome.failures == 0


@pytest.mark.parametrize(("count", "method", "attempts"), [(1, READ, 2), (2, CALL, 2), (2, READ, 1)])
async def test_a_try_may_take_its_time_when_no_other_may_follow(count: int, method: str, attempts: int) -> None:
    bridge = Bridge("gateway", MemoryStore(), None, attempt_timeout=0.001)
    server = bridge.add("s", [Way("http", f"b{n}", Scripted().dial) for n in range(count)])
    for backend in server.backends:
        backend.succeeded()

    async def attempt(x: Exchange) -> m.Response:
        await asyncio.sleep(0.05)
        return m.result(1, {})

    x = exchange(m.request(1, method, {"_meta": META, "name": "t"}), server)
    assert (await forward(attempt, max_attempts=attempts)(x)) is not None
    assert x.attempts == 1


def test_by_itself_a_try_lasts_four_times_the_slowest_answers_between_one_and_five_seconds() -> None:
    patience = Patience()
    assert patience.seconds(0.0) == 5.0  # nothing is known
    for _ in range(100):
        patience.answered(0.01, 1.0)
    assert patience.seconds(10.0) == 1.0
    for _ in range(100):
        patience.answered(0.5, 10.0)
    assert patience.seconds(11.0) == 1.0  # looked at now and then only
    assert patience.seconds(20.0) == pytest.approx(2.0, rel=0.02)
    for _ in range(100):
        patience.answered(60.0, 20.0)
    assert patience.seconds(30.0) == 5.0
    assert patience.seconds(400.0) == 5.0


async def test_a_fault_of_the_client_is_never_tried_again() -> None:
    assert await tries(server_of(4), READ, BridgeError("invalid_params", sent=False)) == 1


async def test_nothing_is_tried_after_the_deadline() -> None:
    assert await tries(server_of(4), READ, BridgeError("connection_refused", sent=False), seconds=0.0) == 1


async def test_a_conversation_has_no_other_backend() -> None:
    server, session = server_of(2), client()
    session.links["s"] = type("L", (), {"backend": server.backends[1], "is_pinned": True})()
    assert await tries(server, READ, BridgeError("connection_refused", sent=False), session=session) == 1


async def test_a_forced_protocol_leaves_the_cause_of_its_only_backend_as_the_answer() -> None:
    server = server_of(2)
    error = BridgeError("connection_refused", sent=False)

    async def attempt(x: Exchange) -> m.Response:
        raise error

    x = exchange(m.request(1, READ, {"_meta": META}), server)
    x.force_protocol = "http"
    with pytest.raises(BridgeError) as caught:
        await forward(attempt)(x)
    assert caught.value is error
    assert x.backend is server.backends[1]


async def test_a_forced_protocol_that_is_down_is_named_and_not_tried() -> None:
    server = server_of(2)
    server.backends[1].state = "down"

    async def attempt(x: Exchange) -> m.Response:
        raise AssertionError

    x = exchange(m.request(1, READ, {"_meta": META}), server)
    x.force_protocol = "http"
    with pytest.raises(BridgeError) as caught:
        await forward(attempt)(x)
    assert (caught.value.fault.code, caught.value.fault.status, caught.value.data["protocol"]) == (1002, 503, "http")


async def test_a_cancelled_try_is_neither_a_failure_nor_in_flight() -> None:
    server = server_of(1)
    begun = asyncio.Event()

    async def attempt(x: Exchange) -> m.Response:
        begun.set()
        await asyncio.Event().wait()
        raise AssertionError

    call = asyncio.ensure_future(forward(attempt)(exchange(m.request(1, READ, {"_meta": META}), server)))
    await asyncio.wait_for(begun.wait(), 5)
    assert server.backends[0].active == 1
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert server.backends[0].active == 0
    assert server.backends[0].outcome.failures == 0


async def worked(monkeypatch: pytest.MonkeyPatch, server: Server, end: str) -> Exchange:
    """A call that works 2 s, waits 100 s and works 3 s, on a clock of its own; ``end``: it answers, fails or is cancelled."""
    now = 0.0
    waits, gate = asyncio.Event(), asyncio.Event()
    monkeypatch.setattr("mcpbridge.core.forward.perf_counter", lambda: now)

    async def attempt(x: Exchange) -> m.Response:
        nonlocal now
        now += 2
        waits.set()
        try:
            await gate.wait()
        finally:
            now += 3
        if end == "fails":
            raise BridgeError("stream_closed")
        return m.result(1, {})

    x = exchange(m.request(1, CALL, {"_meta": META}), server)
    call = asyncio.ensure_future(forward(attempt)(x))  # type: ignore[arg-type]
    await waits.wait()
    now += 100
    call.cancel() if end == "is cancelled" else gate.set()
    (outcome,) = await asyncio.gather(call, return_exceptions=True)
    assert type(outcome) is {"answers": m.Response, "fails": BridgeError, "is cancelled": asyncio.CancelledError}[end]
    return x


@pytest.mark.parametrize("end", ["answers", "fails", "is cancelled"])
async def test_work_between_two_protocols_is_timed_without_what_it_waited_for(
    monkeypatch: pytest.MonkeyPatch, end: str
) -> None:
    x = await worked(monkeypatch, server_of(1), end)
    assert (x.caller.protocol, x.backend and x.backend.protocol) == ("http", "stdio")
    assert x.worked == 5.0


async def test_work_within_one_protocol_is_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    bridge = Bridge("gateway", MemoryStore(), None)
    assert (await worked(monkeypatch, bridge.add("s", [Way("http", "b", Scripted().dial, False)]), "answers")).worked == 0.0


async def test_a_call_that_its_client_gives_up_is_told_as_that_and_dings_nobody() -> None:
    told: list[Any] = []
    bridge = Bridge("router", MemoryStore(), None, observe=lambda backend, x, seconds, error: told.append((backend, error)))
    server = bridge.add("s", [Way("http", "b", Scripted().dial, False)])
    waits = asyncio.Event()

    async def attempt(x: Exchange) -> m.Response:
        waits.set()
        await asyncio.Event().wait()
        raise AssertionError

    call = asyncio.ensure_future(forward(attempt)(exchange(m.request(1, CALL, {"_meta": META}), server)))  # type: ignore[arg-type]
    await waits.wait()
    call.cancel()
    await asyncio.wait([call])
    backend = server.backends[0]
    assert [(who, type(error)) for who, error in told] == [(backend, asyncio.CancelledError)]
    assert (backend.active, backend.outcome.failures, backend.state) == (0, 0, "unknown")


def guarded(count: int, per_protocol: bool = False) -> Server:
    """A server of ``count`` backends with breakers that open after two failures."""
    bridge = Bridge("gateway", MemoryStore(), None, breaker=Rules(failures=2), per_protocol=per_protocol)
    return bridge.add("s", [Way("http", f"b{n}", Scripted().dial) for n in range(count)])


async def send(server: Server, outcome: BridgeError | m.Response, method: str = CALL) -> Any:
    """One call whose every attempt ends with ``outcome``: the answer, or the error."""

    async def attempt(x: Exchange) -> m.Response:
        if isinstance(outcome, BridgeError):
            raise outcome
        return outcome

    try:
        return await forward(attempt)(exchange(m.request(1, method, {"_meta": META}), server))
    except BridgeError as error:
        return error


@pytest.mark.requirement("limit.breaker")
async def test_after_failures_in_a_row_calls_fail_at_once_and_name_the_cause() -> None:
    server = guarded(1)
    for _ in range(2):
        await send(server, BridgeError("stream_closed", "the peer hung up"))
    began = time.perf_counter()
    refused = await send(server, m.result(1, {}))
    assert time.perf_counter() - began < 0.005
    assert (refused.reason, refused.fault.code, refused.fault.status, refused.sent) == ("breaker_open", 1011, 503, False)
    assert "server 's' failed 2 times in a row and is tried again in 30 s" in str(refused)
    assert "the peer hung up" in str(refused)
    assert not server.backends[0].is_eligible(time.monotonic())


@pytest.mark.requirement("limit.breaker")
async def test_what_the_application_or_the_client_did_wrong_opens_nothing() -> None:
    server = guarded(1)
    for _ in range(3):
        await send(server, m.error(1, {"code": -32000, "message": "no such row"}))
        await send(server, m.result(1, {"isError": True, "content": []}))
        await send(server, BridgeError("invalid_params"))
    assert server.backends[0].breaker is not None
    assert server.backends[0].breaker.state == "closed"


async def test_a_backend_that_its_breaker_keeps_calls_from_is_passed_over() -> None:
    server = guarded(2)
    server.balancer.policy.endpoint_strategy = "least_conn"  # the first of two that are alike
    for _ in range(2):
        await send(server, BridgeError("stream_closed"))
    assert [b.breaker.state for b in server.backends if b.breaker] == ["open", "closed"]
    assert isinstance(await send(server, m.result(1, {})), m.Response)
    for _ in range(4):
        last = await send(server, BridgeError("stream_closed"))
    assert last.reason == "breaker_open"


async def test_when_breakers_refuse_all_of_several_backends_they_are_tried_at_once_but_not_again_and_again() -> None:
    server = guarded(2)
    breakers = [b.breaker for b in server.backends if b.breaker]
    for breaker in breakers:
        breaker.ended(breaker.begin(0.0), ok=False, now=time.monotonic())
        breaker.ended(breaker.begin(0.0), ok=False, now=time.monotonic())
    assert [breaker.state for breaker in breakers] == ["open", "open"]
    for _ in range(2):
        assert isinstance(await send(server, m.result(1, {})), m.Response)  # each gets a trial, or one of them both
    for _ in range(6):
        last = await send(server, BridgeError("stream_closed"))
    assert last.reason == "breaker_open"


async def test_a_call_that_broke_finds_another_backend_whose_breaker_still_waits() -> None:
    """The first works with every call but one; the others were well again long before their breakers' time."""
    server = guarded(3)
    for backend in server.backends[1:]:
        assert backend.breaker is not None
        for _ in range(2):
            backend.breaker.ended(backend.breaker.begin(0.0), ok=False, now=time.monotonic())
    seen: list[Any] = []

    async def attempt(x: Exchange) -> m.Response:
        seen.append(x.backend)
        if x.backend is server.backends[0]:
            raise BridgeError("stream_closed")
        return m.result(1, {})

    answer = await forward(attempt)(exchange(m.request(1, "prompts/get", {"_meta": META}), server))
    assert answer.error is None
    assert seen[0] is server.backends[0] and len(seen) == 2


async def test_a_backend_found_up_again_is_tried_at_once() -> None:
    server = guarded(1)
    backend = server.backends[0]
    for _ in range(2):
        await send(server, BridgeError("connection_refused", sent=False))
    assert (await send(server, m.result(1, {}))).reason == "breaker_open"
    backend.succeeded()  # a check
    for _ in range(2):
        assert isinstance(await send(server, m.result(1, {})), m.Response)
    assert backend.breaker is not None
    assert backend.breaker.state == "closed"


async def test_backends_of_one_protocol_can_be_given_up_together() -> None:
    server = guarded(4, per_protocol=True)
    for _ in range(2):
        await send(server, BridgeError("stream_closed"))
    refused = await send(server, m.result(1, {}))
    assert refused.reason == "breaker_open"
    assert "all servers of protocol http" in str(refused)


async def test_what_is_sent_again_is_counted_and_paid_for() -> None:
    budget, failed = Retries(), BridgeError("stream_closed")

    async def attempt(x: Exchange) -> m.Response:
        raise failed

    run, server = forward(attempt, retries=budget), server_of(2)
    for _ in range(300):
        with pytest.raises(BridgeError):
            await run(exchange(m.request(1, READ, {"_meta": META}), server))
    assert (budget.calls, budget.failovers) == (300, budget.total)
    assert 100 <= budget.total < 300
    assert budget.refused == 300 - budget.total
