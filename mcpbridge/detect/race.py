"""Which probes a target gets and when; the first proof ends them all. Bounded by one budget of time and by the line's sockets.

    http(s)    0 ms  discover   +300 initialize   +150 events      sooner when those before are answered
              40 ms  WebSocket
    host:port        the same, then MCPB and lines 40 ms apart; the port's usual protocol first
    ws, tcp          what the scheme says
    unix             lines, HTTP beside it

A place that speaks Streamable HTTP beside others is taken for that: what another probe proves waits GRACE for the two POSTs.

Source: reliability section 6 (order and timing); RFC 8305.
"""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import Callable, Coroutine, Sequence
from contextlib import suppress
from typing import Any

from mcpbridge.core.detect import BUDGET, Target, Tried, Verdict
from mcpbridge.core.tasks import Spawn
from mcpbridge.detect.line import Site, Unreachable, Via
from mcpbridge.detect.probes import PATIENCE, HttpProbes, Proof, lines, mcpb, websocket
from mcpbridge.wire.proof import CLOSED

MARGIN = 0.02  # seconds of it to end in
SPECULATIVE = 0.15  # seconds `initialize` has before the event stream is tried beside it
GRACE = 0.2  # seconds a proof of another transport waits for the answers to both POSTs
STAGGER = 0.04  # seconds between the starts of two kinds of probes

Probe = Callable[[], Coroutine[Any, Any, Proof]]
Step = Callable[[], Coroutine[Any, Any, Proof | None]]


async def examine(
    target: Target,
    spawn: Spawn,
    *,
    budget: float = BUDGET,
    guarded: bool = False,
    context: ssl.SSLContext | None = None,
    via: Via | None = None,
) -> Verdict:
    """The verdict on a target, within ``budget`` seconds; never an exception of the network.

    ``guarded``: an API caller asked, see ``core.detect.is_forbidden``. ``spawn`` ends what probes began at the server.
    """
    started = time.monotonic()
    notes = _Notes()
    proof: Proof | None = None
    site: Site | None = None
    try:
        async with asyncio.timeout(max(budget - MARGIN, 0.01)):
            site = await Site.resolve(target, guarded=guarded, context=context, via=via)
            proof = await _run(site, spawn, notes)
            if proof is None and notes.may_want_tls and not site.tls and target.scheme != "unix":
                site.tls = True
                proof = await _run(site, spawn, notes)
    except TimeoutError:
        proof = notes.second  # what was proven is all there is
    except Unreachable as error:
        notes.said.append(str(error))
    said = [*([proof.said] if proof is not None else dict.fromkeys(notes.said))]
    if proof is not None and proof.path and target.path in ("", "/"):
        said.append(f"answered at {proof.path}")
    if site is not None and site.untrusted:
        said.append(site.untrusted)
    took = round((time.monotonic() - started) * 1000, 3)
    if proof is None:
        result = "unknown" if site is not None and site.answered else "unreachable"
        return Verdict(target.place, None, None, result, 0.0, tuple(said), took, tried=tuple(notes.tried))  # type: ignore[arg-type]
    tls = site is not None and site.tls
    return Verdict(
        target.place, proof.protocol, proof.era, "success", _confidence(proof), tuple(said), took, proof.path, tls,
        tuple(notes.tried),
    )  # fmt: skip


def _confidence(proof: Proof) -> float:
    if proof.era in ("modern", "legacy", "dual"):
        return 1.0
    return 0.9 if "resource_metadata" in proof.said else 0.7


class _Notes:
    """What the probes of one target saw."""

    def __init__(self) -> None:
        self.said: list[str] = []
        self.tried: list[Tried] = []
        self.tls = False
        self.posted = asyncio.Event()  # both POSTs came to nothing
        self.second: Proof | None = None  # of another transport, until the POSTs are judged

    @property
    def may_want_tls(self) -> bool:
        """Whether a port said so, or closed without a word, as some do."""
        return self.tls or any(said.endswith(CLOSED) for said in self.said)

    async def take(self, name: str, probe: Probe) -> Proof | None:
        """Run one probe; its proof, or None and a note."""
        started = time.monotonic()
        outcome = "no answer"
        try:
            proof = await probe()
            outcome = "proven" if proof.is_proven else "no proof"
            self.tls = self.tls or proof.tls
            if proof.is_proven:
                return proof
            if proof.said:
                self.said.append(proof.said)
        except Unreachable as error:
            outcome = "unreachable"
            self.said.append(str(error))
        finally:
            self.tried.append(Tried(name, outcome, round((time.monotonic() - started) * 1000, 3)))
        return None

    async def after_posts(self, name: str, probe: Probe) -> Proof | None:
        """Run one probe; its proof counts after GRACE, or once no POST can prove anything any more."""
        proof = await self.take(name, probe)
        if proof is not None and not self.posted.is_set():
            self.second = proof
            with suppress(TimeoutError):
                async with asyncio.timeout(GRACE):
                    await self.posted.wait()
        return proof

    async def last_post(self, probe: Probe) -> Proof | None:
        """Run the POST after which no other comes. One that proves lets nobody else go on."""
        proof = await self.take("http", probe)
        if proof is None:
            self.posted.set()
        return proof


async def _run(site: Site, spawn: Spawn, notes: _Notes) -> Proof | None:
    scheme = site.target.scheme
    http = HttpProbes(site, spawn)

    async def web() -> Proof | None:
        return await staggered([_noted(notes, "http", http.discover), lambda: notes.last_post(http.initialize),
                                lambda: notes.after_posts("sse", http.events)], PATIENCE, SPECULATIVE)  # fmt: skip

    binary, plain = (
        _noted(notes, name, lambda probe=probe: probe(site))  # type: ignore[misc]
        for name, probe in (("tcp_binary", mcpb), ("stdio", lines))
    )

    async def socket_() -> Proof | None:
        return await notes.after_posts("websocket", lambda: websocket(site))

    notes.posted.clear()
    try:
        if scheme in ("ws", "wss"):
            notes.posted.set()  # none is sent
            return await socket_()
        if scheme in ("tcp", "tcps"):
            return await binary()
        if scheme == "unix":
            return await staggered([plain, web], STAGGER)
        if scheme in ("http", "https"):
            return await staggered([web, socket_], STAGGER)
        order = [binary, web, socket_, plain] if site.target.port == 8444 else [web, socket_, binary, plain]
        return await staggered(order, STAGGER)
    finally:
        http.close()


def _noted(notes: _Notes, name: str, probe: Probe) -> Step:
    return lambda: notes.take(name, probe)


async def staggered(probes: Sequence[Step], *gaps: float) -> Proof | None:
    """The first proof. Each probe starts its gap (the last one given, for the rest) in seconds after the one before, or at once
    when all before have ended."""
    waiting = list(probes)
    running: set[asyncio.Task[Proof | None]] = set()
    loop = asyncio.get_running_loop()
    try:
        while waiting or running:
            if waiting:
                started = loop.create_task(waiting.pop(0)())
                running.add(started)
            until = loop.time() + gaps[min(len(probes) - len(waiting), len(gaps)) - 1]
            while running:
                timeout = max(0.0, until - loop.time()) if waiting else None
                done, running = await asyncio.wait(running, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
                proof = next((proof for task in done if (proof := task.result()) is not None), None)
                if proof is not None:
                    return proof
                if not done:
                    break  # the next one's turn has come
    finally:
        for started in running:
            started.cancel()
        if running:
            await asyncio.wait(running)
    return None
