"""Task ids as a client knows them, wherever a message holds one. A task id is not a password: who holds it must also own it.

    TaskIds        the places: requests, results, lists, notifications, listens, questions and their answers
    SealedTasks    ids of one caller: sealed with principal, server and backend, they open for nobody else

Ids are sealed where callers share a conversation and sign in, and where a server has replicas: then the id also says which one
runs the task. Else they pass as they are. A sealed id of one task is always the same text, because clients compare them.

A legacy conversation that principals share (``isolation: shared``) cannot say whose task is meant when its server speaks of
one outside a call, nor whose ``tasks/list`` names: there is no list, and such news are dropped, as MCP 2025-11-25 allows.

Source: mcp-eras sections 3, 4 and 6 (tasks, handles); MCP 2025-11-25 tasks; extension io.modelcontextprotocol/tasks (SEP-2663).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Final

import msgspec
from msgspec import Raw

from mcpbridge.core.exchange import Exchange, Reply
from mcpbridge.core.state import caller_key, principal_hash, tells_apart
from mcpbridge.errors import BridgeError
from mcpbridge.seal import Sealer, SealError
from mcpbridge.wire import message as m
from mcpbridge.wire.edit import Change, as_text, changed, each, edited
from mcpbridge.wire.level import items, members, text
from mcpbridge.wire.message import Members, Notification, Request, Response
from mcpbridge.wire.spec import RELATED_TASK

if TYPE_CHECKING:
    from mcpbridge.core.server import Backend

PURPOSE: Final = "task"
_TASKS = "tasks/"
_LISTEN = "subscriptions/listen"
_TELL_TASK = frozenset({"tasks/get", "tasks/cancel"})
_TASK_NEWS = frozenset({"notifications/tasks", "notifications/tasks/status"})
_ACKNOWLEDGED = "notifications/subscriptions/acknowledged"
_TASK_ID = b'"taskId"'
_RELATED = RELATED_TASK.encode()


class TaskIds(ABC):
    """Where one server's task ids stand in what it and a client say; a subclass says how they look. Every other byte stays."""

    __slots__ = ()

    @abstractmethod
    def shown(self, own: str) -> str:
        """The server's own id as its client knows it."""

    @abstractmethod
    def own(self, shown: str) -> str | None:
        """The server's own id of what its client knows; None when it is not one of this server's for this client."""

    def request(self, request: Request) -> Request:
        """A client's request as the server knows it. Raises ``unknown_task()`` when it is about a task that is not its own."""
        changes: dict[str, Change] = {}
        if request.method.startswith(_TASKS):
            changes["taskId"] = self._addressed
        elif request.method == _LISTEN:
            changes["notifications"] = self._wanted
        if RELATED_TASK in request.meta:
            changes["_meta"] = self._own_related
        params = changed(request.params, changes)
        return request if params is None else request.with_params(params)

    def response(self, request: Request, response: Response) -> Response:
        """A server's answer as its client sees it. Costs one search when it holds no task id."""
        if response.result is None or _TASK_ID not in (response.raw or bytes(response.result)):
            return response
        shown = as_text(self.shown)
        changes: dict[str, Change] = {"_meta": self._shown_related}
        if request.param("task") is not None:  # 2025-11-25: the client asked for a task
            changes["task"] = lambda raw: edited(raw, {"taskId": shown})
        if request.method == "tasks/list":
            changes["tasks"] = lambda raw: each(raw, lambda task: edited(task, {"taskId": shown}))
        elif request.method in _TELL_TASK or _is_task(response.result):
            changes["taskId"] = shown
        result = edited(response.result, changes)
        return response if result is response.result else response.with_result(bytes(result))

    def notification(self, notification: Notification) -> Notification:
        """What a server says on its own, or during a call, as its client sees it."""
        changes: dict[str, Change] = {}
        if notification.method in _TASK_NEWS:
            changes["taskId"] = as_text(self.shown)
        elif notification.method == _ACKNOWLEDGED:
            changes["notifications"] = lambda raw: edited(raw, {"taskIds": lambda ids: each(ids, as_text(self.shown))})
        if RELATED_TASK in notification.meta:
            changes["_meta"] = self._shown_related
        params = changed(notification.params, changes)
        return notification if params is None else notification.with_params(params)

    def question(self, request: Request) -> Request:
        """A server's question as its client sees it; one about the client's own task is about that."""
        if RELATED_TASK not in request.meta or request.method.startswith(_TASKS):
            return request
        params = changed(request.params, {"_meta": self._shown_related})
        return request if params is None else request.with_params(params)

    def answer(self, response: Response) -> Response:
        """A client's answer to such a question as the server knows it."""
        if response.result is None or _RELATED not in bytes(response.result):
            return response
        result = edited(response.result, {"_meta": self._own_related})
        return response if result is response.result else response.with_result(bytes(result))

    def reply(self, reply: Reply) -> Reply:
        """The way back of one call."""
        return _TaskReply(self, reply)

    def _shown_related(self, meta: Raw) -> Raw:
        return edited(meta, {RELATED_TASK: lambda raw: edited(raw, {"taskId": as_text(self.shown)})})

    def _own_related(self, meta: Raw) -> Raw:
        """An id that is not one of ours is the client's own, of a task that its server gave it."""
        own = as_text(lambda shown: shown if (found := self.own(shown)) is None else found)
        return edited(meta, {RELATED_TASK: lambda raw: edited(raw, {"taskId": own})})

    def _addressed(self, raw: Raw) -> Raw:
        own = self.own(text(raw) or "")
        if own is None:
            raise unknown_task()
        return Raw(m.dumps(own))

    def _wanted(self, wanted: Raw) -> Raw:
        """A listen's filter with the tasks that are its client's; the others are not acknowledged."""
        said = members(wanted)
        if "taskIds" not in said:
            return wanted
        ids = [own for raw in items(said["taskIds"]) if (own := self.own(text(raw) or "")) is not None]
        kept = {name: raw for name, raw in said.items() if name != "taskIds"}
        return Raw(m.join({**kept, "taskIds": Raw(m.dumps(ids))} if ids else kept))


class _TaskReply:
    """A client's way back, with the task ids that it knows."""

    __slots__ = ("_ids", "_reply", "can_ask")

    def __init__(self, ids: TaskIds, reply: Reply) -> None:
        self._ids = ids
        self._reply = reply
        self.can_ask = reply.can_ask

    def notify(self, notification: Notification) -> None:
        self._reply.notify(self._ids.notification(notification))

    async def ask(self, request: Request, asker: Reply | None = None) -> Response:
        return self._ids.answer(await self._reply.ask(self._ids.question(request), asker))


class _Bound(msgspec.Struct, array_like=True, frozen=True):
    """What is inside a sealed id; ``principal`` is a hash."""

    principal: bytes
    server: str
    backend: str
    own: str


class SealedTasks(TaskIds):
    """The tasks of one principal on one backend. ``key``: its ``Principal.key``."""

    __slots__ = ("_backend", "_key", "_sealer", "_server")

    def __init__(self, sealer: Sealer, key: str, backend: Backend) -> None:
        self._sealer = sealer
        self._key = key  # hashed when an id comes by: most calls have none
        self._server = backend.server.name
        self._backend = backend.name

    def request(self, request: Request) -> Request:
        if request.method.startswith(_TASKS) and request.param("taskId") is None:
            raise unknown_task()  # whatever it asks of all tasks is about others' as well
        return super().request(request)

    def shown(self, own: str) -> str:
        bound = _Bound(principal_hash(self._key), self._server, self._backend, own)
        return self._sealer.name(PURPOSE, msgspec.msgpack.encode(bound))

    def own(self, shown: str) -> str | None:
        bound = _opened(self._sealer, shown)
        where = (principal_hash(self._key), self._server, self._backend)
        return bound.own if bound is not None and (bound.principal, bound.server, bound.backend) == where else None


class TaskSeals:
    """Whose task ids are sealed, and where a sealed one belongs."""

    def __init__(self, sealer: Sealer) -> None:
        self._sealer = sealer

    def of_call(self, x: Exchange, backend: Backend) -> SealedTasks | None:
        """The ids of a modern caller: all share one conversation. None: they pass as they are."""
        return SealedTasks(self._sealer, caller_key(x), backend) if tells_apart(x, backend) else None

    def of_principal(self, key: str, backend: Backend) -> SealedTasks:
        """The ids of whoever has this ``Principal.key``."""
        return SealedTasks(self._sealer, key, backend)

    def home(self, x: Exchange, server: str) -> str | None:
        """The backend of ``server`` whose tasks a modern call is about: of the first one of a listen. None: any will do.

        Raises ``unknown_task()`` for a call about a task that is not its caller's.
        """
        if is_about_task(x):
            home = self._home(x, server, x.request.param("taskId"))
            if home is None:
                raise unknown_task()
            return home
        if not isinstance(x.message, Request) or x.message.method != _LISTEN:
            return None
        ids = items(_members(x.message.param("notifications")).get("taskIds"))
        return next((home for id in ids if (home := self._home(x, server, id)) is not None), None)

    def _home(self, x: Exchange, server: str, id: Raw | None) -> str | None:
        bound = _opened(self._sealer, text(id) or "")
        is_callers = bound is not None and (bound.principal, bound.server) == (principal_hash(caller_key(x)), server)
        return bound.backend if bound is not None and is_callers else None


def is_about_task(x: Exchange) -> bool:
    """Whether this is a modern call about one task, which only the backend that runs it can answer."""
    return x.caller.era == "modern" and isinstance(x.message, Request) and x.message.method.startswith(_TASKS)


def is_task_news(notification: Notification) -> bool:
    """Whether a server's notification is about a task."""
    return notification.method in _TASK_NEWS or RELATED_TASK in notification.meta


def unknown_task() -> BridgeError:
    """What a client hears of every task that is not (or no longer) its own: the same words whatever the cause."""
    return BridgeError("invalid_params", "unknown task", sent=False)


def without_list(hello: Response) -> Response:
    """An InitializeResult of a server whose tasks cannot be listed for one client alone."""

    def unlisted(tasks: Raw) -> Raw:
        said = _members(tasks)
        return Raw(m.join({name: raw for name, raw in said.items() if name != "list"})) if "list" in said else tasks

    if hello.result is None:
        return hello
    result = edited(hello.result, {"capabilities": lambda raw: edited(raw, {"tasks": unlisted})})
    return hello if result is hello.result else hello.with_result(bytes(result))


def _opened(sealer: Sealer, shown: str) -> _Bound | None:
    try:
        return msgspec.msgpack.decode(sealer.open(PURPOSE, shown), type=_Bound)
    except (SealError, msgspec.MsgspecError):
        return None


def _is_task(result: Raw) -> bool:
    """Whether a modern server answers with a task instead of the result."""
    return text(_members(result).get("resultType")) == "task"


def _members(raw: Raw | None) -> Members:
    """The members of what a peer said; none when that is no proper object."""
    try:
        return members(raw)
    except BridgeError:
        return {}
