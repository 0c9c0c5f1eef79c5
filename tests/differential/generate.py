"""Seeded messages of every kind with awkward JSON in them, and what the scripted server shall do about each."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from random import Random

KEYS = (
    "a",
    "_meta",
    "$defs",
    "$anchor",
    "$ref",
    "x-vendor",
    "é",
    "",
    "type",
    "id",
    "method",
    "params",
    "0",
    "a b",
    "\u2028",
    "😀",
)
NUMBERS = (
    "0",
    "-0",
    "1.0",
    "-0.0",
    "1e5",
    "1E+2",
    "0.1000",
    "1e-320",
    "9007199254740993",
    "-9223372036854775809",
    "1" + "0" * 30,
)
CHARACTERS = "abcXYZ 019 _-/.,:;{}[]<>&'\"\\\n\t\r\x00\x1f\x7fé߿漢\u2028\ufeff😀"
ESCAPES = {'"': '\\"', "\\": "\\\\", "\n": "\\n", "\t": "\\t", "\r": "\\r"}
VERSION = {"legacy": "2025-11-25", "modern": "2026-07-28"}
PREFIX = "io.modelcontextprotocol/"


@dataclass
class Step:
    """One message of the client. ``call``, ``free``, ``listen``: messages it gets for it, by stream."""

    raw: bytes
    method: str
    name: str | None
    is_request: bool
    call: int = 0
    free: int = 0
    listen: int = 0
    size: int = field(default=1)  # messages in all, both ways


class Values:
    """Random JSON texts. ``lenient``: what a server may write and a strict client would not."""

    def __init__(self, random: Random, lenient: bool) -> None:
        self.random = random
        self.lenient = lenient

    def text(self, value: str) -> str:
        """A string literal of this text, escaped at random."""
        return '"' + "".join(self._character(c) for c in value) + '"'

    def _character(self, c: str) -> str:
        if c in ESCAPES and self.random.random() < 0.7:
            return ESCAPES[c]
        if c == "/" and self.random.random() < 0.3:
            return "\\/"
        if c < " " or c in '"\\' or self.random.random() < 0.05:
            form = "\\u%04X" if self.random.random() < 0.5 else "\\u%04x"
            units = c.encode("utf-16-be")
            return "".join(form % int.from_bytes(units[at : at + 2], "big") for at in range(0, len(units), 2))
        return c

    def scalar(self) -> str:
        pick = self.random.random()
        if pick < 0.3:
            return self.random.choice((*NUMBERS, "1e400") if self.lenient else NUMBERS)
        if pick < 0.45:
            return self.random.choice(("true", "false", "null"))
        literal = self.text("".join(self.random.choices(CHARACTERS, k=self.random.randrange(12))))
        if self.lenient and self.random.random() < 0.03:
            return literal[:-1] + '\\ud83d"'  # an emoji that was cut in two
        return literal

    def value(self, depth: int = 4) -> str:
        pick = self.random.random()
        if depth == 0 or pick < 0.5:
            return self.scalar()
        if pick < 0.8:
            return self.object(depth)
        return self.join("[", [self.value(depth - 1) for _ in range(self.random.randrange(4))], "]")

    def params(self, **members: str) -> str:
        """The params of a message of the server: their ``_meta`` is an object, everything else is anything."""
        return self.object(4, **{"_meta": self.object(2), **members})

    def object(self, depth: int = 4, **members: str) -> str:
        names = self.random.sample(KEYS, self.random.randrange(5))
        found = [(name, self.value(depth - 1)) for name in names if name not in members]
        return self.members([*found, *members.items()])

    def members(self, found: list[tuple[str, str]]) -> str:
        return self.join("{", [f"{self.text(name)}{self.space()}:{self.space()}{raw}" for name, raw in found], "}")

    def join(self, start: str, parts: list[str], end: str) -> str:
        return start + self.space() + (self.space() + "," + self.space()).join(parts) + self.space() + end

    def space(self) -> str:
        return self.random.choice((" ", "\t", "  ")) if self.random.random() < 0.02 else ""

    def envelope(self, *members: tuple[str, str]) -> str:
        """A message: mostly as the SDKs write it, now and then with other members, order and spaces."""
        found = [("jsonrpc", '"2.0"'), *members]
        pick = self.random.random()
        if pick < 0.7:
            return "{" + ",".join(f'"{name}":{raw}' for name, raw in found) + "}"
        if pick < 0.85:
            found.append(self.random.choice((("vendor", self.value()), ("x", self.value()))))
        self.random.shuffle(found)
        return self.members(found)


class Plans:
    """Steps of one client and one server of an era."""

    def __init__(self, seed: int, era: str, over_http: bool) -> None:
        self.random = Random(f"{seed}-{era}")
        self.era = era
        self.over_http = over_http
        self.client = Values(self.random, lenient=False)
        self.server = Values(self.random, lenient=True)
        self.number = 0

    def steps(self, messages: int) -> Iterator[Step]:
        """Steps until both sides together have said so many messages."""
        said = 0
        while said < messages:
            step = self.step()
            said += step.size
            yield step

    def step(self) -> Step:
        self.number += 1
        random = self.random
        is_request = random.random() < 0.85
        method, name, params = self._request() if is_request else self._notification()
        meta: list[tuple[str, str]] = [
            (key, self.client.value(2)) for key in random.sample(("x", "vendor/key", "é"), random.randrange(3))
        ]
        has_token = is_request and random.random() < 0.4
        has_level = self.era == "modern" and is_request and random.random() < 0.2
        if has_token:
            meta.append(("progressToken", random.choice((str(self.number), self.client.text(f"t{self.number}é")))))
        if self.era == "modern":
            meta += [
                (PREFIX + "protocolVersion", f'"{VERSION["modern"]}"'),
                (PREFIX + "clientCapabilities", self.client.object(2)),
                (PREFIX + "clientInfo", '{"name":"differential","version":"1"}'),
            ]
            if has_level:
                meta.append((PREFIX + "logLevel", '"debug"'))
        random.shuffle(meta)
        plan, counts = self._plan(is_request, has_token, has_level)
        members = [*params, ("plan", plan), *([("_meta", self.client.members(meta))] if meta else [])]
        extra = [(key, self.client.value()) for key in random.sample(("$defs", "x-more", "ü"), random.randrange(3))]
        members += extra
        random.shuffle(members)
        raw = self.client.members(members)
        id = [("id", self._id())] if is_request else []
        text = self.client.envelope(*id, ("method", f'"{method}"'), ("params", raw))
        size = 1 + sum(counts.values()) + is_request
        return Step(text.encode(), method, name, is_request, counts["call"], counts["free"], counts["listen"], size)

    def _id(self) -> str:
        number = self.number
        return self.random.choice((str(number), str(-number), str(2**60 + number), self.client.text(f"id {number} é")))

    def _request(self) -> tuple[str, str | None, list[tuple[str, str]]]:
        random, client = self.random, self.client
        name = random.choice(("echo", "töol", "a b", " x ", "=?base64?eA==?="))
        uri = random.choice(("file:///a%20b", "vendor://é", "x:1"))
        named = ("name", client.text(name))
        choices: list[tuple[str, str | None, list[tuple[str, str]]]] = [
            ("tools/call", name, [named, ("arguments", client.object())]),
            ("prompts/get", name, [named, ("arguments", client.object())]),
            ("resources/read", uri, [("uri", client.text(uri))]),
            ("tools/list", None, []),
            ("completion/complete", None, [("ref", client.object()), ("argument", client.object())]),
            ("vendor/thing.do", None, [("any", client.value())]),
            ("vendor/other_thing", None, []),
        ]
        if self.era == "legacy":
            choices += [
                ("ping", None, []),
                ("logging/setLevel", None, [("level", '"debug"')]),
                ("resources/subscribe", None, [("uri", client.text(uri))]),
                ("tasks/list", None, []),
            ]
        return random.choice(choices)

    def _notification(self) -> tuple[str, str | None, list[tuple[str, str]]]:
        choices = ["notifications/vendor/thing", "vendor/said"]
        if self.era == "legacy":
            choices.append("notifications/roots/list_changed")
        return self.random.choice(choices), None, [("any", self.client.value())]

    def _plan(self, is_request: bool, has_token: bool, has_level: bool) -> tuple[str, dict[str, int]]:
        """What the server shall say, as JSON of the plan, and how much of it on which stream."""
        counts = {"call": 0, "free": 0, "listen": 0}
        say = []
        for _ in range(self.random.choice((0, 0, 0, 1, 1, 2, 4)) if is_request else self.random.choice((0, 0, 1))):
            kinds = []
            if is_request:
                kinds += ["related"] + ["progress"] * has_token + ["log"] * (has_level or self.era == "legacy")
            kinds += ["free", "asked"] if self.era == "legacy" else ["tagged"]
            if self.era == "legacy" and is_request:
                kinds += ["asks"]
            if self.era == "modern" and is_request and not self.over_http:
                kinds.remove("related")  # a modern pipe has no place for a notification that names no request
            item = self._item(self.random.choice(kinds))
            counts[item["on"]] += 1
            say.append(item)
        after = [self._item("free" if self.era == "legacy" else "tagged")] if is_request and self.random.random() < 0.1 else []
        for item in after:
            counts[item["on"]] += 1
        answer = self._answer() if is_request else ""
        return json.dumps({"n": self.number, "say": say, "answer": answer, "after": after}), counts

    def _item(self, kind: str) -> dict[str, str]:
        server = self.server
        if kind == "progress":
            params = server.members(
                [("progressToken", "@TOKEN@"), ("progress", server.random.choice(NUMBERS)), ("x", server.value())]
            )
            return {"on": "call", "text": server.envelope(("method", '"notifications/progress"'), ("params", params))}
        if kind == "tagged":
            meta = server.object(2, **{PREFIX + "subscriptionId": "@SUB@"})
            method = server.random.choice(("notifications/tools/list_changed", "notifications/vendor/x"))
            return {"on": "listen", "text": server.envelope(("method", f'"{method}"'), ("params", server.params(_meta=meta)))}
        if kind in ("asks", "asked"):
            return self._question("call" if kind == "asks" else "free")
        methods = ["notifications/message"] if kind == "log" else ["notifications/vendor/x", "vendor/said"]
        if kind == "free":
            methods += ["notifications/message", "notifications/tools/list_changed", "notifications/resources/updated"]
        text = server.envelope(("method", json.dumps(server.random.choice(methods))), ("params", server.params()))
        return {"on": "free" if kind == "free" else "call", "text": text}

    def _question(self, on: str) -> dict[str, str]:
        """A question that brings its own answer; one on the call's stream is waited for."""
        server, client = self.server, self.client
        self.number += 1
        id = server.random.choice((str(self.number), json.dumps(f"q{self.number}é", ensure_ascii=False)))
        method = server.random.choice(("roots/list", "sampling/createMessage", "elicitation/create", "vendor/ask", "ping"))
        error = client.members([("code", "-32000"), ("message", client.text("no")), ("data", client.value())])
        reply = server.random.choice((f'"result":{client.object()}', f'"error":{error}'))
        params = server.params(reply=json.dumps(reply))
        item = {"on": on, "text": server.envelope(("id", id), ("method", f'"{method}"'), ("params", params))}
        return item | ({"wait": json.dumps(json.loads(id))} if on == "call" else {})

    def _answer(self) -> str:
        server = self.server
        pick = server.random.random()
        if pick < 0.2:
            code = server.random.choice(("-32601", "-32000", "17", "-32602"))
            error = server.members([("code", code), ("message", server.text("nö")), ("data", server.value()), ("x", "1.50")])
            return server.envelope(("id", "@ID@"), ("error", error))
        kind = [("resultType", '"complete"')] if self.era == "modern" else []
        if self.era == "legacy" and pick < 0.3:
            return server.envelope(("id", "@ID@"), ("result", server.value()))
        return server.envelope(("id", "@ID@"), ("result", server.object(4, **dict(kind))))
