"""``mcpbridge tools | call | read``: a small curl for MCP, over every transport and both eras.

Results go to stdout, progress and questions of a server to stderr and the terminal.

Source: contract section 1.1 (``cli.mcp-client``).
"""

from __future__ import annotations

import argparse
import base64
import binascii
import json
import sys
from collections.abc import Awaitable, Callable
from typing import Any

from mcpbridge.cli.outcomes import EX_FAILED, tell
from mcpbridge.cli.parsing import Parser
from mcpbridge.cli.questions import ask_person, can_ask
from mcpbridge.cli.target import add_reach, server_of, split, timeout_of
from mcpbridge.errand import Errand, Failed, errand
from mcpbridge.errors import BridgeError
from mcpbridge.observe.log import configure
from mcpbridge.policies.tool_search import BYTES_PER_TOKEN, SAVED
from mcpbridge.process import run as run_loop

Work = Callable[[Errand], Awaitable[int]]


def tools(name: str, arguments: list[str]) -> int:
    """List the tools of a server."""
    program = f"{name} tools"
    parser = Parser(
        program,
        "List the tools of a server, or hide one of a configured server from every client."
        "\nExit 0: done, 69: not reached, 76: not MCP, 77: sign-in refused.",
        [
            (f"{program} http://localhost:8081/mcp", "names and first lines"),
            (f"{program} --json https://example.com/mcp", "everything, as JSON"),
            (f"{program} -- npx -y @modelcontextprotocol/server-everything", "of a command"),
            (f"{program} --cost http://localhost:8081/mcp", "what the list costs a model"),
            (f"{program} --disable files 'delete_*'", "hide tools: one word more in the configuration file"),
            (f"{program} --enable files 'delete_*'", "and show them again"),
        ],
    )
    own, command = split(arguments)
    parser.usage = (
        f"{program} [URL | -- CMD [ARGS...]] [--json] [--timeout TIME] [--token-env VARIABLE]"
        f"\n       {program} --disable | --enable SERVER TOOL [--config FILE] [--dry-run]"
    )
    parser.add_argument("url", nargs="?", metavar="URL", help="address of the server; or a command after --")
    add_reach(parser)
    rule = ("SERVER", "TOOL")
    parser.add_argument("--cost", action="store_true", help="also what the list costs a model: bytes, and tokens estimated")
    parser.add_argument("--disable", nargs=2, metavar=rule, help="hide a tool, or all that a pattern such as 'delete_*' fits")
    parser.add_argument("--enable", nargs=2, metavar=rule, help="take back what --disable wrote")
    parser.add_argument("--config", metavar="FILE", help="with them: the file to change (else the router's, or the gateway's)")
    parser.add_argument("--dry-run", action="store_true", help="with them: show the difference, write nothing")
    options = parser.parse(own)
    if options.disable or options.enable:
        if (options.disable and options.enable) or options.url or command:
            parser.error("--disable and --enable stand alone: they change a configuration file")
        from mcpbridge.cli.tool_rules import change

        return change(parser, options)
    if options.config or options.dry_run:
        parser.error("--config and --dry-run belong to --disable and --enable")

    async def work(one: Errand) -> int:
        found = await one.listed("tools/list", progress=_progress)
        if options.json:
            print(json.dumps({"tools": found}, ensure_ascii=False))
            return 0
        width = min(max((len(str(tool.get("name"))) for tool in found), default=0), 40)
        for tool in found:
            lines = str(tool.get("description") or tool.get("title") or "").strip().splitlines() or [""]
            print(f"{tool.get('name')!s:{width}}  {_plain(lines[0])}".rstrip())
            if arguments_ := _arguments(tool):
                print(f"{'':{width}}    {arguments_}")
        if options.cost or SAVED in one.list_meta:
            print(_cost(found, one.list_meta.get(SAVED)), file=sys.stderr)
        return 0

    return _run(parser, options, options.url, command, work)


def _cost(tools: list[dict[str, Any]], saved: Any) -> str:
    """What a list costs a model in every conversation, and what a search in its place (``routing.tool_search_above``) saves."""
    size = sum(len(json.dumps(tool, ensure_ascii=False, separators=(",", ":")).encode()) for tool in tools)
    line = f"{len(tools)} tools, {size:,} bytes, about {size // BYTES_PER_TOKEN:,} tokens"
    if isinstance(saved, dict) and isinstance(saved.get("bytes"), int) and saved["bytes"]:
        less = 1 - size / saved["bytes"]
        line += f"; they stand for {saved.get('behind')} tools, {saved['bytes']:,} bytes, about "
        line += f"{saved['bytes'] // BYTES_PER_TOKEN:,} tokens: {less:.1%} saved"
    return line


def call(name: str, arguments: list[str]) -> int:
    """Call one tool."""
    program = f"{name} call"
    parser = Parser(
        program,
        "Call a tool. Its result goes to stdout; exit 1 when the tool says that it failed.",
        [
            (f"{program} http://localhost:8081/mcp echo message=hello", "key=value is a text"),
            (f"{program} http://localhost:8081/mcp add a:=2 b:=3.5", "key:=value is JSON"),
            (f"{program} echo message=hello -- uvx my-server", "a tool of a command"),
            (f"{program} --json ws://localhost:8080/ws echo message=hello", "the whole result, as JSON"),
        ],
    )
    own, command = split(arguments)
    parser.usage = f"{program} [URL] TOOL [KEY=VALUE | KEY:=JSON]... [--json] [-- CMD [ARGS...]]"
    parser.add_argument("words", nargs="+", metavar="URL TOOL KEY=VALUE", help="no URL when a command stands after --")
    add_reach(parser)
    options = parser.parse(own)
    words: list[str] = options.words
    url = words.pop(0) if command is None and options.server is None else None
    if not words:
        parser.error("which tool? mcpbridge tools lists them")
    tool, given = words[0], _given(parser, words[1:])

    async def work(one: Errand) -> int:
        params = {"name": tool, "arguments": given}
        result = await one.request("tools/call", params, progress=_progress, ask=ask_person if can_ask() else None)
        if options.json:
            print(json.dumps(result, ensure_ascii=False))
        else:
            for block in result.get("content") or []:
                print(_block(block))
            if not result.get("content") and "structuredContent" in result:
                print(json.dumps(result["structuredContent"], ensure_ascii=False, indent=2))
        return EX_FAILED if result.get("isError") else 0

    return _run(parser, options, url, command, work)


def read(name: str, arguments: list[str]) -> int:
    """Read one resource."""
    program = f"{name} read"
    parser = Parser(
        program,
        "Read a resource: text as it is, bytes decoded. Without a URI the resources are listed.",
        [
            (f"{program} http://localhost:8081/mcp", "which there are"),
            (f"{program} http://localhost:8081/mcp file:///notes.txt", "one of them"),
            (f"{program} file:///notes.txt -- npx -y @modelcontextprotocol/server-filesystem /tmp", "of a command"),
        ],
    )
    own, command = split(arguments)
    parser.usage = f"{program} [URL] [URI] [--json] [-- CMD [ARGS...]]"
    parser.add_argument("words", nargs="*", metavar="URL URI", help="no URL when a command stands after --")
    add_reach(parser)
    options = parser.parse(own)
    words: list[str] = options.words
    url = words.pop(0) if command is None and options.server is None and words else None
    if len(words) > 1:
        parser.error(f"one URI at a time, not also {words[1]!r}")

    async def work(one: Errand) -> int:
        if not words:
            found = await one.listed("resources/list", progress=_progress)
            if options.json:
                print(json.dumps({"resources": found}, ensure_ascii=False))
            for resource in () if options.json else found:
                print(f"{resource.get('uri')}  {_plain(str(resource.get('title') or resource.get('name') or ''))}".rstrip())
            return 0
        result = await one.request("resources/read", {"uri": words[0]}, progress=_progress)
        if options.json:
            print(json.dumps(result, ensure_ascii=False))
            return 0
        for content in result.get("contents") or []:
            _write(content)
        return 0

    return _run(parser, options, url, command, work)


def _run(parser: Parser, options: argparse.Namespace, url: str | None, command: list[str] | None, work: Work) -> int:
    timeout = timeout_of(parser, options)
    spec = server_of(parser, options, url, command)
    configure("error", "text")
    status = 0

    async def main() -> int:
        nonlocal status
        async with errand(spec, timeout=timeout) as one:
            try:
                status = await work(one)
            except Failed as error:
                print(f"{parser.prog}: the server says: {_plain(str(error))}", file=sys.stderr)
                status = EX_FAILED
            except BridgeError as error:
                status = tell(parser.prog, error)
        return 0

    ended = run_loop(main)
    return ended or status


def _given(parser: Parser, words: list[str]) -> dict[str, Any]:
    """The arguments of a call; exits with 64 for what is none."""
    given: dict[str, Any] = {}
    for word in words:
        key, equals, value = word.partition("=")
        if not equals or not key.rstrip(":"):
            parser.error(f"an argument is KEY=VALUE or KEY:=JSON, not {word[:60]!r}")
        if key.endswith(":"):
            try:
                given[key[:-1]] = json.loads(value)
            except ValueError as error:
                parser.error(f"{key[:-1]}: what follows := is no JSON: {error}")
        else:
            given[key] = value
    return given


def _progress(said: str) -> None:
    print(_plain(said), file=sys.stderr, flush=True)


def _arguments(tool: dict[str, Any]) -> str:
    """The arguments of a tool on one line; optional ones in brackets."""
    schema = tool.get("inputSchema") or {}
    required = schema.get("required") or []
    parts = []
    for key, value in (schema.get("properties") or {}).items():
        kind = value.get("type") if isinstance(value, dict) else None
        shown = f"{key}={kind if isinstance(kind, str) else 'any'}"
        parts.append(shown if key in required else f"[{shown}]")
    return _plain(" ".join(parts))


def _block(block: Any) -> str:
    """One block of a result for people."""
    if not isinstance(block, dict):
        return json.dumps(block)
    kind = block.get("type")
    if kind == "text":
        return _plain(str(block.get("text", "")), keep="\n\t")
    if kind in ("image", "audio"):
        return f"[{kind} {_plain(str(block.get('mimeType')))}, {len(str(block.get('data', ''))) * 3 // 4} bytes; --json has it]"
    if kind == "resource" and isinstance(inner := block.get("resource"), dict) and "text" in inner:
        return _plain(str(inner["text"]), keep="\n\t")
    return _plain(json.dumps(block, ensure_ascii=False))


def _write(content: Any) -> None:
    if isinstance(content, dict) and isinstance(content.get("blob"), str):
        try:
            data = base64.b64decode(content["blob"], validate=True)
        except (binascii.Error, ValueError):
            data = content["blob"].encode()
        sys.stdout.flush()
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()
    elif isinstance(content, dict):
        said = str(content.get("text", ""))
        sys.stdout.write(_plain(said, keep="\n\r\t") if sys.stdout.isatty() else said)
        if sys.stdout.isatty() and not said.endswith("\n"):
            sys.stdout.write("\n")


def _plain(said: str, *, keep: str = "") -> str:
    """A server's text for a terminal: its escape sequences must not reach it."""
    return "".join(c if c.isprintable() or c in keep else "�" for c in said)
