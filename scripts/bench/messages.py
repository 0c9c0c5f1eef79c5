"""The requests the load generator sends, encoded once: 100-byte tools/call in the legacy and the modern dialect.

Source: mcp-eras sections 1.2 and 1.3 (headers, ``_meta``), performance.md (100-byte ``tools/call``).
"""

from __future__ import annotations

import json
from typing import Literal, NamedTuple

Dialect = Literal["legacy", "modern"]

LEGACY_VERSION = "2025-06-18"
MODERN_VERSION = "2026-07-28"
FIRST_ID = 1_000_000
"""Ids have seven digits, so that every request of a connection has the same length."""
_ID_MARK = "7777777"
_META = {
    "io.modelcontextprotocol/protocolVersion": MODERN_VERSION,
    "io.modelcontextprotocol/clientInfo": {"name": "bench", "version": "1"},
    "io.modelcontextprotocol/clientCapabilities": {},
}


class Template(NamedTuple):
    """A message around its id: ``before + b"%d" % id + after``."""

    before: bytes
    after: bytes

    def with_id(self, number: int) -> bytes:
        """The message with this id."""
        return b"%b%d%b" % (self.before, number, self.after)


def tool_call(dialect: Dialect, tool: str, text: str) -> Template:
    """One ``tools/call`` of ``tool`` with the argument ``text``."""
    params: dict[str, object] = {"name": tool, "arguments": {"text": text}}
    if dialect == "modern":
        params["_meta"] = _META
    body = compact({"jsonrpc": "2.0", "id": int(_ID_MARK), "method": "tools/call", "params": params})
    before, _, after = body.partition(_ID_MARK.encode())
    return Template(before, after)


def compact(message: object) -> bytes:
    """JSON without blanks."""
    return json.dumps(message, separators=(",", ":")).encode()


def initialize() -> bytes:
    """The first message of a legacy client that declares nothing."""
    info = {"name": "bench", "version": "1"}
    params = {"protocolVersion": LEGACY_VERSION, "capabilities": {}, "clientInfo": info}
    return compact({"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": params})


INITIALIZED = compact({"jsonrpc": "2.0", "method": "notifications/initialized"})
LIST_TOOLS = compact({"jsonrpc": "2.0", "id": 2, "method": "tools/list"})


def http_head(host: str, path: str, length: int, *, session: str = "", tool: str = "", method: str = "POST") -> bytes:
    """The head of one request; ``tool`` makes it a modern tools/call, ``session`` a later one of a legacy session."""
    lines = [f"{method} {path} HTTP/1.1", f"Host: {host}", "Accept: application/json, text/event-stream"]
    lines += ["Content-Type: application/json", f"Content-Length: {length}"]
    if tool:
        lines += [f"MCP-Protocol-Version: {MODERN_VERSION}", "Mcp-Method: tools/call", f"Mcp-Name: {tool}"]
    elif session != "none":
        lines += [f"MCP-Protocol-Version: {LEGACY_VERSION}"] + ([f"Mcp-Session-Id: {session}"] if session else [])
    return ("\r\n".join(lines) + "\r\n\r\n").encode()
