"""The screens of the dashboard, their keys, and what can be done from them."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from textual.binding import Binding
from textual.pilot import Pilot
from textual.widgets import Input

from mcpbridge.admin.client import Unreachable, act, fetch, watch
from mcpbridge.cli.window import SCREENS as NAMES
from mcpbridge.observe.snapshot import Snapshot
from tests.support import peers
from tests.tui.dashboard.test_dashboard import Clock, Gateway, say, until
from tests.tui.pictures import make_healthy, make_outage
from tui.dashboard.actions import Menu
from tui.dashboard.balancer import Balancer, shares
from tui.dashboard.dashboard import Dashboard
from tui.dashboard.screens import SCREENS
from tui.dashboard.view import View
from tui.widgets.lines import Lines
from tui.widgets.table import LiveTable


class Asked:
    """What was asked of the gateway, and what it answers."""

    def __init__(self, status: int = 200, answer: dict[str, Any] | Unreachable | None = None) -> None:
        self.calls: list[tuple[str, str, dict[str, Any]]] = []
        self.status = status
        self.answer = answer if answer is not None else {}

    async def __call__(self, method: str, path: str, body: Mapping[str, Any]) -> tuple[int, dict[str, Any]]:
        self.calls.append((method, path, dict(body)))
        if isinstance(self.answer, Unreachable):
            raise self.answer
        return self.status, self.answer


def dashboard(gateway: Gateway, asked: Asked | None = None, first: str = "1") -> Dashboard:
    return Dashboard(gateway.follow, url="http://127.0.0.1:8443", clock=Clock(), ask=asked, first=first)


def rows(app: Dashboard) -> list[str]:
    return [row.cells[0].text.strip() for row in app.view.main.rows]


def told(app: Dashboard) -> str:
    return " ".join(str(one.message) for one in app._notifications)


async def choose(pilot: Pilot[None], gateway: Gateway, snapshot: Snapshot, name: str) -> None:
    """Put the cursor of the main table on the row of this name."""
    app = pilot.app
    assert isinstance(app, Dashboard)
    await say(pilot, gateway, snapshot)
    app.view.main.move_to(next(row.key for row in app.view.main.rows if row.cells[0].text.strip() == name))
    await pilot.pause()


async def test_a_digit_shows_its_screen_with_the_picture_there_is():
    gateway = Gateway()
    app = dashboard(gateway)
    async with app.run_test(size=(80, 24)) as pilot:
        await say(pilot, gateway, make_outage())
        for row in SCREENS:
            await pilot.press(row.key)
            await pilot.pause()
            assert isinstance(app.screen, row.make)
            assert f"›{row.key} {row.title}" in app.view.query_one("#tabs", Lines).text()
            assert len(app.view.main.rows) >= 3
            assert app.focused is app.view.main


def test_every_key_is_in_the_help_and_no_screen_gives_one_two_meanings():
    for row in SCREENS:
        seen: dict[str, str] = {}
        bindings = [*row.make.BINDINGS, *View.BINDINGS, *Dashboard.BINDINGS, *LiveTable.BINDINGS]
        for binding in (one for one in bindings if isinstance(one, Binding)):
            assert binding.tooltip or binding.description, binding
            for key in binding.key.split(","):
                assert seen.setdefault(key, binding.action) == binding.action, f"{row.title}: {key}"
    assert [row.title.lower() for row in SCREENS] == list(NAMES), "the command line names other screens"
    assert [row.key for row in SCREENS] == ["1", "2", "3", "4", "5", "7"]


async def test_enter_goes_to_the_screen_of_the_row():
    gateway = Gateway()
    app = dashboard(gateway)
    async with app.run_test(size=(80, 24)) as pilot:
        await choose(pilot, gateway, make_outage(), "git/0")
        await pilot.press("enter")
        await pilot.pause()
        assert app.view is app.views["3"] and app.view.main.rows[app.view.main.cursor].cells[0].text == "git/0"
        assert "fatal: not a git repository" in app.view.query_one("#detail", Lines).text()
        await pilot.press("2")
        await pilot.pause()
        app.view.main.move_to("sse")
        await pilot.press("enter")
        await pilot.pause()
        assert rows(app) == ["events/0"]


async def test_problems_and_order_of_a_table():
    gateway = Gateway()
    app = dashboard(gateway, first="3")
    async with app.run_test(size=(140, 40)) as pilot:
        await say(pilot, gateway, make_outage())
        assert rows(app)[:3] == ["everything/0", "filesystem/0", "weather/0"]
        await pilot.press("exclamation_mark")
        assert rows(app) == ["weather/0", "api/1", "events/0", "git/0"]  # weather fails now and then
        await pilot.press("escape")
        for _ in range(7):
            await pilot.press("s")
        assert rows(app)[:2] == ["api/1", "weather/0"], "the busiest first"
        assert "by busy" in str(app.view.main.border_subtitle)
        await pilot.press("escape")
        assert rows(app)[0] == "everything/0"


async def test_an_action_says_what_it_does_and_nothing_is_done_before_its_letter():
    gateway, asked = Gateway(), Asked(answer={"endpoint": "weather/0", "state": "draining", "in_flight": 4})
    app = dashboard(gateway, asked, first="3")
    async with app.run_test(size=(80, 24)) as pilot:
        api = make_healthy()
        two = api.backends + tuple(b for b in make_outage().backends if b.endpoint == "api/1")
        from msgspec.structs import replace

        snapshot = replace(api, backends=(*two, replace(two[2], endpoint="weather/1")))
        await choose(pilot, gateway, snapshot, "weather/0")
        await pilot.press("a")
        assert isinstance(app.screen, Menu)
        said = app.screen.query_one("#choices", Lines).text()
        assert "no new calls for weather/0; 4 calls in flight end" in said and "calls no tool" in said
        await pilot.press("x", "escape")
        assert asked.calls == []
        await pilot.press("a", "d")
        await until(pilot, lambda: bool(asked.calls))
        assert asked.calls == [("POST", "/backends/weather/0/drain", {})]
        await until(pilot, lambda: "weather/0 is draining" in told(app))


async def test_to_drain_the_last_one_of_a_server_its_name_must_be_typed():
    gateway, asked = Gateway(), Asked()
    app = dashboard(gateway, asked, first="3")
    async with app.run_test(size=(80, 24)) as pilot:
        await choose(pilot, gateway, make_healthy(), "weather/0")
        await pilot.press("a", "d")
        assert "they will fail" in app.screen.query_one("#choices", Lines).text()
        await pilot.press("n", "o", "enter")
        assert asked.calls == [] and "that is not weather/0" in app.screen.query_one("#choices", Lines).text()
        app.screen.query_one("#typed", Input).value = "weather/0"
        await pilot.press("enter")
        await until(pilot, lambda: bool(asked.calls))
        assert asked.calls == [("POST", "/backends/weather/0/drain", {})]


@pytest.mark.parametrize(
    ("status", "answer", "said"),
    [
        (403, {"error": {"message": "forbidden"}}, "mcp:admin"),
        (401, {}, "mcp:admin"),
        (409, {"error": {"message": "busy now"}}, "busy now"),
        (500, {}, "HTTP 500"),
        (200, {"ok": False, "stages": [{"stage": "connect", "ms": 1.0, "detail": "refused"}]}, "connect failed: refused"),
        (200, {"ok": True, "stages": [{"stage": "connect", "ms": 1.5, "detail": ""}]}, "all 1 stages well, 2 ms"),
        (0, Unreachable("connection refused"), "connection refused"),
    ],
)
async def test_what_came_of_an_action_is_told(status: int, answer: Any, said: str):
    gateway = Gateway()
    app = dashboard(gateway, Asked(status, answer), first="3")
    async with app.run_test(size=(80, 24)) as pilot:
        await choose(pilot, gateway, make_healthy(), "weather/0")
        await pilot.press("a", "t")
        await until(pilot, lambda: said in told(app))


async def test_read_only_changes_nothing_and_says_so():
    gateway = Gateway()
    app = dashboard(gateway, None, first="3")
    async with app.run_test(size=(80, 24)) as pilot:
        await choose(pilot, gateway, make_healthy(), "weather/0")
        await pilot.press("a", "t")
        await until(pilot, lambda: "--read-only" in told(app))


async def test_a_weight_is_tried_seen_and_then_set_or_forgotten():
    gateway, asked = Gateway(), Asked()
    app = dashboard(gateway, asked, first="5")
    async with app.run_test(size=(140, 40)) as pilot:
        await choose(pilot, gateway, make_healthy(), "http")
        view = app.view
        assert isinstance(view, Balancer)
        await pilot.press("enter")
        assert "no weight was changed" in told(app)
        await pilot.press("minus", "minus", "minus")
        detail = view.query_one("#detail", Lines).text()
        assert "PREVIEW, not applied" in detail and "http: 1 → 0.75" in detail
        assert "http 40.0 → 33.3 % of the calls" in detail and "stdio 60.0 → 66.7 % of the calls" in detail
        await say(pilot, gateway, make_healthy())
        assert view.wanted == {"protocol\0http": 0.75}, "a document takes nothing away that was tried"
        await pilot.press("escape")
        assert view.wanted == {} and asked.calls == []
        await pilot.press("plus", "enter")
        assert "sets http 1.1" in app.screen.query_one("#choices", Lines).text()
        await pilot.press("y")
        await until(pilot, lambda: bool(asked.calls))
        assert asked.calls == [("PUT", "/load-balancer/weights", {"weights": {"http": 1.1}})]
        await until(pilot, lambda: view.wanted == {})


def test_the_preview_shares_among_the_protocols_that_can_take_calls():
    balance = make_outage().load_balancer
    assert shares(balance, {}) == pytest.approx({"stdio": 0.625, "http": 0.375})
    assert shares(balance, {"protocol\0http": 0.0, "protocol\0sse": 9.0}) == pytest.approx({"stdio": 1.0, "http": 0.0})


@pytest.mark.requirement("cli.tui")
async def test_a_weight_that_is_set_here_moves_the_traffic_of_a_real_gateway(tmp_path: Path):
    file = tmp_path / "gateway.yaml"
    port = peers.free_port()
    demo = [sys.executable, "-m", "mcpbridge.demo.http", "--port", str(port)]
    child = {"command": sys.executable, "args": ["-m", "mcpbridge.demo.stdio"]}
    server = {"name": "s", "endpoints": [{"url": f"http://127.0.0.1:{port}/mcp", "protocol": "http"}, child]}
    config = {
        "server": {"tls": {"enabled": False}, "protocols": {"stdio": {"enabled": False}, "tcp_binary": {"enabled": False}}},
        "auth": {"type": "none"},
        "servers": [server],
    }
    file.write_text(json.dumps(config))
    with peers.running(demo) as process:
        await asyncio.to_thread(peers.wait_listening, process, f"http://127.0.0.1:{port}/mcp")
        with peers.gateway({}, file=file, MCPBRIDGE_SERVER__TCP_HEALTH_PORT="0") as gateway:
            base = gateway.base

            async def ask(method: str, path: str, body: Mapping[str, Any]) -> tuple[int, dict[str, Any]]:
                return await act(method, base, path, body)

            total = 0

            async def called() -> dict[str, int]:
                """40 more calls; how many each protocol had once all of them are told."""
                nonlocal total
                params = {"name": "echo", "arguments": {"text": "x"}}
                for _ in range(40):
                    message = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}
                    assert "result" in (await act("POST", base, "/execute", message))[1]
                total += 40
                async with asyncio.timeout(5):
                    while True:
                        rows = (await fetch(base)).load_balancer.protocols
                        if sum(one.requests_total for one in rows) == total:
                            return {one.protocol: one.requests_total for one in rows}
                        await asyncio.sleep(0.1)  # a picture is up to a second old

            app = Dashboard(lambda: watch(base, None, 0.25), url=base, ask=ask, first="5")
            async with app.run_test(size=(140, 40)) as pilot:
                await until(pilot, lambda: app.newest is not None and all(b.state == "ok" for b in app.newest.backends))
                before = await called()
                assert before["http"] > 5 and before["stdio"] > 5
                view = app.view
                assert isinstance(view, Balancer)
                view.main.move_to("protocol\0http")
                view.wanted["protocol\0http"] = 0.0
                await pilot.press("enter", "y")
                await until(pilot, lambda: view.wanted == {})
                after = await called()
            assert after["http"] == before["http"] and after["stdio"] >= before["stdio"] + 40
