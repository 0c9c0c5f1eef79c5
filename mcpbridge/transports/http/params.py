"""Mcp-Param-* headers: which tool arguments a modern HTTP server wants to see as headers, learnt from its tools/list.

Source: MCP 2026-07-28 "Streamable HTTP", SEP-2243; mcp-eras section 1.2 rules 4-5.
"""

from __future__ import annotations

from msgspec import Raw

from mcpbridge.observe.log import log
from mcpbridge.wire import message as m
from mcpbridge.wire.envelope import members
from mcpbridge.wire.headers import ANNOTATION, Mirrored, mirrored, param_headers
from mcpbridge.wire.message import Members, Request, Response

_log = log("http")
MAX_TOOLS = 10_000
MAX_HEADERS = 64


class ParamHeaders:
    """The annotated arguments of one backend's tools; ``revision`` counts changes."""

    def __init__(self) -> None:
        self.revision = 0
        self.meta: dict[str, Raw] = {}  # the _meta of the newest call, to ask for the tools on our own
        self._tools: dict[str, tuple[Mirrored, ...]] = {}

    def learn(self, result: bytes) -> None:
        """Remember the annotations in a tools/list result. Costs one substring search when there are none."""
        if ANNOTATION.encode() not in result:
            return
        for tool in m.loads(result).get("tools", [])[:MAX_TOOLS]:
            name = tool["name"]
            try:
                found = mirrored(tool.get("inputSchema"))[:MAX_HEADERS]
            except ValueError as error:
                _log.warn(
                    "headers of a tool left out: its schema breaks the rules", protocol="http", tool=name, reason=str(error)
                )
                found = ()
            if found != self._tools.get(name, ()):
                self._tools[name] = found
                self.revision += 1

    def headers(self, call: Request) -> list[tuple[str, str]]:
        """The headers of one tools/call; an absent or null argument has none."""
        self.meta = call.meta
        name = call.param("name")
        wanted = self._tools.get(m.loads(name)) if name is not None and self._tools else None
        if not wanted:
            return []
        arguments = call.param("arguments")
        return param_headers(m.loads(arguments) if arguments is not None else None, wanted)

    def may_help(self, request: Request, response: Response) -> bool:
        """Whether the server refused a call for its headers (-32020), so that knowing the schemas could mend it."""
        if response.error is None or request.method != "tools/call":
            return False
        error: Members = members(response.error)
        return bytes(error.get("code") or b"") == b"-32020"
