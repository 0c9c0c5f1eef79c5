"""What MCP's five revisions say, as tables: versions, methods, reserved keys; and the two decisions made from them.

    classify(message, header)       which era speaks, from the body; the header is only a cross-check
    check_modern(request, headers)  the ladder every modern request climbs before anything is done for it

Versions are an enumerated set. They are looked up, never compared as strings.

Source: MCP schemas 2024-11-05 ... 2026-07-28; mcp-eras sections 0, 1.2 and 2.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

from mcpbridge.errors import BridgeError
from mcpbridge.wire.headers import decode_header, encode_header
from mcpbridge.wire.level import text
from mcpbridge.wire.message import Message, Request, Response

__all__ = ["check_modern", "classify", "decode_header", "encode_header", "name_of", "retry_safe"]

Era = Literal["modern", "legacy"]
Kind = Literal["request", "notification"]
Sender = Literal["client", "server"]

LEGACY = ("2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25")
MODERN = ("2026-07-28",)
VERSIONS = LEGACY + MODERN
NEWEST_LEGACY = LEGACY[-1]
NEWEST_MODERN = MODERN[-1]
ASSUMED = "2025-03-26"  # of a legacy HTTP request that names no version (mcp-eras 1.3)
BATCHES = ("2025-03-26",)  # the only revision with JSON-RPC batches

# Reserved _meta keys
PROTOCOL_VERSION = "io.modelcontextprotocol/protocolVersion"
CLIENT_INFO = "io.modelcontextprotocol/clientInfo"
CLIENT_CAPABILITIES = "io.modelcontextprotocol/clientCapabilities"
LOG_LEVEL = "io.modelcontextprotocol/logLevel"
SERVER_INFO = "io.modelcontextprotocol/serverInfo"
SUBSCRIPTION_ID = "io.modelcontextprotocol/subscriptionId"
RELATED_TASK = "io.modelcontextprotocol/related-task"
PROGRESS = "progressToken"
TRACE_KEYS = ("traceparent", "tracestate", "baggage")
REQUIRED_META = (PROTOCOL_VERSION, CLIENT_CAPABILITIES)  # of every modern request

LOG_LEVELS = ("debug", "info", "notice", "warning", "error", "critical", "alert", "emergency")  # rising severity, RFC 5424
INPUT_METHODS = ("sampling/createMessage", "elicitation/create", "roots/list")
"""What a modern server may ask for inside ``inputRequests``; legacy servers send the same as requests."""


class Method(NamedTuple):
    """One method: which side sends it in which versions, and what the bridge has to know about it."""

    kind: Kind
    client: tuple[str, ...] = ()  # versions in which a client sends it
    server: tuple[str, ...] = ()  # versions in which a server sends it
    name: str | None = None  # params member that says what is addressed
    items: str | None = None  # result member that holds a list's items
    retry_safe: bool = False  # a second execution changes nothing
    cacheable: bool = False  # modern results carry ttlMs and cacheScope
    needs: tuple[str, ...] = ()  # capability of the answering side, as a path; of the sending side for a server's notification


_2025_06 = ("2025-06-18", "2025-11-25")
_2025_11 = ("2025-11-25",)
_TASKS = (*_2025_11, *MODERN)  # core in 2025-11-25, the extension io.modelcontextprotocol/tasks in 2026-07-28

METHODS: dict[str, Method] = {
    "initialize": Method("request", LEGACY),
    "ping": Method("request", LEGACY, LEGACY, retry_safe=True),
    "server/discover": Method("request", MODERN, retry_safe=True, cacheable=True),
    "tools/list": Method("request", VERSIONS, items="tools", retry_safe=True, cacheable=True, needs=("tools",)),
    "tools/call": Method("request", VERSIONS, name="name", needs=("tools",)),
    "prompts/list": Method("request", VERSIONS, items="prompts", retry_safe=True, cacheable=True, needs=("prompts",)),
    "prompts/get": Method("request", VERSIONS, name="name", retry_safe=True, needs=("prompts",)),
    "resources/list": Method("request", VERSIONS, items="resources", retry_safe=True, cacheable=True, needs=("resources",)),
    "resources/templates/list": Method(
        "request", VERSIONS, items="resourceTemplates", retry_safe=True, cacheable=True, needs=("resources",)
    ),
    "resources/read": Method("request", VERSIONS, name="uri", retry_safe=True, cacheable=True, needs=("resources",)),
    "resources/subscribe": Method("request", LEGACY, name="uri", needs=("resources", "subscribe")),
    "resources/unsubscribe": Method("request", LEGACY, name="uri", needs=("resources", "subscribe")),
    "subscriptions/listen": Method("request", MODERN),
    "completion/complete": Method("request", VERSIONS, retry_safe=True, needs=("completions",)),
    "logging/setLevel": Method("request", LEGACY, needs=("logging",)),
    "tasks/get": Method("request", _TASKS, _2025_11, name="taskId", retry_safe=True, needs=("tasks",)),
    "tasks/result": Method("request", _2025_11, _2025_11, name="taskId", retry_safe=True, needs=("tasks",)),
    "tasks/list": Method("request", _2025_11, _2025_11, items="tasks", retry_safe=True, needs=("tasks", "list")),
    "tasks/update": Method("request", MODERN, name="taskId", needs=("tasks",)),
    "tasks/cancel": Method("request", _TASKS, _2025_11, name="taskId", needs=("tasks", "cancel")),
    "sampling/createMessage": Method("request", server=LEGACY, needs=("sampling",)),
    "elicitation/create": Method("request", server=_2025_06, needs=("elicitation",)),
    "roots/list": Method("request", server=LEGACY, items="roots", needs=("roots",)),
    "notifications/initialized": Method("notification", LEGACY),
    "notifications/cancelled": Method("notification", VERSIONS, VERSIONS),
    "notifications/progress": Method("notification", LEGACY, VERSIONS),
    "notifications/roots/list_changed": Method("notification", LEGACY, needs=("roots", "listChanged")),
    "notifications/message": Method("notification", server=VERSIONS, needs=("logging",)),
    "notifications/tools/list_changed": Method("notification", server=VERSIONS, needs=("tools", "listChanged")),
    "notifications/prompts/list_changed": Method("notification", server=VERSIONS, needs=("prompts", "listChanged")),
    "notifications/resources/list_changed": Method("notification", server=VERSIONS, needs=("resources", "listChanged")),
    "notifications/resources/updated": Method("notification", server=VERSIONS, name="uri", needs=("resources", "subscribe")),
    "notifications/subscriptions/acknowledged": Method("notification", server=MODERN),
    "notifications/elicitation/complete": Method("notification", server=_2025_11),
    "notifications/tasks/status": Method("notification", _2025_11, _2025_11, name="taskId"),
    "notifications/tasks": Method("notification", server=MODERN, name="taskId"),
}
_UNKNOWN = Method("request")

LISTS = {name: row.items for name, row in METHODS.items() if row.items and row.client and not name.startswith("tasks/")}
"""The lists an aggregate merges: method -> member of the result that holds the items."""
CACHEABLE = frozenset(name for name, row in METHODS.items() if row.cacheable)
"""Methods whose complete modern results must carry ``ttlMs`` and ``cacheScope``."""
NAMED_IN_HEADER = frozenset(
    name for name, row in METHODS.items() if row.name and row.kind == "request" and MODERN[0] in row.client
)
"""Methods whose modern HTTP request carries ``Mcp-Name``."""
LISTEN_FLAGS = {
    "toolsListChanged": "notifications/tools/list_changed",
    "promptsListChanged": "notifications/prompts/list_changed",
    "resourcesListChanged": "notifications/resources/list_changed",
}
"""Members of a ``subscriptions/listen`` filter that are true or absent -> the notification they ask for."""


def era_of(version: str) -> Era | None:
    """The era of a protocol version; None for one we do not know."""
    return "modern" if version in MODERN else "legacy" if version in LEGACY else None


def is_at_least(version: str, first: str) -> bool:
    """Whether ``version`` is ``first`` or a later one of the known versions. Raises ValueError for an unknown one."""
    return VERSIONS.index(version) >= VERSIONS.index(first)


def negotiate(requested: str, supported: Sequence[str] = LEGACY) -> str:
    """The version a legacy ``initialize`` is answered with: the requested one, else the newest supported one."""
    return requested if requested in supported else supported[-1]


def is_known(method: str, version: str, sender: Sender) -> bool:
    """Whether this side may send this method in this version, as far as the specification knows."""
    row = METHODS.get(method, _UNKNOWN)
    return version in (row.client if sender == "client" else row.server)


def name_of(method: str) -> str | None:
    """The params member that names what a method addresses (``name``, ``uri``, ``taskId``), or None."""
    return METHODS.get(method, _UNKNOWN).name


def retry_safe(method: str) -> bool:
    """Whether a request may be repeated although the first one may have been executed. Unknown methods: no."""
    return METHODS.get(method, _UNKNOWN).retry_safe


def capability_for(method: str, version: str) -> tuple[str, ...]:
    """The capability that method depends on, as a path of names; () when it needs none in that version.

    A hint for what to advertise and to choose between servers. Real servers support more than they declare, so a request is
    never refused on it.
    """
    if method == "completion/complete" and version == "2024-11-05":
        return ()  # the capability came one revision after the method
    return METHODS.get(method, _UNKNOWN).needs


def classify(message: Message | list[Message], header_version: str | None = None) -> Era:
    """The era of a posted message of a client. ``header_version``: MCP-Protocol-Version, None for transports without headers.

    1 (GET and DELETE are legacy session operations; not seen here)
    2 a batch is legacy, and no message in it may claim to be modern
    3 a response is legacy: modern clients send none
    4 ``_meta`` with a protocol version is modern
    5 ``initialize`` without it is legacy
    6 a request without it under a modern header is a modern one that lacks its metadata: refused
    7 a notification follows the header

    ``Mcp-Method`` never decides: a released legacy client sends it. Raises BridgeError("invalid_request" | "invalid_params").
    """
    if isinstance(message, list):
        if any(_claims_modern(item) for item in message):
            raise BridgeError("invalid_request", "a batch holds no message of a protocol version without batches")
        return "legacy"
    if isinstance(message, Response):
        return "legacy"
    if _claims_modern(message):
        return "modern"
    if message.method == "initialize" or header_version not in MODERN:
        return "legacy"
    if isinstance(message, Request):
        raise _missing(message, [key for key in REQUIRED_META if key not in message.meta])
    return "modern"


def check_batch(batch: list[Message], version: str | None) -> None:
    """Whether a client of this protocol version (None: it negotiated none) may send these messages as one array.

    Only 2025-03-26 has batches, and `initialize` is never part of one. Raises BridgeError("invalid_request").
    """
    if version not in BATCHES:
        raise BridgeError("invalid_request", f"batches exist in protocol version {BATCHES[0]} only")
    classify(batch)
    if any(isinstance(item, Request) and item.method == "initialize" for item in batch):
        raise BridgeError("invalid_request", "initialize is never part of a batch")


def check_modern(request: Request, headers: Mapping[str, str] | None = None, supported: Sequence[str] = MODERN) -> str:
    """Check what every modern request must bring; returns its protocol version.

    1 ``_meta`` has version and capabilities, of the right kind           -32602
    2 the headers say what the body says (HTTP: ``headers`` by lower-case name; None elsewhere)   -32020
    3 the version is one of ``supported``                                 -32022, with both sides' versions
    4 a log level, if any, is one that exists                             -32602

    Headers come before the version, so that a client that contradicts itself learns that. Whether the method exists is not
    decided here. Raises BridgeError with the request's id.
    """
    meta = request.meta
    missing = [key for key in REQUIRED_META if key not in meta]
    if missing:
        raise _missing(request, missing)
    version = text(meta[PROTOCOL_VERSION])
    if version is None:
        raise _invalid(request, f"{PROTOCOL_VERSION} must be a string")
    for key in (CLIENT_CAPABILITIES, CLIENT_INFO):
        if not bytes(meta.get(key, b"{")).startswith(b"{"):
            raise _invalid(request, f"{key} must be an object")
    if headers is not None:
        _check_headers(request, version, headers)
    if version not in supported:
        detail = f"{version[:64]!r} is not one of {', '.join(supported)}"
        raise BridgeError("unsupported_version", detail, id=request.id, supported=list(supported), requested=version)
    if LOG_LEVEL in meta and text(meta[LOG_LEVEL]) not in LOG_LEVELS:
        raise _invalid(request, f"{LOG_LEVEL} must be one of {', '.join(LOG_LEVELS)}")
    return version


def _claims_modern(message: Message) -> bool:
    return not isinstance(message, Response) and PROTOCOL_VERSION in message.meta


def _missing(request: Request, keys: list[str]) -> BridgeError:
    return BridgeError("invalid_params", f"params._meta lacks {', '.join(keys)}", id=request.id, missing=keys)


def _invalid(request: Request, detail: str) -> BridgeError:
    return BridgeError("invalid_params", detail, id=request.id)


def _check_headers(request: Request, version: str, headers: Mapping[str, str]) -> None:
    expected = {"mcp-protocol-version": version, "mcp-method": request.method}
    for name, value in expected.items():
        if headers.get(name) != value:
            raise _mismatch(request, name, headers)
    if request.method not in NAMED_IN_HEADER:
        return
    member = name_of(request.method)
    assert member is not None
    named = text(request.param(member))
    if named is None:
        return  # no name to compare with: the server says what is wrong with the params
    found = headers.get("mcp-name")
    if found is None and member == "taskId":
        return  # the rule of an extension; a call without it contradicts nothing
    try:
        agrees = found is not None and decode_header(found) == named
    except ValueError:
        agrees = False
    if not agrees:
        raise _mismatch(request, "mcp-name", headers)


def _mismatch(request: Request, name: str, headers: Mapping[str, str]) -> BridgeError:
    what = "does not say what the body says" if name in headers else "is missing"
    return BridgeError("header_mismatch", f"{name} {what}", id=request.id, header=name)
