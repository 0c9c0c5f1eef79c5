"""Servers over TCP: what a dial says when it fails, and conversations until their end."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from mcpbridge.core.exchange import NoReply
from mcpbridge.errors import BridgeError
from mcpbridge.proxies import Proxy
from mcpbridge.transports.tcp_binary import dial as dialing
from mcpbridge.transports.tcp_binary.connection import AT_ONCE, FrameConnection
from mcpbridge.transports.tcp_binary.dial import dial
from mcpbridge.wire import message as m
from tests.support.mcpb_client import ACK, ERROR, HEALTH, RESPONSE, frame

AGREED = frame(ACK, {"agreed_version": 1})
Play = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class Inbox:
    def __init__(self) -> None:
        self.heard: list[str] = []
        self.ended: asyncio.Future[BaseException | None] = asyncio.get_running_loop().create_future()

    def notified(self, notification: m.Notification) -> None:
        self.heard.append(notification.method)

    async def asked(self, request: m.Request) -> m.Response:
        return m.result(request.id, {"roots": []})

    def closed(self, cause: BaseException | None) -> None:
        if not self.ended.done():
            self.ended.set_result(cause)


class Script:
    """A server that plays what a test says; the tasks of what it dials."""

    def __init__(self) -> None:
        self.inbox = Inbox()
        self.tasks: set[asyncio.Task[None]] = set()
        self.servers: list[asyncio.AbstractServer] = []
        self.upstreams: list[Any] = []
        self.received = b""

    def spawn(self, work: Any) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work)
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)
        return task

    async def play(self, *said: bytes, stays: bool = True) -> int:
        """Serve: these bytes after the first chunk each; returns the port."""

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            try:
                for data in said:
                    self.received += await reader.read(65536)
                    writer.write(data)
                    await writer.drain()
                while stays and (data := await reader.read(65536)):
                    self.received += data
            except ConnectionError:
                pass
            finally:
                writer.close()

        self.servers.append(await asyncio.start_server(serve, "127.0.0.1", 0))
        port: int = self.servers[-1].sockets[0].getsockname()[1]
        return port

    async def dial(self, port: int, **options: Any) -> Any:
        upstream = await dial("s", self.spawn, "127.0.0.1", port, **options)("legacy", self.inbox)
        self.upstreams.append(upstream)
        return upstream


@pytest.fixture
async def script() -> AsyncIterator[Script]:
    script = Script()
    yield script
    async with asyncio.timeout(10):
        for upstream in script.upstreams:
            await upstream.close()
        for server in script.servers:
            server.close()
        if script.tasks:
            await asyncio.wait(script.tasks)


async def refused(script: Script, port: int, **options: Any) -> BridgeError:
    with pytest.raises(BridgeError) as caught:
        await script.dial(port, **options)
    assert caught.value.sent is False
    return caught.value


async def test_a_server_of_ours_is_talked_with_both_ways(script, gate):
    here = await gate()
    upstream = await script.dial(here.port)
    assert m.loads(bytes((await upstream.call(m.request(7, "echo", {"a": 1}), NoReply())).result)) == {"a": 1}
    answer = await upstream.call(m.request("x", "ask"), NoReply())
    assert (answer.id, m.loads(bytes(answer.result))) == ("x", {"roots": []})
    await upstream.call(m.request(9, "flood", {"count": 2}), NoReply())
    assert script.inbox.heard == ["notifications/message"] * 2
    big = "x" * (1 << 20)
    assert m.loads(bytes((await upstream.call(m.request(8, "echo", {"a": big}), NoReply())).result)) == {"a": big}


async def test_cancelling_a_call_cancels_it_there(script, gate, eventually):
    here = await gate()
    upstream = await script.dial(here.port)
    call = asyncio.ensure_future(upstream.call(m.request(1, "wait"), NoReply()))
    await eventually(lambda: here.house.waiting == 1)
    call.cancel("enough")
    await eventually(lambda: here.house.cancelled == 1)
    assert (await upstream.call(m.request(2, "echo"), NoReply())).error is None


async def test_a_token_signs_in_and_a_bad_one_fails_the_dial(script, gate):
    here = await gate(auth=True)
    upstream = await script.dial(here.port, token=lambda: "Bearer good")
    assert (await upstream.call(m.request(1, "echo"), NoReply())).error is None
    error = await refused(script, here.port, token=lambda: "Bearer bad")
    assert (error.reason, error.detail) == ("backend_refused", "a valid bearer token is needed")


async def test_a_call_without_the_token_that_is_wanted_fails_with_its_reason(script, gate):
    here = await gate(auth=True)
    upstream = await script.dial(here.port)
    with pytest.raises(BridgeError) as caught:
        await upstream.call(m.request(1, "echo"), NoReply())
    assert caught.value.reason == "protocol_mismatch"
    cause = await script.inbox.ended
    assert isinstance(cause, BridgeError) and cause.data["expected"] == "type 3 control or 4 health or 5 error"


async def test_the_token_is_said_to_nobody_who_has_not_agreed_to_the_protocol(script):
    port = await script.play(b"220 mail.example.com ESMTP\r\n")
    error = await refused(script, port, token=lambda: "Bearer secret-token")
    assert error.reason == "protocol_mismatch" and b"secret-token" not in script.received


@pytest.mark.requirement("error.tcp-mismatch")
@pytest.mark.parametrize(
    ("said", "got"),
    [
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "48 54 54 50"),
        (b"MCP\0\0\1\0\7\0\0\0\0", "4D 43 50 00, the 16-byte header of another program"),
        (frame(RESPONSE, {"jsonrpc": "2.0", "id": 1, "result": {}}), "type 2 response"),
        (frame(ACK, {"agreed_version": 2}), "version 2"),
        (frame(HEALTH, b"", version=7), "version 7"),
        (frame(ACK, b"", length=1 << 20), "length 1048576"),
    ],
)
async def test_a_server_that_speaks_otherwise_is_named_as_what_it_is(script, said, got):
    error = await refused(script, await script.play(said))
    assert (error.reason, error.fault.code, error.fault.status, error.data["got"]) == ("protocol_mismatch", 1007, 502, got)


async def test_an_error_frame_fails_the_dial_with_what_it_says(script):
    port = await script.play(frame(ERROR, b"we close at five"))
    assert (await refused(script, port)).detail == "the other side says: we close at five"


async def test_nobody_there_nobody_who_answers_and_nobody_who_stays(script, unused_tcp_port):
    assert (await refused(script, unused_tcp_port)).reason == "connection_refused"
    silent = await script.play()
    assert (await refused(script, silent, timeout=0.1)).reason == "timeout"
    gone = await script.play(b"", stays=False)
    error = await refused(script, gone)
    assert error.reason in ("stream_closed", "backend_error")


async def test_an_end_fails_the_calls_in_flight(script, gate, eventually):
    here = await gate()
    upstream = await script.dial(here.port)
    call = asyncio.ensure_future(upstream.call(m.request(1, "wait"), NoReply()))
    await eventually(lambda: here.house.waiting == 1)
    await here.frontend.close()
    with pytest.raises(BridgeError) as caught:
        await call
    assert caught.value.reason == "stream_closed" and caught.value.sent


async def test_answers_that_came_before_the_end_are_answers(script):
    answer = frame(RESPONSE, {"jsonrpc": "2.0", "id": 1, "result": {"a": 1}})
    port = await script.play(AGREED, answer, stays=False)
    upstream = await script.dial(port)
    assert m.loads(bytes((await upstream.call(m.request(5, "x"), NoReply())).result)) == {"a": 1}
    assert await script.inbox.ended is None


async def test_a_server_that_floods_with_small_frames_leaves_others_their_turn_and_every_frame_is_taken_in_order(
    script: Script, monkeypatch: pytest.MonkeyPatch, eventually: Any
) -> None:
    turns, heard = 0, list[tuple[int, bytes]]()

    async def turning() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    monkeypatch.setattr(FrameConnection, "deliver", lambda _connection, message: heard.append((turns, message)))
    notes = [b'{"jsonrpc":"2.0","method":"notifications/n%d"}' % number for number in range(1000)]
    port = await script.play(AGREED + b"".join(frame(RESPONSE, note) for note in notes))
    other = asyncio.ensure_future(turning())
    await script.dial(port)
    await eventually(lambda: len(heard) == len(notes))
    other.cancel()
    assert [message for _, message in heard] == notes
    by_turn = [turn for turn, _ in heard]
    assert max(by_turn.count(turn) for turn in by_turn) <= 2 * AT_ONCE


async def test_an_end_inside_a_frame_is_a_lost_stream(script):
    answer = frame(RESPONSE, {"jsonrpc": "2.0", "id": 1, "result": {"a": 1}})
    port = await script.play(AGREED, answer[:-3], stays=False)
    upstream = await script.dial(port)
    with pytest.raises(BridgeError, match="inside a frame"):
        await upstream.call(m.request(5, "x"), NoReply())


async def test_a_bad_frame_of_the_server_fails_its_calls_as_a_mismatch(script):
    port = await script.play(AGREED, b"\0" * 40)
    upstream = await script.dial(port)
    with pytest.raises(BridgeError) as caught:
        await upstream.call(m.request(5, "x"), NoReply())
    assert caught.value.reason == "protocol_mismatch" and caught.value.data["got"] == "00 00 00 00"


async def test_an_answer_over_the_limit_fails_its_call_only(script):
    big = frame(RESPONSE, {"jsonrpc": "2.0", "id": 1, "result": {"text": "x" * 50_000}})
    small = frame(RESPONSE, {"jsonrpc": "2.0", "id": 2, "result": {}})
    upstream = await script.dial(await script.play(AGREED, big, small), max_message=10_000)
    with pytest.raises(BridgeError) as caught:
        await upstream.call(m.request(1, "x"), NoReply())
    assert caught.value.reason == "answer_too_large"
    assert (await upstream.call(m.request(2, "x"), NoReply())).error is None


async def test_a_silent_server_is_asked_and_a_dead_one_noticed(script, monkeypatch, gate):
    monkeypatch.setattr(dialing, "SILENCE", 0.05)
    here = await gate()
    alive = await script.dial(here.port)
    waiting = asyncio.ensure_future(alive.call(m.request(1, "wait"), NoReply()))
    dead = Script()
    port = await dead.play(AGREED)  # agrees, then reads for ever and says nothing
    lost = await dead.dial(port)
    with pytest.raises(BridgeError, match="no answer to a health frame"):
        await lost.call(m.request(1, "x"), NoReply())
    assert frame(HEALTH) in dead.received
    assert not waiting.done(), "the living one answers health frames while a call waits"
    here.house.go.set()
    assert (await waiting).error is None
    await lost.close()
    dead.servers[0].close()


async def test_a_request_that_fits_no_frame_is_refused_before_it_is_sent(script, gate):
    here = await gate()
    upstream = await script.dial(here.port)
    with pytest.raises(BridgeError) as caught:
        await upstream.call(m.request(1, "echo", {"text": "x" * (11 << 20)}), NoReply())
    assert (caught.value.reason, caught.value.sent) == ("request_too_large", False)
    assert (await upstream.call(m.request(2, "echo"), NoReply())).error is None


async def test_over_tls_the_certificate_is_checked(script, gate, tls):
    here = await gate(ssl=tls.serving(client_auth=True))
    upstream = await script.dial(here.port, ssl=tls.calling("client"))
    assert (await upstream.call(m.request(1, "echo"), NoReply())).error is None
    stranger = await refused(script, here.port, ssl=ssl.create_default_context())
    assert stranger.reason == "backend_error" and "certificate refused" in stranger.detail
    plain = await refused(script, here.port)
    assert plain.reason == "protocol_mismatch" and plain.data["expected"] == "TLS"


async def test_a_proxy_is_asked_for_a_tunnel(script, gate):
    here = await gate()

    async def tunnel(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        assert head.startswith(f"CONNECT 127.0.0.1:{here.port} HTTP/1.1\r\n")
        inner_reader, inner_writer = await asyncio.open_connection("127.0.0.1", here.port)
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")

        async def copy(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
            while data := await source.read(65536):
                target.write(data)
            target.close()

        await asyncio.gather(copy(reader, inner_writer), copy(inner_reader, writer))

    server = await asyncio.start_server(tunnel, "127.0.0.1", 0)
    script.servers.append(server)
    upstream = await script.dial(here.port, proxy=Proxy("127.0.0.1", server.sockets[0].getsockname()[1]))
    assert m.loads(bytes((await upstream.call(m.request(1, "echo", {"a": 1}), NoReply())).result)) == {"a": 1}
