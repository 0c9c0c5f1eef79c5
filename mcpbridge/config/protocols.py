"""The five protocols as addresses name them: one row each. Whoever reads an address asks here what it means.

    stdio        a command, or unix:///run/server.sock, or pipe:///run/server (server.in and server.out)
    websocket    ws:// wss://
    http         http:// https://      may be websocket or sse too, when ``protocol`` says so or detection finds out
    sse          sse:// sses://        http and https with the protocol in the scheme, where nothing else can say it
    tcp_binary   tcp:// tcps://

Source: architecture section 8; contract ``gateway.url``, ``cli.router.url``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final, NamedTuple
from urllib.parse import urlsplit, urlunsplit

from mcpbridge.config.kinds import Kind
from mcpbridge.observe.snapshot import PROTOCOL_NAMES


class Protocol(NamedTuple):
    """``schemes`` mean this protocol; ``over_http``: an http address may mean it too; ``path``: where our gateway serves it."""

    schemes: tuple[str, ...]
    over_http: bool = False
    path: str = ""


PROTOCOLS: Final[Mapping[str, Protocol]] = {
    "stdio": Protocol(("unix", "pipe")),
    "websocket": Protocol(("ws", "wss"), True, "/ws"),
    "http": Protocol(("http", "https"), True, "/mcp"),
    "sse": Protocol(("sse", "sses"), True, "/events"),
    "tcp_binary": Protocol(("tcp", "tcps")),
}
assert tuple(PROTOCOLS) == PROTOCOL_NAMES

LOCAL: Final = PROTOCOLS["stdio"].schemes  # a place in the file system, no host
SECURE: Final = ("wss", "https", "sses", "tcps")  # with TLS
_SCHEMES: Final = {scheme: name for name, row in PROTOCOLS.items() for scheme in row.schemes}


def protocol_of(url: str, declared: str = "auto") -> str:
    """The protocol behind a checked address: the declared one, else by scheme."""
    return declared if declared != "auto" else _SCHEMES[urlsplit(url).scheme]


def misfit(url: str, declared: str) -> str:
    """Why ``declared`` cannot be the protocol of a checked address, or ""."""
    scheme = urlsplit(url).scheme
    if declared == "auto" or scheme in PROTOCOLS[declared].schemes:
        return ""
    if PROTOCOLS[declared].over_http and scheme in ("http", "https"):
        return ""
    also = " or a command" if declared == "stdio" else ", http or https" if PROTOCOLS[declared].over_http else ""
    return f"protocol {declared} needs an address with {' or '.join(PROTOCOLS[declared].schemes)}{also}, not {scheme}"


def rescheme(url: str, secure: str, plain: str) -> str:
    """The address with the scheme ``secure`` where it means TLS, ``plain`` where it does not."""
    parts = urlsplit(url)
    return urlunsplit(parts._replace(scheme=secure if parts.scheme in SECURE else plain))


def _parse(text: str) -> str:
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError as error:
        raise ValueError(f"a URL ({error})") from None
    if parts.scheme not in _SCHEMES:
        known = [f"{scheme}://" for scheme in _SCHEMES]
        raise ValueError(f"a URL that begins with {', '.join(known[:-1])} or {known[-1]}")
    if re.search(r"[\x00-\x20\x7f]", text):
        raise ValueError("a URL without white space and control characters")
    if parts.fragment:
        raise ValueError("a URL without a #fragment")
    if parts.scheme in LOCAL:
        if parts.netloc or len(parts.path) < 2 or parts.query:
            raise ValueError(f"an absolute path after three slashes, such as {parts.scheme}:///run/server.sock")
        return text
    if not parts.hostname or port == 0:
        raise ValueError("a URL with a host, such as https://gateway.example.com/mcp")
    if parts.username is not None or parts.password is not None:
        raise ValueError("a URL without user or password in it (give a token in headers or token_env)")
    if _SCHEMES[parts.scheme] == "tcp_binary" and (port is None or parts.path.strip("/") or parts.query):
        raise ValueError("host and port and nothing else, such as tcp://127.0.0.1:8444")
    return text


ADDRESS: Final = Kind("url", _parse, {"type": "string", "format": "uri"})
ADDRESSES: Final = Kind("list", _parse, {"type": "array", "items": {"type": "string", "format": "uri"}}, "texts")
