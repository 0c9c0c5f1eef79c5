"""Which proxy a URL is reached through: a table, and what must never be said."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcpbridge.proxies import Proxy, is_direct, parse_proxy, proxy_for

P, Q = "http://p:3128", "http://q:8080"


@pytest.mark.parametrize(
    ("url", "environ", "expected"),
    [
        ("https://a.example/mcp", {}, None),
        ("https://a.example/mcp", {"HTTPS_PROXY": P}, "p:3128"),
        ("https://a.example/mcp", {"https_proxy": P, "HTTPS_PROXY": Q}, "p:3128"),
        ("https://a.example/mcp", {"https_proxy": "", "HTTPS_PROXY": Q}, None),
        ("https://a.example/mcp", {"HTTP_PROXY": P}, None),
        ("http://a.example/mcp", {"HTTP_PROXY": P}, "p:3128"),
        ("http://a.example/mcp", {"HTTPS_PROXY": P}, None),
        ("http://a.example/mcp", {"HTTP_PROXY": P, "REQUEST_METHOD": "GET"}, None),
        ("http://a.example/mcp", {"http_proxy": P, "REQUEST_METHOD": "GET"}, "p:3128"),
        ("https://a.example/mcp", {"ALL_PROXY": P}, "p:3128"),
        ("http://a.example/mcp", {"all_proxy": P, "HTTPS_PROXY": Q}, "p:3128"),
        ("https://a.example/mcp", {"all_proxy": P, "HTTPS_PROXY": Q}, "q:8080"),
        ("wss://a.example/ws", {"HTTPS_PROXY": P}, "p:3128"),
        ("ws://a.example/ws", {"HTTP_PROXY": P, "HTTPS_PROXY": Q}, "p:3128"),
        ("tcps://a.example:8444", {"HTTPS_PROXY": P}, "p:3128"),
        ("tcp://a.example:8444", {"HTTPS_PROXY": P, "HTTP_PROXY": Q}, "p:3128"),
        ("unix:///run/mcp.sock", {"ALL_PROXY": P}, None),
        ("https://a.example", {"HTTPS_PROXY": P, "NO_PROXY": "*"}, None),
        ("https://a.example", {"HTTPS_PROXY": P, "no_proxy": "b.example", "NO_PROXY": "*"}, "p:3128"),
        ("https://a.example", {"HTTPS_PROXY": P, "NO_PROXY": "a.example:443"}, None),
        ("https://a.example:8443", {"HTTPS_PROXY": P, "NO_PROXY": "a.example:443"}, "p:3128"),
        ("https://localhost:8443", {"HTTPS_PROXY": P}, None),
        ("https://me.localhost", {"HTTPS_PROXY": P}, None),
        ("https://127.8.0.1", {"HTTPS_PROXY": P}, None),
        ("https://[::1]:1", {"HTTPS_PROXY": P}, None),
        ("https://[::ffff:127.0.0.1]", {"HTTPS_PROXY": P}, None),
        ("http://0.0.0.0:8000", {"ALL_PROXY": P}, None),
        ("https://[2001:db8::1]", {"HTTPS_PROXY": P}, "p:3128"),
        ("https://a.example:99999", {"HTTPS_PROXY": P}, None),
        ("not a url", {"ALL_PROXY": P}, None),
    ],
)
def test_the_proxy_of_a_url_follows_the_variables_everybody_knows(url, environ, expected):
    proxy = proxy_for(url, environ)
    assert (None if proxy is None else str(proxy)) == expected


@pytest.mark.parametrize(
    ("host", "entry", "direct"),
    [
        ("a.example", "a.example", True),
        ("b.a.example", "a.example", True),
        ("a.example", ".a.example", True),
        ("b.a.example", "*.a.example", True),
        ("ba.example", "a.example", False),
        ("a.example", "b.example, a.example", True),
        ("a.example", "b.example a.example", True),
        ("A.Example.", "a.EXAMPLE", True),
        ("a.example", "a.example.", True),
        ("a.example", "example", True),
        ("a.example", "", False),
        ("a.example", " , ,", False),
        ("a.example", ".", False),
        ("192.0.2.7", "192.0.2.7", True),
        ("192.0.2.7", "192.0.2.0/24", True),
        ("192.0.2.7", "192.0.2.9/24", True),
        ("192.0.3.7", "192.0.2.0/24", False),
        ("192.0.2.7", "192.0.2.7:443", True),
        ("192.0.2.7", "192.0.2.7:80", False),
        ("192.0.2.7", "2.7", False),
        ("192.0.2.7", "2001:db8::/32", False),
        ("2001:db8::1", "2001:db8::/32", True),
        ("2001:db8::1", "[2001:db8::1]", True),
        ("2001:db8::1", "[2001:db8::1]:443", True),
        ("2001:db8::1", "2001:db8::1", True),
        ("::ffff:192.0.2.7", "192.0.2.0/24", True),
        ("a.example", "192.0.2.0/24", False),
        ("192.0.2.7", "192.0.2.0/99", False),
    ],
)
def test_entries_of_no_proxy_are_names_with_all_below_addresses_networks_and_ports(host, entry, direct):
    assert is_direct(host, 443, entry) is direct


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("http://p:3128", Proxy("p", 3128)),
        ("http://p:3128/", Proxy("p", 3128)),
        ("p:3128", Proxy("p", 3128)),
        ("p", Proxy("p", 80)),
        ("HTTP://P:1", Proxy("p", 1)),
        ("http://[2001:db8::1]:3128", Proxy("2001:db8::1", 3128)),
        ("http://user:pass@p:3128", Proxy("p", 3128, "Basic dXNlcjpwYXNz")),
        ("http://us%40er:p%3Aa%2Fss@p:3128", Proxy("p", 3128, "Basic dXNAZXI6cDphL3Nz")),
        ("http://user@p:3128", Proxy("p", 3128, "Basic dXNlcjo=")),
        ("http://bücher.example:3128", Proxy("xn--bcher-kva.example", 3128)),
    ],
)
def test_the_url_of_a_proxy_is_read_with_its_login(value, expected):
    assert parse_proxy(value, "HTTPS_PROXY") == expected


@pytest.mark.parametrize(
    "value", ["socks5://u:secret@p:1080", "https://u:secret@p", "http://", "http://u:secret@p:x", "::::", "a b"]
)
def test_a_proxy_that_cannot_be_used_says_why_and_is_never_walked_around(value):
    proxy = proxy_for("https://a.example", {"HTTPS_PROXY": value})
    assert proxy is not None and proxy.fault.startswith("HTTPS_PROXY ") and "secret" not in proxy.fault


def test_a_proxy_never_shows_its_login():
    proxy = parse_proxy("http://user:pass@[2001:db8::1]:3128", "HTTPS_PROXY")
    assert str(proxy) == f"{proxy}" == "[2001:db8::1]:3128" and repr(proxy) == "<Proxy [2001:db8::1]:3128>"


@given(st.text(), st.text(), st.text())
def test_no_text_makes_the_choice_fail(host, value, no_proxy):
    proxy_for(f"https://{host}/", {"HTTPS_PROXY": value, "NO_PROXY": no_proxy})
    is_direct(host, 443, no_proxy)
