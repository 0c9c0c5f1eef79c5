"""Finding a tool by words: BM25 over names, descriptions and the arguments' names. Pure.

    Index([Raw(b'{"name":"read_file",...}'), ...]).find("open a text file", 5)  ->  the best five, best first

Words are cut at everything that is no letter or digit, at `camelCase`, and lose a plural `s`. A word in a tool's name counts
four times one in its description; BM25 lets rare words decide and long descriptions not win by their length.

Source: Robertson and Zaragoza, "The Probabilistic Relevance Framework: BM25 and Beyond" (2009), section 3 (k1, b, fields).
"""

from __future__ import annotations

import heapq
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from math import log
from typing import Any, Final, NamedTuple

from msgspec import Raw

from mcpbridge.errors import BridgeError
from mcpbridge.wire.headers import plain
from mcpbridge.wire.level import members, text
from mcpbridge.wire.message import Members

K1, B = 1.2, 0.75  # how fast repetition stops counting; how much length counts
WEIGHTS: Final = {"name": 4.0, "title": 2.0, "description": 1.0, "argument": 1.0, "about": 0.5}
MAX_TEXT = 4000  # characters of one description that are read
MAX_QUERY = 1000
_WORD = re.compile(r"[^\W_]+")
_CAMEL = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")


class Listed(NamedTuple):
    """A tool as its list has it, and its name."""

    name: str
    raw: Raw


class Index:
    """Of one list of tools. What is no proper tool is left out. ``size``: bytes of the tools as they are listed."""

    def __init__(self, tools: Sequence[Raw]) -> None:
        self.tools: list[Listed] = []
        self.size = sum(len(raw) for raw in tools)
        self._words: list[dict[str, float]] = []
        for raw in tools:
            try:
                said = members(raw)
            except BridgeError:
                continue
            name = text(said.get("name"))
            if name is not None:
                self.tools.append(Listed(name, raw))
                self._words.append(_weighed(name, said))
        self._found_in = Counter(word for words in self._words for word in words)
        lengths = [sum(words.values()) for words in self._words]
        mean = sum(lengths) / len(lengths) if lengths else 1.0
        self._norms = [K1 * (1 - B + B * length / (mean or 1.0)) for length in lengths]

    def is_of(self, tools: Sequence[Raw]) -> bool:
        """Whether another list says the same, byte for byte."""
        return len(tools) == len(self.tools) and all(raw == one.raw for raw, one in zip(tools, self.tools, strict=True))

    def find(self, query: str, limit: int) -> list[Listed]:
        """The tools that fit best, at most ``limit``, best first; those that have none of the words are no answer."""
        asked = [(word, self._rarity(word)) for word in dict.fromkeys(words_of(query[:MAX_QUERY])) if word in self._found_in]
        scores = [(self._score(at, asked), -at) for at in range(len(self.tools))]
        return [self.tools[-at] for score, at in heapq.nlargest(limit, scores) if score > 0]

    def _rarity(self, word: str) -> float:
        count = self._found_in[word]
        return log(1 + (len(self.tools) - count + 0.5) / (count + 0.5))

    def _score(self, at: int, asked: list[tuple[str, float]]) -> float:
        words, norm = self._words[at], self._norms[at]
        return sum(rarity * words[word] * (K1 + 1) / (words[word] + norm) for word, rarity in asked if word in words)


def words_of(said: str) -> Iterator[str]:
    """The words of a text, as they are compared."""
    for match in _WORD.finditer(_CAMEL.sub(" ", said)):
        word = match[0].lower()
        yield word[:-1] if len(word) > 3 and word.endswith("s") and not word.endswith("ss") else word


def _weighed(name: str, said: Members) -> dict[str, float]:
    found: dict[str, float] = {}

    def add(part: str, weight: float) -> None:
        for word in words_of(part[:MAX_TEXT]):
            found[word] = found.get(word, 0.0) + weight

    add(name, WEIGHTS["name"])
    add(text(said.get("title")) or "", WEIGHTS["title"])
    add(text(said.get("description")) or "", WEIGHTS["description"])
    schema: Any = plain(said.get("inputSchema"))
    arguments = schema.get("properties") if isinstance(schema, dict) else None
    for argument, about in arguments.items() if isinstance(arguments, dict) else ():
        add(argument, WEIGHTS["argument"])
        if isinstance(about, dict) and isinstance(about.get("description"), str):
            add(about["description"], WEIGHTS["about"])
    return found
