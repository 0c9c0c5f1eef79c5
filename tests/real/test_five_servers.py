"""Five published servers behind one gateway, and each alone behind the router, with every official client."""

from __future__ import annotations

import json
import shlex
import uuid

import pytest

from tests.support import peers
from tests.support.peers import HTTP_CLIENTS, Json, RealServer, drive, inspect, names, texts

pytestmark = [pytest.mark.real, pytest.mark.timeout(120)]
SERVERS = ("everything", "filesystem", "memory", "time", "git")


def per_server(all_names: list[str], separator: str = "__") -> dict[str, int]:
    """How many of the names each server prefix has; an unprefixed name counts under ""."""
    counted: dict[str, int] = {}
    for name in all_names:
        prefix = name.split(separator)[0] if separator in name else ""
        counted[prefix] = counted.get(prefix, 0) + 1
    return counted


def check_lists(all_names: list[str], servers: dict[str, RealServer]) -> None:
    found = per_server(all_names)
    assert set(found) == set(servers), found
    for name, server in servers.items():
        assert found[name] >= server.count, (name, all_names)
    assert len(all_names) == len(set(all_names))


@pytest.mark.parametrize("client", HTTP_CLIENTS)
def test_a_client_lists_and_calls_all_five_servers_at_one_gateway(
    client: str, five: peers.Gateway, servers: dict[str, RealServer]
) -> None:
    calls = [{"do": "call", "name": f"{s.name}__{s.tool}", "arguments": s.arguments} for s in servers.values()]
    report = drive(client, five.url(), [*calls, {"do": "list", "kind": "tools"}])
    for server, entry in zip(servers.values(), report["steps"], strict=False):
        assert server.expect in texts(entry), (server.name, entry, five.errors())
    check_lists(names(report["steps"][-1]), servers)  # a call waits for its server, a list only a little


@pytest.mark.parametrize("era", ["legacy", "modern"])
def test_the_inspector_lists_and_calls_all_five_servers_at_one_gateway(
    era: str, five: peers.Gateway, servers: dict[str, RealServer]
) -> None:
    for server in servers.values():
        result = inspect(
            five.url(),
            "--method",
            "tools/call",
            "--tool-name",
            f"{server.name}__{server.tool}",
            "--tool-args-json",
            json.dumps(server.arguments),
            era=era,
        )
        assert server.expect in "".join(block.get("text", "") for block in result["content"]), (server.name, result)
    listed = inspect(five.url(), "--method", "tools/list", era=era)
    check_lists([tool["name"] for tool in listed["tools"]], servers)


@pytest.mark.parametrize("client", HTTP_CLIENTS)
@pytest.mark.parametrize("server", SERVERS)
def test_a_single_server_endpoint_serves_the_server_under_its_own_names(
    server: str, client: str, five: peers.Gateway, servers: dict[str, RealServer]
) -> None:
    real = servers[server]
    steps: list[Json] = [{"do": "list", "kind": "tools"}, {"do": "call", "name": real.tool, "arguments": real.arguments}]
    report = drive(client, five.url(server), steps)
    found = names(report["steps"][0])
    assert real.tool in found and len(found) >= real.count
    assert real.expect in texts(report["steps"][1])


@pytest.mark.parametrize("client", HTTP_CLIENTS)
@pytest.mark.parametrize("server", SERVERS)
def test_a_server_alone_behind_the_router_keeps_its_names_and_answers(
    server: str, client: str, servers: dict[str, RealServer]
) -> None:
    real = servers[server]
    steps: list[Json] = [{"do": "list", "kind": "tools"}, {"do": "call", "name": real.tool, "arguments": real.arguments}]
    report = drive(client, peers.router("--", *real.command), steps)
    found = names(report["steps"][0])
    assert real.tool in found and len(found) >= real.count, found
    assert real.expect in texts(report["steps"][1])


@pytest.mark.parametrize("server", SERVERS)
def test_the_inspector_reaches_a_server_behind_the_router(server: str, servers: dict[str, RealServer]) -> None:
    real = servers[server]
    command = peers.router("--", *real.command)
    assert len(inspect(command, "--method", "tools/list")["tools"]) >= real.count
    result = inspect(
        command, "--method", "tools/call", "--tool-name", real.tool, "--tool-args-json", json.dumps(real.arguments)
    )
    assert real.expect in "".join(block.get("text", "") for block in result["content"])


def test_the_inspector_is_not_turned_away_by_a_server_that_starts_slowly(servers: dict[str, RealServer]) -> None:
    """It sets the log level of whoever declares logging, as the router does for a server that it does not know yet."""
    unknown = uuid.uuid4().hex  # another command each time: what a server said is remembered by its command
    command = peers.router("--", "sh", "-c", 'sleep 4; exec "$@"', unknown, *servers["time"].command)
    assert len(inspect(command, "--method", "tools/list")["tools"]) == servers["time"].count


@pytest.mark.parametrize("client", ["python-2-legacy", "python-2-modern", "python-1", "typescript-1", "typescript-2-modern"])
def test_the_router_puts_several_servers_behind_one_stdio_endpoint(client: str, servers: dict[str, RealServer]) -> None:
    chosen = [servers[name] for name in ("time", "memory", "filesystem")]
    arguments = [part for s in chosen for part in ("--server", f"{s.name}={shlex.join(s.command)}")]
    calls = [{"do": "call", "name": f"{s.name}__{s.tool}", "arguments": s.arguments} for s in chosen]
    report = drive(client, peers.router(*arguments), [*calls, {"do": "list", "kind": "tools"}])
    for server, entry in zip(chosen, report["steps"], strict=False):
        assert server.expect in texts(entry)
    check_lists(names(report["steps"][-1]), {s.name: s for s in chosen})


@pytest.mark.parametrize("client", HTTP_CLIENTS)
def test_a_call_travels_from_the_router_through_the_gateway_to_a_server(
    client: str, five: peers.Gateway, servers: dict[str, RealServer]
) -> None:
    calls = [{"do": "call", "name": f"{s.name}__{s.tool}", "arguments": s.arguments} for s in servers.values()]
    report = drive(client, peers.router(five.url()), [*calls, {"do": "list", "kind": "tools"}])
    for server, entry in zip(servers.values(), report["steps"], strict=False):
        assert server.expect in texts(entry), (server.name, entry)
    check_lists(names(report["steps"][-1]), servers)
