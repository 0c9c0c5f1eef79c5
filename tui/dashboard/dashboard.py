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
from textual.screen import ModalScreen
from textual.theme import Theme

from mcpbridge.admin.client import Unreachable
from mcpbridge.observe.snapshot import Snapshot
from tui.dashboard.actions import Act, Ask, outcome
from tui.dashboard.balancer import Balancer
from tui.dashboard.help import Help
from tui.dashboard.lines import Freshness, Outage
from tui.dashboard.overview import Overview
from tui.dashboard.screens import SCREENS
from tui.dashboard.view import Tab, View
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
    """See the module. ``ask`` makes a change on the gateway, None: nothing can be changed from here; ``clock`` gives Unix
    seconds, injected by tests."""

    CSS_PATH = "../theme.tcss"
    TITLE = "mcpbridge"
    ENABLE_COMMAND_PALETTE = False
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("q,ctrl+c", "quit", "Quit", priority=False),
        Binding("r", "retry", "Retry", tooltip="Ask the gateway again now", show=False),
        Binding("space", "pause", "Pause", key_display="space", tooltip="Hold the picture, go on with the newest"),
        Binding("question_mark,f1", "help", "Help", key_display="?", tooltip="This list"),
        *(Binding(row.key, f"screen('{row.key}')", row.title, tooltip=row.about, show=False) for row in SCREENS),
    ]

    def __init__(
        self,
        source: Source,
        *,
        url: str,
        interval: float = 1.0,
        plain: bool = False,
        ask: Ask | None = None,
        first: str = "1",
        clock: Callable[[], float] = time.time,
    ) -> None:
        super().__init__(ansi_color=has_few_colours(os.environ))
        self.source = source
        self.interval = interval
        self.plain = plain
        self.ask = ask
        self.clock = clock
        tabs = [Tab(row.key, row.title) for row in SCREENS]
        self.views: dict[str, View] = {
            row.key: row.make(url, tab, tabs, plain=plain) for row, tab in zip(SCREENS, tabs, strict=True)
        }
        self.view = self.views[first]
        self.overview = self.views["1"]
        self.newest: Snapshot | None = None
        self.shown: Snapshot | None = None  # the newest but for a pause
        self.arrived_at: float | None = None
        self.outage: Outage | None = None
        self.held: int | None = None
        self.failures = 0
        self._retry = asyncio.Event()
        self.register_theme(DARK)
        self.theme = "ansi-dark" if has_few_colours(os.environ) else DARK.name

    async def on_mount(self) -> None:
        for key, view in self.views.items():
            self.install_screen(view, key)
        await self.push_screen(self.view)

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
        self.outage = None
        if isinstance(self.overview, Overview):
            self.overview.record(snapshot)
        if self.held is None:
            self.shown = snapshot
        else:
            self.held += 1
        self.repaint()

    def repaint(self) -> None:
        """Give the screen the picture that is to be seen; nothing while its widgets are not there yet."""
        if not self.view.is_ready:
            return
        self.view.show_outage(self.outage, self.clock())
        if self.shown is not None:
            self.view.show(self.shown, self.clock())
        self.tick()

    def tick(self) -> None:
        """Repaint what changes with time alone."""
        if not self.view.is_ready:
            return
        now = self.clock()
        age = None if self.arrived_at is None else max(0.0, now - self.arrived_at)
        self.view.show_head(Freshness(age, self.interval, self.held, self.outage is not None))
        if self.outage is not None:
            self.view.show_outage(self.outage, now)

    async def action_screen(self, key: str) -> None:
        """Show another screen."""
        if self.views[key] is not self.view and not isinstance(self.screen, ModalScreen):
            await self._switch(key)

    async def _switch(self, key: str) -> View:
        self.view = self.views[key]
        await self.switch_screen(key)
        self.repaint()
        return self.view

    async def action_open(self) -> None:
        """The row under the cursor on the screen that is about its kind."""
        table = self.focused
        if not isinstance(table, LiveTable) or table.key is None:
            return
        wanted = table.key
        if table.id == "backends":
            (await self._switch("3")).main.move_to(wanted)
        elif table.id == "protocols" and self.view is self.overview:
            (await self._switch("2")).main.move_to(wanted)
        elif table.id == "protocols":
            (await self._switch("3")).filter_by(f"protocol:{wanted}")
            self.view.main.focus()
        elif table.id == "events":
            (await self._switch("7")).main.move_to(wanted)

    def act(self, act: Act, text: str) -> None:
        """Ask the gateway to do something; what came of it is told when it is known."""
        if self.ask is None:
            self.notify("this dashboard was started with --read-only", severity="warning")
            return
        self.run_worker(self._act(self.ask, act, text), group="acts")

    async def _act(self, ask: Ask, act: Act, text: str) -> None:
        try:
            status, answer = await ask(act.method, act.path, act.body(text))
        except Unreachable as error:
            self.notify(f"{act.title}: {error}", severity="error", timeout=10)
            return
        said, is_done = outcome(act, status, answer)
        if is_done and isinstance(self.view, Balancer) and act.path == "/load-balancer/weights":
            self.view.applied()
        self.notify(said, severity="information" if is_done else "error", timeout=5 if is_done else 10, markup=False)

    def action_retry(self) -> None:
        """Ask again now; while the gateway answers there is nothing to do."""
        self._retry.set()

    def action_pause(self) -> None:
        """Hold the picture, or go on with the newest one."""
        if self.held is None:
            self.held = 0
        else:
            self.held, self.shown = None, self.newest
        self.repaint()

    def action_help(self) -> None:
        """Show what the keys do."""
        own = [*type(self.view).BINDINGS, *View.BINDINGS]
        self.push_screen(Help([*self.BINDINGS, *own], LiveTable.BINDINGS, plain=self.plain))


def has_few_colours(environ: Mapping[str, str]) -> bool:
    """The terminal has 16 colours as far as it says: no COLORTERM and no ``256color`` in TERM."""
    return not environ.get("COLORTERM") and "256color" not in environ.get("TERM", "")
