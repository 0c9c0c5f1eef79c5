"""The client half of HTTP+SSE against a server of bytes: how it begins, what travels, and every way it ends."""

from __future__ import annotations

import asyncio
import json
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcpbridge.core.exchange import NoReply
from mcpbridge.errors import BridgeError, to_wire
from mcpbridge.transports.sse import connection
from mcpbridge.transports.sse import dial as sse
from mcpbridge.transports.sse.dial import Comeback, dial
from mcpbridge.wire.message import notification, request
from mcpbridge.wire.sse import SseParser, read_endpoint
from tests.transports.sse.conftest import ACCEPTED, ENDPOINT, STREAM_HEAD, until

QUIET = NoReply()


@pytest.fixture
def talk(server, told, spawn, pool, bounded):
    """``await talk(**options of dial)``: an open conversation with ``server``; what belongs to no call goes to ``told``."""

    async def open_(**options):
        one = pool(server.url, **({"proxy": options.pop("proxy")} if "proxy" in options else {}))
        return await bounded(dial("s", spawn, one, server.url, **options)("legacy", told))

    return open_


async def fails(awaitable, reason: str) -> BridgeError:
    with pytest.raises(BridgeError) as error:
        await awaitable
    assert error.value.reason == reason, error.value
    return error.value


# -- how it begins


async def test_messages_are_posted_to_the_endpoint_and_answered_on_the_stream(server, talk, bounded):
    upstream = await talk(headers=lambda: {"Authorization": "Bearer t"})
    answer = await bounded(upstream.call(request(7, "tools/list"), QUIET))
    assert json.loads(answer.encode()) == {"jsonrpc": "2.0", "id": 7, "result": {"by": "tools/list"}}
    assert server.targets == ["/messages?session_id=1"]
    assert [head.count("authorization: Bearer t\r\n") for head in server.heads] == [1, 1]
    assert "accept: text/event-stream\r\n" in server.heads[0] and "content-type: application/json\r\n" in server.heads[1]
    await upstream.close()


@pytest.mark.parametrize(
    ("opening", "target"),
    [
        (b"event: endpoint\ndata: messages?s=1\n\n", "/messages?s=1"),
        (b"event: endpoint\ndata: /messages/\n\n", "/messages/"),
        (b"event: endpoint\ndata: ?s=1\n\n", "/sse?s=1"),
        (b"event: endpoint\ndata: SAME/m?s=1\n\n", "/m?s=1"),
        (b"event: endpoint\ndata: SAME\n\n", "/"),
        (b"event: endpoint\ndata: /m#part\n\n", "/m"),
        (b"\xef\xbb\xbf: hello\r\n\r\n: again\r\n\r\nid: 1\r\nretry: 10\r\nevent: endpoint\r\ndata: /m\r\n\r\n", "/m"),
        (b"event: ready\ndata: x\n\nevent: endpoint\rdata: /m\r\r", "/m"),
    ],
)
async def test_the_endpoint_is_relative_or_absolute_and_may_come_after_noise(server, talk, bounded, opening, target):
    server.opening = STREAM_HEAD + opening.replace(b"SAME", server.url.removesuffix("/sse").encode())
    upstream = await talk()
    await bounded(upstream.call(request(1, "ping"), QUIET))
    assert server.targets == [target]
    await upstream.close()


async def test_the_endpoint_may_take_its_time_and_messages_may_come_with_it(server, talk, told, bounded):
    server.opening = STREAM_HEAD + b": wait\n\n"
    opening = asyncio.ensure_future(talk())
    await bounded(until(lambda: server.opened))
    note = b'data: {"jsonrpc":"2.0",\ndata: "method":"notifications/x"}\n\n'
    server.write(ENDPOINT + note + note)
    upstream = await bounded(opening)
    await bounded(until(lambda: len(told.notifications) == 2))
    assert told.notifications[0].method == "notifications/x"
    await upstream.close()


@pytest.mark.parametrize(
    "uri",
    [
        "http://evil.example/messages",
        "//evil.example/messages",
        "https://127.0.0.1:PORT/messages",
        "http://127.0.0.1:1/messages",
        "http://127.0.0.1/messages",
        "http://user@127.0.0.1:PORT/messages",
        "http://localhost:PORT/messages",
        "/\\\\evil.example",
        "file:///etc/passwd",
        "javascript:1",
        "http://[::1",
        "http://127.0.0.1:PORTx/",
        "/a b",
        "",
        "/ü",
        "/" + "a" * 9000,
    ],
    ids=range(16),
)
async def test_an_endpoint_of_another_origin_or_that_is_none_is_refused_and_the_stream_closed(server, talk, uri):
    port = server.url.split(":")[2].split("/")[0]
    server.opening = STREAM_HEAD + f"event: endpoint\ndata: {uri.replace('PORT', port)}\n\n".encode()
    error = await fails(talk(), "bad_answer")
    assert not error.sent and error.data["server"] == "s" and "endpoint event" in str(error)
    await until(lambda: server.closed)
    assert server.posted == []


@pytest.mark.parametrize(
    ("opening", "reason"),
    [
        (STREAM_HEAD + b'data: {"jsonrpc":"2.0","method":"x"}\n\n' + ENDPOINT, "protocol_mismatch"),
        (STREAM_HEAD + b"event: x\ndata: y\n\n" * 200 + ENDPOINT, "protocol_mismatch"),
        (b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 2\r\n\r\nhi", "protocol_mismatch"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", "protocol_mismatch"),
        (b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n", "http_not_found"),
        (b"HTTP/1.1 405 Method Not Allowed\r\nContent-Length: 0\r\n\r\n", "http_not_found"),
        (b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n", "backend_refused"),
        (b"HTTP/1.1 307 Temporary Redirect\r\nLocation: http://evil.example\r\nContent-Length: 0\r\n\r\n", "backend_error"),
        (b"SSH-2.0-x\r\n", "bad_answer"),
        (STREAM_HEAD + b"data: " + b"x" * 3000, "answer_too_large"),
    ],
    ids=range(10),
)
async def test_what_is_no_http_sse_server_is_said_to_be_none_before_anything_is_sent(server, talk, opening, reason):
    server.opening = opening
    error = await fails(talk(max_response=2000), reason)
    assert not error.sent and error.data["server"] == "s"
    if reason == "backend_error":
        assert error.data["status"] in (401, 307)


async def test_a_stream_that_ends_or_stays_silent_before_its_endpoint_is_an_error(server, talk):
    server.opening = STREAM_HEAD + b": hm\n\n"
    opening = asyncio.ensure_future(talk())
    await until(lambda: server.opened)
    server.end()
    assert "names no endpoint" in str(await fails(opening, "protocol_mismatch"))
    assert "did not open its stream in 0.05 s" in str(await fails(talk(timeout=0.05), "timeout"))
    await until(lambda: server.closed)


# -- what travels


async def test_questions_notifications_and_progress_come_by_the_stream_and_answers_go_by_post(server, talk, told, bounded):
    heard = []

    class Hearing(NoReply):
        def notify(self, note):
            heard.append(json.loads(note.encode())["params"])

    async def ask_first(message):
        if message.get("method") == "tools/call":
            token = message["params"]["_meta"]["progressToken"]
            server.say(
                {"jsonrpc": "2.0", "method": "notifications/progress", "params": {"progressToken": token, "progress": 1}}
            )
            server.say({"jsonrpc": "2.0", "method": "notifications/tools/list_changed"})
            server.say({"jsonrpc": "2.0", "id": "q", "method": "roots/list"})
        elif message.get("id") == "q":
            server.say({"jsonrpc": "2.0", "id": 1, "result": message["result"]})
        return ACCEPTED

    server.on_post = ask_first
    upstream = await talk()
    call = request(5, "tools/call", {"name": "t", "_meta": {"progressToken": "mine"}})
    answer = await bounded(upstream.call(call, Hearing()))
    assert json.loads(answer.encode())["result"] == {"answer": "roots/list"}
    assert heard == [{"progressToken": "mine", "progress": 1}]
    assert [note.method for note in told.notifications] == ["notifications/tools/list_changed"]
    await upstream.close()


async def test_an_answer_in_the_body_of_the_post_is_taken_and_one_in_both_places_once(server, talk, bounded):
    async def twice(message):
        body = json.dumps({"jsonrpc": "2.0", "id": message["id"], "result": {"n": message["id"]}}).encode()
        if message["id"] == 2:
            server.write(b"data: " + body + b"\n\n")
        return b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)

    server.on_post = twice
    upstream = await talk()
    answers = [await bounded(upstream.call(request("a", "ping"), QUIET)) for _ in range(3)]
    assert [json.loads(answer.encode())["result"]["n"] for answer in answers] == [1, 2, 3]
    assert upstream.in_flight() == 0
    await upstream.close()


async def test_a_cancel_waits_for_its_request_to_be_taken_and_requests_wait_for_notifications_only(server, talk, bounded):
    held = {"slow": asyncio.Event(), "notifications/initialized": asyncio.Event()}

    async def slow(message):
        if message["method"] in held:
            await held[message["method"]].wait()
        elif "id" in message:
            server.say({"jsonrpc": "2.0", "id": message["id"], "result": {}})
        return ACCEPTED

    server.on_post = slow
    upstream = await talk()
    call = asyncio.ensure_future(upstream.call(request(1, "slow"), QUIET))
    await until(lambda: len(server.posted) == 1)
    await bounded(upstream.call(request(2, "ping"), QUIET))  # beside it
    call.cancel("enough")
    with suppress(asyncio.CancelledError):
        await call
    assert [message["method"] for message in server.posted] == ["slow", "ping"]
    held["slow"].set()
    await until(lambda: len(server.posted) == 3)
    assert server.posted[2]["method"] == "notifications/cancelled" and server.posted[2]["params"]["requestId"] == 1
    upstream.notify_now(notification("notifications/initialized"))
    after = asyncio.ensure_future(upstream.call(request(3, "ping"), QUIET))
    await until(lambda: len(server.posted) == 4)
    held["notifications/initialized"].set()
    await bounded(after)
    assert [message["method"] for message in server.posted[3:]] == ["notifications/initialized", "ping"]
    await upstream.close()


async def test_a_server_that_answers_a_post_only_when_the_call_is_over_is_not_waited_for_long(
    server, talk, bounded, monkeypatch
):
    monkeypatch.setattr(connection, "ORDER_TIME", 0.01)
    done = asyncio.Event()

    async def inline(message):
        if message["method"] == "slow":
            await done.wait()
        else:
            done.set()
        server.say({"jsonrpc": "2.0", "id": message.get("id", 1), "result": {}})
        return ACCEPTED

    server.on_post = inline
    upstream = await talk()
    call = asyncio.ensure_future(upstream.call(request(1, "slow"), QUIET))
    await asyncio.sleep(0)
    await bounded(upstream.notify(notification("notifications/x")))
    await bounded(call)
    await upstream.close()


@pytest.mark.parametrize("takes", [True, False])
async def test_a_flood_of_questions_costs_few_connections_and_stops_the_reading(server, talk, bounded, takes):
    stop = asyncio.Event()

    async def never_done(message):
        if not takes and message.get("method") != "ping":
            await stop.wait()
        return await server._answered(message)

    server.on_post = never_done
    upstream = await talk()
    flood = b"".join(b'data: {"jsonrpc":"2.0","id":%d,"method":"roots/list"}\n\n' % id for id in range(2000))
    server.write(flood)
    await until(lambda: len(server.posted) == (2000 if takes else connection.MAX_TELLING))
    await bounded(upstream.call(request(1, "ping"), QUIET)) if takes else None
    assert server.most <= connection.MAX_TELLING + 2
    assert takes or len(upstream._connection._told) > connection.MAX_WAITING  # and it is not read on
    stop.set()
    await upstream.close()


# -- how it ends


@pytest.mark.requirement("error.sse-closed")
async def test_when_the_server_closes_the_stream_calls_fail_and_the_owner_is_told(server, talk, told, bounded):
    async def end(message):
        return ACCEPTED

    server.on_post = end
    upstream = await talk()
    call = asyncio.ensure_future(upstream.call(request(1, "slow"), QUIET))
    await until(lambda: server.posted)
    server.end()
    error = await fails(bounded(call), "stream_closed")
    assert error.sent and to_wire(error)["message"].startswith("sse: stream closed") and error.fault.code == 1006
    assert len(told.ended) == 1
    await fails(upstream.call(request(2, "ping"), QUIET), "stream_closed")
    await upstream.close()
    assert len(told.ended) == 1


@pytest.mark.parametrize(
    ("status", "reason", "sent"), [(400, "backend_error", False), (413, "backend_error", False), (500, "backend_error", True)]
)
async def test_a_post_that_is_refused_fails_its_own_call_only(server, talk, told, bounded, status, reason, sent):
    async def refuse(message):
        if message["method"] == "bad":
            return b"HTTP/1.1 %d X\r\nContent-Length: 0\r\n\r\n" % status
        return await server._answered(message)

    server.on_post = refuse
    upstream = await talk()
    error = await fails(bounded(upstream.call(request(1, "bad"), QUIET)), reason)
    assert error.sent is sent and error.data["status"] == status
    await bounded(upstream.notify(notification("bad")))
    await bounded(upstream.call(request(2, "ping"), QUIET))
    assert told.ended == []
    await upstream.close()


async def test_a_server_that_forgot_the_session_ends_the_conversation(server, talk, told, bounded):
    async def forget(message):
        return b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"

    server.on_post = forget
    upstream = await talk()
    error = await fails(bounded(upstream.call(request(1, "ping"), QUIET)), "backend_session_lost")
    assert not error.sent and len(told.ended) == 1
    await upstream.close()


async def test_closing_ends_the_stream_and_a_message_that_is_too_large_the_conversation(server, talk, told, bounded):
    upstream = await talk(max_response=2000)
    await bounded(upstream.close())
    await until(lambda: server.closed == 1)
    upstream = await talk(max_response=2000)
    server.write(b"data: " + b"x" * 3000 + b"\n\n")
    await until(lambda: len(told.ended) == 2)
    assert isinstance(told.ended[1], BridgeError) and told.ended[1].reason == "answer_too_large"
    await upstream.close()


async def test_garbage_on_the_stream_is_remembered_and_harms_no_call(server, talk, bounded):
    upstream = await talk()
    server.write(b"data: {not json\n\nevent: endpoint\ndata: http://evil.example/\n\nevent: ping\ndata: 1\n\n")
    await until(lambda: upstream.noise)
    await bounded(upstream.call(request(1, "ping"), QUIET))
    assert server.targets == ["/messages?session_id=1"] and upstream.noise == "{not json"
    await upstream.close()


async def test_a_paused_stream_is_not_read_on(server, talk, told, bounded):
    upstream = await talk()
    upstream._connection.pause()
    server.write(b'data: {"jsonrpc":"2.0","method":"notifications/x"}\n\n' * 3)
    await bounded(asyncio.ensure_future(asyncio.sleep(0)))
    upstream._connection.resume()
    await until(lambda: len(told.notifications) == 3)
    await upstream.close()


@pytest.mark.requirement("config.gateway.backends.sse.reconnect_interval")
@pytest.mark.requirement("config.gateway.backends.sse.max_retries")
async def test_a_lost_stream_is_opened_again_after_a_wait_some_times_and_then_the_server_is_down(
    server, told, spawn, pool, bounded, monkeypatch
):
    waits = []

    def random():
        waits.append(1)
        return 0.5

    monkeypatch.setattr(sse, "random", random)
    reach = dial("s", spawn, pool(server.url), server.url, comeback=Comeback(0.02, 3))
    upstream = await bounded(reach("legacy", told))
    server.end()
    await until(lambda: told.ended)
    server.opening = b"HTTP/1.1 503 Busy\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
    await fails(bounded(reach("legacy", told)), "backend_error")
    assert (len(waits), server.opened) == (3, 4)
    await fails(bounded(reach("legacy", told)), "backend_error")
    assert (len(waits), server.opened) == (3, 5)  # checks go on, without further ado
    server.opening = STREAM_HEAD + ENDPOINT
    again = await bounded(reach("legacy", told))
    assert (len(waits), server.opened) == (3, 6)
    await upstream.close()
    await again.close()


# -- any pieces


@given(st.data())
def test_any_pieces_of_a_stream_give_the_same_endpoint_and_messages(data):
    ends = st.sampled_from([b"\n", b"\r\n", b"\r"])
    end = data.draw(ends)
    noise = data.draw(st.lists(st.sampled_from([b": c", b"retry: 5", b"id: 1", b"event: x" + end + b"data: 1"]), max_size=3))
    bodies = data.draw(st.lists(st.binary(max_size=20).map(lambda raw: json.dumps(raw.hex()).encode()), max_size=5))
    lines = [*noise, b"event: endpoint" + end + b"data: /m?s=1", *(b"event: message" + end + b"data: " + b for b in bodies)]
    stream = b"".join(line + end + end for line in lines)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=8)))
    pieces = [stream[a:b] for a, b in zip([0, *cuts], [*cuts, len(stream)], strict=True)]
    parser = SseParser()
    target, found = None, []
    for piece in pieces:
        events = iter(parser.feed(piece))
        if target is None:
            target = read_endpoint(events, "http://a.example/sse")
        found += [event.data for event in events if event.event == "message" and event.data]
    assert (target, found) == ("/m?s=1", bodies)
