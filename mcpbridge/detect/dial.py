"""A Dial that finds out first: the protocol of an address that names none, kept until the server contradicts it.

    dial -> Detector.find -> http | sse | websocket -> that protocol's own dial
    the backend turns ok      -> the verdict is confirmed
    the backend turns down    -> the verdict is forgotten; refuted, when it was not what the verdict said

Source: reliability section 6; contract protocol_detection.*, direct_clients.auto_detection.*, log.protocol-assignment.
"""

from __future__ import annotations

from collections.abc import Callable
from urllib.parse import urlsplit, urlunsplit

import msgspec

from mcpbridge.core.detect import Verdict
from mcpbridge.core.exchange import Era
from mcpbridge.core.ports import Dial, Inbox, Upstream
from mcpbridge.core.server import Backend
from mcpbridge.detect.detector import Detector
from mcpbridge.errors import BridgeError
from mcpbridge.observe.log import log

_log = log("protocol")
Make = Callable[[str, str], Dial]
"""The dial of a protocol to an address. Raises KeyError for a protocol that is not spoken."""

_REFUTES = frozenset({"protocol_mismatch", "http_not_found", "bad_answer"})
_SCHEMES = {("websocket", False): "ws", ("websocket", True): "wss", ("sse", False): "http", ("sse", True): "https"}


class DetectedDial:
    """See the module. ``fallback``: the protocol for an ``unknown`` verdict, "none" for an error."""

    def __init__(self, detector: Detector, url: str, make: Make, fallback: str) -> None:
        self.url = url
        self.verdict: Verdict | None = None
        self._detector = detector
        self._make = make
        self._fallback = fallback
        self._backend: Backend | None = None
        self._made: dict[tuple[str, str], Dial] = {}

    def attach(self, backend: Backend) -> None:
        """Tell this backend what is found out, and learn from it whether that was true."""
        self._backend = backend
        told = backend.on_turn

        def turned(backend: Backend) -> None:
            self._turned(backend)
            if told is not None:
                told(backend)

        backend.on_turn = turned

    async def __call__(self, era: Era, inbox: Inbox) -> Upstream:
        verdict, _ = await self._detector.find(self.url)
        protocol, url = self._choose(verdict)
        dial = self._made.get((protocol, url))
        if dial is None:
            try:
                dial = self._made[protocol, url] = self._make(protocol, url)
            except KeyError:
                raise BridgeError("detection_failed", f"it speaks {protocol}, which is switched off here", sent=False) from None
        self._adopt(verdict, protocol)
        return await dial(era, inbox)

    def _choose(self, verdict: Verdict) -> tuple[str, str]:
        """The protocol to dial and the address for it. Raises BridgeError("detection_failed")."""
        if verdict.is_proven and verdict.protocol is not None:
            return verdict.protocol, _address(self.url, verdict)
        if verdict.result == "unreachable":
            return "http", self.url  # its dial says best why it cannot be reached
        if self._fallback == "none":
            why = "; ".join(verdict.evidence) or "no answer"
            tried = [msgspec.to_builtins(one) for one in verdict.tried]
            raise BridgeError("detection_failed", why[:300], sent=False, tried=tried)
        return self._fallback, _address(self.url, msgspec.structs.replace(verdict, protocol=self._fallback))

    def _adopt(self, verdict: Verdict, protocol: str) -> None:
        backend = self._backend
        if backend is None:
            return
        if backend.protocol != protocol or self.verdict is None:
            _log.info(
                "protocol assigned", event="protocol_assignment", protocol=protocol, server=backend.server.name,
                backend=backend.name, result=verdict.result, era=verdict.era, is_fallback=not verdict.is_proven,
            )  # fmt: skip
        self.verdict = verdict
        backend.protocol = protocol
        if verdict.is_proven and backend.state != "ok":
            self._detector.dialled(self.url, verdict)
        if verdict.era in ("modern", "dual"):
            backend.speaks.setdefault("modern", True)
        if verdict.era in ("legacy", "dual"):
            backend.speaks.setdefault("legacy", True)
        if verdict.era == "legacy":
            backend.speaks.setdefault("modern", False)

    def _turned(self, backend: Backend) -> None:
        if backend.state == "ok":
            self._detector.confirmed(self.url)
        elif backend.state in ("down", "degraded"):
            reason = backend.fault or ""
            if reason in _REFUTES:
                self._detector.contradicted(self.url, reason)
                backend.spawn(backend.pool.close())  # what speaks the wrong protocol would be used on: HTTP keeps no connection
            else:
                self._detector.forget(self.url)  # what comes back may be another server


def _address(url: str, verdict: Verdict) -> str:
    """The address as the verdict's protocol dials it: its scheme, TLS where it was needed, the path where the proof was."""
    parts = urlsplit(url)
    secure = verdict.tls or parts.scheme == "https"
    scheme = _SCHEMES.get((verdict.protocol or "", secure)) or ("https" if secure else "http")
    path, _, query = verdict.path.partition("?") if verdict.path else (parts.path, "", parts.query)
    return urlunsplit(parts._replace(scheme=scheme, path=path, query=query))
