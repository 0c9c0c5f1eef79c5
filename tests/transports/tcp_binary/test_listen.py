"""Clients over TCP: the door, the conversation, its ends, and what strangers send."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import struct

import pytest

from mcpbridge.transports.doors import ConnectionLimits
from mcpbridge.transports.tcp_binary import listen
from tests.support.mcpb_client import CONTROL, ERROR, HEALTH, NEGOTIATE, OFFER, REQUEST, RESPONSE, client, frame
from tests.support.raw import request

FAULTS = {
    "HTTP": (b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", "magic 4D 43 50 42", "47 45 54 20"),
    "a line of JSON": (b'{"jsonrpc":"2.0","id":1,"method":"ping"}\n', "magic 4D 43 50 42", "7B 22 6A 73"),
    "the 16-byte header": (
        b"MCP\0" + struct.pack(">HHII", 1, 6, 0, 2) + b"{}",
        "magic 4D 43 50 42",
        "4D 43 50 00, the 16-byte header of another program",
    ),
    "a version of the future": (frame(NEGOTIATE, OFFER, version=2), "version 1", "version 2"),
    "a type that is none": (frame(9, b""), "type 4 health or 5 error or 6 negotiate", "type 9"),
    "a length beyond the limit": (frame(NEGOTIATE, b"", length=1 << 31), "length <= 16384", "length 2147483648"),
    "a message before the negotiation": (
        frame(REQUEST, b"{}"),
        "type 4 health or 5 error or 6 negotiate",
        "type 1 request",
    ),
    "no version in common": (frame(NEGOTIATE, {**OFFER, "supported_versions": [2, 3]}), "version 1", "versions [2, 3]"),
}
OPEN_FAULTS = {
    "a second negotiation": frame(NEGOTIATE, OFFER),
    "an acknowledgement": frame(7, {"agreed_version": 1}),
    "type 0": frame(0, b""),
    "type 65535": frame(65535, b""),
    "11 MiB": frame(REQUEST, b"", length=11 << 20),
    "a control frame that is no object": frame(CONTROL, b"[]"),
    "a long health frame": frame(HEALTH, bytes(126)),
    "another magic": frame(REQUEST, b"{}", magic=b"MCPC"),
    "another version": frame(REQUEST, b"{}", version=0),
}


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.requirement("error.tcp-mismatch")
async def test_what_is_not_mcpb_is_told_so_and_cut_while_others_go_on(gate, fault):
    data, expected, got = FAULTS[fault]
    here = await gate()
    async with client(here.port) as good, client(here.port, negotiated=False) as bad:
        bad.write(data)
        said = await bad.error()
        assert (said["code"], said["data"]["reason"]) == (1007, "protocol_mismatch")
        assert (said["data"]["expected"], said["data"]["got"]) == (expected, got)
        assert said["message"].startswith("tcp_binary: protocol mismatch: expected ")
        assert (await good.call(1, "echo", text="still here"))["result"] == {"text": "still here"}


@pytest.mark.parametrize("fault", OPEN_FAULTS)
async def test_a_bad_frame_ends_the_connection_it_came_on_and_its_calls(gate, eventually, fault):
    here = await gate()
    async with client(here.port) as good, client(here.port) as bad:
        bad.send(request(1, "wait"))
        await eventually(lambda: here.house.waiting == 1)
        bad.write(OPEN_FAULTS[fault])
        assert (await bad.error())["code"] == 1007
        await eventually(lambda: here.house.cancelled == 1)
        assert (await good.call(1, "echo", a=1))["result"] == {"a": 1}
        await eventually(lambda: here.frontend.connections == 1)


@pytest.mark.parametrize("size", [1, 3, 11, 12, 13])
async def test_frames_in_any_pieces_are_understood(gate, size):
    here = await gate()
    async with client(here.port, negotiated=False) as peer:
        data = frame(NEGOTIATE, OFFER) + frame(REQUEST, request(1, "echo", text="é"))
        for start in range(0, len(data), size):
            peer.write(data[start : start + size])
            await asyncio.sleep(0)
        assert (await peer.frame())[0] == 7
        assert (await peer.answer(1))["result"] == {"text": "é"}


async def test_everything_may_be_sent_at_once_and_is_answered_in_order(gate):
    here = await gate(auth=True)
    async with client(here.port, negotiated=False) as peer:
        peer.write(
            frame(NEGOTIATE, OFFER)
            + frame(CONTROL, {"authorization": "Bearer good"})
            + frame(HEALTH, b"in")
            + frame(REQUEST, request(1, "echo", a=1))
            + frame(HEALTH)
        )
        kinds = [(await peer.frame())[0] for _ in range(4)]
        assert sorted(kinds[:2]) == [HEALTH, 7] and sorted(kinds[2:]) == [RESPONSE, HEALTH]


@pytest.mark.parametrize("value", ["Bearer bad", "", "Basic good", "Bearer " + "x" * 9000])
async def test_a_refused_token_is_an_error_frame_and_the_end(gate, value):
    here = await gate(auth=True)
    async with client(here.port) as peer:
        peer.write(frame(CONTROL, {"authorization": value}) + frame(REQUEST, request(1, "echo")))
        said = await peer.error()
        assert (said["code"], said["data"]["reason"]) == (1015, "unauthorized")
        assert value.encode() not in json.dumps(said).encode() or not value
    assert [caller.principal for caller in here.house.callers] == [None], "the message behind the bad token was never looked at"


async def test_a_message_before_the_sign_in_is_refused(gate):
    here = await gate(auth=True)
    async with client(here.port) as peer:
        peer.write(frame(CONTROL, {"later": True}) + frame(REQUEST, request(1, "echo")))
        assert (await peer.error())["data"]["got"] == "type 1 request"
    assert here.house.callers == []


@pytest.mark.requirement("limit.auth.per-message")
async def test_a_token_that_is_taken_back_ends_the_connection_at_the_next_message_unless_it_was_renewed(gate):
    here = await gate(auth=True)
    async with client(here.port, token="good") as peer:
        assert "result" in await peer.call(1, "echo")
        here.house.tokens = {"Bearer newer"}
        peer.write(frame(CONTROL, {"authorization": "Bearer newer"}))
        assert "result" in await peer.call(2, "echo")
        here.house.tokens = set()
        assert (await peer.call(3, "echo"))["error"]["code"] == 1015
        await peer.end()


async def test_health_frames_are_answered_at_every_stage(gate):
    here = await gate(auth=True)
    async with client(here.port, negotiated=False) as peer:
        await peer.alive(b"before")
        await peer.negotiate()
        await peer.alive(b"between")
        peer.write(frame(CONTROL, {"authorization": "Bearer good"}))
        await peer.alive(bytes(125))
        assert "result" in await peer.call(1, "echo")
        await peer.alive()


async def test_questions_notifications_and_cancelling_go_both_ways(gate, eventually):
    here = await gate()
    async with client(here.port) as peer:
        peer.answers["roots/list"] = {"roots": []}
        assert (await peer.call(1, "ask"))["result"] == {"roots": []}
        peer.send({"jsonrpc": "2.0", "method": "notifications/roots/list_changed"})
        await eventually(lambda: here.house.heard == ["notifications/roots/list_changed"])
        assert "result" in await peer.call(2, "flood", count=3)
        assert [said["params"]["number"] for said in peer.received] == [0, 1, 2]
        peer.send(request(3, "wait"))
        await eventually(lambda: here.house.waiting == 1)
        peer.send({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 3}})
        await eventually(lambda: here.house.cancelled == 1)
        assert here.house.callers[0].protocol == "tcp_binary" and here.house.callers[0].address == "127.0.0.1"


async def test_a_message_of_a_megabyte_goes_there_and_back_and_one_over_the_limit_is_refused_by_its_id(gate):
    here = await gate(max_message=2 << 20)
    async with client(here.port) as peer:
        assert (await peer.call(1, "echo", text="x" * (1 << 20)))["result"]["text"] == "x" * (1 << 20)
        assert (await peer.call(2, "echo", text="x" * (3 << 20)))["error"]["code"] == -32700
        assert "result" in await peer.call(3, "echo")


async def test_an_answer_that_fits_no_frame_is_an_error_and_such_a_notification_is_dropped(gate):
    here = await gate()
    async with client(here.port) as peer:
        answer = await peer.call(1, "large", size=11 << 20)
        assert answer["error"]["data"]["reason"] == "answer_too_large"
        assert "result" in await peer.call(2, "echo")
        assert peer.received == []


async def test_bytes_that_are_no_message_are_answered_and_the_connection_lives(gate):
    here = await gate()
    async with client(here.port) as peer:
        peer.send(b"{")
        assert (await peer.answer(None))["error"]["code"] == -32700
        peer.send(b"")
        assert (await peer.answer(None))["error"]["code"] == -32700
        assert "result" in await peer.call(1, "echo")


async def test_a_half_close_is_answered_and_then_closed(gate, eventually):
    here = await gate()
    async with client(here.port) as peer:
        peer.send(request(1, "wait"))
        peer.send(request(2, "echo", a=1))
        await eventually(lambda: here.house.waiting == 1)
        peer.writer.write_eof()
        assert (await peer.answer(2))["result"] == {"a": 1}
        here.house.go.set()
        assert "result" in await peer.answer(1)
        await peer.end()
    await eventually(lambda: here.frontend.connections == 0)


@pytest.mark.parametrize("how", ["closed", "reset"])
async def test_a_client_that_is_gone_cancels_its_calls_at_once(gate, eventually, how):
    here = await gate()
    async with client(here.port) as peer:
        peer.send(request(1, "wait"))
        await eventually(lambda: here.house.waiting == 1)
        if how == "reset":
            peer.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        peer.writer.close()
        began = asyncio.get_running_loop().time()
        await eventually(lambda: here.house.cancelled == 1)
        assert asyncio.get_running_loop().time() - began < 1.0
    await eventually(lambda: here.frontend.connections == 0)


async def test_an_end_inside_a_frame_is_told(gate):
    here = await gate()
    async with client(here.port) as peer:
        peer.write(frame(REQUEST, b"{", length=100))
        peer.writer.write_eof()
        assert (await peer.error())["data"]["expected"] == "the rest of a frame"


async def test_an_error_frame_of_the_client_ends_the_connection(gate, eventually):
    here = await gate()
    async with client(here.port) as peer:
        peer.write(frame(ERROR, b"no more\n\x1b"))
        await peer.end()
    await eventually(lambda: here.frontend.connections == 0)


# Time: the frontend's look at its connections, at times of the test's choosing


async def test_silence_before_the_negotiation_or_the_sign_in_ends_after_five_seconds_whatever_trickles(gate):
    here = await gate(auth=True)
    frontend, now = here.frontend, asyncio.get_running_loop().time()
    async with (
        client(here.port, negotiated=False) as silent,
        client(here.port) as unsigned,
        client(here.port, token="good") as idle,
    ):
        await silent.alive()
        await unsigned.alive()
        await idle.alive()
        frontend.sweep(now + 4.0)
        await silent.alive()
        frontend.sweep(now + listen.PRELUDE_TIME + 1.1)
        assert (await silent.error())["message"] == "timeout: no negotiation in 5 s"
        assert (await unsigned.error())["message"] == "timeout: no sign-in in 5 s"
        frontend.sweep(now + 10_000.0)
        await idle.alive()


async def test_a_frame_that_comes_too_slowly_ends_the_connection_and_one_that_comes_fast_enough_does_not(gate, eventually):
    here = await gate()
    frontend, now = here.frontend, asyncio.get_running_loop().time()
    async with client(here.port) as slow, client(here.port) as steady:
        frontend.sweep(now)
        for peer in (slow, steady):
            peer.write(frame(REQUEST, b"{", length=100_000))
        await eventually(lambda: sum(c._reader.has_begun for c in frontend._connections) == 2)
        steady.write(b" " * 6000)
        await eventually(lambda: any(c._reader.held > 6000 for c in frontend._connections))
        frontend.sweep(now + 5.0)
        assert (await slow.error())["message"] == "timeout: a frame came too slowly"
        assert frontend.connections >= 1
        frontend.sweep(now + 10.0)
        assert (await steady.error())["message"] == "timeout: a frame came too slowly"


async def test_a_client_that_does_not_read_is_read_no_more_and_cut_in_the_end(gate, eventually):
    here = await gate()
    frontend = here.frontend
    async with client(here.port) as peer:
        peer.writer.transport.pause_reading()
        for number in range(40):
            peer.send(request(number, "flood", count=100))
        (connection,) = frontend._connections
        await eventually(lambda: connection._backlog is not None)
        now = asyncio.get_running_loop().time()
        frontend.sweep(now + 40.0)
        frontend.sweep(now + 80.0)
        await eventually(lambda: frontend.connections == 0)


# Limits and the end


async def test_limits_hold_per_address_and_over_all_frontends(gate, eventually):
    limits = ConnectionLimits(total=3, per_address=2)
    one, two = await gate(limits=limits), await gate(limits=limits)
    async with client(one.port), client(two.port):
        async with client(one.port, negotiated=False) as third:
            assert (await third.error())["code"] == 1010
        assert limits.open == 2
    await eventually(lambda: limits.open == 0)
    async with client(two.port) as again:
        await again.alive()
    none = await gate(limits=ConnectionLimits(total=0))
    async with client(none.port, negotiated=False) as refused:
        assert (await refused.error())["code"] == 1009


async def test_a_drain_closes_idle_connections_and_lets_calls_finish(gate, eventually):
    here = await gate()
    async with client(here.port) as idle, client(here.port) as busy, client(here.port) as between:
        busy.send(request(1, "wait"))
        assert "result" in await between.call(1, "echo")
        await eventually(lambda: here.house.waiting == 1)
        here.house.bridge.draining.set()
        here.frontend.stop_accepting()
        drained = asyncio.ensure_future(here.frontend.drain(5.0))
        await idle.end()
        await between.end()
        with pytest.raises(OSError):
            await asyncio.open_connection("127.0.0.1", here.port)
        here.house.go.set()
        assert "result" in await busy.answer(1)
        await busy.end()
        await drained
        assert here.frontend.connections == 0
    here.house.bridge.draining.clear()


async def test_closing_cuts_what_is_left(gate, eventually):
    here = await gate()
    async with client(here.port) as busy, client(here.port):
        busy.send(request(1, "wait"))
        await eventually(lambda: here.house.waiting == 1)
        await here.frontend.close()
        assert here.house.cancelled == 1
        await busy.end()
    await here.frontend.close()


# TLS


async def test_over_tls_all_is_the_same_but_for_the_half_close(gate, tls, eventually):
    here = await gate(ssl=tls.serving())
    async with client(here.port, context=tls.calling()) as peer:
        assert (await peer.call(1, "echo", a=1))["result"] == {"a": 1}
        peer.send(request(2, "wait"))
        await eventually(lambda: here.house.waiting == 1)
    await eventually(lambda: here.house.cancelled == 1 and here.frontend.connections == 0)


async def test_a_client_certificate_is_asked_for_and_a_stranger_stays_outside(gate, tls):
    here = await gate(ssl=tls.serving(client_auth=True))
    async with client(here.port, context=tls.calling("client")) as peer:
        await peer.alive()
    for who in ("", "stranger"):
        with pytest.raises((OSError, EOFError, AssertionError)):
            async with client(here.port, context=tls.calling(who)) as peer:
                await peer.alive()
    assert here.frontend.connections == 0


async def test_mcpb_without_tls_on_a_tls_port_is_told_so(gate, tls, eventually):
    here = await gate(ssl=tls.serving())
    async with client(here.port, negotiated=False) as peer:
        peer.write(frame(NEGOTIATE, OFFER))
        assert (await peer.error())["data"] == {
            "reason": "protocol_mismatch",
            "retryable": False,
            "protocol": "tcp_binary",
            "expected": "TLS",
            "got": "no TLS",
        }
    await eventually(lambda: here.frontend.connections == 0)


async def test_a_hundred_clients_that_come_and_go_leave_nothing(gate, eventually):
    here = await gate()

    async def visit(number: int) -> None:
        async with client(here.port) as peer:
            if number % 3:
                assert (await peer.call(number, "echo", n=number))["result"] == {"n": number}
            if number % 5 == 0:
                with contextlib.suppress(OSError):
                    peer.writer.transport.abort()

    await asyncio.gather(*(visit(number) for number in range(100)))
    await eventually(lambda: here.frontend.connections == 0 and not here.frontend.tasks)
    assert here.frontend.limits.open == 0 and here.house.reception.connections("tcp_binary") == 0
