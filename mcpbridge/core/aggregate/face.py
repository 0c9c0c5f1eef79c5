"""Face: what one server and an endpoint's clients say to each other, with the names that the endpoint uses.

    towards clients   task ids become `server:id`, a resource URI that two servers have becomes its alias
    towards servers   task ids become their own again

Only the members named here are touched, and only when they change; every other byte stays.

Source: mcp-eras sections 3 (tasks) and 4; MCP 2025-11-25 tasks; extension io.modelcontextprotocol/tasks (SEP-2663).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from msgspec import Raw

from mcpbridge.core.aggregate.names import expose_task, task_owner
from mcpbridge.core.aggregate.resources import Owners
from mcpbridge.core.exchange import Reply
from mcpbridge.core.server import Server
from mcpbridge.errors import BridgeError
from mcpbridge.wire import message as m
from mcpbridge.wire.level import items, members, text, with_member
from mcpbridge.wire.message import Members, Notification, Request, Response
from mcpbridge.wire.spec import RELATED_TASK

Change = Callable[[Raw], Raw]

_WITH_CONTENT = frozenset({"tools/call", "prompts/get", "resources/read", "tasks/get", "tasks/result"})
_TELL_TASK = frozenset({"tasks/get", "tasks/cancel"})
_TASK_NEWS = frozenset({"notifications/tasks", "notifications/tasks/status"})
_TASK_ID = b'"taskId"'


class Face:
    """The endpoint's names of what its servers have. ``owners`` knows the resources."""

    def __init__(self, owners: Owners) -> None:
        self._owners = owners

    def request(self, server: Server, request: Request) -> Request:
        """A client's request as the server knows it. Its name or URI is whoever's who routes it."""
        changes: dict[str, Change] = {"taskId": _own_task(server)} if request.method.startswith("tasks/") else {}
        if RELATED_TASK in request.meta:
            changes["_meta"] = _related(_own_task(server))
        params = _changed(request.params, changes)
        return request if params is None else request.with_params(params)

    def response(self, server: Server, request: Request, response: Response) -> Response:
        """A server's answer as clients see it."""
        if response.result is None or request.method not in _WITH_CONTENT | _TELL_TASK:
            return response
        changes: dict[str, Change] = {}
        if self._owners.has_aliases(server.name):
            changes |= self._content(server)
        if _TASK_ID in bytes(response.result):
            shown = _shown_task(server)
            changes["_meta"] = _related(shown)
            if request.param("task") is not None:  # 2025-11-25: the client asked for a task
                changes["task"] = lambda raw: edited(raw, {"taskId": shown})
            if request.method in _TELL_TASK or _is_task(response.result):
                changes["taskId"] = shown
        if not changes:
            return response
        result = edited(response.result, changes)
        return response if result is response.result else response.with_result(bytes(result))

    def notification(self, server: Server, notification: Notification) -> Notification:
        """What a server says on its own, or during a call, as clients see it."""
        changes: dict[str, Change] = {}
        if notification.method == "notifications/resources/updated" and self._owners.has_aliases(server.name):
            changes["uri"] = self._uri(server)
        elif notification.method in _TASK_NEWS:
            changes["taskId"] = _shown_task(server)
        if RELATED_TASK in notification.meta:
            changes["_meta"] = _related(_shown_task(server))
        params = _changed(notification.params, changes)
        return notification if params is None else notification.with_params(params)

    def question(self, server: Server, request: Request) -> Request:
        """A server's question as clients see it; one about the client's own task is about that."""
        if RELATED_TASK not in request.meta or request.method.startswith("tasks/"):
            return request
        params = _changed(request.params, {"_meta": _related(_shown_task(server))})
        return request if params is None else request.with_params(params)

    def answer(self, server: Server, response: Response) -> Response:
        """A client's answer to such a question as the server knows it."""
        if response.result is None or RELATED_TASK.encode() not in bytes(response.result):
            return response
        result = edited(response.result, {"_meta": _related(_own_task(server))})
        return response if result is response.result else response.with_result(bytes(result))

    def reply(self, server: Server, reply: Reply) -> Reply:
        """The way back of one call to this server."""
        return _FaceReply(self, server, reply)

    def _uri(self, server: Server) -> Change:
        return _as_text(lambda uri: self._owners.shown(server.name, uri))

    def _content(self, server: Server) -> dict[str, Change]:
        """Where results hold URIs of resources: links, embedded resources, what was read, messages of a prompt."""
        uri = self._uri(server)

        def block(raw: Raw) -> Raw:
            return edited(raw, {"uri": uri, "resource": lambda inner: edited(inner, {"uri": uri})})

        def blocks(raw: Raw) -> Raw:
            return each(raw, block) if bytes(raw).startswith(b"[") else block(raw)

        changes: dict[str, Change] = {
            "content": blocks,
            "contents": blocks,
            "messages": lambda raw: each(raw, lambda message: edited(message, {"content": blocks})),
        }
        return {**changes, "result": lambda raw: edited(raw, changes)}  # of a finished task


class _FaceReply:
    """A client's way back, with the names that its endpoint uses."""

    __slots__ = ("_face", "_reply", "_server", "can_ask")

    def __init__(self, face: Face, server: Server, reply: Reply) -> None:
        self._face = face
        self._server = server
        self._reply = reply
        self.can_ask = reply.can_ask

    def notify(self, notification: Notification) -> None:
        self._reply.notify(self._face.notification(self._server, notification))

    async def ask(self, request: Request, asker: Reply | None = None) -> Response:
        return self._face.answer(self._server, await self._reply.ask(self._face.question(self._server, request), asker))


def edited(raw: Raw, changes: Mapping[str, Change]) -> Raw:
    """An object with some of its members changed; ``raw`` itself when nothing does, or when it is no proper object."""
    try:
        said = members(raw)
    except BridgeError:
        return raw
    for name, change in changes.items():
        if name in said and (value := change(said[name])) is not said[name]:
            raw = with_member(raw, said, name, bytes(value))
            said = {**said, name: value}
    return raw


def each(raw: Raw, change: Change) -> Raw:
    """An array with some of its elements changed; ``raw`` itself when none does, or when it is no array."""
    try:
        found = items(raw)
    except BridgeError:
        return raw
    whole, at, parts = bytes(raw), 0, []
    for item in found:
        start = whole.index(item, at)  # only white space and commas stand between two elements
        parts += [whole[at:start], bytes(change(item))]
        at = start + len(item)
    shown = b"".join(parts) + whole[at:]
    return raw if shown == whole else Raw(shown)


def _changed(params: Members | None, changes: Mapping[str, Change]) -> Members | None:
    """The params with these members changed; None when nothing does."""
    if params is None or not changes:
        return None
    new = {name: changes[name](raw) if name in changes else raw for name, raw in params.items()}
    return new if any(new[name] is not params[name] for name in changes if name in params) else None


def _is_task(result: Raw) -> bool:
    """Whether a modern server answers with a task instead of the result."""
    try:
        return text(members(result).get("resultType")) == "task"
    except BridgeError:
        return False


def _as_text(change: Callable[[str], str]) -> Change:
    def run(raw: Raw) -> Raw:
        said = text(raw)
        shown = said if said is None else change(said)
        return raw if shown == said else Raw(m.dumps(shown))

    return run


def _related(task: Change) -> Change:
    return lambda meta: edited(meta, {RELATED_TASK: lambda raw: edited(raw, {"taskId": task})})


def _shown_task(server: Server) -> Change:
    return _as_text(lambda own: expose_task(server.name, own))


def _own_task(server: Server) -> Change:
    """An id that is not the endpoint's is the client's own, of a task that the server gave it."""

    def own(exposed: str) -> str:
        found = task_owner(exposed)
        return found[1] if found is not None and found[0] == server.name else exposed

    return _as_text(own)
