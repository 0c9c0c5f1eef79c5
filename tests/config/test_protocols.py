"""What an address says about the protocol behind it."""

from __future__ import annotations

import pytest

from mcpbridge.config.protocols import ADDRESS, misfit, protocol_of, rescheme


@pytest.mark.parametrize(
    ("url", "declared", "protocol"),
    [
        ("unix:///run/a.sock", "auto", "stdio"),
        ("pipe:///run/a", "auto", "stdio"),
        ("ws://h/ws", "auto", "websocket"),
        ("wss://h", "auto", "websocket"),
        ("https://h/mcp", "auto", "http"),
        ("http://h/sse", "sse", "sse"),
        ("https://h/ws", "websocket", "websocket"),
        ("sses://h/events", "auto", "sse"),
        ("tcp://h:8444", "auto", "tcp_binary"),
        ("tcps://[::1]:8444", "tcp_binary", "tcp_binary"),
    ],
)
def test_an_address_names_its_protocol_by_its_scheme_or_has_it_declared(url: str, declared: str, protocol: str) -> None:
    assert ADDRESS.parse(url) == url
    assert misfit(url, declared) == ""
    assert protocol_of(url, declared) == protocol


@pytest.mark.parametrize(
    ("url", "declared", "why"),
    [
        ("http://h/mcp", "stdio", "unix or pipe or a command, not http"),
        ("http://h/mcp", "tcp_binary", "tcp or tcps, not http"),
        ("ws://h/ws", "sse", "sse or sses, http or https, not ws"),
        ("unix:///s", "http", "not unix"),
    ],
)
def test_a_protocol_that_an_address_cannot_mean_is_refused_with_those_it_can(url: str, declared: str, why: str) -> None:
    assert why in misfit(url, declared)


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("gopher://h", "begins with unix://"),
        ("tcp://h", "host and port and nothing else"),
        ("tcp://h:1/path", "host and port and nothing else"),
        ("unix://host/path", "three slashes, such as unix:///run"),
        ("unix:///", "three slashes"),
        ("pipe:///a?b", "three slashes, such as pipe:///run"),
        ("ws://", "with a host"),
        ("ws://u:p@h/", "without user or password"),
        ("ws://h/#a", "without a #fragment"),
        ("ws://h/ a", "white space"),
        ("http://h:0/", "with a host"),
        ("http://h:x/", "a URL"),
    ],
)
def test_an_address_that_cannot_be_one_is_refused_with_the_reason(url: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        ADDRESS.parse(url)


def test_a_scheme_is_exchanged_with_its_security() -> None:
    assert rescheme("sses://h:1/e?q", "https", "http") == "https://h:1/e?q"
    assert rescheme("http://h/ws", "wss", "ws") == "ws://h/ws"
