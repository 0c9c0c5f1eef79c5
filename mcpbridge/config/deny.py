"""A tool denied in a configuration file by one word more, and every other byte as it was: comments, order, indentation.

    with_denied(text, path, "memory", "delete_*")      adds it to servers[memory].tools.deny
    without_denied(...)                                takes it away again

Pure text in, text out. YAML's own positions say where; whoever calls loads the result and compares (``is_all``), since anchors
and other tricks can make an edit mean more than it should.

Source: contract discovery.providers.static.servers[].tools; ux section 7 (writing rules 2 and 3).
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Final

from msgspec.structs import replace

from mcpbridge.config.load import compose, entry_of, wrapped
from mcpbridge.config.problems import ConfigError, Place, Problem
from mcpbridge.config.sections import ServerSpec
from mcpbridge.config.walk import Node, is_null

_PLAIN = re.compile(r"(?!(?i:y|n|yes|no|on|off|true|false|null)$)[A-Za-z_][A-Za-z0-9_.-]*").fullmatch  # means itself in YAML
_PLACES: Final = (
    ("servers",),
    ("direct_clients", "servers"),
    ("direct", "servers"),
    ("discovery", "providers", "static", "servers"),
)


def with_denied(text: str, path: str, server: str, tool: str) -> str:
    """The file with a tool denied; as it was when it is denied already. Raises ConfigError when it cannot be written there."""
    node, line_end = _server(text, path, server), "\r\n" if "\r\n" in text else "\n"
    word = tool if _PLAIN(tool) and not _is_json(text) else json.dumps(tool, ensure_ascii=False)
    tools = entry_of(node, "tools")
    deny = entry_of(tools, "deny") if tools is not None and tools.id == "mapping" else None
    if deny is not None and deny.id == "sequence":
        if any(item.value == tool for item in deny.value):
            return text
        if deny.flow_style:
            return _into_flow(text, deny, word)
        return _as_line(text, deny.value[-1], f"{' ' * deny.start_mark.column}- {word}", line_end)
    for holder, key in ((tools, "tools"), (deny, "deny")):
        if holder is not None and not (key == "tools" and holder.id == "mapping"):
            raise _by_hand(path, holder, f"{key} is not written as a {'list' if key == 'deny' else 'mapping'}", server, tool)
    if tools is not None and not tools.value and not tools.flow_style:
        raise _by_hand(path, tools, "tools is empty", server, tool)
    outer = node if tools is None else tools
    quoted = '"' if _is_json(text) else ""
    pair = f"{quoted}deny{quoted}: [{word}]"
    if tools is None:
        pair = f"{quoted}tools{quoted}: {{{pair}}}"
    if outer.flow_style:
        return _into_flow(text, outer, pair)
    indent = " " * outer.value[0][0].start_mark.column
    return _as_line(text, outer.value[-1][1], indent + pair, line_end)


def without_denied(text: str, path: str, server: str, tool: str) -> str:
    """The file with a tool no longer denied. Raises ConfigError when it is not in the list."""
    node = _server(text, path, server)
    tools = entry_of(node, "tools")
    deny = entry_of(tools, "deny") if tools is not None else None
    listed = list(deny.value) if deny is not None and deny.id == "sequence" else []
    at = next((number for number, item in enumerate(listed) if item.value == tool), None)
    if at is None or deny is None:
        place = Place(path, node.start_mark.line + 1, node.start_mark.column + 1)
        known = ", ".join(str(item.value) for item in listed) or "nothing"
        raise ConfigError([Problem(place, f"server {server!r} does not deny {tool!r}", f"it denies {known}")])
    item = listed[at]
    if deny.flow_style:
        start, end = item.start_mark.index, _end(item)
        if at > 0:
            start = _end(listed[at - 1])
        elif len(listed) > 1:
            end = listed[1].start_mark.index
        return text[:start] + text[end:]
    start = text.rfind("\n", 0, item.start_mark.index) + 1
    end = text.find("\n", _end(item))
    return text[:start] + (text[end + 1 :] if end >= 0 else "")


def is_all(before: Sequence[ServerSpec], after: Sequence[ServerSpec], server: str, tool: str, *, hides: bool) -> bool:
    """Whether two loaded lists of servers differ in nothing but this tool of this server."""

    def wanted(spec: ServerSpec) -> ServerSpec:
        denied = spec.tools.deny
        if spec.name == server:
            denied = (*denied, tool) if hides else tuple(one for one in denied if one != tool)
        return replace(spec, tools=replace(spec.tools, deny=denied), place=Place())

    return [wanted(spec) for spec in before] == [replace(spec, place=Place()) for spec in after]


def _server(text: str, path: str, name: str) -> Node:
    """The mapping in which a server is written. Raises ConfigError."""
    root = compose(text, path)
    if root is not None and wrapped(root) is not None:
        raise ConfigError(
            [Problem(Place(path), "the configuration stands inside a ConfigMap", "write the change there by hand")]
        )
    found: list[Node] = []
    for keys in _PLACES if root is not None else ():
        node = root
        for key in keys:
            node = entry_of(node, key) if node is not None else None
        if node is not None and node.id == "sequence":
            found += [one for one in node.value if (said := entry_of(one, "name")) is not None and said.value == name]
    if len(found) == 1:
        return found[0]
    if found:
        raise ConfigError([Problem(Place(path), f"{len(found)} servers are named {name!r}", "write the change by hand")])
    client = entry_of(root, "mcpServers") if root is not None else None
    if client is not None and entry_of(client, name) is not None:
        place = Place(path, client.start_mark.line + 1, client.start_mark.column + 1)
        hint = "write this server below servers: instead, with its name"
        raise ConfigError([Problem(place, f"{name!r} stands in mcpServers, which has no rules of tools", hint)])
    raise ConfigError([Problem(Place(path), f"no server is named {name!r}", "mcpbridge config show --for router lists them")])


def _by_hand(path: str, node: Node, why: str, server: str, tool: str) -> ConfigError:
    place = Place(path, node.start_mark.line + 1, node.start_mark.column + 1)
    return ConfigError([Problem(place, f"server {server!r}: {why}", f"write tools: {{deny: [{json.dumps(tool)}]}} by hand")])


def _is_json(text: str) -> bool:
    return text.lstrip("\ufeff \t\r\n")[:1] == "{"


def _into_flow(text: str, node: Node, word: str) -> str:
    """One more element of ``[...]`` or ``{...}``."""
    if not node.value:
        at = text.index("[" if node.id == "sequence" else "{", node.start_mark.index) + 1  # an anchor may stand before it
        return text[:at] + word + text[at:]
    last = node.value[-1]
    at = _end(last[1] if isinstance(last, tuple) else last)
    return f"{text[:at]}, {word}{text[at:]}"


def _as_line(text: str, after: Node, line: str, line_end: str) -> str:
    """One more line behind the one in which a node ends."""
    at = _end(after)
    if text[at - 1 : at] != "\n":  # a block of text ends with its line
        following = text.find("\n", at)
        if following < 0:
            return f"{text}{line_end}{line}{line_end}"
        at = following + 1
    return f"{text[:at]}{line}{line_end}{text[at:]}"


def _end(node: Node) -> int:
    """Where a node's own text ends; YAML's end of a block is where the next thing begins, behind comments."""
    if node.id == "scalar" or node.flow_style or not node.value:
        return int(node.start_mark.index if is_null(node) and not node.value else node.end_mark.index)
    last = node.value[-1]
    return _end(last[1] if isinstance(last, tuple) else last)
