"""Fuzz target for the first events of an HTTP+SSE stream."""

from __future__ import annotations

import zlib
from urllib.parse import urljoin, urlsplit

from mcpbridge.errors import BridgeError
from mcpbridge.wire.http1 import encode_request
from mcpbridge.wire.sse import SseParser, read_endpoint

URLS = ("http://a.example:8080/sse", "https://a.example/x/sse?k=1", "http://[::1]:1/")


def endpoint(data: bytes) -> None:
    """Any pieces give one endpoint, which is of the stream's origin and fits into a request line; else a coded error."""
    for url in URLS:
        found = _read(data, url, len(data) or 1)
        assert found == _read(data, url, 1 + zlib.crc32(data) % 7)
        if found is None or found in ("bad_answer", "protocol_mismatch", "answer_too_large"):
            continue
        assert encode_request("POST", found, b"host: a\r\n", (), 0).startswith(f"POST {found} HTTP/1.1\r\n".encode())
        again = urlsplit(urljoin(url, found)) if not found.startswith("//") else urlsplit(url)
        assert (again.scheme, again.hostname, again.port) == (urlsplit(url).scheme, urlsplit(url).hostname, urlsplit(url).port)


def _read(data: bytes, url: str, step: int) -> str | None:
    """The endpoint, or the reason there is none."""
    parser = SseParser(4096)
    try:
        for at in range(0, len(data), step):
            target = read_endpoint(parser.feed(data[at : at + step]), url)
            if target is not None:
                assert target.startswith("/") and "#" not in target
                return target
    except BridgeError as error:
        return error.reason
    return None


TARGETS = {"sse-endpoint": endpoint}
SEEDS = {
    "sse-endpoint": [
        b"event: endpoint\ndata: /messages?session_id=1\n\n",
        b": hello\n\nevent: endpoint\r\ndata: http://a.example:8080/m\r\n\r\n",
        b"event: endpoint\ndata: //evil.example/\n\n",
        b"event: endpoint\ndata: https://user@a.example/\ndata: x\n\n",
        b'data: {"jsonrpc":"2.0"}\n\n',
        b"event: endpoint\ndata: ../../../m?a=%2f%00\n\n",
    ]
}
