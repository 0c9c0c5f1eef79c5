"""Mcp-Param-* headers: which tool arguments a modern HTTP server wants to see as headers, learnt from its tools/list.

Source: MCP 2026-07-28 "Streamable HTTP", SEP-2243; mcp-eras section 1.2 rules 4-6.
"""

from __future__ import annotations

from msgspec import Raw

from mcpbridge.core.mirror import AnnotatedTools
from mcpbridge.errors import BridgeError
from mcpbridge.wire.envelope import members, text
from mcpbridge.wire.headers import PREFIX, param_headers, plain
from mcpbridge.wire.message import Members, Request, Response


class ParamHeaders:
    """The annotated arguments of the tools at one endpoint; ``revision`` counts changes."""

    def __init__(self) -> None:
        self.meta: dict[str, Raw] = {}  # the _meta of the newest call, to ask for the tools on our own
        self._tools = AnnotatedTools()

    @property
    def revision(self) -> int:
        return self._tools.revision

    def learn(self, listed: Response, server: str) -> Response:
        """Remember the annotations of a tools/list; the answer without the tools whose annotations break the rules."""
        if listed.result is None:
            return listed
        kept = self._tools.learn(listed.result, server)
        return listed if kept is listed.result else listed.with_result(bytes(kept))

    def headers(self, call: Request) -> list[tuple[str, str]]:
        """The headers of one tools/call: those of its annotated arguments, and what its client said beside them."""
        self.meta = call.meta
        wanted = self._tools.of(text(call.param("name"))) if self._tools.revision else ()
        if not wanted:
            return list(call.beside)
        known = {PREFIX + item.header for item in wanted}
        said = param_headers(plain(call.param("arguments")), wanted)
        return said + [(name, value) for name, value in call.beside if name not in known]

    def may_help(self, request: Request, response: Response) -> bool:
        """Whether the server refused a call for its headers (-32020), so that knowing the schemas could mend it."""
        if response.error is None or request.method != "tools/call":
            return False
        try:
            error: Members = members(response.error)
        except BridgeError:
            return False  # passed on as it is
        return bytes(error.get("code") or b"") == b"-32020"
