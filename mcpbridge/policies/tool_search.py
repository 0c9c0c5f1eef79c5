"""Two tools in place of a long list: one that finds tools by words, one that calls what was found.

    tools/list                            find_tool, call_tool                         instead of 300 tools, 180 kB
    tools/call find_tool {query}          the tools that fit, as their servers list them
    tools/call call_tool {name, ...}      tools/call NAME {...}, from here on like any other call

A list costs a model its tokens in every conversation, used or not. Lists up to ``above`` tools stay as they are; so do calls
of a tool by its own name. Every list that is shortened says in its ``_meta`` and in the log what that saved: bytes as they are
listed, which are measured, and tokens, which are estimated, for no two models count alike.

Source: issue 6 (local routers); field.md 14 (context economy); mcp-eras section 4 (lists).
"""

from __future__ import annotations

from collections import OrderedDict
from time import monotonic
from typing import Any, Final, NamedTuple

from msgspec import Raw
from msgspec.structs import replace

from mcpbridge.core.exchange import ANONYMOUS, Exchange, Handler, NoReply, Policy
from mcpbridge.core.server import Server
from mcpbridge.core.tool_index import Index
from mcpbridge.observe.log import log
from mcpbridge.wire import message as m
from mcpbridge.wire.headers import plain
from mcpbridge.wire.level import items, members, text
from mcpbridge.wire.message import Members, Request, Response
from mcpbridge.wire.spec import LOG_LEVEL, PROGRESS

FIND, CALL = "find_tool", "call_tool"
SAVED = "mcpbridge/tools"
"""`_meta` member of a shortened list: {behind, bytes, bytes_shown}."""
BYTES_PER_TOKEN: Final = 4  # of JSON, roughly
FRESH = 30.0  # seconds a list is searched as it was read
MAX_PAGES = 100
MAX_INDEXES = 64  # of callers; the one that was used last stays longest
DEFAULT_HITS, MAX_HITS = 5, 20
_NAMED = 20  # servers that the description names
_log = log("tools")


class _Known(NamedTuple):
    tools: Index
    read_at: float  # monotonic


def tool_search(above: int) -> Policy:
    """Lists of more than ``above`` tools are shortened. Stands innermost: what passes here is what servers are asked."""
    kept: OrderedDict[tuple[str, ...], _Known] = OrderedDict()
    told: set[int] = set()

    def keep(x: Exchange, tools: list[Raw]) -> Index:
        key = _whose(x)
        same = next((known.tools for known in kept.values() if known.tools.is_of(tools)), None)  # most callers see the same
        index = same or Index(tools)
        kept[key] = _Known(index, monotonic())
        kept.move_to_end(key)
        if len(kept) > MAX_INDEXES:
            kept.popitem(last=False)
        return index

    async def listed(x: Exchange, request: Request, handler: Handler) -> Response | None:
        response = await handler(x)
        if response is None or response.result is None:
            return response
        said = members(response.result, "bad_answer")
        tools = items(said.get("tools"), "bad_answer") + await _following(x, request, handler, said)
        if len(tools) <= above:
            kept.pop(_whose(x), None)
            return response  # with its cursor, if it has one
        index = keep(x, tools)
        shown = m.dumps([_find(x, len(tools)), _CALL])
        saved: dict[str, int] = {"behind": len(tools), "bytes": index.size, "bytes_shown": len(shown)}
        if index.size not in told and len(told) < MAX_INDEXES:
            told.add(index.size)
            tokens = (index.size - len(shown)) // BYTES_PER_TOKEN
            _log.info("tool list shortened", tools=len(tools), bytes=index.size, bytes_shown=len(shown), tokens_saved=tokens)
        meta = {**members(said.get("_meta")), SAVED: Raw(m.dumps(saved))}
        parts = {name: raw for name, raw in said.items() if name != "nextCursor"}
        return response.with_result(m.join({**parts, "tools": Raw(shown), "_meta": Raw(m.join(meta))}))

    async def find(x: Exchange, request: Request, handler: Handler) -> Response | None:
        index = await searched(x, request, handler)
        if index is None:
            return await handler(x)  # the list is short: a tool of that name is a server's
        given = plain(request.param("arguments"))
        query = given.get("query") if isinstance(given, dict) else None
        limit = given.get("limit", DEFAULT_HITS) if isinstance(given, dict) else None
        if not isinstance(query, str) or not query.strip():
            return _failed(x, "query is missing: say in words what the tool has to do")
        if isinstance(limit, bool) or not isinstance(limit, int) or not 1 <= limit <= MAX_HITS:
            return _failed(x, f"limit must be a whole number from 1 to {MAX_HITS}")
        hits = index.find(query, limit)
        said = m.dumps({"tools": [hit.raw for hit in hits], "searched": len(index.tools)}).decode()
        if not hits:
            said += f"\nNothing fits. Other words may: {FIND} looks for those in names, descriptions and arguments."
        return _answer(x, said)

    async def call(x: Exchange, request: Request, handler: Handler) -> Response | None:
        if await searched(x, request, handler) is None:
            return await handler(x)
        given = members(request.param("arguments"))
        name = text(given.get("name"))
        if name is None:
            return _failed(x, f"name is missing: the name of a tool that {FIND} found")
        params: Members = {**(request.params or {}), "name": given["name"]}
        params["arguments"] = given.get("arguments", Raw(b"{}"))
        x.message = request.with_params(params)
        x.view = replace(x.view, name=name)
        x.caller = replace(x.caller, is_rewritten=True)
        return await handler(x)

    async def searched(x: Exchange, request: Request, handler: Handler) -> Index | None:
        """The index of this caller's tools; None when the list is not shortened."""
        known = kept.get(_whose(x))
        if known is not None and monotonic() - known.read_at < FRESH:
            kept.move_to_end(_whose(x))
            return known.tools
        tools = await _following(x, request, handler, None)
        return keep(x, tools) if len(tools) > above else None

    async def policy(x: Exchange, handler: Handler) -> Response | None:
        request = x.message
        if isinstance(request, Request):
            if request.method == "tools/list" and request.param("cursor") is None:
                return await listed(x, request, handler)
            if request.method == "tools/call" and x.view.name == FIND:
                return await find(x, request, handler)
            if request.method == "tools/call" and x.view.name == CALL:
                return await call(x, request, handler)
        return await handler(x)

    return policy


async def _following(x: Exchange, request: Request, handler: Handler, said: Members | None) -> list[Raw]:
    """The tools of the pages that follow a list's first one, or of all pages. Raises BridgeError."""
    meta = {key: raw for key, raw in request.meta.items() if key not in (PROGRESS, LOG_LEVEL)}
    found: list[Raw] = []
    for _ in range(MAX_PAGES):
        params: Members = {"_meta": Raw(m.join(meta))} if meta else {}
        if said is not None:
            if text(said.get("nextCursor")) is None:
                break
            params["cursor"] = said["nextCursor"]
        response = await handler(x.derive(m.request(request.id, "tools/list", params or None), x.target, NoReply()))
        if response is None or response.result is None:
            break  # it has no tools, or no more of them
        said = members(response.result, "bad_answer")
        found += items(said.get("tools"), "bad_answer")
    return found


def _servers(x: Exchange) -> tuple[str, ...]:
    targets = x.target if isinstance(x.target, tuple) else (x.target,)
    return tuple(target.name for target in targets if isinstance(target, Server))


def _whose(x: Exchange) -> tuple[str, ...]:
    """Whose list it is: who asks, and at which endpoint."""
    return ((x.caller.principal or ANONYMOUS).key, *_servers(x))


def _find(x: Exchange, count: int) -> dict[str, Any]:
    names = _servers(x)
    more = ", ..." if len(names) > _NAMED else ""
    return {
        "name": FIND,
        "title": "Find a tool",
        "description": f"Finds tools by what they do. There are {count}, of: {', '.join(names[:_NAMED])}{more}. "
        f"Answers name, description and inputSchema of those that fit best; {CALL} calls them.",
        "inputSchema": {
            "type": "object",
            "properties": {
                "query": {"type": "string", "description": "What the tool has to do, in words"},
                "limit": {"type": "integer", "minimum": 1, "maximum": MAX_HITS, "default": DEFAULT_HITS},
            },
            "required": ["query"],
        },
        "annotations": {"readOnlyHint": True},
    }


_CALL: Final[dict[str, Any]] = {
    "name": CALL,
    "title": "Call a tool",
    "description": f"Calls a tool that {FIND} found, with arguments as its inputSchema says.",
    "inputSchema": {
        "type": "object",
        "properties": {
            "name": {"type": "string", "description": "Name of the tool"},
            "arguments": {"type": "object", "description": "Its arguments"},
        },
        "required": ["name"],
    },
}


def _failed(x: Exchange, why: str) -> Response:
    """What a model can mend is a result: errors of the protocol it may never see."""
    return _answer(x, why, isError=True)


def _answer(x: Exchange, said: str, **more: Any) -> Response:
    done = {"resultType": "complete"} if x.caller.era == "modern" else {}
    return m.result(x.request.id, {**done, "content": [{"type": "text", "text": said}], **more})
