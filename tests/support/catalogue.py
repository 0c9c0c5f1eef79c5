"""What the test servers serve: tools, prompts and resources as plain wire JSON, with the names the official suites ask for.

One catalogue for all servers, of whatever SDK: this module and ``catalogue_rounds`` import none. A tool is
``async (call) -> result``: a string (one text block), a list of content blocks, or a complete result object. ``Call`` is what
a server gives to it. ``Call.ask`` puts a question to the client in the way of its era: a request inside the call (legacy) or
an ``input_required`` answer that the client retries (modern); so every tool has its twin in the other era.
"""

from __future__ import annotations

import abc
import asyncio
import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

Json = dict[str, Any]
Answer = str | list[Json] | Json

#: A 1x1 PNG and two PCM samples: the smallest files that are what they claim to be.
PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mP8z8BQDwAEhQGAhKmMIQAAAABJRU5ErkJggg=="
CLICK = "UklGRigAAABXQVZFZm10IBAAAAABAAEAQB8AAIA+AAACABAAZGF0YQQAAAAAAAAA"
LOG_PAUSE = 0.05  # seconds between notifications: lets each leave in a frame of its own
LONG_PAUSE = 1.5  # seconds; longer than anybody waits before an answer becomes a stream
INVALID_PARAMS = -32602
RESOURCE_NOT_FOUND_LEGACY = -32002
MISSING_REQUIRED_CLIENT_CAPABILITY = -32021


class Refusal(Exception):
    """The call is answered with this JSON-RPC error."""

    def __init__(self, code: int, message: str, data: Json | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.data = data


class Question(Exception):
    """Raised by ``Call.ask`` for a modern client: the call must be answered with these input requests."""

    def __init__(self, requests: Json, state: str | None) -> None:
        super().__init__("input required")
        self.result: Json = {"resultType": "input_required", "inputRequests": requests}
        if state is not None:
            self.result["requestState"] = state


class Call(abc.ABC):
    """One tools/call or prompts/get as a tool sees it; a server fills in how messages go out."""

    def __init__(self, arguments: Json, responses: Json | None = None, state: str | None = None) -> None:
        self.arguments = arguments
        self.responses = responses  # modern: the client's answers so far, by key
        self.state = state  # modern: what this server gave the client to bring back

    @property
    @abc.abstractmethod
    def is_modern(self) -> bool:
        """Whether the client of this call speaks 2026-07-28."""

    @abc.abstractmethod
    def declared(self, capability: str) -> bool:
        """True when the client declared this capability (elicitation, sampling, roots)."""

    @abc.abstractmethod
    async def log(self, text: str, level: str = "info") -> None:
        """Log to the client on the stream of this call."""

    @abc.abstractmethod
    async def progress(self, done: float, total: float) -> None:
        """Report progress, if the client asked for it."""

    @abc.abstractmethod
    async def announce(self, kind: str, uri: str | None) -> None:
        """Say that a list (``tools``, ``prompts``) or the resource at ``uri`` changed."""

    @abc.abstractmethod
    async def request(self, method: str, params: Json | None) -> Json:
        """The result of a request to a legacy client, as wire JSON."""

    @abc.abstractmethod
    async def close_stream(self) -> None:
        """Close the event stream of this call and go on without it; nothing happens where streams cannot be resumed."""

    async def ask(self, key: str, request: Json, state: str | None = None) -> Json:
        """The client's answer to ``request`` as wire JSON.

        Raises: Question when a modern client has to be sent away to find the answer first.
        """
        return (await self.ask_all({key: request}, state))[key]

    async def ask_all(self, requests: Json, state: str | None = None) -> Json:
        """The client's answers to several requests, by key; a legacy client gets them all at once.

        Raises: Question as ``ask``.
        """
        if self.is_modern:
            given = self.responses or {}
            if all(key in given for key in requests):
                return {key: given[key] for key in requests}
            raise Question(requests, state)
        answers = await asyncio.gather(*(self.request(one["method"], one.get("params")) for one in requests.values()))
        return dict(zip(requests, answers, strict=True))


def text(value: str) -> Json:
    return {"type": "text", "text": value}


def embedded(uri: str, mime: str, value: str) -> Json:
    return {"type": "resource", "resource": {"uri": uri, "mimeType": mime, "text": value}}


def shape(properties: Json | None = None, required: list[str] | None = None) -> Json:
    """An object schema."""
    schema: Json = {"type": "object", "properties": properties or {}}
    if required:
        schema["required"] = required
    return schema


def form(message: str, schema: Json) -> Json:
    return {"method": "elicitation/create", "params": {"mode": "form", "message": message, "requestedSchema": schema}}


def sampling(prompt: str) -> Json:
    message = {"role": "user", "content": text(prompt)}
    return {"method": "sampling/createMessage", "params": {"messages": [message], "maxTokens": 100}}


ROOTS: Json = {"method": "roots/list"}
STRING: Json = {"type": "string"}
NAME = shape({"name": STRING}, ["name"])
CONFIRM = shape({"ok": {"type": "boolean"}}, ["ok"])


@dataclass(frozen=True, slots=True)
class Tool:
    """A row of the table of tools."""

    run: Callable[[Call], Awaitable[Answer]]
    about: str
    schema: Json = field(default_factory=shape)
    extra: Json = field(default_factory=dict)


TOOLS: dict[str, Tool] = {}


def tool(about: str, schema: Json | None = None, name: str | None = None, **extra: Any) -> Callable[..., Any]:
    """Enter a coroutine function into the table under its own name."""

    def enter(run: Callable[[Call], Awaitable[Answer]]) -> Callable[[Call], Awaitable[Answer]]:
        TOOLS[name or run.__name__] = Tool(run, about, schema or shape(), extra)
        return run

    return enter


@tool("one text block")
async def test_simple_text(call: Call) -> Answer:
    return "plain text from the test server"


@tool("one image block")
async def test_image_content(call: Call) -> Answer:
    return [{"type": "image", "data": PIXEL, "mimeType": "image/png"}]


@tool("one audio block")
async def test_audio_content(call: Call) -> Answer:
    return [{"type": "audio", "data": CLICK, "mimeType": "audio/wav"}]


@tool("one embedded resource")
async def test_embedded_resource(call: Call) -> Answer:
    return [embedded("test://embedded-resource", "text/plain", "embedded text")]


@tool("text, image and resource in one answer")
async def test_multiple_content_types(call: Call) -> Answer:
    return [
        text("three kinds of content:"),
        {"type": "image", "data": PIXEL, "mimeType": "image/png"},
        embedded("test://mixed-content-resource", "application/json", '{"test": "data", "value": 123}'),
    ]


async def log_three_times(call: Call) -> Answer:
    for stage in ("started", "working", "done"):
        await call.log(stage)
        await asyncio.sleep(LOG_PAUSE)
    return "logged three times"


tool("logs while it runs", name="test_tool_with_logging")(log_three_times)
tool("logs while it runs (name in the stateless scenario)", name="test_logging_tool")(log_three_times)


@tool("reports progress 0, 50, 100")
async def test_tool_with_progress(call: Call) -> Answer:
    for done in (0, 50, 100):
        await call.progress(done, 100)
        await asyncio.sleep(LOG_PAUSE)
    return "progress reported"


@tool("always fails with isError")
async def test_error_handling(call: Call) -> Answer:
    return {"content": [text("this tool fails on purpose")], "isError": True}


@tool("asks the client's model", shape({"prompt": STRING}, ["prompt"]))
async def test_sampling(call: Call) -> Answer:
    answer = await call.ask("sample", sampling(call.arguments["prompt"]))
    content = answer["content"]
    return f"LLM response: {(content[0] if isinstance(content, list) else content).get('text')}"


@tool("asks the client's user", shape({"message": STRING}, ["message"]))
async def test_elicitation(call: Call) -> Answer:
    answer = await call.ask("user", form(call.arguments["message"], shape({"response": STRING}, ["response"])))
    return f"User response: action={answer['action']}, content={json.dumps(answer.get('content') or {})}"


@tool("asks the client's user while the answer streams")
async def test_streaming_elicitation(call: Call) -> Answer:
    answer = await call.ask("user_name", form("Who is there?", NAME))
    return f"action={answer['action']}"


DEFAULTS = shape(
    {
        "name": {"type": "string", "default": "John Doe"},
        "age": {"type": "integer", "default": 30},
        "score": {"type": "number", "default": 95.5},
        "status": {"type": "string", "enum": ["active", "inactive", "pending"], "default": "active"},
        "verified": {"type": "boolean", "default": True},
    }
)
ENUMS = shape(
    {
        "untitledSingle": {"type": "string", "enum": ["option1", "option2", "option3"]},
        "titledSingle": {"type": "string", "oneOf": [{"const": f"value{n}", "title": f"Option {n}"} for n in (1, 2, 3)]},
        "legacyEnum": {"type": "string", "enum": ["opt1", "opt2"], "enumNames": ["Option one", "Option two"]},
        "untitledMulti": {"type": "array", "items": {"type": "string", "enum": ["option1", "option2", "option3"]}},
        "titledMulti": {"type": "array", "items": {"anyOf": [{"const": f"v{n}", "title": f"Choice {n}"} for n in (1, 2)]}},
    }
)


@tool("a form with a default for every primitive type (SEP-1034)")
async def test_elicitation_sep1034_defaults(call: Call) -> Answer:
    answer = await call.ask("form", form("defaults of every type", DEFAULTS))
    return f"Elicitation completed: action={answer['action']}, content={json.dumps(answer.get('content') or {})}"


@tool("a form with every kind of enum (SEP-1330)")
async def test_elicitation_sep1330_enums(call: Call) -> Answer:
    answer = await call.ask("form", form("every kind of enum", ENUMS))
    return f"Elicitation completed: action={answer['action']}, content={json.dumps(answer.get('content') or {})}"


@tool(
    "an argument that is mirrored into the Mcp-Param-Region header (SEP-2243)",
    shape({"region": {"type": "string", "x-mcp-header": "Region"}}),
)
async def test_x_mcp_header(call: Call) -> Answer:
    return f"region={call.arguments.get('region')}"


@tool("refuses a client that did not declare sampling")
async def test_missing_capability(call: Call) -> Answer:
    if not call.is_modern:  # such an error code is unknown there: it asks, and the client refuses
        await call.ask("sample", sampling("Are you able to answer?"))
    elif not call.declared("sampling"):
        raise Refusal(
            MISSING_REQUIRED_CLIENT_CAPABILITY,
            "this tool needs the client capability sampling",
            {"requiredCapabilities": {"sampling": {}}},
        )
    return "sampling is declared"


@tool("closes its event stream and goes on (SEP-1699)")
async def test_reconnection(call: Call) -> Answer:
    await call.log("before the stream is closed")
    await call.close_stream()
    await asyncio.sleep(LONG_PAUSE if call.is_modern else 4 * LOG_PAUSE)  # modern streams cannot be resumed: it only takes long
    await call.log("after the stream was closed")
    return "went on after the stream was closed"


@tool("says that the list of tools changed")
async def test_trigger_tool_change(call: Call) -> Answer:
    await call.announce("tools", None)
    return "tools changed"


@tool("says that the list of prompts changed")
async def test_trigger_prompt_change(call: Call) -> Answer:
    await call.announce("prompts", None)
    return "prompts changed"


@tool("says that a resource changed", shape({"uri": STRING}, ["uri"]))
async def touch_resource(call: Call) -> Answer:
    await call.announce("resource", call.arguments["uri"])
    return "touched"


@tool("answers with its arguments as text, after `delay` seconds", shape({"payload": {}, "delay": {"type": "number"}}))
async def echo(call: Call) -> Answer:
    if delay := call.arguments.get("delay"):
        await asyncio.sleep(min(float(delay), 60.0))
    return json.dumps(call.arguments.get("payload"), ensure_ascii=False)


CANCELLED: list[str] = []


@tool("waits for ever; when it is cancelled its tag shows up in cancelled_tags", shape({"tag": STRING}, ["tag"]))
async def wait_for_cancel(call: Call) -> Answer:
    await call.progress(1, 2)
    try:
        await asyncio.sleep(600)
    except asyncio.CancelledError:
        CANCELLED.append(call.arguments["tag"])
        raise
    return "was never cancelled"


@tool("tags of the cancelled calls so far")
async def cancelled_tags(call: Call) -> Answer:
    return json.dumps(CANCELLED)


@tool("asks for roots, in either era", name="list_roots")
async def list_roots(call: Call) -> Answer:
    return json.dumps((await call.ask("roots", ROOTS))["roots"])


@tool(
    "a schema with every 2020-12 keyword that bridges lose",
    name="json_schema_2020_12_tool",
    schema={
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "type": "object",
        "$defs": {"address": {"$anchor": "addressDef", **shape({"street": STRING, "city": STRING})}},
        "properties": {
            "name": STRING,
            "address": {"$ref": "#/$defs/address"},
            "contactMethod": {"type": "string", "enum": ["phone", "email"]},
            "phone": STRING,
            "email": STRING,
        },
        "allOf": [{"anyOf": [{"required": ["phone"]}, {"required": ["email"]}]}],
        "if": {"properties": {"contactMethod": {"const": "phone"}}, "required": ["contactMethod"]},
        "then": {"required": ["phone"]},
        "else": {"required": ["email"]},
        "additionalProperties": False,
    },
)
async def json_schema_2020_12_tool(call: Call) -> Answer:
    return json.dumps(call.arguments)
