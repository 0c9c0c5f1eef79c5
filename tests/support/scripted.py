"""A backend of functions: every conversation the pool opens with it is a ``Talk`` that the test answers for."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from mcpbridge.bridge import Bridge, Way
from mcpbridge.core.client_session import ClientSession
from mcpbridge.core.exchange import ANONYMOUS, Caller, Deadline, Era, Exchange, NoReply, Principal, Reply, view_of
from mcpbridge.core.ports import Inbox, Upstream
from mcpbridge.core.server import Server
from mcpbridge.core.session import Session
from mcpbridge.wire import message as m

WAIT = 5.0
VERSION = "2025-11-25"
HELLO = {
    "protocolVersion": VERSION,
    "capabilities": {"tools": {"listChanged": True}, "logging": {}},
    "serverInfo": {"name": "s", "version": "1"},
}
DISCOVERED = {
    "resultType": "complete",
    "supportedVersions": ["2026-07-28"],
    "capabilities": {"tools": {}},
    "ttlMs": 0,
    "cacheScope": "private",
}
META = {"io.modelcontextprotocol/protocolVersion": "2026-07-28", "io.modelcontextprotocol/clientCapabilities": {}}
INITIALIZED = m.notification("notifications/initialized")

Answer = Callable[["Talk", m.Request, Reply], Awaitable[m.Response]]


class Talk:
    """One conversation (an Upstream): what was said in it, and its end."""

    names_request = False
    noise = ""

    def __init__(self, servers: Scripted, era: Era, inbox: Inbox) -> None:
        self._servers = servers
        self.era = era
        self.inbox = inbox
        self.requests: list[m.Request] = []
        self.notifications: list[m.Notification] = []
        self.open: set[asyncio.Future[None]] = set()
        self.closes = 0
        self._ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    @property
    def methods(self) -> list[str]:
        return [request.method for request in self.requests]

    async def call(self, request: m.Request, reply: Reply) -> m.Response:
        self.requests.append(request)
        answering = asyncio.ensure_future(self._servers.answer(self, request, reply))
        try:
            await asyncio.wait([answering, self._ended], return_when=asyncio.FIRST_COMPLETED)
            if answering.done():
                return answering.result()
            self._ended.result()
            raise AssertionError
        finally:
            answering.cancel()

    async def notify(self, notification: m.Notification) -> None:
        self.notify_now(notification)

    def notify_now(self, notification: m.Notification) -> None:
        self.notifications.append(notification)

    def dies(self, cause: Exception) -> None:
        """The server is gone: calls fail, the bridge is told."""
        self._ended.set_exception(cause)
        self._ended.exception()
        self.inbox.closed(cause)

    async def close(self) -> None:
        self.closes += 1


class Scripted:
    """What dials, answers and counts. ``answer`` and ``dialled`` may be replaced at any time."""

    def __init__(self) -> None:
        self.talks: list[Talk] = []
        self.answer: Answer = answer
        self.dialled: Callable[[Era], Awaitable[None]] = _nothing

    async def dial(self, era: Era, inbox: Inbox) -> Upstream:
        await self.dialled(era)
        talk = Talk(self, era, inbox)
        self.talks.append(talk)
        return talk


async def _nothing(_era: Era) -> None:
    return None


async def answer(talk: Talk, request: m.Request, reply: Reply) -> m.Response:
    """A legacy server that is content with everything."""
    if request.method == "initialize":
        return m.result(request.id, HELLO)
    if request.method in ("server/discover", "subscriptions/listen"):
        return m.error(request.id, {"code": -32601, "message": "Method not found"})
    return m.result(request.id, {"by": request.method})


async def never() -> Any:
    await asyncio.Event().wait()
    raise AssertionError


def add(bridge: Bridge, scripted: Scripted, name: str = "s", **options: Any) -> Server:
    """A server of one scripted stdio backend."""
    return bridge.add(name, [Way("stdio", name, scripted.dial, is_child=True)], **options)


class Back:
    """A legacy client's way back (BackChannel)."""

    def __init__(self, is_listening: bool = True) -> None:
        self.is_listening = is_listening
        self.heard: list[m.Notification] = []
        self.asked: list[m.Request] = []
        self.is_closed = False

    def notify(self, notification: m.Notification) -> None:
        self.heard.append(notification)

    async def ask(self, request: m.Request, reply: Reply) -> m.Response:
        self.asked.append(request)
        return m.result(request.id, {"roots": []})

    def answered(self, response: m.Response) -> None:
        return None

    def progressed(self, notification: m.Notification) -> bool:
        return False

    def close(self) -> None:
        self.is_closed = True


def client(principal: str = "p", capabilities: str = "{}", back: Any = None, id: str = "session") -> ClientSession:
    """A legacy client's session; it has sent ``initialize``."""
    session = ClientSession(Session(id, principal, VERSION, capabilities=capabilities), back or Back())
    session.initialize = initialize()
    return session


def initialize(id: int = 0) -> m.Request:
    return m.request(
        id, "initialize", {"protocolVersion": VERSION, "capabilities": {}, "clientInfo": {"name": "c", "version": "1"}}
    )


def exchange(
    request: m.Request,
    target: Server,
    session: ClientSession | None = None,
    *,
    seconds: float = WAIT,
    reply: Reply | None = None,
    principal: Principal = ANONYMOUS,
) -> Exchange:
    """A legacy client's call when it has a session, else a modern one's."""
    era: Era = "legacy" if session is not None else "modern"
    deadline = Deadline(seconds, asyncio.get_running_loop().time())
    caller = Caller("http", era, principal=principal)
    return Exchange(request, view_of(request, era), caller, reply or NoReply(), deadline, target, session)


async def until(condition: Callable[[], object]) -> None:
    """Let the loop run until something holds."""
    async with asyncio.timeout(WAIT):
        while not condition():
            await asyncio.sleep(0)
