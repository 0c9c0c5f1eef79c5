"""A configuration file with some keys set: everything else in it stays, its comments do not.

    text -> nodes -> plain values -> keys set -> text

References such as ``${NAME}`` are kept as they are written; nothing is expanded here.

Source: ux section 1b (finish); contract cli.setup.loads.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from mcpbridge.config.load import compose
from mcpbridge.config.walk import Node

_SIMPLE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")


class _Plain(str):
    """A scalar without quotes, whose text says what it is."""

    __slots__ = ()


def with_keys(text: str, source: str, values: Mapping[str, Any], heading: str = "") -> str:
    """The file with these dotted keys set (None: taken out; a mapping: its members set). ``heading``: lines of comment above.

    Raises ConfigError for a text that is no YAML, and for one whose top is no mapping.
    """
    node = compose(text, source)
    tree = _value(node) if node is not None else {}
    if not isinstance(tree, dict):
        tree = {}
    for key, value in values.items():
        _set(tree, key.split("."), value)
    lines = [f"# {line}".rstrip() for line in heading.splitlines()]
    return "\n".join([*lines, *_lines(tree, 0)]) + "\n"


def _set(tree: dict[str, Any], path: list[str], value: Any) -> None:
    for name in path[:-1]:
        inner = tree.get(name)
        if not isinstance(inner, dict):
            if value is None:
                return
            inner = tree[name] = {}
        tree = inner
    if value is None:
        tree.pop(path[-1], None)
    elif isinstance(value, Mapping) and isinstance(tree.get(path[-1]), dict):
        tree[path[-1]].update(value)
    else:
        tree[path[-1]] = value


def _value(node: Node) -> Any:
    if node.id == "mapping":
        return {str(_value(name)): _value(value) for name, value in node.value}
    if node.id == "sequence":
        return [_value(item) for item in node.value]
    return _Plain(node.value) if node.style in (None, "") else str(node.value)


def _lines(value: Any, depth: int) -> Iterator[str]:
    pad = "  " * depth
    if isinstance(value, Mapping):
        for name, inner in value.items():
            key = name if _SIMPLE.fullmatch(name) else json.dumps(name, ensure_ascii=False)
            if isinstance(inner, (Mapping, list, tuple)) and inner:
                yield f"{pad}{key}:"
                yield from _lines(inner, depth + 1)
            else:
                yield f"{pad}{key}: {_scalar(inner)}"
    else:
        for item in value:
            if isinstance(item, (Mapping, list, tuple)) and item:
                first, *rest = _lines(item, depth + 1)
                yield f"{pad}- {first.strip()}"
                yield from rest
            else:
                yield f"{pad}- {_scalar(item)}"


def _scalar(value: Any) -> str:
    if isinstance(value, _Plain):
        return str(value)
    if isinstance(value, (Mapping, list, tuple)):
        return "{}" if isinstance(value, Mapping) else "[]"
    return json.dumps(value, ensure_ascii=False)
