"""A descriptor that a transport was made of is closed once: whoever gets the number next keeps it."""

from __future__ import annotations

import asyncio
import gc
import os
import socket
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
import uvloop

from mcpbridge.descriptors import HandingOver, pipe_end

LOOPS = {"uvloop": uvloop.new_event_loop, "asyncio": asyncio.new_event_loop}


@pytest.fixture(params=LOOPS)
def run(request: pytest.FixtureRequest) -> Callable[[Coroutine[Any, Any, None]], None]:
    def run(work: Coroutine[Any, Any, None]) -> None:
        with asyncio.Runner(loop_factory=LOOPS[request.param]) as runner:
            runner.run(work)

    return run


def is_open(number: int) -> bool:
    try:
        os.fstat(number)
    except OSError:
        return False
    return True


async def next_owner(number: int, how: type = socket.socket) -> socket.socket:
    """Whoever is given this number now, which must be free soon."""
    for _ in range(10):
        if not is_open(number):
            break
        await asyncio.sleep(0)
    taken: list[socket.socket] = []
    while not taken or taken[-1].fileno() < number:
        taken.append(how())
    assert taken[-1].fileno() == number
    for other in taken[:-1]:
        other.close()
    return taken[-1]


class Aborts(asyncio.Protocol):
    """A connection that is over in the moment it is made, as by a reset that comes at once."""

    def connection_made(self, transport: Any) -> None:
        transport.abort()


def test_a_connection_that_is_over_before_it_is_there_leaves_the_next_one_alone(run) -> None:
    async def work() -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX)
        number = ours.fileno()
        with HandingOver(ours):
            await asyncio.get_running_loop().create_unix_connection(Aborts, sock=ours)
        other = await next_owner(number)
        del ours
        gc.collect()
        assert is_open(number)
        other.close()
        theirs.close()

    run(work())


def test_a_connection_that_is_given_up_meanwhile_leaves_the_next_one_alone(run) -> None:
    async def connect(ours: socket.socket) -> None:
        with HandingOver(ours):
            await asyncio.get_running_loop().create_unix_connection(asyncio.Protocol, sock=ours)

    async def work() -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX)
        number = ours.fileno()
        task = asyncio.create_task(connect(ours))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        other = await next_owner(number)
        ours.close()
        del ours, task
        gc.collect()
        assert is_open(number)
        other.close()
        theirs.close()

    run(work())


def test_a_socket_that_was_never_taken_is_closed() -> None:
    ours, theirs = socket.socketpair()
    with pytest.raises(LookupError), HandingOver(ours):
        raise LookupError
    assert ours.fileno() < 0
    theirs.close()


def test_a_pipe_that_is_over_before_it_is_there_leaves_the_next_one_alone(run) -> None:
    class Closes(asyncio.Protocol):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            transport.close()

    async def work() -> None:
        loop = asyncio.get_running_loop()
        number, theirs = os.pipe()
        transport, _ = await loop.connect_read_pipe(Closes, pipe_end(number, "rb", loop))
        other = await next_owner(number)
        del transport
        gc.collect()
        assert is_open(number)
        other.close()
        os.close(theirs)

    run(work())


def test_a_pipe_is_closed_with_its_transport(run) -> None:
    async def work() -> None:
        loop = asyncio.get_running_loop()
        number, theirs = os.pipe()
        transport, _ = await loop.connect_read_pipe(asyncio.Protocol, pipe_end(number, "rb", loop))
        transport.close()
        (await next_owner(number)).close()
        os.close(theirs)

    run(work())
