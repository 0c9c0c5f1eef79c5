"""Which proxy stands between this process and a URL: the variables everybody knows, read the way curl and Go read them.

    https_proxy HTTPS_PROXY   https, wss, tcps, tcp       a tunnel (CONNECT), TLS inside it
    http_proxy  HTTP_PROXY    http, ws                    http: absolute-form requests; ws: a tunnel
    all_proxy   ALL_PROXY     whatever the first two leave unsaid
    no_proxy    NO_PROXY      hosts that are reached without one

The lower-case name wins; a variable that is set but empty means no proxy. Loopback is never proxied (as in Go): there a proxy
elsewhere would mean itself. Pure: the environment is an argument.

Source: curl(1) "ENVIRONMENT"; Go's golang.org/x/net/http/httpproxy; RFC 7617 (Basic).
"""

from __future__ import annotations

import ipaddress
import re
from base64 import b64encode
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final
from urllib.parse import unquote_to_bytes, urlsplit

_VARIABLE: Final = {
    "https": "https_proxy",
    "wss": "https_proxy",
    "tcps": "https_proxy",
    "tcp": "https_proxy",  # the variable of tunnels
    "http": "http_proxy",
    "ws": "http_proxy",
}
_PORTS: Final = {"https": 443, "wss": 443, "http": 80, "ws": 80}
DEFAULT_PORT: Final = 80  # of a proxy that names none, as in its scheme


@dataclass(frozen=True, slots=True, repr=False)
class Proxy:
    """A proxy to go through. ``authorization`` is a secret; ``str()`` and ``repr()`` never hold it.

    ``fault`` says why it cannot be used: then nothing may be sent, least of all around it.
    """

    host: str
    port: int
    authorization: str = ""  # the value of Proxy-Authorization, "" for none
    fault: str = ""

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"

    def __repr__(self) -> str:
        return f"<Proxy {self}>"


def proxy_for(url: str, environ: Mapping[str, str]) -> Proxy | None:
    """The proxy for a URL, None when it is reached directly. Never raises: what cannot be used has ``Proxy.fault``."""
    try:
        target = urlsplit(url)
        host, port = (target.hostname or "").rstrip("."), target.port or _PORTS.get(target.scheme)
    except ValueError:
        return None  # whoever dials it says what is wrong
    first = _VARIABLE.get(target.scheme)
    if first is None or not host or is_direct(host, port, _read(environ, "no_proxy") or ""):
        return None
    for name in (first, "all_proxy"):
        value = _read(environ, name)
        if value is not None:
            return parse_proxy(value, name.upper()) if value else None
    return None


def _read(environ: Mapping[str, str], name: str) -> str | None:
    value = environ.get(name, environ.get(name.upper()))
    if value is not None and name == "http_proxy" and name not in environ and "REQUEST_METHOD" in environ:
        return None  # under CGI, HTTP_PROXY is the Proxy header of a stranger (httpoxy)
    return None if value is None else value.strip()


def parse_proxy(value: str, name: str) -> Proxy:
    """``[http://][user:password@]host[:port][/]`` as a Proxy; ``name`` is the variable, for the fault."""
    scheme, mark, rest = value.partition("://")
    scheme = scheme.lower() if mark else "http"
    try:
        parts = urlsplit(f"//{rest if mark else value}")
        host, port = parts.hostname, parts.port or DEFAULT_PORT
        if not host or not re.fullmatch(
            r"[A-Za-z0-9._:%-]+", host := host.encode("idna" if ":" not in host else "ascii").decode()
        ):
            raise ValueError
    except (ValueError, UnicodeError):
        return Proxy("", 0, fault=f"{name} is no address of a proxy (http://host:port)")
    if scheme != "http":
        return Proxy(host, port, fault=f"{name} names a proxy of kind {scheme[:20]!r}; http:// is supported")
    authorization = ""
    if parts.username is not None:
        user, password = unquote_to_bytes(parts.username), unquote_to_bytes(parts.password or "")
        authorization = f"Basic {b64encode(user + b':' + password).decode('ascii')}"
    return Proxy(host, port, authorization)


def is_direct(host: str, port: int | None, no_proxy: str) -> bool:
    """Whether a host is reached without a proxy: loopback, or an entry of NO_PROXY (commas or spaces between them).

    An entry is ``*``, ``example.com`` or ``.example.com`` (it and everything below), an IP address, a network
    ``10.0.0.0/8``, each also with ``:port``. Source: curl(1); Go httpproxy (networks, ports).
    """
    host = host.lower().rstrip(".")
    address = _address(host)
    if host == "localhost" or host.endswith(".localhost") or (address and (address.is_loopback or address.is_unspecified)):
        return True
    return any(_covers(entry, host, address, port) for entry in re.split(r"[,\s]+", no_proxy.lower()) if entry)


def _covers(entry: str, host: str, address: _Address | None, port: int | None) -> bool:
    if entry == "*":
        return True
    match = re.fullmatch(r"(\[[^\]]*\]|[^:]*):(\d{1,5})", entry)
    if match is not None:
        if int(match[2]) != port:
            return False
        entry = match[1]
    entry = entry.strip("[]")
    if address is not None:
        try:
            return address in ipaddress.ip_network(entry, strict=False)
        except (ValueError, TypeError):
            return False
    name = entry.removeprefix("*").strip(".")
    return bool(name) and (host == name or host.endswith(f".{name}"))


_Address = ipaddress.IPv4Address | ipaddress.IPv6Address


def _address(host: str) -> _Address | None:
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address
