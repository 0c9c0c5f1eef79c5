"""What the keys of the gateway's file change, seen from outside: one gateway with every value unlike its default."""

from __future__ import annotations

import datetime
import http.client
import json
import socket
import ssl
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from tests.support.peers import SHARED_OFF, environment, free_port, running, wait_listening

READER = "reader-0123456789abcdef0123456789ab"
CALLER = "caller-0123456789abcdef0123456789ab"
HEADERS = {
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "x-xss-protection": "0",
    "content-security-policy": "default-src 'none'; frame-ancestors 'none'",
    "referrer-policy": "no-referrer",
}
INITIALIZE = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "c", "version": "1"}}
SERVER = [sys.executable, "-m", "mcpbridge.demo.stdio"]


@dataclass
class Gateway:
    """A running one: its ports and what it writes to stderr."""

    port: int
    management: int
    errors: Path

    def ask(
        self, method: str, path: str, body: Any = None, *, token: str | None = CALLER, port: int = 0, **headers: str
    ) -> tuple[int, dict[str, str], bytes]:
        """Status, headers and body of one answer."""
        given = {name.replace("_", "-"): value for name, value in headers.items()}
        if token is not None:
            given["Authorization"] = f"Bearer {token}"
        data = body if isinstance(body, bytes) else None if body is None else json.dumps(body).encode()
        if data is not None:
            given = {"Content-Type": "application/json", "Accept": "application/json, text/event-stream", **given}
        connection = http.client.HTTPConnection("127.0.0.1", port or self.port, timeout=5)
        try:
            connection.request(method, path, data, given)
            answer = connection.getresponse()
            return answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read()
        finally:
            connection.close()

    def execute(self, method: str, params: Any = None, *, id: Any = 1, token: str | None = CALLER, **headers: str) -> Any:
        """Status and JSON of one message to /api/v1/execute."""
        message = {"jsonrpc": "2.0", "id": id, "method": method, **({"params": params} if params is not None else {})}
        status, _, said = self.ask("POST", "/api/v1/execute", message, token=token, **headers)
        return status, json.loads(said)


def reason(body: bytes) -> str:
    return str(json.loads(body)["error"]["data"]["reason"])


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    folder = tmp_path_factory.mktemp("keys")
    port, management = free_port(), free_port()
    config = {
        "version": 1,
        "server": {
            "host": "127.0.0.1",
            "port": port,
            "max_connections_per_ip": 8,
            "allowed_hosts": ["bridge.example.com", "127.0.0.1"],
            "allowed_origins": ["https://app.example.com"],
            "protocols": {"stdio": {"enabled": False}, "tcp_binary": {"enabled": False}},
            "tls": {"enabled": False},
            "security": {"max_request_size": 2000, "max_header_size": 4096},
        },
        "auth": {
            "type": "bearer",
            "max_token_length": 100,
            "static_tokens": [
                {"name": "reader", "token": READER, "scopes": ["mcp:read"]},
                {"name": "caller", "token": CALLER, "scopes": ["mcp:read", "mcp:write"]},
            ],
        },
        "sessions": {"max_per_principal": 2},
        "routing": {"prefix": "always", "max_name_length": 16, "request_timeout": "700ms"},
        "backends": {"max_response_size": 3000, "http": {"enabled": False}},
        "metrics": {"endpoint": f"127.0.0.1:{management}", "path": "/numbers"},
        "admin": {"read_access": "token"},
        "logging": {"level": "debug", "format": "text"},
        "servers": [
            {"name": "wallclock", "command": SERVER[0], "args": SERVER[1:]},
            {"name": "away", "url": "http://127.0.0.1:1/mcp"},
        ],
    }
    path = folder / "gateway.yaml"
    path.write_text(json.dumps(config))
    errors = folder / "errors"
    with errors.open("w") as log:
        command = f"exec {sys.executable} -m mcpbridge gateway --config {path} 2>{errors}"
        with running(["sh", "-c", command]) as process:
            wait_listening(process, f"http://127.0.0.1:{port}/healthz")
            yield Gateway(port, management, errors)
    assert log.closed


@pytest.mark.requirement("config.gateway.server.security.max_request_size", "limit.body")
def test_a_body_above_its_limit_is_refused(gateway: Gateway) -> None:
    assert gateway.ask("POST", "/mcp", b" " * 2001)[0] == 413
    assert gateway.ask("POST", "/mcp", b" " * 2000)[0] == 400


@pytest.mark.requirement("config.gateway.server.security.max_header_size", "limit.headers", "defect.header-limit")
def test_headers_above_their_limit_are_refused(gateway: Gateway) -> None:
    assert gateway.ask("GET", "/healthz", X_Long="x" * 4100)[0] == 431
    assert gateway.ask("GET", "/healthz", X_Long="x" * 3000)[0] == 200
    found = subprocess.run(
        [sys.executable, "-m", "mcpbridge", "config", "show", "--for", "gateway"],
        capture_output=True, text=True, timeout=20, env=environment(),
    )  # fmt: skip
    assert "max_header_size: 32768" in found.stdout


@pytest.mark.requirement("config.gateway.server.max_connections_per_ip", "limit.per-ip")
def test_connections_above_their_limit_per_address_are_refused_and_those_open_go_on(gateway: Gateway) -> None:
    opened = [socket.create_connection(("127.0.0.1", gateway.port), timeout=5) for _ in range(8)]
    try:
        for held in opened:  # each is answered, so each is counted
            held.sendall(b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
            assert held.recv(4096).startswith(b"HTTP/1.1 200")
        with socket.create_connection(("127.0.0.1", gateway.port), timeout=5) as refused:
            assert refused.recv(4096).startswith(b"HTTP/1.1 429")
        opened[0].sendall(b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        assert opened[0].recv(4096).startswith(b"HTTP/1.1 200")
    finally:
        for held in opened:
            held.close()


@pytest.mark.requirement("config.gateway.server.allowed_hosts", "config.gateway.server.allowed_origins")
def test_hosts_and_origins_are_those_that_are_listed(gateway: Gateway) -> None:
    for host, status in (("bridge.example.com", 200), ("127.0.0.1", 200), ("localhost", 421), ("evil.example.com", 421)):
        assert gateway.ask("GET", "/healthz", Host=host)[0] == status
    for origin, status in (("https://app.example.com", 200), ("https://evil.example.com", 403)):
        assert gateway.ask("GET", "/healthz", Origin=origin)[0] == status


@pytest.mark.requirement(
    "config.gateway.auth.type",
    "config.gateway.auth.static_tokens",
    "config.gateway.auth.max_token_length",
    "http.gateway.execute.noauth",
    "defect.open-admin",
)
def test_tokens_say_who_calls_and_what_he_may(gateway: Gateway) -> None:
    for token in (None, "wrong-0123456789abcdef0123456789ab", "x" * 101):
        status, said = gateway.execute("tools/list", token=token)
        assert (status, said["error"]["data"]["reason"], said["backend"]) == (401, "unauthorized", None)
        assert gateway.ask("POST", "/mcp", {"jsonrpc": "2.0", "id": 1, "method": "tools/list"}, token=token)[0] == 401
    assert gateway.execute("tools/list", token=READER)[0] == 200
    call = {"name": "wallclock__echo", "arguments": {"text": "x"}}
    assert gateway.execute("tools/call", call, token=READER)[0] == 403
    assert gateway.execute("tools/call", call, token=CALLER)[0] == 200


@pytest.mark.requirement("config.gateway.admin.read_access")
def test_views_can_demand_a_token(gateway: Gateway) -> None:
    assert gateway.ask("GET", "/api/v1/status", token=None)[0] == 401
    assert gateway.ask("GET", "/api/v1/status", token=READER)[0] == 200
    for path in ("/health", "/healthz", "/readyz"):
        assert gateway.ask("GET", path, token=None)[0] in (200, 503)


@pytest.mark.requirement(
    "config.gateway.metrics.endpoint",
    "config.gateway.metrics.path",
    "http.gateway.metrics",
    "http.gateway.health.protocols.port9090",
)
def test_metrics_and_health_are_at_their_address_and_path(gateway: Gateway) -> None:
    status, headers, said = gateway.ask("GET", "/numbers", token=READER, port=gateway.management)
    assert status == 200 and headers["content-type"].startswith("text/plain; version=0.0.4") and b"mcp_gateway_" in said
    assert gateway.ask("GET", "/metrics", token=READER, port=gateway.management)[0] == 404
    assert gateway.ask("GET", "/numbers", token=READER)[0] == 404, "not on the public port"
    status, _, said = gateway.ask("GET", "/health/protocols", token=READER, port=gateway.management)
    names = [protocol["name"] for protocol in json.loads(said)["protocols"]]
    assert (status, names) == (200, ["stdio", "websocket", "http", "sse", "tcp_binary"])


@pytest.mark.requirement(
    "config.gateway.routing.prefix", "config.gateway.routing.max_name_length", "config.gateway.backends.http.enabled"
)
def test_names_have_their_prefix_and_length_and_a_protocol_can_be_left_out(gateway: Gateway) -> None:
    status, said = gateway.execute("tools/list")
    names = [tool["name"] for tool in said["result"]["tools"]]
    assert status == 200 and "wallclock__echo" in names
    assert max(map(len, names)) == 16, "a longer one is shortened"
    assert "_meta" not in said["result"], "the HTTP server is not missing: it is not there"
    assert "server left out" in gateway.errors.read_text()


@pytest.mark.requirement("config.gateway.routing.request_timeout")
def test_a_call_ends_with_its_deadline(gateway: Gateway) -> None:
    status, said = gateway.execute("tools/call", {"name": "wallclock__sleep", "arguments": {"seconds": 30}})
    assert (status, said["error"]["code"], said["error"]["data"]["retryable"]) == (504, 1008, True)


@pytest.mark.requirement("config.gateway.sessions.max_per_principal")
def test_one_principal_may_have_so_many_sessions(gateway: Gateway) -> None:
    message = {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": INITIALIZE}
    opened = [gateway.ask("POST", "/mcp", message, token=READER) for _ in range(3)]
    assert [status for status, _, _ in opened] == [200, 200, 429]
    assert reason(opened[2][2]) == "too_many_sessions" and opened[2][1]["retry-after"] == "1"
    for _, headers, _ in opened[:2]:
        assert gateway.ask("DELETE", "/mcp", token=READER, Mcp_Session_Id=headers["mcp-session-id"])[0] == 200
    assert gateway.ask("POST", "/mcp", message, token=READER)[0] == 200


@pytest.mark.requirement("config.gateway.logging.level", "config.gateway.logging.format")
def test_log_lines_have_their_level_and_format(gateway: Gateway) -> None:
    gateway.execute("ping")
    lines = gateway.errors.read_text().splitlines()
    assert any(" debug " in line.lower() for line in lines)
    assert not any(line.startswith("{") for line in lines)


@pytest.mark.requirement(
    "http.header.all", "http.header.nosniff", "http.header.frame", "http.header.xss", "http.header.csp",
    "http.header.referrer", "defect.xss-header",
)  # fmt: skip
@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", "/health"), ("GET", "/nothing"), ("POST", "/mcp"), ("GET", "/mcp"), ("PUT", "/api/v1/execute"),
     ("POST", "/mcp/nobody"), ("GET", "/api/v1/status"), ("BREW", "/health")],
)  # fmt: skip
def test_every_answer_has_the_headers_of_safety(gateway: Gateway, method: str, path: str) -> None:
    for port in (gateway.port, gateway.management):
        for token in (CALLER, None):
            _, headers, _ = gateway.ask(method, path, token=token, port=port)
            assert {name: headers.get(name) for name in HEADERS} == HEADERS
            assert headers["x-request-id"] and "strict-transport-security" not in headers


@pytest.mark.requirement("http.header.all")
def test_streams_and_metrics_have_the_headers_of_safety(gateway: Gateway) -> None:
    with socket.create_connection(("127.0.0.1", gateway.port), timeout=5) as stream:
        stream.sendall(
            f"GET /api/v1/status/stream HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {READER}\r\n\r\n".encode()
        )
        said = stream.recv(8192).decode().lower()
    assert "text/event-stream" in said and all(f"{name}: {value}".lower() in said for name, value in HEADERS.items())
    _, headers, _ = gateway.ask("GET", "/numbers", token=READER, port=gateway.management)
    assert {name: headers.get(name) for name in HEADERS} == HEADERS


@pytest.mark.requirement("http.gateway.execute", "http.gateway.execute.id", "defect.request-ids")
@pytest.mark.parametrize("id", [1, -7, 2**53 + 1, 10**30, "a b/ü", "1"])
def test_execute_answers_with_the_id_as_it_was_given(gateway: Gateway, id: Any) -> None:
    status, said = gateway.execute("tools/call", {"name": "wallclock__echo", "arguments": {"text": "hi"}}, id=id)
    assert (status, said["id"], type(said["id"])) == (200, id, type(id))
    assert said["result"]["content"][0]["text"] == "hi"
    assert (said["protocol_used"], said["backend"], said["attempts"]) == ("stdio", "wallclock/0", 1)
    assert said["duration_ms"] > 0


@pytest.mark.requirement("http.gateway.execute")
def test_execute_takes_a_notification_with_202(gateway: Gateway) -> None:
    status, _, said = gateway.ask("POST", "/api/v1/execute", {"jsonrpc": "2.0", "method": "notifications/cancelled"})
    assert (status, said) == (202, b"")


@pytest.mark.requirement("http.gateway.execute.ping")
def test_execute_pings_a_backend(gateway: Gateway) -> None:
    status, said = gateway.execute("ping")
    assert (status, said["result"], said["backend"]) == (200, {}, "wallclock/0")


@pytest.mark.requirement("http.gateway.execute.force-protocol", "error.lb-failed")
def test_execute_keeps_to_a_forced_protocol(gateway: Gateway) -> None:
    call = {"name": "wallclock__echo", "arguments": {"text": "hi"}}
    assert gateway.execute("tools/call", call, X_Force_Protocol="stdio")[1]["protocol_used"] == "stdio"
    status, said = gateway.execute("tools/call", call, X_Force_Protocol="websocket")
    assert (status, said["error"]["code"]) == (503, 1002)
    assert said["error"]["message"].startswith("cross_protocol_load_balance_failed")
    assert said["error"]["message"].endswith("none that speaks websocket is left; there is wallclock/0 (stdio): ok")
    data = said["error"]["data"]
    assert (data["server"], data["protocol"], data["protocols"]) == ("wallclock", "websocket", {"stdio": "ok"})
    assert gateway.execute("tools/call", call, X_Force_Protocol="pigeon")[0] == 400


def test_an_endpoint_keeps_to_a_forced_protocol_too(gateway: Gateway) -> None:
    call = {"jsonrpc": "2.0", "id": 7, "method": "initialize", "params": INITIALIZE}
    assert gateway.ask("POST", "/mcp/wallclock", call, X_Force_Protocol="stdio")[0] == 200
    _status, _, said = gateway.ask("POST", "/mcp/wallclock", call, X_Force_Protocol="sse")
    assert json.loads(said)["error"]["data"]["protocol"] == "sse"
    status, _, said = gateway.ask("POST", "/mcp/wallclock", call, X_Force_Protocol="pigeon")
    assert (status, json.loads(said)["id"]) == (400, 7)


@pytest.mark.requirement("http.gateway.mcp", "http.gateway.mcp.alias", "http.gateway.mcp.server")
@pytest.mark.parametrize(
    ("path", "tool"), [("/mcp", "wallclock__echo"), ("/api/v1/mcp", "wallclock__echo"), ("/mcp/wallclock", "echo")]
)
def test_a_session_lives_at_each_endpoint_under_its_names(gateway: Gateway, path: str, tool: str) -> None:
    message = {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": INITIALIZE}
    status, headers, _ = gateway.ask("POST", path, message)
    session = {"Mcp_Session_Id": headers["mcp-session-id"], "MCP_Protocol_Version": "2025-11-25"}
    assert status == 200
    assert gateway.ask("POST", path, {"jsonrpc": "2.0", "method": "notifications/initialized"}, **session)[0] == 202
    call = {"name": tool, "arguments": {"text": "hi"}}
    status, _, said = gateway.ask("POST", path, {"jsonrpc": "2.0", "id": 2, "method": "tools/call", "params": call}, **session)
    assert status == 200 and json.loads(said)["result"]["content"][0]["text"] == "hi"
    assert gateway.ask("DELETE", path, **session)[0] == 200
    status, _, said = gateway.ask("POST", path, {"jsonrpc": "2.0", "id": 3, "method": "ping"}, **session)
    assert (status, reason(said)) == (404, "session_unknown")


@pytest.mark.requirement("http.views", "http.status", "http.gateway.health.protocols.jq")
def test_views_agree_with_the_snapshot_they_come_from(gateway: Gateway) -> None:
    for _ in range(3):  # a snapshot is at most one second old: three tries straddle no two borders
        paths = ("/api/v1/status", "/health/protocols", "/api/v1/status")
        before, view, after = (json.loads(gateway.ask("GET", path, token=READER)[2]) for path in paths)
        if before["sequence"] == after["sequence"]:
            break
    assert before["sequence"] == after["sequence"]
    assert before["schema"] == "mcpbridge.status/v1"
    assert view["protocols"] == before["protocols"]
    assert all(isinstance(protocol["healthy"], bool) for protocol in view["protocols"])


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a certificate for localhost and its key."""
    folder = tmp_path_factory.mktemp("tls")
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
        .serial_number(x509.random_serial_number()).not_valid_before(now).not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(key, hashes.SHA256())
    )  # fmt: skip
    (folder / "tls.crt").write_bytes(made.public_bytes(serialization.Encoding.PEM))
    private = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    (folder / "tls.key").write_bytes(key.private_bytes(serialization.Encoding.PEM, *private))
    return folder


@pytest.mark.requirement(
    "http.tls", "limit.tls.13", "http.header.hsts", "config.gateway.server.tls.enabled", "config.gateway.server.tls.cert_file",
    "config.gateway.server.tls.key_file", "config.gateway.server.tls.min_version",
)  # fmt: skip
def test_tls_is_1_3_unless_1_2_is_asked_for_and_its_answers_say_to_keep_to_it(certificate: Path) -> None:
    for oldest, refuses in (("1.3", True), ("1.2", False)):
        port = free_port()
        settings = {
            "MCPBRIDGE_SERVER__PORT": str(port),
            "MCPBRIDGE_SERVER__TLS__ENABLED": "true",
            "MCPBRIDGE_SERVER__TLS__CERT_FILE": str(certificate / "tls.crt"),
            "MCPBRIDGE_SERVER__TLS__KEY_FILE": str(certificate / "tls.key"),
            "MCPBRIDGE_METRICS__ENDPOINT": f"127.0.0.1:{(management := free_port())}",
            **({} if refuses else {"MCPBRIDGE_SERVER__TLS__MIN_VERSION": oldest}),
            **SHARED_OFF,
        }
        with running([sys.executable, "-m", "mcpbridge", "gateway"], **settings) as process:
            wait_listening(process, f"http://127.0.0.1:{management}/healthz")
            trusted = ssl.create_default_context(cafile=str(certificate / "tls.crt"))
            connection = http.client.HTTPSConnection("localhost", port, timeout=5, context=trusted)
            connection.request("GET", "/healthz")
            answer = connection.getresponse()
            assert answer.status == 200
            assert answer.headers["strict-transport-security"] == "max-age=31536000; includeSubDomains"
            connection.close()
            trusted.maximum_version = ssl.TLSVersion.TLSv1_2
            old = http.client.HTTPSConnection("localhost", port, timeout=5, context=trusted)
            if refuses:
                with pytest.raises((ssl.SSLError, ConnectionError)):
                    old.request("GET", "/healthz")
            else:
                old.request("GET", "/healthz")
                assert old.getresponse().status == 200
            old.close()
