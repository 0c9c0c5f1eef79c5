"""What speaks, from the first bytes of a connection. Pure: the caller reads, peeks and waits.

    16 03 0x .. .. 01     TLS ClientHello
    "POST /mcp HTTP..."   HTTP/1.1 (WebSocket and SSE begin as HTTP)
    4D 43 50 42           MCPB, the length-prefixed binary transport
    {  [                  newline-delimited JSON

Source: RFC 8446 section 5.1, RFC 9112 sections 2.2 and 3, architecture section 8.
"""

from __future__ import annotations

from typing import Literal

Speech = Literal["tls", "http", "mcpb", "json", "more", "unknown"]

ENOUGH = 64  # bytes after which the answer is never "more"

_METHODS = tuple(
    name.encode() + b" "
    for name in ("GET", "POST", "PUT", "DELETE", "HEAD", "OPTIONS", "PATCH", "CONNECT", "TRACE", "PRI", "PROPFIND")
)
# The second magic is the 16-byte header of another program: its user gets the binary transport's error frame, which names it.
_MAGICS = (b"MCPB", b"MCP\x00")
_BOM = b"\xef\xbb\xbf"  # JSON that will be refused, with a JSON-RPC error


def sniff(first: bytes) -> Speech:
    """What these first bytes of a connection are; "more" when the next ones decide. Bounded: looks at 64 bytes."""
    if first[:1] == b"\x16":
        return _sniff_tls(first)
    text = first[:ENOUGH].lstrip(b" \t\r\n")
    if not text:
        return "more" if len(first) < ENOUGH else "unknown"
    if text[:1] in (b"{", b"[") or text.startswith(_BOM):
        return "json"
    if first.startswith(_MAGICS):
        return "mcpb"
    if text.startswith(_METHODS):
        return "http"
    if len(first) < ENOUGH and (_may_become(first, _MAGICS) or _may_become(text, (*_METHODS, _BOM))):
        return "more"
    return "unknown"


def _sniff_tls(first: bytes) -> Speech:
    """Record type 22, version 3.x, any length, handshake type 1."""
    if (len(first) > 1 and first[1] != 3) or (len(first) > 2 and first[2] > 4):
        return "unknown"
    if len(first) < 6:
        return "more"
    return "tls" if first[5] == 1 else "unknown"


def _may_become(text: bytes, wanted: tuple[bytes, ...]) -> bool:
    return any(whole.startswith(text) for whole in wanted)
