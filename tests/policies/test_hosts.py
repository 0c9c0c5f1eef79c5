"""Host and Origin on every face: DNS rebinding and cross-site requests are refused. OWASP MCP07, reliability row 10."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcpbridge.policies.hosts import LOOPBACK, host_rules, is_loopback_host, refusal

LOCAL = host_rules(LOOPBACK, bind="127.0.0.1")
PUBLIC = host_rules(["gw.example.com", "gw.example.com:9443", "only.example.com:444"], ["https://app.example.com"])


def status(rules, host, origin=None, **more) -> int:
    refused = refusal(rules, host, origin, **more)
    return 200 if refused is None else refused.status


@pytest.mark.parametrize(
    "host", ["localhost", "localhost:8443", "LocalHost:1", "127.0.0.1", "127.0.0.1:65535", "[::1]", "[::1]:8443"]
)
def test_loopback_names_are_ours_with_any_port(host):
    assert status(LOCAL, host) == 200


BAD_HOSTS = [
    None,
    "",
    "evil.example.com",
    "evil.example.com:8443",
    "localhost.evil.example.com",
    "localhost.",
    "evil-localhost",
    "127.0.0.1.evil.example.com",
    "127.0.0.1.nip.io",
    "127.1",
    "2130706433",
    "0x7f000001",
    "0177.0.0.1",
    "0.0.0.0",
    "::1",
    "[::ffff:127.0.0.1]",
    "[0:0:0:0:0:0:0:1]",
    "[::1",
    "[::1]x",
    "[::1%25lo]",
    "localhost:",
    "localhost:0",
    "localhost:65536",
    "localhost:80:80",
    "localhost:٣",
    "localhost@evil.example.com",
    "evil.example.com#localhost",
    "localhost/",
    "localhost,evil.example.com",
    " localhost",
    "localhost\t",
    "local\x00host",
    "lоcalhost",  # a Cyrillic letter
    "*",
    "a" * 300,
]


@pytest.mark.parametrize("host", BAD_HOSTS)
def test_every_other_name_is_421(host):
    assert status(LOCAL, host) == 421


@pytest.mark.parametrize("origin", ["http://localhost:8443", "https://LOCALHOST:8443"])
def test_a_page_of_our_own_address_is_trusted(origin):
    assert status(LOCAL, "localhost:8443", origin) == 200


BAD_ORIGINS = [
    "null",
    "",
    "http://evil.example.com",
    "http://localhost",
    "http://localhost:3000",
    "http://127.0.0.1:8443",
    "http://localhost:8443/",
    "http://localhost:8443@evil.example.com",
    "http://localhost:8443.evil.example.com",
    "http://localhost:8443 http://evil.example.com",
    "http://localhost:8443, http://evil.example.com",
    "localhost:8443",
    "//localhost:8443",
    "file://",
    "chrome-extension://abcdef",
    "http://[::1]:8443",
    "http://*",
]


@pytest.mark.parametrize("origin", BAD_ORIGINS)
def test_every_other_page_is_403(origin):
    assert status(LOCAL, "localhost:8443", origin) == 403


def test_a_rebound_name_is_refused_with_its_own_origin_too():
    assert status(LOCAL, "evil.example.com:8443", "http://evil.example.com:8443") == 403
    assert status(LOCAL, "evil.example.com:8443", "http://evil.example.com:8443", check_host=False) == 403


def test_a_listed_origin_is_trusted_and_only_exactly_that():
    assert status(PUBLIC, "gw.example.com", "https://app.example.com") == 200
    assert status(PUBLIC, "gw.example.com", "https://app.example.com:443") == 200
    for origin in (
        "http://app.example.com",
        "https://app.example.com:8443",
        "https://x.app.example.com",
        "https://app.example.com.evil",
    ):
        assert status(PUBLIC, "gw.example.com", origin) == 403


def test_a_listed_origin_does_not_excuse_a_wrong_host():
    assert status(PUBLIC, "evil.example.com", "https://app.example.com") == 421


def test_an_entry_with_a_port_means_that_port():
    assert status(PUBLIC, "gw.example.com:1234") == 200
    assert status(PUBLIC, "only.example.com:444") == 200
    assert status(PUBLIC, "only.example.com") == 421
    assert status(host_rules(["tls.example.com:443"]), "tls.example.com") == 200


def test_probes_by_address_pass_where_the_host_is_not_checked():
    assert status(LOCAL, "10.0.0.7:9090", check_host=False) == 200
    assert status(LOCAL, None, check_host=False) == 200
    assert status(LOCAL, "10.0.0.7:9090", "http://10.0.0.7:9090", check_host=False) == 403


@pytest.mark.parametrize(
    ("bind", "host", "expected"),
    [
        ("192.168.1.5", "192.168.1.5:8443", 200),
        ("fe80::1", "[fe80::1]:8443", 200),
        ("0.0.0.0", "0.0.0.0:8443", 421),
        ("::", "[::]:8443", 421),
    ],
)
def test_the_address_we_listen_on_is_ours_unless_it_is_a_wildcard(bind, host, expected):
    assert status(host_rules(LOOPBACK, bind=bind), host) == expected


@pytest.mark.parametrize("entry", ["", "*", "*.example.com", "http://gw.example.com", "gw.example.com/x", "[::1", "a b", "a:b"])
def test_hosts_that_cannot_be_read_are_a_mistake_of_the_configuration(entry):
    with pytest.raises(ValueError, match="host"):
        host_rules([entry])


@pytest.mark.parametrize("entry", ["*", "null", "app.example.com", "https://app.example.com/", "https://*.example.com"])
def test_origins_that_cannot_be_read_are_a_mistake_of_the_configuration(entry):
    with pytest.raises(ValueError, match="origin"):
        host_rules([], [entry])


@given(st.text(max_size=40), st.text(max_size=40))
def test_any_headers_get_a_verdict(host, origin):
    assert status(LOCAL, host, origin) in (200, 403, 421)


def test_loopback_names_are_recognised():
    assert is_loopback_host("localhost:9090") and is_loopback_host("[::1]:1") and is_loopback_host("127.0.0.1")
    assert not is_loopback_host("gw.example.com") and not is_loopback_host(None) and not is_loopback_host("127.0.0.1.nip.io")
