"""Rules of tools in front of real processes: each era of client and server, alone and among others."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support.peers import environment
from tests.test_pools import META
from tests.test_reload import Running, serving, until

SERVER = """
import json, sys
era = sys.argv[1]
for line in sys.stdin:
    request = json.loads(line)
    if "id" not in request:
        continue
    method, answer = request["method"], {"jsonrpc": "2.0", "id": request["id"]}
    done = {"resultType": "complete"} if era == "modern" else {}
    if method == "initialize" and era == "legacy":
        answer["result"] = {"protocolVersion": "2025-11-25", "capabilities": {"tools": {}},
                            "serverInfo": {"name": "s", "version": "1"}}
    elif method == "server/discover" and era == "modern":
        answer["result"] = {**done, "supportedVersions": ["2026-07-28"], "capabilities": {"tools": {}},
                            "_meta": {"io.modelcontextprotocol/serverInfo": {"name": "s", "version": "1"}}}
    elif method == "tools/list":
        names = ["read_a", "read_b", "write"]
        answer["result"] = {**done, "tools": [{"name": name, "inputSchema": {"type": "object"}} for name in names]}
    elif method == "tools/call":
        answer["result"] = {**done, "content": [{"type": "text", "text": "called " + request["params"]["name"]}]}
    else:
        answer["error"] = {"code": -32601, "message": "no"}
    print(json.dumps(answer), flush=True)
"""


def told(folder: Path, era: str, *requests: dict[str, Any]) -> list[dict[str, Any]]:
    """The answers of a router with the folder's configuration to a client of this era."""
    says: list[dict[str, Any]] = []
    if era == "legacy":
        hello = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "c", "version": "1"}}
        says = [{"id": "hello", "method": "initialize", "params": hello}, {"method": "notifications/initialized"}]
    for number, request in enumerate(requests):
        params = request.get("params", {}) | ({"_meta": META} if era == "modern" else {})
        says.append({"id": number, "method": request["method"], "params": params})
    done = subprocess.run(
        [sys.executable, "-m", "mcpbridge", "router", "--config", str(folder / "router.yaml")],
        input="".join(json.dumps({"jsonrpc": "2.0", **line}) + "\n" for line in says),
        capture_output=True, text=True, timeout=20, cwd=folder,
        env=environment(XDG_CONFIG_HOME=str(folder), XDG_STATE_HOME=str(folder), HOME=str(folder)),
    )  # fmt: skip
    answers = {answer["id"]: answer for answer in map(json.loads, done.stdout.splitlines()) if "id" in answer}
    return [answers[number] for number in range(len(requests))]


def configured(folder: Path, servers: list[dict[str, Any]], **more: Any) -> None:
    (folder / "server.py").write_text(SERVER)
    (folder / "router.yaml").write_text(json.dumps({"servers": servers, **more}))


def server(folder: Path, name: str, era: str, **tools: Any) -> dict[str, Any]:
    return {"name": name, "command": sys.executable, "args": [str(folder / "server.py"), era], "tools": tools}


def call(name: str) -> dict[str, Any]:
    return {"method": "tools/call", "params": {"name": name, "arguments": {}}}


def names(answer: dict[str, Any]) -> list[str]:
    return [tool["name"] for tool in answer["result"]["tools"]]


LIST = {"method": "tools/list"}
RULES = {"allow": ["read_*"], "deny": ["read_b"], "rename": {"read_a": "look"}}


@pytest.mark.requirement("config.gateway.discovery.providers.static.servers.tools")
@pytest.mark.parametrize("client", ["legacy", "modern"])
@pytest.mark.parametrize("era", ["legacy", "modern"])
@pytest.mark.parametrize("prefix", ["never", "always"])
def test_in_every_era_alone_and_among_others_the_rules_hold(tmp_path: Path, client: str, era: str, prefix: str) -> None:
    configured(tmp_path, [server(tmp_path, "s", era, **RULES)], routing={"prefix": prefix})
    front = "s__" if prefix == "always" else ""
    asked = [LIST, call(front + "look"), *(call(front + hidden) for hidden in ("read_a", "read_b", "write", "nothing"))]
    listed, called, *refused = told(tmp_path, client, *asked)
    assert names(listed) == [front + "look"]
    assert called["result"]["content"] == [{"type": "text", "text": "called read_a"}]
    assert {answer["error"]["code"] for answer in refused} == {-32602}
    hidden, unknown = refused[2]["error"], refused[3]["error"]
    assert json.dumps(hidden).replace("write", "nothing") == json.dumps(unknown), "nobody learns that it is there"


def test_a_name_without_prefix_leads_to_the_server_that_shows_it(tmp_path: Path) -> None:
    both = [server(tmp_path, "a", "legacy", allow=["write"]), server(tmp_path, "b", "modern", deny=["write"])]
    configured(tmp_path, both, routing={"prefix": "never"})
    listed, first, second = told(tmp_path, "modern", LIST, call("write"), call("read_a"))
    assert sorted(names(listed)) == ["read_a", "read_b", "write"]
    assert "result" in first and "result" in second


@pytest.mark.parametrize(
    ("rename", "why"),
    [({"a": "x", "b": "x"}, "two tools cannot both be named 'x'"), ({"a": "b c"}, "'b c' is no name for a tool")],
    ids=["twice", "illegal"],
)
def test_names_that_cannot_be_given_are_refused_with_their_place(tmp_path: Path, rename: dict[str, str], why: str) -> None:
    (tmp_path / "router.yaml").write_text(json.dumps({"servers": [{"name": "s", "command": "x", "tools": {"rename": rename}}]}))
    done = subprocess.run(
        [sys.executable, "-m", "mcpbridge", "config", "validate", "router.yaml", "--for", "router"],
        capture_output=True, text=True, timeout=20, cwd=tmp_path, env=environment(HOME=str(tmp_path)),
    )  # fmt: skip
    assert done.returncode and why in done.stdout + done.stderr and "servers[0].tools.rename" in done.stdout + done.stderr


def test_a_reload_changes_what_clients_see_and_leaves_the_child_alone(tmp_path: Path) -> None:
    with serving(Running(tmp_path, "a")) as gateway:
        gateway.initialize()
        shown = gateway.tools()
        before = gateway.call("who")
        config = json.loads(gateway.text("a"))
        config["servers"][0]["tools"] = {"rename": {"who": "whoami"}}
        gateway.path.write_text(json.dumps(config))
        assert gateway.reload()["servers"]["changed"] == ["a"]
        assert (shown, gateway.tools()) == (["who"], ["whoami"])
        assert gateway.call("whoami") == before
        assert gateway.rpc("tools/call", {"name": "who", "arguments": {}})["error"]["code"] == -32602
        gateway.write("a")
        gateway.reload()
        until(lambda: gateway.tools() == ["who"])
