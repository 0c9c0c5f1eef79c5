"""A file becomes a configuration, or every fault with its place at once; where the file is searched."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from mcpbridge.config.gateway import GatewayConfig
from mcpbridge.config.load import find_file, gateway_program, router_program
from mcpbridge.config.problems import ConfigError
from mcpbridge.config.sections import EndpointSpec
from tests.support.configs import Write, faults, gateway, router, server_names

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
        (b"a: 1\nb: \xc3\xa9\x01\n", "2:5: not valid YAML: a character U+0001"),
        (b"\0", "1:1: not valid YAML: a character U+0000"),
        (b"[" * 200_000, "1:65: nested deeper than 64 levels"),
        (b"- " * 200_000, "1:129: nested deeper than 64 levels"),
        (
            b"load_balancing:\n  protocol_weights: {stdio: 0, websocket: 0, http: 0, sse: 0, tcp_binary: 0}\n",
            "2:22: load_balancing",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",  # some are long
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
    (fault,) = faults(write("servers: [{name: a, url: 'https://me:hunter2@x.example/mcp?api_key=hunter3'}]\n"))
    assert "without user or password" in fault and "x.example" in fault and "hunter" not in fault


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
        (
            "9:33: servers[7].endpoints[0].url: must be a URL that begins with unix://, pipe://, ws://, wss://, "
            "http://, https://, sse://, sses://, tcp:// or tcps://, not '7'"
        ),
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


def test_no_file_is_the_embedded_default(tmp_path: Path) -> None:
    config = gateway(None, {"HOME": str(tmp_path)}).config
    assert (config.server.host, config.server.port, config.server.tls.enabled) == ("127.0.0.1", 8443, False)
    assert (config.auth.type, config.sessions.provider, config.servers) == ("none", "memory", ())
