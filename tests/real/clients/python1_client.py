"""Driver for the official Python SDK 1.x (legacy protocol only). Runs in the environment ``sdk1``."""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Callable
from contextlib import AsyncExitStack
from datetime import timedelta
from typing import Any

import plan
from mcp import ClientSession, McpError, StdioServerParameters, types
from mcp.client.sse import sse_client
from mcp.client.stdio import stdio_client
from mcp.client.streamable_http import streamable_http_client
from plan import Json
from pydantic import AnyUrl


def wire(model: Any) -> Json:
    dumped: Json = model.model_dump(by_alias=True, mode="json", exclude_none=True)
    return dumped


class Ops:
    def __init__(self, session: ClientSession) -> None:
        self.session = session

    async def list(self, kind: str, cursor: str | None) -> Json:
        verbs = {
            "tools": self.session.list_tools,
            "prompts": self.session.list_prompts,
            "resources": self.session.list_resources,
            "templates": self.session.list_resource_templates,
        }
        return wire(await verbs[kind](params=types.PaginatedRequestParams(cursor=cursor)))

    async def call(self, name: str, arguments: Json, progress: Callable[[Json], None] | None) -> Json:
        async def on_progress(done: float, total: float | None, message: str | None) -> None:
            if progress is not None:
                progress({"progress": done, "total": total, "message": message})

        return wire(await self.session.call_tool(name, arguments, progress_callback=on_progress if progress else None))

    async def cancelled_call(self, name: str, arguments: Json) -> None:
        begun = asyncio.Event()

        async def on_progress(done: float, total: float | None, message: str | None) -> None:
            begun.set()

        request_id = self.session._request_id  # SDK 1.x cancels nothing by itself, so the id has to be known
        running = asyncio.create_task(self.session.call_tool(name, arguments, progress_callback=on_progress))
        waiting = asyncio.create_task(begun.wait())
        await asyncio.wait({running, waiting}, return_when=asyncio.FIRST_COMPLETED)
        waiting.cancel()
        if running.done():
            raise RuntimeError(f"answered before it was cancelled: {running.result()}")
        notification = types.CancelledNotification(
            params=types.CancelledNotificationParams(requestId=request_id, reason="test")
        )
        await self.session.send_notification(types.ClientNotification(notification))
        running.cancel()
        await asyncio.wait({running})

    async def prompt(self, name: str, arguments: dict[str, str]) -> Json:
        return wire(await self.session.get_prompt(name, arguments))

    async def read(self, uri: str) -> Json:
        return wire(await self.session.read_resource(AnyUrl(uri)))

    async def complete(self, ref: Json, argument: dict[str, str]) -> Json:
        kinds = {"ref/prompt": types.PromptReference, "ref/resource": types.ResourceTemplateReference}
        return wire(await self.session.complete(kinds[ref["type"]].model_validate(ref), argument))

    async def level(self, level: Any) -> None:
        await self.session.set_logging_level(level)

    async def subscribe(self, uri: str) -> None:
        await self.session.subscribe_resource(AnyUrl(uri))

    async def listen(self, wanted: Json) -> None:
        """The legacy protocol has no listen stream: unsolicited messages come by themselves."""

    async def ping(self) -> None:
        await self.session.send_ping()


def describe(err: BaseException) -> Json:
    cause = plan.unwrap(err)
    if isinstance(cause, McpError):
        return {"code": cause.error.code, "message": cause.error.message, "data": cause.error.data}
    return {"code": None, "message": f"{type(cause).__name__}: {cause}", "data": None}


async def connect(options: argparse.Namespace, steps: list[Json], record: plan.Record) -> Json:
    async def on_sampling(context: Any, params: Any) -> types.CreateMessageResult:
        return types.CreateMessageResult.model_validate(record.answer("sampling/createMessage", wire(params)))

    async def on_elicit(context: Any, params: Any) -> types.ElicitResult:
        return types.ElicitResult.model_validate(record.answer("elicitation/create", wire(params)))

    async def on_roots(context: Any) -> types.ListRootsResult:
        return types.ListRootsResult.model_validate(record.answer("roots/list", {}))

    async def on_message(message: Any) -> None:
        if isinstance(message, types.ServerNotification):
            await record.note(message.root.method, wire(message.root).get("params"))

    questions: Json = {
        "sampling_callback": on_sampling,
        "elicitation_callback": on_elicit,
        "list_roots_callback": on_roots,
    }
    report: Json = {}
    try:
        await converse(options, steps, record, questions, on_message, report)
    except BaseException:
        # SDK 1.x raises when the server asks something in the moment the client closes; the plan is done by then.
        if "steps" not in report:
            raise
    return report


async def converse(
    options: argparse.Namespace, steps: list[Json], record: plan.Record, questions: Json, on_message: Any, report: Json
) -> None:
    """Connect, carry out the plan and fill ``report``."""
    async with AsyncExitStack() as stack:
        if options.url and options.url.startswith("ws"):
            from mcp.client.websocket import websocket_client

            reader, writer = await stack.enter_async_context(websocket_client(options.url))
        elif options.sse:
            reader, writer = await stack.enter_async_context(sse_client(options.url))
        elif options.url:
            reader, writer, _ = await stack.enter_async_context(streamable_http_client(options.url))
        else:
            target = StdioServerParameters(command=options.command[0], args=options.command[1:])
            reader, writer = await stack.enter_async_context(stdio_client(target))
        session = await stack.enter_async_context(
            ClientSession(
                reader,
                writer,
                message_handler=on_message,
                read_timeout_seconds=timedelta(seconds=plan.STEP_TIMEOUT),
                **({} if options.plain else questions),
            )
        )
        hello = await session.initialize()
        entries = await plan.carry_out(Ops(session), record, steps, describe)
        report.update(
            protocol=hello.protocolVersion,
            server=wire(hello.serverInfo),
            capabilities=wire(hello.capabilities),
            instructions=hello.instructions,
            steps=entries,
        )


if __name__ == "__main__":
    sys.exit(plan.main(connect))
