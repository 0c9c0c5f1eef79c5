"""Servers as people write them."""

from __future__ import annotations

import pytest

from mcpbridge.config.sections import EndpointSpec
from mcpbridge.config.servers import ad_hoc, endpoint_fault, is_ourselves, legal_name, parse_server


def test_a_server_on_the_command_line_is_a_name_and_a_command_split_without_a_shell() -> None:
    spec = parse_server("git=uvx 'mcp server' --repo \"a b\" $HOME;ls")
    assert spec.name == "git"
    assert spec.endpoints == (EndpointSpec(command="uvx", args=("mcp server", "--repo", "a b", "$HOME;ls")),)


def test_a_server_on_the_command_line_is_a_name_and_an_address() -> None:
    assert parse_server("a_b-1=https://x.example/mcp?k=v=w").endpoints == (EndpointSpec(url="https://x.example/mcp?k=v=w"),)


@pytest.mark.parametrize(
    ("text", "cause"),
    [("", "NAME=URL"), ("noequals", "NAME=URL"), ("=x", "NAME=URL"), ("a b=x", "NAME=URL"), (f"{'a' * 65}=x", "NAME=URL"),
     ("a=", "an address or a command"), ("a='unclosed", "cannot be split"), ("a=ftp://x/", "begins with unix://, .* or tcps://"),
     ("a=http://", "URL with a host")],
)  # fmt: skip
def test_a_wrong_server_option_says_why(text: str, cause: str) -> None:
    with pytest.raises(ValueError, match=cause):
        parse_server(text)


@pytest.mark.parametrize(
    ("command", "name"),
    [
        (["npx", "-y", "@modelcontextprotocol/server-git@1.2"], "server-git"),
        (["uvx", "mcp-server-time"], "mcp-server-time"),
        (["python3.11", "-m", "mcp_server_git"], "mcp_server_git"),
        (["/opt/tools/My Server.exe", "--x"], "my-server"),
        (["npx", "-y"], "npx"),
    ],
)
def test_an_ad_hoc_command_gets_a_name_for_messages(command: list[str], name: str) -> None:
    spec = ad_hoc(command=command)
    assert spec.name == name
    assert spec.endpoints == (EndpointSpec(command=command[0], args=tuple(command[1:])),)


def test_an_ad_hoc_address_is_named_after_its_host() -> None:
    assert ad_hoc("https://docs.example.com:8443/mcp").name == "docs-example-com-8443"
    with pytest.raises(ValueError, match="begins with"):
        ad_hoc("gopher://x/")
    for nothing in ([], [""]):
        with pytest.raises(ValueError, match="a command is needed"):
            ad_hoc(command=nothing)


@pytest.mark.parametrize(
    ("command", "args"),
    [
        ("mcpbridge", ["router"]),
        ("/usr/local/bin/mcp-router", []),
        ("C:\\Tools\\mcp-router.exe", []),
        ("python3", ["-m", "mcpbridge", "router"]),
        ("python", ["/opt/mcpbridge.pyz", "router"]),
        ("uvx", ["mcpbridge", "router"]),
        ("uvx", ["--from", "mcpbridge==1.0", "mcp-router"]),
        ("pipx", ["run", "mcpbridge[serve]>=1", "router"]),
        ("sh", ["-c", "mcp-router --config x"]),
        ("cmd", ["/c", "mcp-router"]),
    ],
)
def test_the_bridge_recognizes_itself(command: str, args: list[str]) -> None:
    assert is_ourselves(command, args)


@pytest.mark.parametrize(
    ("command", "args"),
    [
        ("npx", ["-y", "@modelcontextprotocol/server-filesystem", "/home/me/mcpbridge"]),
        ("uvx", ["mcp-server-git", "--repository", "mcpbridge"]),
        ("mcpbridge-tools", []),
        ("python3", ["server.py", "mcpbridge"]),
        ("node", ["/srv/mcpbridge/index.js"]),
        ("", []),
    ],
)
def test_other_commands_are_not_taken_for_the_bridge(command: str, args: list[str]) -> None:
    assert not is_ourselves(command, args)


@pytest.mark.parametrize(
    ("endpoint", "fault"),
    [
        (EndpointSpec(), "neither"),
        (EndpointSpec(url="http://x/", command="x"), "both"),
        (EndpointSpec(url="http://x/", protocol="stdio"), "or a command, not http"),
        (EndpointSpec(command="x", protocol="http"), "needs a url"),
        (EndpointSpec(url="http://x/", args=("a",)), "belong to a command"),
        (EndpointSpec(command="x", headers={"a": "b"}), "belong to a url"),
        (EndpointSpec(command="x", token_env="T"), "belong to a url"),
        (EndpointSpec(url="http://x/", headers={"a b": "c"}), "legal HTTP header"),
        (EndpointSpec(url="http://x/", headers={"a": "b\r\nc: d"}), "legal HTTP header"),
        (EndpointSpec(command="x", env={"A=B": "c"}), "name of a variable"),
    ],
)
def test_an_endpoint_must_make_sense_as_a_whole(endpoint: EndpointSpec, fault: str) -> None:
    assert fault in endpoint_fault(endpoint)


def test_a_sound_endpoint_has_no_fault() -> None:
    assert endpoint_fault(EndpointSpec(url="http://x/", headers={"X-Key": "${secret:k}"}, token_env="T", protocol="http")) == ""
    assert endpoint_fault(EndpointSpec(command="x", args=("a",), env={"A": "b"}, cwd="/", protocol="stdio")) == ""


def test_any_text_makes_a_legal_name() -> None:
    assert [legal_name(text) for text in ("My Server", "a.b/c", "ünï", "***", "x" * 90)] == [
        "My-Server",
        "a-b-c",
        "n",
        "server",
        "x" * 64,
    ]
