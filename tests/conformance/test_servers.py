"""The test servers are what they claim to be: eras, refusals, and one catalogue over HTTP and stdio."""

from __future__ import annotations

import json
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support import peers

pytestmark = [pytest.mark.conformance, pytest.mark.timeout(120)]

Json = dict[str, Any]
META = {
    "io.modelcontextprotocol/protocolVersion": "2026-07-28",
    "io.modelcontextprotocol/clientCapabilities": {},
    "io.modelcontextprotocol/clientInfo": {"name": "test", "version": "1"},
}
HELLO = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "test", "version": "1"}}
INITIALIZE: Json = {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": HELLO}
INITIALIZED: Json = {"jsonrpc": "2.0", "method": "notifications/initialized"}
DISCOVER: Json = {"jsonrpc": "2.0", "id": 2, "method": "server/discover", "params": {"_meta": META}}


def post(url: str, message: Json) -> tuple[int, str, str | None]:
    """Status, body and session id of one POST."""
    headers = {"content-type": "application/json", "accept": "application/json, text/event-stream"}
    if "_meta" in message.get("params", {}):
        headers |= {"mcp-protocol-version": "2026-07-28", "mcp-method": message["method"]}
    request = urllib.request.Request(url, json.dumps(message).encode(), headers)
    try:
        with urllib.request.urlopen(request, timeout=20) as answer:
            return answer.status, answer.read().decode(), answer.headers["mcp-session-id"]
    except urllib.error.HTTPError as err:
        with err:
            return err.code, err.read().decode(), err.headers["mcp-session-id"]


def stdio(kind: str, *messages: Json) -> list[Json]:
    """Answers of a server to these messages, in the order of their ids."""
    lines = "".join(json.dumps(message) + "\n" for message in messages)
    wanted = sum("id" in message for message in messages)
    process = subprocess.Popen(
        [*peers.OWN[kind], "--stdio"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=peers.environment(),
        start_new_session=True,
    )
    with process:
        try:
            assert process.stdin and process.stdout
            process.stdin.write(lines)
            process.stdin.flush()
            return sorted((json.loads(process.stdout.readline()) for _ in range(wanted)), key=lambda answer: answer["id"])
        finally:
            peers.kill_group(process)


@pytest.fixture(scope="module")
def modern() -> Iterator[str]:
    with peers.own_http("modern") as url:
        yield url


@pytest.fixture(scope="module")
def legacy() -> Iterator[str]:
    with peers.own_http("legacy") as url:
        yield url


def test_the_modern_only_server_refuses_initialize_and_names_its_versions(modern: str) -> None:
    status, body, session = post(modern, INITIALIZE)
    error = json.loads(body)["error"]
    assert (status, error["code"], error["data"]["supported"], session) == (400, -32022, ["2026-07-28"], None)
    (answer,) = stdio("modern", INITIALIZE)
    assert (answer["error"]["code"], answer["error"]["data"]["supported"]) == (-32022, ["2026-07-28"])


def test_the_modern_only_server_has_neither_sessions_nor_streams_to_get(modern: str) -> None:
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(modern, timeout=20)
    with refused.value as answer:
        assert answer.code == 405
    status, body, session = post(modern, DISCOVER)
    assert (status, json.loads(body)["result"]["supportedVersions"], session) == (200, ["2026-07-28"], None)


def test_the_legacy_only_server_does_not_know_discover(legacy: str) -> None:
    status, body, _ = post(legacy, DISCOVER)
    assert (status, json.loads(body)["error"]["code"]) == (400, -32600)
    assert stdio("legacy", DISCOVER)[0]["error"]["code"] == -32602


def test_the_legacy_only_server_opens_sessions_of_the_newest_legacy_version(legacy: str) -> None:
    status, body, session = post(legacy, INITIALIZE)
    assert status == 200
    assert '"protocolVersion":"2025-11-25"' in body
    assert session


#: method -> member of its result
LISTS = {
    "tools/list": "tools",
    "prompts/list": "prompts",
    "resources/list": "resources",
    "resources/templates/list": "resourceTemplates",
}


def catalogue(kind: str) -> list[list[Json]]:
    """The four lists of a server, as they came over stdio."""
    params, opening = ({}, [INITIALIZE, INITIALIZED]) if kind == "legacy" else ({"_meta": META}, [])
    asked = [{"jsonrpc": "2.0", "id": 10 + n, "method": method, "params": params} for n, method in enumerate(LISTS)]
    answers = [answer for answer in stdio(kind, *opening, *asked) if answer["id"] >= 10]
    return [answer["result"][member] for answer, member in zip(answers, LISTS.values(), strict=True)]


def test_all_servers_serve_one_catalogue() -> None:
    dual = catalogue("dual")
    assert all(dual)
    assert catalogue("legacy") == dual
    assert catalogue("modern") == dual
