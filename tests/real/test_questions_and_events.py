"""What servers send besides answers: questions, progress, logs, list changes, resource updates; and cancellation.

Same era on both sides. ``server-everything`` and ``server-filesystem`` are the published legacy servers that ask and talk on
their own; the dual-era server does it in both eras.
"""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.support import peers
from tests.support.peers import LEGACY_CLIENTS, MODERN_CLIENTS, RealServer, drive, texts

pytestmark = [pytest.mark.real, pytest.mark.timeout(120)]
Json = dict[str, Any]
ROOT = "file:///tmp/root-of-the-client"
FACES = ("gateway", "router")


def methods(report: Json, kind: str) -> list[str]:
    return [entry["method"] for entry in report[kind]]


def through(face: str, server: list[str], client: str, steps: list[Json], **options: Any) -> Json:
    """Let a client carry out the steps against a stdio server behind one face of the bridge, which lives that long."""
    if face == "router":
        return drive(client, peers.router("--", *server), steps, **options)
    with peers.gateway({"one": server}) as bridge:
        return drive(client, bridge.url("one"), steps, **options)


@pytest.mark.parametrize("client", LEGACY_CLIENTS)
@pytest.mark.parametrize("face", FACES)
def test_the_filesystem_server_learns_the_roots_of_the_client(face: str, client: str, servers: dict[str, RealServer]) -> None:
    """It asks roots/list on its own, right after initialized: outside any request of the client."""
    report = through(face, servers["filesystem"].command, client, [{"do": "list", "kind": "tools"}, {"do": "ping"}])
    assert "roots/list" in methods(report, "questions"), report


@pytest.mark.parametrize("face", FACES)
def test_a_client_without_capabilities_is_asked_nothing(face: str, servers: dict[str, RealServer]) -> None:
    report = through(face, servers["filesystem"].command, "python-2-legacy", [{"do": "list", "kind": "tools"}], plain=True)
    assert report["questions"] == []


EVERYTHING: list[Json] = [
    {"do": "await", "event": "notifications/tools/list_changed", "timeout": 8},
    {"do": "call", "name": "trigger-sampling-request", "arguments": {"prompt": "hello", "maxTokens": 10}},
    {"do": "call", "name": "trigger-elicitation-request"},
    {"do": "call", "name": "get-roots-list"},
    {"do": "call", "name": "trigger-long-running-operation", "arguments": {"duration": 1, "steps": 4}, "progress": True},
    {"do": "level", "level": "debug"},
    {"do": "call", "name": "toggle-simulated-logging"},
    {"do": "await", "event": "notifications/message", "timeout": 8},
    {"do": "subscribe", "uri": "demo://resource/dynamic/text/1"},
    {"do": "call", "name": "toggle-subscriber-updates"},
    {"do": "await", "event": "notifications/resources/updated", "timeout": 12},
    {
        "do": "complete",
        "ref": {"type": "ref/prompt", "name": "completable-prompt"},
        "argument": {"name": "department", "value": "E"},
    },
    {"do": "cancel", "name": "trigger-long-running-operation", "arguments": {"duration": 20, "steps": 40}},
    {"do": "call", "name": "echo", "arguments": {"message": "still here"}},
]


@pytest.mark.parametrize("client", LEGACY_CLIENTS)
@pytest.mark.parametrize("face", FACES)
def test_everything_the_everything_server_does_on_its_own_reaches_a_legacy_client(
    face: str, client: str, servers: dict[str, RealServer]
) -> None:
    report = through(face, servers["everything"].command, client, EVERYTHING)
    steps = report["steps"]
    failed = [(step["do"], step.get("name"), entry) for step, entry in zip(EVERYTHING, steps, strict=True) if "error" in entry]
    assert not failed, failed
    assert "the model's answer" in texts(steps[1])
    assert "Ada" in texts(steps[2])
    assert ROOT in texts(steps[3])
    # TypeScript 1 drops a progress that arrives together with the answer, so the last one is not asked for.
    assert [progress["progress"] for progress in steps[4]["ok"]["progress"]][:3] == [1, 2, 3]
    assert steps[11]["ok"]["completion"]["values"] == ["Engineering"]
    assert "still here" in texts(steps[13])
    assert {"sampling/createMessage", "elicitation/create", "roots/list"} <= set(methods(report, "questions"))


DUAL: list[Json] = [
    {"do": "call", "name": "test_tool_with_progress", "progress": True},
    {"do": "call", "name": "test_sampling", "arguments": {"prompt": "hello"}},
    {"do": "call", "name": "test_elicitation", "arguments": {"message": "well?"}},
    {"do": "call", "name": "list_roots"},
    {"do": "call", "name": "test_input_required_result_multiple_inputs"},
    {"do": "call", "name": "test_input_required_result_multi_round"},
    {"do": "prompt", "name": "test_input_required_result_prompt"},
    {
        "do": "complete",
        "ref": {"type": "ref/prompt", "name": "test_prompt_with_arguments"},
        "argument": {"name": "arg1", "value": "te"},
    },
    {"do": "read", "uri": "test://template/7/data"},
]


@pytest.mark.parametrize("client", [*LEGACY_CLIENTS, *MODERN_CLIENTS])
@pytest.mark.parametrize("target", ["gateway to http", "gateway to stdio", "router to http", "router to stdio"])
def test_questions_and_progress_of_a_dual_era_server_reach_clients_of_either_era(
    target: str, client: str, dual_url: str
) -> None:
    face, _, kind = target.partition(" to ")
    if face == "router":
        report = drive(client, peers.router(dual_url) if kind == "http" else peers.router("--", *peers.DUAL_STDIO), DUAL)
    else:
        with peers.gateway({"dual": dual_url if kind == "http" else peers.DUAL_STDIO}) as bridge:
            report = drive(client, bridge.url("dual"), DUAL)
    steps = report["steps"]
    assert not [entry for entry in steps if "error" in entry], steps
    assert [progress["progress"] for progress in steps[0]["ok"]["progress"]] == [0, 50, 100]
    assert texts(steps[1]) == "LLM response: the model's answer"
    assert json.loads(texts(steps[2]).partition("content=")[2]) == {"response": "forty-two"}
    assert ROOT in texts(steps[3])
    assert texts(steps[4]) == "got client_roots, greeting, user_name"
    assert texts(steps[5]) == "Ada likes teal"
    assert "tests" in steps[6]["ok"]["messages"][0]["content"]["text"]
    assert steps[7]["ok"]["completion"]["values"] == ["testing"]
    assert json.loads(steps[8]["ok"]["contents"][0]["text"])["id"] == "7"
    assert report["protocol"] == ("2026-07-28" if client in MODERN_CLIENTS else report["protocol"])


@pytest.mark.parametrize("client", [*LEGACY_CLIENTS, *MODERN_CLIENTS])
@pytest.mark.parametrize("face", FACES)
def test_list_changes_logs_and_cancellation_pass_in_either_era(face: str, client: str) -> None:
    """The logging step is legacy's; the Python SDK's modern driver asks for its level with every request instead."""
    is_modern = client in MODERN_CLIENTS
    steps: list[Json] = [
        {"do": "listen", "filter": {"tools_list_changed": True, "prompts_list_changed": True}},
        {"do": "call", "name": "test_trigger_tool_change"},
        {"do": "await", "event": "notifications/tools/list_changed", "timeout": 8},
        {"do": "call", "name": "test_trigger_prompt_change"},
        {"do": "await", "event": "notifications/prompts/list_changed", "timeout": 8},
        {"do": "cancel", "name": "wait_for_cancel", "arguments": {"tag": client}},
        {"do": "call", "name": "cancelled_tags"},
        {"do": "level", "level": "debug"},
        {"do": "call", "name": "test_tool_with_logging"},
    ]
    report = through(face, peers.DUAL_STDIO, client, steps)
    entries = report["steps"]
    failed = [entry for step, entry in zip(steps, entries, strict=True) if "error" in entry and step["do"] != "level"]
    assert not failed, failed
    assert json.loads(texts(entries[6])) == [client]
    if not is_modern:
        logged = [event["params"]["data"] for event in report["events"] if event["method"] == "notifications/message"]
        assert logged == ["started", "working", "done"]


@pytest.mark.parametrize("face", FACES)
def test_a_modern_client_that_asked_for_no_level_gets_no_logs(face: str) -> None:
    report = through(face, peers.DUAL_STDIO, "python-2-modern", [{"do": "call", "name": "test_tool_with_logging"}])
    assert "notifications/message" not in methods(report, "events")


@pytest.mark.parametrize("face", FACES)
def test_a_modern_client_that_asked_for_a_level_gets_the_logs(face: str) -> None:
    steps: list[Json] = [{"do": "level", "level": "debug"}, {"do": "call", "name": "test_tool_with_logging"}]
    report = through(face, peers.DUAL_STDIO, "python-2-modern", steps)
    assert methods(report, "events").count("notifications/message") == 3
