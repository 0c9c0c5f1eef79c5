"""The window from outside: a running bridge's Snapshot, once or as it changes. Used by ``mcpbridge status`` and the dashboard.

    snapshot = await fetch("http://127.0.0.1:8443")
    async for snapshot in watch("http://127.0.0.1:8443"): ...      who is still interested after an end calls again
    snapshot = await fetch("unix:///run/user/1000/mcpbridge/router-4711-a0c1.sock")        a local router

Source: contract http.status, http.status.stream; architecture section 10.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping
from typing import Any, Literal
from urllib.parse import urlsplit, urlunsplit

import msgspec

from mcpbridge import outbound
from mcpbridge.errors import BridgeError
from mcpbridge.observe.snapshot import Snapshot, decode
from mcpbridge.wire.sse import SseParser

API = "/api/v1"
ACT_TIMEOUT = 60.0  # seconds; a test of a backend has several stages
STATUS_PATH = f"{API}/status"
_SCHEMES = {"http": "http", "https": "https", "ws": "http", "wss": "https"}
_ENDPOINTS = frozenset({"", "/", "/mcp", "/ws", STATUS_PATH, f"{STATUS_PATH}/stream"})


class Unreachable(Exception):
    """No status from there. The text is the reason, for people; ``kind`` is for exit codes."""

    def __init__(self, reason: str, kind: Literal["unreachable", "refused", "not_a_bridge"] = "unreachable") -> None:
        self.reason = reason
        self.kind = kind
        super().__init__(reason)


async def fetch(url: str, token: str | None = None, *, timeout: float = 5.0, ca_file: str | None = None) -> Snapshot:
    """The present Snapshot of the bridge at ``url`` (scheme, host, port; any of its endpoints will do).

    ``timeout`` in seconds. Raises Unreachable.
    """
    address = place_of(url, "/status")
    try:
        answer = await outbound.get(address, headers=headers_of(token), timeout=timeout, ca_file=ca_file, socket=socket_of(url))
    except outbound.OutboundError as error:
        raise Unreachable(str(error)) from error
    _check(answer.status, answer.content_type, "application/json")
    return _read(answer.body)


async def act(
    method: str, url: str, path: str, body: Mapping[str, Any], token: str | None = None
) -> tuple[int, dict[str, Any]]:
    """Status and JSON object of what the bridge at ``url`` answers to a change of itself. Raises Unreachable."""
    try:
        answer = await outbound.ask(
            method,
            place_of(url, path),
            json.dumps(body).encode(),
            headers=headers_of(token),
            timeout=ACT_TIMEOUT,
            socket=socket_of(url),
        )
    except outbound.OutboundError as error:
        raise Unreachable(str(error)) from error
    try:
        found = json.loads(answer.body)
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise Unreachable(f"no gateway there: HTTP {answer.status}, {answer.content_type}", "not_a_bridge")
    return answer.status, found


async def watch(
    url: str, token: str | None = None, interval: float = 1.0, *, ca_file: str | None = None
) -> AsyncIterator[Snapshot]:
    """A Snapshot every ``interval`` seconds (0.25 to 60) until the bridge drains; then it simply ends.

    Raises Unreachable, also in the middle: when the connection breaks or nothing came for three intervals and 10 seconds.
    """
    interval = min(max(interval, 0.25), 60.0)
    address = place_of(url, f"/status/stream?interval={interval:g}")
    parser = SseParser(outbound.MAX_BYTES)
    try:
        async with outbound.stream(
            address, headers=headers_of(token), silence=3 * interval + 10.0, ca_file=ca_file, socket=socket_of(url)
        ) as answer:
            _check(answer.status, answer.content_type, "text/event-stream")
            async for chunk in answer.chunks:
                for event in parser.feed(chunk):
                    yield _read(event.data)
    except outbound.OutboundError as error:
        raise Unreachable(str(error)) from error
    except BridgeError as error:  # an endless event
        raise Unreachable(str(error), "not_a_bridge") from error


def place_of(url: str, path: str) -> str:
    """The address of a path below the API of the bridge at ``url``. Raises Unreachable."""
    if socket_of(url) is not None:
        return f"http://localhost{API}{path}"
    try:
        parts = urlsplit(url if "://" in url else f"http://{url}")
        if not parts.hostname or parts.port == 0:
            raise ValueError(url)
    except ValueError:
        raise Unreachable("that is no address: scheme://host:port expected") from None
    scheme = _SCHEMES.get(parts.scheme)
    if scheme is None:
        raise Unreachable("that is no address of a gateway: http or https expected")
    place = parts.netloc.rpartition("@")[2]
    prefix = "" if parts.path in _ENDPOINTS else parts.path.rstrip("/")
    return urlunsplit((scheme, place, prefix + API, "", "")) + path


def socket_of(url: str) -> str | None:
    """The path of the unix socket that an address names, None for another address."""
    return url[7:] if url.startswith("unix:///") else None


def headers_of(token: str | None) -> dict[str, str]:
    """How a token is sent. Raises Unreachable for what cannot be one."""
    if token is None:
        return {}
    if not token.isascii() or not token.isprintable() or " " in token:
        raise Unreachable("the token has characters that no token has", "refused")
    return {"Authorization": f"Bearer {token}"}


def _check(status: int, content_type: str, expected: str) -> None:
    if status in (401, 403):
        why = "does not accept this token" if status == 401 else "does not let this caller see its status"
        raise Unreachable(f"the gateway {why} ({status})", "refused")
    if status != 200 or content_type != expected:
        raise Unreachable(f"no status there: HTTP {status}, {content_type}. Is it an mcpbridge?", "not_a_bridge")


def _read(document: bytes) -> Snapshot:
    try:
        return decode(document)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise Unreachable("what answers there is no status of an mcpbridge", "not_a_bridge") from error
