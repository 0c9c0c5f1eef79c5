"""Views of predictive health: statistics, which the guide's paths call a model.

Source: contract http.gateway.health.anomalies, http.gateway.health.ml-model, http.gateway.health.prediction-accuracy.
"""

from __future__ import annotations

from typing import Any

import msgspec

from mcpbridge.observe.foresight import Foresight
from mcpbridge.observe.snapshot import Snapshot

_NOTHING: tuple[int, Any] = (404, {"error": "this program foresees nothing"})


def anomalies(snapshot: Snapshot) -> tuple[int, Any]:
    """GET /health/anomalies, newest first."""
    found = _of(snapshot)
    if found is None:
        return _NOTHING
    return 200, {"open": found.open, "anomalies": found.anomalies}


def model(snapshot: Snapshot) -> tuple[int, Any]:
    """GET /health/ml-model/status: no learned model is claimed."""
    found = _of(snapshot)
    if found is None:
        return _NOTHING
    names = ("model", "method", "enabled", "window_ms", "warmed_up_endpoints", "endpoints", "parameters", "evaluated_windows")
    return 200, {"trained": False} | {name: getattr(found, name) for name in names}


def accuracy(snapshot: Snapshot) -> tuple[int, Any]:
    """GET /health/prediction-accuracy. What was not measured, and ratios before anything was closed, are null."""
    found = _of(snapshot)
    if found is None:
        return _NOTHING
    closed, failures = found.confirmed + found.false_alarm, found.confirmed + found.missed_failures
    precision = round(found.confirmed / closed, 6) if closed else None
    return 200, {
        "model": found.model,
        "predictions": {
            "closed": closed,
            "confirmed": found.confirmed,
            "false_alarm": found.false_alarm,
            "open": found.open,
        },
        "accuracy": precision,  # the share of predictions that came true; the guide has two names for it
        "precision": precision,
        "recall": round(found.confirmed / failures, 6) if failures else None,
        "missed_failures": found.missed_failures,
        "horizon_sec": found.horizon_sec,
        "traditional": {
            "checks_total": found.checks,
            "failures_total": found.failed_checks,
            "median_detection_ms": found.median_detection_ms,
        },
    }


def _of(snapshot: Snapshot) -> Foresight | None:
    found = snapshot.health_monitoring
    return None if isinstance(found, msgspec.UnsetType) else found
