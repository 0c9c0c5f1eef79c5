"""Mcp-Param-* headers: which tool arguments a modern HTTP server wants to see as headers, learnt from its tools/list.

Source: MCP 2026-07-28 "Streamable HTTP", SEP-2243; mcp-eras section 1.2 rules 4-5.
"""

from __future__ import annotations

from typing import Any

from msgspec import Raw

from mcpbridge.wire import message as m
from mcpbridge.wire.envelope import members
from mcpbridge.wire.headers import encode_header
from mcpbridge.wire.message import Members, Request, Response

_ANNOTATION = "x-mcp-header"
MAX_TOOLS = 10_000
MAX_HEADERS = 64


class ParamHeaders:
    """The annotated arguments of one backend's tools; ``revision`` counts changes."""

    def __init__(self) -> None:
        self.revision = 0
        self.meta: dict[str, Raw] = {}  # the _meta of the newest call, to ask for the tools on our own
        self._tools: dict[str, list[tuple[tuple[str, ...], str]]] = {}

    def learn(self, result: bytes) -> None:
        """Remember the annotations in a tools/list result. Costs one substring search when there are none."""
        if _ANNOTATION.encode() not in result:
            return
        for tool in m.loads(result).get("tools", [])[:MAX_TOOLS]:
            found = sorted(_annotated(tool.get("inputSchema") or {}, ()))[:MAX_HEADERS]
            if found and self._tools.get(tool["name"]) != found:
                self._tools[tool["name"]] = found
                self.revision += 1

    def headers(self, call: Request) -> list[tuple[str, str]]:
        """The headers of one tools/call; an absent or null argument has none."""
        self.meta = call.meta
        name = call.param("name")
        wanted = self._tools.get(m.loads(name)) if name is not None and self._tools else None
        if not wanted:
            return []
        headers = []
        for path, header in wanted:
            value = _at(call.param("arguments"), path)
            if isinstance(value, bool):
                headers.append((f"mcp-param-{header}", "true" if value else "false"))
            elif isinstance(value, (int, str)):
                headers.append((f"mcp-param-{header}", encode_header(str(value))))
        return headers

    def may_help(self, request: Request, response: Response) -> bool:
        """Whether the server refused a call for its headers (-32020), so that knowing the schemas could mend it."""
        if response.error is None or request.method != "tools/call":
            return False
        error: Members = members(response.error)
        return bytes(error.get("code") or b"") == b"-32020"


def _annotated(schema: Any, path: tuple[str, ...]) -> list[tuple[tuple[str, ...], str]]:
    found: list[tuple[tuple[str, ...], str]] = []
    if not isinstance(schema, dict) or len(path) > 16:
        return found
    header = schema.get(_ANNOTATION)
    if path and isinstance(header, str) and schema.get("type") in ("string", "integer", "boolean"):
        found.append((path, header))
    properties = schema.get("properties")
    if isinstance(properties, dict):
        for name, inner in properties.items():
            found += _annotated(inner, (*path, name))
    return found


def _at(arguments: Raw | None, path: tuple[str, ...]) -> Any:
    value = None if arguments is None else m.loads(arguments)
    for step in path:
        value = value.get(step) if isinstance(value, dict) else None
    return value
