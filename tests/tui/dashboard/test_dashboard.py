from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

import msgspec
from textual.pilot import Pilot
from textual.widgets import Input

from mcpbridge.admin.client import Unreachable
from mcpbridge.observe.snapshot import Snapshot
from tests.tui.pictures import make_healthy, make_outage
from tui.dashboard.dashboard import Dashboard, has_few_colours
from tui.dashboard.help import Help
from tui.widgets.lines import Lines
from tui.widgets.table import LiveTable


class Gateway:
    """A gateway that says what the test tells it: documents, an end (None), or an Unreachable."""

    def __init__(self) -> None:
        self.said: asyncio.Queue[Snapshot | Unreachable | None] = asyncio.Queue()
        self.asked = 0

    async def follow(self) -> AsyncIterator[Snapshot]:
        self.asked += 1
        while (item := await self.said.get()) is not None:
            if isinstance(item, Unreachable):
                raise item
            yield item


class Clock:
    now = 1795442550.0

    def __call__(self) -> float:
        return self.now


def dashboard(gateway: Gateway, clock: Clock | None = None, **more: bool) -> Dashboard:
    return Dashboard(gateway.follow, url="http://127.0.0.1:8443", clock=clock or Clock(), **more)


async def until(pilot: Pilot[None], happened: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not happened():
            await pilot.pause()


async def say(pilot: Pilot[None], gateway: Gateway, item: Snapshot | Unreachable | None) -> None:
    app = pilot.app
    assert isinstance(app, Dashboard)
    await gateway.said.put(item)
    if isinstance(item, Snapshot):
        await until(pilot, lambda: app.newest is item and app.view.is_ready)
    else:
        await until(pilot, lambda: app.outage is not None and app.view.is_ready)
    await pilot.pause()


def lines(app: Dashboard, name: str) -> str:
    return app.overview.query_one(f"#{name}", Lines).text()


def shown(app: Dashboard, name: str = "backends") -> list[str]:
    return [row.cells[0].text for row in app.overview.query_one(f"#{name}", LiveTable).rows]


async def test_before_the_first_document_it_says_what_it_does():
    app = dashboard(Gateway())
    async with app.run_test(size=(80, 24)):
        assert "no data yet" in lines(app, "head")
        assert "connecting to http://127.0.0.1:8443" in app.overview.query_one("#protocols", LiveTable).render_line(1).text


async def test_a_document_fills_every_part():
    gateway, app = Gateway(), None
    app = dashboard(gateway)
    async with app.run_test(size=(140, 40)) as pilot:
        await say(pilot, gateway, make_outage())
        assert shown(app, "protocols") == ["stdio", "websocket", "http", "sse", "tcp_binary"]
        assert shown(app)[:3] == ["events/0", "git/0", "api/1"]
        assert "550.9" in lines(app, "tile-calls")
        assert "connection refused" in lines(app, "problems")
        assert "events/0" in lines(app, "selected")
        assert len(app.overview.query_one("#events", LiveTable).rows) == 5


async def test_a_lost_gateway_leaves_the_last_picture_greyed_with_cause_and_next_try():
    gateway, clock = Gateway(), Clock()
    app = dashboard(gateway, clock)
    async with app.run_test(size=(80, 24)) as pilot:
        await say(pilot, gateway, make_healthy())
        clock.now += 41
        await say(pilot, gateway, Unreachable("connection refused"))
        assert "gateway unreachable since 14:03:11: connection refused" in lines(app, "banner")
        assert "retry in 1 s (r now)" in lines(app, "banner")
        assert shown(app) == ["everything/0", "filesystem/0", "weather/0"]
        assert app.overview.has_class("-lost")
        assert app.overview.query_one("#backends").styles.text_opacity < 1
        assert "was ● ok" in lines(app, "head")
        assert "41s old" in lines(app, "head")


async def test_r_asks_again_at_once_and_a_document_ends_the_outage():
    gateway = Gateway()
    app = dashboard(gateway)
    async with app.run_test(size=(80, 24)) as pilot:
        for _ in range(3):  # the third wait is 4 s: longer than this test would wait without r
            app.outage = None
            await say(pilot, gateway, Unreachable("connection refused"))
            await pilot.press("r")
            await pilot.pause()
        await until(pilot, lambda: gateway.asked == 4)
        await say(pilot, gateway, make_healthy())
        assert app.outage is None
        assert not app.overview.has_class("-lost")
        assert app.failures == 0


async def test_waits_between_tries_grow():
    gateway = Gateway()
    app = dashboard(gateway)
    async with app.run_test(size=(80, 24)) as pilot:
        waits = []
        for _ in range(6):
            before = app.outage
            await gateway.said.put(Unreachable("refused"))
            await until(pilot, lambda before=before: app.outage is not before)
            assert app.outage is not None
            waits.append(app.outage.retry_at - app.clock())
            await pilot.press("r")
        assert waits == [1, 2, 4, 8, 15, 15]


async def test_a_stream_that_ends_is_an_outage_with_a_cause_of_its_own():
    gateway = Gateway()
    app = dashboard(gateway)
    async with app.run_test(size=(80, 24)) as pilot:
        await say(pilot, gateway, make_healthy())
        await say(pilot, gateway, None)
        assert "it ended the stream" in lines(app, "banner")


async def test_without_any_data_an_outage_names_the_next_step():
    gateway = Gateway()
    app = dashboard(gateway)
    async with app.run_test(size=(100, 24)) as pilot:
        await say(pilot, gateway, Unreachable("connection refused"))
        assert "Start a gateway with: mcpbridge gateway" in app.overview.query_one("#protocols", LiveTable).render_line(1).text


async def test_space_holds_the_picture_and_goes_on_with_the_newest():
    gateway = Gateway()
    app = dashboard(gateway)
    async with app.run_test(size=(80, 24)) as pilot:
        await say(pilot, gateway, make_healthy())
        await pilot.press("space")
        await say(pilot, gateway, make_outage())
        await say(pilot, gateway, make_outage())
        assert len(shown(app)) == 3
        assert "paused, 2 newer" in lines(app, "head")
        await pilot.press("space")
        assert len(shown(app)) == 7
        assert "paused" not in lines(app, "head")
        assert len(app.overview.calls) == 3


async def test_the_filter_keeps_matching_backends_also_when_documents_come():
    gateway = Gateway()
    app = dashboard(gateway)
    async with app.run_test(size=(80, 24)) as pilot:
        await say(pilot, gateway, make_outage())
        await pilot.press("slash", *"state:down")
        assert shown(app) == ["events/0", "git/0"]
        await say(pilot, gateway, make_outage())
        assert shown(app) == ["events/0", "git/0"]
        assert "7 backends, 2 shown" in str(app.overview.query_one("#backends").border_title)
        await pilot.press("enter", "down")
        assert "git/0" in lines(app, "chosen")
        await pilot.press("escape")
        assert len(shown(app)) == 7


async def test_a_bad_filter_changes_nothing_and_says_why():
    gateway = Gateway()
    app = dashboard(gateway)
    async with app.run_test(size=(120, 24)) as pilot:
        await say(pilot, gateway, make_outage())
        await pilot.press("slash")
        app.overview.query_one("#filter", Input).value = "color:red"
        await pilot.pause()
        assert len(shown(app)) == 7
        assert app.overview.query_one("#filter-bar").has_class("-invalid")
        assert "no column color" in str(app.overview.query_one("#filter-error").render())


async def test_tab_goes_from_table_to_table():
    gateway = Gateway()
    app = dashboard(gateway)
    async with app.run_test(size=(80, 24)) as pilot:
        await say(pilot, gateway, make_outage())
        seen = []
        for _ in range(3):
            assert app.focused is not None
            seen.append(app.focused.id)
            await pilot.press("tab")
        assert seen == ["backends", "events", "protocols"]


async def test_the_help_names_every_key_and_any_of_its_keys_closes_it():
    gateway = Gateway()
    app = dashboard(gateway)
    async with app.run_test(size=(80, 24)) as pilot:
        await pilot.press("question_mark")
        assert isinstance(app.screen, Help)
        told = app.screen.query_one("#help", Lines).text()
        for name in ("q Ctrl-C", "Space", "/", "Tab", "? F1", "Down j, Up k", "✖ down", "○ disabled"):
            assert name in told
        await say(pilot, gateway, make_outage())  # documents also arrive behind the help
        await pilot.press("escape")
        assert app.screen is app.overview
        assert len(shown(app)) == 7


async def test_q_ends_it_with_zero():
    app = dashboard(Gateway())
    async with app.run_test(size=(80, 24)) as pilot:
        await pilot.press("q")
    assert (app.return_code or 0) == 0


async def test_a_window_too_small_for_tables_says_so_and_still_shows_states():
    gateway = Gateway()
    app = dashboard(gateway)
    async with app.run_test(size=(80, 24)) as pilot:
        await say(pilot, gateway, make_outage())
        await pilot.resize_terminal(50, 12)
        await pilot.pause()
        assert "Window 50x12: make it 60x15 or larger" in lines(app, "compact")
        assert app.overview.query_one("#compact").display
        assert not app.overview.query_one("#body").display
        await pilot.resize_terminal(80, 24)
        await pilot.pause()
        assert app.overview.query_one("#body").display


async def test_the_cursor_stays_on_its_backend_when_another_one_fails():
    gateway, clock = Gateway(), Clock()
    app = dashboard(gateway, clock)
    async with app.run_test(size=(80, 24)) as pilot:
        await say(pilot, gateway, make_healthy())
        await pilot.press("down")
        assert app.overview.selected is not None
        before = app.overview.selected.server
        clock.now += 3
        await say(pilot, gateway, make_outage())
        assert app.overview.selected.server == before
        assert shown(app)[0] == "events/0"


async def test_rows_change_places_at_most_every_two_seconds():
    gateway, clock = Gateway(), Clock()
    app = dashboard(gateway, clock)
    healthy = make_healthy()
    sick = msgspec.structs.replace(
        healthy, backends=(*healthy.backends[:2], msgspec.structs.replace(healthy.backends[2], state="down"))
    )
    async with app.run_test(size=(80, 24)) as pilot:
        await say(pilot, gateway, healthy)
        clock.now += 1
        await say(pilot, gateway, sick)
        assert shown(app)[-1] == "weather/0"
        clock.now += 1
        await say(pilot, gateway, msgspec.structs.replace(sick, sequence=7))
        assert shown(app)[0] == "weather/0"


async def test_an_ascii_terminal_gets_nothing_else():
    gateway = Gateway()
    app = dashboard(gateway, plain=True)
    async with app.run_test(size=(140, 40)) as pilot:
        await say(pilot, gateway, make_outage())
        await say(pilot, gateway, Unreachable("connection refused"))
        parts = [*app.overview.query(LiveTable), *app.overview.query(Lines)]
        for part in parts:
            for y in range(part.size.height):
                assert part.render_line(y).text.isascii(), part.render_line(y).text


def test_few_colours_are_recognized():
    assert has_few_colours({"TERM": "linux"})
    assert not has_few_colours({"TERM": "xterm-256color"})
    assert not has_few_colours({"TERM": "xterm", "COLORTERM": "truecolor"})
