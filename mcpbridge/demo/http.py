"""The demo server over Streamable HTTP, both eras: ``python -m mcpbridge.demo.http [--port P] [--name N]``.

    POST /mcp      a message; the answer is JSON, or SSE as soon as something has to be said before it
    GET /mcp       legacy session: what belongs to no call
    DELETE /mcp    legacy session: its end

Source: mcp-eras sections 1.2 and 1.3.
"""

from __future__ import annotations

import argparse
import asyncio
import secrets
import signal

from mcpbridge.demo.server import DemoServer, Session
from mcpbridge.errors import FAULTS, BridgeError, to_wire
from mcpbridge.policies.hosts import LOOPBACK, host_rules, refusal
from mcpbridge.transports.http1.server import HttpRequest, HttpServer, Responder
from mcpbridge.wire import message as m
from mcpbridge.wire.envelope import parse
from mcpbridge.wire.message import Notification, Request, RequestId, Response
from mcpbridge.wire.spec import classify
from mcpbridge.wire.sse import encode_event

ADDRESS = "127.0.0.1"
MAX_SESSIONS = 1000  # the oldest goes first
JSON = ("content-type", "application/json")
SSE = [("content-type", "text/event-stream"), ("cache-control", "no-cache"), ("x-accel-buffering", "no")]


class DemoHttp:
    """The demo server behind an HTTP server; ``start`` it, then ``close`` it."""

    def __init__(self, name: str) -> None:
        self._demo = DemoServer(name)
        self._rules = host_rules(LOOPBACK)
        self._sessions: dict[str, Session] = {}
        self._calls: dict[tuple[str, RequestId], asyncio.Task[object]] = {}
        self.server = HttpServer(self._handle)

    async def start(self, port: int = 0) -> int:
        """Listen on the loopback address; port 0 takes a free one. Returns the port. Raises OSError."""
        return (await self.server.start(ADDRESS, port))[1]

    async def close(self) -> None:
        await self.server.close()

    async def _handle(self, request: HttpRequest, responder: Responder) -> None:
        refused = refusal(self._rules, request.headers.get("host"), request.headers.get("origin"))
        if refused is not None:
            await responder.respond(refused.status, [], refused.text.encode())
        elif request.path != "/mcp":
            await responder.respond(404)
        elif request.method == "POST":
            try:
                await self._post(request, responder)
            except BridgeError as error:
                await responder.respond(error.fault.status, [JSON], m.error(error.id, to_wire(error)).encode())
        elif request.method in ("GET", "DELETE") and "mcp-session-id" in request.headers:
            await self._operate(request, responder)
        else:
            await responder.respond(405, [("allow", "POST")])

    async def _post(self, request: HttpRequest, responder: Responder) -> None:
        message = parse(request.body)
        if isinstance(message, list):
            raise BridgeError("invalid_request", "batches are not supported")
        is_modern = classify(message, request.headers.get("mcp-protocol-version")) == "modern"
        session_id, headers = "", [JSON]
        if is_modern:
            session = Session(_nowhere)
        elif isinstance(message, Request) and message.method == "initialize":
            session_id, session = secrets.token_hex(16), Session(_nowhere)
            while len(self._sessions) >= MAX_SESSIONS:
                self._demo.sessions.discard(self._sessions.pop(next(iter(self._sessions))))
            self._sessions[session_id] = session
            headers.append(("mcp-session-id", session_id))
        else:
            session_id, session = self._session(request)
        if not isinstance(message, Request):
            self._noted(message, session_id)
            await responder.respond(202)
            return
        key = session_id, message.id
        task = asyncio.current_task()
        if not is_modern and task is not None:
            responder.on_gone = lambda: None  # a legacy client that is gone has not cancelled
            self._calls[key] = task
        try:
            response = await self._answer(message, session, responder, dict(request.headers.items()) if is_modern else None)
        except asyncio.CancelledError:
            if is_modern:
                raise
            await (responder.end() if responder.started else responder.respond(202))  # cancelled: nothing more may be said
            return
        finally:
            self._calls.pop(key, None)
        if responder.started:
            responder.send(encode_event(response.encode()))
            await responder.end()
        else:
            await responder.respond(_status(response, is_modern), headers, response.encode())

    async def _answer(
        self, message: Request, session: Session, responder: Responder, headers: dict[str, str] | None
    ) -> Response:
        def notify(notification: Notification) -> None:
            if not responder.started:
                responder.start_now(200, SSE)
            responder.send(encode_event(notification.encode()))

        return await self._demo.answer(message, session, notify, headers)

    def _noted(self, message: Notification | Response, session_id: str) -> None:
        if isinstance(message, Notification) and message.method == "notifications/cancelled":
            named = message.param("requestId")
            task = self._calls.get((session_id, m.loads(named))) if named is not None and session_id else None
            if task is not None:
                task.cancel()

    def _session(self, request: HttpRequest) -> tuple[str, Session]:
        session_id = request.headers.get("mcp-session-id")
        if session_id is None:
            raise BridgeError("session_required")
        if session_id not in self._sessions:
            raise BridgeError("session_unknown")
        return session_id, self._sessions[session_id]

    async def _operate(self, request: HttpRequest, responder: Responder) -> None:
        """GET and DELETE of a legacy session."""
        session = self._sessions.get(request.headers.get("mcp-session-id") or "")
        if session is None:
            await responder.respond(404)
        elif request.method == "DELETE":
            self._sessions.pop(request.headers.get("mcp-session-id") or "")
            self._demo.sessions.discard(session)
            await responder.respond(200)
        else:
            await responder.start(200, SSE)
            session.push = lambda notification: responder.send(encode_event(notification.encode()))
            self._demo.sessions.add(session)
            try:
                await asyncio.Event().wait()  # the client ends its stream, or the server does
            finally:
                self._demo.sessions.discard(session)


def _nowhere(notification: Notification) -> None:
    """What belongs to no call has no way to a client without a stream."""


def _status(response: Response, is_modern: bool) -> int:
    if response.error is None:
        return 200
    fault = FAULTS[m.loads(response.error)["data"]["reason"]]
    return fault.status if is_modern else fault.legacy_status


async def serve(name: str, port: int) -> None:
    """Serve until SIGTERM or SIGINT; prints the URL as the first line on stdout."""
    demo = DemoHttp(name)
    bound = await demo.start(port)
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    print(f"http://{ADDRESS}:{bound}/mcp", flush=True)
    await stop.wait()
    await demo.close()


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser("python -m mcpbridge.demo.http", description="A small MCP server over HTTP on loopback.")
    parser.add_argument("--port", type=int, default=0, help="0: a free one; the first line on stdout is the URL (default: 0)")
    parser.add_argument("--name", default="demo", help="the name it gives itself (default: demo)")
    options = parser.parse_args()
    asyncio.run(serve(options.name, options.port))


if __name__ == "__main__":
    main()
