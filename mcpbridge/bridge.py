"""Bridge: the engine with its servers, as both wirings use it. Owns the task group, the servers, the sessions, the snapshot.

    async with Bridge(...) as bridge:      # everything started inside ends with it
        bridge.add(server)
        front = bridge.front([...])

Source: architecture sections 1 (one engine, two wirings) and 10.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack
from itertools import count
from typing import Any, Literal, NamedTuple

from mcpbridge.core.aggregate.endpoint import Endpoint, Part, announce
from mcpbridge.core.aggregate.show import Visible
from mcpbridge.core.backoff import Backoff
from mcpbridge.core.balance.policy import Balancing
from mcpbridge.core.breaker import Breaker, Rules
from mcpbridge.core.checks import Checks
from mcpbridge.core.client_session import AnyLink, ClientSession, ClientSessions
from mcpbridge.core.drain import drain, finish
from mcpbridge.core.exchange import QUESTION_WAIT, Exchange, Handler, Policy, SessionOp
from mcpbridge.core.forward import forward
from mcpbridge.core.mirror import mirror
from mcpbridge.core.outliers import INTERVAL
from mcpbridge.core.pipeline import compose
from mcpbridge.core.pool import Pool
from mcpbridge.core.ports import Dial, Eras
from mcpbridge.core.retries import Retries
from mcpbridge.core.route import call_backend, open_link, route
from mcpbridge.core.server import Backend, Isolation, Knock, Observe, Server
from mcpbridge.core.session import SessionStore
from mcpbridge.core.state import RequestStates, continues
from mcpbridge.core.task_ids import TaskSeals
from mcpbridge.core.tools import by_rules
from mcpbridge.errors import BridgeError
from mcpbridge.observe.log import log
from mcpbridge.observe.snapshot import Event, timestamp
from mcpbridge.policies.attempt import timeout
from mcpbridge.seal import Sealer, random_secret
from mcpbridge.wire.message import Notification, Request, Response

_log = log("bridge")
SWEEP = 15.0  # seconds between looks at idle sessions and conversations
SUMMARY = 4  # looks between two lines about the protocols in use: a minute
IDLE_SHARED = 900.0  # seconds a shared conversation of a network server is kept without use


class Way(NamedTuple):
    """How one endpoint of a server is reached. ``address`` is for people; ``is_child``: a conversation is a process of ours;
    ``limit``: most conversations at once, where the way itself has room for few. ``source``: who found it. ``reuse`` False: a
    conversation per modern call. ``knock`` raises BridgeError when the endpoint says, besides MCP, that it is not well."""

    protocol: str
    address: str
    dial: Dial
    is_child: bool = False
    limit: int | None = None
    weight: float = 1.0
    source: str = "static"
    reuse: bool = True
    knock: Knock | None = None


class Bridge:
    """See the module. ``start_timeout``: seconds a server may take to start and shake hands; ``parked_ttl``: seconds a server's
    question waits for its client; ``breaker``: the rules of every backend's circuit breaker, None for none;
    ``per_protocol``: another one for all backends of a protocol; ``balancing``: which backend of a server takes a call;
    ``sealer`` seals what a modern one carries, None for a secret of this process."""

    def __init__(
        self,
        role: Literal["router", "gateway"],
        store: SessionStore,
        eras: Eras | None,
        *,
        start_timeout: float = 300.0,
        max_attempts: int = 2,
        attempt_timeout: float | None = None,
        list_wait: float = 3.0,
        max_name: int = 48,
        observe: Observe | None = None,
        sealer: Sealer | None = None,
        parked_ttl: float = QUESTION_WAIT,
        breaker: Rules | None = None,
        per_protocol: bool = False,
        failures: int = 1,
        recoveries: int = 1,
        balancing: Balancing | None = None,
        ejected: Callable[[Backend], None] | None = None,
    ) -> None:
        """``failures``, ``recoveries``: how many in a row turn a backend, see ``Backend``; ``ejected``: told of ejections."""
        self.role = role
        self.instance = uuid.uuid4().hex[:12]
        self.started = time.time()
        self._sealer = sealer or Sealer([random_secret()])
        self.states = RequestStates(self._sealer, self.instance, ttl=parked_ttl)
        self._task_seals = TaskSeals(self._sealer)
        self.servers: dict[str, Server] = {}
        self.sessions = ClientSessions(store)
        self.events: deque[Event] = deque(maxlen=200)
        self.draining = asyncio.Event()
        self._prefixes: dict[str, bool] = {}
        self._parts: list[Part] = []
        self.on_arranged: Callable[[], None] | None = None  # told when clients are shown other servers
        self._endpoints: list[Endpoint] = []
        self._checks: Checks | None = None
        self._watching: dict[Backend, asyncio.Task[None]] = {}
        self._retiring: dict[Backend, asyncio.Task[None]] = {}  # taken away, not finished yet
        self._eras = eras
        self._start_timeout = start_timeout
        self._max_attempts = max_attempts
        self._attempt_timeout = attempt_timeout
        self._list_wait = list_wait
        self._max_name = max_name
        self._observe = observe
        self.balancing = balancing or Balancing()
        self._breaker = breaker
        self._per_protocol = per_protocol
        self.groups: dict[str, Breaker] = {}  # protocol -> the breaker of all its backends
        self._failures = failures
        self._recoveries = recoveries
        self._ejected = ejected
        self._group: asyncio.TaskGroup
        self._tasks: set[asyncio.Task[None]] = set()
        self._is_ending = False
        self._exit = AsyncExitStack()
        self._attempt: Handler = compose([timeout(parked_ttl)], call_backend)
        self.retries = Retries()
        self.one: Handler = by_rules(mirror(forward(self._attempt, max_attempts=max_attempts, retries=self.retries)))

    async def __aenter__(self) -> Bridge:
        self._group = await self._exit.enter_async_context(asyncio.TaskGroup())
        self.spawn(self._sweep())
        self.spawn(self._compare())
        return self

    async def __aexit__(self, *error: Any) -> None:
        """End every session, conversation and child, then whatever task is left. Bounded by what a child needs to be killed."""
        try:
            async with asyncio.timeout(10.0):
                if self._eras is not None:
                    await self._eras.close()
                await asyncio.gather(*(session.close() for session in self.sessions), return_exceptions=True)
                backends = [backend for server in self.servers.values() for backend in server.backends]
                pools = [backend.pool for backend in (*backends, *self._retiring)]
                await asyncio.gather(*(pool.close() for pool in pools), return_exceptions=True)
        except TimeoutError:
            _log.warn("some servers did not end in time; their processes are killed")
        self._cancel_all()
        await self._exit.__aexit__(
            None, None, None
        )  # the group's tasks are ours and cancelled: an error of the body stays itself

    def spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """A task of the bridge; it ends with the bridge. An exception in it is logged and ends nothing else."""
        task = self._group.create_task(_guarded(work))
        self._tasks.add(task)

        def ended(task: asyncio.Task[None]) -> None:
            self._tasks.discard(task)
            work.close()  # one that was cancelled before it began never ran

        task.add_done_callback(ended)
        if self._is_ending:
            task.cancel("the bridge ends")  # clients go on talking until the last moment
        return task

    def _cancel_all(self) -> None:
        self._is_ending = True
        for task in list(self._tasks):
            task.cancel("the bridge ends")

    def add(
        self,
        name: str,
        endpoints: Sequence[Way],
        *,
        isolation: Isolation = "principal",
        limit: int = 20,
        prefix: bool = True,
        namespace: str = "default",
        idle_timeout: float = 0.0,
    ) -> Server:
        """Add a server with one or more equal endpoints. ``limit``: most conversations of one backend. ``idle_timeout``:
        seconds an unused shared conversation is kept, 0 for the default of its kind."""
        backends = [self._backend(f"{name}/{number}", way, limit, idle_timeout) for number, way in enumerate(endpoints)]
        server = self.servers[name] = Server(
            name,
            backends,
            namespace=namespace,
            isolation=isolation,
            balancing=self.balancing,
            attempt_timeout=self._attempt_timeout,
        )
        self._prefixes[name] = prefix
        self._look_after(backends)
        return server

    def _backend(self, name: str, way: Way, limit: int, idle_timeout: float) -> Backend:
        backend = Backend(
            name,
            way.protocol,
            way.address,
            way.dial,
            self.spawn,
            observe=self._observe,
            eras=self._eras,
            breaker=Breaker(self._breaker) if self._breaker is not None else None,
            group=self._group_of(way.protocol),
            failures=self._failures,
            recoveries=self._recoveries,
            weight=way.weight,
            source=way.source,
        )
        backend.pool = Pool(
            backend,
            limit=way.limit or (limit if way.is_child else max(limit, 1000)),
            start_timeout=self._start_timeout,
            backoff=Backoff() if way.is_child else None,
            idle_timeout=idle_timeout or (0.0 if way.is_child else IDLE_SHARED),
            reuse=way.reuse or way.is_child,
        )
        backend.knock = way.knock
        backend.states = self.states
        backend.task_seals = self._task_seals
        backend.on_turn = self._turned
        backend.on_ejected = self._told_ejected
        backend.on_breaker = self._tell_breaker
        return backend

    # The set of servers changes while clients are here; ``arrange`` is what they see of it.

    def replace(
        self, server: Server, ends: Sequence[Backend | Way], *, limit: int = 20, idle_timeout: float = 0.0
    ) -> list[Backend]:
        """Give a server other endpoints; those that stay are named by their backend. All of its backends, in order: the others
        drain and are closed."""
        taken = {end.name for end in (*server.backends, *server.leaving)}
        free = (name for number in count() if (name := f"{server.name}/{number}") not in taken)
        backends = [end if isinstance(end, Backend) else self._backend(next(free), end, limit, idle_timeout) for end in ends]
        gone = [backend for backend in server.backends if backend not in backends]
        fresh = [backend for backend in backends if backend not in server.backends]
        for backend in fresh:
            backend.server = server
        server.leaving += gone
        server.backends = backends
        self._look_after(fresh)
        for backend in gone:
            self._retire(backend)
        return backends

    @property
    def in_flight(self) -> int:
        """Calls on servers now."""
        return sum(backend.active for server in self.servers.values() for backend in server.backends)

    def remove(self, server: Server) -> None:
        """Take a server away: nobody calls it any more, what is in flight ends, then its conversations do."""
        del self.servers[server.name], self._prefixes[server.name]
        for session in self.sessions:
            session.missing.pop(server.name, None)
        links = self._unlink(server)
        for backend in server.backends:
            self._retire(backend)
        self.spawn(self._close_late(links, server))

    def _unlink(self, server: Server) -> list[AnyLink]:
        """No session is linked to the server any more; each is told. The links, which may have calls in flight."""
        links: list[AnyLink] = []
        for session in self.sessions:
            for place, link in list(session.links.items()):
                if link.server is server:
                    links.append(session.links.pop(place))
                    announce(session, server)
        return links

    async def gone(self, backend: Backend) -> None:
        """Until a backend that was taken away has finished."""
        if backend in self._retiring:
            await asyncio.wait([self._retiring[backend]])

    @property
    def alone(self) -> Server | None:
        """The server that clients may be shown as it is: the only one, and its names without a prefix."""
        if len(self.servers) != 1 or any(self._prefixes.values()):
            return None
        return next(iter(self.servers.values()))

    def arrange(self, prefixes: Mapping[str, bool]) -> None:
        """Show the servers in this order, with or without a prefix; others come behind, as they were. Clients hear of it."""
        before = set(self._parts)
        self._prefixes = {**prefixes, **{name: old for name, old in self._prefixes.items() if name not in prefixes}}
        servers = {name: self.servers[name] for name in self._prefixes}
        self.servers.clear()
        self.servers.update(servers)
        parts = [Part(server, self._prefixes[name]) for name, server in servers.items()]
        if parts == self._parts:
            return
        self._parts = parts
        if self.on_arranged is not None:
            self.on_arranged()
        for endpoint in self._endpoints:
            endpoint.change(self._parts)
        fresh = [part.server for part in self._parts if part not in before]
        for session in self.sessions:
            if session.face is None or session.initialize is None:
                continue
            for server in fresh:
                if server.name in session.links:
                    announce(session, server)  # under another name
                else:
                    session.missing[server.name] = "it has just been added"
                    self.spawn(self._join(session, server.backends[0]))

    def tools_changed(self, server: Server) -> None:
        """Other tools of a server are shown, or under other names. Its clients hear of it, but for modern ones that see this
        server alone: their subscription is a matter between the two."""
        for session in self.sessions:
            if server.name in session.links:
                announce(session, server)
        for endpoint in self._endpoints:
            endpoint.tell_changed()

    def _retire(self, backend: Backend) -> None:
        drain(backend, self.sessions, self.spawn)
        watching = self._watching.pop(backend, None)
        if watching is not None:
            watching.cancel("it is taken away")
        self._retiring[backend] = self.spawn(self._end(backend))

    async def _end(self, backend: Backend) -> None:
        await finish(backend)
        if backend in backend.server.leaving:
            backend.server.leaving.remove(backend)
        del self._retiring[backend]

    async def _close_late(self, links: list[AnyLink], server: Server) -> None:
        ending = [self._retiring[backend] for backend in server.backends if backend in self._retiring]
        await asyncio.gather(*ending, return_exceptions=True)
        links += self._unlink(server)  # those that were being opened
        await asyncio.gather(*(link.close() for link in links), return_exceptions=True)

    def _group_of(self, protocol: str) -> Breaker | None:
        if self._breaker is None or not self._per_protocol:
            return None
        return self.groups.setdefault(protocol, Breaker(self._breaker))

    def endpoint(self, visible: Visible = lambda *_: True) -> Endpoint:
        """One endpoint over all servers."""
        self._parts = [Part(server, self._prefixes[name]) for name, server in self.servers.items()]
        endpoint = Endpoint(
            self._parts,
            self.one,
            self._sealer,
            self.spawn,
            self.states,
            wait=self._list_wait,
            max_name=self._max_name,
            visible=visible,
        )
        self._endpoints.append(endpoint)
        return endpoint

    def front(self, policies: Sequence[Policy], many: Handler) -> Handler:
        """The front ring around routing."""
        return compose(list(policies), route(one=self.one, many=many))

    def watch(self, checks: Checks) -> None:
        """Look at every server now, and again: what is known before the first client is not waited for. Later ones too."""
        self._checks = checks
        for server in self.servers.values():
            self._look_after(server.backends)

    def _look_after(self, backends: Iterable[Backend]) -> None:
        if self._checks is not None:
            for backend in backends:
                self._watching[backend] = self.spawn(self._checks.keep(backend))

    def _tell_breaker(self, backend: Backend, breaker: Breaker, said: str) -> None:
        level = "info" if breaker.state == "closed" else "warn"
        server = backend.server.name if breaker is backend.breaker else None
        self.events.append(Event(timestamp(time.time()), level, "breaker_state", said, backend.protocol, server))

    def _turned(self, backend: Backend) -> None:
        if backend.state == "ok":
            for session in self.sessions:
                if backend.server.name in session.missing and session.initialize is not None:
                    self.spawn(self._join(session, backend))

    def _told_ejected(self, backend: Backend) -> None:
        said = f"{backend.name} gets no new calls for a while: {backend.ejection.reason}"
        self.events.append(Event(timestamp(time.time()), "warn", "ejection", said, backend.protocol, backend.server.name))
        if self._ejected is not None:
            self._ejected(backend)

    async def _compare(self) -> None:
        while True:
            await asyncio.sleep(INTERVAL)
            for server in self.servers.values():
                server.compare(time.monotonic())

    async def _join(self, session: ClientSession, backend: Backend) -> None:
        """A server that a session missed is back: link it and say so."""
        assert session.initialize is not None
        server = backend.server
        if server.name not in session.links:
            response = await open_link(session, backend, session.initialize, backend.pool.start_timeout)
            if response.error is not None:
                return
        if session.missing.pop(server.name, None) is not None:
            announce(session, server)

    async def _sweep(self) -> None:
        looks = 0
        while True:
            await asyncio.sleep(SWEEP)
            looks += 1
            if looks % SUMMARY == 0:
                self.tell_shares()
            await self.sessions.sweep()
            for server in list(self.servers.values()):
                for backend in server.backends:
                    await backend.pool.sweep()

    def tell_shares(self) -> None:
        """One line about which protocols the calls since the start went to. Source: contract log.protocol-assignment."""
        calls: Counter[str] = Counter()
        for server in self.servers.values():
            for backend in server.backends:
                calls[backend.protocol] += backend.outcome.calls
        total = calls.total()
        if calls:
            shares = {protocol: round(count / total, 4) if total else 0.0 for protocol, count in sorted(calls.items())}
            _log.info("calls by protocol", event="protocol_assignment", calls=total, shares=shares)


async def _guarded(work: Coroutine[Any, Any, None]) -> None:
    try:
        await work
    except asyncio.CancelledError:
        raise
    except BridgeError as error:
        _log.debug("background work failed", reason=str(error))
    except Exception as error:  # noqa: BLE001 - logged; one task must not end the others
        _log.error("background work failed inside the bridge", error=repr(error), exc_info=True)


def refusing_while(draining: asyncio.Event) -> Policy:
    """New requests are refused while the bridge drains. What is in flight goes on, with all it needs: notifications, answers to
    questions, a call's further rounds. So does a call that comes over HTTP: its connection was open, and takes no other."""

    def goes_on(x: Exchange) -> bool:
        if x.caller.protocol == "http" and isinstance(x.message, Request) and x.view.method != "initialize":
            return True
        return isinstance(x.message, Notification | Response) or x.message == SessionOp("SPEAK") or continues(x)

    def policy(x: Exchange, handler: Handler) -> Awaitable[Response | None]:
        if draining.is_set() and not goes_on(x):
            raise BridgeError("draining", "this process is shutting down", sent=False)
        return handler(x)

    return policy
