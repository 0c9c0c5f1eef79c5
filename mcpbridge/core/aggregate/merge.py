"""What several servers say of themselves, said once: capabilities, instructions, and who is missing.

Source: mcp-eras section 4 (capabilities merge, discover); issue "Router" (a server that is down is named with its cause).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from msgspec import Raw

from mcpbridge import __version__
from mcpbridge.errors import BridgeError
from mcpbridge.wire.envelope import members, text
from mcpbridge.wire.message import Members

MAX_INSTRUCTIONS = 16_384  # characters of all instructions together
MAX_PER_SERVER = 4096
_KINDS = ("tools", "prompts", "resources")
_TRUE = Raw(b"true")


def bridge_info() -> dict[str, str]:
    """The serverInfo of an endpoint that shows several servers."""
    return {"name": "mcpbridge", "version": __version__}


def capabilities(hellos: Mapping[str, bytes | None], *, legacy: bool) -> dict[str, Any]:
    """The union of what the servers offer. One that has not said anything yet (None) may turn out to offer everything.

    ``listChanged`` is always true: the bridge itself tells when a server comes or goes.
    """
    merged: dict[str, Any] = {}
    for hello in hellos.values():
        offered: dict[str, Any] = {kind: {} for kind in (*_KINDS, "completions")} if hello is None else _offered(hello)
        for kind in _KINDS:
            if kind in offered:
                merged.setdefault(kind, {"listChanged": True})
                if kind == "resources" and (hello is None or _subscribes(offered[kind]) or b"supportedVersions" in hello):
                    merged[kind]["subscribe"] = True
        if "completions" in offered:
            merged["completions"] = {}
    if legacy or any(hello and "logging" in _offered(hello) for hello in hellos.values()):
        merged["logging"] = {}  # the bridge itself logs to legacy clients
    return merged


def instructions(hellos: Mapping[str, bytes | None], causes: Mapping[str, str]) -> str:
    """The servers' own instructions under their names, then who is unavailable and why; bounded."""
    parts = []
    for name, hello in hellos.items():
        said = text(_members(hello).get("instructions")) if hello else None
        if said:
            parts.append(f"## {name}\n\n{said[:MAX_PER_SERVER]}")
    for name, cause in causes.items():
        parts.append(f"Server {name!r} is unavailable at the moment: {cause[:500]}")
    return "\n\n".join(parts)[:MAX_INSTRUCTIONS]


def _offered(hello: bytes) -> Members:
    return _members(_members(hello).get("capabilities"))


def _subscribes(resources: Any) -> bool:
    return isinstance(resources, Raw) and _members(resources).get("subscribe") == _TRUE


def _members(raw: bytes | Raw | None) -> Members:
    """The members of what a server said; none when that is no proper object: a bad server must not spoil the others' hello."""
    try:
        return members(raw)
    except BridgeError:
        return {}
