"""The router's configuration: its rows, and what no row can check alone.

Source: contract section 3.2.
"""

from __future__ import annotations

from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import Annotated, Literal

import msgspec

from mcpbridge.config.breaking import RouterBreaker
from mcpbridge.config.detection import RouterDetection
from mcpbridge.config.kinds import (
    BOOL,
    COUNT,
    DURATION,
    HOST_PORT,
    ITEMS,
    PATH,
    SERVERS,
    TEXT,
    TEXTS,
    choice,
    duration,
    integer,
    matching,
    number,
)
from mcpbridge.config.memory import OPTIMIZES
from mcpbridge.config.pooling import POOLING, DirectPool, GatewayPool, PoolKeys
from mcpbridge.config.problems import Place, Problem
from mcpbridge.config.protocols import ADDRESS, ADDRESSES, LOCAL, PROTOCOLS
from mcpbridge.config.rows import Row, Section
from mcpbridge.config.sections import Logging, ServerSpec


class GatewayAuth(Section, frozen=True, kw_only=True):
    """How the router signs in at the gateway. Order of sources: MCP_AUTH_TOKEN, token_secure_key, token_env, token_file."""

    type: Annotated[Literal["bearer", "none"], Row(choice("bearer", "none"), "bearer: send a token when one is found")] = (
        "bearer"
    )
    token_secure_key: Annotated[str, Row(TEXT, "name of the token in the keychain")] = ""
    token_env: Annotated[
        str, Row(matching(r"[A-Za-z_][A-Za-z0-9_]*", "the name of an environment variable"), "variable that holds the token")
    ] = ""
    token_file: Annotated[str, Row(PATH, "file that holds the token, mode 0600")] = ""


class GatewayReconnect(Section, frozen=True, kw_only=True):
    """How a lost gateway is reached again. Delays are in seconds."""

    initial_delay: Annotated[
        float,
        Row(
            duration(0.001, bare=0.001),
            "first wait at most; each is drawn from zero to a limit that doubles",
            key="initial_delay_ms",
        ),
    ] = 1.0
    max_delay: Annotated[
        float, Row(duration(0.001, bare=0.001), "longest wait; a bare number is milliseconds", key="max_delay_ms")
    ] = 60.0
    max_attempts: Annotated[
        int, Row(integer(-1), "tries until the gateway is left alone until the next call; -1: for ever")
    ] = -1


class GatewayConnection(Section, frozen=True, kw_only=True):
    """The connection to the gateway. ``timeout`` is in seconds."""

    timeout: Annotated[
        float, Row(duration(0.001, bare=0.001), "resolve, connect, TLS; a bare number is milliseconds", key="timeout_ms")
    ] = 5.0
    keepalive_interval: Annotated[
        float,
        Row(
            duration(0.001, bare=0.001),
            "silence after which a WebSocket or TCP connection is asked whether it lives, and again until it is given up",
            key="keepalive_interval_ms",
        ),
    ] = 30.0
    reconnect: GatewayReconnect = GatewayReconnect()
    pool: GatewayPool = GatewayPool()


class GatewayTls(Section, frozen=True, kw_only=True):
    """TLS towards the gateway."""

    verify: Annotated[bool, Row(BOOL, "false accepts any certificate and warns on every start")] = True
    ca_file: Annotated[str, Row(PATH, "CA certificates, PEM; empty: those of the system")] = ""
    client_cert: Annotated[
        str, Row(PATH, "certificate of ours, for a gateway that wants one", aliases=("gateway.auth.client_cert",))
    ] = ""
    client_key: Annotated[str, Row(PATH, "its private key", aliases=("gateway.auth.client_key",))] = ""
    min_version: Annotated[Literal["1.2", "1.3"], Row(choice("1.2", "1.3"), "oldest TLS version accepted")] = "1.3"


class Gateway(Section, frozen=True, kw_only=True):
    """The gateway that is asked for what no direct server offers."""

    url: Annotated[
        str,
        Row(
            ADDRESS,
            "its address: ws, wss, http, https, sse, sses, tcp or tcps; without a path: the protocol's own; "
            "absent: direct servers only",
            env=("MCP_GATEWAY_URL",),
        ),
    ] = ""
    urls: Annotated[tuple[str, ...], Row(ADDRESSES, "further gateways, asked in this order when those before are down")] = ()
    auth: GatewayAuth = GatewayAuth()
    connection: GatewayConnection = GatewayConnection()
    tls: GatewayTls = GatewayTls()


class Deduplication(Section, frozen=True, kw_only=True):
    """Requests that the client says again. ``ttl`` is in seconds."""

    enabled: Annotated[
        bool, Row(BOOL, "true: same id and bytes run once while in flight, and within ttl where that is safe")
    ] = False
    cache_size: Annotated[int, Row(COUNT, "answers kept at most")] = 1000
    ttl: Annotated[float, Row(DURATION, "how long an answer is kept", key="ttl_seconds")] = 60.0


class Advanced(Section, frozen=True, kw_only=True):
    """What few need."""

    deduplication: Deduplication = Deduplication()
    circuit_breaker: RouterBreaker = RouterBreaker()
    protocol: Annotated[
        Literal["websocket", "tcp"],
        Row(choice("websocket", "tcp"), "tcp: reach the gateway by MCPB frames"),
    ] = "websocket"
    tcp_address: Annotated[
        str, Row(HOST_PORT, "where, with protocol tcp; absent: the host of gateway.url, port 8444. TLS unless it is loopback")
    ] = ""


class LocalRateLimit(Section, frozen=True, kw_only=True):
    """A token bucket on what the client asks."""

    enabled: Annotated[bool, Row(BOOL, "true: more requests than this get error 1010")] = False
    requests_per_sec: Annotated[float, Row(number(0.001, 1e6), "requests a second")] = 100.0
    burst: Annotated[int, Row(COUNT, "requests at once")] = 200


class Local(Section, frozen=True, kw_only=True):
    """The stdio side. ``request_timeout`` is in seconds."""

    request_timeout: Annotated[
        float, Row(duration(0.001, bare=0.001), "deadline of a call; a bare number is milliseconds", key="request_timeout_ms")
    ] = 300.0
    max_concurrent_requests: Annotated[int, Row(COUNT, "more wait in order; as many may wait, then error 1009")] = 100
    rate_limit: LocalRateLimit = LocalRateLimit()


class DirectRule(Section, frozen=True, kw_only=True):
    """Which way some servers are reached."""

    pattern: Annotated[
        str, Row(matching(r"[A-Za-z0-9._*?\[\]!-]+(?:/[A-Za-z0-9_*?\[\]!-]+)?", "NAMESPACE or NAMESPACE/SERVER, with * and ?"),
                 "NAMESPACE or NAMESPACE/SERVER, with * and ?")
    ]  # fmt: skip
    via: Annotated[
        Literal["direct", "gateway", "hybrid"],
        Row(choice("direct", "gateway", "hybrid"), "hybrid: directly, and over the gateway while that fails"),
    ] = "hybrid"

    def fits(self, spec: ServerSpec) -> bool:
        """Whether the rule is about this server."""
        return fnmatchcase(f"{spec.namespace}/{spec.name}", self.pattern if "/" in self.pattern else f"{self.pattern}/*")


class DirectClients(Section, frozen=True, kw_only=True):
    """Servers that the router talks to itself, before it asks the gateway."""

    enabled: Annotated[
        bool, Row(BOOL, "false: gateway only", env=("MCP_DIRECT_CLIENTS_ENABLED",), aliases=("direct.enabled",))
    ] = True
    auto_detection: RouterDetection = RouterDetection()
    pool: DirectPool = DirectPool()
    protocols: Annotated[
        tuple[str, ...],
        Row(TEXTS, "only servers reached by these; MCP_DIRECT_STDIO_ENABLED and its like add or remove one"),
    ] = tuple(PROTOCOLS)
    servers: Annotated[
        tuple[ServerSpec, ...], Row(SERVERS, "servers with their endpoints", aliases=("servers",), item=ServerSpec)
    ] = ()
    memory_optimization: Annotated[bool, OPTIMIZES] = True
    rules: Annotated[
        tuple[DirectRule, ...],
        Row(ITEMS, "the first that fits a server says which way its calls go; without one: hybrid", item=DirectRule),
    ] = ()

    def via(self, spec: ServerSpec) -> str:
        """Which way the calls of a server go: direct, gateway or hybrid."""
        return next((rule.via for rule in self.rules if rule.fits(spec)), "hybrid")


class RouterRouting(Section, frozen=True, kw_only=True):
    """Names of tools and prompts."""

    prefix: Annotated[
        Literal["always", "auto", "never"],
        Row(choice("always", "auto", "never"), "server__ before names of direct servers; auto: unless there is exactly one"),
    ] = "always"
    max_name_length: Annotated[int, Row(integer(16, 128), "longest exposed tool name; longer ones are hash-shortened")] = 48
    tool_search_above: Annotated[
        int, Row(integer(0), "longer lists of tools become find_tool and call_tool, which find and call them; 0: never")
    ] = 0


class RouterMetrics(Section, frozen=True, kw_only=True):
    """The management port: health, status, metrics, detection."""

    enabled: Annotated[bool, Row(BOOL, "false: no management port", env=("MCP_METRICS_ENABLED",))] = True
    endpoint: Annotated[
        str, Row(HOST_PORT, "management port; busy (another router has it): a warning, and the router goes on without")
    ] = "localhost:9091"


class RouterConnections(Section, frozen=True, kw_only=True):
    """Connections to servers and to the gateway alike."""

    pooling_enabled: Annotated[bool, POOLING] = True


class RouterLogging(Logging, frozen=True, kw_only=True):
    """Log lines; stdout belongs to MCP."""

    output: Annotated[str, Row(PATH, "stderr or a file path")] = "stderr"


class RouterConfig(Section, frozen=True, kw_only=True):
    """Everything ``mcpbridge router`` can be told. Durations are seconds."""

    version: Annotated[int, Row(integer(1, 1), "schema version")] = 1
    gateway: Gateway = Gateway()
    advanced: Advanced = Advanced()
    local: Local = Local()
    direct_clients: DirectClients = DirectClients()
    connection: RouterConnections = RouterConnections()
    routing: RouterRouting = RouterRouting()
    logging: RouterLogging = RouterLogging()
    metrics: RouterMetrics = RouterMetrics()

    @property
    def servers(self) -> tuple[ServerSpec, ...]:
        """The direct servers, with those of their endpoints whose protocol may be used; none when they are switched off."""
        direct = self.direct_clients
        if not direct.enabled:
            return ()
        servers = tuple(spec for spec in direct.servers if direct.via(spec) != "gateway")
        if len(direct.protocols) == len(PROTOCOLS):
            return servers
        usable = (
            msgspec.structs.replace(spec, endpoints=tuple(e for e in spec.endpoints if e.spoken in direct.protocols))
            for spec in servers
        )
        return tuple(spec for spec in usable if spec.endpoints)


def check(config: RouterConfig, place: Mapping[str, Place]) -> list[Problem]:
    """Faults between rows. ``place`` says where a key was written; pure."""
    problems: list[Problem] = []
    for name in config.direct_clients.protocols:
        if name not in PROTOCOLS:
            key = "direct_clients.protocols"
            message = f"{key}: unknown protocol {name!r}"
            problems.append(Problem(place.get(key, Place()), message, f"one of {', '.join(PROTOCOLS)}", key))
    if config.logging.output == "stdout":
        problems.append(
            Problem(place.get("logging.output", Place()), "logging.output: stdout carries MCP messages only",
                    "use stderr or a file path", "logging.output")
        )  # fmt: skip
    for key, addresses in (("gateway.url", (config.gateway.url,)), ("gateway.urls", config.gateway.urls)):
        if any(address.partition(":")[0] in LOCAL for address in addresses):
            problems.append(
                Problem(
                    place.get(key, Place()), f"{key}: a gateway is reached over the network", "make it a direct server", key
                )
            )
    if config.gateway.urls and not config.gateway.url:
        key = "gateway.urls"
        problems.append(Problem(place.get(key, Place()), f"{key} needs gateway.url, the first of them", "name it there", key))
    pools: dict[str, PoolKeys] = {
        "gateway.connection.pool": config.gateway.connection.pool,
        "direct_clients.pool": config.direct_clients.pool,
    }
    for key in (f"{name}.min_size" for name, pool in pools.items() if pool.enabled and pool.min_size > pool.max_size):
        problems.append(Problem(place.get(key, Place()), f"{key}: more than max_size", "make it smaller", key))
    delays = config.gateway.connection.reconnect
    if delays.initial_delay > delays.max_delay:
        key = "gateway.connection.reconnect.initial_delay_ms"
        problems.append(Problem(place.get(key, Place()), f"{key}: longer than max_delay_ms", "make it shorter", key))
    if any(rule.via == "gateway" for rule in config.direct_clients.rules) and not config.gateway.url:
        key = "direct_clients.rules"
        problems.append(Problem(place.get(key, Place()), f"{key}: via gateway needs gateway.url", "name the gateway", key))
    if config.advanced.protocol == "tcp" and not (config.gateway.url or config.advanced.tcp_address):
        problems.append(
            Problem(place.get("advanced.protocol", Place()), "advanced.protocol: tcp needs gateway.url or advanced.tcp_address",
                    "name the gateway", "advanced.protocol")
        )  # fmt: skip
    return problems
