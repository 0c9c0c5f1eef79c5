"""What a legacy server asks, and what a modern client answers: translated, gated by capability, refused. Pure.

    server's request            inputRequests member                       inputResponses member     answer to the server
    elicitation/create  ----->  {"method": ..., "params": ...}   ----->   the result, checked  ----->  the same bytes
    sampling/createMessage, roots/list likewise; anything else a server asks is not a question a client could be given

Source: mcp-eras section 3 (questions of servers, elicitation url mode); schemas 2025-11-25 and 2026-07-28.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from msgspec import Raw

from mcpbridge.errors import BridgeError, to_wire
from mcpbridge.wire import message as m
from mcpbridge.wire.envelope import items, members, text
from mcpbridge.wire.message import Members, Request, Response
from mcpbridge.wire.spec import NEWEST_LEGACY

ASKED = {"elicitation/create": "elicitation", "sampling/createMessage": "sampling", "roots/list": "roots"}
"""Questions of a server -> the capability of the client that they need."""
_ACTIONS = ("accept", "decline", "cancel")
_URL_REQUIRED = Raw(b"-32042")
URL_NEEDED: dict[str, dict[str, dict[str, str]]] = {"elicitation": {"url": {}}}
MAX_ELICITATIONS = 100  # of one refusal with -32042


def legacy_capabilities(declared: Mapping[str, Raw]) -> dict[str, Raw]:
    """What a modern client declared, as a legacy ``initialize`` says it. Roots are pulled, so no change is ever announced.

    Extensions stay behind: they are agreed on per request, and a legacy server would take them for the session's.
    Raises BridgeError("invalid_params") for a capability that is no object.
    """
    kept: dict[str, Raw] = {}
    for name in (*sorted(set(ASKED.values())), "experimental"):
        if name in declared:
            said = members(declared[name])
            said.pop("listChanged", None)
            kept[name] = Raw(m.join(said))
    return kept


def may_be_asked(declared: Mapping[str, Raw]) -> bool:
    """Whether a client that declared this can be given any question."""
    return any(name in declared for name in ASKED.values())


def lacking(question: Request, declared: Mapping[str, Raw]) -> dict[str, Any] | None:
    """The capability that the client would need for this question and did not declare (``requiredCapabilities``), or None."""
    name = ASKED[question.method]
    said = members(declared[name]) if name in declared else None
    part = None
    if name == "elicitation":
        mode = text(question.param("mode")) or "form"
        is_form = mode == "form" and said is not None and ("form" in said or "url" not in said)  # {} means form
        part = None if is_form else mode
        if mode == "form" and said is None:
            return {name: {}}
    elif name == "sampling" and (question.param("tools") is not None or question.param("toolChoice") is not None):
        part = "tools"
    if said is None or (part is not None and part not in said):
        return {name: {} if part is None else {part: {}}}
    return None


def input_request(question: Request) -> Raw:
    """The question as a member of ``inputRequests``: without what belongs to the legacy session (id, task, progress)."""
    asked: dict[str, Any] = {"method": question.method}
    if question.params is not None:
        params = {name: raw for name, raw in question.params.items() if name not in ("task", "elicitationId", "_meta")}
        meta = {name: raw for name, raw in question.meta.items() if name != "progressToken"}
        if meta:
            params["_meta"] = Raw(m.join(meta))
        asked["params"] = Raw(m.join(params))
    return Raw(m.dumps(asked))


def check_answer(key: str, method: str, answer: Raw) -> None:
    """Whether an answer is one to this kind of question. Raises BridgeError("invalid_params") naming the member."""
    if not bytes(answer).startswith(b"{"):
        raise _wrong(key, "an object is expected")
    said = members(answer)
    if method == "elicitation/create":
        if text(said.get("action")) not in _ACTIONS:
            raise _wrong(key, f"action must be one of {', '.join(_ACTIONS)}")
        if "content" in said and not bytes(said["content"]).startswith((b"{", b"null")):
            raise _wrong(key, "content must be an object")
    elif method == "roots/list":
        if not bytes(said.get("roots") or b"").startswith(b"["):
            raise _wrong(key, "roots must be an array")
    elif text(said.get("role")) is None or text(said.get("model")) is None or "content" not in said:
        raise _wrong(key, "role, content and model are expected")


def answer_for(method: str, version: str, answer: Raw) -> Raw:
    """The answer as a server of this version knows it; a copy that pins no message of the client.

    Before 2025-11-25 a sampled message holds one block, not a list: a list of one is unpacked.
    """
    if method == "sampling/createMessage" and version != NEWEST_LEGACY:
        said = members(answer)
        if bytes(said["content"]).startswith(b"[") and len(blocks := items(said["content"])) == 1:
            return Raw(m.join({**said, "content": blocks[0]}))
    return Raw(bytes(answer))


def fits(question: Request, answer: Raw) -> bool:
    """Whether an answer that came before its question answers this form: everything required, nothing that was not asked."""
    if question.method != "elicitation/create" or (text(question.param("mode")) or "form") != "form":
        return False
    try:
        check_answer("", question.method, answer)
        said = members(answer)
        schema = members(question.param("requestedSchema"), "bad_answer")
        required = [text(name) for name in items(schema.get("required"), "bad_answer")]
        asked = members(schema.get("properties"), "bad_answer")
        given = members(said.get("content"))
    except BridgeError:
        return False
    return text(said["action"]) == "accept" and bool(required) and set(required) <= given.keys() <= asked.keys()


def refused(question: Request | None, method: str, error: BridgeError | None) -> Response:
    """What a server hears whose question is not answered: a form is cancelled, the rest fails. ``error`` None: not declared."""
    id = question.id if question is not None else None
    if method == "elicitation/create":
        return m.result(id, {"action": "cancel"})
    if error is not None:
        return m.error(id, to_wire(error))
    return m.error(id, {"code": -32601, "message": f"Method not found: {method}: the client did not declare this capability"})


def url_elicitations(response: Response) -> list[Raw] | None:
    """The questions inside a server's refusal with -32042 (2025-11-25), as ``inputRequests`` members; None for other answers.

    Raises BridgeError("bad_answer") when it cannot be read.
    """
    if response.error is None:
        return None
    error = members(response.error, "bad_answer")
    if error.get("code") != _URL_REQUIRED:
        return None
    data = members(error.get("data"), "bad_answer")
    found = [members(item, "bad_answer") for item in items(data.get("elicitations"), "bad_answer")[:MAX_ELICITATIONS]]
    if not found:
        raise BridgeError("bad_answer", "-32042 without elicitations")
    return [input_request(Request(0, "elicitation/create", {**one, "mode": Raw(b'"url"')}, _meta(one))) for one in found]


def capability_digest(capabilities: Mapping[str, Raw]) -> str:
    """One text per capability set, whatever the order and the spaces."""
    plain = {name: json.loads(bytes(raw)) for name, raw in capabilities.items()}
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()[:16]


def _meta(params: Members) -> Members:
    return members(params["_meta"], "bad_answer") if "_meta" in params else {}


def _wrong(key: str, why: str) -> BridgeError:
    return BridgeError("invalid_params", f"inputResponses.{key}: {why}", sent=False)
