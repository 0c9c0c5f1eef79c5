"""The small client against servers of both SDKs: a question of the server is put to the person at the terminal."""

from __future__ import annotations

import os
import pty
import select
import signal
import time

import pytest

from tests.support import peers

pytestmark = pytest.mark.real


def at_terminal(arguments: list[str], answers: list[tuple[str, str]], *, wait: float = 25.0) -> tuple[str, int]:
    """Run the program on a terminal of its own and type an answer behind each prompt: what was shown, and the exit status."""
    pid, terminal = pty.fork()
    if pid == 0:
        environment = peers.environment()
        os.execvpe(peers.BRIDGE[0], [*peers.BRIDGE, *arguments], environment)
    shown, until, typed = b"", time.monotonic() + wait, 0
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
            if typed < len(answers) and answers[typed][0].encode() in shown:
                os.write(terminal, answers[typed][1].encode() + b"\n")
                typed += 1
        else:
            os.kill(pid, signal.SIGKILL)
    finally:
        _, status = os.waitpid(pid, 0)
        os.close(terminal)
    return shown.decode(errors="replace"), os.waitstatus_to_exitcode(status)


@pytest.mark.requirement("cli.mcp-client")
@pytest.mark.parametrize("kind", ["legacy", "dual"])
def test_a_question_of_a_server_of_either_era_is_answered_at_the_terminal(kind):
    command = [*peers.OWN[kind], "--stdio"]
    shown, status = at_terminal(["call", "test_elicitation", "message=who?", "--", *command], [("response (string): ", "ada")])
    assert status == 0, shown
    assert "who?" in shown and "ada" in shown.partition("response (string): ")[2].partition("\n")[2], shown


@pytest.mark.requirement("cli.mcp-client")
@pytest.mark.parametrize("kind", ["legacy", "legacy-sse", "legacy-websocket", "modern", "dual"])
def test_tools_of_every_kind_of_real_server_are_listed_over_its_own_transport(kind):
    with peers.own_http(kind) as url:
        output, errors, status = peers.execute([*peers.BRIDGE, "tools", url], timeout=20)
        assert status == 0, errors
        assert len(output.splitlines()) > 3
        output, errors, status = peers.execute([*peers.BRIDGE, "test", "--endpoint", url], timeout=20)
    assert status == 0, output + errors
    assert [line.split()[1] for line in output.splitlines()][-3:] == ["sign-in", "initialize", "tools/list"]
