"""Scopes: what may this principal do?

    mcp:read    look: initialize, discover, lists, reads, prompts, completion, one's own session and streams
    mcp:write   act: tools/call, everything that changes something, and every method we do not know; includes mcp:read
    mcp:admin   actions on the bridge itself; includes mcp:read

Source: contract http.common.access.*; MCP authorization (insufficient scope); RFC 6750 section 3.1.
"""

from __future__ import annotations

from collections.abc import Awaitable, Set
from typing import Literal

from mcpbridge.core.exchange import Exchange, Handler, Policy, Principal
from mcpbridge.errors import BridgeError
from mcpbridge.wire.message import Response

Scope = Literal["mcp:read", "mcp:write", "mcp:admin"]

READ_METHODS = frozenset(
    {
        "initialize",
        "ping",
        "server/discover",
        "tools/list",
        "prompts/list",
        "prompts/get",
        "resources/list",
        "resources/templates/list",
        "resources/read",
        "resources/subscribe",
        "resources/unsubscribe",
        "subscriptions/listen",
        "completion/complete",
        "logging/setLevel",
        "tasks/get",
        "tasks/result",
        "tasks/list",
        "notifications/initialized",
        "notifications/cancelled",
        "notifications/progress",
        "notifications/roots/list_changed",
        "(response)",  # an answer to a question of a server; the call it belongs to was let in
        "CONNECT",  # to come in, no more
        "SPEAK",  # what is said is looked at for itself
        "GET",  # operations on the caller's own session
        "DELETE",
    }
)

_GRANTED_BY: dict[Scope, tuple[str, ...]] = {
    "mcp:read": ("mcp:read", "mcp:write", "mcp:admin", "mcp:*"),
    "mcp:write": ("mcp:write", "mcp:*"),
    "mcp:admin": ("mcp:admin", "mcp:*"),
}


def authorize() -> Policy:
    """Refuse what the scopes of the caller's present token do not allow. Stands inside ``authenticate``."""

    def policy(x: Exchange, handler: Handler) -> Awaitable[Response | None]:
        require(x.caller.principal, scope_of(x.view.method))
        return handler(x)

    return policy


def scope_of(method: str) -> Scope:
    """The scope a message needs. What is not known to only look needs ``mcp:write``."""
    return "mcp:read" if method in READ_METHODS else "mcp:write"


def allows(scopes: Set[str], needed: Scope) -> bool:
    """Whether a token with these scopes may do what needs ``needed``."""
    return not scopes.isdisjoint(_GRANTED_BY[needed])


def require(principal: Principal | None, needed: Scope) -> None:
    """Raises BridgeError("forbidden") with the challenge for a principal without the scope, and for nobody."""
    if principal is None or not allows(principal.scopes, needed):
        challenge = f'Bearer realm="mcpbridge", error="insufficient_scope", scope="{needed}"'
        raise BridgeError("forbidden", f"the token lacks the scope {needed}", sent=False, challenge=challenge, scope=needed)
