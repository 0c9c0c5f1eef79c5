"""The correlator: ids, tokens, order, cancellation, what a bad peer can say, and how everything ends."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Coroutine
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcpbridge.core import peer as module
from mcpbridge.core.exchange import NoReply
from mcpbridge.core.peer import Peer, answered, outgoing
from mcpbridge.errors import BridgeError
from mcpbridge.wire import message as m
from tests.golden.player import Pipe, receive

WAIT = 5.0


class Inbox:
    def __init__(self) -> None:
        self.heard: list[m.Notification] = []
        self.ends: list[BaseException | None] = []
        self.serve: Any = None
        self.error: Exception | None = None

    def notified(self, notification: m.Notification) -> None:
        if self.error is not None:
            raise self.error
        self.heard.append(notification)

    async def asked(self, request: m.Request) -> m.Response:
        return await self.serve(request)

    def closed(self, cause: BaseException | None) -> None:
        self.ends.append(cause)


class Reply(NoReply):
    def __init__(self) -> None:
        self.heard: list[m.Notification] = []

    def notify(self, notification: m.Notification) -> None:
        self.heard.append(notification)


class Side:
    """A Peer on a pipe; ``tasks`` is what it started."""

    def __init__(self, client: bool, max_garbage: int = 0) -> None:
        self.pipe, self.inbox = Pipe(), Inbox()
        self.tasks: list[asyncio.Task[None]] = []

        def spawn(work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
            self.tasks.append(asyncio.get_running_loop().create_task(work))
            return self.tasks[-1]

        self.peer = Peer(self.pipe, self.inbox, spawn, client=client, name="s", max_garbage=max_garbage)
        self.peer.start()

    def says(self, **message: Any) -> None:
        self.pipe.feed(json.dumps({"jsonrpc": "2.0", **message}).encode())

    async def calls(self, request: m.Request, reply: NoReply | None = None) -> tuple[asyncio.Task[m.Response], Any]:
        call = asyncio.ensure_future(self.peer.call(request, reply or NoReply()))
        return call, await receive(self.pipe)


@pytest.fixture
async def server() -> AsyncIterator[Side]:
    side = Side(client=False)
    yield side
    assert side.peer.in_flight() == 0


@pytest.fixture
async def client() -> Side:
    return Side(client=True)


async def test_answers_find_their_callers_in_any_order_although_all_used_one_id(server: Side) -> None:
    calls = [await server.calls(m.request("same", "tools/call", {"name": f"t{n}"})) for n in range(5)]
    for number, (_call, sent) in reversed(list(enumerate(calls))):
        server.says(id=sent["id"], result={"n": number})
    for number, (call, _sent) in enumerate(calls):
        response = await asyncio.wait_for(call, WAIT)
        assert (response.id, m.loads(response.result or b"")) == ("same", {"n": number})


async def test_a_late_answer_is_dropped(server: Side) -> None:
    call, sent = await server.calls(m.request(1, "tools/call"))
    call.cancel("too slow")
    with pytest.raises(asyncio.CancelledError):
        await call
    note = await receive(server.pipe)
    assert note["method"] == "notifications/cancelled"
    assert note["params"] == {"requestId": sent["id"], "reason": "too slow"}
    server.says(id=sent["id"], result={})
    assert server.inbox.heard == []


async def test_a_cancelled_initialize_is_not_cancelled_at_the_server(server: Side) -> None:
    call, _sent = await server.calls(m.request(1, "initialize"))
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert server.pipe.received.empty()


async def test_the_servers_end_fails_every_call_with_its_cause_and_is_told_once(server: Side) -> None:
    calls = [(await server.calls(m.request(1, "tools/call")))[0] for _ in range(3)]
    cause = BridgeError("server_exited", "s: exit status 3", exit_status=3)
    server.pipe.end(cause)
    server.pipe.end(None)
    for call in calls:
        with pytest.raises(BridgeError) as caught:
            await asyncio.wait_for(call, WAIT)
        assert (caught.value.reason, caught.value.sent, caught.value.data) == ("server_exited", True, {"exit_status": 3})
    assert server.inbox.ends == [cause]
    with pytest.raises(BridgeError) as later:
        await server.peer.call(m.request(1, "ping"))
    assert not later.value.sent


async def test_a_call_that_cannot_be_sent_any_more_fails_with_the_cause_of_the_end(server: Side) -> None:
    def refuse(data: bytes) -> None:
        raise ConnectionError("no longer listens")

    server.pipe.send = refuse  # type: ignore[method-assign]
    call = asyncio.ensure_future(server.peer.call(m.request(1, "tools/call")))
    await asyncio.sleep(0)
    server.pipe.end(BridgeError("server_exited", "exit status 3", exit_status=3))
    with pytest.raises(BridgeError) as caught:
        await call
    assert (caught.value.reason, caught.value.data["exit_status"], caught.value.sent) == ("server_exited", 3, False)


async def test_a_call_that_cannot_be_sent_does_not_wait_for_an_end_that_never_comes(
    server: Side, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LAST_WORDS", 0.0)

    def refuse(data: bytes) -> None:
        raise ConnectionError("does not read")

    server.pipe.send = refuse  # type: ignore[method-assign]
    with pytest.raises(BridgeError, match="does not read") as caught:
        await server.peer.call(m.request(1, "tools/call"))
    assert not caught.value.sent


async def test_progress_and_only_progress_of_the_own_call_reaches_the_caller_with_his_token(server: Side) -> None:
    first, second = Reply(), Reply()
    request = m.request(1, "tools/call", {"_meta": {"progressToken": "mine"}})
    a, sent_a = await server.calls(request, first)
    b, sent_b = await server.calls(request, second)
    assert sent_a["params"]["_meta"]["progressToken"] != sent_b["params"]["_meta"]["progressToken"]
    server.says(
        method="notifications/progress", params={"progressToken": sent_b["params"]["_meta"]["progressToken"], "progress": 1}
    )
    assert first.heard == []
    assert m.loads(second.heard[0].param("progressToken") or b"") == "mine"
    for call, sent in ((a, sent_a), (b, sent_b)):
        server.says(id=sent["id"], result={})
        await asyncio.wait_for(call, WAIT)


async def test_progress_of_a_call_that_is_over_is_dropped_because_its_token_means_another_call_to_others(server: Side) -> None:
    call, sent = await server.calls(m.request(1, "tools/call", {"_meta": {"progressToken": 7}}), Reply())
    server.says(id=sent["id"], result={})
    await asyncio.wait_for(call, WAIT)
    server.says(method="notifications/progress", params={"progressToken": sent["id"], "progress": 1})
    assert server.inbox.heard == []


async def test_unsolicited_notifications_keep_their_order(server: Side) -> None:
    for number in range(20):
        server.says(method="notifications/message", params={"data": number})
    assert [m.loads(n.param("data") or b"") for n in server.inbox.heard] == list(range(20))


async def test_a_bad_answer_fails_only_its_own_call(server: Side) -> None:
    bad, sent = await server.calls(m.request(1, "tools/call"))
    good, other = await server.calls(m.request(2, "tools/call"))
    server.pipe.feed(b'{"jsonrpc":"2.0","id":%d,"result":{},"error":{"code":1,"message":""}}' % sent["id"])
    server.says(id=other["id"], result={})
    with pytest.raises(BridgeError, match="nonsense"):
        await asyncio.wait_for(bad, WAIT)
    assert (await asyncio.wait_for(good, WAIT)).id == 2


async def test_noise_of_a_server_is_remembered_and_ends_nothing(server: Side) -> None:
    server.pipe.feed(b"Welcome to my server!")
    server.says(method="notifications/message", params={})
    assert server.peer.noise == "Welcome to my server!"
    assert len(server.inbox.heard) == 1


@pytest.mark.parametrize("id", [{}, [], None, 1.5])
async def test_a_cancellation_that_names_no_possible_id_is_ignored(client: Side, id: Any) -> None:
    client.says(method="notifications/cancelled", params={"requestId": id})
    client.says(method="notifications/roots/list_changed")
    assert [n.method for n in client.inbox.heard] == ["notifications/roots/list_changed"]


async def test_a_fault_of_ours_while_taking_one_message_does_not_lose_the_next(server: Side) -> None:
    server.inbox.error = RuntimeError("send before start or after end")
    server.says(method="notifications/message", params={})
    server.inbox.error = None
    server.says(method="notifications/message", params={})
    assert len(server.inbox.heard) == 1


async def test_a_request_that_is_cancelled_before_it_began_leaves_nothing_behind(client: Side) -> None:
    client.says(id=1, method="tools/call")
    client.says(method="notifications/cancelled", params={"requestId": 1})
    await asyncio.wait_for(client.peer.idle.wait(), WAIT)
    served: asyncio.Queue[m.Request] = asyncio.Queue()

    async def serve(request: m.Request) -> m.Response:
        served.put_nowait(request)
        return m.result(request.id, {})

    client.inbox.serve = serve
    client.says(id=1, method="tools/list")  # the id is free again
    assert await receive(client.pipe) == {"jsonrpc": "2.0", "id": 1, "result": {}}


async def test_an_id_that_is_still_in_flight_is_refused_and_the_first_call_goes_on(client: Side) -> None:
    go = asyncio.Event()

    async def serve(request: m.Request) -> m.Response:
        await go.wait()
        return m.result(request.id, {"ok": True})

    client.inbox.serve = serve
    client.says(id=1, method="tools/call")
    client.says(id=1, method="tools/call")
    refused = await receive(client.pipe)
    assert (refused["id"], refused["error"]["code"]) == (1, -32600)
    go.set()
    assert (await receive(client.pipe))["result"] == {"ok": True}


async def test_more_requests_than_can_be_served_are_refused(client: Side, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_SERVED", 2)
    go = asyncio.Event()

    async def serve(request: m.Request) -> m.Response:
        await go.wait()
        return m.result(request.id, {})

    client.inbox.serve = serve
    for id in (1, 2, 3):
        client.says(id=id, method="tools/call")
    refused = await receive(client.pipe)
    assert (refused["id"], refused["error"]["code"]) == (3, 1009)
    go.set()
    assert {(await receive(client.pipe))["id"], (await receive(client.pipe))["id"]} == {1, 2}


async def test_a_clients_end_of_input_fails_questions_to_it_but_its_own_requests_are_answered(client: Side) -> None:
    go = asyncio.Event()

    async def serve(request: m.Request) -> m.Response:
        await go.wait()
        return m.result(request.id, {})

    client.inbox.serve = serve
    client.says(id=1, method="tools/call")
    question, _sent = await client.calls(m.request(1, "roots/list"))
    client.pipe.end(None)
    with pytest.raises(BridgeError, match="closed the connection"):
        await asyncio.wait_for(question, WAIT)
    go.set()
    assert (await receive(client.pipe))["id"] == 1
    assert client.inbox.ends == [None]


async def test_a_broken_connection_cancels_what_was_being_served(client: Side) -> None:
    begun, ended = asyncio.Event(), asyncio.Event()

    async def serve(request: m.Request) -> m.Response:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()
        raise AssertionError

    client.inbox.serve = serve
    client.says(id=1, method="tools/call")
    await asyncio.wait_for(begun.wait(), WAIT)
    client.pipe.end(ConnectionResetError("gone"))
    await asyncio.wait_for(ended.wait(), WAIT)
    await asyncio.wait_for(client.peer.idle.wait(), WAIT)
    assert client.pipe.received.empty()


async def test_an_unexpected_fault_becomes_an_internal_error_without_its_text(client: Side) -> None:
    async def serve(request: m.Request) -> m.Response:
        raise ZeroDivisionError("secret place")

    client.inbox.serve = serve
    client.says(id=1, method="tools/call")
    answer = await receive(client.pipe)
    assert answer["error"]["code"] == -32603
    assert "secret" not in json.dumps(answer)


@given(st.one_of(st.integers(-(2**70), 2**70), st.text()), st.one_of(st.integers(), st.text()), st.integers(1, 10**9))
def test_ids_and_tokens_come_back_exactly(id: int | str, token: int | str, ours: int) -> None:
    request = m.request(id, "tools/call", {"name": "x", "_meta": {"progressToken": token, "other": 1}})
    sent = outgoing(request, ours)
    assert sent.id == ours
    assert m.loads(sent.meta["progressToken"]) == ours
    assert m.loads(sent.meta["other"]) == 1
    back = answered(m.result(ours, {"a": 1}), request)
    assert (back.id, type(back.id)) == (id, type(id))


async def test_what_a_server_says_goes_on_in_its_order_although_answers_and_questions_are_tasks(server: Side) -> None:
    order: list[str] = []

    async def serve(request: m.Request) -> m.Response:
        order.append(request.method)
        return m.result(request.id, {})

    server.inbox.serve = serve
    server.inbox.notified = lambda notification: order.append(notification.method)  # type: ignore[method-assign]
    call, sent = await server.calls(m.request(1, "tools/call"))
    waiting = asyncio.ensure_future(server.peer.call(m.request(2, "x"), NoReply()))
    other = await receive(server.pipe)
    server.says(method="first")
    server.says(id="q1", method="question")
    server.says(method="second")
    server.says(id="q2", method="question two")
    server.says(method="third")
    await receive(server.pipe)
    await receive(server.pipe)
    assert order == ["first", "question", "second", "question two", "third"]

    order.clear()
    server.says(id=sent["id"], result={})
    server.says(method="after the answer")
    assert order == []  # the caller has not run yet
    server.says(id=other["id"], result={})
    await asyncio.wait_for(asyncio.gather(call, waiting), WAIT)
    assert order == ["after the answer"]
    server.says(method="at once")
    assert order[-1] == "at once"


async def test_requests_of_many_bytes_stop_the_reading_until_some_are_answered(
    client: Side, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_HELD", 1000)
    told: list[str] = []
    monkeypatch.setattr(client.pipe, "pause", lambda: told.append("pause"))
    monkeypatch.setattr(client.pipe, "resume", lambda: told.append("resume"))
    go = asyncio.Event()

    async def serve(request: m.Request) -> m.Response:
        await go.wait()
        return m.result(request.id, {})

    client.inbox.serve = serve
    client.says(id=1, method="tools/call", params={"pad": "x" * 500})
    assert told == []
    client.says(id=2, method="tools/call", params={"pad": "x" * 500})
    client.says(id=3, method="tools/call", params={"pad": "x" * 500})
    assert told == ["pause"]
    go.set()
    for _ in range(3):
        await receive(client.pipe)
    await client.peer.idle.wait()
    assert told == ["pause", "resume"]


async def test_a_server_that_says_nothing_but_garbage_is_left_and_its_calls_fail_with_the_cause() -> None:
    side = Side(client=False, max_garbage=3)
    call, sent = await side.calls(m.request(1, "tools/call"))
    for garbage in (b"a", b"b"):
        side.pipe.feed(garbage)
    side.says(method="notifications/x")  # a message in between: it does talk to us
    for garbage in (b"c", b"d"):
        side.pipe.feed(garbage)
    side.says(id=sent["id"], result={})
    assert (await asyncio.wait_for(call, WAIT)).error is None
    call, _sent = await side.calls(m.request(2, "tools/call"))
    for garbage in (b"e", b"f", b"g"):
        side.pipe.feed(garbage)
    with pytest.raises(BridgeError, match="3 in a row are no JSON-RPC message, the last one 'g'") as caught:
        await asyncio.wait_for(call, WAIT)
    assert (caught.value.reason, caught.value.sent) == ("bad_answer", True)
    assert len(side.inbox.ends) == 1
