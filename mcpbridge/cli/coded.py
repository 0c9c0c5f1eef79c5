"""The failures that a person meets while setting up, by the stage that failed: a code, what happened, what to do.

Source: ux section 1b (error texts).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple
from urllib.parse import urlsplit


class Coded(NamedTuple):
    """``code`` never changes; the texts are for people."""

    code: str
    said: str
    action: str


def coded(stage: Mapping[str, Any], url: str) -> Coded:
    """What a failed stage of a test (``checks.place.Stage.document``) means at this address."""
    parts = urlsplit(url)
    host, detail = parts.hostname or url, str(stage["detail"])
    port = parts.port or {"https": 443, "wss": 443, "sses": 443, "http": 80, "ws": 80, "sse": 80}.get(parts.scheme, 8444)
    at, reason = stage["stage"], stage.get("reason")
    if at == "resolve":
        return Coded("MCPB-NET-DNS", f"Cannot find {host}.", "Check the spelling; is the VPN on?")
    if reason == "proxy_failed":
        return Coded("MCPB-NET-PROXY", detail, "Correct HTTPS_PROXY, or add the host to NO_PROXY.")
    if at == "tls":
        if "expired" in detail:
            return Coded("MCPB-TLS-EXPIRED", f"The certificate of {host} has ended.", "Ask its owner; is your clock right?")
        if "mismatch" in detail or "not valid for" in detail:
            return Coded("MCPB-TLS-NAME", f"The certificate is for another name than {host}.", "Use the name it was made for.")
        if "not trusted" in detail:
            return Coded("MCPB-TLS-CA", f"The certificate of {host} is not trusted here.", "Name the file of its CA.")
        return Coded("MCPB-TLS-NONE", f"{host} does not speak TLS on port {port}.", "Check scheme and port of the address.")
    if reason in ("connection_refused", "websocket_refused"):
        return Coded("MCPB-NET-REFUSED", f"Nothing listens on port {port} of {host}.", "Is it running? Check the port.")
    if reason == "timeout":
        return Coded("MCPB-NET-TIMEOUT", f"No answer from {host}:{port} ({at}).", "A firewall or a VPN may be in the way.")
    if at == "sign-in":
        if "403" in detail:
            return Coded("MCPB-AUTH-SCOPE", "Signed in, but not allowed to use this gateway.", "Ask for the scope mcp:read.")
        return Coded("MCPB-AUTH-401", f"{host} does not accept this token.", "Give another token.")
    if reason in ("http_not_found", "detection_failed", "bad_answer", "protocol_mismatch"):
        return Coded("MCPB-PROTO-404", f"{host} answers, but there is no MCP endpoint: {detail}", "Try the path /mcp, or /ws.")
    return Coded("MCPB-NET-FAILED", detail, "Look at the gateway's log.")
