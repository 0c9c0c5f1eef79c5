"""``mcpbridge gateway``: arguments to a GatewayConfig, then the wiring.

Source: contract section 1.1 (``cli.gateway.*``, ``cli.server``).
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from mcpbridge.cli.complaints import complain, is_terminal
from mcpbridge.cli.parsing import Parser
from mcpbridge.cli.servers import named_servers
from mcpbridge.config.load import Flags, Loaded, load_gateway
from mcpbridge.config.problems import ConfigError
from mcpbridge.errors import BridgeError

if TYPE_CHECKING:
    from mcpbridge.config.gateway import GatewayConfig


def run(name: str, arguments: list[str]) -> int:
    """Serve many clients, or with ``--check`` only look; the exit status."""
    program = name if name == "mcp-gateway" else "mcpbridge gateway"
    parser = Parser(
        program,
        "Serve many MCP clients: by HTTP (/mcp, one server at /mcp/NAME), WebSocket (/ws), HTTP+SSE (/events),"
        "\nMCPB frames (port 8444) and a unix socket."
        "\nWithout a configuration file it listens on 127.0.0.1:8443 only, without TLS and without sign-in.",
        [
            (f"{program} --server time='uvx mcp-server-time' --server docs=https://example.com/mcp", "no file"),
            (f"{program} --config gateway.yaml", "a file"),
            (f"{program} --config gateway.yaml --check", "only check that it could start"),
        ],
    )
    parser.add_config()
    parser.add_servers()
    parser.add_argument("--check", action="store_true", help="check configuration and certificates, then exit: 0, 66 or 78")
    options = parser.parse(arguments)
    values = {"logging.level": options.log_level} if options.log_level else {}
    flags = Flags(values, named_servers(parser, options.server))

    def load() -> Loaded[GatewayConfig]:
        return load_gateway(options.config, os.environ, flags)

    try:
        loaded = load()
        from mcpbridge.config.gateway import start_problems

        if problems := start_problems(loaded.config, loaded.places):
            raise ConfigError(problems)
    except ConfigError as error:
        return complain(program, error, json_lines=not options.check and not is_terminal())
    if options.check:
        for warning in loaded.warnings:
            print(f"warning: {warning}")
        print(f"{loaded.path or 'embedded default'}: ok")
        return 0
    from mcpbridge.gateway import main as serve

    try:
        return serve(loaded, load)
    except (BridgeError, ConfigError) as error:
        return complain(program, error, json_lines=not is_terminal())
