"""``mcpbridge router``: arguments to a RouterConfig, then the wiring. Without arguments not even argparse is imported.

Source: contract section 1.1 (``cli.router.*``, ``cli.server``).
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from mcpbridge.config.load import Flags, load_router
from mcpbridge.config.problems import ConfigError
from mcpbridge.config.protocols import PROTOCOLS

if TYPE_CHECKING:
    from mcpbridge.cli.parsing import Parser


def run(name: str, arguments: list[str]) -> int:
    """Serve one client; the exit status."""
    program = name if name == "mcp-router" else "mcpbridge router"
    path, flags, mode = _flags(program, arguments) if arguments else (None, Flags(), None)
    from mcpbridge.cli.complaints import complain, is_terminal

    try:
        loaded = load_router(path, os.environ, flags)
    except ConfigError as error:
        return complain(program, error, json_lines=not is_terminal())
    from mcpbridge.errors import BridgeError
    from mcpbridge.router import direct_only
    from mcpbridge.router import main as serve

    try:
        return serve(loaded if mode is None else direct_only(loaded, mode))
    except (BridgeError, ConfigError) as error:
        return complain(program, error, json_lines=not is_terminal())


def _flags(program: str, arguments: list[str]) -> tuple[str | None, Flags, str | None]:
    parser = _parser(program)
    own, command = arguments, None
    if "--" in arguments:
        cut = arguments.index("--")
        own, command = arguments[:cut], arguments[cut + 1 :]
    options = parser.parse(own)
    url: str | None = options.url
    if url is not None and "://" not in url:
        parser.error(f"{url!r} is no address. To run it as a command: {program} -- {url} ...")
    if url is not None and command is not None:
        parser.error("give either an address or a command after --")
    if (url is not None or command is not None) and options.server:
        parser.error("--server names one of several servers; an address or a command after -- is the only one")
    from mcpbridge.cli.servers import named_servers
    from mcpbridge.config.servers import ad_hoc

    servers = named_servers(parser, options.server)
    if url is not None or command is not None:
        try:
            servers = [ad_hoc(url or "", command or ())]
        except ValueError as error:
            parser.error(str(error))
    values = {"logging.level": options.log_level} if options.log_level else {}
    if options.direct_mode is not None and options.direct_mode not in PROTOCOLS:
        parser.error(f"--direct-mode {options.direct_mode!r}: one of {', '.join(PROTOCOLS)}")
    flags = Flags(values, servers, only_servers=url is not None or command is not None)
    return options.config, flags, options.direct_mode


def _parser(program: str) -> Parser:
    from mcpbridge.cli.parsing import Parser

    parser = Parser(
        program,
        "Serve one MCP client on stdin and stdout. Direct servers are used first, then the gateway.",
        [
            (f"{program}", "servers and gateway of the configuration file"),
            (f"{program} -- npx -y @modelcontextprotocol/server-memory", "one command, no file"),
            (f"{program} https://example.com/mcp", "one address, no file"),
            (f"{program} --server a=http://localhost:8081/mcp --server 'b=uvx mcp-server-time'", "several"),
            (f"{program} --config router.yaml --log-level debug", "a file, more to read on stderr"),
        ],
    )
    parser.usage = (
        f"{program} [--config FILE] [--server NAME=URL|CMD]... [--log-level LEVEL] [--direct-mode PROTOCOL]"
        " [URL | -- CMD [ARGS...]]"
    )
    parser.add_config()
    parser.add_servers()
    parser.add_argument("--direct-mode", metavar="PROTOCOL", help="no gateway; only direct servers of this protocol")
    parser.add_argument(
        "url",
        nargs="?",
        metavar="URL",
        help="the only server: http, ws, sse, tcp (with TLS: https, wss, sses, tcps), unix or pipe",
    )
    return parser
