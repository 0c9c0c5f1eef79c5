"""Self-checks: the gateway knocks at its own doors as a client would, and notes which of its frontends does not answer.

    stdio        connect, then the end of our side                    the end of theirs
    websocket    an upgrade to a version that nobody speaks           426, which names the one it speaks
    http, sse    HEAD, which no MCP endpoint takes                    405 from the protocol's own part
    tcp_binary   version negotiation                                  the agreed version

So every answer comes through the listener, TLS, the limits and the rules for Host, and leaves nothing behind: no sign-in is
needed, no session is made, no call is counted. Where clients must show a certificate, which we have not, the check is what the
port answers to one without TLS. A frontend that is full is well.

Source: contract http.gateway.health.probe, http.gateway.health.protocol-rule, ``server.health_checks``.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Mapping
from typing import Final, NamedTuple
from urllib.parse import urlsplit

from mcpbridge.config.health import HealthChecks
from mcpbridge.core.checks import SOON
from mcpbridge.core.detect import Target
from mcpbridge.core.server import Backend
from mcpbridge.detect.line import Flooded, Line, NoTls, Site, Unreachable, unchecked
from mcpbridge.errors import BridgeError
from mcpbridge.observe.log import log
from mcpbridge.observe.snapshot import Event, timestamp
from mcpbridge.wire.mcpb import ACK, ERROR, OFFER, FrameReader
from mcpbridge.wire.proof import HttpReply
from mcpbridge.wiring import through_proxy

_log = log("health")
_NOTHING: Final = "it closed the connection without an answer"
_FULL: Final = (429, 503)  # too many connections: somebody is served
_HERE: Final = {"0.0.0.0": "127.0.0.1", "::": "::1"}
_SCHEMES: Final = {"wss": "https", "ws": "http"}


class SelfCheck(NamedTuple):
    """The newest look at a frontend: when (RFC 3339), and why it counts as down, if it does."""

    at: str
    fault: str | None


class SelfChecks:
    """The frontends at ``addresses`` (protocol -> ``scheme://place``, the first of several is looked at).

    ``host``: what to call ourselves. ``failures``, ``recoveries``: how many in a row turn one. ``interval``: seconds between
    two looks. ``is_full(address)``: whether one more client from there would be refused. ``tell`` gets an event per turn.
    """

    def __init__(
        self,
        rows: HealthChecks,
        addresses: Mapping[str, str],
        tell: Callable[[Event], None],
        *,
        host: str,
        interval: float,
        failures: int = 3,
        recoveries: int = 2,
        asks: bool = True,
        wants_certificate: bool = False,
        is_full: Callable[[str], bool] = lambda _address: False,
    ) -> None:
        """``asks`` False: connect only. ``wants_certificate``: TLS ports serve only clients that have one."""
        self.results: dict[str, SelfCheck] = {}
        self._tell = tell
        self._host = host
        self._interval = interval
        self._failures = failures
        self._recoveries = recoveries
        self._asks = asks
        self._wants_certificate = wants_certificate
        self._is_full = is_full
        self._in_a_row: dict[str, int] = {}  # of the result that would turn it
        self._timeouts = {name: getattr(rows, name).timeout for name in addresses if getattr(rows, name).enabled}
        first = {name: addresses[name].partition(", ")[0] for name in self._timeouts}
        self._addresses = {name: place for name, place in first.items() if not place.startswith("pipe:")}  # has room for one

    async def follow(self, draining: asyncio.Event) -> None:
        """Look at every frontend until the process drains."""
        async with asyncio.TaskGroup() as group:
            for protocol in self._addresses:
                group.create_task(self._keep(protocol, draining))

    async def _keep(self, protocol: str, draining: asyncio.Event) -> None:
        while not draining.is_set():
            is_well = await self.look(protocol) and self.results[protocol].fault is None
            pause = self._interval if is_well else min(SOON, self._interval)
            await asyncio.sleep(pause * random.uniform(0.8, 1.2))

    async def look(self, protocol: str) -> bool:
        """One check; whether it answered."""
        fault = None
        try:
            async with asyncio.timeout(self._timeouts[protocol]):
                await self._knock(protocol, self._addresses[protocol])
        except TimeoutError:
            fault = f"no answer within {self._timeouts[protocol]:g} s"
        except (Unreachable, NoTls, Flooded, BridgeError) as error:
            fault = str(error) or "it says too much"
        self._note(protocol, fault, time.time())
        return fault is None

    def _note(self, protocol: str, fault: str | None, now: float) -> None:
        before = self.results.get(protocol)
        known = before.fault if before is not None else None
        turns = (fault is None) != (known is None)
        self._in_a_row[protocol] = self._in_a_row.get(protocol, 0) + 1 if turns else 0
        if not turns:
            known = fault
        elif self._in_a_row[protocol] >= (self._recoveries if fault is None else self._failures):
            known = fault
            self._in_a_row[protocol] = 0
            said = "answers again" if fault is None else f"does not answer: {fault}"
            (_log.info if fault is None else _log.error)(f"frontend {said}", protocol=protocol)
            level = "info" if fault is None else "error"
            self._tell(Event(timestamp(now), level, "frontend_state", f"the frontend {said}", protocol))
        self.results[protocol] = SelfCheck(timestamp(now), known)

    async def _knock(self, protocol: str, address: str) -> None:
        """Raises Unreachable, NoTls, Flooded, BridgeError: it does not answer as its protocol does."""
        site = await Site.resolve(_target(address), guarded=False, context=unchecked())
        if self._is_full(site.target.host):
            return
        is_stranger = site.tls and self._wants_certificate
        if not self._asks or is_stranger:
            site.tls = False
        async with await Line.open(site) as line:
            if not self._asks:
                return
            if protocol == "stdio":
                line.end()
                while await line.read():
                    pass
            elif protocol == "tcp_binary":
                await _expect_frame(line, ERROR if is_stranger else ACK)
            else:
                path = urlsplit(address).path or "/mcp"
                expected = 400 if is_stranger else 426 if protocol == "websocket" else 405
                line.write(_question(protocol, path, self._host))
                await _expect_status(line, expected)


def _target(address: str) -> Target:
    """The place of a frontend; one that listens everywhere is looked at on this machine."""
    scheme, _, rest = address.partition("://")
    if scheme == "unix":
        return Target(address, "unix", "", 0, rest)
    target = Target.of(f"{_SCHEMES.get(scheme, scheme)}://{rest}")
    return target._replace(host=_HERE.get(target.host, target.host))


def _question(protocol: str, path: str, host: str) -> bytes:
    if protocol == "websocket":
        key = "c2VsZi1jaGVjayAgICAgIA=="  # 16 bytes, of which nothing will be made
        more = f"Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 0\r\n"
        return f"GET {path} HTTP/1.1\r\nHost: {host}\r\n{more}\r\n".encode("ascii")
    return f"HEAD {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode("ascii")


async def _expect_status(line: Line, expected: int) -> None:
    reply = HttpReply()
    while reply.head is None:
        data = await line.read()
        if not data:
            raise Unreachable(_NOTHING)
        reply.feed(data)
        if reply.broken:
            raise Unreachable("it does not answer like HTTP")
    if reply.head.status != expected and reply.head.status not in _FULL:
        raise Unreachable(f"it answered HTTP {reply.head.status}, not {expected}")


async def _expect_frame(line: Line, kind: int) -> None:
    line.write(OFFER)
    frames = FrameReader()
    while (frame := frames.next()) is None:
        data = await line.read()
        if not data:
            raise Unreachable(_NOTHING)
        frames.feed(data)
    if frame.kind != kind:
        raise Unreachable(f"it answered with a frame of type {frame.kind}")


async def touch(backend: Backend) -> None:
    """A check of a server that connects and says nothing. Raises BridgeError when it cannot be connected to.

    Source: ``health_monitoring.protocol_specific_checks``.
    """
    try:
        target = Target.of(backend.address)
    except ValueError:
        raise BridgeError("internal_error", "there is nothing to connect to") from None  # a pipe: no verdict
    try:
        site = await Site.resolve(target, guarded=False, context=None, via=through_proxy)
        site.tls = False
        (await Line.open(site)).close()
    except Unreachable as error:
        raise BridgeError("connection_refused", f"{target.place}: {error}", sent=False) from error
