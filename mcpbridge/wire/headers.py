"""MCP's own HTTP header values: the base64 form, and tool arguments that are mirrored as ``Mcp-Param-*``.

    Mcp-Name: echo                       printable ASCII, as it is
    Mcp-Name: =?base64?w6ljaG8=?=        anything else: standard base64 of the UTF-8 text

Source: MCP 2026-07-28 "Streamable HTTP", SEP-2243; mcp-eras section 1.2 rules 3-6.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import msgspec
from msgspec import Raw

from mcpbridge.errors import BridgeError
from mcpbridge.wire.level import items, members, text

ANNOTATION = "x-mcp-header"
PREFIX = "mcp-param-"
MAX_MIRRORED = 64  # annotated arguments of one tool
MAX_DEPTH = 64  # levels of a schema that are searched for annotations

_OPEN, _CLOSE = "=?base64?", "?="
_PLAIN = re.compile(r"[\x20-\x7e]*").fullmatch
_TOKEN = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+").fullmatch
_WHOLE = re.compile(r"(-?[0-9]{1,64})(?:\.0+)?").fullmatch
# Where a JSON Schema holds further schemas; annotations there cannot be tied to one argument.
_ONE = ("items", "contains", "additionalProperties", "unevaluatedItems", "unevaluatedProperties", "propertyNames")
_ONE_IF = ("not", "if", "then", "else", "contentSchema")
_MANY = ("allOf", "anyOf", "oneOf", "prefixItems")
_BY_NAME = ("$defs", "definitions", "patternProperties", "dependentSchemas")


class Mirrored(NamedTuple):
    """One annotated argument: where it stands, its header in lower case, its JSON Schema type."""

    path: tuple[str, ...]
    header: str
    type: str


class ToolList(NamedTuple):
    """A tools/list result as an HTTP client must read it.

    ``wanted``: every listed tool and its annotated arguments. ``refused``: tools whose annotations break the rules, and why.
    ``kept``: the tools that are not refused, byte-exact.
    """

    wanted: dict[str, tuple[Mirrored, ...]]
    refused: dict[str, str]
    kept: list[Raw]


def read_tools(result: bytes | Raw) -> ToolList:
    """Read the annotations of a tools/list result. What is no proper tool is kept and has none.

    Raises BridgeError("bad_answer") when the result is no object with a list of tools.
    """
    wanted: dict[str, tuple[Mirrored, ...]] = {}
    refused: dict[str, str] = {}
    kept: list[Raw] = []
    for tool in items(members(result, "bad_answer").get("tools"), "bad_answer"):
        try:
            said = members(tool)
        except BridgeError:
            said = {}
        name = text(said.get("name"))
        if name is None:
            kept.append(tool)
            continue
        try:
            found = mirrored(plain(said.get("inputSchema"))) if ANNOTATION.encode() in bytes(tool) else ()
            if len(found) > MAX_MIRRORED:
                raise ValueError(f"more than {MAX_MIRRORED} arguments are annotated")
        except ValueError as error:
            refused[name] = str(error)
            continue
        wanted[name] = found
        kept.append(tool)
    return ToolList(wanted, refused, kept)


def plain(raw: Raw | None) -> Any:
    """The plain value of proven JSON, numbers beyond a float included (as infinity); None when absent or unreadable."""
    if raw is None:
        return None
    try:
        return msgspec.json.decode(raw)
    except (ValueError, RecursionError):
        pass
    try:
        return json.loads(bytes(raw))
    except (ValueError, RecursionError):
        return None


def encode_header(value: str) -> str:
    """A header value that carries this text; as it is where that is safe, else in the base64 form."""
    if _PLAIN(value) and value == value.strip(" ") and not (value.startswith(_OPEN) and value.endswith(_CLOSE)):
        return value
    return _OPEN + base64.b64encode(value.encode()).decode() + _CLOSE


def decode_header(value: str) -> str:
    """The text a header value carries. Raises ValueError for forbidden characters, broken or non-canonical base64, no UTF-8."""
    if not _PLAIN(value):
        raise ValueError("header value is not printable ASCII")
    if not (value.startswith(_OPEN) and value.endswith(_CLOSE) and len(value) >= len(_OPEN) + len(_CLOSE)):
        return value
    payload = value[len(_OPEN) : -len(_CLOSE)]
    try:
        decoded = base64.b64decode(payload, validate=True)
    except binascii.Error:
        raise ValueError("header value is no base64") from None
    if base64.b64encode(decoded).decode() != payload:
        raise ValueError("header value is not canonical base64")  # two spellings of one name would be two cache or policy keys
    return decoded.decode()


def mirrored(schema: Any) -> tuple[Mirrored, ...]:
    """The annotated arguments of a tool's ``inputSchema`` (decoded JSON).

    Raises ValueError when an annotation breaks the rules: an HTTP client must then leave the tool out of tools/list.
    """
    found: list[Mirrored] = []
    _search(schema, (), found, 0)
    headers = [item.header for item in found]
    if len(set(headers)) != len(headers):
        raise ValueError(f"{ANNOTATION} is used twice")
    return tuple(found)


def param_headers(arguments: Any, wanted: Sequence[Mirrored]) -> list[tuple[str, str]]:
    """The ``mcp-param-*`` headers of a call with these arguments (decoded JSON); absent and null arguments have none."""
    headers = []
    for item in wanted:
        value = _rendered(_at(arguments, item.path))
        if value is not None:
            headers.append((PREFIX + item.header, encode_header(value)))
    return headers


def check_param_headers(arguments: Any, wanted: Sequence[Mirrored], headers: Mapping[str, str]) -> None:
    """Refuse a call whose ``mcp-param-*`` headers (lower-case names) do not say what its arguments say.

    Headers of no annotated argument are not looked at. Raises BridgeError("header_mismatch").
    """
    for item in wanted:
        name = PREFIX + item.header
        value, header = _rendered(_at(arguments, item.path)), headers.get(name)
        if value is None and header is None:
            continue
        if value is None or header is None:
            raise BridgeError("header_mismatch", f"{name} {'has no argument' if value is None else 'is missing'}", header=name)
        try:
            carried = decode_header(header)
        except ValueError as err:
            raise BridgeError("header_mismatch", f"{name}: {err}", header=name) from None
        if item.type == "integer":
            carried = _whole(carried)
        if carried != value:
            raise BridgeError("header_mismatch", f"{name} does not say what the body says", header=name)


def _search(schema: Any, path: tuple[str, ...] | None, found: list[Mirrored], depth: int) -> None:
    """``path``: property names from the root, None once the way leads through anything but ``properties``."""
    if not isinstance(schema, dict):
        return
    if depth > MAX_DEPTH:
        raise ValueError("schema nested too deep")
    if ANNOTATION in schema:
        found.append(_annotated(schema, path))
    inner = schema.get("properties")
    if isinstance(inner, dict):
        for name, part in inner.items():
            _search(part, None if path is None else (*path, name), found, depth + 1)
    for keyword in (*_ONE, *_ONE_IF):
        _search(schema.get(keyword), None, found, depth + 1)
    for keyword in _MANY:
        parts = schema.get(keyword)
        for part in parts if isinstance(parts, list) else ():
            _search(part, None, found, depth + 1)
    for keyword in _BY_NAME:
        parts = schema.get(keyword)
        for part in parts.values() if isinstance(parts, dict) else ():
            _search(part, None, found, depth + 1)


def _annotated(schema: dict[str, Any], path: tuple[str, ...] | None) -> Mirrored:
    header, kind = schema[ANNOTATION], schema.get("type")
    if not path:
        raise ValueError(f"{ANNOTATION} stands where no single argument is meant")
    if not isinstance(header, str) or not _TOKEN(header):
        raise ValueError(f"{ANNOTATION} of {path[-1]!r} is no header name")
    if kind not in ("string", "integer", "boolean"):
        raise ValueError(f"{ANNOTATION} of {path[-1]!r} needs type string, integer or boolean")
    return Mirrored(path, header.lower(), kind)


def _at(value: Any, path: tuple[str, ...]) -> Any:
    for step in path:
        value = value.get(step) if isinstance(value, dict) else None
    return value


def _rendered(value: Any) -> str | None:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return value
    if isinstance(value, float):
        return str(int(value)) if value.is_integer() else None
    return str(value) if isinstance(value, int) else None


def _whole(text: str) -> str:
    """``42.0`` and ``42`` are one integer: the form ``_rendered`` writes, or the text itself when it is none."""
    match = _WHOLE(text)
    return str(int(match[1])) if match else text
