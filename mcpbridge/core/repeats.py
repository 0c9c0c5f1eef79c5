"""What may run twice, and how long the first try of it is waited for when another backend is there.

    tools/list passes  -> its read-only and idempotent tools are remembered, by the newest list
    tools/call fails   -> may go to another backend although it may have run, if its tool is among them

A hint is the word of a server that the operator configured, about itself; no client can give one. A call that begins a task is
not among them: the task of the first try would go on unseen.

Decided here: only methods that are safe by themselves are given up early. A tool may take its time: to end it after seconds
because lists are fast would count a failure of a healthy backend.

Source: issue 5 item 1; contract ``routing.attempt_timeout``; MCP "ToolAnnotations" (readOnlyHint, idempotentHint).
"""

from __future__ import annotations

from typing import Final

from msgspec import Raw

from mcpbridge.errors import BridgeError
from mcpbridge.observe.sketch import Window, quantile
from mcpbridge.wire.envelope import items, members, text
from mcpbridge.wire.message import Request
from mcpbridge.wire.spec import retry_safe

MAX_TOOLS: Final = 10_000  # of one server that are remembered
SHORTEST, LONGEST = 1.0, 5.0  # seconds
TIMES: Final = 4.0  # the slowest of a hundred answers
RENEW: Final = 5.0  # seconds between two looks at the answers
_HINTS: Final = ("readOnlyHint", "idempotentHint")


class Repeatable:
    """The tools of one server that may run twice."""

    __slots__ = ("_names",)

    def __init__(self) -> None:
        self._names: set[str] = set()

    def allows(self, request: Request) -> bool:
        """Whether this request may be sent again although it may have been executed."""
        if request.method == "tools/call" and request.param("task") is None:
            return text(request.param("name")) in self._names
        return retry_safe(request.method)

    def learn(self, result: Raw) -> None:
        """Read the hints of a page of tools; what cannot be read teaches nothing. A page without any costs a search."""
        if not self._names and b'Hint"' not in bytes(result):
            return
        try:
            tools = items(members(result).get("tools"))
        except BridgeError:
            return
        for tool in tools:
            name, may = _read(tool)
            if name is not None and may and len(self._names) < MAX_TOOLS:
                self._names.add(name)
            elif name is not None:
                self._names.discard(name)


def _read(tool: Raw) -> tuple[str | None, bool]:
    """A tool's name, and whether it says that it may run twice."""
    name = None
    try:
        said = members(tool)
        name = text(said.get("name"))
        hints = members(said.get("annotations"))
        return name, any(bytes(hints.get(hint) or b"") == b"true" for hint in _HINTS)
    except BridgeError:
        return name, False


class Patience:
    """Seconds until a first try is given up: ``fixed``, or four times what the slowest of a hundred took."""

    __slots__ = ("_answers", "_at", "_fixed", "_seconds")

    def __init__(self, fixed: float | None = None) -> None:
        self._fixed = fixed
        self._seconds = LONGEST if fixed is None else fixed
        self._at = float("-inf")
        self._answers = Window()

    def answered(self, seconds: float, now: float) -> None:
        """A try was answered after ``seconds``."""
        if self._fixed is None:
            self._answers.add(seconds, now)

    def seconds(self, now: float) -> float:
        if self._fixed is None and now - self._at >= RENEW:
            self._at = now
            slow = quantile(self._answers.buckets(now), 0.99)
            self._seconds = LONGEST if slow is None else min(max(SHORTEST, TIMES * slow), LONGEST)
        return self._seconds
