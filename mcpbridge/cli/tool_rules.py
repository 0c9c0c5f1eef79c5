"""``mcpbridge tools --disable SERVER TOOL``: hides a tool by one word in the configuration file; nothing else changes in it.

    find the file -> edit its text -> load the result and compare -> show the difference -> backup, replace

Source: contract discovery.providers.static.servers[].tools; issue 6 (local routers).
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from typing import Any

from mcpbridge.cli.complaints import complain
from mcpbridge.cli.parsing import Parser
from mcpbridge.clients import disk
from mcpbridge.clients.changes import diff_of
from mcpbridge.clients.journal import back_up
from mcpbridge.config.deny import is_all, with_denied, without_denied
from mcpbridge.config.load import Loaded, Program, find_file, gateway_program, load, router_program
from mcpbridge.config.problems import ConfigError, Place, Problem
from mcpbridge.config.sections import ServerSpec

EX_NOINPUT = 66


def change(parser: Parser, options: argparse.Namespace) -> int:
    """Hide or show a tool; 0 done or nothing to do, 66 no file, 73 not written, 75 try again, 78 it cannot be done there."""
    server, tool = options.disable or options.enable
    try:
        program, path = _file(options)
        before = disk.read(path)
        text = _text(path, before.data or b"")
        edit = with_denied if options.disable else without_denied
        after = edit(text, path, server, tool)
        if after == text:
            print(f"{path}: server {server!r} hides {tool!r} already")
            return 0
        _check(program, path, after, server, tool, hides=options.disable is not None)
        data = after.encode()
        print(diff_of(path, before.data, data))
        if options.dry_run:
            return 0
        backup = back_up(before, time.time())
        disk.write(path, before, data)
    except ConfigError as error:
        return complain(parser.prog, error)
    print(f"{path}: written" + (f", backup {backup}" if backup else ""))
    if program.name == "router":
        print("next: routers that run keep what they have; restart the client, or its MCP servers")
    else:
        print("next: a gateway that runs takes it over by itself (mcpbridge gateway reloads a changed file)")
    return 0


def _text(path: str, data: bytes) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        raise ConfigError([Problem(Place(path), "not UTF-8 text", "save the file as UTF-8")]) from None


def _file(options: argparse.Namespace) -> tuple[Program[Any], str]:
    """The file to change, and whose it is: the one named, else the router's, else the gateway's."""
    programs: list[Program[Any]] = [router_program(), gateway_program()]
    named = options.config or os.environ.get("MCPBRIDGE_CONFIG")
    if named:
        faults: list[ConfigError] = []
        for program in programs:
            try:
                load(program, named, os.environ)
            except ConfigError as error:
                faults.append(error)
            else:
                return program, named
        raise min(faults, key=lambda error: len(error.problems))
    found = [(program, path) for program in programs if (path := find_file(program, os.environ)) is not None]
    server = (options.disable or options.enable)[0]
    for program, path in found:
        if any(spec.name == server for spec in _servers(program, load(program, path, os.environ))):
            return program, path
    if found:
        return found[0]
    why = "there is no configuration file, so no server is named in one"
    raise ConfigError([Problem(Place(), why, "mcpbridge config path tells where one is looked for")], EX_NOINPUT)


def _servers(program: Program[Any], loaded: Loaded[Any]) -> tuple[ServerSpec, ...]:
    value = loaded.config
    for name in program.servers_key.split("."):
        value = getattr(value, name)
    return tuple(value)


def _check(program: Program[Any], path: str, after: str, server: str, tool: str, *, hides: bool) -> None:
    """Load the result, and see that one list of one server is all that differs. Raises ConfigError."""
    old = load(program, path, os.environ)
    with tempfile.TemporaryDirectory() as folder:  # readable by us alone: files like this one hold tokens
        copy = os.path.join(folder, os.path.basename(path))
        with open(copy, "w", encoding="utf-8", newline="") as file:
            file.write(after)
        try:
            new = load(program, copy, os.environ)
        except ConfigError as error:
            problems = [problem._replace(place=problem.place._replace(source=path)) for problem in error.problems]
            raise ConfigError(problems, error.exit_code) from None
    is_right = is_all(_servers(program, old), _servers(program, new), server, tool, hides=hides)
    if not is_right or old.origins.keys() != new.origins.keys():
        why = "the file is written in a way that a small change would mean more than it should (an anchor?)"
        hint = f"nothing was changed; write tools: {{deny: [...]}} of server {server!r} by hand"
        raise ConfigError([Problem(Place(path), why, hint)])
