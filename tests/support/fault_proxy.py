"""A fault proxy in user space: a TCP or unix listener in front of one upstream, with faults per direction that are switched
while it runs.

    async with FaultProxy("127.0.0.1:9000") as proxy:          proxy.address is what the client dials
        proxy.set(down=Faults(latency=0.2, jitter=0.05))       "up": client to server, "down": server to client
        proxy.set()                                            no faults
    python tests/support/fault_proxy.py 127.0.0.1:9000 --control 127.0.0.1:0      the same as a program, told by JSON over HTTP

Addresses are ``host:port`` or ``unix:/path``. Control: ``GET /`` tells addresses, faults and counts; ``PUT /faults``
with ``{"up": {...}, "down": {...}}`` replaces all faults (400 and nothing changed when it does not fit); ``DELETE /faults``
clears them. Everything drawn at random comes from ``seed``, the number of the connection and the direction.

A black hole holds the bytes and lets them go when it ends, as TCP does after a silent partition; a reset, a cut and a
half-close last for the connections they met.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import random
import socket
import struct
import sys
from collections.abc import Iterable
from typing import Annotated, Any, Literal

import msgspec

Direction = Literal["up", "down"]
CHUNK = 65536  # bytes read at once
AHEAD = 64  # chunks of one direction that may be under way
MAX_BODY = 65536  # of a control request

Seconds = Annotated[float, msgspec.Meta(ge=0, le=3600)]
Count = Annotated[int, msgspec.Meta(ge=0)]
Chance = Annotated[float, msgspec.Meta(ge=0, le=1)]
Size = Annotated[int, msgspec.Meta(ge=1)]


class Faults(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """What happens to the bytes of one direction. The default is nothing."""

    latency: Seconds = 0.0
    jitter: Seconds = 0.0  # the latency varies by up to so many seconds to both sides; order is kept
    bandwidth: Size | None = None  # bytes per second
    slice: Size | None = None  # bytes per write
    slice_delay: Seconds = 0.0  # between two slices
    black_hole: bool = False  # accepted, and nothing arrives
    reset: bool = False  # the receiver gets a RST (a unix socket has none: it is closed)
    reset_chance: Chance = 0.0  # that a chunk becomes one
    half_close: bool = False  # the receiver gets a FIN; the other direction goes on
    corrupt: Count | None = None  # one bit of the byte at this offset of the connection's stream is flipped
    cut: Count | None = None  # the connection is closed after so many bytes of this direction


class Both(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The faults of both directions, as ``PUT /faults`` takes them."""

    up: Faults = Faults()
    down: Faults = Faults()


class Side:
    """One direction of one connection: reads from ``reader``, writes to ``writer``, both ends of a queue with times."""

    def __init__(
        self, proxy: FaultProxy, name: Direction, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, number: int
    ) -> None:
        self._proxy = proxy
        self._name: Direction = name
        self._reader = reader
        self._writer = writer
        self._random = random.Random(f"{proxy.seed}:{number}:{name}")
        self._queue: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(AHEAD)
        self._passed = 0  # bytes written
        self._is_shut = False

    @property
    def faults(self) -> Faults:
        return self._proxy.faults[self._name]

    def switch(self) -> bool:
        """Do what happens at once. True: the connection is over."""
        if self.faults.reset:
            reset(self._writer)
            return True
        if self.faults.half_close:
            self._shut()
        return False

    def _shut(self) -> None:
        if not self._is_shut:
            self._is_shut = True
            if self._writer.can_write_eof():
                with contextlib.suppress(RuntimeError):  # it is closed already, which no transport tells beforehand
                    self._writer.write_eof()

    async def read(self) -> None:
        """Stamp what comes in with the time at which it may go out. Until its end."""
        loop = asyncio.get_running_loop()
        due = 0.0
        while True:
            try:
                chunk = await self._reader.read(CHUNK)
            except ConnectionError:
                chunk = b""
            faults = self.faults
            late = faults.latency + self._random.uniform(-faults.jitter, faults.jitter)
            due = max(due, loop.time() + max(0.0, late))
            await self._queue.put((due, chunk))
            if not chunk:
                return

    async def write(self) -> bool:
        """Send what is due. True: the connection was cut, False: the sender has finished."""
        loop = asyncio.get_running_loop()
        while True:
            due, chunk = await self._queue.get()
            if (wait := due - loop.time()) > 0:
                await asyncio.sleep(wait)
            while self.faults.black_hole:
                await self._proxy.changed()
            if not chunk:
                self._shut()
                return False
            if not self._is_shut and await self._send(chunk):
                return True

    async def _send(self, chunk: bytes) -> bool:
        faults = self.faults
        if faults.reset_chance and self._random.random() < faults.reset_chance:
            reset(self._writer)
            return True
        at = faults.corrupt
        if at is not None and self._passed <= at < self._passed + len(chunk):
            changed = bytearray(chunk)
            changed[at - self._passed] ^= 1 << self._random.randrange(8)
            chunk = bytes(changed)
        is_cut = faults.cut is not None and self._passed + len(chunk) >= faults.cut
        if faults.cut is not None and is_cut:
            chunk = chunk[: max(0, faults.cut - self._passed)]
        for piece in pieces(chunk, faults):
            self._passed += len(piece)
            self._writer.write(piece)
            try:
                await self._writer.drain()
            except ConnectionError:
                return True
            pause = faults.slice_delay if faults.slice else 0.0
            if faults.bandwidth:
                pause += len(piece) / faults.bandwidth
            if pause:
                await asyncio.sleep(pause)
        return is_cut


class FaultProxy:
    """One listener in front of one upstream. ``accepted``: connections since the start. See the module."""

    def __init__(self, upstream: str, *, listen: str = "127.0.0.1:0", seed: int = 1) -> None:
        self.upstream = upstream
        self.listen = listen
        self.seed = seed
        self.faults: dict[Direction, Faults] = {"up": Faults(), "down": Faults()}
        self.accepted = 0
        self.address = listen
        self._live: dict[asyncio.Task[None], tuple[Side, ...]] = {}
        self._switched = asyncio.Event()
        self._server: asyncio.Server | None = None

    async def __aenter__(self) -> FaultProxy:
        self._server = await serve(self.listen, self._serve)
        if not self.listen.startswith("unix:"):
            host, port = self._server.sockets[0].getsockname()[:2]
            self.address = f"{host}:{port}"
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        for task in (tasks := list(self._live)):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._server.wait_closed()

    @property
    def connections(self) -> int:
        """Connections that are open now."""
        return len(self._live)

    def set(self, *, up: Faults = Faults(), down: Faults = Faults()) -> None:  # noqa: B008 (frozen)
        """From now on exactly these faults, for open connections as well as for new ones."""
        self.faults = {"up": up, "down": down}
        self._switched.set()
        self._switched = asyncio.Event()
        for task, sides in list(self._live.items()):
            if switch(sides):
                task.cancel()

    async def changed(self) -> None:
        """Wait until the faults are set anew."""
        await self._switched.wait()

    def told(self) -> dict[str, Any]:
        """What ``GET /`` answers."""
        return {
            "listen": self.address,
            "upstream": self.upstream,
            "seed": self.seed,
            "accepted": self.accepted,
            "connections": self.connections,
            "faults": msgspec.to_builtins(Both(**self.faults)),
        }

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.accepted += 1
        number = self.accepted
        if self.faults["down"].reset:
            reset(writer)
            return
        task = asyncio.current_task()
        assert task is not None
        self._live[task] = ()
        writers = [writer]
        try:
            up_reader, up_writer = await dial(self.upstream)
            writers.append(up_writer)
            sides = (Side(self, "up", reader, up_writer, number), Side(self, "down", up_reader, writer, number))
            self._live[task] = sides
            if not switch(sides):
                await run(sides)
        except OSError:
            reset(writer)  # no upstream: as if nobody listened
        except asyncio.CancelledError:
            for each in writers:
                each.transport.abort()
        finally:
            del self._live[task]
            for each in writers:
                each.close()


def switch(sides: Iterable[Side]) -> bool:
    """Do in both directions what happens at once. True: the connection is over."""
    ends = [side.switch() for side in sides]
    return any(ends)


async def run(sides: Iterable[Side]) -> None:
    """Carry both directions until both have ended or one was cut."""
    readers = [asyncio.create_task(side.read()) for side in sides]
    writers = {asyncio.create_task(side.write()) for side in sides}
    pending = writers
    try:
        while pending:
            done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
            if any(task.result() for task in done):
                return
    finally:
        for task in (tasks := [*readers, *writers]):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def pieces(chunk: bytes, faults: Faults) -> Iterable[bytes]:
    """What is written at once: slices, and with a bandwidth at most a twentieth of a second of it."""
    size = min(faults.slice or CHUNK, max(1, faults.bandwidth // 20) if faults.bandwidth else CHUNK)
    return (chunk[at : at + size] for at in range(0, len(chunk), size))


def reset(writer: asyncio.StreamWriter) -> None:
    """Close with a RST: a close that does not linger sends one."""
    sock = writer.get_extra_info("socket")
    if sock is not None and sock.family != socket.AF_UNIX:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


async def serve(address: str, accepted: Any) -> asyncio.Server:
    """Listen on ``host:port`` or ``unix:/path``."""
    if address.startswith("unix:"):
        return await asyncio.start_unix_server(accepted, address[5:])
    host, _, port = address.rpartition(":")
    return await asyncio.start_server(accepted, host, int(port))


async def dial(address: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Connect to ``host:port`` or ``unix:/path``. Raises OSError."""
    if address.startswith("unix:"):
        return await asyncio.open_unix_connection(address[5:])
    host, _, port = address.rpartition(":")
    return await asyncio.open_connection(host, int(port))


class Control:
    """The JSON control API over HTTP/1.1; one request per connection."""

    def __init__(self, proxy: FaultProxy) -> None:
        self._proxy = proxy

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            status, answer = await self._answer(reader)
            body = json.dumps(answer).encode()
            fields = f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\nConnection: close"
            writer.write(f"HTTP/1.1 {status}\r\n{fields}\r\n\r\n".encode() + body)
            await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            pass  # who asked has gone, or sent no HTTP
        finally:
            writer.close()

    async def _answer(self, reader: asyncio.StreamReader) -> tuple[str, dict[str, Any]]:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        method, path = [*head[0].split(" "), "", ""][:2]
        fields = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:])}
        length = fields.get("content-length", "0")
        if not length.isdigit() or int(length) > MAX_BODY:
            return "400 Bad Request", {"error": f"the body has a length of at most {MAX_BODY} bytes"}
        body = await reader.readexactly(int(length))
        if (method, path) == ("GET", "/"):
            return "200 OK", self._proxy.told()
        if path == "/faults" and method in ("PUT", "DELETE"):
            try:
                both = msgspec.json.decode(body, type=Both) if method == "PUT" else Both()
            except msgspec.MsgspecError as error:
                return "400 Bad Request", {"error": str(error)}
            self._proxy.set(up=both.up, down=both.down)
            return "200 OK", self._proxy.told()
        return "404 Not Found", {"error": "GET /, PUT /faults, DELETE /faults"}


async def main(upstream: str, listen: str, control: str, seed: int) -> None:
    """Run until the process is ended. Prints one line of JSON with both addresses when both listen."""
    async with FaultProxy(upstream, listen=listen, seed=seed) as proxy:
        server = await serve(control, Control(proxy))
        where = control if control.startswith("unix:") else "{}:{}".format(*server.sockets[0].getsockname()[:2])
        print(json.dumps({"listen": proxy.address, "control": where}), flush=True)
        async with server:
            await server.serve_forever()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n\n")[0])
    parser.add_argument("upstream", help="host:port or unix:/path")
    parser.add_argument("--listen", default="127.0.0.1:0")
    parser.add_argument("--control", default="127.0.0.1:0")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args(sys.argv[1:])
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(main(options.upstream, options.listen, options.control, options.seed))
