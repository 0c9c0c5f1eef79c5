"""How a client writes one server: its object to the neutral ``Entry`` and back.

Reading is generous (older forms, other clients' keys), writing has one form. Keys that are not about reaching the server are
the person's own: ``merged`` keeps them.

Source: ux section 7; ``mcpbridge.clients.table``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from mcpbridge.clients.entry import Entry, Inexpressible, Source, Transport, from_ours, to_ours
from mcpbridge.clients.table import Client

_STREAMING: dict[str, Transport] = {
    **dict.fromkeys(("http", "streamable-http", "streamablehttp", "streamable_http", "streamableHttp"), "http"),
    "sse": "sse",
}
OURS = frozenset((
    "type", "transport", "command", "args", "env", "cwd", "url", "serverUrl", "httpUrl", "headers",
    "http_headers", "env_http_headers", "bearer_token_env_var", "env_vars",
))  # fmt: skip
"""Keys that say how a server is reached: an entry that is written anew has only its own of these."""


def read(client: Client, name: str, plain: Any, source: Source) -> Entry:
    """The entry that a client's object means, with variables in our form. Raises Inexpressible with the cause."""
    if not isinstance(plain, Mapping):
        raise Inexpressible("is no object")
    command = plain.get("command", "")
    if isinstance(command, Mapping):  # Zed's older form
        plain = {**plain, "command": command.get("path", ""), "args": command.get("args", []), "env": command.get("env") or {}}
        command = plain["command"]
    url, transport = _address(client, plain)
    if bool(command) == bool(url):
        raise Inexpressible("has both a command and an address" if url else "has neither a command nor an address")
    if url and transport is None:
        raise Inexpressible(
            f"has the transport {str(plain.get('type', plain.get('transport')))[:40]}, which is none of http, sse"
        )
    disabled = plain.get("disabled") is True or plain.get("enabled") is False
    if command:
        entry = Entry(
            name, "stdio", _text(plain, "command"), _texts(plain, "args"), _map(plain, "env"), _text(plain, "cwd"),
            disabled=disabled, source=source,
        )  # fmt: skip
    else:
        headers = {**_map(plain, "headers"), **_map(plain, "http_headers")}
        entry = Entry(name, transport or "http", url=url, headers=headers, disabled=disabled, source=source)
    entry = entry.translated(lambda text: to_ours(text, client.dialect))
    return _with_references(entry, plain)


def _address(client: Client, plain: Mapping[str, Any]) -> tuple[str, Transport | None]:
    """The address and its transport: as told, else as the key means to this client."""
    for key in ("httpUrl", "serverUrl", "url"):
        if key in plain:
            told = plain.get("type", plain.get("transport"))
            if told is not None:
                return _text(plain, key), _STREAMING.get(str(told))
            meant: list[Transport] = [name for name, own in client.remote.items() if own == key]
            return _text(plain, key), meant[0] if meant else "http"
    return "", "http"


def _with_references(entry: Entry, plain: Mapping[str, Any]) -> Entry:
    """Codex names variables beside the values: they become references."""
    if entry.transport == "stdio":
        extra = {name: f"${{{name}}}" for name in _texts(plain, "env_vars")}
        return replace(entry, env={**entry.env, **extra}) if extra else entry
    headers = dict(entry.headers)
    headers.update({header: f"${{{variable}}}" for header, variable in _map(plain, "env_http_headers").items()})
    if "bearer_token_env_var" in plain:
        headers["Authorization"] = f"Bearer ${{{_text(plain, 'bearer_token_env_var')}}}"
    return replace(entry, headers=headers)


def write(client: Client, entry: Entry) -> dict[str, Any]:
    """The object that a client reads, of an entry with variables in our form. Raises Inexpressible with the cause."""
    made: dict[str, Any] = {}
    if client.types is not None:
        made["type"] = client.types[entry.transport]
    if entry.transport == "stdio":
        if entry.cwd and not client.has_cwd:
            raise Inexpressible(f"{client.title} has no cwd for a server")
        passed, entry = _passed(client, entry)
        entry = entry.translated(lambda text: from_ours(text, client.dialect))
        made |= {"command": entry.command, "args": list(entry.args)}
        if entry.env:
            made["env"] = dict(entry.env)
        if passed:
            made["env_vars"] = passed
        if entry.cwd:
            made["cwd"] = entry.cwd
        return made
    key = client.remote.get(entry.transport)
    if key is None:
        can = "commands only" if not client.remote else f"{' and '.join(client.remote)} addresses, not {entry.transport}"
        raise Inexpressible(f"the file of {client.title} has {can}")
    if client.format == "toml":
        return {**made, **_codex_remote(client, entry)}
    entry = entry.translated(lambda text: from_ours(text, client.dialect))
    made[key] = entry.url
    if entry.headers:
        made[client.headers] = dict(entry.headers)
    return made


def _passed(client: Client, entry: Entry) -> tuple[list[str], Entry]:
    """Codex passes a variable on under its own name only: those are listed, the rest stays."""
    if client.format != "toml":
        return [], entry
    passed = [name for name, value in entry.env.items() if value == f"${{{name}}}"]
    rest = {name: value for name, value in entry.env.items() if name not in passed}
    return passed, replace(entry, env=rest)


def _codex_remote(client: Client, entry: Entry) -> dict[str, Any]:
    """Codex refuses a token in its file: the bearer's variable is named, other headers by value or by variable."""
    made: dict[str, Any] = {"url": from_ours(entry.url, client.dialect)}
    plain: dict[str, str] = {}
    named: dict[str, str] = {}
    for header, value in entry.headers.items():
        scheme, _, rest = value.partition(" ")
        if header.lower() == "authorization" and scheme.lower() == "bearer" and _variable(rest):
            made["bearer_token_env_var"] = _variable(rest)
        elif _variable(value):
            named[header] = _variable(value)
        else:
            plain[header] = from_ours(value, client.dialect)
    if plain:
        made["http_headers"] = plain
    if named:
        made["env_http_headers"] = named
    return made


def _variable(text: str) -> str:
    """``NAME`` for ``${NAME}``, else ""."""
    inner = text[2:-1] if text.startswith("${") and text.endswith("}") else ""
    return inner if inner.isidentifier() and inner.isascii() else ""


def merged(old: Any, new: Mapping[str, Any]) -> dict[str, Any]:
    """The new object with what the person added to the old one; a server that was switched off is on again."""
    if not isinstance(old, Mapping):
        return dict(new)
    off = {("disabled", True), ("enabled", False)}
    kept = {
        key: value for key, value in old.items() if key not in OURS and not (isinstance(value, bool) and (key, value) in off)
    }
    order = [key for key in old if key in new or key in kept]
    return {key: new[key] if key in new else kept[key] for key in [*order, *(key for key in new if key not in order)]}


# -- members, with their kind checked


def _text(plain: Mapping[str, Any], key: str) -> str:
    value = plain.get(key, "")
    if value is None:
        return ""
    if not isinstance(value, str) or "\0" in value:
        raise Inexpressible(f"{key} is no text")
    return value


def _texts(plain: Mapping[str, Any], key: str) -> tuple[str, ...]:
    value = plain.get(key) or []
    if not isinstance(value, list) or not all(isinstance(item, (str, int, float)) for item in value):
        raise Inexpressible(f"{key} is no list of texts")
    return tuple(item if isinstance(item, str) else str(item) for item in value)


def _map(plain: Mapping[str, Any], key: str) -> dict[str, str]:
    value = plain.get(key) or {}
    if not isinstance(value, Mapping) or not all(isinstance(item, (str, int, float)) for item in value.values()):
        raise Inexpressible(f"{key} is no map of texts")
    return {str(name): item if isinstance(item, str) else _spoken(item) for name, item in value.items()}


def _spoken(value: Any) -> str:
    return ("true" if value else "false") if isinstance(value, bool) else str(value)
