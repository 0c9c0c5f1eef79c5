"""The cells of the conformance matrix: a suite at a protocol version × a kind of server × the way between them.

A cell's name is ``suite version kind way backend``, for example ``0.2 2026-07-28 legacy gateway stdio``. Ways: ``direct`` (no
bridge), ``gateway``, ``gateway-gateway`` (the second one's server is the first one's ``/mcp/{server}``),
``gateway-router-gateway`` (the middle hop is a router's stdio, so the whole path of a stdio client is in it) and ``aggregate``
(a gateway's ``/mcp`` that shows this server and a legacy one, without prefixes). Backend: how the last bridge reaches the
server. The cells of client scenarios are called ``client version way`` (``test_clients``).

``baseline.json`` names the scenarios that are known to fail, by the beginning of cells' names. A cell must lose exactly these:
whoever mends one has to take it from the list.
"""

from __future__ import annotations

import contextlib
import json
import sys
import tempfile
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.support import peers

BASELINE = Path(__file__).with_name("baseline.json")

#: (suite, protocol version) -> number of its scenarios
SUITES = {
    ("0.1.16", "2025-11-25"): 32,
    ("0.2", "2025-06-18"): 27,
    ("0.2", "2025-11-25"): 33,
    ("0.2", "2026-07-28"): 40,
}
MODERN = "2026-07-28"
PLAIN = {"auth": {"type": "none"}, "server": {"tls": {"enabled": False}}}
CHILDREN = 40  # more than a suite has scenarios with sessions
KINDS = ("dual", "legacy", "modern")
WAYS = ("gateway", "gateway-gateway", "gateway-router-gateway", "aggregate")
WARM = {"protocolVersion": MODERN, "clientInfo": {"name": "warm", "version": "1"}, "clientCapabilities": {"elicitation": {}}}
BESIDE = {"name": "beside", "command": sys.executable, "args": ["-m", "mcpbridge.demo.stdio", "--name", "beside"]}


@dataclass(frozen=True, slots=True)
class Cell:
    """One run of one suite."""

    suite: str
    version: str
    kind: str
    way: str
    backend: str = "http"

    def __str__(self) -> str:
        return f"{self.suite} {self.version} {self.kind} {self.way} {self.backend}"

    @property
    def is_short(self) -> bool:
        """Whether the cell belongs to the short tier: every crossing once, and the newest suites over stdio and two hops."""
        if self.way == "direct" or (self.way, self.backend) == ("gateway", "http"):
            return True
        newest = self.suite == "0.2" and self.version in ("2025-11-25", MODERN)
        return newest and (self.way, self.backend) in (("gateway", "stdio"), ("gateway-gateway", "http"))

    @contextlib.contextmanager
    def url(self) -> Iterator[str]:
        """Where the suite finds this cell, which is up for the time of the block. Raises: peers.PeerFailed."""
        with contextlib.ExitStack() as stack:
            target: str | list[str]
            if self.backend == "http":
                target = stack.enter_context(peers.own_http(self.kind))
            else:
                target = [*peers.OWN[self.kind], "--stdio"]
            for hop in reversed(self.way.split("-") if self.way != "direct" else []):
                if hop == "router":
                    assert isinstance(target, str)
                    target = peers.router(target)
                elif hop == "aggregate":
                    target = stack.enter_context(in_front_of(target, BESIDE)).url()
                else:
                    target = stack.enter_context(in_front_of(target)).url("own")
            assert isinstance(target, str)
            if self.version == MODERN and (self.kind, self.backend) == ("legacy", "stdio"):
                warm(target)
            yield target


def warm(url: str) -> None:
    """Have the child there that serves a client which can be asked for elicitation.

    A legacy child learns the client's capabilities when it starts, and on a busy machine that takes longer than the 600 ms
    after which the suite gives up a stream (scenario server-stateless).
    """
    meta = {f"io.modelcontextprotocol/{name}": value for name, value in WARM.items()}
    message = {"jsonrpc": "2.0", "id": 1, "method": "tools/list", "params": {"_meta": meta}}
    headers = {
        "content-type": "application/json",
        "accept": "application/json, text/event-stream",
        "mcp-protocol-version": MODERN,
        "mcp-method": "tools/list",
    }
    with urllib.request.urlopen(urllib.request.Request(url, json.dumps(message).encode(), headers), timeout=30) as answer:
        answer.read()


@contextlib.contextmanager
def in_front_of(target: str | list[str], *beside: dict[str, object]) -> Iterator[peers.Gateway]:
    """A gateway with one server, ``own``, and those ``beside`` it.

    A command may have a child per scenario: suite 0.1.16 ends none of its sessions.
    """
    if isinstance(target, str):
        own: dict[str, object] = {"name": "own", "url": target}
    else:
        own = {"name": "own", "command": target[0], "args": target[1:], "max_children": CHILDREN}
    with tempfile.TemporaryDirectory(prefix="cell-") as folder:
        file = Path(folder) / "gateway.yaml"
        settings = {**PLAIN, "routing": {"prefix": "never"}, "servers": [own, *beside]}
        file.write_text(json.dumps(settings), encoding="utf-8")  # JSON is YAML
        with peers.gateway({}, file=file) as bridge:
            yield bridge


def expected_failures(cell: object) -> set[str]:
    """Scenarios that the baseline names for the cell of this name."""
    listed: dict[str, dict[str, str]] = json.loads(BASELINE.read_text(encoding="utf-8"))["failures"]
    return {name for start, rows in listed.items() if f"{cell} ".startswith(f"{start} ") for name in rows}


def direct() -> list[Cell]:
    """Every kind of server with the suites of its own eras, without a bridge."""
    foreign = {"dual": (), "legacy": (MODERN,), "modern": tuple(version for _, version in SUITES if version != MODERN)}
    return [Cell(suite, version, kind, "direct") for kind in KINDS for suite, version in SUITES if version not in foreign[kind]]


def bridged() -> list[Cell]:
    """Every suite with every kind of server, over every way."""
    return [
        Cell(suite, version, kind, way, backend)
        for kind in KINDS
        for suite, version in SUITES
        for way in WAYS
        for backend in (("http",) if way == "aggregate" else ("http", "stdio"))
    ]


def entries(document: str) -> set[tuple[str, str]]:
    """(cells, scenario) of every row in a baseline file's text."""
    return {(start, name) for start, rows in json.loads(document)["failures"].items() for name in rows}
