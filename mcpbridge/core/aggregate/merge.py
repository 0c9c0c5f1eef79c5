"""What several servers say of themselves, said once: capabilities, instructions, and who is missing.

Source: mcp-eras section 4 (capabilities merge, discover); issue "Router" (a server that is down is named with its cause).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from msgspec import Raw

from mcpbridge import __version__
from mcpbridge.errors import BridgeError
from mcpbridge.wire.envelope import members, text
from mcpbridge.wire.headers import plain
from mcpbridge.wire.message import Members

MAX_INSTRUCTIONS = 16_384  # characters of all instructions together
MAX_PER_SERVER = 4096
_KINDS = ("tools", "prompts", "resources")
_TRUE = Raw(b"true")


def bridge_info() -> dict[str, str]:
    """The serverInfo of an endpoint that shows several servers."""
    return {"name": "mcpbridge", "version": __version__}


class Hello(NamedTuple):
    """What a server said of itself, None when it has not yet; ``is_own``: in the client's own era."""

    said: bytes | None
    is_own: bool = False


def capabilities(hellos: Mapping[str, Hello], *, legacy: bool) -> dict[str, Any]:
    """The union of what the servers offer. One that has not said anything yet may turn out to offer everything.

    ``listChanged`` is always true: the bridge itself tells when a server comes or goes. Extensions and tasks are those of the
    client's own era; what two servers say about one extension is the first one's word.
    """
    merged: dict[str, Any] = {}
    for said, is_own in hellos.values():
        offered: dict[str, Any] = {kind: {} for kind in (*_KINDS, "completions")} if said is None else _offered(said)
        for kind in _KINDS:
            if kind in offered:
                merged.setdefault(kind, {"listChanged": True})
                if kind == "resources" and (said is None or _subscribes(offered[kind]) or b"supportedVersions" in said):
                    merged[kind]["subscribe"] = True
        if "completions" in offered:
            merged["completions"] = {}
        if is_own and "extensions" in offered:
            for name, settings in _members(offered["extensions"]).items():
                merged.setdefault("extensions", {}).setdefault(name, settings)
        if is_own and legacy and "tasks" in offered:
            merged["tasks"] = _union(merged.get("tasks", {}), plain(offered["tasks"]))
    if legacy or any(said and "logging" in _offered(said) for said, _ in hellos.values()):
        merged["logging"] = {}  # the bridge itself logs to legacy clients
    return merged


def _union(one: Any, other: Any) -> Any:
    """Two capability trees in one; where both say something else, the first one's word."""
    if not isinstance(one, dict) or not isinstance(other, dict):
        return one
    return {**other, **{key: _union(value, other[key]) if key in other else value for key, value in one.items()}}


def instructions(hellos: Mapping[str, Hello], causes: Mapping[str, str]) -> str:
    """The servers' own instructions under their names, then who is unavailable and why; bounded."""
    parts = []
    for name, hello in hellos.items():
        own = text(_members(hello.said).get("instructions")) if hello.said else None
        if own:
            parts.append(f"## {name}\n\n{own[:MAX_PER_SERVER]}")
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
