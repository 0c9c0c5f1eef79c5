"""Whether a regular expression is harmless: matching a name of 63 characters never takes long, whatever the name is.

    mcp-servers.*    (team|infra)-[a-z]+-mcp    yes
    (a+)+    (a|ab)*    .*x.*x.*x.*x.*          no: the ways to match are tried one after the other, and there are too many

The library that matches cannot be stopped, and holds up the whole process meanwhile. Who writes the pattern is trusted; who
names what it is matched against is not.
"""

from __future__ import annotations

from collections.abc import Iterator
from re import _parser  # type: ignore[attr-defined]  # what `re` itself is made of: there is no public tree
from typing import Any, Final

MAX_REPEATS: Final = 4  # of variable length, in a row: their product is what is tried
MAX_CHOICES: Final = 8  # of two or more ways each
_REPEATS: Final = frozenset({"MAX_REPEAT", "MIN_REPEAT", "POSSESSIVE_REPEAT"})


def danger(pattern: str) -> str:
    """Why matching could take for ever, or "". ``pattern`` is one that compiles."""
    repeats = choices = 0
    for kind, is_repeated in _free(_parser.parse(pattern), False):
        if is_repeated:
            return "without a repetition or an alternative inside a repetition, which could take for ever to match"
        repeats += kind == "repeat"
        choices += kind == "choice"
    if repeats > MAX_REPEATS or choices > MAX_CHOICES:
        return f"with at most {MAX_REPEATS} repetitions and {MAX_CHOICES} alternatives, since more could take for ever to match"
    return ""


def _free(tree: Any, is_repeated: bool) -> Iterator[tuple[str, bool]]:
    """Each place where the library has a choice ("repeat": many ways, "choice": few), and whether it is in a repetition."""
    for op, value in tree:
        name = str(op)
        if name in _REPEATS:
            least, most, inner = value
            if least != most:
                yield "repeat" if most - least > 1 else "choice", is_repeated
            yield from _free(inner, is_repeated or most > 1)
        elif name == "BRANCH":
            yield "choice", is_repeated
            for branch in value[1]:
                yield from _free(branch, is_repeated)
        else:
            for inner in value if isinstance(value, tuple) else (value,):
                if isinstance(inner, _parser.SubPattern):
                    yield from _free(inner, is_repeated)
