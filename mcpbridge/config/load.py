"""Finds, reads and merges a configuration: flag, then ``MCPBRIDGE_<KEY__PATH>``, then the guide's variables, file, default.

    load_gateway(path, env, flags) -> Loaded[GatewayConfig]        raises ConfigError with every fault at once
    load_router(path, env, flags)  -> Loaded[RouterConfig]

PyYAML is imported only when there is a file, or a variable that holds a list or a map.

Source: contract sections 1.1 (``cli.*.config-path``), 3 and 4; architecture section 9.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Generic, Literal, NamedTuple, TypeVar

from mcpbridge.config.kinds import SERVERS
from mcpbridge.config.problems import EX_CONFIG, EX_NOINPUT, EX_USAGE, ConfigError, Place, Problem
from mcpbridge.config.rows import Field, Row, Section, build, fields_of
from mcpbridge.config.sections import ServerSpec
from mcpbridge.config.walk import Found, Node, table_of

if TYPE_CHECKING:
    from mcpbridge.config.gateway import GatewayConfig
    from mcpbridge.config.router import RouterConfig

MAX_FILE_BYTES = 4 * 1024 * 1024
MAX_DEPTH = 64  # levels of a file

C = TypeVar("C", bound=Section)
_PAIR = re.compile(r"((?<!\\)(?:\\\\)*)(\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2})")
_UNPRINTABLE = re.compile("[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")  # YAML 1.2, section 5.1
Shift = Callable[[int, int], tuple[int, int]]


class Origin(NamedTuple):
    """Who set a key: ``flag``, ``env``, ``file`` or ``default``, and where."""

    kind: Literal["flag", "env", "file", "default"]
    place: Place = Place()

    def __str__(self) -> str:
        return f"{self.kind} {self.place}" if self.place.source else self.kind


@dataclass(frozen=True)
class Flags:
    """What the command line says. ``values`` are texts by full key; ``servers`` come on top of the others, or replace them all
    when ``only_servers`` (ad hoc forms, which also search no file). ``names`` are the flags' spellings for messages."""

    values: Mapping[str, str] = field(default_factory=dict)
    servers: Sequence[ServerSpec] = ()
    only_servers: bool = False
    names: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Loaded(Generic[C]):
    """A configuration that can be used: ``path`` None when no file was read; ``origins`` has every key."""

    config: C
    path: str | None
    origins: Mapping[str, Origin]
    warnings: Sequence[Problem] = ()

    @property
    def places(self) -> dict[str, Place]:
        """Where each key was written, for checks that come later."""
        return {key: origin.place for key, origin in self.origins.items()}


@dataclass(frozen=True)
class Program(Generic[C]):
    """What differs between the two programs."""

    name: Literal["gateway", "router"]
    config: type[C]
    servers_key: str
    check: Callable[[C, Mapping[str, Place]], list[Problem]]
    without_file: Mapping[str, Any]
    only_servers: Mapping[str, Any]  # values that belong to the ad hoc forms
    files: tuple[str, ...]


def gateway_program() -> Program[GatewayConfig]:
    """The gateway's rows, checks and search path."""
    from mcpbridge.config import gateway

    return Program(
        "gateway",
        gateway.GatewayConfig,
        "discovery.providers.static.servers",
        gateway.check,
        gateway.EMBEDDED,
        {},
        (
            "./config/gateway.yaml",
            "{xdg}/mcpbridge/gateway.yaml",
            "/etc/mcp-gateway/gateway.yaml",
            "/etc/mcp-gateway/config.yaml",
            "/etc/mcpbridge/gateway.yaml",
        ),
    )


def router_program() -> Program[RouterConfig]:
    """The router's rows, checks and search path."""
    from mcpbridge.config import router

    return Program(
        "router",
        router.RouterConfig,
        "direct_clients.servers",
        router.check,
        {},
        {"gateway.url": "", "direct_clients.enabled": True, "routing.prefix": "never"},
        (
            "{xdg}/mcpbridge/router.yaml",
            "~/.config/claude-cli/mcp-router.yaml",
            "/etc/mcp-router/mcp-router.yaml",
            "/etc/mcp-router/router.yaml",
            "/etc/mcp-router/config.yaml",
            "/etc/mcpbridge/router.yaml",
        ),
    )


def load_gateway(path: str | None, env: Mapping[str, str], flags: Flags | None = None) -> Loaded[GatewayConfig]:
    """The gateway's configuration. ``path`` None searches for a file. Raises ConfigError (66 missing, 78 invalid, 64 flags)."""
    loaded = load(gateway_program(), path, env, flags)
    if "MCP_UNIVERSAL_PROTOCOLS_ENABLED" in env:
        from mcpbridge.config.sources import with_universal_protocols

        loaded = with_universal_protocols(loaded, env)
    token = env.get("MCP_AUTH_TOKEN", "").strip()
    if token and loaded.config.auth.type == "bearer":
        from mcpbridge.config.sources import with_token_of_environment

        return with_token_of_environment(loaded, token)
    return loaded


def load_router(path: str | None, env: Mapping[str, str], flags: Flags | None = None) -> Loaded[RouterConfig]:
    """The router's configuration. ``path`` None searches for a file. Raises ConfigError (66 missing, 78 invalid, 64 flags)."""
    loaded = load(router_program(), path, env, flags)
    if any(name.startswith(("MCP_DIRECT_", "MCP_UNIVERSAL_")) for name in env):
        from mcpbridge.config.sources import with_direct_protocols

        return with_direct_protocols(loaded, env)
    return loaded


def load(program: Program[C], path: str | None, env: Mapping[str, str], flags: Flags | None = None) -> Loaded[C]:
    """Merge all sources of one program. Raises ConfigError."""
    flags = flags or Flags()
    fields = {entry.key: entry for entry in fields_of(program.config)}
    named = path or env.get("MCPBRIDGE_CONFIG") or None
    found = named or (None if flags.only_servers else find_file(program, env))
    problems: list[Problem] = []
    warnings: list[Problem] = []
    values: dict[str, Found] = {}
    origins: dict[str, Origin] = {}
    client_file = False

    def take(source: Mapping[str, Found], kind: Literal["flag", "env", "file"]) -> None:
        for key, item in source.items():
            values[key] = item
            origins[key] = Origin(kind, item.place)

    from mcpbridge.config import sources

    if found is not None:
        from mcpbridge.config.files import read_file

        content = read_file(found, program, env, trusted=named is not None)
        client_file = content.client_file
        problems += content.problems
        warnings += content.warnings
        take(content.values, "file")
    take(sources.from_guide_variables(fields, env, problems), "env")
    take(sources.from_own_variables(program, fields, env, problems), "env")
    code = EX_CONFIG
    flag_values = sources.from_flags(fields, flags, problems)
    if problems and all(problem.place.source.startswith("--") for problem in problems):
        code = EX_USAGE
    take(flag_values, "flag")
    if flags.only_servers:
        take({key: Found(value, Place("command line"), key) for key, value in program.only_servers.items()}, "flag")
    defaults = program.without_file if found is None or client_file else {}
    merged = sources.merge_servers(program, values, flags, problems)
    plain = {**defaults, **{key: item.value for key, item in values.items() if key in fields}, program.servers_key: merged}
    if flags.servers or (values.get("mcpServers") and program.servers_key not in values):
        place = Place("--server") if flags.servers else values["mcpServers"].place
        origins[program.servers_key] = Origin("flag" if flags.servers else "file", place)
    all_origins = {key: origins.get(key, Origin("default")) for key in fields}
    config = build(program.config, plain)
    problems += program.check(config, {key: origin.place for key, origin in all_origins.items()})
    if problems:
        raise ConfigError(problems, code)
    return Loaded(config, found, all_origins, warnings)


def find_file(program: Program[C], env: Mapping[str, str]) -> str | None:
    """The first existing file of the search path, or None."""
    return next(filter(os.path.isfile, search_path(program, env)), None)


def search_path(program: Program[C], env: Mapping[str, str]) -> list[str]:
    """Where a configuration is looked for that nobody names, in this order."""
    home = env.get("HOME") or os.path.expanduser("~")
    xdg = env.get("XDG_CONFIG_HOME") or (env.get("APPDATA", "") if os.name == "nt" else "") or os.path.join(home, ".config")
    patterns = [pattern.replace("{xdg}", xdg) for pattern in program.files]
    return [os.path.join(home, path[2:]) if path.startswith("~/") else path for path in patterns]


def client_servers_field() -> Field:
    """The ``mcpServers`` map, which both files may have at their top level."""
    return Field("mcpServers", Row(SERVERS, "servers as desktop clients write them"), ())


def root_table(program: Program[C]) -> dict[str, Any]:
    """The tree of keys that a file of this program may have."""
    return table_of([*fields_of(program.config), client_servers_field()])


def missing_file(path: str, why: str) -> ConfigError:
    """The error of a named file that cannot be read: exit 66."""
    return ConfigError([Problem(Place(path), why, "check the path given with --config or MCPBRIDGE_CONFIG")], EX_NOINPUT)


# -- YAML


def compose(text: str, source: str, shift: Shift | None = None) -> Node | None:
    """The node tree of one YAML document (JSON is one too); None when it is empty. Raises ConfigError with the place."""
    import yaml

    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    if text.lstrip()[:1] in ("{", "["):
        # What JSON allows and YAML does not: tabs as white space, and a character in two escapes.
        text = _PAIR.sub(lambda match: match[1] + json.loads(f'"{match[2]}"'), text.replace("\t", " "))
    if (foreign := _UNPRINTABLE.search(text)) is not None:
        line, column = text.count("\n", 0, foreign.start()) + 1, foreign.start() - text.rfind("\n", 0, foreign.start())
        place = Place(source, *(shift(line, column) if shift is not None else (line, column)))
        raise ConfigError([Problem(place, f"not valid YAML: a character U+{ord(foreign[0]):04X}, which no text has")])
    try:
        _check_depth(text, loader, source, shift)
        documents = [node for node in yaml.compose_all(text, Loader=loader) if node.tag != "tag:yaml.org,2002:null"]
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line, column = (mark.line + 1, mark.column + 1) if mark is not None else (0, 0)
        if shift is not None and line:
            line, column = shift(line, column)
        words = " ".join(part for part in (error.context, error.problem) if part)
        raise ConfigError([Problem(Place(source, line, column), f"not valid YAML: {words}")]) from None
    except yaml.YAMLError as error:
        raise ConfigError([Problem(Place(source), f"not valid YAML: {' '.join(str(error).split())}")]) from None
    if len(documents) > 1:
        maps = [document for document in documents if wrapped(document) is not None]
        if len(maps) == 1:
            return maps[0]
        mark = documents[1].start_mark
        raise ConfigError([Problem(Place(source, mark.line + 1, mark.column + 1), "a second document begins here", "keep one")])
    return documents[0] if documents else None


def _check_depth(text: str, loader: Any, source: str, shift: Shift | None) -> None:
    """Refuse what is nested too deeply before nodes are made of it: the library does that by recursion, and its half in C takes
    the process down with the stack. Raises ConfigError with the place; the library's errors pass."""
    import yaml

    depth = 0
    for event in yaml.parse(text, Loader=loader):
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        if depth > MAX_DEPTH:
            mark: Any = event.start_mark  # these events have one
            line, column = mark.line + 1, mark.column + 1
            place = Place(source, *(shift(line, column) if shift is not None else (line, column)))
            raise ConfigError([Problem(place, f"nested deeper than {MAX_DEPTH} levels: not a configuration")])


def entry_of(node: Node, key: str) -> Node | None:
    """The value of a key of a mapping node, or None."""
    if node.id != "mapping":
        return None
    return next((value for name, value in node.value if name.id == "scalar" and name.value == key), None)


def wrapped(node: Node) -> Node | None:
    """The scalar under ``data.config.yaml`` (or the only other ``*.yaml``) of a ConfigMap."""
    kind = entry_of(node, "kind")
    data = entry_of(node, "data")
    if kind is None or kind.value != "ConfigMap" or data is None or data.id != "mapping":
        return None
    named = entry_of(data, "config.yaml")
    texts = [value for name, value in data.value if str(name.value).endswith((".yaml", ".yml")) and value.id == "scalar"]
    if named is not None and named.id == "scalar":
        return named
    return texts[0] if len(texts) == 1 else None
