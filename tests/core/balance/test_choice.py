"""Choices of backends: shares, last resorts, the slow one avoided, panic. Time and chance are the tests'."""

from __future__ import annotations

import heapq
import random
from collections import Counter

import pytest

from mcpbridge.core.balance.choice import Balancer
from mcpbridge.core.balance.latency import PeakLatency
from mcpbridge.core.balance.policy import Balancing, EndpointStrategy, Strategy
from mcpbridge.core.balance.smooth import Smooth

WARM = 100.0  # everything has been up for long


class Replica:
    def __init__(self, name: str, protocol: str = "http", weight: float = 1.0, score: float = 1.0) -> None:
        self.name = name
        self.protocol = protocol
        self.weight = weight
        self.score = score
        self.latency = PeakLatency()
        self.fresh_at = 0.0
        self.active = 0
        self.up = True
        self.is_draining = False
        self.state = "ok"

    def is_eligible(self, now: float) -> bool:
        return self.up and not self.is_draining


def balancer(strategy: Strategy = "cross_protocol", endpoint: EndpointStrategy = "least_conn", **options: object) -> Balancer:
    return Balancer(Balancing(strategy, endpoint, **options), random.Random(7).randrange)  # type: ignore[arg-type]


def shares(one: Balancer, replicas: list[Replica], n: int = 1000, now: float = WARM, **how: object) -> Counter[str]:
    return Counter(one.choose(replicas, now, **how).name for _ in range(n))  # type: ignore[arg-type]


@pytest.mark.parametrize("seed", range(20))
def test_shares_are_exact_for_any_weights_and_nobody_starves(seed: int) -> None:
    chance = random.Random(seed)
    weights = {f"k{i}": chance.uniform(0.05, 100.0) for i in range(chance.randrange(1, 9))}
    smooth, counts, n = Smooth(), Counter[str](), 4000
    for _ in range(n):
        counts[smooth.choose(weights)] += 1
    for key, weight in weights.items():
        assert abs(counts[key] - n * weight / sum(weights.values())) <= len(weights)


def test_protocols_share_calls_by_weight_and_mean_health() -> None:
    replicas = [Replica("a", "stdio"), Replica("b", "http"), Replica("c", "http", score=0.5)]
    counts = shares(balancer(weights={"stdio": 3.0, "http": 2.0}), replicas, 900)
    assert abs(counts["a"] - 600) <= 2  # 3 : 2 * 0.75
    replicas[2].score = 0.001  # never below a tenth
    assert abs(shares(balancer(weights={"stdio": 0.55, "http": 1.0}), replicas, 1000)["a"] - 500) <= 2


def test_weight_zero_is_a_last_resort_of_a_protocol_and_of_an_endpoint() -> None:
    replicas = [Replica("a", "stdio"), Replica("b", "http"), Replica("c", "http", weight=0.0)]
    one = balancer(weights={"stdio": 0.0, "http": 1.0})
    assert shares(one, replicas) == {"b": 1000}
    assert set(shares(one, [replicas[0], replicas[2]])) == {"a", "c"}


def test_strategies_choose_the_protocol_as_their_names_say() -> None:
    replicas = [Replica("a", "stdio"), Replica("b", "http"), Replica("c", "sse")]
    assert shares(balancer("protocol_specific"), replicas, caller="sse") == {"c": 1000}
    assert shares(balancer("protocol_specific"), replicas, caller="websocket") == {"a": 1000}
    assert shares(balancer("priority", preference=("http", "sse")), replicas) == {"b": 1000}
    assert shares(balancer("round_robin"), replicas, 999) == {"a": 333, "b": 333, "c": 333}
    replicas[1].score = 0.1
    assert abs(shares(balancer("weighted"), replicas, 3300)["b"] - 1000) <= 3  # 1.0 of 3.3, health or not
    replicas[0].active = replicas[2].active = 1
    assert shares(balancer("least_conn"), replicas) == {"b": 1000}
    assert shares(balancer("priority"), replicas, strategy="least_conn") == {"b": 1000}  # for one call


def test_endpoint_weights_share_calls_and_equal_turns_do_not() -> None:
    replicas = [Replica("a", weight=3.0), Replica("b", weight=1.0)]
    assert shares(balancer(endpoint="weighted"), replicas) == {"a": 750, "b": 250}
    assert shares(balancer(endpoint="round_robin"), replicas) == {"a": 500, "b": 500}


def test_a_recovered_backend_gets_its_share_over_thirty_seconds() -> None:
    replicas = [Replica("a"), Replica("b")]
    replicas[1].fresh_at = WARM
    parts = [shares(balancer(endpoint="weighted"), replicas, 1000, WARM + s)["b"] for s in (0, 10, 20, 30)]
    assert parts == sorted(parts)
    assert 80 <= parts[0] <= 100
    assert parts[-1] == 500


def test_panic_begins_below_the_threshold_and_ignores_health() -> None:
    replicas = [Replica(name, score=0.1) for name in "abcd"]
    one = balancer(endpoint="weighted")
    replicas[0].up = replicas[1].up = False
    assert not one.is_panicking(replicas, WARM)
    replicas[2].up = False
    assert one.is_panicking(replicas, WARM)
    replicas[3].score = 1.0
    assert shares(one, replicas, panic=True) == dict.fromkeys("abcd", 250)


def test_one_that_drains_counts_neither_as_healthy_nor_as_sick_for_panic() -> None:
    replicas = [Replica(name) for name in "abcd"]
    replicas[0].is_draining = replicas[1].is_draining = True
    assert not balancer().is_panicking(replicas, WARM)
    replicas[2].up = False
    assert not balancer().is_panicking(replicas, WARM)  # one of two stays
    replicas[3].up = False
    assert balancer().is_panicking(replicas, WARM)


def test_a_degraded_one_takes_a_quarter_of_its_share() -> None:
    replicas = [Replica("a"), Replica("b")]
    replicas[1].state = "degraded"
    assert shares(balancer(endpoint="weighted"), replicas) == {"a": 800, "b": 200}
    replicas[1].state, replicas[1].protocol = "degraded", "stdio"
    assert shares(balancer(weights={"http": 1.0, "stdio": 1.0}), replicas) == {"a": 800, "b": 200}


def test_the_slow_one_is_avoided_and_tried_again_when_time_has_passed() -> None:
    replicas = [Replica("a"), Replica("b"), Replica("c")]
    for one in replicas:
        one.latency.add(1.0 if one.name == "b" else 0.01, WARM)
    one = balancer(endpoint="cross_protocol_least_conn")
    assert shares(one, replicas, now=WARM)["b"] == 0
    for fast in (replicas[0], replicas[2]):
        fast.latency.add(0.01, WARM + 60)
    assert shares(one, replicas, now=WARM + 60)["b"] > 0


def p99(endpoint: EndpointStrategy) -> float:
    """Seconds, of 20 000 calls at 300 a second on three replicas, one of which takes half a second for each."""
    chance, now, running, took = random.Random(3), WARM, list[tuple[float, int, float]](), list[float]()
    replicas = [Replica("a"), Replica("b"), Replica("c")]
    one = balancer(endpoint=endpoint)
    for _ in range(20_000):
        now += chance.expovariate(300.0)
        while running and running[0][0] <= now:
            ended, at, seconds = heapq.heappop(running)
            replicas[at].active -= 1
            replicas[at].latency.add(seconds, ended)
        chosen = one.choose(replicas, now)
        at = replicas.index(chosen)
        seconds = 0.5 if at == 1 else chance.uniform(0.005, 0.02)
        chosen.active += 1
        heapq.heappush(running, (now + seconds, at, seconds))
        took.append(seconds)
    return sorted(took)[int(len(took) * 0.99)]


def test_one_slow_replica_of_three_does_not_make_the_tail() -> None:
    ours = p99("cross_protocol_least_conn")
    assert ours < 0.05
    assert ours < p99("round_robin") / 5
    assert ours < p99("least_conn") / 5
