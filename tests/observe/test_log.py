"""Log lines: shape, levels, redaction, and that writing one never raises, blocks or forges another."""

from __future__ import annotations

import io
import json
import logging
import os
import re
import subprocess
import sys
import warnings
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcpbridge.observe import log as log_module
from mcpbridge.observe.log import configure, log


@pytest.fixture(autouse=True)
def _restore_hooks() -> Iterator[None]:
    saved = (
        sys.excepthook,
        sys.unraisablehook,
        warnings.showwarning,
        list(logging.getLogger().handlers),
        logging.getLogger().level,
    )
    raise_exceptions = logging.raiseExceptions
    yield
    sys.excepthook, sys.unraisablehook, warnings.showwarning, handlers, level = saved
    logging.getLogger().handlers[:] = handlers
    logging.getLogger().setLevel(level)
    logging.raiseExceptions = raise_exceptions
    log_module._out.__init__()  # type: ignore[misc]


def written(level: str = "trace", format: str = "json") -> io.StringIO:
    stream = io.StringIO()
    configure(level, format, stream)
    return stream


def only_line(stream: io.StringIO) -> dict[str, object]:
    lines = stream.getvalue().splitlines()
    assert len(lines) == 1, lines
    record = json.loads(lines[0])
    assert isinstance(record, dict)
    return record


@pytest.mark.requirement("log.protocol", "log.message")
def test_every_line_has_time_level_message_component_and_protocol() -> None:
    stream = written()
    log("gateway").info("ready", port=8443)
    record = only_line(stream)
    assert list(record)[:5] == ["time", "level", "message", "component", "protocol"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", str(record["time"]))
    assert (record["level"], record["message"], record["component"], record["protocol"]) == ("info", "ready", "gateway", "none")
    assert record["port"] == 8443


def test_protocol_and_event_are_fields_of_their_own() -> None:
    stream = written()
    log("direct_clients").warn("assigned", event="protocol_assignment", protocol="stdio")
    record = only_line(stream)
    assert (record["event"], record["protocol"]) == ("protocol_assignment", "stdio")


@pytest.mark.parametrize(
    ("threshold", "expected"),
    [
        ("trace", ["trace", "debug", "info", "warn", "error"]),
        ("debug", ["debug", "info", "warn", "error"]),
        ("info", ["info", "warn", "error"]),
        ("warn", ["warn", "error"]),
        ("warning", ["warn", "error"]),
        ("error", ["error"]),
    ],
)
def test_a_level_shows_itself_and_everything_above(threshold: str, expected: list[str]) -> None:
    stream = written(threshold)
    logger = log("x")
    for level in ("trace", "debug", "info", "warn", "error"):
        getattr(logger, level)("m")
    assert [json.loads(line)["level"] for line in stream.getvalue().splitlines()] == expected
    assert [name for name in log_module.LEVELS if logger.enabled(name)] == expected  # type: ignore[arg-type]


def test_an_unknown_level_is_an_error_of_the_caller() -> None:
    with pytest.raises(KeyError):
        configure("loud")


def test_an_empty_message_is_still_a_text() -> None:
    stream = written()
    log("x").info("")
    assert only_line(stream)["message"] == "(no message)"


def test_a_field_named_like_a_fixed_one_does_not_replace_it() -> None:
    stream = written()
    log("x").info("m", time="never", level="none")
    record = only_line(stream)
    assert record["level"] == "info"
    assert (record["time_"], record["level_"]) == ("never", "none")


def test_values_above_two_kibibytes_are_cut_and_tracebacks_keep_their_end() -> None:
    stream = written()
    try:
        raise ValueError("ä" * 5000 + "the cause")
    except ValueError as error:
        log("x").error("é" * 5000, exc=error, body="x" * 10_000, many=list(range(49)), deep={"a": "y" * 2000, "b": "y" * 2000})
    record = only_line(stream)
    for key in ("message", "body", "traceback", "deep"):
        assert len(str(record[key]).encode()) <= 2048, key
    assert str(record["traceback"]).rstrip().endswith("the cause")
    assert str(record["body"]).endswith("…")
    assert record["many"] == list(range(49))


@pytest.mark.parametrize("bad", ["\n", "\r", "\x1b[2J", "\x00", "\x9b31m", "\u2028", "\u202e", "\ud800"])
def test_control_characters_cannot_forge_a_line_or_steer_a_terminal(bad: str) -> None:
    for format in ("json", "text"):
        stream = written(format=format)
        log("x").info(f"a{bad}b", value=f"c{bad}d", k=[f"e{bad}f"])
        text = stream.getvalue()
        assert text.count("\n") == 1 and text.endswith("\n")
        assert bad not in text[:-1]
        if format == "json":
            assert json.loads(text)["message"].startswith("a\\")


@given(
    st.dictionaries(
        st.text(max_size=8), st.one_of(st.text(), st.binary(), st.floats(), st.integers(), st.lists(st.text())), max_size=4
    )
)
def test_any_fields_give_exactly_one_json_line(fields: dict[str, object]) -> None:
    stream = written()
    fields = {key: value for key, value in fields.items() if key not in ("self", "message", "event", "protocol")}
    log("x").info("m", **fields)  # type: ignore[arg-type]
    assert only_line(stream)["message"] == "m"


def test_an_exception_is_a_traceback_inside_the_line() -> None:
    stream = written()
    try:
        raise RuntimeError("boom")
    except RuntimeError as error:
        log("x").error("failed", exc=error)
    assert "RuntimeError: boom" in str(only_line(stream)["traceback"])


def test_stdlib_warnings_and_logging_become_lines() -> None:
    stream = written("info")
    logging.getLogger("asyncio").error("task %s failed", "t1", exc_info=ValueError("why"))
    logging.getLogger("lib.part").info("below the threshold")
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.warn("old", UserWarning, stacklevel=1)
    first, second = (json.loads(line) for line in stream.getvalue().splitlines())
    assert (first["component"], first["message"], first["level"]) == ("asyncio", "task t1 failed", "error")
    assert "ValueError: why" in first["traceback"]
    assert second["message"] == "UserWarning: old"


def test_configuring_twice_writes_each_line_once() -> None:
    written()
    stream = written()
    logging.getLogger("lib").warning("once")
    assert only_line(stream)["message"] == "once"


def test_text_has_no_colour_unless_it_is_a_terminal_that_wants_it(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    for stream, no_color, coloured in ((Terminal(), "", True), (Terminal(), "1", False), (io.StringIO(), "", False)):
        monkeypatch.setenv("NO_COLOR", no_color)
        configure("info", "text", stream)
        log("gateway").warn("slow", server="a b", n=1)
        assert ("\x1b[" in stream.getvalue()) is coloured
        assert "gateway: slow" in stream.getvalue() and 'server="a b"' in stream.getvalue() and "n=1" in stream.getvalue()


def test_writing_to_a_closed_stream_does_not_raise() -> None:
    stream = written()
    stream.close()
    log("x").error("nobody hears this")
    with open(os.devnull, "w") as gone:
        configure("info", "json", gone)
    log("x").error("nor this")


def test_a_value_that_cannot_be_shown_does_not_raise() -> None:
    class Broken:
        def __str__(self) -> str:
            raise RuntimeError("no text")

    stream = written()
    log("x").info("m", value=Broken())
    log("x").info("next")
    assert [json.loads(line)["message"] for line in stream.getvalue().splitlines()][-1] == "next"


@pytest.mark.skipif(os.name != "posix", reason="pipes are polled on POSIX only")
def test_a_reader_that_stops_reading_loses_lines_but_does_not_stop_us() -> None:
    read_end, write_end = os.pipe()
    with os.fdopen(write_end, "w") as stream:
        configure("info", "json", stream)
        logger = log("x")
        for number in range(2000):  # far beyond any pipe buffer; a blocking write would hang here
            logger.info("x" * 1500, number=number)
        taken = b""
        while b'"number": 20}' not in taken:
            taken += os.read(read_end, 65536)
        os.set_blocking(read_end, False)
        try:
            while chunk := os.read(read_end, 65536):
                taken += chunk
        except BlockingIOError:
            pass
        logger.info("back")
        late = os.read(read_end, 65536)
    os.close(read_end)
    messages = [json.loads(line)["message"] for line in late.splitlines() if line]
    assert messages[-1] == "back"
    assert re.fullmatch(r"\d+ log lines dropped: stderr was not read", messages[-2])
    assert all(json.loads(line) for line in taken.splitlines())


def test_an_uncaught_exception_is_one_json_line_on_stderr() -> None:
    program = "from mcpbridge.observe.log import configure; configure(); raise RuntimeError('boom')"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=5)
    record = json.loads(done.stderr)
    assert done.returncode == 1 and record["level"] == "error" and "RuntimeError: boom" in record["traceback"]


def test_a_stderr_that_is_closed_at_start_is_no_error() -> None:
    program = (
        "import sys; sys.stderr = None\nfrom mcpbridge.observe.log import *\nconfigure(); log('x').error('m'); print('alive')"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=5)
    assert done.stdout == "alive\n"
