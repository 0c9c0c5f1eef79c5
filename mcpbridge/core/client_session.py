"""ClientSession: a legacy client while it is here. The small plain record may outlive us; links and streams may not.

    ClientSession  --1:n-->  Link (one per server it talks to)
                   --1:1-->  BackChannel (the client's stdout, or the GET stream of its HTTP session)

Source: architecture sections 4 and 7; shared decisions 5, 6 and 14.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Iterator
from typing import TYPE_CHECKING, Protocol

from mcpbridge.core.damper import Damper
from mcpbridge.core.session import Session, SessionStore
from mcpbridge.errors import BridgeError
from mcpbridge.wire.level import members, text
from mcpbridge.wire.message import Notification, Request, Response, loads, notification

if TYPE_CHECKING:
    from mcpbridge.core.exchange import Exchange, Reply
    from mcpbridge.core.server import Backend, Server


MAX_TASKS = 1000  # tasks of one client whose server is remembered: the newest ones


class BackChannel(Protocol):
    """Carries to a legacy client what belongs to no request of its own, in order."""

    @property
    def is_listening(self) -> bool:
        """Whether the client could hear something right now."""

    def answered(self, response: Response) -> None:
        """The client's answer to one of ``ask``'s questions, where it comes as a message of its own (HTTP)."""

    def progressed(self, notification: Notification) -> bool:
        """Progress of the client on one of ``ask``'s questions; True when it belonged to one."""

    def close(self) -> None:
        """The session is over: open streams end, open questions fail."""

    def notify(self, notification: Notification) -> None: ...

    async def ask(self, request: Request, reply: Reply) -> Response:
        """Put a server's question to the client; ``reply.notify`` takes the client's progress on it."""


class AnyLink(Protocol):
    """What a client session needs of its link to one server, whatever the server's era."""

    server: Server
    backend: Backend | None
    is_pinned: bool  # whether its calls have to go to ``backend``; if not, any backend of the server may take each

    @property
    def is_stranded(self) -> bool:
        """Whether its backend is taken away and none is left that it could go on at: a link of the other era takes over."""

    @property
    def said(self) -> list[Request]:
        """What another conversation in its place must be told: the level, the subscriptions."""

    async def open(self, initialize: Request) -> Response:
        """Start the conversation on the client's behalf; the server's InitializeResult (or error) with the client's id."""

    async def call(self, x: Exchange) -> Response: ...

    async def notify(self, notification: Notification) -> None: ...

    async def leave(self) -> None:
        """Its backend takes no more work: go on at another one of the server, if one takes its client. Raises nothing."""

    async def close(self) -> None: ...


class Face(Protocol):
    """How an endpoint of several servers shows to its clients what one of them says outside any call, and the way back."""

    def notification(self, server: Server, notification: Notification) -> Notification: ...

    def question(self, server: Server, request: Request) -> Request: ...

    def answer(self, server: Server, response: Response) -> Response: ...


class ClientSession:
    """The live half of one legacy client."""

    def __init__(self, record: Session, back: BackChannel) -> None:
        self.record = record
        self.back = back
        self.links: dict[str, AnyLink] = {}
        self.opening: dict[str, asyncio.Future[Response]] = {}  # links on their way, by server
        self.initialize: Request | None = None
        self.initialized: Notification | None = None  # the client's own notifications/initialized, once it came
        self.face: Face | None = None  # of an endpoint of several servers
        self.level: Request | None = None  # likewise: its newest logging/setLevel, for servers that come later
        self.calls: dict[
            int | str, tuple[asyncio.Task[object], Exchange]
        ] = {}  # in flight by the client's id: what `cancelled` refers to
        self.missing: dict[str, str] = {}  # servers of an aggregate that are down, with the cause
        self._askers: OrderedDict[str, str] = OrderedDict()  # tasks of the client itself, on an endpoint of several servers
        self._damper = Damper(back.notify)  # likewise
        self.closed = False
        self.is_passing = False  # stands in for callers without a session: its calls may ``roam``

    def tell_missing(self, name: str) -> None:
        """Say in a log message which server is missing and why, once the client may be spoken to."""
        if self.initialized is not None and not self.closed:
            data = f"server {name!r} is unavailable: {self.missing.get(name, '')}"
            self.back.notify(notification("notifications/message", {"level": "warning", "logger": "mcpbridge", "data": data}))

    @property
    def declares_nothing(self) -> bool:
        """Such clients share one backend session per principal (decision 14)."""
        declared = loads(self.record.capabilities.encode() or b"{}")
        return not any(kind in declared for kind in ("sampling", "elicitation", "roots"))

    def notified(self, server: Server, notification: Notification) -> None:
        """A server of this session said something outside any call."""
        if not self.closed:
            if self.face is None:
                self.back.notify(notification)
            else:
                self._damper.notify(self.face.notification(server, notification))

    async def ask(self, server: Server, request: Request, reply: Reply) -> Response:
        """Put a server's question to the client outside any call; see ``BackChannel.ask``."""
        if self.face is None:
            return await self.back.ask(request, reply)
        answer = await self.back.ask(self.face.question(server, request), reply)
        self.took_task(server, request, answer)
        return self.face.answer(server, answer)

    def took_task(self, server: Server, question: Request, answer: Response) -> None:
        """The client answered a server's question; if it made a task of it, what it says of that later is for this server."""
        if question.param("task") is None or answer.result is None:
            return
        try:
            id = text(members(members(answer.result).get("task")).get("taskId"))
        except BridgeError:
            return  # no proper object: its server will say so
        if id is not None:
            self._askers[id] = server.name
            self._askers.move_to_end(id)
            if len(self._askers) > MAX_TASKS:
                self._askers.popitem(last=False)

    def asker_of(self, news: Notification) -> AnyLink | None:
        """The link to the server whose question became the task that this client's notification is about."""
        server = self._askers.get(text(news.param("taskId")) or "")
        return self.links.get(server) if server is not None else None

    @property
    def is_busy(self) -> bool:
        """Whether a call is in flight or a stream open: such a session is in use, however long ago its client said anything."""
        return bool(self.calls) or self.back.is_listening

    async def close(self) -> None:
        """End every link. Idempotent."""
        if self.closed:
            return
        self.closed = True
        self._damper.close()
        for task, x in list(self.calls.values()):
            x.cancel_reason = x.cancel_reason or "the session has ended"
            task.cancel(x.cancel_reason)
        self.back.close()
        links = list(self.links.values())
        self.links.clear()
        await asyncio.gather(*(link.close() for link in links), return_exceptions=True)


class ClientSessions:
    """Every live legacy session of this process by its id. Limits and idle time are the store's; this is the live half."""

    def __init__(self, store: SessionStore) -> None:
        self.store = store
        self._live: dict[str, ClientSession] = {}

    def __len__(self) -> int:
        return len(self._live)

    def __iter__(self) -> Iterator[ClientSession]:
        return iter(list(self._live.values()))

    async def add(self, session: ClientSession) -> None:
        """Raises BridgeError("too_many_sessions") when a cap is reached; nothing is kept then."""
        await self.store.put(session.record)
        self._live[session.record.id] = session

    async def get(self, id: str, principal: str) -> ClientSession:
        """The session if it lives and belongs to ``principal``. Raises BridgeError("session_unknown"), whatever the reason."""
        session = self._live.get(id)
        if session is None or session.closed or session.record.principal != principal:
            raise BridgeError("session_unknown", "initialize again", sent=False)
        if not await self.store.touch(id):
            await self.end(session)
            raise BridgeError("session_unknown", "initialize again", sent=False)
        return session

    async def end(self, session: ClientSession) -> None:
        self._live.pop(session.record.id, None)
        await self.store.delete(session.record.id)
        await session.close()

    async def sweep(self) -> None:
        """End the sessions whose record expired; a call or stream in flight keeps its session."""
        for id, session in list(self._live.items()):
            if session.is_busy:
                await self.store.touch(id)
        for id in await self.store.sweep():
            ended = self._live.pop(id, None)
            if ended is not None:
                await ended.close()
