"""A command on a terminal of its own, as a person would use it."""

from __future__ import annotations

import os
import pty
import select
import signal
import time

from tests.support import peers


def at_terminal(arguments: list[str], answers: list[tuple[str, str]], *, wait: float = 25.0, **extra: str) -> tuple[str, int]:
    """Run the program on a terminal of its own and type an answer behind each prompt: what was shown, and the exit status."""
    pid, terminal = pty.fork()
    if pid == 0:
        environment = {**peers.environment(), **extra}
        os.execvpe(peers.BRIDGE[0], [*peers.BRIDGE, *arguments], environment)
    shown, until, typed, seen = b"", time.monotonic() + wait, 0, 0
    try:
        while time.monotonic() < until:
            if not select.select([terminal], [], [], 0.2)[0]:
                continue
            try:
                data = os.read(terminal, 4096)
            except OSError:  # the other side is closed
                break
            if not data:
                break
            shown += data
            if typed < len(answers) and answers[typed][0].encode() in shown[seen:]:
                os.write(terminal, answers[typed][1].encode() + b"\n")
                typed, seen = typed + 1, len(shown)
        else:
            os.kill(pid, signal.SIGKILL)
    finally:
        _, status = os.waitpid(pid, 0)
        os.close(terminal)
    return shown.decode(errors="replace"), os.waitstatus_to_exitcode(status)
