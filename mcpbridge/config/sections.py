"""Sections that router and gateway share: servers and their endpoints, logging.

Source: contract sections 3.1 and 3.2.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Final, Literal

from mcpbridge.config.kinds import COUNT, DURATION, ITEMS, LEVEL, MAP, NAMES, PATH, TEXTS, Kind, choice, matching, number
from mcpbridge.config.problems import Place
from mcpbridge.config.protocols import ADDRESS, PROTOCOLS, protocol_of
from mcpbridge.config.rows import Row, Section

LogLevel = Literal["trace", "debug", "info", "warn", "error"]
NAME_PATTERN = r"[A-Za-z0-9_-]{1,64}"
NAMESPACE_PATTERN = r"(?!.*\.\.)[A-Za-z0-9._-]{1,255}"

GATEWAY: Final = "gateway"
"""The name of a router's one server that is no direct one."""
NAME = matching(NAME_PATTERN, "1 to 64 letters, digits, _ or -")
_NAMESPACE = matching(NAMESPACE_PATTERN, "1 to 255 letters, digits, . _ or -, without ..")
_VARIABLE = matching(r"[A-Za-z_][A-Za-z0-9_]*", "the name of an environment variable")


def _server_url(text: str) -> str:
    if "${secret:" not in text:
        return str(ADDRESS.parse(text))
    ADDRESS.parse(re.sub(r"\$\{secret:[^}]*\}", "x", text))  # the rest is checked now, the whole when the secret is known
    return text


SERVER_URL = Kind("url", _server_url, ADDRESS.schema)


class EndpointSpec(Section, frozen=True, kw_only=True):
    """One place where a server can be reached: an address, or a command that is run without a shell.

    ``${secret:NAME}`` in url, args, env and headers is still unresolved: ``mcpbridge.secrets.resolve_endpoint``.
    """

    url: Annotated[
        str,
        Row(SERVER_URL, "address of the server: http, https, ws, wss, sse, sses, tcp, tcps, unix or pipe", late_secrets=True),
    ] = ""
    command: Annotated[str, Row(PATH, "program to run, without a shell")] = ""
    args: Annotated[tuple[str, ...], Row(TEXTS, "arguments of the command", late_secrets=True)] = ()
    env: Annotated[Mapping[str, str], Row(MAP, "variables added for the command", late_secrets=True)] = {}
    cwd: Annotated[str, Row(PATH, "directory in which the command runs")] = ""
    headers: Annotated[Mapping[str, str], Row(MAP, "HTTP headers sent with every request", late_secrets=True)] = {}
    token_env: Annotated[str, Row(_VARIABLE, "variable whose value is sent as bearer token")] = ""
    tls: Annotated[
        Mapping[str, str],
        Row(MAP, "ca_file instead of the system's authorities, cert_file and key_file of ours, verify: false for any"),
    ] = {}
    protocol: Annotated[
        Literal["auto", "stdio", "websocket", "http", "sse", "tcp_binary"],
        Row(choice("auto", *PROTOCOLS), "auto: stdio for a command, by its scheme for an address; http and https are detected"),
    ] = "auto"

    weight: Annotated[float, Row(number(0, 100), "share of calls among endpoints; 0: a last resort")] = 1.0

    @property
    def spoken(self) -> str:
        """Its protocol: a command is stdio, an address what it declares or its scheme says."""
        return "stdio" if self.command else protocol_of(self.url, self.protocol)

    @property
    def target(self) -> str:
        """The endpoint for people: its address without query, or its command line's program."""
        return self.url.partition("?")[0] if self.url else self.command


class Tools(Section, frozen=True, kw_only=True):
    """Which tools of a server clients see, and under which names."""

    allow: Annotated[tuple[str, ...], Row(TEXTS, "tools that are shown, by their own names; * and ? stand for others")] = ()
    deny: Annotated[tuple[str, ...], Row(TEXTS, "tools that are hidden and cannot be called, likewise; wins over allow")] = ()
    rename: Annotated[Mapping[str, str], Row(NAMES, "own name: name that clients see")] = {}


class ServerSpec(Section, frozen=True, kw_only=True):
    """A named MCP server behind the bridge, with one or more equal endpoints."""

    name: Annotated[str, Row(NAME, "unique name; prefix of its tools")]
    namespace: Annotated[str, Row(_NAMESPACE, "group of servers; names are unique within it")] = "default"
    isolation: Annotated[
        Literal["principal", "shared", "session"],
        Row(choice("principal", "shared", "session"), "who shares a child or a backend session"),
    ] = "principal"
    max_children: Annotated[int, Row(COUNT, "children of one stdio server; above: wait, then an error")] = 20
    idle_timeout: Annotated[float, Row(DURATION, "idle child or backend session is closed; 0: never")] = 0.0
    endpoints: Annotated[
        tuple[EndpointSpec, ...], Row(ITEMS, "where it can be reached; url or command may stand beside name", item=EndpointSpec)
    ] = ()
    tools: Tools = Tools()
    place: Place = Place()  # where it was written, for messages; no row
    source: str = "static"  # who found it; no row


class Logging(Section, frozen=True, kw_only=True):
    """Log lines on stderr."""

    level: Annotated[LogLevel, Row(LEVEL, "trace debug info warn error", env=("MCP_LOGGING_LEVEL",))] = "info"
    format: Annotated[Literal["json", "text"], Row(choice("json", "text"), "json: one object per line; text: for people")] = (
        "json"
    )
