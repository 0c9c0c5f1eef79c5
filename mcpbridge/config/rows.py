"""One field = one row: a section is a Struct whose fields are annotated with their ``Row``; all tables derive from it here.

    class Pool(Section, frozen=True, kw_only=True):
        max_size: Annotated[int, Row(COUNT, "channels per backend")] = 100

Adding an option is adding such a line; the file walker, the variables, ``config show``, ``config schema`` and the tests follow.

Source: architecture section 9.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any, NamedTuple, TypeVar

import msgspec

from mcpbridge.config.kinds import Kind


class Section(msgspec.Struct, frozen=True, kw_only=True):
    """A mapping of the configuration; its fields are rows or further sections."""


class Row(NamedTuple):
    """What is to be known of a field besides its Python type and default.

    ``key`` differs from the field's name when the unit belongs to the key (``timeout_ms`` for a field in seconds).
    ``env`` are the variables of the guide that set it, written as ``env_kind`` where that is not the key's own kind;
    ``aliases`` full paths of other spellings.
    ``late_secrets`` lets ``${secret:NAME}`` pass: it is resolved where the value is used, never before.
    """

    kind: Kind
    help: str
    key: str = ""
    env: tuple[str, ...] = ()
    env_kind: Kind | None = None
    aliases: tuple[str, ...] = ()
    secret: bool = False
    late_secrets: bool = False
    item: type[Section] | None = None  # of a list of mappings


class Field(NamedTuple):
    """A row at its place: the full path of its key, and its default (``msgspec.NODEFAULT``: must be given)."""

    key: str
    row: Row
    default: Any

    @property
    def variable(self) -> str:
        """The variable that sets this key: ``MCPBRIDGE_SERVER__PORT`` for ``server.port``; "" for a key of one level."""
        return "MCPBRIDGE_" + self.key.upper().replace(".", "__") if "." in self.key else ""


S = TypeVar("S", bound=Section)


@cache
def _members(section: type[Section]) -> tuple[tuple[str, str, Row | type[Section], Any], ...]:
    """(field name, key, row or subsection, default) of each field of one section."""
    members: list[tuple[str, str, Row | type[Section], Any]] = []
    for field in msgspec.structs.fields(section):
        default = field.default_factory() if field.default_factory is not msgspec.NODEFAULT else field.default
        notes = getattr(field.type, "__metadata__", ())
        row = next((note for note in notes if isinstance(note, Row)), None)
        if row is not None:
            members.append((field.name, row.key or field.name, row, default))
        elif isinstance(field.type, type) and issubclass(field.type, Section):
            members.append((field.name, field.name, field.type, default))
    return tuple(members)


def fields_of(section: type[Section], prefix: str = "") -> Iterator[Field]:
    """All rows of a section and those below, in the order of the source."""
    for _, key, row, default in _members(section):
        if isinstance(row, Row):
            yield Field(prefix + key, row, default)
        else:
            yield from fields_of(row, f"{prefix}{key}.")


def variables(section: type[Section]) -> Iterator[str]:
    """The variables of the guide that set rows of this section. ``MCPBRIDGE_<KEY__PATH>`` sets each row besides."""
    for field in fields_of(section):
        yield from field.row.env


def build(section: type[S], values: Mapping[str, Any], prefix: str = "") -> S:
    """The Struct for a flat mapping of full keys to parsed values; what is missing takes the default of its row.

    Raises TypeError when a value without default is missing (the walker has reported that before).
    """
    arguments: dict[str, Any] = {}
    for name, key, row, _ in _members(section):
        if not isinstance(row, Row):
            arguments[name] = build(row, values, f"{prefix}{key}.")
        elif prefix + key in values:
            arguments[name] = values[prefix + key]
    return section(**arguments)


@cache
def _names(section: type[Section]) -> dict[str, str]:
    """Key -> the name of its field, of one section; annotations are dear to read."""
    return {key: name for name, key, _, _ in _members(section)}


def at(config: Section, key: str) -> Any:
    """The value of a full key. Raises KeyError for one that is none."""
    value: Any = config
    for name in key.split("."):
        section: type[Section] = type(value)
        value = getattr(value, _names(section)[name])
    return value
