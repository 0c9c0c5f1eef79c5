"""``--server NAME=URL|CMD`` of router and gateway."""

from __future__ import annotations

from mcpbridge.cli.parsing import Parser
from mcpbridge.config.sections import ServerSpec
from mcpbridge.config.servers import parse_server


def named_servers(parser: Parser, texts: list[str]) -> list[ServerSpec]:
    """The servers of all ``--server`` options; exits with 64 when one is wrong."""
    servers: list[ServerSpec] = []
    for text in texts:
        try:
            server = parse_server(text)
        except ValueError as error:
            parser.error(str(error))
        if any(server.name == other.name for other in servers):
            parser.error(f"--server: two servers are named {server.name!r}")
        servers.append(server)
    return servers
