"""Servers of every kind of era behind one endpoint, real clients of both eras in front of it.

Dual over HTTP, legacy and modern as children; all three have one catalogue, so every name and every URI meets its twins.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support import peers
from tests.support.peers import LEGACY_CLIENTS, MODERN_CLIENTS, drive, texts
from tests.support.raw import HttpClient, modern_meta, request

pytestmark = [pytest.mark.real, pytest.mark.timeout(180)]
Json = dict[str, Any]
SERVERS = ("dual", "legacy", "modern")
ROOT = "file:///tmp/root-of-the-client"
URI = "test://static-text"


@pytest.fixture(scope="module")
def mixed(dual_url: str) -> Iterator[peers.Gateway]:
    """A gateway whose ``/mcp`` shows all three."""
    children = {kind: [*peers.OWN[kind], "--stdio"] for kind in ("legacy", "modern")}
    with peers.gateway({"dual": dual_url, **children}, MCPBRIDGE_ROUTING__MAX_NAME_LENGTH="64") as bridge:
        yield bridge


def alias(server: str, uri: str) -> str:
    """The first configured server has its URIs as they are."""
    return uri if server == "dual" else f"mcpbridge+{server}:///{uri.replace(':', '%3A')}"


STEPS: list[Json] = [
    {"do": "call", "name": "test_tool_with_progress", "progress": True},
    {"do": "call", "name": "test_sampling", "arguments": {"prompt": "hello"}},
    {"do": "call", "name": "test_elicitation", "arguments": {"message": "well?"}},
    {"do": "call", "name": "list_roots"},
    {"do": "call", "name": "test_input_required_result_multi_round"},
    {"do": "prompt", "name": "test_input_required_result_prompt"},
    {"do": "complete", "ref": "test_prompt_with_arguments", "argument": {"name": "arg1", "value": "te"}},
]


def of(server: str, step: Json) -> Json:
    """A step with the names that the endpoint shows of this server."""
    if "ref" in step:
        return {**step, "ref": {"type": "ref/prompt", "name": f"{server}__{step['ref']}"}}
    return {**step, "name": f"{server}__{step['name']}"}


@pytest.mark.parametrize(
    ("face", "client"),
    [("gateway", client) for client in (*LEGACY_CLIENTS, *MODERN_CLIENTS)]
    + [("router", "python-1"), ("router", "typescript-2-modern")],
)
def test_calls_questions_prompts_and_completions_of_all_servers_reach_every_client(
    face: str, client: str, mixed: peers.Gateway
) -> None:
    steps = [of(server, step) for server in SERVERS for step in STEPS]  # calls wait for their servers, lists only a little
    lists = len(steps)
    steps += [{"do": "list", "kind": kind} for kind in ("tools", "prompts", "resources", "templates")]
    reads = len(steps)
    steps += [{"do": "read", "uri": alias(server, uri)} for server in SERVERS for uri in (URI, "test://template/7/data")]
    report = drive(client, mixed.url() if face == "gateway" else peers.router(mixed.url()), steps)
    entries = report["steps"]
    failed = [(step, entry) for step, entry in zip(steps, entries, strict=True) if "error" in entry]
    assert not failed, failed
    for kind in entries[lists : lists + 2]:
        names = [item["name"] for item in kind["ok"]["items"]]
        owned = {server: [n.partition("__")[2] for n in names if n.startswith(f"{server}__")] for server in SERVERS}
        assert len(names) == len(set(names)) == 3 * len(owned["dual"])
        assert owned["dual"] == owned["legacy"] == owned["modern"]
    assert {alias(server, URI) for server in SERVERS} <= {item["uri"] for item in entries[lists + 2]["ok"]["items"]}
    assert len(entries[lists + 3]["ok"]["items"]) == 3
    for number, server in enumerate(SERVERS):
        answers = entries[number * len(STEPS) :]
        assert [progress["progress"] for progress in answers[0]["ok"]["progress"]] == [0, 50, 100], server
        assert texts(answers[1]) == "LLM response: the model's answer", server
        assert "forty-two" in texts(answers[2]), server
        assert ROOT in texts(answers[3]), server
        assert texts(answers[4]) == "Ada likes teal", server
        assert "tests" in answers[5]["ok"]["messages"][0]["content"]["text"], server
        assert answers[6]["ok"]["completion"]["values"] == ["testing"], server
        static, expanded = (entry["ok"]["contents"][0] for entry in entries[reads + 2 * number : reads + 2 * number + 2])
        assert static["uri"] == alias(server, URI)
        assert (expanded["uri"], json.loads(expanded["text"])["id"]) == (alias(server, "test://template/7/data"), "7")


@pytest.mark.parametrize("client", [*LEGACY_CLIENTS, *MODERN_CLIENTS])
def test_changes_of_all_servers_reach_every_client_and_cancellation_reaches_its_server(
    client: str, mixed: peers.Gateway
) -> None:
    tags: list[Json] = [{"do": "call", "name": f"{server}__cancelled_tags"} for server in SERVERS]
    steps = [*tags, {"do": "listen", "filter": {"tools_list_changed": True, "prompts_list_changed": True}}]
    for count, server in enumerate(SERVERS, 1):
        steps += [
            {"do": "cancel", "name": f"{server}__wait_for_cancel", "arguments": {"tag": f"{client} {server}"}},
            {"do": "call", "name": f"{server}__test_trigger_tool_change"},
            {"do": "await", "event": "notifications/tools/list_changed", "count": count, "timeout": 10},
        ]
    steps += tags  # the notification that cancels a call may be overtaken by the next call
    report = drive(client, mixed.url(), steps)
    entries = report["steps"]
    assert not [(step, entry) for step, entry in zip(steps, entries, strict=True) if "error" in entry], entries
    for server, entry in zip(SERVERS, entries[-3:], strict=True):
        if server == "legacy" and client in MODERN_CLIENTS:
            continue  # such a call has a child to itself, which is not used again once the call was cut short
        assert f"{client} {server}" in json.loads(texts(entry)), server


def test_headers_are_checked_by_exposed_names_and_computed_anew_for_the_server(mixed: peers.Gateway) -> None:
    """The dual server refuses a call whose Mcp-Name or Mcp-Param-Region does not say what its body says."""

    async def call(client: HttpClient, id: int, name: str, **headers: str) -> Json:
        params = {"name": "dual__test_x_mcp_header", "arguments": {"region": "Zürich"}, "_meta": modern_meta()}
        sent = {"mcp_protocol_version": "2026-07-28", "mcp_method": "tools/call", "mcp_name": name}
        answer = await client.post(request(id, "tools/call", **params), **sent, **headers)
        return {"status": answer.status, **answer.messages[-1]}

    async def run() -> None:
        client = HttpClient(mixed.url())
        region = "=?base64?WsO8cmljaA==?="
        try:
            right = await call(client, 1, "dual__test_x_mcp_header", mcp_param_region=region)
            assert right["result"]["content"][0]["text"] == "region=Zürich"
            for id, (name, headers) in enumerate(
                [
                    ("test_x_mcp_header", {"mcp_param_region": region}),  # the server's own name is not this endpoint's
                    ("dual__test_x_mcp_header", {"mcp_param_region": "Bern"}),
                    ("dual__test_x_mcp_header", {}),
                ]
            ):
                wrong = await call(client, 2 + id, name, **headers)
                assert (wrong["status"], wrong["error"]["code"]) == (400, -32020), (name, headers)
        finally:
            await client.close()

    asyncio.run(run())
