"""The Detector: verdicts for all who ask, each target examined once at a time, remembered, and judged by what came of it.

    find(address)        the remembered verdict, or one probe set that everybody waits for
    dialled, confirmed, contradicted      what came of it: accuracy; the first contradiction forgets it
    inspect(addresses)   for API callers: behind the guard, counted, nothing of a server echoed
    refresh              all known targets anew

Source: reliability section 6 (principles 2 and 3); contract http.router.detect.*, http.router.cache*.
"""

from __future__ import annotations

import asyncio
import ssl
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import msgspec

from mcpbridge.core.detect import BUDGET, NEGATIVE_TTL, Accuracy, Guard, Memory, Target, Tried, Verdict
from mcpbridge.core.tasks import Spawn, share
from mcpbridge.errors import BridgeError
from mcpbridge.observe.log import log
from mcpbridge.observe.snapshot import timestamp

if TYPE_CHECKING:
    from mcpbridge.detect.line import Via

_log = log("protocol")
MAX_FAILURES = 100
MAX_CALLS = 10  # API calls a minute
MAX_TARGETS = 20  # of one API call

Told = Callable[[Verdict], None]


class Failure(msgspec.Struct, frozen=True):
    """One detection without a verdict."""

    time: str
    target: str
    reason: str
    tried: tuple[Tried, ...] = ()


class Detector:
    """See the module. ``budget``: seconds for one target; ``ttl``: seconds a proven verdict is kept.

    ``on_verdict`` is told every examined target, ``on_lookup`` whether the memory had it, ``on_judged`` the
    protocol of a verdict that use confirmed or refuted.
    """

    def __init__(
        self,
        spawn: Spawn,
        *,
        budget: float = BUDGET,
        ttl: float = 300.0,
        context: Callable[[], ssl.SSLContext] = ssl.create_default_context,
        via: Via | None = None,
        on_verdict: Told | None = None,
        on_lookup: Callable[[bool], None] | None = None,
        on_judged: Callable[[str], None] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.memory = Memory(ttl)
        self.accuracy = Accuracy()
        self.failures: deque[Failure] = deque(maxlen=MAX_FAILURES)
        self.failed = 0
        self.examined = 0
        self.budget = budget
        self._spawn = spawn
        self._make_context = context
        self._context: ssl.SSLContext | None = None
        self._via = via
        self._on_verdict = on_verdict
        self._on_lookup = on_lookup
        self._on_judged = on_judged
        self._clock = clock
        self._running: dict[str, asyncio.Future[Verdict]] = {}
        self._calls: deque[float] = deque(maxlen=MAX_CALLS)

    # For those who dial

    async def find(self, address: str, *, guarded: bool = False) -> tuple[Verdict, bool]:
        """The verdict on an address and whether it was remembered. Raises ValueError for what is no address."""
        target = Target.of(address)
        entry = self.memory.find(target.text, self._clock())
        if self._on_lookup is not None:
            self._on_lookup(entry is not None)
        if entry is not None:
            return entry.verdict, True
        running = self._running.get(target.text)
        if running is None:
            running = self._running[target.text] = share(self._spawn, self._examine(target, guarded))
            running.add_done_callback(lambda _done: self._running.pop(target.text, None))
        await asyncio.wait([running])
        return running.result(), False

    def known(self, address: str) -> Verdict | None:
        """The remembered verdict, without asking anybody."""
        entry = self.memory.peek(address, self._clock())
        return entry.verdict if entry is not None else None

    def dialled(self, address: str, verdict: Verdict) -> None:
        """A conversation is opened because of this verdict."""
        if verdict.protocol is not None:
            self.accuracy.used(address, verdict.protocol, self._clock())

    def confirmed(self, address: str) -> None:
        """The server answered as the verdict said."""
        self._judge(address, True)

    def contradicted(self, address: str, reason: str) -> None:
        """The server did not answer as the verdict said: forget it. It is examined again when it is next needed, but not within
        NEGATIVE_TTL of the last time."""
        now = self._clock()
        entry = self.memory.peek(address, now)
        self._judge(address, False)
        if entry is None or not entry.verdict.is_proven:
            return
        self.memory.drop(address)
        _log.info("verdict dropped", target=entry.verdict.target, was=entry.verdict.protocol, reason=reason)
        if now - entry.since < NEGATIVE_TTL:
            doubt = msgspec.structs.replace(
                entry.verdict, protocol=None, era=None, result="unknown", confidence=0.0,
                evidence=("contradicted in use",), path="", tls=False,
            )  # fmt: skip
            self.memory.keep(address, doubt, entry.since)

    def _judge(self, address: str, right: bool) -> None:
        protocol = self.accuracy.told(address, right, self._clock())
        if protocol is not None and self._on_judged is not None:
            self._on_judged(protocol)

    def forget(self, address: str) -> None:
        """Nothing is known any more; no judgement."""
        self.memory.drop(address)

    # For API callers

    async def inspect(self, addresses: Sequence[str], guard: Guard) -> list[tuple[Verdict, bool]]:
        """A verdict for each address, in their order; ``refused``, without a packet, for what the guard does not admit.

        Raises BridgeError("rate_limited") over MAX_CALLS a minute.
        """
        now = self._clock()
        if len(self._calls) == MAX_CALLS and now - self._calls[0] < 60.0:
            raise BridgeError("rate_limited", f"{MAX_CALLS} detections a minute", sent=False)
        self._calls.append(now)
        return list(await asyncio.gather(*(self._inspect(address, guard) for address in addresses)))

    async def _inspect(self, address: str, guard: Guard) -> tuple[Verdict, bool]:
        try:
            target = Target.of(address)
        except ValueError as error:
            return self._refuse(_cut(address), str(error)), False
        if not guard.admits(target):
            return self._refuse(target.place, "this target may not be probed; allowed_targets names more"), False
        return await self.find(address, guarded=True)

    def _refuse(self, place: str, why: str) -> Verdict:
        verdict = Verdict(place, None, None, "refused", evidence=(why,))
        self._note(verdict)
        return verdict

    async def refresh(self, addresses: Sequence[str]) -> tuple[list[tuple[Verdict, bool]], list[dict[str, str | None]]]:
        """Forget everything and examine these anew; the verdicts, and which of them changed."""
        before = {address: self.known(address) for address in addresses}
        self.memory.clear()
        found = list(await asyncio.gather(*(self.find(address) for address in addresses)))
        changed = [
            {"target": verdict.target, "before": _named(before[address]), "after": _named(verdict)}
            for address, (verdict, _) in zip(addresses, found, strict=True)
            if _named(before[address]) != _named(verdict)
        ]
        return found, changed

    # Examining

    async def _examine(self, target: Target, guarded: bool) -> Verdict:
        from mcpbridge.detect.race import examine  # 10 ms that a program without such servers does not spend

        if target.scheme not in ("tcp", "ws", "unix") and self._context is None:
            self._context = self._make_context()
        verdict = await examine(target, self._spawn, budget=self.budget, guarded=guarded, context=self._context, via=self._via)
        self.memory.keep(target.text, verdict, self._clock())
        self._note(verdict)
        _log.debug(
            "detected", target=verdict.target, result=verdict.result, protocol=verdict.protocol or "none", era=verdict.era,
            duration_ms=verdict.duration_ms,
        )  # fmt: skip
        return verdict

    def _note(self, verdict: Verdict) -> None:
        self.examined += 1
        if not verdict.is_proven:
            self.failed += 1
            reason = "; ".join(verdict.evidence) or verdict.result
            self.failures.appendleft(Failure(timestamp(time.time()), verdict.target, reason[:500], verdict.tried))
        if self._on_verdict is not None:
            self._on_verdict(verdict)


def _named(verdict: Verdict | None) -> str | None:
    return verdict.protocol if verdict is not None else None


def _cut(address: str) -> str:
    """A malformed address for a document: printable, short, without a query."""
    return "".join(c if c.isprintable() else "?" for c in address.partition("?")[0][:200])
