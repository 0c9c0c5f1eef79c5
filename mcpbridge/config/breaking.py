"""The section of the circuit breakers. Source: contract section 3.1."""

from __future__ import annotations

from typing import Annotated

from mcpbridge.config.kinds import BOOL, COUNT, DURATION, duration
from mcpbridge.config.rows import Row, Section


class RouterBreaker(Section, frozen=True, kw_only=True):
    """When the gateway, or a direct server, that keeps failing is left alone."""

    failure_threshold: Annotated[int, Row(COUNT, "consecutive failures of what was sent that open")] = 5
    success_threshold: Annotated[int, Row(COUNT, "half-open successes that close; as many trial calls run at once")] = 2
    timeout_seconds: Annotated[float, Row(duration(0.001), "open time")] = 30.0


class CircuitBreaker(Section, frozen=True, kw_only=True):
    """When a failing backend is left alone."""

    failure_threshold: Annotated[int, Row(COUNT, "consecutive failures that open")] = 5
    success_threshold: Annotated[int, Row(COUNT, "half-open successes that close")] = 2
    timeout_seconds: Annotated[float, Row(duration(0.001), "open time")] = 30.0
    max_requests: Annotated[int, Row(COUNT, "trial calls at once in half-open")] = 1
    interval_seconds: Annotated[float, Row(DURATION, "closed state forgets failures after this; 0: never")] = 60.0
    per_protocol: Annotated[bool, Row(BOOL, "another breaker for all backends of a protocol together")] = False
