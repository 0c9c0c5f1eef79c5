"""Names of an endpoint that shows several servers: `server__tool`, never longer than a client takes, always the same.

    expose("weather", "forecast", 48)           -> weather__forecast
    expose("weather", "a-very-long-...", 48)    -> weather__a-very-long-beginning-of-it-1f3a9c02

A pure function of the configuration and the tool's own name: no order, no counter, no state. Cursors are composite.

Source: mcp-eras section 4; issue "Aggregation"; contract routing.prefix, routing.max_name_length; shared decision 16.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Iterable

import msgspec

from mcpbridge.errors import BridgeError

SEPARATOR = "__"
MAX_CURSOR = 16_384  # characters of a cursor we take back


def expose(server: str, name: str, limit: int) -> str:
    """The exposed name; one that is longer than ``limit`` keeps its beginning and ends in 8 hex digits of its SHA-256."""
    full = f"{server}{SEPARATOR}{name}"
    if len(full) <= limit:
        return full
    return f"{full[: limit - 9]}-{hashlib.sha256(full.encode()).hexdigest()[:8]}"


def owner(exposed: str, servers: Iterable[str]) -> tuple[str, str] | None:
    """``(server, name)`` behind an exposed name that was not shortened; the longest fitting server name wins."""
    fitting = [server for server in servers if exposed.startswith(server + SEPARATOR)]
    if not fitting:
        return None
    server = max(fitting, key=len)
    return server, exposed[len(server) + len(SEPARATOR) :]


def to_cursor(positions: dict[str, str]) -> str:
    """An opaque cursor: for every server that has more, its own cursor."""
    return base64.urlsafe_b64encode(msgspec.json.encode(positions)).decode().rstrip("=")


def from_cursor(cursor: str, servers: Iterable[str]) -> dict[str, str]:
    """The servers' own cursors. Raises BridgeError("invalid_params") for a cursor that is not ours or no longer fits."""
    try:
        if len(cursor) > MAX_CURSOR:
            raise ValueError
        padded = cursor.encode("ascii") + b"=" * (-len(cursor) % 4)
        positions = msgspec.json.decode(base64.b64decode(padded, altchars=b"-_", validate=True), type=dict[str, str])
    except (ValueError, UnicodeEncodeError, binascii.Error, msgspec.MsgspecError):
        raise BridgeError("invalid_params", "this cursor is not one of ours", sent=False) from None
    if not positions or not set(positions) <= set(servers):
        raise BridgeError("invalid_params", "this cursor is stale; start again without it", sent=False)
    return positions
