"""The picture that all views share, made of a bridge."""

from __future__ import annotations

import asyncio

from mcpbridge.bridge import Bridge, Way
from mcpbridge.errors import BridgeError
from mcpbridge.observe.metrics import Registry
from mcpbridge.observe.snapshot import ConfigStatus
from mcpbridge.status import Status
from mcpbridge.stores.memory import MemoryStore
from mcpbridge.wire import message as m
from tests.support.scripted import META, Scripted, add, exchange


async def test_an_event_has_the_time_at_which_it_happened_whenever_somebody_looks() -> None:
    async with Bridge("gateway", MemoryStore(), None) as bridge:
        backend = add(bridge, Scripted()).backends[0]
        backend.since = 86_400.0
        config = ConfigStatus(None, "", None)
        seen = Status(Registry()).snapshot(bridge, {}, store="memory", phase="serving", config=config)
    assert [event.time for event in seen.events] == ["1970-01-02T00:00:00.000Z"] == [part.since for part in seen.backends]


async def test_a_router_counts_direct_calls_that_their_client_gave_up() -> None:
    async with Bridge("router", MemoryStore(), None) as bridge:
        server = add(bridge, Scripted())
        x = exchange(m.request(1, "tools/call", {"_meta": META}), server)
        registry = Registry(role="router")
        Status(registry).attempted(server.backends[0], x, 0.5, asyncio.CancelledError())
    counter = registry.counter("mcp_router_direct_requests_total", protocol=server.backends[0].protocol, result="cancelled")
    assert counter.value == 1.0


async def test_an_ejected_backend_is_degraded_with_the_reason_and_counted() -> None:
    registry = Registry()
    status = Status(registry)
    async with Bridge("gateway", MemoryStore(), None, ejected=status.ejected) as bridge:
        server = bridge.add("s", [Way("http", f"b{n}", Scripted().dial) for n in range(2)])
        for backend in server.backends:
            backend.succeeded()
        for _ in range(5):
            server.backends[0].failed(BridgeError("backend_error", "boom"))
        seen = status.snapshot(bridge, {}, store="memory", phase="serving", config=ConfigStatus(None, "", None))
    ejected, other = seen.backends
    assert (ejected.state, ejected.reason) == ("degraded", "ejected: 5 failures in a row; gets calls again in 30 s")
    assert (other.state, other.reason) == ("ok", None)
    assert [event.event for event in seen.events].count("ejection") == 1
    assert registry.counter("mcp_gateway_outlier_ejections_total", protocol="http").value == 1.0
