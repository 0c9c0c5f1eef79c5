"""The load generator: raw Protocols, requests encoded beforehand, every answer checked for its id and its text.

    load.py http URL   [--dialect legacy|modern] [--clients N] [--seconds S] [--warm-up S]
    load.py stdio      [same] -- COMMAND ...

Each client is one connection with a session of its own (stdio: all share the one pipe) and sends the next call when the answer
to the last one is there. Prints ``ready`` after the warm-up, waits for a line on stdin, measures, prints one JSON object:
``calls``, ``seconds``, ``errors``, ``first_error``, ``p50_us``, ``p99_us``. The line is there so that the caller can read
the processor accounts of the hop right before and right after.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from array import array
from collections.abc import Callable
from time import perf_counter
from typing import cast
from urllib.parse import urlsplit

import httptools
import messages
import uvloop

TEXT = "x" * 24
NO_ERROR = (b'"error"', b'"isError":true', b'"isError": true')


class Tally:
    """What is measured: latencies in seconds of the calls answered until ``stop``, and what was wrong."""

    def __init__(self) -> None:
        self.latencies = array("d")
        self.errors = 0
        self.first_error = ""
        self.stop = 0.0

    def begin(self, seconds: float) -> None:
        """Forget the warm-up; count for ``seconds`` from now."""
        self.latencies = array("d")
        self.errors, self.first_error = 0, ""
        self.started = perf_counter()
        self.stop = self.started + seconds

    def check(self, number: int, answer: bytes, sent_at: float, now: float) -> None:
        """Count one answer."""
        if b"%d" % number in answer and TEXT.encode() in answer and not any(mark in answer for mark in NO_ERROR):
            self.latencies.append(now - sent_at)
        else:
            self.fail(answer[:300].decode(errors="replace") or "empty answer")

    def fail(self, why: str) -> None:
        """Count one failed call."""
        self.errors += 1
        self.first_error = self.first_error or why

    def result(self, ended: float) -> dict[str, object]:
        """The numbers as printed; latencies in microseconds."""
        ordered = sorted(self.latencies)
        count = len(ordered)

        def at(share: float) -> float | None:
            return round(ordered[min(count - 1, int(share * count))] * 1e6, 1) if count else None

        return {
            "calls": count,
            "seconds": round(ended - self.started, 4),
            "errors": self.errors,
            "first_error": self.first_error,
            "p50_us": at(0.5),
            "p99_us": at(0.99),
        }


class HttpClient(asyncio.Protocol):
    """One connection of one client; answers may be JSON or an event stream, with a length or chunked."""

    def __init__(self, tally: Tally, host: str, path: str, dialect: messages.Dialect, tool: str) -> None:
        self.tally = tally
        self.host, self.path = host, path
        self.template = messages.tool_call(dialect, tool, TEXT)
        self.dialect: messages.Dialect = dialect
        self.tool = tool if dialect == "modern" else ""
        self.session = ""
        self.body = b""
        self.number = messages.FIRST_ID
        self.sent_at = 0.0
        self.waiting: asyncio.Future[tuple[int, bytes]] | None = None
        self.finished: asyncio.Future[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.parser = httptools.HttpResponseParser(self)

    def connection_lost(self, exc: Exception | None) -> None:
        why = ConnectionError(f"connection lost: {exc or 'closed by the server'}")
        if self.waiting is not None and not self.waiting.done():
            self.waiting.set_exception(why)
        if self.finished is not None and not self.finished.done():
            self.tally.fail(str(why))
            self.finished.set_result(None)

    def data_received(self, data: bytes) -> None:
        self.parser.feed_data(data)

    def on_header(self, name: bytes, value: bytes) -> None:
        if name.lower() == b"mcp-session-id":
            self.session = value.decode()

    def on_body(self, body: bytes) -> None:
        self.body = self.body + body if self.body else body

    def on_message_complete(self) -> None:
        body, self.body = self.body, b""
        status = self.parser.get_status_code()
        self.parser = httptools.HttpResponseParser(self)
        if self.waiting is not None:
            waiting, self.waiting = self.waiting, None
            waiting.set_result((status, body))
            return
        now = perf_counter()
        self.tally.check(self.number, body, self.sent_at, now)
        if now < self.tally.stop:
            self.send_next()
        elif self.finished is not None and not self.finished.done():
            self.finished.set_result(None)

    def send_next(self) -> None:
        self.number += 1
        self.sent_at = perf_counter()
        self.transport.write(self.template_head + self.template.with_id(self.number))

    async def ask(self, body: bytes, *, method: str = "POST", session: str = "none") -> tuple[int, bytes]:
        self.waiting = asyncio.get_running_loop().create_future()
        head = messages.http_head(self.host, self.path, len(body), session=session, method=method)
        self.transport.write(head + body)
        async with asyncio.timeout(60):
            return await self.waiting

    async def open(self) -> None:
        """The handshake of the dialect; afterwards calls can be sent."""
        if self.dialect == "legacy":
            status, body = await self.ask(messages.initialize())
            if status != 200 or b'"result"' not in body:
                raise ConnectionError(f"initialize: HTTP {status} {body[:300]!r}")
            await self.ask(messages.INITIALIZED, session=self.session)
        length = len(self.template.with_id(self.number))
        self.template_head = messages.http_head(self.host, self.path, length, session=self.session, tool=self.tool)

    async def run(self) -> None:
        """Calls until the tally says stop."""
        self.finished = asyncio.get_running_loop().create_future()
        self.send_next()
        await self.finished
        self.finished = None

    async def close(self) -> None:
        if self.dialect == "legacy" and self.session and not self.transport.is_closing():
            try:
                await self.ask(b"", method="DELETE", session=self.session)
            except (ConnectionError, TimeoutError):
                pass
        self.transport.close()


class Pipe(asyncio.SubprocessProtocol):
    """All clients over the one pipe of a child; an answer belongs to the client whose id it has."""

    def __init__(self, tally: Tally, dialect: messages.Dialect, tool: str, clients: int) -> None:
        self.tally = tally
        self.dialect: messages.Dialect = dialect
        self.template = messages.tool_call(dialect, tool, TEXT)
        self.clients = clients
        self.number = messages.FIRST_ID
        self.sent: dict[int, float] = {}
        self.pending = b""
        self.waiting: asyncio.Future[bytes] | None = None
        self.finished: asyncio.Future[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.SubprocessTransport, transport)
        self.pipe = cast(asyncio.WriteTransport, self.transport.get_pipe_transport(0))

    def pipe_data_received(self, fd: int, data: bytes) -> None:
        if fd != 1:
            return
        lines = (self.pending + data).split(b"\n")
        self.pending = lines.pop()
        for line in lines:
            self.received(line)

    def process_exited(self) -> None:
        if self.finished is not None and not self.finished.done():
            self.tally.fail("the child exited")
            self.finished.set_result(None)

    def received(self, line: bytes) -> None:
        number = json.loads(line).get("id") if self.waiting is not None else int(line.partition(b'"id":')[2].split(b",")[0])
        if self.waiting is not None:
            if number is not None:
                waiting, self.waiting = self.waiting, None
                waiting.set_result(line)
            return
        now = perf_counter()
        self.tally.check(number, line, self.sent.pop(number), now)
        if now < self.tally.stop:
            self.send_next()
        elif not self.sent and self.finished is not None and not self.finished.done():
            self.finished.set_result(None)

    def send_next(self) -> None:
        self.number += 1
        self.sent[self.number] = perf_counter()
        self.pipe.write(self.template.with_id(self.number) + b"\n")

    async def open(self) -> None:
        """The handshake of the dialect."""
        if self.dialect == "legacy":
            self.waiting = asyncio.get_running_loop().create_future()
            self.pipe.write(messages.initialize() + b"\n")
            async with asyncio.timeout(60):
                await self.waiting
            self.pipe.write(messages.INITIALIZED + b"\n")

    async def run(self) -> None:
        """Calls of all clients until the tally says stop."""
        self.finished = asyncio.get_running_loop().create_future()
        for _ in range(self.clients):
            self.send_next()
        await self.finished
        self.finished = None

    async def close(self) -> None:
        self.pipe.close()
        self.transport.close()


async def measure(clients: list[HttpClient] | list[Pipe], tally: Tally, seconds: float, warm_up: float) -> dict[str, object]:
    """Warm up, wait for the word, measure. Returns the numbers."""

    async def run_all(duration: float) -> None:
        tally.begin(duration)
        async with asyncio.TaskGroup() as group:
            for client in clients:
                group.create_task(client.run())

    await run_all(warm_up)
    print("ready", flush=True)
    sys.stdin.readline()  # nothing else is to happen meanwhile
    await run_all(seconds)
    return tally.result(perf_counter())


async def http(options: argparse.Namespace) -> dict[str, object]:
    """Measure an HTTP endpoint."""
    parts = urlsplit(options.target[0])
    assert parts.hostname and parts.port
    tally = Tally()
    loop = asyncio.get_running_loop()
    make: Callable[[], HttpClient] = lambda: HttpClient(tally, parts.netloc, parts.path or "/", options.dialect, options.tool)  # noqa: E731
    clients = [(await loop.create_connection(make, parts.hostname, parts.port))[1] for _ in range(options.clients)]
    for client in clients:
        await client.open()
    result = await measure(clients, tally, options.seconds, options.warm_up)
    for client in clients:
        await client.close()
    return result


async def stdio(options: argparse.Namespace) -> dict[str, object]:
    """Measure a child on its pipe."""
    tally = Tally()
    loop = asyncio.get_running_loop()
    _, pipe = await loop.subprocess_exec(
        lambda: Pipe(tally, options.dialect, options.tool, options.clients), *options.target, stderr=None
    )
    await pipe.open()
    result = await measure([pipe], tally, options.seconds, options.warm_up)
    await pipe.close()
    return result


def main() -> int:
    """Parse the command line, measure, print. Returns 1 when a call failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=("http", "stdio"))
    parser.add_argument("--dialect", choices=("legacy", "modern"), default="legacy")
    parser.add_argument("--tool", default="echo")
    parser.add_argument("--clients", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=1.0)
    parser.add_argument("--warm-up", type=float, default=0.3)
    parser.add_argument("target", nargs="+")
    options = parser.parse_args()
    result = uvloop.run(http(options) if options.kind == "http" else stdio(options))
    print(json.dumps(result), flush=True)
    return 1 if result["errors"] else 0


if __name__ == "__main__":
    sys.exit(main())
