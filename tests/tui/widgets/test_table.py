from __future__ import annotations

import pytest
from rich.cells import cell_len
from textual.app import App, ComposeResult

from tui.widgets.table import Cell, Column, LiveTable, Row, cut, fit_columns

COLUMNS = (Column("NAME", 6), Column("FIRST", 5, priority=1), Column("N", 4, right=True, priority=5), Column("CAUSE", 0))


def rows(*names: str) -> list[Row]:
    return [Row(name, (Cell(name), Cell("x"), Cell("7"), Cell("why", "bad"))) for name in names]


class Shown(App[None]):
    def compose(self) -> ComposeResult:
        yield LiveTable(COLUMNS, empty="nothing here", id="table")

    @property
    def table(self) -> LiveTable:
        return self.query_one("#table", LiveTable)

    def text(self, y: int) -> str:
        return self.table.render_line(y).text


@pytest.mark.parametrize(
    ("width", "expected"), [(100, [0, 1, 2, 3]), (41, [0, 1, 2, 3]), (40, [0, 2, 3]), (30, [0, 3]), (3, [0, 3])]
)
def test_columns_of_low_priority_go_first_and_the_first_and_last_stay(width: int, expected: list[int]):
    assert fit_columns(COLUMNS, width) == expected


@pytest.mark.parametrize(("text", "width"), [("plain", 8), ("plain", 3), ("日本語テキスト", 7), ("", 4), ("x", 0), ("ab", 1)])
def test_cut_text_has_exactly_the_width_in_cells(text: str, width: int):
    assert cell_len(cut(text, width)) == width


def test_what_does_not_fit_ends_in_an_ellipsis():
    assert cut("connection refused", 10) == "connectio…"
    assert cut("connection refused", 10, "...") == "connect..."


async def test_the_cursor_follows_its_row_when_rows_change_places():
    app = Shown()
    async with app.run_test(size=(80, 6)):
        app.table.show(rows("a", "b", "c"))
        app.table.move_to("b")
        app.table.show(rows("c", "x", "y", "z", "b", "a"))
        assert app.table.key == "b"


async def test_the_row_under_the_cursor_stays_on_its_line_of_the_screen():
    app = Shown()
    async with app.run_test(size=(80, 6)):
        app.table.show(rows(*"abcdefghij"))
        app.table.move_to("e")
        line = app.table.cursor - app.table.top
        app.table.show(rows("new1", "new2", *"abcdefghij"))
        assert (app.table.key, app.table.cursor - app.table.top) == ("e", line)


async def test_a_cursor_whose_row_is_gone_stays_where_it_was():
    app = Shown()
    async with app.run_test(size=(80, 6)):
        app.table.show(rows("a", "b", "c"))
        app.table.move_to("c")
        app.table.show(rows("a", "b"))
        assert app.table.key == "b"
        app.table.show([])
        assert app.table.key is None


async def test_keys_move_the_cursor_and_scroll_the_rows():
    app = Shown()
    async with app.run_test(size=(80, 4)) as pilot:
        app.table.show(rows(*"abcdefgh"))
        app.table.focus()
        await pilot.press("down", "j", "down")
        assert app.table.key == "d"
        assert [app.text(y).split()[0].lstrip("›") for y in (1, 2, 3)] == ["b", "c", "d"]
        await pilot.press("G")
        assert app.table.key == "h"
        await pilot.press("pageup")
        assert app.table.key == "e"
        await pilot.press("g", "k")
        assert app.table.key == "a"


async def test_a_click_selects_the_row_under_the_mouse():
    app = Shown()
    async with app.run_test(size=(80, 6)) as pilot:
        app.table.show(rows(*"abc"))
        await pilot.click("#table", offset=(2, 3))
        assert app.table.key == "c"


async def test_markup_in_a_cell_is_text():
    app = Shown()
    async with app.run_test(size=(80, 6)):
        app.table.show([Row("k", (Cell("[b]x"), Cell("y"), Cell("1"), Cell("[red]boom[/red] [@click=app.bell]x[/]")))])
        assert "[red]boom[/red] [@click=app.bell]x[/]" in app.text(1)


async def test_numbers_stand_at_the_right_of_their_column():
    app = Shown()
    async with app.run_test(size=(80, 6)):
        app.table.show(rows("a"))
        assert app.text(0) == " NAME    FIRST     N  CAUSE".ljust(80)
        assert app.text(1) == "›a       x         7  why".ljust(80)


async def test_an_empty_table_says_why():
    app = Shown()
    async with app.run_test(size=(80, 6)):
        assert app.text(1).strip() == "nothing here"
