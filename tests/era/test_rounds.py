"""A modern server that asks by `input_required`, and a legacy client that answers requests."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from mcpbridge.bridge import Bridge
from mcpbridge.core.exchange import Exchange, Reply
from mcpbridge.era import Crossings, rounds
from mcpbridge.errors import BridgeError
from mcpbridge.stores.memory import MemoryStore
from mcpbridge.wire import message as m
from mcpbridge.wire.spec import CLIENT_CAPABILITIES
from tests.support.answering import ALL, CALL, DONE, FORM, ROOTS, Asker, Person, asks, linked
from tests.support.scripted import VERSION, WAIT, exchange, never, until


@pytest.fixture
async def bridge() -> AsyncIterator[Bridge]:
    async with Bridge("gateway", MemoryStore(), Crossings(), start_timeout=WAIT, parked_ttl=WAIT) as bridge:
        yield bridge


async def play(bridge: Bridge, servers: Asker, person: Person, request: m.Request = CALL, **options: Any) -> m.Response:
    server, session = await linked(bridge, servers, **options)
    response = await bridge.one(exchange(request, server, session, reply=person))
    assert response is not None
    assert response.id == request.id
    return response


async def refused(bridge: Bridge, servers: Asker, person: Person, reason: str, **options: Any) -> BridgeError:
    with pytest.raises(BridgeError) as caught:
        await play(bridge, servers, person, **options)
    assert caught.value.reason == reason
    return caught.value


async def test_the_call_goes_out_again_as_it_was_with_the_answers_and_the_exact_state(bridge: Bridge) -> None:
    state = b'"\\u00e9\\/ \\ud83d\\ude00"'
    question = b'{"resultType":"input_required","inputRequests":{"k":' + m.dumps(FORM) + b'},"requestState":' + state + b"}"
    servers, person = Asker(question, DONE), Person(lambda _: m.Response(1, m.Raw(b'{"action":"accept","content":{"x":1.50}}')))
    raw = b'{"name":"t","arguments":{"n":12345678901234567890123}}'
    call = m.request(7, "tools/call", {name: m.Raw(bytes(value)) for name, value in m._decode_members(raw).items()})
    assert m.loads((await play(bridge, servers, person, call)).result or b"") == {"content": []}
    again = servers.heard[1]
    assert bytes(again.param("requestState") or b"") == state
    assert bytes(again.param("inputResponses") or b"") == b'{"k":{"action":"accept","content":{"x":1.50}}}'
    assert b'"arguments":{"n":12345678901234567890123}' in again.encode()
    assert servers.heard[0].param("requestState") is None


async def test_questions_are_put_at_once_and_their_answers_stand_in_the_order_of_the_server(bridge: Bridge) -> None:
    both = asyncio.Event()

    async def second_first(question: m.Request) -> object:
        if question.method == "roots/list":
            both.set()
            return {"roots": []}
        await both.wait()
        return {"action": "decline"}

    servers, person = Asker(asks(a=FORM, b=ROOTS), DONE), Person(second_first)
    await play(bridge, servers, person)
    assert list(servers.params(1)["inputResponses"].items()) == [("a", {"action": "decline"}), ("b", {"roots": []})]


async def test_only_the_newest_answers_and_state_go_with_a_round(bridge: Bridge) -> None:
    servers = Asker(asks("1", a=FORM), asks(b=FORM), asks("3"), DONE)
    await play(bridge, servers, Person())
    brought = [{k: v for k, v in servers.params(n).items() if k not in ("name", "arguments")} for n in range(4)]
    yes = {"action": "accept"}
    assert brought == [
        {},
        {"inputResponses": {"a": yes}, "requestState": "1"},
        {"inputResponses": {"b": yes}},
        {"requestState": "3"},
    ]


async def test_a_state_of_the_client_itself_reaches_no_server(bridge: Bridge) -> None:
    forged = m.request(7, "tools/call", {"name": "t", "requestState": "x", "inputResponses": {}, "task": {}})
    servers = Asker(DONE)
    await play(bridge, servers, Person(), forged)
    assert servers.params(0) == {"name": "t"}


async def test_a_server_that_only_wants_to_be_called_again_is_called_until_the_deadline(
    bridge: Bridge, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rounds, "FIRST_PAUSE", 0.001)
    monkeypatch.setattr(rounds, "MAX_PAUSE", 0.001)
    servers = Asker(*[asks(str(n)) for n in range(rounds.MAX_ROUNDS + 5)], DONE)
    assert (await play(bridge, servers, Person())).error is None
    endless = Asker(*[asks("x")] * 10_000)
    server, session = await linked(bridge, endless)
    with pytest.raises(BridgeError, match="timeout"):
        await bridge.one(exchange(CALL, server, session, reply=Person(), seconds=0.05))
    assert len(endless.heard) > 2


async def test_a_server_that_never_stops_asking_is_ended(bridge: Bridge) -> None:
    servers = Asker(*[asks("x", k=FORM)] * (rounds.MAX_ROUNDS + 2))
    error = await refused(bridge, servers, Person(), "bad_answer")
    assert "rounds" in str(error)
    assert len(servers.heard) == rounds.MAX_ROUNDS + 1


@pytest.mark.parametrize(
    "said",
    [
        {"resultType": "input_required"},
        {"resultType": "input_required", "inputRequests": {}},
        {"resultType": "input_required", "inputRequests": []},
        asks(k={}),
        asks(k=7),
        asks(k={"method": "ping"}),
        asks(k={"method": "elicitation/create", "params": []}),
        asks(k={"method": "sampling/createMessage", "params": {"_meta": 7}}),
        asks(k={"method": "x" * 10_000}),
        asks(**{f"k{n}": ROOTS for n in range(rounds.MAX_QUESTIONS + 1)}),
        b'{"resultType":"input_required","resultType":"input_required","requestState":"x"}',
        b'{"resultType":"input_required","inputRequests":{"k":{"method":"roots/list"},"k":{"method":"roots/list"}}}',
    ],
)
async def test_what_is_no_question_ends_the_call_and_the_client_is_asked_nothing(bridge: Bridge, said: object) -> None:
    person = Person()
    error = await refused(bridge, Asker(said), person, "bad_answer")
    assert len(str(error)) < 300
    assert person.asked == []


URL = {"method": "elicitation/create", "params": {"mode": "url", "message": "go", "url": "https://a.example/"}}
TOOLS = {"method": "sampling/createMessage", "params": {"messages": [], "maxTokens": 1, "tools": []}}


@pytest.mark.parametrize(
    ("capabilities", "version", "question", "needed"),
    [
        ({}, VERSION, FORM, {"elicitation": {}}),
        ({"elicitation": {}}, VERSION, URL, {"elicitation": {"url": {}}}),
        ({"elicitation": {"url": {}}}, VERSION, FORM, {"elicitation": {"form": {}}}),
        (ALL, "2025-06-18", URL, {"elicitation": {"url": {}}}),
        (ALL, "2025-03-26", FORM, {"elicitation": {}}),
        ({"sampling": {}}, VERSION, TOOLS, {"sampling": {"tools": {}}}),
        ({"sampling": {"tools": {}}}, "2025-06-18", TOOLS, {"sampling": {"tools": {}}}),
        ({"roots": True, "sampling": {}}, VERSION, ROOTS, {"roots": {}}),
    ],
)
async def test_what_the_client_cannot_be_asked_ends_the_call_before_anything_is_asked(
    bridge: Bridge, capabilities: object, version: str, question: object, needed: object
) -> None:
    person, servers = Person(), Asker(asks("x", ok={"method": "roots/list"}, k=question), DONE)
    capabilities = {"roots": {}, **capabilities} if isinstance(capabilities, dict) else capabilities
    error = await refused(bridge, servers, person, "missing_capability", capabilities=capabilities, version=version)
    assert error.data["requiredCapabilities"] == needed
    assert (error.fault.code, error.fault.legacy_status) == (-32021, 200)
    assert person.asked == []
    assert len(servers.heard) == 1


@pytest.mark.parametrize(
    ("version", "declared"),
    [
        ("2024-11-05", {"roots": {}, "sampling": {}, "experimental": {"x": {}}}),
        ("2025-03-26", {"roots": {}, "sampling": {}, "experimental": {"x": {}}}),
        ("2025-06-18", {"elicitation": {}, "roots": {}, "sampling": {}, "experimental": {"x": {}}}),
        (
            "2025-11-25",
            {
                "elicitation": {"form": {}, "url": {}},
                "roots": {},
                "sampling": {"tools": {}, "context": {}},
                "experimental": {"x": {}},
            },
        ),
    ],
)
async def test_the_server_hears_what_the_client_declared_as_far_as_its_version_has_it(
    bridge: Bridge, version: str, declared: object
) -> None:
    said = {
        **ALL,
        "sampling": {"tools": {}, "context": {}},
        "experimental": {"x": {}},
        "tasks": {},
        "extensions": {"a/b": {}},
        "own": {},
    }
    servers = Asker(DONE)
    await play(bridge, servers, Person(), capabilities=said, version=version)
    discover = servers.talks[0].requests[0]
    assert m.loads(servers.heard[0].meta[CLIENT_CAPABILITIES]) == m.loads(discover.meta[CLIENT_CAPABILITIES]) == declared


async def test_an_error_of_the_client_ends_the_call_verbatim_and_takes_the_other_questions_back(bridge: Bridge) -> None:
    error = b'{"code":-1,"message":"no","data":{"n":1.0}}'

    async def answer(question: m.Request) -> object:
        return await never() if question.method == "elicitation/create" else m.Response(1, None, m.Raw(error))

    servers, person = Asker(asks("x", a=FORM, b=ROOTS)), Person(answer)
    response = await play(bridge, servers, person)
    assert bytes(response.error or b"") == error
    assert person.taken_back == 1
    assert len(servers.heard) == 1


async def test_a_form_that_the_client_answers_with_an_error_is_cancelled(bridge: Bridge) -> None:
    servers = Asker(asks(k=FORM), DONE)
    await play(bridge, servers, Person(lambda _: m.error(1, {"code": -32601, "message": "no"})))
    assert servers.params(1)["inputResponses"] == {"k": {"action": "cancel"}}


@pytest.mark.parametrize("result", [[], 7, None, "x"])
async def test_an_answer_that_is_no_object_reaches_no_server(bridge: Bridge, result: object) -> None:
    servers = Asker(asks(k=FORM))
    await refused(bridge, servers, Person(lambda _: m.result(1, result)), "invalid_params")
    assert len(servers.heard) == 1


async def test_a_client_that_never_answers_ends_its_call_and_the_server_is_told_nothing_more() -> None:
    async with Bridge("gateway", MemoryStore(), Crossings(), start_timeout=WAIT, parked_ttl=0.01) as bridge:
        servers, person = Asker(asks("x", k=FORM)), Person(lambda _: never())
        error = await refused(bridge, servers, person, "unanswered")
        assert error.fault.blames == "client"
        assert person.taken_back == 1
        assert [len(servers.heard), servers.talks[0].notifications] == [1, []]
        assert bridge.servers["s"].backends[0].outcome.failures == 0


async def test_a_client_that_is_gone_is_no_failure_of_the_server(bridge: Bridge) -> None:
    def gone(_question: m.Request) -> object:
        raise BridgeError("stream_closed", "the other side closed the connection")

    await refused(bridge, Asker(asks("x", k=FORM)), Person(gone), "unanswered")
    assert bridge.servers["s"].backends[0].outcome.failures == 0


async def test_the_deadline_stands_still_while_the_client_is_asked_and_a_cancelled_call_takes_the_question_back(
    bridge: Bridge,
) -> None:
    servers, person = Asker(asks("x", k=FORM)), Person(lambda _: never())
    server, session = await linked(bridge, servers)
    x: Exchange = exchange(CALL, server, session, reply=person)
    running = asyncio.ensure_future(bridge.one(x))  # type: ignore[arg-type]
    await until(lambda: person.asked)
    assert x.deadline.paused
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert person.taken_back == 1
    assert not x.deadline.paused
    assert len(servers.heard) == 1


async def test_progress_rises_over_all_rounds(bridge: Bridge) -> None:
    def counting(*values: float) -> Callable[[Reply], Any]:
        async def run(reply: Reply) -> object:
            for value in values:
                reply.notify(m.notification("notifications/progress", {"progressToken": "p", "progress": value}))
            return asks("x", k=FORM) if values[0] == 1 else DONE

        return run

    person = Person()
    await play(bridge, Asker(counting(1, 2, 2), counting(0, 2, 2.5)), person)
    assert [m.loads(note.param("progress") or b"") for note in person.heard] == [1, 2, 2, 2.5]


async def test_a_page_has_an_id_of_its_own_and_is_complete_when_the_server_goes_on(bridge: Bridge) -> None:
    person = Person(lambda question: {"action": "accept" if m.loads(question.param("message") or b"") == "go" else "decline"})
    other = {**URL, "params": {**URL["params"], "message": "or there"}}  # type: ignore[dict-item]
    await play(bridge, Asker(asks("x", a=URL, b=other), DONE), person)
    ids = [m.loads(question.param("elicitationId") or b"") for question in person.asked]
    assert len(set(ids)) == 2
    assert [(note.method, m.loads(m.join(note.params or {}))) for note in person.heard] == [
        ("notifications/elicitation/complete", {"elicitationId": ids[0]})
    ]


async def test_a_call_that_asks_for_logs_keeps_the_pipe_from_nobody_while_its_client_is_asked(bridge: Bridge) -> None:
    servers, person = Asker({"resultType": "complete"}, asks("x", k=FORM)), Person(lambda _: never())
    server, session = await linked(bridge, servers)
    for request in (m.request(1, "logging/setLevel", {"level": "debug"}), m.request(2, "tools/list")):
        await bridge.one(exchange(request, server, session))
    running = asyncio.ensure_future(bridge.one(exchange(CALL, server, session, reply=person)))  # type: ignore[arg-type]
    await until(lambda: person.asked)
    assert [talk.log_owner for talk in server.backends[0].pool._live] == [None]
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
