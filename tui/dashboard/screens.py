"""The screens of the dashboard in one table: keys, line of screens, help and tests are made from it.

Source: ux.md section 1.4. Traffic, its sixth, needs ``GET /api/v1/traffic/stream``, which no program here has.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from tui.dashboard.backends import Backends
from tui.dashboard.balancer import Balancer
from tui.dashboard.events import Events
from tui.dashboard.overview import Overview
from tui.dashboard.pools import Pools
from tui.dashboard.protocols import Protocols
from tui.dashboard.view import View


class ScreenRow(NamedTuple):
    """One screen: its key, its title, what it is about, its class."""

    key: str
    title: str
    about: str
    make: type[View]


SCREENS: Final = (
    ScreenRow("1", "Overview", "Everything at a glance, and what needs you", Overview),
    ScreenRow("2", "Protocols", "What is spoken, and how well", Protocols),
    ScreenRow("3", "Backends", "Every endpoint; drain, test, weigh", Backends),
    ScreenRow("4", "Pools", "Kept connections", Pools),
    ScreenRow("5", "Balancer", "Weights, shares, and what if", Balancer),
    ScreenRow("7", "Events", "What happened", Events),
)
