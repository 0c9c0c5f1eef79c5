"""What servers ask, and what clients of the other era answer: translated, gated by capability, refused. Pure.

    legacy server's request     inputRequests member                       inputResponses member     answer to the server
    elicitation/create  ----->  {"method": ..., "params": ...}   ----->   the result, checked  ----->  the same bytes
    sampling/createMessage, roots/list likewise; anything else a server asks is not a question a client could be given

    modern server's inputRequests member       request to a legacy client     its result      inputResponses member
    {"method": ..., "params": ...}     ----->  as its version knows it  ----->  any object  ----->  the same bytes

Source: mcp-eras section 3 (questions of servers, elicitation url mode); schemas 2025-11-25 and 2026-07-28.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from msgspec import Raw

from mcpbridge.era.revisions import fit_form, fit_messages
from mcpbridge.errors import BridgeError, to_wire
from mcpbridge.wire import message as m
from mcpbridge.wire.envelope import items, members, text
from mcpbridge.wire.message import Members, Request, Response
from mcpbridge.wire.spec import NEWEST_LEGACY

ASKED = {"elicitation/create": "elicitation", "sampling/createMessage": "sampling", "roots/list": "roots"}
"""Questions of a server -> the capability of the client that they need."""
_ACTIONS = ("accept", "decline", "cancel")
_WITHOUT_ELICITATION = ("2024-11-05", "2025-03-26")
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


def modern_capabilities(declared: Mapping[str, Raw], version: str) -> dict[str, Raw]:
    """What a legacy client of this version declared, as each of its modern requests says it: never more than both mean.

    Extensions and tasks stay behind: those of the other era are others. What is no object declares nothing.
    """
    objects = {name: raw for name, raw in declared.items() if bytes(raw).startswith(b"{")}
    kept = legacy_capabilities(objects)
    if version != NEWEST_LEGACY:  # parts of a capability came with that version
        kept |= {name: Raw(b"{}") for name in ("sampling", "elicitation") if name in kept}
    if version in _WITHOUT_ELICITATION:
        kept.pop("elicitation", None)
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


def legacy_question(asked: Raw, version: str, elicitation_id: str) -> Request:
    """A member of a modern server's ``inputRequests`` as the request that a client of this version knows.

    ``elicitation_id`` names a page to visit (mode url), which only a legacy client needs. Raises BridgeError("bad_answer").
    """
    said = members(asked, "bad_answer")
    method = text(said.get("method"))
    if method not in ASKED:
        raise BridgeError("bad_answer", f"the server asks {str(method)[:64]!r}, which is no question to a client")
    if "params" not in said:
        return Request(0, method)
    params = members(said["params"], "bad_answer")
    meta = {name: raw for name, raw in _meta(params).items() if name != "progressToken"}  # there is no way up for progress
    if method == "sampling/createMessage" and "messages" in params:
        params["messages"] = fit_messages(params["messages"], version)
    elif method == "elicitation/create" and text(params.get("mode")) == "url":
        params["elicitationId"] = Raw(m.dumps(elicitation_id))
    elif method == "elicitation/create":
        if version != NEWEST_LEGACY:
            params.pop("mode", None)
        if "requestedSchema" in params:
            params["requestedSchema"] = fit_form(params["requestedSchema"], version)
    return Request(0, method, params).with_meta(meta)


def modern_answer(question: Request, answer: Response) -> Raw | None:
    """A legacy client's answer as a member of ``inputResponses``; None for an error that ends the call.

    Who cannot show a form has cancelled it. Raises BridgeError("invalid_params") for a result that is no object.
    """
    if answer.result is None:
        return Raw(b'{"action":"cancel"}') if question.method == "elicitation/create" else None
    if not bytes(answer.result).startswith(b"{"):
        raise BridgeError("invalid_params", f"the client answered {question.method} with something that is no object")
    return Raw(bytes(answer.result))


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
