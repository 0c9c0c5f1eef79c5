"""Which tools of one server are shown, and under which names. What is hidden cannot be called either.

    own name ── allow, deny (globs) ──> rename ──> name that clients see      tools/list, on the way back
    own name <───────────────────────── rename ─── name that clients see      tools/call

A pure function of the configuration. The rules stand next to the server, below aggregation and above retries and translation,
so that they hold in both eras, on every endpoint, and everything beneath knows the server's own names only.

Source: contract discovery.providers.static.servers[].tools.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Mapping, Sequence
from fnmatch import translate

from msgspec import Raw

from mcpbridge.core.exchange import Exchange, Handler
from mcpbridge.core.server import Server
from mcpbridge.errors import BridgeError
from mcpbridge.wire import message as m
from mcpbridge.wire.edit import edited
from mcpbridge.wire.level import items, members, text, with_member
from mcpbridge.wire.message import Request, Response


class ToolRules:
    """``allow``: globs of own names, none: all. ``deny`` wins over it. ``rename``: own name -> shown name."""

    def __init__(self, allow: Sequence[str] = (), deny: Sequence[str] = (), rename: Mapping[str, str] | None = None) -> None:
        self._allow = [re.compile(translate(glob)).match for glob in allow]
        self._deny = [re.compile(translate(glob)).match for glob in deny]
        self._shown = dict(rename or {})
        self._own = {shown: own for own, shown in self._shown.items()}

    def shown(self, own: str) -> str | None:
        """The name that clients see; None for a hidden tool. One whose name another was given is hidden by it."""
        if any(match(own) for match in self._deny) or (self._allow and not any(match(own) for match in self._allow)):
            return None
        shown = self._shown.get(own)
        return shown if shown is not None else None if own in self._own else own

    def own(self, shown: str) -> str | None:
        """The server's own name of what clients call so; None when it shows no such tool."""
        own = self._own.get(shown, shown)
        return own if self.shown(own) == shown else None


def by_rules(handler: Handler) -> Handler:
    """Exchanges with one server, by the rules of its tools."""

    def run(x: Exchange) -> Awaitable[Response | None]:
        server = x.target
        rules = server.tool_rules if isinstance(server, Server) else None
        if rules is None or not isinstance(x.message, Request):
            return handler(x)
        if x.message.method == "tools/list":
            return _listed(x, handler, rules)
        if x.message.method == "tools/call":
            name = text(x.message.param("name"))
            if name is not None:
                own = rules.own(name)
                if own is None:
                    raise BridgeError("invalid_params", f"unknown tool {name!r}", sent=False)
                if own != name:
                    x.message = x.message.with_params({**(x.message.params or {}), "name": Raw(m.dumps(own))})
        return handler(x)

    return run


async def _listed(x: Exchange, handler: Handler, rules: ToolRules) -> Response | None:
    response = await handler(x)
    if response is None or response.result is None:
        return response
    result = edited(response.result, {"tools": lambda raw: _shown(raw, rules)})
    return response if result is response.result else response.with_result(bytes(result))


def _shown(raw: Raw, rules: ToolRules) -> Raw:
    """A list of tools as clients see it; ``raw`` itself when that is all of it."""
    try:
        listed = items(raw)
    except BridgeError:
        return raw  # the client will say what is wrong with it
    kept = [shown for item in listed if (shown := _item(item, rules)) is not None]
    is_same = len(kept) == len(listed) and all(a is b for a, b in zip(kept, listed, strict=True))
    return raw if is_same else Raw(b"[" + b",".join(map(bytes, kept)) + b"]")


def _item(item: Raw, rules: ToolRules) -> Raw | None:
    try:
        said = members(item)
    except BridgeError:
        return None
    own = text(said.get("name"))
    shown = None if own is None else rules.shown(own)
    if shown is None:
        return None
    return item if shown == own else with_member(item, said, "name", m.dumps(shown))
