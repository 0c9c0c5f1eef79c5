"""The dashboard program: follows a gateway's documents and gives each to the screen.

    async for snap in watch(url): screen.show(snap)

Around that line: what happens when the gateway does not answer (the last picture stays, greyed; tries again, sooner on ``r``),
pause, help, a clean end on signals.

Source: ux.md sections 1.2, 1.5, 2.3; architecture section 10.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import AsyncIterator, Callable, Mapping
from functools import partial
from typing import ClassVar

from textual.app import App
from textual.binding import Binding, BindingType
from textual.screen import Screen
from textual.theme import Theme

from mcpbridge.admin.client import Unreachable
from mcpbridge.observe.snapshot import Snapshot
from tui.dashboard.help import Help
from tui.dashboard.lines import Freshness, Outage
from tui.dashboard.overview import Overview
from tui.widgets.table import LiveTable

Source = Callable[[], AsyncIterator[Snapshot]]
"""Begins to follow the gateway; raises Unreachable, also in the middle."""

RETRY_SECONDS = (1.0, 2.0, 4.0, 8.0, 15.0)
"""Waits between tries; the last one repeats."""
TICK_SECONDS = 0.5
"""How often the age of the picture is repainted."""
SIGNAL_EXIT = 128

DARK = Theme(
    name="mcpbridge-dark",
    primary="#6cb6ff",
    secondary="#8ddb8c",
    accent="#6cb6ff",
    success="#57cc7a",
    warning="#f0b14a",
    error="#ff6b6b",
    foreground="#d7dee7",
    background="#0d1117",
    surface="#161d27",
    panel="#2b3644",
    dark=True,
    variables={"text-muted": "#8593a3", "footer-key-foreground": "#6cb6ff", "footer-background": "#161d27"},
)


class Dashboard(App[None]):
    """See the module. ``clock`` gives Unix seconds, injected by tests."""

    CSS_PATH = "../theme.tcss"
    TITLE = "mcpbridge"
    ENABLE_COMMAND_PALETTE = False
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("q,ctrl+c", "quit", "Quit", priority=False),
        Binding("r", "retry", "Retry", tooltip="Ask the gateway again now"),
        Binding("space", "pause", "Pause", key_display="space", tooltip="Hold the picture, go on with the newest"),
        Binding("slash", "filter", "Filter", key_display="/", tooltip="Show only backends that match"),
        Binding("escape", "clear", "Clear the filter", show=False),
        Binding("question_mark,f1", "help", "Help", key_display="?", tooltip="This list"),
    ]

    def __init__(
        self, source: Source, *, url: str, interval: float = 1.0, plain: bool = False, clock: Callable[[], float] = time.time
    ) -> None:
        super().__init__(ansi_color=has_few_colours(os.environ))
        self.source = source
        self.interval = interval
        self.plain = plain
        self.clock = clock
        self.overview = Overview(url, plain=plain)
        self.newest: Snapshot | None = None
        self.arrived_at: float | None = None
        self.outage: Outage | None = None
        self.held: int | None = None
        self.failures = 0
        self._retry = asyncio.Event()
        self.register_theme(DARK)
        self.theme = "ansi-dark" if has_few_colours(os.environ) else DARK.name

    def get_default_screen(self) -> Screen[None]:
        """The Overview; there is no other screen yet."""
        return self.overview

    def on_ready(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGHUP) if os.name == "posix" else ():
            with contextlib.suppress(ValueError, RuntimeError):  # not the main thread: an embedding program has the signals
                loop.add_signal_handler(number, partial(self.exit, return_code=SIGNAL_EXIT + number))
        self.set_interval(TICK_SECONDS, self.tick)
        self.run_worker(self.follow(), exclusive=True)
        self.tick()

    async def follow(self) -> None:
        """Give every document to the screen, for ever; after an end or an Unreachable wait and begin again."""
        while True:
            try:
                async for snapshot in self.source():
                    self.take(snapshot)
                why = "it ended the stream"
            except Unreachable as error:
                why = str(error)
            wait = RETRY_SECONDS[min(self.failures, len(RETRY_SECONDS) - 1)]
            self.failures += 1
            now = self.clock()
            self.outage = Outage(self.outage.since if self.outage else now, why, now + wait)
            self.tick()
            self._retry.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(wait):
                    await self._retry.wait()

    def take(self, snapshot: Snapshot) -> None:
        """A document came."""
        self.newest, self.arrived_at = snapshot, self.clock()
        self.failures = 0
        if self.outage is not None:
            self.outage = None
            self.overview.show_outage(None, self.arrived_at)
        self.overview.record(snapshot)
        if self.held is None:
            self.overview.show(snapshot, self.arrived_at)
        else:
            self.held += 1
        self.tick()

    def tick(self) -> None:
        """Repaint what changes with time alone."""
        now = self.clock()
        age = None if self.arrived_at is None else max(0.0, now - self.arrived_at)
        self.overview.show_head(Freshness(age, self.interval, self.held, self.outage is not None))
        if self.outage is not None:
            self.overview.show_outage(self.outage, now)

    def action_retry(self) -> None:
        """Ask again now; while the gateway answers there is nothing to do."""
        self._retry.set()

    def action_pause(self) -> None:
        """Hold the picture, or go on with the newest one."""
        if self.held is None:
            self.held = 0
        else:
            self.held = None
            if self.newest is not None:
                self.overview.show(self.newest, self.clock())
        self.tick()

    def action_filter(self) -> None:
        """Open the filter line."""
        self.overview.start_filter()

    def action_clear(self) -> None:
        """Close the filter line and show everything."""
        self.overview.clear_filter()

    def action_help(self) -> None:
        """Show what the keys do."""
        self.push_screen(Help([*self.BINDINGS, *Overview.BINDINGS], LiveTable.BINDINGS, plain=self.plain))


def has_few_colours(environ: Mapping[str, str]) -> bool:
    """The terminal has 16 colours as far as it says: no COLORTERM and no ``256color`` in TERM."""
    return not environ.get("COLORTERM") and "256color" not in environ.get("TERM", "")
