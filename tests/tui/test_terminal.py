"""The real program on a real terminal (a pty), fed by an HTTP server that plays recorded documents."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import pty
import re
import signal
import struct
import subprocess
import sys
import termios
from collections.abc import AsyncIterator

import pytest

from mcpbridge.observe.snapshot import Snapshot, encode
from tests.tui.pictures import make_healthy, make_outage

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="a pty is needed")

ESCAPES = re.compile(rb"\x1b\[[0-9;?<>=]*[A-Za-z]|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)|\x1b[()][A-Z0-9]|\x1b[=>78]")
LEAVE_ALTERNATE_SCREEN = b"\x1b[?1049l"


class StatusServer:
    """Answers ``/api/v1/status`` once and ``/api/v1/status/stream`` with an event per ``show``."""

    def __init__(self, snapshot: Snapshot) -> None:
        self.snapshot = snapshot
        self.streams: list[asyncio.StreamWriter] = []
        self.port = 0

    async def start(self, port: int = 0) -> None:
        self.server = await asyncio.start_server(self.answer, "127.0.0.1", port)
        self.port = self.server.sockets[0].getsockname()[1]

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        if b" /api/v1/status/stream" in head:
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n")
            self.streams.append(writer)
            self.send(writer)
        else:
            body = encode(self.snapshot) + b"\n"
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json; charset=utf-8\r\n")
            writer.write(b"Content-Length: %d\r\nConnection: close\r\n\r\n%s" % (len(body), body))
            writer.close()

    def send(self, writer: asyncio.StreamWriter) -> None:
        writer.write(b"data: %s\n\n" % encode(self.snapshot))

    def show(self, snapshot: Snapshot) -> None:
        self.snapshot = snapshot
        for writer in self.streams:
            self.send(writer)

    async def stop(self) -> None:
        self.server.close()
        for writer in self.streams:
            writer.transport.abort()
        self.streams.clear()


class Terminal:
    """A pty with the program on it. ``seen`` is everything it wrote, without escape codes."""

    def __init__(self, arguments: list[str], size: tuple[int, int], **environ: str) -> None:
        self.master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", size[1], size[0], 0, 0))
        env = {name: value for name, value in os.environ.items() if name not in environ}
        command = [sys.executable, "-X", "utf8", "-m", "mcpbridge", "tui", *arguments]
        self.process = subprocess.Popen(command, stdin=slave, stdout=slave, stderr=slave, env={**env, **environ})
        os.close(slave)
        self.raw = b""
        self.changed = asyncio.Event()
        asyncio.get_running_loop().add_reader(self.master, self._read)

    def _read(self) -> None:
        try:
            data = os.read(self.master, 65536)
        except OSError:  # the other end is closed: Linux says EIO
            data = b""
        if not data:
            asyncio.get_running_loop().remove_reader(self.master)
        self.raw += data
        self.changed.set()

    async def sees(self, text: str) -> None:
        """Wait for a text that was not there before the last ``forget``."""
        try:
            async with asyncio.timeout(5):
                while text not in self.text:
                    self.changed.clear()
                    await self.changed.wait()
        except TimeoutError:
            pytest.fail(f"{text!r} is not in\n{self.text}")

    @property
    def text(self) -> str:
        return ESCAPES.sub(b"", self.raw).decode(errors="replace")

    def forget(self) -> None:
        self.raw = b""

    def press(self, keys: bytes) -> None:
        os.write(self.master, keys)

    async def ends(self) -> int:
        async with asyncio.timeout(5):
            return await asyncio.to_thread(self.process.wait, 5)

    def close(self) -> None:
        asyncio.get_running_loop().remove_reader(self.master)
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(5)
        os.close(self.master)


@contextlib.asynccontextmanager
async def terminal(*arguments: str, size: tuple[int, int] = (100, 30), **environ: str) -> AsyncIterator[Terminal]:
    one = Terminal(list(arguments), size, **environ)
    try:
        yield one
    finally:
        one.close()


@pytest.fixture
async def gateway() -> AsyncIterator[StatusServer]:
    server = StatusServer(make_healthy())
    await server.start()
    yield server
    await server.stop()


def address(server: StatusServer) -> tuple[str, str]:
    return "--gateway", f"http://127.0.0.1:{server.port}"


@pytest.mark.requirement("cli.tui")
async def test_it_shows_the_gateway_survives_its_loss_and_leaves_a_clean_terminal(gateway: StatusServer):
    async with terminal(*address(gateway)) as screen:
        await screen.sees("everything/0")
        await screen.sees("● ok")
        gateway.show(make_outage())
        await screen.sees("connection refused")
        await screen.sees("▲ degraded")
        screen.forget()
        await gateway.stop()
        await screen.sees("gateway unreachable since")
        await screen.sees("was ▲ degraded")
        await gateway.start(gateway.port)
        screen.forget()
        screen.press(b"r")
        await screen.sees("git/0")
        screen.press(b"q")
        assert await screen.ends() == 0
        await screen.sees("")
        assert LEAVE_ALTERNATE_SCREEN in screen.raw


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
async def test_a_signal_ends_it_with_a_clean_terminal(gateway: StatusServer, number: signal.Signals):
    async with terminal(*address(gateway)) as screen:
        await screen.sees("everything/0")
        screen.process.send_signal(number)
        assert await screen.ends() == 128 + number
        assert LEAVE_ALTERNATE_SCREEN in screen.raw


async def test_ctrl_c_ends_it(gateway: StatusServer):
    async with terminal(*address(gateway)) as screen:
        await screen.sees("everything/0")
        screen.press(b"\x03")
        assert await screen.ends() == 0


@pytest.mark.requirement("env.NO_COLOR")
async def test_no_color_means_no_colour(gateway: StatusServer):
    async with terminal(*address(gateway), "--no-color") as screen:
        await screen.sees("everything/0")
        screen.press(b"q")
        await screen.ends()
        parts = re.findall(rb"[34]8;2;(\d+);(\d+);(\d+)", screen.raw)
        assert parts
        assert all(red == green == blue for red, green, blue in parts)


async def test_ascii_means_ascii(gateway: StatusServer):
    async with terminal(*address(gateway), "--ascii") as screen:
        await screen.sees("+ ok")
        screen.press(b"q")
        await screen.ends()
        assert screen.text.isascii()


@pytest.mark.parametrize(("arguments", "environ"), [(("--once",), {}), ((), {"TERM": "dumb"})])
async def test_a_dumb_terminal_and_once_get_text_without_codes(
    gateway: StatusServer, arguments: tuple[str, ...], environ: dict[str, str]
):
    gateway.snapshot = make_outage()
    async with terminal(*address(gateway), *arguments, **environ) as screen:
        assert await screen.ends() == 1
        await screen.sees("exited with code 1")
        assert b"\x1b" not in screen.raw


@pytest.mark.requirement("cli.tui")
async def test_a_pipe_gets_text_and_the_code_of_the_state(gateway: StatusServer):
    command = [sys.executable, "-X", "utf8", "-m", "mcpbridge", "tui", *address(gateway)]
    done = await asyncio.to_thread(
        subprocess.run, command, stdin=subprocess.DEVNULL, capture_output=True, timeout=20, check=False
    )
    assert done.returncode == 0, done.stderr
    assert b"weather/0" in done.stdout
    assert b"\x1b" not in done.stdout
