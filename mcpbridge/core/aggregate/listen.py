"""One `subscriptions/listen` of a modern client over several servers: one acknowledgement, then everything, tagged once.

Source: mcp-eras sections 3 (subscriptions) and 4 (listen merge).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from msgspec import Raw

from mcpbridge.core.exchange import Exchange, Handler
from mcpbridge.core.server import Server
from mcpbridge.errors import BridgeError
from mcpbridge.observe.log import log
from mcpbridge.wire import message as m
from mcpbridge.wire.envelope import members
from mcpbridge.wire.message import Notification, Request, Response
from mcpbridge.wire.spec import SUBSCRIPTION_ID

_log = log("aggregate")
ACKNOWLEDGE = 3.0  # seconds the servers have to acknowledge; who is later joins silently
RECONNECT = 1.0
MAX_RECONNECT = 30.0
_FLAGS = ("toolsListChanged", "promptsListChanged", "resourcesListChanged")

Outgoing = Callable[[Server, Notification], Notification | None]
OwnerOf = Callable[[str], tuple[str | None, str]]


async def listen(x: Exchange, servers: list[Server], one: Handler, owner_of: OwnerOf, outgoing: Outgoing) -> Response:
    """Hold ``x`` open until its client ends it. Raises nothing but CancelledError once acknowledged."""
    wanted = members(x.request.param("notifications") or b"{}")
    flags = {flag: True for flag in _FLAGS if wanted.get(flag) == Raw(b"true")}
    uris = m.loads(wanted["resourceSubscriptions"]) if "resourceSubscriptions" in wanted else []
    if not isinstance(uris, list) or not all(isinstance(uri, str) for uri in uris):
        raise BridgeError("invalid_params", "resourceSubscriptions is not a list of URIs", sent=False)
    ears = [_Ear(x, server, flags, uris, one, owner_of, outgoing) for server in servers]
    async with asyncio.TaskGroup() as group:
        for ear in ears:
            group.create_task(ear.run())
        if ears:
            await asyncio.wait([ear.acknowledged for ear in ears], timeout=ACKNOWLEDGE)
        # List changes are always honoured: the bridge itself tells when a server comes or goes.
        honoured: dict[str, Any] = dict(flags)
        subscribed = {uri for ear in ears if ear.acknowledged.done() for uri in ear.acknowledged.result()}
        if subscribed:
            honoured["resourceSubscriptions"] = [uri for uri in uris if uri in subscribed]
        note = m.notification("notifications/subscriptions/acknowledged", {"notifications": honoured})
        x.reply.notify(note.with_meta({SUBSCRIPTION_ID: Raw(m.dumps(x.request.id))}))
        for ear in ears:
            ear.is_open = True
        await asyncio.Event().wait()  # until the client ends it, whoever of the servers is there
    return m.result(x.request.id, {"resultType": "complete", "_meta": {SUBSCRIPTION_ID: x.request.id}})


class _Ear:
    """The part of a merged listen that one server serves; its Reply. Comes back when the server does."""

    can_ask = False

    def __init__(
        self,
        x: Exchange,
        server: Server,
        flags: dict[str, bool],
        uris: list[str],
        one: Handler,
        owner_of: OwnerOf,
        outgoing: Outgoing,
    ) -> None:
        self._x = x
        self._server = server
        self._flags = flags
        self._one = one
        self._outgoing = outgoing
        self._uris = {own: uri for uri in uris for owner, own in [owner_of(uri)] if owner in (None, server.name)}
        self._again = False
        self.is_open = False  # the client has its acknowledgement
        self.acknowledged: asyncio.Future[list[str]] = asyncio.get_running_loop().create_future()

    async def run(self) -> None:
        wanted: dict[str, Any] = dict(self._flags)
        if self._uris:
            wanted["resourceSubscriptions"] = list(self._uris)
        request = self._x.request.with_params({**(self._x.request.params or {}), "notifications": Raw(m.dumps(wanted))})
        pause = RECONNECT
        while True:
            try:
                response = await self._one(self._x.derive(request, self._server, self))
                if response is not None and response.error is not None:
                    self._honour([])
                    return  # this server has no subscriptions
            except BridgeError as error:
                _log.debug("listen stream lost", server=self._server.name, reason=str(error))
                self._honour([])
            await asyncio.sleep(pause)
            pause = min(pause * 2, MAX_RECONNECT)

    def notify(self, notification: Notification) -> None:
        if notification.method == "notifications/subscriptions/acknowledged":
            honoured = members(notification.param("notifications") or b"{}").get("resourceSubscriptions")
            own = m.loads(honoured) if honoured is not None else []
            self._honour([self._uris[uri] for uri in own if uri in self._uris])
            if self._again:
                self._changed()
            self._again = True
            return
        shown = self._outgoing(self._server, notification)
        if shown is not None and self.is_open:
            self._x.reply.notify(shown)

    async def ask(self, request: Request) -> Response:
        raise LookupError("a listen stream is not asked")

    def _honour(self, uris: list[str]) -> None:
        if not self.acknowledged.done():
            self.acknowledged.set_result(uris)

    def _changed(self) -> None:
        """It was away: whatever its client listens to may have changed."""
        tag = {SUBSCRIPTION_ID: Raw(m.dumps(self._x.request.id))}
        for flag in self._flags:
            kind = flag.removesuffix("ListChanged")
            self._x.reply.notify(m.notification(f"notifications/{kind}/list_changed").with_meta(tag))
        for uri in self._uris.values():
            self._x.reply.notify(m.notification("notifications/resources/updated", {"uri": uri}).with_meta(tag))
