"""Chunked bodies in any pieces, within bounds, as h11 reads them."""

from __future__ import annotations

import h11
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcpbridge.wire.chunked import LAST_CHUNK, MAX_OVERHEAD, ChunkedBody, encode_chunk
from mcpbridge.wire.http1 import HttpError


def decode(raw: bytes, step: int = 0, *, limit: int | None = None, response: bool = False) -> tuple[bytes, bool, bytes]:
    body = ChunkedBody(limit, response=response)
    out = b""
    step = step or max(1, len(raw))
    for at in range(0, len(raw), step):
        out += b"".join(body.feed(raw[at : at + step]))
        if body.done:
            return out, True, body.rest + raw[at + step :]
    return out, False, b""


WHOLE = {
    b"5\r\nhello\r\n0\r\n\r\n": b"hello",
    b"0\r\n\r\n": b"",
    b"3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n": b"abcde",
    b"A\r\n0123456789\r\n00\r\n\r\n": b"0123456789",
    b'0003;a=b;c="d"\r\nabc\r\n0;x\r\n\r\n': b"abc",
    b"1; a\r\nx\r\n0\r\nX-Trailer: 1\r\nY: \r\n\r\n": b"x",
    b"4\r\n\r\n0\r\r\n0\r\n\r\n": b"\r\n0\r",
}


@pytest.mark.parametrize("raw", WHOLE)
@pytest.mark.parametrize("step", [1, 2, 3, 1000])
@pytest.mark.parametrize("response", [False, True])
def test_a_body_is_put_together_and_what_follows_is_kept(raw, step, response):
    assert decode(raw + b"GET /", step, response=response) == (WHOLE[raw], True, b"GET /")


BROKEN = [
    b"\r\n",
    b"g\r\n",
    b"-1\r\nx\r\n",
    b"+1\r\nx\r\n",
    b"0x1\r\nx\r\n",
    b" 1\r\nx\r\n",
    b"1 \r\nx\r\n",
    b"1 ;a\r\nx\r\n",
    b"1\t;a\r\nx\r\n",
    b"1_0\r\n",
    b"1\nx\r\n0\r\n\r\n",
    b"1\rx\r\n",
    b"1\r\nx\n0\r\n\r\n",
    b"1\r\nxy\r\n0\r\n\r\n",
    b"1\r\nx0\r\n\r\n",
    b"2\r\nx\r\n0\r\n\r\n",
    b"1;a\nb\r\nx\r\n0\r\n\r\n",
    b"1;\x00\r\nx\r\n",
    b"1;a\rb\r\nx\r\n",
    b"11111111111111111\r\n",
    b"0\r\nX : 1\r\n\r\n",
    b"0\r\n folded\r\n\r\n",
    b"0\r\nX: 1\nY: 2\r\n\r\n",
    b"0\r\nno colon\r\n\r\n",
    b"0\r\nGET / HTTP/1.1\r\n\r\n",
    b"0\n\n",
    b"\xef\xbc\x95\r\nhello\r\n",
    b"5" + b";" + b"a" * MAX_OVERHEAD + b"\r\nhello\r\n0\r\n\r\n",
    b"0\r\n" + b"X: 1\r\n" * 3000 + b"\r\n",
    b"5;" + b"a" * (MAX_OVERHEAD + 1),
]


@pytest.mark.security
@pytest.mark.parametrize("raw", BROKEN)
@pytest.mark.parametrize("step", [1, 1000])
@pytest.mark.parametrize("response", [False, True])
def test_doubtful_framing_is_refused(raw, step, response):
    with pytest.raises(HttpError) as caught:
        decode(raw, step, response=response)
    assert caught.value.status == 400


def test_a_request_body_over_the_limit_is_refused_at_the_size_line_already():
    assert decode(b"3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n", limit=5) == (b"abcde", True, b"")
    body = ChunkedBody(5)
    assert body.feed(b"3\r\nabc\r\n") == [b"abc"]
    with pytest.raises(HttpError) as caught:
        body.feed(b"3\r\n")
    assert caught.value.status == 413


def test_tiny_chunks_use_up_the_framing_of_a_request_but_not_of_an_event_stream():
    chunk = encode_chunk(b"x")
    assert decode(chunk * 4000 + LAST_CHUNK, response=True) == (b"x" * 4000, True, b"")
    with pytest.raises(HttpError):
        decode(chunk * 4000 + LAST_CHUNK)


def test_extensions_use_up_the_framing_of_an_event_stream():
    with pytest.raises(HttpError):
        decode(b"1;abcdefgh\r\nx\r\n" * 3000 + LAST_CHUNK, response=True)
    with pytest.raises(HttpError):
        decode(b"00000001\r\nx\r\n" * 3000 + LAST_CHUNK, response=True)


@given(st.lists(st.binary(min_size=1, max_size=40), max_size=10), st.integers(1, 50), st.booleans())
def test_any_pieces_give_the_same_body(chunks, step, response):
    raw = b"".join(encode_chunk(chunk) for chunk in chunks) + LAST_CHUNK
    assert decode(raw, step, response=response) == (b"".join(chunks), True, b"")


_parts = st.sampled_from([b"1", b"2", b"a", b"0", b"\r\n", b"\n", b";x", b"xy", b"x", b" ", b"\r", b"X: 1", b"-1", b"00"])


@given(st.lists(_parts, max_size=14).map(b"".join), st.integers(1, 5))
def test_what_is_accepted_is_read_as_h11_reads_it(raw, step):
    try:
        body, done, rest = decode(raw, step)
    except HttpError:
        return
    connection = h11.Connection(h11.SERVER)
    connection.receive_data(b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n" + raw)
    theirs = b""
    connection.next_event()
    while isinstance(event := connection.next_event(), h11.Data):
        theirs += event.data
    if done:
        assert isinstance(event, h11.EndOfMessage)
        assert theirs == body
        assert connection.trailing_data[0] == rest
    else:
        assert event is h11.NEED_DATA
        assert theirs == body
