"""Configuration files: bytes to YAML nodes, the wrapper of a ConfigMap, and the JSON files of desktop clients.

Source: contract section 3 (``config.wrapper``, ``config.mcpservers``).
"""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mcpbridge.config import servers
from mcpbridge.config.load import MAX_FILE_BYTES, C, Program, Shift, compose, entry_of, missing_file, root_table, wrapped
from mcpbridge.config.problems import ConfigError, Place, Problem
from mcpbridge.config.walk import Found, Node, Reader

if TYPE_CHECKING:
    from mcpbridge.config.sections import ServerSpec


@dataclass(frozen=True)
class Content:
    """What a file says. ``client_file``: it belongs to an MCP client and was read for its servers only."""

    values: Mapping[str, Found]
    problems: Sequence[Problem]
    warnings: Sequence[Problem]
    client_file: bool


def read_file(path: str, program: Program[C], env: Mapping[str, str], *, trusted: bool) -> Content:
    """Read and check one file. ``trusted``: the user named it, so it may start commands whoever owns it.

    Raises ConfigError when it cannot be read (66) or is no YAML (78).
    """
    text = _decode(path, _read_bytes(path))
    node = compose(text, path)
    shift: Shift | None = None
    inner = None if node is None else wrapped(node)
    if inner is not None:
        shift = _shift_of(text, inner)
        node = compose(str(inner.value), path, shift)
    reader = Reader(path, env, shift)
    reader.read_servers = servers.read
    values: dict[str, Found] = {}
    table = root_table(program)
    client_file = node is not None and _is_client_file(path, node, table)
    if node is not None:
        reader.walk(_only_servers(node) if client_file else node, table, values)
    if not trusted:
        commands = [spec for key in (program.servers_key, "mcpServers") if key in values for spec in values[key].value]
        reader.problems += _foreign_owner(path, commands)
    return Content(values, reader.problems, reader.warnings, client_file)


def _read_bytes(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
    except FileNotFoundError:
        raise missing_file(path, "no such file") from None
    except OSError as error:
        raise missing_file(path, f"cannot be read: {error.strerror or error}") from None
    if len(data) > MAX_FILE_BYTES:
        raise ConfigError([Problem(Place(path), f"larger than {MAX_FILE_BYTES // 1024 // 1024} MiB: not a configuration")])
    return data


def _decode(path: str, data: bytes) -> str:
    encoding = "utf-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"  # PowerShell writes UTF-16
    try:
        return data.decode(encoding)
    except UnicodeDecodeError as error:
        before = data[: error.start]
        line, column = before.count(b"\n") + 1, error.start - (before.rfind(b"\n") + 1) + 1
        raise ConfigError([Problem(Place(path, line, column), "not UTF-8 text", "save the file as UTF-8")]) from None


def _shift_of(text: str, scalar: Node) -> Shift | None:
    """From positions inside a block scalar to positions in the file; None when it is no block, whose lines do not map."""
    if scalar.style not in ("|", ">"):
        return None
    start = scalar.start_mark.line + 1
    outer = next((line for line in text.splitlines()[start:] if line.strip()), "")
    inner = next((line for line in str(scalar.value).splitlines() if line.strip()), "")
    indent = (len(outer) - len(outer.lstrip())) - (len(inner) - len(inner.lstrip()))
    return lambda line, column: (line + start, column + indent)


def _is_client_file(path: str, node: Node, table: Mapping[str, Any]) -> bool:
    """A JSON file with ``mcpServers`` and nothing of ours belongs to an MCP client; its other keys are not our business."""
    if not path.lower().endswith((".json", ".jsonc")) or entry_of(node, "mcpServers") is None:
        return False
    return not any(
        name.value in table for name, _ in node.value if name.id == "scalar" and name.value not in ("mcpServers", "version")
    )


def _only_servers(node: Node) -> Node:
    """The mapping reduced to its ``mcpServers``."""
    pairs = [(name, value) for name, value in node.value if name.id == "scalar" and str(name.value) == "mcpServers"]
    return type(node)(node.tag, pairs, node.start_mark, node.end_mark)


def _foreign_owner(path: str, specs: Sequence[ServerSpec]) -> list[Problem]:
    """A file that was found, not named, and belongs to somebody else may not start commands in our name."""
    if os.name != "posix" or not any(endpoint.command for spec in specs for endpoint in spec.endpoints):
        return []
    status = os.stat(path)
    if status.st_uid in (os.geteuid(), 0) and not status.st_mode & stat.S_IWOTH:
        return []
    why = "can be written by everybody" if status.st_mode & stat.S_IWOTH else "belongs to another user"
    return [Problem(Place(path), f"{why}, but names commands to run", f"check it, then give it with --config {path}")]
