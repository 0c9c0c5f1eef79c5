"""The picture that all views share, made of a bridge."""

from __future__ import annotations

from mcpbridge.bridge import Bridge
from mcpbridge.observe.metrics import Registry
from mcpbridge.observe.snapshot import ConfigStatus
from mcpbridge.status import Status
from mcpbridge.stores.memory import MemoryStore
from tests.support.scripted import Scripted, add


async def test_an_event_has_the_time_at_which_it_happened_whenever_somebody_looks() -> None:
    async with Bridge("gateway", MemoryStore(), None) as bridge:
        backend = add(bridge, Scripted()).backends[0]
        backend.since = 86_400.0
        config = ConfigStatus(None, "", None)
        seen = Status(Registry()).snapshot(bridge, {}, store="memory", ready=True, config=config)
    assert [event.time for event in seen.events] == ["1970-01-02T00:00:00.000Z"] == [part.since for part in seen.backends]
