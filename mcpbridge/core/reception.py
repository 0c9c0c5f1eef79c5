"""Reception: every client of every duplex frontend, from its arrival until it is gone, over one front ring.

    listener --(connection, arrival)--> serve --> DuplexClient --> front ring
                                        the client is gone, or the process drains: its session ends, the connection closes

Source: architecture sections 6 and 8; shared decision 3; contract limit.auth.per-message.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from time import monotonic

from mcpbridge.core.client_session import ClientSessions
from mcpbridge.core.duplex import Arrival, DuplexClient
from mcpbridge.core.exchange import Caller, Deadline, Exchange, Handler, NoReply, Principal, SessionMethod, SessionOp, View
from mcpbridge.core.ports import Connection
from mcpbridge.core.server import Server
from mcpbridge.core.tasks import Spawn

_NOBODY = NoReply()
TargetOf = Callable[[str | None], Server | tuple[Server, ...]]
"""What an arrival's ``server`` means now. Raises BridgeError for a name that nobody has any more; listeners have refused those
that nobody had."""


class Reception:
    """``serve`` and ``admit`` are what listeners take (core.duplex.Serve, Admit). ``deadline``: seconds for a call.

    ``draining``: once it is set, clients get the answers they wait for and no new ones, and are let go.
    """

    def __init__(
        self,
        front: Handler,
        spawn: Spawn,
        sessions: ClientSessions,
        target_of: TargetOf,
        draining: asyncio.Event,
        *,
        deadline: float,
        limit: int = 100,
    ) -> None:
        self._front = front
        self._spawn = spawn
        self._sessions = sessions
        self._target_of = target_of
        self.draining = draining
        self._deadline = deadline
        self._limit = limit
        self._present: dict[str, set[DuplexClient]] = {}
        self._watch: asyncio.Task[None] | None = None

    def connections(self, protocol: str) -> int:
        """Clients that are here by this protocol."""
        return len(self._present.get(protocol, ()))

    def active(self, protocol: str) -> int:
        """Those among them with a request that is being answered."""
        return sum(not client.peer.idle.is_set() for client in self._present.get(protocol, ()))

    async def admit(self, arrival: Arrival) -> Principal | None:
        """Pass an arrival through the front ring: sign-in, limits and log are those of every message. Who it is."""
        return await self._pass("CONNECT", arrival)

    async def recognize(self, arrival: Arrival) -> Principal | None:
        """Who speaks on a connection that is open, where each message signs in anew; also while the process drains."""
        return await self._pass("SPEAK", arrival)

    async def _pass(self, method: SessionMethod, arrival: Arrival) -> Principal | None:
        caller = Caller(arrival.protocol, "modern", arrival.address, arrival.headers)
        target, deadline = self._target_of(arrival.server), Deadline(self._deadline, monotonic())
        await self._front(Exchange(SessionOp(method), View(method), caller, _NOBODY, deadline, target))
        return caller.principal

    async def serve(self, connection: Connection, arrival: Arrival) -> None:
        """Talk with one client to its end."""
        client = DuplexClient(
            connection,
            self._front,
            partial(self._target_of, arrival.server),
            self._spawn,
            protocol=arrival.protocol,
            deadline=self._deadline,
            limit=self._limit,
            address=arrival.address,
            headers=arrival.headers,
        )
        present = self._present.setdefault(arrival.protocol, set())
        present.add(client)
        client.start()
        if self.draining.is_set():
            client.closed(None)
        elif self._watch is None or self._watch.done():
            self._watch = self._spawn(self._let_go())  # one task for all: idle clients are many
        try:
            await client.finished(self._deadline)
        finally:
            present.discard(client)
            await client.peer.close()
            if client.session is not None:
                await self._sessions.end(client.session)

    async def _let_go(self) -> None:
        """When the process drains, be as if every client had closed its side: streams end in order, calls are answered."""
        await self.draining.wait()
        for present in self._present.values():
            for client in list(present):
                client.closed(None)
