"""test, detect, tools, call and read against small real servers: stages, exit statuses, what is printed."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
from typing import Any

import pytest

from mcpbridge.cli import main
from mcpbridge.cli.questions import read_answer
from tests.cli.servers import serving
from tests.detection import servers as s
from tests.detection.wires import Answer, Counts, Request

DEMO = [sys.executable, "-m", "mcpbridge.demo.stdio"]
TOOLS = [
    {
        "name": "echo",
        "description": "Says it.\nTwice.",
        "inputSchema": {"type": "object", "properties": {"text": {"type": "string"}}},
    }
]


def full(era: str) -> s.Behaviour:
    """A server with a tool and a resource."""
    greet = s.modern() if era == "modern" else s.legacy()

    async def behave(request: Request, counts: Counts) -> Answer | None:
        method, params = request.message.get("method"), request.message.get("params") or {}
        if request.method != "POST" or method in ("server/discover", "initialize"):
            return await greet(request, counts)
        if str(method).startswith("notifications/"):
            return Answer(202)
        if method == "tools/list":
            return Answer(
                200, s.result(request, {"tools": TOOLS} if params.get("cursor") else {"tools": TOOLS, "nextCursor": "2"})
            )
        if method == "tools/call":
            counts.calls += 1
            said = json.dumps(params["arguments"], sort_keys=True)
            return Answer(
                200, s.result(request, {"content": [{"type": "text", "text": said}], "isError": params["name"] == "fail"})
            )
        if method == "resources/read":
            blob = {"uri": "x:/b", "blob": "AAECAw=="}
            return Answer(
                200,
                s.result(request, {"contents": [blob if params["uri"] == "x:/b" else {"uri": "x:/t", "text": "a\x1b[31mb"}]}),
            )
        return Answer(200, s.error(request.message.get("id"), -32601, "Method not found"))

    return behave


def mcpbridge(capsys, *arguments: str) -> tuple[int, str, str]:
    status = main(["mcpbridge", *arguments])
    told = capsys.readouterr()
    return status, told.out, told.err


@pytest.mark.requirement("cli.test.http", "cli.test.other")
@pytest.mark.parametrize("era", ["modern", "legacy"])
def test_every_stage_of_a_good_server_is_told_and_no_tool_is_called(capsys, era):
    with serving(s.http(full(era))) as (port, counts):
        status, out, _ = mcpbridge(capsys, "test", "--protocol", "http", "--endpoint", f"http://127.0.0.1:{port}")
    assert status == 0
    rows = [line.split() for line in out.splitlines()]
    assert [(row[0], row[1]) for row in rows[:-1]] == [
        ("ok", "resolve"), ("ok", "connect"), ("ok", "sign-in"), ("ok", "initialize"), ("ok", "tools/list"),
    ]  # fmt: skip
    assert out.splitlines()[-1] == f"answered at http://127.0.0.1:{port}/mcp"
    assert (counts.calls, counts.sessions, counts.connections) == (0, set(), 0)


@pytest.mark.requirement("cli.test.http")
def test_an_address_without_a_path_is_tried_at_the_root_too(capsys):
    with serving(s.http(s.modern(path="/"))) as (port, _):
        status, out, _ = mcpbridge(capsys, "test", "--protocol", "http", "--endpoint", f"http://127.0.0.1:{port}")
    assert status in (0, 69) and f"trying http://127.0.0.1:{port}/" in out
    assert "ok   initialize" in out


@pytest.mark.requirement("cli.test.websocket")
@pytest.mark.parametrize("kind", ["modern", "legacy"])
def test_websocket_has_a_stage_for_its_upgrade(capsys, kind):
    with serving(s.websocket(kind)) as (port, _):
        _, out, _ = mcpbridge(capsys, "test", "--protocol", "websocket", "--endpoint", f"ws://127.0.0.1:{port}/mcp")
    assert [line.split()[1] for line in out.splitlines()][:5] == ["resolve", "connect", "upgrade", "sign-in", "initialize"]


@pytest.mark.requirement("cli.test.websocket", "cli.test.other")
@pytest.mark.parametrize(
    ("serve", "protocol", "scheme", "status", "stage"),
    [
        (s.http(s.says(401, b"", www_authenticate="Bearer")), "http", "http", 77, "sign-in"),
        (s.http(s.says(403)), "http", "http", 77, "sign-in"),
        (s.http(s.says(200, s.HTML, "text/html")), "http", "http", 76, "initialize"),
        (s.http(s.says(404)), "http", "http", 76, "initialize"),
        (s.http(s.says(404)), "websocket", "ws", 76, "upgrade"),
        (s.http(s.says(401, b"", www_authenticate="Bearer")), "websocket", "ws", 77, "sign-in"),
        (s.http(s.says(200, s.HTML, "text/html")), "auto", "http", 76, "detect"),
        (s.black_hole, "http", "http", 69, "initialize"),
    ],
)
def test_a_failure_has_its_stage_and_its_exit_status(capsys, serve, protocol, scheme, status, stage):
    with serving(serve) as (port, _):
        arguments = ("test", "--protocol", protocol, "--endpoint", f"{scheme}://127.0.0.1:{port}/mcp", "--timeout", "500ms")
        found, out, _ = mcpbridge(capsys, *arguments)
    assert found == status, out
    assert out.splitlines()[-1].split()[:2] == ["fail", stage]


@pytest.mark.requirement("cli.test.websocket")
@pytest.mark.parametrize(
    "arguments",
    [(), ("--endpoint", "nothing"), ("--endpoint", "ws://a", "--protocol", "http"), ("--endpoint", "http://a", "--", "true"),
     ("--protocol", "smtp", "--endpoint", "http://a"), ("--endpoint", "http://a", "--timeout", "soon"),
     ("--endpoint", "http://a", "--nope"),
     ("--endpoint", "http://a", "--header", "nocolon"), ("--endpoint", "http://a", "--token-env", "MCPBRIDGE_NOT_SET")],
)  # fmt: skip
def test_misuse_is_64_with_the_next_step(capsys, arguments):
    status, out, err = mcpbridge(capsys, "test", *arguments)
    assert (status, out) == (64, "")
    assert "see: mcpbridge test --help" in err


@pytest.mark.requirement("cli.test.other")
def test_json_is_one_document_with_every_stage(capsys):
    status, out, _ = mcpbridge(capsys, "test", "--json", "--protocol", "stdio", "--", *DEMO)
    document: dict[str, Any] = json.loads(out)
    assert status == document["exit_code"] == 0
    assert document["schema"] == "mcpbridge.test/v1" and document["ok"] is True
    assert [stage["stage"] for stage in document["stages"]] == ["start", "sign-in", "initialize", "tools/list"]
    assert (document["protocol"], document["server"]["name"], document["tools"]) == ("stdio", "demo", 7)


@pytest.mark.requirement("cli.test.other")
def test_a_command_that_does_not_exist_is_not_reached(capsys):
    status, out, err = mcpbridge(capsys, "test", "--", "/no/such/program")
    assert status == 69 and "fail start" in out and "no such file" in out
    assert "action:" in err


@pytest.mark.requirement("cli.test.fallback")
def test_fallback_mode_tests_direct_servers_then_the_gateway_and_says_what_a_request_would_use(capsys, tmp_path, monkeypatch):
    with serving(s.http(full("modern"))) as (port, _), serving(s.http(s.says(503))) as (broken, _):
        config = tmp_path / "router.yaml"
        config.write_text(
            f"direct_clients: {{servers: [{{name: one, url: 'http://127.0.0.1:{broken}/mcp', protocol: http}}]}}\n"
        )
        monkeypatch.setenv("MCP_GATEWAY_URL", f"http://127.0.0.1:{port}")
        status, out, _ = mcpbridge(capsys, "test", "--fallback-mode", "--config", str(config))
        assert status == 0
        assert out.index("direct one") < out.index("gateway gateway")
        assert out.splitlines()[-1] == "a request would use: gateway gateway"
        monkeypatch.delenv("MCP_GATEWAY_URL")
        status, out, _ = mcpbridge(capsys, "test", "--fallback-mode", "--json", "--config", str(config))
        assert status == json.loads(out)["exit_code"] == 69 and json.loads(out)["uses"] is None
        empty = tmp_path / "empty.yaml"
        empty.write_text("version: 1\n")
        monkeypatch.setenv("MCP_GATEWAY_URL", f"http://127.0.0.1:{port}")
        status, out, _ = mcpbridge(capsys, "test", "--fallback-mode", "--json", "--config", str(empty))
        assert status == 0 and json.loads(out)["uses"] == "gateway gateway"


@pytest.mark.requirement("cli.detect")
def test_detect_names_protocol_era_confidence_and_evidence(capsys):
    with serving(s.http(s.modern())) as (port, counts), serving(s.websocket("legacy")) as (other, _):
        urls = [f"http://127.0.0.1:{port}/mcp", f"ws://127.0.0.1:{other}/mcp"]
        status, out, _ = mcpbridge(capsys, "detect", *urls)
        assert status == 0 and "http (modern), confidence 1" in out and "websocket (legacy)" in out
        status, out, _ = mcpbridge(capsys, "detect", "--json", *urls, "127.0.0.1:1")
        results = json.loads(out)["results"]
        assert status == 69 and [one["result"] for one in results] == ["success", "success", "unreachable"]
        assert results[0].keys() == {"target", "protocol", "era", "result", "confidence", "evidence", "duration_ms", "cached"}
        assert counts.calls == 0
    assert mcpbridge(capsys, "detect", "gopher://x")[0] == 64


@pytest.mark.requirement("cli.detect")
def test_detect_says_which_path_answered_when_none_was_given(capsys):
    with serving(s.http(s.modern())) as (port, _):
        for place in (f"127.0.0.1:{port}", f"http://127.0.0.1:{port}"):
            status, out, _ = mcpbridge(capsys, "detect", place)
            assert status == 0 and out.endswith("answered at /mcp\n")
        assert "answered at" not in mcpbridge(capsys, "detect", f"http://127.0.0.1:{port}/mcp")[1]


@pytest.mark.requirement("cli.mcp-client")
def test_host_and_port_alone_are_an_address(capsys):
    with serving(s.http(full("modern"))) as (port, _), serving(s.websocket("legacy", path="/")) as (socket, _):
        assert mcpbridge(capsys, "tools", f"127.0.0.1:{port}")[0] == 0
        assert mcpbridge(capsys, "test", "--endpoint", f"localhost:{port}")[0] == 0
        assert "initialize" in mcpbridge(capsys, "test", "--protocol", "websocket", "--endpoint", f"localhost:{socket}")[1]


@pytest.mark.requirement("cli.mcp-client")
@pytest.mark.parametrize("era", ["modern", "legacy"])
def test_tools_are_listed_called_and_resources_read_in_both_eras(capsys, era):
    with serving(s.http(full(era))) as (port, counts):
        url = f"http://127.0.0.1:{port}/mcp"
        status, out, _ = mcpbridge(capsys, "tools", url)
        assert status == 0 and out.splitlines()[:2] == ["echo  Says it.", "        [text=string]"]
        status, out, _ = mcpbridge(capsys, "tools", "--json", url)
        assert [tool["name"] for tool in json.loads(out)["tools"]] == ["echo", "echo"]  # both pages
        status, out, _ = mcpbridge(capsys, "call", url, "echo", "text=a=b", "n:=2", 'deep:={"x":[1]}')
        assert (status, out) == (0, '{"deep": {"x": [1]}, "n": 2, "text": "a=b"}\n')
        status, out, _ = mcpbridge(capsys, "call", "--json", url, "echo")
        assert status == 0 and json.loads(out)["content"][0]["text"] == "{}"
        assert mcpbridge(capsys, "call", url, "fail")[0] == 1
        status, out, _ = mcpbridge(capsys, "read", url, "x:/t")
        assert (status, out) == (0, "a\x1b[31mb")  # into a file as it is
        assert json.loads(mcpbridge(capsys, "read", "--json", url, "x:/b")[1])["contents"][0]["blob"] == "AAECAw=="
        status, _, err = mcpbridge(capsys, "read", url)
        assert status == 1 and "the server says: Method not found" in err
        assert counts.calls == 3 and counts.sessions == set()


@pytest.mark.requirement("cli.mcp-client")
def test_a_tool_of_a_command_is_called_with_its_progress_on_stderr(capsys):
    status, out, err = mcpbridge(capsys, "call", "sleep", "seconds:=0.01", "steps:=2", "--", *DEMO)
    assert (status, out, err) == (0, "slept 0.01 s\n", "1/2\n2/2\n")


@pytest.mark.requirement("cli.mcp-client")
def test_a_server_is_named_as_the_router_names_it(capsys):
    with serving(s.http(full("modern"))) as (port, _):
        named = ("--server", f"one=http://127.0.0.1:{port}/mcp")
        assert mcpbridge(capsys, "tools", *named)[1].startswith("echo")
        assert mcpbridge(capsys, "call", *named, "echo", "a=b") == (0, '{"a": "b"}\n', "")
        assert mcpbridge(capsys, "tools", *named, "http://127.0.0.1:1/mcp")[0] == 64


@pytest.mark.requirement("cli.mcp-client")
@pytest.mark.parametrize(
    "arguments",
    [("tools",), ("call", "http://127.0.0.1:1/mcp"), ("call", "http://127.0.0.1:1/mcp", "x", "novalue"),
     ("call", "http://127.0.0.1:1/mcp", "x", "a:=nojson"), ("read", "http://127.0.0.1:1/mcp", "a", "b"),
     ("tools", "no-address")],
)  # fmt: skip
def test_misuse_of_the_small_client_is_64(capsys, arguments):
    assert mcpbridge(capsys, *arguments)[0] == 64


@pytest.mark.requirement("cli.mcp-client")
def test_a_server_that_is_not_there_is_69_with_an_action(capsys):
    status, out, err = mcpbridge(capsys, "tools", "http://127.0.0.1:1/mcp")
    assert (status, out) == (69, "") and "connection refused" in err and "action: start the server" in err


def test_control_characters_of_a_server_do_not_reach_a_terminal(capsys):
    with serving(s.http(full("modern"))) as (port, _):
        _, out, _ = mcpbridge(capsys, "call", f"http://127.0.0.1:{port}/mcp", "echo", "t=\x1b[2J\u202e")
    assert "\x1b" not in out and "\u202e" not in out


@pytest.mark.parametrize(
    ("text", "field", "value"),
    [("yes", {"type": "boolean"}, True), ("N", {"type": "boolean"}, False), ("7", {"type": "integer"}, 7),
     ("1.5", {"type": "number"}, 1.5),
     ("a", {"type": "string"}, "a"), ("a, b", {"type": "array"}, ["a", "b"])],
)  # fmt: skip
def test_a_typed_answer_becomes_what_the_form_wants(text, field, value):
    assert read_answer(text, field, []) == value


@pytest.mark.parametrize(
    ("text", "field", "choices"), [("maybe", {"type": "boolean"}, []), ("x", {"type": "integer"}, []), ("c", {}, ["a"])]
)
def test_an_answer_that_does_not_fit_is_asked_for_again(text, field, choices):
    with pytest.raises(ValueError, match=r"\w"):
        read_answer(text, field, choices)


@pytest.mark.requirement("cli.router.url")
def test_a_router_that_ends_has_ended_its_servers_sessions():
    """It used to close its connections before it said goodbye on them."""
    said = [
        {"id": 1, "method": "initialize", "params": s.initialized() | {"clientInfo": s.INFO}},
        {"method": "notifications/initialized"},
        {"id": 2, "method": "tools/list"},
    ]
    lines = "".join(json.dumps({"jsonrpc": "2.0", **one}) + "\n" for one in said)
    with serving(s.http(full("legacy"))) as (port, counts):
        done = subprocess.run(
            [sys.executable, "-m", "mcpbridge", "router", f"http://127.0.0.1:{port}/mcp"],
            input=lines, capture_output=True, text=True, timeout=20,
        )  # fmt: skip
        assert done.returncode == 0 and '"echo"' in done.stdout
        assert counts.sessions == set()


@pytest.mark.skipif(os.name == "nt", reason="POSIX signals")
@pytest.mark.parametrize(
    "arguments",
    [["detect", "--timeout", "20s"], ["test", "--protocol", "http", "--json", "--endpoint"], ["tools", "--protocol", "http"]],
    ids=lambda arguments: arguments[0],
)
def test_an_interrupt_ends_a_command_with_130_and_without_a_word(arguments):
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        silent.settimeout(10)
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/mcp"
        process = subprocess.Popen(
            [sys.executable, "-m", "mcpbridge", *arguments, url], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        )  # fmt: skip
        with contextlib.ExitStack() as stack:
            while not stack.enter_context(_accepted(silent)).recv(1):  # `test` connects first to see whether it can
                pass
            process.send_signal(signal.SIGINT)
            out, err = process.communicate(timeout=10)
    assert (process.returncode, out, err) == (130, b"", b"")


def _accepted(listener: socket.socket) -> socket.socket:
    accepted, _ = listener.accept()
    accepted.settimeout(10)
    return accepted
