"""Validate: what a request must bring in its protocol version, before anything is done for it.

Modern requests climb the ladder of ``wire.spec.check_modern``; a method that exists only in the other era is refused here,
one that nobody knows goes through to its server. A legacy HTTP client names its version in a header.

Source: mcp-eras sections 1.2, 1.3 and 2; architecture section 7.
"""

from __future__ import annotations

from collections.abc import Awaitable

from mcpbridge.core.exchange import Exchange, Handler, Policy
from mcpbridge.errors import BridgeError
from mcpbridge.wire.message import Request, Response
from mcpbridge.wire.spec import LEGACY, METHODS, NEWEST_MODERN, VERSIONS, check_modern

_WITH_HEADERS = frozenset({"http"})


def validate() -> Policy:
    """The policy; it has no settings."""

    def policy(x: Exchange, handler: Handler) -> Awaitable[Response | None]:
        message = x.message
        over_http = x.caller.protocol in _WITH_HEADERS
        if x.caller.era == "modern":
            if isinstance(message, Request):
                check_modern(message, x.caller.headers if over_http else None)
                row = METHODS.get(message.method)
                if row is not None and NEWEST_MODERN not in row.client:
                    raise BridgeError("method_not_found", f"{message.method} does not exist in {NEWEST_MODERN}", id=message.id)
        elif over_http:
            version = x.caller.headers.get("mcp-protocol-version")
            if version is not None and version not in VERSIONS:
                supported = list(LEGACY)
                raise BridgeError(
                    "invalid_request", f"MCP-Protocol-Version {version[:64]!r} is not supported", supported=supported
                )
        return handler(x)

    return policy
