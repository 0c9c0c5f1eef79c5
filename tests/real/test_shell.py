"""The small client against servers of both SDKs: a question of the server is put to the person at the terminal."""

from __future__ import annotations

import pytest

from tests.support import peers
from tests.support.terminal import at_terminal

pytestmark = pytest.mark.real


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
