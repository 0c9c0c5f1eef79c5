"""Variables and flags: precedence, servers from several sources, the token of the environment."""

from __future__ import annotations

from pathlib import Path

import pytest

from mcpbridge.config.gateway import GatewayConfig
from mcpbridge.config.load import Flags, Loaded
from mcpbridge.config.problems import ConfigError
from mcpbridge.config.router import RouterConfig
from mcpbridge.config.rows import fields_of
from mcpbridge.config.sections import EndpointSpec, ServerSpec
from tests.support.configs import SECRET, Write, faults, gateway, router, server_names

# -- precedence and variables


@pytest.mark.requirement("env.precedence")
@pytest.mark.parametrize(
    ("key", "own", "table", "values"),
    [
        ("logging.level", "MCPBRIDGE_LOGGING__LEVEL", "MCP_LOGGING_LEVEL", ["trace", "debug", "warn", "error", "info"]),
        ("metrics.enabled", "MCPBRIDGE_METRICS__ENABLED", "MCP_METRICS_ENABLED", ["false", "off", "0", "no", "true"]),
        ("server.port", "MCPBRIDGE_SERVER__PORT", "", ["1", "2", "", "4", "8443"]),
        ("routing.request_timeout", "MCPBRIDGE_ROUTING__REQUEST_TIMEOUT", "", ["1s", "2s", "", "4s", "300"]),
        (
            "server.security.max_request_size",
            "MCPBRIDGE_SERVER__SECURITY__MAX_REQUEST_SIZE",
            "",
            ["1KiB", "2KiB", "", "4KiB", "1MiB"],
        ),
        ("server.tls.cert_file", "MCPBRIDGE_SERVER__TLS__CERT_FILE", "", ["/1", "/2", "", "/4", "/tls/tls.crt"]),
        ("server.host", "MCPBRIDGE_SERVER__HOST", "", ["::1", "127.0.0.2", "", "127.0.0.4", "127.0.0.1"]),
        (
            "server.allowed_origins",
            "MCPBRIDGE_SERVER__ALLOWED_ORIGINS",
            "",
            ["http://1,http://2", "http://3", "", "[http://4]", ""],
        ),
        ("metrics.endpoint", "MCPBRIDGE_METRICS__ENDPOINT", "", ["x:1", "x:2", "", "'x:4'", "127.0.0.1:9090"]),
    ],
)
def test_flag_before_own_variable_before_table_before_file_before_default(
    write: Write, key: str, own: str, table: str, values: list[str]
) -> None:
    flag, own_value, table_value, file_value, default = values
    section, _, last = key.rpartition(".")
    nested = "".join(f"{part}: {{" for part in section.split(".")) + f"{last}: {file_value}" + "}" * len(section.split("."))
    path, empty = write(nested), write("{}", "empty.yaml")
    row = {field.key: field.row for field in fields_of(GatewayConfig)}[key]

    def read(text: str) -> object:
        if row.kind.form == "texts":
            return tuple(part for part in text.strip("[]").split(",") if part)
        return row.kind.parse(text.strip("'"))

    def at(loaded: Loaded[GatewayConfig]) -> tuple[object, str]:
        value: object = loaded.config
        for part in key.split("."):
            value = getattr(value, part)
        return value, loaded.origins[key].kind

    env = {own: own_value, **({table: table_value} if table else {})}
    assert at(gateway(path, env, Flags({key: flag}))) == (read(flag), "flag")
    assert at(gateway(path, env)) == (read(own_value), "env")
    if table:
        assert at(gateway(path, {table: table_value, own: ""})) == (read(table_value), "env")
    assert at(gateway(path)) == (read(file_value), "file")
    assert at(gateway(empty)) == (read(default), "default")
    assert at(gateway(empty, {own: ""})) == (read(default), "default")


@pytest.mark.requirement("env.bool")
def test_a_bad_boolean_names_its_variable() -> None:
    assert faults(None, {"MCP_METRICS_ENABLED": "maybe"}) == [
        "MCP_METRICS_ENABLED: metrics.enabled must be true or false (also 1/0, yes/no, on/off), not 'maybe'"
    ]


@pytest.mark.requirement(
    "env.MCP_LOGGING_LEVEL",
    "env.MCPBRIDGE_CONFIG",
    "env.MCP_GATEWAY_URL",
    "env.MCP_DIRECT_CLIENTS_ENABLED",
    "env.MCP_GATEWAY_STDIO_BACKENDS",
    "env.MCP_GATEWAY_HTTP_BACKENDS",
    "env.MCP_GATEWAY_SSE_BACKENDS",
    "env.JWT_SECRET",
    "env.MCPBRIDGE_SEAL_KEY",
)
def test_variables_of_the_guide_set_their_keys(write: Write) -> None:
    env = {"MCP_GATEWAY_URL": "https://g.example", "MCP_DIRECT_CLIENTS_ENABLED": "no", "MCP_LOGGING_LEVEL": "warning"}
    config = router(None, env, Flags(only_servers=False)).config
    assert (config.gateway.url, config.direct_clients.enabled, config.logging.level) == ("https://g.example", False, "warn")
    env = {
        "MCP_GATEWAY_STDIO_BACKENDS": "0",
        "MCP_GATEWAY_HTTP_BACKENDS": "off",
        "MCP_GATEWAY_SSE_BACKENDS": "no",
        "JWT_SECRET": SECRET,
        "MCPBRIDGE_SEAL_KEY": SECRET[::-1],
    }
    path = write("server: {port: 5}\nauth: {type: none}\n")
    found = gateway(None, {**env, "MCPBRIDGE_CONFIG": path})
    assert found.path == path and found.config.server.port == 5
    backends = found.config.backends
    assert (backends.stdio.enabled, backends.http.enabled, backends.sse.enabled) == (False, False, False)
    assert (found.config.auth.jwt.secret, found.config.sessions.seal_keys) == (SECRET, (SECRET[::-1],))
    assert found.origins["auth.jwt.secret"].place.source == "JWT_SECRET"


def test_a_list_of_servers_can_be_a_variable() -> None:
    env = {"MCPBRIDGE_DISCOVERY__PROVIDERS__STATIC__SERVERS": '[{"name": "a", "command": "x"}]'}
    assert server_names(gateway(None, env).config) == ["a"]
    assert "name: is missing" in faults(None, {**env, "MCPBRIDGE_DISCOVERY__PROVIDERS__STATIC__SERVERS": "[{}]"})[0]
    assert "not valid YAML" in faults(None, {"MCPBRIDGE_DISCOVERY__PROVIDERS__STATIC__SERVERS": "[{"})[0]


def test_a_variable_of_ours_that_sets_nothing_is_an_error_unless_the_other_program_knows_it() -> None:
    assert faults(None, {"MCPBRIDGE_SERVER__PROT": "1"}) == [
        "MCPBRIDGE_SERVER__PROT: sets no known key (did you mean MCPBRIDGE_SERVER__PORT?)"
    ]
    assert router(None, {"MCPBRIDGE_SERVER__PORT": "1", "MCPBRIDGE_VERSION": "9"}).config == RouterConfig()


@pytest.mark.requirement("env.MCP_AUTH_TOKEN")
def test_the_token_of_the_environment_is_a_static_token_of_the_gateway(write: Write) -> None:
    path = write("{}")
    token = "t" * 31 + "x"
    added = gateway(path, {"MCP_AUTH_TOKEN": token}).config.auth.static_tokens
    assert [(entry.name, entry.token, entry.scopes) for entry in added] == [
        ("env", token, ("mcp:read", "mcp:write", "mcp:admin"))
    ]
    assert gateway(path, {"MCP_AUTH_TOKEN": "eyJh.eyJz.c2ln" + "x" * 32}).config.auth.static_tokens == ()
    short = gateway(path, {"MCP_AUTH_TOKEN": "short"})
    assert (
        short.config.auth.static_tokens == ()
        and "at least 32" in str(short.warnings[0])
        and "short" not in str(short.warnings[0])
    )
    assert gateway(None, {"MCP_AUTH_TOKEN": token}).config.auth.static_tokens == ()  # embedded default: no sign-in


# -- flags


def test_servers_of_flags_join_those_of_the_file_and_replace_their_namesakes(write: Write) -> None:
    path = write("servers: [{name: a, command: x}, {name: b, command: x}]\n")
    flags = Flags(servers=[ServerSpec(name="b", endpoints=(EndpointSpec(command="new"),)), ServerSpec(name="c")])
    loaded = gateway(path, {}, flags)
    assert server_names(loaded.config) == ["a", "b", "c"]
    assert loaded.config.servers[1].endpoints[0].command == "new"


def test_an_ad_hoc_server_is_the_only_one_and_no_file_is_searched(tmp_path: Path) -> None:
    place = tmp_path / "mcpbridge"
    place.mkdir()
    (place / "router.yaml").write_text("gateway: {url: https://g.example}\nservers: [{name: a, command: x}]\n")
    env = {"XDG_CONFIG_HOME": str(tmp_path)}
    assert server_names(router(None, env).config) == ["a"]
    flags = Flags(servers=[ServerSpec(name="only")], only_servers=True)
    loaded = router(None, {**env, "MCP_GATEWAY_URL": "https://g.example", "MCP_DIRECT_CLIENTS_ENABLED": "no"}, flags)
    assert loaded.path is None and server_names(loaded.config) == ["only"]
    assert (loaded.config.gateway.url, loaded.config.routing.prefix) == ("", "never")


def test_a_wrong_flag_is_exit_64() -> None:
    with pytest.raises(ConfigError, match=r"--level: logging.level must be") as caught:
        gateway(None, {}, Flags({"logging.level": "loud"}))
    assert caught.value.exit_code == 64
