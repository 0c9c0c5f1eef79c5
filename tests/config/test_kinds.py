"""How values are written: durations, sizes, booleans, URLs, addresses."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcpbridge.config import kinds
from mcpbridge.config.kinds import FILE_MODE, parse_bool, parse_duration, parse_size


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("5s", 5.0),
        ("1m30s", 90.0),
        ("500ms", 0.5),
        ("5m", 300.0),
        ("2h", 7200.0),
        ("7d", 604800.0),
        ("300", 300.0),
        ("0", 0.0),
        ("1.5s", 1.5),
        (" 5s ", 5.0),
        ("1h2m3s4ms", 3723.004),
    ],
)
def test_a_duration_is_seconds(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


def test_a_bare_number_counts_in_the_unit_of_the_key() -> None:
    assert parse_duration("5000", 0.001) == 5.0
    assert parse_duration("5s", 0.001) == 5.0


@pytest.mark.parametrize("text", ["", "s", "5x", "5 s", "-5s", "1e3", "nan", "inf", "5s5", "1m 30s", "99999999999999", "٥s"])
def test_what_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="duration"):
        parse_duration(text)


@given(st.integers(0, 59), st.integers(0, 59), st.integers(0, 999))
def test_parts_of_a_duration_add_up(minutes: int, seconds: int, milliseconds: int) -> None:
    total = minutes * 60 + seconds + milliseconds / 1000
    assert math.isclose(parse_duration(f"{minutes}m{seconds}s{milliseconds}ms"), total, abs_tol=1e-6)


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("1048576", 1 << 20),
        ("10MiB", 10 << 20),
        ("64KiB", 65536),
        ("64Ki", 65536),
        ("64k", 64000),
        ("1GB", 10**9),
        ("1.5KiB", 1536),
        ("10 MiB", 10 << 20),
        ("7B", 7),
    ],
)
def test_a_size_is_bytes(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "MiB", "-1", "1.5", "0.3KiB", "10XB", "1e9", "9999999GiB"])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="bytes"):
        parse_size(text)


@pytest.mark.requirement("env.bool")
@pytest.mark.parametrize(
    ("word", "value"),
    [("true", True), ("1", True), ("yes", True), ("on", True), ("false", False), ("0", False), ("no", False), ("off", False)],
)
def test_all_eight_spellings_of_a_boolean_in_any_case(word: str, value: bool) -> None:
    assert [parse_bool(spelling) for spelling in (word, word.upper(), word.title())] == [value] * 3


@pytest.mark.parametrize("text", ["", "2", "y", "tru", "enabled"])
def test_other_words_are_no_booleans(text: str) -> None:
    with pytest.raises(ValueError, match="true or false"):
        parse_bool(text)


@pytest.mark.parametrize("text", ["http://localhost:8080/mcp", "https://a.example/x?y=1", "http://[::1]:80/"])
def test_a_url_passes_unchanged(text: str) -> None:
    assert kinds.URL.parse(text) == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "localhost:80",
        "ftp://x/",
        "ws://x/",
        "http://",
        "http:///x",
        "http://x:0/",
        "http://x:99999/",
        "http://a b/",
        "http://u:p@x/",
        "http://x/#f",
        "http://x/\r\nA: b",
        "http://[::1/",
    ],
)
def test_what_is_no_usable_url_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="URL"):
        kinds.URL.parse(text)


@pytest.mark.parametrize(
    ("text", "parts"), [("127.0.0.1:9090", ("127.0.0.1", 9090)), ("[::1]:80", ("::1", 80)), (":80", ("", 80))]
)
def test_host_and_port_are_split(text: str, parts: tuple[str, int]) -> None:
    assert kinds.split_host_port(kinds.HOST_PORT.parse(text)) == parts


@pytest.mark.parametrize("text", ["9090", "x", "x:", "x:y", "x:70000", "::1:80", "a b:80", "x:٨"])
def test_what_is_no_host_and_port_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="host:port"):
        kinds.HOST_PORT.parse(text)


def test_bounds_say_what_is_possible() -> None:
    with pytest.raises(ValueError, match=r"^between 1 and 5$"):
        kinds.integer(1, 5).parse("6")
    with pytest.raises(ValueError, match=r"^at least 1$"):
        kinds.COUNT.parse("0")
    with pytest.raises(ValueError, match=r"^at most 8$"):
        kinds.integer(None, 8).parse("9")
    assert kinds.integer(1, 5).parse("1_0".replace("_0", "")) == 1


@pytest.mark.parametrize("text", ["1.0", "0x10", "", "ten", "1" * 40])
def test_what_is_no_whole_number_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="whole number"):
        kinds.COUNT.parse(text)


def test_warning_is_a_spelling_of_warn() -> None:
    assert [kinds.LEVEL.parse(word) for word in ("trace", "warning", "warn")] == ["trace", "warn", "warn"]
    with pytest.raises(ValueError, match="trace, debug, info, warn or error"):
        kinds.LEVEL.parse("loud")


@pytest.mark.parametrize(("text", "mode"), [("0660", "0660"), ("660", "0660"), ("0o600", "0600"), (" 0666 ", "0666")])
def test_a_file_mode_is_octal_however_it_is_written(text: str, mode: str) -> None:
    assert FILE_MODE.parse(text) == mode


@pytest.mark.parametrize("text", ["", "66", "0990", "06600", "rw-rw----"])
def test_what_is_no_file_mode_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="file mode"):
        FILE_MODE.parse(text)
