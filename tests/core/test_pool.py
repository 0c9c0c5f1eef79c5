"""Conversations with one backend: shared once, kept apart by principal, capped, ended when idle, not started in a loop."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from mcpbridge.bridge import Bridge
from mcpbridge.core import pool as module
from mcpbridge.core.conversation import MODERN_KEY, BackendSession, Refused, SessionKey
from mcpbridge.core.exchange import Era, Reply
from mcpbridge.core.pool import Pool
from mcpbridge.errors import BridgeError
from mcpbridge.stores.memory import MemoryStore
from mcpbridge.wire import message as m
from tests.support.scripted import INITIALIZED, Scripted, Talk, add, answer, initialize, never, until

WAIT = 5.0
A, B = SessionKey("legacy", "a", "v", "c"), SessionKey("legacy", "b", "v", "c")


class Owner:
    def __init__(self, is_idle: bool = False) -> None:
        self.is_idle = is_idle

    def notified(self, notification: m.Notification) -> None:
        return None

    async def asked(self, request: m.Request) -> m.Response:
        raise AssertionError

    def closed(self, cause: BaseException | None) -> None:
        return None


@pytest.fixture
async def bridge() -> AsyncIterator[Bridge]:
    async with Bridge("gateway", MemoryStore(), None, start_timeout=WAIT) as bridge:
        yield bridge


@pytest.fixture
def servers() -> Scripted:
    return Scripted()


def pool_of(bridge: Bridge, servers: Scripted, limit: int = 20) -> Pool:
    return add(bridge, servers, limit=limit).backends[0].pool


class Gate:
    """Holds the handshakes of a server until it is opened."""

    def __init__(self) -> None:
        self.waiting = 0
        self.open = asyncio.Event()

    async def __call__(self, talk: Talk, request: m.Request, reply: Reply) -> m.Response:
        if request.method == "initialize":
            self.waiting += 1
            await self.open.wait()
        return await answer(talk, request, reply)


async def test_all_who_wait_for_one_key_get_one_conversation_and_other_principals_another(
    bridge: Bridge, servers: Scripted
) -> None:
    pool = pool_of(bridge, servers)
    got = await asyncio.gather(*(pool.shared(key, initialize(), WAIT) for key in (A, A, A, B, B)))
    assert got[0] is got[1] is got[2]
    assert got[3] is got[4]
    assert got[0] is not got[3]
    assert [talk.methods for talk in servers.talks] == [["initialize"]] * 2
    assert [talk.notifications for talk in servers.talks] == [[INITIALIZED]] * 2


async def test_who_stops_waiting_does_not_end_it_for_the_others(bridge: Bridge, servers: Scripted) -> None:
    pool = pool_of(bridge, servers)
    gate = servers.answer = Gate()
    impatient = asyncio.ensure_future(pool.shared(A, initialize(), WAIT))
    patient = asyncio.ensure_future(pool.shared(A, initialize(), WAIT))
    await until(lambda: gate.waiting)
    impatient.cancel()
    gate.open.set()
    assert not (await asyncio.wait_for(patient, WAIT)).is_closed
    assert len(servers.talks) == 1


async def test_an_own_conversation_whose_client_went_away_during_the_start_is_ended(bridge: Bridge, servers: Scripted) -> None:
    pool = pool_of(bridge, servers)
    gate = servers.answer = Gate()
    opening = asyncio.ensure_future(pool.own(A, initialize(), Owner(), WAIT))
    await until(lambda: gate.waiting)
    opening.cancel()
    with pytest.raises(asyncio.CancelledError):
        await opening
    gate.open.set()
    await until(lambda: servers.talks[0].closes)
    assert pool.size == 0


async def test_a_conversation_that_shakes_hands_counts_once(bridge: Bridge, servers: Scripted) -> None:
    pool = pool_of(bridge, servers, limit=2)
    gate = servers.answer = Gate()
    both = [asyncio.ensure_future(pool.shared(key, initialize(), WAIT)) for key in (A, B)]
    await until(lambda: gate.waiting == 2)  # the second one did not wait for the first
    assert pool.size == 2
    gate.open.set()
    await asyncio.gather(*both)
    assert pool.size == 2


async def test_a_conversation_that_shakes_hands_is_not_ended_to_make_room(
    bridge: Bridge, servers: Scripted, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "QUEUE_WAIT", 0.05)
    monkeypatch.setattr(module, "LOOK", 0.01)
    monkeypatch.setattr(module, "MIN_IDLE", 0.0)
    pool = pool_of(bridge, servers, limit=1)
    gate = servers.answer = Gate()
    first = asyncio.ensure_future(pool.shared(A, initialize(), WAIT))
    await until(lambda: gate.waiting)
    with pytest.raises(BridgeError, match="server busy"):
        await pool.shared(B, initialize(), WAIT)
    gate.open.set()
    assert not (await asyncio.wait_for(first, WAIT)).is_closed


async def test_the_sweep_leaves_a_handshake_and_a_call_in_flight_alone(bridge: Bridge, servers: Scripted) -> None:
    pool = pool_of(bridge, servers)
    pool.idle_timeout = -1.0  # everything unused is over it
    gate = servers.answer = Gate()
    opening = asyncio.ensure_future(pool.shared(A, initialize(), WAIT))
    await until(lambda: gate.waiting)
    await pool.sweep()
    gate.open.set()
    session = await asyncio.wait_for(opening, WAIT)
    modern = await pool.modern(WAIT)
    servers.answer = lambda *_: never()
    calls = [asyncio.ensure_future(talk.call(m.request(1, "tools/call"), Owner())) for talk in (session, modern)]  # type: ignore[arg-type]
    await until(lambda: servers.talks[1].requests)
    await pool.sweep()
    assert not session.is_closed
    assert not modern.is_closed
    for call in calls:
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
    await asyncio.sleep(0)
    await pool.sweep()
    assert session.is_closed
    assert modern.is_closed


async def test_an_idle_conversation_makes_room_whatever_its_era(
    bridge: Bridge, servers: Scripted, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MIN_IDLE", 0.0)
    pool = pool_of(bridge, servers, limit=1)
    modern = await pool.modern(WAIT)
    legacy = await pool.shared(A, initialize(), WAIT)
    assert modern.is_closed
    again = await pool.modern(WAIT)
    assert legacy.is_closed
    assert not again.is_closed


async def test_an_owned_conversation_ends_for_another_only_when_its_owner_would_not_notice(
    bridge: Bridge, servers: Scripted, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MIN_IDLE", 0.0)
    monkeypatch.setattr(module, "LOOK", 0.001)
    pool = pool_of(bridge, servers, limit=1)
    owner = Owner()
    first = await pool.own(A, initialize(), owner, WAIT)
    waiting = asyncio.ensure_future(pool.own(B, initialize(), Owner(), WAIT))
    await until(lambda: pool.misses == 2)
    await asyncio.sleep(0)
    assert not first.is_closed
    owner.is_idle = True  # nobody tells the pool
    assert not (await asyncio.wait_for(waiting, WAIT)).is_closed
    assert first.is_closed


async def test_who_waits_for_room_is_woken_when_a_conversation_ends(
    bridge: Bridge, servers: Scripted, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LOOK", WAIT)
    monkeypatch.setattr(module, "QUEUE_WAIT", WAIT)
    pool = pool_of(bridge, servers, limit=1)
    first = await pool.own(A, initialize(), Owner(), WAIT)
    waiting = asyncio.ensure_future(pool.own(B, initialize(), Owner(), WAIT))
    await until(lambda: pool.misses == 2)
    await first.close()
    await asyncio.wait_for(waiting, WAIT / 2)


async def test_a_server_that_does_not_start_is_not_started_again_at_once_and_its_cause_is_told(
    bridge: Bridge, servers: Scripted, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module.random, "random", lambda: 0.999)
    pool = pool_of(bridge, servers)
    starts: list[Era] = []

    async def fail(era: Era) -> None:
        starts.append(era)
        raise BridgeError("stdio_no_such_file", "nope", sent=False, path="nope")

    servers.dialled = fail
    for _ in range(8):
        with pytest.raises(BridgeError) as caught:
            await pool.shared(A, initialize(), WAIT)
        assert caught.value.reason == "stdio_no_such_file"
        assert "nope" in str(caught.value)
        assert not caught.value.sent
    assert len(starts) < 8
    assert pool.size == 0
    assert pool.backend.state == "down"


async def test_failed_starts_of_many_callers_leave_nothing_behind(bridge: Bridge, servers: Scripted) -> None:
    pool = pool_of(bridge, servers)

    async def fail(era: Era) -> None:
        raise BridgeError("stdio_no_such_file", "nope", sent=False)

    servers.dialled = fail
    for number in range(50):
        with pytest.raises(BridgeError):
            await pool.shared(A._replace(principal=str(number)), initialize(), WAIT)
    await asyncio.sleep(0)
    assert len(pool._shared) == 0


async def test_a_server_that_refuses_initialize_is_no_failure_and_may_be_asked_again(bridge: Bridge, servers: Scripted) -> None:
    pool = pool_of(bridge, servers)

    async def refuse(talk: Talk, request: m.Request, reply: Reply) -> m.Response:
        return m.error(request.id, {"code": -32000, "message": "not today"})

    servers.answer = refuse
    with pytest.raises(Refused):
        await pool.shared(A, initialize(), WAIT)
    assert servers.talks[0].closes
    servers.answer = answer
    assert not (await pool.shared(A, initialize(), WAIT)).is_closed


async def test_a_server_that_dies_during_its_handshake_fails_all_who_wait_with_its_cause(
    bridge: Bridge, servers: Scripted
) -> None:
    pool = pool_of(bridge, servers)
    gate = servers.answer = Gate()
    waiting = [asyncio.ensure_future(pool.shared(A, initialize(), WAIT)) for _ in range(3)]
    await until(lambda: gate.waiting)
    servers.talks[0].dies(BridgeError("server_exited", "s: exit status 3"))
    for future in waiting:
        with pytest.raises(BridgeError, match="exit status 3") as caught:
            await asyncio.wait_for(future, WAIT)
        assert not caught.value.sent
    assert pool.size == 0
    assert servers.talks[0].closes


async def test_a_silent_handshake_ends_and_names_the_noise(bridge: Bridge, servers: Scripted) -> None:
    pool = pool_of(bridge, servers)
    pool.start_timeout = 0.01
    servers.answer = lambda *_: never()

    async def noisy(era: Era) -> None:
        return None

    servers.dialled = noisy
    Talk.noise, before = "npm WARN deprecated", Talk.noise
    try:
        with pytest.raises(BridgeError, match="npm WARN deprecated") as caught:
            await pool.shared(A, initialize(), WAIT)
    finally:
        Talk.noise = before
    assert caught.value.reason == "timeout"
    assert pool.size == 0


async def test_only_one_client_at_a_time_has_logs_on_a_pipe(bridge: Bridge, servers: Scripted) -> None:
    pool = pool_of(bridge, servers)
    a, b = object(), object()
    first = await pool.lease_logs(MODERN_KEY, None, a, WAIT)
    assert await pool.lease_logs(MODERN_KEY, None, a, WAIT) is first
    second = await pool.lease_logs(MODERN_KEY, None, b, WAIT)
    assert second is not first
    pool.release_logs(first)
    assert (await pool.lease_logs(MODERN_KEY, None, object(), WAIT)) not in (first, second)
    pool.release_logs(first)
    assert await pool.lease_logs(MODERN_KEY, None, object(), WAIT) is first


async def test_nobody_who_shares_a_conversation_is_asked_what_he_did_not_declare(bridge: Bridge, servers: Scripted) -> None:
    session: BackendSession = await pool_of(bridge, servers).shared(A, initialize(), WAIT)
    refused = await session.asked(m.request(1, "sampling/createMessage"))
    assert b"-32601" in bytes(refused.error or b"")
    assert bytes((await session.asked(m.request(2, "ping"))).result or b"") == b"{}"


async def test_closing_the_pool_ends_every_conversation_once(bridge: Bridge, servers: Scripted) -> None:
    pool = pool_of(bridge, servers)
    await pool.shared(A, initialize(), WAIT)
    await pool.own(B, initialize(), Owner(), WAIT)
    await pool.close()
    await pool.close()
    assert [talk.closes for talk in servers.talks] == [1, 1]
    assert pool.size == 0
