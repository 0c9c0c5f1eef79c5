"""One `subscriptions/listen` of a modern client over several servers: one acknowledgement, then everything, tagged once.

    client   listen L {tools, uri x, uri y, task b:1}          ack L {tools, x, b:1}      changes, each tagged L
    server a        listen {tools, x, y}        ack {tools, x} ^    server b   listen {tools, task 1}   ack {task 1} ^

Each server gets what it owns of the filter; a URI of nobody goes to all. What changes before the acknowledgement waits for it.
A server that comes later, or comes back, is announced: whatever its client listens to may have changed. Servers whose lists
change one after the other are told of together (``core/damper``).

Source: mcp-eras sections 3 (subscriptions) and 4 (listen merge); extension io.modelcontextprotocol/tasks (taskIds).
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import Any, NamedTuple

from msgspec import Raw

from mcpbridge.core.aggregate.face import Face
from mcpbridge.core.aggregate.lists import Patience
from mcpbridge.core.aggregate.names import task_owner
from mcpbridge.core.aggregate.resources import Owners
from mcpbridge.core.damper import Damper
from mcpbridge.core.exchange import Exchange, Handler, Reply
from mcpbridge.core.server import Server
from mcpbridge.errors import BridgeError
from mcpbridge.observe.log import log
from mcpbridge.wire import message as m
from mcpbridge.wire.envelope import members, text
from mcpbridge.wire.headers import plain
from mcpbridge.wire.message import Members, Notification, Request, Response
from mcpbridge.wire.spec import LISTEN_FLAGS, SUBSCRIPTION_ID

_log = log("aggregate")
ACKNOWLEDGE = 3.0  # seconds the servers have to acknowledge; who is later is announced when it comes
MAX_SUBSCRIPTIONS = 1000  # resource URIs, and tasks, of one listen
MAX_EARLY = 1000  # notifications of one server that wait for the acknowledgement
RECONNECT = 1.0
MAX_RECONNECT = 30.0
_URIS, _TASKS = "resourceSubscriptions", "taskIds"
_TRUE = Raw(b"true")

Offered = Callable[[Exchange], dict[str, Any]]
"""The capabilities of the endpoint at present."""


class Listening:
    """One listen of ``x``; ``run`` holds it open until its client ends it."""

    def __init__(self, x: Exchange, one: Handler, owners: Owners, face: Face, offered: Offered, patience: Patience) -> None:
        self._x = x
        self._one = one
        self._owners = owners
        self._face = face
        self._offered = offered
        self._patience = patience
        self._wanted = members(x.request.param("notifications"))
        self._uris, self._tasks = _texts(self._wanted, _URIS), _texts(self._wanted, _TASKS)
        self._damper = Damper(x.reply.notify)
        self._group = asyncio.TaskGroup()
        self._ears: dict[Server, tuple[_Ear, asyncio.Task[None]]] = {}
        self._is_acknowledged = False
        self._is_over = False

    async def run(self, servers: list[Server]) -> Response:
        """Raises nothing but CancelledError once acknowledged."""
        with contextlib.closing(self._damper):
            async with self._group:
                try:
                    for server in servers:
                        self._add(server)
                    await self._acknowledge()
                    await asyncio.Event().wait()  # until the client ends it, whoever of the servers is there
                finally:
                    self._is_over = True
        return m.result(self._x.request.id, {"resultType": "complete", "_meta": {SUBSCRIPTION_ID: self._x.request.id}})

    async def _acknowledge(self) -> None:
        """Tell the client what its servers honour, as far as they say so in time."""
        x, patience = self._x, self._patience
        waited = [ear for ear, _ in self._ears.values() if patience.has_for(ear.server)]
        if waited:
            await asyncio.wait([ear.acknowledged for ear in waited], timeout=ACKNOWLEDGE)
        for ear in waited:
            if not ear.acknowledged.done():
                patience.spend(ear.server)
        said = [ear.acknowledged.result() for ear, _ in self._ears.values() if ear.acknowledged.done()]
        honoured = _union(self._wanted, said, self._offered(x))
        note = m.notification("notifications/subscriptions/acknowledged", {"notifications": honoured})
        x.reply.notify(note.with_meta(_tag(x)))
        self._is_acknowledged = True
        for ear, _ in self._ears.values():
            ear.open()

    def change(self, servers: list[Server]) -> None:
        """The endpoint has other servers now: listen to the new ones, no more to those that went, and tell the client."""
        gone = self._ears.keys() - set(servers)
        if self._is_over or not self._ears.keys() ^ set(servers):
            return
        for server in gone:
            ear, task = self._ears.pop(server)
            ear.end()
            task.cancel("the server is gone")
        for server in servers:
            if server not in self._ears:
                ear = self._add(server)
                if self._is_acknowledged:
                    ear.open()
        self.tell_changed()

    def tell_changed(self) -> None:
        """Tell the client that every list it listens to may be another one."""
        if self._is_acknowledged and not self._is_over:
            for flag, method in LISTEN_FLAGS.items():
                if self._wanted.get(flag) == _TRUE:
                    self._damper.notify(m.notification(method).with_meta(_tag(self._x)))

    def _add(self, server: Server) -> _Ear:
        part = _part(server, self._wanted, self._uris, self._tasks, self._owners)
        ear = _Ear(self._x, server, part, self._one, self._face, self._damper)
        self._ears[server] = (ear, self._group.create_task(ear.run()))
        return ear


def _texts(wanted: Members, name: str) -> list[str]:
    said = plain(wanted[name]) if name in wanted else []
    if not isinstance(said, list) or len(said) > MAX_SUBSCRIPTIONS or not all(isinstance(one, str) for one in said):
        raise BridgeError("invalid_params", f"{name}: at most {MAX_SUBSCRIPTIONS} texts", sent=False)
    return list(dict.fromkeys(said))


class _Part(NamedTuple):
    """What one server is asked to tell: the filter it gets, and its own URIs and task ids -> the client's."""

    filter: Members
    uris: dict[str, str]
    tasks: dict[str, str]

    def exposed(self, said: Members) -> Members:
        """What the server honours of it, in the client's words."""
        shown = dict(said)
        for name, own in ((_URIS, self.uris), (_TASKS, self.tasks)):
            listed = plain(shown.pop(name, None))
            if isinstance(listed, list):
                shown[name] = Raw(m.dumps([own[text] for text in listed if isinstance(text, str) and text in own]))
        return shown


def _part(server: Server, wanted: Members, uris: list[str], tasks: list[str], owners: Owners) -> _Part:
    """The part of one server; members that nobody here knows go to every server."""
    flags = {name: raw for name, raw in wanted.items() if name not in (_URIS, _TASKS)}
    own_uris = {own: uri for uri in uris for owner, own in [owners.of(uri)] if owner in (None, server.name)}
    own_tasks = {found[1]: task for task in tasks if (found := task_owner(task)) is not None and found[0] == server.name}
    named = {name: Raw(m.dumps(list(own))) for name, own in ((_URIS, own_uris), (_TASKS, own_tasks)) if own}
    return _Part(flags | named, own_uris, own_tasks)


def _union(wanted: Members, said: list[Members], offered: dict[str, Any]) -> dict[str, Any]:
    """What at least one server honours, in the client's own words and order.

    Changes of a list that the endpoint offers always are: the bridge itself tells when a server comes or goes.
    """
    honoured: dict[str, Any] = {}
    for name, raw in wanted.items():
        answers = [answer[name] for answer in said if name in answer]
        if name in (_URIS, _TASKS):
            known = {text for answer in answers for text in plain(answer)}
            listed = [text for text in dict.fromkeys(plain(raw)) if text in known]
            if listed:
                honoured[name] = listed
        elif name in LISTEN_FLAGS and raw == _TRUE:
            if _TRUE in answers or name.removesuffix("ListChanged") in offered:
                honoured[name] = True
        elif answers:
            honoured[name] = answers[0]
    return honoured


def _tag(x: Exchange) -> Members:
    return {SUBSCRIPTION_ID: Raw(m.dumps(x.request.id))}


class _Ear:
    """The part of a merged listen that one server serves; its Reply. Comes back when the server does."""

    can_ask = False

    def __init__(self, x: Exchange, server: Server, part: _Part, one: Handler, face: Face, client: Damper) -> None:
        self.server = server
        self._x = x
        self._part = part
        self._one = one
        self._face = face
        self._client = client
        self._early: dict[bytes, Notification] | None = {}  # before the client has its acknowledgement: the newest of each
        self._is_heard = False  # the server has acknowledged it this time
        self.acknowledged: asyncio.Future[Members] = asyncio.get_running_loop().create_future()

    async def run(self) -> None:
        if not self._part.filter:
            self._honour({})
            return
        wanted = Raw(m.join(self._part.filter))
        request = self._x.request.with_params({**(self._x.request.params or {}), "notifications": wanted})
        pause = RECONNECT
        while True:
            self._is_heard = False
            try:
                response = await self._one(self._x.derive(request, self.server, self))
                if response is not None and response.error is not None:
                    self._honour({})
                    return  # this server has no subscriptions
            except BridgeError as error:
                _log.debug("listen stream lost", server=self.server.name, reason=str(error))
                self._honour({})
            pause = RECONNECT if self._is_heard else pause
            await asyncio.sleep(pause)
            pause = min(pause * 2, MAX_RECONNECT)

    def notify(self, notification: Notification) -> None:
        if notification.method == "notifications/subscriptions/acknowledged":
            self._is_heard = True
            if self._early is None:
                self._changed()
            self._honour(self._part.exposed(_said(notification.param("notifications"))))
            return
        own = text(notification.param("uri"))
        if own in self._part.uris:  # as the client asked for it, whatever the lists call it meanwhile
            shown = notification.with_params({**(notification.params or {}), "uri": Raw(m.dumps(self._part.uris[own]))})
        else:
            shown = self._face.notification(self.server, notification)
        if self._early is None:
            self._client.notify(shown)
        elif len(self._early) < MAX_EARLY:
            what = notification.param("uri") or notification.param("taskId") or b""
            self._early[notification.method.encode() + bytes(what)] = shown

    async def ask(self, request: Request, asker: Reply | None = None) -> Response:
        raise LookupError("a listen stream is not asked")

    def end(self) -> None:
        """Its server is gone: nobody waits for it."""
        self._honour({})

    def open(self) -> None:
        """The client has its acknowledgement: it may hear."""
        early, self._early = self._early or {}, None
        for notification in early.values():
            self._client.notify(notification)

    def _honour(self, said: Members) -> None:
        if not self.acknowledged.done():
            self.acknowledged.set_result(said)

    def _changed(self) -> None:
        """It was away: whatever its client listens to may have changed."""
        for flag, method in LISTEN_FLAGS.items():
            if self._part.filter.get(flag) == _TRUE:
                self._client.notify(m.notification(method).with_meta(_tag(self._x)))
        for uri in self._part.uris.values():
            self._client.notify(m.notification("notifications/resources/updated", {"uri": uri}).with_meta(_tag(self._x)))


def _said(raw: Raw | None) -> Members:
    """The members of what a server said; none when that is no proper object."""
    try:
        return members(raw)
    except BridgeError:
        return {}
