"""HTTP+SSE with the official SDKs on both ends: questions, progress, cancellation, list changes, logs and large answers."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.real.test_questions_and_events import DUAL, EVERYTHING, ROOT, methods
from tests.support import peers, setup
from tests.support.peers import MODERN_CLIENTS, SSE_CLIENTS, drive, texts
from tests.support.raw import child, request

pytestmark = [pytest.mark.real, pytest.mark.timeout(180)]
Json = dict[str, Any]


def as_sse(url: str) -> str:
    """The address of a stream as the configuration writes it."""
    return url.replace("http://", "sse://")


@contextlib.contextmanager
def everything() -> Iterator[str]:
    """The published server in its mode ``sse`` (SDK 1.x for TypeScript)."""
    port = peers.free_port()
    with peers.running([setup.node(), peers.js("server-everything"), "sse"], PORT=str(port)) as process:
        url = f"http://localhost:{port}/sse"
        peers.wait_listening(process, url)
        yield as_sse(url)


@pytest.mark.parametrize("client", [*SSE_CLIENTS, "python-1"])
def test_what_the_everything_server_says_on_its_stream_reaches_clients_of_either_transport(client: str) -> None:
    with everything() as target, peers.gateway({"one": target}) as bridge:
        report = drive(client, bridge.stream("one") if client in SSE_CLIENTS else bridge.url("one"), EVERYTHING)
    steps = report["steps"]
    failed = [(step["do"], step.get("name"), entry) for step, entry in zip(EVERYTHING, steps, strict=True) if "error" in entry]
    assert not failed, failed
    assert "the model's answer" in texts(steps[1]) and "Ada" in texts(steps[2]) and ROOT in texts(steps[3])
    assert [progress["progress"] for progress in steps[4]["ok"]["progress"]][:3] == [1, 2, 3]
    assert "still here" in texts(steps[13])
    assert {"sampling/createMessage", "elicitation/create", "roots/list"} <= set(methods(report, "questions"))


@pytest.mark.parametrize(
    ("client", "kind"),
    [
        *((client, kind) for client in SSE_CLIENTS for kind in ("legacy-sse", "legacy", "modern", "dual")),
        *((client, "legacy-sse") for client in ("typescript-2-legacy", *MODERN_CLIENTS)),
    ],
)
def test_the_whole_script_passes_with_http_sse_on_one_side_or_on_both(client: str, kind: str) -> None:
    steps: list[Json] = [
        *DUAL,
        {"do": "call", "name": "echo", "arguments": {"payload": "x" * 1_000_000}},
        {"do": "cancel", "name": "wait_for_cancel", "arguments": {"tag": "cut"}},
        {"do": "call", "name": "echo", "arguments": {"payload": 1, "delay": 0.5}},  # the cancel travels beside the calls
        {"do": "call", "name": "cancelled_tags"},
    ]
    with peers.own_http(kind) as url, peers.gateway({"one": as_sse(url) if kind == "legacy-sse" else url}) as bridge:
        report = drive(client, bridge.stream("one") if client in SSE_CLIENTS else bridge.url("one"), steps)
    done = report["steps"]
    assert not [entry for entry in done if "error" in entry], done
    assert [progress["progress"] for progress in done[0]["ok"]["progress"]] == [0, 50, 100]
    assert texts(done[1]) == "LLM response: the model's answer"
    assert json.loads(texts(done[2]).partition("content=")[2]) == {"response": "forty-two"}
    assert ROOT in texts(done[3])
    assert len(texts(done[len(DUAL)])) > 1_000_000
    assert "cut" in texts(done[-1])


@pytest.mark.parametrize("face", ["router", "gateway"])
def test_an_http_address_that_names_no_protocol_is_found_to_be_a_stream(face: str) -> None:
    steps = [{"do": "call", "name": "echo", "arguments": {"payload": "found"}}]
    with peers.own_http("legacy-sse") as url:
        if face == "router":
            report = drive("python-1", peers.router(url), steps)
        else:
            with peers.gateway({"one": url}) as bridge:
                report = drive("python-1", bridge.url("one"), steps)
    assert "found" in texts(report["steps"][0])


async def test_a_server_that_dies_and_comes_back_is_reached_again_and_its_client_told() -> None:
    port = peers.free_port()
    command = [*peers.OWN["legacy-sse"], "--port", str(port)]
    url = f"sse://localhost:{port}/sse"
    call = {"name": "echo", "arguments": {"payload": "back"}}
    with contextlib.ExitStack() as first:
        process = first.enter_context(peers.running(command))
        peers.wait_listening(process, f"http://localhost:{port}/sse")
        async with child(peers.router(url)) as client:
            await client.open_legacy()
            client.send(request(2, "tools/call", **call))
            assert "back" in str(await client.answer(2))
            client.send(request(3, "tools/call", name="wait_for_cancel", arguments={"tag": "x"}))
            client.send(request(4, "tools/call", **call))
            await client.answer(4)  # so the third is on its way too
            peers.kill_group(process)
            lost = (await client.answer(3))["error"]
            assert (lost["code"], lost["data"]["reason"]) == (1006, "stream_closed")
            assert lost["message"].startswith("sse: stream closed")
            with peers.running(command) as again:
                peers.wait_listening(again, f"http://localhost:{port}/sse")
                client.send(request(5, "tools/call", **call))
                assert "back" in str((await client.answer(5)).get("result"))
                async with asyncio.timeout(20), client.changed:
                    await client.changed.wait_for(
                        lambda: any(one.get("method") == "notifications/tools/list_changed" for one in client.received)
                    )
