"""The gateway's listeners: every address it listens at, what is served there, and why one cannot be had.

    server.port          http, sse, websocket, on a plaintext port also MCPB frames       server.tcp_port    tcp_binary
    server.stdio_socket  stdio                                                            metrics.endpoint   management

An address that somebody chose and that cannot be had ends the start; a default one is done without, and its protocol is down.

Source: contract section 3.1 (``server.*``, ``metrics.endpoint``), cli.gateway.run; architecture section 8.
"""

from __future__ import annotations

import errno
import socket
import ssl
from collections.abc import Callable

from mcpbridge.admin.views import is_ready
from mcpbridge.config.gateway import GatewayConfig, Tls
from mcpbridge.config.kinds import split_host_port
from mcpbridge.config.load import Loaded
from mcpbridge.config.problems import EX_CANTCREAT, EX_CONFIG, EX_NOPERM, EX_TEMPFAIL, ConfigError, Problem
from mcpbridge.core.reception import Reception
from mcpbridge.core.tasks import Spawn
from mcpbridge.faces import Faces, Front, Frontends, bracketed, explain
from mcpbridge.observe.log import log
from mcpbridge.observe.metrics import Registry
from mcpbridge.observe.snapshot import Snapshot
from mcpbridge.seal import certificate_end
from mcpbridge.transports.doors import ConnectionLimits, address_key
from mcpbridge.transports.http1.server import HttpServer
from mcpbridge.transports.sse.listen import SseFrontend
from mcpbridge.transports.stdio.pipe import PipeFrontend
from mcpbridge.transports.stdio.socket import SocketFrontend
from mcpbridge.transports.tcp_binary.health import TcpHealth
from mcpbridge.transports.tcp_binary.listen import TcpFrontend
from mcpbridge.transports.unix import ForeignFile
from mcpbridge.transports.websocket.listen import WebSocketFrontend

_log = log("gateway")
BASE_HEADERS = (
    ("x-content-type-options", "nosniff"),
    ("x-frame-options", "DENY"),
    ("x-xss-protection", "0"),
    ("content-security-policy", "default-src 'none'; frame-ancestors 'none'"),
    ("referrer-policy", "no-referrer"),
)
TLS_HEADERS = (("strict-transport-security", "max-age=31536000; includeSubDomains"),)


class Listeners:
    """``open`` them all; ``frontends`` are those towards clients from then on, ``not_after`` the end of their certificate."""

    def __init__(self, loaded: Loaded[GatewayConfig], registry: Registry, reception: Reception, spawn: Spawn) -> None:
        self.frontends = Frontends()
        self.not_after: float | None = None
        self._loaded = loaded
        self._config = loaded.config
        self._registry = registry
        self._reception = reception
        self._spawn = spawn
        self._context: ssl.SSLContext | None = None
        self.limits = ConnectionLimits(self._config.server.max_connections, self._config.server.max_connections_per_ip)

    async def open(self, faces: Faces) -> HttpServer:
        """Open every listener that is switched on; the management listener, which outlives them. Raises ConfigError."""
        limits = self.limits
        tcp = await self._tcp(limits) if self._config.server.serves("tcp_binary") else None
        await self._http(faces, limits, tcp)
        await self._stdio(limits)
        return await self._management(faces)

    async def _tcp(self, limits: ConnectionLimits) -> TcpFrontend:
        """The port of MCPB frames. One that was not asked for by its number is done without when it is taken."""
        config = self._config.server
        frontend = TcpFrontend(
            self._reception.serve,
            self._reception.admit,
            auth_required=self._config.auth.type != "none",
            max_message=config.security.max_message_size,
            limits=limits,
        )
        self.frontends.add(frontend)
        context = self._tls() if config.tcp_tls else None
        try:
            host, port = await frontend.start(config.host, config.tcp_port, context)
            self._speak("tcp_binary", f"{'tcps' if context else 'tcp'}://{bracketed(host)}:{port}")
        except OSError as error:
            self._do_without("tcp_binary", "server.tcp_port", f"{bracketed(config.host)}:{config.tcp_port}", error)
        return frontend

    async def open_health(self, snapshot: Callable[[], Snapshot], asked: Callable[[], None]) -> TcpHealth | None:
        """The port that is open while we are ready; the same holds if it is taken."""
        config = self._config.server
        if not config.tcp_health_port or not config.serves("tcp_binary") or not config.health_checks.tcp_binary.enabled:
            return None
        health = TcpHealth(lambda: (snapshot().healthy, snapshot().status), lambda: is_ready(snapshot()), asked)
        try:
            host, port = await health.start(config.host, config.tcp_health_port)
        except OSError as error:
            if "server.tcp_health_port" in self._explicit():
                where = f"{bracketed(config.host)}:{config.tcp_health_port}"
                raise self._not_listening("server.tcp_health_port", where, error) from error
            _log.warn("the health port is not open", protocol="tcp_binary", port=config.tcp_health_port, error=str(error))
            return None
        self.frontends.add(health)
        _log.info("health port", protocol="tcp_binary", address=f"tcp://{bracketed(host)}:{port}")
        return health

    def is_full(self, address: str) -> bool:
        """Whether one more client from ``address`` would be refused."""
        return bool(self.limits.refusal(address_key(address)))

    async def _http(self, faces: Faces, limits: ConnectionLimits, tcp: TcpFrontend | None) -> None:
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
        self.frontends.add(server)
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

    async def _stdio(self, limits: ConnectionLimits) -> None:
        config = self._config.server
        if not config.serves("stdio"):
            return
        stdio, largest = config.protocols.stdio, config.security.max_message_size
        socket_frontend = SocketFrontend(self._reception.serve, self._spawn, limits, max_message=largest)
        pipe_frontend = PipeFrontend(self._reception.serve, self._spawn, max_message=largest)
        await self._at("server.stdio_socket", f"unix://{config.stdio_socket}", socket_frontend)
        if stdio.pipe:
            await self._at("server.protocols.stdio.pipe", f"pipe://{stdio.pipe}", pipe_frontend)

    async def _at(self, key: str, address: str, frontend: SocketFrontend | PipeFrontend) -> None:
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
            self.frontends.add(frontend)
            self._speak("stdio", address)

    async def _management(self, faces: Faces) -> HttpServer:
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
        self.frontends.miss(protocol)
        reason = (error.strerror or str(error)).lower()
        _log.warn(f"{key}: cannot listen on {address}: {reason}; the gateway goes on without it", protocol=protocol)

    def _speak(
        self, protocol: str, address: str, connections: Callable[[], int] | None = None, active: Callable[[], int] | None = None
    ) -> None:
        """Note a protocol that listens now; the clients of the duplex ones are counted by the reception."""
        reception = self._reception
        count = connections or (lambda: reception.connections(protocol))
        self.frontends.speak(protocol, Front(address, count, active or (lambda: reception.active(protocol))))
        _log.info("listening", protocol=protocol, address=address)

    def _not_listening(self, key: str, address: str, error: OSError) -> ConfigError:
        """Why an address cannot be listened on, with the exit status that tells a supervisor whether to try again."""
        why = "the name is not known" if isinstance(error, socket.gaierror) else (error.strerror or str(error)).lower()
        hint = "stop the program that has it, or choose another" if error.errno == errno.EADDRINUSE else "choose another"
        problem = Problem(self._loaded.places[key], f"{key}: cannot listen on {address}: {why}", hint, key)
        return ConfigError([problem], {errno.EADDRINUSE: EX_TEMPFAIL, errno.EACCES: EX_NOPERM}.get(error.errno or 0, EX_CONFIG))

    def _explicit(self) -> set[str]:
        return {key for key, origin in self._loaded.origins.items() if origin.kind != "default"}

    def renew(self, tls: Tls) -> None:
        """Show the certificate of these files to whoever connects from now on. They have been checked."""
        if self._context is not None:
            self._context.load_cert_chain(tls.cert_file, tls.key_file)
            self._until(tls.cert_file)

    def _until(self, cert_file: str) -> None:
        self.not_after = certificate_end(cert_file)
        self._registry.set("mcp_gateway_tls_cert_not_after_seconds", self.not_after)

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
            self._until(tls.cert_file)
        return self._context
