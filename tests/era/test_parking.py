"""Parked calls: a legacy server asks, a modern client answers by a retry; who may, when not, and what becomes of the rest."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from mcpbridge.bridge import Bridge
from mcpbridge.core.exchange import NoReply, Principal, Reply
from mcpbridge.core.server import Server
from mcpbridge.era import Crossings
from mcpbridge.era import parking as module
from mcpbridge.era.parking import Parking
from mcpbridge.errors import FAULTS, BridgeError
from mcpbridge.stores.memory import MemoryStore
from mcpbridge.wire import message as m
from tests.support.scripted import META, WAIT, Scripted, Talk, add, answer, exchange, never, until

ALL = {"elicitation": {"form": {}, "url": {}}, "sampling": {}, "roots": {}}
NAME = {"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]}
FORM = m.request("q", "elicitation/create", {"message": "Your name?", "requestedSchema": NAME})
SAMPLE = m.request("q", "sampling/createMessage", {"messages": [], "maxTokens": 1})
ROOTS = m.request("q", "roots/list")
YES = {"action": "accept", "content": {"name": "Ann"}}
ANN, BOB = Principal("i", "ann"), Principal("i", "bob")


class Asking(Scripted):
    """A legacy server whose tools ask: ``asks`` are put at once, and the result tells the answers."""

    def __init__(self, *asks: m.Request) -> None:
        super().__init__()
        self.asks: tuple[m.Request, ...] = asks
        self.told: list[Any] = []  # what its questions were answered with
        self.cut: list[Talk] = []  # where a call was cancelled
        self.is_named = False  # whether the transport says which call asks
        self.answer = self.serve

    async def serve(self, talk: Talk, request: m.Request, reply: Reply) -> m.Response:
        if request.method not in ("tools/call", "prompts/get", "resources/read"):
            return await answer(talk, request, reply)
        ask = reply.ask if self.is_named else talk.inbox.asked
        try:
            said = [plain(one) for one in await asyncio.gather(*(ask(question) for question in self.asks))]
        except asyncio.CancelledError:
            self.cut.append(talk)
            raise
        self.told += said
        return m.result(request.id, {"said": said, "arguments": request.param("arguments")})


def methods(servers: Scripted) -> list[list[str]]:
    """What each conversation heard, without the reading of schemas that an HTTP client's first call brings."""
    return [[method for method in talk.methods if method != "tools/list"] for talk in servers.talks]


def plain(response: m.Response) -> Any:
    return m.loads(response.result) if response.result is not None else {"code": m.loads(response.error or b"")["code"]}


def call(method: str = "tools/call", capabilities: object = ALL, id: int | str = 1, **params: object) -> m.Request:
    meta = {**META, "io.modelcontextprotocol/clientCapabilities": capabilities, **params.pop("meta", {})}  # type: ignore[dict-item]
    return m.request(id, method, {"name": "t", "arguments": {"n": 1}, **params, "_meta": meta})


def retry(state: object, answers: object = None, **params: Any) -> m.Request:
    brought = {} if answers is None else {"inputResponses": answers}
    return call(requestState=state, **brought, **params)


def legacy(bridge: Bridge, scripted: Scripted, name: str = "s", **options: Any) -> Server:
    server = add(bridge, scripted, name, **options)
    server.backends[0].speaks.update({"modern": False, "legacy": True})
    return server


def result(response: m.Response | None) -> Any:
    assert response is not None
    return m.loads(response.result or response.error or b"")


async def say(
    bridge: Bridge, server: Server, request: m.Request, principal: Principal = ANN, reply: Reply | None = None
) -> Any:
    return result(await bridge.one(exchange(request, server, principal=principal, reply=reply)))


async def asked(bridge: Bridge, server: Server, request: m.Request | None = None, principal: Principal = ANN) -> Any:
    said = await say(bridge, server, request or call(), principal)
    assert said["resultType"] == "input_required"
    return said


@contextmanager
def refused(reason: str, code: int = -32602) -> Iterator[None]:
    with pytest.raises(BridgeError) as caught:
        yield
    assert (caught.value.reason, caught.value.fault.code) == (reason, code)


@pytest.fixture
async def parking() -> Parking:
    return Parking()


@pytest.fixture
async def bridge(parking: Parking) -> AsyncIterator[Bridge]:
    async with asyncio.timeout(4 * WAIT), Bridge("gateway", MemoryStore(), Crossings(parking), start_timeout=WAIT) as bridge:
        yield bridge


# Rounds


@pytest.mark.parametrize("is_named", [False, True])
async def test_a_question_goes_to_the_client_and_its_answer_to_the_server(
    bridge: Bridge, parking: Parking, is_named: bool
) -> None:
    servers = Asking(FORM)
    servers.is_named = is_named
    server = legacy(bridge, servers)
    said = await asked(bridge, server)
    assert said["inputRequests"] == {
        "elicitation_1": {"method": "elicitation/create", "params": {"message": "Your name?", "requestedSchema": NAME}}
    }
    assert len(parking) == 1
    done = await say(bridge, server, retry(said["requestState"], {"elicitation_1": YES}, id="other"))
    assert done["said"] == [YES]
    assert done["resultType"] == "complete"
    assert len(parking) == 0
    assert not parking.running
    assert methods(servers) == [["initialize", "tools/call"]]


async def test_several_questions_come_together_and_each_gets_its_own_answer(bridge: Bridge) -> None:
    servers = Asking(FORM, SAMPLE, ROOTS)
    server = legacy(bridge, servers)
    said = await asked(bridge, server)
    assert list(said["inputRequests"]) == ["elicitation_1", "sampling_2", "roots_3"]
    model = {"role": "assistant", "model": "x", "content": {"type": "text", "text": "hi"}}
    answers = {"roots_3": {"roots": []}, "sampling_2": model, "elicitation_1": {"action": "decline"}}
    done = await say(bridge, server, retry(said["requestState"], answers))
    assert done["said"] == [{"action": "decline"}, model, {"roots": []}]


async def test_what_is_not_answered_is_asked_again_with_a_new_state(bridge: Bridge) -> None:
    servers = Asking(FORM, ROOTS)
    server = legacy(bridge, servers)
    first = await asked(bridge, server)
    second = await asked(bridge, server, retry(first["requestState"]))
    assert second["inputRequests"] == first["inputRequests"]
    third = await asked(bridge, server, retry(second["requestState"], {"roots_2": {"roots": []}, "unknown": 1}))
    assert list(third["inputRequests"]) == ["elicitation_1"]
    assert len({first["requestState"], second["requestState"], third["requestState"]}) == 3
    assert (await say(bridge, server, retry(third["requestState"], {"elicitation_1": YES})))["said"] == [YES, {"roots": []}]


async def test_rounds_follow_each_other_until_the_server_has_enough(bridge: Bridge) -> None:
    servers = Asking()

    async def curious(talk: Talk, request: m.Request, reply: Reply) -> m.Response:
        if request.method != "tools/call":
            return await answer(talk, request, reply)
        said = [plain(await talk.inbox.asked(FORM)) for _ in range(3)]
        return m.result(request.id, {"said": said})

    servers.answer = curious
    server = legacy(bridge, servers)
    said = await asked(bridge, server)
    for number in (1, 2):
        assert list(said["inputRequests"]) == [f"elicitation_{number}"]
        said = await asked(bridge, server, retry(said["requestState"], {f"elicitation_{number}": {"action": "cancel"}}))
    done = await say(bridge, server, retry(said["requestState"], {"elicitation_3": YES}))
    assert done["said"] == [{"action": "cancel"}, {"action": "cancel"}, YES]


@pytest.mark.parametrize("method", ["prompts/get", "resources/read"])
async def test_prompts_and_resources_may_ask_too(bridge: Bridge, method: str) -> None:
    server = legacy(bridge, Asking(FORM))
    said = await asked(bridge, server, call(method))
    done = await say(bridge, server, retry(said["requestState"], {"elicitation_1": YES}, method=method))
    assert done["said"] == [YES]


async def test_an_answer_that_is_none_is_refused_and_the_call_stays_parked(bridge: Bridge) -> None:
    servers = Asking(FORM)
    server = legacy(bridge, servers)
    state = (await asked(bridge, server))["requestState"]
    for wrong in (7, {"action": "perhaps"}, {"action": "accept", "content": 1}):
        with refused("invalid_params"):
            await say(bridge, server, retry(state, {"elicitation_1": wrong}))
    with refused("invalid_params"):
        await say(bridge, server, retry(state, [YES]))
    assert servers.told == []
    assert (await say(bridge, server, retry(state, {"elicitation_1": YES})))["said"] == [YES]


async def test_an_answer_that_comes_with_the_call_is_taken_if_it_is_the_only_one_that_fits_the_form(bridge: Bridge) -> None:
    server = legacy(bridge, Asking(FORM))
    other = {"action": "accept", "content": {"foo": "bar"}}
    done = await say(bridge, server, call(inputResponses={"user_name": YES, "extra": other}))
    assert done["said"] == [YES]
    for unfit in ({"a": other}, {"a": YES, "b": YES}, {"a": {"action": "decline"}}, {"a": 12345}):
        await asked(bridge, server, call(inputResponses=unfit))


async def test_a_server_that_takes_its_question_back_is_not_answered(bridge: Bridge, parking: Parking) -> None:
    servers, go = Asking(), asyncio.Event()

    async def impatient(talk: Talk, request: m.Request, reply: Reply) -> m.Response:
        if request.method != "tools/call":
            return await answer(talk, request, reply)
        question = asyncio.ensure_future(talk.inbox.asked(FORM))
        await go.wait()
        question.cancel()
        return m.result(request.id, {"content": []})

    servers.answer = impatient
    server = legacy(bridge, servers)
    said = await asked(bridge, server)
    go.set()
    done = await say(bridge, server, retry(said["requestState"], {"elicitation_1": YES}))
    assert done["content"] == []


async def test_a_result_that_comes_while_the_client_is_away_waits_for_it(bridge: Bridge, parking: Parking) -> None:
    servers = Asking()
    told: list[Any] = []

    async def hasty(talk: Talk, request: m.Request, reply: Reply) -> m.Response:
        if request.method != "tools/call":
            return await answer(talk, request, reply)

        async def ask() -> None:
            told.append(plain(await talk.inbox.asked(ROOTS)))

        bridge.spawn(ask())
        await until(lambda: next(iter(parking.running)).questions)
        return m.result(request.id, {"content": [1]})

    servers.answer = hasty
    server = legacy(bridge, servers)
    said = await asked(bridge, server)
    assert list(said["inputRequests"]) == ["roots_1"]
    await until(lambda: not parking.running)
    done = await say(bridge, server, retry(said["requestState"], {"roots_1": {"roots": []}}))
    assert done["content"] == [1]
    await until(lambda: told)
    assert told == [{"roots": []}]


async def test_a_server_s_own_error_reaches_the_client_as_it_is(bridge: Bridge) -> None:
    servers = Asking(FORM)
    server = legacy(bridge, servers)
    said = await asked(bridge, server)
    serve = servers.serve

    async def failing(talk: Talk, request: m.Request, reply: Reply) -> m.Response:
        response = await serve(talk, request, reply)
        return m.error(request.id, {"code": -32000, "message": "no"}) if request.method == "tools/call" else response

    servers.answer = failing
    other = await asked(bridge, server)
    done = await say(bridge, server, retry(other["requestState"], {"elicitation_1": YES}))
    assert done == {"code": -32000, "message": "no"}
    assert (await say(bridge, server, retry(said["requestState"], {"elicitation_1": YES})))["said"] == [YES]


# Attacks and mistakes: nothing reaches a server


async def test_a_state_serves_its_own_call_only_and_nothing_else_is_delivered(bridge: Bridge, parking: Parking) -> None:
    servers = Asking(FORM)
    server = legacy(bridge, servers)
    state = (await asked(bridge, server))["requestState"]
    middle = len(state) // 2
    flipped = state[:middle] + ("A" if state[middle] != "A" else "B") + state[middle + 1 :]
    good = {"elicitation_1": YES}
    for unknown in (flipped, state[:-1], state + "A", "", "x", 7, None, {}):
        with refused("unknown_request_state"):
            await say(bridge, server, retry(unknown, good))
    with refused("unknown_request_state"):
        await say(bridge, server, retry(state, good), BOB)
    with refused("unknown_request_state"):
        await say(bridge, legacy(bridge, Asking(FORM), "other"), retry(state, good))
    with refused("request_state_mismatch"):
        await say(bridge, server, retry(state, good, method="prompts/get"))
    with refused("request_state_mismatch"):
        await say(bridge, server, retry(state, good, arguments={"n": 2}))
    with refused("request_state_mismatch"):
        await say(bridge, server, retry(state, good, name="u"))
    assert servers.told == []
    assert len(parking) == 1
    assert (await say(bridge, server, retry(state, good)))["said"] == [YES]
    with refused("unknown_request_state"):  # replayed
        await say(bridge, server, retry(state, good))
    assert methods(servers) == [["initialize", "tools/call"]]


async def test_of_two_retries_at_once_one_is_the_consumer(bridge: Bridge) -> None:
    servers = Asking(FORM)
    server = legacy(bridge, servers)
    state = (await asked(bridge, server))["requestState"]
    again = [say(bridge, server, retry(state, {"elicitation_1": {**YES, "_meta": {"n": n}}})) for n in range(5)]
    outcomes = await asyncio.gather(*again, return_exceptions=True)
    assert [isinstance(one, BridgeError) for one in outcomes].count(False) == 1
    assert len(servers.told) == 1


async def test_a_state_of_another_process_is_unknown(bridge: Bridge, parking: Parking) -> None:
    server = legacy(bridge, Asking(FORM))
    state = (await asked(bridge, server))["requestState"]
    bridge.states.instance = "another"
    with refused("unknown_request_state"):
        await say(bridge, server, retry(state, {"elicitation_1": YES}))
    assert len(parking) == 1


# What a client cannot be asked


@pytest.mark.parametrize(
    ("question", "capabilities", "needed", "told"),
    [
        (FORM, {"sampling": {}}, {"elicitation": {}}, {"action": "cancel"}),
        (FORM, {"elicitation": {"url": {}}}, {"elicitation": {"form": {}}}, {"action": "cancel"}),
        (SAMPLE, {"elicitation": {}}, {"sampling": {}}, {"code": -32601}),
        (
            SAMPLE.with_params({**(SAMPLE.params or {}), "tools": m.Raw(b"[]")}),
            ALL,
            {"sampling": {"tools": {}}},
            {"code": -32601},
        ),
        (
            m.request("q", "elicitation/create", {"mode": "url", "url": "https://a/", "elicitationId": "1", "message": ""}),
            {"elicitation": {}},
            {"elicitation": {"url": {}}},
            {"action": "cancel"},
        ),
        (FORM, {}, {"elicitation": {}}, {"action": "cancel"}),
    ],
)
async def test_a_question_that_the_client_did_not_declare_is_refused_and_ends_the_call(
    bridge: Bridge, parking: Parking, question: m.Request, capabilities: object, needed: object, told: object
) -> None:
    servers = Asking(question)
    server = legacy(bridge, servers)
    heard: list[Any] = []

    async def noting(talk: Talk, request: m.Request, reply: Reply) -> m.Response:
        if request.method != "tools/call":
            return await answer(talk, request, reply)
        heard.append(plain(await talk.inbox.asked(question)))
        return await never()

    servers.answer = noting
    with pytest.raises(BridgeError) as caught:
        await say(bridge, server, call(capabilities=capabilities))
    assert caught.value.fault.code == -32021
    assert caught.value.data["requiredCapabilities"] == needed
    await until(lambda: heard)
    assert heard == [told]
    await until(lambda: not parking.running)


async def test_a_server_that_asks_for_roots_on_its_own_does_not_end_the_call(bridge: Bridge) -> None:
    server = legacy(bridge, Asking(ROOTS))
    for capabilities in ({}, {"sampling": {}}):
        done = await say(bridge, server, call(capabilities=capabilities))
        assert done["said"] == [{"code": -32601}]


async def test_what_is_no_question_for_a_client_is_refused(bridge: Bridge) -> None:
    server = legacy(bridge, Asking(m.request("q", "vendor/ask"), m.request("q", "ping"), m.request("q", "tasks/list")))
    done = await say(bridge, server, call())
    assert done["said"] == [{"code": -32601}, {}, {"code": -32601}]


async def test_a_call_that_has_no_rounds_is_not_asked(bridge: Bridge) -> None:
    servers = Asking()

    async def curious(talk: Talk, request: m.Request, reply: Reply) -> m.Response:
        if request.method != "tools/list":
            return await answer(talk, request, reply)
        return m.result(request.id, {"said": plain(await reply.ask(FORM))})

    servers.answer = curious
    server = legacy(bridge, servers)
    assert (await say(bridge, server, call("tools/list")))["said"] == {"action": "cancel"}


async def test_more_questions_than_fit_are_refused(bridge: Bridge, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_QUESTIONS", 2)
    server = legacy(bridge, Asking(FORM, ROOTS, SAMPLE))
    said = await asked(bridge, server)
    assert list(said["inputRequests"]) == ["elicitation_1", "roots_2"]
    answers = {"elicitation_1": YES, "roots_2": {"roots": []}}
    done = await say(bridge, server, retry(said["requestState"], answers))
    assert done["said"] == [YES, {"roots": []}, {"code": FAULTS["queue_full"].code}]


# A page first (-32042)


def wanting(servers: Asking, calls: list[m.Request]) -> None:
    page = {"mode": "url", "elicitationId": "1", "url": "https://a/", "message": "go", "_meta": {"own": 1}}

    async def serve(talk: Talk, request: m.Request, reply: Reply) -> m.Response:
        if request.method != "tools/call":
            return await answer(talk, request, reply)
        calls.append(request)
        if len(calls) % 2:
            return m.error(request.id, {"code": -32042, "message": "go", "data": {"elicitations": [page, page]}})
        return m.result(request.id, {"content": []})

    servers.answer = serve


async def test_a_server_that_wants_a_page_visited_is_called_again_when_the_client_says_so(
    bridge: Bridge, parking: Parking
) -> None:
    servers, calls = Asking(), []
    wanting(servers, calls)
    server = legacy(bridge, servers)
    said = await asked(bridge, server)
    assert [one["params"] for one in said["inputRequests"].values()] == [
        {"mode": "url", "url": "https://a/", "message": "go", "_meta": {"own": 1}}
    ] * 2
    half = await asked(bridge, server, retry(said["requestState"], {"elicitation_1": {"action": "accept"}}))
    assert len(calls) == 1
    done = await say(bridge, server, retry(half["requestState"], {"elicitation_2": {"action": "accept"}}))
    assert done["content"] == []
    assert [set(one.params or {}) for one in calls] == [{"name", "arguments"}] * 2
    assert len(parking) == 0
    with refused("unknown_request_state"):
        await say(bridge, server, retry(half["requestState"], {"elicitation_2": {"action": "accept"}}))
    assert len(calls) == 2


@pytest.mark.parametrize("capabilities", [{}, {"elicitation": {}}, {"sampling": {}}])
async def test_a_page_that_the_client_cannot_show_ends_the_call(bridge: Bridge, capabilities: object) -> None:
    servers = Asking()
    wanting(servers, [])
    with refused("missing_capability", -32021):
        await say(bridge, legacy(bridge, servers), call(capabilities=capabilities))


# Time, limits, cancellation, loss, shutdown


async def test_a_question_that_nobody_answers_ends_the_call_at_its_time(parking: Parking) -> None:
    servers = Asking(FORM, SAMPLE)
    heard: list[Any] = []

    async def noting(talk: Talk, request: m.Request, reply: Reply) -> m.Response:
        if request.method != "tools/call":
            return await answer(talk, request, reply)

        async def ask(question: m.Request) -> None:
            heard.append(plain(await talk.inbox.asked(question)))

        for question in servers.asks:
            bridge.spawn(ask(question))
        try:
            return await never()
        except asyncio.CancelledError:
            heard.append("cancelled")
            raise

    servers.answer = noting
    async with Bridge("gateway", MemoryStore(), Crossings(parking), start_timeout=WAIT, parked_ttl=0.05) as bridge:
        server = legacy(bridge, servers)
        said = await asked(bridge, server)
        await until(lambda: "cancelled" in heard)
        assert heard == [{"action": "cancel"}, {"code": FAULTS["timeout"].code}, "cancelled"]
        assert len(parking) == 0
        await until(lambda: not parking.running)
        with refused("unknown_request_state"):
            await say(bridge, server, retry(said["requestState"], {"elicitation_1": YES}))


async def test_asking_again_does_not_prolong_the_time(bridge: Bridge, parking: Parking) -> None:
    bridge.states.ttl = 30.0
    server = legacy(bridge, Asking(FORM))
    said = await asked(bridge, server)
    (parked,) = parking.running
    until_then = parked.questions["elicitation_1"].until
    await asked(bridge, server, retry(said["requestState"]))
    assert parked.questions["elicitation_1"].until == until_then


async def test_calls_over_the_limit_of_a_principal_or_of_all_are_ended(bridge: Bridge) -> None:
    parking = Parking(max_total=3, max_per_principal=2)
    servers = Asking(FORM)
    async with Bridge("gateway", MemoryStore(), Crossings(parking), start_timeout=WAIT) as bridge:
        server = legacy(bridge, servers)
        states = [(await asked(bridge, server, principal=who))["requestState"] for who in (ANN, ANN, BOB)]
        for who in (ANN, BOB):
            with refused("too_many_parked", 1025):
                await say(bridge, server, call(), who)
        await until(lambda: len(parking.running) == 3)
        done = await say(bridge, server, retry(states[0], {"elicitation_1": YES}))
        assert done["said"] == [YES]
        await asked(bridge, server)


async def test_a_client_that_leaves_in_a_later_round_cancels_the_call(bridge: Bridge, parking: Parking) -> None:
    servers = Asking()

    async def slow(talk: Talk, request: m.Request, reply: Reply) -> m.Response:
        if request.method != "tools/call":
            return await answer(talk, request, reply)
        servers.told.append(plain(await talk.inbox.asked(FORM)))
        try:
            return await never()
        except asyncio.CancelledError:
            servers.cut.append(talk)
            raise

    servers.answer = slow
    server = legacy(bridge, servers)
    said = await asked(bridge, server)
    waiting = asyncio.ensure_future(say(bridge, server, retry(said["requestState"], {"elicitation_1": YES})))
    await until(lambda: servers.told)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    await until(lambda: servers.cut and not parking.running)
    with refused("unknown_request_state"):
        await say(bridge, server, retry(said["requestState"], {"elicitation_1": YES}))


async def test_a_conversation_whose_call_was_cut_short_serves_no_further_call_that_may_be_asked(bridge: Bridge) -> None:
    servers = Asking(FORM)
    server = legacy(bridge, servers)
    x = exchange(call(), server, principal=ANN, seconds=0.2)
    servers.answer = lambda talk, request, reply: never() if request.method == "tools/call" else answer(talk, request, reply)
    with refused("timeout", 1008):
        await bridge.one(x)
    servers.answer = servers.serve
    said = await asked(bridge, server)
    assert [talk.methods.count("tools/call") for talk in servers.talks] == [1, 1]
    assert plain(await servers.talks[0].inbox.asked(FORM)) == {"code": -32601}
    assert (await say(bridge, server, retry(said["requestState"], {"elicitation_1": YES})))["said"] == [YES]


async def test_a_server_lost_while_its_call_is_parked_is_told_on_the_retry(bridge: Bridge, parking: Parking) -> None:
    servers = Asking(FORM)
    server = legacy(bridge, servers)
    said = await asked(bridge, server)
    servers.talks[0].dies(BridgeError("server_exited", "s: exit status 1"))
    await until(lambda: not parking.running)
    with refused("server_exited", 1018):
        await say(bridge, server, retry(said["requestState"], {"elicitation_1": YES}))
    await asked(bridge, server)
    assert any("tools/call" in talk.methods for talk in servers.talks[1:])


async def test_the_end_of_the_bridge_ends_its_parked_calls_and_their_servers_hear_of_it(parking: Parking) -> None:
    servers = Asking(FORM)
    heard: list[Any] = []

    async def noting(talk: Talk, request: m.Request, reply: Reply) -> m.Response:
        if request.method != "tools/call":
            return await answer(talk, request, reply)
        try:
            heard.append(plain(await talk.inbox.asked(FORM)))
            return await never()
        except asyncio.CancelledError:
            heard.append(("cancelled", talk.closes))
            raise

    servers.answer = noting
    async with Bridge("gateway", MemoryStore(), Crossings(parking), start_timeout=WAIT) as bridge:
        await asked(bridge, legacy(bridge, servers))
    assert heard == [{"action": "cancel"}, ("cancelled", 0)]
    assert len(parking) == 0
    assert not parking.running


# Whose conversation it is


async def test_calls_that_may_be_asked_have_a_conversation_each_and_take_it_over_from_each_other(bridge: Bridge) -> None:
    servers = Asking(FORM)
    server = legacy(bridge, servers)
    one, two = await asked(bridge, server), await asked(bridge, server)
    await say(bridge, server, call("completion/complete"))
    assert methods(servers) == [["initialize", "tools/call", "completion/complete"], ["initialize", "tools/call"]]
    for said in (one, two):
        await say(bridge, server, retry(said["requestState"], {"elicitation_1": YES}))
    await asked(bridge, server)
    await asked(bridge, server)
    assert len(servers.talks) == 2


async def test_a_conversation_belongs_to_one_principal_and_one_capability_set(bridge: Bridge) -> None:
    servers = Asking()
    server = legacy(bridge, servers)
    for capabilities in (ALL, dict(reversed(ALL.items())), {"roots": {"listChanged": True}}, {"roots": {}}, {}):
        await say(bridge, server, call(capabilities=capabilities))
    await say(bridge, server, call(), BOB)
    declared = [m.loads(talk.requests[0].param("capabilities") or b"") for talk in servers.talks]
    assert declared == [ALL, {"roots": {}}, {}, ALL]


async def test_extensions_stay_behind_and_a_capability_that_is_no_object_is_refused(bridge: Bridge) -> None:
    servers = Asking()
    server = legacy(bridge, servers)
    await say(bridge, server, call(capabilities={"elicitation": {}, "extensions": {"a/b": {}}, "experimental": {"x": {}}}))
    assert m.loads(servers.talks[0].requests[0].param("capabilities") or b"") == {"elicitation": {}, "experimental": {"x": {}}}
    with refused("invalid_params"):
        await say(bridge, server, call(capabilities={"roots": True}))


async def test_the_roots_that_a_client_gave_are_known_between_its_calls(bridge: Bridge) -> None:
    servers = Asking(ROOTS)
    server = legacy(bridge, servers)
    said = await asked(bridge, server)
    roots = {"roots": [{"uri": "file:///a"}]}
    await say(bridge, server, retry(said["requestState"], {"roots_1": roots}))
    assert plain(await servers.talks[0].inbox.asked(ROOTS)) == roots
    assert plain(await servers.talks[0].inbox.asked(FORM)) == {"code": -32601}


async def test_log_messages_come_only_while_a_round_asks_for_them(bridge: Bridge) -> None:
    servers = Asking()
    line = m.notification("notifications/message", {"level": "info", "data": 1})

    async def talkative(talk: Talk, request: m.Request, reply: Reply) -> m.Response:
        if request.method != "tools/call":
            return await answer(talk, request, reply)
        talk.inbox.notified(line)
        await talk.inbox.asked(FORM)
        talk.inbox.notified(line)
        return m.result(request.id, {"content": []})

    class Ear(NoReply):
        def __init__(self) -> None:
            self.heard: list[str] = []

        def notify(self, notification: m.Notification) -> None:
            self.heard.append(notification.method)

    servers.answer = talkative
    server = legacy(bridge, servers)
    ears = [Ear(), Ear()]
    level = {"io.modelcontextprotocol/logLevel": "info"}
    said = await say(bridge, server, call(), reply=ears[0])
    await say(bridge, server, retry(said["requestState"], {"elicitation_1": YES}, meta=level), reply=ears[1])
    assert [ear.heard for ear in ears] == [[], ["notifications/message"]]
    assert methods(servers) == [["initialize", "tools/call", "logging/setLevel"]]


# Acceptance


async def test_a_thousand_parked_calls_of_a_hundred_principals_each_get_their_own_answer(parking: Parking) -> None:
    """Questions and answers name their call; the order of the answers is random; other principals try every state once."""
    servers = Asking()
    calls, principals = 1000, 100
    seed = random.Random(7)

    async def echoing(talk: Talk, request: m.Request, reply: Reply) -> m.Response:
        if request.method != "tools/call":
            return await answer(talk, request, reply)
        number = m.loads(request.param("arguments") or b"")["n"]
        form = {"message": str(number), "requestedSchema": NAME}
        said = plain(await talk.inbox.asked(m.request("q", "elicitation/create", form)))
        return m.result(request.id, {"number": number, "name": said["content"]["name"]})

    servers.answer = echoing
    async with Bridge("gateway", MemoryStore(), Crossings(parking), start_timeout=60.0) as bridge:
        server = legacy(bridge, servers, limit=calls + principals)
        who = [Principal("issuer", f"user {n % principals}") for n in range(calls)]

        async def ask(n: int) -> str:
            said = await asked(bridge, server, call(arguments={"n": n}), who[n])
            assert said["inputRequests"]["elicitation_1"]["params"]["message"] == str(n)
            return str(said["requestState"])

        states = await asyncio.gather(*(ask(n) for n in range(calls)))
        assert len(parking) == calls

        async def finish(n: int) -> None:
            answers = {"elicitation_1": {"action": "accept", "content": {"name": f"{who[n].subject}, {n}"}}}
            with refused("unknown_request_state"):
                await say(bridge, server, retry(states[n], answers, arguments={"n": n}), who[(n + 1) % principals])
            done = await say(bridge, server, retry(states[n], answers, arguments={"n": n}), who[n])
            assert (done["number"], done["name"]) == (n, f"{who[n].subject}, {n}")

        order = list(range(calls))
        seed.shuffle(order)
        await asyncio.gather(*(finish(n) for n in order))
        assert len(parking) == 0
