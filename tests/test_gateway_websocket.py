"""WebSocket at a real gateway: where it is served, who is let in, what a conversation does, how it ends."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from mcpbridge.core.exchange import NoReply
from mcpbridge.errors import BridgeError
from mcpbridge.transports.websocket.dial import dial
from mcpbridge.wire.envelope import parse
from mcpbridge.wire.message import Request
from tests.support.certificates import make_tls
from tests.support.frames import BINARY, TEXT, Frame, close
from tests.support.peers import execute, free_port
from tests.support.raw import modern_meta, request
from tests.support.websocket_gateway import ALICE, LIMIT, Gateway, ask, open_session, say, started


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    yield from started(tmp_path_factory.mktemp("websocket"))


@pytest.mark.requirement("http.gateway.ws", "config.gateway.server.protocols.websocket.path")
async def test_everything_is_served_at_ws_and_at_the_root_and_one_server_below_ws(gateway: Gateway):
    for path, tools in (("/ws", ["one__echo", "two__echo"]), ("/", ["one__echo", "two__echo"]), ("/ws/two", ["echo"])):
        async with gateway.client(path) as peer:
            await open_session(peer)
            listed = await ask(peer, request(2, "tools/list"))
            assert [tool["name"] for tool in listed["result"]["tools"]] == tools, path


async def test_the_subprotocol_mcp_is_answered_when_it_is_offered(gateway: Gateway):
    host, token = f"127.0.0.1:{gateway.port}", f"Authorization: Bearer {ALICE}"
    for offered, chosen in (("mcp", "mcp"), ("graphql-ws, mcp", "mcp"), ("graphql-ws", None)):
        async with gateway.peer() as peer:
            headers = await peer.upgrade("/ws", [token, f"Sec-WebSocket-Protocol: {offered}"], host)
            assert headers.get("sec-websocket-protocol") == chosen
            assert "sec-websocket-extensions" not in headers
            assert len(headers["x-request-id"]) > 8


async def test_a_modern_client_needs_no_session(gateway: Gateway):
    async with gateway.client("/ws/one") as peer:
        answer = await ask(peer, request("a", "tools/call", name="echo", arguments={}, _meta=modern_meta()))
        assert answer["result"]["content"][0]["text"] == "*"


@pytest.mark.requirement("http.common.origin")
async def test_who_is_not_let_in_is_told_in_http(gateway: Gateway):
    token = f"Authorization: Bearer {ALICE}"
    status, headers = await gateway.refused("/ws")
    assert status == 401 and headers["www-authenticate"].startswith("Bearer")
    for expected, path, fields, options in (
        (401, "/ws", ["Authorization: Bearer nobody"], {}),
        (404, "/ws/nobody", [token], {}),
        (404, "/wsx", [token], {}),
        (403, "/ws", [token, "Origin: https://evil.example"], {}),
        (403, "/", [token, "Origin: null"], {}),
        (421, "/ws", [token], {"host": "evil.example"}),
        (426, "/ws", [token], {"version": "8"}),
        (400, "/ws", [token, "Sec-WebSocket-Key: again"], {}),
    ):
        status, headers = await gateway.refused(path, *fields, **options)
        assert status == expected, (path, fields)
        if status == 426:
            assert headers["sec-websocket-version"] == "13"


async def test_a_plain_request_to_the_endpoint_is_told_to_upgrade_and_one_without_a_key_is_refused(gateway: Gateway):
    head = f"GET /ws HTTP/1.1\r\nHost: 127.0.0.1:{gateway.port}\r\nAuthorization: Bearer {ALICE}\r\n"
    for fields, expected in (("", 426), ("Upgrade: websocket\r\nConnection: upgrade\r\nSec-WebSocket-Version: 13\r\n", 400)):
        async with gateway.peer() as peer:
            peer.write((head + fields + "\r\n").encode())
            status, headers = await peer.head()
            assert status == expected
            assert expected != 426 or headers["upgrade"] == "websocket"
    async with gateway.peer() as peer:
        peer.write((head + "\r\n").replace("GET", "POST").encode())
        assert (await peer.head())[0] == 405


@pytest.mark.requirement("limit.ws-message", "config.gateway.server.security.max_message_size")
async def test_a_message_of_the_largest_size_passes_and_one_byte_more_closes_with_1009(gateway: Gateway):
    call = json.dumps(request(1, "tools/call", name="echo", arguments={"pad": ""}, _meta=modern_meta())).encode()
    for over, code in ((0, None), (1, 1009)):
        async with gateway.client("/ws/one") as peer:
            message = call.replace(b'"pad": ""', b'"pad": "' + b"x" * (LIMIT - len(call) + over) + b'"')
            assert len(message) == LIMIT + over
            peer.send(Frame(TEXT, message))
            if code is None:
                assert "result" in json.loads(await peer.message())
            else:
                assert (await peer.end())[1] == code


async def test_binary_and_bad_text_close_with_their_codes(gateway: Gateway):
    for frame, code in ((Frame(BINARY, b"{}"), 1003), (Frame(TEXT, b"\xff"), 1007)):
        async with gateway.client() as peer:
            peer.send(frame)
            assert (await peer.end())[1] == code


async def test_nonsense_in_a_message_is_answered_and_the_connection_goes_on(gateway: Gateway):
    async with gateway.client("/ws/one") as peer:
        peer.send(Frame(TEXT, b"not JSON"))
        assert json.loads(await peer.message())["error"]["code"] == -32700
        assert "result" in await ask(peer, request(1, "tools/list", _meta=modern_meta()))


async def test_a_client_that_goes_cancels_its_call_at_once(gateway: Gateway, tmp_path: Path):
    mark = tmp_path / "cancelled"
    async with gateway.client("/ws/one") as peer:
        await open_session(peer)
        say(peer, request(2, "tools/call", name="echo", arguments={"wait": 30, "file": str(mark)}))
        assert "result" in await ask(peer, request(3, "ping"))
    async with asyncio.timeout(5):
        while not mark.exists():
            await asyncio.sleep(0.01)


async def test_a_large_answer_comes_whole(gateway: Gateway):
    async with gateway.client("/ws/one") as peer:
        call = request(1, "tools/call", name="echo", arguments={"size": 50_000}, _meta=modern_meta())
        assert len((await ask(peer, call))["result"]["content"][0]["text"]) == 50_000


async def test_draining_answers_what_is_in_flight_and_says_1001(tmp_path: Path):
    for gateway in started(tmp_path):
        async with gateway.client() as idle, gateway.client("/ws/one") as busy:
            await open_session(busy)
            say(busy, request(2, "tools/call", name="echo", arguments={"wait": 0.5, "file": str(tmp_path / "x")}))
            assert "result" in await ask(busy, request(3, "ping"))
            gateway.process.send_signal(signal.SIGTERM)
            assert await idle.frame() == close(1001)
            idle.send(close(1001))
            assert json.loads(await busy.message())["id"] == 2
            assert await busy.frame() == close(1001)
            busy.send(close(1001))
            assert await idle.end() == await busy.end() == ([], None)
            assert await asyncio.to_thread(gateway.process.wait, 10) == 0


async def test_a_server_behind_websocket_that_dies_and_comes_back_is_told_in_coded_errors_and_reached_again(tmp_path: Path):
    begin = contextmanager(started)
    port, far, near = free_port(), tmp_path / "far", tmp_path / "near"
    far.mkdir()
    near.mkdir()
    server = {"name": "far", "url": f"ws://127.0.0.1:{port}/ws/one", "headers": {"Authorization": f"Bearer {ALICE}"}}
    call = request("a", "tools/call", name="echo", arguments={}, _meta=modern_meta())
    wait = request("b", "tools/call", name="echo", arguments={"wait": 30, "file": str(tmp_path / "x")}, _meta=modern_meta())
    with begin(near, servers=[server]) as gateway:
        async with gateway.client("/ws") as peer:
            with begin(far, port=port) as other:
                assert "result" in await ask(peer, call)
                say(peer, wait)
                async with gateway.client("/ws") as second:
                    assert "result" in await ask(second, call)
                other.process.kill()
                lost = json.loads(await peer.message())
            assert (lost["id"], lost["error"]["data"]["reason"], lost["error"]["code"]) == ("b", "stream_closed", 1006)
            refused = (await ask(peer, call))["error"]
            assert (refused["code"], refused["data"]["retryable"]) == (1004, True)
            assert refused["message"].startswith("websocket: connection refused")
            with begin(far, port=port):
                async with asyncio.timeout(10):
                    while "error" in (answer := await ask(peer, call)):
                        assert answer["error"]["code"] == 1004
                        await asyncio.sleep(0.05)


async def test_from_our_dialler_to_our_gateway_over_tls(tmp_path: Path):
    tls = make_tls(tmp_path)
    files = {"enabled": True, "cert_file": str(tls.server_cert), "key_file": str(tls.server_key)}
    with contextmanager(started)(tmp_path, tls=files) as gateway:
        url, trusted = f"wss://localhost:{gateway.port}/ws/one", tls.calling()
        inbox = Listening()
        headers = {"authorization": f"Bearer {ALICE}"}
        upstream = await dial("far", spawn, url, headers=lambda: headers, ssl=trusted)("modern", inbox)
        call = parse(json.dumps(request("a", "tools/call", name="echo", arguments={}, _meta=modern_meta())).encode())
        assert isinstance(call, Request)
        async with asyncio.timeout(10):
            assert (await upstream.call(call, NoReply())).result is not None
            gateway.process.send_signal(signal.SIGTERM)
            await inbox.over.wait()
            assert "1001" in str(inbox.cause)
            await upstream.close()
            assert await asyncio.to_thread(gateway.process.wait, 10) == 0
        with pytest.raises(BridgeError) as caught:
            await dial("far", spawn, url, ssl=trusted)("modern", inbox)
        assert (caught.value.reason, caught.value.sent) == ("websocket_refused", False)


class Listening:
    """Hears of the end."""

    def __init__(self) -> None:
        self.over = asyncio.Event()
        self.cause: BaseException | None = None

    def notified(self, notification: Any) -> None:
        return None

    async def asked(self, request: Any) -> Any:
        raise BridgeError("method_not_found")

    def closed(self, cause: BaseException | None) -> None:
        self.cause = cause
        self.over.set()


def spawn(work: Any) -> asyncio.Task[None]:
    return asyncio.get_running_loop().create_task(work)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="resident memory is read from /proc")
def test_an_idle_websocket_costs_the_gateway_at_most_15_kb_also_with_compression() -> None:
    program = Path(__file__).parents[1] / "scripts" / "bench" / "idle_websockets.py"
    for more in ([], ["--compression"]):
        output, errors, code = execute([sys.executable, str(program), "--connections", "600", *more], timeout=50)
        assert code == 0, errors
        assert json.loads(output)["bytes_each"] <= 15_000, output


async def test_switched_off_it_is_not_there(tmp_path: Path):
    for gateway in started(tmp_path, protocols={"websocket": {"enabled": False}, "stdio": {"enabled": False}}):
        assert (await gateway.refused("/ws", f"Authorization: Bearer {ALICE}"))[0] == 404


async def test_with_compression_switched_on_a_client_that_offers_it_gets_it(tmp_path: Path):
    protocols = {"websocket": {"compression": True, "path": "/socket"}, "stdio": {"enabled": False}}
    for gateway in started(tmp_path, protocols=protocols):
        async with gateway.peer() as peer:
            fields = [f"Authorization: Bearer {ALICE}", "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits"]
            headers = await peer.upgrade("/socket/one", fields, f"127.0.0.1:{gateway.port}")
            offer = headers["sec-websocket-extensions"]
            assert {"server_no_context_takeover", "client_no_context_takeover"} < {part.strip() for part in offer.split(";")}
