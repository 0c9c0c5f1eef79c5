"""A legacy-only MCP server on the official Python SDK 1.x (2024-11-05 to 2025-11-25), over HTTP, HTTP+SSE, WebSocket
and stdio.

It serves the whole catalogue; where a tool of 2026 would answer ``input_required``, it asks its client by a request of its own,
as SDK 1.x does: elicitation and sampling on the stream of the call, roots on the standalone one. Command line as
``dual_server.py``; environment ``sdk1``, or ``websocket`` for that transport.
"""

from __future__ import annotations

import asyncio
import logging
import sys
from typing import Any

import catalogue_rounds as content
import mcp.types as types
from catalogue import Call, Json, Refusal
from mcp.server.lowlevel import NotificationOptions, Server
from mcp.server.sse import SseServerTransport
from mcp.server.stdio import stdio_server
from mcp.shared import session
from mcp.shared.exceptions import McpError
from mcp.shared.message import ServerMessageMetadata
from mcp.shared.session import RequestResponder
from serving import LOCAL_ONLY, Sessions, options, serve, serve_app
from starlette.applications import Starlette
from starlette.responses import Response
from starlette.routing import Mount, Route, WebSocketRoute
from starlette.websockets import WebSocket

NAME = "legacy-only-test-server"
RESULTS: dict[str, type[types.Result]] = {
    "elicitation/create": types.ElicitResult,
    "sampling/createMessage": types.CreateMessageResult,
    "roots/list": types.ListRootsResult,
}


class Responder(RequestResponder[Any, Any]):
    """The SDK's responder, which ends the whole server when a cancel comes between a handler's end and its answer.

    Source: modelcontextprotocol/python-sdk issue 2416, open in 1.30; who was first wins here, as proposed there.
    """

    async def respond(self, response: Any) -> None:
        if not self._completed:
            await super().respond(response)

    async def cancel(self) -> None:
        if not self._completed:
            await super().cancel()


class LegacyServer(Server[dict[str, Any], Any]):
    """The SDK's server with list_changed declared, and with the subscriptions that it has."""

    def create_initialization_options(self, *args: Any, **kwargs: Any) -> Any:
        kwargs.setdefault("notification_options", NotificationOptions(True, True, True))
        chosen = super().create_initialization_options(*args, **kwargs)
        if chosen.capabilities.resources is not None:
            chosen.capabilities.resources.subscribe = True  # the SDK says False whatever its handlers are
        return chosen


class SdkCall(Call):
    """A call, over this SDK."""

    def __init__(self, ctx: Any, arguments: Json | None, watched: set[str]) -> None:
        super().__init__(dict(arguments or {}))
        self.ctx = ctx
        self.watched = watched

    @property
    def is_modern(self) -> bool:
        return False

    def declared(self, capability: str) -> bool:
        client = self.ctx.session.client_params
        return client is not None and getattr(client.capabilities, capability) is not None

    async def log(self, text: str, level: str = "info") -> None:
        await self.ctx.session.send_log_message(level, text, logger="test", related_request_id=self.ctx.request_id)

    async def progress(self, done: float, total: float) -> None:
        token = self.ctx.meta.progressToken if self.ctx.meta else None
        if token is not None:
            said = f"step {done:g} of {total:g}"
            related = str(self.ctx.request_id)
            await self.ctx.session.send_progress_notification(token, done, total, said, related_request_id=related)

    async def announce(self, kind: str, uri: str | None) -> None:
        if uri is not None:
            if uri in self.watched:
                await self.ctx.session.send_resource_updated(uri)
        elif kind == "tools":
            await self.ctx.session.send_tool_list_changed()
        else:
            await self.ctx.session.send_prompt_list_changed()

    async def request(self, method: str, params: Json | None) -> Json:
        question = types.ServerRequest.model_validate({"method": method, "params": params} if params else {"method": method})
        related = None if method == "roots/list" else self.ctx.request_id  # as ServerSession.list_roots
        metadata = ServerMessageMetadata(related_request_id=related)
        answer = await self.ctx.session.send_request(question, RESULTS[method], metadata=metadata)
        return dict(answer.model_dump(by_alias=True, mode="json", exclude_none=True))

    async def close_stream(self) -> None:
        if self.ctx.close_sse_stream is not None:
            await self.ctx.close_sse_stream()


def refused(refusal: Refusal) -> McpError:
    return McpError(types.ErrorData(code=refusal.code, message=refusal.message, data=refusal.data))


class Handlers:
    """The request handlers of one server process, by type of request."""

    def __init__(self, server: LegacyServer) -> None:
        self.server = server
        self.watched: set[str] = set()
        server.request_handlers |= {
            types.ListToolsRequest: self.list_tools,
            types.CallToolRequest: self.call_tool,
            types.ListPromptsRequest: self.list_prompts,
            types.GetPromptRequest: self.get_prompt,
            types.ListResourcesRequest: self.list_resources,
            types.ListResourceTemplatesRequest: self.list_templates,
            types.ReadResourceRequest: self.read_resource,
            types.SubscribeRequest: self.subscribe,
            types.UnsubscribeRequest: self.unsubscribe,
            types.SetLevelRequest: self.set_level,
            types.CompleteRequest: self.complete,
        }

    async def list_tools(self, request: Any) -> types.ServerResult:
        return types.ServerResult(types.ListToolsResult.model_validate({"tools": content.tool_list()}))

    async def call_tool(self, request: types.CallToolRequest) -> types.ServerResult:
        call = SdkCall(self.server.request_context, request.params.arguments, self.watched)
        try:
            return types.ServerResult(types.CallToolResult.model_validate(await content.call_tool(request.params.name, call)))
        except Refusal as refusal:
            raise refused(refusal) from refusal

    async def list_prompts(self, request: Any) -> types.ServerResult:
        return types.ServerResult(types.ListPromptsResult.model_validate({"prompts": content.prompt_list()}))

    async def get_prompt(self, request: types.GetPromptRequest) -> types.ServerResult:
        call = SdkCall(self.server.request_context, request.params.arguments, self.watched)
        try:
            return types.ServerResult(types.GetPromptResult.model_validate(await content.get_prompt(request.params.name, call)))
        except Refusal as refusal:
            raise refused(refusal) from refusal

    async def list_resources(self, request: Any) -> types.ServerResult:
        return types.ServerResult(types.ListResourcesResult.model_validate({"resources": content.resource_list()}))

    async def list_templates(self, request: Any) -> types.ServerResult:
        rows = {"resourceTemplates": content.template_list()}
        return types.ServerResult(types.ListResourceTemplatesResult.model_validate(rows))

    async def read_resource(self, request: types.ReadResourceRequest) -> types.ServerResult:
        try:
            found = content.read(str(request.params.uri), is_modern=False)
        except Refusal as refusal:
            raise refused(refusal) from refusal
        return types.ServerResult(types.ReadResourceResult.model_validate(found))

    async def subscribe(self, request: types.SubscribeRequest) -> types.ServerResult:
        self.watched.add(str(request.params.uri))
        return types.ServerResult(types.EmptyResult())

    async def unsubscribe(self, request: types.UnsubscribeRequest) -> types.ServerResult:
        self.watched.discard(str(request.params.uri))
        return types.ServerResult(types.EmptyResult())

    async def set_level(self, request: types.SetLevelRequest) -> types.ServerResult:
        return types.ServerResult(types.EmptyResult())

    async def complete(self, request: types.CompleteRequest) -> types.ServerResult:
        found = {"completion": content.completion(request.params.argument.value)}
        return types.ServerResult(types.CompleteResult.model_validate(found))


def build() -> LegacyServer:
    """The server with all handlers."""
    server = LegacyServer(NAME, version="1.0.0", instructions=content.INSTRUCTIONS)
    Handlers(server)
    return server


async def serve_stdio() -> None:
    server = build()
    async with stdio_server() as (reader, writer):
        await server.run(reader, writer, server.create_initialization_options())


def sse_app() -> Starlette:
    """HTTP+SSE with the SDK's own transport: a server for each stream."""
    transport = SseServerTransport("/messages/", security_settings=LOCAL_ONLY)

    async def stream(request: Any) -> Response:
        server = build()
        async with transport.connect_sse(request.scope, request.receive, request._send) as (reader, writer):
            await server.run(reader, writer, server.create_initialization_options())
        return Response()

    return Starlette(routes=[Route("/sse", stream), Mount("/messages/", transport.handle_post_message)])


def websocket_app() -> Starlette:
    """WebSocket with the SDK's own transport: a server for each connection."""
    from mcp.server.websocket import websocket_server

    async def talk(socket: WebSocket) -> None:
        server = build()
        async with websocket_server(socket.scope, socket._receive, socket._send, security_settings=LOCAL_ONLY) as (
            reader,
            writer,
        ):
            await server.run(reader, writer, server.create_initialization_options())

    return Starlette(routes=[WebSocketRoute("/ws", talk)])


def main() -> int:
    chosen = options("legacy-only MCP server for tests")
    session.RequestResponder = Responder  # type: ignore[misc]
    if chosen.stdio:
        asyncio.run(serve_stdio())
    elif chosen.websocket:
        serve_app(websocket_app(), chosen.port)
    elif chosen.sse:
        serve_app(sse_app(), chosen.port)
    else:
        logging.getLogger("mcp.server").setLevel(logging.CRITICAL)  # it logs a traceback for every stream that a client closes
        sessions = Sessions(build())
        serve(sessions, sessions, chosen.port)
    return 0


if __name__ == "__main__":
    sys.exit(main())
