"""The demo server: requests in, notifications and answers out, in both eras."""

from __future__ import annotations

import math

import msgspec
import pytest

from mcpbridge.demo.server import GREETING, DemoServer, Session
from mcpbridge.wire import message as m
from mcpbridge.wire.spec import CLIENT_CAPABILITIES, LOG_LEVEL, NEWEST_MODERN, PROTOCOL_VERSION, SUBSCRIPTION_ID

META = {PROTOCOL_VERSION: NEWEST_MODERN, CLIENT_CAPABILITIES: {}}


class Player:
    """Plays requests without waiting; ``said`` are the notifications of calls, ``pushed`` those of the session."""

    def __init__(self):
        self.server = DemoServer("weather")
        self.said: list[dict] = []
        self.pushed: list[dict] = []
        self.waited = 0.0
        self.session = Session(lambda n: self.pushed.append(msgspec.json.decode(n.encode())))

    def steps(self, method, params=None, id=1):
        request = m.request(id, method, params)
        return self.server.respond(request, self.session, lambda n: self.said.append(msgspec.json.decode(n.encode())))

    def ask(self, method, params=None):
        steps = self.steps(method, params)
        while True:
            try:
                wait = next(steps)
            except StopIteration as end:
                return msgspec.json.decode(end.value.encode())
            assert wait is not None
            self.waited += wait

    def result(self, method, params=None, meta=None):
        answer = self.ask(method, (params or {}) | ({} if meta is None else {"_meta": meta}) or None)
        assert "result" in answer, answer
        return answer["result"]

    def tool(self, tool, meta=None, **arguments):
        return self.result("tools/call", {"name": tool, "arguments": arguments}, meta)


@pytest.fixture
def player():
    return Player()


@pytest.mark.parametrize(("asked", "agreed"), [("2024-11-05", "2024-11-05"), ("2026-07-28", "2025-11-25"), ("1", "2025-11-25")])
def test_initialize_agrees_to_a_legacy_version(player, asked, agreed):
    result = player.result("initialize", {"protocolVersion": asked, "capabilities": {}})
    assert (result["protocolVersion"], result["serverInfo"]["name"]) == (agreed, "weather")


def test_discover_names_the_modern_versions_and_who_answers(player):
    result = player.result("server/discover", {}, META)
    assert result["supportedVersions"] == [NEWEST_MODERN]
    assert (result["resultType"], result["ttlMs"], result["cacheScope"]) == ("complete", 0, "private")
    assert result["_meta"]["io.modelcontextprotocol/serverInfo"]["name"] == "weather"


def test_a_modern_request_must_bring_its_metadata(player):
    error = player.ask("tools/list", {"_meta": {PROTOCOL_VERSION: NEWEST_MODERN}})["error"]
    assert error["code"] == -32602
    error = player.ask("tools/list", {"_meta": {PROTOCOL_VERSION: "2030-01-01", CLIENT_CAPABILITIES: {}}})["error"]
    assert (error["code"], error["data"]["supported"]) == (-32022, [NEWEST_MODERN])


@pytest.mark.parametrize(
    ("method", "meta"), [("initialize", META), ("ping", META), ("server/discover", None), ("no/such", None), ("no/such", META)]
)
def test_methods_of_the_other_era_and_unknown_ones_are_not_found(player, method, meta):
    assert player.ask(method, {"_meta": meta} if meta else None)["error"]["code"] == -32601


@pytest.mark.parametrize("meta", [None, META], ids=["legacy", "modern"])
def test_the_tools_do_what_they_say(player, meta):
    assert player.tool("echo", meta, text="ü")["content"] == [{"type": "text", "text": "ü"}]
    assert player.tool("add", meta, a=2, b=0.5)["structuredContent"] == {"sum": 2.5}
    assert player.tool("fail", meta)["isError"] is True
    names = [tool["name"] for tool in player.result("tools/list", {}, meta)["tools"]]
    assert names == ["echo", "add", "sleep", "fail", "log", "toggle", "touch"]


@pytest.mark.parametrize("arguments", [{}, {"text": 1, "name": "no"}, {"name": "add", "arguments": {"a": "x", "b": 1}}])
def test_calls_that_make_no_sense_are_invalid_params(player, arguments):
    assert player.ask("tools/call", arguments)["error"]["code"] == -32602


def test_sleep_reports_progress_to_those_who_gave_a_token(player):
    player.tool("sleep", {"progressToken": "t"}, seconds=2, steps=4)
    assert [n["params"] for n in player.said] == [{"progressToken": "t", "progress": n, "total": 4} for n in (1, 2, 3, 4)]
    assert math.isclose(player.waited, 2)
    player.said.clear()
    player.tool("sleep", seconds=1e9)
    assert player.said == [] and player.waited <= 62


def test_logs_follow_the_level_of_the_session_or_of_the_request(player):
    player.tool("log", text="a", level="debug")
    player.result("logging/setLevel", {"level": "debug"})
    player.tool("log", text="b", level="debug")
    player.tool("log", META, text="c", level="emergency")
    player.tool("log", META | {LOG_LEVEL: "warning"}, text="d", level="info")
    player.tool("log", META | {LOG_LEVEL: "warning"}, text="e", level="error")
    assert [n["params"]["data"] for n in player.said] == ["b", "e"]


def test_toggle_changes_the_list_and_tells_initialized_sessions(player):
    player.server.sessions.add(player.session)
    player.tool("toggle")
    assert [n["method"] for n in player.pushed] == ["notifications/tools/list_changed"]
    assert player.tool("extra")["content"][0]["text"] == "extra"
    player.tool("toggle")
    assert player.ask("tools/call", {"name": "extra"})["error"]["code"] == -32602


def test_touch_tells_the_subscribed_until_they_unsubscribe(player):
    player.server.sessions.add(player.session)
    player.tool("touch")
    player.result("resources/subscribe", {"uri": GREETING})
    player.tool("touch")
    player.result("resources/unsubscribe", {"uri": GREETING})
    player.tool("touch")
    assert [n["params"] for n in player.pushed] == [{"uri": GREETING}]


def test_a_listener_gets_what_it_asked_for_under_its_id_until_it_is_cancelled(player):
    wanted = {"toolsListChanged": True, "promptsListChanged": True, "resourceSubscriptions": [GREETING, "x://y"]}
    steps = player.steps("subscriptions/listen", {"_meta": META, "notifications": wanted}, id="L")
    assert next(steps) is None
    player.tool("toggle", META)
    player.tool("touch", META)
    steps.close()
    player.tool("toggle", META)
    assert [n["method"] for n in player.said] == [
        "notifications/subscriptions/acknowledged",
        "notifications/tools/list_changed",
        "notifications/resources/updated",
    ]
    assert player.said[0]["params"]["notifications"] == {"toolsListChanged": True, "resourceSubscriptions": [GREETING]}
    assert all(n["params"]["_meta"] == {SUBSCRIPTION_ID: "L"} for n in player.said)


def test_resources_templates_prompts_and_completions(player):
    assert "weather" in player.result("resources/read", {"uri": GREETING})["contents"][0]["text"]
    assert player.result("resources/read", {"uri": "demo://square/12"})["contents"][0]["text"] == "144"
    assert player.ask("resources/read", {"uri": "demo://square/x"})["error"]["code"] == -32602
    assert player.ask("resources/read", {"uri": "other://"})["error"]["code"] == -32602
    prompt = player.result("prompts/get", {"name": "greet", "arguments": {"name": "Ada"}})
    assert prompt["messages"][0]["content"]["text"] == "Please greet Ada."
    ask = {"ref": {"type": "ref/prompt", "name": "greet"}, "argument": {"name": "name", "value": "a"}}
    assert player.result("completion/complete", ask)["completion"]["values"] == ["Ada", "Alan"]
