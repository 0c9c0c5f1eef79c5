"""What an endpoint shows of its servers' lists: names with their prefixes, URIs that two servers have as aliases.

An item keeps its bytes, but for the one member that says whose it is.

Source: mcp-eras section 4 (lists, resource URIs).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from msgspec import Raw

from mcpbridge.core.aggregate.exposed import Exposed
from mcpbridge.core.aggregate.lists import Shown
from mcpbridge.core.aggregate.resources import Owners
from mcpbridge.core.exchange import Caller, Exchange
from mcpbridge.core.server import Server
from mcpbridge.wire import message as m
from mcpbridge.wire.level import text, with_member
from mcpbridge.wire.message import Members

Visible = Callable[[Caller, str, str, str], bool]
"""Whether a caller may see an item: caller, kind (tools, prompts, resources, resourceTemplates), server, its own name."""
_IDENTITY = {"resources": "uri", "resourceTemplates": "uriTemplate", "tasks": "taskId"}


@dataclass(frozen=True)
class Items:
    """One list of an endpoint (a ``lists.View``); ``member``: tools, prompts, resources, resourceTemplates or tasks."""

    member: str
    exposed: Exposed
    owners: Owners
    visible: Visible

    def begins(self, server: Server) -> None:
        self.exposed.begins(self.member, server.name)

    def show(self, x: Exchange, server: Server, item: Raw, said: Members) -> Shown | None:
        key = _IDENTITY.get(self.member, "name")
        own = text(said.get(key))
        if own is None or not self.visible(x.caller, self.member, server.name, own):
            return None
        shown = self._shown(server.name, own)
        return Shown(shown, item if shown == own else with_member(item, said, key, m.dumps(shown)))

    def _shown(self, server: str, own: str) -> str:
        if self.member == "resources":
            return self.owners.listed(server, own)
        if self.member == "resourceTemplates":
            return self.owners.template(server, own)
        if self.member == "tasks":
            return own  # it came with its server's name
        return self.exposed.listed(self.member, server, own)
