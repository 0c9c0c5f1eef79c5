"""TCP binary from end to end, with gateway processes: a raw client of ours -> gateway -> (tcp) -> gateway -> real SDK server.

The client is written from the text of the protocol; its two eras and the two of the server make four cells, all of it over TCP.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import ssl
import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support import peers
from tests.support.certificates import Tls, make_tls
from tests.support.mcpb_client import HEALTH, McpbClient, client, frame
from tests.support.peers import free_port
from tests.support.raw import modern_meta, request

pytestmark = [pytest.mark.real, pytest.mark.timeout(120)]
Json = dict[str, Any]
TOKEN = "tcp-token-0123456789abcdef0123456789ab"
CAPABILITIES: Json = {"elicitation": {"form": {}}, "sampling": {}, "roots": {"listChanged": True}}
ANSWERS: Json = {
    "elicitation/create": {"action": "accept", "content": {"response": "blue", "name": "Ada"}},
    "sampling/createMessage": {
        "role": "assistant",
        "content": {"type": "text", "text": "Paris"},
        "model": "m",
        "stopReason": "endTurn",
    },
    "roots/list": {"roots": [{"uri": "file:///tmp/root", "name": "root"}]},
}
MEGABYTE = "x" * (1 << 20)


def with_tcp(port: int, **more: str) -> dict[str, str]:
    return {
        "MCPBRIDGE_SERVER__PROTOCOLS__TCP_BINARY__ENABLED": "true",
        "MCPBRIDGE_SERVER__TCP_PORT": str(port),
        "MCPBRIDGE_SERVER__TCP_HEALTH_PORT": more.pop("health", "0"),
        **more,
    }


@pytest.fixture(scope="module", params=["legacy", "modern"])
def chain(request: pytest.FixtureRequest) -> Iterator[tuple[str, int]]:
    """The server's era and the port of a gateway whose only server is another gateway's TCP port."""
    far, near = free_port(), free_port()
    with (
        contextlib.ExitStack() as stack,
    ):
        server: Any = [*peers.OWN["legacy"], "--stdio"]
        if request.param == "modern":
            server = stack.enter_context(peers.own_http("modern"))
        stack.enter_context(peers.gateway({"one": server}, **with_tcp(far)))
        stack.enter_context(peers.gateway({"one": f"tcp://127.0.0.1:{far}"}, **with_tcp(near)))
        yield request.param, near


@contextlib.asynccontextmanager
async def legacy(port: int, capabilities: Json = CAPABILITIES) -> AsyncIterator[McpbClient]:
    async with client(port) as peer:
        peer.answers = dict(ANSWERS)
        assert "serverInfo" in await peer.open_legacy(**capabilities)
        yield peer


def said(answer: Json) -> str:
    assert "result" in answer, answer
    return " ".join(part.get("text", "") for part in answer["result"]["content"])


async def test_a_legacy_client_gets_everything(chain: tuple[str, int]) -> None:
    era, port = chain
    async with legacy(port) as peer:
        listed = await peer.call(1, "tools/list")
        assert {"echo", "test_simple_text"} <= {row["name"] for row in listed["result"]["tools"]}
        assert "static text" in json.dumps(await peer.call(2, "resources/read", uri="test://static-text"))
        prompt = await peer.call(3, "prompts/get", name="test_prompt_with_arguments", arguments={"arg1": "a", "arg2": "b"})
        assert "arg1='a'" in json.dumps(prompt)
        answer = await peer.call(4, "tools/call", name="echo", arguments={"payload": MEGABYTE})
        assert said(answer) == json.dumps(MEGABYTE)
        peer.send(request(5, "tools/call", name="test_tool_with_progress", arguments={}, _meta={"progressToken": "p"}))
        await peer.answer(5)
        steps = [m["params"] for m in peer.received if m.get("method") == "notifications/progress"]
        assert [(step["progressToken"], step["progress"]) for step in steps] == [("p", 0), ("p", 50), ("p", 100)]
        if era == "legacy":
            assert "Paris" in said(await peer.call(6, "tools/call", name="test_sampling", arguments={"prompt": "capital?"}))
            assert "blue" in said(await peer.call(7, "tools/call", name="test_elicitation", arguments={"message": "colour?"}))
            assert "file:///tmp/root" in said(await peer.call(8, "tools/call", name="list_roots", arguments={}))
            assert [question["method"] for question in peer.asked] == [*list(ANSWERS)[1::-1], "roots/list"]
        await peer.call(9, "tools/call", name="test_trigger_tool_change", arguments={})
        await peer.notification("notifications/tools/list_changed")
        await peer.call(10, "resources/subscribe", uri="test://watched-resource")
        await peer.call(11, "tools/call", name="touch_resource", arguments={"uri": "test://watched-resource"})
        updated = await peer.notification("notifications/resources/updated")
        assert updated["params"]["uri"] == "test://watched-resource"


async def test_a_modern_client_gets_everything(chain: tuple[str, int]) -> None:
    _era, port = chain
    async with client(port) as peer:
        found = await peer.call_modern(1, "server/discover")
        assert "2026-07-28" in found["result"]["supportedVersions"]
        listed = await peer.call_modern(2, "tools/list")
        assert "echo" in {row["name"] for row in listed["result"]["tools"]}
        answer = await peer.call_modern(3, "tools/call", name="echo", arguments={"payload": MEGABYTE})
        assert said(answer) == json.dumps(MEGABYTE)
        answer = await peer.call_modern(
            4, "tools/call", name="test_tool_with_progress", arguments={}, meta={"progressToken": "p"}
        )
        assert said(answer)
        steps = [m["params"] for m in peer.received if m.get("method") == "notifications/progress"]
        assert [(step["progressToken"], step["progress"]) for step in steps] == [("p", 0), ("p", 50), ("p", 100)]
        call: Json = {"name": "test_elicitation", "arguments": {"message": "colour?"}}
        first = (await peer.call_modern(5, "tools/call", capabilities=CAPABILITIES, **call))["result"]
        assert first["resultType"] == "input_required", first
        answers = {key: ANSWERS[question["method"]] for key, question in first["inputRequests"].items()}
        again = {"inputResponses": answers} | ({"requestState": first["requestState"]} if "requestState" in first else {})
        assert "blue" in said(await peer.call_modern(6, "tools/call", capabilities=CAPABILITIES, **call, **again))
        peer.send(request(7, "subscriptions/listen", _meta=modern_meta(), notifications={"toolsListChanged": True}))
        await peer.notification("notifications/subscriptions/acknowledged")
        await peer.call_modern(8, "tools/call", name="test_trigger_tool_change", arguments={})
        await peer.notification("notifications/tools/list_changed")


@pytest.mark.parametrize("how", ["cancelled", "gone"])
async def test_a_call_that_is_cancelled_or_whose_client_is_gone_ends_at_the_server(chain: tuple[str, int], how: str) -> None:
    _era, port = chain
    tag = f"{chain[0]}-{how}"
    async with legacy(port, {}) as watcher:  # clients that declare nothing share the server's one conversation
        async with legacy(port, {}) as peer:
            waiting = request(1, "tools/call", name="wait_for_cancel", arguments={"tag": tag}, _meta={"progressToken": 7})
            peer.send(waiting)
            await peer.notification("notifications/progress")
            if how == "cancelled":
                peer.send({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 1}})
                await peer.call(2, "ping")
        async with asyncio.timeout(10):
            number = 10
            while tag not in said(await watcher.call(number, "tools/call", name="cancelled_tags", arguments={})):
                number += 1


@pytest.mark.parametrize("name", ["legacy", "modern"])
async def test_many_clients_at_once_get_their_own_answers(chain: tuple[str, int], name: str) -> None:
    _era, port = chain

    async def one(number: int) -> None:
        async with legacy(port) if name == "legacy" else client(port) as peer:
            call = peer.call if name == "legacy" else peer.call_modern
            for turn in range(5):
                text = f"{number}/{turn}"
                assert said(await call(turn, "tools/call", name="echo", arguments={"payload": text})) == json.dumps(text)

    await asyncio.gather(*(one(number) for number in range(12)))


# The process: router, tokens, TLS, health, ports


@pytest.fixture(scope="module")
def tls(tmp_path_factory: pytest.TempPathFactory) -> Tls:
    return make_tls(tmp_path_factory.mktemp("tls"))


@contextlib.contextmanager
def configured(folder: Path, config: Json, **variables: str) -> Iterator[subprocess.Popen[str]]:
    """A gateway of this configuration, whose management port answers."""
    metrics = free_port()
    config = {"metrics": {"endpoint": f"127.0.0.1:{metrics}"}, **config}
    path = folder / "gateway.json"
    path.write_text(json.dumps(config))
    enabled = with_tcp(config["server"]["tcp_port"], health=str(config["server"].get("tcp_health_port", 0)))
    with peers.running([*peers.BRIDGE, "gateway", "--config", str(path)], **{**enabled, **variables}) as process:
        peers.wait_listening(process, f"http://127.0.0.1:{metrics}/healthz")
        yield process


def config_of(**server: Any) -> Json:
    return {
        "server": {"port": free_port(), "tcp_port": free_port(), "tls": {"enabled": False}, **server},
        "auth": {"static_tokens": [{"name": "t", "token": TOKEN}]},
        "servers": [{"name": "one", "command": peers.DUAL_STDIO[0], "args": peers.DUAL_STDIO[1:]}],
    }


def tls_config(tls: Tls, **more: Any) -> Json:
    return {"enabled": True, "cert_file": str(tls.server_cert), "key_file": str(tls.server_key), **more}


STEPS: list[Json] = [
    {"do": "list", "kind": "tools"},
    {"do": "call", "name": "echo", "arguments": {"payload": "over tcp"}},
]


@pytest.mark.requirement("config.router.advanced.protocol", "config.router.advanced.tcp_address")
def test_a_router_reaches_its_gateway_by_frames_with_its_token(tmp_path: Path) -> None:
    config = config_of()
    with configured(tmp_path, config):
        file = tmp_path / "router.yaml"
        where = f"127.0.0.1:{config['server']['tcp_port']}"
        secret = tmp_path / "token"
        secret.touch(mode=0o600)
        gateway = {"auth": {"token_file": str(secret)}}
        file.write_text(json.dumps({"gateway": gateway, "advanced": {"protocol": "tcp", "tcp_address": where}}))
        secret.write_text(TOKEN)
        report = peers.drive("python-2-legacy", peers.router("--config", str(file)), STEPS)
        assert "over tcp" in peers.texts(report["steps"][1]), report
        secret.write_text("not-the-token-0123456789")
        with pytest.raises(peers.PeerFailed, match="backend refused our credentials"):
            peers.drive("python-2-legacy", peers.router("--config", str(file)), STEPS)


async def test_a_message_needs_the_sign_in_and_the_http_port_knows_frames_too(tmp_path: Path) -> None:
    config = config_of()
    with configured(tmp_path, config):
        for port in (config["server"]["tcp_port"], config["server"]["port"]):
            async with client(port, token=TOKEN) as peer:
                assert "result" in await peer.call_modern(1, "tools/list")
            async with client(port, token="x" * 40) as peer:
                assert (await peer.error())["code"] == 1015
            async with client(port) as peer:
                peer.send(request(1, "ping"))
                assert (await peer.error())["data"]["reason"] == "protocol_mismatch"
            async with client(port, negotiated=False) as peer:
                peer.write(b"MCP\0" + bytes(12))
                assert (await peer.error())["data"]["got"].startswith("4D 43 50 00")


@pytest.mark.requirement("limit.tls.13", "config.gateway.server.protocols.tcp_binary.tls")
async def test_old_tls_is_refused_on_both_ports_and_mcpb_within_tls_works_on_both(tmp_path: Path, tls: Tls) -> None:
    config = config_of(tls=tls_config(tls))
    with configured(tmp_path, config):
        for port in (config["server"]["tcp_port"], config["server"]["port"]):
            async with client(port, context=tls.calling(), token=TOKEN) as peer:
                assert "result" in await peer.call_modern(1, "tools/list")
            old = tls.calling()
            old.maximum_version = ssl.TLSVersion.TLSv1_2
            with pytest.raises((ssl.SSLError, ConnectionError)):
                async with client(port, context=old):
                    pass


@pytest.mark.requirement("config.gateway.server.tls.client_auth", "config.gateway.server.tls.ca_file")
async def test_a_client_without_a_certificate_of_the_authority_is_refused(tmp_path: Path, tls: Tls) -> None:
    config = config_of(tls=tls_config(tls, client_auth="require", ca_file=str(tls.authority)))
    with configured(tmp_path, config):
        for port in (config["server"]["tcp_port"], config["server"]["port"]):
            async with client(port, context=tls.calling("client"), token=TOKEN) as peer:
                assert "result" in await peer.call_modern(1, "tools/list")
            for who in ("", "stranger"):
                with pytest.raises((OSError, EOFError, AssertionError)):
                    async with client(port, context=tls.calling(who)) as peer:
                        await peer.alive()


@pytest.mark.requirement("http.gateway.tcp-health", "config.gateway.server.tcp_health_port")
async def test_the_health_port_is_open_while_the_gateway_is_ready_and_no_longer(tmp_path: Path) -> None:
    health = free_port()
    with configured(tmp_path, config_of(tcp_health_port=health)) as process:
        async with asyncio.timeout(10):
            while True:
                try:
                    reader, writer = await asyncio.open_connection("127.0.0.1", health)
                    break
                except ConnectionRefusedError:
                    await asyncio.sleep(0.05)
            writer.write(frame(HEALTH, b"?"))
            assert await reader.readexactly(13) == frame(HEALTH, b"?")
            writer.close()
            reader, writer = await asyncio.open_connection("127.0.0.1", health)
            writer.write(b"GET / HTTP/1.1\r\n\r\n")
            assert json.loads(await reader.read()).keys() == {"healthy", "status"}
            writer.close()
        process.terminate()
        assert await asyncio.to_thread(process.wait, 20) == 0
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection("127.0.0.1", health)


async def test_a_drain_answers_what_is_in_flight_and_says_good_bye(tmp_path: Path) -> None:
    config = config_of()
    with configured(tmp_path, config) as process:
        async with (
            client(config["server"]["tcp_port"], token=TOKEN) as busy,
            client(config["server"]["tcp_port"], token=TOKEN) as idle,
        ):
            await idle.alive()
            meta = {**modern_meta(), "progressToken": 1}
            await busy.call_modern(1, "tools/list")
            busy.send(request(2, "tools/call", name="echo", arguments={"payload": "late", "delay": 1.5}, _meta=meta))
            await busy.alive()
            process.terminate()
            await idle.end()
            assert said(await busy.answer(2)) == '"late"'
            await busy.end()
        assert await asyncio.to_thread(process.wait, 20) == 0


@pytest.mark.parametrize("key", ["tcp_port", "tcp_health_port"])
def test_a_port_that_is_named_and_taken_ends_the_start(tmp_path: Path, key: str) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        config = config_of(**{key: taken.getsockname()[1]})
        path = tmp_path / "gateway.json"
        path.write_text(json.dumps({"metrics": {"endpoint": f"127.0.0.1:{free_port()}"}, **config}))
        done = subprocess.run(
            [*peers.BRIDGE, "gateway", "--config", str(path)],
            capture_output=True,
            text=True,
            timeout=30,
            env=peers.environment(MCPBRIDGE_SERVER__PROTOCOLS__TCP_BINARY__ENABLED="true"),
        )
    assert done.returncode == 75, done.stderr
    assert f"server.{key}: cannot listen on 127.0.0.1" in done.stderr
