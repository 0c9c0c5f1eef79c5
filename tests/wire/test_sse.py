"""Server-sent events in any pieces and with any line ends."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcpbridge.errors import BridgeError
from mcpbridge.wire.sse import SseEvent, SseParser, comment, encode_event


def message(data: bytes, id: str | None = None, retry: int | None = None, event: str = "message") -> SseEvent:
    return SseEvent(event, data, id, retry)


STREAMS = {
    b"data: a\n\n": [message(b"a")],
    b"data:a\n\n": [message(b"a")],
    b"data:  a \n\n": [message(b" a ")],
    b"data\n\n": [message(b"")],
    b"data:\n\n": [message(b"")],
    b"data: a\ndata: b\n\n": [message(b"a\nb")],
    b"data: a\ndata\ndata: b\n\n": [message(b"a\n\nb")],
    b"data: a\n\ndata: b\n\n": [message(b"a"), message(b"b")],
    b"data: a\n\n\n\n\ndata: b\n\n": [message(b"a"), message(b"b")],
    b"\n\n\ndata: a\n\n": [message(b"a")],
    b"event: endpoint\ndata: /messages?s=1\n\n": [message(b"/messages?s=1", event="endpoint")],
    b"event:\ndata: a\n\n": [message(b"a")],
    b"event: ping\n\n": [],
    b": comment\n\n": [],
    b":\ndata: a\n:x\n\n": [message(b"a")],
    b"id: 7\ndata:\n\n": [message(b"", "7")],
    b"id: 7\n\n": [message(b"", "7")],
    b"id\ndata: a\n\n": [message(b"a", "")],
    b"id: a\x00b\ndata: a\n\n": [message(b"a")],
    b"retry: 1500\n\n": [message(b"", retry=1500)],
    b"retry: 1s\ndata: a\n\n": [message(b"a")],
    b"retry: 99999999999999\ndata: a\n\n": [message(b"a")],
    b"unknown: 1\ndata: a\n\n": [message(b"a")],
    b"Data: a\n\n": [],
    b"dataset: a\n\n": [],
    b"data: a:b: c\n\n": [message(b"a:b: c")],
    "data: é😀\n\n".encode(): [message("é😀".encode())],
    b"\xef\xbb\xbfdata: a\n\n": [message(b"a")],
    b"data: \xef\xbb\xbfa\n\n": [message(b"\xef\xbb\xbfa")],
    b"data: a": [],
    b"data: a\n": [],
    b"": [],
}


@pytest.mark.parametrize("raw", STREAMS)
@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
@pytest.mark.parametrize("step", [1, 2, 3, 1000])
def test_events_are_read_with_every_line_end_and_in_any_pieces(raw, end, step):
    text = raw.replace(b"\n", end)
    parser = SseParser()
    found = [event for at in range(0, len(text), step) for event in parser.feed(text[at : at + step])]
    assert found == STREAMS[raw]


def test_an_event_is_out_with_its_empty_line_and_not_later():
    parser = SseParser()
    assert parser.feed(b"data: a\r") == []
    assert parser.feed(b"\n") == []
    assert parser.feed(b"\r") == [message(b"a")]
    assert parser.feed(b"\ndata: b\r\r") == [message(b"b")]


def test_mixed_line_ends_are_read():
    assert SseParser().feed(b"data: a\r\ndata: b\rdata: c\n\r\n") == [message(b"a\nb\nc")]


def test_an_event_at_the_limit_passes_and_one_beyond_is_refused():
    for step in (1, 100):
        parser = SseParser(10)
        raw = b"data: 1234\n\n" * 3 + b"\n\ndata: 5678\n\n"
        found = [event for at in range(0, len(raw), step) for event in parser.feed(raw[at : at + step])]
        assert found == [message(b"1234")] * 3 + [message(b"5678")]
    for before in (b"", b"data: a\n\n"):
        with pytest.raises(BridgeError) as caught:
            SseParser(10).feed(before + b"data: 12345\n\n")
        assert caught.value.reason == "answer_too_large"


def test_an_event_that_never_ends_is_refused_while_it_grows():
    parser = SseParser(1000)
    for _ in range(9):
        assert parser.feed(b"data: " + b"x" * 100 + b"\n") == []
    with pytest.raises(BridgeError):
        parser.feed(b"data: " + b"x" * 100 + b"\n")


@pytest.mark.parametrize(
    ("fields", "raw"),
    [
        ({}, b"data: x\n\n"),
        ({"event": "message", "id": "7", "retry": 5}, b"event: message\nid: 7\nretry: 5\ndata: x\n\n"),
    ],
)
def test_events_are_written(fields, raw):
    assert encode_event(b"x", **fields) == raw


def test_comments_are_written_and_skipped():
    assert comment() == b": \n\n"
    assert SseParser().feed(comment("keep-alive") + encode_event(b"x")) == [message(b"x")]


@pytest.mark.security
@pytest.mark.parametrize("value", ["a\nb", "a\rb", "a\x00b"])
def test_a_field_that_would_forge_another_is_refused(value):
    with pytest.raises(ValueError):
        encode_event(b"", id=value)
    with pytest.raises(ValueError):
        encode_event(b"", event=value)
    with pytest.raises(ValueError):
        comment(value)


_word = st.text(st.characters(exclude_characters="\r\n\x00", exclude_categories=["Cs"]), max_size=8)
_events = st.tuples(
    st.binary(max_size=30), st.none() | _word.filter(bool), st.none() | _word, st.none() | st.integers(0, 10**9)
)


@given(st.lists(_events, max_size=6), st.integers(1, 20))
def test_written_events_read_back_equal_in_any_pieces(events, step):
    raw = b"".join(encode_event(data, event=event, id=id, retry=retry) for data, event, id, retry in events)
    parser = SseParser()
    found = [event for at in range(0, len(raw), step) for event in parser.feed(raw[at : at + step])]
    assert found == [
        message(data.replace(b"\r\n", b"\n").replace(b"\r", b"\n"), id, retry, event or "message")
        for data, event, id, retry in events
    ]
