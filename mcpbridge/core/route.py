"""Where an exchange goes once the front ring let it in, and the innermost handler of the attempt ring.

Source: architecture sections 5 and 7.
"""

from __future__ import annotations

from collections.abc import Awaitable

from mcpbridge.core.client_session import AnyLink, ClientSession
from mcpbridge.core.exchange import Exchange, Handler, NoReply, view_of
from mcpbridge.core.link import LIST_CHANGED, Link
from mcpbridge.core.server import Backend, Server
from mcpbridge.core.state import ROUNDS, continues
from mcpbridge.core.tasks import share, wait_shared
from mcpbridge.errors import BridgeError
from mcpbridge.observe.log import log
from mcpbridge.wire import message as m
from mcpbridge.wire.message import Notification, Request, Response
from mcpbridge.wire.spec import LOG_LEVEL

_log = log("link")
_NOBODY = NoReply()


def route(*, one: Handler, many: Handler) -> Handler:
    """``one`` answers exchanges with one server, ``many`` those of an endpoint that shows several."""

    def run(x: Exchange) -> Awaitable[Response | None]:
        if isinstance(x.target, Server):
            return one(x) if isinstance(x.message, Request) else tell(x, x.target)
        return many(x) if isinstance(x.message, (Request, Notification)) else tell(x, None)

    return run


async def tell(x: Exchange, server: Server | None) -> None:
    """A client's notification for one server. In the modern era only vendors have any, apart from ``cancelled``."""
    if server is None or not isinstance(x.message, Notification):
        return
    if x.session is None:
        if x.caller.era == "modern" and x.message.method != "notifications/cancelled":
            await _tell_modern(x.message, server.choose(x, set()), x)
        return
    link = x.session.links.get(server.name)
    if link is not None:
        await link.notify(x.message)


async def _tell_modern(notification: Notification, backend: Backend, x: Exchange) -> None:
    patience = backend.pool.patience(x.deadline)
    if await backend.era_for("modern", patience) == "modern":
        talk = await backend.pool.modern(patience)
        await talk.upstream.notify(notification)
    elif backend.eras is not None:
        x.backend = backend
        await backend.eras.tell(x, notification)


def call_backend(x: Exchange) -> Awaitable[Response]:
    """Innermost: the call on ``x.backend``, in the client's own era wherever the server has it. Translates at most once."""
    backend = x.backend
    assert backend is not None
    patience = backend.pool.patience(x.deadline)
    return (_legacy if x.caller.era == "legacy" else _modern)(x, backend, patience)


async def _modern(x: Exchange, backend: Backend, patience: float) -> Response:
    era = await backend.era_for("modern", patience)
    if era == "legacy":
        assert backend.eras is not None
        return await backend.eras.call(x)
    request = x.request
    states = backend.states
    wraps = request.method in ROUNDS and states.wraps(x, backend)
    if wraps and continues(x):
        request = x.message = states.unwrapped(x)
    tasks, reply = backend.task_seals.of_call(x, backend), x.reply
    if tasks is not None:
        request, reply = tasks.request(request), tasks.reply(reply)
    if request.method == "subscriptions/listen" and LOG_LEVEL in request.meta:
        # It lasts, so it would keep every other caller's logs, and its own calls, off the conversation it listens to.
        request = request.with_meta({key: raw for key, raw in request.meta.items() if key != LOG_LEVEL})
    logs = (x.caller.connection or x) if LOG_LEVEL in request.meta else None
    response = await backend.pool.ask_modern(request, reply, logs, x.deadline)
    if tasks is not None:
        response = tasks.response(request, response)
    return states.wrapped(x, response) if wraps else response


async def _legacy(x: Exchange, backend: Backend, remaining: float) -> Response:
    session = x.session
    if session is None:
        raise BridgeError("invalid_request", "send initialize first", sent=False)
    name = backend.server.name
    if x.request.method == "initialize":
        if name in session.links:
            raise BridgeError("invalid_request", "this session is initialized already", sent=False)
        return await open_link(session, backend, x.request, remaining)
    place = backend.name if x.roams else name
    known = session.links.get(place)
    if known is not None and (known.server is not backend.server or (x.roams and known.backend is not backend)):
        del session.links[place]  # another one has its name now
        backend.spawn(known.close())
    if place not in session.links:
        if session.initialize is None:
            raise BridgeError("invalid_request", "send initialize first", sent=False)
        response = await open_link(session, backend, session.initialize, remaining, place)
        if response.error is not None:
            raise BridgeError(
                "backend_error", f"server {name!r} refused to initialize: {bytes(response.error).decode()[:500]}", sent=False
            )
    link = session.links.get(place)
    if link is None:  # it ended while the link opened
        raise BridgeError("session_unknown", "the session has ended", sent=False)
    left = link.backend
    may_turn = left is not None and left is not backend and left.is_draining and not backend.is_draining
    if not (may_turn and link.is_stranded):
        try:
            return await link.call(x)
        except BridgeError as error:
            if error.sent or not may_turn:
                raise
    return await (await _replaced(x, session, link, backend, remaining, place)).call(x)


async def _replaced(
    x: Exchange, session: ClientSession, link: AnyLink, backend: Backend, remaining: float, place: str
) -> AnyLink:
    """The session goes on at ``backend``, which is of another era than the one its link has lost: by a link of the other kind,
    told what the client said so far.

    Raises BridgeError(sent=False) when the server does not take the client there in its version.
    """
    is_first = session.links.get(place) is link
    if is_first:
        del session.links[place]
        backend.spawn(link.close())
    assert session.initialize is not None
    response = await open_link(session, backend, session.initialize, remaining, place)
    fresh, server = session.links.get(place), backend.server
    if response.error is not None or fresh is None:
        raise BridgeError("backend_error", f"server {server.name!r} does not take the session again", sent=False)
    if is_first:
        _log.warn("session moved", server=server.name, backend=backend.name, reason="no other speaks its era")
        for request in link.said:
            await fresh.call(Exchange(request, view_of(request, "legacy"), x.caller, _NOBODY, x.deadline, server, session))
        for kind in LIST_CHANGED:
            session.notified(server, m.notification(f"notifications/{kind}/list_changed"))
    return fresh


async def open_link(
    session: ClientSession, backend: Backend, initialize: Request, remaining: float, place: str | None = None
) -> Response:
    """Open the session's link to this backend's server and answer ``initialize``; once for all who ask at the same time.

    The work goes on when the caller's time is over. A link stays only if its server answered with a result. A server that
    refuses ``initialize`` because it is modern-only gets a translating link instead. ``place``: its key among the session's
    links, the server's name unless one session has several.
    """
    if session.closed:
        raise BridgeError("session_unknown", "the session has ended", sent=False)
    place = place or backend.server.name
    opening = session.opening.get(place)
    if opening is None:
        opening = session.opening[place] = share(backend.spawn, _open(session, backend, initialize, place))
        opening.add_done_callback(lambda _done: session.opening.pop(place, None))
    response = await wait_shared(opening, remaining, backend.pool.still_starting())
    return response.with_id(initialize.id)


async def _open(session: ClientSession, backend: Backend, initialize: Request, place: str) -> Response:
    knows = backend.speaks.get("legacy")
    if knows is not False:
        try:
            response = await _try_link(session, Link(session, backend), initialize, place)
        except BridgeError as error:
            if knows or not await _is_modern(backend, error):
                raise
        else:
            if response.error is None or backend.eras is None:
                return response
            if backend.eras.is_modern_only(response):
                backend.speaks["legacy"] = False
            elif knows or not await _is_modern(backend, response):
                return response
    assert backend.eras is not None
    try:
        response = await _try_link(session, backend.eras.link(session, backend), initialize, place)
    except BridgeError:
        backend.speaks.clear()  # perhaps it is another server now: the next one finds out
        raise
    if response.error is not None and knows is False:
        backend.speaks.clear()
        return await _try_link(session, Link(session, backend), initialize, place)
    return response


async def _is_modern(backend: Backend, refusal: Response | BridgeError) -> bool:
    """Whether a server that did not take ``initialize``, and did not say why, answers as a modern one when it is asked."""
    if backend.eras is None or not backend.eras.may_be_modern(refusal):
        return False
    if backend.speaks.get("modern") is None:
        try:
            await backend.check(backend.pool.start_timeout)
        except BridgeError:
            return False  # what was said first is told
    return backend.speaks.get("modern") is True


async def _try_link(session: ClientSession, link: AnyLink, initialize: Request, place: str) -> Response:
    try:
        response = await link.open(initialize)
        if response.error is None and not session.closed:
            session.links[place] = link
            return response
    except BaseException:
        await link.close()
        raise
    await link.close()
    return response
