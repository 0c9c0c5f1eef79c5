"""What no row of the gateway can check alone: exposure, secrets, certificates."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mcpbridge.config.gateway import GatewayConfig, StaticToken, check, start_problems, weakness
from mcpbridge.config.kinds import is_loopback
from mcpbridge.config.problems import Place
from mcpbridge.config.protocols import PROTOCOLS
from mcpbridge.config.rows import build
from tests.support.certificates import make_tls
from tests.support.configs import Write, faults, gateway, router

STRONG = "kX9v2mQ7pL4sR8tY1wZ5bN3cF6hJ0dG="
PLACES = {"server.host": Place("g.yaml", 2, 3)}


def checked(**values: Any) -> list[str]:
    config = build(GatewayConfig, {key.replace("__", "."): value for key, value in values.items()})
    return [str(problem) for problem in check(config, PLACES)]


@pytest.mark.parametrize(
    "host", ["0.0.0.0", "", "::", "192.168.1.5", "example.com", "127.0.0.1.example.com", "::ffff:10.0.0.1"]
)
def test_no_sign_in_is_possible_on_loopback_only(host: str) -> None:
    faults = checked(server__host=host, auth__type="none")
    cause = f"server.host: {host} is reachable from other machines and auth.type is none"
    assert faults == [f"g.yaml:2:3: {cause} (set auth.type: bearer, or bind 127.0.0.1)"]
    assert checked(server__host=host, auth__type="bearer") == []


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "::1", "[::1]", "localhost", "LOCALHOST"])
def test_loopback_needs_neither_sign_in_nor_tls(host: str) -> None:
    assert is_loopback(host)
    assert checked(server__host=host, auth__type="none", server__tls__enabled=False) == []


def test_tls_off_is_possible_on_loopback_only() -> None:
    assert (
        "server.tls.enabled: false is possible on loopback only, not on 0.0.0.0"
        in checked(server__host="0.0.0.0", server__tls__enabled=False)[0]
    )


@pytest.mark.requirement("env.JWT_SECRET")
@pytest.mark.parametrize(
    ("secret", "why"),
    [
        ("short", "has 5 bytes and needs at least 32"),
        ("x" * 31, "has 31 bytes"),
        ("ä" * 15, "has 30 bytes"),
        ("x" * 40, "repeats"),
        ("abcabc" * 8, "repeats"),
        ("your-256-bit-secret-your-256-bit-secret", "placeholder"),
        ("change-me-in-production-change-me-please", "placeholder"),
        ("supersecretsupersecretsupersecret1234567", "placeholder"),
        ("This-is-an-example-secret-key-for-the-test", "placeholder"),
    ],
)
def test_a_secret_that_can_be_guessed_is_refused(secret: str, why: str) -> None:
    assert why in weakness(secret)
    faults = checked(auth__jwt__secret=secret, sessions__seal_keys=(secret,))
    assert len(faults) == 2 and all(secret not in fault and "openssl rand" in fault for fault in faults)


@pytest.mark.parametrize(
    "secret", [STRONG, "ä" * 16 + STRONG, "secret-" + STRONG, "correct horse battery staple and some more words"]
)
def test_a_strong_secret_is_accepted(secret: str) -> None:
    assert weakness(secret) == ""


def test_static_tokens_have_unique_names_and_known_scopes() -> None:
    token = "t" * 32
    twins = (StaticToken(name="a", token=token, scopes=("mcp:read", "mcp:root")), StaticToken(name="a", token=token))
    assert checked(auth__static_tokens=twins) == [
        "auth.static_tokens: token 'a': unknown scope 'mcp:root' (one of mcp:read, mcp:write, mcp:admin)",
        "auth.static_tokens: two tokens are named 'a'",
    ]


def test_a_gateway_that_nobody_could_use_does_not_start() -> None:
    faults = [str(problem) for problem in start_problems(GatewayConfig(), {})]
    assert "nobody could sign in" in faults[0] and "JWT_SECRET" in faults[0]
    assert [fault.split(":")[0] for fault in faults[1:]] == ["server.tls.cert_file", "server.tls.key_file"]
    ready = build(GatewayConfig, {"auth.jwt.secret": STRONG, "server.tls.enabled": False})
    assert start_problems(ready, {}) == []


def test_certificates_that_are_none_do_not_start_either(tmp_path: Path) -> None:
    path = tmp_path / "x.pem"
    path.write_text("no certificate")
    values = {"auth.jwt.secret": STRONG, "server.tls.cert_file": str(path), "server.tls.key_file": str(path)}
    (problem,) = start_problems(build(GatewayConfig, values), {})
    assert "certificate and key do not load" in str(problem)


@pytest.mark.requirement(
    "config.gateway.server.protocol",
    "config.gateway.server.protocols.http.enabled",
    "config.gateway.server.protocols.stdio.enabled",
    "config.gateway.server.protocols.tcp_binary.enabled",
    "config.gateway.server.protocols.websocket.enabled",
)
@pytest.mark.parametrize(
    ("values", "served"),
    [
        ({}, {"stdio", "websocket", "http", "sse", "tcp_binary"}),
        ({"server__protocol": "http"}, {"http"}),
        ({"server__protocols__sse__enabled": False}, {"stdio", "websocket", "http", "tcp_binary"}),
        ({"server__protocol": "sse", "server__protocols__sse__enabled": False}, set()),
        (
            {f"server__protocols__{name}__enabled": False for name in ("http", "stdio", "tcp_binary", "websocket")},
            {"sse"},
        ),
    ],
)
def test_a_protocol_is_served_unless_it_or_all_but_another_are_switched_off(values: dict[str, Any], served: set[str]) -> None:
    config = build(GatewayConfig, {key.replace("__", "."): value for key, value in values.items()})
    assert {name for name in PROTOCOLS if config.server.serves(name)} == served


def test_without_a_file_only_one_port_is_taken() -> None:
    config = gateway(None).config.server
    assert [name for name in PROTOCOLS if config.serves(name)] == ["websocket", "http", "sse"]


def test_the_port_of_frames_has_tls_as_the_other_one_unless_it_is_told_otherwise() -> None:
    def tls_of(**values: Any) -> bool:
        return build(GatewayConfig, {key.replace("__", "."): value for key, value in values.items()}).server.tcp_tls

    assert tls_of() is True
    assert tls_of(server__tls__enabled=False) is False
    assert tls_of(server__tls__enabled=False, server__protocols__tcp_binary__tls=True) is True
    assert tls_of(server__protocols__tcp_binary__tls=False) is False
    (fault,) = checked(server__host="0.0.0.0", auth__type="bearer", server__protocols__tcp_binary__tls=False)
    assert fault.startswith("server.protocols.tcp_binary.tls: false is possible on loopback only, not on 0.0.0.0")


def test_certificates_of_clients_need_an_authority(tmp_path: Path) -> None:
    (fault,) = checked(server__tls__client_auth="request")
    assert fault == "server.tls.client_auth: request needs server.tls.ca_file, whose clients are let in"
    tls = make_tls(tmp_path)
    files = {"server.tls.cert_file": str(tls.server_cert), "server.tls.key_file": str(tls.server_key)}
    values = {"auth.jwt.secret": STRONG, **files, "server.tls.client_auth": "require"}
    assert start_problems(build(GatewayConfig, {**values, "server.tls.ca_file": str(tls.authority)}), {}) == []
    (problem,) = start_problems(build(GatewayConfig, {**values, "server.tls.ca_file": str(tls.server_key)}), {})
    assert "server.tls.ca_file: no certificates in it" in str(problem)
    (problem,) = start_problems(build(GatewayConfig, {**values, "server.tls.ca_file": str(tmp_path / "none")}), {})
    assert "server.tls.ca_file: cannot read" in str(problem)


@pytest.mark.requirement(
    "config.gateway.protocol_detection.accuracy_target", "config.gateway.protocol_detection.allowed_targets",
    "config.gateway.protocol_detection.fallback_protocol",
)  # fmt: skip
def test_detection_has_the_defaults_of_the_guide_and_bounds(write: Write) -> None:
    found = build(GatewayConfig, {}).protocol_detection
    assert (found.enabled, found.accuracy_target, found.timeout, found.cache_duration) == (True, 0.98, 1.0, 300.0)
    assert (found.fallback_protocol, found.allowed_targets) == ("http", ())
    for wrong, words in (
        ("accuracy_target: 98", "a number from 0 to 1"),
        ("timeout: 1ms", "timeout"),
        ("fallback_protocol: smtp", "http, sse, websocket"),
    ):
        assert any(words in fault for fault in faults(write(f"protocol_detection: {{{wrong}}}\n"))), wrong


@pytest.mark.requirement(
    "config.gateway.backends.sse.enabled",
    "config.gateway.backends.stdio.enabled",
    "config.gateway.backends.tcp_binary.enabled",
    "config.gateway.backends.websocket.enabled",
    "env.MCP_GATEWAY_SSE_BACKENDS",
    "env.MCP_GATEWAY_TCP_BINARY_BACKENDS",
    "env.MCP_GATEWAY_WEBSOCKET_BACKENDS",
)
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_servers_of_a_protocol_can_be_switched_off_by_key_or_variable(protocol: str) -> None:
    for variable in (f"MCPBRIDGE_BACKENDS__{protocol.upper()}__ENABLED", f"MCP_GATEWAY_{protocol.upper()}_BACKENDS"):
        backends = gateway(None, {variable: "false"}).config.backends
        assert {name for name in PROTOCOLS if not getattr(backends, name).enabled} == {protocol}


@pytest.mark.requirement("config.gateway.backends.tcp_binary.framing", "config.gateway.server.protocols.tcp_binary.framing")
@pytest.mark.parametrize("key", ["BACKENDS__TCP_BINARY__FRAMING", "SERVER__PROTOCOLS__TCP_BINARY__FRAMING"])
def test_there_is_one_framing(key: str) -> None:
    assert gateway(None, {f"MCPBRIDGE_{key}": "length_prefixed"}).config
    assert "must be length_prefixed" in faults(None, {f"MCPBRIDGE_{key}": "lines"})[0]


@pytest.mark.requirement("env.MCP_UNIVERSAL_PROTOCOLS_ENABLED")
def test_without_universal_protocols_there_are_two_towards_clients_and_one_of_direct_servers(write: Write) -> None:
    off = {"MCP_UNIVERSAL_PROTOCOLS_ENABLED": "false"}
    path = write("{}")
    served = [name for name in PROTOCOLS if gateway(path, off).config.server.serves(name)]
    assert served == ["websocket", "http"]
    kept = gateway(path, {**off, "MCPBRIDGE_SERVER__PROTOCOLS__SSE__ENABLED": "true"}).config.server
    assert [name for name in PROTOCOLS if kept.serves(name)] == ["websocket", "http", "sse"]
    assert all(gateway(path, {"MCP_UNIVERSAL_PROTOCOLS_ENABLED": "true"}).config.server.serves(name) for name in PROTOCOLS)
    assert router(path, off).config.direct_clients.protocols == ("stdio",)
    assert router(path, {**off, "MCP_DIRECT_SSE_ENABLED": "1"}).config.direct_clients.protocols == ("stdio", "sse")
    assert "must be true or false" in faults(path, {"MCP_UNIVERSAL_PROTOCOLS_ENABLED": "2"})[0]


@pytest.mark.requirement("config.gateway.server.health_checks.websocket.endpoint")
@pytest.mark.parametrize(
    ("key", "path", "is_fine"),
    [
        ("http", "/health/http", True),
        ("http", "/status/http", True),
        ("http", "/health/sse", False),
        ("http", "/health/ws", False),
        ("http", "/health", False),
        ("sse", "/health/discovery", False),
        ("sse", "/mcp/health", False),
        ("sse", "/events/health", False),
        ("websocket", "/api/v1/status", False),
        ("websocket", "/health/websocket", True),
        ("websocket", "/ws", False),
        ("websocket", "/metrics", False),
        ("cross_protocol_lb", "/health/load-balancer", True),
        ("cross_protocol_lb", "/balance", True),
        ("cross_protocol_lb", "/health/http", False),
    ],
)
def test_the_further_path_of_a_view_leads_nowhere_else(key: str, path: str, is_fine: bool) -> None:
    found = checked(**{f"server__health_checks__{key}__endpoint": path})
    cause = f"server.health_checks.{key}.endpoint: {path} is the path of something else (choose another below /health/)"
    assert found == ([] if is_fine else [cause])


def test_two_views_do_not_share_a_further_path() -> None:
    shared = {f"server__health_checks__{key}__endpoint": "/well" for key in ("http", "sse")}
    assert [fault.split(":")[0] for fault in checked(**shared)] == ["server.health_checks.sse.endpoint"]


def test_a_pool_keeps_no_more_connections_than_it_may_have() -> None:
    assert checked(connection__pool__min_size=5, connection__pool__max_size=4) == [
        "connection.pool.min_size: more than max_size (make it smaller)"
    ]
    assert checked(connection__pool__min_size=4, connection__pool__max_size=4) == []
