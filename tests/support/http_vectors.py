"""Raw HTTP/1.1 requests that two servers could read differently, with the status that refuses them.

Source: RFC 9112 sections 2-7; reliability table 2 row 16; architecture section 5.
"""

from __future__ import annotations


def request(line: bytes = b"POST /mcp HTTP/1.1", *fields: bytes, host: bytes | None = b"Host: a") -> bytes:
    return b"\r\n".join([line, *([host] if host is not None else []), *fields]) + b"\r\n\r\n"


REFUSED_HEADS = {
    # request line
    "no version": (b"GET /\r\n\r\n", 400),
    "HTTP/0.9 with fields": (b"GET /\r\nHost: a\r\n\r\n", 400),
    "HTTP/1.2": (request(b"GET / HTTP/1.2"), 505),
    "HTTP/2.0": (request(b"PRI * HTTP/2.0"), 505),
    "HTTP/1.10": (request(b"GET / HTTP/1.10"), 400),
    "http/1.1 in lower case": (request(b"GET / http/1.1"), 400),
    "two spaces before the target": (request(b"GET  / HTTP/1.1"), 400),
    "two spaces before the version": (request(b"GET /  HTTP/1.1"), 400),
    "tab for space": (request(b"GET\t/ HTTP/1.1"), 400),
    "space at the end of the line": (request(b"GET / HTTP/1.1 "), 400),
    "space before the method": (request(b" GET / HTTP/1.1"), 400),
    "control character in the target": (request(b"GET /\x01 HTTP/1.1"), 400),
    "bytes above ASCII in the target": (request(b"GET /\xe9 HTTP/1.1"), 400),
    "absolute form": (request(b"GET http://a/ HTTP/1.1"), 400),
    "authority form": (request(b"GET a:80 HTTP/1.1"), 400),
    "asterisk form of another method": (request(b"GET * HTTP/1.1"), 400),
    "fragment": (request(b"GET /a#b HTTP/1.1"), 400),
    "CONNECT": (request(b"CONNECT a:80 HTTP/1.1"), 501),
    "TRACE": (request(b"TRACE / HTTP/1.1"), 501),
    "method in lower case": (request(b"get / HTTP/1.1"), 501),
    "unknown method": (request(b"SMUGGLE / HTTP/1.1"), 501),
    "request line over 8 KiB": (request(b"GET /" + b"a" * 8192 + b" HTTP/1.1"), 414),
    # lines
    "bare LF ends a field": (b"GET / HTTP/1.1\r\nHost: a\nX: b\r\n\r\n", 400),
    "bare CR in a field": (b"GET / HTTP/1.1\r\nHost: a\rX: b\r\n\r\n", 400),
    "bare LF after the request line": (b"GET / HTTP/1.1\nHost: a\r\n\r\n", 400),
    "bare CR after the request line": (b"GET / HTTP/1.1\rHost: a\r\n\r\n", 400),
    "folded line": (request(b"GET / HTTP/1.1", b"X: a", b" b"), 400),
    "line folded with a tab": (request(b"GET / HTTP/1.1", b"X: a", b"\tb"), 400),
    "first field starts with a space": (b"GET / HTTP/1.1\r\n Host: a\r\n\r\n", 400),
    "space before the colon": (request(b"GET / HTTP/1.1", b"X : a"), 400),
    "tab before the colon": (request(b"GET / HTTP/1.1", b"X\t: a"), 400),
    "space before the colon of Content-Length": (request(b"POST / HTTP/1.1", b"Content-Length : 3"), 400),
    "no colon": (request(b"GET / HTTP/1.1", b"X"), 400),
    "empty name": (request(b"GET / HTTP/1.1", b": a"), 400),
    "space in the name": (request(b"GET / HTTP/1.1", b"X Y: a"), 400),
    "quote in the name": (request(b"GET / HTTP/1.1", b'X": a'), 400),
    "byte above ASCII in the name": (request(b"GET / HTTP/1.1", b"X\xe9: a"), 400),
    "underscore in the name": (request(b"GET / HTTP/1.1", b"Content_Length: 3"), 400),
    "NUL in the value": (request(b"GET / HTTP/1.1", b"X: a\x00b"), 400),
    "DEL in the value": (request(b"GET / HTTP/1.1", b"X: a\x7fb"), 400),
    "vertical tab before chunked": (request(b"POST / HTTP/1.1", b"Transfer-Encoding:\x0bchunked"), 400),
    "101 fields": (request(b"GET / HTTP/1.1", *(b"X-%d: 1" % n for n in range(100))), 431),
    # host
    "no Host": (request(host=None), 400),
    "no Host over HTTP/1.0": (request(b"GET / HTTP/1.0", host=None), 400),
    "two Hosts": (request(b"GET / HTTP/1.1", b"Host: a"), 400),
    "two Hosts of different case": (request(b"GET / HTTP/1.1", b"hOST: b"), 400),
    "empty Host": (request(host=b"Host:"), 400),
    "two values in Host": (request(host=b"Host: a, b"), 400),
    "user in Host": (request(host=b"Host: u@a"), 400),
    "path in Host": (request(host=b"Host: a/b"), 400),
    "port that is no number": (request(host=b"Host: a:b"), 400),
    # length
    "two lengths": (request(b"POST / HTTP/1.1", b"Content-Length: 3", b"Content-Length: 4"), 400),
    "the same length twice": (request(b"POST / HTTP/1.1", b"Content-Length: 3", b"Content-Length: 3"), 400),
    "length list": (request(b"POST / HTTP/1.1", b"Content-Length: 3, 3"), 400),
    "length with a plus": (request(b"POST / HTTP/1.1", b"Content-Length: +3"), 400),
    "negative length": (request(b"POST / HTTP/1.1", b"Content-Length: -3"), 400),
    "hexadecimal length": (request(b"POST / HTTP/1.1", b"Content-Length: 0x3"), 400),
    "length with an underscore": (request(b"POST / HTTP/1.1", b"Content-Length: 1_0"), 400),
    "length of other digits": (request(b"POST / HTTP/1.1", b"Content-Length: \xb2"), 400),
    "empty length": (request(b"POST / HTTP/1.1", b"Content-Length:"), 400),
    "length with a space inside": (request(b"POST / HTTP/1.1", b"Content-Length: 1 0"), 400),
    "length beyond any size": (request(b"POST / HTTP/1.1", b"Content-Length: 18446744073709551619"), 400),
    "length and chunked": (request(b"POST / HTTP/1.1", b"Content-Length: 3", b"Transfer-Encoding: chunked"), 400),
    "chunked and length": (request(b"POST / HTTP/1.1", b"Transfer-Encoding: chunked", b"Content-Length: 3"), 400),
    # transfer codings
    "gzip, chunked": (request(b"POST / HTTP/1.1", b"Transfer-Encoding: gzip, chunked"), 400),
    "chunked, gzip": (request(b"POST / HTTP/1.1", b"Transfer-Encoding: chunked, gzip"), 400),
    "chunked, chunked": (request(b"POST / HTTP/1.1", b"Transfer-Encoding: chunked, chunked"), 400),
    "chunked twice": (request(b"POST / HTTP/1.1", b"Transfer-Encoding: chunked", b"Transfer-Encoding: chunked"), 400),
    "identity": (request(b"POST / HTTP/1.1", b"Transfer-Encoding: identity"), 400),
    "xchunked": (request(b"POST / HTTP/1.1", b"Transfer-Encoding: xchunked"), 400),
    "quoted chunked": (request(b"POST / HTTP/1.1", b'Transfer-Encoding: "chunked"'), 400),
    "chunked;q=1": (request(b"POST / HTTP/1.1", b"Transfer-Encoding: chunked;q=1"), 400),
    "empty coding": (request(b"POST / HTTP/1.1", b"Transfer-Encoding:"), 400),
    "chunked over HTTP/1.0": (request(b"POST / HTTP/1.0", b"Transfer-Encoding: chunked"), 400),
    # other singletons
    "two Authorizations": (request(b"GET / HTTP/1.1", b"Authorization: a", b"Authorization: b"), 400),
    "two Origins": (request(b"GET / HTTP/1.1", b"Origin: a", b"Origin: b"), 400),
    "two Content-Types": (request(b"GET / HTTP/1.1", b"Content-Type: a", b"content-type: a"), 400),
    "two session ids": (request(b"GET / HTTP/1.1", b"Mcp-Session-Id: a", b"MCP-Session-ID: b"), 400),
    "two Mcp-Names": (request(b"GET / HTTP/1.1", b"Mcp-Name: a", b"Mcp-Name: b"), 400),
    "unknown expectation": (request(b"POST / HTTP/1.1", b"Expect: 200-ok"), 417),
}

CHUNKED = request(b"POST / HTTP/1.1", b"Transfer-Encoding: chunked")

# Whole requests whose body is framed badly.
REFUSED_BODIES = {
    "chunk size that is no number": (CHUNKED + b"zz\r\n", 400),
    "empty chunk size": (CHUNKED + b"\r\n", 400),
    "chunk size with 0x": (CHUNKED + b"0x3\r\nabc\r\n0\r\n\r\n", 400),
    "chunk size with a plus": (CHUNKED + b"+3\r\nabc\r\n0\r\n\r\n", 400),
    "negative chunk size": (CHUNKED + b"-1\r\n\r\n0\r\n\r\n", 400),
    "chunk size beyond 64 bits": (CHUNKED + b"10000000000000003\r\nabc\r\n0\r\n\r\n", 400),
    "space before the chunk size": (CHUNKED + b" 3\r\nabc\r\n0\r\n\r\n", 400),
    "space behind the chunk size": (CHUNKED + b"3 \r\nabc\r\n0\r\n\r\n", 400),
    "bare LF behind the chunk size": (CHUNKED + b"3\nabc\r\n0\r\n\r\n", 400),
    "bare CR behind the chunk size": (CHUNKED + b"3\rabc\r\n0\r\n\r\n", 400),
    "bare LF in a chunk extension": (CHUNKED + b"3;a\nxx\r\nabc\r\n0\r\n\r\n", 400),
    "bare CR in a chunk extension": (CHUNKED + b"3;a\rxx\r\nabc\r\n0\r\n\r\n", 400),
    "NUL in a chunk extension": (CHUNKED + b"3;a\x00\r\nabc\r\n0\r\n\r\n", 400),
    "chunk longer than its size": (CHUNKED + b"3\r\nabcd\r\n0\r\n\r\n", 400),
    "chunk shorter than its size": (CHUNKED + b"3\r\nab\r\n0\r\n\r\n", 400),
    "bare LF behind a chunk": (CHUNKED + b"3\r\nabc\n0\r\n\r\n", 400),
    "bare LF behind the last chunk": (CHUNKED + b"0\n\n", 400),
    "trailer without colon": (CHUNKED + b"0\r\nGET / HTTP/1.1\r\n\r\n", 400),
    "folded trailer": (CHUNKED + b"0\r\nA: b\r\n c\r\n\r\n", 400),
    "bare LF in a trailer": (CHUNKED + b"0\r\nA: b\nC: d\r\n\r\n", 400),
    "chunk extensions without end": (CHUNKED + b"3;" + b"a" * 17000 + b"\r\nabc\r\n0\r\n\r\n", 400),
    "trailers without end": (CHUNKED + b"0\r\n" + b"A: b\r\n" * 3000 + b"\r\n", 400),
    "encoded body": (request(b"POST / HTTP/1.1", b"Content-Encoding: gzip", b"Content-Length: 3") + b"abc", 415),
}
