"""The memory store of session records: copies, compare-and-set, expiry, caps."""

from __future__ import annotations

import asyncio

import msgspec
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from mcpbridge.core.session import Session, SessionStore, StaleSession
from mcpbridge.errors import BridgeError
from mcpbridge.stores.memory import MemoryStore


class Clock:
    def __init__(self, now: float = 1000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def session(id: str = "s1", principal: str = "alice", **more: object) -> Session:
    return Session(id, principal, "2025-11-25", **more)  # type: ignore[arg-type]


def test_a_record_is_plain_json_and_comes_back_as_it_went():
    record = session(
        client_info='{"name":"x"}', subscriptions=["file:///a"], backend_sessions={"weather": "abc"}, log_level="info"
    )
    assert msgspec.json.decode(msgspec.json.encode(record), type=Session) == record


def test_the_store_has_the_interface(clock):
    store: SessionStore = MemoryStore(clock=clock)
    assert store.kind == "memory"


async def test_what_was_put_is_found_and_nothing_else(clock):
    store = MemoryStore(clock=clock)
    await store.put(session())
    found = await store.get("s1")
    assert found is not None
    assert (found.principal, found.revision, found.last_used) == ("alice", 1, 1000.0)
    assert await store.get("s2") is None
    assert await store.healthy()


async def test_changing_a_copy_changes_nothing_until_it_is_put(clock):
    store = MemoryStore(clock=clock)
    record = session()
    await store.put(record)
    record.subscriptions.append("a")
    found = await store.get("s1")
    assert found is not None and found.subscriptions == []
    found.subscriptions.append("b")
    found.backend_sessions["weather"] = "x"
    again = await store.get("s1")
    assert again is not None and again.subscriptions == [] and again.backend_sessions == {}
    await store.put(found)
    stored = await store.get("s1")
    assert stored is not None and stored.subscriptions == ["b"] and stored.revision == 2


async def test_the_second_of_two_writers_is_refused(clock):
    store = MemoryStore(clock=clock)
    await store.put(session())
    one, two = await store.get("s1"), await store.get("s1")
    assert one is not None and two is not None
    await store.put(one)
    with pytest.raises(StaleSession):
        await store.put(two)
    with pytest.raises(StaleSession):
        await store.put(session())


async def test_a_session_never_changes_hands(clock):
    store = MemoryStore(clock=clock)
    await store.put(session())
    with pytest.raises(StaleSession):
        await store.put(session(principal="mallory", revision=1))
    assert await store.count("mallory") == 0
    assert await store.count("alice") == 1


async def test_a_deleted_session_is_gone_and_no_late_writer_brings_it_back(clock):
    store = MemoryStore(clock=clock)
    record = session()
    await store.put(record)
    assert await store.delete("s1")
    assert await store.get("s1") is None
    assert not await store.touch("s1")
    assert not await store.delete("s1")
    for late in (record, session()):
        with pytest.raises(StaleSession):
            await store.put(late)
    assert await store.count() == 0


async def test_use_renews_and_idleness_ends(clock):
    store = MemoryStore(idle_timeout=10.0, clock=clock)
    await store.put(session())
    clock.now += 9.9
    assert await store.touch("s1")
    clock.now += 9.9
    assert await store.get("s1") is not None
    clock.now += 0.1
    assert await store.get("s1") is None
    assert not await store.touch("s1")


async def test_a_lifetime_ends_even_a_busy_session(clock):
    store = MemoryStore(idle_timeout=10.0, max_lifetime=15.0, clock=clock)
    await store.put(session(created=clock.now))
    clock.now += 9.0
    assert await store.touch("s1")
    clock.now += 6.0
    assert not await store.touch("s1")


async def test_a_sweep_names_every_session_that_expired_once(clock):
    store = MemoryStore(idle_timeout=10.0, clock=clock)
    for id in ("a", "b", "c", "d"):
        await store.put(session(id))
    clock.now += 5
    await store.touch("b")
    await store.delete("d")
    clock.now += 5
    assert await store.get("a") is None
    assert sorted(await store.sweep()) == ["a", "c"]
    assert await store.sweep() == []
    assert await store.count() == 1


async def test_one_caller_cannot_open_more_than_its_share(clock):
    store = MemoryStore(max_per_principal=2, idle_timeout=10.0, clock=clock)
    await store.put(session("a"))
    await store.put(session("b"))
    with pytest.raises(BridgeError) as refused:
        await store.put(session("c"))
    assert refused.value.reason == "too_many_sessions"
    await store.put(session("d", "bob"))
    await store.delete("a")
    await store.put(session("c"))
    clock.now += 10.0
    await store.put(session("e"))
    assert await store.count("alice") == 1


async def test_a_refused_session_leaves_nothing_behind(clock):
    store = MemoryStore(max_total=1, clock=clock)
    await store.put(session("a"))
    late = session("b", "bob")
    with pytest.raises(BridgeError):
        await store.put(late)
    assert late.revision == 0
    assert (await store.get("b"), await store.count("bob"), await store.count()) == (None, 0, 1)


async def test_opening_and_ending_for_ever_keeps_memory_bounded(clock):
    store = MemoryStore(max_total=20, clock=clock)
    for i in range(500):
        await store.put(session(f"s{i}", f"p{i}"))
        await store.delete(f"s{i}")
    assert await store.count() == 0
    assert len(store._tombstones) <= 20
    assert not store._ids_of


async def test_tombstones_go_with_time(clock):
    store = MemoryStore(idle_timeout=10.0, clock=clock)
    await store.put(session())
    await store.delete("s1")
    clock.now += 10.0
    assert await store.sweep() == []
    assert not store._tombstones


class StoreAgainstModel(RuleBasedStateMachine):
    """The store does what a dictionary of (principal, revision, last use) says."""

    IDLE, TOTAL, EACH = 10.0, 5, 3

    def __init__(self) -> None:
        super().__init__()
        self.clock = Clock()
        self.store = MemoryStore(idle_timeout=self.IDLE, max_total=self.TOTAL, max_per_principal=self.EACH, clock=self.clock)
        self.model: dict[str, tuple[str, int, float]] = {}
        self.ended: list[str] = []

    def live(self) -> dict[str, tuple[str, int, float]]:
        return {id: row for id, row in self.model.items() if self.clock.now - row[2] < self.IDLE}

    @rule(id=st.sampled_from("abcdefgh"), who=st.sampled_from("xy"), revision=st.integers(0, 2))
    def put(self, id: str, who: str, revision: int) -> None:
        live = self.live()
        held = live.get(id)
        stale = revision != (held[1] if held else 0) or (held and held[0] != who) or (not held and id in self.ended)
        full = not held and (len(live) >= self.TOTAL or sum(row[0] == who for row in live.values()) >= self.EACH)
        try:
            asyncio.run(self.store.put(session(id, who, revision=revision)))
        except StaleSession:
            assert stale
        except BridgeError:
            assert full and not stale
        else:
            assert not stale and not full
            self.model[id] = (who, revision + 1, self.clock.now)

    @rule(id=st.sampled_from("abcdefgh"))
    def touch(self, id: str) -> None:
        held = self.live().get(id)
        assert asyncio.run(self.store.touch(id)) is (held is not None)
        if held:
            self.model[id] = (held[0], held[1], self.clock.now)

    @rule(id=st.sampled_from("abcdefgh"))
    def delete(self, id: str) -> None:
        held = id in self.live()
        assert asyncio.run(self.store.delete(id)) is held
        if held:
            self.model.pop(id)
            self.ended = [*self.ended, id][-self.TOTAL :]

    @rule(seconds=st.floats(0.5, 4.0))
    def wait(self, seconds: float) -> None:
        self.clock.now += seconds

    @invariant()
    def agrees(self) -> None:
        live = self.live()
        for id in "abcdefgh":
            found = asyncio.run(self.store.get(id))
            assert (found is None) is (id not in live)
            if found:
                assert (found.principal, found.revision, found.last_used) == live[id]
        assert asyncio.run(self.store.count()) == len(live)
        assert asyncio.run(self.store.count("x")) == sum(row[0] == "x" for row in live.values())


TestStoreAgainstModel = StoreAgainstModel.TestCase
TestStoreAgainstModel.settings = settings(max_examples=25, stateful_step_count=25, deadline=None)
