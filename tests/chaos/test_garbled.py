"""Backends whose answers are garbled, over all five protocols, in both eras, through a real gateway.

The call ends in a typed error within its deadline, the next backend is tried where that is allowed, nothing runs twice that
may not, and the server is of use right afterwards (reliability table 3, rows 9 to 11).
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.support import peers, raw
from tests.support.garbled_server import FAULTS, HARMLESS, runs, serving

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(120)]
DEADLINE = 0.7  # seconds of a call
SLACK = 1.5  # seconds more, on a busy machine
AGAIN = 15.0  # seconds; a child that ends several times is started after a growing wait
TYPED = {
    1006: "stream_closed",
    1007: "protocol_mismatch",
    1008: "timeout",
    1016: "answer_too_large",
    1018: "server_exited",
    1019: "bad_answer",
}
SOME = ("wrong version", "foreign id", "huge", "never", "cut", "closes")  # one of each kind
OVERS = ("stdio", "websocket", "http", "http-stream", "sse", "tcp_binary")
SERVERS = [(over, era) for over in OVERS for era in ("legacy", "modern") if (over, era) != ("sse", "modern")]


@asynccontextmanager
async def gateway(folder: Path, replicas: int) -> AsyncIterator[peers.Gateway]:
    """A gateway with a server of each protocol and era, which has so many equal replicas."""
    async with AsyncExitStack() as stack:
        servers = []
        for over, era in SERVERS:
            endpoints = [await stack.enter_async_context(serving(over, era, folder)) for _ in range(replicas)]
            servers.append({"name": f"{over}-{era}", "endpoints": endpoints})
        file = folder / "gateway.yaml"
        static = {"discovery": {"providers": {"static": {"servers": servers}}}}
        open_ = {"auth": {"type": "none"}, "server": {"tls": {"enabled": False}}}
        patient = {
            "circuit_breaker": {"failure_threshold": 1_000_000},
            "backends": {"sse": {"reconnect_interval": "50ms"}},
        }
        file.write_text(json.dumps({**static, **open_, **patient}))
        settings = {"MCPBRIDGE_ROUTING__REQUEST_TIMEOUT": f"{DEADLINE}s", "MCPBRIDGE_SERVER__MAX_CONNECTIONS_PER_IP": "200"}
        with peers.gateway({}, file=file, **settings) as bridge:
            yield bridge


class Caller:
    """A client of one server, in one era. ``ask`` gives the answer and the seconds it took."""

    def __init__(self, bridge: peers.Gateway, server: str, era: str) -> None:
        self.http = raw.HttpClient(bridge.url(server))
        self.era = era
        self.last = 0

    async def ask(self, method: str, name: str, **arguments: Any) -> tuple[raw.Json, float]:
        self.last += 1
        params: raw.Json = {"name": name, "arguments": arguments}
        headers = {"mcp_protocol_version": raw.LEGACY}
        if self.era == "modern":
            params["_meta"] = raw.modern_meta()
            headers = {"mcp_protocol_version": raw.MODERN, "mcp_method": method, "mcp_name": name}
        began = time.monotonic()
        answer = await self.http.post(raw.request(self.last, method, **params), **headers)
        took = time.monotonic() - began
        [message] = [one for one in answer.messages if "id" in one]
        assert message["id"] == self.last, message
        return message, took


async def everywhere(bridge: peers.Gateway, era: str, check: Any) -> None:
    """Let ``check(caller, server)`` find what is wrong with each server, all at once."""

    async def one(server: str) -> list[str]:
        caller = Caller(bridge, server, era)
        try:
            if not await begin(caller) or not await is_of_use(caller):
                return [f"{server}: does not start"]
            return [f"{server}: {wrong}" for wrong in await check(caller, server)]
        finally:
            await caller.http.close()

    wrong = await asyncio.gather(*(one(f"{over}-{kind}") for over, kind in SERVERS))
    assert not (found := [each for some in wrong for each in some]), "\n".join(found)


async def begin(caller: Caller) -> bool:
    """The handshake, which a server may be too slow for when it starts."""
    until = time.monotonic() + AGAIN
    while caller.era == "legacy" and caller.http.session is None and time.monotonic() < until:
        with contextlib.suppress(KeyError):  # no result
            await caller.http.open_legacy()
    return caller.era == "modern" or caller.http.session is not None


async def is_of_use(caller: Caller) -> bool:
    """Whether the server answers well again; one that ended has its time to start."""
    until = time.monotonic() + AGAIN
    while time.monotonic() < until:
        answer, _ = await caller.ask("tools/call", "t")
        if "result" in answer:
            return bool(answer["result"]["content"] == [{"type": "text", "text": "well"}])
    return False


@pytest.mark.parametrize("era", ["legacy", "modern"])
async def test_a_garbled_answer_is_a_typed_error_within_the_deadline_and_the_server_of_use_again(
    era: str, tmp_path: Path
) -> None:
    async def check(caller: Caller, server: str) -> list[str]:
        wrong = []
        for fault in FAULTS:
            answer, took = await caller.ask("tools/call", fault)
            error = answer.get("error", {})
            if error.get("code") not in TYPED or error["data"]["reason"] != TYPED[error["code"]]:
                wrong.append(f"{fault}: {str(answer)[:300]}")
            if took > DEADLINE + SLACK:
                wrong.append(f"{fault}: took {took:.2f} s")
            if not await is_of_use(caller):
                wrong.append(f"after {fault}: of no use any more")
        for name in HARMLESS if server not in ("http-legacy", "http-modern") else ():  # one body holds one answer
            answer, _ = await caller.ask("tools/call", name)
            if "result" not in answer:
                wrong.append(f"{name}: {str(answer)[:300]}")
        return wrong

    async with gateway(tmp_path, 1) as bridge:
        await everywhere(bridge, era, check)


@pytest.mark.parametrize("era", ["legacy", "modern"])
async def test_the_next_backend_is_tried_where_the_call_may_run_twice_and_nowhere_else(era: str, tmp_path: Path) -> None:
    """Of two equal replicas the first that sees a call garbles its answer, the second would answer well."""

    async def check(caller: Caller, server: str) -> list[str]:
        wrong = []
        for number, fault in enumerate(SOME):
            once = f"{server}-{number}"
            answer, took = await caller.ask("tools/call", fault, once=once)
            if "error" not in answer or (count := runs(tmp_path, once)) != 1:
                wrong.append(f"a tool, {fault}: ran {count} times: {str(answer)[:300]}")
            if not await is_of_use(caller):
                wrong.append(f"after {fault}: of no use any more")
            once = f"{server}-{number}-prompt"
            answer, took = await caller.ask("prompts/get", fault, once=once)
            is_late = answer.get("error", {}).get("code") == 1008  # no time was left for another
            if "result" not in answer and not is_late:
                wrong.append(f"a prompt, {fault}: {str(answer)[:300]}")
            if took > DEADLINE + SLACK:
                wrong.append(f"a prompt, {fault}: took {took:.2f} s")
            if not await is_of_use(caller):
                wrong.append(f"after the prompt of {fault}: of no use any more")
        return wrong

    async with gateway(tmp_path, 2) as bridge:
        await everywhere(bridge, era, check)
