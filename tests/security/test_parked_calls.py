"""Nobody but its own client continues a parked call: forged, foreign, used and expired states; 1,000 calls at once."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator

import pytest

from mcpbridge.bridge import Bridge
from mcpbridge.core.exchange import Principal, Reply
from mcpbridge.era import Crossings
from mcpbridge.era.parking import Parking
from mcpbridge.errors import BridgeError
from mcpbridge.seal import Sealer
from mcpbridge.stores.memory import MemoryStore
from mcpbridge.wire import message as m
from tests.support.asking import BOB, FORM, NAME, YES, Asking, asked, call, legacy, methods, plain, refused, retry, say
from tests.support.scripted import WAIT, Talk, answer


@pytest.fixture
async def parking() -> Parking:
    return Parking()


@pytest.fixture
async def bridge(parking: Parking) -> AsyncIterator[Bridge]:
    async with asyncio.timeout(4 * WAIT), Bridge("gateway", MemoryStore(), Crossings(parking), start_timeout=WAIT) as bridge:
        yield bridge


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


async def test_an_expired_state_is_unknown_although_the_call_is_still_parked(parking: Parking) -> None:
    servers, now = Asking(FORM), [1_000_000.0]
    sealer = Sealer([b"k" * 32], lambda: now[0])
    async with Bridge("gateway", MemoryStore(), Crossings(parking), start_timeout=WAIT, sealer=sealer) as bridge:
        server = legacy(bridge, servers)
        state = (await asked(bridge, server))["requestState"]
        now[0] += 601
        with refused("unknown_request_state"):
            await say(bridge, server, retry(state, {"elicitation_1": YES}))
        assert servers.told == []
        assert len(parking) == 1


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


async def test_whoever_answers_nothing_does_not_keep_a_server_from_the_others(
    bridge: Bridge, parking: Parking, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every conversation of the server waits for Ann; Bob gets one, and Ann hears which call of hers is over."""
    monkeypatch.setattr("mcpbridge.core.pool.MIN_IDLE", 0.05)
    servers = Asking(FORM)
    server = legacy(bridge, servers, limit=3)
    states = [(await asked(bridge, server))["requestState"] for _ in range(3)]
    assert "requestState" in await asked(bridge, server, principal=BOB)
    with refused("server_busy", 1009):
        await say(bridge, server, retry(states[0], {"elicitation_1": YES}))
    assert (await say(bridge, server, retry(states[1], {"elicitation_1": YES})))["said"] == [YES]
    assert (await say(bridge, server, retry(states[2], {"elicitation_1": YES})))["said"] == [YES]
