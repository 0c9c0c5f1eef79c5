"""Configuration for people and tools: origins shown, secrets hidden, the schema complete."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from mcpbridge.config.load import gateway_program, load_gateway, router_program
from mcpbridge.config.render import as_json, json_schema, show
from mcpbridge.config.rows import fields_of

SECRET = "kX9v2mQ7pL4sR8tY1wZ5bN3cF6hJ0dG="
FILE = f"""\
server: {{port: 9000}}
auth: {{static_tokens: [{{name: ops, token: {"t" * 32}}}]}}
sessions: {{seal_keys: ["{SECRET}x"]}}
servers:
  - {{name: a, command: x, args: [--token=hunter2hunter2, plain], env: {{KEY: hunter3, REF: "${{secret:k}}"}}}}
  - {{name: b, url: "https://x.example/?key=hunter4", headers: {{X-Key: hunter5}}}}
"""


@pytest.fixture
def loaded(tmp_path: Path) -> Any:
    path = tmp_path / "gateway.yaml"
    path.write_text(FILE)
    return load_gateway(str(path), {"JWT_SECRET": SECRET, "MCPBRIDGE_ROUTING__MAX_ATTEMPTS": "3"})


def test_every_key_is_shown_with_the_place_it_came_from(loaded: Any) -> None:
    lines = show(loaded, gateway_program(), origin=True).splitlines()
    assert len(lines) == len(list(fields_of(gateway_program().config)))
    shown = {line.split(":")[0]: " ".join(line.split()) for line in lines}
    assert shown["server.port"] == f"server.port: 9000 # file {loaded.path}:1:10"
    assert shown["routing.max_attempts"] == "routing.max_attempts: 3 # env MCPBRIDGE_ROUTING__MAX_ATTEMPTS"
    assert shown["auth.jwt.secret"] == "auth.jwt.secret: <set, 32 chars> # env JWT_SECRET"
    assert shown["server.host"] == "server.host: 127.0.0.1 # default"


@pytest.mark.parametrize("form", ["text", "json"])
def test_no_secret_is_shown(loaded: Any, form: str) -> None:
    text = show(loaded, gateway_program()) if form == "text" else json.dumps(as_json(loaded, gateway_program()))
    for secret in (SECRET, "t" * 32, "hunter"):
        assert secret not in text
    assert "${secret:k}" in text and "plain" in text and "<set, 32 chars>" in text


def test_the_document_has_values_and_origins(loaded: Any) -> None:
    document = json.loads(json.dumps(as_json(loaded, gateway_program())))
    assert (document["schema"], document["program"], document["path"]) == ("mcpbridge.config/v1", "gateway", loaded.path)
    assert document["values"]["server.port"] == {"value": 9000, "origin": "file", "from": f"{loaded.path}:1:10"}
    assert document["values"]["server.host"] == {"value": "127.0.0.1", "origin": "default", "from": None}


@pytest.mark.parametrize("program", [gateway_program(), router_program()], ids=["gateway", "router"])
def test_the_schema_has_every_row_with_its_help(program: Any) -> None:
    schema = json.loads(json.dumps(json_schema(program)))
    for field in fields_of(program.config):
        node = schema
        for part in field.key.split("."):
            assert node["additionalProperties"] is False
            node = node["properties"][part]
        assert node["description"].startswith(field.row.help)
    assert "mcpServers" in schema["properties"]


def test_the_schema_describes_servers() -> None:
    item = json_schema(router_program())["properties"]["direct_clients"]["properties"]["servers"]["items"]
    assert item["required"] == ["name"]
    assert {"name", "command", "url", "endpoints", "isolation"} <= item["properties"].keys()
    assert item["properties"]["isolation"]["enum"] == ["principal", "shared", "session"]
