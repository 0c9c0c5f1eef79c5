"""What operators do to a running gateway by its API: backends that are to go are drained, and taken back; one is tested.

    POST /api/v1/backends/{endpoint}/drain      .../undrain      .../test

Source: contract http.gateway.backends.drain, http.gateway.backends.test.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from typing import Any

from mcpbridge.admin.app import Action, Asked
from mcpbridge.bridge import Bridge
from mcpbridge.checks.place import Stage, reach
from mcpbridge.checks.walk import Talk, Walk
from mcpbridge.config.sections import EndpointSpec
from mcpbridge.core.drain import drain, undrain
from mcpbridge.core.server import Backend
from mcpbridge.era import Crossings
from mcpbridge.errand import place_of
from mcpbridge.errors import BridgeError

TEST_TIMEOUT = 10.0  # seconds for each stage of a test


class Operation:
    """The actions on one bridge."""

    def __init__(self, bridge: Bridge) -> None:
        self._bridge = bridge

    def actions(self) -> Mapping[str, Action]:
        """Paths below the API's prefix and what a POST there does."""
        return {
            "/backends/*/drain": self._drain,
            "/backends/*/undrain": self._undrain,
            "/backends/*/test": self._test,
        }

    async def _drain(self, asked: Asked) -> Any:
        backend = self._backend(asked.place)
        drain(backend, self._bridge.sessions, self._bridge.spawn)
        return _told(backend)

    async def _undrain(self, asked: Asked) -> Any:
        backend = self._backend(asked.place)
        undrain(backend)
        return _told(backend)

    async def _test(self, asked: Asked) -> Any:
        """The stages of ``mcpbridge test``, on connections of their own; no tool is called."""
        backend = self._backend(asked.place)
        walk = Walk(Talk(backend.protocol, backend.dial, Crossings().probe), TEST_TIMEOUT)
        stages = [stage async for stage in _reached(backend)]
        if all(stage.ok for stage in stages):
            stages += [stage async for stage in walk.stages() if stage.stage != "sign-in" or not stage.ok]
        return {
            "endpoint": backend.name,
            "ok": all(stage.ok for stage in stages),
            "protocol": backend.protocol,
            "era": walk.greeting.era if walk.greeting is not None else None,
            "tools": walk.tools,
            "stages": [stage.document for stage in stages],
        }

    def _backend(self, name: str) -> Backend:
        """Raises BridgeError("method_not_found"), which HTTP tells as 404."""
        for server in self._bridge.servers.values():
            for backend in server.backends:
                if backend.name == name:
                    return backend
        known = ", ".join(backend.name for server in self._bridge.servers.values() for backend in server.backends)
        raise BridgeError("method_not_found", f"no backend is named {name!r}; there are: {known or 'none'}", sent=False)


async def _reached(backend: Backend) -> AsyncIterator[Stage]:
    """Whether its address can be connected to; nothing for a command."""
    place = None if "://" not in backend.address else place_of(EndpointSpec(url=backend.address))
    if place is not None:
        async for stage in reach(place._replace(context=None), TEST_TIMEOUT):  # the walk shakes hands as its dial does
            yield stage


def _told(backend: Backend) -> dict[str, Any]:
    state = "draining" if backend.is_draining else backend.state
    return {"endpoint": backend.name, "state": state, "in_flight": backend.active}
