"""``mcpbridge status`` and ``mcpbridge tui``: a running gateway, or the routers of this machine, from outside.

Source: contract section 1.1 (``cli.status``, ``cli.tui``).
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from typing import TYPE_CHECKING

from mcpbridge.cli.outcomes import EX_UNREACHABLE
from mcpbridge.cli.parsing import Parser
from mcpbridge.config.kinds import parse_duration, split_host_port
from mcpbridge.config.load import load_gateway
from mcpbridge.config.problems import ConfigError

if TYPE_CHECKING:
    import argparse

    from mcpbridge.admin.routers import Router

SCREENS = ("overview", "protocols", "backends", "pools", "balancer", "events")
DEFAULT_URL = "http://127.0.0.1:9090"


def status(name: str, arguments: list[str]) -> int:
    """Print the snapshot and a line for each local router; 0 ok, 1 degraded, 2 down or unreachable."""
    parser = window_parser(
        f"{name} status",
        "What a running gateway says of itself, and the routers that clients on this machine have started."
        "\nExit 0: ok, 1: degraded, 2: down or unreachable; where no gateway is configured, the worst of the routers.",
        [(f"{name} status", "the gateway on this machine"), (f"{name} status --json", "the document of GET /api/v1/status"),
         (f"{name} status --gateway https://gateway.example.com", "another one"),
         (f"{name} status --routers", "the routers only: process id, state, client, servers"),
         (f"{name} status --router 4711", "everything one of them says")],
    )  # fmt: skip
    parser.add_argument("--routers", action="store_true", help="the routers of this machine only")
    parser.add_argument("--json", action="store_true", help="one JSON document")
    options = parser.parse(arguments)
    if options.routers:
        if options.gateway or options.router is not None:
            parser.error("--routers is about all of this machine; leave out --gateway and --router")
        return _routers(options.json)
    url, token = where(parser, options)
    if not options.json:
        from tui.app import main as show

        routers = _found() if options.router is None and not options.gateway else []
        if routers and not _has_gateway():
            return _told(routers)
        exit_status = show(url, token, once=True, color=False)
        if routers:
            print()
            _told(routers)
        return exit_status
    from mcpbridge.admin.client import Unreachable, fetch
    from mcpbridge.admin.text import EXIT_DOWN, exit_code
    from mcpbridge.observe.snapshot import encode

    try:
        snapshot = asyncio.run(fetch(url, token))
    except Unreachable as error:
        print(json.dumps({"schema": "mcpbridge.error/v1", "ok": False, "url": url, "error": str(error)}))
        return EXIT_DOWN
    print(encode(snapshot).decode())
    return exit_code(snapshot)


def tui(name: str, arguments: list[str]) -> int:
    """Show the dashboard until the user quits."""
    parser = window_parser(
        f"{name} tui",
        "The live dashboard of a running gateway. Without a terminal it prints the status as text.",
        [(f"{name} tui", "the gateway on this machine"), (f"{name} tui --gateway https://gateway.example.com", "another one"),
         (f"{name} tui --router 4711", "a router of this machine; status --routers lists them"),
         (f"{name} tui --once", "print one status as text and exit")],
    )  # fmt: skip
    parser.add_argument("--interval", default="1s", metavar="TIME", help="time between two documents (default 1s)")
    parser.add_argument("--screen", choices=SCREENS, default="overview", metavar="NAME", help=f"one of {', '.join(SCREENS)}")
    parser.add_argument("--read-only", action="store_true", help="change nothing on the gateway, whatever the token allows")
    parser.add_argument("--once", action="store_true", help="print one status as text; exit 0 ok, 1 degraded, 2 down")
    parser.add_argument("--ascii", action="store_true", help="draw with ASCII characters only")
    parser.add_argument("--no-color", action="store_true", help="no colours (as the variable NO_COLOR)")
    options = parser.parse(arguments)
    try:
        interval = parse_duration(options.interval)
    except ValueError as error:
        parser.error(f"--interval must be {error}, not {options.interval!r}")
    if not 0.25 <= interval <= 60:
        parser.error("--interval must be between 250ms and 60s")
    url, token = where(parser, options)
    from tui.app import main as show

    color = not options.no_color and not os.environ.get("NO_COLOR")
    return show(
        url,
        token,
        interval=interval,
        once=options.once,
        ascii=options.ascii,
        color=color,
        screen=options.screen,
        read_only=options.read_only,
    )


def window_parser(program: str, description: str, examples: list[tuple[str, str]]) -> Parser:
    """The parser of a command that is about a running gateway."""
    parser = Parser(program, description, examples)
    parser.add_argument(
        "--gateway", metavar="URL", help=f"its address (else MCP_GATEWAY_URL, the configuration found, {DEFAULT_URL})"
    )
    parser.add_argument("--router", metavar="PID", type=int, help="instead: the router on this machine with this process id")
    parser.add_argument("--token-env", metavar="NAME", help="variable that holds a token (else MCP_AUTH_TOKEN)")
    return parser


def where(parser: Parser, options: argparse.Namespace) -> tuple[str, str | None]:
    """Address and token of what to look at. Exits with 69 for a router that is not there."""
    if options.router is not None:
        if options.gateway:
            parser.error("give either --gateway or --router")
        return _address_of(parser, options.router), None
    variable = options.token_env or "MCP_AUTH_TOKEN"
    token = os.environ.get(variable, "").strip() or None
    if options.token_env and token is None:
        parser.error(f"--token-env: the variable {variable} is not set")
    url = options.gateway or os.environ.get("MCP_GATEWAY_URL")
    return url or _management_address(), token


def _address_of(parser: Parser, pid: int) -> str:
    from mcpbridge.observe.routers import pid_of, sockets

    running = {pid_of(path): path for path in sockets()}
    if pid not in running:
        known = ", ".join(map(str, running)) or "none runs"
        print(f"{parser.prog}: no router with the process id {pid} runs here for you; there are: {known}", file=sys.stderr)
        raise SystemExit(EX_UNREACHABLE)
    return f"unix://{running[pid]}"


def _found() -> list[Router]:
    """The routers that run here. Without any nothing is imported that asks them."""
    from mcpbridge.observe.routers import sockets

    if not sockets():
        return []
    from mcpbridge.admin.routers import local_routers

    return asyncio.run(local_routers())


def _routers(is_json: bool) -> int:
    """Print the routers only; the exit status is that of the worst, 0 without any."""
    routers = _found()
    if is_json:
        from mcpbridge.admin.routers import document
        from mcpbridge.admin.views import body

        print(body(document(routers)).decode().rstrip())
        return _worst(routers)
    if not routers:
        print("no router runs here for you")
        return 0
    return _told(routers)


def _told(routers: list[Router]) -> int:
    from mcpbridge.admin.routers import table
    from tui.app import is_utf8

    print("\n".join(table(routers, plain=not is_utf8(sys.stdout))))
    return _worst(routers)


def _worst(routers: list[Router]) -> int:
    from mcpbridge.admin.text import EXIT_DEGRADED, exit_code

    return max((exit_code(one.snapshot) if one.snapshot else EXIT_DEGRADED for one in routers), default=0)


def _has_gateway() -> bool:
    """Whether somebody named a gateway or configured one here."""
    if os.environ.get("MCP_GATEWAY_URL"):
        return True
    try:
        return load_gateway(None, os.environ).path is not None
    except ConfigError:
        return True


def _management_address() -> str:
    """The management listener of the gateway that this machine's configuration describes."""
    try:
        endpoint = load_gateway(None, os.environ).config.metrics.endpoint
    except ConfigError as error:
        print(f"the configuration cannot be used, trying {DEFAULT_URL}: {error.problems[0]}", file=sys.stderr)
        return DEFAULT_URL
    host, port = split_host_port(endpoint)
    if host in ("", "0.0.0.0", "::"):
        host = "127.0.0.1"
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"
