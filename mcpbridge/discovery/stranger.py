"""What a registry of other people may make us connect to: an address in the network, never a command, a file or our secrets.

Of what a stranger says only five words are used: protocol, host, port, path and weight. Whatever else an endpoint can have
(command, args, env, headers, token_env, tls) has no way in, so nothing of ours is run or sent along because of an annotation.
Addresses of this machine may be named by a registry on this machine only: here are ports that trust whoever is here.

Source: issue "Traffic that survives production" item 6; reliability section 2, rows 8 and 11.
"""

from __future__ import annotations

import ipaddress
import re
import socket
from functools import lru_cache
from typing import Final

from msgspec.structs import replace

from mcpbridge.config.kinds import number
from mcpbridge.config.protocols import ADDRESS, PROTOCOLS
from mcpbridge.config.sections import EndpointSpec

_SCHEMES: Final = {"auto": "http", "http": "http", "websocket": "ws", "sse": "sse", "tcp_binary": "tcp"}
MAX_KNOWN: Final = 20_000  # endpoints that are remembered as good
_WEIGHT: Final = number(0, 100)
_PATH: Final = re.compile(r"/[A-Za-z0-9._~!$&'()*+,;=:@%/-]{0,1023}")
_NAME: Final = re.compile(r"(?=.{1,253}\.?$)[A-Za-z0-9_]([A-Za-z0-9_-]{0,62})(\.[A-Za-z0-9_][A-Za-z0-9_-]{0,62})*\.?")
_METADATA: Final = ("metadata", "metadata.google.internal", "instance-data", "instance-data.ec2.internal")
_NAT64: Final = ipaddress.ip_network("64:ff9b::/96")
_NOWHERE: Final = ipaddress.ip_network("240.0.0.0/4")  # with the broadcast address
_METADATA_HOSTS: Final = frozenset(
    ipaddress.ip_address(host) for host in ("100.100.100.200", "168.63.129.16", "192.0.0.192", "fd00:ec2::254")
)


def endpoint(
    host: object,
    port: object,
    protocol: str = "",
    path: str = "",
    weight: str = "",
    *,
    detect: bool = True,
    local: bool = False,
) -> EndpointSpec:
    """The endpoint of a discovered place. ``protocol`` "": detected, or http without ``detect``; ``weight`` "": 1.
    ``local``: who says so is on this machine.

    Raises ValueError with the cause, for people.
    """
    spoken = protocol or ("auto" if detect else "http")
    if spoken not in _SCHEMES:
        known = ", ".join(name for name in PROTOCOLS if name in _SCHEMES)
        raise ValueError(f"protocol {protocol[:40]!r} is none of auto, {known}")
    if not isinstance(host, str):
        raise ValueError("its address is no text")
    if not isinstance(port, int) or isinstance(port, bool) or not 0 < port < 65536:
        raise ValueError("its port is no number from 1 to 65535")
    if path and _PATH.fullmatch(path) is None:
        raise ValueError(f"path {path[:40]!r} is no absolute path of a URL")
    if path and spoken == "tcp_binary":
        raise ValueError("protocol tcp_binary has no path")
    where = path or PROTOCOLS["http" if spoken == "auto" else spoken].path
    return _checked(spoken, host, port, where, weight, local)


@lru_cache(maxsize=MAX_KNOWN)  # a tenth of a millisecond each, and a cluster is looked at again at every change
def _checked(spoken: str, host: str, port: int, path: str, weight: str, local: bool) -> EndpointSpec:
    url = f"{_SCHEMES[spoken]}://{_host(host, local)}:{port}{path}"
    spec = EndpointSpec(url=str(ADDRESS.parse(url)))
    try:
        return replace(spec, protocol=spoken, weight=_WEIGHT.parse(weight) if weight else 1.0)
    except ValueError:
        raise ValueError(f"weight {weight[:40]!r} is no number from 0 to 100") from None


def _host(text: str, local: bool) -> str:
    """The host as it stands in a URL. Raises ValueError for what is no place of a server."""
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return _named(text, local)
    meant = address
    if isinstance(address, ipaddress.IPv6Address):
        if address.scope_id:
            raise ValueError(f"address {text[:60]} has a zone")
        nat64 = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF) if address in _NAT64 else None
        meant = address.ipv4_mapped or address.sixtofour or nat64 or address
    is_nobody = meant.is_link_local or meant.is_multicast or meant.is_unspecified or meant in _NOWHERE
    if is_nobody or meant in _METADATA_HOSTS:
        raise ValueError(f"address {text[:60]} is link-local, metadata or nobody's")
    if meant.is_loopback and not local:
        raise ValueError(f"address {text[:60]} is one of this machine")
    return f"[{address}]" if address.version == 6 else str(address)


def _named(text: str, local: bool) -> str:
    if _NAME.fullmatch(text) is None:
        raise ValueError(f"{text[:60]!r} is no name of a host")
    if text.rstrip(".").lower() in _METADATA:
        raise ValueError(f"{text[:60]} is a metadata service")
    if text.rstrip(".").lower().rpartition(".")[2] in ("localhost", "localdomain") and not local:
        raise ValueError(f"{text[:60]} is this machine")
    try:
        socket.inet_aton(text)  # 2852039166 and 0xa9fe.0xa9fe are addresses to a resolver
    except OSError:
        return text
    raise ValueError(f"{text[:60]} is an address in disguise")
