"""What setup would write, all of it known before the first byte is: the router's file, a secret, the clients' files.

    answers + what is there -> Plan (configuration, changes with their diffs, secrets) -> make() -> what was done

The files are changed in one step of the clients' journal, so that one undo takes all of them back; secrets stay where they are.

Source: ux section 1b (steps 4, 6, 7) and 7; contract cli.setup.*.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

from mcpbridge.clients import changes, disk
from mcpbridge.clients.changes import Change, ClientFile
from mcpbridge.clients.entry import Entry, secrets_of
from mcpbridge.clients.faults import ClientFileError
from mcpbridge.clients.journal import Record, journal_of
from mcpbridge.clients.table import CLIENTS, Client, Layout
from mcpbridge.config.edit import with_keys
from mcpbridge.config.load import Loaded, load_router
from mcpbridge.config.problems import ConfigError, Place
from mcpbridge.config.router import RouterConfig
from mcpbridge.observe.redact import conceal, redact
from mcpbridge.secrets.stores import Store, fit, keep
from mcpbridge.setup.answers import Answers

GUIDES_FILE: Final = os.path.join(".config", "claude-cli", "mcp-router.yaml")
"""Where the guide's program had its configuration, below the home directory."""

ROUTER_FILE: Final = Client(
    "router", "mcpbridge router", "json", lambda _: (), remote={}, restart="start the programs that start mcpbridge again"
)
"""The router's own file, as the journal knows it."""

_HEADING: Final = "mcpbridge router. What each key means: mcpbridge config schema --for router"


@dataclass(frozen=True)
class Plan:
    """``config``: what the router would load. ``secrets``: name -> value, to be stored first. ``notes``: for people."""

    answers: Answers
    config: Loaded[RouterConfig]
    changes: tuple[Change, ...]
    secrets: Mapping[str, str] = field(repr=False)
    notes: tuple[str, ...] = ()

    @property
    def diffs(self) -> Iterator[str]:
        """The change of each file that is changed, without the secrets in it."""
        return (redact(change.diff()) for change in self.changes if change.is_needed)


@dataclass(frozen=True)
class Done:
    """What was stored and written."""

    store: str | None
    secrets: tuple[str, ...]
    records: tuple[Record, ...]
    restarts: tuple[str, ...]


def config_path(layout: Layout) -> str:
    """Where this person's router has its configuration."""
    if layout.system == "windows":
        return os.path.join(layout.from_variable("APPDATA", "AppData", "Roaming"), "mcpbridge", "router.yaml")
    return os.path.join(layout.from_variable("XDG_CONFIG_HOME", ".config"), "mcpbridge", "router.yaml")


def older_file(layout: Layout, path: str) -> str | None:
    """The file of the guide's program that ours begins with, when ours is not there yet."""
    found = layout.in_home(GUIDES_FILE)
    return found if os.path.isfile(found) and not os.path.exists(path) else None


def importable(layout: Layout, keys: Iterable[str] = CLIENTS) -> list[ClientFile]:
    """Files of clients that name servers other than us, in the user's scope."""
    files = changes.look_at_all(layout, [key for key in CLIENTS if key in set(keys)], ["user"])
    return [file for file in files if any(not is_ours(entry) for entry in file.entries.values())]


def is_ours(entry: Entry) -> bool:
    """Whether an entry starts mcpbridge: it must not run itself."""
    words = (entry.command, *entry.args[:1])
    return any(re.fullmatch(r"(?:mcpbridge|mcp-router)(?:\.exe|\.pyz)?", os.path.basename(word)) for word in words)


def plan(answers: Answers, layout: Layout, path: str, program: str, env: Mapping[str, str]) -> Plan:
    """Everything that would be done. ``path``: the router's file; ``program``: what clients start.

    Raises ConfigError for a file that is there and cannot be loaded, or would not be with the answers; ClientFileError.
    """
    older = older_file(layout, path)
    state = disk.read(path)
    text, source = readable(older or path) if older or state.data is not None else ("", path)
    servers, secrets, notes, moved = _imported(answers, layout)
    if older:
        notes.append(f"begins with {older}, which stays as it is")
    elif state.data is not None:
        notes.append("comments of the file that is there are not kept; its backup has them")
    values = _values(answers) | ({"mcpServers": servers} if servers else {})
    after = with_keys(text, source, values, _HEADING)
    loaded = proven(after, path, env)
    wanted = [Change(ROUTER_FILE, "user", path, state, after.encode(), "write")]
    wanted += _client_changes(answers, layout, program, moved)
    return Plan(answers, loaded, tuple(wanted), secrets, tuple(notes))


def make(found: Plan, layout: Layout) -> Done:
    """Store the secrets, read them back, then write the files. Raises SecretError and ClientFileError."""
    store: Store | None = None
    if found.secrets:
        store = fit("auto" if found.answers.keep == "none" else found.answers.keep)
        for name, value in found.secrets.items():
            keep(store, name, value)
    records = changes.make(found.changes, journal_of(layout))
    restarts = [change.client.restart for change in found.changes if change.is_needed and change.client is not ROUTER_FILE]
    return Done(store.title if store else None, tuple(found.secrets), tuple(records), tuple(dict.fromkeys(restarts)))


def readable(path: str) -> tuple[str, str]:
    """A file's text, and its path. Raises ClientFileError."""
    try:
        return (disk.read(path).data or b"").decode("utf-8-sig"), path
    except UnicodeDecodeError:
        raise ClientFileError("MCPB-CFG-PARSE", Place(path), "not UTF-8 text", "nothing was changed") from None


def _values(answers: Answers) -> dict[str, Any]:
    """The keys that the answers set; those of another way of signing in are taken out."""
    if not answers.gateway:
        return {"version": 1}
    is_stored = answers.is_bearer and not answers.token_env and not answers.token_file
    return {
        "version": 1,
        "gateway.url": answers.gateway,
        "gateway.auth.type": "bearer" if answers.sign_in == "bearer" else "none",
        "gateway.auth.token_secure_key": answers.token_name if is_stored else None,
        "gateway.auth.token_env": answers.token_env or None,
        "gateway.auth.token_file": answers.token_file or None,
        **{
            f"gateway.tls.{key}": value
            for key, value in (
                ("ca_file", answers.ca_file), ("client_cert", answers.client_cert), ("client_key", answers.client_key)
            )
            if value
        },
    }  # fmt: skip


def _imported(answers: Answers, layout: Layout) -> tuple[dict[str, Any], dict[str, str], list[str], dict[str, list[str]]]:
    """Servers in our form, secrets to be stored, notes, and per client the names that moved."""
    servers: dict[str, Any] = {}
    secrets: dict[str, str] = {}
    notes: list[str] = []
    moved: dict[str, list[str]] = {}
    if answers.is_bearer and answers.token:
        secrets[answers.token_name] = answers.token
    known: dict[str, Entry] = {}
    for file in importable(layout, answers.imports):
        for name, entry in file.entries.items():
            if is_ours(entry) or entry.disabled:
                continue
            if name in known and not known[name].says_the_same(entry):
                name = f"{name}-{file.client.key}"
            if name not in known:
                known[name] = entry
                servers[name] = _without_secrets(entry, name, secrets, notes, answers).as_config()
            moved.setdefault(file.client.key, []).append(entry.name)
        notes += [f"left where it is: {name} of {file.client.title}: {cause}" for name, cause in file.odd.items()]
    return servers, secrets, notes, moved


def _without_secrets(entry: Entry, name: str, secrets: dict[str, str], notes: list[str], answers: Answers) -> Entry:
    """The entry with references in place of the secrets in its variables and headers, where there is a store for them."""
    if answers.keep == "none":
        return entry
    for member, key, value in secrets_of(entry):
        if member not in ("env", "headers"):
            notes.append(f"{name}: {member} {key}".rstrip() + " looks like a secret; it is written as it is")
            continue
        scheme, _, bare = value.rpartition(" ")
        called = re.sub(r"[^A-Za-z0-9._-]", "-", f"{name}-{key}").lower()
        secrets[called] = bare
        conceal(bare)
        reference = f"{scheme} ${{secret:{called}}}".lstrip()
        if member == "env":
            entry = replace(entry, env={**entry.env, key: reference})
        else:
            entry = replace(entry, headers={**entry.headers, key: reference})
    return entry


def _client_changes(answers: Answers, layout: Layout, program: str, moved: Mapping[str, list[str]]) -> Iterator[Change]:
    """mcpbridge put into the clients' files; what moved behind it is taken out of those."""
    own = Entry(answers.server_name, "stdio", command=program, args=("router",))
    for key in answers.clients:
        client = CLIENTS[key]
        location = client.location(layout, answers.scope)
        if location is None:
            raise ClientFileError("MCPB-CFG-SHAPE", Place(client.title), f"has no file of scope {answers.scope}", "use another")
        change = changes.plan_add(client, location, [own], replace=True)
        if answers.scope == "user" and key in moved:
            gone = changes.without(change, location, moved[key])
            change = replace(gone, what=f"add {own.name}, move {', '.join(moved[key])} behind it")
        yield change


def proven(text: str, path: str, env: Mapping[str, str]) -> Loaded[RouterConfig]:
    """What the router makes of the text. Raises ConfigError with the places of the file as it would be."""
    import tempfile

    with tempfile.TemporaryDirectory(prefix="mcpbridge-setup-") as folder:
        trial = os.path.join(folder, "router.yaml")
        with open(os.open(trial, os.O_WRONLY | os.O_CREAT, 0o600), "w", encoding="utf-8") as file:
            file.write(text)
        clean = {name: value for name, value in env.items() if not name.startswith(("MCP_", "MCPBRIDGE_"))}
        try:
            return load_router(trial, clean)
        except ConfigError as error:
            there = [
                one._replace(place=one.place._replace(source=path)) if one.place.source == trial else one
                for one in error.problems
            ]
            raise ConfigError(there, error.exit_code) from None
