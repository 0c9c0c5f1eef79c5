"""The walker: a tree of YAML nodes and the rows in, values with their places out, every fault on the way noted.

It works on nodes, not on loaded data, because only nodes know line and column, duplicate keys and how a value was written
(``min_version: 1.3`` stays "1.3"). Pure: the nodes, the variables and the rows are arguments.

Source: contract section 3; architecture section 9.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import msgspec

from mcpbridge.config.kinds import Kind
from mcpbridge.config.problems import Place, Problem
from mcpbridge.config.rows import Field, Section, build, fields_of
from mcpbridge.observe.redact import conceal, redact

Node = Any  # yaml.nodes.Node: PyYAML has one owner, config/load
Table = dict[str, Any]  # key -> Field, or the Table of a section

_EXPANSION = re.compile(r"\$\$\{|\$\{([^}]*)\}|\$\{")
_NAME = re.compile(r"(?:env:)?([A-Za-z_][A-Za-z0-9_]*)(?::-(.*))?", re.DOTALL)
_SECRET = re.compile(r"secret:[A-Za-z0-9_-][A-Za-z0-9._-]{0,127}")


class Found(NamedTuple):
    """A parsed value, where it stands and under which key it was written."""

    value: Any
    place: Place
    written: str


class Unset(Exception):
    """A value that is there but says nothing (null, or empty after expansion): the default holds."""


def table_of(fields: Iterable[Field]) -> Table:
    """The rows as a tree, every alias at its own path."""
    table: Table = {}
    for field in fields:
        for path in (field.key, *field.row.aliases):
            *sections, last = path.split(".")
            branch = table
            for section in sections:
                branch = branch.setdefault(section, {})
            branch[last] = field
    return table


def expand(text: str, env: Mapping[str, str], *, late_secrets: bool = False) -> str:
    """``${NAME}`` and ``${NAME:-default}`` replaced; ``$${`` is a literal ``${``; ``${secret:NAME}`` passes where allowed.

    An empty variable counts as unset. Raises ValueError with the cause.
    """

    def replacement(match: re.Match[str]) -> str:
        whole, inside = match.group(), match.group(1)
        if whole == "$${":
            return "${"
        if inside is None:
            raise ValueError("has ${ without }; write $${ for a literal ${")
        if inside.startswith("secret:"):
            if not late_secrets:
                raise ValueError(f"{whole} is possible in env, headers, url and args of a server only; here use ${{NAME}}")
            if _SECRET.fullmatch(inside) is None:
                raise ValueError(f"{whole} does not name a secret (letters, digits, . _ -)")
            return whole
        name = _NAME.fullmatch(inside)
        if name is None:
            raise ValueError(f"{whole} is not understood; possible are ${{NAME}}, ${{NAME:-default}} and ${{secret:NAME}}")
        value = env.get(name[1], "")
        if not value and name[2] is None:
            raise ValueError(f"the variable {name[1]} is not set or empty; set it, or write ${{{name[1]}:-default}}")
        return value or name[2] or ""

    return _EXPANSION.sub(replacement, text)


def suggestion(word: str, known: Iterable[str]) -> str:
    """``did you mean ...?`` for a misspelled word, or ""."""
    spellings = {item.lower(): item for item in known}
    close = difflib.get_close_matches(word.lower(), spellings, n=1, cutoff=0.6)
    return f"did you mean {spellings[close[0]]}?" if close else ""


class Reader:
    """Reads one tree. ``problems`` and ``warnings`` collect what there is to say; nothing is raised."""

    def __init__(self, source: str, env: Mapping[str, str], shift: Callable[[int, int], tuple[int, int]] | None = None) -> None:
        self.source = source
        self.env = env
        self.problems: list[Problem] = []
        self.warnings: list[Problem] = []
        self._shift = shift
        self.read_servers: Callable[[Reader, Node, str], tuple[Any, ...]] | None = None  # set by whoever knows servers

    # -- places and faults

    def place(self, node: Node) -> Place:
        """Where a node begins."""
        line, column = node.start_mark.line + 1, node.start_mark.column + 1
        if self._shift is not None:
            line, column = self._shift(line, column)
        return Place(self.source, line, column)

    def fault(self, node: Node, message: str, hint: str = "", key: str = "") -> None:
        """Note a fault at a node."""
        self.problems.append(Problem(self.place(node), f"{key}: {message}" if key else message, hint, key))

    def warn(self, node: Node, message: str, hint: str = "", key: str = "") -> None:
        """Note something that works but should be known."""
        self.warnings.append(Problem(self.place(node), f"{key}: {message}" if key else message, hint, key))

    # -- mappings

    def pairs(self, node: Node, key: str = "") -> Iterator[tuple[str, Node, Node]]:
        """(key, key node, value node) of a mapping, merge keys applied, duplicates noted and dropped."""
        if node.id != "mapping":
            self.fault(node, f"must be a mapping, not {_shape(node)}", key=key)
            return
        seen: dict[str, Node] = {}
        merged: list[tuple[Node, Node]] = []
        for key_node, value in node.value:
            if key_node.tag == "tag:yaml.org,2002:merge":
                merged += self._merged(value)
                continue
            if key_node.id != "scalar":
                self.fault(key_node, "a key must be plain text", key=key)
                continue
            name = _text(key_node)
            if name in seen:
                full = f"{key}.{name}" if key else name
                self.fault(key_node, f"is written twice; the first is on line {self.place(seen[name]).line}", "keep one", full)
                continue
            seen[name] = key_node
            yield name, key_node, value
        for key_node, value in merged:
            if key_node.id == "scalar" and _text(key_node) not in seen:
                seen[_text(key_node)] = key_node
                yield _text(key_node), key_node, value

    def _merged(self, node: Node) -> list[tuple[Node, Node]]:
        mappings = node.value if node.id == "sequence" else [node]
        pairs: list[tuple[Node, Node]] = []
        for mapping in mappings:
            if mapping.id != "mapping":
                self.fault(mapping, "<< needs a mapping, or a list of mappings")
            else:
                pairs += [pair for pair in mapping.value if pair[0].tag != "tag:yaml.org,2002:merge"]
        return pairs

    def walk(self, node: Node, table: Table, values: dict[str, Found], prefix: str = "", root: Table | None = None) -> None:
        """Fill ``values`` (full canonical key -> Found) from a mapping node."""
        root = table if root is None else root
        for name, key_node, value in self.pairs(node, prefix.rstrip(".")):
            entry = table.get(name)
            if entry is None:
                self.fault(key_node, "unknown key", _near(name, prefix, table, root), prefix + name)
            elif isinstance(entry, dict):
                if not is_null(value):
                    self.walk(value, entry, values, f"{prefix}{name}.", root)
            else:
                self._take(entry, value, self.place(key_node), prefix + name, values)

    def _take(self, field: Field, node: Node, place: Place, written: str, values: dict[str, Found]) -> None:
        try:
            value = self.value(field, node, written)
        except Unset:
            return
        except ValueError:
            return  # noted where it happened
        earlier = values.get(field.key)
        if earlier is None:
            values[field.key] = Found(value, place, written)
        elif earlier.value != value:
            self.problems.append(
                Problem(
                    place,
                    f"{written} and {earlier.written} (line {earlier.place.line}) are one setting with two values",
                    f"keep {field.key}",
                    written,
                )
            )

    # -- values

    def value(self, field: Field, node: Node, written: str) -> Any:
        """The value of one row. Raises ValueError after noting the fault, Unset when the default holds."""
        row = field.row
        if is_null(node):
            raise Unset
        if row.kind.form == "servers" and self.read_servers is not None:
            return self.read_servers(self, node, written)
        if row.kind.form == "items" and row.item is not None:
            return self.items(node, row.item, written)
        if row.kind.form == "texts":
            if node.id != "sequence":
                raise self._refuse(node, f"must be a list, not {_shape(node)}", written)
            return tuple(self.scalar(field, item, f"{written}[{number}]") for number, item in enumerate(node.value))
        if row.kind.form == "map":
            return {name: self._text_of(field, item, f"{written}.{name}") for name, _, item in self.pairs(node, written)}
        return self.scalar(field, node, written)

    def _text_of(self, field: Field, node: Node, written: str) -> str:
        try:
            return str(self.scalar(field, node, written))
        except Unset:
            return ""

    def scalar(self, field: Field, node: Node, written: str) -> Any:
        """One scalar, expanded and parsed by the row's kind. Raises as ``value``."""
        if node.id != "scalar":
            raise self._refuse(node, f"must be {_article(field.row.kind)}, not {_shape(node)}", written)
        raw = _text(node)
        try:
            text = expand(raw, self.env, late_secrets=field.row.late_secrets)
        except ValueError as error:
            raise self._refuse(node, str(error), written) from None
        if not text and field.row.kind.name != "str":
            raise Unset
        if field.row.secret:
            conceal(text)
        try:
            return field.row.kind.parse(text)
        except ValueError as error:
            shown = "" if field.row.secret or "${" in raw else f", not {_short(text)}"
            raise self._refuse(node, f"must be {error}{shown}", written) from None

    def items(self, node: Node, item: type[Section], written: str) -> tuple[Any, ...]:
        """A list of mappings of one shape."""
        if node.id != "sequence":
            raise self._refuse(node, f"must be a list, not {_shape(node)}", written)
        built = []
        for number, entry in enumerate(node.value):
            path = f"{written}[{number}]"
            values = self.section(entry, item, path)
            if values is not None:
                built.append(build(item, {key: found.value for key, found in values.items()}))
        return tuple(built)

    def section(self, node: Node, item: type[Section], written: str, extra: Table | None = None) -> dict[str, Found] | None:
        """The values of one mapping in a list; None when it has faults. ``extra`` are further keys that it may have."""
        before = len(self.problems)
        fields = list(fields_of(item))
        values: dict[str, Found] = {}
        inner = Reader(self.source, self.env, self._shift)
        inner.read_servers = self.read_servers
        inner.walk(node, table_of(fields) | (extra or {}), values)
        self.warnings += inner.warnings
        self.problems += [
            problem._replace(
                message=f"{written}{'.' if problem.key else ': '}{problem.message}",
                key=f"{written}.{problem.key}" if problem.key else written,
            )
            for problem in inner.problems
        ]
        if node.id == "mapping":
            for field in fields:
                missing = field.default is msgspec.NODEFAULT and field.key not in values
                if missing and not any(problem.key == field.key for problem in inner.problems):
                    self.fault(
                        node,
                        "is missing",
                        field.row.help,
                        f"{written}.{field.key}",
                    )
        return values if len(self.problems) == before else None

    def _refuse(self, node: Node, message: str, written: str) -> ValueError:
        self.fault(node, message, key=written)
        return ValueError(message)


def is_null(node: Node) -> bool:
    """Whether nothing was written: ``key:``, ``~`` or ``null``."""
    return bool(node.id == "scalar" and node.tag == "tag:yaml.org,2002:null")


def _text(node: Node) -> str:
    """The text of a scalar as written."""
    return str(node.value)


def _near(name: str, prefix: str, table: Table, root: Table) -> str:
    """The next step for an unknown key: a neighbour that is spelled alike, else the same name at its right place."""
    if near := suggestion(name, table):
        return near
    paths = list(_paths(root))
    for path in paths:
        if path == name or path.endswith("." + name):
            return f"did you mean {path}?"
    if not prefix:
        return suggestion(name, paths)
    return f"known here: {', '.join(sorted(table))}"


def _paths(table: Table, prefix: str = "") -> Iterator[str]:
    for name, entry in table.items():
        if isinstance(entry, dict):
            yield from _paths(entry, f"{prefix}{name}.")
        else:
            yield prefix + name


def _shape(node: Node) -> str:
    if node.id == "scalar":
        return "empty" if is_null(node) else _short(_text(node))
    return {"sequence": "a list", "mapping": "a mapping"}[node.id]


def _short(text: str) -> str:
    """A written value for a message that may end up in somebody's build log."""
    text = redact(text)
    return repr(text if len(text) <= 60 else text[:57] + "...")


def _article(kind: Kind) -> str:
    return {"int": "a whole number", "bool": "true or false", "enum": "a word", "str": "text"}.get(kind.name, f"a {kind.name}")
