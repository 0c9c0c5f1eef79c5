"""Predictive health as a part of the Snapshot.

Source: contract http.gateway.health.anomalies, http.gateway.health.ml-model, http.gateway.health.prediction-accuracy.
"""

from __future__ import annotations

from typing import Literal

import msgspec


class Anomaly(msgspec.Struct, frozen=True):
    """One alarm. ``baseline``, ``value``: milliseconds of latency or silence, or a share of calls. ``score``: 0.1 to 1."""

    id: int
    opened_at: str
    closed_at: str | None
    server: str
    protocol: str
    severity: Literal["warning", "critical"]
    signal: Literal["latency", "errors", "silence"]
    score: float | None
    baseline: float | None
    value: float | None
    eta_sec: float | None
    outcome: Literal["open", "confirmed", "false_alarm"]


class Parameters(msgspec.Struct, frozen=True):
    """Of the detector."""

    k: float
    h: float
    level_gate: float
    ticks: int


class Foresight(msgspec.Struct, frozen=True):
    """What the detector sees and how right it was. Totals since the start; ``anomalies`` newest first. ``checks`` and the
    two behind it are of the active checks, ``median_detection_ms`` from the last good one to the one that made it down."""

    enabled: bool
    model: str
    method: str
    window_ms: float
    horizon_sec: float
    parameters: Parameters
    endpoints: int = 0
    warmed_up_endpoints: int = 0
    evaluated_windows: int = 0
    open: int = 0
    confirmed: int = 0
    false_alarm: int = 0
    missed_failures: int = 0
    checks: int = 0
    failed_checks: int = 0
    median_detection_ms: float | None = None
    anomalies: tuple[Anomaly, ...] = ()
