"""The health port: whoever connects while we are ready gets through; who asks further is told more.

    MCPB health frame  ->  the same frame, as often as it is asked
    anything else, a half-close, or a second of silence  ->  {"healthy": true, "status": "ok"}\\n  and the end

It listens only while the process is ready, so that a bare TCP probe (Kubernetes ``tcpSocket``, load balancers) is enough.

Source: contract http.gateway.tcp-health.
"""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Callable
from typing import Final, cast

from mcpbridge.errors import BridgeError
from mcpbridge.observe.log import log
from mcpbridge.transports.doors import bind
from mcpbridge.wire import mcpb

SILENCE: Final = 1.0  # seconds
LOOK: Final = 1.0  # seconds between two looks whether we are ready
MAX_OPEN: Final = 256  # connections at once; more are cut at once, who have learned what a connection tells

_log = log("tcp_binary")
_HEALTH = frozenset((mcpb.HEALTH,))


class TcpHealth:
    """``state`` says whether all is well, and in one word how it is; ``ready`` whether we take calls. ``asked`` is called when
    somebody connects to know."""

    def __init__(
        self, state: Callable[[], tuple[bool, str]], ready: Callable[[], bool], asked: Callable[[], None] = lambda: None
    ) -> None:
        self.state = state
        self.asked = asked
        self.open: set[_Probe] = set()
        self._ready = ready
        self._where = ("", 0)
        self._listeners: list[asyncio.AbstractServer] = []
        self._is_over = False

    @property
    def connections(self) -> int:
        """0: probes never hold up the end of the process."""
        return 0

    async def start(self, host: str, port: int) -> tuple[str, int]:
        """Listen if we are ready. Returns the address bound first. Raises OSError when it cannot be had."""
        sockets = await bind(host, port)
        address = sockets[0].getsockname()
        self._where = (host, address[1])
        await self._serve(sockets)
        if not self._ready():
            self._shut()
        return address[0], address[1]

    async def follow(self) -> None:
        """Listen while we are ready, until the process drains. For a task of its own."""
        while not self._is_over:
            await asyncio.sleep(LOOK)
            try:
                await self.look()
            except OSError as error:
                _log.warn("the health port cannot be opened again", protocol="tcp_binary", cause=str(error))

    async def look(self) -> None:
        """Open or shut the port, as we are ready or not."""
        if self._is_over or not self._ready():
            self._shut()
        elif not self._listeners:
            await self._serve(await bind(*self._where))

    def stop_accepting(self) -> None:
        """Never ready again."""
        self._is_over = True
        self._shut()

    async def drain(self, timeout: float) -> None:
        """Nobody is waited for."""

    async def close(self) -> None:
        self.stop_accepting()
        for probe in list(self.open):
            probe.abort()

    async def _serve(self, sockets: list[socket.socket]) -> None:
        loop = asyncio.get_running_loop()
        self._listeners += [await loop.create_server(lambda: _Probe(self), sock=listener) for listener in sockets]

    def _shut(self) -> None:
        for listener in self._listeners:
            listener.close()
        self._listeners = []


class _Probe(asyncio.Protocol):
    def __init__(self, health: TcpHealth) -> None:
        self._health = health
        self._reader = mcpb.FrameReader(mcpb.MAX_HEALTH, _HEALTH)
        self._speaks_frames = False
        self._timer: asyncio.TimerHandle | None = None
        self._transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._health.open.add(self)
        self._health.asked()
        if len(self._health.open) > MAX_OPEN:
            self.abort()
        else:
            self._wait()

    def data_received(self, data: bytes) -> None:
        if self._transport.is_closing():
            return
        try:
            self._reader.feed(data)
            while (frame := self._reader.next()) is not None:
                self._speaks_frames = True
                self._transport.write(mcpb.encode(mcpb.HEALTH, frame.payload))
                self._wait()
        except BridgeError:
            self._tell()

    def pause_writing(self) -> None:
        self.abort()  # it asks and asks, and reads nothing

    def eof_received(self) -> bool:
        self._tell()
        return True  # the end comes with the answer

    def connection_lost(self, exc: Exception | None) -> None:
        self._health.open.discard(self)
        if self._timer is not None:
            self._timer.cancel()

    def abort(self) -> None:
        self._transport.abort()

    def _wait(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_later(SILENCE, self._tell)

    def _tell(self) -> None:
        if not self._transport.is_closing():
            if not self._speaks_frames:
                healthy, status = self._health.state()
                self._transport.write(json.dumps({"healthy": healthy, "status": status}).encode() + b"\n")
            self._transport.close()
