"""Files of others: desktop clients, ConfigMaps, other users."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from mcpbridge.config.gateway import GatewayConfig
from mcpbridge.config.load import Loaded
from mcpbridge.config.problems import ConfigError
from mcpbridge.config.router import RouterConfig
from mcpbridge.config.sections import EndpointSpec
from tests.support.configs import Write, faults, gateway, router, server_names

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
        "old": EndpointSpec(url="https://d.example/sse", protocol="sse"),
        "emoji": EndpointSpec(command="x", args=("\U0001f600",)),
    }
    said = "\n".join(str(warning) for warning in loaded.warnings)
    assert "mcpServers.self: this is mcpbridge itself; skipped" in said
    assert "shown as My-Docs" in said and "strange is not used" in said


def test_a_file_of_a_client_keeps_its_other_keys_to_itself_and_leaves_the_embedded_defaults(write: Write) -> None:
    loaded = gateway(write(json.dumps({**CLIENT, "globalShortcut": "x", "preferences": {}}), "settings.json"))
    assert (loaded.config.auth.type, loaded.config.server.tls.enabled) == ("none", False)
    assert len(loaded.config.servers) == 6
    path = write(json.dumps({**CLIENT, "globalShortcut": "x", "server": {"port": 1}}), "ours.json")
    assert "globalShortcut: unknown key" in faults(path)[0]


@pytest.mark.parametrize(
    ("entry", "cause"),
    [
        ({}, "neither url nor command"),
        ({"args": [], "comand": "x"}, "did you mean command?"),
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


@pytest.mark.requirement("config.wrapper")
@pytest.mark.parametrize("more", ["", "---\napiVersion: v1\nkind: Secret\n"])
def test_a_config_map_is_unwrapped_and_faults_have_the_places_of_the_file(write: Write, more: str) -> None:
    text = "kind: ConfigMap\nmetadata: {name: x}\ndata:\n  config.yaml: |\n    # comment\n    server:\n      port: 1234\n"
    assert gateway(write(text + more)).config.server.port == 1234
    assert faults(write(text + "      prot: 1\n" + more))[0].startswith("8:7: server.prot")
    assert faults(write(text + "     x: 1\n" + more))[0].startswith("8:")


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
