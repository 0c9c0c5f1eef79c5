"""The roof: argv to one lazy import. Nothing is imported here but sys and os, so ``--version`` and the router start at once.

Called as ``mcp-router`` or ``mcp-gateway`` the program is ``mcpbridge router`` or ``mcpbridge gateway``.

Source: contract section 1.
"""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False  # typing's own costs more than everything else here
if TYPE_CHECKING:
    from collections.abc import Callable

COMMANDS = {
    "router": "serve one client on stdin and stdout: direct servers first, then the gateway",
    "gateway": "serve many clients over HTTP: all servers behind one endpoint",
    "tui": "the live dashboard of a running gateway",
    "status": "what a running gateway says of itself; exit 0 ok, 1 degraded, 2 down",
    "backends": "list, test, drain and weigh the backends of a running gateway",
    "clients": "what MCP clients start: list, add, diff, remove, import, undo",
    "doctor": "what is wrong here and what to do: program, configuration, servers, clients",
    "logs": "what the routers of your editors wrote; -f follows",
    "setup": "set up the router: gateway, token, servers and the clients that use it",
    "test": "reach a server stage by stage and say where it fails",
    "detect": "find out which protocol and era a server speaks",
    "tools": "list the tools of a server",
    "call": "call a tool of a server",
    "read": "read a resource of a server",
    "token": "store, test and rotate secrets; issue and inspect gateway tokens",
    "config": "validate, show and describe configuration files",
    "completions": "what your shell offers after the name of this program: print, install",
    "version": "the version, as text or JSON",
    "help": "help on a command, or on an error text or code",
}
EVERYWHERE = ("setup", "test", "detect", "token", "status", "config", "completions", "doctor", "version", "help")
"""Commands that ``mcp-router`` and ``mcp-gateway`` have too."""

EX_USAGE = 64
EX_SOFTWARE = 70
EX_IOERR = 74
EX_CONFIG = 78


def main(argv: list[str] | None = None) -> int:
    """Run one command line; its exit status (contract section 1)."""
    argv = sys.argv if argv is None else argv
    name = called_name(argv[0] if argv else "")
    try:
        status = _dispatch(name, argv[1:])
        sys.stdout.flush()
        return status
    except SystemExit as ended:
        if isinstance(ended.code, int) or ended.code is None:
            return ended.code or 0
        print(ended.code, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # The reader of our output is gone; Python must not complain a second time when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EX_IOERR
    except Exception as error:  # noqa: BLE001 - the last one who can say something useful
        from mcpbridge.cli.complaints import complain

        return complain(name, error)


def called_name(path: str) -> str:
    """``mcp-router``, ``mcp-gateway`` or ``mcpbridge``: the base name of the program as it was called."""
    called = os.environ.pop("MCPBRIDGE_ARGV0", "") or path  # set by launchers; a child of ours must not inherit it
    base = called.replace("\\", "/").rsplit("/", 1)[-1].lower()
    for suffix in (".exe", ".pyz", ".py"):
        base = base.removesuffix(suffix)
    return base if base in ("mcp-router", "mcp-gateway") else "mcpbridge"


def _dispatch(name: str, arguments: list[str]) -> int:
    command, rest = "", arguments
    if name != "mcpbridge" and (not arguments or arguments[0] not in EVERYWHERE):
        command = name.removeprefix("mcp-")
    elif arguments and not arguments[0].startswith("-"):
        command, rest = arguments[0], arguments[1:]
    if rest[:1] in (["--version"], ["-V"]):
        from mcpbridge import __version__

        print(f"{name} {__version__}")
        return 0
    if command not in COMMANDS:
        rest = ["--unknown", command] if command else ["--overview", *rest]
    return runner(command)(name, rest)


def runner(command: str) -> Callable[[str, list[str]], int]:
    """What runs a command: the name that the program was called by, its arguments -> exit status. Of a word that is no
    command, what says so."""
    if command == "router":
        from mcpbridge.cli.router import run
    elif command == "gateway":
        from mcpbridge.cli.gateway import run
    elif command == "tui":
        from mcpbridge.cli.window import tui as run
    elif command == "status":
        from mcpbridge.cli.window import status as run
    elif command == "backends":
        from mcpbridge.cli.backends import run
    elif command == "clients":
        from mcpbridge.cli.clients import run
    elif command == "doctor":
        from mcpbridge.cli.doctor import run
    elif command == "logs":
        from mcpbridge.cli.logs import run
    elif command == "setup":
        from mcpbridge.cli.setup import run
    elif command == "test":
        from mcpbridge.cli.test import run
    elif command == "detect":
        from mcpbridge.cli.detect import run
    elif command == "tools":
        from mcpbridge.cli.client import tools as run
    elif command == "call":
        from mcpbridge.cli.client import call as run
    elif command == "read":
        from mcpbridge.cli.client import read as run
    elif command == "token":
        from mcpbridge.cli.token import run
    elif command == "config":
        from mcpbridge.cli.config import run
    elif command == "version":
        from mcpbridge.cli.version import run
    elif command == "completions":
        from mcpbridge.cli.completions import run
    else:
        from mcpbridge.cli.help import run
    return run
