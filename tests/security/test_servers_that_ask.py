"""Modern servers that mean harm by what they ask a legacy client, and clients that answer what they were not asked."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import AsyncIterator

import pytest

from mcpbridge.bridge import Bridge
from mcpbridge.core.exchange import Reply
from mcpbridge.era import Crossings
from mcpbridge.stores.memory import MemoryStore
from mcpbridge.wire import message as m
from mcpbridge.wire.envelope import parse
from tests.support.answering import CALL, DONE, FORM, Asker, Person, asks, link, linked
from tests.support.scripted import DISCOVERED, WAIT, Scripted, Talk, add, exchange, never, until

pytestmark = pytest.mark.security


@pytest.fixture
async def bridge() -> AsyncIterator[Bridge]:
    async with (
        asyncio.timeout(4 * WAIT),
        Bridge("gateway", MemoryStore(), Crossings(), start_timeout=WAIT, parked_ttl=4 * WAIT) as bridge,
    ):
        yield bridge


async def test_every_answer_reaches_its_own_call_whatever_the_order(bridge: Bridge) -> None:
    """1,000 calls of 100 clients are asked at once and answered in random order."""
    calls, clients, seed = 1000, 100, random.Random(7)
    open_questions: list[tuple[int, asyncio.Future[m.Response]]] = []

    async def asking(talk: Talk, request: m.Request, reply: Reply) -> m.Response:
        if request.method == "server/discover":
            return m.result(request.id, DISCOVERED)
        number = m.loads(request.param("arguments") or b"")["n"]
        answers = request.param("inputResponses")
        if answers is None:
            form = {**FORM, "params": {**FORM["params"], "message": str(number)}}  # type: ignore[dict-item]
            return m.result(request.id, asks(f"state {number}", k=form))
        assert m.loads(request.param("requestState") or b"") == f"state {number}"
        return m.result(request.id, {"resultType": "complete", "n": number, "said": m.loads(answers)["k"]["content"]["said"]})

    class Desk(Person):
        async def ask(self, request: m.Request, asker: Reply | None = None) -> m.Response:
            future: asyncio.Future[m.Response] = asyncio.get_running_loop().create_future()
            open_questions.append((int(m.loads(request.param("message") or b"")), future))
            return await future

    servers = Scripted()
    servers.answer = asking
    server = add(bridge, servers)
    sessions = [await link(server, principal=f"user {n}") for n in range(clients)]

    async def call(n: int) -> None:
        request = m.request(n, "tools/call", {"name": "t", "arguments": {"n": n}})
        response = await bridge.one(exchange(request, server, sessions[n % clients], reply=Desk(), seconds=4 * WAIT))
        assert response is not None
        assert (response.id, m.loads(response.result or b"")) == (n, {"n": n, "said": f"answer {n}"})

    running = [asyncio.ensure_future(call(n)) for n in range(calls)]
    await until(lambda: len(open_questions) == calls)
    seed.shuffle(open_questions)
    for number, future in open_questions:
        future.set_result(m.result(1, {"action": "accept", "content": {"said": f"answer {number}"}}))
    await asyncio.gather(*running)


@pytest.mark.parametrize(
    "state",
    [b'"\\ud800"', b'"' + b"x" * 1_000_000 + b'"', b"[" * 50 + b"]" * 50, b"1E400", b"null", b'{"a":1,"a":2}'],
    ids=["lone surrogate", "large", "nested", "number", "null", "twice"],
)
async def test_whatever_a_server_calls_its_state_comes_back_byte_for_byte_to_it_alone(bridge: Bridge, state: bytes) -> None:
    question = (
        b'{"resultType":"input_required","inputRequests":{"\\ud800":' + m.dumps(FORM) + b'},"requestState":' + state + b"}"
    )
    servers, person = Asker(question, DONE), Person()
    server, session = await linked(bridge, servers)
    await bridge.one(exchange(CALL, server, session, reply=person))
    again = servers.heard[1]
    assert bytes(again.param("requestState") or b"") == state
    assert parse(again.encode(), client=False)
    assert json.loads(bytes(again.param("inputResponses") or b"")) == {"\ud800": {"action": "accept"}}
    assert state not in b"".join(question.encode() for question in person.asked) or state == b"null"


async def test_a_session_that_ends_with_a_question_open_leaves_neither_call_nor_question(bridge: Bridge) -> None:
    servers, person = Asker(asks("x", k=FORM)), Person(lambda _: never())
    server, session = await linked(bridge, servers)
    x = exchange(CALL, server, session, reply=person)
    running = asyncio.ensure_future(bridge.one(x))  # type: ignore[arg-type]
    session.calls[7] = (running, x)  # as the sessions policy keeps it
    await until(lambda: person.asked)
    await session.close()
    await asyncio.gather(running, return_exceptions=True)
    assert running.cancelled()
    assert person.taken_back == 1
    assert len(servers.heard) == 1
    assert server.backends[0].active == 0


async def test_a_server_that_floods_a_client_with_questions_is_refused_before_one_is_put(bridge: Bridge) -> None:
    servers, person = Asker(asks("x", **{f"k{n}": FORM for n in range(5000)})), Person()
    server, session = await linked(bridge, servers)
    with pytest.raises(Exception, match="more than 100 questions"):
        await bridge.one(exchange(CALL, server, session, reply=person))
    assert person.asked == []
