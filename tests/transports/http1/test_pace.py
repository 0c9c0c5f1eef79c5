"""Bodies and backlogs against a clock that is told."""

from __future__ import annotations

import pytest

from mcpbridge.transports.http1.pace import (
    BACKLOG_BYTES,
    BODY_RATE,
    BODY_WINDOW,
    WRITE_RATE,
    WRITE_WINDOW,
    Backlog,
    IncomingBody,
)
from mcpbridge.wire.http1 import HttpError, parse_request
from tests.support.http_vectors import request


def incoming(*fields: bytes, limit: int = 1 << 20) -> IncomingBody:
    return IncomingBody(parse_request(request(b"POST / HTTP/1.1", *fields)), limit, 100.0)


def test_a_body_with_length_is_whole_at_its_length_and_the_rest_is_kept():
    body = incoming(b"Content-Length: 5")
    assert body.feed(b"he") is None
    assert body.feed(b"lloGET") == b"hello"
    assert body.rest == b"GET"


def test_a_chunked_body_is_whole_at_its_last_chunk_and_the_rest_is_kept():
    body = incoming(b"Transfer-Encoding: chunked")
    assert body.feed(b"5\r\nhel") is None
    assert body.feed(b"lo\r\n0\r\n\r\nGET") == b"hello"
    assert body.rest == b"GET"


def test_a_chunked_body_over_the_limit_is_refused():
    with pytest.raises(HttpError) as caught:
        incoming(b"Transfer-Encoding: chunked", limit=3).feed(b"4\r\n")
    assert caught.value.status == 413


def test_each_window_of_a_body_must_bring_enough():
    body = incoming(b"Content-Length: 1000000")
    enough = int(BODY_RATE * BODY_WINDOW)
    assert not body.is_too_slow(104.9)
    body.feed(b"x" * enough)
    assert not body.is_too_slow(105.0)
    body.feed(b"x" * (enough - 1))
    assert not body.is_too_slow(109.9)
    assert body.is_too_slow(110.0)


def test_a_backlog_that_moves_is_not_stuck_and_one_that_does_not_is():
    backlog = Backlog(100.0, 1000)
    enough = int(WRITE_RATE * WRITE_WINDOW)
    assert not backlog.is_stuck(129.0, 1000, 70_000)
    assert not backlog.is_stuck(130.0, 1000 + enough, 70_000)
    assert backlog.is_stuck(160.0, 1000 + 2 * enough - 1, 70_000)


def test_a_backlog_of_more_than_a_mebibyte_for_half_a_minute_is_stuck_even_when_it_moves():
    backlog = Backlog(100.0, 0)
    taken = 0
    for now in range(100, 130):
        taken += 100_000
        assert not backlog.is_stuck(float(now), taken, BACKLOG_BYTES + 1)
    assert backlog.is_stuck(130.0, taken, BACKLOG_BYTES + 1)


def test_a_backlog_that_was_short_in_between_starts_anew():
    backlog = Backlog(100.0, 0)
    assert not backlog.is_stuck(120.0, 10**6, BACKLOG_BYTES)
    assert not backlog.is_stuck(140.0, 10**7, BACKLOG_BYTES + 1)
    assert backlog.is_stuck(150.0, 10**8, BACKLOG_BYTES + 1)
