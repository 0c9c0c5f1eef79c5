"""Composite cursors: one opaque text for the places where the lists of several servers go on.

A cursor is a seal, bound to the list and the caller it was made for: nobody can make one up, or use one list's with another.
One that is foreign, expired or names a server that is no more is -32602, and clients start again from the first page.

Source: MCP pagination; mcp-eras section 4 (pagination); architecture section 7 (seals).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import msgspec

from mcpbridge.core.exchange import ANONYMOUS, Exchange
from mcpbridge.errors import BridgeError
from mcpbridge.seal import Sealer, SealError

PURPOSE = "cursor"
TTL = 86_400.0  # seconds; nothing is held for it here
MAX_CHARS = 262_144  # of a cursor we take back; what the servers put into theirs is their affair

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(tuple[bytes, dict[str, str]]).decode


def seal(sealer: Sealer, x: Exchange, positions: dict[str, str]) -> str:
    """A cursor for the next page of this list: for every server that has more, its own cursor."""
    return sealer.seal(PURPOSE, _encode((_bound(x), positions)), TTL)


def unseal(sealer: Sealer, x: Exchange, cursor: str, servers: Iterable[str]) -> dict[str, str]:
    """The servers' own cursors. Raises BridgeError("invalid_params") for a cursor that is not ours or no longer fits."""
    try:
        bound, positions = _decode(sealer.open(PURPOSE, cursor, MAX_CHARS))
    except (SealError, msgspec.MsgspecError):
        raise stale() from None
    if bound != _bound(x) or not positions or not set(positions) <= set(servers):
        raise stale()
    return positions


def stale() -> BridgeError:
    """What a client hears of every cursor that does not fit, whatever the cause."""
    return BridgeError("invalid_params", "this cursor is foreign or stale; start again without one", sent=False)


def _bound(x: Exchange) -> bytes:
    """The list and the caller, hashed."""
    return hashlib.sha256(f"{x.view.method}\x1f{(x.caller.principal or ANONYMOUS).key}".encode()).digest()[:16]
