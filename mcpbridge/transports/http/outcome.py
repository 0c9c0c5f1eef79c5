"""How an exchange's outcome looks in HTTP: statuses, headers, and the little that both eras' streams share.

Source: contract 6.4; mcp-eras sections 0 and 1.2.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable
from typing import Any

from msgspec import Raw

from mcpbridge.core.exchange import Exchange
from mcpbridge.errors import BridgeError, status_of, to_wire
from mcpbridge.transports.http1.server import Responder
from mcpbridge.wire import message as m
from mcpbridge.wire.envelope import members
from mcpbridge.wire.message import Response

JSON = [("content-type", "application/json")]
SSE = [("content-type", "text/event-stream"), ("cache-control", "no-cache, no-transform"), ("x-accel-buffering", "no")]
KEEP_ALIVE = 15.0  # seconds between comments on a silent stream
COMMENT = b":\r\n\r\n"
_CODE = re.compile(rb"-?[0-9]{1,6}").fullmatch

Answer = Callable[[Exchange], Awaitable[tuple[Response | None, int]]]
"""The response of an exchange and its HTTP status; every failure is a JSON-RPC error. Raises nothing but CancelledError."""


def extra(x: Exchange) -> list[tuple[str, str]]:
    """Headers that the refusal of an exchange asks for."""
    headers = []
    if x.notes.get("challenge"):
        headers.append(("www-authenticate", x.notes["challenge"]))
    if x.notes.get("retry_after"):
        headers.append(("retry-after", x.notes["retry_after"]))
    return headers


def answered_status(error: Raw) -> int:
    """HTTP status of a JSON-RPC error that a server answered a modern client; an unreadable one has no status of its own."""
    try:
        code = bytes(members(error).get("code") or b"")
    except BridgeError:
        return 200
    return status_of(int(code), legacy=False) if _CODE(code) else 200


async def refuse(responder: Responder, id: m.RequestId | None, error: BridgeError, status: int, request_id: str | None) -> None:
    """Answer with this error; ``id`` is that of the JSON-RPC request it is about, if there is one."""
    await responder.respond(status, JSON, m.error(id, to_wire(error, request_id)).encode())


# Others are about the form of the request.
_REFUSALS = {413: "request_too_large", 429: "rate_limited", 500: "internal_error", 503: "server_busy"}


def refusal_of(status: int, words: str, id: str) -> tuple[list[tuple[str, str]], bytes]:
    """Headers and body of what the HTTP engine refused before there was any message; ``id`` is that of the HTTP request."""
    reason = _REFUSALS.get(status, "invalid_request")
    return JSON, m.error(None, to_wire(BridgeError(reason, "" if status == 500 else words), id)).encode()


async def first(*ends: asyncio.Event | asyncio.Future[Any], timeout: float | None = None) -> None:
    """Until one of the events is set or one of the futures done, or the time is over. Futures go on."""
    events = [asyncio.ensure_future(end.wait()) for end in ends if isinstance(end, asyncio.Event)]
    futures = [end for end in ends if not isinstance(end, asyncio.Event)]
    try:
        await asyncio.wait([*events, *futures], timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for event in events:
            event.cancel()
