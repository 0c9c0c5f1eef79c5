"""The router's wiring: one client on stdin and stdout, servers behind it, a light ring between.

    one server, ad hoc (`router -- CMD`, `router URL`)    shown as it is: names unchanged, straight path
    a gateway alone                                        likewise
    anything else                                          one endpoint; direct servers get `server__`, a gateway's names pass

Source: issue "Router"; contract sections 1.1 (cli.router.*) and 3.2.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
from functools import partial
from typing import IO

from msgspec.structs import replace

from mcpbridge.bridge import Bridge
from mcpbridge.config.load import Loaded
from mcpbridge.config.router import RouterConfig
from mcpbridge.config.rows import variables
from mcpbridge.config.sections import GATEWAY, ServerSpec
from mcpbridge.core.aggregate.names import owner
from mcpbridge.core.aggregate.show import Visible
from mcpbridge.core.breaker import Rules
from mcpbridge.core.detect import POSITIVE_TTL
from mcpbridge.core.duplex import DuplexClient
from mcpbridge.core.exchange import ANONYMOUS, Exchange, Handler, Policy
from mcpbridge.core.once import Once
from mcpbridge.core.ports import Connection
from mcpbridge.core.server import Server
from mcpbridge.detection import Detection
from mcpbridge.era import Crossings
from mcpbridge.errors import BridgeError
from mcpbridge.gateways import gateway_address, gateway_spec, outlast
from mcpbridge.greeting import introduced, prompt_initialize
from mcpbridge.observe.journal import journal, state_directory
from mcpbridge.observe.log import configure, log
from mcpbridge.observe.metrics import Registry
from mcpbridge.performance import Housekeeping
from mcpbridge.policies.rate_limit import rate_limit
from mcpbridge.policies.sessions import sessions
from mcpbridge.policies.tool_search import tool_search
from mcpbridge.policies.validate import validate
from mcpbridge.pools import Pools
from mcpbridge.process import first_of, on_signals, run
from mcpbridge.status import Status
from mcpbridge.stores.known import Known, identity
from mcpbridge.stores.memory import MemoryStore
from mcpbridge.transports.stdio.launch import withhold
from mcpbridge.transports.stdio.standard import open_standard
from mcpbridge.wire.message import Response
from mcpbridge.wiring import Reach, is_open, through_proxy

_log = log("router")
INITIALIZE_WAIT = 3.0  # seconds an unknown server may delay initialize and lists
CLOSE_TIME = 5.0  # seconds everything has to end after SIGTERM or a closed stdout
WINDOW_WAIT = 0.2  # seconds after the start until the management port is opened: the client comes first
PARENT_CHECK = 1.0  # seconds between looks whether the process that started us is still there


def main(loaded: Loaded[RouterConfig]) -> int:
    """Run until the client is gone; the exit status."""
    config = loaded.config
    kept = journal()
    configure(
        config.logging.level,
        config.logging.format,
        _log_stream(config.logging.output),
        copy=kept.write if kept is not None else None,
    )
    for warning in loaded.warnings:
        _log.warn(str(warning))
    endpoints = [endpoint for spec in config.servers for endpoint in spec.endpoints]
    withhold(
        (value for endpoint in endpoints for value in endpoint.headers.values()),
        (*variables(RouterConfig), *(endpoint.token_env for endpoint in endpoints), config.gateway.auth.token_env),
    )
    return run(lambda: _serve(loaded))


def direct_only(loaded: Loaded[RouterConfig], protocol: str) -> Loaded[RouterConfig]:
    """The configuration without its gateway, and with the direct servers of one protocol only (``--direct-mode``)."""
    config = loaded.config
    servers = tuple(spec for spec in config.servers if all(endpoint.spoken == protocol for endpoint in spec.endpoints))
    direct = replace(config.direct_clients, servers=servers)
    advanced = replace(config.advanced, protocol="websocket")  # else a gateway's TCP address would stand without its url
    config = replace(config, direct_clients=direct, advanced=advanced, gateway=replace(config.gateway, url=""))
    return Loaded(config, loaded.path, loaded.origins, loaded.warnings)


async def _serve(loaded: Loaded[RouterConfig]) -> int:
    config = loaded.config
    if sys.stdin is not None and sys.stdin.isatty():
        print("mcpbridge router waits for MCP messages on stdin; `mcpbridge setup` sets it up", file=sys.stderr)  # noqa: T201 - for the person at the terminal
    standard = open_standard()
    connection: Connection = standard
    repeats = config.advanced.deduplication
    if repeats.enabled:
        connection = Once(connection, size=repeats.cache_size, ttl=repeats.ttl)
    stop: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    def signalled(status: int) -> None:
        if not stop.done():
            stop.set_result(status)

    on_signals(signalled)
    store = MemoryStore(idle_timeout=float("inf"))
    status_of = Status(Registry(role="router"))
    bridge = Bridge(
        "router",
        store,
        Crossings(),
        observe=status_of.attempted,
        start_timeout=max(config.local.request_timeout, 300.0),
        list_wait=INITIALIZE_WAIT,
        max_name=config.routing.max_name_length,
        breaker=_breaker(config),
    )
    async with bridge:
        patience = config.local.request_timeout  # a call waits for a connection as long as it lives
        detection = _detecting(config, bridge, status_of)
        near, far = config.direct_clients.pool, config.gateway.connection.pool
        direct = Reach(
            bridge,
            pool_size=near.max_size,
            pool_least=near.kept,
            pool_look=near.look,
            reuse=config.connection.pooling_enabled,
            idle_timeout=near.max_idle_time,
            queue_time=patience,
            detector=detection.detector if detection.enabled else None,
            fallback=detection.fallback,
        )
        gateway = Reach(
            bridge,
            pool_size=far.max_size,
            pool_least=far.kept,
            pool_look=far.look,
            reuse=config.connection.pooling_enabled,
            idle_timeout=far.max_idle_time,
            dial_timeout=config.gateway.connection.timeout,
            queue_time=patience,
            silence=config.gateway.connection.keepalive_interval,
        )
        status_of.pools = Pools(status_of.registry, (direct, gateway))
        status_of.keeps_connections = config.connection.pooling_enabled and (near.enabled or far.enabled)
        keeping = status_of.housekeeping = Housekeeping(
            lambda: bridge.in_flight, enabled=config.direct_clients.memory_optimization
        )
        target = _add_servers(config, bridge, direct, gateway)
        limit = config.local.rate_limit
        limits = [rate_limit(limit.requests_per_sec, limit.burst)] if limit.enabled else []
        policies = [
            _local(),
            introduced(partial(setattr, status_of, "client")),
            *limits,
            sessions(bridge.sessions, lambda _record: "stdio"),
            validate(),
        ]
        if isinstance(target, Server):
            policies.append(prompt_initialize(target, INITIALIZE_WAIT))
        if config.routing.tool_search_above:
            policies.append(tool_search(config.routing.tool_search_above))
        client = DuplexClient(
            connection,
            bridge.front(policies, bridge.endpoint(_only_direct(config))),
            lambda: target,
            bridge.spawn,
            protocol="stdio",
            deadline=config.local.request_timeout,
            limit=config.local.max_concurrent_requests,
        )
        client.start()
        bridge.spawn(_watch_parent(stop))
        bridge.spawn(_open_window(loaded, bridge, status_of, detection))
        bridge.spawn(_keep_house(keeping))
        finished = asyncio.ensure_future(client.finished(config.local.request_timeout))
        await first_of(finished, stop)
        if stop.done():
            finished.cancel()
            status = stop.result()
        else:
            status = 0 if finished.result() is None else 74
        if status == 0:
            await standard.flush()
        else:
            client.peer.cancel_served("the router ends")
    await direct.close()  # after the bridge, which ends the servers' sessions over these connections
    await gateway.close()
    return status


def _breaker(config: RouterConfig) -> Rules:
    rows = config.advanced.circuit_breaker
    threshold = rows.success_threshold
    # What cannot be reached is down: calls for a gateway wait for it, those for a direct server go over the gateway meanwhile.
    return Rules(rows.failure_threshold, threshold, rows.timeout_seconds, trials=threshold, unsent=False)


def _detecting(config: RouterConfig, bridge: Bridge, status: Status) -> Detection:
    found = config.direct_clients.auto_detection
    fallback = found.fallback_strategy
    return Detection(
        bridge.spawn,
        status.registry,
        role="router",
        enabled=found.enabled,
        timeout=found.timeout,
        cache=POSITIVE_TTL,
        fallback="none" if fallback == "none" or (fallback == "gateway" and gateway_address(config)) else "http",
        configured=lambda: [e.url for spec in config.servers for e in spec.endpoints if e.url],
        auto=lambda: [e.url for spec in config.servers for e in spec.endpoints if is_open(e)],
        allowed=found.allowed_targets,
        loopback=True,
        via=through_proxy,
    )


def _only_direct(config: RouterConfig) -> Visible:
    """Hides what the gateway offers of servers that a rule wants to be reached directly and no other way."""
    direct = config.direct_clients
    names = [spec.name for spec in config.servers if direct.via(spec) == "direct"]
    return lambda _caller, _kind, server, own: server != GATEWAY or owner(own, names) is None


async def _open_window(loaded: Loaded[RouterConfig], bridge: Bridge, status: Status, detection: Detection) -> None:
    """The management port and the control socket, once whoever started us has been answered; until the bridge ends."""
    await asyncio.sleep(WINDOW_WAIT)
    from mcpbridge.management import Management

    window = Management(loaded.config, bridge, status, detection, loaded.path)
    await window.open()
    try:
        await asyncio.Event().wait()
    finally:
        await window.close()


async def _keep_house(keeping: Housekeeping) -> None:
    """Once whoever started us has been answered: freezing looks at everything that is there."""
    await asyncio.sleep(WINDOW_WAIT)
    await keeping.follow()


def _add_servers(config: RouterConfig, bridge: Bridge, direct: Reach, gateway: Reach) -> Server | tuple[Server, ...]:
    """All servers of the configuration, direct ones first; what the client sees: one server as it is, or all as one."""
    known = Known(state_directory() / "known.json")
    for spec in config.servers:
        prefix = config.routing.prefix == "always" or (config.routing.prefix == "auto" and len(config.servers) > 1)
        _remember(direct.add(spec, prefix=prefix), spec, known)
    has_gateway = bool(gateway_address(config))
    if has_gateway:
        spec = gateway_spec(config)
        server = gateway.add(spec, prefix=False)
        _remember(server, spec, known)
        outlast(config, bridge, server)
    servers = tuple(bridge.servers.values())
    if not servers:
        _log.warn("no server is configured; lists are empty", action="see `mcpbridge router --help`")
    is_single = len(servers) == 1 and (has_gateway or config.routing.prefix != "always")
    return servers[0] if is_single else servers


def _remember(server: Server, spec: ServerSpec, known: Known) -> None:
    id = identity(spec.name, *(f"{e.spoken} {e.target} {' '.join(e.args)}" for e in spec.endpoints))
    server.hello.update(known.of(id))
    server.on_hello = lambda changed: known.keep(id, changed.hello)


def _local() -> Policy:
    """Whoever started us is the one caller."""

    async def policy(x: Exchange, handler: Handler) -> Response | None:
        x.caller.principal = ANONYMOUS
        started = time.perf_counter()
        try:
            return await handler(x)
        except BridgeError as error:
            _log.debug("refused", method=x.view.method, reason=error.reason, error=str(error))
            raise
        finally:
            duration = round((time.perf_counter() - started) * 1000, 3)
            _log.debug("message", protocol="stdio", method=x.view.method, name=x.view.name, duration_ms=duration)

    return policy


async def _watch_parent(stop: asyncio.Future[int]) -> None:
    """An editor that was killed closes nothing that another process still holds: without it we have nobody to serve."""
    if sys.platform == "win32":
        return
    parent = os.getppid()
    while os.getppid() == parent:  # noqa: ASYNC110 - there is no event to wait for
        await asyncio.sleep(PARENT_CHECK)
    if not stop.done():
        _log.info("the process that started the router is gone")
        stop.set_result(143)


def _log_stream(output: str) -> IO[str] | None:
    """The log file, opened for appending; None for stderr."""
    if output == "stderr":
        return None
    return open(os.path.expanduser(output), "a", encoding="utf-8")
