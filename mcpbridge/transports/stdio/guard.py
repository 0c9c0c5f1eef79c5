"""The bridge's half of the guard: starts the guard process, orders children from it, hears of their ends.

One guard per bridge (event loop), started with the first child. If it dies, everything it was the parent of is ended too
(nobody could tell any more what belongs to whom) and the next child starts a new guard.

POSIX only: without fork and process groups ``spawn`` raises BridgeError("stdio_cannot_start").

Source: architecture section 8; reliability section 3 rows 12-13.
"""

from __future__ import annotations

import asyncio
import errno
import marshal
import os
import pkgutil
import secrets
import signal
import socket
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any

from mcpbridge.errors import BridgeError
from mcpbridge.observe.log import log
from mcpbridge.transports.stdio.guard_process import SWEEP, Process, carries, descendants, processes, strike

CLOSE_WAIT = 3.0  # seconds to wait for a guard that was told to end; it needs one for SIGTERM, then kills

_log = log("direct_clients")
_LOADER = "import sys;exec(compile(sys.stdin.buffer.read(),'mcpbridge-guard','exec'))"  # works from a zipapp as well
_KEPT = ("PATH", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "LANG", "LC_ALL")  # no secret of the bridge lies in the guard
_guards: dict[asyncio.AbstractEventLoop, Guard] = {}  # owned by the loop each belongs to


class Ward:
    """One child in the guard's care, with everything that comes of it.

    ``exited``: its wait status, None when the guard died with it. ``gone``: nothing of the family is left.
    """

    def __init__(self, guard: Guard, token: int, mark: bytes) -> None:
        loop = asyncio.get_running_loop()
        self._guard = guard
        self.token = token
        self.mark = mark
        self.pid = 0
        self.start = 0
        self.started: asyncio.Future[int] = loop.create_future()  # 0, or the errno of the fork
        self.exited: asyncio.Future[int | None] = loop.create_future()
        self.gone: asyncio.Future[None] = loop.create_future()

    def end(self, grace: float) -> None:
        """SIGTERM for the whole family now, SIGKILL after ``grace`` seconds. Again with a shorter grace: earlier."""
        self._guard.send_end(self.token, grace)

    def vanish(self, status: int | None) -> None:
        """Nothing is left of it; ``status`` fills in for an exit that was never reported."""
        for future, value in ((self.started, errno.ECHILD), (self.exited, status), (self.gone, None)):
            if not future.done():
                future.set_result(value)  # type: ignore[arg-type]


class Guard:
    """A running guard process."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._wards: dict[int, Ward] = {}
        self._last_token = 0
        self._buffer = bytearray()
        self._outbox: list[_Order] = []
        self.is_alive = True
        ours, theirs = socket.socketpair()
        with theirs:
            self._process = _start_process(theirs.fileno())
        ours.setblocking(False)
        self._socket = ours
        self._loop.add_reader(ours.fileno(), self._on_readable)

    @property
    def pid(self) -> int:
        return self._process.pid

    async def spawn(self, path: str, argv: Sequence[str], env: Mapping[str, str], cwd: str, pipes: Iterable[int]) -> Ward:
        """Start a child with these descriptors as stdin, stdout and stderr; returns when its program runs.

        The caller closes its copies. Raises OSError when the program cannot be started; cancelled, it leaves nothing behind.
        """
        self._last_token += 1
        ward = Ward(self, self._last_token, secrets.token_hex(8).encode())
        failed_read, failed_write = os.pipe()
        try:
            encoded = {os.fsencode(name): os.fsencode(value) for name, value in env.items()}
            order = (os.fsencode(path), [os.fsencode(arg) for arg in argv], encoded, os.fsencode(cwd), ward.mark)
            self._wards[ward.token] = ward
            sending = self._send(("spawn", ward.token, *order), [*pipes, failed_write])
            try:
                await ward.started
                os.close(failed_write)
                failed_write = -1
                number = ward.started.result() or await self._read_failure(failed_read)
            except BaseException:
                if sending in self._outbox and sending.descriptors:  # never left: the caller is about to close them
                    self._outbox.remove(sending)
                ward.end(0.0)
                raise
            if number:
                ward.end(0.0)
                raise OSError(number, os.strerror(number))
            return ward
        finally:
            os.close(failed_read)
            if failed_write >= 0:
                os.close(failed_write)

    async def close(self) -> None:
        """End every child and the guard. Bounded to ``CLOSE_WAIT`` seconds."""
        if self.is_alive:
            self._hang_up()
        for _ in range(int(CLOSE_WAIT / 0.01)):
            if self._process.poll() is not None:
                break
            await asyncio.sleep(0.01)
        for ward in list(self._wards.values()):
            ward.vanish(None)
        self._wards.clear()

    def send_end(self, token: int, grace: float) -> None:
        """Order the end of a family. Nothing to do for one that is gone."""
        if self.is_alive and token in self._wards:
            self._send(("end", token, grace), [])

    def _send(self, order: tuple[Any, ...], descriptors: list[int]) -> _Order:
        raw = marshal.dumps(order)
        entry = _Order(len(raw).to_bytes(4, "big") + raw, descriptors)
        self._outbox.append(entry)
        if len(self._outbox) == 1:
            self._pump()
        return entry

    def _pump(self) -> None:
        """Write what the socket takes. The descriptors of an order go with its first byte."""
        if not self.is_alive:
            return
        try:
            while self._outbox:
                order = self._outbox[0]
                sent = socket.send_fds(self._socket, [order.data], order.descriptors)
                order.descriptors = []
                order.data = order.data[sent:]
                if not order.data:
                    del self._outbox[0]
            self._loop.remove_writer(self._socket.fileno())
        except BlockingIOError:
            self._loop.add_writer(self._socket.fileno(), self._pump)
        except OSError:
            self._loop.remove_writer(self._socket.fileno())  # the guard is gone; the reader finds out as well

    async def _read_failure(self, descriptor: int) -> int:
        """0 when the program runs (its exec closed the pipe), else the errno of what failed."""
        os.set_blocking(descriptor, False)
        readable: asyncio.Future[None] = self._loop.create_future()
        self._loop.add_reader(descriptor, _wake, readable)
        try:
            await readable
        finally:
            self._loop.remove_reader(descriptor)
        return int(os.read(descriptor, 16) or b"0")

    def _on_readable(self) -> None:
        try:
            data = self._socket.recv(65536)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._on_lost()
            return
        self._buffer += data
        while len(self._buffer) >= 4:
            end = 4 + int.from_bytes(self._buffer[:4], "big")
            if len(self._buffer) < end:
                return
            event = marshal.loads(bytes(self._buffer[4:end]))  # noqa: S302 (only our own guard writes here)
            del self._buffer[:end]
            self._on_event(*event)

    def _on_event(self, kind: str, token: int, *values: int) -> None:
        ward = self._wards.get(token)
        if ward is None:
            return
        if kind == "pid":
            ward.pid, ward.start = values
            if not ward.started.done():
                ward.started.set_result(0)
        elif kind == "exit":
            if not ward.exited.done():
                ward.exited.set_result(values[0])
        else:
            del self._wards[token]
            if kind == "failed" and not ward.started.done():
                ward.started.set_result(values[0])
            ward.vanish(None)

    def _hang_up(self) -> None:
        self.is_alive = False
        self._loop.remove_reader(self._socket.fileno())
        self._loop.remove_writer(self._socket.fileno())
        self._socket.close()
        self._outbox.clear()

    def _on_lost(self) -> None:
        """The guard died: end what it cared for ourselves, look by look until nothing is left."""
        self._hang_up()
        _log.error("the guard of the stdio servers died; its children are ended and start anew", protocol="stdio", pid=self.pid)
        self._sweep()

    def _sweep(self) -> None:
        self._process.poll()
        everybody = processes()
        for ward in list(self._wards.values()):
            family = _family(ward, everybody)
            for process in family:
                strike(process, signal.SIGKILL)
                if process.parent == os.getpid():  # as process 1 of a container we have inherited it
                    with suppress(ChildProcessError):
                        os.waitpid(process.pid, os.WNOHANG)
            if not family:
                if not everybody and ward.pid:  # no /proc: the group is all we know
                    with suppress(OSError):
                        os.killpg(ward.pid, signal.SIGKILL)
                del self._wards[ward.token]
                ward.vanish(None)
        if self._wards or self._process.returncode is None:
            self._loop.call_later(SWEEP, self._sweep)


class _Order:
    """Bytes for the guard and the descriptors that go with the first of them."""

    def __init__(self, data: bytes, descriptors: list[int]) -> None:
        self.data = memoryview(data)
        self.descriptors = descriptors


def current() -> Guard:
    """The guard of this bridge, started now if there is none alive. Raises BridgeError("stdio_cannot_start", sent=False)."""
    loop = asyncio.get_running_loop()
    guard = _guards.get(loop)
    if guard is None or not guard.is_alive:
        for closed in [other for other in _guards if other.is_closed()]:
            del _guards[closed]
        if not hasattr(os, "fork"):
            raise BridgeError("stdio_cannot_start", "child processes need a POSIX system", sent=False)
        try:
            guard = _guards[loop] = Guard()
        except OSError as error:
            raise BridgeError("stdio_cannot_start", f"no guard process: {error.strerror}", sent=False) from error
    return guard


async def close() -> None:
    """End the guard of this bridge and everything in its care. The last thing a bridge does; without it the guard does the
    same on its own when the process ends. Bounded."""
    guard = _guards.pop(asyncio.get_running_loop(), None)
    if guard is not None:
        await guard.close()


def _start_process(descriptor: int) -> subprocess.Popen[bytes]:
    source = pkgutil.get_data(__package__ or "", "guard_process.py")
    assert source is not None, "every loader of ours can read its own sources"
    process = subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", _LOADER, str(descriptor)],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={name: value for name, value in os.environ.items() if name in _KEPT},
        pass_fds=(descriptor,),
        start_new_session=True,  # out of reach of the terminal's Ctrl-C
    )
    assert process.stdin is not None
    with suppress(BrokenPipeError), process.stdin as pipe:  # it fits a pipe's buffer, so this never waits
        pipe.write(source)
    return process


def _family(ward: Ward, everybody: list[Process]) -> list[Process]:
    """What is left of a family whose guard is dead: the leader, its session, what carries the mark, and all below them."""
    leader_lives = any(process.pid == ward.pid and process.start == ward.start for process in everybody)
    found: dict[int, Process] = {}
    for process in everybody:
        is_leader = process.pid == ward.pid and process.start == ward.start
        if is_leader or (leader_lives and process.session == ward.pid) or carries(process.pid, ward.mark):
            found[process.pid] = process
            found.update(descendants(process.pid, everybody))
    parent_reaps = {process.pid for process in found.values() if process.state == "Z" and process.parent != os.getpid()}
    return [process for process in found.values() if process.pid not in parent_reaps]


def _wake(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
