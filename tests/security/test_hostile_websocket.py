"""WebSocket clients that mean harm at the real gateway: others are served meanwhile, and nothing of the attacker stays."""

from __future__ import annotations

import asyncio
import resource
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from mcpbridge.policies.jwt import JwtKeys, issue
from tests.support.frames import CLOSE, CONT, PING, TEXT, Frame, RawPeer, upgrade_request
from tests.support.raw import modern_meta, request
from tests.support.websocket_gateway import ALICE, BOB, LIMIT, Gateway, ask, open_session, say, started

pytestmark = pytest.mark.security
SECRET = "Zq8xW2vN5mL7kP9rT4yB6cD1fG3hJ5sA"
LIST = request(1, "tools/list", _meta=modern_meta())


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    yield from started(tmp_path_factory.mktemp("hostile"), auth={"jwt": {"secret": SECRET, "leeway": 0}})


def resident(gateway: Gateway) -> int:
    return int(Path(f"/proc/{gateway.process.pid}/statm").read_text().split()[1]) * resource.getpagesize()


async def code_of(peer: RawPeer) -> int | None:
    return (await peer.end())[1]


async def slowest(gateway: Gateway, done: asyncio.Event) -> float:
    """The longest that a well-behaved client waited for an answer until ``done``, in seconds."""
    worst = 0.0
    async with gateway.client("/ws/one", BOB) as peer:
        while not done.is_set():
            began = time.perf_counter()
            await ask(peer, LIST)
            worst = max(worst, time.perf_counter() - began)
            await asyncio.sleep(0.005)
    return worst


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (Frame(TEXT, b"{}").encode(mask=False), 1002),
        (Frame(TEXT, b"{}", rsv=4).encode(mask=True), 1002),
        (Frame(TEXT, b"{}", rsv=1).encode(mask=True), 1002),
        (Frame(3, b"{}").encode(mask=True), 1002),
        (Frame(CONT, b"{}").encode(mask=True), 1002),
        (Frame(PING, b"x" * 126).encode(mask=True), 1002),
        (Frame(PING, b"x", fin=False).encode(mask=True), 1002),
        (Frame(CLOSE, b"\x00").encode(mask=True), 1002),
        (b"\x81\xff\x7f" + b"\xff" * 7 + b"mask", 1009),
        (b"\x81\xff\x80" + b"\x00" * 7 + b"mask", 1009),
        (b"\x81\xff\xff" + b"\xff" * 7 + b"mask", 1009),
        (b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", 1002),
    ],
)
async def test_a_frame_that_breaks_the_rules_ends_its_connection_and_no_other(gateway: Gateway, data: bytes, code: int):
    async with gateway.client("/ws/one") as other, gateway.client() as peer:
        peer.write(data)
        assert await code_of(peer) == code
        assert "result" in await ask(other, LIST)


async def test_a_frame_with_a_huge_length_reserves_nothing(gateway: Gateway):
    before = resident(gateway)
    for _ in range(50):
        async with gateway.client() as peer:
            peer.write(b"\x81\xff\x00\x00\x00\x7f" + b"\xff" * 4 + b"mask")
            assert await code_of(peer) == 1009
    assert resident(gateway) - before < 8 << 20


async def test_a_flood_of_pings_is_ended_while_others_are_served(gateway: Gateway):
    done = asyncio.Event()
    waiting = asyncio.ensure_future(slowest(gateway, done))
    for _ in range(3):
        async with gateway.client() as peer:
            peer.write(Frame(PING, b"x" * 100).encode(mask=True) * 50_000)
            assert await code_of(peer) == 1008
    done.set()
    assert await waiting < 2.0


async def test_endless_fragments_are_ended_while_others_are_served_and_cost_no_memory(gateway: Gateway):
    before, done = resident(gateway), asyncio.Event()
    waiting = asyncio.ensure_future(slowest(gateway, done))
    for payload, code in ((b"", 1008), (b"x", 1009)):
        async with gateway.client() as peer:
            peer.send(Frame(TEXT, payload, fin=False))
            piece = Frame(CONT, payload, fin=False).encode(mask=True) * 10_000
            try:
                for _ in range(20):
                    peer.write(piece)
                    await peer.writer.drain()
            except ConnectionError:
                pass
            assert await code_of(peer) in (code, None)  # None: the rest of the flood met a closed door
    done.set()
    assert await waiting < 2.0
    assert resident(gateway) - before < 16 << 20


async def test_a_hundred_half_open_messages_hold_no_more_than_was_sent(gateway: Gateway):
    before = resident(gateway)
    peers = []
    for _ in range(80):
        peer = RawPeer(*await asyncio.open_connection("127.0.0.1", gateway.port), is_client=True)
        peers.append(peer)
        await peer.upgrade("/ws", [f"Authorization: Bearer {ALICE}"], f"127.0.0.1:{gateway.port}")
        peer.write(Frame(TEXT, b"x" * (LIMIT // 2), fin=False).encode(mask=True))
        await peer.writer.drain()
    async with gateway.client("/ws/one", BOB) as other:
        assert "result" in await ask(other, LIST)
    assert resident(gateway) - before < 80 * LIMIT + (16 << 20)
    for peer in peers:
        peer.writer.transport.abort()


@pytest.mark.requirement("config.gateway.server.max_connections_per_ip")
async def test_open_websockets_count_against_the_limit_per_address(gateway: Gateway):
    peers: list[RawPeer] = []
    token = [f"Authorization: Bearer {ALICE}"]
    status = 101
    while status == 101 and len(peers) < 120:
        peer = RawPeer(*await asyncio.open_connection("127.0.0.1", gateway.port), is_client=True)
        peers.append(peer)
        peer.write(upgrade_request("/ws", f"127.0.0.1:{gateway.port}", token))
        status, _ = await peer.head()
    assert (status, len(peers)) == (429, 101)
    for peer in peers:
        peer.writer.transport.abort()
    async with asyncio.timeout(10):
        while (await gateway.refused("/ws"))[0] == 429:
            await asyncio.sleep(0.02)


async def test_a_client_that_asks_and_never_reads_holds_no_more_than_its_bound(gateway: Gateway):
    before = resident(gateway)
    async with gateway.client("/ws/one") as peer:
        await open_session(peer)
        peer.writer.transport.pause_reading()
        peer.reader._limit = 1 << 10  # type: ignore[attr-defined]
        for number in range(2, 190):
            say(peer, request(number, "tools/call", name="echo", arguments={"size": 60_000}))
        await peer.writer.drain()
        async with gateway.client("/ws/one", BOB) as other:
            assert "result" in await ask(other, LIST)
    assert resident(gateway) - before < 32 << 20


async def test_half_a_handshake_and_nothing_else_holds_up_nobody(gateway: Gateway):
    halves = []
    for _ in range(50):
        peer = RawPeer(*await asyncio.open_connection("127.0.0.1", gateway.port), is_client=True)
        peer.write(upgrade_request("/ws", f"127.0.0.1:{gateway.port}")[:60])
        halves.append(peer)
    async with gateway.client("/ws/one", BOB) as other:
        assert "result" in await ask(other, LIST)
    for peer in halves:
        peer.writer.transport.abort()


async def test_a_token_in_the_address_or_the_subprotocol_lets_nobody_in(gateway: Gateway):
    for path, fields in (
        (f"/ws?token={ALICE}", ()),
        (f"/ws?access_token={ALICE}", ()),
        ("/ws", (f"Sec-WebSocket-Protocol: mcp, {ALICE}",)),
        ("/ws", (f"Cookie: authorization={ALICE}",)),
    ):
        assert (await gateway.refused(path, *fields))[0] == 401, path


def jwt(seconds: float, now: float) -> str:
    keys = JwtKeys((SECRET.encode(),))
    return issue(keys, subject="carol", scopes=("mcp:read", "mcp:write"), ttl=seconds, now=now)


@pytest.mark.requirement("limit.auth.per-message")
async def test_a_token_that_expires_ends_the_conversation_at_the_next_message(gateway: Gateway):
    async with gateway.client("/ws/one", jwt(2, time.time())) as peer:
        assert "result" in await ask(peer, LIST)
        await asyncio.sleep(2.1)
        answer = await ask(peer, LIST)
        assert answer["error"]["data"]["reason"] == "unauthorized"
        frames, code = await peer.end()
        assert (frames, code) == ([], 1008)
    assert (await gateway.refused("/ws", f"Authorization: Bearer {jwt(1, time.time() - 60)}"))[0] == 401
