"""A router's answer to `initialize` before its one server is up, and the keeping of what that answer promised.

An editor waits for nobody. What the server said last is told at once; of an unknown one, after a bounded wait, that it may have
everything. It may turn out to have less: then what the client was told it may ask is answered with nothing, not with an error.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from weakref import WeakSet

from msgspec import Raw

from mcpbridge.core.client_session import ClientSession
from mcpbridge.core.exchange import Exchange, Handler, Policy
from mcpbridge.core.route import open_link
from mcpbridge.core.server import Server
from mcpbridge.core.tasks import share
from mcpbridge.observe.snapshot import Client
from mcpbridge.wire import message as m
from mcpbridge.wire.envelope import members
from mcpbridge.wire.message import Request, Response
from mcpbridge.wire.spec import CLIENT_INFO

NO_METHOD = b"-32601"  # JSON-RPC 2.0, section 5.1
MAX_SAID = 100  # characters of a client's name or version that are kept
KINDS = ("tools", "prompts", "resources")
#: what a client may ask by the capabilities of a made-up answer -> the result of a server that has nothing of the kind
NOTHING: dict[str, dict[str, list[object]]] = {
    "tools/list": {"tools": []},
    "prompts/list": {"prompts": []},
    "resources/list": {"resources": []},
    "resources/templates/list": {"resourceTemplates": []},
    "logging/setLevel": {},
}


def introduced(told: Callable[[Client], None]) -> Policy:
    """Say once who the client says it is: a legacy one in `initialize`, a modern one in the `_meta` of each request."""
    is_known = False

    def policy(x: Exchange, handler: Handler) -> Awaitable[Response | None]:
        nonlocal is_known
        request = x.message
        if not is_known and isinstance(request, Request):
            info = request.meta.get(CLIENT_INFO) if x.caller.era == "modern" else request.param("clientInfo")
            if info is not None:
                said = m.loads(info)
                is_known = True
                if isinstance(said, dict):
                    name, version = (str(said.get(key, ""))[:MAX_SAID] for key in ("name", "version"))
                    told(Client(name, version, x.caller.era))
        return handler(x)

    return policy


def prompt_initialize(server: Server, wait: float) -> Policy:
    """Answer a legacy `initialize` of a single server at once from what it said last, or after ``wait`` seconds at most.

    The server goes on starting; when it is up and says something else, or fails, the client is told.
    """
    early: WeakSet[ClientSession] = WeakSet()  # those that were answered before the server was up

    async def policy(x: Exchange, handler: Handler) -> Response | None:
        request, session = x.message, x.session
        if not isinstance(request, Request) or session is None or x.caller.era != "legacy":
            return await handler(x)
        if request.method != "initialize":
            response = await handler(x)
            if response is not None and session in early and _lacks(response, request.method):
                return m.result(request.id, NOTHING[request.method])
            return response
        known = _usable(server.hello, session.record.version)
        backend = server.choose(x, set())
        opening = share(backend.spawn, open_link(session, backend, request, backend.pool.start_timeout))
        opening.add_done_callback(_seen)  # whoever wanted the answer may be gone by then
        await asyncio.wait([opening], timeout=0.0 if known else wait)
        if opening.done():
            return opening.result()
        early.add(session)
        said = known or m.dumps(
            {
                "protocolVersion": session.record.version,
                "capabilities": {kind: {"listChanged": True} for kind in KINDS} | {"logging": {}},
                "serverInfo": {"name": server.name, "version": "unknown"},
                "instructions": f"Server {server.name!r} is still starting.",
            }
        )

        def up(done: asyncio.Future[Response]) -> None:
            if done.cancelled() or session.closed:
                return
            error = done.exception()
            if error is not None or done.result().error is not None:
                session.missing[server.name] = str(error) if error is not None else "it refused to initialize"
                session.tell_missing(server.name)
            elif bytes(done.result().result or b"") != said:
                for kind in members(members(done.result().result or b"{}").get("capabilities") or b"{}"):
                    if kind in KINDS:
                        session.notified(server, m.notification(f"notifications/{kind}/list_changed"))

        opening.add_done_callback(up)
        return Response(request.id, Raw(said))

    return policy


def _lacks(response: Response, method: str) -> bool:
    """Whether a server that was promised to have this says that it knows no such method."""
    return method in NOTHING and response.error is not None and bytes(members(response.error).get("code") or b"") == NO_METHOD


def _seen(done: asyncio.Future[Response]) -> None:
    if not done.cancelled():
        done.exception()


def _usable(hello: dict[str, bytes], version: str) -> bytes | None:
    """What the server said last, if it agreed to the same version then."""
    said = hello.get("legacy")
    if said is None or members(said).get("protocolVersion") != Raw(m.dumps(version)):
        return None
    return said
