"""Servers that cannot start, make noise, stay silent or break: an error that names server and cause, the others unaffected."""

from __future__ import annotations

import asyncio
import json
import shlex
import sys
from typing import Any

import pytest

from tests.support import peers, raw

pytestmark = [pytest.mark.real, pytest.mark.timeout(120)]
DEADLINE = 25.0  # seconds; a call waits 15 s for a server that does not start


def awkward(mode: str) -> list[str]:
    return [sys.executable, str(peers.HERE / "awkward_server.py"), mode]


#: what is wrong with the server -> (its command, words of which one must be in the error)
BROKEN = {
    "command not found": (["/nonexistent/mcp-server", "--flag"], ("not found", "no such file", "cannot start")),
    "exits at start": (awkward("exit"), ("exit", "3", "licence")),
    "prints noise": (awkward("noise"), ("json", "noise", "stdout", "no answer", "timeout", "timed out")),
    "never answers": (awkward("silent"), ("timeout", "timed out", "no answer", "did not answer", "within")),
}


def says(message: dict[str, Any], *words: str) -> bool:
    return any(word in json.dumps(message, ensure_ascii=False).lower() for word in words)


@pytest.mark.parametrize("fault", BROKEN)
async def test_a_broken_server_behind_the_router_gives_an_error_that_names_it_and_the_cause(fault: str) -> None:
    command, causes = BROKEN[fault]
    async with raw.child(peers.router("--server", f"broken={shlex.join(command)}")) as router:
        await router.open_legacy()
        router.send(raw.request(1, "tools/call", name="broken__echo", arguments={}))
        answer = await router.answer(1, timeout=DEADLINE)
        assert "error" in answer, answer
        assert says(answer["error"], "broken"), answer
        assert says(answer["error"], *causes), answer
        assert router.noise == []


@pytest.mark.parametrize("fault", BROKEN)
async def test_a_broken_single_command_does_not_hang_the_handshake(fault: str) -> None:
    command, causes = BROKEN[fault]
    async with raw.child(peers.router("--", *command)) as router:
        router.send(raw.initialize(1))
        hello = await router.answer(1, timeout=DEADLINE)
        router.send(raw.INITIALIZED)
        router.send(raw.request(2, "tools/list"))
        answer = await router.answer(2, timeout=DEADLINE)
        assert says(hello, *causes) or says(answer, *causes), (hello, answer)


@pytest.mark.parametrize("fault", BROKEN)
async def test_a_broken_server_leaves_the_others_of_the_gateway_alone(fault: str) -> None:
    command, causes = BROKEN[fault]
    with peers.gateway({"broken": command, "good": awkward("good")}) as bridge:
        client = raw.HttpClient(bridge.url())
        try:
            await client.open_legacy()
            listed = await client.post(raw.request(2, "tools/list"), timeout=DEADLINE)
            assert "result" in listed.messages[-1], (listed.messages, bridge.errors())
            assert [tool["name"] for tool in listed.messages[-1]["result"]["tools"]] == ["good__echo"]
            answer = await client.call_legacy(3, "good__echo", {"payload": "fine"})
            assert answer["result"]["content"][0]["text"] == '"fine"'
            single = raw.HttpClient(bridge.url("broken"))
            refused = await single.post(raw.initialize(1), timeout=DEADLINE)
            if "result" in refused.messages[-1]:
                single.session = refused.headers.get("mcp-session-id")
                refused = await single.post(raw.request(2, "tools/list"), timeout=DEADLINE)
            await single.close()
            assert "error" in refused.messages[-1], refused
            assert says(refused.messages[-1]["error"], "broken") and says(refused.messages[-1]["error"], *causes), refused
        finally:
            await client.close()


@pytest.mark.parametrize("client", peers.LEGACY_CLIENTS)
def test_a_failed_call_of_a_legacy_client_has_its_cause_and_leaves_the_others_alone(client: str) -> None:
    """At a status of 500 or more the Python SDK 1.x ends its session, and those in TypeScript lose code and data."""
    servers = {"broken": BROKEN["command not found"][0], "dies": awkward("dies-in-call"), "mute": awkward("mute-call")}
    calls = {"broken__echo": 1003, "dies__echo": 1018, "mute__echo": 1008}
    with peers.gateway({**servers, "good": awkward("good")}, MCPBRIDGE_ROUTING__REQUEST_TIMEOUT="900ms") as bridge:
        steps = [{"do": "call", "name": name, "arguments": {}} for name in (*calls, "good__echo")]
        *entries, good = peers.drive(client, bridge.url(), steps)["steps"]
        failed = [entry["error"] for entry in entries]
        assert [(error["code"], error["data"]["server"]) for error in failed] == [
            (code, name.removesuffix("__echo")) for name, code in calls.items()
        ]
        assert peers.texts(good) == "null"


async def test_a_server_that_is_down_is_named_to_the_client() -> None:
    """In the instructions of initialize, or in a log message when the handshake was answered before."""
    command = shlex.join(BROKEN["exits at start"][0])
    good = shlex.join(awkward("good"))
    async with raw.child(peers.router("--server", f"broken={command}", "--server", f"good={good}")) as router:
        hello = await router.open_legacy()
        router.send(raw.request(2, "tools/list"))
        await router.answer(2, timeout=DEADLINE)

        def named() -> bool:
            logs = [m["params"] for m in router.received if m.get("method") == "notifications/message"]
            return "broken" in str(hello.get("instructions")) or any(says(log, "broken") for log in logs)

        async with asyncio.timeout(DEADLINE), router.changed:
            await router.changed.wait_for(named)


async def test_noise_between_correct_messages_is_passed_over() -> None:
    async with raw.child(peers.router("--", *awkward("chatty"))) as router:
        await router.open_legacy()
        router.send(raw.request(1, "tools/call", name="echo", arguments={"payload": 5}))
        assert (await router.answer(1))["result"]["content"][0]["text"] == "5"
        assert router.noise == []


@pytest.mark.parametrize("mode", ["dies-in-call", "bad-json"])
async def test_a_server_that_breaks_in_a_call_fails_that_call_with_its_cause(mode: str) -> None:
    settings = {"MCPBRIDGE_ROUTING__REQUEST_TIMEOUT": "5s", "MCPBRIDGE_LOCAL__REQUEST_TIMEOUT_MS": "5000"}
    async with raw.child(peers.router("--", *awkward(mode)), **settings) as router:
        await router.open_legacy()
        router.send(raw.request("only", "tools/call", name="echo", arguments={}))
        answer = await router.answer("only", timeout=DEADLINE)
        assert "error" in answer, answer
        router.send(raw.request("after", "tools/list"))
        assert (await router.answer("after", timeout=DEADLINE))["result"]["tools"]


async def test_a_call_that_is_never_answered_ends_with_its_deadline() -> None:
    async with raw.child(peers.router("--", *awkward("mute-call")), MCPBRIDGE_LOCAL__REQUEST_TIMEOUT_MS="1500") as router:
        await router.open_legacy()
        router.send(raw.request(1, "tools/call", name="echo", arguments={}))
        answer = await router.answer(1, timeout=DEADLINE)
        assert says(answer["error"], "timeout", "timed out", "deadline", "within"), answer


#: bytes of a line -> (code, id of the answer)
MALFORMED = [
    (b"this is not json\n", -32700, None),
    (b'{"jsonrpc":"2.0","id":7,"method":\n', -32700, 7),
    (b'{"jsonrpc":"2.0","id":7,"method":5}\n', -32600, 7),
    (b'{"jsonrpc":"1.0","id":"x","method":"ping"}\n', -32600, "x"),
    (b"[]\n", -32600, None),
    (b"\xff\xfe{}\n", -32700, None),
]


@pytest.mark.requirement("cli.stdin-eof")
async def test_malformed_lines_are_answered_and_the_router_stays_usable() -> None:
    async with raw.child(peers.router("--", *awkward("good"))) as router:
        await router.open_legacy()
        for line, code, id in MALFORMED:
            before = len(router.received)
            router.send(line)
            async with asyncio.timeout(10), router.changed:
                await router.changed.wait_for(lambda: len(router.received) > before)  # noqa: B023
            answer = router.received[before]
            assert answer["error"]["code"] == code, (line, answer)
            assert answer.get("id") == id, (line, answer)
        router.send(raw.request(99, "tools/call", name="echo", arguments={"payload": "usable"}))
        assert (await router.answer(99))["result"]["content"][0]["text"] == '"usable"'


async def test_malformed_bodies_are_answered_and_the_connection_stays_usable() -> None:
    with peers.gateway({"good": awkward("good")}) as bridge:
        client = raw.HttpClient(bridge.url("good"))
        try:
            await client.open_legacy()
            for body, code, id in MALFORMED:
                answer = await client.post(body.rstrip(b"\n"))
                assert answer.status == 400, (body, answer)
                assert answer.messages[-1]["error"]["code"] == code, (body, answer)
                assert answer.messages[-1].get("id") == id, (body, answer)
            answer = await client.post(b"[" * 100_000)
            assert answer.status == 400, answer
            result = await client.call_legacy(3, "echo", {"payload": "usable"})
            assert result["result"]["content"][0]["text"] == '"usable"'
        finally:
            await client.close()


async def test_a_body_of_two_megabytes_is_refused_with_413_and_a_small_one_still_served() -> None:
    with peers.gateway({"good": awkward("good")}) as bridge:
        client = raw.HttpClient(bridge.url("good"))
        await client.open_legacy()
        huge = raw.request(2, "tools/call", name="echo", arguments={"payload": "x" * (2 * 1024 * 1024)})
        other = raw.HttpClient(bridge.url("good"))
        other.session = client.session
        try:
            assert (await other.post(huge)).status == 413
            assert (await client.call_legacy(3, "echo", {"payload": 1}))["result"]["content"][0]["text"] == "1"
        finally:
            await client.close()
            await other.close()


async def test_an_answer_of_several_megabytes_passes_through_the_router() -> None:
    """Router lines may be 10 MiB; what is large but allowed must not be cut or refused."""
    text = "é" * 1_500_000
    async with raw.child(peers.router("--", *awkward("good"))) as router:
        await router.open_legacy()
        router.send(raw.request(1, "tools/call", name="echo", arguments={"payload": text}))
        answer = await router.answer(1)
        assert json.loads(answer["result"]["content"][0]["text"]) == text
