"""Seals: what was sealed opens, for its purpose, with its key, in its time, and nothing else does."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mcpbridge.seal import MAX_SEAL_CHARS, Sealer, SealError, derive_key, random_secret

OLD, NEW = b"old secret of the last deployment ...", b"new secret of the current deployment"
ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"


class Clock:
    def __init__(self, now: float = 1_795_442_400.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


SEALER = Sealer([OLD], Clock())
SEALED = SEALER.seal("session", b"payload", 60.0)


@given(st.binary(max_size=300), st.text(max_size=20))
@settings(deadline=None)
def test_what_was_sealed_opens_for_its_purpose(payload, purpose):
    assert SEALER.open(purpose, SEALER.seal(purpose, payload, 60.0)) == payload


@given(st.data())
@settings(deadline=None, max_examples=300)
def test_any_flipped_bit_is_refused(data):
    place = data.draw(st.integers(0, len(SEALED) - 1))
    bit = data.draw(st.integers(0, 5))
    flipped = ALPHABET[ALPHABET.index(SEALED[place]) ^ (1 << bit)]
    with pytest.raises(SealError):
        SEALER.open("session", SEALED[:place] + flipped + SEALED[place + 1 :])


def test_every_single_bit_of_a_seal_counts():
    for place, old in enumerate(SEALED):
        for bit in range(6):
            with pytest.raises(SealError):
                SEALER.open("session", SEALED[:place] + ALPHABET[ALPHABET.index(old) ^ (1 << bit)] + SEALED[place + 1 :])


@given(st.text(max_size=20).filter(lambda purpose: purpose != "session"))
@settings(deadline=None)
def test_another_purpose_is_refused(purpose):
    with pytest.raises(SealError):
        SEALER.open(purpose, SEALED)


@given(st.binary(min_size=32, max_size=64).filter(lambda secret: secret != OLD))
@settings(deadline=None)
def test_another_key_is_refused(secret):
    with pytest.raises(SealError):
        Sealer([secret], Clock()).open("session", SEALED)


@given(st.text(max_size=200))
def test_any_other_text_is_refused(text):
    with pytest.raises(SealError):
        SEALER.open("session", text)


@pytest.mark.parametrize(
    "spelling",
    [
        SEALED + "=",
        SEALED + "\n",
        " " + SEALED,
        SEALED[:10] + "." + SEALED[10:],
        SEALED[:-1],
        SEALED + "A",
        "",
        "\ud800",
        "A" * (MAX_SEAL_CHARS + 1),
        SEALED * 2,
    ],
    ids=["padded", "newline", "blank", "dot", "cut", "longer", "empty", "surrogate", "huge", "twice"],
)
def test_a_seal_has_exactly_one_spelling(spelling):
    with pytest.raises(SealError):
        SEALER.open("session", spelling)


def test_a_seal_ends_with_its_time():
    clock = Clock()
    sealer = Sealer([OLD], clock)
    sealed = sealer.seal("session", b"x", 60.0)
    clock.now += 59.9
    assert sealer.open("session", sealed) == b"x"
    clock.now += 0.1
    with pytest.raises(SealError):
        sealer.open("session", sealed)


def test_rotation_the_first_secret_seals_and_all_open():
    clock = Clock()
    before, rotated, after = Sealer([OLD], clock), Sealer([NEW, OLD], clock), Sealer([NEW], clock)
    assert rotated.open("session", before.seal("session", b"x", 60.0)) == b"x"
    assert after.open("session", rotated.seal("session", b"x", 60.0)) == b"x"
    with pytest.raises(SealError):
        before.open("session", rotated.seal("session", b"x", 60.0))
    with pytest.raises(SealError):
        after.open("session", before.seal("session", b"x", 60.0))


def test_two_seals_of_the_same_thing_differ():
    assert SEALER.seal("session", b"x", 60.0) != SEALER.seal("session", b"x", 60.0)


def test_a_session_seal_stays_within_512_characters():
    # version, principal hash, owner, issue time, capability digest (architecture section 7); expiry is the seal's own
    content = json.dumps(["2025-11-25", "a" * 32, "b" * 32, 1_795_442_400, "c" * 32]).encode()
    sealed = SEALER.seal("session", content, 86_400.0)
    assert len(sealed) <= 512
    assert set(sealed) <= set(ALPHABET)


@pytest.mark.parametrize("secrets", [[], [b"short"], [OLD, b"x" * 31]])
def test_weak_secrets_are_refused(secrets):
    with pytest.raises(ValueError):
        Sealer(secrets)


def test_errors_say_nothing_about_the_seal():
    with pytest.raises(SealError) as wrong:
        SEALER.open("cursor", SEALED)
    assert SEALED[:8] not in str(wrong.value) and str(wrong.value) == "not a seal"


def test_derived_keys_differ_by_label_and_are_stable():
    assert derive_key(OLD, "seal") == derive_key(OLD, "seal") != derive_key(OLD, "hop")
    assert len(derive_key(OLD, "seal")) == 32
    assert len(random_secret()) >= 32 and random_secret() != random_secret()


def test_a_name_is_one_text_for_one_payload_and_purpose_and_does_not_expire():
    clock = Clock()
    sealer = Sealer([OLD], clock)
    named = sealer.name("task", b"7")
    assert Sealer([OLD]).name("task", b"7") == named
    others = {sealer.name("task", b"8"), sealer.name("session", b"7"), Sealer([NEW]).name("task", b"7")}
    assert len(others | {named}) == 4
    clock.now += 1e9
    assert sealer.open("task", named) == b"7"
    assert Sealer([NEW, OLD]).open("task", named) == b"7"
    with pytest.raises(SealError):
        sealer.open("session", named)


@given(st.binary(max_size=300), st.data())
@settings(deadline=None)
def test_any_flipped_bit_of_a_name_is_refused(payload, data):
    named = SEALER.name("task", payload)
    place, bit = data.draw(st.integers(0, len(named) - 1)), data.draw(st.integers(0, 5))
    with pytest.raises(SealError):
        SEALER.open("task", named[:place] + ALPHABET[ALPHABET.index(named[place]) ^ (1 << bit)] + named[place + 1 :])
