"""Driver for the official Python SDK 2.x, in legacy, auto or a pinned modern mode. Runs in the environment ``sdk2``."""

from __future__ import annotations

import argparse
import asyncio
import sys
import warnings
from collections.abc import Callable
from typing import Any

import anyio
import mcp_types as types
import plan
from mcp import Client, MCPError, StdioServerParameters
from mcp_types.version import MODERN_PROTOCOL_VERSIONS
from plan import Json

warnings.simplefilter("ignore")  # the SDK marks logging and roots as deprecated; both are under test


def wire(model: Any) -> Json:
    dumped: Json = model.model_dump(by_alias=True, mode="json", exclude_none=True)
    return dumped


class Ops:
    def __init__(self, client: Client, streams: anyio.abc.TaskGroup, record: plan.Record) -> None:
        self.client = client
        self.streams = streams
        self.record = record

    async def list(self, kind: str, cursor: str | None) -> Json:
        verbs = {
            "tools": self.client.list_tools,
            "prompts": self.client.list_prompts,
            "resources": self.client.list_resources,
            "templates": self.client.list_resource_templates,
        }
        return wire(await verbs[kind](cursor=cursor, cache_mode="bypass"))

    async def call(self, name: str, arguments: Json, progress: Callable[[Json], None] | None) -> Json:
        async def on_progress(done: float, total: float | None, message: str | None) -> None:
            if progress is not None:
                progress({"progress": done, "total": total, "message": message})

        return wire(await self.client.call_tool(name, arguments, progress_callback=on_progress if progress else None))

    async def cancelled_call(self, name: str, arguments: Json) -> None:
        begun = asyncio.Event()

        async def on_progress(done: float, total: float | None, message: str | None) -> None:
            begun.set()

        running = asyncio.create_task(self.client.call_tool(name, arguments, progress_callback=on_progress))
        waiting = asyncio.create_task(begun.wait())
        await asyncio.wait({running, waiting}, return_when=asyncio.FIRST_COMPLETED)
        waiting.cancel()
        if running.done():
            raise RuntimeError(f"answered before it was cancelled: {running.result()}")
        running.cancel()
        await asyncio.wait({running})

    async def prompt(self, name: str, arguments: dict[str, str]) -> Json:
        return wire(await self.client.get_prompt(name, arguments))

    async def read(self, uri: str) -> Json:
        return wire(await self.client.read_resource(uri, cache_mode="bypass"))

    async def complete(self, ref: Json, argument: dict[str, str]) -> Json:
        kinds = {"ref/prompt": types.PromptReference, "ref/resource": types.ResourceTemplateReference}
        return wire(await self.client.complete(kinds[ref["type"]].model_validate(ref), argument))

    async def level(self, level: Any) -> None:
        await self.client.set_logging_level(level)

    async def subscribe(self, uri: str) -> None:
        await self.client.subscribe_resource(uri)

    async def listen(self, wanted: Json) -> None:
        if self.client.protocol_version not in MODERN_PROTOCOL_VERSIONS:
            return  # a legacy session has no listen stream: unsolicited messages come by themselves
        acknowledged = anyio.Event()

        async def read() -> None:
            async with self.client.listen(**wanted) as subscription:
                acknowledged.set()
                async for event in subscription:
                    await self.record.note(type(event).__name__, getattr(event, "uri", None))

        self.streams.start_soon(read)
        await acknowledged.wait()

    async def ping(self) -> None:
        await self.client.send_ping()


def describe(err: BaseException) -> Json:
    cause = plan.unwrap(err)
    if isinstance(cause, MCPError):
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
        if not isinstance(message, Exception):
            await record.note(message.method, wire(message).get("params"))

    questions: Json = {
        "sampling_callback": on_sampling,
        "elicitation_callback": on_elicit,
        "list_roots_callback": on_roots,
    }
    target = options.url or StdioServerParameters(command=options.command[0], args=options.command[1:])
    # A modern client takes logs per request, a legacy one by logging/setLevel.
    level: Any = "debug" if any(step["do"] == "level" for step in steps) and options.mode in MODERN_PROTOCOL_VERSIONS else None
    async with anyio.create_task_group() as streams:
        async with Client(
            target,
            mode=options.mode,
            message_handler=on_message,
            log_level=level,
            read_timeout_seconds=plan.STEP_TIMEOUT,
            **({} if options.plain else questions),
        ) as client:
            entries = await plan.carry_out(Ops(client, streams, record), record, steps, describe)
            report = {
                "protocol": client.protocol_version,
                "server": wire(client.server_info) if client.server_info else None,
                "capabilities": wire(client.server_capabilities),
                "instructions": client.instructions,
                "steps": entries,
            }
            streams.cancel_scope.cancel()
    return report


if __name__ == "__main__":
    sys.exit(plan.main(connect))
