"""A modern client with a legacy server: every call by itself over a backend session that stands for its principal.

A call whose client can be asked may be parked (``parking``); where nobody can be asked, a question never hangs: it is refused,
and a call that the transport names as the asking one ends with -32021.

Source: mcp-eras section 3, column "modern C x legacy S".
"""

from __future__ import annotations

import asyncio
from typing import Any

from msgspec import Raw

from mcpbridge.core.conversation import BackendSession, Refused
from mcpbridge.core.exchange import Exchange, NoReply
from mcpbridge.core.state import ROUNDS, continues
from mcpbridge.era.parking import Parking
from mcpbridge.era.probe import is_modern_only
from mcpbridge.era.questions import URL_NEEDED, may_be_asked, url_elicitations
from mcpbridge.era.standing import (
    Way,
    initialize_of,
    key_of,
    patience,
    pool_of,
    refused_to_start,
    server_info,
    set_level,
    shared_session,
    version_of,
)
from mcpbridge.era.translate import LEGACY_ONLY, TASKS, discover_result, to_legacy_request, to_modern_response, without_reserved
from mcpbridge.errors import BridgeError
from mcpbridge.wire import message as m
from mcpbridge.wire.envelope import members, text
from mcpbridge.wire.message import Notification, Request, Response
from mcpbridge.wire.spec import SUBSCRIPTION_ID

_NO_REPLY = NoReply()
_KINDS = {"toolsListChanged": "tools", "promptsListChanged": "prompts", "resourcesListChanged": "resources"}
SUBSCRIBE_WAIT = 10.0  # seconds a server has to accept one subscription
MAX_SUBSCRIPTIONS = 1000  # resource URIs of one listen
RECONNECT = 1.0
MAX_RECONNECT = 30.0


async def call(x: Exchange, parking: Parking) -> Response:
    """Answer ``x`` from its legacy backend. Raises BridgeError.

    Tasks of 2025-11-25 are not those of the extension of 2026-07-28; neither is advertised to the other side.
    """
    method = x.request.method
    if method in LEGACY_ONLY or method.startswith(TASKS):
        raise BridgeError("method_not_found", f"{method} does not exist in this protocol version", sent=False)
    try:
        if method == "server/discover":
            return await _discover(x)
        if method == "subscriptions/listen":
            return await _listen(x)
        if method in ROUNDS:
            if continues(x):
                return await parking.resume(x)
            if may_be_asked(x.view.capabilities):
                return await parking.begin(x)
        if x.view.log_level is not None:
            return await _with_logs(x, x.view.log_level)
        return await _plain(x, await shared_session(x))
    except Refused as refusal:
        if is_modern_only(refusal.response) and x.backend is not None:
            x.backend.speaks.clear()  # another server answers there now: the next call finds out
        raise refused_to_start(_server(x), refusal) from refusal


async def tell(x: Exchange, notification: Notification) -> None:
    """A vendor's notification of a modern client, on the conversation that its calls share. Raises BridgeError."""
    try:
        talk = await shared_session(x)
    except Refused as refusal:
        raise refused_to_start(_server(x), refusal) from refusal
    await talk.upstream.notify(without_reserved(notification))


async def _discover(x: Exchange) -> Response:
    talk = await shared_session(x)
    assert talk.hello is not None
    return m.result(x.request.id, discover_result(talk.hello))


async def _plain(x: Exchange, talk: BackendSession) -> Response:
    try:
        response = await _ask(x, talk)
    except BridgeError as error:
        if error.reason != "backend_session_lost":
            raise
        talk = await shared_session(x)  # the server forgot the session and did not run the call
        if x.view.log_level is not None:
            await set_level(talk, x.view.log_level)
        response = await _ask(x, talk)
    if x.request.method in ROUNDS and url_elicitations(response) is not None:
        raise BridgeError("missing_capability", "the server asks for a page to be visited", requiredCapabilities=URL_NEEDED)
    return to_modern_response(x.request.method, response, server_info(talk))


async def _ask(x: Exchange, talk: BackendSession) -> Response:
    way = Way(x, talk)
    if not talk.upstream.names_request:
        talk.callers.append(way)
    try:
        return await talk.call(to_legacy_request(x.request, version_of(talk)), way)
    except asyncio.CancelledError:
        failure = way.failure()
        if failure is None:
            raise
        raise failure from None
    finally:
        if way in talk.callers:
            talk.callers.remove(way)


async def _with_logs(x: Exchange, level: str) -> Response:
    """A call that wants log messages: the session's level is set first; only this client's calls may have logs meanwhile."""
    pool = pool_of(x)
    talk = await pool.lease_logs(key_of(x), initialize_of(x), x.caller.connection or x, patience(x))
    listener = _LogListener(x)
    talk.listeners.append(listener)
    try:
        await set_level(talk, level)
        return await _plain(x, talk)
    finally:
        if listener in talk.listeners:
            talk.listeners.remove(listener)
        pool.release_logs(talk)


async def _listen(x: Exchange) -> Response:
    """Hold the client's subscription: acknowledge what the server honours, then tag and pass on what it says.

    When the server is lost the client's stream stays; after the reconnect everything it listens to counts as changed.
    """
    wanted = members(x.request.param("notifications") or b"{}")
    acknowledged = False
    pause = RECONNECT
    while True:
        try:
            talk = await shared_session(x, pool_of(x).start_timeout)
            listener = _Listener(x, wanted)
            talk.users += 1
            talk.listeners.append(listener)
            try:
                await listener.subscribe(talk)
                if not acknowledged:
                    listener.acknowledge()
                    acknowledged = True
                else:
                    listener.everything_changed()
                pause = RECONNECT
                if not talk.is_closed:  # else it ended before it had our ear
                    await listener.lost.wait()
            finally:
                talk.users -= 1
                if listener in talk.listeners:
                    talk.listeners.remove(listener)
                await listener.unsubscribe(talk)
        except BridgeError:
            if not acknowledged:
                raise
        await asyncio.sleep(pause)
        pause = min(pause * 2, MAX_RECONNECT)


class _Listener:
    """One listen stream's ear on a backend session."""

    def __init__(self, x: Exchange, wanted: dict[str, Raw]) -> None:
        self._x = x
        self._wanted = wanted
        self._kinds: set[str] = set()
        self._uris: list[str] = []
        self._early: dict[str, Notification] | None = {}  # what changed before the client may hear of it, once each
        self.lost = asyncio.Event()

    async def subscribe(self, talk: BackendSession) -> None:
        """Find what the server honours; a resource counts only once it said so."""
        said = members(talk.hello.result) if talk.hello is not None and talk.hello.result is not None else {}
        capabilities: dict[str, Any] = m.loads(said["capabilities"]) if "capabilities" in said else {}
        for flag, kind in _KINDS.items():
            if self._wanted.get(flag) == Raw(b"true") and (capabilities.get(kind) or {}).get("listChanged"):
                self._kinds.add(kind)
        uris = m.loads(self._wanted["resourceSubscriptions"]) if "resourceSubscriptions" in self._wanted else []
        if not isinstance(uris, list) or len(uris) > MAX_SUBSCRIPTIONS or not all(isinstance(uri, str) for uri in uris):
            raise BridgeError("invalid_params", f"resourceSubscriptions: at most {MAX_SUBSCRIPTIONS} strings", sent=False)
        for uri in dict.fromkeys(uris):
            if talk.subscriptions.get(uri, 0) == 0:
                try:
                    async with asyncio.timeout(SUBSCRIBE_WAIT):
                        answer = await talk.call(m.request(0, "resources/subscribe", {"uri": uri}), _NO_REPLY)
                except TimeoutError:
                    break  # it will not answer the next ones either
                if answer.error is not None:
                    continue
            talk.subscriptions[uri] = talk.subscriptions.get(uri, 0) + 1
            self._uris.append(uri)

    async def unsubscribe(self, talk: BackendSession) -> None:
        uris, self._uris = self._uris, []
        for uri in uris:
            talk.subscriptions[uri] -= 1
            if talk.subscriptions[uri] == 0:
                del talk.subscriptions[uri]
                if not talk.is_closed:
                    talk.pool.backend.spawn(_quietly(talk, m.request(0, "resources/unsubscribe", {"uri": uri})))

    def acknowledge(self) -> None:
        honoured: dict[str, Any] = {flag: True for flag, kind in _KINDS.items() if kind in self._kinds}
        if self._uris:
            honoured["resourceSubscriptions"] = self._uris
        early, self._early = self._early or {}, None
        self._send(m.notification("notifications/subscriptions/acknowledged", {"notifications": honoured}))
        for notification in early.values():
            self._send(notification)

    def everything_changed(self) -> None:
        self._early = None
        for kind in sorted(self._kinds):
            self._send(m.notification(f"notifications/{kind}/list_changed"))
        for uri in self._uris:
            self._send(m.notification("notifications/resources/updated", {"uri": uri}))

    def notified(self, notification: Notification) -> None:
        prefix, _, rest = notification.method.partition("/")
        kind, _, what = rest.partition("/")
        if prefix == "notifications" and (
            (what == "list_changed" and kind in self._kinds)
            or (rest == "resources/updated" and text(notification.param("uri")) in self._uris)
        ):
            if self._early is None:
                self._send(notification)
            else:
                self._early[text(notification.param("uri")) or notification.method] = notification

    async def asked(self, request: Request) -> Response:
        raise LookupError("a listener is not asked")

    def closed(self, cause: BaseException | None) -> None:
        self.lost.set()

    def _send(self, notification: Notification) -> None:
        tag = {**notification.meta, SUBSCRIPTION_ID: Raw(m.dumps(self._x.request.id))}
        self._x.reply.notify(notification.with_meta(tag))


class _LogListener:
    """Log messages of a pipe during a call that asked for them."""

    def __init__(self, x: Exchange) -> None:
        self._x = x

    def notified(self, notification: Notification) -> None:
        if notification.method == "notifications/message":
            self._x.reply.notify(notification)

    async def asked(self, request: Request) -> Response:
        raise LookupError("a listener is not asked")

    def closed(self, cause: BaseException | None) -> None:
        return None


async def _quietly(talk: BackendSession, request: Request) -> None:
    try:
        async with asyncio.timeout(5.0):
            await talk.call(request, _NO_REPLY)
    except (BridgeError, TimeoutError):
        pass  # the server forgets the subscription with its session


def _server(x: Exchange) -> str:
    return x.backend.server.name if x.backend is not None else ""
