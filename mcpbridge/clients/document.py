"""One client's file in memory: its bytes to the servers it names, and a change of one server to new bytes.

A byte order mark stays, bytes that are no UTF-8 are refused, and after each edit the new text is read again: it must say what
the old one said, plus the change. Pure.

Source: ux section 7 (writing rules 1 to 3).
"""

from __future__ import annotations

import codecs
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

from mcpbridge.clients import json_edit, toml_edit
from mcpbridge.clients.faults import ClientFileError, TextFault, place_in
from mcpbridge.clients.jsonc import parse, paths_twice
from mcpbridge.config.problems import Place

MAX_BYTES: Final = 16 * 1024 * 1024
"""Beyond this no file is read: the largest ones, of clients that keep a history there, have a few MB."""

PARSE, SHAPE = "MCPB-CFG-PARSE", "MCPB-CFG-SHAPE"
UNTOUCHED: Final = "nothing was changed; correct the file and try again"


@dataclass(frozen=True)
class Document:
    """The bytes of a file and what is needed to read them. ``servers`` leads to the map of servers."""

    data: bytes
    format: Literal["json", "jsonc", "toml"]
    servers: tuple[str, ...]
    source: str

    def entries(self) -> dict[str, Any]:
        """The client's own objects by name. Raises ClientFileError."""
        _, text = self._decoded()
        return dict(self._guarded(text, lambda: self._entries(text)))

    def with_entry(self, name: str, plain: Mapping[str, Any]) -> bytes:
        """The bytes with one server added, or changed member by member. Raises ClientFileError."""
        return self._edited(lambda text: self._set(text, name, plain), {**self.entries(), name: dict(plain)})

    def without_entry(self, name: str) -> bytes:
        """The bytes without one server. Raises ClientFileError."""
        left = {key: value for key, value in self.entries().items() if key != name}
        return self._edited(lambda text: self._removed(text, name), left)

    # -- both formats

    def _entries(self, text: str) -> Mapping[str, Any]:
        if self.format == "toml":
            found = toml_edit.load(text).get(self.servers[0], {})
            if not isinstance(found, dict):
                raise TextFault(0, f"{self.servers[0]} must be a table")
            return found
        if not text.strip():
            return {}
        value = parse(text, strict=self.format == "json")
        if value.kind != "{":
            raise TextFault(value.start, "the whole must be an object", "make it { } or remove the file")
        if fault := paths_twice(value, self.servers):
            raise fault
        for name in self.servers:
            member = value.member(name)
            if member is None or (member.value.kind == "word" and member.value.plain is None):
                return {}
            value = member.value
            if value.kind != "{":
                raise TextFault(value.start, f"{name} must be an object", "make it { } or remove it")
        return dict(value.plain)

    def _set(self, text: str, name: str, plain: Mapping[str, Any]) -> str:
        if self.format == "toml":
            return toml_edit.set_table(text, (self.servers[0], name), plain)
        strict = self.format == "json"
        old = self._entries(text).get(name)
        path = (*self.servers, name)
        if not isinstance(old, Mapping) or not old:
            return json_edit.set_value(text, path, dict(plain), strict=strict)
        for key in [key for key in old if key not in plain]:
            text = json_edit.remove_value(text, (*path, key), strict=strict)
        for key, value in plain.items():
            if key not in old or not json_edit.same(old[key], value):
                text = json_edit.set_value(text, (*path, key), value, strict=strict)
        return text

    def _removed(self, text: str, name: str) -> str:
        if self.format == "toml":
            return toml_edit.remove_table(text, (self.servers[0], name))
        return json_edit.remove_value(text, (*self.servers, name), strict=self.format == "json")

    def _edited(self, edit: Callable[[str], str], wanted: Mapping[str, Any]) -> bytes:
        mark, text = self._decoded()
        after: str = self._guarded(text, lambda: edit(text))
        self._guarded(text, lambda: self._prove(text, after, wanted))
        return mark + after.encode("utf-8")

    def _prove(self, text: str, after: str, wanted: Mapping[str, Any]) -> None:
        """The new text says what the old one said, but for the servers, which are those that are wanted."""
        same = toml_edit.same if self.format == "toml" else json_edit.same
        before, now = self._whole(text), self._whole(after)
        if not same(self._entries(after), wanted) or not same(_without(before, self.servers), _without(now, self.servers)):
            raise TextFault(0, "the edit would have changed more than it should", "please report this file's form as a bug")

    def _whole(self, text: str) -> dict[str, Any]:
        if self.format == "toml":
            return toml_edit.load(text)
        return dict(parse(text, strict=self.format == "json").plain) if text.strip() else {}

    def _decoded(self) -> tuple[bytes, str]:
        mark = codecs.BOM_UTF8 if self.data.startswith(codecs.BOM_UTF8) else b""
        try:
            return mark, self.data[len(mark) :].decode("utf-8")
        except UnicodeDecodeError as error:
            text = self.data[len(mark) : len(mark) + error.start].decode("utf-8")
            raise ClientFileError(PARSE, place_in(text, len(text), self.source), "not UTF-8 text", UNTOUCHED) from None

    def _guarded(self, text: str, step: Callable[[], Any]) -> Any:
        """Run a step on the text; what it finds wrong gets the file's name, line and column."""
        try:
            return step()
        except TextFault as fault:
            code = SHAPE if fault.hint else PARSE
            hint = f"{fault.hint}; nothing was changed" if fault.hint else UNTOUCHED
            raise ClientFileError(code, place_in(text, fault.at, self.source), fault.message, hint) from None


def _without(plain: Mapping[str, Any], path: Sequence[str]) -> Mapping[str, Any]:
    """The value without the map of servers, and without the objects above it when they are then empty."""
    name, rest = path[0], path[1:]
    inner = plain.get(name)
    others = {key: value for key, value in plain.items() if key != name}
    if not rest or not isinstance(inner, Mapping):
        return others
    left = _without(inner, rest)
    return {**others, name: left} if left else others


def too_large(path: str) -> ClientFileError:
    """The fault of a file that is no settings file by its size."""
    return ClientFileError(
        PARSE, Place(path), f"larger than {MAX_BYTES // 2**20} MiB: not a settings file", "nothing was changed"
    )
