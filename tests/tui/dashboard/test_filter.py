from __future__ import annotations

import pytest

from mcpbridge.observe.snapshot import Snapshot
from tui.dashboard.filter import BadFilter, parse_filter
from tui.dashboard.rows import BACKEND_COLUMNS, backend_rows


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("state:down", {"events/0", "git/0"}),
        ("!state:ok", {"api/1", "events/0", "git/0", "team-a:memory/0"}),
        ("state:down stdio", {"git/0"}),
        ("10.0.4.", {"weather/0"}),
        ("REFUSED", {"events/0"}),
        ("http://10.0.4.9", {"weather/0"}),
        ("nothing-like-this", set()),
    ],
)
def test_a_filter_keeps_the_backends_that_match_all_its_terms(outage: Snapshot, line: str, expected: set[str]):
    accept = parse_filter(line, BACKEND_COLUMNS)
    assert {row.cells[0].text for row in backend_rows(outage).values() if accept(row)} == expected


@pytest.mark.parametrize(
    ("line", "why"), [("colour:red", "no column colour; there are backend, state"), ("!", "after !"), ("state:", "state:")]
)
def test_a_bad_filter_says_what_is_wrong(line: str, why: str):
    with pytest.raises(BadFilter, match=why):
        parse_filter(line, BACKEND_COLUMNS)
