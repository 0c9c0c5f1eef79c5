from __future__ import annotations

import msgspec

from mcpbridge.observe.snapshot import Event, Snapshot
from tui.dashboard.rows import attention_order, backend_rows, event_rows, key, protocol_rows


def texts(row: object) -> list[str]:
    return [cell.text for cell in row.cells]  # type: ignore[attr-defined]


def test_every_protocol_has_a_row_and_what_was_not_measured_is_a_dash(outage: Snapshot):
    table = {row.key: texts(row) for row in protocol_rows(outage)}
    assert list(table) == ["stdio", "websocket", "http", "sse", "tcp_binary"]
    assert table["http"] == ["http", "▲ degraded", "2/2", "3", "155.4", "31.0", "88.0", "410", "1.60", "api/1 is slow"]
    assert table["tcp_binary"] == ["tcp_binary", "○ disabled", "–", "–", "–", "–", "–", "–", "–", ""]


def test_a_protocol_that_is_well_shows_where_it_listens(healthy: Snapshot):
    assert [row.cells[-1] for row in protocol_rows(healthy) if row.key == "http"] == [("127.0.0.1:8443", "muted")]


def test_a_sick_backend_shows_its_cause_and_since_when(outage: Snapshot):
    row = backend_rows(outage)["default\0events\0events/0"]
    assert texts(row) == [
        "events/0",
        "✖ down",
        "sse",
        "–",
        "0",
        "–",
        "–",
        "4m 12s",
        "connection refused · 3 failures in a row · breaker open",
    ]


def test_an_ascii_terminal_gets_ascii_glyphs(outage: Snapshot):
    assert texts(backend_rows(outage, plain=True)["default\0events\0events/0"])[1] == "x down"


def test_problems_come_first_and_the_order_of_the_document_is_kept(outage: Snapshot):
    order = [name.split("\0")[2] for name in attention_order(outage, [], resort=True)]
    assert order == ["events/0", "git/0", "api/1", "memory/0", "everything/0", "filesystem/0", "weather/0"]


def test_rows_keep_their_places_until_they_may_be_sorted_again(healthy: Snapshot, outage: Snapshot):
    before = attention_order(healthy, [], resort=True)
    held = attention_order(outage, before, resort=False)
    assert held[:3] == before
    assert set(held) == {key(b) for b in outage.backends}
    fewer = msgspec.structs.replace(outage, backends=outage.backends[1:])
    assert attention_order(fewer, held, resort=False) == held[1:]


def test_events_come_newest_first_and_equal_ones_have_keys_of_their_own(healthy: Snapshot):
    event = Event("2026-11-23T14:02:19.000Z", "error", "x", "boom", "http", "api")
    rows = event_rows([*healthy.events, event, event])
    assert [texts(row) for row in rows[:2]] == [["14:02:19", "✖ http/api: boom"]] * 2
    assert len({row.key for row in rows}) == 4


def test_terminal_codes_in_names_and_messages_are_not_shown(outage: Snapshot):
    bad = msgspec.structs.replace(outage.backends[0], endpoint="a\x1b[2J\x9b31m/0\u202e", reason="x\r\n\ty\x07", state="down")
    row = next(iter(backend_rows(msgspec.structs.replace(outage, backends=(bad,))).values()))
    assert texts(row)[0] == "a[2J31m/0"
    assert texts(row)[-1] == "x y"
    event = Event("not a time\x1b[H", "info", "x", "\x1b]0;owned\x07 done")
    assert texts(event_rows([event])[0]) == ["not a ti", "· ]0;owned done"]
