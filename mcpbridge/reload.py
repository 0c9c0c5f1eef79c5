"""Hot reload of a gateway: the configuration is read anew, checked as a whole, and what can change under clients changes.

    SIGHUP    POST /api/v1/reload    a changed file    ->  load  ->  check  ->  apply  ->  Report
    anything wrong                                     ->  nothing changes; log, status and metric say so with file:line

What only a start can change stays as it is and is named, until the restart.

Source: contract ``config.reload``, http.gateway.reload; reliability section 3, rows 20 and 21.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from mcpbridge.admin.app import Action, Asked
from mcpbridge.config.changes import changed_keys, is_live
from mcpbridge.config.gateway import GatewayConfig, start_problems
from mcpbridge.config.load import Loaded
from mcpbridge.config.problems import ConfigError, Place, Problem
from mcpbridge.file_watch import FileWatch
from mcpbridge.observe.log import log
from mcpbridge.observe.metrics import Registry
from mcpbridge.observe.snapshot import ConfigStatus, Event, timestamp
from mcpbridge.wiring import Changes

_METRIC = "mcp_gateway_config_last_reload_successful"
_log = log("config")
Load = Callable[[], Loaded[GatewayConfig]]
"""Reads and checks the configuration as the start did. Raises ConfigError."""
Apply = Callable[[Loaded[GatewayConfig]], Changes]
"""Makes a configuration count. Raises ConfigError; nothing has changed then."""


class Report(NamedTuple):
    """How a reload went. ``needs_restart``: keys whose new values count after the next start."""

    reloaded: bool
    errors: Sequence[Problem] = ()
    changed: Sequence[str] = ()
    needs_restart: Sequence[str] = ()
    servers: Changes = Changes()

    def as_json(self) -> dict[str, Any]:
        """Source: contract http.gateway.reload."""
        return {
            "reloaded": self.reloaded,
            "errors": [problem.as_json() for problem in self.errors],
            "changed": list(self.changed),
            "needs_restart": list(self.needs_restart),
            "servers": {verb: list(names) for verb, names in self.servers._asdict().items()},
        }


class Reload:
    """The configuration that counts: ``loaded``. ``tell`` gets an event per reload."""

    def __init__(
        self, loaded: Loaded[GatewayConfig], load: Load, apply: Apply, registry: Registry, tell: Callable[[Event], None]
    ) -> None:
        self.loaded = loaded
        self._started = loaded
        self._load = load
        self._apply = apply
        self._registry = registry
        self._tell = tell
        self._loaded_at = time.time()
        self._last_ok: bool | None = None
        self._turn = asyncio.Lock()
        self._asked = asyncio.Event()
        self._why = ""
        registry.set(_METRIC, 1.0)

    def request(self, why: str) -> None:
        """Reload soon; safe in a signal handler of the loop. ``why``: for people."""
        self._why = why
        self._asked.set()

    async def follow(self) -> None:
        """Reload whenever it is requested, for ever, or a file of the configuration is another."""
        watching = asyncio.ensure_future(FileWatch(self._files).follow(lambda: self.request("a file has changed")))
        try:
            while True:
                await self._asked.wait()
                self._asked.clear()
                await self.now(self._why)
        finally:
            watching.cancel()

    async def now(self, why: str) -> Report:
        """Reload, one after the other. Never raises ConfigError."""
        async with self._turn:
            try:
                loaded = await asyncio.to_thread(self._read)
                changed = changed_keys(self.loaded.config, loaded.config)
                servers = self._apply(loaded)
            except ConfigError as error:
                return self._refused(error, why)
            self.loaded = loaded
            self._loaded_at = time.time()
            waiting = [key for key in changed_keys(self._started.config, loaded.config) if not is_live(key)]
            report = Report(True, (), [key for key in changed if is_live(key)], waiting, servers)
            self._done(report, why)
            return report

    def status(self) -> ConfigStatus:
        """Its part of the picture."""
        return ConfigStatus(self.loaded.path, timestamp(self._loaded_at), self._last_ok)

    def actions(self) -> Mapping[str, Action]:
        """Paths below the API's prefix and what a POST there does."""
        return {"/reload": self._asked_for}

    async def _asked_for(self, asked: Asked) -> Any:
        return (await self.now(f"asked for by {asked.by}")).as_json()

    def _read(self) -> Loaded[GatewayConfig]:
        path = self.loaded.path
        if path is not None and os.path.exists(path) and not os.path.isfile(path):  # a pipe would be waited for
            raise ConfigError([Problem(Place(path), "no regular file, so it cannot be read again", "restart to read it anew")])
        loaded = self._load()
        if problems := start_problems(loaded.config, loaded.places):
            raise ConfigError(problems)
        return loaded

    def _files(self) -> list[str]:
        tls = self.loaded.config.server.tls
        certificates = [tls.cert_file, tls.key_file] if tls.enabled else []
        return [path for path in (self.loaded.path, *certificates) if path]

    def _refused(self, error: ConfigError, why: str) -> Report:
        for problem in error.problems:
            _log.error(f"configuration not reloaded, the old one stays: {problem}", event="reload", reason=why)
        self._note(False, "warn", f"configuration not reloaded, the old one stays: {error.problems[0]}")
        return Report(False, error.problems)

    def _done(self, report: Report, why: str) -> None:
        for warning in self.loaded.warnings:
            _log.warn(str(warning))
        servers = report.servers._asdict()
        _log.info("configuration reloaded", event="reload", reason=why, keys=list(report.changed), **servers)
        if report.needs_restart:
            keys = ", ".join(report.needs_restart)
            _log.warn(f"these keys have new values, which count after a restart: {keys}", event="reload")
        self._note(True, "info", f"configuration reloaded: {', '.join(report.changed) or 'nothing changed'}")

    def _note(self, ok: bool, level: str, said: str) -> None:
        self._last_ok = ok
        self._registry.set(_METRIC, float(ok))
        self._tell(Event(timestamp(time.time()), level, "reload", said, None, None))
