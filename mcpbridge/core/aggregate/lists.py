"""One page of a list over several servers: asked side by side, merged in configured order, the missing named.

Source: mcp-eras section 4 (lists, pagination); issue "Router" (a slow server delays a list by at most 3 s).
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple, Protocol

from msgspec import Raw

from mcpbridge.core.aggregate.cursors import seal, stale, unseal
from mcpbridge.core.exchange import Exchange
from mcpbridge.core.server import Server
from mcpbridge.errors import BridgeError
from mcpbridge.seal import Sealer
from mcpbridge.wire import message as m
from mcpbridge.wire.envelope import items, members, text
from mcpbridge.wire.message import Members, Request, Response

UNAVAILABLE = "mcpbridge/unavailable"
"""`_meta` member of a list that lacks servers: {server: cause}."""
MAX_ITEMS = 100_000  # items of one merged page
MAX_TTL = 86_400_000.0  # ms a list may be cached, whatever its server says
_NUMBER = re.compile(rb"[0-9][0-9.eE+-]{0,63}").fullmatch

Ask = Callable[[Exchange, Server, Request], Awaitable[Response]]


class Shown(NamedTuple):
    """An item as clients see it, and what tells it from others in its list."""

    identity: str
    item: Raw


class View(Protocol):
    """What one list shows of its servers' items."""

    @property
    def member(self) -> str:
        """The result member that holds the items."""

    def begins(self, server: Server) -> None:
        """A first page of this server came."""

    def show(self, x: Exchange, server: Server, item: Raw, said: Members) -> Shown | None:
        """An item as clients see it; None hides it. ``said``: its members."""


GLANCE = 0.05  # seconds for a server that has used up its wait and is still not up: it is announced when it comes


class Patience:
    """How long each server may delay the others: ``wait`` seconds, but a server that is not up only once, not every time."""

    def __init__(self, wait: float) -> None:
        self._wait = wait
        self._spent: set[str] = set()

    def has_for(self, server: Server) -> bool:
        """Whether the server may still use its whole wait."""
        if any(backend.state in ("ok", "degraded") for backend in server.backends):
            self._spent.discard(server.name)
        return server.name not in self._spent

    def spend(self, server: Server) -> None:
        """The server has been waited for."""
        self._spent.add(server.name)

    def forget(self, name: str) -> None:
        """Another server has this name, or none."""
        self._spent.discard(name)

    async def answer(self, server: Server, asking: Awaitable[Response]) -> Response | str:
        """What the server answers, or the cause why nothing came in time. Raises what ``asking`` raises."""
        has = self.has_for(server)
        try:
            async with asyncio.timeout(self._wait if has else min(self._wait, GLANCE)):
                response = await asking
        except TimeoutError:
            self.spend(server)
            return f"no answer in {self._wait:g} s; it may still be starting" if has else "it is still starting"
        except BridgeError:
            self._spent.discard(server.name)  # it is down, which delays nobody, and may come up with the next attempt
            raise
        self._spent.discard(server.name)
        return response


async def merged_list(
    x: Exchange, servers: list[Server], view: View, ask: Ask, patience: Patience, sealer: Sealer
) -> tuple[Response, dict[str, str]]:
    """The merged page that ``x`` asks for and the causes of what is missing.

    Raises BridgeError("invalid_params") for a bad cursor, also one that a server no longer takes.
    """
    positions = None
    if x.request.param("cursor") is not None:
        positions = unseal(sealer, x, text(x.request.param("cursor")) or "", [s.name for s in servers])
    asked = [s for s in servers if positions is None or s.name in positions]
    pages = await asyncio.gather(*(_page(x, s, view.member, positions, ask, patience) for s in asked))
    shown: list[Raw] = []
    more: dict[str, str] = {}
    causes: dict[str, str] = {}
    seen: set[str] = set()
    ttl: float | None = None
    scope = "public"
    for server, page in zip(asked, pages, strict=True):
        if isinstance(page, str):
            causes[server.name] = page
            continue
        if positions is None:
            view.begins(server)
        for item in page.items:
            if len(shown) >= MAX_ITEMS:
                break
            as_shown = _shown(x, server, item, view)
            # The same name twice (a gateway that also has our server): the first one is it.
            if as_shown is not None and as_shown.identity not in seen:
                seen.add(as_shown.identity)
                shown.append(as_shown.item)
        following = text(page.said.get("nextCursor"))
        if following is not None:
            more[server.name] = following
        ttl = _lower(ttl, page.said.get("ttlMs"))
        scope = "private" if page.said.get("cacheScope") != Raw(b'"public"') else scope
    result: dict[str, Any] = {view.member: shown}
    if more:
        result["nextCursor"] = seal(sealer, x, more)
    if causes:
        result["_meta"] = {UNAVAILABLE: causes}
    if x.caller.era == "modern":
        result |= {
            "resultType": "complete",
            "ttlMs": 0 if causes else int(ttl or 0),
            "cacheScope": scope if asked else "private",
        }
    return m.result(x.request.id, result), causes


class _Page(NamedTuple):
    """What one server answered: its result's members and the items among them."""

    said: Members
    items: list[Raw]


async def _page(
    x: Exchange, server: Server, member: str, positions: dict[str, str] | None, ask: Ask, patience: Patience
) -> _Page | str:
    """One server's page, or the cause why there is none. Raises BridgeError for a cursor that the server refuses."""
    params = dict(x.request.params or {})
    params.pop("cursor", None)
    if positions is not None:
        params["cursor"] = Raw(m.dumps(positions[server.name]))
    try:
        response = await patience.answer(server, ask(x, server, x.request.with_params(params or None)))
    except BridgeError as error:
        return str(error)
    if isinstance(response, str):
        return response
    if positions is not None and response.error is not None and _is_refused(response.error):
        raise stale()
    try:
        return _read(response, member)
    except BridgeError as error:
        return f"its answer cannot be read: {error.detail}"


def _is_refused(error: Raw) -> bool:
    """Whether a server says that it does not know its own cursor (any longer)."""
    try:
        return bytes(members(error).get("code") or b"") == b"-32602"
    except BridgeError:
        return False


def _read(response: Response, member: str) -> _Page | str:
    if response.error is not None:
        error = members(response.error)
        if bytes(error.get("code") or b"") == b"-32601":
            return _Page({}, [])  # this server has no such list, which is no fault
        return text(error.get("message")) or "it answered an error"
    said = members(response.result)
    return _Page(said, items(said.get(member)))


def _shown(x: Exchange, server: Server, item: Raw, view: View) -> Shown | None:
    """An item as clients see it; one that is no proper object is left out, the others stay."""
    try:
        return view.show(x, server, item, members(item))
    except BridgeError:
        return None


def _lower(ttl: float | None, raw: Raw | None) -> float:
    written = bytes(raw) if raw is not None else b""
    value = float(written) if _NUMBER(written) else 0.0
    value = min(value, MAX_TTL)  # 1e999 is a JSON number
    return value if ttl is None else min(ttl, value)
