"""Limits, back-pressure, time and ends of a WebSocket, on both sides unless a test says otherwise."""

from __future__ import annotations

import asyncio
import contextlib
import random
import zlib

import pytest
from websockets.uri import parse_uri

from mcpbridge.errors import BridgeError
from mcpbridge.transports.proxy import Route
from mcpbridge.transports.websocket import connection as module
from mcpbridge.transports.websocket import deflate, dial
from tests.support.frames import CLOSE, CONT, PING, PONG, TEXT, Frame, RawPeer, close, fragments
from tests.transports.websocket.conftest import Hall, Open, Pair, Talk


async def ended(talk) -> BaseException:
    async with asyncio.timeout(5):
        await talk.over.wait()
    return talk.cause


@pytest.mark.requirement("limit.ws-message")
@pytest.mark.parametrize("cuts", [(), (1,), (500, 999), (999,)])
async def test_a_message_of_the_limit_passes_however_it_is_cut_and_a_byte_more_is_1009(pair: Pair, cuts):
    peer, talk = await pair(max_message=1000)
    peer.send(*fragments(b"x" * 1000, *cuts))
    assert await peer.message() == b"x" * 1000
    peer.send(*fragments(b"x" * 1001, *cuts))
    assert await peer.frame() == close(1009, "over 1000 bytes")
    cause = await ended(talk)
    assert peer.is_client or (isinstance(cause, BridgeError) and cause.reason == "answer_too_large")
    assert len(talk.messages) == 1


async def test_a_length_beyond_the_limit_is_refused_before_the_payload_comes(pair: Pair):
    for length in (1 << 20, 1 << 62, (1 << 63) + 5):
        peer, talk = await pair(max_message=1000)
        peer.write(Frame(TEXT).encode(mask=peer.is_client, length=length))
        assert (await peer.frame()).payload[:2] == (1009).to_bytes(2)
        await ended(talk)
        peer.writer.close()
        if not peer.is_client:
            return  # one dialler per test is enough


async def test_a_ping_inside_a_message_of_the_largest_size_is_answered(pair: Pair):
    peer, _ = await pair(max_message=1000)
    first, last = fragments(b"x" * 1000, 990)
    peer.send(first, Frame(PING, b"p" * 125), last)
    assert await peer.frame() == Frame(PONG, b"p" * 125)
    assert await peer.message() == b"x" * 1000


async def test_frames_masked_by_the_wrong_side_are_1002(pair: Pair):
    peer, talk = await pair()
    peer.write(Frame(TEXT, b"hello").encode(mask=not peer.is_client))
    assert (await peer.frame()).payload[:2] == (1002).to_bytes(2)
    await ended(talk)
    assert talk.messages == []


async def test_a_flood_of_control_frames_is_1008_and_a_few_are_not(pair: Pair):
    peer, talk = await pair()
    peer.send(*[Frame(PING)] * module.CONTROL_FRAMES)
    for _ in range(module.CONTROL_FRAMES):
        assert (await peer.frame()).opcode == PONG
    assert not talk.over.is_set()
    peer.send(*[Frame(PONG)] * 2)
    assert (await peer.frame()).payload[:2] == (1008).to_bytes(2)
    await ended(talk)


async def test_a_message_of_endless_fragments_is_1008(pair: Pair, monkeypatch):
    monkeypatch.setattr(module, "MAX_FRAGMENTS", 1000)
    peer, talk = await pair()
    peer.send(*fragments(b"", *[0] * 999))
    assert await peer.message() == b""
    peer.send(Frame(TEXT, b"", fin=False), *[Frame(CONT, b"", fin=False)] * 1000)
    assert (await peer.frame()).payload[:2] == (1008).to_bytes(2)
    await ended(talk)


async def test_many_small_frames_in_one_piece_leave_turns_to_others(pair: Pair):
    peer, talk = await pair()
    talk.is_echo = False
    peer.write(Frame(TEXT, b"{}").encode(mask=peer.is_client) * 20_000)
    turns = 0
    async with asyncio.timeout(5):
        while len(talk.messages) < 20_000:
            await asyncio.sleep(0)
            turns += 1
    assert turns >= 4


async def test_messages_wait_while_we_are_paused_and_keep_their_order(pair: Pair):
    peer, talk = await pair()
    talk.connection.pause()
    peer.send(*[Frame(TEXT, b"%d" % i) for i in range(100)])
    await peer.writer.drain()
    await asyncio.sleep(0.05)
    assert talk.messages == []
    talk.connection.resume()
    talk.connection.pause()
    talk.connection.resume()
    assert [await peer.message() for _ in range(100)] == [b"%d" % i for i in range(100)]


async def test_pausing_inside_a_burst_holds_the_rest(pair: Pair):
    peer, talk = await pair()
    taken = talk.messages

    def take(message: bytes) -> None:
        taken.append(message)
        talk.connection.pause()

    talk.connection._on_message = take
    peer.send(*[Frame(TEXT, b"x" * 1000)] * 100)
    seen = 0
    async with asyncio.timeout(5):
        while len(taken) < 100:
            await asyncio.sleep(0)
            if len(taken) > seen:
                assert len(taken) - seen <= 1 + module.SLICE // 1000
                seen = len(taken)
                talk.connection.resume()


async def test_a_peer_that_does_not_read_makes_drain_wait_and_is_cut_when_it_lies_too_far_behind(pair: Pair, monkeypatch):
    monkeypatch.setattr(module, "MIN_BEHIND", 0)
    peer, talk = await pair(max_message=1 << 20)
    peer.writer.transport.pause_reading()
    message = b"x" * (1 << 20)
    talk.connection.send(message)
    drained = None
    sent = 0
    while not talk.over.is_set() and sent < 100:
        with contextlib.suppress(ConnectionError):
            talk.connection.send(message)
            sent += 1
        if drained is None and talk.connection._backlog is not None:
            drained = asyncio.ensure_future(talk.connection.drain())
        await asyncio.sleep(0)
        assert drained is None or not drained.done() or talk.over.is_set()
    assert module.MAX_BEHIND < sent < 20  # what the sockets hold comes on top
    assert "too slowly" in str(await ended(talk))
    async with asyncio.timeout(5):
        await drained
    with pytest.raises(ConnectionError):
        talk.connection.send(b"{}")


async def test_drain_goes_on_when_the_peer_reads_again(pair: Pair):
    peer, talk = await pair()
    peer.writer.transport.pause_reading()
    for _ in range(8):
        talk.connection.send(b"x" * (1 << 20))
    drained = asyncio.ensure_future(talk.connection.drain())
    await asyncio.sleep(0.01)
    assert not drained.done()
    peer.writer.transport.resume_reading()
    for _ in range(8):
        assert len(await peer.message()) == 1 << 20
    async with asyncio.timeout(5):
        await drained


async def test_silence_is_asked_with_a_ping_and_an_answer_keeps_the_connection(pair: Pair, monkeypatch):
    monkeypatch.setattr(module, "PING_AFTER", 0.05)
    monkeypatch.setattr(module, "PONG_WITHIN", 0.3)
    peer, talk = await pair()
    for _ in range(3):
        assert await peer.frame() == Frame(PING)
        peer.send(Frame(PONG))
    assert not talk.over.is_set()


async def test_a_peer_that_does_not_answer_a_ping_is_cut(pair: Pair, monkeypatch):
    monkeypatch.setattr(module, "PING_AFTER", 0.05)
    monkeypatch.setattr(module, "PONG_WITHIN", 0.05)
    peer, talk = await pair()
    assert await peer.frame() == Frame(PING)
    assert "ping" in str(await ended(talk))
    assert await peer.end() == ([], None)


async def test_a_message_that_trickles_is_1008(pair: Pair, monkeypatch):
    monkeypatch.setattr(module, "PING_AFTER", 0.05)
    monkeypatch.setattr(module, "PONG_WITHIN", 5.0)
    monkeypatch.setattr(module, "MESSAGE_RATE", 1 << 20)
    peer, talk = await pair()
    data = Frame(TEXT, b"x" * 100).encode(mask=peer.is_client)
    for byte in data[:-1]:
        if talk.over.is_set():
            break
        peer.write(bytes([byte]))
        await asyncio.sleep(0.01)
    assert "too slowly" in str(await ended(talk))


async def test_a_goodbye_is_answered_at_once_and_tells_why(pair: Pair):
    peer, talk = await pair()
    peer.send(close(1001, "restart"))
    assert await peer.frame() == close(1001, "restart")
    assert "1001" in str(await ended(talk)) and "restart" in str(talk.cause)


async def test_closing_waits_for_the_goodbye_of_the_other_side(pair: Pair):
    peer, talk = await pair()
    closing = asyncio.ensure_future(talk.connection.close())
    code = 1008 if peer.is_client else 1000  # a listener ends what may not go on, or drains
    assert await peer.frame() == close(code)
    with pytest.raises(ConnectionError):
        talk.connection.send(b"{}")
    assert not closing.done()
    peer.send(close(1000))
    if not peer.is_client:
        peer.writer.close()
    async with asyncio.timeout(2):
        await closing
    await talk.connection.close()


async def test_closing_ends_in_time_when_the_other_side_says_nothing(pair: Pair, monkeypatch):
    monkeypatch.setattr(module, "GOODBYE_TIME", 0.05)
    _, talk = await pair()
    async with asyncio.timeout(2):
        await talk.connection.close()


async def test_what_was_sent_before_closing_is_written_out(pair: Pair):
    peer, talk = await pair()
    peer.writer.transport.pause_reading()
    talk.connection.send(b"x" * (1 << 22))
    closing = asyncio.ensure_future(talk.connection.close())
    peer.writer.transport.resume_reading()
    assert len(await peer.message()) == 1 << 22
    assert (await peer.frame()).opcode == CLOSE
    peer.send(close(1000))
    if not peer.is_client:
        peer.writer.close()
    async with asyncio.timeout(5):
        await closing


async def test_a_cut_connection_is_told_at_once(pair: Pair):
    peer, talk = await pair()
    peer.writer.transport.abort()
    assert isinstance(await ended(talk), ConnectionError)


async def test_an_end_in_the_middle_of_a_frame_delivers_nothing(pair: Pair):
    peer, talk = await pair()
    peer.write(Frame(TEXT, b"hello").encode(mask=peer.is_client)[:-1])
    await peer.writer.drain()
    peer.writer.close()
    assert isinstance(await ended(talk), ConnectionError)
    assert talk.messages == []


async def test_the_end_is_told_to_who_starts_late(hall: Open):
    it = await hall()
    peer = await it.enter()
    late = asyncio.Event()
    serve = it.serve

    async def slow(connection, arrival):
        await late.wait()
        await serve(connection, arrival)

    it.serve = slow  # type: ignore[method-assign]
    it.server.handler.__self__._serve = slow  # type: ignore[union-attr]
    await peer.upgrade()
    peer.send(close(1000))
    peer.writer.transport.abort()
    await asyncio.sleep(0.05)
    late.set()
    async with asyncio.timeout(5):
        await it.arrived.wait()
        await it.talks[0].over.wait()


async def compressed(hall: Open, **options) -> tuple[Hall, object]:
    it = await hall(compression=True, **options)
    peer = await it.enter()
    await peer.upgrade("/ws", ["Sec-WebSocket-Extensions: permessage-deflate"])
    return it, peer


def deflated(data: bytes) -> bytes:
    packer = zlib.compressobj(wbits=-15)
    return (packer.compress(data) + packer.flush(zlib.Z_SYNC_FLUSH))[:-4]


@pytest.mark.requirement("config.gateway.server.protocols.websocket.compression")
async def test_inflated_bytes_count_against_the_limit_and_a_bomb_is_not_inflated(hall: Open):
    it, peer = await compressed(hall, max_message=10_000)
    peer.send(Frame(TEXT, deflated(b"x" * 10_000), rsv=4))
    frame = await peer.frame()
    assert frame.rsv == 4 and zlib.decompressobj(wbits=-15).decompress(frame.payload + b"\0\0\xff\xff") == b"x" * 10_000
    assert len(frame.payload) < 100
    peer.send(Frame(TEXT, deflated(b"\0" * (1 << 26)), rsv=4))
    assert (await peer.frame()).payload[:2] == (1009).to_bytes(2)
    await ended(it.talks[0])


async def test_what_inflates_beyond_reason_is_a_bomb_also_below_the_limit(hall: Open):
    it, peer = await compressed(hall)
    noise = random.Random(1).randbytes(40_000).hex().encode()  # does not shrink to less than half
    for whole, code in ((noise * 20, None), (b" " * deflate.FREE, None), (b" " * (3 << 20), 1009)):
        peer.send(Frame(TEXT, deflated(whole), rsv=4))
        frame = await peer.frame()
        if code is None:
            assert frame.rsv == 4
        else:
            assert frame.payload[:2] == code.to_bytes(2)
    await ended(it.talks[0])
    assert [len(message) for message in it.talks[0].messages] == [1_600_000, deflate.FREE]


async def test_a_dialler_that_offers_compression_speaks_it(hall: Open):
    it = await hall(compression=True)
    uri = parse_uri(f"ws://127.0.0.1:{it.port}/ws")
    talk = Talk()
    talk.is_echo = False
    talk.begin(await dial.connect(uri, Route(uri.host, uri.port), None, {}, 1 << 24, True))
    assert talk.connection._protocol.extensions
    for message in (b"{}", b"x" * (2 << 20), noisy := random.Random(2).randbytes(200_000).hex().encode()):
        talk.connection.send(message)
    async with asyncio.timeout(5):
        while len(talk.messages) < 3:
            await asyncio.sleep(0)
    assert talk.messages == [b"{}", b"x" * (2 << 20), noisy]
    await talk.connection.close()


async def test_rubbish_in_the_place_of_compressed_bytes_is_1002(hall: Open):
    it, peer = await compressed(hall)
    peer.send(Frame(TEXT, b"\xff" * 50, rsv=4))
    assert (await peer.frame()).payload[:2] == (1002).to_bytes(2)
    await ended(it.talks[0])


async def test_without_compression_a_compressed_frame_is_1002(pair: Pair):
    peer, talk = await pair()
    peer.send(Frame(TEXT, deflated(b"hello"), rsv=4))
    assert (await peer.frame()).payload[:2] == (1002).to_bytes(2)
    await ended(talk)


async def test_a_peer_is_not_blamed_for_silence_while_we_do_not_read(pair: Pair, monkeypatch):
    monkeypatch.setattr(module, "PING_AFTER", 0.02)
    monkeypatch.setattr(module, "PONG_WITHIN", 0.02)
    peer, talk = await pair()
    talk.connection.pause()
    await asyncio.sleep(0.2)
    assert not talk.over.is_set()
    peer.send(Frame(TEXT, b"{}"))
    talk.connection.resume()
    assert await peer.message() == b"{}"


async def over_tls(hall: Open, tls, **options) -> tuple[Hall, RawPeer]:
    it = await hall(ssl=tls.server, **options)
    peer = await it.enter(ssl=tls.client, server_hostname="localhost")
    await peer.upgrade()
    async with asyncio.timeout(5):
        await it.arrived.wait()
    return it, peer


async def test_over_tls_a_mistake_is_told_although_more_was_sent(hall: Open, tls):
    it, peer = await over_tls(hall, tls, max_message=1000)
    peer.send(Frame(TEXT, b"x" * 1001), *[Frame(TEXT, b"y" * 500)] * 500)
    assert (await peer.end())[1] == 1009
    await ended(it.talks[0])


async def test_over_tls_goodbyes_are_answered_and_said(hall: Open, tls):
    it, peer = await over_tls(hall, tls)
    peer.send(Frame(TEXT, b"hello"))
    assert await peer.message() == b"hello"
    peer.send(close(1000))
    assert await peer.end() == ([], 1000)
    it.arrived.clear()
    other = await it.enter(ssl=tls.client, server_hostname="localhost")
    await other.upgrade()
    async with asyncio.timeout(5):
        await it.arrived.wait()
        it.draining.set()
        closing = asyncio.ensure_future(it.talks[1].connection.close())
        assert await other.frame() == close(1001)
        other.send(close(1001))
        await closing
    assert await other.end() == ([], None)


async def test_over_tls_a_client_that_is_gone_is_noticed(hall: Open, tls):
    it, peer = await over_tls(hall, tls)
    peer.writer.close()
    assert isinstance(await ended(it.talks[0]), ConnectionError)
    assert it.server.connections <= 1
