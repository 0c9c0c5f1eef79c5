"""Help on errors: every row of the table has cause and action, and is found by code, by name and by its text."""

from __future__ import annotations

import pytest

from mcpbridge.cli import main
from mcpbridge.cli.advice import ADVICE
from mcpbridge.errors import FAULTS, BridgeError
from mcpbridge.wire.envelope import parse


def test_every_error_has_a_cause_and_an_action_and_nothing_else_has() -> None:
    assert ADVICE.keys() == FAULTS.keys()
    assert all(len(cause) > 10 and len(action) > 5 for cause, action in ADVICE.values())


@pytest.mark.parametrize("reason", FAULTS)
def test_an_error_is_explained_by_code_name_and_text(reason: str, capsys: pytest.CaptureFixture[str]) -> None:
    fault, (cause, action) = FAULTS[reason], ADVICE[reason]
    message = str(BridgeError(reason, "something about server x"))
    for wanted in (str(fault.code), reason, fault.text, fault.text.upper(), message):
        assert main(["mcpbridge", "help", "errors", *wanted.split()]) == 0
        out = capsys.readouterr().out
        assert cause in out and action in out, wanted


def test_all_errors_are_listed_without_an_argument(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["mcp-router", "help", "errors"]) == 0
    out = capsys.readouterr().out
    assert all(f"({reason};" in out for reason in FAULTS)


def test_an_unknown_error_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["mcpbridge", "help", "errors", "conection", "refused"]) == 1
    assert "did you mean 'connection refused'?" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["router", "token"])
def test_help_on_a_command_is_its_own(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["mcpbridge", "help", command]) == 0
    assert capsys.readouterr().out.startswith(f"usage: mcpbridge {command}")


@pytest.mark.parametrize("option", ["-h", "--help"])
def test_help_on_errors_is_no_search_for_an_error(option: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["mcpbridge", "help", "errors", option]) == 0
    assert "[CODE|TEXT]" in capsys.readouterr().out


def test_a_key_that_is_there_twice_is_explained_by_the_error_it_gives() -> None:
    with pytest.raises(BridgeError) as refused:
        parse(b'{"jsonrpc":"2.0","id":1,"id":2,"method":"ping"}')
    assert refused.value.reason == "parse_error"
    assert "twice" in ADVICE["parse_error"][0] and "duplicate" not in ADVICE["invalid_request"][0]


def test_a_status_that_differs_for_clients_with_sessions_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["mcpbridge", "help", "errors", "1008"]) == 0
    assert "HTTP 504, 200 to clients with sessions" in capsys.readouterr().out
