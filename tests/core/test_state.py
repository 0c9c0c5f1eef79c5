"""requestState of modern servers: as it is while nothing could confuse it, else sealed, bound and returned byte for byte."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Raw

from mcpbridge.bridge import Bridge, Way, refusing_while
from mcpbridge.core.exchange import ANONYMOUS, Exchange, Principal, Reply, SessionOp
from mcpbridge.core.server import Server
from mcpbridge.core.state import MAX_STATE_CHARS, digest
from mcpbridge.era import Crossings
from mcpbridge.errors import BridgeError
from mcpbridge.seal import Sealer
from mcpbridge.stores.memory import MemoryStore
from mcpbridge.wire import message as m
from mcpbridge.wire.envelope import members, parse
from tests.support.scripted import DISCOVERED, META, WAIT, Scripted, Talk, exchange

ANN, BOB = Principal("i", "ann"), Principal("i", "bob")
OWN = b'"opaque\\u00e4 \\ud83d =="'  # a lone surrogate and an escape that nobody has to write so


class Rounds(Scripted):
    """A modern server whose calls take two rounds. ``heard``: the states that came back."""

    def __init__(self, name: str = "", state: bytes = OWN) -> None:
        super().__init__()
        self.name = name
        self.state = state
        self.heard: list[bytes] = []
        self.calls = 0
        self.answer = self.serve

    async def serve(self, talk: Talk, request: m.Request, reply: Reply) -> m.Response:
        if request.method == "server/discover":
            return m.result(request.id, DISCOVERED)
        if request.method in ("tools/list", "resources/list", "resources/templates/list"):
            return m.result(request.id, {"resultType": "complete", "tools": [], "resources": [], "resourceTemplates": []})
        self.calls += 1
        state = request.param("requestState")
        if state is not None:
            self.heard.append(bytes(state))
            return m.result(request.id, {"resultType": "complete", "by": self.name})
        said = b'{"resultType":"input_required","inputRequests":{"k":{}},"requestState":' + self.state + b',"own":1.50}'
        raw = b'{"jsonrpc":"2.0","id":' + m.dumps(request.id) + b',"result":' + said + b"}"
        answer = parse(raw, client=False)
        assert isinstance(answer, m.Response)
        return answer


@pytest.fixture
def now() -> list[float]:
    return [1_000_000.0]


@pytest.fixture
async def bridge(now: list[float]) -> AsyncIterator[Bridge]:
    sealer = Sealer([b"k" * 32], lambda: now[0])
    async with (
        asyncio.timeout(4 * WAIT),
        Bridge("gateway", MemoryStore(), Crossings(), start_timeout=WAIT, sealer=sealer) as bridge,
    ):
        yield bridge


def modern(bridge: Bridge, *replicas: Scripted, name: str = "s") -> Server:
    server = bridge.add(name, [Way("stdio", f"{name}{n}", one.dial, is_child=True) for n, one in enumerate(replicas)])
    for backend in server.backends:
        backend.speaks["modern"] = True
    return server


def call(state: object = None, method: str = "tools/call", **params: object) -> m.Request:
    brought = {} if state is None else {"requestState": state, "inputResponses": {"k": {}}}
    return m.request(1, method, {"name": "t", "arguments": {"n": 1}, **brought, **params, "_meta": META})


async def say(bridge: Bridge, server: Server, request: m.Request, principal: Principal = ANONYMOUS) -> dict[str, Raw]:
    response = await bridge.one(exchange(request, server, principal=principal))
    assert response is not None
    assert response.result is not None
    return members(response.result)


@contextlib.contextmanager
def refused(reason: str) -> Iterator[None]:
    with pytest.raises(BridgeError) as caught:
        yield
    assert (caught.value.reason, caught.value.fault.code) == (reason, -32602)


async def test_with_one_replica_and_without_sign_in_the_state_passes_as_it_is(bridge: Bridge) -> None:
    rounds = Rounds()
    server = modern(bridge, rounds)
    said = await say(bridge, server, call())
    assert bytes(said["requestState"]) == OWN
    await say(bridge, server, call(said["requestState"]))
    await say(bridge, server, call("made up"))
    assert rounds.heard == [OWN, b'"made up"']


async def test_with_sign_in_the_state_is_sealed_and_comes_back_byte_for_byte(bridge: Bridge) -> None:
    rounds = Rounds()
    server = modern(bridge, rounds)
    said = await say(bridge, server, call(), ANN)
    assert OWN not in bytes(said["requestState"])
    assert bytes(said["own"]) == b"1.50"
    await say(bridge, server, call(said["requestState"]), ANN)
    await say(bridge, server, call(said["requestState"]), ANN)  # whether a state serves twice is its server's to say
    assert rounds.heard == [OWN, OWN]


async def test_what_is_not_the_caller_s_state_for_this_call_reaches_no_server(bridge: Bridge, now: list[float]) -> None:
    rounds, other = Rounds(), Rounds()
    server, elsewhere = modern(bridge, rounds), modern(bridge, other, name="other")
    state = m.loads((await say(bridge, server, call(), ANN))["requestState"])
    middle = len(state) // 2
    flipped = state[:middle] + ("A" if state[middle] != "A" else "B") + state[middle + 1 :]
    for wrong in (flipped, state[1:], "opaque", "", 1, [], "A" * (MAX_STATE_CHARS + 1)):
        with refused("unknown_request_state"):
            await say(bridge, server, call(wrong), ANN)
    with refused("unknown_request_state"):
        await say(bridge, server, call(state), BOB)
    with refused("unknown_request_state"):
        await say(bridge, elsewhere, call(state), ANN)
    for request in (call(state, arguments={"n": 2}), call(state, "prompts/get"), call(state, extra=1)):
        with refused("request_state_mismatch"):
            await say(bridge, server, request, ANN)
    now[0] += 86_401
    with refused("unknown_request_state"):
        await say(bridge, server, call(state), ANN)
    assert (rounds.calls, rounds.heard, other.calls) == (1, [], 0)


@pytest.mark.parametrize("principal", [ANONYMOUS, ANN])
async def test_the_retry_goes_to_the_replica_that_asked(bridge: Bridge, principal: Principal) -> None:
    replicas = [Rounds("a"), Rounds("b")]
    server = modern(bridge, *replicas)
    states = []
    for backend in server.backends:
        busy = [other for other in server.backends if other is not backend]
        for other in busy:
            other.begin()
        states.append((await say(bridge, server, call(), principal))["requestState"])
        for other in busy:
            other.abandoned()
    for backend in server.backends:
        backend.begin()  # equally busy: the first one would be chosen
    for name, state in reversed(list(zip("ab", states, strict=True))):
        assert m.loads((await say(bridge, server, call(state), principal))["by"]) == name


async def test_a_replica_that_is_gone_is_not_replaced_by_another_one(bridge: Bridge) -> None:
    replicas = [Rounds("a"), Rounds("b")]
    server = modern(bridge, *replicas)
    state = (await say(bridge, server, call()))["requestState"]
    asker = next(n for n, one in enumerate(replicas) if one.calls)

    async def dead(talk: Talk, request: m.Request, reply: Reply) -> m.Response:
        raise BridgeError("connection_refused", "s", sent=False)

    replicas[asker].answer = dead
    with pytest.raises(BridgeError, match="connection refused"):
        await say(bridge, server, call(state))
    gone = server.backends.pop(asker)
    server.backends.append(gone.server.backends[0])
    with refused("unknown_request_state"):
        await say(bridge, server, call(state))
    assert replicas[1 - asker].heard == []


async def test_a_large_state_survives(bridge: Bridge) -> None:
    own = b'"' + b"x" * 1_000_000 + b'"'
    rounds = Rounds(state=own)
    server = modern(bridge, rounds)
    state = (await say(bridge, server, call(), ANN))["requestState"]
    await say(bridge, server, call(state), ANN)
    assert rounds.heard == [own]


async def test_answers_without_a_state_and_complete_ones_are_left_alone(bridge: Bridge) -> None:
    server = modern(bridge, rounds := Rounds())

    async def other(talk: Talk, request: m.Request, reply: Reply) -> m.Response:
        value = {"resultType": "complete", "requestState": "mine", "text": '"input_required"'}
        return m.result(request.id, value if request.method == "tools/call" else {"resultType": "input_required"})

    rounds.answer = other
    assert m.loads((await say(bridge, server, call(), ANN))["requestState"]) == "mine"
    assert "requestState" not in await say(bridge, server, call(method="prompts/get"), ANN)


async def test_of_several_servers_as_one_the_round_goes_to_the_one_that_asked(bridge: Bridge) -> None:
    one, two = Rounds("one"), Rounds("two")
    modern(bridge, one, name="one")
    modern(bridge, two, name="two")
    first = one.serve

    async def unknowing(talk: Talk, request: m.Request, reply: Reply) -> m.Response:
        if request.method == "resources/read":
            one.heard.append(request.encode())
            return m.error(request.id, {"code": -32602, "message": "no such resource"})
        return await first(talk, request, reply)

    one.answer = unknowing
    endpoint = bridge.endpoint()

    async def read(**params: object) -> Any:
        request = m.request(1, "resources/read", {"uri": "a://b", **params, "_meta": META})
        x = exchange(request, next(iter(bridge.servers.values())))
        x.target = tuple(bridge.servers.values())
        response = await endpoint(x)
        assert response is not None
        return m.loads(response.result or b"")

    said = await read()
    assert said["resultType"] == "input_required"
    assert len(one.heard) == 1
    assert (await read(requestState=said["requestState"]))["by"] == "two"
    assert (len(one.heard), two.heard) == (1, [OWN])
    with pytest.raises(BridgeError, match="begin the call anew"):
        await read(requestState="made up")
    assert (len(one.heard), two.heard) == (1, [OWN])


async def test_a_further_round_passes_while_the_bridge_drains(bridge: Bridge) -> None:
    bridge.draining.set()
    server = modern(bridge, rounds := Rounds())
    front = bridge.front([refusing_while(bridge.draining)], bridge.endpoint())
    with pytest.raises(BridgeError, match="draining"):
        await front(over("tcp_binary", exchange(call(), server)))
    await front(over("tcp_binary", exchange(call("x"), server)))
    assert rounds.heard == [b'"x"']


async def test_a_call_over_http_was_under_way_and_passes_while_the_bridge_drains_and_a_new_session_does_not(
    bridge: Bridge,
) -> None:
    bridge.draining.set()
    server = modern(bridge, Rounds())
    front = bridge.front([refusing_while(bridge.draining)], bridge.endpoint())
    response = await front(over("http", exchange(call(), server)))
    assert response is not None and response.error is None
    with pytest.raises(BridgeError, match="draining"):
        await front(over("http", exchange(call(method="initialize"), server)))


def over(protocol: str, x: Exchange) -> Exchange:
    x.caller.protocol = protocol
    return x


async def test_an_answer_to_a_question_passes_while_the_bridge_drains(bridge: Bridge) -> None:
    bridge.draining.set()
    passed: list[Exchange] = []

    async def last(x: Exchange) -> None:
        passed.append(x)

    policy = refusing_while(bridge.draining)
    x = over("websocket", exchange(call(), modern(bridge, Rounds())))
    for message in (m.result(1, {}), m.notification("notifications/cancelled"), SessionOp("SPEAK")):
        x.message = message
        await policy(x, last)
    assert len(passed) == 3
    for refused in (call(), SessionOp("CONNECT"), SessionOp("GET")):
        x.message = refused
        with pytest.raises(BridgeError, match="draining"):
            await policy(x, last)


def test_the_digest_sees_method_and_params_but_not_the_round_nor_the_order() -> None:
    base = call()
    same = m.request(
        9, "tools/call", {"_meta": {}, "requestState": "x", "arguments": {"n": 1}, "name": "t", "inputResponses": 1}
    )
    assert digest(base) == digest(same)
    assert digest(call(arguments={"a": 1, "b": [2]})) == digest(call(arguments={"b": [2], "a": 1}))
    for other in (
        call(arguments={"n": "1"}),
        call(arguments={"n": 1.0}),
        call(name="u"),
        call(method="prompts/get"),
        call(x=None),
    ):
        assert digest(other) != digest(base)


@given(st.from_regex(r"-?[1-9][0-9]{0,5000}(\.[0-9]{1,40})?([eE][0-9]{1,6})?", fullmatch=True))
def test_numbers_of_any_size_are_compared_as_written(number: str) -> None:
    request = m.request(1, "tools/call", {"arguments": Raw(b'{"n":' + number.encode() + b"}")})
    other = m.request(1, "tools/call", {"arguments": Raw(b'{"n":1' + number.encode().lstrip(b"-") + b"}")})
    assert digest(request) == digest(m.request(2, "tools/call", {"arguments": Raw(b'{ "n" :' + number.encode() + b"}")}))
    assert digest(request) != digest(other)
