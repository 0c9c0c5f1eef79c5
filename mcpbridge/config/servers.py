"""Servers as people write them: our own list, the ``mcpServers`` map of clients, ``--server NAME=...`` and ad hoc forms.

Source: contract sections 1.1 (``cli.server``, ``cli.router.command``, ``cli.router.url``) and 3 (``config.mcpservers``).
"""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Mapping, Sequence
from typing import Any, Literal
from urllib.parse import urlsplit

from msgspec.structs import replace

from mcpbridge.config.kinds import BOOL, TEXT
from mcpbridge.config.protocols import SECURE, misfit
from mcpbridge.config.rows import Field, Row, build, fields_of
from mcpbridge.config.sections import NAME_PATTERN, SERVER_URL, EndpointSpec, ServerSpec, Tools
from mcpbridge.config.walk import Found, Node, Reader, Unset, suggestion, table_of

_OURSELVES = frozenset(("mcpbridge", "mcp-router", "mcp-gateway"))
_RUNNER = re.compile(
    r"npx|npm|pnpx|pnpm|bunx|bun|uvx|uv|pipx|node|deno|python[\d.]*|py|sh|bash|env|docker|podman|cmd|run|tool|exec|x|dlx"
)
_HEADER_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
_TOOL_NAME = re.compile(r"[A-Za-z0-9_./-]{1,128}").fullmatch  # MCP 2025-11-25, tool names
_TLS_KEYS = ("ca_file", "cert_file", "key_file", "verify")
_CLIENT_TYPES: dict[str, Literal["http", "websocket", "sse"]] = {
    **dict.fromkeys(("http", "streamable-http", "streamablehttp", "streamable_http"), "http"),
    **dict.fromkeys(("websocket", "ws"), "websocket"),
    "sse": "sse",
}  # how clients spell the transport of an address
_CLIENT_KEYS = frozenset((
    "command", "args", "env", "cwd", "url", "serverUrl", "httpUrl", "headers", "type", "transport", "disabled", "enabled",
    "alwaysAllow", "autoApprove", "disabledTools", "timeout", "description", "trust", "gallery", "version", "tools", "name",
))  # fmt: skip


def read(reader: Reader, node: Node, written: str) -> tuple[ServerSpec, ...]:
    """A ``servers`` value: our list, or a map as desktop clients write it. Raises ValueError after noting faults."""
    if node.id == "mapping":
        return _read_map(reader, node, written)
    if node.id != "sequence":
        reader.fault(node, "must be a list of servers", key=written)
        raise ValueError(written)
    entries = []
    before = len(reader.problems)
    shorthand = table_of(fields_of(EndpointSpec))
    for number, item in enumerate(node.value):
        path = f"{written}[{number}]"
        values = reader.section(item, ServerSpec, path, shorthand)
        if values is None:
            continue
        own = {key: found for key, found in values.items() if key in shorthand}
        if own and "endpoints" in values:
            reader.fault(item, f"{', '.join(own)} and endpoints are both given", "move them into endpoints", path)
            continue
        if own:
            endpoints: tuple[EndpointSpec, ...] = (build(EndpointSpec, _plain(own)),)
        else:
            endpoints = values["endpoints"].value if "endpoints" in values else ()
        if not endpoints:
            reader.fault(item, "neither url nor command is given", "add url: or command:, or endpoints:", path)
        for endpoint in endpoints:
            if why := endpoint_fault(endpoint):
                reader.fault(item, why, key=path)
        spec = {key: found for key, found in values.items() if key not in shorthand and key != "endpoints"}
        server = build(ServerSpec, _plain(spec))
        if why := _names_fault(server.tools):
            reader.fault(item, why, key=f"{path}.tools.rename")
        entries.append(replace(server, endpoints=endpoints, place=reader.place(item)))
    if len(reader.problems) > before:
        raise ValueError(written)
    return tuple(entries)


def _plain(values: Mapping[str, Found]) -> dict[str, Any]:
    return {key: found.value for key, found in values.items()}


def endpoint_fault(endpoint: EndpointSpec) -> str:
    """What is wrong with an endpoint as a whole, or ""."""
    if bool(endpoint.url) == bool(endpoint.command):
        return "url and command are both given" if endpoint.url else "neither url nor command is given"
    if endpoint.url and (why := misfit(endpoint.url, endpoint.protocol)):
        return why
    if endpoint.command and endpoint.protocol not in ("auto", "stdio"):
        return f"protocol {endpoint.protocol} needs a url, not a command"
    foreign = (endpoint.args or endpoint.env or endpoint.cwd) if endpoint.url else (endpoint.headers or endpoint.token_env)
    if foreign:
        return "args, env and cwd belong to a command" if endpoint.url else "headers and token_env belong to a url"
    if endpoint.tls and (why := _tls_fault(endpoint)):
        return why
    for name, value in endpoint.headers.items():
        if _HEADER_NAME.fullmatch(name) is None or re.search(r"[\x00-\x08\x0a-\x1f\x7f]", value):
            return f"header {name!r} is not a legal HTTP header"
    for name, value in endpoint.env.items():
        if not name or "=" in name or "\0" in name + value:
            return f"{name!r} cannot be the name of a variable"
    return ""


def _names_fault(tools: Tools) -> str:
    """What is wrong with the new names of tools, or ""."""
    shown = list(tools.rename.values())
    twice = next((name for name in shown if shown.count(name) > 1), None)
    if twice is not None:
        return f"two tools cannot both be named {twice!r}"
    wrong = next((name for name in shown if not _TOOL_NAME(name)), None)
    return "" if wrong is None else f"{wrong!r} is no name for a tool: 1 to 128 letters, digits, _ - . or /"


def _tls_fault(endpoint: EndpointSpec) -> str:
    """What is wrong with the TLS keys of an endpoint, or "". Whether the files can be used is seen when they are."""
    if urlsplit(endpoint.url).scheme not in SECURE:
        return f"tls belongs to an address with {', '.join(SECURE)}"
    unknown = [key for key in endpoint.tls if key not in _TLS_KEYS]
    if unknown:
        return f"tls.{unknown[0]} is unknown; there are {', '.join(_TLS_KEYS)}"
    if ("cert_file" in endpoint.tls) != ("key_file" in endpoint.tls):
        return "tls.cert_file and tls.key_file belong together"
    if endpoint.tls.get("verify", "true") not in ("true", "false"):
        return "tls.verify must be true or false"
    return ""


# -- the map of desktop clients


def _read_map(reader: Reader, node: Node, key: str) -> tuple[ServerSpec, ...]:
    entries: list[ServerSpec] = []
    before = len(reader.problems)
    for name, key_node, item in reader.pairs(node, key):
        path = f"{key}.{name}"
        if item.id != "mapping":
            reader.fault(item, "must be a mapping with command or url", key=path)
            continue
        entry = _client_entry(reader, name, key_node, item, path)
        if entry is not None:
            entries.append(entry)
    if len(reader.problems) > before:
        raise ValueError(key)
    return tuple(entries)


def _client_entry(reader: Reader, name: str, key_node: Node, node: Node, path: str) -> ServerSpec | None:
    """One entry of ``mcpServers``; None when it is switched off, is ourselves, or has faults."""
    rows = {field.key: field for field in fields_of(EndpointSpec)}
    flag, text, url = (Field(path, Row(kind, ""), None) for kind in (BOOL, TEXT, SERVER_URL))
    url = url._replace(row=url.row._replace(late_secrets=True))
    readers = {
        **{key: rows[key] for key in ("command", "args", "env", "cwd", "headers")},
        **dict.fromkeys(("url", "serverUrl", "httpUrl"), url),
        **dict.fromkeys(("disabled", "enabled"), flag),
        **dict.fromkeys(("type", "transport"), text),
    }
    before = len(reader.problems)
    given: dict[str, Any] = {}
    pairs = list(reader.pairs(node, path))
    for key, _, value in pairs:  # a server that is switched off may be broken
        if key in ("disabled", "enabled"):
            try:
                given[key] = reader.value(flag, value, f"{path}.{key}")
            except (Unset, ValueError):
                continue
    if given.get("disabled") or given.get("enabled") is False:
        return None
    for key, inner, value in pairs:
        if key not in _CLIENT_KEYS:
            hint = suggestion(key, readers)
            reader.warn(inner, f"{key} is not used by mcpbridge", hint, path)
        elif key in readers and key not in given:
            try:
                given[key] = reader.value(readers[key], value, f"{path}.{key}")
            except (Unset, ValueError):
                continue
    if len(reader.problems) > before:
        return None
    if is_ourselves(given.get("command", ""), given.get("args", ())):
        reader.warn(key_node, "this is mcpbridge itself; skipped", key=path)
        return None
    transport = str(given.get("type", given.get("transport", ""))).lower()
    endpoint = EndpointSpec(
        url=given.get("httpUrl") or given.get("url") or given.get("serverUrl") or "",
        command=given.get("command", ""),
        args=given.get("args", ()),
        env=given.get("env", {}) if "command" in given else {},
        cwd=given.get("cwd", "") if "command" in given else "",
        headers=given.get("headers", {}) if "command" not in given else {},
        protocol=_CLIENT_TYPES.get(transport, "auto") if "command" not in given else "auto",
    )
    if why := endpoint_fault(endpoint):
        misspelled = [(inner, suggestion(key, ("command", "url"))) for key, inner, _ in pairs if key not in _CLIENT_KEYS]
        node, hint = next((found for found in misspelled if found[1]), (key_node, "give either command or url"))
        reader.fault(node, why, hint, path)
        return None
    legal = legal_name(name)
    if legal != name:
        reader.warn(key_node, f"the name is shown as {legal}", key=path)
    return ServerSpec(name=legal, endpoints=(endpoint,), place=reader.place(key_node))


def is_ourselves(command: str, args: Sequence[str]) -> bool:
    """Whether a command line starts mcpbridge: a bridge that lists itself as its own server would never end."""
    if _program(command) in _OURSELVES:
        return True
    if _RUNNER.fullmatch(_program(command)) is None:
        return False
    for argument in args:
        word = _program((argument.split() or [""])[0])
        if argument.startswith("-") or _RUNNER.fullmatch(word) or argument.lower() in ("/c", "/k"):
            continue
        # the first word that is no option is what is run
        return word in _OURSELVES or re.fullmatch(r"mcpbridge(\[[^\]]*\])?[=@~<>!].*", argument) is not None
    return False


def _program(command: str) -> str:
    base = re.split(r"[\\/]", command)[-1].lower()
    return re.sub(r"\.(exe|pyz|py|cmd|bat)$", "", base)


def legal_name(text: str) -> str:
    """A server name made of any text: other characters become ``-``, at most 64 remain."""
    return re.sub(r"[^A-Za-z0-9_-]+", "-", text).strip("-")[:64] or "server"


# -- the command line


def parse_server(text: str) -> ServerSpec:
    """``NAME=URL`` or ``NAME=COMMAND ARGS`` of ``--server``; the command is split like a shell would, and run without one.

    Raises ValueError with the cause.
    """
    name, equals, value = text.partition("=")
    if not equals or re.fullmatch(NAME_PATTERN, name) is None:
        raise ValueError(
            f"--server needs NAME=URL or NAME=COMMAND, with 1 to 64 letters, digits, _ or - as NAME: {text[:60]!r}"
        )
    value = value.strip()
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]*://", value):
        return ServerSpec(name=name, endpoints=(address(value),))
    try:
        words = shlex.split(value, posix=os.name != "nt")
    except ValueError as error:
        raise ValueError(f"--server {name}: the command cannot be split: {error}") from None
    if not words:
        raise ValueError(f"--server {name}: after = an address or a command is needed")
    return ServerSpec(name=name, endpoints=(EndpointSpec(command=os.path.expanduser(words[0]), args=tuple(words[1:])),))


def address(url: str) -> EndpointSpec:
    """The endpoint of an address from the command line. Raises ValueError with the cause."""
    try:
        endpoint = EndpointSpec(url=str(SERVER_URL.parse(url)))
    except ValueError as error:
        raise ValueError(f"{url.partition('?')[0][:100]!r} must be {error}") from None
    if why := endpoint_fault(endpoint):
        raise ValueError(f"{endpoint.target}: {why}")
    return endpoint


def ad_hoc(url: str = "", command: Sequence[str] = ()) -> ServerSpec:
    """The one server of ``router URL`` and ``router -- CMD ARGS``, with a name for messages. Raises ValueError."""
    if url:
        endpoint = address(url)
        parts = urlsplit(url)
        return ServerSpec(name=legal_name(parts.netloc or os.path.basename(parts.path)), endpoints=(endpoint,))
    if not command or not command[0]:
        raise ValueError("after -- a command is needed")
    return ServerSpec(
        name=legal_name(_spoken_name(command)), endpoints=(EndpointSpec(command=command[0], args=tuple(command[1:])),)
    )


def changed(spec: ServerSpec, **members: Any) -> ServerSpec:
    """The same server with members of its first endpoint changed, and with that endpoint only."""
    return replace(spec, endpoints=(replace(spec.endpoints[0], **members),))


def _spoken_name(command: Sequence[str]) -> str:
    """What people call the server that a command starts: ``server-git`` for ``npx -y @scope/server-git@1.2``."""
    for word in command:
        program = _program(word)
        if word.startswith("-") or _RUNNER.fullmatch(program):
            continue
        return re.sub(r"(?<=.)@.*$", "", program)
    return _program(command[0])
