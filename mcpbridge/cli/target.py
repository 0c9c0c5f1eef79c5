"""How commands are told which server they are about: an address, a command behind ``--``, or ``--server NAME=...``.

Source: contract section 1.1 (``cli.mcp-client``, ``cli.test.*``).
"""

from __future__ import annotations

import argparse
import os
import re
from typing import NamedTuple

from mcpbridge.cli.parsing import Parser
from mcpbridge.cli.servers import named_servers
from mcpbridge.config.kinds import parse_duration
from mcpbridge.config.protocols import PROTOCOLS, misfit
from mcpbridge.config.sections import ServerSpec
from mcpbridge.config.servers import ad_hoc, changed, endpoint_fault

_BARE = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+):\d{1,5}").fullmatch
_BARE_SCHEMES = {"websocket": "ws", "tcp_binary": "tcp"}


class Split(NamedTuple):
    """A command line cut at ``--``: own arguments, and the command behind it if there is one."""

    own: list[str]
    command: list[str] | None


def split(arguments: list[str]) -> Split:
    """Cut at the first ``--``."""
    if "--" not in arguments:
        return Split(arguments, None)
    cut = arguments.index("--")
    return Split(arguments[:cut], arguments[cut + 1 :])


def add_reach(parser: Parser) -> None:
    """The options of every command that talks to a server."""
    names = ", ".join(PROTOCOLS)
    parser.add_argument("--protocol", default="auto", metavar="NAME", help=f"{names} or auto (default)")
    parser.add_argument("--server", default=None, metavar="NAME=URL|CMD", help="in place of an address, as the router has it")
    parser.add_argument("--header", action="append", default=[], metavar="'NAME: VALUE'", help="sent along; repeatable")
    parser.add_argument("--token-env", default="", metavar="VARIABLE", help="variable whose value is sent as bearer token")
    parser.add_argument("--timeout", default="10s", metavar="TIME", help="for each step or call, such as 500ms or 2m (10s)")
    parser.add_argument("--json", action="store_true", help="one JSON document on stdout")


def timeout_of(parser: Parser, options: argparse.Namespace) -> float:
    """Seconds of ``--timeout``; exits with 64."""
    try:
        seconds = parse_duration(options.timeout)
    except ValueError as error:
        parser.error(f"--timeout must be {error}, not {options.timeout!r}")
    if seconds <= 0:
        parser.error("--timeout must be more than 0")
    return seconds


def server_of(parser: Parser, options: argparse.Namespace, address: str | None, command: list[str] | None) -> ServerSpec:
    """The server a command line names, with its options; exits with 64 and the next step."""
    if options.server is not None:
        if address is not None or command is not None:
            parser.error("--server is an address or a command already; leave out the other one")
        return _checked(parser, named_servers(parser, [options.server])[0], options)
    if (address is None) == (command is None):
        parser.error("give an address, or a command after --" if address is None else "give either an address or a command")
    check_protocol(parser, options.protocol)
    if address is not None and address.startswith("/"):
        address = f"unix://{address}"
    if address is not None and _BARE(address):  # a protocol that none names is found out behind http://
        address = f"{_BARE_SCHEMES.get(options.protocol, 'http')}://{address}"
    if address is not None and "://" not in address:
        parser.error(f"{address!r} is no address; one begins with http://, ws://, tcp:// or unix://, or is HOST:PORT")
    try:
        spec = ad_hoc(address or "", command or ())
    except ValueError as error:
        parser.error(str(error))
    return _checked(parser, spec, options)


def _checked(parser: Parser, spec: ServerSpec, options: argparse.Namespace) -> ServerSpec:
    endpoint = spec.endpoints[0]
    if endpoint.url and (why := misfit(endpoint.url, options.protocol)):
        parser.error(why)
    if endpoint.command and options.protocol not in ("auto", "stdio"):
        parser.error(f"a command is reached over stdio, not {options.protocol}")
    return _with(parser, spec, options)


def check_protocol(parser: Parser, name: str) -> None:
    """Exit with 64 and the list when no protocol has this name."""
    if name not in (*PROTOCOLS, "auto"):
        parser.error(f"--protocol {name!r}: one of {', '.join(PROTOCOLS)} or auto")


def _with(parser: Parser, spec: ServerSpec, options: argparse.Namespace) -> ServerSpec:
    headers: dict[str, str] = {}
    for line in options.header:
        name, colon, value = line.partition(":")
        if not colon or not name.strip():
            parser.error(f"--header needs 'NAME: VALUE', not {line[:40]!r}")
        headers[name.strip()] = value.strip()
    if options.token_env and not os.environ.get(options.token_env):
        parser.error(f"--token-env: the variable {options.token_env} is not set")
    if spec.endpoints[0].url:
        spec = changed(spec, protocol=options.protocol, headers=headers, token_env=options.token_env)
    elif headers or options.token_env:
        parser.error("--header and --token-env belong to an address, not to a command")
    if why := endpoint_fault(spec.endpoints[0]):
        parser.error(why)
    return spec
