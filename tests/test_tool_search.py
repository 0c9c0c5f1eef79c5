"""find_tool and call_tool in place of a long list, by real processes, in each era."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.test_tool_rules import LIST, META, call, configured, names, told

SERVER = """
import json, sys
era, count = sys.argv[1], int(sys.argv[2])
def tool(number):
    about = f"Does the thing number {number} to a widget of colour {['red', 'green', 'blue'][number % 3]}"
    schema = {"type": "object", "properties": {"widget": {"type": "string", "description": "Which widget"}}}
    return {"name": f"thing_{number}", "description": about, "inputSchema": schema}
for line in sys.stdin:
    request = json.loads(line)
    if "id" not in request:
        continue
    method, params, answer = request["method"], request.get("params", {}), {"jsonrpc": "2.0", "id": request["id"]}
    done = {"resultType": "complete"} if era == "modern" else {}
    if method == "initialize" and era == "legacy":
        answer["result"] = {"protocolVersion": "2025-11-25", "capabilities": {"tools": {}},
                            "serverInfo": {"name": "s", "version": "1"}}
    elif method == "server/discover" and era == "modern":
        answer["result"] = {**done, "supportedVersions": ["2026-07-28"], "capabilities": {"tools": {}}}
    elif method == "tools/list":
        start = int(params.get("cursor", 0))
        page = {"nextCursor": str(start + 20)} if start + 20 < count else {}
        answer["result"] = {**done, **page, "tools": [tool(n) for n in range(start, min(start + 20, count))]}
    elif method == "tools/call":
        said = params["name"] + " " + json.dumps(params.get("arguments"), sort_keys=True)
        answer["result"] = {**done, "content": [{"type": "text", "text": said}]}
    else:
        answer["error"] = {"code": -32601, "message": "no"}
    print(json.dumps(answer), flush=True)
"""


def serving(folder: Path, era: str, count: int, above: int, prefix: str = "never") -> None:
    (folder / "many.py").write_text(SERVER)
    server = {"name": "s", "command": sys.executable, "args": [str(folder / "many.py"), era, str(count)]}
    configured(folder, [server], routing={"prefix": prefix, "tool_search_above": above})


def find(query: Any, **more: Any) -> dict[str, Any]:
    return {"method": "tools/call", "params": {"name": "find_tool", "arguments": {"query": query, **more}}}


def run(name: Any, **arguments: Any) -> dict[str, Any]:
    return {"method": "tools/call", "params": {"name": "call_tool", "arguments": {"name": name, "arguments": arguments}}}


def text(answer: dict[str, Any]) -> str:
    return str(answer["result"]["content"][0]["text"])


@pytest.mark.parametrize("client", ["legacy", "modern"])
@pytest.mark.parametrize("era", ["legacy", "modern"])
@pytest.mark.parametrize("prefix", ["never", "always"])
def test_a_long_list_is_searched_and_what_is_found_is_called(tmp_path: Path, client: str, era: str, prefix: str) -> None:
    serving(tmp_path, era, 45, 10, prefix)
    front = "s__" if prefix == "always" else ""
    listed, found, called, direct = told(
        tmp_path, client, LIST, find("thing number 44", limit=3), run(f"{front}thing_44", widget="w"), call(f"{front}thing_3")
    )
    assert names(listed) == ["find_tool", "call_tool"] and "nextCursor" not in listed["result"]
    saved = listed["result"]["_meta"]["mcpbridge/tools"]
    assert saved["behind"] == 45 and saved["bytes_shown"] < saved["bytes"] / 5
    hits = json.loads(text(found))
    assert (len(hits["tools"]), hits["searched"], hits["tools"][0]["name"]) == (3, 45, f"{front}thing_44")
    assert hits["tools"][0]["inputSchema"]["properties"]["widget"]["description"] == "Which widget"
    assert text(called) == 'thing_44 {"widget": "w"}'
    assert text(direct) == "thing_3 {}", "a tool is still called by its own name"


def test_a_list_that_is_not_longer_stays_and_its_tools_keep_the_two_names(tmp_path: Path) -> None:
    serving(tmp_path, "modern", 45, 45)
    listed, second, called = told(tmp_path, "modern", LIST, {"method": "tools/list", "params": {"cursor": "20"}}, find("x"))
    assert len(names(listed)) == 20 and listed["result"]["nextCursor"] and "_meta" not in listed["result"]
    assert names(second)[0] == "thing_20"
    assert text(called) == 'find_tool {"query": "x"}', "it is whosever tool has that name"


@pytest.mark.parametrize("client", ["legacy", "modern"])
def test_what_a_model_asks_wrongly_is_a_result_that_it_can_read(tmp_path: Path, client: str) -> None:
    serving(tmp_path, "legacy", 15, 10)
    asked = [find(""), find(7), find("red", limit=0), find("red", limit=True), run(None), find("quantum"), find("blue widget")]
    *wrong, nothing, right = told(tmp_path, client, *asked)
    assert all(answer["result"]["isError"] for answer in wrong)
    assert "Nothing fits" in text(nothing) and "isError" not in nothing["result"]
    assert len(json.loads(text(right))["tools"]) == 5


def test_the_command_prints_what_was_saved(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from mcpbridge.cli.client import _cost

    serving(tmp_path, "modern", 300, 50)
    (listed,) = told(tmp_path, "modern", LIST)
    line = _cost(listed["result"]["tools"], listed["result"]["_meta"]["mcpbridge/tools"])
    assert line.startswith("2 tools, ") and "they stand for 300 tools" in line and "% saved" in line
    assert META
