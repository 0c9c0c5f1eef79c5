"""Reading and writing a descriptor that somebody else gave us, by its kind.

    pipe               opened anew through /proc: a file description of our own, so that "non-blocking" stays our own affair
    socket             asked not to wait, call by call
    file, /dev/null, terminal, Windows, a pipe that cannot be opened anew      a thread that blocks in our place

A description is shared with whoever started us and often with our own stderr (``2>&1``): setting it non-blocking would make
their writes fail, and would outlive us. Event loops that watch a plain file abort (uvloop) or refuse (asyncio).

Source: architecture section 8 (stdio); open(2), proc(5).
"""

from __future__ import annotations

import asyncio
import os
import select
import socket
import stat
import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Protocol

WRITE_SLICE = 1 << 20  # bytes written before the loop gets its turn again

OnData = Callable[[bytes], None]
OnEnd = Callable[[OSError | None], None]


class Reader(Protocol):
    """Delivers chunks, then the end once. ``start`` begins; ``pause`` stops soon, one more chunk may come."""

    def start(self, on_data: OnData, on_end: OnEnd) -> None: ...
    def pause(self) -> None: ...
    def resume(self) -> None: ...
    def close(self) -> None: ...


class Writer(Protocol):
    """Takes bytes without blocking. ``on_progress`` is called when ``pending`` shrank, ``on_broken`` once when nobody reads."""

    pending: int  # bytes taken and not yet written

    def start(self, on_progress: Callable[[], None], on_broken: Callable[[OSError], None]) -> None: ...
    def write(self, data: bytes) -> None: ...
    def close(self) -> None: ...


def open_reader(descriptor: int, read_size: int = 65536) -> Reader:
    """A reader that owns ``descriptor``; chunks of at most ``read_size`` bytes."""
    channel = _channel(descriptor, os.O_RDONLY)
    return LoopReader(channel, read_size) if channel else ThreadReader(descriptor, read_size)


def open_writer(descriptor: int) -> Writer:
    """A writer that owns ``descriptor``."""
    channel = _channel(descriptor, os.O_WRONLY)
    return LoopWriter(channel) if channel else ThreadWriter(descriptor)


class _Channel:
    """A descriptor that never blocks and that a loop can watch."""

    def __init__(self, descriptor: int, is_socket: bool) -> None:
        self._socket = socket.socket(fileno=descriptor) if is_socket else None
        self.descriptor = descriptor

    @property
    def is_socket(self) -> bool:
        return self._socket is not None

    def read(self, size: int) -> bytes:
        return self._socket.recv(size, socket.MSG_DONTWAIT) if self._socket else os.read(self.descriptor, size)

    def write(self, data: memoryview) -> int:
        return self._socket.send(data, socket.MSG_DONTWAIT) if self._socket else os.write(self.descriptor, data)

    def close(self) -> None:
        if self._socket:
            self._socket.close()
        else:
            os.close(self.descriptor)


def _channel(descriptor: int, mode: int) -> _Channel | None:
    """None: this kind needs a thread."""
    if os.name != "posix":
        return None
    kind = os.fstat(descriptor).st_mode
    if stat.S_ISSOCK(kind) and hasattr(socket, "MSG_DONTWAIT"):
        return _Channel(descriptor, True)
    if stat.S_ISFIFO(kind):
        try:
            own = os.open(f"/proc/self/fd/{descriptor}", mode | os.O_NONBLOCK)
        except OSError:
            return None  # no /proc, another user's pipe, or nobody at the other end
        os.close(descriptor)
        return _Channel(own, False)
    return None


class LoopReader:
    """Reads when the loop says there is something."""

    def __init__(self, channel: _Channel, read_size: int) -> None:
        self._channel = channel
        self._read_size = read_size
        self._loop = asyncio.get_running_loop()
        self._is_open = True

    def start(self, on_data: OnData, on_end: OnEnd) -> None:
        self._on_data, self._on_end = on_data, on_end
        self.resume()

    def pause(self) -> None:
        if self._is_open:
            self._loop.remove_reader(self._channel.descriptor)

    def resume(self) -> None:
        if self._is_open:
            self._loop.add_reader(self._channel.descriptor, self._on_readable)

    def close(self) -> None:
        if self._is_open:
            self.pause()
            self._is_open = False
            self._channel.close()

    def _on_readable(self) -> None:
        try:
            data = self._channel.read(self._read_size)
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            self.close()
            self._on_end(error)
            return
        if data:
            self._on_data(data)
        else:
            self.close()
            self._on_end(None)


class LoopWriter:
    """Writes at once what fits, the rest when the loop says there is room. Notices a reader that goes away."""

    def __init__(self, channel: _Channel) -> None:
        self._channel = channel
        self._loop = asyncio.get_running_loop()
        self._queue: deque[memoryview] = deque()
        self._is_open = True
        self.pending = 0

    def start(self, on_progress: Callable[[], None], on_broken: Callable[[OSError], None]) -> None:
        self._on_progress, self._on_broken = on_progress, on_broken
        if not self._channel.is_socket:  # a pipe's writing end becomes "readable" only by an error: its reader is gone
            self._loop.add_reader(self._channel.descriptor, self._break, BrokenPipeError("nobody reads any more"))

    def write(self, data: bytes) -> None:
        if not self._is_open:
            return
        self._queue.append(memoryview(data))
        self.pending += len(data)
        if len(self._queue) == 1:
            self._pump()

    def close(self) -> None:
        if self._is_open:
            self._is_open = False
            self._queue.clear()
            self._loop.remove_writer(self._channel.descriptor)
            self._loop.remove_reader(self._channel.descriptor)
            self._channel.close()

    def _pump(self) -> None:
        left = WRITE_SLICE
        try:
            while self._queue and left > 0:
                written = self._channel.write(self._queue[0])
                left -= written
                self.pending -= written
                if written == len(self._queue[0]):
                    self._queue.popleft()
                else:
                    self._queue[0] = self._queue[0][written:]
        except (BlockingIOError, InterruptedError):
            pass
        except OSError as error:
            self._break(error)
            return
        if self._queue:
            self._loop.add_writer(self._channel.descriptor, self._pump)
        else:
            self._loop.remove_writer(self._channel.descriptor)
        self._on_progress()

    def _break(self, error: OSError) -> None:
        if self._is_open:
            self.close()
            self._on_broken(error)


class ThreadReader:
    """Reads in a thread, one chunk ahead at most."""

    def __init__(self, descriptor: int, read_size: int) -> None:
        self._descriptor = descriptor
        self._read_size = read_size
        self._loop = asyncio.get_running_loop()
        self._may_read = threading.Event()
        self._is_paused = False
        self._is_open = True

    def start(self, on_data: OnData, on_end: OnEnd) -> None:
        self._on_data, self._on_end = on_data, on_end
        self._may_read.set()
        threading.Thread(target=self._run, name="stdin", daemon=True).start()

    def pause(self) -> None:
        self._is_paused = True

    def resume(self) -> None:
        self._is_paused = False
        self._may_read.set()

    def close(self) -> None:
        self._is_open = False
        self._may_read.set()

    def _run(self) -> None:
        error: OSError | None = None
        while self._is_open:
            try:
                data = os.read(self._descriptor, self._read_size)
            except BlockingIOError:
                _wait(self._descriptor, for_writing=False)
                continue
            except OSError as failure:
                data, error = b"", failure
            if not data:
                break
            self._may_read.clear()
            if not _tell(self._loop, self._deliver, data):
                break
            self._may_read.wait()
        _tell(self._loop, self._ended, error)
        with suppress(OSError):
            os.close(self._descriptor)

    def _deliver(self, data: bytes) -> None:
        if self._is_open:
            self._on_data(data)
        if not self._is_paused:
            self._may_read.set()

    def _ended(self, error: OSError | None) -> None:
        if self._is_open:
            self._is_open = False
            self._on_end(error)


class ThreadWriter:
    """Writes in a thread, in order."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._loop = asyncio.get_running_loop()
        self._queue: deque[bytes | None] = deque()
        self._has_work = threading.Semaphore(0)
        self._is_open = True
        self.pending = 0

    def start(self, on_progress: Callable[[], None], on_broken: Callable[[OSError], None]) -> None:
        self._on_progress, self._on_broken = on_progress, on_broken
        threading.Thread(target=self._run, name="stdout", daemon=True).start()

    def write(self, data: bytes) -> None:
        if self._is_open:
            self.pending += len(data)
            self._put(data)

    def close(self) -> None:
        if self._is_open:
            self._is_open = False
            self._put(None)

    def _put(self, item: bytes | None) -> None:
        self._queue.append(item)
        self._has_work.release()

    def _run(self) -> None:
        while True:
            self._has_work.acquire()
            data = self._queue.popleft()
            if data is None:
                break
            try:
                self._write_all(memoryview(data))
            except OSError as error:
                _tell(self._loop, self._failed, error)
                break
            _tell(self._loop, self._wrote, len(data))
        with suppress(OSError):
            os.close(self._descriptor)

    def _write_all(self, data: memoryview) -> None:
        while data:
            try:
                data = data[os.write(self._descriptor, data) :]
            except BlockingIOError:
                _wait(self._descriptor, for_writing=True)

    def _wrote(self, size: int) -> None:
        self.pending -= size
        self._on_progress()

    def _failed(self, error: OSError) -> None:
        if self._is_open:
            self._is_open = False
            self._on_broken(error)


def _wait(descriptor: int, *, for_writing: bool) -> None:
    """Block until a descriptor is ready that somebody else has made non-blocking (Node does that to terminals)."""
    poll = select.poll()
    poll.register(descriptor, select.POLLOUT if for_writing else select.POLLIN)
    poll.poll()


def _tell(loop: asyncio.AbstractEventLoop, callback: Callable[..., None], value: object) -> bool:
    """Call back on the loop; False when it is closed."""
    try:
        loop.call_soon_threadsafe(callback, value)
    except RuntimeError:
        return False
    return True
