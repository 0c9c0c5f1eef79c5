"""Parked calls: a legacy server asks, a modern client answers by a retry; when not, and what becomes of the rest."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from mcpbridge.bridge import Bridge
from mcpbridge.core.exchange import Reply
from mcpbridge.era import Crossings
from mcpbridge.era import parking as module
from mcpbridge.era.parking import Parking
from mcpbridge.errors import FAULTS, BridgeError
from mcpbridge.stores.memory import MemoryStore
from mcpbridge.wire import message as m
from tests.support.asking import (
    ALL,
    ANN,
    BOB,
    FORM,
    NAME,
    ROOTS,
    SAMPLE,
    YES,
    Asking,
    asked,
    call,
    legacy,
    methods,
    plain,
    refused,
    retry,
    say,
)
from tests.support.scripted import WAIT, Talk, answer, exchange, never, until


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
