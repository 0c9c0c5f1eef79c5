"""A line of bars: the last values that were measured, newest at the right. Own, because it must also work in ASCII."""

from __future__ import annotations

from collections.abc import Sequence

BARS = "▁▂▃▄▅▆▇█"
ASCII_BARS = "_.-:=+*#"
ABSENT = " "


def spark(values: Sequence[float | None], width: int, *, full: float = 0.0, plain: bool = False) -> str:
    """``width`` characters for the last ``width`` values, scaled from zero to the largest of them or ``full``.

    None and the time before the first value are blank.
    """
    bars = ASCII_BARS if plain else BARS
    shown = list(values)[-width:] if width > 0 else []
    largest = max((value for value in shown if value is not None), default=0.0)
    largest = max(largest, full)
    top = (len(bars) - 1) if largest > 0 else 0
    line = "".join(ABSENT if value is None else bars[round(max(0.0, value) / (largest or 1.0) * top)] for value in shown)
    return line.rjust(max(0, width), ABSENT)
