"""A dual-era MCP server on the official Python SDK 2.x that passes both conformance suites without a bridge.

``python dual_server.py [--port N]`` serves Streamable HTTP at ``http://localhost:PORT/mcp`` (0: a free port) and prints one
JSON line ``{"port": N}``; ``python dual_server.py --stdio`` serves stdin and stdout. Runs in the environment ``sdk2``.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import re
import socket
import sys
import warnings
from typing import Any

import dual_rounds
import uvicorn
from dual_content import TOOLS, Answer, Call, Json, Question, text
from mcp.server import NotificationOptions, Server, ServerRequestContext
from mcp.server.request_state import RequestStateBoundary, RequestStateSecurity
from mcp.server.stdio import stdio_server
from mcp.server.streamable_http import EventCallback, EventMessage, EventStore
from mcp.server.streamable_http_manager import StreamableHTTPSessionManager
from mcp.server.subscriptions import (
    InMemorySubscriptionBus,
    ListenHandler,
    PromptsListChanged,
    ResourceUpdated,
    ToolsListChanged,
)
from mcp.server.transport_security import TransportSecuritySettings
from mcp.shared.exceptions import MCPError
from mcp.types import (
    INVALID_PARAMS,
    CallToolRequestParams,
    CallToolResult,
    CompleteResult,
    Completion,
    EmptyResult,
    GetPromptRequestParams,
    GetPromptResult,
    InputRequiredResult,
    JSONRPCMessage,
    ListPromptsResult,
    ListResourcesResult,
    ListResourceTemplatesResult,
    ListToolsResult,
    ReadResourceRequestParams,
    ReadResourceResult,
    SetLevelRequestParams,
    SubscribeRequestParams,
    UnsubscribeRequestParams,
)
from mcp_types.version import MODERN_PROTOCOL_VERSIONS
from starlette.applications import Starlette
from starlette.routing import Route

Context = ServerRequestContext[Any, Any]
NAME = "dual-era-test-server"
LOCAL_ONLY = TransportSecuritySettings(
    enable_dns_rebinding_protection=True,
    allowed_hosts=["127.0.0.1:*", "localhost:*"],
    allowed_origins=["http://127.0.0.1:*", "http://localhost:*"],
)
RESOURCE_NOT_FOUND_LEGACY = -32002


class EventLog(EventStore):
    """Events per stream in memory; an event id is ``position:stream`` so that a replay finds its stream by itself."""

    def __init__(self) -> None:
        self.streams: dict[str, list[JSONRPCMessage | None]] = {}

    async def store_event(self, stream_id: str, message: JSONRPCMessage | None) -> str:
        events = self.streams.setdefault(stream_id, [])
        events.append(message)
        return f"{len(events)}:{stream_id}"

    async def replay_events_after(self, last_event_id: str, send_callback: EventCallback) -> str | None:
        position, _, stream = last_event_id.partition(":")
        if stream not in self.streams or not position.isdigit():
            return None
        for number, message in enumerate(self.streams[stream][int(position) :], int(position) + 1):
            if message is not None:
                await send_callback(EventMessage(message, f"{number}:{stream}"))
        return stream


class Sessions(StreamableHTTPSessionManager):
    """The SDK's session manager with two differences that its own cannot be told by options.

    Every session has an event log of its own (the SDK keys streams by request id alone, so two sessions would replay each
    other's events), and the version that a session negotiated wins over the header of its later requests (suite 0.1.16
    names 2025-03-26 in sessions of 2025-11-25 and then expects the priming of the latter).
    """

    def __init__(self, server: Server[dict[str, Any]]) -> None:
        super().__init__(app=server, retry_interval=100, security_settings=LOCAL_ONLY)
        self.negotiated: dict[str, bytes] = {}

    @property
    def event_store(self) -> EventStore:
        return EventLog()

    @event_store.setter
    def event_store(self, value: EventStore | None) -> None:
        """The base class sets its option here; ours are made per session."""

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        headers: dict[bytes, bytes] = dict(scope["headers"])
        session = headers.get(b"mcp-session-id", b"").decode("latin-1")
        if session in self.negotiated:
            kept = [(name, value) for name, value in scope["headers"] if name != b"mcp-protocol-version"]
            scope = {**scope, "headers": [*kept, (b"mcp-protocol-version", self.negotiated[session])]}
        opened = ""

        async def watch(message: Any) -> None:
            nonlocal opened
            if message["type"] == "http.response.start":
                opened = dict(message["headers"]).get(b"mcp-session-id", b"").decode("latin-1")
            elif opened and (found := re.search(rb'"protocolVersion": ?"([\d-]+)"', message.get("body", b""))):
                self.negotiated[opened], opened = found[1], ""
            await send(message)

        await self.asgi_app(scope, receive, send if session else watch)


class DualServer(Server[dict[str, Any]]):
    """The SDK's server with list_changed declared in the legacy handshake as well."""

    def create_initialization_options(self, *args: Any, **kwargs: Any) -> Any:
        kwargs.setdefault("notification_options", NotificationOptions(True, True, True))
        return super().create_initialization_options(*args, **kwargs)


def wire(value: Any) -> Any:
    """A model, or a dict of models, as the JSON that was on the wire."""
    if isinstance(value, dict):
        return {key: wire(member) for key, member in value.items()}
    return value.model_dump(by_alias=True, mode="json", exclude_none=True) if hasattr(value, "model_dump") else value


def completed(answer: Answer) -> Json:
    """A tool's answer as a complete tools/call result."""
    if isinstance(answer, str):
        answer = [text(answer)]
    return {"content": answer} if isinstance(answer, list) else answer


class Handlers:
    """The request handlers of one server process."""

    def __init__(self) -> None:
        self.bus = InMemorySubscriptionBus()
        self.watched: set[str] = set()

    def call_of(self, ctx: Context, params: CallToolRequestParams | GetPromptRequestParams) -> Call:
        async def announce(kind: str, uri: str | None) -> None:
            if ctx.protocol_version in MODERN_PROTOCOL_VERSIONS:
                events = {"tools": ToolsListChanged, "prompts": PromptsListChanged}
                await self.bus.publish(ResourceUpdated(uri=uri) if uri is not None else events[kind]())
            elif uri is not None:
                if uri in self.watched:
                    await ctx.session.send_resource_updated(uri)
            elif kind == "tools":
                await ctx.session.send_tool_list_changed()
            else:
                await ctx.session.send_prompt_list_changed()

        return Call(ctx, dict(params.arguments or {}), wire(params.input_responses), params.request_state, announce)

    async def list_tools(self, ctx: Context, params: Any) -> ListToolsResult:
        rows = [{"name": name, "description": row.about, "inputSchema": row.schema, **row.extra} for name, row in TOOLS.items()]
        return ListToolsResult.model_validate({"tools": rows, "ttlMs": 1000, "cacheScope": "public"})

    async def call_tool(self, ctx: Context, params: CallToolRequestParams) -> CallToolResult | InputRequiredResult:
        if params.name not in TOOLS:
            raise MCPError(code=INVALID_PARAMS, message=f"Unknown tool: {params.name}")
        call = self.call_of(ctx, params)
        try:
            return CallToolResult.model_validate(completed(await TOOLS[params.name].run(call)))
        except Question as question:
            return InputRequiredResult.model_validate(question.result)
        except KeyError as err:
            raise MCPError(code=INVALID_PARAMS, message=f"missing argument {err}") from err

    async def list_prompts(self, ctx: Context, params: Any) -> ListPromptsResult:
        rows = [
            {"name": name, "description": name.replace("_", " "), "arguments": [{"name": n, "required": True} for n in names]}
            for name, (_, names) in dual_rounds.PROMPTS.items()
        ]
        return ListPromptsResult.model_validate({"prompts": rows, "ttlMs": 1000, "cacheScope": "public"})

    async def get_prompt(self, ctx: Context, params: GetPromptRequestParams) -> GetPromptResult | InputRequiredResult:
        if params.name not in dual_rounds.PROMPTS:
            raise MCPError(code=INVALID_PARAMS, message=f"Unknown prompt: {params.name}")
        run, required = dual_rounds.PROMPTS[params.name]
        if absent := [name for name in required if name not in (params.arguments or {})]:
            raise MCPError(code=INVALID_PARAMS, message=f"missing argument {', '.join(absent)}")
        try:
            return GetPromptResult.model_validate({"messages": await run(self.call_of(ctx, params))})
        except Question as question:
            return InputRequiredResult.model_validate(question.result)

    async def list_resources(self, ctx: Context, params: Any) -> ListResourcesResult:
        rows = [
            {"uri": uri, "name": uri.removeprefix("test://"), "mimeType": contents["mimeType"]}
            for uri, contents in dual_rounds.RESOURCES.items()
        ]
        return ListResourcesResult.model_validate({"resources": rows, "ttlMs": 1000, "cacheScope": "public"})

    async def list_templates(self, ctx: Context, params: Any) -> ListResourceTemplatesResult:
        row = {"uriTemplate": dual_rounds.TEMPLATE, "name": "template", "mimeType": "application/json"}
        return ListResourceTemplatesResult.model_validate({"resourceTemplates": [row], "ttlMs": 1000, "cacheScope": "public"})

    async def read_resource(self, ctx: Context, params: ReadResourceRequestParams) -> ReadResourceResult:
        uri = str(params.uri)
        contents = dual_rounds.read(uri)
        if contents is None:
            is_modern = ctx.protocol_version in MODERN_PROTOCOL_VERSIONS
            raise MCPError(
                code=INVALID_PARAMS if is_modern else RESOURCE_NOT_FOUND_LEGACY, message="Resource not found", data={"uri": uri}
            )
        return ReadResourceResult.model_validate({"contents": [contents], "ttlMs": 1000, "cacheScope": "private"})

    async def subscribe(self, ctx: Context, params: SubscribeRequestParams) -> EmptyResult:
        self.watched.add(str(params.uri))
        return EmptyResult()

    async def unsubscribe(self, ctx: Context, params: UnsubscribeRequestParams) -> EmptyResult:
        self.watched.discard(str(params.uri))
        return EmptyResult()

    async def set_level(self, ctx: Context, params: SetLevelRequestParams) -> EmptyResult:
        return EmptyResult()

    async def complete(self, ctx: Context, params: Any) -> CompleteResult:
        values = [word for word in ("alpha", "beta", "testing") if word.startswith(params.argument.value)]
        return CompleteResult(completion=Completion(values=values, total=len(values), has_more=False))


def build() -> DualServer:
    """The server with all handlers, the listen stream and sealed request states."""
    handlers = Handlers()
    warnings.simplefilter("ignore")  # the SDK warns about logging, which the legacy era still needs
    server = DualServer(
        NAME,
        version="1.0.0",
        instructions="A server of the bridge's own tests.",
        on_list_tools=handlers.list_tools,
        on_call_tool=handlers.call_tool,
        on_list_prompts=handlers.list_prompts,
        on_get_prompt=handlers.get_prompt,
        on_list_resources=handlers.list_resources,
        on_list_resource_templates=handlers.list_templates,
        on_read_resource=handlers.read_resource,
        on_subscribe_resource=handlers.subscribe,
        on_unsubscribe_resource=handlers.unsubscribe,
        on_subscriptions_listen=ListenHandler(handlers.bus),
        on_completion=handlers.complete,
        on_set_logging_level=handlers.set_level,
    )
    server.middleware.append(RequestStateBoundary(RequestStateSecurity.ephemeral(), default_audience=NAME))
    return server


async def serve_stdio() -> None:
    server = build()
    async with stdio_server() as (reader, writer):
        await server.run(reader, writer, server.create_initialization_options())


def serve_http(port: int) -> None:
    listener = socket.create_server(("127.0.0.1", port))
    print(json.dumps({"port": listener.getsockname()[1]}), flush=True)
    sessions = Sessions(build())
    app = Starlette(routes=[Route("/mcp", sessions)], lifespan=lambda _: sessions.run())
    config = uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=1)
    uvicorn.Server(config).run(sockets=[listener])


def main() -> int:
    parser = argparse.ArgumentParser(description="dual-era MCP server for tests")
    parser.add_argument("--stdio", action="store_true", help="serve stdin and stdout instead of HTTP")
    parser.add_argument("--port", type=int, default=0, help="TCP port on 127.0.0.1; 0 picks a free one")
    options = parser.parse_args()
    if options.stdio:
        asyncio.run(serve_stdio())
    else:
        serve_http(options.port)
    return 0


if __name__ == "__main__":
    sys.exit(main())
