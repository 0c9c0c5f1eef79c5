"""The demo server on stdin and stdout: ``python -m mcpbridge.demo.stdio [--name N]``."""

from __future__ import annotations

import argparse
import asyncio

from mcpbridge.core.peer import Peer
from mcpbridge.core.tasks import Spawn
from mcpbridge.demo.server import DemoServer, Session
from mcpbridge.transports.stdio.standard import Standard, open_standard
from mcpbridge.wire.message import Notification, Request, Response

DRAIN = 60.0  # seconds for what was asked before stdin ended


class _Client:
    """The Inbox of the one client."""

    def __init__(self, server: DemoServer, connection: Standard, spawn: Spawn) -> None:
        self._server = server
        self.peer = Peer(connection, self, spawn, client=True, name="client")
        self._session = Session(self.peer.notify_now)
        self.ended = asyncio.Event()

    def notified(self, notification: Notification) -> None:
        """Legacy clients say when they are initialized; from then on they hear what changes."""
        if notification.method == "notifications/initialized":
            self._server.sessions.add(self._session)

    async def asked(self, request: Request) -> Response:
        return await self._server.answer(request, self._session, self.peer.notify_now)

    def closed(self, cause: BaseException | None) -> None:
        self.ended.set()


async def serve(name: str) -> None:
    """Serve until stdin ends, or nobody reads stdout."""
    connection = open_standard()
    async with asyncio.TaskGroup() as group:
        client = _Client(DemoServer(name), connection, group.create_task)
        client.peer.start()
        await client.ended.wait()
        try:
            async with asyncio.timeout(DRAIN):
                await client.peer.idle.wait()
                await connection.flush()
        except TimeoutError:
            client.peer.cancel_served("the server ends")
    await connection.close()


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser("python -m mcpbridge.demo.stdio", description="A small MCP server on stdin and stdout.")
    parser.add_argument("--name", default="demo", help="the name it gives itself (default: demo)")
    asyncio.run(serve(parser.parse_args().name))


if __name__ == "__main__":
    main()
