"""Set-up of the chaos suite."""

from __future__ import annotations

from tests.support.results import results

__all__ = ["results"]
