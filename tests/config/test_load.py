"""Files, variables and flags become one configuration, or every fault with its place at once."""

from __future__ import annotations

import json
import os
import textwrap
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from mcpbridge.config.gateway import GatewayConfig
from mcpbridge.config.load import Flags, Loaded, find_file, gateway_program, load_gateway, load_router, router_program
from mcpbridge.config.problems import ConfigError
from mcpbridge.config.router import RouterConfig
from mcpbridge.config.rows import fields_of
from mcpbridge.config.sections import EndpointSpec, ServerSpec

SECRET = "kX9v2mQ7pL4sR8tY1wZ5bN3cF6hJ0dG="
Write = Callable[..., str]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def write_file(text: str | bytes, name: str = "gateway.yaml") -> str:
        path = tmp_path / name
        path.write_bytes(text if isinstance(text, bytes) else textwrap.dedent(text).encode())
        return str(path)

    return write_file


def gateway(path: str | None, env: Mapping[str, str] | None = None, flags: Flags | None = None) -> Loaded[GatewayConfig]:
    return load_gateway(path, env or {}, flags)


def router(path: str | None, env: Mapping[str, str] | None = None, flags: Flags | None = None) -> Loaded[RouterConfig]:
    return load_router(path, env or {}, flags)


def faults(path: str | None, env: Mapping[str, str] | None = None, *, of: Callable[..., object] = gateway) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        of(path, env)
    assert caught.value.exit_code == 78
    return [str(problem).replace(f"{path}:", "") for problem in caught.value.problems]


def server_names(config: GatewayConfig | RouterConfig) -> list[str]:
    return [spec.name for spec in config.servers]


# -- faults


@pytest.mark.requirement("config.unknown-key")
def test_every_fault_is_reported_at_once_with_line_and_column_and_a_suggestion(write: Write) -> None:
    path = write("""\
        server:
          prot: 8443
          port: many
        conection: {}
        routing: {prefix: sometimes}
        auth: [1]
        max_attempts: 3
        """)
    assert faults(path) == [
        "2:3: server.prot: unknown key (did you mean port?)",
        "3:9: server.port: must be a whole number, not 'many'",
        "4:1: conection: unknown key (did you mean connection?)",
        "5:19: routing.prefix: must be auto, always or never, not 'sometimes'",
        "6:7: auth: must be a mapping, not a list",
        "7:1: max_attempts: unknown key (did you mean routing.max_attempts?)",
    ]


def test_a_missing_file_is_exit_66_and_named(tmp_path: Path) -> None:
    path = str(tmp_path / "none.yaml")
    sources: list[tuple[str | None, dict[str, str]]] = [(path, {}), (None, {"MCPBRIDGE_CONFIG": path})]
    for named, env in sources:
        with pytest.raises(ConfigError, match="no such file") as caught:
            gateway(named, env)
        assert caught.value.exit_code == 66
    with pytest.raises(ConfigError) as caught:
        gateway(str(tmp_path))  # a directory
    assert caught.value.exit_code == 66


def test_broken_yaml_is_one_fault_with_its_place(write: Write) -> None:
    assert faults(write("server:\n  port: [1\nx: 2\n"))[0].startswith("3:")
    assert "twice" in faults(write("server: {port: 1, port: 2}\n"))[0]


@pytest.mark.parametrize(
    ("data", "where"),
    [
        (b"server: {host: \xff}\n", "1:16: not UTF-8"),
        (b"- 1\n", "1:1: must be a mapping"),
        (b"just text\n", "1:1: must be a mapping"),
        (b"a: 1\n---\nb: 2\n", "3:1: a second document"),
        (b"server: *nowhere\n", "1:9: not valid YAML"),
        (b"{: }: {", "not valid YAML"),
    ],
)
def test_hopeless_files_are_refused_with_a_place(write: Write, data: bytes, where: str) -> None:
    assert where in faults(write(data))[0]


def test_a_file_beyond_all_measure_is_refused(write: Write) -> None:
    assert "not a configuration" in faults(write(b"#" * (4 * 1024 * 1024 + 1)))[0]


@pytest.mark.parametrize("empty", ["", "# nothing\n", "---\n", "server:\nauth: ~\n"])
def test_nothing_written_is_all_defaults(write: Write, empty: str) -> None:
    loaded = gateway(write(empty))
    assert loaded.config == GatewayConfig()
    assert {origin.kind for origin in loaded.origins.values()} == {"default"}


def test_unquoted_scalars_keep_their_spelling(write: Write) -> None:
    config = gateway(write("server: {tls: {min_version: 1.2}, port: 0_1234}\nauth: {jwt: {issuer: yes}}\n")).config
    assert (config.server.tls.min_version, config.server.port, config.auth.jwt.issuer) == ("1.2", 1234, "yes")


def test_merge_keys_and_anchors_work_and_own_keys_win(write: Write) -> None:
    path = write("""\
        connection: {pool: &p {max_size: 5, idle_timeout: 7s}}
        servers:
          - &a {name: one, command: x}
          - {<<: *a, name: two}
        """)
    config = gateway(path).config
    assert config.connection.pool.idle_timeout == 7.0
    assert server_names(config) == ["one", "two"]


def test_a_file_with_a_mark_or_in_utf_16_is_read(write: Write) -> None:
    for encoding in ("utf-8-sig", "utf-16"):
        assert gateway(write("server: {port: 1}\n".encode(encoding))).config.server.port == 1


def test_units_of_router_keys_are_milliseconds_and_inside_seconds(write: Write) -> None:
    config = router(write("gateway: {connection: {timeout_ms: 2500}}\nlocal: {request_timeout_ms: 2m}\n")).config
    assert (config.gateway.connection.timeout, config.local.request_timeout) == (2.5, 120.0)


# -- aliases


@pytest.mark.requirement("config.alias")
def test_an_alias_sets_its_key_and_a_conflict_names_both_lines(write: Write) -> None:
    assert gateway(write("session_config: {ttl: 60}\n")).config.sessions.ttl == 60.0
    assert gateway(write("session: {ttl: 60}\nsessions: {ttl: 1m}\n")).config.sessions.ttl == 60.0
    path = write("sessions:\n  ttl: 60\nsession:\n  ttl: 61\n")
    assert faults(path) == ["4:3: session.ttl and sessions.ttl (line 2) are one setting with two values (keep sessions.ttl)"]


@pytest.mark.requirement("config.alias.session-config")
def test_the_session_config_block_of_the_guide_is_understood(write: Write) -> None:
    sessions = gateway(write('session_config: {ttl: 3600, cleanup_interval: "300s", max_idle: "1800s"}\n')).config.sessions
    assert (sessions.ttl, sessions.cleanup_interval, sessions.max_idle) == (3600.0, 300.0, 1800.0)


# -- expansion


@pytest.mark.requirement("config.expand")
def test_variables_are_expanded_after_parsing(write: Write) -> None:
    path = write("server: {host: '${H}', port: '${P:-9000}'}\nauth: {jwt: {issuer: 'a ${X:-${b}: $${NOT} {'}}\n")
    config = gateway(path, {"H": "127.0.0.1", "X": "x: [y"}).config
    assert (config.server.host, config.server.port) == ("127.0.0.1", 9000)


@pytest.mark.requirement("config.expand")
@pytest.mark.parametrize("env", [{}, {"NAME": ""}])
def test_an_undefined_or_empty_variable_is_an_error_that_names_it(write: Write, env: dict[str, str]) -> None:
    assert faults(write("server:\n  host: ${NAME}\n"), env) == [
        "2:9: server.host: the variable NAME is not set or empty; set it, or write ${NAME:-default}"
    ]


def test_no_yaml_is_injected_by_a_variable(write: Write) -> None:
    config = gateway(write("auth: {jwt: {issuer: '${X}'}}\n"), {"X": "a\nserver: {port: 1}"}).config
    assert config.auth.jwt.issuer == "a\nserver: {port: 1}" and config.server.port == 8443


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        ("${secret:x}", "possible in env, headers, url and args"),
        ("${a b}", "not understood"),
        ("${", "without }"),
        ("${A", "without }"),
    ],
)
def test_other_dollar_braces_are_errors(write: Write, text: str, cause: str) -> None:
    assert cause in faults(write(f"server: {{host: '{text}'}}\n"))[0]


def test_secrets_of_servers_stay_references(write: Write) -> None:
    path = write("""\
        servers:
          - {name: a, command: x, args: ['--k=${secret:k}'], env: {K: '${secret:k}'}}
          - {name: b, url: 'https://x/?k=${secret:k}', headers: {X-Key: '${secret:k}'}}
        """)
    first, second = (spec.endpoints[0] for spec in gateway(path).config.servers)
    assert (first.args, first.env) == (("--k=${secret:k}",), {"K": "${secret:k}"})
    assert (second.url, second.headers) == ("https://x/?k=${secret:k}", {"X-Key": "${secret:k}"})
    assert "does not name a secret" in faults(write("servers: [{name: a, command: x, args: ['${secret:../x}']}]\n"))[0]


def test_a_secret_is_never_shown_in_a_fault(write: Write) -> None:
    text = "\n".join(
        faults(write("auth: {static_tokens: [{name: a, token: 'hunter2 hunter2 hunter2'}], jwt: {secret: hunter3}}\n"))
    )
    assert "static_tokens[0].token: must be" in text
    assert "hunter" not in text
    assert "hunter" not in "\n".join(faults(None, {"JWT_SECRET": "hunter2"}))
    assert "hunter" not in "\n".join(faults(write("server: {port: '${P}'}\n"), {"P": "hunter2"}))


# -- servers


def test_servers_have_endpoints_or_carry_one_themselves(write: Write) -> None:
    path = write("""\
        discovery: {providers: {static: {servers: [
          {name: a, namespace: x.y, isolation: session, max_children: 3, idle_timeout: 1m, endpoints: [
            {url: http://x/mcp, token_env: TOKEN, headers: {A: b}, protocol: http}, {url: http://y/mcp}]},
          {name: b, command: ~/bin/x, args: [1, yes], env: {PORT: 80, EMPTY: }, cwd: /tmp}]}}}
        """)
    a, b = gateway(path).config.servers
    assert (a.namespace, a.isolation, a.max_children, a.idle_timeout) == ("x.y", "session", 3, 60.0)
    assert [endpoint.url for endpoint in a.endpoints] == ["http://x/mcp", "http://y/mcp"]
    assert (a.endpoints[0].token_env, a.endpoints[0].headers) == ("TOKEN", {"A": "b"})
    assert b.endpoints == (
        EndpointSpec(command=os.path.expanduser("~/bin/x"), args=("1", "yes"), env={"PORT": "80", "EMPTY": ""}, cwd="/tmp"),
    )


def test_faults_of_servers_have_their_places(write: Write) -> None:
    path = write("""\
        servers:
          - {name: a, url: http://x/, command: y}
          - {name: a b, command: y}
          - {command: y}
          - {name: c}
          - {name: d, comand: y}
          - {name: e, command: y, endpoints: [{command: z}]}
          - text
          - {name: f, endpoints: [{url: 7}]}
        """)
    assert faults(path) == [
        "2:5: servers[0]: url and command are both given",
        "3:12: servers[1].name: must be 1 to 64 letters, digits, _ or -, not 'a b'",
        "4:5: servers[2].name: is missing (unique name; prefix of its tools)",
        "5:5: servers[3]: neither url nor command is given (add url: or command:, or endpoints:)",
        "6:15: servers[4].comand: unknown key (did you mean command?)",
        "7:5: servers[5]: command and endpoints are both given (move them into endpoints)",
        "8:5: servers[6]: must be a mapping, not 'text'",
        "9:33: servers[7].endpoints[0].url: must be a URL that begins with http:// or https://, not '7'",
    ]


@pytest.mark.parametrize("second", ["servers: [{name: a, command: y}]", "mcpServers: {a: {command: y}}"])
def test_two_servers_of_one_name_are_an_error_that_names_both_lines(write: Write, second: str) -> None:
    if second.startswith("servers"):
        path = write("servers:\n- {name: a, command: x}\n- {name: a, command: y}\n")
        assert faults(path)[0].startswith("3:3:")
    else:
        path = write(f"servers:\n- {{name: a, command: x}}\n{second}\n")
        assert faults(path)[0].startswith("3:14:")
    assert "two servers are named 'a'; the first is on line 2" in faults(path)[0]


CLIENT = {
    "mcpServers": {
        "files": {"command": "npx", "args": ["-y", "server"], "env": {"K": "v"}, "cwd": "/tmp", "type": "stdio"},
        "My Docs": {"url": "https://a.example/mcp", "headers": {"X-Key": "k"}, "type": "http"},
        "wind": {"serverUrl": "https://b.example/mcp", "alwaysAllow": ["x"]},
        "gem": {"httpUrl": "https://c.example/mcp", "timeout": 5},
        "off": {"command": 7, "disabled": True},
        "self": {"command": "/usr/bin/mcpbridge", "args": ["router"]},
        "old": {"url": "https://d.example/sse", "type": "sse"},
        "emoji": {"command": "x", "args": ["\U0001f600"], "strange": 1},
    }
}


@pytest.mark.requirement("config.mcpservers")
@pytest.mark.parametrize("load", [gateway, router])
@pytest.mark.parametrize("form", ["json-file", "json-tabs", "in-yaml"])
def test_the_map_of_desktop_clients_is_accepted_verbatim(
    write: Write, load: Callable[[str], Loaded[GatewayConfig] | Loaded[RouterConfig]], form: str
) -> None:
    text = json.dumps(CLIENT, indent="\t" if form == "json-tabs" else None)
    loaded = load(write(text, "gateway.yaml" if form == "in-yaml" else "claude_desktop_config.json"))
    by_name = {spec.name: spec.endpoints[0] for spec in loaded.config.servers}
    assert by_name == {
        "files": EndpointSpec(command="npx", args=("-y", "server"), env={"K": "v"}, cwd="/tmp"),
        "My-Docs": EndpointSpec(url="https://a.example/mcp", headers={"X-Key": "k"}, protocol="http"),
        "wind": EndpointSpec(url="https://b.example/mcp"),
        "gem": EndpointSpec(url="https://c.example/mcp"),
        "emoji": EndpointSpec(command="x", args=("\U0001f600",)),
    }
    said = "\n".join(str(warning) for warning in loaded.warnings)
    assert "mcpServers.self: this is mcpbridge itself; skipped" in said
    assert "mcpServers.old: type sse" in said and "shown as My-Docs" in said and "strange is not used" in said


def test_a_file_of_a_client_keeps_its_other_keys_to_itself_and_leaves_the_embedded_defaults(write: Write) -> None:
    loaded = gateway(write(json.dumps({**CLIENT, "globalShortcut": "x", "preferences": {}}), "settings.json"))
    assert (loaded.config.auth.type, loaded.config.server.tls.enabled) == ("none", False)
    assert len(loaded.config.servers) == 5
    path = write(json.dumps({**CLIENT, "globalShortcut": "x", "server": {"port": 1}}), "ours.json")
    assert "globalShortcut: unknown key" in faults(path)[0]


@pytest.mark.parametrize(
    ("entry", "cause"),
    [
        ({}, "neither url nor command"),
        ({"command": "x", "url": "http://x/"}, "both"),
        ({"command": ["x"]}, "not a list"),
        ({"command": "x", "args": "y"}, "must be a list"),
        ({"url": "x"}, "must be a URL"),
        ("x", "must be a mapping"),
    ],
)
def test_a_broken_entry_of_the_map_is_an_error_with_its_place(write: Write, entry: object, cause: str) -> None:
    fault = faults(write(json.dumps({"mcpServers": {"a": entry}}), "c.json"))[0]
    assert fault.startswith("1:") and "mcpServers.a" in fault and cause in fault


# -- the wrapper


@pytest.mark.parametrize("more", ["", "---\napiVersion: v1\nkind: Secret\n"])
def test_a_config_map_is_unwrapped_and_faults_have_the_places_of_the_file(write: Write, more: str) -> None:
    text = "kind: ConfigMap\nmetadata: {name: x}\ndata:\n  config.yaml: |\n    # comment\n    server:\n      port: 1234\n"
    assert gateway(write(text + more)).config.server.port == 1234
    assert faults(write(text + "      prot: 1\n" + more))[0].startswith("8:7: server.prot")
    assert faults(write(text + "     x: 1\n" + more))[0].startswith("8:")


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


@pytest.mark.requirement("env.MCP_LOGGING_LEVEL", "env.MCPBRIDGE_CONFIG")
def test_variables_of_the_guide_set_their_keys(write: Write) -> None:
    env = {"MCP_GATEWAY_URL": "https://g.example", "MCP_DIRECT_CLIENTS_ENABLED": "no", "MCP_LOGGING_LEVEL": "warning"}
    config = router(None, env, Flags(only_servers=False)).config
    assert (config.gateway.url, config.direct_clients.enabled, config.logging.level) == ("https://g.example", False, "warn")
    env = {
        "MCP_GATEWAY_STDIO_BACKENDS": "0",
        "MCP_GATEWAY_HTTP_BACKENDS": "off",
        "JWT_SECRET": SECRET,
        "MCPBRIDGE_SEAL_KEY": SECRET[::-1],
    }
    path = write("server: {port: 5}\nauth: {type: none}\n")
    found = gateway(None, {**env, "MCPBRIDGE_CONFIG": path})
    assert found.path == path and found.config.server.port == 5
    assert (found.config.backends.stdio.enabled, found.config.backends.http.enabled) == (False, False)
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


# -- finding the file


@pytest.mark.requirement("cli.gateway.config-path")
def test_the_gateway_searches_its_places_in_order_and_takes_the_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert gateway_program().files == (
        "./config/gateway.yaml",
        "{xdg}/mcpbridge/gateway.yaml",
        "/etc/mcp-gateway/gateway.yaml",
        "/etc/mcp-gateway/config.yaml",
        "/etc/mcpbridge/gateway.yaml",
    )
    monkeypatch.chdir(tmp_path)
    env = {"HOME": str(tmp_path / "home")}
    second = tmp_path / "home/.config/mcpbridge/gateway.yaml"
    first = tmp_path / "config/gateway.yaml"
    for path in (second, first):
        path.parent.mkdir(parents=True)
        path.write_text("{}")
        assert Path(find_file(gateway_program(), env) or "").resolve() == path
    xdg = tmp_path / "xdg/mcpbridge/gateway.yaml"
    xdg.parent.mkdir(parents=True)
    xdg.write_text("{}")
    first.unlink()
    assert find_file(gateway_program(), {**env, "XDG_CONFIG_HOME": str(tmp_path / "xdg")}) == str(xdg)
    named = tmp_path / "other.yaml"
    named.write_text("server: {port: 7}\n")
    assert gateway(None, {**env, "MCPBRIDGE_CONFIG": str(named)}).config.server.port == 7
    assert gateway(str(second), {**env, "MCPBRIDGE_CONFIG": str(named)}).path == str(second)


@pytest.mark.requirement("cli.router.config-path")
def test_the_router_searches_its_places_in_order_also_the_one_of_the_guide(tmp_path: Path) -> None:
    assert router_program().files == (
        "{xdg}/mcpbridge/router.yaml",
        "~/.config/claude-cli/mcp-router.yaml",
        "/etc/mcp-router/mcp-router.yaml",
        "/etc/mcp-router/router.yaml",
        "/etc/mcp-router/config.yaml",
        "/etc/mcpbridge/router.yaml",
    )
    env = {"HOME": str(tmp_path)}
    for name in (".config/claude-cli/mcp-router.yaml", ".config/mcpbridge/router.yaml"):
        path = tmp_path / name
        path.parent.mkdir(parents=True)
        path.write_text("{}")
        assert find_file(router_program(), env) == str(path)


@pytest.mark.skipif(os.name != "posix", reason="modes are POSIX")
def test_a_found_file_that_everybody_can_write_may_not_start_commands(tmp_path: Path) -> None:
    path = tmp_path / "mcpbridge/router.yaml"
    path.parent.mkdir()
    path.write_text("servers: [{name: a, command: x}]\n")
    path.chmod(0o666)
    env = {"XDG_CONFIG_HOME": str(tmp_path)}
    with pytest.raises(ConfigError, match="can be written by everybody"):
        router(None, env)
    assert server_names(router(str(path), env).config) == ["a"]  # named by the user
    path.write_text("servers: [{name: a, url: 'http://x/'}]\n")
    assert server_names(router(None, env).config) == ["a"]


def test_no_file_is_the_embedded_default(tmp_path: Path) -> None:
    config = gateway(None, {"HOME": str(tmp_path)}).config
    assert (config.server.host, config.server.port, config.server.tls.enabled) == ("127.0.0.1", 8443, False)
    assert (config.auth.type, config.sessions.provider, config.servers) == ("none", "memory", ())
