"""One message from one era's dialect to the other's. Pure; only the members named here change, the rest keeps its bytes.

Source: mcp-eras section 3 (initialize, lists, calls, levels, errors; what a version can hold is in ``revisions``).
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from msgspec import Raw

from mcpbridge import __version__
from mcpbridge.core.state import ROUNDS
from mcpbridge.era.revisions import fit_result
from mcpbridge.errors import BridgeError
from mcpbridge.wire import message as m
from mcpbridge.wire.envelope import members, text
from mcpbridge.wire.message import Members, Notification, Request, Response
from mcpbridge.wire.spec import (
    CACHEABLE,
    CLIENT_CAPABILITIES,
    CLIENT_INFO,
    LEGACY,
    LOG_LEVEL,
    METHODS,
    MODERN,
    PROTOCOL_VERSION,
    SERVER_INFO,
)

NEWEST_LEGACY = LEGACY[-1]
LEGACY_ONLY = frozenset({"initialize", "ping", "logging/setLevel", "resources/subscribe", "resources/unsubscribe"})
MODERN_ONLY = frozenset({"server/discover", "subscriptions/listen"})
TASKS = "tasks/"  # those of 2025-11-25 are not those of the extension of 2026-07-28: neither exists for the other side
_RESERVED = frozenset({PROTOCOL_VERSION, CLIENT_INFO, CLIENT_CAPABILITIES, LOG_LEVEL})
_ROUND = frozenset({"inputResponses", "requestState"})
_NOT_MODERN = _ROUND | {"task"}
_INVALID_PARAMS = Raw(b"-32602")
_CONTEXT = frozenset({"context"})
_WITHOUT_CONTEXT = ("2024-11-05", "2025-03-26")  # completion has context.arguments since 2025-06-18
_UNKNOWN_METHOD = "Invalid request parameters"  # how Python SDK 1.x answers a method that it does not know
_COMPLETE = Raw(b'"complete"')
_members = partial(members, reason="bad_answer")  # of what a server said


def bridge_info() -> dict[str, str]:
    """What the bridge calls itself when it speaks for itself."""
    return {"name": "mcpbridge", "version": __version__}


def initialize_params(capabilities: Mapping[str, Any], client_info: Any) -> dict[str, Any]:
    """The params of a legacy initialize that the bridge sends for a modern client."""
    return {"protocolVersion": NEWEST_LEGACY, "capabilities": capabilities, "clientInfo": client_info}


def without_reserved(notification: Notification) -> Notification:
    """A notification that only its vendor knows, for a server of the other era."""
    if _RESERVED.isdisjoint(notification.meta):
        return notification
    return notification.with_meta({key: raw for key, raw in notification.meta.items() if key not in _RESERVED})


# A modern client's message for a legacy server


def to_legacy_request(request: Request, version: str = NEWEST_LEGACY) -> Request:
    """Without the reserved ``_meta`` members, what belongs to further rounds and what a server of ``version`` cannot know;
    everything else as it was."""
    dropped = _ROUND | _CONTEXT if request.method == "completion/complete" and version in _WITHOUT_CONTEXT else _ROUND
    if request.params is not None and not dropped.isdisjoint(request.params):
        request = request.with_params({name: raw for name, raw in request.params.items() if name not in dropped})
    return request.with_meta({key: raw for key, raw in request.meta.items() if key not in _RESERVED})


def to_modern_response(method: str, response: Response, server_info: Raw | None) -> Response:
    """A legacy server's answer as a modern client needs it: resultType, ttlMs, cacheScope, serverInfo; errors renumbered."""
    if response.error is not None:
        return _modern_error(method, response)
    result = dict(_members(response.result or b"{}"))
    result["resultType"] = _COMPLETE  # whatever a legacy server means by that name: its session knows no other kind
    if method in CACHEABLE:
        result.setdefault("ttlMs", Raw(b"0"))
        result.setdefault("cacheScope", Raw(b'"private"'))
    if server_info is not None:
        meta = dict(_members(result["_meta"])) if "_meta" in result else {}
        meta.setdefault(SERVER_INFO, server_info)
        result["_meta"] = Raw(m.join(meta))
    return response.with_result(m.join(result))


def discover_result(hello: Response) -> dict[str, Any]:
    """The DiscoverResult that stands for a legacy server's InitializeResult."""
    said = _members(hello.result or b"{}")
    result: dict[str, Any] = {
        "resultType": "complete",
        "supportedVersions": list(MODERN),
        "capabilities": _modern_capabilities(said.get("capabilities")),
        "ttlMs": 0,
        "cacheScope": "private",
        "_meta": {SERVER_INFO: said.get("serverInfo") or bridge_info()},
    }
    if "instructions" in said:
        result["instructions"] = said["instructions"]
    return result


def _modern_capabilities(raw: Raw | None) -> dict[str, Any]:
    """Tasks of 2025-11-25 are not the tasks extension of 2026-07-28 and are not advertised across eras."""
    capabilities: dict[str, Any] = dict(_members(raw)) if raw is not None else {}
    capabilities.pop("tasks", None)
    return capabilities


def _modern_error(method: str, response: Response) -> Response:
    error = _members(response.error or b"{}")
    code = bytes(error.get("code") or b"")
    if code == b"-32002":  # resource not found: modern servers must not send it
        return Response(response.id, None, Raw(m.join({**error, "code": Raw(b"-32602")})), b"", response.extra)
    if code == b"-32042":  # questions are put otherwise now, and only calls have any
        return Response(response.id, None, Raw(m.join({**error, "code": Raw(b"-32603")})), b"", response.extra)
    if code == b"-32602" and method not in METHODS and text(error.get("message")) == _UNKNOWN_METHOD:
        return Response(response.id, None, Raw(m.join({**error, "code": Raw(b"-32601")})), b"", response.extra)
    return response


# A legacy client's message for a modern server


def without_foreign(request: Request) -> Request:
    """A legacy client's call without what its era does not have, or means otherwise by: a task, and what only rounds bring."""
    if request.params is None or request.method not in ROUNDS or _NOT_MODERN.isdisjoint(request.params):
        return request
    return request.with_params({name: raw for name, raw in request.params.items() if name not in _NOT_MODERN})


def to_modern_request(request: Request, *, client_info: Raw, capabilities: Raw, log_level: str | None) -> Request:
    """With the three reserved ``_meta`` members, and the session's log level if it set one."""
    meta: Members = {
        **{key: raw for key, raw in request.meta.items() if key not in _RESERVED},
        PROTOCOL_VERSION: Raw(m.dumps(MODERN[0])),
        CLIENT_INFO: client_info,
        CLIENT_CAPABILITIES: capabilities,
    }
    if log_level is not None:
        meta[LOG_LEVEL] = Raw(m.dumps(log_level))
    return request.with_meta(meta)


def to_legacy_response(method: str, response: Response, version: str = NEWEST_LEGACY) -> Response:
    """A modern server's answer as a legacy client of ``version`` knows it; errors renumbered.

    Raises BridgeError("unsupported_across_eras") for results that have no legacy form, ("bad_answer") for what cannot be read.
    """
    if response.result is None:
        return _legacy_error(method, response)
    result = dict(_members(response.result))
    kind = result.pop("resultType", None)
    if kind is not None and kind != _COMPLETE:
        name = text(kind)
        raise BridgeError(
            "unsupported_across_eras", f"resultType {name!r} has no form in this client's protocol version", resultType=name
        )
    result.pop("ttlMs", None)
    result.pop("cacheScope", None)
    if "_meta" in result:
        meta = dict(_members(result["_meta"]))
        meta.pop(SERVER_INFO, None)
        if meta:
            result["_meta"] = Raw(m.join(meta))
        else:
            del result["_meta"]
    return response.with_result(m.join(fit_result(method, result, version)))


def _legacy_error(method: str, response: Response) -> Response:
    """A resource that does not exist has a code of its own in this era; the URI in ``data`` tells it from bad params."""
    error = _members(response.error or b"{}")
    if method == "resources/read" and error.get("code") == _INVALID_PARAMS:
        data = error.get("data")
        if data is not None and bytes(data).startswith(b"{") and "uri" in _members(data):
            return Response(response.id, None, Raw(m.join({**error, "code": Raw(b"-32002")})), b"", response.extra)
    return response


def initialize_result(discovered: Response, requested: str, name: str) -> dict[str, Any]:
    """The InitializeResult that stands for a modern server's DiscoverResult, in the legacy version the client asked for."""
    said = _members(discovered.result or b"{}")
    meta = _members(said["_meta"]) if "_meta" in said else {}
    capabilities: dict[str, Any] = dict(_members(said["capabilities"])) if "capabilities" in said else {}
    for other in ("extensions", "tasks"):
        capabilities.pop(other, None)
    if "resources" in capabilities:
        capabilities["resources"] = {**_members(capabilities["resources"]), "subscribe": True}
    result: dict[str, Any] = {
        "protocolVersion": requested if requested in LEGACY else NEWEST_LEGACY,
        "capabilities": capabilities,
        "serverInfo": meta.get(SERVER_INFO) or {"name": name, "version": "unknown"},
    }
    if "instructions" in said:
        result["instructions"] = said["instructions"]
    return result
