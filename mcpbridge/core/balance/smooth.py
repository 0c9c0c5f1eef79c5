"""Smooth weighted choice: exact shares in every stretch of choices, never a burst, no chance involved."""

from __future__ import annotations

from collections.abc import Mapping


class Smooth:
    """Each choice gives every key its weight as credit; the richest pays for all. Equal weights make a round robin."""

    __slots__ = ("_credit",)

    def __init__(self) -> None:
        self._credit: dict[str, float] = {}

    def choose(self, weights: Mapping[str, float]) -> str:
        """One of the keys, in proportion to weights of which at least one is positive; ties go to the first."""
        credit = self._credit
        if len(credit) > 2 * len(weights) + 16:  # names of backends that went away
            self._credit = credit = {key: credit.get(key, 0.0) for key in weights}
        for key, weight in weights.items():
            credit[key] = credit.get(key, 0.0) + weight
        best = max(weights, key=credit.__getitem__)
        credit[best] -= sum(weights.values())
        return best
