"""Exit statuses of the commands that talk to servers, and how their failures are told.

Source: contract section 1 (exit status), ``cli.test.websocket``.
"""

from __future__ import annotations

import sys

from mcpbridge.cli.advice import ADVICE
from mcpbridge.errors import BridgeError

EX_FAILED, EX_UNREACHABLE, EX_FOREIGN, EX_REFUSED = 1, 69, 76, 77
_FOREIGN = frozenset({"detection_failed", "protocol_mismatch", "http_not_found", "bad_answer", "unsupported_version"})


def status_of(error: BridgeError) -> int:
    """The exit status that an error means: 77 sign-in refused, 76 not that protocol, 69 not reached."""
    if error.data.get("status") in (401, 403) or error.reason in ("unauthorized", "forbidden", "backend_refused"):
        return EX_REFUSED
    return EX_FOREIGN if error.reason in _FOREIGN else EX_UNREACHABLE


def tell(program: str, error: BridgeError) -> int:
    """Say on stderr what happened and what to do; its exit status."""
    print(f"{program}: {error}", file=sys.stderr)
    advise(error.reason)
    return status_of(error)


def advise(reason: str | None) -> None:
    """What a person can do about a failure, on stderr."""
    if reason == "timeout":
        print("  action: give it more time by --timeout, or look at the server", file=sys.stderr)
    elif reason in ADVICE:
        print(f"  action: {ADVICE[reason][1]}", file=sys.stderr)
