"""What lies under every conversation: the name is resolved, the address connects, TLS is agreed on. One stage each.

Source: contract ``cli.test.websocket`` (stages resolve, connect, tls).
"""

from __future__ import annotations

import asyncio
import ipaddress
import os
import socket
import ssl
import time
from collections.abc import AsyncIterator
from typing import Any, NamedTuple

import msgspec

from mcpbridge.descriptors import HandingOver

UNREACHABLE, FOREIGN, REFUSED = 69, 76, 77  # exit statuses of the contract


class Stage(msgspec.Struct, frozen=True):
    """One step and how it went. ``ms``: milliseconds. A failed one has a ``reason`` (a row of ``errors.FAULTS``) and the exit
    status it means."""

    stage: str
    ok: bool
    ms: float
    detail: str
    reason: str | None = None
    exit_code: int = 0

    @property
    def document(self) -> dict[str, Any]:
        """As documents have it."""
        return {name: getattr(self, name) for name in self.__struct_fields__}


class Place(NamedTuple):
    """Where a server listens: ``host`` and ``port``, or the ``path`` of a unix socket. ``context`` when it means TLS."""

    host: str = ""
    port: int = 0
    path: str = ""
    context: ssl.SSLContext | None = None
    proxy: str = ""


def clock() -> float:
    """Milliseconds that never go back."""
    return time.perf_counter() * 1000


def passed(stage: str, since: float, detail: str) -> Stage:
    """A stage that went well."""
    return Stage(stage, True, round(clock() - since, 3), detail)


def failed(stage: str, since: float, detail: str, reason: str, exit_code: int = UNREACHABLE) -> Stage:
    """One that did not."""
    return Stage(stage, False, round(clock() - since, 3), detail, reason, exit_code)


async def reach(place: Place, timeout: float) -> AsyncIterator[Stage]:
    """The stages up to a usable connection, which is closed again; ends after the first that fails. ``timeout``: seconds of
    each."""
    if place.proxy:
        yield Stage("connect", True, 0.0, f"left to the proxy {place.proxy}")
        return
    addresses: list[tuple[int, Any]] = []
    if place.path:
        addresses = [(socket.AF_UNIX, place.path)]
    else:
        stage, addresses = await _resolve(place, timeout)
        yield stage
        if not stage.ok:
            return
    stage, connected = await _connect(addresses, timeout)
    yield stage
    if connected is None:
        return
    try:
        if place.context is not None:
            yield await _handshake(connected, place, timeout)
    finally:
        connected.close()


async def _resolve(place: Place, timeout: float) -> tuple[Stage, list[tuple[int, Any]]]:
    since = clock()
    try:
        ipaddress.ip_address(place.host)
        how = "an address already"
    except ValueError:
        how = ""
    try:
        async with asyncio.timeout(timeout):
            found = await asyncio.get_running_loop().getaddrinfo(place.host, place.port, type=socket.SOCK_STREAM)
    except TimeoutError:
        return failed("resolve", since, f"no answer about {place.host} in {timeout:g} s", "timeout"), []
    except (OSError, UnicodeError):
        return failed("resolve", since, f"the name {place.host} is not known", "backend_error"), []
    addresses: list[tuple[int, Any]] = [(family, address) for family, _, _, _, address in found]
    names = ", ".join(dict.fromkeys(str(address[0]) for _, _, _, _, address in found))
    return passed("resolve", since, how or names), addresses


async def _connect(addresses: list[tuple[int, Any]], timeout: float) -> tuple[Stage, socket.socket | None]:
    since, loop = clock(), asyncio.get_running_loop()
    why, reason = "no address", "backend_error"
    for family, address in addresses:
        sock = socket.socket(family, socket.SOCK_STREAM)
        sock.setblocking(False)
        try:
            async with asyncio.timeout(timeout / len(addresses)):
                await loop.sock_connect(sock, address)
            return passed("connect", since, _shown(address)), sock
        except TimeoutError:
            why, reason = f"{_shown(address)}: no answer", "timeout"
        except OSError as error:
            said = os.strerror(error.errno) if error.errno else str(error)
            why = f"{_shown(address)}: {said.lower()}"
            reason = "connection_refused" if isinstance(error, ConnectionRefusedError) else "backend_error"
        sock.close()
    return failed("connect", since, why, reason), None


def _shown(address: Any) -> str:
    if isinstance(address, tuple):
        host, port = address[:2]
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    return str(address)


async def _handshake(sock: socket.socket, place: Place, timeout: float) -> Stage:
    since = clock()
    writer: asyncio.StreamWriter | None = None
    try:
        async with asyncio.timeout(timeout):
            with HandingOver(sock):
                _, writer = await asyncio.open_connection(sock=sock, ssl=place.context, server_hostname=place.host)
        agreed = writer.get_extra_info("ssl_object")
        return passed("tls", since, agreed.version() if agreed is not None else "")
    except TimeoutError:
        return failed("tls", since, "the handshake is not answered", "timeout")
    except ssl.SSLCertVerificationError as error:
        return failed("tls", since, f"the certificate is not trusted: {error.verify_message}", "backend_error")
    except (OSError, ssl.SSLError) as error:
        said = error.reason if isinstance(error, ssl.SSLError) else type(error).__name__
        return failed("tls", since, f"no handshake: {str(said).lower().replace('_', ' ')}", "protocol_mismatch", FOREIGN)
    finally:
        if writer is not None:
            writer.close()
