"""A dual-era MCP server on the official Python SDK 2.x that passes both conformance suites without a bridge.

``python dual_server.py [--port N]`` serves Streamable HTTP at ``http://localhost:PORT/mcp`` (0: a free port) and prints one
JSON line ``{"port": N}``; ``python dual_server.py --stdio`` serves stdin and stdout. Runs in the environment ``sdk2``.
"""

from __future__ import annotations

import asyncio
import sys
import warnings
from typing import Any

import catalogue_rounds as content
from catalogue import Call, Json, Question, Refusal
from mcp.server import NotificationOptions, Server, ServerRequestContext
from mcp.server.request_state import RequestStateBoundary, RequestStateSecurity
from mcp.server.stdio import stdio_server
from mcp.server.subscriptions import (
    InMemorySubscriptionBus,
    ListenHandler,
    PromptsListChanged,
    ResourceUpdated,
    ToolsListChanged,
)
from mcp.shared.exceptions import MCPError
from mcp.types import (
    CallToolRequestParams,
    CallToolResult,
    CompleteResult,
    EmptyResult,
    GetPromptRequestParams,
    GetPromptResult,
    InputRequiredResult,
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
from serving import Sessions, options, serve

Context = ServerRequestContext[Any, Any]
PUBLIC: Json = {"ttlMs": 1000, "cacheScope": "public"}
PRIVATE: Json = {"ttlMs": 1000, "cacheScope": "private"}


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


class SdkCall(Call):
    """A call of either era, over this SDK."""

    def __init__(self, ctx: Context, params: CallToolRequestParams | GetPromptRequestParams, handlers: Handlers) -> None:
        super().__init__(dict(params.arguments or {}), wire(params.input_responses), params.request_state)
        self.ctx = ctx
        self.handlers = handlers

    @property
    def is_modern(self) -> bool:
        return self.ctx.protocol_version in MODERN_PROTOCOL_VERSIONS

    def declared(self, capability: str) -> bool:
        capabilities = self.ctx.session.client_capabilities
        return capabilities is not None and getattr(capabilities, capability) is not None

    async def log(self, text: str, level: str = "info") -> None:
        """The SDK withholds it from a modern client that asked for no level."""
        await self.ctx.session.send_log_message(level, text, logger="test", related_request_id=self.ctx.request_id)

    async def progress(self, done: float, total: float) -> None:
        await self.ctx.session.report_progress(done, total, f"step {done:g} of {total:g}")

    async def announce(self, kind: str, uri: str | None) -> None:
        if self.is_modern:
            events = {"tools": ToolsListChanged, "prompts": PromptsListChanged}
            await self.handlers.bus.publish(ResourceUpdated(uri=uri) if uri is not None else events[kind]())
        elif uri is not None:
            if uri in self.handlers.watched:
                await self.ctx.session.send_resource_updated(uri)
        elif kind == "tools":
            await self.ctx.session.send_tool_list_changed()
        else:
            await self.ctx.session.send_prompt_list_changed()

    async def request(self, method: str, params: Json | None) -> Json:
        return dict(await self.ctx.session._request_outbound.send_raw_request(method, params, None))

    async def close_stream(self) -> None:
        if self.ctx.close_sse_stream is not None:
            await self.ctx.close_sse_stream()


def refused(refusal: Refusal) -> MCPError:
    return MCPError(code=refusal.code, message=refusal.message, data=refusal.data)


class Handlers:
    """The request handlers of one server process."""

    def __init__(self) -> None:
        self.bus = InMemorySubscriptionBus()
        self.watched: set[str] = set()

    async def list_tools(self, ctx: Context, params: Any) -> ListToolsResult:
        return ListToolsResult.model_validate({"tools": content.tool_list(), **PUBLIC})

    async def call_tool(self, ctx: Context, params: CallToolRequestParams) -> CallToolResult | InputRequiredResult:
        try:
            return CallToolResult.model_validate(await content.call_tool(params.name, SdkCall(ctx, params, self)))
        except Question as question:
            return InputRequiredResult.model_validate(question.result)
        except Refusal as refusal:
            raise refused(refusal) from refusal

    async def list_prompts(self, ctx: Context, params: Any) -> ListPromptsResult:
        return ListPromptsResult.model_validate({"prompts": content.prompt_list(), **PUBLIC})

    async def get_prompt(self, ctx: Context, params: GetPromptRequestParams) -> GetPromptResult | InputRequiredResult:
        try:
            return GetPromptResult.model_validate(await content.get_prompt(params.name, SdkCall(ctx, params, self)))
        except Question as question:
            return InputRequiredResult.model_validate(question.result)
        except Refusal as refusal:
            raise refused(refusal) from refusal

    async def list_resources(self, ctx: Context, params: Any) -> ListResourcesResult:
        return ListResourcesResult.model_validate({"resources": content.resource_list(), **PUBLIC})

    async def list_templates(self, ctx: Context, params: Any) -> ListResourceTemplatesResult:
        return ListResourceTemplatesResult.model_validate({"resourceTemplates": content.template_list(), **PUBLIC})

    async def read_resource(self, ctx: Context, params: ReadResourceRequestParams) -> ReadResourceResult:
        is_modern = ctx.protocol_version in MODERN_PROTOCOL_VERSIONS
        try:
            return ReadResourceResult.model_validate({**content.read(str(params.uri), is_modern=is_modern), **PRIVATE})
        except Refusal as refusal:
            raise refused(refusal) from refusal

    async def subscribe(self, ctx: Context, params: SubscribeRequestParams) -> EmptyResult:
        self.watched.add(str(params.uri))
        return EmptyResult()

    async def unsubscribe(self, ctx: Context, params: UnsubscribeRequestParams) -> EmptyResult:
        self.watched.discard(str(params.uri))
        return EmptyResult()

    async def set_level(self, ctx: Context, params: SetLevelRequestParams) -> EmptyResult:
        return EmptyResult()

    async def complete(self, ctx: Context, params: Any) -> CompleteResult:
        return CompleteResult.model_validate({"completion": content.completion(params.argument.value)})


def build(name: str = "dual-era-test-server") -> DualServer:
    """The server with all handlers, the listen stream and sealed request states."""
    handlers = Handlers()
    warnings.simplefilter("ignore")  # the SDK warns about logging, which the legacy era still needs
    server = DualServer(
        name,
        version="1.0.0",
        instructions=content.INSTRUCTIONS,
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
    server.middleware.append(RequestStateBoundary(RequestStateSecurity.ephemeral(), default_audience=name))
    return server


async def serve_stdio() -> None:
    server = build()
    async with stdio_server() as (reader, writer):
        await server.run(reader, writer, server.create_initialization_options())


def serve_http(port: int) -> None:
    sessions = Sessions(build())
    serve(sessions, sessions, port)


def main() -> int:
    chosen = options("dual-era MCP server for tests")
    if chosen.stdio:
        asyncio.run(serve_stdio())
    else:
        serve_http(chosen.port)
    return 0


if __name__ == "__main__":
    sys.exit(main())
