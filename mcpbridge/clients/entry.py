"""One server as every client means it: the neutral form between the files of two clients, or a client's file and ours.

References to variables are kept as references, in the form of our configuration: ``${NAME}``, ``${NAME:-default}``, and ``$${``
for a literal ``${``. Each client has a dialect of its own, into and out of which texts are translated here.

Source: ux section 7 (import, export); contract section 3 (expansion).
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from mcpbridge.observe.redact import redact

Transport = Literal["stdio", "http", "sse"]
Dialect = Literal["none", "shell", "env", "dollar"]
"""How a client writes variables: not at all, ``${X}`` and ``${X:-d}``, ``${env:X}``, or ``$X`` and ``${X}``."""


class Inexpressible(ValueError):
    """Something that one side can say and the other cannot. The text is the cause, without the value."""


@dataclass(frozen=True)
class Source:
    """Where an entry was read."""

    client: str
    scope: str
    file: str


@dataclass(frozen=True)
class Entry:
    """One server. ``command``, ``args``, ``env`` and ``cwd`` belong to stdio, ``url`` and ``headers`` to the others."""

    name: str
    transport: Transport
    command: str = ""
    args: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict)
    cwd: str = ""
    url: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)
    disabled: bool = False
    source: Source | None = None

    def translated(self, text: Callable[[str], str]) -> Entry:
        """The entry with every text of it passed through a function."""
        return replace(
            self,
            command=text(self.command),
            args=tuple(text(word) for word in self.args),
            env={name: text(value) for name, value in self.env.items()},
            cwd=text(self.cwd),
            url=text(self.url),
            headers={name: text(value) for name, value in self.headers.items()},
        )

    def says_the_same(self, other: Entry) -> bool:
        """Whether two entries reach the same server the same way, whatever they are called."""
        return replace(self, name="", source=None) == replace(other, name="", source=None)

    def as_config(self) -> dict[str, Any]:
        """The entry in the ``mcpServers`` form that our own configuration reads."""
        if self.transport == "stdio":
            parts: dict[str, Any] = {"command": self.command, "args": list(self.args), "env": dict(self.env), "cwd": self.cwd}
            return {key: value for key, value in parts.items() if value or key in ("command", "args")}
        parts = {"type": self.transport, "url": self.url, "headers": dict(self.headers)}
        return {**{key: value for key, value in parts.items() if value}, **({"disabled": True} if self.disabled else {})}


# -- variables

_SHELL = re.compile(r"\$\{([^}]*)\}")
_DOLLAR = re.compile(r"\$\{([^}]*)\}|\$([A-Za-z_][A-Za-z0-9_]*)")
_OURS = re.compile(r"\$\$\{|\$\{([^}]*)\}")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_DEFAULTED = re.compile(r"([A-Za-z_][A-Za-z0-9_]*):-(.*)", re.DOTALL)


def to_ours(text: str, dialect: Dialect) -> str:
    """A client's text in the form of our configuration. Raises Inexpressible."""
    if dialect == "none":
        return text.replace("${", "$${")
    if dialect == "shell":
        return _SHELL.sub(lambda match: _reference(match[0], match[1], defaults=True), text)
    if dialect == "dollar":
        return _DOLLAR.sub(lambda match: _reference(match[0], match[1] if match[2] is None else match[2], defaults=True), text)
    return _SHELL.sub(lambda match: _reference(match[0], match[1].removeprefix("env:"), prefixed="env:" in match[0]), text)


def _reference(whole: str, inside: str, *, defaults: bool = False, prefixed: bool = True) -> str:
    if prefixed and _NAME.fullmatch(inside):
        return f"${{{inside}}}"
    if defaults and _DEFAULTED.fullmatch(inside):
        return whole
    raise Inexpressible(f"{whole[:60]} is known to that client only")


def from_ours(text: str, dialect: Dialect) -> str:
    """A text of our configuration as a client would write it. Raises Inexpressible."""

    def one(match: re.Match[str]) -> str:
        inside = match[1]
        if inside is None:
            if dialect == "none":
                return "${"
            raise Inexpressible("a literal ${ would be taken for a variable there")
        if inside.startswith("secret:"):
            raise Inexpressible(f"{match[0]} is a secret that only mcpbridge resolves")
        if dialect == "none":
            raise Inexpressible(f"{match[0]} is a variable, and this client expands none")
        if dialect == "shell" and (_NAME.fullmatch(inside) or _DEFAULTED.fullmatch(inside)):
            return match[0]
        if dialect in ("env", "dollar") and _NAME.fullmatch(inside):
            return f"${{env:{inside}}}" if dialect == "env" else match[0]
        raise Inexpressible(f"{match[0]} has no form in this client's file")

    if dialect == "dollar" and re.search(r"\$[A-Za-z_]", text):
        raise Inexpressible("a $ before a letter would be taken for a variable there")
    return _OURS.sub(one, text)


# -- secrets

_SECRET_NAME = re.compile(
    r"(?:^|[_-])(?:TOKEN|KEY|SECRET|PASSWORD|PASSWD|PASSPHRASE|PAT|CREDENTIALS?|AUTH|APIKEY)S?$|^(?:PROXY-)?AUTHORIZATION$|^COOKIE$",
    re.IGNORECASE,
)
_DENSE = re.compile(r"[A-Za-z0-9+/=_.-]{20,}")
_SCHEME = re.compile(r"^(?:[Bb]earer|[Bb]asic|[Tt]oken)\s+")
_PLAIN_VALUES = frozenset(("", "true", "false", "none", "null", "0", "1"))
_MIN_BITS_PER_CHAR = 3.5


def secrets_of(entry: Entry) -> list[tuple[str, str, str]]:
    """The values that look like secrets: (member, its key or number, value). References to variables are none."""
    found = []
    for member in ("env", "headers"):
        for key, value in getattr(entry, member).items():
            if "${" not in value and looks_secret(key, value):
                found.append((member, key, value))
    for number, word in enumerate(entry.args):
        before = entry.args[number - 1] if number else ""
        name = before.lstrip("-") if before.startswith("--") and "=" not in before and not word.startswith("-") else ""
        flag, equals, value = word.partition("=")
        if equals and flag.startswith("--"):
            name = flag.lstrip("-")
        named = bool(name and _SECRET_NAME.search(name)) and looks_secret(name, value or word)
        if "${" not in word and (named or redact(word) != word):
            found.append(("args", str(number), word))
    if "${" not in entry.url and redact(entry.url) != entry.url:
        found.append(("url", "", entry.url))
    return found


def looks_secret(key: str, value: str) -> bool:
    """Whether a value is a secret by the name it has, by its shape, or because it is as random as a key."""
    value = _SCHEME.sub("", value.strip())
    if value.lower() in _PLAIN_VALUES:
        return False
    if _SECRET_NAME.search(key) or redact(value) != value:
        return True
    if _DENSE.fullmatch(value) is None or not re.search(r"\d", value) or not re.search(r"[A-Za-z]", value):
        return False
    counts = Counter(value)
    bits = -sum(n / len(value) * math.log2(n / len(value)) for n in counts.values())
    return bits >= _MIN_BITS_PER_CHAR and "/" not in value.strip("=/")
