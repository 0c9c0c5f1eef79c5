"""Connections of the server over real sockets: order, admission, failures, clients that go."""

from __future__ import annotations

import asyncio

import pytest

from mcpbridge.transports.http1.server import HttpRefusal
from tests.support.http_gate import GET, NEXT, Gate, chunked, post
from tests.support.http_vectors import request

# -- requests and answers


async def test_a_request_reaches_the_handler_whole_and_its_answer_carries_every_base_header(serve, connect):
    server = await serve(base_headers=[("x-content-type-options", "nosniff")], tls_headers=[("strict-transport-security", "x")])
    client = await connect(server)
    client.send(request(b"POST /p%20q?b=c HTTP/1.1", b"X-A: 1", b"Content-Length: 4"), b"body")
    answer = await client.answer()
    seen = server.seen[0]
    assert (seen.method, seen.target, seen.path, seen.query, seen.body) == ("POST", "/p%20q?b=c", "/p%20q", "b=c", b"body")
    assert (seen.headers["x-a"], seen.peer, seen.tls) == ("1", "127.0.0.1", False)
    assert seen.peer_port == client.writer.get_extra_info("sockname")[1]
    date = answer.headers.pop("date")
    assert date.endswith(" GMT") and len(date) == 29
    assert answer.headers.pop("x-request-id") == seen.id
    assert answer.headers == {"x-content-type-options": "nosniff", "x-path": "/p%20q", "content-length": "4"}
    assert (answer.status, answer.body) == (200, b"body")


async def test_a_connection_serves_one_request_after_the_other(serve, connect):
    server = await serve()
    client = await connect(server)
    for body in (b"one", b"", b"three"):
        client.send(post(body))
        assert (await client.answer()).body == body
    assert server.connections == 1


@pytest.mark.parametrize("raw", [post(b"hello"), chunked(b"he", b"llo"), GET], ids=["length", "chunked", "no body"])
async def test_a_request_that_comes_byte_by_byte_is_the_same_request(serve, connect, raw):
    server = await serve()
    client = await connect(server)
    for at in range(len(raw)):
        client.send(raw[at : at + 1])
        await client.writer.drain()
        await asyncio.sleep(0)
    answer = await client.answer()
    assert (answer.status, answer.body) == (200, b"" if raw is GET else b"hello")


async def test_pipelined_requests_run_one_at_a_time_and_are_answered_in_order(serve, connect):
    gate = Gate()
    server = await serve(gate)
    client = await connect(server)
    client.send(post(b"1", path=b"/1"), chunked(b"x"), post(b"3", path=b"/3"), post(b"4", path=b"/4")[:-1])
    await gate.entered.wait()
    assert len(server.seen) == 1
    gate.open.set()
    assert [(await client.answer()).body for _ in range(3)] == [b"/1", b"/", b"/3"]
    client.send(b"4")
    assert (await client.answer()).body == b"/4"
    assert gate.most_running == 1


async def test_an_empty_line_before_a_request_is_forgiven(serve, connect):
    client = await connect(await serve())
    client.send(b"\r\n", post(b"a"), b"\r\n", post(b"b"))
    assert [(await client.answer()).body for _ in range(2)] == [b"a", b"b"]


async def test_a_head_request_gets_the_head_of_the_answer_only(serve, connect):
    client = await connect(await serve())
    client.send(request(b"HEAD / HTTP/1.1", b"Content-Length: 3"), b"abc", GET)
    answer = await client.answer(head_only=True)
    assert answer.headers["content-length"] == "3"
    assert (await client.answer()).headers["x-path"] == "/a"


@pytest.mark.parametrize("status", [204, 304])
async def test_an_answer_without_a_body_says_no_length(serve, connect, status):
    async def handler(request, responder):
        await responder.respond(status, [], b"")

    client = await connect(await serve(handler))
    client.send(GET, GET)
    for _ in range(2):
        answer = await client.answer()
        assert answer.status == status and "content-length" not in answer.headers


@pytest.mark.parametrize("raw", [request(b"GET / HTTP/1.0"), request(b"GET / HTTP/1.1", b"Connection: close")])
async def test_a_connection_that_is_not_to_be_kept_is_closed_after_the_answer(serve, connect, raw):
    client = await connect(await serve())
    client.send(raw, NEXT)
    assert (await client.answer()).headers["connection"] == "close"
    assert await client.rest() == b""


async def test_an_upgrade_nobody_serves_is_ignored_and_its_body_read(serve, connect):
    server = await serve()
    client = await connect(server)
    client.send(post(b"hello", b"Connection: Upgrade, HTTP2-Settings", b"Upgrade: h2c", b"HTTP2-Settings: AAM"), GET)
    assert (await client.answer()).body == b"hello"
    assert (await client.answer()).headers["x-path"] == "/a"


# -- handlers that fail


async def test_a_handler_that_raises_answers_500_and_the_connection_goes_on(serve, connect, capsys):
    async def handler(request, responder):
        if request.path == "/a":
            raise RuntimeError("secret detail")
        await responder.respond(200)

    client = await connect(await serve(handler))
    client.send(GET, NEXT)
    answer = await client.answer()
    assert answer.status == 500 and b"secret" not in answer.body
    assert (await client.answer()).status == 200
    assert "request failed" in capsys.readouterr().err


async def test_the_answer_of_a_failed_handler_can_be_made_elsewhere(serve, connect):
    async def handler(request, responder):
        raise RuntimeError("x")

    client = await connect(await serve(handler, explain=explained))
    client.send(request(b"GET /a HTTP/1.1", b"X-Request-Id: mine"))
    answer = await client.answer()
    assert (answer.status, answer.headers["x-kind"], answer.body) == (500, "made", b"/a internal error mine")


def explained(path, status, words, id):
    return [("x-kind", "made")], f"{path} {words} {id}".encode()


async def test_the_engines_own_refusals_are_worded_elsewhere(serve, connect):
    server = await serve(explain=explained, max_body=10)
    for sent, path, words in (
        (request(b"POST /a HTTP/1.1", b"X-Request-Id: mine", b"Content-Length: 11"), "/a", "body larger than 10 bytes"),
        (b"POST /a HTTP/1.1\r\nHost: a\nb\r\n\r\n", None, None),
    ):
        client = await connect(server)
        client.send(sent)
        answer = await client.answer()
        assert answer.headers["x-kind"] == "made" and answer.headers["connection"] == "close"
        id = answer.headers["x-request-id"]
        assert answer.body.startswith(f"{path} {words or ''}".encode()) and answer.body.endswith(id.encode())


@pytest.mark.requirement("http.common.request-id")
async def test_every_answer_carries_the_clients_request_id_or_a_new_one(serve, connect):
    client = await connect(await serve())
    ids = []
    for given in ("abc-1_X", "", "a b", "a" * 255, "a" * 256, "caf\u00e9"):
        client.send(request(b"GET /a HTTP/1.1", b"X-Request-Id: " + given.encode("latin-1")))
        ids.append((given, (await client.answer()).headers["x-request-id"]))
    client.send(GET, NEXT)
    ids += [("", (await client.answer()).headers["x-request-id"]) for _ in range(2)]
    assert [id for given, id in ids if given in ("abc-1_X", "a" * 255)] == ["abc-1_X", "a" * 255]
    minted = [id for given, id in ids if given not in ("abc-1_X", "a" * 255)]
    assert len(set(minted)) == len(minted) and all(len(id) == 16 for id in minted)


async def test_a_handler_that_ends_without_an_answer_is_an_error(serve, connect):
    async def handler(request, responder):
        pass

    client = await connect(await serve(handler))
    client.send(GET)
    assert (await client.answer()).status == 500


async def test_a_cancelled_dependency_of_a_handler_is_an_error_not_a_cut(serve, connect):
    async def handler(request, responder):
        future = asyncio.get_running_loop().create_future()
        future.cancel()
        await future

    client = await connect(await serve(handler))
    client.send(GET)
    assert (await client.answer()).status == 500


async def test_half_an_answer_is_cut_so_that_nobody_takes_it_for_whole(serve, connect):
    async def handler(request, responder):
        responder.start_now(200)
        responder.send(b"half")
        raise RuntimeError("x")

    client = await connect(await serve(handler))
    client.send(GET)
    with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
        await client.answer()


# -- clients that go


@pytest.mark.parametrize("how", ["close", "half-close", "reset"])
async def test_a_client_that_goes_in_flight_cancels_its_request(serve, connect, how):
    gate = Gate()
    server = await serve(gate)
    client = await connect(server)
    client.send(GET)
    await gate.entered.wait()
    if how == "half-close":
        client.writer.write_eof()
    elif how == "reset":
        client.writer.transport.abort()
    else:
        client.writer.close()
    async with asyncio.timeout(5):
        await gate.cancelled.wait()
    assert await client.is_cut()


async def test_a_client_that_says_no_more_while_it_does_not_read_is_gone_at_once(serve, connect, eventually):
    gone = asyncio.Event()

    async def handler(request, responder):
        responder.on_gone = gone.set
        await responder.respond(200, [], b"x" * 50_000_000)

    server = await serve(handler)
    client = await connect(server)
    client.reader._transport.pause_reading()
    client.send(GET)
    await eventually(lambda: any(one._backlog for one in server._connections))
    client.writer.write_eof()
    async with asyncio.timeout(5):
        await gone.wait()
    await eventually(lambda: server.connections == 0)


async def test_a_handler_that_wants_to_go_on_is_told_and_not_cancelled(serve, connect):
    gone, done = asyncio.Event(), asyncio.Event()

    async def handler(request, responder):
        responder.on_gone = gone.set
        await gone.wait()
        assert responder.gone
        await responder.respond(200, [], b"nobody reads this")
        done.set()

    client = await connect(await serve(handler))
    client.send(GET)
    await client.writer.drain()
    client.writer.close()
    async with asyncio.timeout(5):
        await done.wait()


async def test_a_client_that_goes_frees_its_place(serve, connect, eventually):
    gate = Gate()
    server = await serve(gate)
    for _ in range(20):
        client = await connect(server)
        client.send(GET)
        client.writer.write_eof()
    await eventually(lambda: len(server.seen) == 20 and server.connections == 0 and gate.running == 0)


# -- admission, 100-continue


async def test_a_client_that_asks_first_is_told_to_go_on_after_admission(serve, connect):
    asked: list[tuple[str, str]] = []

    def admit(head, peer):
        asked.append((head.path, peer))
        return 100

    server = await serve(admit=admit)
    client = await connect(server)
    for _ in range(2):
        client.send(request(b"POST /x HTTP/1.1", b"Expect: 100-continue", b"Content-Length: 3"))
        assert (await client.answer()).status == 100
        client.send(b"abc")
        assert (await client.answer()).body == b"abc"
    assert asked == [("/x", "127.0.0.1")] * 2


async def test_a_client_that_asks_first_and_is_not_let_in_never_hears_go_on(serve, connect):
    server = await serve(admit=lambda head, peer: HttpRefusal(401, [("www-authenticate", "Bearer")], b"no"))
    client = await connect(server)
    client.send(request(b"POST / HTTP/1.1", b"Expect: 100-continue", b"Content-Length: 3"))
    answer = await client.answer()
    assert (answer.status, answer.headers["www-authenticate"], answer.body) == (401, "Bearer", b"no")
    assert answer.headers["connection"] == "close"
    assert await client.rest() == b"" and server.seen == []


async def test_a_body_that_is_already_there_needs_no_invitation(serve, connect):
    client = await connect(await serve())
    client.send(post(b"abc", b"Expect: 100-continue"))
    assert (await client.answer()).status == 200


async def test_a_body_larger_than_allowed_is_refused_instead_of_invited(serve, connect):
    client = await connect(await serve(max_body=2))
    client.send(request(b"POST / HTTP/1.1", b"Expect: 100-continue", b"Content-Length: 3"))
    assert (await client.answer()).status == 413


async def test_a_refusal_of_a_request_that_is_here_keeps_the_connection(serve, connect):
    server = await serve(admit=lambda head, peer: 10 if head.path == "/a" else HttpRefusal(403))
    client = await connect(server)
    client.send(post(b"abc", path=b"/no"), GET, request(b"HEAD /no HTTP/1.1"), GET)
    assert (await client.answer()).status == 403
    assert (await client.answer()).status == 200
    assert (await client.answer(head_only=True)).status == 403
    assert (await client.answer()).status == 200
    assert server.refused[403] == 2 and [seen.path for seen in server.seen] == ["/a", "/a"]


async def test_an_admission_that_fails_lets_nobody_in(serve, connect):
    def admit(head, peer):
        raise RuntimeError("x")

    server = await serve(admit=admit)
    client = await connect(server)
    client.send(GET)
    assert (await client.answer()).status == 500
    assert server.seen == []
