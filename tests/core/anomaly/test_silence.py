"""Silence of an idle link: when it is more than a late answer, and when nothing may be said."""

from __future__ import annotations

import random

from mcpbridge.core.anomaly.silence import THRESHOLD, Silence


def beating(count: int, usual: float = 10.0, jitter: float = 0.2, seed: int = 1) -> tuple[Silence, float]:
    """A link that answered so often, and when it did last."""
    silence, now, chance = Silence(), 1000.0, random.Random(seed)
    for _ in range(count):
        silence.heard(now)
        now += usual * chance.uniform(1 - jitter, 1 + jitter)
    silence.heard(now)
    return silence, now


def first(silence: Silence, now: float, limit: float = 60.0) -> float:
    """Seconds of silence until it is told."""
    return next(step / 10 for step in range(int(limit * 10)) if silence.phi(now + step / 10) >= THRESHOLD)


def test_a_late_answer_is_not_suspicious_and_a_missing_one_is_before_the_second_is_due():
    silence, now = beating(100)
    assert silence.phi(now + 12.5) < 2.0
    assert 14.0 < first(silence, now) < 20.0


def test_suspicion_never_falls_while_the_silence_lasts():
    silence, now = beating(50)
    told = [silence.phi(now + step) for step in range(100)]
    assert told == sorted(told) and told[-1] == 30.0


def test_nothing_is_said_before_the_rhythm_is_known():
    silence, now = beating(5)
    assert silence.phi(now + 1e6) == 0.0
    assert Silence().phi(1e6) == 0.0


def test_nothing_is_expected_in_a_pause_and_its_length_is_no_rhythm():
    silence, now = beating(50)
    usual = silence.usual
    silence.pause()
    assert (silence.phi(now + 1e6), silence.lasts(now + 1e6)) == (0.0, 0.0)
    silence.heard(now + 1e6)
    assert silence.usual == usual
    assert silence.phi(now + 1e6 + 30.0) >= THRESHOLD


def test_an_exact_rhythm_may_still_vary_a_little():
    silence, now = beating(100, jitter=0.0)
    assert silence.phi(now + 12.0) < THRESHOLD
    assert first(silence, now) < 17.0


def test_a_rhythm_that_changes_is_learned():
    silence, now = beating(100)
    for _ in range(60):
        now += 30.0
        silence.heard(now)
    assert 28.0 < silence.usual < 31.0
    assert silence.phi(now + 36.0) < THRESHOLD


def test_no_rhythm_of_checks_is_suspicious_by_itself():
    for seed in range(20):
        silence, now, chance = *beating(10, seed=seed), random.Random(1000 + seed)
        for _ in range(500):
            pause = 10.0 * chance.uniform(0.8, 1.2) + chance.expovariate(20.0)
            assert silence.phi(now + pause) < THRESHOLD
            now += pause
            silence.heard(now)
