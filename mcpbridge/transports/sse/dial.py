"""dial(): a conversation with an HTTP+SSE server. It begins when the stream has named the endpoint that messages are posted to.

A stream that was lost is opened again after a random wait, some times, before the server counts as down.

Source: MCP 2024-11-05 basic/transports; mcp-eras section 1.4; contract ``backends.sse.*``.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from contextlib import aclosing
from random import random
from typing import Final, NamedTuple
from urllib.parse import urlsplit

from mcpbridge.core.exchange import Era
from mcpbridge.core.peer import MAX_GARBAGE, Peer
from mcpbridge.core.ports import Dial, Inbox, Upstream
from mcpbridge.core.tasks import Spawn
from mcpbridge.errors import BridgeError
from mcpbridge.transports.http1.client import HttpResponse
from mcpbridge.transports.http1.pool import HttpPool
from mcpbridge.transports.sse.connection import Events, SseConnection
from mcpbridge.wire.sse import SseEvent, SseParser, read_endpoint

MAX_EARLY: Final = 100  # events before the endpoint
_PASSING: Final = frozenset(
    {"connection_refused", "timeout", "backend_error", "stream_closed", "proxy_failed"}
)  # may be over soon


class Comeback(NamedTuple):
    """What happens after a stream was lost: how often it is opened again, each time after 0 to ``interval`` seconds."""

    interval: float = 5.0
    retries: int = 3


COMEBACK: Final = Comeback()


def dial(
    name: str,
    spawn: Spawn,
    pool: HttpPool,
    url: str,
    *,
    headers: Callable[[], Mapping[str, str]] = dict,
    max_response: int = 10_485_760,
    timeout: float = 30.0,
    comeback: Comeback = COMEBACK,
) -> Dial:
    """How to reach server ``name`` whose stream is at ``url``. ``headers`` is read for each conversation (a credential).

    ``max_response`` bounds one message, in bytes; ``timeout`` the time until the endpoint is known, in seconds.
    """
    parts = urlsplit(url)
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    lost = asyncio.Event()  # a stream ended that was wanted, and no other is open since

    async def run(_era: Era, inbox: Inbox) -> Upstream:
        left = comeback.retries if lost.is_set() else 0
        while True:
            if lost.is_set():
                await asyncio.sleep(comeback.interval * random())
            left -= 1
            try:
                upstream = await open_(inbox)
            except BridgeError as error:
                if left > 0 and error.reason in _PASSING:
                    continue
                lost.clear()
                raise
            lost.clear()
            return upstream

    async def open_(inbox: Inbox) -> Upstream:
        fixed = [(key.lower(), value) for key, value in headers().items()]
        try:
            async with asyncio.timeout(timeout):
                events = await open_stream(name, pool, path, fixed, max_response)
                target, first = await _endpoint(name, events, url)
        except TimeoutError:
            detail = f"server {name!r} did not open its stream in {timeout:g} s{pool.through}"
            raise BridgeError("timeout", detail, sent=False, server=name) from None
        connection = SseConnection(name, spawn, pool, target, fixed, first, events, max_response)
        peer = Peer(connection, inbox, spawn, client=False, name=name, max_garbage=MAX_GARBAGE)
        connection.on_refused = peer.refused
        connection.on_lost = lost.set
        peer.start()
        return peer

    return run


async def open_stream(name: str, pool: HttpPool, path: str, headers: list[tuple[str, str]], limit: int) -> Events:
    """GET the stream: its events in the pieces they come in. Raises BridgeError(sent=False) when it is no event stream."""
    wanted = [("accept", "text/event-stream"), ("cache-control", "no-store"), *headers]
    try:
        response = await pool.request("GET", path, wanted, b"", retry_safe=True, max_response=limit, queued=False)
    except BridgeError as error:
        raise _about(name, error) from error
    kind = (response.headers.get("content-type") or "").partition(";")[0].strip().lower()
    if response.status == 200 and kind == "text/event-stream":
        return _events(response, limit)
    await response.aclose()
    status = response.status
    if status in (404, 405):
        raise BridgeError("http_not_found", f"server {name!r} at {path}", sent=False, server=name, status=status)
    if status == 200:
        detail = f"server {name!r} opens no event stream (content type {kind[:80] or 'missing'!r})"
        raise BridgeError("protocol_mismatch", detail, sent=False, server=name, expected="sse")
    detail = f"server {name!r} answered HTTP {status}{pool.through}"
    raise BridgeError(
        "backend_refused" if status in (401, 403) else "backend_error", detail, sent=False, server=name, status=status
    )


async def _events(response: HttpResponse, limit: int) -> Events:
    parser = SseParser(limit)
    async with aclosing(response), aclosing(response.chunks()) as chunks:
        async for chunk in chunks:
            events = parser.feed(chunk)
            if events:
                yield events


async def _endpoint(name: str, events: Events, url: str) -> tuple[str, list[SseEvent]]:
    """The endpoint, and the events that came with it. The stream is closed when there will be none.

    Raises BridgeError(sent=False).
    """
    seen = 0
    try:
        async for some in events:
            for number, event in enumerate(some, 1):
                target = read_endpoint((event,), url)
                if target is not None:
                    return target, some[number:]
                seen += 1
                if seen > MAX_EARLY:
                    raise BridgeError("protocol_mismatch", f"no endpoint in {MAX_EARLY} events", sent=False, expected="sse")
        raise BridgeError("protocol_mismatch", "the stream names no endpoint", sent=False, expected="sse")
    except BridgeError as error:
        await events.aclose()
        raise _about(name, error) from error
    except BaseException:
        await events.aclose()
        raise


def _about(name: str, error: BridgeError) -> BridgeError:
    """The same failure, of this server, whose conversation has not begun."""
    detail = f"server {name!r}: {error.detail}" if error.detail else f"server {name!r}"
    return BridgeError(error.reason, detail, sent=False, **({"server": name} | error.data))
