"""``mcpbridge test``: can this server be reached, and if not, where does it fail.

    ok   resolve       0.2 ms  127.0.0.1
    ok   connect       0.3 ms  127.0.0.1:8081
    ok   sign-in       0.0 ms  none asked for
    fail initialize   12.1 ms  protocol mismatch: ...

Source: contract section 1.1 (``cli.test.*``).
"""

from __future__ import annotations

import argparse
import json
import os
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from mcpbridge.checks.place import FOREIGN, Stage
from mcpbridge.cli.complaints import complain
from mcpbridge.cli.outcomes import advise
from mcpbridge.cli.parsing import Parser
from mcpbridge.cli.target import add_reach, check_protocol, server_of, split, timeout_of
from mcpbridge.config.load import load_router
from mcpbridge.config.problems import ConfigError
from mcpbridge.config.sections import ServerSpec
from mcpbridge.config.servers import changed
from mcpbridge.errand import errand
from mcpbridge.errors import BridgeError
from mcpbridge.observe.log import configure
from mcpbridge.process import run as run_loop

SCHEMA = "mcpbridge.test/v1"
HTTP_PATHS = ("/mcp", "/")  # tried one after the other for an address without a path


def run(name: str, arguments: list[str]) -> int:
    """Test one server, or with ``--fallback-mode`` all of the configuration; the exit status."""
    parser = _parser(f"{name} test")
    own, command = split(arguments)
    options = parser.parse(own)
    timeout = timeout_of(parser, options)
    configure("error", "text")
    if options.fallback_mode:
        if options.endpoint or command is not None:
            parser.error("--fallback-mode tests what the configuration names; leave out the endpoint")
        return _fallback(parser, options, timeout)
    check_protocol(parser, options.protocol)
    spec = server_of(parser, options, options.endpoint, command)
    report = run_candidates(_candidates(spec, options.protocol), timeout, quiet=options.json)
    if options.json:
        print(json.dumps(report))
    return int(report["exit_code"])


def _parser(program: str) -> Parser:
    parser = Parser(
        program,
        "Reach a server stage by stage and say where it fails. No tool is called."
        "\nExit 0: all well, 69: not reached, 76: not that protocol, 77: sign-in refused, 64: misuse.",
        [
            (f"{program} --endpoint https://example.com/mcp", "find out the protocol, then test it"),
            (f"{program} --protocol websocket --endpoint ws://localhost:8080", "one protocol"),
            (f"{program} --protocol stdio -- uvx mcp-server-time", "a command"),
            (f"{program} --protocol stdio --endpoint unix:///run/server.sock", "a unix socket"),
            (f"{program} --fallback-mode", "direct servers, then the gateway, of the configuration"),
        ],
    )
    parser.usage = (
        f"{program} [--protocol NAME] (--endpoint URL | -- CMD [ARGS...] | --fallback-mode) [--json] [--timeout TIME]"
    )
    parser.add_argument("--endpoint", metavar="URL", help="address of the server, or the path of a unix socket")
    parser.add_argument("--fallback-mode", action="store_true", help="test direct servers and gateway of the configuration")
    parser.add_argument("--config", metavar="FILE", help="the router's configuration, for --fallback-mode")
    add_reach(parser)
    parser.epilog = (
        f'--json: {{"schema":"{SCHEMA}","ok","exit_code","target","protocol","era","server","tools","stages":[...]}}'
    )
    return parser


def _candidates(spec: ServerSpec, protocol: str) -> list[ServerSpec]:
    """The server with each address to try: /mcp and then / when it is HTTP and no path is given."""
    endpoint = spec.endpoints[0]
    parts = urlsplit(endpoint.url)
    if protocol != "http" or parts.scheme not in ("http", "https") or parts.path not in ("", "/"):
        return [spec]
    urls = [urlunsplit(parts._replace(path=path)) for path in HTTP_PATHS]
    return [changed(spec, url=url) for url in urls]


def run_candidates(candidates: list[ServerSpec], timeout: float, *, quiet: bool) -> dict[str, Any]:
    """Test the candidates until one is not simply absent; the report of the last."""
    report: dict[str, Any] = {}

    async def main() -> int:
        nonlocal report
        report = await tested(candidates, timeout, quiet=quiet)
        return 0

    if run_loop(main):
        raise KeyboardInterrupt  # there is no report
    return report


async def tested(candidates: list[ServerSpec], timeout: float, *, quiet: bool) -> dict[str, Any]:
    """The report on one server. Stages are printed as they come unless ``quiet``."""
    report: dict[str, Any] = {}
    for number, spec in enumerate(candidates):
        if number and not quiet:
            print(f"trying {spec.endpoints[0].target}")
        report = await _test(spec, timeout, quiet=quiet)
        if report["ok"] or report["exit_code"] != FOREIGN:
            break
    if not quiet and report["ok"] and len(candidates) > 1:
        print(f"answered at {report['target']}")
    if not quiet and not report["ok"]:
        advise(report["stages"][-1].get("reason"))
    return report


async def _test(spec: ServerSpec, timeout: float, *, quiet: bool) -> dict[str, Any]:
    stages: list[Stage] = []
    async with errand(spec, timeout=timeout) as one:
        async for stage in one.stages():
            stages.append(stage)
            if not quiet:
                print(f"{'ok' if stage.ok else 'fail':4} {stage.stage:10} {stage.ms:8.1f} ms  {stage.detail}", flush=True)
        walk = one.walk
        greeting = walk.greeting if walk is not None else None
        return {
            "schema": SCHEMA,
            "ok": all(stage.ok for stage in stages),
            "exit_code": stages[-1].exit_code,
            "target": spec.endpoints[0].target,
            "protocol": one.protocol,
            "era": greeting.era if greeting is not None else None,
            "server": {"name": greeting.name, "version": greeting.version} if greeting is not None else None,
            "tools": walk.tools if walk is not None else None,
            "stages": [stage.document for stage in stages],
        }


def _fallback(parser: Parser, options: argparse.Namespace, timeout: float) -> int:
    """Direct servers, then the gateway, and which of them a request would use."""
    from mcpbridge.gateways import gateway_address, gateway_spec

    try:
        config = load_router(options.config, os.environ).config
    except ConfigError as error:
        return complain(parser.prog, error)
    ways: list[tuple[str, ServerSpec]] = [("direct", spec) for spec in config.servers]
    try:
        if gateway_address(config):
            ways.append(("gateway", gateway_spec(config)))
    except BridgeError as error:
        return complain(parser.prog, error)
    if not ways:
        parser.error("no direct server and no gateway is configured; set MCP_GATEWAY_URL, or name a file with --config")
    reports: list[dict[str, Any]] = []

    async def main() -> int:
        for via, spec in ways:
            if not options.json:
                print(f"{via} {spec.name} ({spec.endpoints[0].target})")
            reports.append({"via": via, "name": spec.name, **await tested([spec], timeout, quiet=options.json)})
        return 0

    if run_loop(main):
        raise KeyboardInterrupt
    used = next((f"{report['via']} {report['name']}" for report in reports if report["ok"]), None)
    code = 0 if used is not None else int(reports[-1]["exit_code"])
    if options.json:
        document = {"schema": SCHEMA, "ok": used is not None, "exit_code": code, "uses": used, "results": reports}
        print(json.dumps(document))
    else:
        print(f"a request would use: {used or 'nothing, every way failed'}")
    return code
