"""Control-plane HTTP: asking other programs about themselves, never MCP traffic. The only user of aiohttp, imported late.

Redirects are not followed, answers are bounded, every wait has an end. A proxy of the environment is used for other machines,
never for this one.

Source: architecture sections 2 and 5 (one owner per library; the data plane has its own engine).
"""

from __future__ import annotations

import errno
import os
import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import NamedTuple
from urllib.parse import urlsplit

from mcpbridge import __version__
from mcpbridge.proxies import Proxy, proxy_for

MAX_BYTES = 4 * 1024 * 1024


class OutboundError(Exception):
    """Nobody answered, or not in HTTP. The text says what happened and where, for people."""


class Answer(NamedTuple):
    """A whole answer. ``content_type`` is without parameters, in lower case; so are the names of ``headers``."""

    status: int
    content_type: str
    body: bytes
    headers: Mapping[str, str] = {}


class Stream(NamedTuple):
    """An answer whose body is still coming; iterate ``chunks`` inside the context only."""

    status: int
    content_type: str
    chunks: AsyncIterator[bytes]
    headers: Mapping[str, str] = {}


async def ask(
    method: str,
    url: str,
    body: bytes,
    *,
    headers: Mapping[str, str] | None = None,
    timeout: float = 5.0,
    max_bytes: int = MAX_BYTES,
    socket: str | None = None,
) -> Answer:
    """POST or PUT a JSON document and read a small answer. ``timeout``: seconds for all of it. Raises OutboundError."""
    headers = {"Content-Type": "application/json", **(headers or {})}
    async with stream(
        url, method=method, body=body, headers=headers, connect_timeout=timeout, silence=timeout, total=timeout, socket=socket
    ) as answer:
        return await _whole(answer, url, max_bytes)


async def get(
    url: str,
    *,
    headers: Mapping[str, str] | None = None,
    timeout: float = 5.0,
    max_bytes: int = MAX_BYTES,
    ca_file: str | None = None,
    tls: ssl.SSLContext | None = None,
    socket: str | None = None,
) -> Answer:
    """GET a small document. ``timeout``: seconds for all of it; ``tls`` instead of ``ca_file``. Raises OutboundError."""
    async with stream(
        url, headers=headers, connect_timeout=timeout, silence=timeout, total=timeout, ca_file=ca_file, tls=tls, socket=socket
    ) as answer:
        return await _whole(answer, url, max_bytes)


async def _whole(answer: Stream, url: str, max_bytes: int) -> Answer:
    body = bytearray()
    async for chunk in answer.chunks:
        body += chunk
        if len(body) > max_bytes:
            raise OutboundError(f"{_place(url)} answered more than {max_bytes} bytes")
    return Answer(answer.status, answer.content_type, bytes(body), answer.headers)


@asynccontextmanager
async def stream(
    url: str,
    *,
    method: str = "GET",
    body: bytes | None = None,
    headers: Mapping[str, str] | None = None,
    connect_timeout: float = 5.0,
    silence: float = 60.0,
    total: float | None = None,
    ca_file: str | None = None,
    tls: ssl.SSLContext | None = None,
    socket: str | None = None,
) -> AsyncIterator[Stream]:
    """Get an answer that may go on for ever; it is aborted when the context ends.

    ``socket``: the path of a unix socket on which the host of ``url`` is found, without any proxy.
    Seconds: ``connect_timeout`` until connected, ``silence`` between two pieces, ``total`` for everything.
    Raises OutboundError, also while ``chunks`` is read.
    """
    import aiohttp

    timeout = aiohttp.ClientTimeout(total=total, sock_connect=connect_timeout, connect=connect_timeout, sock_read=silence)
    proxy = proxy_for(url, os.environ) if socket is None else None
    login = {"Proxy-Authorization": proxy.authorization} if proxy is not None and proxy.authorization else {}
    if proxy is not None and proxy.fault:
        raise OutboundError(f"{_place(url)} is not reached: {proxy.fault}")
    if not url.lower().startswith("https:"):
        headers = {**(headers or {}), **login}  # no tunnel: the request itself goes to the proxy
    try:
        async with (
            aiohttp.ClientSession(
                connector=None if socket is None else aiohttp.UnixConnector(socket),
                timeout=timeout,
                auto_decompress=False,
                headers={"User-Agent": f"mcpbridge/{__version__}", "Accept-Encoding": "identity"},
            ) as session,
            session.request(
                method,
                url,
                data=body,
                headers=headers,
                allow_redirects=False,
                ssl=tls or _tls(ca_file),
                proxy=None if proxy is None else f"http://{proxy}",
                proxy_headers=login or None,
            ) as response,
        ):
            if response.status == 407 and proxy is not None:
                raise OutboundError(f"the proxy {proxy} answered HTTP 407 for {_place(url)}")
            named = {name.lower(): value for name, value in response.headers.items()}
            yield Stream(response.status, response.content_type.lower(), response.content.iter_any(), named)
    except (aiohttp.ClientError, OSError) as error:
        raise OutboundError(_cause(url if socket is None else f"unix://{socket}", error, proxy)) from error


def _tls(ca_file: str | None) -> ssl.SSLContext | bool:
    return True if ca_file is None else ssl.create_default_context(cafile=ca_file)


def _cause(url: str, error: Exception, proxy: Proxy | None) -> str:
    import aiohttp

    place = _place(url)
    if isinstance(error, aiohttp.ClientHttpProxyError):
        return f"the proxy {proxy} answered HTTP {error.status} for {place}"
    if isinstance(error, aiohttp.ClientProxyConnectionError):
        return f"the proxy {proxy} is not reached: {os.strerror(error.os_error.errno or errno.ECONNREFUSED).lower()}"
    if isinstance(error, TimeoutError):
        return f"no answer from {place} in time"
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        return f"cannot find the host of {place}"
    if isinstance(error, (aiohttp.ClientConnectorCertificateError, ssl.SSLCertVerificationError)):
        return f"the certificate of {place} is not trusted"
    if isinstance(error, (aiohttp.ClientSSLError, ssl.SSLError)):
        return f"{place} does not speak TLS as expected"
    if isinstance(error, aiohttp.InvalidURL):
        return f"{place} is no address that can be asked"
    if isinstance(error, aiohttp.ClientConnectorError):
        return f"{place}: {os.strerror(error.os_error.errno or errno.ECONNREFUSED).lower()}"
    if isinstance(error, aiohttp.ClientResponseError):
        return f"{place} does not answer in HTTP"
    return f"{place} closed the connection"


def _place(url: str) -> str:
    """Host and port of a URL: never its user name, path or query."""
    try:
        if url.startswith("unix://"):
            return url[7:]
        place = urlsplit(url)
        return f"{place.hostname}:{place.port}" if place.port else place.hostname or "this"
    except ValueError:
        return "this"
