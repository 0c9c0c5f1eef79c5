"""The server half of HTTP+SSE over real sockets: the stream, the POSTs, who may say what, and every end."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from mcpbridge.bridge import Bridge, refusing_while
from mcpbridge.core.exchange import Exchange, Handler, Principal
from mcpbridge.core.reception import Reception
from mcpbridge.errors import BridgeError
from mcpbridge.policies.authorize import authorize
from mcpbridge.policies.sessions import sessions
from mcpbridge.policies.validate import validate
from mcpbridge.transports.http1.server import HttpRequest, HttpServer, Responder
from mcpbridge.transports.sse import listen
from mcpbridge.transports.sse.listen import SseFrontend
from mcpbridge.wire import message as m
from mcpbridge.wire.message import Response
from mcpbridge.wire.sse import SseEvent, SseParser
from tests.golden.player import new_bridge
from tests.support.scripted import HELLO, META, VERSION, Scripted, add, never
from tests.support.scripted import answer as content_answer
from tests.transports.sse.conftest import until

ALL = frozenset({"mcp:read", "mcp:write"})
PEOPLE = {
    "Bearer ann": Principal("static", "ann", ALL),
    "Bearer ann-reads": Principal("static", "ann", frozenset({"mcp:read"})),
    "Bearer bob": Principal("static", "bob", ALL),
}
INITIALIZE = m.request(
    1, "initialize", {"protocolVersion": VERSION, "capabilities": {}, "clientInfo": {"name": "c", "version": "1"}}
)


class House:
    """A listener with an SSE frontend over one scripted server, and everything that came to it."""

    def __init__(self, bridge: Bridge) -> None:
        self.bridge = bridge
        self.people = dict(PEOPLE)
        self.scripted = Scripted()
        target = add(bridge, self.scripted)
        numbers = iter(range(1, 1000))
        front = bridge.front(
            [
                refusing_while(bridge.draining),
                self.sign_in,
                sessions(bridge.sessions, lambda _record: f"s{next(numbers)}"),
                validate(),
                authorize(),
            ],
            bridge.endpoint(),
        )
        self.reception = Reception(front, bridge.spawn, bridge.sessions, lambda _name: target, bridge.draining, deadline=5.0)
        self.sse = SseFrontend(self.reception.serve, self.reception.admit, self.reception.recognize)
        self.server = HttpServer(self.handle, max_body=1 << 20)
        self.url = ("", 0)

    async def sign_in(self, x: Exchange, handler: Handler) -> Response | None:
        x.caller.principal = self.people.get(x.caller.headers.get("authorization", ""))
        if x.caller.principal is None:
            raise BridgeError("unauthorized", "a valid bearer token is needed", sent=False, challenge="Bearer")
        return await handler(x)

    async def handle(self, request: HttpRequest, responder: Responder) -> None:
        if request.path == "/events/messages":
            await self.sse.handle_post(request, responder)
        else:
            await self.sse.handle_stream(request, responder, None)


class Client:
    """One raw client: its stream, and a connection per POST."""

    def __init__(self, house: House, token: str) -> None:
        self.house = house
        self.token = token
        self.parser = SseParser()
        self.events: list[SseEvent] = []
        self.raw = b""
        self.endpoint = ""
        self.status = 0
        self.ended = False

    async def open(self, **headers: str) -> Client:
        self.reader, self.writer = await asyncio.open_connection(*self.house.url)
        fields = {"Host": "localhost", "Authorization": f"Bearer {self.token}", "Accept": "text/event-stream", **headers}
        lines = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
        self.writer.write(f"GET /events HTTP/1.0\r\n{lines}\r\n".encode())  # 1.0: the stream is not chunked
        self.head = (await asyncio.wait_for(self.reader.readuntil(b"\r\n\r\n"), 5)).decode()
        self.status = int(self.head.split(" ")[1])
        if self.status == 200:
            first = await self.event()
            assert first.event == "endpoint"
            self.endpoint = first.data.decode()
        return self

    async def event(self) -> SseEvent:
        async with asyncio.timeout(5):
            while not self.events:
                piece = await self.reader.read(65536)
                if not piece:
                    self.ended = True
                    raise EOFError
                self.raw += piece
                self.events += self.parser.feed(piece)
        return self.events.pop(0)

    async def message(self) -> Any:
        event = await self.event()
        assert event.event == "message"
        return json.loads(event.data)

    async def is_ended(self) -> bool:
        try:
            while True:
                await self.event()
        except (EOFError, ConnectionError):
            return True

    async def post(self, message: Any, token: str = "", endpoint: str = "", **headers: str) -> tuple[int, Any]:
        """Status and JSON body of a POST."""
        body = message if isinstance(message, bytes) else json.dumps(message).encode()
        reader, writer = await asyncio.open_connection(*self.house.url)
        fields = {
            "Host": "localhost",
            "Authorization": f"Bearer {token or self.token}",
            "Content-Type": "application/json",
            "Content-Length": str(len(body)),
            "Connection": "close",
            "X-Request-Id": "mine",
            **headers,
        }
        lines = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
        writer.write(f"POST {endpoint or self.endpoint} HTTP/1.1\r\n{lines}\r\n".encode() + body)
        async with asyncio.timeout(5):
            answer = await reader.read()
        writer.close()
        head, _, rest = answer.partition(b"\r\n\r\n")
        return int(head.split(b" ")[1]), json.loads(rest) if rest else None

    async def say(self, id: int, method: str, token: str = "", **params: Any) -> None:
        assert (await self.post(json.loads(m.request(id, method, params).encode()), token)) == (202, None)

    async def hello(self) -> Client:
        await self.open()
        assert await self.post(INITIALIZE.encode()) == (202, None)
        assert (await self.message())["result"] == HELLO
        assert await self.post({"jsonrpc": "2.0", "method": "notifications/initialized"}) == (202, None)
        return self

    def close(self) -> None:
        self.writer.close()


@pytest.fixture
async def house() -> AsyncIterator[House]:
    async with new_bridge(None) as bridge:
        one = House(bridge)
        one.url = await one.server.start("127.0.0.1", 0)
        yield one
        await one.server.close()


@pytest.fixture
async def client(house: House) -> AsyncIterator[Any]:
    """``client("ann")``: a client that has not come yet."""
    made: list[Client] = []

    def make(token: str = "ann") -> Client:
        made.append(Client(house, token))
        return made[-1]

    yield make
    for one in made:
        if hasattr(one, "writer"):
            one.close()


# -- the stream


@pytest.mark.requirement("http.gateway.events")
async def test_the_stream_names_its_endpoint_first_and_answers_come_on_it(house, client):
    ann = await client().hello()
    assert ann.endpoint.startswith("/events/messages?session=") and len(ann.endpoint) > 60
    assert "content-type: text/event-stream" in ann.head and "x-accel-buffering: no" in ann.head
    await ann.say(2, "tools/list")
    assert await ann.message() == {"jsonrpc": "2.0", "id": 2, "result": {"by": "tools/list"}}
    assert (house.reception.connections("sse"), len(house.bridge.sessions)) == (1, 1)
    other = await client().open()
    assert other.endpoint != ann.endpoint


@pytest.mark.requirement("config.gateway.server.protocols.sse.keepalive_interval")
async def test_a_silent_stream_says_a_comment_now_and_then(house, client):
    house.sse = SseFrontend(house.reception.serve, house.reception.admit, house.reception.recognize, keep_alive=0.01)
    ann = await client().open()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.1):
            await ann.event()
    assert ann.raw.count(b"\n: \n\n") >= 3


@pytest.mark.parametrize(
    ("method", "path", "headers", "status"),
    [
        ("POST", "/events", {"Content-Length": "2"}, 405),
        ("DELETE", "/events", {}, 405),
        ("GET", "/events/messages", {}, 405),
        ("GET", "/events", {"Accept": "application/json"}, 406),
        ("GET", "/events", {"Authorization": "Bearer eve"}, 401),
    ],
)
async def test_what_opens_no_stream_is_answered_with_its_status(house, method, path, headers, status):
    reader, writer = await asyncio.open_connection(*house.url)
    fields = {"Host": "localhost", "Connection": "close", "Authorization": "Bearer ann", **headers}
    lines = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    writer.write(f"{method} {path} HTTP/1.1\r\n{lines}\r\n{'{}' if method == 'POST' else ''}".encode())
    async with asyncio.timeout(5):
        answer = (await reader.read()).decode()
    assert answer.startswith(f"HTTP/1.1 {status} ")
    assert ("www-authenticate: Bearer" in answer) == (status == 401) and ("allow: " in answer) == (status == 405)
    writer.close()


async def test_closing_the_stream_ends_the_session_and_cancels_calls_at_once(house, client):
    began, ended = asyncio.Event(), asyncio.Event()

    async def hangs(talk: Any, request: Any, reply: Any) -> Any:
        if request.method != "tools/call":
            return await content_answer(talk, request, reply)
        began.set()
        try:
            await never()
        finally:
            ended.set()

    house.scripted.answer = hangs
    ann = await client().hello()
    await ann.say(2, "tools/call", name="x")
    await asyncio.wait_for(began.wait(), 5)
    ann.close()
    await asyncio.wait_for(ended.wait(), 5)
    await until(lambda: not house.bridge.sessions and not house.sse._open)
    assert (await ann.post({"jsonrpc": "2.0", "id": 3, "method": "ping"}))[0] == 404


async def test_a_call_is_cancelled_by_its_notification(house, client):
    seen = asyncio.Event()

    async def hangs(talk: Any, request: Any, reply: Any) -> Any:
        if request.method == "tools/call":
            try:
                await never()
            except asyncio.CancelledError:
                seen.set()
                raise
        return await content_answer(talk, request, reply)

    house.scripted.answer = hangs
    ann = await client().hello()
    await ann.say(2, "tools/call", name="x")
    cancelled = {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 2}}
    assert (await ann.post(cancelled))[0] == 202
    await asyncio.wait_for(seen.wait(), 5)
    await ann.say(3, "ping")
    assert (await ann.message())["id"] == 3


async def test_an_answer_larger_than_any_buffer_comes_whole_and_others_come_behind_it(house, client):
    async def large(talk: Any, request: Any, reply: Any) -> Any:
        if request.method == "tools/call":
            return m.result(request.id, {"text": "x" * 9_000_000})
        return await content_answer(talk, request, reply)

    house.scripted.answer = large
    ann = await client().hello()
    await ann.say(2, "tools/call", name="x")
    await ann.say(3, "tools/list")
    answers = {answer["id"]: answer["result"] for answer in (await ann.message(), await ann.message())}
    assert len(answers[2]["text"]) == 9_000_000 and answers[3] == {"by": "tools/list"}


async def test_a_client_that_does_not_read_is_let_go(house, client, monkeypatch):
    monkeypatch.setattr(listen, "MAX_HELD", 1_000_000)

    async def large(talk: Any, request: Any, reply: Any) -> Any:
        if request.method == "tools/call":
            return m.result(request.id, {"text": "x" * 2_000_000})
        return await content_answer(talk, request, reply)

    house.scripted.answer = large
    ann = await client().hello()
    for id in range(2, 20):
        status, _ = await ann.post(json.loads(m.request(id, "tools/call", {"name": "x"}).encode()))
        if status == 404:
            break
    await until(lambda: not house.sse._open and not house.bridge.sessions)
    assert await ann.is_ended()


async def test_who_drains_answers_what_was_asked_ends_the_streams_and_lets_nobody_in(house, client):
    gate = asyncio.Event()

    async def waits(talk: Any, request: Any, reply: Any) -> Any:
        if request.method == "tools/list":
            await gate.wait()
        return await content_answer(talk, request, reply)

    house.scripted.answer = waits
    busy, idle = await client().hello(), await client("bob").hello()
    await busy.say(2, "tools/list")
    house.bridge.draining.set()
    assert await idle.is_ended()
    gate.set()
    assert (await busy.message())["result"] == {"by": "tools/list"}
    assert await busy.is_ended()


async def test_who_drains_takes_the_answers_that_calls_in_flight_wait_for_and_refuses_new_ones(house, client):
    async def asks(talk: Any, request: Any, reply: Any) -> Any:
        if request.method == "tools/call":
            answer = await reply.ask(m.request(7, "roots/list"))
            return m.result(request.id, {"roots": json.loads(bytes(answer.result))["roots"]})
        return await content_answer(talk, request, reply)

    house.scripted.answer = asks
    ann = await client().hello()
    await ann.say(2, "tools/call", name="x")
    question = await ann.message()
    house.bridge.draining.set()
    await ann.say(3, "tools/list")
    assert (await ann.message())["error"]["data"]["reason"] == "draining"
    assert (await ann.post({"jsonrpc": "2.0", "id": question["id"], "result": {"roots": [1]}}))[0] == 202
    assert (await ann.message())["result"] == {"roots": [1]}
    assert await ann.is_ended()
    late = await client().open()
    assert late.status == 503


# -- the POSTs


@pytest.mark.parametrize(
    ("body", "headers", "status", "code"),
    [
        (b"{", {}, 400, -32700),
        (b'{"jsonrpc":"2.0","id":1,"id":2,"method":"ping"}', {}, 400, -32700),
        (b'{"jsonrpc":"1.0","id":1,"method":"ping"}', {}, 400, -32600),
        (b"\xff\xfe", {}, 400, -32700),
        (b"[" * 100_000, {}, 400, -32700),
        (b"{}", {"Content-Type": "text/plain"}, 415, -32600),
    ],
)
async def test_a_malformed_post_gets_a_status_and_an_error_and_harms_nobody(client, body, headers, status, code):
    ann = await client().hello()
    said, answer = await ann.post(body, **headers)
    assert (said, answer["error"]["code"], answer["error"]["data"]["request_id"]) == (status, code, "mine")
    await ann.say(2, "ping")
    assert (await ann.message())["id"] == 2


async def test_a_body_over_the_limit_is_refused(client):
    ann = await client().hello()
    reader, writer = await asyncio.open_connection(*ann.house.url)
    writer.write(f"POST {ann.endpoint} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1048577\r\n\r\n".encode())
    assert (await asyncio.wait_for(reader.readuntil(b"\r\n"), 5)).startswith(b"HTTP/1.1 413 ")
    writer.close()
    await ann.say(2, "ping")
    assert (await ann.message())["id"] == 2


async def test_a_session_is_known_to_nobody_but_its_principal(house, client):
    ann, bob = await client().hello(), await client("bob").hello()
    ping = {"jsonrpc": "2.0", "id": 9, "method": "ping"}
    same = set()
    for endpoint, token in (
        (ann.endpoint, "bob"),
        ("/events/messages?session=" + "A" * 43, "ann"),
        ("/events/messages", "ann"),
        (ann.endpoint + "&session=x", "ann"),
        ("/events/messages?session=" + "%41" * 500, "ann"),
    ):
        status, answer = await bob.post(ping, token, endpoint)
        same.add((status, json.dumps(answer)))
        assert status == 404 and answer["error"]["data"]["reason"] == "session_unknown"
    assert len(same) == 1  # nothing in the answer tells one from another
    await ann.say(2, "ping")
    assert (await ann.message())["id"] == 2


@pytest.mark.requirement("limit.auth.per-message")
async def test_each_message_counts_as_what_its_own_post_shows(house, client):
    release = asyncio.Event()

    async def slow_start(talk: Any, request: Any, reply: Any) -> Any:
        if request.method == "initialize":
            await release.wait()
        return await content_answer(talk, request, reply)

    house.scripted.answer = slow_start
    ann = await client().open()
    await ann.post(INITIALIZE.encode())
    await ann.say(2, "tools/call", token="ann-reads", name="x")  # both wait for initialize, and then run at once
    await ann.say(3, "tools/call", token="ann", name="x")
    release.set()
    answers = {answer["id"]: answer for answer in [await ann.message() for _ in range(3)]}
    assert answers[2]["error"]["data"]["reason"] == "forbidden"
    assert answers[3]["result"] == {"by": "tools/call"}


@pytest.mark.requirement("limit.auth.per-message")
async def test_a_token_that_is_no_longer_good_ends_the_session_with_the_next_message(house, client):
    ann = await client().hello()
    del house.people["Bearer ann"]
    status, answer = await ann.post({"jsonrpc": "2.0", "id": 2, "method": "ping"})
    assert (status, answer["error"]["data"]["reason"]) == (401, "unauthorized")
    assert await ann.is_ended()


async def test_a_stranger_without_a_token_cannot_end_a_session_he_cannot_name(house, client):
    ann = await client().hello()
    status, _ = await ann.post({"jsonrpc": "2.0", "id": 2, "method": "ping"}, "eve", "/events/messages?session=x")
    assert status == 401
    await ann.say(2, "ping")
    assert (await ann.message())["id"] == 2


async def test_a_modern_request_is_told_where_it_belongs_on_the_stream(client):
    ann = await client().open()
    await ann.say(4, "server/discover", _meta=META)
    error = (await ann.message())["error"]
    assert error["code"] == -32600 and "POST to /mcp" in error["message"]
    note = {"jsonrpc": "2.0", "method": "notifications/x", "params": {"_meta": META}}
    assert await ann.post(note, **{"Mcp-Protocol-Version": "2026-07-28"}) == (202, None)
    assert await ann.post(INITIALIZE.encode()) == (202, None)
    assert (await ann.message())["result"] == HELLO
