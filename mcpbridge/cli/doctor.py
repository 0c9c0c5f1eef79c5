"""``mcpbridge doctor [--fix] [--json] [--bundle FILE]``: what is wrong here, why, and what to do about it.

    ok    program        mcpbridge 0.1.0, Python 3.11.7, on PATH
    fail  server memory  initialize: server exited: ...
          do: ...

Nothing is changed without ``--fix``, and no tool is called.

Source: contract cli.doctor; ux section 6.
"""

from __future__ import annotations

import asyncio
import json
import os
import platform
import shutil
import stat
import sys
import time
import zipfile
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from typing import Any, Final, Literal, NamedTuple

from mcpbridge import __version__
from mcpbridge.cli.advice import ADVICE
from mcpbridge.cli.parsing import Parser
from mcpbridge.cli.test import tested
from mcpbridge.clients.changes import look_at_all, this_machine
from mcpbridge.config.gateway import GatewayConfig
from mcpbridge.config.load import Loaded, gateway_program, load_gateway, load_router, router_program
from mcpbridge.config.problems import ConfigError
from mcpbridge.config.render import as_json
from mcpbridge.config.router import RouterConfig
from mcpbridge.config.sections import ServerSpec
from mcpbridge.errors import BridgeError
from mcpbridge.observe.journal import logs
from mcpbridge.observe.log import configure
from mcpbridge.observe.routers import sockets
from mcpbridge.process import run as run_loop

SCHEMA: Final = "mcpbridge.doctor/v1"
AT_ONCE: Final = 4  # servers that are tried at the same time
RECENT: Final = 24 * 3600.0  # seconds of the routers' logs that are looked at
BUNDLED: Final = 500_000  # bytes of each log in a bundle
EX_CANTCREAT: Final = 73

State = Literal["ok", "warn", "fail"]


class Finding(NamedTuple):
    """What one check found. ``action``: the next step; ``fix``: does it, where that is safe."""

    check: str
    state: State
    detail: str
    action: str = ""
    fix: Callable[[], None] | None = None

    @property
    def document(self) -> dict[str, Any]:
        return {"check": self.check, "state": self.state, "detail": self.detail, "action": self.action or None}


class Known(NamedTuple):
    """The configurations that could be loaded."""

    router: Loaded[RouterConfig] | None = None
    gateway: Loaded[GatewayConfig] | None = None


def run(name: str, arguments: list[str]) -> int:
    """Check everything; 0 when nothing failed, else 1."""
    program = f"{name} doctor"
    parser = Parser(
        program,
        "Look at this installation, its configuration, its servers and its clients; say what is wrong and what to do.",
        [(program, "exit 0: nothing failed, 1: something did"),
         (f"{program} --fix", "and mend what is safe to mend"),
         (f"{program} --bundle report.zip", "a file for a bug report, without secrets"),
         (f"{program} --json", "for programs")],
    )  # fmt: skip
    parser.add_argument("--fix", action="store_true", help="mend what is safe: the modes of files that hold secrets")
    parser.add_argument("--bundle", metavar="FILE", help="write findings, configuration and logs into a new zip file")
    parser.add_argument("--timeout", type=float, default=10.0, metavar="SEC", help="for each step of a server (default 10)")
    parser.add_argument("--json", action="store_true", help="one JSON document")
    options = parser.parse(arguments)
    if not 0 < options.timeout <= 600:
        parser.error("--timeout: more than 0 and at most 600 seconds")
    configure("error", "text")
    known, found = _configurations()
    findings: list[Finding] = []

    def tell(finding: Finding) -> None:
        if options.fix and finding.fix is not None:
            finding = _mended(finding)
        findings.append(finding)
        if not options.json:
            print(f"{finding.state:5} {finding.check:24} {finding.detail}", flush=True)
            if finding.action and finding.state != "ok":
                print(f"      do: {finding.action}", flush=True)

    for finding in (*_program(), *found, *_files(known), *_clients(), *_running(), *_routers(time.time())):
        tell(finding)

    async def servers() -> int:
        async for finding in _servers(known, options.timeout):
            tell(finding)
        return 0

    if run_loop(servers):
        return 130
    failed = sum(finding.state == "fail" for finding in findings)
    document = {"schema": SCHEMA, "ok": not failed, "checks": [finding.document for finding in findings]}
    if options.json:
        print(json.dumps(document))
    else:
        print(f"{failed} failed" if failed else "nothing is wrong")
    if options.bundle:
        try:
            _bundle(options.bundle, document, known)
        except OSError as error:
            print(f"{program}: {options.bundle}: {(error.strerror or str(error)).lower()}", file=sys.stderr)
            return EX_CANTCREAT
        print(f"wrote {options.bundle}", file=sys.stderr)
    return 1 if failed else 0


def _program() -> Iterator[Finding]:
    said = f"mcpbridge {__version__}, Python {platform.python_version()}"
    found = shutil.which("mcpbridge")
    if found is None:
        yield Finding("program", "warn", f"{said}; mcpbridge is not on PATH", "editors need its whole path, or add it to PATH")
    else:
        yield Finding("program", "ok", f"{said}, {found}")


def _configurations() -> tuple[Known, list[Finding]]:
    """Those of the router and of the gateway, as the two would find them; a gateway's only where there is a file."""
    router: Loaded[RouterConfig] | None = None
    gateway: Loaded[GatewayConfig] | None = None
    findings: list[Finding] = []
    try:
        router = load_router(None, os.environ)
        findings.append(_loaded("router configuration", router))
    except ConfigError as error:
        findings.append(_faulty("router configuration", error))
    try:
        gateway = load_gateway(None, os.environ)
        if gateway.path:
            findings.append(_loaded("gateway configuration", gateway))
    except ConfigError as error:
        findings.append(_faulty("gateway configuration", error))
    return Known(router, gateway), findings


def _loaded(check: str, loaded: Loaded[Any]) -> Finding:
    place = loaded.path or "no file; the defaults hold"
    if loaded.warnings:
        return Finding(check, "warn", f"{place}: {'; '.join(str(warning) for warning in loaded.warnings)}")
    return Finding(check, "ok", place)


def _faulty(check: str, error: ConfigError) -> Finding:
    first = error.problems[0]
    more = f", and {len(error.problems) - 1} more" if len(error.problems) > 1 else ""
    return Finding(check, "fail", f"{first._replace(hint='')}{more}", first.hint or "mcpbridge config validate tells all")


def _files(known: Known) -> Iterator[Finding]:
    """Files that hold a token must be their owner's alone."""
    path = known.router.config.gateway.auth.token_file if known.router is not None else ""
    if not path or os.name != "posix":
        return
    path = os.path.expanduser(path)
    try:
        mode = stat.S_IMODE(os.stat(path).st_mode)
    except OSError:
        return  # whoever reads the token says so
    if mode & 0o077:
        yield Finding(
            "token file", "fail", f"{path} can be read by others (mode {mode:04o})", f"chmod 600 {path}",
            lambda: os.chmod(path, 0o600),
        )  # fmt: skip
    else:
        yield Finding("token file", "ok", path)


def _clients() -> Iterator[Finding]:
    """Files of clients that cannot be read, and entries of ours whose program is gone."""
    for file in look_at_all(this_machine(os.environ)):
        check = f"client {file.client.key}"
        if file.fault is not None:
            problem = file.fault.problems[0]
            yield Finding(check, "fail", f"{problem._replace(hint='')}", problem.hint or "mend the file; nothing was changed")
            continue
        ours = {name: one for name, one in file.entries.items() if "mcpbridge" in os.path.basename(one.command)}
        ours |= {name: one for name, one in file.entries.items() if os.path.basename(one.command) == "mcp-router"}
        for name, entry in ours.items():
            if shutil.which(entry.command) is None:
                again = f"mcpbridge clients add {file.client.key} --replace, with the program's present place"
                yield Finding(check, "fail", f"{file.path}: {name} starts {entry.command}, which is not there", again)
            else:
                yield Finding(check, "ok", f"{name} in {file.path}")


def _running() -> Iterator[Finding]:
    """The routers that run here, by what they say of themselves."""
    if not sockets():
        return
    from mcpbridge.admin.routers import local_routers
    from mcpbridge.admin.text import duration

    for one in asyncio.run(local_routers()):
        check, said = f"router {one.pid}", one.snapshot
        if said is None:
            yield Finding(check, "warn", f"it does not answer: {one.cause}", f"mcpbridge logs; if it hangs, kill {one.pid}")
            continue
        detail = f"{said.status}, client {one.client}, servers: {one.servers}, up {duration(said.uptime_sec)}"
        if said.status in ("degraded", "down"):
            yield Finding(check, "warn", f"{detail}: {'; '.join(said.reasons)}", f"mcpbridge status --router {one.pid}")
        else:
            yield Finding(check, "ok", detail)


def _routers(now: float) -> Iterator[Finding]:
    """Errors that routers of the last day have logged."""
    since = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now - RECENT))
    errors = 0
    newest = ("", "")
    for path in logs():
        try:
            raw = path.read_bytes().decode("utf-8", "replace")
        except OSError:
            continue
        for text in raw.splitlines():
            if '"level": "error"' not in text:
                continue
            try:
                line = json.loads(text)
            except ValueError:
                continue
            at = str(line.get("time", ""))
            if at >= since:
                errors += 1
                newest = max(newest, (at, str(line.get("message"))))
    if errors:
        yield Finding(
            "routers", "warn", f"{errors} errors since yesterday; newest: {newest[1]}", "mcpbridge logs --level error"
        )


async def _servers(known: Known, timeout: float) -> AsyncIterator[Finding]:
    """Every direct server and the gateway of the router, each stage by stage."""
    if known.router is None:
        return
    from mcpbridge.gateways import gateway_address, gateway_spec

    config = known.router.config
    ways = [(f"server {spec.name}", spec) for spec in config.servers]
    try:
        if gateway_address(config):
            ways.append(("gateway", gateway_spec(config)))
    except BridgeError as error:
        yield Finding("gateway", "fail", str(error), _action(error.reason))
    gate = asyncio.Semaphore(AT_ONCE)

    async def test(check: str, spec: ServerSpec) -> Finding:
        async with gate:
            return _verdict(check, await tested([spec], timeout, quiet=True))

    tasks = [asyncio.ensure_future(test(check, spec)) for check, spec in ways]
    try:
        for task in tasks:
            yield await task
    finally:
        for task in tasks:
            task.cancel()


def _verdict(check: str, report: dict[str, Any]) -> Finding:
    stages: Sequence[dict[str, Any]] = report["stages"]
    last = stages[-1]
    if not report["ok"]:
        return Finding(check, "fail", f"{last['stage']}: {last['detail']}", _action(last.get("reason")))
    took = sum(stage["ms"] for stage in stages)
    return Finding(check, "ok", f"{report['target']}: {report['protocol']}, {report['tools']} tools, {took:.0f} ms")


def _action(reason: str | None) -> str:
    return ADVICE[reason][1] if reason in ADVICE else ""


def _mended(finding: Finding) -> Finding:
    assert finding.fix is not None
    try:
        finding.fix()
    except OSError as error:
        return finding._replace(detail=f"{finding.detail}; it could not be mended: {(error.strerror or str(error)).lower()}")
    return Finding(finding.check, "ok", f"mended: {finding.action}")


def _bundle(path: str, document: dict[str, Any], known: Known) -> None:
    """A new file, its owner's alone: findings, configurations with their secrets blanked, the ends of the newest logs."""
    descriptor = os.open(os.path.expanduser(path), os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file, zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("doctor.json", json.dumps(document, indent=2))
        machine = {"mcpbridge": __version__, "python": sys.version, "platform": platform.platform()}
        archive.writestr("machine.json", json.dumps(machine, indent=2))
        if known.router is not None:
            archive.writestr("router.json", json.dumps(as_json(known.router, router_program()), indent=2))
        if known.gateway is not None and known.gateway.path:
            archive.writestr("gateway.json", json.dumps(as_json(known.gateway, gateway_program()), indent=2))
        for log in logs()[-3:]:
            archive.writestr(f"logs/{log.name}", log.read_bytes()[-BUNDLED:])
