"""What a child is started with: its environment without our secrets, and the program its PATH names.

Source: architecture section 8; contract section 4 (our own variables) and ``error.stdio-no-such-file``.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from mcpbridge.errors import BridgeError
from mcpbridge.observe.redact import MASK, conceal, safe

OUR_SECRETS = frozenset({"MCP_AUTH_TOKEN", "JWT_SECRET", "REDIS_PASSWORD", "OAUTH_CLIENT_SECRET"})
OUR_PREFIX = "MCPBRIDGE_"  # settings, seal keys, and the mark of a bridge above us
SHORTEST_PART = 8  # characters; a shorter value may be a part of a secret by chance
_withheld: set[str] = set()  # like the environment itself, one per process


class Launch(NamedTuple):
    """All that a start needs, decided before anything is forked."""

    path: str
    argv: list[str]
    env: dict[str, str]
    cwd: str


def withhold(secrets: Iterable[str], names: Iterable[str] = ()) -> None:
    """Keep the bridge's own secrets and settings from every child from now on.

    ``secrets``: the variables that hold one, or a part of one (``Bearer ${TOKEN}``), whatever they are called. ``names``: the
    variables of the bridge's own configuration.
    """
    values = {secret for secret in secrets if secret}
    _withheld.update(names)
    _withheld.update(
        name
        for name, value in os.environ.items()
        if value in values or (len(value) >= SHORTEST_PART and any(value in secret for secret in values))
    )


def environment(ours: Mapping[str, str], configured: Mapping[str, str]) -> dict[str, str]:
    """Our environment without the bridge's own secrets and settings, plus what the server's configuration adds.

    A child that needs one of our secrets gets it by name in its configuration.
    """
    kept = OUR_SECRETS | _withheld
    passed = {name: value for name, value in ours.items() if name not in kept and not name.startswith(OUR_PREFIX)}
    return passed | dict(configured)


def prepare(argv: Sequence[str], configured: Mapping[str, str], cwd: str | None) -> Launch:
    """Resolve the command by the child's own PATH and directory; its secrets are never logged from now on.

    Raises BridgeError("stdio_no_such_file", path=...) or BridgeError("stdio_cannot_start", path=...), both ``sent=False``.
    """
    for name, value in configured.items():
        if MASK in safe(name, value):
            conceal(value)
    env = environment(os.environ, configured)
    directory = os.path.abspath(os.path.expanduser(cwd)) if cwd else os.getcwd()
    if not os.path.isdir(directory):
        raise BridgeError("stdio_no_such_file", f"working directory {directory}", sent=False, path=directory)
    if not argv or not argv[0]:
        raise BridgeError("stdio_no_such_file", "empty command", sent=False, path="")
    if any("\0" in text for text in (*argv, *env, *env.values())):
        raise BridgeError("stdio_cannot_start", "NUL character in the command or its environment", sent=False, path=argv[0])
    command = os.path.expanduser(argv[0])
    if os.path.dirname(command):
        command = os.path.join(directory, command)
    found = shutil.which(command, path=env.get("PATH", os.defpath))
    if found is None:
        if os.path.dirname(command) and os.path.exists(command):
            raise BridgeError("stdio_cannot_start", f"{argv[0]} is not executable", sent=False, path=argv[0])
        raise BridgeError("stdio_no_such_file", argv[0], sent=False, path=argv[0])
    return Launch(os.path.join(directory, found), list(argv), env, directory)
