"""``mcpbridge tui``: the dashboard on a terminal, the text of ``mcpbridge status`` anywhere else.

Imports no terminal library before it is certain that there is a terminal. Textual itself does not ask: with a pipe as stdin it
never ends, and it writes escape codes to a ``dumb`` terminal.

Source: contract cli.tui; ux.md sections 1.3, 1.8.
"""

from __future__ import annotations

import asyncio
import codecs
import os
import sys
from collections.abc import Mapping
from typing import Any, TextIO

from mcpbridge.admin.client import Unreachable, act, fetch, watch
from mcpbridge.admin.text import EXIT_DOWN, exit_code, report, unreachable

REMOTE_INTERVAL = 2.0
"""Least seconds between documents over ssh. Source: ux.md section 1.8."""


def main(
    url: str,
    token: str | None,
    *,
    interval: float = 1.0,
    once: bool = False,
    ascii: bool = False,  # noqa: A002
    color: bool = True,
    screen: str = "overview",
    read_only: bool = False,
) -> int:
    """Show the gateway at ``url`` (scheme, host, port) until the user quits; ``interval`` in seconds.

    ``once``, a pipe on stdin or stderr (Textual draws on stderr) or a dumb terminal: prints the status as text.
    Returns the exit code: 0 ok, 1 degraded, 2 down or unreachable for text; 0 after ``q``, 128 + N after signal N.
    """
    plain = ascii or not is_utf8(sys.stderr)
    if once or not is_terminal(sys.stdin, sys.stderr, os.environ):
        return asyncio.run(print_status(url, token, plain=plain or not is_utf8(sys.stdout)))
    return _run_dashboard(url, token, interval=interval, plain=plain, color=color, screen=screen, read_only=read_only)


async def print_status(url: str, token: str | None, *, plain: bool) -> int:
    """Print one status on stdout, or why there is none. Returns 0 ok, 1 degraded, 2 down or unreachable."""
    try:
        snapshot = await fetch(url, token)
    except Unreachable as error:
        _print(unreachable(url, str(error), plain=plain))
        return EXIT_DOWN
    _print(report(snapshot, url=url, plain=plain))
    return exit_code(snapshot)


def _print(lines: list[str]) -> None:
    sys.stdout.write("\n".join(lines) + "\n")
    sys.stdout.flush()


def is_terminal(stdin: TextIO, stderr: TextIO, environ: Mapping[str, str]) -> bool:
    """Whether a dashboard can be drawn and used here."""
    return stdin.isatty() and stderr.isatty() and environ.get("TERM", "") not in ("", "dumb")


def is_utf8(stream: TextIO) -> bool:
    """Whether what is written to the stream may be more than ASCII."""
    try:
        return codecs.lookup(stream.encoding or "ascii").name == "utf-8"
    except LookupError:
        return False


def _run_dashboard(
    url: str, token: str | None, *, interval: float, plain: bool, color: bool, screen: str, read_only: bool
) -> int:
    # Textual reads these once, when it is imported.
    os.environ.setdefault("TEXTUAL_ANIMATIONS", "none")
    if not color:
        os.environ["NO_COLOR"] = "1"
    if "SSH_CONNECTION" in os.environ:
        os.environ.setdefault("TEXTUAL_FPS", "15")
        interval = max(interval, REMOTE_INTERVAL)
    from tui.dashboard.dashboard import Dashboard
    from tui.dashboard.screens import SCREENS

    async def ask(method: str, path: str, body: Mapping[str, Any]) -> tuple[int, dict[str, Any]]:
        return await act(method, url, path, body, token)

    first = next(row.key for row in SCREENS if row.title.lower() == screen)
    app = Dashboard(
        lambda: watch(url, token, interval),
        url=url,
        interval=interval,
        plain=plain,
        first=first,
        ask=None if read_only else ask,
    )
    app.run()
    return app.return_code or 0
