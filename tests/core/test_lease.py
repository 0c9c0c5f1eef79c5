"""Conversations that one call has to itself: taken, given back, waited for, never mixed up."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from mcpbridge.bridge import Bridge
from mcpbridge.core import lease as module
from mcpbridge.core.conversation import BackendSession, Refused, SessionKey
from mcpbridge.core.exchange import Era
from mcpbridge.core.pool import Pool
from mcpbridge.errors import BridgeError
from mcpbridge.stores.memory import MemoryStore
from mcpbridge.wire import message as m
from tests.support.scripted import VERSION, WAIT, Scripted, Talk, add, initialize, until

KEY = SessionKey("legacy", "p", VERSION, "c")


class Ear:
    """Who is asked (an Inbox)."""

    def __init__(self, name: str = "") -> None:
        self.name = name
        self.heard: list[str] = []

    def notified(self, notification: m.Notification) -> None:
        self.heard.append(notification.method)

    async def asked(self, request: m.Request) -> m.Response:
        return m.result(request.id, self.name)

    def closed(self, cause: BaseException | None) -> None:
        return None


@pytest.fixture
async def bridge() -> AsyncIterator[Bridge]:
    async with asyncio.timeout(4 * WAIT), Bridge("gateway", MemoryStore(), None, start_timeout=WAIT) as bridge:
        yield bridge


@pytest.fixture
def servers() -> Scripted:
    return Scripted()


@pytest.fixture
def pool(bridge: Bridge, servers: Scripted) -> Pool:
    return add(bridge, servers, limit=2).backends[0].pool


async def take(pool: Pool, ear: Ear | None = None, *, remaining: float = WAIT, logs: bool = False) -> BackendSession:
    return await pool.leases.take(KEY, initialize(), ear or Ear(), remaining, logs=logs)


def give_back(pool: Pool, session: BackendSession, *, is_clean: bool = True) -> None:
    pool.leases.give_back(session, is_clean=is_clean)


async def who(session: BackendSession) -> object:
    return m.loads((await session.asked(m.request(1, "roots/list"))).result or b"null")


async def test_the_shared_conversation_is_leased_first_and_questions_go_to_who_has_it(pool: Pool, servers: Scripted) -> None:
    shared = await pool.shared(KEY, initialize(), WAIT)
    leased = await take(pool, Ear("me"))
    assert leased is shared is await pool.shared(KEY, initialize(), WAIT)
    assert await who(leased) == "me"
    give_back(pool, leased)
    assert await who(leased) is None
    assert not leased.users


async def test_a_second_call_has_a_conversation_of_its_own_which_is_kept_as_a_spare(pool: Pool, servers: Scripted) -> None:
    one, two = await take(pool, Ear("1")), await take(pool, Ear("2"))
    assert (await who(one), await who(two)) == ("1", "2")
    give_back(pool, two)
    assert await take(pool) is two
    give_back(pool, one)
    assert await take(pool) is one
    assert len(servers.talks) == 2


async def test_a_call_that_waits_gets_what_another_one_gives_back_before_a_new_one_is_up(pool: Pool, servers: Scripted) -> None:
    one = await take(pool)
    ready, begun = asyncio.Event(), asyncio.Event()

    async def slow(_era: Era) -> None:
        begun.set()
        await ready.wait()

    servers.dialled = slow
    waiting = asyncio.ensure_future(take(pool, Ear("2")))
    await begun.wait()
    give_back(pool, one)
    assert await waiting is one
    assert await who(one) == "2"
    ready.set()
    await until(lambda: len(servers.talks) == 2 and pool.leases._spares)
    assert (await take(pool)) is not one
    assert len(servers.talks) == 2


async def test_calls_that_wait_share_the_dials_in_progress(bridge: Bridge, servers: Scripted) -> None:
    pool = add(bridge, servers, limit=50).backends[0].pool
    held = [await take(pool)]
    ready = asyncio.Event()

    async def slow(_era: Era) -> None:
        nonlocal dials
        dials += 1
        await ready.wait()

    dials = 0
    servers.dialled = slow
    for _ in range(20):  # each is served by what the one before gives back, while its own dial still runs
        waiting = asyncio.ensure_future(take(pool))
        await until(lambda: pool.leases._waiting and dials)
        give_back(pool, held.pop())
        held.append(await waiting)
    assert dials == 1
    crowd = [asyncio.ensure_future(take(pool)) for _ in range(5)]
    await until(lambda: dials == 5)
    ready.set()
    assert len({id(session) for session in await asyncio.gather(*crowd)}) == 5
    assert not (pool.leases._dials or pool.leases._waiting)
    assert len(servers.talks) == 6


async def test_a_dial_without_a_place_is_given_up_when_a_freed_conversation_comes_first(pool: Pool, servers: Scripted) -> None:
    one, two = await take(pool), await take(pool)
    waiting = [asyncio.ensure_future(take(pool)) for _ in range(3)]
    await until(lambda: len(pool.leases._dials.get(KEY, ())) == 3)
    for session in (one, two):
        give_back(pool, session)
    give_back(pool, await waiting[0])
    assert [await waiting[1], await waiting[2]] == [two, one]
    await until(lambda: not pool.leases._dials)
    assert len(servers.talks) == 2 and not any(talk.closes for talk in servers.talks)


async def test_a_dial_that_fails_is_told_only_when_no_other_is_in_progress_for_the_call(
    bridge: Bridge, servers: Scripted
) -> None:
    pool = add(bridge, servers, limit=50).backends[0].pool
    one = await take(pool)
    goes, dials = asyncio.Event(), 0

    async def first_fails(_era: Era) -> None:
        nonlocal dials
        dials += 1
        mine = dials
        await goes.wait()
        if mine == 1:
            raise BridgeError("server_exited", "first")

    servers.dialled = first_fails
    waiting = [asyncio.ensure_future(take(pool)) for _ in range(2)]
    await until(lambda: dials == 2)
    give_back(pool, one)
    assert await waiting[0] is one
    goes.set()
    assert await waiting[1] is not one


async def test_what_a_spare_hears_of_changed_lists_is_told_to_who_listens_on_the_shared_one(
    pool: Pool, servers: Scripted
) -> None:
    shared, spare, ear = await take(pool), await take(pool), Ear()
    shared.listeners.append(ear)
    for method in ("notifications/tools/list_changed", "notifications/message", "notifications/resources/updated"):
        spare.notified(m.notification(method))
    assert ear.heard == ["notifications/tools/list_changed"]
    shared.notified(m.notification("notifications/prompts/list_changed"))
    assert ear.heard[1:] == ["notifications/prompts/list_changed"]


async def test_one_that_was_cut_short_is_never_leased_again(pool: Pool, servers: Scripted) -> None:
    shared, spare = await take(pool), await take(pool)
    give_back(pool, shared, is_clean=False)
    give_back(pool, spare, is_clean=False)
    await until(lambda: servers.talks[1].closes)
    assert not servers.talks[0].closes  # others go on with it: they are not asked
    assert await pool.shared(KEY, initialize(), WAIT) is shared
    fresh = await take(pool)
    assert fresh not in (shared, spare)
    assert len(servers.talks) == 3


async def test_who_leaves_while_waiting_loses_nothing(pool: Pool, servers: Scripted) -> None:
    await take(pool)
    ready = asyncio.Event()

    async def slow(_era: Era) -> None:
        await ready.wait()

    servers.dialled = slow
    waiting = asyncio.ensure_future(take(pool))
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    with pytest.raises(BridgeError, match="still starting"):
        await take(pool, remaining=0.01)
    ready.set()
    await until(lambda: len(servers.talks) == 2 and pool.size == 2)
    servers.dialled = _at_once
    assert (await take(pool)).users == 1


async def _at_once(_era: Era) -> None:
    return None


async def test_over_the_limit_a_call_waits_and_is_told(pool: Pool, servers: Scripted, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mcpbridge.core.pool.QUEUE_WAIT", 0.02)
    await take(pool)
    await take(pool)
    with pytest.raises(BridgeError, match="server busy"):
        await take(pool)


async def test_a_server_that_refuses_the_next_conversation_is_quoted(pool: Pool, servers: Scripted) -> None:
    await take(pool)

    async def full(talk: Talk, request: m.Request, reply: object) -> m.Response:
        return m.error(request.id, {"code": -32000, "message": "only one"})

    servers.answer = full
    with pytest.raises(Refused):
        await take(pool)


async def test_a_lost_conversation_is_no_spare(pool: Pool, servers: Scripted) -> None:
    await take(pool)
    spare = await take(pool)
    give_back(pool, spare)
    servers.talks[1].dies(BridgeError("server_exited", "s"))
    pool._not_before = 0.0
    assert await take(pool) is not spare


async def test_one_that_is_lost_while_leased_can_be_given_back(pool: Pool, servers: Scripted) -> None:
    one = await take(pool)
    servers.talks[0].dies(BridgeError("server_exited", "s"))
    give_back(pool, one, is_clean=False)
    assert one.users == 0


async def test_log_messages_of_a_pipe_are_leased_too(pool: Pool, servers: Scripted) -> None:
    base = await pool.lease_logs(KEY, initialize(), "somebody", WAIT)
    ear = Ear()
    leased = await take(pool, ear, logs=True)
    assert leased is not base
    assert leased.log_owner is ear
    give_back(pool, leased)
    assert leased.log_owner is None
    pool.release_logs(base)
    assert await take(pool, logs=True) is base


async def test_spares_that_nobody_uses_end(pool: Pool, servers: Scripted, monkeypatch: pytest.MonkeyPatch) -> None:
    shared, spare = await take(pool), await take(pool)
    give_back(pool, spare)
    await pool.sweep()
    assert not servers.talks[1].closes
    monkeypatch.setattr(module, "SPARE", -1.0)
    await pool.sweep()
    assert servers.talks[1].closes
    assert not servers.talks[0].closes
    give_back(pool, shared)
