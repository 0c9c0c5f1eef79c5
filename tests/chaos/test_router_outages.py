"""A router outlasts its gateways: calls made while one is gone are answered when it is back, or by the next one."""

from __future__ import annotations

import asyncio
import contextlib
import shlex
import signal
import sys
from collections.abc import Iterator

import pytest

from tests.support import peers, raw

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(120)]
SERVER = shlex.join([sys.executable, str(peers.HERE / "awkward_server.py"), "good"])


class Place:
    """A port where a gateway may be started and killed again."""

    def __init__(self) -> None:
        self.port = peers.free_port()
        self._stack = contextlib.ExitStack()
        self.process = None

    def start(self, *, other: bool = False) -> None:
        variables = {"MCPBRIDGE_SERVER__PORT": str(self.port), "MCPBRIDGE_METRICS__ENABLED": "false"}
        servers = ["--server", f"one={SERVER}", *(["--server", f"two={SERVER}"] if other else [])]
        self.process = self._stack.enter_context(peers.running([*peers.BRIDGE, "gateway", *servers], **variables))
        peers.wait_listening(self.process, f"http://localhost:{self.port}/healthz")

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def errors(self) -> str:
        return peers.errors_of(self.process)

    def close(self) -> None:
        self._stack.close()


@pytest.fixture
def places() -> Iterator[list[Place]]:
    places = [Place(), Place()]
    yield places
    for place in places:
        place.close()


def router(tmp_path, addresses: list[str]) -> list[str]:
    path = tmp_path / "router.yaml"
    first, *others = addresses
    path.write_text(
        f"gateway:\n  url: {first}\n  urls: {others}\n  connection:\n    timeout_ms: 2000\n"
        "    keepalive_interval_ms: 500\n    reconnect: {initial_delay_ms: 50, max_delay_ms: 200}\n"
        "metrics: {enabled: false}\n"
    )
    return peers.router("--config", str(path))


@pytest.mark.requirement(
    "config.router.gateway.connection.reconnect.initial_delay_ms", "config.router.gateway.connection.reconnect.max_delay_ms"
)
@pytest.mark.parametrize("scheme", ["http", "ws"])
@pytest.mark.parametrize("era", ["legacy", "modern"])
async def test_a_call_made_while_the_gateway_is_gone_is_answered_when_it_is_back(tmp_path, places, scheme, era) -> None:
    place = places[0]
    place.start()
    async with raw.child(router(tmp_path, [f"{scheme}://localhost:{place.port}"])) as client:
        meta = {} if era == "legacy" else {"_meta": raw.modern_meta()}
        if era == "legacy":
            await client.open_legacy()
        client.send(raw.request(1, "tools/list", **meta))
        names = [tool["name"] for tool in (await client.answer(1))["result"]["tools"]]
        place.kill()
        for id in range(2, 7):
            client.send(raw.request(id, "tools/call", name=names[0], arguments={}, **meta))
        await asyncio.to_thread(place.start)
        for id in range(2, 7):
            assert "result" in await client.answer(id)


@pytest.mark.requirement("config.router.gateway.urls")
@pytest.mark.parametrize("scheme", ["http", "ws"])
@pytest.mark.parametrize("era", ["legacy", "modern"])
async def test_calls_go_on_at_the_next_gateway_when_the_first_is_killed(tmp_path, places, scheme, era) -> None:
    for place in places:
        place.start()
    async with raw.child(router(tmp_path, [f"{scheme}://localhost:{place.port}" for place in places])) as client:
        meta = {} if era == "legacy" else {"_meta": raw.modern_meta()}
        if era == "legacy":
            await client.open_legacy()
        client.send(raw.request(1, "tools/list", **meta))
        names = [tool["name"] for tool in (await client.answer(1))["result"]["tools"]]
        for id in range(2, 22):
            if id == 10:
                places[0].kill()
            client.send(raw.request(id, "tools/call", name=names[0], arguments={}, **meta))
            assert "result" in await client.answer(id), id


@pytest.mark.requirement("config.router.gateway.connection.keepalive_interval_ms")
async def test_a_gateway_that_says_nothing_any_more_is_given_up_and_the_next_one_is_used(tmp_path, places) -> None:
    for place in places:
        place.start()
    async with raw.child(router(tmp_path, [f"ws://localhost:{place.port}" for place in places])) as client:
        await client.open_legacy()
        client.send(raw.request(1, "tools/list"))
        await client.answer(1)
        places[0].process.send_signal(signal.SIGSTOP)
        client.send(raw.request(2, "tools/list"))
        assert "result" in await client.answer(2)
        places[0].process.send_signal(signal.SIGCONT)


@pytest.mark.requirement("promise.hybrid")
async def test_a_direct_server_that_dies_is_served_over_the_gateway_until_it_is_back(tmp_path, places) -> None:
    """The gateway of ``places[0]`` has the server ``one``; so has, as a server of its own, the one of ``places[1]``."""
    for place in places:
        place.start(other=True)
    path = tmp_path / "router.yaml"
    path.write_text(
        f"gateway: {{url: 'http://localhost:{places[0].port}'}}\n"
        f"servers: [{{name: one, url: 'http://localhost:{places[1].port}/mcp/one'}}]\nmetrics: {{enabled: false}}\n"
    )

    async with raw.child(peers.router("--config", str(path))) as client:
        await client.open_legacy()
        client.send(raw.request(1, "tools/list"))
        names = [tool["name"] for tool in (await client.answer(1))["result"]["tools"]]
        assert names == ["one__echo", "two__echo"], "what both have is shown once"
        for id in range(2, 32):
            if id == 10:
                places[1].kill()
            if id == 20:
                await asyncio.to_thread(places[1].start, other=True)
            client.send(raw.request(id, "tools/call", name="one__echo", arguments={"payload": id}))
            answer = await client.answer(id)
            assert "result" in answer, answer
    assert "tools/call" in places[1].errors(), "it is used again once it is back"
