"""A small MCP server that speaks both eras. Pure but for ``answer``: a request in, notifications and one answer out.

    modern   every request stands alone: versions, log level and subscriptions are in the request
    legacy   a Session remembers what `initialize`, `logging/setLevel` and `resources/subscribe` said

Source: MCP schemas 2024-11-05 ... 2026-07-28; mcp-eras sections 1 and 2.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from typing import Any

from mcpbridge import __version__
from mcpbridge.errors import BridgeError, to_wire
from mcpbridge.wire import message as m
from mcpbridge.wire.message import Notification, Request, Response
from mcpbridge.wire.spec import (
    CACHEABLE,
    LISTEN_FLAGS,
    LOG_LEVEL,
    LOG_LEVELS,
    MODERN,
    NEWEST_LEGACY,
    PROGRESS,
    SERVER_INFO,
    SUBSCRIPTION_ID,
    check_modern,
    classify,
    is_known,
    negotiate,
)

Notify = Callable[[Notification], None]
Steps = Generator[float | None, None, dict[str, Any]]
"""Yields seconds to wait, or None to wait until cancelled; returns the result."""

MAX_SLEEP = 60.0  # seconds
GREETING = "demo://greeting"


def _tool(name: str, text: str, required: list[str] | None = None, /, **properties: str) -> dict[str, Any]:
    schema = {"type": "object", "properties": {key: {"type": kind} for key, kind in properties.items()}}
    return {"name": name, "description": text, "inputSchema": schema | ({"required": required} if required else {})}


TOOLS = [
    _tool("echo", "Returns the text.", ["text"], text="string"),
    _tool("add", "Returns a + b.", ["a", "b"], a="number", b="number")
    | {"outputSchema": {"type": "object", "properties": {"sum": {"type": "number"}}, "required": ["sum"]}},
    _tool("sleep", "Waits up to a minute and reports progress.", ["seconds"], seconds="number", steps="integer"),
    _tool("fail", "Fails with the message.", message="string"),
    _tool("log", "Logs the text at a level.", ["text"], text="string", level="string"),
    _tool("toggle", "Adds or removes the tool `extra`; the list of tools changes."),
    _tool("touch", f"Changes the resource {GREETING}."),
]
EXTRA = _tool("extra", "Is there or not, see `toggle`.")
PROMPT = {"name": "greet", "description": "A greeting.", "arguments": [{"name": "name", "required": True}]}
TEMPLATE = {"uriTemplate": "demo://square/{n}", "name": "square", "mimeType": "text/plain"}
NAMES = ["Ada", "Alan", "Barbara", "Edsger", "Grace"]
CAPABILITIES = {
    "tools": {"listChanged": True},
    "prompts": {},
    "resources": {"subscribe": True},
    "completions": {},
    "logging": {},
}
ALWAYS: dict[str, dict[str, Any]] = {
    "ping": {},
    "server/discover": {"supportedVersions": list(MODERN), "capabilities": CAPABILITIES},
    "prompts/list": {"prompts": [PROMPT]},
    "resources/list": {"resources": [{"uri": GREETING, "name": "greeting", "mimeType": "text/plain"}]},
    "resources/templates/list": {"resourceTemplates": [TEMPLATE]},
}
"""Method -> the result that never changes."""


@dataclass(eq=False)
class Session:
    """What a legacy conversation remembers. ``push`` sends what belongs to no call."""

    push: Notify
    version: str = NEWEST_LEGACY
    log_level: str = "info"
    uris: set[str] = field(default_factory=set)


class DemoServer:
    """One server for any number of conversations."""

    def __init__(self, name: str = "demo") -> None:
        self.info = {"name": name, "version": __version__}
        self._has_extra = False
        self._touched = 0
        self.sessions: set[Session] = set()
        self._listens: dict[int, tuple[dict[str, Any], Callable[[str, dict[str, Any]], None]]] = {}

    async def answer(self, request: Request, session: Session, notify: Notify, headers: Any = None) -> Response:
        """Play ``respond`` in real time: what it asks to wait for is waited for here."""
        steps = self.respond(request, session, notify, headers)
        try:
            while True:
                wait = next(steps)
                await (asyncio.sleep(wait) if wait is not None else asyncio.Event().wait())
        except StopIteration as end:
            response: Response = end.value
            return response
        finally:
            steps.close()

    def respond(
        self, request: Request, session: Session, notify: Notify, headers: Any = None
    ) -> Generator[float | None, None, Response]:
        """Answer one request. ``notify`` takes what belongs to this call; ``headers`` are those of a modern HTTP request."""
        try:
            is_modern = classify(request, headers.get("mcp-protocol-version") if headers is not None else None) == "modern"
            version = check_modern(request, headers) if is_modern else session.version
            params = {name: m.loads(raw) for name, raw in (request.params or {}).items() if name != "_meta"}
            handle = getattr(self, "_" + request.method.replace("/", "_"), None)
            if not is_known(request.method, version, "client") or (handle is None and request.method not in ALWAYS):
                raise BridgeError("method_not_found", request.method)
            try:
                value = handle(_Call(request, params, session, notify, is_modern)) if handle else ALWAYS[request.method]
                result = value if isinstance(value, dict) else (yield from value)
            except (KeyError, TypeError, ValueError, AttributeError) as error:
                raise BridgeError("invalid_params", f"{type(error).__name__}: {error}") from error
            return m.result(request.id, self._complete(result, request.method) if is_modern else result)
        except BridgeError as error:
            return m.error(request.id, to_wire(error))

    def _complete(self, result: dict[str, Any], method: str) -> dict[str, Any]:
        cache = {"ttlMs": 0, "cacheScope": "private"} if method in CACHEABLE else {}
        meta = {**result.get("_meta", {}), SERVER_INFO: self.info}
        return {"resultType": "complete", **cache, **result, "_meta": meta}

    def _changed(self, flag: str, uri: str | None = None) -> None:
        """Tell everyone who listens: a list has changed, or the resource ``uri`` has."""
        method = LISTEN_FLAGS.get(flag, "notifications/resources/updated")
        params = {"uri": uri} if uri else {}
        for session in list(self.sessions):
            if uri is None or uri in session.uris:
                session.push(m.notification(method, params))
        for wanted, push in list(self._listens.values()):
            if wanted.get(flag) is True or uri in wanted.get("resourceSubscriptions", ()):
                push(method, params)

    # Beginnings and lists

    def _initialize(self, call: _Call) -> dict[str, Any]:
        call.session.version = negotiate(call.params["protocolVersion"])
        return {"protocolVersion": call.session.version, "capabilities": CAPABILITIES, "serverInfo": self.info}

    def _tools_list(self, call: _Call) -> dict[str, Any]:
        return {"tools": [*TOOLS, EXTRA] if self._has_extra else TOOLS}

    # Items

    def _resources_read(self, call: _Call) -> dict[str, Any]:
        uri = call.params["uri"]
        if uri == GREETING:
            text = f"Hello, this is {self.info['name']}; touched {self._touched} times."
        elif uri.startswith("demo://square/"):
            text = str(int(uri.removeprefix("demo://square/")) ** 2)
        else:
            raise BridgeError("invalid_params", f"no resource {uri}", uri=uri)
        return {"contents": [{"uri": uri, "mimeType": "text/plain", "text": text}]}

    def _prompts_get(self, call: _Call) -> dict[str, Any]:
        if call.params["name"] != PROMPT["name"]:
            raise BridgeError("invalid_params", f"no prompt {call.params['name']}")
        text = f"Please greet {call.params['arguments']['name']}."
        return {"messages": [{"role": "user", "content": {"type": "text", "text": text}}]}

    def _completion_complete(self, call: _Call) -> dict[str, Any]:
        given = call.params["argument"]["value"]
        values = NAMES if call.params["ref"]["type"] == "ref/prompt" else [str(n) for n in range(10)]
        return {"completion": {"values": [value for value in values if value.lower().startswith(given.lower())]}}

    # Subscriptions and logs

    def _resources_subscribe(self, call: _Call) -> dict[str, Any]:
        call.session.uris.add(call.params["uri"])
        return {}

    def _resources_unsubscribe(self, call: _Call) -> dict[str, Any]:
        call.session.uris.discard(call.params["uri"])
        return {}

    def _logging_setLevel(self, call: _Call) -> dict[str, Any]:  # noqa: N802 (the method's own name)
        if call.params["level"] not in LOG_LEVELS:
            raise BridgeError("invalid_params", f"level must be one of {', '.join(LOG_LEVELS)}")
        call.session.log_level = call.params["level"]
        return {}

    def _subscriptions_listen(self, call: _Call) -> Steps:
        asked = call.params["notifications"]
        uris = [uri for uri in asked.get("resourceSubscriptions", ()) if uri == GREETING]
        honoured: dict[str, Any] = {"toolsListChanged": True} if asked.get("toolsListChanged") is True else {}
        if uris:
            honoured["resourceSubscriptions"] = uris
        meta = {"_meta": {SUBSCRIPTION_ID: call.request.id}}
        call.notify(m.notification("notifications/subscriptions/acknowledged", {"notifications": honoured, **meta}))
        key = id(call)
        self._listens[key] = honoured, lambda method, params: call.notify(m.notification(method, {**params, **meta}))
        try:
            yield None
        finally:
            del self._listens[key]
        return meta

    # Tools

    def _tools_call(self, call: _Call) -> dict[str, Any] | Steps:
        name, given = call.params["name"], call.params.get("arguments", {})
        if name == "echo":
            return _text(given["text"])
        if name == "add":
            total = given["a"] + given["b"]
            return _text(str(total)) | {"structuredContent": {"sum": total}}
        if name == "sleep":
            return self._sleep(call, float(given["seconds"]), int(given.get("steps", 1)))
        if name == "fail":
            return _text(given.get("message", "failed as asked")) | {"isError": True}
        if name == "log":
            call.log(given.get("level", "info"), given["text"])
            return _text("logged")
        if name == "toggle":
            self._has_extra = not self._has_extra
            self._changed("toolsListChanged")
            return _text("extra is there" if self._has_extra else "extra is gone")
        if name == "touch":
            self._touched += 1
            self._changed("", GREETING)
            return _text("touched")
        if name == "extra" and self._has_extra:
            return _text("extra")
        raise BridgeError("invalid_params", f"no tool {name}")

    def _sleep(self, call: _Call, seconds: float, steps: int) -> Steps:
        seconds, steps = max(0.0, min(seconds, MAX_SLEEP)), max(1, min(steps, 1000))
        for step in range(1, steps + 1):
            yield seconds / steps
            call.progress(step, steps)
        return _text(f"slept {seconds:g} s")


@dataclass(eq=False)
class _Call:
    """One request while it is worked on."""

    request: Request
    params: dict[str, Any]
    session: Session
    notify: Notify
    is_modern: bool

    def progress(self, done: int, total: int) -> None:
        token = self.request.meta.get(PROGRESS)
        if token is not None:
            params = {"progressToken": token, "progress": done, "total": total}
            self.notify(m.notification("notifications/progress", params))

    def log(self, level: str, text: str) -> None:
        raw = self.request.meta.get(LOG_LEVEL)
        wanted = self.session.log_level if not self.is_modern else None if raw is None else m.loads(raw)
        if wanted is not None and LOG_LEVELS.index(level) >= LOG_LEVELS.index(wanted):
            self.notify(m.notification("notifications/message", {"level": level, "logger": "demo", "data": text}))


def _text(text: str) -> dict[str, Any]:
    return {"content": [{"type": "text", "text": text}]}
