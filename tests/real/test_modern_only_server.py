"""A server that knows nothing but 2026-07-28, and clients that never heard of it: the cell that the specification gives up.

Servers are the modern entries of the official SDKs, with ``initialize`` refused; clients are the legacy halves of the same.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from tests.support import peers
from tests.support.peers import LEGACY_CLIENTS, drive, texts
from tests.support.raw import ACCEPT, LEGACY, HttpClient, child, request

pytestmark = [pytest.mark.real, pytest.mark.timeout(120)]
Json = dict[str, Any]
ROOT = "file:///tmp/root-of-the-client"
FORM = {"do": "call", "name": "test_elicitation", "arguments": {"message": "well?"}}

PLAN: list[Json] = [
    {"do": "list", "kind": "tools"},
    {"do": "call", "name": "test_tool_with_progress", "progress": True},
    {"do": "call", "name": "test_sampling", "arguments": {"prompt": "hello"}},
    FORM,
    {"do": "call", "name": "list_roots"},
    {"do": "call", "name": "test_input_required_result_multiple_inputs"},
    {"do": "call", "name": "test_input_required_result_multi_round"},
    {"do": "call", "name": "test_input_required_result_request_state"},
    {"do": "prompt", "name": "test_input_required_result_prompt"},
    {"do": "subscribe", "uri": "test://watched-resource"},
    {"do": "level", "level": "debug"},
    {"do": "call", "name": "test_tool_with_logging"},
    {"do": "cancel", "name": "wait_for_cancel", "arguments": {"tag": "x"}},
    {"do": "call", "name": "cancelled_tags"},
]


@pytest.fixture(scope="module")
def modern_url() -> Iterator[str]:
    with peers.own_http("modern") as url:
        yield url


STDIO = [*peers.OWN["modern"], "--stdio"]


CASES = [("gateway to http", client) for client in LEGACY_CLIENTS] + [("router to stdio", "typescript-1")]


@pytest.mark.parametrize(("target", "client"), CASES)
def test_a_client_of_the_old_era_uses_everything_that_the_new_server_has(target: str, client: str, modern_url: str) -> None:
    if target == "router to stdio":
        report = drive(client, peers.router("--", *STDIO), PLAN)
    else:
        with peers.gateway({"new": modern_url}) as bridge:
            report = drive(client, bridge.url("new"), PLAN)
    steps = report["steps"]
    assert not [(step, entry) for step, entry in zip(PLAN, steps, strict=True) if "error" in entry and step["do"] != "cancel"]
    assert [progress["progress"] for progress in steps[1]["ok"]["progress"]] == [0, 50, 100]
    assert texts(steps[2]) == "LLM response: the model's answer"
    assert json.loads(texts(steps[3]).partition("content=")[2]) == {"response": "forty-two"}
    assert ROOT in texts(steps[4])
    assert texts(steps[5]) == "got client_roots, greeting, user_name"
    assert texts(steps[6]) == "Ada likes teal"
    assert texts(steps[7]) == "state-ok"
    assert "tests" in steps[8]["ok"]["messages"][0]["content"]["text"]
    assert [event["params"]["data"] for event in report["events"] if event["method"] == "notifications/message"] == [
        "started",
        "working",
        "done",
    ]
    assert json.loads(texts(steps[13]))[-1:] == ["x"]
    assert {"sampling/createMessage", "elicitation/create", "roots/list"} <= {q["method"] for q in report["questions"]}


@pytest.mark.parametrize("client", ["python-1", "typescript-2-legacy"])
def test_a_server_of_the_other_sdk_that_rejects_the_old_era_is_used_as_well(client: str) -> None:
    with peers.serving(peers.TYPESCRIPT_MODERN) as url, peers.gateway({"other": url}) as bridge:
        report = drive(client, bridge.url("other"), [{"do": "call", "name": "greet"}, {"do": "list", "kind": "tools"}])
    assert texts(report["steps"][0]) == "Ada: the model's answer (1)"
    assert [question["method"] for question in report["questions"]] == [
        "elicitation/create",
        "sampling/createMessage",
        "roots/list",
    ]


@pytest.mark.parametrize("client", ["python-1", "typescript-2-legacy"])
def test_questions_of_both_kinds_of_server_reach_a_client_of_one_endpoint(client: str, modern_url: str) -> None:
    steps = [{**FORM, "name": f"{server}__test_elicitation"} for server in ("new", "old")]
    with peers.gateway({"new": modern_url, "old": [*peers.OWN["legacy"], "--stdio"]}) as bridge:
        report = drive(client, bridge.url(), [*steps, {"do": "list", "kind": "tools"}])
    assert [json.loads(texts(step).partition("content=")[2]) for step in report["steps"][:2]] == [{"response": "forty-two"}] * 2
    assert [question["method"] for question in report["questions"]] == ["elicitation/create"] * 2


async def event(reader: asyncio.StreamReader) -> tuple[str, Json | None]:
    """Id and message of the next event on a chunked event stream; only lines of fields count, the chunks' own do not."""
    fields: dict[str, str] = {}
    while (line := (await reader.readuntil(b"\n")).decode().strip()) or "id" not in fields:
        name, _, value = line.partition(":")
        if name in ("id", "data"):
            fields[name] = value.strip()
    return fields["id"], json.loads(fields["data"]) if fields.get("data") else None


@asynccontextmanager
async def stream(client: HttpClient, method: str, body: bytes = b"", **headers: str) -> AsyncIterator[asyncio.StreamReader]:
    """A connection of its own whose answer is an event stream."""
    reader, writer = await asyncio.open_connection(client.host, client.port)
    head = {
        "host": f"{client.host}:{client.port}",
        "accept": ACCEPT if body else "text/event-stream",
        "content-type": "application/json",
        "content-length": str(len(body)),
        "mcp-session-id": client.session or "",
        "mcp-protocol-version": LEGACY,
        **headers,
    }
    lines = [f"{method} {client.path} HTTP/1.1", *(f"{name}: {value}" for name, value in head.items()), "", ""]
    writer.write("\r\n".join(lines).encode() + body)
    try:
        assert b" 200 " in (await reader.readuntil(b"\r\n\r\n")).split(b"\r\n")[0]
        yield reader
    finally:
        writer.close()


async def test_a_question_outlives_the_connection_it_was_put_on(modern_url: str) -> None:
    """The client loses its stream with the question open, comes back with Last-Event-ID, answers, and gets its result there."""
    with peers.gateway({"new": modern_url}) as bridge:
        client = HttpClient(bridge.url("new"))
        async with asyncio.timeout(30):
            await client.open_legacy(elicitation={})
            call = json.dumps(request("c", "tools/call", name="test_elicitation", arguments={"message": "?"})).encode()
            async with stream(client, "POST", call) as events:
                primed, nothing = await event(events)
                asked, question = await event(events)
                assert (nothing, question and question["method"]) == (None, "elicitation/create")
            async with stream(client, "GET", **{"last-event-id": primed}) as events:
                again, same = await event(events)
                assert (again, same) == (asked, question)
                answer = {"jsonrpc": "2.0", "id": question and question["id"], "result": {"action": "decline"}}
                assert (await client.post(answer, mcp_protocol_version=LEGACY)).status == 202
                _, result = await event(events)
                assert result is not None
                assert (result["id"], "decline" in json.dumps(result["result"])) == ("c", True)
            await client.close()


async def test_a_client_without_the_capability_gets_the_refusal_and_goes_on(modern_url: str) -> None:
    async with child(peers.router(modern_url)) as client, asyncio.timeout(30):
        await client.open_legacy(roots={})
        client.send(request(1, "tools/call", name="test_elicitation", arguments={"message": "?"}))
        refusal = (await client.answer(1))["error"]
        assert refusal["code"] == -32021
        assert refusal["data"]["requiredCapabilities"] == {"elicitation": {}}
        client.send(request(2, "tools/call", name="list_roots", arguments={}))
        async with client.changed:
            await client.changed.wait_for(lambda: any(said.get("method") == "roots/list" for said in client.received))
        question = next(said for said in client.received if said.get("method") == "roots/list")
        client.send({"jsonrpc": "2.0", "id": question["id"], "result": {"roots": []}})
        assert "result" in await client.answer(2)
