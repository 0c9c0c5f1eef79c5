"""A configuration for people and tools: every value with its origin, and the JSON Schema that the rows make.

Source: contract sections 1.1 (``cli.config.validate``) and 4 (``config show --origin``).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import msgspec

from mcpbridge.config.load import C, Loaded, Program, client_servers_field
from mcpbridge.config.rows import Field, Row, Section, at, fields_of
from mcpbridge.config.sections import EndpointSpec
from mcpbridge.observe.redact import redact


def values_of(config: Section, fields: Mapping[str, Field]) -> dict[str, Any]:
    """Key -> printable value; a secret is ``<set, N chars>``."""
    return {key: _printable(at(config, key), entry.row) for key, entry in fields.items()}


def show(loaded: Loaded[C], program: Program[C], *, origin: bool = False) -> str:
    """One line per key: ``server.port: 8443``, and with ``origin`` where it came from."""
    fields = {entry.key: entry for entry in fields_of(program.config)}
    lines = [(f"{key}: {_line(value)}", loaded.origins[key]) for key, value in values_of(loaded.config, fields).items()]
    if not origin:
        return "\n".join(line for line, _ in lines)
    width = min(max(len(line) for line, _ in lines), 60)
    return "\n".join(f"{line.ljust(width)}  # {where}" for line, where in lines)


def as_json(loaded: Loaded[C], program: Program[C]) -> dict[str, Any]:
    """The document of ``config show --json``."""
    fields = {entry.key: entry for entry in fields_of(program.config)}
    return {
        "schema": "mcpbridge.config/v1",
        "program": program.name,
        "path": loaded.path,
        "values": {
            key: {"value": value, "origin": loaded.origins[key].kind, "from": str(loaded.origins[key].place) or None}
            for key, value in values_of(loaded.config, fields).items()
        },
    }


def json_schema(program: Program[C]) -> dict[str, Any]:
    """A JSON Schema (2020-12) of the file; aliases are not in it, since the canonical spelling is to be preferred."""
    root: dict[str, Any] = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": f"mcpbridge {program.name} configuration",
        "type": "object",
        "additionalProperties": False,
        "properties": {},
    }
    for entry in [*fields_of(program.config), client_servers_field()]:
        *sections, last = entry.key.split(".")
        branch = root
        for section in sections:
            branch = branch["properties"].setdefault(
                section, {"type": "object", "additionalProperties": False, "properties": {}}
            )
        branch["properties"][last] = _schema_of(entry)
    return root


def _schema_of(entry: Field) -> dict[str, Any]:
    row = entry.row
    schema: dict[str, Any] = dict(row.kind.schema)
    if entry.key == "mcpServers":
        schema = {"type": "object", "additionalProperties": {"type": "object"}}
    elif row.item is not None:
        schema = _list_schema(row.item, also=EndpointSpec if row.kind.form == "servers" else None)
    schema["description"] = row.help
    variables = [*row.env, *([entry.variable] if entry.variable else [])]
    if variables:
        schema["description"] += f" (variables: {', '.join(variables)})"
    if entry.default not in (msgspec.NODEFAULT, (), {}, "", None) and not row.secret:
        schema["default"] = entry.default
    return schema


def _list_schema(item: type[Section], also: type[Section] | None) -> dict[str, Any]:
    fields = [*fields_of(item), *(fields_of(also) if also is not None else ())]
    required = [entry.key for entry in fields if entry.default is msgspec.NODEFAULT]
    properties = {entry.key: _schema_of(entry._replace(key=entry.key)) for entry in fields}
    items = {"type": "object", "additionalProperties": False, "properties": properties}
    return {"type": "array", "items": items | ({"required": required} if required else {})}


def _printable(value: Any, row: Row) -> Any:
    if row.secret:
        if isinstance(value, tuple):
            return [_masked(item) for item in value]
        return _masked(value)
    if isinstance(value, tuple) and row.item is not None:
        return [_item(entry, row.item) for entry in value]
    if isinstance(value, Mapping) and row.kind.name != "names":
        # variables and headers of servers usually are secrets, whatever their names; a reference to one is not
        return {name: text if "${secret:" in text else _masked(text) for name, text in value.items()}
    if row.kind.name == "url" and value:
        return _without_query(value)
    return [redact(text) for text in value] if isinstance(value, tuple) else value


def _item(entry: Section, item: type[Section]) -> dict[str, Any]:
    shown = {}
    for field in fields_of(item):
        value = at(entry, field.key)
        if value != field.default:
            shown[field.key] = _printable(value, field.row)
    return shown


def _masked(text: str) -> str:
    return f"<set, {len(text)} chars>" if text else ""


def _without_query(url: str) -> str:
    parts = urlsplit(url)
    return urlunsplit(parts._replace(query="***")) if parts.query else url


def _line(value: Any) -> str:
    if (
        isinstance(value, str)
        and value
        and value.isprintable()
        and not any(mark in value for mark in ":#{}[]\"'")
        and value.strip() == value
    ):
        return value
    return json.dumps(value, ensure_ascii=False)
