"""The plan that every client driver carries out, and what it reports: one JSON document on stdout.

A plan is a list of steps (``{"do": NAME, …}``); each gives an entry ``{"ok": …}`` or ``{"error": {code, message, data}}``.
Questions from the server are answered with fixed values and recorded, so are notifications. The Python drivers share this
module; ``typescript_client.mjs`` does the same in its language.

Usage of each driver: ``driver (--url URL | --command JSON_ARGV) [--mode legacy|auto|2026-07-28] [--plain] < plan.json``;
``--plain`` declares no client capability at all, ``--sse`` (SDKs 1.x) says that the URL is that of an HTTP+SSE stream.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

Json = dict[str, Any]
STEP_TIMEOUT = 30.0  # seconds for a step that names none
#: what the drivers answer, recognisable in the tools' texts
SAMPLED = "the model's answer"
ELICITED = {"name": "Ada", "response": "forty-two", "ok": True, "color": "teal", "context": "tests"}
MODEL = "test-model"


class Ops(Protocol):
    """What a driver can do with its SDK; results are wire JSON."""

    async def list(self, kind: str, cursor: str | None) -> Json: ...
    async def call(self, name: str, arguments: Json, progress: Callable[[Json], None] | None) -> Json: ...
    async def cancelled_call(self, name: str, arguments: Json) -> None: ...
    async def prompt(self, name: str, arguments: dict[str, str]) -> Json: ...
    async def read(self, uri: str) -> Json: ...
    async def complete(self, ref: Json, argument: dict[str, str]) -> Json: ...
    async def level(self, level: str) -> None: ...
    async def subscribe(self, uri: str) -> None: ...
    async def listen(self, wanted: Json) -> None: ...
    async def ping(self) -> None: ...


@dataclass(slots=True)
class Record:
    """What the client saw outside the answers to its own requests."""

    events: list[Json] = field(default_factory=list)
    questions: list[Json] = field(default_factory=list)
    seen: asyncio.Condition = field(default_factory=asyncio.Condition)

    async def note(self, method: str, params: Any) -> None:
        """Record a notification and wake the steps that wait for one."""
        async with self.seen:
            self.events.append({"method": method, "params": params})
            self.seen.notify_all()

    def answer(self, method: str, params: Any) -> Json:
        """The fixed answer to a server's question, which is recorded."""
        self.questions.append({"method": method, "params": params})
        if method == "sampling/createMessage":
            return {"role": "assistant", "content": {"type": "text", "text": SAMPLED}, "model": MODEL}
        if method == "roots/list":
            return {"roots": [{"uri": "file:///tmp/root-of-the-client", "name": "root"}]}
        wanted = (params.get("requestedSchema") or {}).get("properties", {})
        return {"action": "accept", "content": {name: value for name, value in ELICITED.items() if name in wanted}}

    async def wait_for(self, method: str, count: int) -> Json:
        """Wait until ``count`` notifications of this method have come."""
        async with self.seen:
            await self.seen.wait_for(lambda: sum(event["method"] == method for event in self.events) >= count)
        return {"seen": count}


async def listed(ops: Ops, kind: str) -> Json:
    """All items of one kind over all pages (at most 50)."""
    items: list[Json] = []
    cursor: str | None = None
    for page in range(1, 51):
        result = await ops.list(kind, cursor)
        items += result["resourceTemplates" if kind == "templates" else kind]
        if (cursor := result.get("nextCursor")) is None:
            return {"items": items, "pages": page}
    raise RuntimeError(f"{kind}: more than 50 pages")


async def perform(ops: Ops, record: Record, step: Json) -> Any:
    """Carry out one step and return what it gave."""
    match step["do"]:
        case "list":
            return await listed(ops, step["kind"])
        case "call":
            seen: list[Json] = []
            result = await ops.call(step["name"], step.get("arguments", {}), seen.append if step.get("progress") else None)
            return {**result, "progress": seen} if step.get("progress") else result
        case "calls":
            names = [ops.call(step["name"], arguments, None) for arguments in step["arguments"]]
            return await asyncio.gather(*names)
        case "cancel":
            await ops.cancelled_call(step["name"], step.get("arguments", {}))
            return {}
        case "prompt":
            return await ops.prompt(step["name"], step.get("arguments", {}))
        case "read":
            return await ops.read(step["uri"])
        case "complete":
            return await ops.complete(step["ref"], step["argument"])
        case "level":
            await ops.level(step["level"])
            return {}
        case "subscribe":
            await ops.subscribe(step["uri"])
            return {}
        case "listen":
            await ops.listen(step["filter"])
            return {}
        case "ping":
            await ops.ping()
            return {}
        case "await":
            return await record.wait_for(step["event"], step.get("count", 1))
        case unknown:
            raise ValueError(f"no such step: {unknown}")


async def carry_out(ops: Ops, record: Record, steps: list[Json], describe: Callable[[BaseException], Json]) -> list[Json]:
    """All steps in order; a failed one is reported and the next ones still run."""
    entries: list[Json] = []
    for step in steps:
        try:
            entries.append({"ok": await asyncio.wait_for(perform(ops, record, step), step.get("timeout", STEP_TIMEOUT))})
        except Exception as err:  # a driver reports whatever its SDK raised; the test judges
            entries.append({"error": describe(err)})
    return entries


def unwrap(err: BaseException) -> BaseException:
    """The first real cause inside nested exception groups."""
    while isinstance(err, BaseExceptionGroup):
        err = err.exceptions[0]
    return err


def main(connect: Callable[[argparse.Namespace, list[Json], Record], Awaitable[Json]]) -> int:
    """Command line of a Python driver; ``connect`` opens the client, carries out the plan and returns the report."""
    parser = argparse.ArgumentParser()
    target = parser.add_mutually_exclusive_group(required=True)
    target.add_argument("--url")
    target.add_argument("--command", type=json.loads, help="JSON array: the command of a stdio server")
    parser.add_argument("--mode", default="legacy")
    parser.add_argument("--sse", action="store_true", help="the URL is that of an HTTP+SSE stream")
    parser.add_argument("--plain", action="store_true", help="declare no client capabilities")
    options = parser.parse_args()
    steps = json.load(sys.stdin)

    async def run() -> Json:
        record = Record()
        report = await connect(options, steps, record)
        return {**report, "events": record.events, "questions": record.questions}

    try:
        report = asyncio.run(run())
    except BaseException as err:
        cause = unwrap(err)
        report = {"failed": f"{type(cause).__name__}: {cause}"}
    print(json.dumps(report))
    return 1 if "failed" in report else 0
