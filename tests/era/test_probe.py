"""The era verdict: what real servers answer to server/discover, and what an outage never is."""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

import pytest

from mcpbridge.core.exchange import Era, Reply
from mcpbridge.era.probe import is_modern_only, probe
from mcpbridge.errors import BridgeError
from mcpbridge.wire import message as m
from mcpbridge.wire.envelope import parse
from tests.support.scripted import DISCOVERED, HELLO, never

WAIT = 5.0
module = sys.modules["mcpbridge.era.probe"]  # the package shows its function under this name


class Server:
    """Answers by method: a result, an error object, an exception, or nothing at all."""

    names_request = False
    noise = ""

    def __init__(self, **answers: Any) -> None:
        self._answers = {"server/discover": answers.get("discover"), "initialize": answers.get("initialize", HELLO)}
        self.asked: list[str] = []
        self.cancelled: list[str] = []

    async def call(self, request: m.Request, reply: Reply) -> m.Response:
        self.asked.append(request.method)
        answer = self._answers[request.method]
        if answer is None:
            try:
                await never()
            except asyncio.CancelledError:
                self.cancelled.append(request.method)
                raise
        if isinstance(answer, Exception):
            raise answer
        if "raw" in answer:
            parsed = parse(json.dumps(answer["raw"]).encode(), client=False)
            assert isinstance(parsed, m.Response)
            return parsed
        return m.error(request.id, answer) if "code" in answer else m.result(request.id, answer)

    async def notify(self, notification: m.Notification) -> None:
        return None

    def notify_now(self, notification: m.Notification) -> None:
        return None

    async def close(self) -> None:
        return None


def refusal(reason: str, **data: Any) -> BridgeError:
    return BridgeError(reason, "x", **data)


TYPESCRIPT = {"code": -32601, "message": "Method not found"}
PYTHON = {"code": -32602, "message": "Invalid request parameters", "data": ""}
HTTP_400 = {
    "raw": {"jsonrpc": "2.0", "id": "server-error", "error": {"code": -32600, "message": "Bad Request: Missing session ID"}}
}

VERDICTS = [
    ("a DiscoverResult", DISCOVERED, "modern"),
    ("a server of other modern versions", {"code": -32022, "message": "x", "data": {"supported": ["2027-01-01"]}}, "modern"),
    ("a modern server that wants headers", {"code": -32020, "message": "x"}, "modern"),
    ("a modern server that wants a capability", {"code": -32021, "message": "x"}, "modern"),
    ("TypeScript SDK 1.x", TYPESCRIPT, "legacy"),
    ("Python SDK 1.30 over stdio", PYTHON, "legacy"),
    ("Python SDK 1.x over HTTP, without a session", HTTP_400, "legacy"),
    ("a server that calls it internal", {"code": -32603, "message": "boom"}, "legacy"),
    ("a server that is not initialized", {"code": -32000, "message": "Server not initialized"}, "legacy"),
    ("a result that is no DiscoverResult", {"ok": True}, "legacy"),
    ("HTTP 405", refusal("backend_error", status=405), "legacy"),
    ("HTTP 404", refusal("http_not_found", status=404), "legacy"),
    ("HTML", refusal("bad_answer"), "legacy"),
]


@pytest.mark.parametrize(("answer", "era"), [case[1:] for case in VERDICTS], ids=[case[0] for case in VERDICTS])
async def test_the_verdict_is_what_the_server_says(answer: Any, era: Era) -> None:
    server = Server(discover=answer)
    found, response = await probe(server, WAIT)
    assert found == era
    assert server.asked == (["server/discover"] if era == "modern" else ["server/discover", "initialize"])
    if era == "legacy":
        assert m.loads(response.result or b"") == HELLO


@pytest.mark.parametrize(
    "outage",
    [
        refusal("connection_refused", sent=False),
        refusal("server_exited"),
        refusal("stream_closed"),
        refusal("timeout"),
        refusal("backend_error", status=401),
    ],
    ids=lambda error: f"{error.reason}{error.data.get('status', '')}",
)
async def test_an_outage_is_no_verdict(outage: BridgeError) -> None:
    with pytest.raises(BridgeError) as caught:
        await probe(Server(discover=outage), WAIT)
    assert caught.value.reason == outage.reason


async def test_an_outage_during_initialize_is_no_verdict_either() -> None:
    with pytest.raises(BridgeError, match="server exited"):
        await probe(Server(discover=TYPESCRIPT, initialize=refusal("server_exited")), WAIT)


async def test_a_server_that_ignores_unknown_methods_is_asked_initialize_and_the_first_question_taken_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "SILENCE", 0.001)
    server = Server(discover=None)
    assert (await asyncio.wait_for(probe(server, WAIT), WAIT))[0] == "legacy"
    assert server.cancelled == ["server/discover"]


async def test_an_outage_after_the_silence_is_no_verdict(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SILENCE", 0.001)
    with pytest.raises(BridgeError, match="server exited"):
        await asyncio.wait_for(probe(Server(discover=None, initialize=refusal("server_exited")), WAIT), WAIT)


async def test_a_server_that_answers_nothing_is_a_timeout_and_leaves_no_task(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SILENCE", 0.001)
    server = Server(discover=None, initialize=None)
    before = asyncio.all_tasks()
    with pytest.raises(BridgeError) as caught:
        await asyncio.wait_for(probe(server, 0.2), WAIT)
    assert (caught.value.reason, caught.value.sent) == ("timeout", False)
    assert asyncio.all_tasks() <= before
    assert sorted(server.cancelled) == ["initialize", "server/discover"]


@pytest.mark.parametrize(
    ("error", "verdict"),
    [
        ({"code": -32601, "message": "Method not found"}, True),
        ({"code": -32022, "message": "x"}, True),
        ({"code": -32602, "message": "missing io.modelcontextprotocol/protocolVersion"}, True),
        ({"code": -32600, "message": "only 2026-07-28 is spoken here"}, True),
        ({"code": -32602, "message": "Unsupported protocol version"}, False),
        ({"code": -32603, "message": "boom"}, False),
        ({"code": -32000, "message": "no"}, False),
    ],
    ids=lambda value: str(value)[:60],
)
def test_a_refused_initialize_tells_of_a_modern_only_server_only_when_it_says_so(error: Any, verdict: bool) -> None:
    assert is_modern_only(m.error(0, error)) is verdict


def test_an_accepted_initialize_is_not_modern_only() -> None:
    assert not is_modern_only(m.result(0, HELLO))
