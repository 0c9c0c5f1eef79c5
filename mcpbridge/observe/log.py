"""Log lines on stderr: one JSON object per line, or text for people; secrets masked, control characters escaped, never raising.

Every line has ``time level message component protocol``; ``protocol`` is one of the five names or ``none``. A reader that stops
reading our stderr must not stop the bridge: a pipe without room drops lines and the next line that fits says how many.

Source: contract section 6.1.
"""

from __future__ import annotations

import json
import os
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from typing import IO, Any, Final, Literal

from mcpbridge.observe.redact import MAX_FIELD_BYTES, clean, cut, safe

Level = Literal["trace", "debug", "info", "warn", "error"]
Format = Literal["json", "text"]

LEVELS: Final[dict[str, int]] = {"trace": 5, "debug": 10, "info": 20, "warn": 30, "error": 40}
MAX_FIELDS: Final = 40

_encode = json.JSONEncoder(ensure_ascii=False, default=str).encode
_PIPE_ROOM = 4096  # POSIX: a pipe that polls writable takes this much without blocking
_COLOURS = {"trace": "2", "debug": "2", "info": "32", "warn": "33", "error": "31"}


class _Output:
    """Where lines go. One per process, on purpose: stderr is one per process too."""

    def __init__(self) -> None:
        self.threshold = LEVELS["info"]
        self.format: Format = "json"
        self.stream: IO[str] | None = None  # None: whatever sys.stderr is when the line is written
        self.colour = False
        self.copy: Callable[[str], None] | None = None  # gets every line as JSON too
        self.dropped = 0
        self.torn = False
        self.stamp: tuple[int, str] = (-1, "")


_out = _Output()


class Logger:
    """Writes lines of one component. Cheap to make; get one with ``log("component")``."""

    __slots__ = ("component",)

    def __init__(self, component: str) -> None:
        self.component = component

    def enabled(self, level: Level) -> bool:
        """Whether a line of this level would be written: ask before computing costly fields."""
        return LEVELS[level] >= _out.threshold

    def trace(self, message: str, *, event: str | None = None, protocol: str = "none", **fields: Any) -> None:
        """One line per message and hop: direction, method, id, bytes; never bodies."""
        if _out.threshold <= 5:
            _write("trace", self.component, message, event, protocol, fields)

    def debug(self, message: str, *, event: str | None = None, protocol: str = "none", **fields: Any) -> None:
        """Details for somebody who looks for a fault."""
        if _out.threshold <= 10:
            _write("debug", self.component, message, event, protocol, fields)

    def info(self, message: str, *, event: str | None = None, protocol: str = "none", **fields: Any) -> None:
        """What an operator wants to see on a normal day."""
        if _out.threshold <= 20:
            _write("info", self.component, message, event, protocol, fields)

    def warn(self, message: str, *, event: str | None = None, protocol: str = "none", **fields: Any) -> None:
        """Works, but somebody should look; also every insecure or obsolete setting."""
        if _out.threshold <= 30:
            _write("warn", self.component, message, event, protocol, fields)

    def error(
        self, message: str, *, event: str | None = None, protocol: str = "none", exc: BaseException | None = None, **fields: Any
    ) -> None:
        """Something failed. ``exc`` adds its traceback as the field ``traceback``."""
        if exc is not None:
            fields["traceback"] = "".join(traceback.format_exception(exc))
        _write("error", self.component, message, event, protocol, fields)


def log(component: str) -> Logger:
    """The logger of a component (``direct_clients``, ``protocol``, ``gateway`` ...)."""
    return Logger(component)


def configure(
    level: str = "info", format: str = "json", stream: IO[str] | None = None, *, copy: Callable[[str], None] | None = None
) -> None:
    """Set level and format for the process and catch what others print: stdlib ``logging`` from WARNING (from DEBUG at level
    ``trace``), Python warnings and uncaught exceptions all become lines of ours.

    ``stream`` None means the current ``sys.stderr``; ``copy`` gets every line as JSON, without its end, and never raises.
    Raises KeyError for an unknown level.
    """
    _out.threshold = LEVELS["warn" if level == "warning" else level]
    _out.format = "text" if format == "text" else "json"
    _out.stream = stream
    target = sys.stderr if stream is None else stream
    _out.colour = _out.format == "text" and target is not None and shows_colour(target)
    _out.copy = copy
    _catch_others(level)


def shows_colour(stream: IO[str]) -> bool:
    """Whether it is a terminal that shows colours, and nobody asked for none (https://no-color.org)."""
    return not os.environ.get("NO_COLOR") and os.environ.get("TERM", "") not in ("", "dumb") and _is_terminal(stream)


def _write(level: Level, component: str, message: str, event: str | None, protocol: str, fields: dict[str, Any]) -> None:
    try:
        record = _record(level, component, message, event, protocol, fields)
        line = as_text(record, colour=_out.colour) if _out.format == "text" else _encode(record)
        if _out.copy is not None:
            _out.copy(line if _out.format == "json" else _encode(record))
        if _out.dropped:
            dropped, _out.dropped = _out.dropped, 0
            said = f"{dropped} log lines dropped: stderr was not read"
            note = _record("warn", "log", said, None, "none", {"dropped": dropped})
            if not _emit(as_text(note, colour=_out.colour) if _out.format == "text" else _encode(note)):
                _out.dropped = dropped
        if not _emit(line):
            _out.dropped += 1
    except Exception:  # noqa: BLE001 - a log line must never break what it reports; stderr may be closed or its reader gone
        _out.dropped += 1


def _record(
    level: str, component: str, message: str, event: str | None, protocol: str, fields: dict[str, Any]
) -> dict[str, Any]:
    record: dict[str, Any] = {
        "time": _now(),
        "level": level,
        "message": safe("message", message) or "(no message)",
        "component": component,
        "protocol": protocol,
    }
    if event is not None:
        record["event"] = event
    for key, value in list(fields.items())[:MAX_FIELDS]:
        if not key.isidentifier():
            key = cut(clean(key))
        if key in record:
            key += "_"
        kept = safe(key, value)
        if isinstance(kept, (dict, list)):
            text = _encode(kept)
            if len(text) * 4 > MAX_FIELD_BYTES and len(text.encode()) > MAX_FIELD_BYTES:
                kept = cut(text)
        record[key] = kept
    return record


def as_text(record: Mapping[str, Any], *, colour: bool) -> str:
    """``2026-11-23T10:00:00.000Z WARN  gateway: message  key=value``; a traceback follows on lines of its own, indented."""
    level = str(record.get("level"))
    head = level.upper().ljust(5)
    if colour:
        head = f"\x1b[{_COLOURS.get(level, '0')}m{head}\x1b[0m"
    line = f"{record.get('time')} {head} {record.get('component')}: {record.get('message')}"
    for key, value in record.items():
        if key in ("time", "level", "component", "message", "traceback") or (key == "protocol" and value == "none"):
            continue
        text = value if isinstance(value, str) else _encode(value)
        line += f"  {key}={json.dumps(text, ensure_ascii=False)}" if " " in text or not text else f"  {key}={text}"
    if "traceback" in record:
        line += "".join(f"\n    {part}" for part in str(record["traceback"]).rstrip("\n").split("\n"))
    return line


def _now() -> str:
    """RFC 3339 UTC with milliseconds; the seconds part is cached."""
    now = time.time()
    second = int(now)
    if _out.stamp[0] != second:
        _out.stamp = (second, time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second)))
    return f"{_out.stamp[1]}.{int((now - second) * 1000):03d}Z"


def _emit(line: str) -> bool:
    """Write one line; False when the reader has no room for it and waiting would stop the bridge."""
    stream = sys.stderr if _out.stream is None else _out.stream
    if stream is None:  # pythonw and closed descriptors
        return False
    fd = _pipe_of(stream)
    if fd is None:
        stream.write(line + "\n")
        stream.flush()
        return True
    data = (("\n" if _out.torn else "") + line + "\n").encode("utf-8", "backslashreplace")
    start = 0
    while start < len(data):
        if not _has_room(fd, 0 if start == 0 else 100):
            _out.torn = _out.torn or start > 0
            return False
        start += os.write(fd, data[start : start + _PIPE_ROOM])
        _out.torn = start < len(data)
    return True


def _pipe_of(stream: IO[str]) -> int | None:
    """The descriptor when it can be polled and written directly (POSIX), else None."""
    if os.name != "posix":
        return None
    try:
        stream.flush()
        return stream.fileno()
    except (OSError, ValueError, AttributeError):
        if getattr(stream, "closed", False):
            raise
        return None


def _has_room(fd: int, wait_ms: int) -> bool:
    import select

    poll = select.poll()
    poll.register(fd, select.POLLOUT)
    return any(state & select.POLLOUT for _, state in poll.poll(wait_ms))


def _is_terminal(stream: IO[str]) -> bool:
    try:
        return stream.isatty()
    except (ValueError, AttributeError):
        return False


def _catch_others(level: str) -> None:
    """Route stdlib logging, warnings and uncaught exceptions here, so that every stderr line has one shape."""
    import logging
    import threading
    import warnings

    class Route(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            name: Level = "error" if record.levelno >= 40 else "warn" if record.levelno >= 30 else "info"
            if record.levelno < 20:
                name = "debug"
            if LEVELS[name] < _out.threshold:
                return
            fields: dict[str, Any] = {"logger": record.name}
            if record.exc_info and record.exc_info[1] is not None:
                fields["traceback"] = "".join(traceback.format_exception(record.exc_info[1]))
            try:
                message = record.getMessage()
            except (TypeError, ValueError):
                message = str(record.msg)
            _write(name, clean(record.name.split(".", 1)[0]), message, None, "none", fields)

    root = logging.getLogger()
    for handler in [old for old in root.handlers if type(old).__qualname__ == Route.__qualname__]:
        root.removeHandler(handler)
    root.addHandler(Route())
    root.setLevel(logging.DEBUG if level == "trace" else logging.WARNING)
    logging.raiseExceptions = False

    def show_warning(
        message: Warning | str, category: type[Warning], filename: str, lineno: int, file: Any = None, line: Any = None
    ) -> None:
        _write("warn", "python", f"{category.__name__}: {message}", None, "none", {"caller": f"{filename}:{lineno}"})

    def uncaught(kind: type[BaseException], error: BaseException, tb: Any) -> None:
        if issubclass(kind, KeyboardInterrupt):
            return
        _log.error(f"uncaught {kind.__name__}: {error}", exc=error)

    warnings.showwarning = show_warning
    sys.excepthook = uncaught
    sys.unraisablehook = lambda unraisable: _log.error(
        f"ignored {unraisable.exc_type.__name__} in {unraisable.object!r}", exc=unraisable.exc_value
    )
    threading.excepthook = lambda args: (
        None if args.exc_value is None else uncaught(args.exc_type, args.exc_value, args.exc_traceback)
    )


_log = Logger("mcpbridge")
