"""The gateway's configuration: its rows, the defaults without a file, and what no row can check alone.

Source: contract sections 1.1 (``cli.gateway.run``) and 3.1.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal

from mcpbridge.config.backends import Backends
from mcpbridge.config.balancing import LoadBalancing
from mcpbridge.config.breaking import CircuitBreaker
from mcpbridge.config.detection import GatewayDetection
from mcpbridge.config.discovery import Discovery
from mcpbridge.config.discovery import faults as discovery_faults
from mcpbridge.config.frontends import Protocols
from mcpbridge.config.health import HealthChecks, HealthMonitoring
from mcpbridge.config.kinds import (
    BOOL,
    COUNT,
    DURATION,
    HOST_PORT,
    ITEMS,
    PATH,
    PORT,
    TEXT,
    TEXTS,
    choice,
    duration,
    duration_or_auto,
    integer,
    is_loopback,
    matching,
    size,
)
from mcpbridge.config.memory import MemoryOptimization
from mcpbridge.config.pooling import POOLING
from mcpbridge.config.problems import Place, Problem, place_of
from mcpbridge.config.protocols import PROTOCOLS
from mcpbridge.config.rows import Row, Section
from mcpbridge.config.sections import Logging, ServerSpec

EMBEDDED: Final[Mapping[str, Any]] = {
    "server.tls.enabled": False,
    "auth.type": "none",
    "server.protocols.stdio.enabled": False,
    "server.protocols.tcp_binary.enabled": False,
}
"""Defaults that differ when no file was found: a bridge on loopback that works at once and takes one port, 8443, and nothing
else that two of them could quarrel about."""

MIN_SECRET_BYTES: Final = 32
_WEAK = re.compile("secret|change.?me|password|example|default|insecure|testing|letmein|placeholder")
_FILLER = re.compile(
    "[^a-z]+|secret|changeme|change|password|example|default|insecure|testing|letmein|placeholder|your|my|key|jwt|bit|the|this|is"
    "|please|very|super|production|token|signing|mcp|bridge|gateway|test|demo|admin|not|for|me|to|long|must|be|bytes|characters"
    "|least|and|or|more|in|at"
)
MCP_SCOPES: Final = ("mcp:read", "mcp:write", "mcp:admin")


class Tls(Section, frozen=True, kw_only=True):
    """TLS of the public listener."""

    enabled: Annotated[bool, Row(BOOL, "TLS on the port; false only on loopback")] = True
    cert_file: Annotated[str, Row(PATH, "certificate chain, PEM")] = "/tls/tls.crt"
    key_file: Annotated[str, Row(PATH, "private key, PEM")] = "/tls/tls.key"
    min_version: Annotated[Literal["1.2", "1.3"], Row(choice("1.2", "1.3"), "oldest TLS version accepted")] = "1.3"
    client_auth: Annotated[
        Literal["none", "request", "require"],
        Row(
            choice("none", "request", "require"),
            "certificates of clients: require one, or request it and check it when there is one",
            aliases=("tls.client_auth",),
        ),
    ] = "none"
    ca_file: Annotated[
        str, Row(PATH, "authority of client certificates, PEM; needed to request or require them", aliases=("tls.ca_file",))
    ] = ""


class Limits(Section, frozen=True, kw_only=True):
    """Sizes in bytes above which input is refused."""

    max_request_size: Annotated[int, Row(size(), "HTTP body; above: 413")] = 1_048_576
    max_header_size: Annotated[
        int, Row(size(1024, 1_048_576), "all header bytes; above: 431. Small on purpose: real heads are below 8 KiB")
    ] = 32_768
    max_message_size: Annotated[int, Row(size(), "one message on stdio")] = 10_485_760


class Listener(Section, frozen=True, kw_only=True):
    """The public listener."""

    host: Annotated[str, Row(TEXT, "bind address; other than loopback needs a sign-in")] = "127.0.0.1"
    port: Annotated[int, Row(PORT, "port of HTTP, WebSocket and HTTP+SSE; 0: any free one")] = 8443
    protocol: Annotated[
        Literal["universal", "stdio", "websocket", "http", "sse", "tcp_binary"],
        Row(choice("universal", *PROTOCOLS), "universal: all that are enabled below; a name: that one only"),
    ] = "universal"
    tcp_port: Annotated[int, Row(PORT, "port of MCPB frames; 0: any free one")] = 8444
    tcp_health_port: Annotated[
        int, Row(PORT, "port that tells TCP load balancers; 0: off", aliases=("server.health_checks.tcp_binary.port",))
    ] = 9002
    stdio_socket: Annotated[str, Row(PATH, "unix socket", aliases=("server.health_checks.stdio.socket_path",))] = (
        "/tmp/mcp-gateway.sock"  # noqa: S108 - the guide's; a stranger's file there is refused
    )
    max_connections: Annotated[int, Row(COUNT, "open client connections; above: 503 or close")] = 10_000
    max_connections_per_ip: Annotated[int, Row(COUNT, "per address (IPv6 per /64); above: 429 or close")] = 100
    allowed_origins: Annotated[tuple[str, ...], Row(TEXTS, "browser origins accepted besides our own")] = ()
    allowed_hosts: Annotated[
        tuple[str, ...], Row(TEXTS, "accepted Host names; empty: loopback names and the bind address")
    ] = ()
    drain_timeout: Annotated[float, Row(DURATION, "time for work in flight on SIGTERM")] = 30.0
    drain_delay: Annotated[float, Row(DURATION, "of it, time to serve on as not ready where a load balancer asks /readyz")] = (
        5.0
    )
    tls: Tls = Tls()
    security: Limits = Limits()
    protocols: Protocols = Protocols()
    health_checks: HealthChecks = HealthChecks()

    def serves(self, protocol: str) -> bool:
        """Whether clients may come in by this protocol."""
        return self.protocol in ("universal", protocol) and bool(getattr(self.protocols, protocol).enabled)

    @property
    def tcp_tls(self) -> bool:
        """Whether the port of MCPB frames speaks TLS."""
        return self.tls.enabled if self.protocols.tcp_binary.tls is None else self.protocols.tcp_binary.tls


class Pool(Section, frozen=True, kw_only=True):
    """Connections kept open to one backend."""

    max_size: Annotated[int, Row(COUNT, "channels per backend")] = 100
    min_size: Annotated[int, Row(integer(0), "HTTP connections per origin that are kept open, and opened ahead")] = 0
    idle_timeout: Annotated[float, Row(DURATION, "close idle ones")] = 30.0
    max_lifetime: Annotated[float, Row(DURATION, "replace when idle after this")] = 300.0
    dial_timeout: Annotated[float, Row(duration(0.001), "upper bound of any connect")] = 10.0


class Connections(Section, frozen=True, kw_only=True):
    """Connections to servers."""

    pooling_enabled: Annotated[bool, POOLING] = True
    pool: Pool = Pool()


class Jwt(Section, frozen=True, kw_only=True):
    """Signed tokens (HS256)."""

    secret: Annotated[str, Row(TEXT, "signing secret, at least 32 bytes, used as given", env=("JWT_SECRET",), secret=True)] = ""
    issuer: Annotated[str, Row(TEXT, "iss that tokens must have, and issued ones get; empty: mcpbridge")] = ""
    audience: Annotated[str, Row(TEXT, "aud that tokens must have, and issued ones get; empty: mcpbridge")] = ""
    leeway: Annotated[float, Row(DURATION, "clock difference forgiven in exp, nbf and iat")] = 30.0


class StaticToken(Section, frozen=True, kw_only=True):
    """A fixed token and what it allows."""

    name: Annotated[str, Row(matching(r"[A-Za-z0-9_.@-]{1,64}", "1 to 64 letters, digits, or one of _ . @ -"), "who holds it")]
    token: Annotated[
        str, Row(matching(r"[\x21-\x7e]{16,4096}", "16 to 4096 visible ASCII characters"), "the token", secret=True)
    ]
    scopes: Annotated[tuple[str, ...], Row(TEXTS, "mcp:read, mcp:write, mcp:admin")] = ("mcp:read", "mcp:write")


class Auth(Section, frozen=True, kw_only=True):
    """Who may call."""

    type: Annotated[Literal["none", "bearer"], Row(choice("none", "bearer"), "none: only on loopback")] = "bearer"
    max_token_length: Annotated[int, Row(integer(64, 16_384), "longer tokens: 401")] = 4096
    static_tokens: Annotated[tuple[StaticToken, ...], Row(ITEMS, "fixed tokens", item=StaticToken)] = ()
    jwt: Jwt = Jwt()


class Sessions(Section, frozen=True, kw_only=True):
    """Sessions of legacy clients."""

    provider: Annotated[
        Literal["memory"],
        Row(choice("memory"), "where records live", aliases=("session.store", "session.provider", "sessions.store")),
    ] = "memory"
    ttl: Annotated[
        float, Row(duration(1.0), "renewed while a call or stream is open", aliases=("session_config.ttl", "session.ttl"))
    ] = 3600.0
    max_idle: Annotated[float, Row(duration(1.0), "idle limit", aliases=("session_config.max_idle",))] = 1800.0
    cleanup_interval: Annotated[
        float, Row(duration(1.0), "sweep of the memory store", aliases=("session_config.cleanup_interval",))
    ] = 300.0
    max_total: Annotated[int, Row(COUNT, "open sessions in all")] = 50_000
    max_per_principal: Annotated[int, Row(COUNT, "open sessions of one principal; above: 429")] = 100
    event_log_max_bytes: Annotated[int, Row(size(), "per session; events kept for `Last-Event-ID`")] = 1_048_576
    seal_keys: Annotated[
        tuple[str, ...],
        Row(
            TEXTS,
            "seal session ids and requestState; the first seals, all open (rotation); empty: derived from auth.jwt.secret",
            env=("MCPBRIDGE_SEAL_KEY",),
            secret=True,
        ),
    ] = ()


class Routing(Section, frozen=True, kw_only=True):
    """Which server gets a call, under which name and for how long."""

    request_timeout: Annotated[float, Row(duration(0.001), "deadline without client value")] = 300.0
    attempt_timeout: Annotated[
        float | Literal["auto"],
        Row(duration_or_auto(0.001), "when a retry-safe call goes to another backend; auto: by what answers take, 1 s to 5 s"),
    ] = "auto"
    parked_ttl: Annotated[float, Row(duration(0.001), "how long a server's question waits for the client")] = 600.0
    prefix: Annotated[
        Literal["auto", "always", "never"],
        Row(choice("auto", "always", "never"), "server__ before names; auto: unless exactly one server is configured"),
    ] = "auto"
    max_name_length: Annotated[int, Row(integer(16, 128), "longest exposed tool name; longer ones are hash-shortened")] = 48
    tool_search_above: Annotated[
        int, Row(integer(0), "longer lists of tools become find_tool and call_tool, which find and call them; 0: never")
    ] = 0
    max_attempts: Annotated[int, Row(integer(1, 10), "sent attempts per call")] = 2
    strategy: Annotated[
        Literal["cross_protocol_least_conn", "least_conn", "round_robin", "weighted"],
        Row(
            choice("cross_protocol_least_conn", "least_conn", "round_robin", "weighted"),
            "how a backend of the protocol is chosen: the faster of two, fewest calls, in turn, by endpoint weight",
        ),
    ] = "cross_protocol_least_conn"
    protocol_preference_order: Annotated[
        tuple[str, ...], Row(TEXTS, "order of protocols for ties, priority and protocol_specific")
    ] = ("stdio", "tcp_binary", "websocket", "http", "sse")


class OverloadLimits(Section, frozen=True, kw_only=True):
    """Beyond one of these idle connections are let go, then new work is refused, then new connections."""

    memory_limit: Annotated[
        int, Row(size(0), "memory of the process; 0: nine tenths of what its control group allows, if it is in one")
    ] = 0
    loop_lag: Annotated[float, Row(duration(0.0), "how late the event loop may come; 0: however late")] = 0.25
    reserve_fds: Annotated[int, Row(integer(0, 100_000), "open files that are kept for servers, never for clients")] = 64


class Metrics(Section, frozen=True, kw_only=True):
    """The management listener's metrics."""

    enabled: Annotated[bool, Row(BOOL, "false: /metrics is 404, health stays", env=("MCP_METRICS_ENABLED",))] = True
    endpoint: Annotated[str, Row(HOST_PORT, "management listener")] = "127.0.0.1:9090"
    path: Annotated[str, Row(matching(r"/[A-Za-z0-9._~/-]*", "a path such as /metrics"), "path of the metrics")] = "/metrics"


class Admin(Section, frozen=True, kw_only=True):
    """Views and actions."""

    read_access: Annotated[Literal["open", "token"], Row(choice("open", "token"), "who may read status and health")] = "open"


class GatewayConfig(Section, frozen=True, kw_only=True):
    """Everything ``mcpbridge gateway`` can be told. Durations are seconds, sizes bytes."""

    version: Annotated[int, Row(integer(1, 1), "schema version")] = 1
    server: Listener = Listener()
    backends: Backends = Backends()
    connection: Connections = Connections()
    auth: Auth = Auth()
    sessions: Sessions = Sessions()
    discovery: Discovery = Discovery()
    circuit_breaker: CircuitBreaker = CircuitBreaker()
    load_balancing: LoadBalancing = LoadBalancing()
    routing: Routing = Routing()
    overload: OverloadLimits = OverloadLimits()
    memory_optimization: MemoryOptimization = MemoryOptimization()
    protocol_detection: GatewayDetection = GatewayDetection()
    health_monitoring: HealthMonitoring = HealthMonitoring()
    metrics: Metrics = Metrics()
    logging: Logging = Logging()
    admin: Admin = Admin()

    @property
    def servers(self) -> tuple[ServerSpec, ...]:
        """The static servers that are used."""
        static = self.discovery.providers.static
        return static.servers if static.enabled else ()


def weakness(secret: str) -> str:
    """Why a signing secret must not be used, or ""."""
    raw = secret.encode("utf-8", "surrogateescape")
    if len(raw) < MIN_SECRET_BYTES:
        return f"has {len(raw)} bytes and needs at least {MIN_SECRET_BYTES}"
    if len(set(raw)) < 8:
        return "repeats a few characters"
    if _WEAK.search(secret.lower()) and len(_FILLER.sub("", secret.lower())) < 12:
        return "is a well-known placeholder"
    return ""


def check(config: GatewayConfig, place: Mapping[str, Place]) -> list[Problem]:
    """Faults between rows. ``place`` says where a key was written; pure."""
    problems: list[Problem] = []

    def fault(key: str, message: str, hint: str = "") -> None:
        problems.append(Problem(place_of(key, place), f"{key}: {message}", hint, key))

    remedy = "make one: openssl rand -base64 48"
    if config.auth.type == "none" and not is_loopback(config.server.host):
        fault("server.host", f"{config.server.host} is reachable from other machines and auth.type is none",
              "set auth.type: bearer, or bind 127.0.0.1")  # fmt: skip
    if not config.server.tls.enabled and not is_loopback(config.server.host):
        fault(
            "server.tls.enabled",
            f"false is possible on loopback only, not on {config.server.host}",
            "set it to true, or bind 127.0.0.1",
        )
    elif config.server.serves("tcp_binary") and not config.server.tcp_tls and not is_loopback(config.server.host):
        fault("server.protocols.tcp_binary.tls", f"false is possible on loopback only, not on {config.server.host}",
              "leave it out, or bind 127.0.0.1")  # fmt: skip
    tls = config.server.tls
    if tls.client_auth != "none" and not tls.ca_file:
        fault("server.tls.client_auth", f"{tls.client_auth} needs server.tls.ca_file, whose clients are let in")
    weights = config.load_balancing.protocol_weights
    if not any(getattr(weights, protocol) for protocol in PROTOCOLS):
        fault("load_balancing.protocol_weights", "all are 0, so no protocol would be better than another", "give one a weight")
    order = config.routing.protocol_preference_order
    if len(set(order)) != len(order) or not set(order) <= set(PROTOCOLS):
        fault("routing.protocol_preference_order", f"each of {', '.join(PROTOCOLS)} once at most")
    if config.auth.jwt.secret and (why := weakness(config.auth.jwt.secret)):
        fault("auth.jwt.secret", why, remedy)
    for key, why in discovery_faults(config.discovery):
        fault(key, why)
    for key in config.sessions.seal_keys:
        if why := weakness(key):
            fault("sessions.seal_keys", f"a key {why}", remedy)
    protocols = config.server.protocols
    for key, path in config.server.health_checks.misplaced(protocols.websocket.path, protocols.sse.path, config.metrics.path):
        fault(f"server.health_checks.{key}.endpoint", f"{path} is the path of something else", "choose another below /health/")
    if config.connection.pool.min_size > config.connection.pool.max_size:
        fault("connection.pool.min_size", "more than max_size", "make it smaller")
    names: set[str] = set()
    for token in config.auth.static_tokens:
        if token.name in names:
            fault("auth.static_tokens", f"two tokens are named {token.name!r}")
        names.add(token.name)
        for scope in token.scopes:
            if scope not in MCP_SCOPES:
                fault("auth.static_tokens", f"token {token.name!r}: unknown scope {scope!r}", f"one of {', '.join(MCP_SCOPES)}")
    return problems


def start_problems(config: GatewayConfig, place: Mapping[str, Place]) -> list[Problem]:
    """What keeps a valid configuration from being served here and now: certificate files, and nobody who could sign in."""
    problems: list[Problem] = []
    if config.auth.type == "bearer" and not config.auth.jwt.secret and not config.auth.static_tokens:
        problems.append(
            Problem(
                place.get("auth.type", Place()),
                "auth.type: bearer, but there is neither auth.jwt.secret nor a static token, so nobody could sign in",
                "set JWT_SECRET (openssl rand -base64 48), or auth.type: none on loopback",
                "auth.type",
            )
        )
    tls = config.server.tls
    if tls.enabled or (config.server.serves("tcp_binary") and config.server.tcp_tls):
        missing = False
        files = [("server.tls.cert_file", tls.cert_file), ("server.tls.key_file", tls.key_file)]
        if tls.client_auth != "none":
            files.append(("server.tls.ca_file", tls.ca_file))
        for key, path in files:
            if not os.access(path, os.R_OK):
                missing = True
                problems.append(
                    Problem(place.get(key, Place()), f"{key}: cannot read {path}",
                            "put the file there, or server.tls.enabled: false on loopback", key)
                )  # fmt: skip
        if not missing:
            import ssl  # 20 ms that a gateway without TLS need not spend

            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            try:
                context.load_cert_chain(tls.cert_file, tls.key_file)
            except (ssl.SSLError, OSError) as error:
                problems.append(
                    Problem(place.get("server.tls.cert_file", Place()), f"server.tls: certificate and key do not load: {error}",
                            "both must be PEM and belong together", "server.tls.cert_file")
                )  # fmt: skip
            try:
                if tls.client_auth != "none":
                    context.load_verify_locations(tls.ca_file)
            except (ssl.SSLError, OSError) as error:
                problems.append(
                    Problem(place.get("server.tls.ca_file", Place()), f"server.tls.ca_file: no certificates in it: {error}",
                            "PEM of the authority that signs client certificates", "server.tls.ca_file")
                )  # fmt: skip
    return problems
