"""HTTP/1.1 heads: what is accepted, what is refused and how, and that h11 reads what we accept as we do."""

from __future__ import annotations

import contextlib
from typing import Any

import h11
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcpbridge.wire.http1 import (
    Headers,
    HeadReader,
    HttpError,
    RequestHead,
    encode_fields,
    encode_request,
    parse_request,
    parse_response,
    status_line,
)
from tests.support.http_vectors import REFUSED_HEADS, request

# -- requests that are read


def test_a_request_head_is_read_completely():
    head = parse_request(
        request(
            b"POST /mcp/files?a=1&b=%20 HTTP/1.1",
            b"Content-Type: application/json",
            b"ACCEPT:application/json, text/event-stream \t",
            b"Mcp-Session-Id:  x y ",
            b"content-length: 12",
            host=b"hOST: 127.0.0.1:8443",
        )
    )
    assert (head.method, head.target, head.path, head.query) == ("POST", "/mcp/files?a=1&b=%20", "/mcp/files", "a=1&b=%20")
    assert (head.minor, head.length, head.chunked, head.keep_alive, head.expects_continue) == (1, 12, False, True, False)
    assert dict(head.headers.items()) == {
        "host": "127.0.0.1:8443",
        "content-type": "application/json",
        "accept": "application/json, text/event-stream",
        "mcp-session-id": "x y",
        "content-length": "12",
    }


def test_header_names_are_found_in_any_case():
    headers = parse_request(request(b"GET / HTTP/1.1", b"X-Thing: 1")).headers
    assert headers.get("x-thing") == headers["X-THING"] == headers["x-Thing"] == "1"
    assert "X-thing" in headers and "x-other" not in headers
    assert headers.get("x-other") is None and headers.get("x-other", "d") == "d"
    assert sorted(headers) == ["host", "x-thing"] and len(headers) == 2
    assert "1" not in repr(headers)


def test_header_bytes_above_ascii_are_kept_as_latin_1():
    assert parse_request(request(b"GET / HTTP/1.1", b"X-A: \xe9\xff")).headers["x-a"] == "\xe9\xff"


def test_repeated_list_headers_are_joined_in_order():
    head = parse_request(request(b"GET / HTTP/1.1", b"Accept: a", b"Cookie: k=1", b"X: 1", b"accept: b", b"cookie: l=2"))
    assert head.headers["accept"] == "a, b"
    assert head.headers["cookie"] == "k=1; l=2"


@pytest.mark.parametrize(
    ("line", "fields", "keep_alive"),
    [
        (b"GET / HTTP/1.1", [], True),
        (b"GET / HTTP/1.1", [b"Connection: keep-alive"], True),
        (b"GET / HTTP/1.1", [b"Connection: Close"], False),
        (b"GET / HTTP/1.1", [b"Connection: foo,  close"], False),
        (b"GET / HTTP/1.1", [b"Connection: foo", b"Connection: close"], False),
        (b"GET / HTTP/1.0", [], False),
        (b"GET / HTTP/1.0", [b"Connection: keep-alive"], False),
    ],
)
def test_the_connection_is_kept_only_when_both_sides_surely_agree(line, fields, keep_alive):
    assert parse_request(request(line, *fields)).keep_alive is keep_alive


@pytest.mark.parametrize("upgrade", [b"h2c", b"websocket", b"foo/2"])
def test_an_upgrade_keeps_the_length_of_its_body(upgrade):
    head = parse_request(request(b"POST / HTTP/1.1", b"Connection: Upgrade", b"Upgrade: " + upgrade, b"Content-Length: 5"))
    assert head.length == 5
    assert head.headers["upgrade"] == upgrade.decode()


def test_expect_continue_is_seen_for_http_1_1_only():
    assert parse_request(request(b"POST / HTTP/1.1", b"Expect: 100-Continue", b"Content-Length: 1")).expects_continue
    assert not parse_request(request(b"POST / HTTP/1.0", b"Expect: 100-continue", b"Content-Length: 1")).expects_continue


@pytest.mark.parametrize("host", [b"a", b"a:1", b"a.b-c:65535", b"[::1]", b"[::1]:80", b"my_service:3000", b"127.0.0.1."])
def test_ordinary_hosts_are_accepted(host):
    assert parse_request(request(host=b"Host: " + host)).headers["host"] == host.decode()


def test_a_hundred_fields_and_an_8_kib_request_line_are_accepted():
    parse_request(request(b"GET / HTTP/1.1", *(b"X-%d: 1" % n for n in range(99))))
    parse_request(request(b"GET /" + b"a" * (8192 - 14) + b" HTTP/1.1"))


# -- requests that are refused


@pytest.mark.security
@pytest.mark.parametrize("name", REFUSED_HEADS)
def test_what_two_servers_could_read_differently_is_refused(name):
    """Reliability table 2 row 16 (HTTP smuggling); OWASP MCP07."""
    raw, status = REFUSED_HEADS[name]
    with pytest.raises(HttpError) as caught:
        parse_request(raw)
    assert caught.value.status == status


def oracle(raw: bytes) -> h11.Request:
    connection = h11.Connection(h11.SERVER, max_incomplete_event_size=65536)
    connection.receive_data(raw)
    event = connection.next_event()
    assert isinstance(event, h11.Request), event
    return event


_names = st.sampled_from(
    [b"Accept", b"X-A", b"content-length", b"Transfer-Encoding", b"Connection", b"Host", b"X_B", b"Mcp-Name"]
)
_values = st.sampled_from([b"a", b"", b" 3", b"3\t", b"chunked", b"close", b"a, b", b"gzip, chunked", b"\xe9", b"a\x00", b"0"])
_seps = st.sampled_from([b": ", b":", b" : ", b":\t", b""])
_ends = st.sampled_from([b"\r\n"] * 20 + [b"\n", b"\r", b"\r\n "])
_lines = st.tuples(_names, _seps, _values, _ends).map(b"".join)
_starts = st.sampled_from([b"GET / HTTP/1.1\r\n", b"POST /a?b HTTP/1.1\r\n", b"POST / HTTP/1.0\r\n", b"GET  / HTTP/1.1\r\n"])


@given(_starts, st.lists(_lines, max_size=5), st.booleans())
def test_what_is_accepted_is_read_as_h11_reads_it(start, lines, with_host):
    raw = start + (b"Host: a\r\n" if with_host else b"") + b"".join(lines) + b"\r\n"
    end = raw.find(b"\r\n\r\n") + 4
    try:
        head = parse_request(raw[:end])
    except HttpError:
        return
    event = oracle(raw[:end])
    assert (event.method.decode(), event.target.decode()) == (head.method, head.target)
    theirs: dict[str, str] = {}
    for name, value in event.headers:
        key = name.decode()
        theirs[key] = f"{theirs[key]}, {value.decode('latin-1')}" if key in theirs else value.decode("latin-1")
    assert theirs == dict(head.headers.items())
    assert head.length == int(theirs.get("content-length", 0))
    assert head.chunked == ("transfer-encoding" in theirs)


@given(st.binary(max_size=60))
def test_any_bytes_are_read_or_refused_and_nothing_else(data):
    starts = (b"", b"GET / HTTP/1.1\r\nHost: a\r\n", b"HTTP/1.1 200 OK\r\n")
    for start in starts:
        raw = start + data + b"\r\n\r\n"
        for parse in (parse_request, parse_response):
            with contextlib.suppress(HttpError):
                parse(raw[: raw.find(b"\r\n\r\n") + 4])


# -- responses


def test_a_response_head_is_read_completely():
    head = parse_response(
        b"HTTP/1.1 404 Not Found\r\nContent-Type: text/plain\r\nX_y: 1\r\n"
        b"Keep-Alive: timeout=5, max=7\r\nContent-Length: 3\r\n\r\n"
    )
    assert (head.status, head.reason, head.length, head.chunked, head.keep_alive) == (404, "Not Found", 3, False, True)
    assert head.keep_alive_timeout == 5.0
    assert head.headers["x_y"] == "1"


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        (b"HTTP/1.1 200\r\n\r\n", (200, None, False, False)),
        (b"HTTP/1.1 200 \r\nTransfer-Encoding: Chunked\r\n\r\n", (200, None, True, True)),
        (b"HTTP/1.1 204 No Content\r\n\r\n", (204, None, False, True)),
        (b"HTTP/1.1 100 Continue\r\n\r\n", (100, None, False, True)),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n", (200, 0, False, False)),
        (b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\n", (200, 2, False, False)),
    ],
)
def test_where_a_response_ends_and_whether_more_may_follow(raw, expected):
    head = parse_response(raw)
    assert (head.status, head.length, head.chunked, head.keep_alive) == expected


@pytest.mark.security
@pytest.mark.parametrize(
    "raw",
    [
        b"HTTP/2 200 OK\r\n\r\n",
        b"HTTP/1.2 200 OK\r\n\r\n",
        b"HTTP/1.1 20 OK\r\n\r\n",
        b"HTTP/1.1 2000 OK\r\n\r\n",
        b"HTTP/1.1 099 OK\r\n\r\n",
        b"HTTP/1.1  200 OK\r\n\r\n",
        b"ICY 200 OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Length: 3\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 3, 3\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: identity\r\n\r\n",
        b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Type: a\r\nContent-Type: b\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX : a\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: a\r\n b\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: a\nY: b\r\n\r\n",
    ],
)
def test_a_doubtful_response_is_refused(raw):
    with pytest.raises(HttpError) as caught:
        parse_response(raw)
    assert caught.value.status == 502


@pytest.mark.parametrize(
    ("value", "seconds"), [("timeout=15", 15.0), ("max=3;Timeout = 4", 4.0), ("xtimeout=4", None), ("timeout=x", None)]
)
def test_the_announced_idle_time_is_read(value, seconds):
    assert parse_response(b"HTTP/1.1 200 OK\r\nKeep-Alive: %b\r\n\r\n" % value.encode()).keep_alive_timeout == seconds


# -- heads of one connection


def outcome(read, raw):
    """Everything a head says, or the status it is refused with."""
    try:
        head = read(raw)
    except HttpError as error:
        return error.status
    return [getattr(head, name) for name in type(head).__slots__ if name != "headers"], dict(head.headers.items())


LINES = [
    b"Content-Length: 3",
    b"content-length: 44",
    b"Content-length: 5",
    b"CONTENT-LENGTH: 6",
    b"Content-Length:7",
    b"X: 1",
    b"X: 2",
]
LINES += [
    b"Content-Length: 0009",
    b"Content-Length: 9x",
    b"X: Content-Length: 3",
    b"Transfer-Encoding: chunked",
    b"Content-Length: " + b"1" * 16,
]


@given(st.lists(st.lists(st.sampled_from(LINES), max_size=3), max_size=8))
def test_a_remembered_head_is_read_as_if_it_were_new(heads):
    for parse, start in ((parse_request, b"POST / HTTP/1.1\r\nHost: a\r\n"), (parse_response, b"HTTP/1.1 200 OK\r\n")):
        reader: Any = HeadReader(parse)
        for lines in heads:
            raw = start + b"".join(line + b"\r\n" for line in lines) + b"\r\n"
            assert outcome(reader.read, raw) == outcome(parse, raw)


def test_only_the_length_of_a_repeated_head_is_read_again():
    parsed: list[bytes] = []

    def counting(raw: bytes) -> RequestHead:
        parsed.append(raw)
        return parse_request(raw)

    reader = HeadReader(counting)
    first = reader.read(request(b"POST / HTTP/1.1", b"content-length: 3", b"X: 1"))
    second = reader.read(request(b"POST / HTTP/1.1", b"content-length: 30", b"X: 1"))
    assert len(parsed) == 1
    assert (first.length, first.headers["content-length"]) == (3, "3")
    assert (second.length, second.headers["content-length"]) == (30, "30")
    assert reader.read(request(b"POST / HTTP/1.1", b"content-length: 30", b"X: 2")).headers["x"] == "2"
    assert len(parsed) == 2


# -- writing


def test_a_request_is_written_with_host_and_length():
    raw = encode_request("POST", "/mcp?a", b"host: a:1\r\n", [("accept", "x"), ("x-e", "\xe9")], 3)
    assert raw == b"POST /mcp?a HTTP/1.1\r\nhost: a:1\r\naccept: x\r\nx-e: \xe9\r\ncontent-length: 3\r\n\r\n"
    assert encode_request("GET", "/", b"host: a\r\n", [], 0) == b"GET / HTTP/1.1\r\nhost: a\r\n\r\n"
    assert encode_request("POST", "/", b"host: a\r\n", [], 0).endswith(b"content-length: 0\r\n\r\n")


def test_a_status_line_is_written_for_every_status():
    assert status_line(200) == b"HTTP/1.1 200 OK\r\n"
    assert status_line(299) == b"HTTP/1.1 299 \r\n"


@pytest.mark.security
@pytest.mark.parametrize(
    "field",
    [
        *(("a", value) for value in ("b\r\nc: d", "b\nc", "b\rc", "b\x00", "b\x7f", "\u20ac")),
        *((name, "c") for name in ("a\r\nb", "a b", "a:", "", "a: b\r\nc")),
    ],
)
def test_a_field_that_would_split_the_head_is_refused(field):
    with pytest.raises(ValueError):
        encode_fields([("ok", "1"), field])


@pytest.mark.security
@pytest.mark.parametrize(
    ("method", "target"), [("GET", "/ HTTP/1.1\r\nX: "), ("GET", "/a b"), ("G T", "/"), ("GET", ""), ("GET", "/\xe9")]
)
def test_a_request_line_that_would_split_is_refused(method, target):
    with pytest.raises(ValueError):
        encode_request(method, target, b"host: a\r\n", [], 0)


_field_text = st.text(st.characters(min_codepoint=32, max_codepoint=255, exclude_categories=["Cc"]), max_size=20)


@given(st.dictionaries(st.sampled_from(["a", "x-b", "accept", "mcp-name", "last-event-id"]), _field_text))
def test_written_fields_read_back_equal(fields):
    raw = encode_request("POST", "/", b"host: a\r\n", list(fields.items()), 0)
    read = {name: value for name, value in parse_request(raw).headers.items() if name not in ("host", "content-length")}
    assert read == {name: value.strip(" \t") for name, value in fields.items()}


def test_headers_can_replace_one_field_without_changing_the_original():
    headers = Headers({"a": "1", "b": "2"})
    assert dict(headers.replacing("a", "3").items()) == {"a": "3", "b": "2"}
    assert headers["a"] == "1"
