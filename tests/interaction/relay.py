"""Puts a stdio server behind another transport: each connection gets a server process of its own, messages pass as they are.

    relay.py --over tcp_binary|websocket|sse|unix -- COMMAND ARGS        prints {"port": N}, or {"path": P}

Nothing here is the bridge's: frames are made by ``struct`` and ``websockets``, streams by ``aiohttp``; the servers are official
SDKs. So every transport that has no SDK of its own has a real server at its end all the same.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import struct
import sys
import tempfile
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress

import websockets
from aiohttp import web

Send = Callable[[bytes], Awaitable[None]]
LIMIT = 16 << 20  # bytes of a line
HEADER = struct.Struct(">4sHHI")


class Server:
    """One server process: ``say`` a message to it, what it says goes to ``heard``."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process

    async def say(self, message: bytes) -> None:
        assert self.process.stdin
        self.process.stdin.write(message.strip().replace(b"\n", b" ") + b"\n")
        await self.process.stdin.drain()

    async def hear(self, heard: Send) -> None:
        """Until the server ends."""
        assert self.process.stdout
        while line := await self.process.stdout.readline():
            await heard(line.strip())


@asynccontextmanager
async def serving(command: list[str]) -> AsyncIterator[Server]:
    process = await asyncio.create_subprocess_exec(
        *command, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, limit=LIMIT
    )
    try:
        yield Server(process)
    finally:
        with suppress(ProcessLookupError):
            process.kill()
        await process.wait()


async def joined(*parts: Awaitable[None]) -> None:
    """Until one of the two directions is over."""
    tasks = [asyncio.ensure_future(part) for part in parts]
    await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def over_tcp(command: list[str]) -> int:
    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        async def frame() -> tuple[int, bytes]:
            magic, _version, kind, size = HEADER.unpack(await reader.readexactly(HEADER.size))
            assert magic == b"MCPB"
            return kind, await reader.readexactly(size)

        async def write(kind: int, payload: bytes) -> None:
            writer.write(HEADER.pack(b"MCPB", 1, kind, len(payload)) + payload)
            await writer.drain()

        async def listen(server: Server) -> None:
            while True:
                kind, payload = await frame()
                if kind == 1:
                    await server.say(payload)
                elif kind == 4:
                    await write(4, payload)

        kind, _offer = await frame()
        assert kind == 6
        await write(7, b'{"agreed_version":1}')
        async with serving(command) as server:
            await joined(listen(server), server.hear(lambda message: write(2, message)))
        writer.close()

    listener = await asyncio.start_server(connected, "127.0.0.1", 0)
    return int(listener.sockets[0].getsockname()[1])


async def over_websocket(command: list[str]) -> int:
    async def connected(socket: websockets.ServerConnection) -> None:
        async def listen(server: Server) -> None:
            async for message in socket:
                assert isinstance(message, str)
                await server.say(message.encode())

        async with serving(command) as server:
            await joined(listen(server), server.hear(lambda message: socket.send(message.decode())))

    protocols = [websockets.Subprotocol("mcp")]
    listener = await websockets.serve(connected, "127.0.0.1", 0, subprotocols=protocols, max_size=LIMIT)
    return int(next(iter(listener.sockets)).getsockname()[1])


async def over_sse(command: list[str]) -> int:
    open_streams: dict[str, Server] = {}

    async def stream(request: web.Request) -> web.StreamResponse:
        name = uuid.uuid4().hex
        response = web.StreamResponse(headers={"content-type": "text/event-stream", "cache-control": "no-cache"})
        await response.prepare(request)

        async def event(kind: str, data: bytes) -> None:
            await response.write(b"event: %s\r\ndata: %s\r\n\r\n" % (kind.encode(), data))

        async with serving(command) as server:
            open_streams[name] = server
            await event("endpoint", f"/messages?session_id={name}".encode())
            try:
                await server.hear(lambda message: event("message", message))
            finally:
                del open_streams[name]
        return response

    async def message(request: web.Request) -> web.Response:
        server = open_streams.get(request.query["session_id"])
        if server is None:
            return web.Response(status=404)
        await server.say(await request.read())
        return web.Response(status=202, text="Accepted")

    app = web.Application(client_max_size=LIMIT)
    app.add_routes([web.get("/sse", stream), web.post("/messages", message)])
    runner = web.AppRunner(app, handler_cancellation=True)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    return int(runner.addresses[0][1])


async def over_unix(command: list[str]) -> str:
    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        async def listen(server: Server) -> None:
            while line := await reader.readline():
                await server.say(line)

        async def write(message: bytes) -> None:
            writer.write(message + b"\n")
            await writer.drain()

        async with serving(command) as server:
            await joined(listen(server), server.hear(write))
        writer.close()

    path = f"{tempfile.mkdtemp(prefix='relay-')}/server.sock"
    await asyncio.start_unix_server(connected, path, limit=LIMIT)
    return path


OVER: dict[str, Callable[[list[str]], Awaitable[int | str]]] = {
    "tcp_binary": over_tcp,
    "websocket": over_websocket,
    "sse": over_sse,
    "unix": over_unix,
}


async def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--over", choices=OVER, required=True)
    parser.add_argument("command", nargs="+")
    chosen = parser.parse_args()
    place = await OVER[chosen.over](chosen.command)
    print(json.dumps({"port" if isinstance(place, int) else "path": place}), flush=True)
    await asyncio.get_running_loop().create_future()


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
