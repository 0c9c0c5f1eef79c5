"""Arguments of the router become flags."""

from __future__ import annotations

import pytest

from mcpbridge.cli.router import _flags
from mcpbridge.config.sections import EndpointSpec


@pytest.mark.requirement("cli.router.command")
def test_what_follows_two_dashes_is_the_only_server_word_for_word() -> None:
    path, flags, _ = _flags("mcp-router", ["--log-level", "debug", "--", "npx", "-y", "--config", "x", "--", "a b"])
    assert path is None and flags.only_servers
    assert flags.servers[0].endpoints == (EndpointSpec(command="npx", args=("-y", "--config", "x", "--", "a b")),)
    assert flags.values == {"logging.level": "debug"}


@pytest.mark.requirement("cli.router.url")
def test_an_address_is_the_only_server() -> None:
    for arguments in (["https://x.example/mcp"], ["--log-level", "info", "https://x.example/mcp"]):
        _, flags, _ = _flags("mcp-router", arguments)
        assert flags.only_servers and flags.servers[0].endpoints == (EndpointSpec(url="https://x.example/mcp"),)


@pytest.mark.requirement("cli.server")
def test_named_servers_come_on_top_of_the_file() -> None:
    path, flags, _ = _flags("mcp-router", ["--server", "a=http://x/mcp", "--config", "f.yaml", "--server", "b=uvx 'c d'"])
    assert path == "f.yaml" and not flags.only_servers
    assert [(server.name, server.endpoints[0].target) for server in flags.servers] == [("a", "http://x/mcp"), ("b", "uvx")]


def test_misuse_ends_with_64() -> None:
    with pytest.raises(SystemExit) as ended:
        _flags("mcp-router", ["npx", "x"])
    assert ended.value.code == 64
