"""What operators do to a running gateway by its API: backends that are to go are drained, and taken back.

    POST /api/v1/backends/{endpoint}/drain      POST /api/v1/backends/{endpoint}/undrain

Source: contract http.gateway.backends.drain.
"""

from __future__ import annotations

from typing import Any

from mcpbridge.admin.app import Action
from mcpbridge.bridge import Bridge
from mcpbridge.core.drain import drain, undrain
from mcpbridge.core.server import Backend
from mcpbridge.errors import BridgeError

_BACKENDS = "/backends/"


class Operation:
    """The actions on one bridge."""

    def __init__(self, bridge: Bridge) -> None:
        self._bridge = bridge

    def named(self, path: str) -> Action | None:
        """The action of a path below the API's prefix that names a backend; None for another path."""
        name, _, verb = path.removeprefix(_BACKENDS).rpartition("/")
        if not path.startswith(_BACKENDS) or verb not in ("drain", "undrain"):
            return None

        async def act(_body: dict[str, Any]) -> Any:
            backend = self._backend(name)
            if verb == "drain":
                drain(backend, self._bridge.sessions, self._bridge.spawn)
            else:
                undrain(backend)
            state = "draining" if backend.is_draining else backend.state
            return {"endpoint": backend.name, "state": state, "in_flight": backend.active}

        return act

    def _backend(self, name: str) -> Backend:
        """Raises BridgeError("method_not_found"), which HTTP tells as 404."""
        for server in self._bridge.servers.values():
            for backend in server.backends:
                if backend.name == name:
                    return backend
        known = ", ".join(backend.name for server in self._bridge.servers.values() for backend in server.backends)
        raise BridgeError("method_not_found", f"no backend is named {name!r}; there are: {known or 'none'}", sent=False)
