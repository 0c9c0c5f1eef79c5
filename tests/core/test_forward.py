"""Which failures are tried again, where, and how often."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from mcpbridge.bridge import Bridge, Way
from mcpbridge.core.exchange import Exchange
from mcpbridge.core.forward import forward
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


async def test_a_fault_of_the_client_is_never_tried_again() -> None:
    assert await tries(server_of(4), READ, BridgeError("invalid_params", sent=False)) == 1


async def test_nothing_is_tried_after_the_deadline() -> None:
    assert await tries(server_of(4), READ, BridgeError("connection_refused", sent=False), seconds=0.0) == 1


async def test_a_conversation_has_no_other_backend() -> None:
    server, session = server_of(2), client()
    session.links["s"] = type("L", (), {"backend": server.backends[1]})()
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
