"""Questions of a server to the person at the terminal: each field of a form, one line each.

Source: MCP "elicitation" (form mode); contract ``cli.mcp-client``.
"""

from __future__ import annotations

import asyncio
import sys
from typing import Any


def can_ask() -> bool:
    """Whether somebody sits at a terminal who can be asked."""
    return sys.stdin is not None and sys.stdin.isatty() and sys.stderr.isatty()


async def ask_person(question: dict[str, Any]) -> dict[str, Any]:
    """Put one question; an empty line takes the default, Ctrl-D declines."""
    params = question.get("params") or {}
    if question.get("method") != "elicitation/create" or params.get("mode") == "url":
        _say(f"the server asks for something that cannot be given here: {question.get('method')}")
        return {"action": "decline"}
    _say(str(params.get("message") or "the server asks:"))
    schema = params.get("requestedSchema") or {}
    required = schema.get("required") or []
    content: dict[str, Any] = {}
    for key, field in (schema.get("properties") or {}).items():
        try:
            value = await _one(key, field if isinstance(field, dict) else {}, key in required)
        except EOFError:
            return {"action": "decline"}
        if value is not None:
            content[key] = value
    return {"action": "accept", "content": content}


async def _one(key: str, field: dict[str, Any], required: bool) -> Any:
    """One field; asked again until it fits."""
    choices = field.get("enum") or [one.get("const") for one in field.get("oneOf") or [] if isinstance(one, dict)]
    hint = f" ({', '.join(map(str, choices))})" if choices else f" ({field['type']})" if field.get("type") else ""
    default = f" [{field['default']}]" if "default" in field else ""
    while True:
        _say(f"{field.get('title') or key}{hint}{default}: ", end="")
        line = await asyncio.to_thread(sys.stdin.readline)
        if not line:
            raise EOFError
        text = line.strip()
        if not text and "default" in field:
            return field["default"]
        if not text and not required:
            return None
        try:
            return read_answer(text, field, choices)
        except ValueError as error:
            _say(str(error))


def read_answer(text: str, field: dict[str, Any], choices: list[Any]) -> Any:
    """A typed line as the value the form wants. Raises ValueError with the cause."""
    kind = field.get("type")
    if kind == "boolean":
        if text.lower() not in ("y", "yes", "true", "n", "no", "false"):
            raise ValueError("yes or no")
        return text.lower() in ("y", "yes", "true")
    if kind in ("integer", "number"):
        try:
            return int(text) if kind == "integer" else float(text)
        except ValueError:
            raise ValueError(f"a {'whole number' if kind == 'integer' else 'number'} is needed") from None
    if kind == "array":
        return [part.strip() for part in text.split(",") if part.strip()]
    if choices and text not in choices:
        raise ValueError(f"one of {', '.join(map(str, choices))}")
    if not text:
        raise ValueError("an answer is needed")
    return text


def _say(text: str, *, end: str = "\n") -> None:
    print("".join(c if c.isprintable() else " " for c in text), end=end, file=sys.stderr, flush=True)
