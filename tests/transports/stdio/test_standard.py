"""Our own stdin and stdout: every kind of descriptor, half-close, a reader that leaves, nothing but MCP on the wire."""

from __future__ import annotations

import asyncio
import os
import pty
import socket
import subprocess
import sys

import pytest

from mcpbridge.transports.stdio.descriptor import open_reader, open_writer
from mcpbridge.transports.stdio.standard import MAX_BUFFER, Standard

PROGRAM = """
import asyncio, os, sys
import uvloop
from mcpbridge.transports.stdio.standard import open_standard

async def main():
    connection = open_standard(max_message=1 << 24)
    ended = asyncio.get_running_loop().create_future()
    broken = asyncio.get_running_loop().create_future()
    if sys.stdout is not None:
        print("a stray print", flush=True)
        os.write(1, b"a stray write\\n")
        os.system("echo a stray child; cat")

    def on_close(cause):
        if cause is None:
            ended.set_result(None)
        else:
            broken.set_result(cause)

    connection.start(connection.send, on_close)
    await asyncio.wait([ended, broken], return_when=asyncio.FIRST_COMPLETED)
    if MODE == "wait-broken":
        await broken
    if not broken.done():
        await connection.flush()
    await connection.close()
    os._exit(3 if broken.done() and not ended.done() else 4 if broken.done() and MODE == "wait-broken" else 0)

MODE = sys.argv[2]
asyncio.Runner(loop_factory=uvloop.new_event_loop if sys.argv[1] == "uvloop" else None).run(main())
"""
NOISE = b"a stray print\na stray write\na stray child\n"


@pytest.fixture(params=["asyncio", "uvloop"])
def echo(request):
    return [sys.executable, "-c", PROGRAM, request.param]


def shell(echo, line, **options):
    """Run ``line`` with ``$@`` as the echo program."""
    return subprocess.run(["sh", "-c", line, "sh", *echo], capture_output=True, timeout=10, check=False, **options)


def test_a_pipe_is_echoed_and_the_end_of_stdin_is_a_half_close(echo):
    done = shell(echo, '"$@" eof', input=b'{"a":1}\n\n{"b":2}\r\n{"last":3}')
    assert (done.returncode, done.stdout) == (0, b'{"a":1}\n{"b":2}\n{"last":3}\n')


def test_strays_land_on_stderr_and_read_nothing(echo):
    done = shell(echo, '"$@" eof', input=b"1\n")
    assert (done.stdout, done.stderr) == (b"1\n", NOISE)


def test_a_file_in_and_a_file_out(echo, tmp_path):
    (tmp_path / "in").write_bytes(b"".join(b"%d\n" % n for n in range(50_000)))
    done = shell(echo, f'"$@" eof < {tmp_path}/in > {tmp_path}/out')
    assert done.returncode == 0
    assert (tmp_path / "out").read_bytes() == (tmp_path / "in").read_bytes()


def test_dev_null_in_and_out(echo):
    assert shell(echo, '"$@" eof < /dev/null').stdout == b""
    assert shell(echo, 'echo 1 | "$@" eof > /dev/null').returncode == 0


def test_closed_descriptors_are_an_ended_stdin_and_a_broken_stdout(echo):
    assert shell(echo, '"$@" eof <&-').returncode == 0
    assert shell(echo, '"$@" eof >&-').returncode == 3
    assert shell(echo, 'echo 1 | "$@" eof 2>&-').stdout == b"1\n"


def test_stdout_and_stderr_in_one_pipe(echo):
    done = shell(echo, 'echo 1 | "$@" eof 2>&1 | cat')
    assert sorted(done.stdout.splitlines()) == sorted([*NOISE.splitlines(), b"1"])


def test_one_socket_for_both_directions(echo):
    ours, theirs = socket.socketpair()
    with ours, theirs:
        process = subprocess.Popen([*echo, "eof"], stdin=theirs, stdout=theirs, stderr=subprocess.DEVNULL)
        theirs.close()
        ours.settimeout(10)
        ours.sendall(b"1\n2")
        ours.shutdown(socket.SHUT_WR)
        received = b""
        while chunk := ours.recv(4096):
            received += chunk
        assert received == b"1\n2\n"
        assert process.wait(10) == 0


def test_a_terminal(echo):
    leader, follower = pty.openpty()
    process = subprocess.Popen([*echo, "eof"], stdin=follower, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    os.close(follower)
    os.write(leader, b"typed\n\x04")
    out, _ = process.communicate(timeout=10)
    os.close(leader)
    assert (process.returncode, out) == (0, b"typed\n")


def test_ten_megabytes_through_a_slow_reader(echo, tmp_path):
    (tmp_path / "in").write_bytes(b'"' + b"x" * 10_000_000 + b'"\n')
    done = shell(echo, f'"$@" eof < {tmp_path}/in | (sleep 0.3; wc -c)')
    assert int(done.stdout) == 10_000_003


@pytest.mark.parametrize("mode", ["now", "wait-broken"])
def test_a_reader_that_leaves_is_noticed_without_a_write(echo, mode):
    """With stdin still open, or after its end."""
    process = subprocess.Popen([*echo, mode], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    assert process.stdin is not None and process.stdout is not None
    process.stdin.write(b"1\n")
    process.stdin.flush()
    assert process.stdout.readline() == b"1\n"
    if mode == "wait-broken":
        process.stdin.close()
    process.stdout.close()
    assert process.wait(5) == (4 if mode == "wait-broken" else 3)
    process.stdin.close()


def test_the_pipes_of_the_caller_stay_blocking(echo):
    done = shell(echo, '( "$@" eof; python3 -c "import os; print(os.get_blocking(0), os.get_blocking(1))" )', input=b"1\n")
    assert done.stdout == b"1\nTrue True\n"


async def test_pause_stops_reading_and_resume_goes_on():
    read, write = os.pipe()
    standard = Standard(open_reader(read), None, 100)
    standard._is_broken = False
    messages: asyncio.Queue[bytes] = asyncio.Queue()
    standard.start(messages.put_nowait, lambda cause: None)
    os.write(write, b"1\n")
    async with asyncio.timeout(5):
        assert await messages.get() == b"1"
        standard.pause()
        os.write(write, b"2\n")
        for _ in range(3):
            await asyncio.sleep(0)
        assert messages.empty()
        standard.resume()
        assert await messages.get() == b"2"
    os.close(write)
    await standard.close()


async def test_pause_holds_a_file_back_too(tmp_path):
    (tmp_path / "in").write_bytes(b"x" * 199 + b"\n" + b"y\n" * 1000)
    standard = Standard(open_reader(os.open(tmp_path / "in", os.O_RDONLY), 100), None, 1000)
    standard._is_broken = False
    got: list[bytes] = []
    ended = asyncio.Event()

    def on_message(message: bytes) -> None:
        got.append(message)
        if len(got) == 1:
            standard.pause()
            asyncio.get_running_loop().call_later(0.1, resume)

    def resume() -> None:
        assert len(got) < 200  # the chunk of the pause and one more
        standard.resume()

    standard.start(on_message, lambda cause: ended.set())
    async with asyncio.timeout(5):
        await ended.wait()
    assert len(got) == 1001


async def test_drain_waits_for_a_reader_and_flush_for_the_last_byte():
    read, write = os.pipe()
    standard = Standard(None, open_writer(write), 100)
    standard.start(print, lambda cause: None)
    standard.send(b"x" * 3_000_000)
    draining, flushing = asyncio.ensure_future(standard.drain()), asyncio.ensure_future(standard.flush())
    await asyncio.sleep(0)
    total = 0
    async with asyncio.timeout(5):
        while total < 3_000_001:
            total += len(await asyncio.to_thread(os.read, read, 1 << 20))
            if total < 1_000_000:
                assert not draining.done()
        await draining
        await flushing
    await standard.close()
    os.close(read)


async def test_a_client_that_never_reads_is_given_up():
    read, write = os.pipe()
    standard = Standard(None, open_writer(write), 100)
    causes: list[BaseException | None] = []
    standard.start(print, causes.append)
    for _ in range(MAX_BUFFER // 1_000_000 + 1):
        standard.send(b"x" * 1_000_000)
    with pytest.raises(ConnectionError):
        standard.send(b"one more")
    assert isinstance(causes[-1], ConnectionAbortedError)
    with pytest.raises(ConnectionError):
        standard.send(b"{}")
    os.close(read)
