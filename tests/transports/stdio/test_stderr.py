"""stderr of a child: bytes in, lines out."""

from hypothesis import given
from hypothesis import strategies as st

from mcpbridge.transports.stdio.stderr import MAX_LINE, RING, StderrLines


def test_complete_lines_come_out_and_the_rest_waits_for_its_newline():
    lines = StderrLines()
    assert lines.feed(b"one\ntw", 0.0) == ["one"]
    assert lines.feed(b"o\r\n\n", 0.0) == ["two"]
    assert lines.end() == []


def test_the_end_shows_a_last_line_without_newline():
    lines = StderrLines()
    lines.feed(b"half", 0.0)
    assert lines.end() == ["half"]
    assert lines.end() == []


def test_a_flood_is_counted_and_the_count_is_told_when_there_is_room_again():
    lines = StderrLines(burst=2, rate=1.0)
    assert lines.feed(b"a\nb\nc\nd\n", 0.0) == ["a", "b"]
    assert lines.feed(b"e\n", 0.5) == []
    assert lines.feed(b"f\n", 2.0) == ["(lines left out: 3)", "f"]


def test_the_count_of_a_flood_is_told_at_the_end():
    lines = StderrLines(burst=1, rate=0.0)
    assert lines.feed(b"a\nb\nlast", 0.0) == ["a"]
    assert lines.end() == ["(lines left out: 1)", "last"]


def test_one_endless_line_takes_no_memory():
    lines = StderrLines()
    for _ in range(100):
        assert lines.feed(b"x" * 10_000, 0.0) == []
    assert lines.feed(b"\nnext\n", 0.0) == ["x" * MAX_LINE, "next"]
    assert len(lines.tail()) == RING


def test_the_last_line_is_the_one_that_says_something():
    lines = StderrLines()
    assert lines.last() == ""
    lines.feed(b"Traceback:\n  File x\nValueError: no key\n\n  \n", 0.0)
    assert lines.last() == "ValueError: no key"


def test_nodes_version_is_not_the_cause_of_its_crash():
    lines = StderrLines()
    lines.feed(b"Error: Cannot find module 'x'\n\nNode.js v22.1.0\n", 0.0)
    assert lines.last() == "Error: Cannot find module 'x'"


def test_secrets_and_escapes_stay_out_of_the_last_line():
    lines = StderrLines()
    lines.feed(b"\x1b[31mbad api_key=hunter2hunter2\x1b[0m\n", 0.0)
    assert "hunter2" not in lines.last()
    assert "\x1b" not in lines.last()


@given(st.lists(st.sampled_from(["a", "bb", "ccc"]), max_size=20), st.data())
def test_any_chunking_shows_the_same_lines(words, data):
    raw = "".join(word + "\n" for word in words).encode()
    lines, shown, at = StderrLines(burst=1000), [], 0
    while at < len(raw):
        step = data.draw(st.integers(1, 5))
        shown += lines.feed(raw[at : at + step], 0.0)
        at += step
    assert shown == words
