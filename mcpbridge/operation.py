"""What operators do to a running gateway by its API: backends that are to go are drained, and taken back.

    POST /api/v1/backends/{endpoint}/drain      POST /api/v1/backends/{endpoint}/undrain

Source: contract http.gateway.backends.drain.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mcpbridge.admin.app import Action, Asked
from mcpbridge.bridge import Bridge
from mcpbridge.core.drain import drain, undrain
from mcpbridge.core.server import Backend
from mcpbridge.errors import BridgeError


class Operation:
    """The actions on one bridge."""

    def __init__(self, bridge: Bridge) -> None:
        self._bridge = bridge

    def actions(self) -> Mapping[str, Action]:
        """Paths below the API's prefix and what a POST there does."""
        return {"/backends/*/drain": self._drain, "/backends/*/undrain": self._undrain}

    async def _drain(self, asked: Asked) -> Any:
        backend = self._backend(asked.place)
        drain(backend, self._bridge.sessions, self._bridge.spawn)
        return _told(backend)

    async def _undrain(self, asked: Asked) -> Any:
        backend = self._backend(asked.place)
        undrain(backend)
        return _told(backend)

    def _backend(self, name: str) -> Backend:
        """Raises BridgeError("method_not_found"), which HTTP tells as 404."""
        for server in self._bridge.servers.values():
            for backend in server.backends:
                if backend.name == name:
                    return backend
        known = ", ".join(backend.name for server in self._bridge.servers.values() for backend in server.backends)
        raise BridgeError("method_not_found", f"no backend is named {name!r}; there are: {known or 'none'}", sent=False)


def _told(backend: Backend) -> dict[str, Any]:
    state = "draining" if backend.is_draining else backend.state
    return {"endpoint": backend.name, "state": state, "in_flight": backend.active}
