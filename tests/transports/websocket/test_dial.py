"""Dialling a server: what is sent, and what each way of failing becomes."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

import pytest

from mcpbridge.core.exchange import NoReply
from mcpbridge.errors import BridgeError
from mcpbridge.proxies import parse_proxy
from mcpbridge.transports.websocket.dial import dial
from mcpbridge.wire.envelope import parse
from tests.support.frames import BINARY, TEXT, Frame, RawPeer, close

Door = tuple[str, "asyncio.Queue[RawPeer]"]
CALL = parse(b'{"jsonrpc":"2.0","id":"a","method":"tools/list"}')


class Inbox:
    def __init__(self) -> None:
        self.noted: list[str] = []
        self.cause: BaseException | None = None

    def notified(self, notification: Any) -> None:
        self.noted.append(notification.method)

    async def asked(self, request: Any) -> Any:
        raise BridgeError("method_not_found")

    def closed(self, cause: BaseException | None) -> None:
        self.cause = cause


def spawn(work: Any) -> asyncio.Task[None]:
    return asyncio.get_running_loop().create_task(work)


async def failure(url: str, **options: Any) -> BridgeError:
    with pytest.raises(BridgeError) as caught:
        async with asyncio.timeout(5):
            await dial("srv", spawn, url, **options)("modern", Inbox())
    assert caught.value.sent is False
    return caught.value


async def opened(door: Door, **options: Any) -> tuple[RawPeer, Any, list[str], Inbox]:
    url, came = door
    inbox = Inbox()
    dialling = asyncio.ensure_future(dial("srv", spawn, url, **options)("modern", inbox))
    async with asyncio.timeout(5):
        peer = await came.get()
        lines = await peer.accept()
        return peer, await dialling, lines, inbox


async def test_a_call_is_one_text_frame_each_way_and_the_handshake_carries_the_headers(door: Door):
    headers = {"authorization": "Bearer secret-token", "x-tenant": "a"}
    peer, upstream, lines, inbox = await opened(door, headers=lambda: headers)
    assert lines[0] == "GET /ws HTTP/1.1"
    assert {"authorization: Bearer secret-token", "x-tenant: a", "Sec-WebSocket-Protocol: mcp"} < set(lines)
    assert not any(line.lower().startswith(("origin", "sec-websocket-extensions")) for line in lines)
    call = asyncio.ensure_future(upstream.call(CALL, NoReply()))
    frame = await peer.frame()
    assert (frame.opcode, frame.fin, frame.payload) == (TEXT, True, b'{"jsonrpc":"2.0","id":1,"method":"tools/list"}')
    peer.send(
        Frame(TEXT, b'{"jsonrpc":"2.0","method":"notifications/x"}'), Frame(TEXT, b'{"jsonrpc":"2.0","id":1,"result":{}}')
    )
    assert (await call).id == "a"
    assert inbox.noted == ["notifications/x"]
    peer.send(close(1000))
    async with asyncio.timeout(5):
        await upstream.close()


async def test_what_comes_right_behind_the_101_is_the_first_message(door: Door):
    url, came = door
    inbox = Inbox()
    dialling = asyncio.ensure_future(dial("srv", spawn, url)("modern", inbox))
    async with asyncio.timeout(5):
        peer = await came.get()
        peer.writer.write(b"HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n")
        peer.writer.transport.pause_reading()
        peer.writer.transport.resume_reading()
        write, peer.writer.write = peer.writer.write, None  # type: ignore[method-assign, assignment]
        head = []
        peer.write = head.append  # type: ignore[method-assign]
        await peer.accept()
        write(b"".join(head) + Frame(TEXT, b'{"jsonrpc":"2.0","method":"notifications/early"}').encode(mask=False))
        await dialling
        while not inbox.noted:
            await asyncio.sleep(0)


@pytest.mark.requirement("error.websocket-refused")
async def test_a_port_where_nothing_listens_is_websocket_connection_refused():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        error = await failure(f"ws://127.0.0.1:{taken.getsockname()[1]}/")
    assert (error.fault.code, error.fault.status, error.fault.retryable) == (1004, 502, True)
    assert str(error).startswith("websocket: connection refused")


@pytest.mark.parametrize(
    ("answer", "reason", "retryable"),
    [
        (b"HTTP/1.1 401 Unauthorized\r\ncontent-length: 0\r\n\r\n", "backend_refused", False),
        (b"HTTP/1.1 403 Forbidden\r\ncontent-length: 0\r\n\r\n", "backend_refused", False),
        (b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n", "protocol_mismatch", False),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n", "protocol_mismatch", False),
        (b"HTTP/1.1 302 Found\r\nlocation: ws://127.0.0.1:1/\r\n\r\n", "protocol_mismatch", False),
        (b"HTTP/1.1 426 Upgrade Required\r\n\r\n", "protocol_mismatch", False),
        (b"HTTP/1.1 429 Too Many Requests\r\n\r\n", "backend_error", True),
        (b"HTTP/1.1 503 Service Unavailable\r\n\r\n", "backend_error", True),
        (b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n", "protocol_mismatch", False),
        (b"HTTP/1.1 101 Switching Protocols\r\n\r\n", "protocol_mismatch", False),
        (b"HTTP/1.1 100 Continue\r\n\r\n" * 5000, "protocol_mismatch", False),
        (b"HTTP/1.1 101 S\r\nx: " + b"y" * 70000, "protocol_mismatch", False),
        (b"SSH-2.0-OpenSSH_9\r\n\r\n", "protocol_mismatch", False),
        (b"\r\n\r\n", "protocol_mismatch", False),
        (b"", "protocol_mismatch", False),
    ],
    ids=lambda value: value[:18] if isinstance(value, bytes) else None,
)
async def test_another_answer_than_101_says_what_it_means(door: Door, answer: bytes, reason: str, retryable: bool):
    url, came = door
    failing = asyncio.ensure_future(failure(url))
    async with asyncio.timeout(5):
        peer = await came.get()
        peer.write(answer)
        peer.writer.write_eof()
        error = await failing
    assert error.reason == reason, error
    assert error.data.get("retryable", error.fault.retryable) is retryable


async def test_an_answer_with_the_wrong_accept_or_an_extension_nobody_offered_is_a_mismatch(door: Door):
    url, came = door
    for old, new in (
        (b"Accept: ", b"Accept: x"),
        (b"Upgrade: websocket\r\n", b"Upgrade: websocket\r\nSec-WebSocket-Extensions: x\r\n"),
    ):
        failing = asyncio.ensure_future(failure(url))
        async with asyncio.timeout(5):
            peer = await came.get()
            write = peer.writer.write
            peer.write = lambda data, old=old, new=new, write=write: write(data.replace(old, new))  # type: ignore[method-assign]
            await peer.accept()
            assert (await failing).reason == "protocol_mismatch"


async def test_a_server_that_does_not_answer_the_upgrade_is_a_timeout_and_the_connection_is_cut(door: Door):
    url, came = door
    error = await failure(url, timeout=0.1)
    assert error.reason == "timeout"
    assert (await (await came.get()).reader.read()).startswith(b"GET /ws")


async def test_a_header_that_would_break_the_request_is_refused(door: Door):
    error = await failure(door[0], headers=lambda: {"x": "a\r\nevil: 1"})
    assert error.reason == "invalid_params"


@pytest.mark.parametrize("url", ["ftp://a/", "ws:///path", "tcp://a:1", "ws://"])
def test_a_url_that_is_none_is_a_value_error(url: str):
    with pytest.raises(ValueError, match="WebSocket server"):
        dial("srv", spawn, url)


@pytest.mark.parametrize(
    ("frames", "reason"),
    [
        ([close(1011, "oops")], "stream_closed"),
        ([Frame(BINARY, b"x")], "bad_answer"),
        ([Frame(TEXT, b"\xff")], "bad_answer"),
        ([Frame(3)], "bad_answer"),
        ([Frame(TEXT, b"x" * 2001)], "answer_too_large"),
    ],
)
async def test_what_breaks_a_conversation_fails_calls_in_flight_as_sent_and_later_ones_as_unsent(door: Door, frames, reason):
    peer, upstream, _, inbox = await opened(door, max_message=2000)
    call = asyncio.ensure_future(upstream.call(CALL, NoReply()))
    await peer.frame()
    peer.send(*frames)
    with pytest.raises(BridgeError) as caught:
        async with asyncio.timeout(5):
            await call
    assert (caught.value.reason, caught.value.sent) == (reason, True)
    with pytest.raises(BridgeError) as caught:
        await upstream.call(CALL, NoReply())
    assert (caught.value.reason, caught.value.sent) == (reason, False)
    assert inbox.cause is not None
    peer.writer.close()
    async with asyncio.timeout(5):
        await upstream.close()


async def test_a_cancelled_call_tells_the_server(door: Door):
    peer, upstream, _, _ = await opened(door)
    call = asyncio.ensure_future(upstream.call(CALL, NoReply()))
    await peer.frame()
    call.cancel()
    assert b'"notifications/cancelled"' in (await peer.frame()).payload
    peer.writer.transport.abort()
    await upstream.close()


async def test_a_dialler_that_gives_up_leaves_no_connection(door: Door):
    url, came = door
    dialling = asyncio.ensure_future(dial("srv", spawn, url)("modern", Inbox()))
    async with asyncio.timeout(5):
        peer = await came.get()
        dialling.cancel()
        await peer.reader.read()
        assert dialling.cancelled()


async def test_through_a_proxy_it_is_a_tunnel(door: Door):
    url, _ = door
    host = url.removeprefix("ws://").removesuffix("/ws")
    asked: list[bytes] = []

    async def proxy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append(await reader.readuntil(b"\r\n\r\n"))
        there_reader, there = await asyncio.open_connection("127.0.0.1", int(host.rpartition(":")[2]))
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")

        async def pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
            while data := await source.read(65536):
                sink.write(data)
            sink.close()

        await asyncio.gather(pump(reader, there), pump(there_reader, writer), return_exceptions=True)

    server = await asyncio.start_server(proxy, "127.0.0.1", 0)
    through = parse_proxy(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", "HTTPS_PROXY")
    peer, upstream, lines, _ = await opened(door, proxy=through)
    assert asked[0].startswith(f"CONNECT {host} HTTP/1.1".encode())
    assert lines[0] == "GET /ws HTTP/1.1"
    peer.writer.transport.abort()
    async with asyncio.timeout(5):
        await upstream.close()
    server.close()


async def test_over_tls_a_certificate_of_nobody_is_refused_and_one_of_ours_is_not(hall, tls):
    it = await hall(ssl=tls.server)
    error = await failure(f"wss://localhost:{it.port}/ws", ssl=tls.stranger)
    assert error.reason == "backend_error" and "certificate" in str(error)
    upstream = await dial("srv", spawn, f"https://localhost:{it.port}/ws", ssl=tls.client)("modern", Inbox())
    async with asyncio.timeout(5):
        await it.arrived.wait()
        await upstream.close()
    assert it.talks[0].messages == []
