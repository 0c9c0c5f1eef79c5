"""From a configured endpoint to a way to reach it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from mcpbridge.config.sections import EndpointSpec, ServerSpec
from mcpbridge.core.exchange import NoReply
from mcpbridge.errors import BridgeError
from mcpbridge.transports.doors import ConnectionLimits
from mcpbridge.transports.stdio.socket import SocketFrontend
from mcpbridge.wire import message as m
from mcpbridge.wiring import Reach
from tests.golden.player import new_bridge
from tests.support.house import House
from tests.support.scripted import META


class Nobody:
    def notified(self, notification: Any) -> None:
        return None

    async def asked(self, request: Any) -> Any:
        raise AssertionError

    def closed(self, cause: BaseException | None) -> None:
        return None


async def test_a_secret_in_an_address_is_looked_up_when_the_server_is_reached(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with new_bridge(None) as bridge:
        house = House(bridge)
        frontend = SocketFrontend(house.reception.serve, bridge.spawn, ConnectionLimits())
        await frontend.start(str(tmp_path / "rotated.sock"), 0o600)
        reach = Reach(bridge)
        url = f"unix://{tmp_path}/${{secret:place}}.sock"
        endpoint = EndpointSpec(url=url, headers={"Authorization": "${secret:token}"})
        server = reach.add(ServerSpec(name="held", endpoints=(endpoint,)))
        monkeypatch.setenv("MCPBRIDGE_SECRET_TOKEN", "good")
        monkeypatch.setenv("MCPBRIDGE_SECRET_PLACE", "first")
        with pytest.raises(BridgeError) as missing:
            await server.backends[0].dial("modern", Nobody())
        assert missing.value.reason == "stdio_no_such_file"
        monkeypatch.setenv("MCPBRIDGE_SECRET_PLACE", "rotated")
        talk = await server.backends[0].dial("modern", Nobody())
        answer = await talk.call(m.request(1, "tools/list", {"_meta": META}), NoReply())
        assert json.loads(bytes(answer.result or b"")) == {"by": "tools/list"}
        assert server.backends[0].address == url
        await talk.close()
        await frontend.close()
        await reach.close()


@pytest.mark.parametrize(
    ("endpoint", "protocol", "is_child", "limit"),
    [
        (EndpointSpec(command="x"), "stdio", True, 20),
        (EndpointSpec(url="unix:///s"), "stdio", False, 1000),
        (EndpointSpec(url="pipe:///s"), "stdio", False, 1),
        (EndpointSpec(url="ws://h/ws"), "websocket", False, 1000),
        (EndpointSpec(url="http://h/e", protocol="sse"), "sse", False, 1000),
        (EndpointSpec(url="tcp://h:1"), "tcp_binary", False, 1000),
    ],
)
async def test_an_endpoint_becomes_a_backend_of_its_protocol_with_room_for_so_many(
    endpoint: EndpointSpec, protocol: str, is_child: bool, limit: int
) -> None:
    async with new_bridge(None) as bridge:
        reach = Reach(bridge)
        backend = reach.add(ServerSpec(name="s", endpoints=(endpoint,))).backends[0]
        assert (backend.protocol, backend.pool.limit) == (protocol, limit)
        assert (backend.pool._backoff is not None) is is_child
        await reach.close()
