"""The table of MCP clients: where each one keeps its servers, and how it writes them. What is new about a client is a new row.

The formats move; ``CHECKED`` says when these rows were last compared with the clients' own documentation.

Source: ux section 7; the clients' documentation at that date.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from mcpbridge.clients.entry import Dialect, Transport

CHECKED: Final = "2026-11-26"

System = Literal["linux", "macos", "windows"]
Scope = Literal["user", "project", "local"]
"""``user``: everywhere; ``project``: a file in the project, which others may share; ``local``: one person in one project."""
SCOPES: Final[tuple[Scope, ...]] = ("user", "project", "local")


@dataclass(frozen=True)
class Layout:
    """A person's place on a machine: where files are is a function of this and nothing else. Paths are absolute."""

    system: System
    home: str
    env: Mapping[str, str]
    cwd: str

    def in_home(self, *parts: str) -> str:
        """A path below the home directory."""
        return os.path.join(self.home, *parts)

    def from_variable(self, name: str, *otherwise: str) -> str:
        """The directory a variable names, if it is an absolute one; else the one below the home directory."""
        value = self.env.get(name, "")
        return value if os.path.isabs(value) else self.in_home(*otherwise)

    def in_app_data(self, *parts: str) -> str:
        """A path below the directory where desktop programs of this system keep their settings."""
        if self.system == "macos":
            return self.in_home("Library", "Application Support", *parts)
        if self.system == "windows":
            return os.path.join(self.from_variable("APPDATA", "AppData", "Roaming"), *parts)
        return os.path.join(self.from_variable("XDG_CONFIG_HOME", ".config"), *parts)


@dataclass(frozen=True)
class Location:
    """A file of a client. ``paths`` are alternatives: the first whose directory exists, else the last."""

    scope: Scope
    paths: tuple[str, ...]
    servers: tuple[str, ...]
    """The names of members that lead to the map of servers."""

    def path(self) -> str:
        """The file that counts on this machine."""
        return next((path for path in self.paths[:-1] if os.path.isdir(os.path.dirname(path))), self.paths[-1])


@dataclass(frozen=True)
class Client:
    """One row. ``remote`` has the key of an address for each transport the file can name; none: a command only."""

    key: str
    title: str
    format: Literal["json", "jsonc", "toml"]
    locations: Callable[[Layout], Sequence[Location]]
    remote: Mapping[Transport, str]
    restart: str
    """What makes the program read its file again."""
    types: Mapping[Transport, str] | None = None
    """What stands under ``type``; None: nothing does."""
    dialect: Dialect = "none"
    headers: str = "headers"
    has_cwd: bool = False

    def location(self, layout: Layout, scope: Scope) -> Location | None:
        """The file of one scope, None when this client has none."""
        return next((found for found in self.locations(layout) if found.scope == scope), None)


_TYPES: Final[dict[Transport, str]] = {"stdio": "stdio", "http": "http", "sse": "sse"}
_BY_URL: Final[dict[Transport, str]] = {"http": "url", "sse": "url"}


def _servers(name: str, user: Callable[[Layout], tuple[str, ...]], *project: str) -> Callable[[Layout], list[Location]]:
    """Locations of a client with one map name, in the user's and in the project's file."""

    def locations(layout: Layout) -> list[Location]:
        found = [Location("user", user(layout), (name,))]
        if project:
            found.append(Location("project", (os.path.join(layout.cwd, *project),), (name,)))
        return found

    return locations


def _claude_desktop(layout: Layout) -> tuple[str, ...]:
    usual = layout.in_app_data("Claude", "claude_desktop_config.json")
    if layout.system != "windows":
        return (usual,)
    # From the Store it runs in a package, whose view of %APPDATA% is elsewhere.
    local = layout.from_variable("LOCALAPPDATA", "AppData", "Local")
    package = os.path.join(local, "Packages", "Claude_pzs8sxrjxfjjc", "LocalCache", "Roaming", "Claude")
    return os.path.join(package, "claude_desktop_config.json"), usual


def _claude_code(layout: Layout) -> list[Location]:
    mine = (os.path.join(layout.from_variable("CLAUDE_CONFIG_DIR"), ".claude.json"),)
    return [
        Location("user", mine, ("mcpServers",)),
        Location("project", (os.path.join(layout.cwd, ".mcp.json"),), ("mcpServers",)),
        Location("local", mine, ("projects", layout.cwd, "mcpServers")),
    ]


def _zed(layout: Layout) -> tuple[str, ...]:
    if layout.system == "windows":
        return (layout.in_app_data("Zed", "settings.json"),)
    base = layout.in_home(".config") if layout.system == "macos" else layout.from_variable("XDG_CONFIG_HOME", ".config")
    return (os.path.join(base, "zed", "settings.json"),)


CLIENTS: Final[dict[str, Client]] = {
    client.key: client
    for client in (
        Client(
            "claude-desktop", "Claude Desktop", "json",
            _servers("mcpServers", _claude_desktop),
            remote={},
            restart="quit Claude Desktop completely and start it again",
        ),
        Client(
            "claude-code", "Claude Code", "json", _claude_code,
            remote=_BY_URL, types=_TYPES, dialect="shell",
            restart="start a new session; /mcp shows the servers",
        ),
        Client(
            "cursor", "Cursor", "jsonc",
            _servers("mcpServers", lambda layout: (layout.in_home(".cursor", "mcp.json"),), ".cursor", "mcp.json"),
            remote=_BY_URL, dialect="env",
            restart="Cursor reads the file again by itself",
        ),
        Client(
            "vscode", "VS Code", "jsonc",
            _servers("servers", lambda layout: (layout.in_app_data("Code", "User", "mcp.json"),), ".vscode", "mcp.json"),
            remote=_BY_URL, types=_TYPES, dialect="env", has_cwd=True,
            restart="start the server in VS Code: MCP: List Servers",
        ),
        Client(
            "windsurf", "Windsurf", "jsonc",
            _servers("mcpServers", lambda layout: (layout.in_home(".codeium", "windsurf", "mcp_config.json"),)),
            remote={"http": "serverUrl", "sse": "serverUrl"}, dialect="env",
            restart="press refresh in Windsurf's list of MCP servers",
        ),
        Client(
            "zed", "Zed", "jsonc",
            _servers("context_servers", _zed, ".zed", "settings.json"),
            remote={"http": "url"},
            restart="Zed reads the file again by itself",
        ),
        Client(
            "codex", "Codex", "toml",
            _servers("mcp_servers", lambda layout: (os.path.join(layout.from_variable("CODEX_HOME", ".codex"), "config.toml"),),
                     ".codex", "config.toml"),
            remote={"http": "url"}, headers="http_headers", has_cwd=True,
            restart="start a new Codex session; /mcp shows the servers",
        ),
        Client(
            "gemini", "Gemini CLI", "jsonc",
            _servers("mcpServers", lambda layout: (layout.in_home(".gemini", "settings.json"),), ".gemini", "settings.json"),
            remote={"http": "httpUrl", "sse": "url"}, dialect="dollar", has_cwd=True,
            restart="start Gemini CLI again; /mcp shows the servers",
        ),
    )
}  # fmt: skip
