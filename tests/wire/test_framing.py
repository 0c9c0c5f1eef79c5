"""Lines from chunks: the same ones however the bytes are cut, in bounded memory."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from mcpbridge.wire.framing import ENDLESS, HEAD, LineFramer, Overlong


def framed(chunks, max_message=10):
    framer = LineFramer(max_message)
    return [line for chunk in chunks for line in framer.feed(chunk)] + framer.end()


def expected(stream, max_message):
    lines = [line.removesuffix(b"\r") for line in stream.split(b"\n")]
    return [
        line if len(line) <= max_message else line[: min(HEAD, max_message)] + "…".encode()
        for line in lines
        if len(line) > max_message or (line and not line.isspace())
    ]


def test_lines_come_without_their_ends_and_blank_ones_not_at_all():
    assert framed([b"a\nb\r\n\n\r\n  \nc"]) == [b"a", b"b", b"c"]


def test_a_line_in_pieces_comes_when_its_end_does():
    framer = LineFramer(10)
    assert framer.feed(b"ab") == []
    assert framer.feed(b"c") == []
    assert framer.feed(b"d\ne") == [b"abcd"]
    assert framer.feed(b"\n") == [b"e"]
    assert framer.end() == []


def test_the_last_line_needs_no_newline():
    framer = LineFramer(10)
    assert framer.feed(b"a\nlast") == [b"a"]
    assert framer.end() == [b"last"]
    assert framer.end() == []


def test_a_line_of_exactly_the_limit_passes_with_either_end():
    assert framed([b"0123456789\n", b"0123456789\r", b"\n"]) == [b"0123456789", b"0123456789"]


def test_a_longer_line_is_reported_once_and_what_follows_is_framed():
    framer = LineFramer(10)
    (line,) = framer.feed(b"0123456789ab")
    assert isinstance(line, Overlong) and line.startswith(b"0123456789")
    assert framer.feed(b"cdef" * 1000) == []
    assert framer.feed(b"gh\nnext\n") == [b"next"]
    (line,) = framer.feed(b"0123456789a\n")
    assert isinstance(line, Overlong)
    assert framer.feed(b"after\n") == [b"after"]


def test_a_stream_that_never_ends_its_line_holds_no_memory():
    framer = LineFramer(1000)
    reported = [line for _ in range(1000) for line in framer.feed(b"x" * 1000)]
    assert len(reported) == 1 and len(reported[0]) <= HEAD + 3
    assert len(framer._held) == 0
    assert framer.end() == []


def test_a_stream_that_ends_inside_a_skipped_line_can_begin_again():
    framer = LineFramer(4)
    assert len(framer.feed(b"too long")) == 1
    assert framer.end() == []
    assert framer.feed(b"ok\n") == [b"ok"]


def test_many_small_chunks_of_a_long_line_are_searched_once():
    class Counted(bytes):
        searched = 0

        def rfind(self, *args):
            Counted.searched += len(self)
            return super().rfind(*args)

    framer = LineFramer(1_048_576)
    for _ in range(1024):
        assert framer.feed(Counted(b"x" * 1024)) == []
    assert framer.feed(Counted(b"\n")) == [b"x" * 1_048_576]
    assert Counted.searched == 1_048_577


pieces = st.lists(st.sampled_from([b"a", b"bc", b"\n", b"\r\n", b"\r", b" ", b"0123456789", b"x" * 30, b"\n\n"]), max_size=30)


@given(pieces, st.lists(st.integers(0, 200), max_size=12), st.sampled_from([1, 5, 10, 40]))
def test_any_chunking_gives_the_same_lines(parts, cuts, max_message):
    stream = b"".join(parts)
    edges = sorted({0, len(stream), *(cut for cut in cuts if cut < len(stream))})
    chunks = [stream[start:end] for start, end in pairwise(edges)]
    assert framed(chunks, max_message) == expected(stream, max_message)
    assert framed([bytes([byte]) for byte in stream], max_message) == expected(stream, max_message)


def test_a_line_that_goes_on_for_ever_is_noticed_and_one_that_ends_is_forgotten() -> None:
    framer = LineFramer(10)
    framer.feed(b"x" * 20)
    assert not framer.is_endless
    for _ in range(1 + ENDLESS // (1 << 20)):
        framer.feed(b"x" * (1 << 20))
    assert framer.is_endless
    assert framer.feed(b"\nwell\n") == [b"well"]
    assert not framer.is_endless
