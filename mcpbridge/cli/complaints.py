"""How a command that cannot go on says so: cause and next step on stderr, and the exit status of the contract.

A router or gateway whose stderr is no terminal writes JSON lines there, also now: whoever reads its log must be able to
parse it.

Source: contract sections 1 (exit status) and 1.1 (``cli.router.stderr-json``).
"""

from __future__ import annotations

import sys
from contextlib import suppress

from mcpbridge.config.problems import EX_CONFIG, ConfigError
from mcpbridge.errors import BridgeError
from mcpbridge.observe.log import configure, log

EX_SOFTWARE = 70


def complain(name: str, error: Exception, *, json_lines: bool = False) -> int:
    """Report an error that ended the program called ``name``; its exit status."""
    if isinstance(error, ConfigError):
        lines, status = [str(problem) for problem in error.problems], error.exit_code
    elif isinstance(error, BridgeError):  # a secret that is not there
        lines, status = [str(error)], EX_CONFIG
    else:
        configure()
        log("cli").error(f"{name} failed: this is a bug, please report it with the traceback", exc=error)
        return EX_SOFTWARE
    if json_lines:
        for line in lines:
            log("config").error(line)
    else:
        with suppress(OSError, ValueError, AttributeError):  # stderr may be closed
            for line in lines:
                print(f"{name}: {line}", file=sys.stderr)
    return status


def is_terminal() -> bool:
    """Whether people read stderr directly."""
    try:
        return sys.stderr is not None and sys.stderr.isatty()
    except ValueError:
        return False
