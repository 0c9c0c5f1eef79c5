"""The checker: every call that was made, what came of it, and what the servers say they executed. Pure.

Source: issue 5, "Invariants": exactly one answer within the deadline, none to another caller, nothing twice that may not.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

RETRY_SAFE = "prompts/get"  # the method of the suite that may run twice
MAX_RUNS = 4  # routing.max_attempts, each said again where an HTTP server closes a kept connection without a word


@dataclass(slots=True)
class Call:
    """One call: ``answers`` are the JSON-RPC messages that came for it, ``lost`` what the client saw instead of any."""

    caller: str
    method: str
    token: str
    began: float
    took: float = 0.0
    answers: list[dict[str, Any]] = field(default_factory=list)
    lost: str = ""

    @property
    def error(self) -> dict[str, Any] | None:
        return self.answers[0].get("error") if self.answers else None

    @property
    def succeeded(self) -> bool:
        return bool(self.answers) and "result" in self.answers[0]


def said(answer: dict[str, Any]) -> str:
    """The token in a result."""
    result = answer["result"]
    content = result["content"][0] if "content" in result else result["messages"][0]["content"]
    return str(content["text"])


@dataclass(slots=True)
class History:
    """All calls of a run."""

    calls: list[Call] = field(default_factory=list)

    def wrong(self, runs: Iterable[str], deadline: float) -> list[str]:
        """What breaks an invariant. ``runs``: tokens as executed; ``deadline``: seconds a call may take, slack included."""
        executed = Counter(runs)
        found: list[str] = []
        for call in self.calls:
            count = executed[call.token]
            if len(call.answers) != 1:
                found.append(f"{call.token}: {len(call.answers)} answers {call.lost}")
                continue
            if call.took > deadline:
                found.append(f"{call.token}: answered after {call.took:.2f} s")
            if call.succeeded and said(call.answers[0]) != call.token:
                found.append(f"{call.token}: got the answer of {said(call.answers[0])}")
            if call.succeeded and count == 0:
                found.append(f"{call.token}: answered, but nobody executed it")
            if count > (MAX_RUNS if call.method == RETRY_SAFE else 1):
                found.append(f"{call.token}: {call.method} was executed {count} times")
            if call.error is not None and not _is_typed(call.error):
                found.append(f"{call.token}: an error of no type: {call.error}")
        return found

    def success(self, method: str = RETRY_SAFE) -> tuple[int, int]:
        """How many calls of a method succeeded, of how many."""
        of = [call for call in self.calls if call.method == method]
        return sum(call.succeeded for call in of), len(of)

    def failures(self, method: str = RETRY_SAFE) -> list[str]:
        """The failed calls of a method, for people."""
        return [
            f"{call.token} at {call.began:.2f} after {call.took:.2f} s: {call.error or call.lost}"
            for call in self.calls
            if call.method == method and not call.succeeded
        ]


def _is_typed(error: dict[str, Any]) -> bool:
    code = error.get("code")
    return isinstance(code, int) and isinstance(error.get("data", {}).get("reason"), str)
