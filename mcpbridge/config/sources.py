"""The sources besides the file: variables of the guide, ``MCPBRIDGE_<KEY__PATH>``, flags; and servers from all of them.

Source: contract sections 3 and 4.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import msgspec

from mcpbridge.config import servers
from mcpbridge.config.kinds import parse_bool
from mcpbridge.config.load import C, Flags, Loaded, Origin, Program, compose, gateway_program, router_program
from mcpbridge.config.problems import ConfigError, Place, Problem
from mcpbridge.config.protocols import PROTOCOLS
from mcpbridge.config.rows import Field, fields_of
from mcpbridge.config.sections import ServerSpec
from mcpbridge.config.walk import Found, Node, Reader, Unset, suggestion
from mcpbridge.observe.redact import conceal

if TYPE_CHECKING:
    from mcpbridge.config.gateway import GatewayConfig
    from mcpbridge.config.router import RouterConfig

_PREFIX = "MCPBRIDGE_"


def _from_text(entry: Field, text: str, source: str, env: Mapping[str, str], problems: list[Problem]) -> Any:
    """The value of a variable or flag; lists may be written with commas, lists of mappings as JSON or YAML. Raises ValueError
    or Unset after noting the fault."""
    kind = entry.row.kind
    if kind.form == "texts" and not text.lstrip().startswith("["):
        if entry.row.secret:
            return (text,)  # one key; a comma may be part of it
        return tuple(part.strip() for part in text.split(",") if part.strip())
    if kind.form == "scalar":
        try:
            return kind.parse(text)
        except ValueError as error:
            shown = "" if entry.row.secret else f", not {text[:60]!r}"
            problems.append(Problem(Place(source), f"{entry.key} must be {error}{shown}", key=entry.key))
            raise
    reader = Reader(source, env)
    reader.read_servers = servers.read
    try:
        node: Node = compose(text, source)
        return reader.value(entry, node, entry.key)
    except ConfigError as error:
        problems += [problem._replace(place=Place(source), key=entry.key) for problem in error.problems]
        raise ValueError(source) from None
    finally:
        problems += [problem._replace(place=Place(source)) for problem in reader.problems]


def as_variable(entry: Field) -> Field:
    """The key as the guide's variables write it."""
    kind = entry.row.env_kind
    return entry if kind is None else entry._replace(row=entry.row._replace(kind=kind))


def from_guide_variables(fields: Mapping[str, Field], env: Mapping[str, str], problems: list[Problem]) -> dict[str, Found]:
    """The table of section 4. Two variables of one key with different values are a fault."""
    found: dict[str, Found] = {}
    for key, entry in fields.items():
        for variable in entry.row.env:
            if not env.get(variable):
                continue
            try:
                value = _from_text(as_variable(entry), env[variable], variable, env, problems)
            except (ValueError, Unset):
                continue
            if key in found and found[key].value != value:
                problems.append(
                    Problem(Place(variable), f"{variable} and {found[key].written} set {key} to two values", "keep one", key)
                )
            found.setdefault(key, Found(value, Place(variable), variable))
            _hide(entry, value)
    return found


def from_own_variables(
    program: Program[C], fields: Mapping[str, Field], env: Mapping[str, str], problems: list[Problem]
) -> dict[str, Found]:
    """``MCPBRIDGE_<KEY__PATH>``; a name with ``__`` that no program knows is a fault."""
    by_variable = {entry.variable: entry for entry in fields.values() if entry.variable}
    found: dict[str, Found] = {}
    for variable, text in env.items():
        if not variable.startswith(_PREFIX) or "__" not in variable or not text:
            continue
        entry = by_variable.get(variable)
        if entry is None:
            other = gateway_program() if program.name == "router" else router_program()
            foreign = {entry.variable for entry in fields_of(other.config)}
            if variable not in foreign:
                hint = suggestion(variable, [*by_variable, *foreign])
                problems.append(Problem(Place(variable), "sets no known key", hint, variable))
            continue
        try:
            value = _from_text(entry, text, variable, env, problems)
        except (ValueError, Unset):
            continue
        found[entry.key] = Found(value, Place(variable), variable)
        _hide(entry, value)
    return found


def from_flags(fields: Mapping[str, Field], flags: Flags, problems: list[Problem]) -> dict[str, Found]:
    """The values of flags by key, faults noted with the flag's spelling."""
    found: dict[str, Found] = {}
    for key, text in flags.values.items():
        name = flags.names.get(key, f"--{key.rpartition('.')[2].replace('_', '-')}")
        try:
            found[key] = Found(_from_text(fields[key], text, name, {}, problems), Place(name), name)
        except (ValueError, Unset):
            continue
    return found


def _hide(entry: Field, value: Any) -> None:
    if entry.row.secret:
        for text in value if isinstance(value, tuple) else (value,):
            conceal(str(text))


def merge_servers(
    program: Program[C], values: Mapping[str, Found], flags: Flags, problems: list[Problem]
) -> tuple[ServerSpec, ...]:
    """The list of the rows, the ``mcpServers`` map, and those of flags, which replace a server of the same name."""
    if flags.only_servers:
        return tuple(flags.servers)
    merged: dict[tuple[str, str], ServerSpec] = {}
    for key in (program.servers_key, "mcpServers"):
        for spec in values[key].value if key in values else ():
            name = (spec.namespace, spec.name)
            if name in merged:
                earlier = merged[name].place
                where = f"line {earlier.line}" if earlier.source == spec.place.source else str(earlier)
                problems.append(
                    Problem(
                        spec.place, f"{key}: two servers are named {spec.name!r}; the first is on {where}", "rename one", key
                    )
                )
            merged.setdefault(name, spec)
    for spec in flags.servers:
        merged[spec.namespace, spec.name] = spec
    return tuple(merged.values())


def with_token_of_environment(loaded: Loaded[GatewayConfig], token: str) -> Loaded[GatewayConfig]:
    """MCP_AUTH_TOKEN at the gateway: one more static token, unless it is a JWT or too short to be one."""
    from mcpbridge.config.gateway import MCP_SCOPES, StaticToken  # not before a gateway is loaded

    conceal(token)
    place = Place("MCP_AUTH_TOKEN")
    if token.count(".") == 2:
        return loaded
    if len(token) < 32 or not (token.isascii() and token.isprintable() and " " not in token):
        warning = Problem(place, "not used as a sign-in token: it needs at least 32 visible ASCII characters")
        return Loaded(loaded.config, loaded.path, loaded.origins, [*loaded.warnings, warning])
    auth = loaded.config.auth
    added = StaticToken(name="env", token=token, scopes=MCP_SCOPES)
    if any(existing.name == "env" for existing in auth.static_tokens):
        problem = Problem(place, "auth.static_tokens has a token named env already", "rename it", "auth.static_tokens")
        raise ConfigError([problem])
    auth = msgspec.structs.replace(auth, static_tokens=(*auth.static_tokens, added))
    origins = {**loaded.origins, "auth.static_tokens": Origin("env", place)}
    return Loaded(msgspec.structs.replace(loaded.config, auth=auth), loaded.path, origins, loaded.warnings)


UNIVERSAL = "MCP_UNIVERSAL_PROTOCOLS_ENABLED"


def _is_universal(env: Mapping[str, str]) -> bool:
    """Whether all protocols may be used. Raises ConfigError."""
    try:
        return parse_bool(env.get(UNIVERSAL) or "true")
    except ValueError as error:
        raise ConfigError([Problem(Place(UNIVERSAL), f"must be {error}, not {env[UNIVERSAL][:60]!r}")]) from None


def with_universal_protocols(loaded: Loaded[GatewayConfig], env: Mapping[str, str]) -> Loaded[GatewayConfig]:
    """``MCP_UNIVERSAL_PROTOCOLS_ENABLED``: false leaves WebSocket and HTTP towards clients. Raises ConfigError."""
    if _is_universal(env):
        return loaded
    origins = dict(loaded.origins)
    protocols = loaded.config.server.protocols
    for name in ("stdio", "sse", "tcp_binary"):
        key = f"server.protocols.{name}.enabled"
        if origins[key].kind not in ("flag", "env"):
            origins[key] = Origin("env", Place(UNIVERSAL))
            section = msgspec.structs.replace(getattr(protocols, name), enabled=False)
            protocols = msgspec.structs.replace(protocols, **{name: section})
    server = msgspec.structs.replace(loaded.config.server, protocols=protocols)
    return Loaded(msgspec.structs.replace(loaded.config, server=server), loaded.path, origins, loaded.warnings)


def with_direct_protocols(loaded: Loaded[RouterConfig], env: Mapping[str, str]) -> Loaded[RouterConfig]:
    """``MCP_DIRECT_<PROTOCOL>_ENABLED``: each adds or removes one of ``direct_clients.protocols``, of which
    ``MCP_UNIVERSAL_PROTOCOLS_ENABLED: false`` leaves stdio. Raises ConfigError."""
    key = "direct_clients.protocols"
    if loaded.origins[key].kind in ("flag", "env"):
        return loaded  # said as a whole by what counts more
    direct = loaded.config.direct_clients
    protocols, problems, place = set(direct.protocols), [], Place()
    if not _is_universal(env):
        protocols, place = {"stdio"}, Place(UNIVERSAL)
    for name in PROTOCOLS:
        variable = f"MCP_DIRECT_{name.upper()}_ENABLED"
        if not env.get(variable):
            continue
        place = Place(variable)
        try:
            (protocols.add if parse_bool(env[variable]) else protocols.discard)(name)
        except ValueError as error:
            problems.append(Problem(place, f"must be {error}, not {env[variable][:60]!r}", key=key))
    if problems:
        raise ConfigError(problems)
    if not place.source:
        return loaded
    direct = msgspec.structs.replace(direct, protocols=tuple(name for name in PROTOCOLS if name in protocols))
    origins = {**loaded.origins, key: Origin("env", place)}
    return Loaded(msgspec.structs.replace(loaded.config, direct_clients=direct), loaded.path, origins, loaded.warnings)
