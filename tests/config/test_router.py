"""What no row of the router can check alone."""

from __future__ import annotations

import pytest

from mcpbridge.config.load import load_router
from mcpbridge.config.problems import ConfigError, Place
from mcpbridge.config.router import RouterConfig, check
from mcpbridge.config.rows import build
from mcpbridge.config.sections import ServerSpec
from mcpbridge.gateways import gateway_address, gateway_spec
from tests.support.configs import Write, faults, router, server_names


def test_logs_never_go_to_stdout() -> None:
    config = build(RouterConfig, {"logging.output": "stdout"})
    (problem,) = check(config, {"logging.output": Place("r.yaml", 3, 4)})
    assert str(problem) == "r.yaml:3:4: logging.output: stdout carries MCP messages only (use stderr or a file path)"
    assert check(RouterConfig(), {}) == []


def test_direct_servers_can_be_switched_off() -> None:
    values = {"direct_clients.servers": (ServerSpec(name="a"),)}
    assert [spec.name for spec in build(RouterConfig, values).servers] == ["a"]
    assert build(RouterConfig, {**values, "direct_clients.enabled": False}).servers == ()


@pytest.mark.requirement("config.router.gateway.url")
@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("", ""),
        ("https://a.example", "https://a.example/mcp"),
        ("http://127.0.0.1:8443/", "http://127.0.0.1:8443/mcp"),
        ("https://a.example/mcp/one", "https://a.example/mcp/one"),
        ("wss://a.example:8443", "wss://a.example:8443/ws"),
        ("ws://localhost/ws/one", "ws://localhost/ws/one"),
        ("sses://a.example", "sses://a.example/events"),
        ("tcps://a.example:8444", "tcps://a.example:8444"),
    ],
)
def test_a_gateway_without_a_path_is_reached_at_the_one_of_its_protocol(url: str, address: str) -> None:
    assert gateway_address(build(RouterConfig, {"gateway.url": url})) == address


@pytest.mark.parametrize(
    ("url", "where", "address"),
    [
        ("wss://a.example", "", "tcps://a.example:8444"),
        ("http://127.0.0.1:9000/mcp", "", "tcp://127.0.0.1:8444"),
        ("https://[2001:db8::1]:8443", "", "tcps://[2001:db8::1]:8444"),
        ("https://a.example", "b.example:8443", "tcps://b.example:8443"),
        ("", "[::1]:99", "tcp://[::1]:99"),
    ],
)
def test_frames_have_tls_unless_they_stay_on_this_machine(url: str, where: str, address: str) -> None:
    values = {"gateway.url": url, "advanced.protocol": "tcp", "advanced.tcp_address": where}
    assert gateway_address(build(RouterConfig, values)) == address


def test_frames_need_an_address_and_a_gateway_is_no_file(tmp_path) -> None:
    path = tmp_path / "r.yaml"
    path.write_text("gateway: {url: 'unix:///run/x.sock'}\n")
    assert faults(str(path), of=router) == [
        "1:11: gateway.url: a gateway is reached over the network (make it a direct server)"
    ]
    path.write_text("advanced: {protocol: tcp}\n")
    (fault,) = faults(str(path), of=router)
    assert fault == "1:12: advanced.protocol: tcp needs gateway.url or advanced.tcp_address (name the gateway)"


def config_of(text: str, write: Write, **env: str) -> RouterConfig:
    return router(write(text), env).config


SERVERS = """\
    servers:
      - {name: a, command: x}
      - {name: b, url: ws://h/ws}
      - {name: c, endpoints: [{url: http://h/mcp}, {url: tcp://h:1}]}
      - {name: d, url: sse://h/sse}
    """


@pytest.mark.requirement(
    "config.router.direct_clients.protocols",
    "env.MCP_DIRECT_HTTP_ENABLED",
    "env.MCP_DIRECT_STDIO_ENABLED",
    "env.MCP_DIRECT_TCP_BINARY_ENABLED",
)
@pytest.mark.parametrize(
    ("variables", "names"),
    [
        ({}, ["a", "b", "c", "d"]),
        ({"MCP_DIRECT_STDIO_ENABLED": "false"}, ["b", "c", "d"]),
        ({"MCP_DIRECT_HTTP_ENABLED": "no", "MCP_DIRECT_TCP_BINARY_ENABLED": "0"}, ["a", "b", "d"]),
        ({"MCP_DIRECT_SSE_ENABLED": "0", "MCP_DIRECT_WEBSOCKET_ENABLED": "0"}, ["a", "c"]),
        ({"MCPBRIDGE_DIRECT_CLIENTS__PROTOCOLS": "websocket", "MCP_DIRECT_STDIO_ENABLED": "true"}, ["b"]),
    ],
)
def test_only_servers_of_the_direct_protocols_are_used(variables: dict[str, str], names: list[str], write: Write) -> None:
    assert server_names(config_of(SERVERS, write, **variables)) == names


def test_of_a_server_only_the_endpoints_of_the_direct_protocols_are_used(write: Write) -> None:
    config = config_of(SERVERS, write, MCP_DIRECT_HTTP_ENABLED="false")
    assert [endpoint.url for endpoint in config.servers[2].endpoints] == ["tcp://h:1"]


def test_a_wrong_direct_protocol_is_refused_with_those_there_are(write: Write) -> None:
    assert "must be true or false" in faults(None, {"MCP_DIRECT_SSE_ENABLED": "maybe"}, of=router)[0]
    said = faults(write("direct_clients: {protocols: [stdio, pigeon]}"), of=router)
    assert "unknown protocol 'pigeon' (one of stdio, websocket, http, sse, tcp_binary)" in said[0]


@pytest.mark.requirement(
    "config.router.direct_clients.auto_detection.timeout", "config.router.direct_clients.auto_detection.fallback_strategy",
    "env.MCP_PROTOCOL_AUTO_DETECT", "env.MCP_AUTO_DETECT_PROTOCOLS", "env.conflict",
)  # fmt: skip
def test_detection_is_set_by_key_alias_and_either_variable(tmp_path):
    path = tmp_path / "router.yaml"
    path.write_text(
        "direct: {auto_detection: {timeout: 500ms, fallback_strategy: none}}\ndetection: {allowed_targets: [10.0.0.0/8]}\n"
    )
    found = load_router(str(path), {}).config.direct_clients.auto_detection
    assert (found.enabled, found.timeout, found.fallback_strategy, found.allowed_targets) == (
        True,
        0.5,
        "none",
        ("10.0.0.0/8",),
    )
    for variable in ("MCP_PROTOCOL_AUTO_DETECT", "MCP_AUTO_DETECT_PROTOCOLS"):
        assert load_router(str(path), {variable: "false"}).config.direct_clients.auto_detection.enabled is False
    with pytest.raises(ConfigError) as refused:
        load_router(str(path), {"MCP_PROTOCOL_AUTO_DETECT": "false", "MCP_AUTO_DETECT_PROTOCOLS": "true"})
    assert refused.value.exit_code == 78
    assert "MCP_PROTOCOL_AUTO_DETECT" in str(refused.value) and "MCP_AUTO_DETECT_PROTOCOLS" in str(refused.value)


@pytest.mark.requirement("env.MCP_DIRECT_SSE_ENABLED", "env.MCP_DIRECT_WEBSOCKET_ENABLED")
@pytest.mark.parametrize("name", ["stdio", "websocket", "http", "sse", "tcp_binary"])
def test_a_variable_adds_or_removes_its_protocol(name: str, write: Write) -> None:
    variable = f"MCP_DIRECT_{name.upper()}_ENABLED"
    assert name not in config_of("{}", write, **{variable: "false"}).direct_clients.protocols
    only = "direct_clients: {protocols: []}"
    assert config_of(only, write, **{variable: "true"}).direct_clients.protocols == (name,)


@pytest.mark.requirement("config.router.gateway.connection.reconnect.max_attempts")
def test_further_gateways_need_a_first_and_delays_an_order(write: Write) -> None:
    config = router(write("gateway: {url: 'wss://a.example', urls: ['https://b.example', 'tcps://c.example:1']}\n")).config
    assert [endpoint.url for endpoint in gateway_spec(config).endpoints] == [
        "wss://a.example/ws",
        "https://b.example/mcp",
        "tcps://c.example:1",
    ]
    assert config.gateway.connection.reconnect.max_attempts == -1
    assert faults(write("gateway: {urls: ['https://b.example']}\n"), of=router) == [
        "1:11: gateway.urls needs gateway.url, the first of them (name it there)"
    ]
    late = "gateway: {connection: {reconnect: {initial_delay_ms: 5000, max_delay_ms: 1000}}}\n"
    (fault,) = faults(write(late), of=router)
    assert fault.endswith("initial_delay_ms: longer than max_delay_ms (make it shorter)")
    (fault,) = faults(write("gateway: {url: 'https://a.example', urls: ['ftp://b']}\n"), of=router)
    assert "gateway.urls" in fault and "wss://" in fault


def test_a_bucket_without_room_is_no_bucket(write: Write) -> None:
    (fault,) = faults(write("local: {rate_limit: {burst: 0}}\n"), of=router)
    assert "local.rate_limit.burst" in fault and "at least 1" in fault


@pytest.mark.requirement("config.router.direct_clients.rules")
def test_the_first_rule_that_fits_says_which_way_a_server_is_reached(write: Write) -> None:
    text = """\
gateway: {url: 'https://g.example'}
direct_clients:
  rules:
    - {pattern: work/secret, via: direct}
    - {pattern: 'work*', via: gateway}
    - {pattern: home/a?}
  servers:
    - {name: secret, namespace: work, command: x}
    - {name: other, namespace: work-2, command: x}
    - {name: a1, namespace: home, command: x}
    - {name: free, command: x}
"""
    config = config_of(text, write)
    direct = config.direct_clients
    assert [direct.via(spec) for spec in direct.servers] == ["direct", "gateway", "hybrid", "hybrid"]
    assert [spec.name for spec in config.servers] == ["secret", "a1", "free"]


def test_a_rule_that_nothing_can_follow_is_a_fault(write: Write) -> None:
    assert faults(write("direct_clients: {rules: [{pattern: '*', via: gateway}]}\n"), of=router) == [
        "1:18: direct_clients.rules: via gateway needs gateway.url (name the gateway)"
    ]
    (fault,) = faults(write("direct_clients: {rules: [{pattern: a/b/c, via: direct}]}\n"), of=router)
    assert "NAMESPACE or NAMESPACE/SERVER" in fault
    (fault,) = faults(write("direct_clients: {rules: [{pattern: a, via: both}]}\n"), of=router)
    assert "direct, gateway or hybrid" in fault
