from __future__ import annotations

from collections.abc import Sequence

import msgspec
import pytest

from mcpbridge.observe.snapshot import Snapshot
from tui.dashboard import lines
from tui.widgets.lines import Line


def text(made: Sequence[Line]) -> str:
    return "\n".join(" | ".join("".join(c.text for c in part) for part in line if part) for line in made)


@pytest.mark.parametrize(
    ("age", "shown", "tone"),
    [
        (None, "no data yet ", "muted"),
        (0.44, "0.4s old ", "muted"),
        (3.1, "3.1s old ", "warn"),
        (10.2, "10s old ", "bad"),
        (3700, "1h 01m old ", "bad"),
    ],
)
def test_the_age_of_the_picture_is_always_there_and_turns_amber_and_red(
    healthy: Snapshot, age: float | None, shown: str, tone: str
):
    line = lines.head(healthy, "http://h:1", lines.Freshness(age, 1.0), plain=False)
    assert line.right[-1] == (shown, tone)


def test_the_head_says_who_it_is_and_how_it_is(outage: Snapshot):
    line = lines.head(outage, "http://h:1", lines.Freshness(0.0, 1.0), plain=False)
    assert text([line]) == " mcpbridge 1.0.0  gateway gw-0  http://h:1 | ▲ degraded   0.0s old "


def test_a_state_from_before_the_loss_is_not_shown_as_the_present_one(healthy: Snapshot):
    line = lines.head(healthy, "http://h:1", lines.Freshness(7.0, 1.0, lost=True), plain=False)
    assert ("was ● ok   ", "muted") in line.right


def test_the_banner_says_since_when_why_and_when_it_tries_again():
    outage = lines.Outage(1795442591.0, "connection refused", 1795442599.0)
    assert text([lines.banner(outage, 1795442595.2, plain=False)]) == (
        "✖ gateway unreachable since 14:03:11: connection refused | retry in 4 s (r now) "
    )
    assert "retrying ..." in text([lines.banner(outage, 1795442600.0, plain=False)])


def test_calls_per_second_is_the_sum_of_what_was_measured(healthy: Snapshot):
    assert "calls/s 1,284" in text([lines.figures(healthy, [], 80, plain=False)])


def test_nothing_measured_is_a_dash_and_not_zero(healthy: Snapshot):
    silent = tuple(msgspec.structs.replace(p, requests_per_sec=None, error_rate=None) for p in healthy.protocols)
    line = text([lines.figures(msgspec.structs.replace(healthy, protocols=silent), [], 80, plain=False)])
    assert "calls/s –" in line
    assert "errors –" in line


def test_what_needs_somebody_names_cause_and_duration_worst_first(outage: Snapshot):
    told = text(lines.problems(outage, 60, plain=False))
    assert told.startswith("✖ events/0 | down 4m 12s\n  connection refused · 3 failures in a row · breaker open\n✖ git/0")
    assert "▲ api/1 | degraded 2m 19s" in told
    assert "everything" not in told


def test_a_reason_that_no_backend_explains_is_told(healthy: Snapshot):
    alone = msgspec.structs.replace(healthy, reasons=("session store: unreachable",))
    assert text(lines.problems(alone, 60, plain=False)) == "▲ session store: unreachable"


def test_nothing_to_do_is_said(healthy: Snapshot):
    assert text(lines.problems(healthy, 60, plain=False)) == "● nothing"


def test_many_problems_are_counted(outage: Snapshot):
    many = msgspec.structs.replace(outage, backends=(outage.backends[4],) * 9, reasons=())
    assert text(lines.problems(many, 60, plain=False)).endswith("  and 3 more")


def test_the_selected_backend_shows_everything_the_document_says(outage: Snapshot):
    told = text(lines.selected(outage.backends[3], outage, 60, plain=False))
    for part in (
        "api/1",
        "http · modern 2026-07-28",
        "http://10.0.4.17:9000/mcp",
        "38 · breaker half open",
        "p50 310 · p95 880",
    ):
        assert part in told


def test_a_small_window_lists_problems_first(outage: Snapshot):
    told = text(lines.compact(outage, (50, 12), (60, 15), plain=True))
    assert told.startswith(" Window 50x12: make it 60x15 or larger\n 550.9 calls/s  4 of 7 usable, 7 servers\n x events/0")
