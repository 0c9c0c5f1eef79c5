"""The gateway's wiring: every frontend, the full ring, servers behind, the management listener beside.

    listeners -> faces (paths) -> frontends of the protocols -> front ring -> servers

Source: issue "Gateway"; contract sections 1.1 (cli.gateway.run), 2 and 3.1.
"""

from __future__ import annotations

import asyncio
import errno
import socket
import ssl
import time
from collections.abc import Callable
from hashlib import sha256
from os import urandom

from mcpbridge.admin.app import App
from mcpbridge.admin.views import is_ready
from mcpbridge.bridge import Bridge, refusing_while
from mcpbridge.config.gateway import GatewayConfig
from mcpbridge.config.kinds import split_host_port
from mcpbridge.config.load import Loaded
from mcpbridge.config.problems import EX_CANTCREAT, EX_CONFIG, EX_NOPERM, EX_TEMPFAIL, ConfigError, Problem
from mcpbridge.config.rows import variables
from mcpbridge.config.sections import EndpointSpec
from mcpbridge.core.reception import Reception
from mcpbridge.core.session import Session
from mcpbridge.core.tasks import Spawn
from mcpbridge.detection import Detection
from mcpbridge.discovery.sockets import find_sockets
from mcpbridge.era import Crossings
from mcpbridge.execute import Execute
from mcpbridge.faces import Faces, Front, Frontends, bracketed, explain, public_rules
from mcpbridge.observe.log import configure, log
from mcpbridge.observe.metrics import Registry
from mcpbridge.observe.snapshot import PROTOCOL_NAMES, ConfigStatus, Snapshot, timestamp
from mcpbridge.policies.access_log import access_log
from mcpbridge.policies.auth import StaticToken, Verify, authenticate, bearer
from mcpbridge.policies.authorize import authorize
from mcpbridge.policies.jwt import JwtKeys
from mcpbridge.policies.sessions import sessions
from mcpbridge.policies.validate import validate
from mcpbridge.seal import Sealer, certificate_end, derive_key, random_secret
from mcpbridge.status import Status
from mcpbridge.stores.events import MemoryEvents
from mcpbridge.stores.memory import MemoryStore
from mcpbridge.transports.doors import ConnectionLimits
from mcpbridge.transports.http.listen import HttpFrontend
from mcpbridge.transports.http1.server import HttpServer
from mcpbridge.transports.sse.dial import Comeback
from mcpbridge.transports.sse.listen import SseFrontend
from mcpbridge.transports.stdio.launch import withhold
from mcpbridge.transports.stdio.pipe import PipeFrontend
from mcpbridge.transports.stdio.socket import ForeignFile, SocketFrontend
from mcpbridge.transports.tcp_binary.health import TcpHealth
from mcpbridge.transports.tcp_binary.listen import TcpFrontend
from mcpbridge.transports.websocket.listen import WebSocketFrontend
from mcpbridge.wiring import Reach, first_of, on_signals, raise_fd_limit, run, through_proxy

_log = log("gateway")
SNAPSHOT_AGE = 1.0  # seconds a snapshot is served before a new one is made (contract http.status)
LIST_WAIT = 2.0  # seconds a server may delay a list; less than a router's own 3, which asks us
BASE_HEADERS = (
    ("x-content-type-options", "nosniff"),
    ("x-frame-options", "DENY"),
    ("x-xss-protection", "0"),
    ("content-security-policy", "default-src 'none'; frame-ancestors 'none'"),
    ("referrer-policy", "no-referrer"),
)
TLS_HEADERS = (("strict-transport-security", "max-age=31536000; includeSubDomains"),)


def main(loaded: Loaded[GatewayConfig]) -> int:
    """Serve until SIGTERM; the exit status: 0 when everything in flight was finished, 143 when it was cut off."""
    config = loaded.config
    configure(config.logging.level, config.logging.format)
    for warning in loaded.warnings:
        _log.warn(str(warning))
    withhold(_secrets(config), (*variables(GatewayConfig), *(endpoint.token_env for endpoint in _endpoints(config))))
    raise_fd_limit(2 * config.server.max_connections + 256)
    return run(lambda: Gateway(loaded).serve())


class Gateway:
    """One gateway process."""

    def __init__(self, loaded: Loaded[GatewayConfig]) -> None:
        self._loaded = loaded
        self._config = loaded.config
        self._registry = Registry()
        self._status = Status(self._registry)
        self._last: tuple[float, Snapshot] | None = None
        self._ready = False
        self._frontends = Frontends()
        self._reception: Reception
        self._spawn: Spawn
        self._not_after: float | None = None
        self._context: ssl.SSLContext | None = None

    async def serve(self) -> int:
        """Listen, serve, drain."""
        config = self._config
        stop: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        now: asyncio.Future[int] = asyncio.get_running_loop().create_future()

        def signalled(status: int) -> None:
            """The first signal drains, the second ends at once."""
            for future in (stop, now):
                if not future.done():
                    future.set_result(status)
                    return

        on_signals(signalled)
        store = MemoryStore(
            idle_timeout=min(config.sessions.ttl, config.sessions.max_idle),
            max_total=config.sessions.max_total,
            max_per_principal=config.sessions.max_per_principal,
        )
        sealer = Sealer(self._seal_keys())
        bridge = Bridge(
            "gateway",
            store,
            Crossings(),
            max_attempts=config.routing.max_attempts,
            max_name=config.routing.max_name_length,
            list_wait=LIST_WAIT,
            observe=self._status.attempted,
            sealer=sealer,
            parked_ttl=config.routing.parked_ttl,
        )
        async with bridge:
            self._detection = self._detecting(bridge)
            reach = self._add_servers(bridge)
            verify = self._verify()
            events = MemoryEvents(max_bytes=config.sessions.event_log_max_bytes, max_age=config.sessions.max_idle)
            execute = Execute(bridge.spawn, deadline=config.routing.request_timeout)
            endpoint = bridge.endpoint()
            front = bridge.front(
                [
                    access_log(self._registry, self._status.tallies),  # outermost: sees every outcome, also refusals
                    refusing_while(bridge.draining),  # before work is begun
                    authenticate(verify),  # sets caller.principal
                    sessions(bridge.sessions, lambda record: _mint(sealer, record, bridge.instance, config.sessions.ttl)),
                    execute.policy(),  # needs the principal
                    validate(),  # what the protocol version asks of a request
                    authorize(),  # needs the method
                ],
                endpoint,
            )
            execute.front = front
            app = App(
                lambda: self._snapshot(bridge, store.kind),
                self._registry,
                verify=verify,
                read_access=config.admin.read_access,
                rules=public_rules(config),
                metrics_path=config.metrics.path if config.metrics.enabled else None,
                actions=self._detection.actions(),
                strict=self._detection.actions(),
            )
            mcp = HttpFrontend(front, bridge.draining, events.open, deadline=config.routing.request_timeout)
            faces = Faces(config, bridge, app, mcp, execute)
            self._reception = Reception(
                front,
                bridge.spawn,
                bridge.sessions,
                faces.target_of,
                bridge.draining,
                deadline=config.routing.request_timeout,
            )
            self._spawn = bridge.spawn
            management = await self._listen(faces)
            bridge.watch()
            self._ready = True
            health = await self._listen_health(lambda: self._snapshot(bridge, store.kind))
            if health is not None:
                bridge.spawn(health.follow())
            names = ", ".join(bridge.servers) or "none"
            _log.info("gateway ready", servers=names, config=self._loaded.path, listeners=self._frontends.addresses)
            status = await stop
            _log.info("draining", in_flight_limit_s=config.server.drain_timeout)
            bridge.draining.set()
            self._frontends.stop_accepting()
            draining = asyncio.ensure_future(self._frontends.drain(config.server.drain_timeout))
            await first_of(draining, now)
            is_clean = draining.done() and self._frontends.connections == 0
            draining.cancel()
            await self._frontends.close()
            await management.close()
        await reach.close()  # after the bridge, which ends the servers' sessions over these connections
        return 0 if is_clean else status

    # Wiring

    def _add_servers(self, bridge: Bridge) -> Reach:
        config = self._config
        pool = config.connection.pool
        reach = Reach(
            bridge,
            max_message=config.server.security.max_message_size,
            max_response=config.backends.max_response_size,
            pool_size=pool.max_size,
            idle_timeout=pool.idle_timeout,
            max_lifetime=pool.max_lifetime,
            dial_timeout=pool.dial_timeout,
            timeouts={
                "stdio": config.backends.stdio.timeout,
                "websocket": config.backends.websocket.timeout,
                "http": config.backends.http.timeout,
                "tcp_binary": config.backends.tcp_binary.timeout,
            },
            sse=Comeback(config.backends.sse.reconnect_interval, config.backends.sse.max_retries),
            detector=self._detection.detector if self._detection.enabled else None,
            fallback=config.protocol_detection.fallback_protocol,
        )
        specs = list(config.servers)
        if config.backends.stdio.socket_discovery:
            specs += find_sockets(config.backends.stdio.socket_paths, {spec.name for spec in specs})
        prefix = config.routing.prefix == "always" or (config.routing.prefix == "auto" and len(specs) != 1)
        for spec in specs:
            if all(getattr(config.backends, endpoint.spoken).enabled for endpoint in spec.endpoints):
                reach.add(spec, prefix=prefix)
            else:
                _log.warn("server left out: its protocol is switched off", server=spec.name)
        return reach

    def _detecting(self, bridge: Bridge) -> Detection:
        found = self._config.protocol_detection
        return Detection(
            bridge.spawn,
            self._registry,
            role="gateway",
            enabled=found.enabled,
            timeout=found.timeout,
            cache=found.cache_duration,
            fallback=found.fallback_protocol,
            configured=lambda: [e.url for spec in self._config.servers for e in spec.endpoints if e.url],
            allowed=found.allowed_targets,
            accuracy_target=found.accuracy_target,
            via=through_proxy,
        )

    def _verify(self) -> Verify | None:
        auth = self._config.auth
        if auth.type == "none":
            return None
        tokens = [StaticToken(t.name, t.token, frozenset(t.scopes)) for t in auth.static_tokens]
        return bearer(tokens, jwt_keys(self._config), max_token_length=auth.max_token_length)

    def _seal_keys(self) -> list[bytes]:
        """Configured keys, else one derived from the JWT secret, else a random one: this process alone opens its seals."""
        config = self._config
        if config.sessions.seal_keys:
            return [key.encode() for key in config.sessions.seal_keys]
        if config.auth.jwt.secret:
            return [derive_key(config.auth.jwt.secret.encode(), "seal")]
        return [random_secret()]

    async def _listen(self, faces: Faces) -> HttpServer:
        """Open every listener that is switched on; the management listener, which outlives them. Raises ConfigError."""
        limits = ConnectionLimits(self._config.server.max_connections, self._config.server.max_connections_per_ip)
        tcp = await self._listen_tcp(limits) if self._config.server.serves("tcp_binary") else None
        await self._listen_http(faces, limits, tcp)
        await self._listen_stdio(limits)
        return await self._listen_management(faces)

    async def _listen_tcp(self, limits: ConnectionLimits) -> TcpFrontend:
        """The port of MCPB frames. One that was not asked for by its number is done without when it is taken."""
        config = self._config.server
        frontend = TcpFrontend(
            self._reception.serve,
            self._reception.admit,
            auth_required=self._config.auth.type != "none",
            max_message=config.security.max_message_size,
            limits=limits,
        )
        self._frontends.add(frontend)
        context = self._tls() if config.tcp_tls else None
        try:
            host, port = await frontend.start(config.host, config.tcp_port, context)
            self._speak("tcp_binary", f"{'tcps' if context else 'tcp'}://{bracketed(host)}:{port}")
        except OSError as error:
            self._do_without("tcp_binary", "server.tcp_port", f"{bracketed(config.host)}:{config.tcp_port}", error)
        return frontend

    async def _listen_health(self, snapshot: Callable[[], Snapshot]) -> TcpHealth | None:
        """The port that is open while we are ready; the same holds if it is taken."""
        config = self._config.server
        if not config.tcp_health_port or not config.serves("tcp_binary"):
            return None
        health = TcpHealth(lambda: (snapshot().healthy, snapshot().status), lambda: is_ready(snapshot()))
        try:
            host, port = await health.start(config.host, config.tcp_health_port)
        except OSError as error:
            if "server.tcp_health_port" in self._explicit():
                where = f"{bracketed(config.host)}:{config.tcp_health_port}"
                raise self._not_listening("server.tcp_health_port", where, error) from error
            _log.warn("the health port is not open", protocol="tcp_binary", port=config.tcp_health_port, error=str(error))
            return None
        self._frontends.add(health)
        _log.info("health port", protocol="tcp_binary", address=f"tcp://{bracketed(host)}:{port}")
        return health

    async def _listen_http(self, faces: Faces, limits: ConnectionLimits, tcp: TcpFrontend | None) -> None:
        """The port of HTTP, and of every protocol that begins as HTTP; MCPB is known by its first bytes."""
        config = self._config.server
        server = HttpServer(
            faces.public,
            max_header=config.security.max_header_size,
            max_body=config.security.max_request_size,
            limits=limits,
            base_headers=BASE_HEADERS,
            tls_headers=TLS_HEADERS,
            explain=explain,
            sniff=tcp.protocol if tcp is not None else None,
        )
        context = self._tls() if config.tls.enabled else None
        try:
            host, port = await server.start(config.host, config.port, context)
        except OSError as error:
            raise self._not_listening("server.port", f"{bracketed(config.host)}:{config.port}", error) from error
        self._frontends.add(server)
        scheme = "https" if context is not None else "http"
        if config.serves("http"):
            here = self._reception.connections  # of the protocols that share the port
            self._speak(
                "http",
                f"{scheme}://{bracketed(host)}:{port}",
                lambda: max(0, server.connections - here("websocket") - here("sse")),
                lambda: max(0, server.active - here("sse")),
            )
        if config.serves("sse"):
            sse, reception = config.protocols.sse, self._reception
            faces.sse = SseFrontend(
                reception.serve, reception.admit, reception.recognize, path=sse.path, keep_alive=sse.keepalive_interval
            )
            self._speak("sse", f"{scheme}://{bracketed(host)}:{port}{sse.path}")
        if config.serves("websocket"):
            websocket, reception = config.protocols.websocket, self._reception
            faces.websocket = WebSocketFrontend(
                reception.serve,
                reception.admit,
                reception.draining,
                max_message=config.security.max_message_size,
                compression=websocket.compression,
            )
            scheme = "wss" if context is not None else "ws"
            self._speak("websocket", f"{scheme}://{bracketed(host)}:{port}{websocket.path}")

    async def _listen_stdio(self, limits: ConnectionLimits) -> None:
        config = self._config.server
        if not config.serves("stdio"):
            return
        stdio, largest = config.protocols.stdio, config.security.max_message_size
        socket_frontend = SocketFrontend(self._reception.serve, self._spawn, limits, max_message=largest)
        pipe_frontend = PipeFrontend(self._reception.serve, self._spawn, max_message=largest)
        await self._listen_at("server.stdio_socket", f"unix://{config.stdio_socket}", socket_frontend)
        if stdio.pipe:
            await self._listen_at("server.protocols.stdio.pipe", f"pipe://{stdio.pipe}", pipe_frontend)

    async def _listen_at(self, key: str, address: str, frontend: SocketFrontend | PipeFrontend) -> None:
        """A place in the file system. A file that is not ours there is a fault in any case."""
        path = address.partition("://")[2]
        try:
            await frontend.start(path, int(self._config.server.protocols.stdio.socket_permissions, 8))
        except ForeignFile as error:
            problem = Problem(self._loaded.places[key], f"{key}: {path}: {error.strerror}", "remove it, or choose another path")
            raise ConfigError([problem], EX_CANTCREAT) from error
        except OSError as error:
            self._do_without("stdio", key, path, error)
        else:
            self._frontends.add(frontend)
            self._speak("stdio", address)

    async def _listen_management(self, faces: Faces) -> HttpServer:
        server = HttpServer(faces.management, base_headers=BASE_HEADERS, max_connections=200, explain=explain)
        endpoint = self._config.metrics.endpoint
        host, port = split_host_port(endpoint)
        try:
            bound = await server.start(host or "127.0.0.1", port)
            _log.info("management listening", protocol="none", address=f"http://{bracketed(bound[0])}:{bound[1]}")
        except OSError as error:
            if "metrics.endpoint" in self._explicit():
                raise self._not_listening("metrics.endpoint", endpoint, error) from error
            _log.warn("the management listener is not open; metrics and health are on the public port only", error=str(error))
        return server

    def _do_without(self, protocol: str, key: str, address: str, error: OSError) -> None:
        """An address that cannot be listened on: a fault where somebody chose it, else a protocol that is down."""
        if key in self._explicit():
            raise self._not_listening(key, address, error) from error
        self._frontends.miss(protocol)
        reason = (error.strerror or str(error)).lower()
        _log.warn(f"{key}: cannot listen on {address}: {reason}; the gateway goes on without it", protocol=protocol)

    def _speak(
        self, protocol: str, address: str, connections: Callable[[], int] | None = None, active: Callable[[], int] | None = None
    ) -> None:
        """Note a protocol that listens now; the clients of the duplex ones are counted by the reception."""
        reception = self._reception
        count = connections or (lambda: reception.connections(protocol))
        self._frontends.speak(protocol, Front(address, count, active or (lambda: reception.active(protocol))))
        _log.info("listening", protocol=protocol, address=address)

    def _not_listening(self, key: str, address: str, error: OSError) -> ConfigError:
        """Why an address cannot be listened on, with the exit status that tells a supervisor whether to try again."""
        why = "the name is not known" if isinstance(error, socket.gaierror) else (error.strerror or str(error)).lower()
        hint = "stop the program that has it, or choose another" if error.errno == errno.EADDRINUSE else "choose another"
        problem = Problem(self._loaded.places[key], f"{key}: cannot listen on {address}: {why}", hint, key)
        return ConfigError([problem], {errno.EADDRINUSE: EX_TEMPFAIL, errno.EACCES: EX_NOPERM}.get(error.errno or 0, EX_CONFIG))

    def _explicit(self) -> set[str]:
        return {key for key, origin in self._loaded.origins.items() if origin.kind != "default"}

    def _tls(self) -> ssl.SSLContext:
        """The TLS of every listener, loaded once."""
        if self._context is None:
            tls = self._config.server.tls
            self._context = context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.minimum_version = ssl.TLSVersion.TLSv1_3 if tls.min_version == "1.3" else ssl.TLSVersion.TLSv1_2
            context.load_cert_chain(tls.cert_file, tls.key_file)
            if tls.client_auth != "none":
                context.load_verify_locations(tls.ca_file)
                context.verify_mode = ssl.CERT_REQUIRED if tls.client_auth == "require" else ssl.CERT_OPTIONAL
            self._not_after = certificate_end(tls.cert_file)
            self._registry.set("mcp_gateway_tls_cert_not_after_seconds", self._not_after)
        return self._context

    def _snapshot(self, bridge: Bridge, store: str) -> Snapshot:
        now = time.monotonic()
        if self._last is None or now - self._last[0] >= SNAPSHOT_AGE:
            frontends = self._frontends.told(listening=not bridge.draining.is_set())
            config = ConfigStatus(self._loaded.path, timestamp(bridge.started), None)
            snapshot = self._status.snapshot(
                bridge,
                frontends,
                store=store,
                ready=self._ready,
                config=config,
                not_after=self._not_after,
                detection=self._detection.snapshot(),
            )
            self._last = (now, snapshot)
            counts = self._frontends.counts()
            rest = "draining" if bridge.draining.is_set() else "idle"
            for protocol in PROTOCOL_NAMES:
                total, active = counts.get(protocol, (0, 0))
                for state, value in {"active": active, "idle": 0, "draining": 0, rest: total - active}.items():
                    self._registry.set("mcp_gateway_connections_total", float(value), protocol=protocol, state=state)
        return self._last[1]


def _secrets(config: GatewayConfig) -> list[str]:
    """What only the gateway itself may know, and what it shows to one server each."""
    headers = (value for endpoint in _endpoints(config) for value in endpoint.headers.values())
    tokens = (entry.token for entry in config.auth.static_tokens)
    return [config.auth.jwt.secret, *config.sessions.seal_keys, *tokens, *headers]


def _endpoints(config: GatewayConfig) -> list[EndpointSpec]:
    return [endpoint for spec in config.servers for endpoint in spec.endpoints]


def jwt_keys(config: GatewayConfig) -> JwtKeys | None:
    """The keys of signed tokens; None without a secret."""
    jwt = config.auth.jwt
    if not jwt.secret:
        return None
    names = {key: value for key, value in (("issuer", jwt.issuer), ("audience", jwt.audience)) if value}
    return JwtKeys((jwt.secret.encode(),), leeway=jwt.leeway, **names)


def _mint(sealer: Sealer, record: Session, instance: str, ttl: float) -> str:
    """A session id: a seal that says whose and where the session is (decision 5). It locates; the token authorizes."""
    payload = b"1" + sha256(record.principal.encode()).digest()[:16] + bytes.fromhex(instance) + urandom(16)
    return sealer.seal("session", payload, ttl)
