"""The least of WebSocket: frames against the library that conversations use, and the handshake's example."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcpbridge.wire.http1 import Headers
from mcpbridge.wire.websocket import TextReader, accept_of, close_frame, is_accepted, text_frame, upgrade


def test_the_accept_key_is_that_of_the_rfc():
    assert accept_of("dGhlIHNhbXBsZSBub25jZQ==") == "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="


@pytest.mark.parametrize(
    ("changed", "accepted"),
    [({}, True), ({"sec-websocket-accept": "x"}, False), ({"upgrade": "h2c"}, False), ({"sec-websocket-protocol": "mcp"}, True),
     ({"sec-websocket-protocol": "chat"}, False), ({"sec-websocket-extensions": "permessage-deflate"}, False)],
)  # fmt: skip
def test_only_the_answer_to_our_own_upgrade_counts(changed, accepted):
    fields = {"upgrade": "websocket", "sec-websocket-accept": accept_of("k"), **changed}
    assert is_accepted(Headers(fields), "k") is accepted


def frame(first, payload):
    length = len(payload)
    if length < 126:
        return bytes((first, length)) + payload
    return bytes((first, 126)) + length.to_bytes(2, "big") + payload


@given(st.lists(st.binary(max_size=300), max_size=4), st.integers(1, 50))
def test_messages_come_out_whole_however_they_were_cut(messages, step):
    data = b"".join(frame(0x01, m[:2]) + frame(0x89, b"ping") + frame(0x80, m[2:]) for m in messages)
    reader = TextReader(1000)
    assert [m for at in range(0, len(data), step) for m in reader.feed(data[at : at + step])] == messages
    assert not reader.ended


@pytest.mark.parametrize(
    "data",
    [b"\x82\x01x", b"\x81\x81\x00\x00\x00\x00x", b"\xc1\x01x", b"\x80\x01x", b"\x01\x01x\x01\x01y", b"\x88\x00", b"\x83\x00",
     b"\x81\x7f\xff\xff\xff\xff\xff\xff\xff\xff", b"\x81\x7e\x04\x00"],
)  # fmt: skip
def test_binary_masked_reserved_stray_closing_and_oversized_frames_end_it(data):
    reader = TextReader(1000)
    assert reader.feed(data) == []
    assert reader.ended


def test_our_frames_are_masked_and_final():
    raw = text_frame(b"hello", b"\x01\x02\x03\x04")
    assert raw[:6] == b"\x81\x85\x01\x02\x03\x04" and bytes(b ^ raw[2 + i % 4] for i, b in enumerate(raw[6:])) == b"hello"
    assert len(text_frame(b"x" * 300, b"abcd")) == 300 + 8 and len(text_frame(b"x" * 70_000, b"abcd")) == 70_000 + 14
    assert close_frame(b"\0\0\0\0") == b"\x88\x82\0\0\0\0\x03\xe8"
    assert b"authorization" not in upgrade("/ws", "a:1", "k", "t").lower()
