"""Endpoint: the handler of exchanges whose target is several servers.

    list       -> every server, merged          call, get, complete -> the owner, by name
    read       -> the owner, by URI             initialize, discover, listen, setLevel -> here

Source: mcp-eras section 4; architecture section 5 (route).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from msgspec import Raw

from mcpbridge.core.aggregate.listen import listen
from mcpbridge.core.aggregate.lists import Patience, merged_list
from mcpbridge.core.aggregate.merge import bridge_info, capabilities, instructions
from mcpbridge.core.aggregate.names import expose, owner
from mcpbridge.core.aggregate.resources import Owners
from mcpbridge.core.client_session import ClientSession
from mcpbridge.core.exchange import Caller, Exchange, Handler
from mcpbridge.core.route import open_link
from mcpbridge.core.server import Backend, Server
from mcpbridge.core.state import continues
from mcpbridge.core.tasks import share
from mcpbridge.errors import BridgeError
from mcpbridge.wire import message as m
from mcpbridge.wire.envelope import items, members, text
from mcpbridge.wire.message import Members, Notification, Request, Response
from mcpbridge.wire.spec import LEGACY, LISTS, LOG_LEVELS, MODERN, SERVER_INFO

Visible = Callable[[Caller, str, str, str], bool]
"""Whether a caller may see an item: caller, kind (tools, prompts, resources, resourceTemplates), server, its own name."""


@dataclass(frozen=True)
class Part:
    """One server of an endpoint. ``prefix``: its names get `server__`; False for a gateway, whose names are exposed already."""

    server: Server
    prefix: bool = True


def announce(session: ClientSession, server: Server) -> None:
    """Tell a legacy client that a server came: whatever it lists is new."""
    hello = server.hello.get("legacy") or server.hello.get("modern")
    for kind in ("tools", "prompts", "resources"):
        if kind in capabilities({server.name: hello}, legacy=True):
            session.notified(server, m.notification(f"notifications/{kind}/list_changed"))


class Endpoint:
    """Several servers as one. ``wait``: seconds a server may delay a list or an initialize; one that is not up, once.

    ``visible`` decides per caller and item; what it hides cannot be called either.
    """

    def __init__(
        self,
        parts: list[Part],
        one: Handler,
        *,
        wait: float = 3.0,
        max_name: int = 48,
        visible: Visible = lambda *_: True,
    ) -> None:
        self._parts = {part.server.name: part for part in parts}
        self._servers = [part.server for part in parts]
        self._one = one
        self._wait = wait
        self._patience = Patience(wait)
        self._max_name = max_name
        self._visible = visible
        self._owners = Owners([part.server.name for part in parts])
        self._shortened: dict[str, tuple[str, str]] = {}

    async def __call__(self, x: Exchange) -> Response | None:
        if isinstance(x.message, Notification):
            await self._tell(x, x.message)
            return None
        method = x.request.method
        if method in LISTS:
            return await self._list(x, LISTS[method])
        if method == "tools/call":
            return await self._by_name(x, "tools")
        if method == "prompts/get":
            return await self._by_name(x, "prompts")
        if method in ("resources/read", "resources/subscribe", "resources/unsubscribe"):
            return await self._by_uri(x)
        if method == "completion/complete":
            return await self._complete(x)
        legacy = x.caller.era == "legacy"
        if method == "initialize" and legacy:
            return await self._initialize(x)
        if method == "ping" and legacy:
            return m.result(x.request.id, {})
        if method == "logging/setLevel" and legacy:
            return await self._set_level(x)
        if method == "server/discover" and not legacy:
            return await self._discover(x)
        if method == "subscriptions/listen" and not legacy:
            return await listen(x, self._servers, self._one, self._owners.of, self.outgoing)
        raise BridgeError("method_not_found", f"{method}: no server can be named as its owner here", sent=False)

    def outgoing(self, server: Server, notification: Notification) -> Notification | None:
        """A server's unsolicited notification as this endpoint's clients see it."""
        if notification.method == "notifications/resources/updated" and self._owners.has_aliases(server.name):
            uri = text(notification.param("uri"))
            if uri is not None:
                shown = Raw(m.dumps(self._owners.shown(server.name, uri)))
                return notification.with_params({**(notification.params or {}), "uri": shown})
        return notification

    # Session and discovery

    async def _initialize(self, x: Exchange) -> Response:
        session = x.session
        assert session is not None
        session.outgoing = self.outgoing
        requested = session.record.version
        version = requested if requested in LEGACY else LEGACY[-1]
        session.record.version = version
        session.initialize = x.request.with_params({**(x.request.params or {}), "protocolVersion": Raw(m.dumps(version))})
        opening = {s.name: share(s.backends[0].spawn, self._open(session, s)) for s in self._servers}
        unknown = [opening[s.name] for s in self._servers if not s.hello and self._patience.has_for(s)]
        if unknown:
            await asyncio.wait(unknown, timeout=self._wait)
        causes: dict[str, str] = {}
        for server in self._servers:
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
        hellos = {
            s.name: s.hello.get("legacy") or s.hello.get("modern") for s in self._servers if session.missing.get(s.name) is None
        }
        result: dict[str, Any] = {
            "protocolVersion": version,
            "capabilities": capabilities(hellos, legacy=True),
            "serverInfo": bridge_info(),
        }
        said = instructions(hellos, causes)
        if said:
            result["instructions"] = said
        return m.result(x.request.id, result)

    async def _open(self, session: ClientSession, server: Server) -> str | None:
        """Open the session's link to one server; the cause if that failed. Never raises but CancelledError."""
        try:
            assert session.initialize is not None
            backend = min(server.backends, key=lambda b: (b.state == "down", b.active))
            response = await open_link(session, backend, session.initialize, backend.pool.start_timeout)
        except BridgeError as error:
            return str(error)
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
        answers = await asyncio.gather(*(self._discover_one(x, server) for server in self._servers))
        hellos: dict[str, bytes | None] = {}
        causes: dict[str, str] = {}
        for server, (hello, cause) in zip(self._servers, answers, strict=True):
            if cause is not None:
                causes[server.name] = cause
            if hello is not None:
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

    async def _discover_one(self, x: Exchange, server: Server) -> tuple[bytes | None, str | None]:
        known = server.hello.get("modern") or server.hello.get("legacy")
        try:
            response = await self._patience.answer(server, self._ask(x, server, x.request))
        except BridgeError as error:
            return None, str(error)
        if isinstance(response, str):
            return known, response
        return (bytes(response.result), None) if response.result is not None else (known, "it refused server/discover")

    async def _set_level(self, x: Exchange) -> Response:
        level = text(x.request.param("level"))
        if level not in LOG_LEVELS:
            raise BridgeError("invalid_params", f"level {level!r} is not one of {', '.join(LOG_LEVELS)}", sent=False)
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

    # Lists and calls

    async def _list(self, x: Exchange, member: str) -> Response:
        used: dict[str, Backend] = {}

        async def ask(x: Exchange, server: Server, request: Request) -> Response:
            part = x.derive(request, server)
            response = await self._ask_part(x, part)
            if part.backend is not None:
                used[server.name] = part.backend
            return response

        response, causes = await merged_list(x, self._servers, member, ask, self._show(member), self._patience)
        x.answered_by = [used[server.name] for server in self._servers if server.name in used]
        if x.session is not None:
            for name, cause in causes.items():
                if name not in x.session.missing:
                    x.session.missing[name] = cause
                    x.session.tell_missing(name)
            for name in set(x.session.missing) - set(causes):
                del x.session.missing[name]
        return response

    def _show(self, member: str) -> Callable[[Exchange, Server, Members], Raw | None]:
        def show(x: Exchange, server: Server, item: Members) -> Raw | None:
            identity = text(item.get({"resources": "uri", "resourceTemplates": "uriTemplate"}.get(member, "name")))
            if identity is None or not self._visible(x.caller, member, server.name, identity):
                return None
            if member == "resources":
                shown = self._owners.listed(server.name, identity)
                return Raw(m.join(item if shown == identity else {**item, "uri": Raw(m.dumps(shown))}))
            if member == "resourceTemplates":
                self._owners.template(server.name, identity)
                return Raw(m.join(item))
            return Raw(m.join({**item, "name": Raw(m.dumps(self._exposed(server, identity)))}))

        return show

    def _exposed(self, server: Server, name: str) -> str:
        if not self._parts[server.name].prefix:
            return name
        exposed = expose(server.name, name, self._max_name)
        if len(server.name) + 2 + len(name) > self._max_name:
            self._shortened[exposed] = (server.name, name)
        return exposed

    async def _by_name(self, x: Exchange, kind: str) -> Response:
        exposed = text(x.request.param("name"))
        if exposed is None:
            raise BridgeError("invalid_params", "name is missing", sent=False)
        candidates = await self._candidates(x, kind, exposed)
        asked = self._asked_before(x)
        if asked is not None:
            candidates = [candidate for candidate in candidates if candidate[0] is asked]
        for number, (server, name) in enumerate(candidates):
            if not self._visible(x.caller, kind, server.name, name):
                continue
            request = x.request
            if name != exposed:
                request = request.with_params({**(request.params or {}), "name": Raw(m.dumps(name))})
            try:
                return self._linked(server, await self._ask(x, server, request))
            except BridgeError as error:
                if error.sent or number == len(candidates) - 1:
                    raise
        raise BridgeError("invalid_params", f"unknown {kind.removesuffix('s')} {exposed!r}", sent=False)

    async def _candidates(self, x: Exchange, kind: str, exposed: str) -> list[tuple[Server, str]]:
        """Who may own an exposed name, first choice first: our own server, then the gateways that pass names unchanged."""
        found = self._shortened.get(exposed) or owner(exposed, (n for n, part in self._parts.items() if part.prefix))
        passing = [(part.server, exposed) for part in self._parts.values() if not part.prefix]
        if found is None and not passing and len(exposed) == self._max_name and x.notes.get("relisted") is None:
            x.notes["relisted"] = True  # a shortened name from before our start: the lists teach it
            listing = m.request(x.request.id, f"{kind}/list", {"_meta": x.request.param("_meta")} if x.request.meta else None)
            part = x.derive(listing, self._servers[0])
            part.target = x.target
            await self._list(part, kind)
            found = self._shortened.get(exposed)
        return ([(self._parts[found[0]].server, found[1])] if found is not None else []) + passing

    async def _by_uri(self, x: Exchange) -> Response:
        uri = text(x.request.param("uri"))
        if uri is None:
            raise BridgeError("invalid_params", "uri is missing", sent=False)
        name, own = self._owners.of(uri)
        request = x.request if own == uri else x.request.with_params({**(x.request.params or {}), "uri": Raw(m.dumps(own))})
        asked = self._asked_before(x)
        if name is None and asked is not None and self._visible(x.caller, "resources", asked.name, own):
            name = asked.name
        if name is not None:
            return self._linked(self._parts[name].server, await self._ask(x, self._parts[name].server, request))
        answer: Response | None = None
        failure: BridgeError | None = None
        for server in self._servers:
            if not self._visible(x.caller, "resources", server.name, own):
                continue
            try:
                answer = await self._ask(x, server, request)
            except BridgeError as error:
                failure = error
                continue
            if answer.error is None:
                return self._linked(server, answer)
        if answer is not None:
            return answer
        raise failure or BridgeError("invalid_params", f"no server knows the resource {uri}", sent=False)

    async def _complete(self, x: Exchange) -> Response:
        ref = members(x.request.param("ref") or b"{}")
        params = dict(x.request.params or {})
        if text(ref.get("type")) == "ref/resource":
            name, own = self._owners.of(text(ref.get("uri")) or "")
            if name is None:
                raise BridgeError("invalid_params", "unknown resource template", sent=False)
            params["ref"] = Raw(m.join({**ref, "uri": Raw(m.dumps(own))}))
            return await self._ask(x, self._parts[name].server, x.request.with_params(params))
        candidates = await self._candidates(x, "prompts", text(ref.get("name")) or "")
        if not candidates:
            raise BridgeError("invalid_params", "unknown prompt", sent=False)
        server, prompt = candidates[0]
        params["ref"] = Raw(m.join({**ref, "name": Raw(m.dumps(prompt))}))
        return await self._ask(x, server, x.request.with_params(params))

    def _asked_before(self, x: Exchange) -> Server | None:
        """The server that a call in its second round belongs to: the others never hear of it."""
        state = self._servers[0].backends[0].states.peek(x) if continues(x) else None
        part = self._parts.get(state.server) if state is not None else None
        return part.server if part is not None else None

    def _linked(self, server: Server, response: Response) -> Response:
        """Resource links and contents in a result show the URI that this endpoint uses; bytes stay unless one is aliased."""
        if response.result is None or not self._owners.has_aliases(server.name):
            return response
        result = dict(members(response.result))
        for member in ("content", "contents"):
            if member in result:
                result[member] = Raw(
                    b"[" + b",".join(bytes(self._relinked(server, item)) for item in items(result[member])) + b"]"
                )
        return response.with_result(m.join(result))

    def _relinked(self, server: Server, item: Raw) -> Raw:
        said = members(item)
        if "resource" in said:
            return Raw(m.join({**said, "resource": self._relinked(server, said["resource"])}))
        uri = text(said.get("uri"))
        if uri is None:
            return item
        return Raw(m.join({**said, "uri": Raw(m.dumps(self._owners.shown(server.name, uri)))}))

    async def _ask(self, x: Exchange, server: Server, request: Request) -> Response:
        return await self._ask_part(x, x.derive(request, server))

    async def _ask_part(self, x: Exchange, part: Exchange) -> Response:
        try:
            response = await self._one(part)
        finally:
            x.backend = part.backend or x.backend
            x.attempts += part.attempts
        assert response is not None
        return response
