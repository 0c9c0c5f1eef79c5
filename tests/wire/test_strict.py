"""Guards before the parser: depth, brackets, numbers, members, UTF-8."""

import json
import re

import jiter
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcpbridge.errors import BridgeError
from mcpbridge.wire import strict


def verdict(raw: bytes, **options) -> str:
    try:
        strict.check_bytes(raw, **options)
    except BridgeError as error:
        return error.detail if error.reason == "parse_error" else error.reason
    return "fit"


def nested(depth: int, opener: bytes = b"[", closer: bytes = b"]") -> bytes:
    return opener * depth + b"0" + closer * depth


@pytest.mark.requirement("limit.json")
def test_sixty_four_levels_pass_and_one_more_does_not():
    assert verdict(nested(64)) == "fit"
    assert verdict(nested(65)) == "nested deeper than 64 levels"
    assert verdict(nested(65, b'{"a":', b"}")) == "nested deeper than 64 levels"
    assert verdict(nested(3), max_depth=2) == "nested deeper than 2 levels"


def test_brackets_in_strings_do_not_count():
    assert verdict(b'["' + b"[{" * 500 + b'"]') == "fit"
    assert verdict(b'["\\"' + b"[" * 500 + b'\\\\"]') == "fit"
    assert verdict(b'["\\\\",' + nested(64) + b',"\\\\"]') == "nested deeper than 64 levels"
    assert verdict(b'["\\n\\"",' + nested(64) + b"]") == "nested deeper than 64 levels"
    assert verdict(b'["[","[",' + nested(63) + b',"]"]') == "fit"


def test_wide_is_not_deep_up_to_the_cap():
    assert verdict(b"[" + b"[]," * 99_998 + b"0]") == "fit"
    assert verdict(b"[" + b"[]," * 100_000 + b"0]") == "more than 200000 brackets"


@pytest.mark.requirement("limit.input.utf8", "limit.json")
def test_text_must_be_utf8_without_a_byte_order_mark():
    assert verdict('["é\U0001f600"]'.encode()) == "fit"
    assert verdict(b'["\xff"]') == "invalid UTF-8 at byte 2"
    assert verdict(b'["\xed\xa0\x80"]') == "invalid UTF-8 at byte 2"
    assert verdict(b'["\xc0\xaf"]') == "invalid UTF-8 at byte 2"
    assert verdict(b"\xef\xbb\xbf[]") == "byte order mark"


@pytest.mark.requirement("limit.json")
def test_long_numbers_are_the_clients_limit_only():
    raw = b"[" + b"1" * 65 + b"]"
    assert verdict(raw) == "number of more than 64 digits"
    assert verdict(raw, client=False) == "fit"
    assert verdict(b"[-" + b"1" * 32 + b"." + b"1" * 32 + b"e+0]") == "number of more than 64 digits"
    assert verdict(b"[-" + b"1" * 31 + b"." + b"1" * 32 + b"e+0]") == "fit"


def test_a_hundred_thousand_keys_are_refused_before_they_are_parsed():
    raw = b"{" + b",".join(b'"%d":0' % number for number in range(100_000)) + b"}"
    assert verdict(raw) == "more than 40000 members"
    assert verdict(b'["' + b":" * 100_000 + b'"]') == "fit"


@pytest.mark.requirement("limit.json")
@pytest.mark.parametrize("raw", [b'{"a":1,"a":1}', b'[{"x":{"a":1,"\\u0061":2}}]'])
def test_duplicate_keys_are_found_at_any_level(raw):
    with pytest.raises(BridgeError, match="duplicate key at line 1 column"):
        strict.check_duplicates(raw)


def test_the_same_key_in_two_objects_is_no_duplicate():
    strict.check_duplicates(b'[{"a":1},{"a":1},{"b":{"a":1},"a":1}]')


@pytest.mark.parametrize("raw", [b"[NaN]", b"[Infinity]", b"[-Infinity]", b'["\\ud800"]', b"[1,]", b"\x00", b""])
def test_the_complete_check_takes_nothing_but_json(raw):
    with pytest.raises(BridgeError):
        strict.check_duplicates(raw)


HOSTILE = {
    "open arrays": b"[" * 1_048_576,
    "open objects": b'{"a":' * 209_715,
    "quotes": b'"' * 1_048_576,
    "backslashes": b"\\" * 1_048_576,
    "quoted brackets": b'"["]' * 262_144,
    "deep and balanced": b"[" * 99_999 + b"]" * 99_999,
    "saw": (b"[" * 60 + b"]" * 60) * 1660,
    "digits": b"[" + b"1" * 1_048_574 + b"]",
    "digits and strings": b"[" + b"1" * 64 + b',"",' * 262_000 + b"0]",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_mebibyte_made_to_hurt_is_judged_without_recursion(name):
    verdict(HOSTILE[name])


@given(
    st.recursive(st.text('[]{}"\\ab', max_size=6) | st.integers(), lambda inner: st.lists(inner, max_size=4)), st.integers(0, 8)
)
def test_depth_is_what_a_parser_counts(value, max_depth):
    def depth(value) -> int:
        return 1 + max(map(depth, value), default=0) if isinstance(value, list) else 0

    for separators in ((",", ":"), (", ", ": ")):
        raw = json.dumps(value, separators=separators).encode()
        assert (verdict(raw, max_depth=max_depth) == "fit") == (depth(value) <= max_depth)


@given(st.lists(st.text('0123456789.eE+-"\\ ', max_size=90) | st.integers(-(10**70), 10**70), max_size=4))
def test_numbers_are_measured_outside_strings(values):
    raw = json.dumps(values).encode()
    longest = max((len(re.sub(r"\D", "", str(value))) for value in values if isinstance(value, int)), default=0)
    assert (verdict(raw) == "fit") == (longest <= 64)


def test_the_parser_behind_the_complete_check_has_the_options_it_is_trusted_for():
    with pytest.raises(ValueError, match="duplicate"):
        jiter.from_json(b'{"a":{"b":1,"b":2}}', catch_duplicate_keys=True, allow_inf_nan=False, cache_mode="keys")
