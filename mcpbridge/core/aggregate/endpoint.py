"""Endpoint: the handler of exchanges whose target is several servers.

    list       -> every server, merged          call, get, complete, tasks -> the owner, by name
    read       -> the owner, by URI             initialize, discover, listen, setLevel -> here

Source: mcp-eras section 4; architecture section 5 (route).
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from functools import partial
from typing import Any

from msgspec import Raw

from mcpbridge.core.aggregate.exposed import Exposed
from mcpbridge.core.aggregate.face import Face
from mcpbridge.core.aggregate.listen import Listening
from mcpbridge.core.aggregate.lists import Patience, merged_list
from mcpbridge.core.aggregate.merge import Hello, bridge_info, capabilities, instructions
from mcpbridge.core.aggregate.names import task_owner
from mcpbridge.core.aggregate.resources import Owners
from mcpbridge.core.aggregate.show import Items, Visible
from mcpbridge.core.client_session import ClientSession
from mcpbridge.core.exchange import ANONYMOUS, Era, Exchange, Handler, NoReply
from mcpbridge.core.route import open_link
from mcpbridge.core.server import Backend, Server
from mcpbridge.core.state import RequestStates, continues, unknown
from mcpbridge.core.task_ids import unknown_task
from mcpbridge.core.tasks import Spawn, share
from mcpbridge.errors import BridgeError
from mcpbridge.seal import Sealer
from mcpbridge.wire import message as m
from mcpbridge.wire.envelope import members, text
from mcpbridge.wire.message import Notification, Request, Response
from mcpbridge.wire.spec import LEGACY, LISTS, LOG_LEVELS, MODERN, SERVER_INFO

KINDS = ("tools", "prompts", "resources")
RELIST = 1.0  # seconds after which names that nobody knows have the lists read again, per caller
MAX_RELISTED = 10_000
MAX_PAGES = 100

_OWNED = frozenset(
    {
        "tools/call",
        "prompts/get",
        "resources/read",
        "resources/subscribe",
        "resources/unsubscribe",
        "completion/complete",
    }
)
"""What is done by the server that owns a name; without servers nobody has declared it."""


@dataclass(frozen=True)
class Part:
    """One server of an endpoint. ``prefix``: its names get `server__`; False for a gateway, whose names are exposed already."""

    server: Server
    prefix: bool = True


def announce(session: ClientSession, server: Server) -> None:
    """Tell a legacy client that a server came: whatever it lists is new."""
    offered = capabilities({server.name: known(server, "legacy")}, legacy=True)
    for kind in KINDS:
        if kind in offered:
            session.notified(server, m.notification(f"notifications/{kind}/list_changed"))


def known(server: Server, era: Era) -> Hello:
    """What the server said of itself last, best in the client's era."""
    own = server.hello.get(era)
    return Hello(own or server.hello.get("modern" if era == "legacy" else "legacy"), own is not None)


class Endpoint:
    """Several servers as one.

    ``sealer`` seals its cursors. ``wait``: seconds a server may delay a list or an initialize; one that is not up, once.
    ``visible`` decides per caller and item; what it hides cannot be called either.
    """

    def __init__(
        self,
        parts: list[Part],
        one: Handler,
        sealer: Sealer,
        spawn: Spawn,
        states: RequestStates,
        *,
        wait: float = 3.0,
        max_name: int = 48,
        visible: Visible = lambda *_: True,
    ) -> None:
        self._parts = {part.server.name: part for part in parts}
        self._servers = [part.server for part in parts]  # replaced, never changed: who began with it goes on with it
        self._one = one
        self._spawn = spawn
        self._states = states
        self._wait = wait
        self._patience = Patience(wait)
        self._sealer = sealer
        self._visible = visible
        self._owners = Owners([part.server.name for part in parts])
        self._exposed = Exposed({part.server.name: part.prefix for part in parts}, max_name)
        self._face = Face(self._owners)
        self._relisted: dict[tuple[str, str], tuple[float, asyncio.Future[None]]] = {}
        self._listening: set[Listening] = set()

    def change(self, parts: list[Part]) -> None:
        """Show other servers from now on. What was learnt of those that stay is kept; whoever listens is told."""
        before, self._parts = self._parts, {part.server.name: part for part in parts}
        self._servers = [part.server for part in parts]
        for name, part in before.items():
            if self._parts.get(name) != part:
                self._patience.forget(name)
        self._owners.change([part.server.name for part in parts])
        self._exposed.change({part.server.name: part.prefix for part in parts})
        self._relisted.clear()
        for listening in list(self._listening):
            listening.change(self._servers)

    def tell_changed(self) -> None:
        """The lists of its servers are others now, though the servers are the same: whoever listens is told."""
        for listening in list(self._listening):
            listening.tell_changed()

    async def __call__(self, x: Exchange) -> Response | None:
        if isinstance(x.message, Notification):
            await self._tell(x, x.message)
            return None
        if x.session is not None and x.session.face is None:  # it began when there was one server
            x.session.face = self._face
        method = x.request.method
        if method in LISTS:
            return await self._list(x, LISTS[method])
        if not self._servers and method in _OWNED:
            raise BridgeError("method_not_found", f"{method}: no server is configured", sent=False)
        if method == "tools/call":
            return await self._by_name(x, "tools")
        if method == "prompts/get":
            return await self._by_name(x, "prompts")
        if method in ("resources/read", "resources/subscribe", "resources/unsubscribe"):
            return await self._by_uri(x)
        if method == "completion/complete":
            return await self._complete(x)
        if method in ("tasks/get", "tasks/result", "tasks/update", "tasks/cancel"):
            return await self._by_task(x)
        legacy = x.caller.era == "legacy"
        if method == "initialize" and legacy:
            return await self._initialize(x)
        if method == "ping" and legacy:
            return m.result(x.request.id, {})
        if method == "logging/setLevel" and legacy:
            return await self._set_level(x)
        if method == "tasks/list" and legacy:
            return await self._list(x, "tasks", [s for s in self._servers if b'"tasks"' in s.hello.get("legacy", b"")])
        if method == "server/discover" and not legacy:
            return await self._discover(x)
        if method == "subscriptions/listen" and not legacy:
            listening = Listening(x, self._one, self._owners, self._face, self._offered, self._patience)
            self._listening.add(listening)
            try:
                return await listening.run(self._servers)
            finally:
                self._listening.discard(listening)
        raise BridgeError("method_not_found", f"{method}: no server can be named as its owner here", sent=False)

    # Session and discovery

    async def _initialize(self, x: Exchange) -> Response:
        session = x.session
        assert session is not None
        requested = session.record.version
        version = requested if requested in LEGACY else LEGACY[-1]
        session.record.version = version
        session.initialize = x.request.with_params({**(x.request.params or {}), "protocolVersion": Raw(m.dumps(version))})
        servers = self._servers
        opening = {s.name: share(self._spawn, self._open(x, session, s)) for s in servers}
        unknown = [opening[s.name] for s in servers if not s.hello and self._patience.has_for(s)]
        if unknown:
            await asyncio.wait(unknown, timeout=self._wait)
        causes: dict[str, str] = {}
        for server in servers:
            task = opening[server.name]
            if not task.done():
                if task in unknown:
                    self._patience.spend(server)
                task.add_done_callback(partial(self._late, session, server))
                if not server.hello:
                    causes[server.name] = "it is still starting"
            elif (cause := task.result()) is not None:
                causes[server.name] = cause
                session.missing[server.name] = cause
        hellos = {s.name: known(s, "legacy") for s in servers if session.missing.get(s.name) is None}
        result: dict[str, Any] = {
            "protocolVersion": version,
            "capabilities": capabilities(hellos, legacy=True),
            "serverInfo": bridge_info(),
        }
        said = instructions(hellos, causes)
        if said:
            result["instructions"] = said
        return m.result(x.request.id, result)

    async def _open(self, x: Exchange, session: ClientSession, server: Server) -> str | None:
        """Open the session's link to one backend of a server; the cause if that failed. Never raises but CancelledError."""
        assert session.initialize is not None
        tried: set[Backend] = set()
        response: Response | None = None
        while response is None:
            backend: Backend | None = None
            try:
                backend = server.choose(x, tried)
                response = await open_link(session, backend, session.initialize, backend.pool.start_timeout)
            except BridgeError as error:
                if backend is None or error.sent or len(tried) + 1 >= len(server.backends):
                    return str(error)
                tried.add(backend)
        if response.error is not None:
            return text(members(response.error).get("message")) or "it refused to initialize"
        return None

    def _late(self, session: ClientSession, server: Server, done: asyncio.Future[str | None]) -> None:
        """A server that was not up at initialize is now, or never will be: tell the client."""
        if done.cancelled() or session.closed:
            return
        cause = done.result()
        if cause is not None:
            session.missing[server.name] = cause
            session.tell_missing(server.name)
            return
        announce(session, server)

    async def _discover(self, x: Exchange) -> Response:
        servers = self._servers
        answers = await asyncio.gather(*(self._discover_one(x, server) for server in servers))
        hellos: dict[str, Hello] = {}
        causes: dict[str, str] = {}
        for server, (hello, cause) in zip(servers, answers, strict=True):
            if cause is not None:
                causes[server.name] = cause
            if hello.said is not None:
                hellos[server.name] = hello
        result: dict[str, Any] = {
            "resultType": "complete",
            "supportedVersions": list(MODERN),
            "capabilities": capabilities(hellos, legacy=False),
            "ttlMs": 0,
            "cacheScope": "private",
            "_meta": {SERVER_INFO: bridge_info()},
        }
        said = instructions(hellos, causes)
        if said:
            result["instructions"] = said
        return m.result(x.request.id, result)

    async def _discover_one(self, x: Exchange, server: Server) -> tuple[Hello, str | None]:
        last = known(server, "modern")
        try:
            response = await self._patience.answer(server, self._ask(x, server, x.request))
        except BridgeError as error:
            return Hello(None), str(error)
        if isinstance(response, str):
            return last, response
        if response.result is None:
            return last, "it refused server/discover"
        is_own = not any(backend.speaks.get("modern") is False for backend in server.backends)
        return Hello(bytes(response.result), is_own), None

    def _offered(self, x: Exchange) -> dict[str, Any]:
        """What this endpoint offers at present, as far as its servers have said."""
        return capabilities({s.name: known(s, x.caller.era) for s in self._servers}, legacy=x.caller.era == "legacy")

    async def _set_level(self, x: Exchange) -> Response:
        level = text(x.request.param("level"))
        if level not in LOG_LEVELS:
            raise BridgeError("invalid_params", f"level {level!r} is not one of {', '.join(LOG_LEVELS)}", sent=False)
        if x.session is not None:
            x.session.level = x.request
        logging = [s for s in self._servers if any(b"logging" in hello for hello in s.hello.values())]
        await asyncio.gather(*(self._quietly(x, server) for server in logging))
        return m.result(x.request.id, {})

    async def _quietly(self, x: Exchange, server: Server) -> None:
        try:
            async with asyncio.timeout(self._wait):
                await self._ask(x, server, x.request)
        except (BridgeError, TimeoutError):
            pass  # that server has no levels, or is away: the others took theirs

    async def _tell(self, x: Exchange, notification: Notification) -> None:
        session = x.session
        if session is None:
            return
        if notification.method == "notifications/initialized":
            for name in session.missing:
                session.tell_missing(name)
        if notification.method in ("notifications/initialized", "notifications/roots/list_changed"):
            await asyncio.gather(*(link.notify(notification) for link in list(session.links.values())))
        elif notification.method == "notifications/tasks/status":
            asker = session.asker_of(notification)
            if asker is not None:
                await asker.notify(notification)

    # Lists and calls

    async def _list(self, x: Exchange, member: str, servers: list[Server] | None = None) -> Response:
        used: dict[str, Backend | None] = {}

        async def ask(x: Exchange, server: Server, request: Request) -> Response:
            response, used[server.name] = await self._answer(x, server, request)
            return response

        asked = self._servers if servers is None else servers
        view = Items(member, self._exposed, self._owners, self._visible)
        response, causes = await merged_list(x, asked, view, ask, self._patience, self._sealer)
        x.answered_by = [backend for server in asked if (backend := used.get(server.name)) is not None]
        if x.session is not None:
            for name, cause in causes.items():
                if name not in x.session.missing:
                    x.session.missing[name] = cause
                    x.session.tell_missing(name)
            for name in {server.name for server in asked} & (set(x.session.missing) - set(causes)):
                del x.session.missing[name]
        return response

    async def _by_name(self, x: Exchange, kind: str) -> Response:
        exposed = text(x.request.param("name"))
        if exposed is None:
            raise BridgeError("invalid_params", "name is missing", sent=False)
        candidates = await self._candidates(x, kind, exposed)
        asked = self._asked_before(x)
        if asked is not None:
            candidates = [candidate for candidate in candidates if candidate[0] is asked]
            if not candidates:
                raise unknown()
        candidates = [(s, name) for s, name in candidates if self._visible(x.caller, kind, s.name, name)]
        failure: BridgeError | None = None  # of the first choice: what a second one says of a name it has not is no news
        for server, name in candidates:
            request = x.request
            if name != exposed:
                request = request.with_params({**(request.params or {}), "name": Raw(m.dumps(name))})
            try:
                response = await self._ask(x, server, request)
            except BridgeError as error:
                if error.sent:
                    raise
                failure = failure or error
                continue
            if failure is None or response.error is None:
                return response
        raise failure or BridgeError("invalid_params", f"unknown {kind.removesuffix('s')} {exposed!r}", sent=False)

    async def _candidates(self, x: Exchange, kind: str, exposed: str) -> list[tuple[Server, str]]:
        """Who may own an exposed name, first choice first."""
        if self._servers and self._exposed.needs_lists(kind, exposed):  # a name from before our start
            await self._relist(x, kind)
        return [(self._parts[server].server, name) for server, name in self._exposed.of(kind, exposed)]

    async def _relist(self, x: Exchange, kind: str) -> None:
        """Have the lists read for their names: once for all calls of one caller that wait, and not again at once."""
        caller = (kind, (x.caller.principal or ANONYMOUS).key)
        now = asyncio.get_running_loop().time()
        began, reading = self._relisted.get(caller, (0.0, None))
        if reading is None or (reading.done() and now - began >= RELIST):
            if len(self._relisted) >= MAX_RELISTED:
                self._relisted.clear()
            reading = share(self._spawn, self._read_names(x, kind))
            self._relisted[caller] = (now, reading)
        await asyncio.wait([reading], timeout=x.deadline.remaining(now))

    async def _read_names(self, x: Exchange, kind: str) -> None:
        params = {"_meta": x.request.params["_meta"]} if x.request.params and x.request.meta else {}
        for _ in range(MAX_PAGES):
            part = x.derive(m.request(x.request.id, f"{kind}/list", params or None), x.target, NoReply())
            cursor = members((await self._list(part, kind)).result).get("nextCursor")
            if cursor is None:
                break
            params["cursor"] = cursor

    async def _by_uri(self, x: Exchange) -> Response:
        uri = text(x.request.param("uri"))
        if uri is None:
            raise BridgeError("invalid_params", "uri is missing", sent=False)
        name, own = self._owners.of(uri)
        request = x.request if own == uri else x.request.with_params({**(x.request.params or {}), "uri": Raw(m.dumps(own))})
        server = self._asked_before(x) if name is None else self._parts[name].server
        servers = [s for s in (self._servers if server is None else [server]) if self._sees(x, s, own)]
        return await self._first(x, servers, request, f"no server knows the resource {uri}")

    def _sees(self, x: Exchange, server: Server, uri: str) -> bool:
        return self._visible(x.caller, "resources", server.name, uri)

    async def _by_task(self, x: Exchange) -> Response:
        found = task_owner(text(x.request.param("taskId")) or "")
        part = self._parts.get(found[0]) if found is not None else None
        if part is None or (x.caller.era not in part.server.hello and part.server.hello):
            raise unknown_task()
        return await self._ask(x, part.server, x.request)

    async def _complete(self, x: Exchange) -> Response:
        ref = members(x.request.param("ref"))
        params = dict(x.request.params or {})
        if text(ref.get("type")) == "ref/resource":
            name, own = self._owners.of(text(ref.get("uri")) or "")
            servers = [self._parts[name].server] if name is not None else self._servers
            params["ref"] = Raw(m.join({**ref, "uri": Raw(m.dumps(own))}))
            servers = [server for server in servers if self._sees(x, server, own)]
            return await self._first(x, servers, x.request.with_params(params), "unknown resource template")
        candidates = await self._candidates(x, "prompts", text(ref.get("name")) or "")
        for server, prompt in candidates:
            if self._visible(x.caller, "prompts", server.name, prompt):
                params["ref"] = Raw(m.join({**ref, "name": Raw(m.dumps(prompt))}))
                return await self._ask(x, server, x.request.with_params(params))
        raise BridgeError("invalid_params", "unknown prompt", sent=False)

    async def _first(self, x: Exchange, servers: list[Server], request: Request, unknown: str) -> Response:
        """The first result that one of these servers has, else what the last one said."""
        answer: Response | None = None
        failure: BridgeError | None = None
        for server in servers:
            try:
                answer = await self._ask(x, server, request)
            except BridgeError as error:
                failure = error
                continue
            if answer.error is None:
                return answer
        if answer is not None:
            return answer
        raise failure or BridgeError("invalid_params", unknown, sent=False)

    def _asked_before(self, x: Exchange) -> Server | None:
        """The server that a call in its second round belongs to: the others never hear of it."""
        state = self._states.peek(x) if continues(x) else None
        part = self._parts.get(state.server) if state is not None else None
        return part.server if part is not None else None

    async def _ask(self, x: Exchange, server: Server, request: Request) -> Response:
        return (await self._answer(x, server, request))[0]

    async def _answer(self, x: Exchange, server: Server, request: Request) -> tuple[Response, Backend | None]:
        """One server's answer, and the backend that gave it."""
        part = x.derive(self._face.request(server, request), server, self._face.reply(server, x.reply, x.session))
        try:
            response = await self._one(part)
        finally:
            x.backend = part.backend or x.backend
            x.attempts += part.attempts
        assert response is not None
        return self._face.response(server, request, response), part.backend
