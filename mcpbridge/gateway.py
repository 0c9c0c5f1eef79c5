"""The gateway's wiring: every frontend, the full ring, servers behind, the management listener beside.

    listeners -> faces (paths) -> frontends of the protocols -> front ring -> servers

Source: issue "Gateway"; contract sections 1.1 (cli.gateway.run), 2 and 3.1.
"""

from __future__ import annotations

import asyncio
import time
from hashlib import sha256
from os import urandom

from mcpbridge.admin.app import App
from mcpbridge.balancing import Balance
from mcpbridge.bridge import Bridge, refusing_while
from mcpbridge.config.gateway import GatewayConfig
from mcpbridge.config.kinds import is_loopback
from mcpbridge.config.load import Loaded
from mcpbridge.config.problems import ConfigError
from mcpbridge.config.protocols import PROTOCOLS
from mcpbridge.config.rows import variables
from mcpbridge.config.sections import EndpointSpec, ServerSpec
from mcpbridge.core.balance.policy import Balancing
from mcpbridge.core.breaker import Rules
from mcpbridge.core.checks import Checks
from mcpbridge.core.exchange import Principal
from mcpbridge.core.overload import Limits, Overload
from mcpbridge.core.reception import Reception
from mcpbridge.core.session import Session
from mcpbridge.departure import Departure
from mcpbridge.detection import Detection
from mcpbridge.discovery import Discovery
from mcpbridge.era import Crossings
from mcpbridge.execute import Execute
from mcpbridge.faces import Faces, bracketed, public_rules
from mcpbridge.foresight import Foresight
from mcpbridge.listeners import Listeners
from mcpbridge.observe.log import configure, log
from mcpbridge.observe.metrics import Registry
from mcpbridge.observe.snapshot import PROTOCOL_NAMES, Event, Snapshot, timestamp
from mcpbridge.operation import Operation
from mcpbridge.overload import Shedding, limits_of, refusing_in
from mcpbridge.performance import Housekeeping
from mcpbridge.policies.access_log import access_log
from mcpbridge.policies.auth import StaticToken, Verify, authenticate, bearer
from mcpbridge.policies.authorize import authorize
from mcpbridge.policies.jwt import JwtKeys
from mcpbridge.policies.sessions import sessions
from mcpbridge.policies.tool_search import tool_search
from mcpbridge.policies.validate import validate
from mcpbridge.pools import Pools
from mcpbridge.process import on_hangup, on_signals, raise_fd_limit, run
from mcpbridge.providers import discovery_of, has_prefix, reconfigure
from mcpbridge.reload import Load, Reload
from mcpbridge.seal import Sealer, derive_key, random_secret
from mcpbridge.self_checks import SelfChecks, touch
from mcpbridge.status import Status
from mcpbridge.stores.events import MemoryEvents
from mcpbridge.stores.memory import MemoryStore
from mcpbridge.transports.http.listen import HttpFrontend
from mcpbridge.transports.sse.dial import Comeback
from mcpbridge.transports.stdio.launch import withhold
from mcpbridge.watchdog import Watchdog
from mcpbridge.wiring import Changes, Reach, is_open, through_proxy

_log = log("gateway")
SNAPSHOT_AGE = 1.0  # seconds a snapshot is served before a new one is made (contract http.status)
FIRST_LOOK = 5.0  # seconds that a start waits for servers to be found
LIST_WAIT = 2.0  # seconds a server may delay a list; less than a router's own 3, which asks us


def main(loaded: Loaded[GatewayConfig], load: Load) -> int:
    """Serve until SIGTERM; the exit status: 0 when everything in flight was finished, 143 when it was cut off. ``load`` reads
    the configuration again."""
    config = loaded.config
    configure(config.logging.level, config.logging.format)
    for warning in loaded.warnings:
        _log.warn(str(warning))
    _withhold(config)
    raise_fd_limit(2 * config.server.max_connections + 256)
    return run(lambda: Gateway(loaded, load).serve())


class Gateway:
    """One gateway process."""

    def __init__(self, loaded: Loaded[GatewayConfig], load: Load) -> None:
        self._loaded = loaded
        self._load = load
        self._config = loaded.config
        self._registry = Registry()
        self._status = Status(self._registry)
        self._last: tuple[float, Snapshot] | None = None
        self._ready = False
        self._listeners: Listeners
        self._discovery: Discovery[Changes]
        self._reload: Reload
        self._departure = Departure(loaded.config.server.drain_delay, loaded.config.server.drain_timeout)
        self._sign_in: Verify | None = None
        self._self_checks: SelfChecks | None = None

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
        on_hangup(lambda: self._reload.request("SIGHUP") if self._ready else None)
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
            attempt_timeout=None if config.routing.attempt_timeout == "auto" else config.routing.attempt_timeout,
            max_name=config.routing.max_name_length,
            list_wait=LIST_WAIT,
            observe=self._status.attempted,
            sealer=sealer,
            parked_ttl=config.routing.parked_ttl,
            breaker=_breaker_rules(config),
            per_protocol=config.circuit_breaker.per_protocol,
            failures=config.health_monitoring.failure_threshold,
            recoveries=config.health_monitoring.recovery_threshold,
            balancing=_balancing(config),
            ejected=self._status.ejected,
        )
        async with bridge:
            self._detection = self._detecting(bridge)
            row = config.server.health_checks.cross_protocol_lb
            self._status.most_late = row.timeout if row.enabled else None
            balance = self._status.balance = Balance(
                bridge.balancing, self._registry, bridge.servers.values, bridge.retries, bridge.events.append, self._changed
            )
            keeping = self._status.housekeeping = Housekeeping(
                lambda: bridge.in_flight, enabled=config.memory_optimization.enabled
            )
            bridge.spawn(keeping.follow())
            if config.load_balancing.rebalance_interval:
                bridge.spawn(balance.follow(config.load_balancing.rebalance_interval))
            reach = self._reaching(bridge)
            pools = self._status.pools = Pools(self._registry, (reach,))
            await self._discover(bridge, reach)
            self._sign_in = self._verify()
            verify = self._as_configured if self._sign_in is not None else None
            events = MemoryEvents(max_bytes=config.sessions.event_log_max_bytes, max_age=config.sessions.max_idle)
            execute = Execute(bridge.spawn, deadline=config.routing.request_timeout)
            endpoint = bridge.endpoint()
            overload = Overload(_overload_limits(config))
            searches = [tool_search(above)] if (above := config.routing.tool_search_above) else []
            front = bridge.front(
                [
                    access_log(self._registry, self._status.tallies),  # outermost: sees every outcome, also refusals
                    refusing_while(bridge.draining),  # before work is begun
                    refusing_in(overload),
                    authenticate(verify),  # sets caller.principal
                    sessions(bridge.sessions, lambda record: _mint(sealer, record, bridge.instance, config.sessions.ttl)),
                    execute.policy(),  # needs the principal
                    validate(),  # what the protocol version asks of a request
                    authorize(),  # needs the method
                    *searches,  # innermost: what it asks for is what servers are asked
                ],
                endpoint,
            )
            execute.front = front
            self._reload = Reload(
                self._loaded,
                self._load,
                lambda loaded: self._apply(loaded, bridge, faces),
                self._registry,
                lambda event: self._tell(bridge, event),
            )
            strict = {**self._detection.actions(), **Operation(bridge).actions(), **self._reload.actions()}
            app = App(
                lambda: self._snapshot(bridge, store.kind),
                self._registry,
                verify=verify,
                read_access=config.admin.read_access,
                rules=public_rules(config),
                metrics_path=config.metrics.path if config.metrics.enabled else None,
                actions={**balance.actions(), **pools.actions(), **strict},
                strict=(*strict, "PUT /load-balancer/weights"),
                also=config.server.health_checks.paths,
                asked=self._departure.asked,
            )
            mcp = HttpFrontend(front, bridge.draining, events.open, deadline=config.routing.request_timeout)
            faces = Faces(config, bridge, app, mcp, execute)
            reception = Reception(
                front,
                bridge.spawn,
                bridge.sessions,
                faces.target_of,
                bridge.draining,
                deadline=config.routing.request_timeout,
            )
            self._listeners = Listeners(self._loaded, self._registry, reception, bridge.spawn)
            frontends = self._listeners.frontends
            management = await self._listeners.open(faces)
            self._watch(bridge)
            self._foresee(bridge)
            bridge.spawn(self._reload.follow())
            watchdog = Watchdog(self._registry, bridge.events.append)
            bridge.spawn(watchdog.follow())
            bridge.spawn(
                Shedding(
                    overload,
                    self._listeners.limits,
                    lambda: watchdog.lag,
                    lambda: bridge.in_flight,
                    frontends.shed,
                    bridge.events.append,
                ).follow()
            )
            self._ready = True
            health = await self._listeners.open_health(lambda: self._snapshot(bridge, store.kind), self._departure.asked)
            if health is not None:
                bridge.spawn(health.follow())
            names = ", ".join(bridge.servers) or "none"
            _log.info("gateway ready", servers=names, config=self._loaded.path, listeners=frontends.addresses)
            status = await stop
            self._changed()
            is_clean = await self._departure.run(frontends, bridge.draining, now, patient=status != 130)
            await frontends.close()
            await management.close()
        await reach.close()  # after the bridge, which ends the servers' sessions over these connections
        return 0 if is_clean else status

    def _apply(self, loaded: Loaded[GatewayConfig], bridge: Bridge, faces: Faces) -> Changes:
        """Make another configuration count, as far as it can without a start. Raises ConfigError; nothing has changed then."""
        config = loaded.config
        before, self._config = self._config, config
        try:
            changes = reconfigure(self._discovery, before, loaded)
        except ConfigError:
            self._config = before
            raise
        configure(config.logging.level, config.logging.format)
        _withhold(config)
        bridge.balancing.change(_balancing(config))
        faces.change(config)
        self._listeners.renew(config.server.tls)
        if self._sign_in is not None:
            self._sign_in = self._verify() or self._sign_in
        self._changed()
        return changes

    def _as_configured(self, header: str | None) -> Principal:
        """Sign-in as it is configured now."""
        assert self._sign_in is not None
        return self._sign_in(header)

    # Wiring

    def _reaching(self, bridge: Bridge) -> Reach:
        config = self._config
        pool = config.connection.pool
        return Reach(
            bridge,
            max_message=config.server.security.max_message_size,
            max_response=config.backends.max_response_size,
            pool_size=pool.max_size,
            pool_least=pool.min_size,
            reuse=config.connection.pooling_enabled,
            content_types=config.backends.http.content_types,
            health_path=config.backends.websocket.health_check_path,
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

    async def _discover(self, bridge: Bridge, reach: Reach) -> None:
        """Have the servers there are, and follow those that come and go."""

        def apply(specs: list[ServerSpec]) -> Changes:
            changes = reach.apply(specs, prefix=has_prefix(self._config))
            for verb, names in changes._asdict().items():
                for name in names:
                    bridge.events.append(Event(timestamp(time.time()), "info", "server", f"{name}: {verb}", None, name))
            if any(changes):
                _log.info("servers changed", event="discovery", **changes._asdict())
            return changes

        self._discovery = discovery_of(self._loaded, apply, bridge.spawn)
        await self._discovery.start(FIRST_LOOK)

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
            configured=lambda: [e.url for spec in self._discovery.servers() for e in spec.endpoints if e.url],
            auto=lambda: [e.url for spec in self._discovery.servers() for e in spec.endpoints if is_open(e)],
            allowed=found.allowed_targets,
            accuracy_target=found.accuracy_target,
            via=through_proxy,
        )

    def _watch(self, bridge: Bridge) -> None:
        """Look after the servers, and after our own frontends."""
        rows, server = self._config.health_monitoring, self._config.server
        asks, interval = rows.protocol_specific_checks, rows.health_check_interval
        bridge.watch(Checks(interval=interval, told=self._status.checked, touch=None if asks else touch))
        self._self_checks = SelfChecks(
            server.health_checks,
            self._listeners.frontends.addresses,
            bridge.events.append,
            host=next(iter(server.allowed_hosts), "localhost" if is_loopback(server.host) else bracketed(server.host)),
            interval=interval,
            failures=rows.failure_threshold,
            recoveries=rows.recovery_threshold,
            asks=asks,
            wants_certificate=server.tls.client_auth == "require",
            is_full=self._listeners.is_full,
        )
        bridge.spawn(self._self_checks.follow(bridge.draining))

    def _foresee(self, bridge: Bridge) -> None:
        foresight = Foresight(
            self._registry,
            lambda: [backend for server in bridge.servers.values() for backend in server.backends],
            bridge.events.append,
            enabled=self._config.health_monitoring.predictive_enabled,
            window=self._config.health_monitoring.prediction_window,
        )
        self._status.foresight = foresight
        bridge.spawn(foresight.follow())

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

    def _tell(self, bridge: Bridge, event: Event) -> None:
        bridge.events.append(event)
        self._changed()

    def _changed(self) -> None:
        """Something was changed from outside: the next reader sees it."""
        self._last = None

    def _snapshot(self, bridge: Bridge, store: str) -> Snapshot:
        now = time.monotonic()
        if self._last is None or now - self._last[0] >= SNAPSHOT_AGE:
            listeners = self._listeners
            snapshot = self._status.snapshot(
                bridge,
                listeners.frontends.told(listening=not bridge.draining.is_set()),
                store=store,
                phase="draining" if self._departure.has_begun else "serving" if self._ready else "starting",
                config=self._reload.status(),
                not_after=listeners.not_after,
                detection=self._detection.snapshot(),
                discovery=self._discovery.told(),
                looked=self._self_checks.results if self._self_checks is not None else None,
            )
            self._last = (now, snapshot)
            counts = listeners.frontends.counts()
            rest = "draining" if self._departure.has_begun else "idle"
            for protocol in PROTOCOL_NAMES:
                total, active = counts.get(protocol, (0, 0))
                for state, value in {"active": active, "idle": 0, "draining": 0, rest: total - active}.items():
                    self._registry.set("mcp_gateway_connections_total", float(value), protocol=protocol, state=state)
        return self._last[1]


def _withhold(config: GatewayConfig) -> None:
    """Children learn none of our secrets and settings."""
    withhold(_secrets(config), (*variables(GatewayConfig), *(endpoint.token_env for endpoint in _endpoints(config))))


def _secrets(config: GatewayConfig) -> list[str]:
    """What only the gateway itself may know, and what it shows to one server each."""
    headers = (value for endpoint in _endpoints(config) for value in endpoint.headers.values())
    tokens = (entry.token for entry in config.auth.static_tokens)
    consul = config.discovery.providers.consul.token
    return [config.auth.jwt.secret, consul, *config.sessions.seal_keys, *tokens, *headers]


def _endpoints(config: GatewayConfig) -> list[EndpointSpec]:
    return [endpoint for spec in config.servers for endpoint in spec.endpoints]


def _overload_limits(config: GatewayConfig) -> Limits:
    rows = config.overload
    return limits_of(memory=rows.memory_limit, lag=rows.loop_lag, reserve=rows.reserve_fds, calls=config.server.max_connections)


def _breaker_rules(config: GatewayConfig) -> Rules:
    rows = config.circuit_breaker
    return Rules(rows.failure_threshold, rows.success_threshold, rows.timeout_seconds, rows.max_requests, rows.interval_seconds)


def _balancing(config: GatewayConfig) -> Balancing:
    rows = config.load_balancing
    return Balancing(
        rows.strategy,
        config.routing.strategy,
        {name: getattr(rows.protocol_weights, name) for name in PROTOCOLS},
        config.routing.protocol_preference_order,
        rows.health_aware,
        rows.fallback_enabled,
        rows.panic_threshold,
    )


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
