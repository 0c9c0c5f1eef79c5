"""A modern-only MCP server on the official Python SDK 2.x: 2026-07-28 and nothing older, over HTTP and stdio.

It serves the whole catalogue; where a tool of 2025 would ask its client, it answers ``input_required``. ``initialize`` is
refused with -32022 and the versions it has, GET and DELETE with 405. Command line as ``dual_server.py``; environment ``sdk2``.
"""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

from dual_server import build
from mcp.server._streamable_http_modern import handle_modern_request
from mcp.server.runner import _serve_modern_stream
from mcp.server.stdio import stdio_server
from mcp.types import UNSUPPORTED_PROTOCOL_VERSION
from mcp_types.version import MODERN_PROTOCOL_VERSIONS
from serving import LOCAL_ONLY, Sessions, options, serve
from starlette.responses import JSONResponse

NAME = "modern-only-test-server"
CLAIM = "io.modelcontextprotocol/protocolVersion"


def opening(body: bytes) -> dict[str, Any] | None:
    """The request in ``body`` when it is a legacy ``initialize``: one without the metadata that every modern request has."""
    try:
        message = json.loads(body)
        is_legacy = message["method"] == "initialize" and CLAIM not in (message.get("params") or {}).get("_meta", {})
    except (ValueError, TypeError, KeyError, AttributeError):
        return None
    return message if is_legacy and "id" in message else None


class ModernOnly:
    """The SDK's modern entry for every request, whatever its headers say; its manager would not use it without any."""

    def __init__(self, sessions: Sessions) -> None:
        self.sessions = sessions

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        head: list[Any] = []
        body, more = b"", scope["method"] == "POST"
        while more:
            message = await receive()
            head.append(message)
            body += message.get("body", b"")
            more = message.get("more_body", False)

        async def again() -> Any:
            return head.pop(0) if head else await receive()

        request = opening(body)
        if request is not None:
            error = {
                "code": UNSUPPORTED_PROTOCOL_VERSION,
                "message": "this server serves 2026-07-28 only; the initialize handshake is not accepted",
                "data": {"supported": list(MODERN_PROTOCOL_VERSIONS)},
            }
            answer = JSONResponse({"jsonrpc": "2.0", "id": request["id"], "error": error}, status_code=400)
            await answer(scope, again, send)
            return
        state = self.sessions._lifespan_state
        await handle_modern_request(self.sessions.app, LOCAL_ONLY, False, state, scope, again, send)


async def serve_stdio() -> None:
    server = build(NAME)
    async with stdio_server() as (reader, writer), server.lifespan(server) as state:
        await _serve_modern_stream(server, reader, writer, lifespan_state=state, raise_exceptions=False)


def main() -> int:
    chosen = options("modern-only MCP server for tests")
    if chosen.stdio:
        asyncio.run(serve_stdio())
    else:
        sessions = Sessions(build(NAME))
        serve(sessions, ModernOnly(sessions), chosen.port)
    return 0


if __name__ == "__main__":
    sys.exit(main())
