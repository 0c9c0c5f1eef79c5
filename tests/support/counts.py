"""How much of each repeated thing a tier of tests does. One table: the short and the long run are the same programs.

T0 is the quick check, T1 what runs on every change, T2 the full run before a release. ``BRIDGE_TEST_TIER`` chooses.
"""

from __future__ import annotations

import os
from typing import NamedTuple


class Count(NamedTuple):
    """One row: the number in each tier."""

    t0: int
    t1: int
    t2: int


COUNTS = {
    "examples": Count(40, 300, 4000),  # Hypothesis examples per property
    "fuzz_seconds": Count(0, 6, 40),  # per fuzz target
    "kill_cycles": Count(2, 10, 100),  # connect and kill a stdio child behind npx and sh wrappers
    "router_cycles": Count(4, 12, 1000),  # connect and kill a router whose children, behind wrappers, ignore SIGTERM
    "chaos_rounds": Count(1, 2, 12),  # each fault so often, on one replica after the other
    "hang_ups": Count(100, 200, 1000),  # of clients in the middle of a call
    "rolling_restarts": Count(1, 1, 3),  # of the three gateways behind HAProxy, one after the other
    "rolling_rate": Count(50, 100, 500),  # calls a second meanwhile
    "reloads": Count(5, 10, 100),  # of a gateway under load
    "attackers": Count(300, 600, 2000),  # connections at once
    "mixed_calls": Count(500, 2000, 10000),  # calls of 50 clients that all count their ids from 1
    "differential_messages": Count(300, 2000, 100_000),  # generated ones per cell, both ways together
    "guard_rounds": Count(1, 3, 7),  # of the hot path against the reference hop
    "health_episodes": Count(40, 100, 400),  # healthy hours and faulty ones of each kind for the detector
    "slow_replica_rounds": Count(1, 1, 3),  # of one slow replica of three
    "hop_rounds": Count(1, 1, 5),  # of the hop benchmark, interleaved
}


def tier() -> str:
    """``t0``, ``t1`` or ``t2``; ``t0`` when nothing is said."""
    value = os.environ.get("BRIDGE_TEST_TIER", "T0").lower()
    if value not in Count._fields:
        raise ValueError(f"BRIDGE_TEST_TIER={value!r} is none of T0, T1, T2")
    return value


def count(name: str) -> int:
    """The number for ``name`` in this run's tier. Raises: KeyError for a name without a row."""
    return int(getattr(COUNTS[name], tier()))
