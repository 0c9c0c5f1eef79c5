"""WebSocket with real peers on both ends: the Python SDK 1.x as client and server, two WebSocket libraries of Node.

What no SDK offers, modern clients and servers over WebSocket, are chains of our own programs with real ones at their ends. One
script: questions, progress, cancellation, list changes, logs, a message of a megabyte.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.real.test_questions_and_events import DUAL, ROOT
from tests.support import peers, setup
from tests.support.peers import MODERN_CLIENTS, PeerFailed, drive, execute, texts
from tests.support.raw import INITIALIZED, initialize, request

pytestmark = [pytest.mark.real, pytest.mark.timeout(180)]
Json = dict[str, Any]
CLIENT = "python-1-websocket"
SCRIPT: list[Json] = [
    *DUAL,
    {"do": "call", "name": "echo", "arguments": {"payload": "x" * 1_000_000}},
    {"do": "cancel", "name": "wait_for_cancel", "arguments": {"tag": "cut"}},
    {"do": "call", "name": "echo", "arguments": {"payload": 1, "delay": 0.5}},  # the cancel travels beside the calls
    {"do": "call", "name": "cancelled_tags"},
]


@contextlib.contextmanager
def serving(kind: str) -> Iterator[str]:
    """The address of a server: ``legacy-websocket`` by its SDK, ``X over a gateway`` by WebSocket to one in front of it."""
    with contextlib.ExitStack() as stack:
        server, _, over = kind.partition(" over ")
        url = stack.enter_context(peers.own_http(server))
        if server == "legacy-websocket":
            url = url.replace("http://", "ws://")
        if over:
            url = stack.enter_context(peers.gateway({"one": url})).socket("one")
        yield url


def check(report: Json) -> None:
    done = report["steps"]
    assert not [entry for entry in done if "error" in entry], done
    assert [progress["progress"] for progress in done[0]["ok"]["progress"]] == [0, 50, 100]
    assert texts(done[1]) == "LLM response: the model's answer"
    assert json.loads(texts(done[2]).partition("content=")[2]) == {"response": "forty-two"}
    assert ROOT in texts(done[3])
    assert len(texts(done[len(DUAL)])) > 1_000_000
    assert "cut" in texts(done[-1])


@pytest.mark.parametrize(
    ("client", "kind"),
    [
        *((CLIENT, kind) for kind in ("legacy-websocket", "legacy", "modern", "dual", "modern over a gateway")),
        *((client, "legacy-websocket") for client in ("python-1", "typescript-2-legacy", *MODERN_CLIENTS)),
    ],
)
def test_the_whole_script_passes_with_websocket_on_one_side_or_on_both(client: str, kind: str) -> None:
    with serving(kind) as url, peers.gateway({"one": url}) as bridge:
        check(drive(client, bridge.socket("one") if client == CLIENT else bridge.url("one"), SCRIPT))


@pytest.mark.parametrize(
    ("client", "kind"),
    [
        ("python-2-modern", "modern over a gateway"),
        ("typescript-2-modern", "legacy-websocket"),
        ("typescript-2-legacy", "modern over a gateway"),
    ],
)
def test_clients_behind_a_router_reach_servers_behind_a_gateway_by_websocket_all_the_way(client: str, kind: str) -> None:
    with serving(kind) as url, peers.gateway({"one": url}) as bridge:
        check(drive(client, peers.router(bridge.socket("one")), SCRIPT))


@pytest.mark.requirement("http.gateway.ws")
@pytest.mark.parametrize("library", ["ws", "builtin"])
def test_a_websocket_library_that_knows_nothing_of_mcp_has_a_conversation(library: str) -> None:
    call = request(2, "tools/call", name="echo", arguments={"payload": "é" * 500_000})
    plan = [initialize(), INITIALIZED, call, request(3, "tools/list")]
    with peers.own_http("legacy") as url, peers.gateway({"one": url}) as bridge:
        command = [setup.node(), str(peers.DRIVERS / "websocket_client.mjs"), library, bridge.socket("one")]
        output, errors, code = execute(command, input_text=json.dumps(plan), timeout=30)
    if code != 0:
        raise PeerFailed(errors)
    report = json.loads(output)
    assert (report["protocol"], report["code"]) == ("mcp", 1000)
    assert [answer["id"] for answer in report["answers"]] == [1, 2, 3]
    assert "é" * 500_000 in json.dumps(report["answers"][1], ensure_ascii=False)
