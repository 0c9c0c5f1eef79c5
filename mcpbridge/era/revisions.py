"""What a legacy revision can hold: contents and schemas of a modern server that an older client would choke on. Pure.

    resource_link, audio        before 2025-06-18, 2025-03-26     text that says what it was
    outputSchema                root is no object                 left out
    inputSchema                 root does not say that it is one  says it
    structuredContent           no object                         left out; becomes text when there is no other content
    messages of a sampling      several blocks, before 2025-11-25 a message for each
    choices with titles         before 2025-11-25                 enum and enumNames

What is not named here keeps its bytes: clients ignore members that they do not know, but not kinds of content.

Source: schemas 2024-11-05 to 2026-07-28; mcp-eras section 3 (tool schemas, content types).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from msgspec import Raw

from mcpbridge.wire import message as m
from mcpbridge.wire.envelope import items, members, text
from mcpbridge.wire.message import Members
from mcpbridge.wire.spec import NEWEST_LEGACY

_UNHEARD = {"2024-11-05": frozenset({"audio", "resource_link"}), "2025-03-26": frozenset({"resource_link"})}
"""Kinds of content that a version does not have."""
_OBJECT = Raw(b'"object"')
_BAD = "bad_answer"  # all of this was said by a server


def fit_result(method: str, result: Members, version: str) -> Members:
    """A complete result as a client of this version can read it. Raises BridgeError("bad_answer")."""
    if method == "tools/list" and "tools" in result:
        return {**result, "tools": _each(result["tools"], _fit_tool)}
    if method == "prompts/get" and "messages" in result and version in _UNHEARD:
        return {**result, "messages": _each(result["messages"], lambda message: _fit_message(message, version))}
    if method != "tools/call":
        return result
    if "content" in result and version in _UNHEARD:
        result = {**result, "content": _each(result["content"], lambda block: _fit_block(block, version))}
    structured = result.get("structuredContent")
    if structured is None or bytes(structured).startswith(b"{"):
        return result
    result = {name: raw for name, raw in result.items() if name != "structuredContent"}
    if not items(result.get("content"), _BAD):
        result["content"] = Raw(m.dumps([{"type": "text", "text": bytes(structured).decode()}]))
    return result


def fit_messages(messages: Raw, version: str) -> Raw:
    """The messages of a sampling request as a client of this version knows them. Raises BridgeError("bad_answer")."""
    if version == NEWEST_LEGACY:
        return messages
    fitted: list[Raw] = []
    for message in items(messages, _BAD):
        said = members(message, _BAD)
        content = said.get("content")
        if content is None or not bytes(content).startswith(b"["):
            fitted.append(_fit_message(message, version))
        else:
            parts = [Raw(m.join({**said, "content": block})) for block in items(content, _BAD)]
            fitted += [_fit_message(part, version) for part in parts]
    return _array(fitted)


def fit_form(schema: Raw, version: str) -> Raw:
    """The form of an elicitation as a client of this version knows it. Raises BridgeError("bad_answer")."""
    said = members(schema, _BAD)
    if version == NEWEST_LEGACY or "properties" not in said:
        return schema
    fields = {name: _fit_field(raw) for name, raw in members(said["properties"], _BAD).items()}
    return Raw(m.join({**said, "properties": Raw(m.join(fields))}))


def _fit_field(field: Raw) -> Raw:
    said = members(field, _BAD)
    if "oneOf" not in said or "enum" in said:
        return field
    choices = [members(choice, _BAD) for choice in items(said.pop("oneOf"), _BAD)]
    values = [choice["const"] for choice in choices if "const" in choice]
    names = [choice.get("title", choice["const"]) for choice in choices if "const" in choice]
    return Raw(m.join({**said, "enum": _array(values), "enumNames": _array(names)}))


def _fit_tool(tool: Raw) -> Raw:
    said = members(tool, _BAD)
    fitted = dict(said)
    if "outputSchema" in said and not _is_object_schema(said["outputSchema"]):
        del fitted["outputSchema"]
    if "inputSchema" in said and not _is_object_schema(said["inputSchema"]):
        schema = members(said["inputSchema"], _BAD) if bytes(said["inputSchema"]).startswith(b"{") else {}
        fitted["inputSchema"] = Raw(m.join({**schema, "type": _OBJECT}))  # arguments are always an object
    return tool if fitted == said else Raw(m.join(fitted))


def _is_object_schema(schema: Raw) -> bool:
    return bytes(schema).startswith(b"{") and members(schema, _BAD).get("type") == _OBJECT


def _fit_message(message: Raw, version: str) -> Raw:
    said = members(message, _BAD)
    content = said.get("content")
    block = _fit_block(content, version) if content is not None else None
    return message if block is content or block is None else Raw(m.join({**said, "content": block}))


def _fit_block(block: Raw, version: str) -> Raw:
    said = members(block, _BAD)
    kind = text(said.get("type"))
    if kind not in _UNHEARD.get(version, ()):
        return block
    told: dict[str, Any] = {"type": "text", "text": _in_words(kind, said)}
    return Raw(m.dumps({**told, **{name: said[name] for name in ("annotations", "_meta") if name in said}}))


def _in_words(kind: str | None, said: Members) -> str:
    mime = text(said.get("mimeType"))
    if kind == "audio":
        return f"[{mime or 'audio'}: this client's protocol version has no audio]"
    uri, name = text(said.get("uri")) or "", text(said.get("title")) or text(said.get("name"))
    return (f"{name}: {uri}" if name else uri) + (f" ({mime})" if mime else "")


def _each(array: Raw, change: Callable[[Raw], Raw]) -> Raw:
    """The array with every element changed; the same bytes when no element is."""
    before = items(array, _BAD)
    after = [change(element) for element in before]
    return array if all(one is other for one, other in zip(before, after, strict=True)) else _array(after)


def _array(elements: list[Raw]) -> Raw:
    return Raw(b"[" + b",".join(bytes(element) for element in elements) + b"]")
