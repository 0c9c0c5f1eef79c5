from __future__ import annotations

import unicodedata

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcpbridge.admin import text
from mcpbridge.observe.snapshot import Snapshot
from tests.tui.pictures import make_healthy, make_outage


@given(st.text())
def test_cleaned_text_is_one_line_without_control_or_direction_characters(raw: str):
    line = text.clean(raw)
    assert {unicodedata.category(c) for c in line}.isdisjoint({"Cc", "Cf", "Cs", "Zl", "Zp"})
    assert text.clean(raw, plain=True).isascii()


def test_names_in_any_script_stay_readable():
    assert text.clean("Grüße an 東京 ✓") == "Grüße an 東京 ✓"


@pytest.mark.parametrize(
    ("value", "shown"), [(None, "–"), (0.0, "0.0"), (12.44, "12.4"), (395.5, "395.5"), (999.96, "1,000"), (1284.1, "1,284")]
)
def test_rates(value: float | None, shown: str):
    assert text.rate(value) == shown


@pytest.mark.parametrize(
    ("value", "shown"), [(None, "–"), (0.124, "0.12"), (0.996, "1.0"), (3.14, "3.1"), (99.96, "100"), (1410.0, "1,410")]
)
def test_milliseconds(value: float | None, shown: str):
    assert text.milliseconds(value) == shown


@pytest.mark.parametrize(("value", "shown"), [(None, "–"), (0.0, "0.00"), (0.0021, "0.21"), (0.12, "12.0"), (1.0, "100.0")])
def test_percentages(value: float | None, shown: str):
    assert text.percent(value) == shown


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(-3.0, "0s"), (4.9, "4s"), (252, "4m 12s"), (3 * 3600 + 300, "3h 05m"), (6 * 86400 + 4 * 3600 + 59, "6d 4h")],
)
def test_durations_have_two_units_at_most(seconds: float, shown: str):
    assert text.duration(seconds) == shown


def test_the_error_rate_is_weighted_by_calls():
    assert text.error_rate(make_healthy()) == pytest.approx(888.6 * 0.0004 / 1284.1)


@pytest.mark.parametrize(("status", "code"), [("ok", 0), ("degraded", 1), ("starting", 1), ("draining", 1), ("down", 2)])
def test_the_exit_code_tells_the_state(status: str, code: int):
    assert text.exit_code(msgspec.structs.replace(make_healthy(), status=status)) == code


def test_the_report_has_everything_with_problems_first_and_causes_in_full():
    lines = text.report(make_outage(), url="http://127.0.0.1:8443")
    assert lines[0] == (
        "mcpbridge gateway gw-0 1.0.0   ▲ degraded   up 6d 4h   550.9 calls/s   212 sessions (memory)   http://127.0.0.1:8443"
    )
    assert lines[1:3] == ["  sse: no healthy backend", "  stdio: git/0 down"]
    backends = lines[lines.index(next(line for line in lines if line.startswith("BACKEND"))) + 1 :][:7]
    assert [line.split()[0] for line in backends[:4]] == ["events/0", "git/0", "api/1", "team-a:memory/0"]
    assert backends[1].endswith(
        "exited with code 1: fatal: not a git repository: '/srv/repo' · 7 failures in a row · breaker open"
    )
    assert lines[-1] == "14:02:19  error  stdio/git: exited with code 1: fatal: not a git repository"


def test_columns_of_the_report_line_up():
    lines = text.report(make_outage(), plain=True)
    start = next(i for i, line in enumerate(lines) if line.startswith("PROTOCOL"))
    place = lines[start].index("STATE")
    assert [line[place : place + 2] for line in lines[start + 1 : start + 6]] == ["! ", "+ ", "! ", "x ", "- "]


def test_a_report_for_an_ascii_terminal_is_ascii():
    assert "\n".join(text.report(make_outage(), plain=True)).isascii()


def test_terminal_codes_never_reach_the_terminal():
    picture = make_outage()
    bad = msgspec.structs.replace(picture.backends[0], endpoint="\x1b[2Jx/0", reason="a\x9bb\nc", state="down")
    evil = msgspec.structs.replace(picture, backends=(bad,), instance="\x1b]0;x\x07", reasons=("r\x08\u202e",))
    for line in text.report(evil):
        assert line.isprintable(), line


def test_without_servers_it_says_so():
    assert "no servers configured" in text.report(msgspec.structs.replace(make_healthy(), backends=()))


def test_an_unreachable_gateway_is_named_with_cause_and_next_step():
    assert text.unreachable("http://h:1", "connection refused") == [
        "✖ http://h:1 unreachable: connection refused",
        "  is it running? start one with: mcpbridge gateway",
    ]


def test_times_that_are_none_are_no_reason_to_fail():
    assert text.clock("garbage\x1b[2J") == "garbage["
    assert text.seconds_between("x", "y") is None
    assert text.seconds_between("2026-11-23T14:02:30Z", "2026-11-23T14:02:30") is None


def test_the_words_are_those_of_the_document():
    snapshot: Snapshot = make_outage()
    assert {p.state for p in snapshot.protocols} <= set(text.MARKS)
