"""What router and gateway wire alike: a configured server becomes backends with a way to reach each.

Source: architecture section 1 (one engine, two wirings); contract sections 1.1 and 3.
"""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
import sys
from collections.abc import Callable, Collection, Coroutine, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import msgspec

from mcpbridge.bridge import Bridge, Way
from mcpbridge.config.problems import ConfigError, Problem
from mcpbridge.config.protocols import SECURE, rescheme
from mcpbridge.config.sections import EndpointSpec, ServerSpec, Tools
from mcpbridge.core.detect import Target
from mcpbridge.core.exchange import Era
from mcpbridge.core.pool import Pool
from mcpbridge.core.ports import Dial, Inbox, Upstream
from mcpbridge.core.server import Backend, Knock, Server
from mcpbridge.core.tools import ToolRules
from mcpbridge.detect.detector import Detector
from mcpbridge.detect.dial import DetectedDial
from mcpbridge.observe.log import log
from mcpbridge.proxies import proxy_for
from mcpbridge.secrets import has_secrets, resolve_endpoint
from mcpbridge.transports.http.dial import dial as dial_http
from mcpbridge.transports.http.upstream import CONTENT_TYPES
from mcpbridge.transports.http1.health import HealthPath
from mcpbridge.transports.http1.pool import HttpPool
from mcpbridge.transports.proxy import Route
from mcpbridge.transports.sse.dial import COMEBACK, Comeback
from mcpbridge.transports.sse.dial import dial as dial_sse
from mcpbridge.transports.stdio.dial import dial as dial_stdio
from mcpbridge.transports.stdio.pipe import dial as dial_pipe
from mcpbridge.transports.stdio.socket import dial as dial_socket
from mcpbridge.transports.tcp_binary.dial import dial as dial_tcp
from mcpbridge.transports.tls import client_tls

_log = log("bridge")
_RULES = ("isolation", "max_children", "idle_timeout")  # of a server: with another one it is a new server
PoolKey = tuple[str, ssl.SSLContext | None]
"""The connections to one origin with one kind of TLS."""


class Changes(NamedTuple):
    """Names of the servers that came, went, or have other endpoints, weights or rules."""

    added: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()


class _End:
    """One endpoint, its backend once there is one, and the connections that it uses."""

    def __init__(self, spec: EndpointSpec) -> None:
        self.spec = spec
        self.pools: set[PoolKey] = set()
        self.backend: Backend | None = None
        self.way: Way


class Kept(NamedTuple):
    """Connections to one endpoint: those of HTTP to its origin, else its conversations."""

    server: str
    protocol: str
    pool: HttpPool | Pool


class _Served(NamedTuple):
    """A server as it is reached now."""

    spec: ServerSpec
    server: Server
    ends: list[_End]


class Reach:
    """How this process reaches servers: limits, and one connection pool per origin. Close it at the end.

    ``dial_timeout``: seconds until a conversation is open, for every protocol; ``timeouts``: less for some of them.
    ``silence``: seconds without a byte until a lasting connection is asked whether it lives, and again until it counts as dead.
    """

    def __init__(
        self,
        bridge: Bridge,
        *,
        max_message: int = 10_485_760,
        max_response: int = 10_485_760,
        pool_size: int = 100,
        pool_least: int = 0,
        pool_look: float | None = None,
        reuse: bool = True,
        idle_timeout: float = 30.0,
        max_lifetime: float = 300.0,
        dial_timeout: float = 10.0,
        timeouts: Mapping[str, float] | None = None,
        queue_time: float | None = None,
        silence: float | None = None,
        sse: Comeback = COMEBACK,
        content_types: Collection[str] = CONTENT_TYPES,
        health_path: str = "",
        tls: Callable[[], ssl.SSLContext] = ssl.create_default_context,
        detector: Detector | None = None,
        fallback: str = "http",
    ) -> None:
        """``pool_least``: HTTP connections kept to an address; ``pool_look``: seconds of silence until an idle one is asked;
        ``reuse`` False: each call has a connection of its own. ``content_types``: of answers over HTTP. ``health_path``: what
        a WebSocket server's port is asked before a check, "" for nothing.
        ``detector`` finds out what http addresses speak that name no protocol; ``fallback`` is spoken when it cannot."""
        self._bridge = bridge
        self._detector = detector
        self._fallback = fallback
        self._max_message = max_message
        self._max_response = max_response
        self._pool_size = pool_size
        self._pool_least = pool_least
        self._pool_look = pool_look
        self._reuse = reuse
        self._content_types = content_types
        self._health_path = health_path
        self._idle_timeout = idle_timeout
        self._max_lifetime = max_lifetime
        self._dial_timeout = dial_timeout
        self._timeouts = timeouts or {}
        self._queue_time = queue_time
        self._silence = silence
        self._sse = sse
        self._tls = tls
        self._contexts: dict[frozenset[tuple[str, str]], ssl.SSLContext] = {}  # by the tls of endpoints
        self.pools: dict[PoolKey, HttpPool] = {}
        self._served: dict[str, _Served] = {}
        self._leaving: list[_End] = []

    def add(self, spec: ServerSpec, *, prefix: bool = True, ends: list[_End] | None = None) -> Server:
        """Add a configured server to the bridge, and nothing else changes. Raises ConfigError."""
        ends = ends if ends is not None else self._ends(spec)
        server = self._bridge.add(
            spec.name,
            [end.way for end in ends],
            isolation=spec.isolation,
            limit=spec.max_children,
            prefix=prefix,
            namespace=spec.namespace,
            idle_timeout=spec.idle_timeout,
        )
        server.tool_rules = _tool_rules(spec)
        self._keep(spec, server, ends)
        return server

    def apply(self, specs: Sequence[ServerSpec], *, prefix: bool = True) -> Changes:
        """Have these servers and no others. Endpoints that stay keep backend, connections and sessions; those that go take no
        new calls, finish and are closed. Raises ConfigError; nothing has changed then."""
        stay = {spec.name: self._served[spec.name] for spec in specs if self._stays(spec)}
        ends = self._all_ends(specs, stay)
        removed = [name for name in self._served if name not in ends]
        known = set(self._served)
        for name in known - set(stay):
            gone = self._served.pop(name)
            self._bridge.remove(gone.server)
            self._let_go(gone.ends)
        changed = []
        for spec in specs:
            served = stay.get(spec.name)
            if served is None:
                self.add(spec, prefix=prefix, ends=ends[spec.name])
            elif served.spec != msgspec.structs.replace(spec, place=served.spec.place):
                self._change(served, spec, ends[spec.name])
            else:
                continue
            changed.append(spec.name)
        self._bridge.arrange({spec.name: prefix for spec in specs})
        added = tuple(name for name in changed if name not in known)
        return Changes(added, tuple(removed), tuple(name for name in changed if name in known))

    def _stays(self, spec: ServerSpec) -> bool:
        """Whether a server of this name is here whose conversations may go on: the same people share them."""
        served = self._served.get(spec.name)
        return served is not None and all(getattr(served.spec, rule) == getattr(spec, rule) for rule in _RULES)

    def _all_ends(self, specs: Sequence[ServerSpec], stay: Mapping[str, _Served]) -> dict[str, list[_End]]:
        """Every endpoint of these servers, the old ones where they stay. Raises ConfigError and leaves nothing behind then."""
        ends: dict[str, list[_End]] = {}
        try:
            for spec in specs:
                ends[spec.name] = self._ends(spec, stay[spec.name].ends if spec.name in stay else ())
        except ConfigError:
            fresh = [end for name in ends for end in ends[name] if end.backend is None]
            self._bridge.spawn(self._release(fresh))
            raise
        return ends

    def _ends(self, spec: ServerSpec, known: Sequence[_End] = ()) -> list[_End]:
        left, ends = list(known), []
        for endpoint in spec.endpoints:
            end = next((one for one in left if msgspec.structs.replace(endpoint, weight=one.spec.weight) == one.spec), None)
            if end is not None:
                left.remove(end)
            else:
                end = _End(endpoint)
                try:
                    end.way = self._way(spec.name, endpoint, end.pools)._replace(source=spec.source)
                except OSError as error:  # of ssl too
                    why = f"server {spec.name!r}: the files of its tls cannot be used: {error}"
                    hint = "PEM files that exist; certificate and key belong together"
                    raise ConfigError([Problem(spec.place, why, hint)]) from error
            ends.append(end)
        return ends

    def _change(self, served: _Served, spec: ServerSpec, ends: list[_End]) -> None:
        """Other endpoints, weights or namespace for a server that stays."""
        server = served.server
        server.namespace = spec.namespace
        if spec.tools != served.spec.tools:
            server.tool_rules = _tool_rules(spec)
            self._bridge.tools_changed(server)
        if ends != served.ends:
            self._bridge.replace(
                server, [end.backend or end.way for end in ends], limit=spec.max_children, idle_timeout=spec.idle_timeout
            )
        for end, endpoint in zip(ends, spec.endpoints, strict=True):
            if end.backend is not None and end.spec.weight != endpoint.weight:
                end.backend.weight = end.backend.configured_weight = endpoint.weight
            end.spec = endpoint
        self._let_go([end for end in served.ends if end not in ends])
        self._keep(spec, server, ends)

    def _keep(self, spec: ServerSpec, server: Server, ends: list[_End]) -> None:
        """Remember how a server is reached now."""
        for end, backend in zip(ends, server.backends, strict=True):
            if end.backend is not None:
                continue
            end.backend = backend
            if isinstance(end.way.dial, DetectedDial):
                end.way.dial.attach(backend)
            else:
                _log.info(
                    "protocol assigned", event="protocol_assignment", protocol=backend.protocol, server=server.name,
                    backend=backend.name,
                )  # fmt: skip
        self._served[spec.name] = _Served(spec, server, ends)

    def _let_go(self, ends: Sequence[_End]) -> None:
        self._leaving += ends
        self._bridge.spawn(self._release(ends))

    async def _release(self, ends: Sequence[_End]) -> None:
        """Close the connections that nobody else uses, when these ends have finished."""
        for end in ends:
            if end.backend is not None:
                await self._bridge.gone(end.backend)
            if end in self._leaving:
                self._leaving.remove(end)
            others = [*self._leaving, *(one for served in self._served.values() for one in served.ends)]
            for key in end.pools - {key for other in others for key in other.pools}:
                pool = self.pools.pop(key, None)
                if pool is not None:
                    await pool.close()
            used = {frozenset(other.spec.tls.items()) for other in others}
            self._contexts = {tls: context for tls, context in self._contexts.items() if not tls or tls in used}

    def kept(self) -> Iterator[Kept]:
        """What is kept open, each once; connections that several servers use are the first one's."""
        seen: set[HttpPool] = set()
        for served in self._served.values():
            for end in served.ends:
                backend = end.backend
                if backend is None:
                    continue
                shared = [self.pools[key] for key in end.pools if key in self.pools]
                for pool in shared:
                    if pool not in seen:
                        seen.add(pool)
                        yield Kept(served.server.name, backend.protocol, pool)
                if not shared:
                    yield Kept(served.server.name, backend.protocol, backend.pool)

    async def close(self) -> None:
        for pool in self.pools.values():
            await pool.close()

    def _way(self, name: str, endpoint: EndpointSpec, pools: set[PoolKey]) -> Way:
        """How an endpoint is reached. ``pools`` gets the keys of the connections that it uses."""
        protocol = endpoint.spoken
        if endpoint.tls:
            self._context_for(endpoint)  # its files are looked at now, not when somebody calls
        dial: Dial
        if self._detector is not None and is_open(endpoint):

            def make(found: str, url: str) -> Dial:
                return self._dial(found, name, msgspec.structs.replace(endpoint, url=url, protocol=found), pools)

            dial = DetectedDial(self._detector, endpoint.url, make, self._fallback)
        else:
            dial = self._dial(protocol, name, endpoint, pools)
        is_pipe = urlsplit(endpoint.url).scheme == "pipe" and sys.platform != "win32"  # a pair of FIFOs has room for one
        return Way(
            protocol,
            endpoint.target,
            dial,
            is_child=bool(endpoint.command),
            limit=1 if is_pipe else None,
            weight=endpoint.weight,
            reuse=self._reuse,
            knock=self._knock(name, endpoint) if protocol == "websocket" and self._health_path else None,
        )

    def _dial(self, protocol: str, name: str, endpoint: EndpointSpec, pools: set[PoolKey]) -> Dial:
        """One line per protocol, one method for each. Raises KeyError for a protocol that is not spoken."""
        dials: dict[str, Callable[[str, EndpointSpec], Dial]] = {
            "stdio": self._child if endpoint.command else self._socket,
            "http": partial(self._http, pools),
            "websocket": self._websocket,
            "tcp_binary": self._tcp,
            "sse": partial(self._stream, pools),
        }
        dial = dials[protocol]
        if not has_secrets(endpoint):
            return dial(name, endpoint)
        usual = dial(name, endpoint) if "${secret:" not in endpoint.url else None

        async def late(era: Era, inbox: Inbox) -> Upstream:
            """A keychain may wait for its owner, so a thread asks it first; an address with a secret in it is known then."""
            known = msgspec.structs.replace(endpoint, url=(await asyncio.to_thread(resolve_endpoint, endpoint)).url)
            return await (usual or dial(name, known))(era, inbox)

        return late

    def _child(self, name: str, endpoint: EndpointSpec) -> Dial:
        return dial_stdio(
            name,
            self._bridge.spawn,
            lambda: _argv(resolve_endpoint(endpoint)),
            env=lambda: resolve_endpoint(endpoint).env,
            cwd=endpoint.cwd or None,
            max_message=self._max_message,
        )

    def _socket(self, name: str, endpoint: EndpointSpec) -> Dial:
        parts = urlsplit(endpoint.url)
        dial = dial_pipe if parts.scheme == "pipe" else dial_socket
        return dial(
            name,
            self._bridge.spawn,
            parts.path,
            authorization=lambda: _headers(resolve_endpoint(endpoint)).get("authorization"),
            max_message=self._max_message,
            timeout=self._timeout("stdio"),
        )

    def _http(self, pools: set[PoolKey], name: str, endpoint: EndpointSpec) -> Dial:
        return dial_http(
            name,
            self._bridge.spawn,
            self._pool(endpoint.url, endpoint, pools),
            endpoint.url,
            headers=lambda: _headers(resolve_endpoint(endpoint)),
            max_response=self._max_response,
            content_types=self._content_types,
        )

    def _websocket(self, name: str, endpoint: EndpointSpec) -> Dial:
        from mcpbridge.transports.websocket.dial import dial  # 20 ms that a router without such servers does not spend

        url = rescheme(endpoint.url, "wss", "ws")
        return dial(
            name,
            self._bridge.spawn,
            url,
            headers=lambda: _headers(resolve_endpoint(endpoint)),
            ssl=self._context_for(endpoint),
            proxy=proxy_for(url, os.environ),
            max_message=self._max_message,
            timeout=self._timeout("websocket"),
            silence=self._silence,
        )

    def _knock(self, name: str, endpoint: EndpointSpec) -> Knock:
        """Ask the health path of a server whose protocol has none."""
        url = rescheme(endpoint.url, "https", "http")
        tls, proxy = self._context_for(endpoint), proxy_for(url, os.environ)
        return HealthPath(name, url, self._health_path, lambda: _headers(resolve_endpoint(endpoint)), ssl=tls, proxy=proxy).ask

    def _stream(self, pools: set[PoolKey], name: str, endpoint: EndpointSpec) -> Dial:
        url = rescheme(endpoint.url, "https", "http")
        return dial_sse(
            name,
            self._bridge.spawn,
            self._pool(url, endpoint, pools),
            url,
            headers=lambda: _headers(resolve_endpoint(endpoint)),
            max_response=self._max_response,
            comeback=self._sse,
        )

    def _tcp(self, name: str, endpoint: EndpointSpec) -> Dial:
        parts = urlsplit(endpoint.url)
        assert parts.hostname is not None and parts.port is not None  # as every checked address
        return dial_tcp(
            name,
            self._bridge.spawn,
            parts.hostname,
            parts.port,
            token=lambda: _authorization(resolve_endpoint(endpoint)),
            ssl=self._context_for(endpoint),
            proxy=proxy_for(endpoint.url, os.environ),
            max_message=self._max_response,
            timeout=self._timeout("tcp_binary"),
            silence=self._silence,
        )

    def _timeout(self, protocol: str) -> float:
        """Seconds until a conversation of this protocol is open."""
        return min(self._dial_timeout, self._timeouts.get(protocol, self._dial_timeout))

    def _context_for(self, endpoint: EndpointSpec) -> ssl.SSLContext | None:
        """The TLS context for an address that means TLS; each is loaded once. Raises OSError for files that cannot be used."""
        if urlsplit(endpoint.url).scheme not in SECURE:
            return None
        wanted = frozenset(endpoint.tls.items())
        if wanted not in self._contexts:
            self._contexts[wanted] = client_tls(**endpoint.tls) if endpoint.tls else self._tls()
        return self._contexts[wanted]

    def _pool(self, url: str, endpoint: EndpointSpec, pools: set[PoolKey]) -> HttpPool:
        parts = urlsplit(url)
        origin = f"{parts.scheme}://{parts.netloc}"
        context = self._context_for(endpoint)
        pools.add((origin, context))
        if (origin, context) not in self.pools:
            self.pools[origin, context] = HttpPool(
                origin,
                ssl=context,
                proxy=proxy_for(origin, os.environ),
                max_size=self._pool_size,
                min_size=self._pool_least,
                look=self._pool_look,
                reuse=self._reuse,
                idle_timeout=self._idle_timeout,
                max_lifetime=self._max_lifetime,
                dial_timeout=self._timeout("http"),
                queue_time=self._queue_time,
            )
            self.pools[origin, context].keep(self._bridge.spawn)
        return self.pools[origin, context]


def through_proxy(target: Target) -> Callable[[], Coroutine[Any, Any, socket.socket]] | None:
    """How detection connects to a target that the environment puts behind a proxy; None: directly."""
    if target.scheme == "unix":
        return None
    scheme = "https" if target.scheme in ("https", "wss", "tcps") else "http"
    proxy = proxy_for(f"{scheme}://{target.authority}", os.environ)
    return Route(target.host, target.port, proxy).open if proxy is not None else None


def is_open(endpoint: EndpointSpec) -> bool:
    """Whether only detection can say what an endpoint speaks: an http address without a protocol."""
    return endpoint.protocol == "auto" and urlsplit(endpoint.url).scheme in ("http", "https") and "${" not in endpoint.url


def _argv(endpoint: EndpointSpec) -> list[str]:
    return [endpoint.command, *endpoint.args]


def _headers(endpoint: EndpointSpec) -> Mapping[str, str]:
    headers = {name.lower(): value for name, value in endpoint.headers.items()}
    token = os.environ.get(endpoint.token_env, "") if endpoint.token_env else ""
    if token:
        headers["authorization"] = f"Bearer {token}"
    return headers


def _authorization(endpoint: EndpointSpec) -> str | None:
    """What signs in where there are no headers."""
    return next((value for name, value in _headers(endpoint).items() if name.lower() == "authorization"), None)


def _tool_rules(spec: ServerSpec) -> ToolRules | None:
    tools = spec.tools
    return None if tools == Tools() else ToolRules(tools.allow, tools.deny, tools.rename)
