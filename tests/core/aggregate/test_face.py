"""Messages with the endpoint's names: only what must change does, byte for byte."""

from __future__ import annotations

from typing import Any, cast

import pytest

from mcpbridge.core.aggregate.face import Face
from mcpbridge.core.aggregate.resources import Owners
from mcpbridge.core.server import Server
from mcpbridge.wire import message as m
from mcpbridge.wire.envelope import parse

A, B = cast(Server, Server("a", [])), Server("b", [])


def face() -> Face:
    owners = Owners(["a", "b"])
    for server in ("a", "b"):
        owners.listed(server, "m://x")
    return Face(owners)


def response(result: str) -> m.Response:
    return cast(m.Response, parse(f'{{"jsonrpc":"2.0","id":1,"result":{result}}}'.encode(), client=False))


def shown(method: str, result: str, server: Server = B, **params: Any) -> str:
    answer = face().response(server, m.request(1, method, params), response(result))
    return bytes(answer.result or b"").decode()


def test_an_aliased_uri_is_shown_wherever_results_hold_one_and_all_else_keeps_its_bytes() -> None:
    alias = "mcpbridge+b:///m%3A//x"
    for method, result in {
        "tools/call": '{ "content" : [ {"type":"resource_link", "uri":"@", "n":1.0} , {"type":"text","text":""} ], "z":1e2 }',
        "resources/read": '{"contents":[{"text":"", "uri": "@"}]}',
        "prompts/get": '{"messages":[{"role":"user","content":{"type":"resource","resource":{"uri":"@","blob":""}}}]}',
        "tasks/get": '{"taskId":1,"result":{"content":[{"uri":"@"}]}}',
    }.items():
        assert shown(method, result.replace("@", "m://x")) == result.replace("@", alias), method
        own = result.replace("@", "m://x")
        assert shown(method, own, A) == own, "the first server's URIs are nobody's aliases"


@pytest.mark.parametrize(
    "result", ["5", "[1]", "null", '{"content":5}', '{"content":[1,null,"x"]}', '{"content":{"a":1,"a":2}}']
)
def test_what_is_no_proper_result_passes_as_it_is(result: str) -> None:
    assert shown("tools/call", result) == result


def test_a_task_id_names_its_server_where_a_task_is_told_of_and_nowhere_else() -> None:
    created = '{"task":{"taskId":"7","status":"working"}}'
    assert shown("tools/call", created, task={}) == created.replace('"7"', '"b:7"')
    assert shown("tools/call", created) == created  # nobody asked for a task
    assert shown("tools/call", '{"resultType":"task","taskId":"7"}') == '{"resultType":"task","taskId":"b:7"}'
    assert shown("tools/call", '{"taskId":"7","x":"task"}') == '{"taskId":"7","x":"task"}'
    assert shown("tasks/get", '{"taskId": "7"}') == '{"taskId": "b:7"}'
    meta = '{"_meta":{"k":1,"io.modelcontextprotocol/related-task":{"taskId":"7"}}}'
    assert shown("tasks/result", meta) == meta.replace('"7"', '"b:7"')


def test_a_task_id_goes_back_to_its_server_as_its_own() -> None:
    related = {"io.modelcontextprotocol/related-task": {"taskId": "b:7"}}
    sent = face().request(B, m.request(1, "tasks/get", {"taskId": "b:7", "_meta": related}))
    assert m.loads(sent.encode())["params"] == {
        "taskId": "7",
        "_meta": {"io.modelcontextprotocol/related-task": {"taskId": "7"}},
    }
    answer = face().answer(B, m.result(1, {"action": "accept", "_meta": related}))
    assert b'"taskId":"7"' in answer.encode()


def test_a_task_id_of_the_clients_own_is_left_alone() -> None:
    """A server may ask for a task of the client, too: that id is nobody's here."""
    meta = {"_meta": {"io.modelcontextprotocol/related-task": {"taskId": "mine"}}}
    asked = m.request(1, "tasks/result", {"taskId": "mine", **meta})
    assert face().question(B, asked) is asked
    answer = m.result(1, {"content": [], **meta})
    assert face().answer(B, answer) is answer


def test_notifications_about_tasks_and_resources_are_shown_and_others_pass() -> None:
    told = face().notification(B, m.notification("notifications/tasks/status", {"taskId": "7", "status": "working"}))
    assert m.loads(told.encode())["params"]["taskId"] == "b:7"
    told = face().notification(B, m.notification("notifications/resources/updated", {"uri": "m://x"}))
    assert m.loads(told.encode())["params"] == {"uri": "mcpbridge+b:///m%3A//x"}
    other = m.notification("notifications/vendor", {"taskId": "7", "uri": "m://x"})
    assert face().notification(B, other) is other
