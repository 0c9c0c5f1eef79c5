"""Mcp-Param-* on our HTTP face: a call's headers must say what its arguments say, by the schema its server listed last.

    tools/call   annotated tool:  headers against body, 400 and -32020 when they differ    plain tool: passes untouched
    tools/list   tools with annotations that break the rules are left out, with a warning

The schemas are learnt from the lists that pass. A call that comes first has them read once, for all who wait; before a call is
refused they are read anew when they are old. Headers of no annotated argument go on with the call. The headers towards the
server are computed anew from the body by whoever speaks HTTP to it.

Source: MCP 2026-07-28 "Streamable HTTP", SEP-2243; mcp-eras sections 1.2 (rules 4-6) and 4 (x-mcp-header).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import TYPE_CHECKING

from msgspec import Raw

from mcpbridge.core.exchange import Exchange, Handler, NoReply
from mcpbridge.core.tasks import share, wait_shared
from mcpbridge.errors import BridgeError
from mcpbridge.observe.log import log
from mcpbridge.wire import message as m
from mcpbridge.wire.envelope import members, text
from mcpbridge.wire.headers import ANNOTATION, PREFIX, Mirrored, check_param_headers, plain, read_tools
from mcpbridge.wire.message import Request, Response
from mcpbridge.wire.spec import LOG_LEVEL, PROGRESS

if TYPE_CHECKING:
    from mcpbridge.core.server import Server

_log = log("http")
_NO_REPLY = NoReply()
_NO_METHOD = Raw(b"-32601")
_ANNOTATION = ANNOTATION.encode()
MAX_TOOLS = 10_000  # annotated tools of one server that are remembered
MAX_PAGES = 100
MAX_BESIDE = 64  # headers of no annotated argument that go on with one call
READ_TIME = 3.0  # seconds the schemas may take; a server that lists no tools in time is called unchecked
RETRY = 30.0  # seconds until a server whose tools could not be read is asked again
FRESH = 5.0  # seconds schemas are taken as they are, so that wrong calls cannot make us list without end


class AnnotatedTools:
    """The annotated arguments of one server's tools, as it listed them last. ``revision`` counts changes."""

    def __init__(self) -> None:
        self.revision = 0
        self.is_known = False  # every page was seen
        self.read_at = float("-inf")  # loop time of the newest complete or failed reading
        self.reading: asyncio.Future[None] | None = None
        self._wanted: dict[str, tuple[Mirrored, ...]] = {}
        self._told: set[tuple[str, str]] = set()

    def is_plain(self, call: Request) -> bool:
        """Whether it is known that the called tool has no annotated arguments."""
        return self.is_known and not (self._wanted and self.of(text(call.param("name"))))

    def of(self, name: str | None) -> tuple[Mirrored, ...]:
        return self._wanted.get(name, ()) if name is not None else ()

    def forget(self) -> None:
        """What comes back may be another version of the server."""
        self.is_known = False
        self.read_at = float("-inf")

    def learn(self, result: Raw, server: str = "") -> Raw:
        """Remember the annotations of a tools/list result; the result without the tools whose annotations break the rules.

        Costs one substring search when there are none. A result that cannot be read teaches nothing and comes back as it is.
        """
        if not self._wanted and _ANNOTATION not in bytes(result):
            return result
        try:
            found = read_tools(result)
        except BridgeError:
            return result
        for name, wanted in found.wanted.items():
            self._set(name, wanted)
        for name, reason in found.refused.items():
            self._set(name, ())
            if (name, reason) not in self._told and len(self._told) < MAX_TOOLS:
                self._told.add((name, reason))
                _log.warn(
                    "tool left out for HTTP: its header annotations break the rules", server=server, tool=name, reason=reason
                )
        if not found.refused:
            return result
        return Raw(m.join({**members(result), "tools": Raw(b"[" + b",".join([bytes(tool) for tool in found.kept]) + b"]")}))

    def _set(self, name: str, wanted: tuple[Mirrored, ...]) -> None:
        if wanted == self._wanted.get(name, ()):
            return
        if not wanted:
            del self._wanted[name]
        elif name in self._wanted or len(self._wanted) < MAX_TOOLS:
            self._wanted[name] = wanted
        self.revision += 1


def mirror(one: Handler) -> Handler:
    """``one`` for requests to one server, with the checks of the module for modern HTTP clients and nothing for others."""

    def run(x: Exchange) -> Awaitable[Response | None]:
        method = x.view.method
        if method == "tools/call" or method == "tools/list":
            caller = x.caller
            if caller.protocol == "http" and caller.era == "modern" and not caller.is_rewritten:
                server: Server = x.target  # type: ignore[assignment]
                if method == "tools/list":
                    return _list(x, x.request, server, one)
                if not server.tools.is_plain(x.message) or PREFIX in " ".join(caller.headers):  # type: ignore[arg-type]
                    return _call(x, x.request, server, one)
        return one(x)

    return run


async def _call(x: Exchange, request: Request, server: Server, one: Handler) -> Response | None:
    tools, name = server.tools, text(request.param("name"))
    now = asyncio.get_running_loop().time
    if not tools.is_known and now() - tools.read_at >= RETRY:
        await _read(x, request, server, one)
    try:
        _check(request, x, tools.of(name))
    except BridgeError:
        if now() - tools.read_at < FRESH:
            raise
        await _read(x, request, server, one)
        _check(request, x, tools.of(name))
    annotated = {PREFIX + item.header for item in tools.of(name)}
    said = x.caller.headers.items()
    beside = [(k, v) for k, v in said if k.startswith(PREFIX) and k not in annotated and v.isascii() and v.isprintable()]
    if beside:
        request = x.message = request.with_id(request.id)
        request.beside = tuple(beside[:MAX_BESIDE])
    return await one(x)


def _check(request: Request, x: Exchange, wanted: tuple[Mirrored, ...]) -> None:
    if wanted:
        check_param_headers(plain(request.param("arguments")), wanted, x.caller.headers)


async def _list(x: Exchange, request: Request, server: Server, one: Handler) -> Response | None:
    response = await one(x)
    if response is None or response.result is None:
        return response
    kept = server.tools.learn(response.result, server.name)
    if request.param("cursor") is None and b'"nextCursor"' not in bytes(response.result):
        server.tools.is_known, server.tools.read_at = True, asyncio.get_running_loop().time()
    return response if kept is response.result else response.with_result(bytes(kept))


async def _read(x: Exchange, request: Request, server: Server, one: Handler) -> None:
    """Have every page of the server's tools read, once for all who wait. Never raises: an outage is told by the call itself."""
    tools = server.tools
    if tools.reading is None or tools.reading.done():
        tools.reading = share(server.backends[0].spawn, _pages(x, request, server, one))
    try:
        await wait_shared(tools.reading, READ_TIME, "")
    except BridgeError as error:
        _log.debug("tools not read; the call goes on unchecked", server=server.name, reason=str(error))


async def _pages(x: Exchange, request: Request, server: Server, one: Handler) -> None:
    tools = server.tools
    tools.read_at = asyncio.get_running_loop().time()  # also of a reading that fails
    meta = {key: raw for key, raw in request.meta.items() if key not in (PROGRESS, LOG_LEVEL)}
    params = {"_meta": Raw(m.join(meta))}
    async with asyncio.timeout(READ_TIME):
        for _ in range(MAX_PAGES):
            response = await one(x.derive(m.request(0, "tools/list", params), server, _NO_REPLY))
            if response is None or response.result is None:
                if response is None or members(response.error, "bad_answer").get("code") != _NO_METHOD:
                    return
                break  # it has no tools
            tools.learn(response.result, server.name)
            cursor = members(response.result, "bad_answer").get("nextCursor")
            if text(cursor) is None:
                break
            params = {"_meta": params["_meta"], "cursor": cursor}  # type: ignore[dict-item]
    tools.is_known = True
