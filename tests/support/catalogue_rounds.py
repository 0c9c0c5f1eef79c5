"""The test servers' multi-round tools (SEP-2322), prompts and resources, and their answers as wire JSON."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable

from catalogue import (
    CONFIRM,
    INVALID_PARAMS,
    NAME,
    PIXEL,
    RESOURCE_NOT_FOUND_LEGACY,
    ROOTS,
    STRING,
    TOOLS,
    Answer,
    Call,
    Json,
    Question,
    Refusal,
    embedded,
    form,
    sampling,
    shape,
    text,
    tool,
)

NAME_FORM = form("What is your name?", NAME)


def accepted(answer: Json, member: str) -> str | None:
    """A member of an accepted form, or None."""
    value = (answer.get("content") or {}).get(member) if answer.get("action") == "accept" else None
    return value if isinstance(value, str) else None


@tool("one elicitation round")
async def test_input_required_result_elicitation(call: Call) -> Answer:
    answer = await call.ask("user_name", NAME_FORM)
    if (name := accepted(answer, "name")) is None and call.is_modern:
        raise Question({"user_name": NAME_FORM}, None)
    return f"Hello, {name}!"


@tool("one sampling round")
async def test_input_required_result_sampling(call: Call) -> Answer:
    answer = await call.ask("capital_question", sampling("What is the capital of France?"))
    return f"Model said: {answer['content'].get('text')}"


@tool("one roots round")
async def test_input_required_result_list_roots(call: Call) -> Answer:
    return f"The client has {len((await call.ask('client_roots', ROOTS))['roots'])} root(s)"


@tool("a round whose state must come back")
async def test_input_required_result_request_state(call: Call) -> Answer:
    await call.ask("confirm", form("Please confirm", CONFIRM), state="nonce-of-round-one")
    if call.is_modern and call.state != "nonce-of-round-one":
        return {"content": [text("state lost")], "isError": True}
    return "state-ok"


@tool("a round whose state must not be changed by the client")
async def test_input_required_result_tampered_state(call: Call) -> Answer:
    await call.ask("confirm", form("Please confirm", CONFIRM), state="tamper-with-me")
    return "state-ok"


@tool("elicitation, sampling and roots in one round")
async def test_input_required_result_multiple_inputs(call: Call) -> Answer:
    wanted = {"user_name": NAME_FORM, "greeting": sampling("Write a greeting"), "client_roots": ROOTS}
    answers = await call.ask_all(wanted, state="several")
    return f"got {', '.join(sorted(answers))}"


@tool("two rounds with a state that grows")
async def test_input_required_result_multi_round(call: Call) -> Answer:
    colour_form = form("Step 2: what colour?", shape({"color": STRING}, ["color"]))
    known: Json = json.loads(call.state) if call.state else {}
    if "name" not in known:
        answer = await call.ask("step1", form("Step 1: what name?", NAME), state=json.dumps({"round": 1}))
        known = {"round": 2, "name": accepted(answer, "name")}
    answer = await call.ask("step2", colour_form, state=json.dumps(known))
    return f"{known['name']} likes {accepted(answer, 'color')}"


@tool("asks only what the client declared")
async def test_input_required_result_capabilities(call: Call) -> Answer:
    wanted: Json = {}
    if call.declared("sampling"):
        wanted["sample"] = sampling("Say hello")
    if call.declared("elicitation"):
        wanted["ask"] = NAME_FORM
    answers = await call.ask_all(wanted, state="gated")
    return f"got {', '.join(sorted(answers)) or 'nothing'}"


def user(*blocks: Json) -> list[Json]:
    return [{"role": "user", "content": block} for block in blocks]


async def simple_prompt(call: Call) -> list[Json]:
    return user(text("a prompt without arguments"))


async def prompt_with_arguments(call: Call) -> list[Json]:
    return user(text("Prompt with arguments: arg1='{arg1}', arg2='{arg2}'".format_map(call.arguments)))


async def prompt_with_resource(call: Call) -> list[Json]:
    return user(embedded(call.arguments["resourceUri"], "text/plain", "embedded text"), text("Read the text above."))


async def prompt_with_image(call: Call) -> list[Json]:
    return user({"type": "image", "data": PIXEL, "mimeType": "image/png"}, text("Look at the picture above."))


async def prompt_with_round(call: Call) -> list[Json]:
    answer = await call.ask("user_context", form("Which context?", shape({"context": STRING}, ["context"])))
    return user(text(f"Use this context: {accepted(answer, 'context')}"))


#: name -> (function, names of required arguments)
PROMPTS: dict[str, tuple[Callable[[Call], Awaitable[list[Json]]], tuple[str, ...]]] = {
    "test_simple_prompt": (simple_prompt, ()),
    "test_prompt_with_arguments": (prompt_with_arguments, ("arg1", "arg2")),
    "test_prompt_with_embedded_resource": (prompt_with_resource, ("resourceUri",)),
    "test_prompt_with_image": (prompt_with_image, ()),
    "test_input_required_result_prompt": (prompt_with_round, ()),
}

#: uri -> its contents without the uri
RESOURCES: dict[str, Json] = {
    "test://static-text": {"mimeType": "text/plain", "text": "static text"},
    "test://static-binary": {"mimeType": "image/png", "blob": PIXEL},
    "test://watched-resource": {"mimeType": "text/plain", "text": "text that is watched"},
}
TEMPLATE = "test://template/{id}/data"


INSTRUCTIONS = "A server of the bridge's own tests."
WORDS = ("alpha", "beta", "testing")  # what completion/complete knows


def tool_list() -> list[Json]:
    """The rows of tools/list."""
    return [{"name": name, "description": row.about, "inputSchema": row.schema, **row.extra} for name, row in TOOLS.items()]


def prompt_list() -> list[Json]:
    """The rows of prompts/list."""
    return [
        {"name": name, "description": name.replace("_", " "), "arguments": [{"name": n, "required": True} for n in names]}
        for name, (_, names) in PROMPTS.items()
    ]


def resource_list() -> list[Json]:
    """The rows of resources/list."""
    return [
        {"uri": uri, "name": uri.removeprefix("test://"), "mimeType": contents["mimeType"]}
        for uri, contents in RESOURCES.items()
    ]


def template_list() -> list[Json]:
    """The rows of resources/templates/list."""
    return [{"uriTemplate": TEMPLATE, "name": "template", "mimeType": "application/json"}]


def completion(start: str) -> Json:
    """The completion of ``start``."""
    values = [word for word in WORDS if word.startswith(start)]
    return {"values": values, "total": len(values), "hasMore": False}


async def call_tool(name: str, call: Call) -> Json:
    """The result of one tools/call. Raises: Refusal; Question."""
    if name not in TOOLS:
        raise Refusal(INVALID_PARAMS, f"Unknown tool: {name}")
    try:
        answer = await TOOLS[name].run(call)
    except KeyError as err:
        raise Refusal(INVALID_PARAMS, f"missing argument {err}") from err
    if isinstance(answer, str):
        answer = [text(answer)]
    return {"content": answer} if isinstance(answer, list) else answer


async def get_prompt(name: str, call: Call) -> Json:
    """The result of one prompts/get. Raises: Refusal; Question."""
    if name not in PROMPTS:
        raise Refusal(INVALID_PARAMS, f"Unknown prompt: {name}")
    run, required = PROMPTS[name]
    if absent := [one for one in required if one not in call.arguments]:
        raise Refusal(INVALID_PARAMS, f"missing argument {', '.join(absent)}")
    return {"messages": await run(call)}


def read(uri: str, *, is_modern: bool) -> Json:
    """The result of resources/read. Raises: Refusal when there is no such resource."""
    head, tail = TEMPLATE.split("{id}")
    if uri.startswith(head) and uri.endswith(tail) and (ident := uri[len(head) : -len(tail)]):
        data = {"id": ident, "templateTest": True, "data": f"Data for ID: {ident}"}
        contents = {"mimeType": "application/json", "text": json.dumps(data)}
    elif uri in RESOURCES:
        contents = RESOURCES[uri]
    else:
        raise Refusal(INVALID_PARAMS if is_modern else RESOURCE_NOT_FOUND_LEGACY, "Resource not found", {"uri": uri})
    return {"contents": [{"uri": uri, **contents}]}
