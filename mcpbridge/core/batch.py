"""Batch: the answers to one JSON-RPC array, said as one array once the last of them is there.

Source: JSON-RPC 2.0 section 6; MCP 2025-03-26 "Batching".
"""

from __future__ import annotations

from collections.abc import Callable


class Slot:
    """The place of one request's answer. ``put`` at most once, then ``done``; a request that is cancelled has no answer."""

    __slots__ = ("_batch", "answer")

    def __init__(self, batch: Batch) -> None:
        self._batch = batch
        self.answer: bytes | None = None

    def put(self, answer: bytes) -> None:
        self.answer = answer

    def done(self) -> None:
        self._batch.ended()


class Batch:
    """Make a ``slot`` for every request in order, then ``close`` it. Nothing is said before, nor when no answer came."""

    def __init__(self, send: Callable[[bytes], None]) -> None:
        self._send = send
        self._slots: list[Slot] = []
        self._open = 1  # requests without an outcome, and ``close``

    def slot(self) -> Slot:
        self._open += 1
        self._slots.append(Slot(self))
        return self._slots[-1]

    def close(self) -> None:
        self.ended()

    def ended(self) -> None:
        """One slot is done, or the batch is complete."""
        self._open -= 1
        answers = [slot.answer for slot in self._slots if slot.answer is not None]
        if not self._open and answers:
            self._send(b"[" + b",".join(answers) + b"]")
