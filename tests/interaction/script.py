"""The one script that every cell plays: what a client of either era does with a server, whatever carries the messages.

Each step checks what the client sees; a step's name is what the table of exclusions speaks of. The server is the catalogue of
``tests/support`` on an official SDK.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, Literal

from tests.interaction.wires import LEGACY, MODERN, Json, Wire

Era = Literal["legacy", "modern"]
WAIT = 30.0  # seconds for any one thing; a child of an SDK takes its time to start
INFO = {"name": "interaction", "version": "1"}
CAPABILITIES: Json = {"sampling": {}, "elicitation": {"form": {}}, "roots": {"listChanged": True}}
WATCHED = "test://watched-resource"
LARGE = "ä" + "x" * 999_998  # a million bytes; more with its envelope would pass the limit of an HTTP body
ANSWERS: dict[str, Json] = {
    "sampling/createMessage": {"role": "assistant", "content": {"type": "text", "text": "sampled"}, "model": "m"},
    "elicitation/create": {"action": "accept", "content": {"response": "forty-two"}},
    "roots/list": {"roots": [{"uri": "file:///of/the/client", "name": "root"}]},
}


class Client:
    """A client of one era over a wire."""

    def __init__(self, wire: Wire, era: Era, prefix: str = "") -> None:
        self.wire = wire
        self.era: Era = era
        self.prefix = prefix  # before names of tools and prompts, on an endpoint of several servers
        self.notes: list[Json] = []
        self.asked: list[str] = []
        self._waiting: dict[int, asyncio.Future[Json]] = {}
        self._last = 0
        self._heard = asyncio.Condition()

    async def listen(self) -> None:
        """Sort what comes: answers, questions, notifications."""
        while True:
            message = await self.wire.heard.get()
            if "method" not in message:
                if (waiting := self._waiting.get(message["id"])) is not None and not waiting.done():
                    waiting.set_result(message)
            elif "id" in message:
                self.asked.append(message["method"])
                await self.wire.send({"jsonrpc": "2.0", "id": message["id"], "result": ANSWERS[message["method"]]})
            else:
                async with self._heard:
                    self.notes.append(message)
                    self._heard.notify_all()

    def begin(self, method: str, *, declared: Json | None = None, meta: Json | None = None, **params: Any) -> int:
        """Ask without waiting; the id of the request. ``meta`` joins ``_meta``."""
        self._last += 1
        meta = dict(meta or {})
        if self.era == "modern":
            meta |= {
                "io.modelcontextprotocol/protocolVersion": MODERN,
                "io.modelcontextprotocol/clientInfo": INFO,
                "io.modelcontextprotocol/clientCapabilities": CAPABILITIES if declared is None else declared,
            }
        if meta:
            params["_meta"] = meta
        message: Json = {"jsonrpc": "2.0", "id": self._last, "method": method}
        if params:
            message["params"] = params
        self._waiting[self._last] = asyncio.get_running_loop().create_future()
        self._sending = asyncio.ensure_future(self.wire.send(message))
        return self._last

    async def end(self, id: int) -> Json:
        """The whole answer to a request that was begun."""
        async with asyncio.timeout(WAIT):
            return await self._waiting[id]

    async def ask(self, method: str, **options: Any) -> Json:
        """The result of a request. Raises AssertionError for an error."""
        answer = await self.end(self.begin(method, **options))
        assert "result" in answer, f"{method}: {answer}"
        result: Json = answer["result"]
        return result

    async def call(self, name: str, arguments: Json | None = None, **options: Any) -> str:
        """The first text of a tool's result; a modern server's questions are answered by retries."""
        params = {"name": self.prefix + name, "arguments": arguments or {}}
        result = await self.ask("tools/call", **params, **options)
        while result.get("resultType") == "input_required":
            asked: Json = result["inputRequests"]
            self.asked += [one["method"] for one in asked.values()]
            brought = {key: ANSWERS[one["method"]] for key, one in asked.items()}
            state = {"requestState": result["requestState"]} if "requestState" in result else {}
            result = await self.ask("tools/call", **params, **options, inputResponses=brought, **state)
        assert not result.get("isError"), result
        return str(result["content"][0]["text"])

    async def noted(self, method: str, count: int = 1) -> list[Json]:
        """The params of the notifications of a method, once there are ``count`` of them."""
        async with asyncio.timeout(WAIT), self._heard:
            while len(found := [note.get("params", {}) for note in self.notes if note["method"] == method]) < count:
                await self._heard.wait()
        return found


async def opens(client: Client) -> None:
    if client.era == "legacy":
        params = {"protocolVersion": LEGACY, "capabilities": CAPABILITIES, "clientInfo": INFO}
        hello = await client.ask("initialize", **params)
        assert hello["protocolVersion"] == LEGACY
        await client.wire.send({"jsonrpc": "2.0", "method": "notifications/initialized"})
        assert await client.ask("ping") == {}
    else:
        hello = await client.ask("server/discover")
        assert MODERN in hello["supportedVersions"]
    assert {"tools", "prompts", "resources"} <= hello["capabilities"].keys()


async def tools(client: Client) -> None:
    listed = await client.ask("tools/list")
    found = {tool["name"]: tool for tool in listed["tools"]}
    assert found[client.prefix + "json_schema_2020_12_tool"]["inputSchema"]["$defs"]["address"]["$anchor"] == "addressDef"
    assert await client.call("test_simple_text") == "plain text from the test server"
    answer = await client.end(client.begin("tools/call", name=client.prefix + "no_such_tool", arguments={}))
    assert "error" in answer or answer["result"]["isError"]


async def progress(client: Client) -> None:
    assert await client.call("test_tool_with_progress", meta={"progressToken": "p-1"}) == "progress reported"
    seen = await client.noted("notifications/progress", 3)
    assert [(note["progressToken"], note["progress"]) for note in seen] == [("p-1", 0), ("p-1", 50), ("p-1", 100)]


async def cancel(client: Client) -> None:
    tag = f"tag-{id(client)}"
    before = len([note for note in client.notes if note["method"] == "notifications/progress"])
    # without capabilities, so that a modern client's calls share one conversation with a legacy server
    options: Json = {"declared": {}, "meta": {"progressToken": "c-1"}}
    call = client.begin("tools/call", name=client.prefix + "wait_for_cancel", arguments={"tag": tag}, **options)
    await client.noted("notifications/progress", before + 1)
    await client.wire.cancel(call)
    async with asyncio.timeout(WAIT):
        while tag not in await client.call("cancelled_tags", declared={}):
            await asyncio.sleep(0.05)


async def elicitation(client: Client) -> None:
    said = await client.call("test_elicitation", {"message": "How many?"})
    assert said == 'User response: action=accept, content={"response": "forty-two"}'
    assert client.asked[-1] == "elicitation/create"


async def sampling(client: Client) -> None:
    assert await client.call("test_sampling", {"prompt": "Say it"}) == "LLM response: sampled"
    assert client.asked[-1] == "sampling/createMessage"


async def roots(client: Client) -> None:
    assert json.loads(await client.call("list_roots"))[0]["uri"] == "file:///of/the/client"
    assert client.asked[-1] == "roots/list"


async def subscribe(client: Client) -> None:
    watched = f"test://template/{id(client)}/data"  # the server keeps one set for all its clients
    listening = 0
    if client.era == "legacy":
        assert await client.ask("resources/subscribe", uri=watched) == {}
    else:
        listening = client.begin("subscriptions/listen", declared={}, notifications={"resourceSubscriptions": [watched]})
        acknowledged = await client.noted("notifications/subscriptions/acknowledged")
        assert acknowledged[0]["notifications"]["resourceSubscriptions"] == [watched]
    assert await client.call("touch_resource", {"uri": watched}, declared={}) == "touched"
    assert (await client.noted("notifications/resources/updated"))[0]["uri"] == watched
    if client.era == "legacy":
        assert await client.ask("resources/unsubscribe", uri=watched) == {}
    else:
        await client.wire.cancel(listening)


async def resources(client: Client) -> None:
    listed = await client.ask("resources/list")
    assert WATCHED in [item["uri"] for item in listed["resources"]]
    templates = await client.ask("resources/templates/list")
    assert templates["resourceTemplates"][0]["uriTemplate"] == "test://template/{id}/data"
    read = await client.ask("resources/read", uri="test://static-text")
    assert read["contents"][0]["text"] == "static text"
    blob = await client.ask("resources/read", uri="test://static-binary")
    assert blob["contents"][0]["mimeType"] == "image/png"
    missing = await client.end(client.begin("resources/read", uri="test://nowhere"))
    assert missing["error"]["code"] in (-32602, -32002)


async def prompts(client: Client) -> None:
    listed = await client.ask("prompts/list")
    name = client.prefix + "test_prompt_with_arguments"
    assert name in [item["name"] for item in listed["prompts"]]
    got = await client.ask("prompts/get", name=name, arguments={"arg1": "one", "arg2": "zwei"})
    assert got["messages"][0]["content"]["text"] == "Prompt with arguments: arg1='one', arg2='zwei'"


async def completion(client: Client) -> None:
    ref = {"type": "ref/prompt", "name": client.prefix + "test_prompt_with_arguments"}
    done = await client.ask("completion/complete", ref=ref, argument={"name": "arg1", "value": "te"})
    assert done["completion"]["values"] == ["testing"]


async def logging(client: Client) -> None:
    meta: Json = {}
    if client.era == "legacy":
        assert await client.ask("logging/setLevel", level="info") == {}
    else:
        meta = {"io.modelcontextprotocol/logLevel": "info"}
    assert await client.call("test_tool_with_logging", meta=meta) == "logged three times"
    said = [note["data"] for note in await client.noted("notifications/message", 3)]
    assert said[-3:] == ["started", "working", "done"]


async def large(client: Client) -> None:
    echoed = json.loads(await client.call("echo", {"payload": LARGE}))
    assert echoed == LARGE, f"{len(echoed)} of {len(LARGE)} characters: {echoed.replace('x', '')[:80]!r}"


STEPS: dict[str, Callable[[Client], Awaitable[None]]] = {
    "open": opens,
    "tools": tools,
    "progress": progress,
    "cancel": cancel,
    "elicitation": elicitation,
    "sampling": sampling,
    "roots": roots,
    "subscribe": subscribe,
    "resources": resources,
    "prompts": prompts,
    "completion": completion,
    "logging": logging,
    "1 MB": large,
}

#: what the modern revision has no form of, and where the specification says so; the step plays what took its place
REPLACED = [
    ("modern", "open: ping", "gone; any request shows that the other side lives", "2026-07-28 changelog"),
    ("modern", "open: initialize, initialized", "`server/discover`, and `_meta` of every request", "2026-07-28 lifecycle"),
    ("modern", "subscribe: resources/subscribe", "`subscriptions/listen`", "2026-07-28 subscriptions"),
    ("modern", "logging: logging/setLevel", "`_meta` `io.modelcontextprotocol/logLevel`", "2026-07-28 logging"),
    ("modern", "elicitation, sampling, roots as requests", "`input_required` and a retry", "2026-07-28 multi round-trip"),
    ("modern", "HTTP+SSE", "no modern form: a modern request there is refused", "2026-07-28 transports"),
]


async def play(wire: Wire, era: Era, prefix: str = "") -> list[str]:
    """Play every step; what failed, as ``step: cause``."""
    client = Client(wire, era, prefix)
    listening = asyncio.ensure_future(client.listen())
    failures: list[str] = []
    try:
        for name, step in STEPS.items():
            try:
                await step(client)
            except (AssertionError, TimeoutError, KeyError, IndexError, ConnectionError) as error:
                failures.append(f"{name}: {type(error).__name__} {error}"[:500])
                if name == "open":
                    break
    finally:
        listening.cancel()
        with suppress(asyncio.CancelledError):
            await listening
    return failures
