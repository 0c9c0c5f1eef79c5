"""The filter line: ``text`` contained, ``!text`` not contained, ``field:text`` in one column; blanks mean and.

Source: ux.md section 1.5.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from tui.widgets.table import Column, Row

Accept = Callable[[Row], bool]


class BadFilter(ValueError):
    """The filter line is not one; the text says why."""


def parse_filter(line: str, columns: Sequence[Column]) -> Accept:
    """What decides whether a row of these columns stays. Fields are headings in lower case, first word.

    Raises BadFilter for an unknown field or a term without text.
    """
    fields = {column.title.split()[0].lower(): i for i, column in enumerate(columns)}
    tests = [_term(term, fields) for term in line.lower().split()]
    return lambda row: all(test(row) for test in tests)


def _term(term: str, fields: dict[str, int]) -> Accept:
    wanted = not term.startswith("!")
    name, colon, text = term.removeprefix("!").partition(":")
    if not colon or name in ("http", "https") or "/" in name:
        needle = term.removeprefix("!")
        if not needle:
            raise BadFilter("text is missing after !")
        return lambda row: any(needle in cell.text.lower() for cell in row.cells) is wanted
    if name not in fields:
        raise BadFilter(f"no column {name}; there are {', '.join(fields)}")
    if not text:
        raise BadFilter(f"text is missing after {name}:")
    place = fields[name]
    return lambda row: (text in row.cells[place].text.lower()) is wanted
