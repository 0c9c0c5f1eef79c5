"""Chaos, descriptors run out: a real gateway with few of them, a crowd at its door, and who is still served.

Source: reliability section 3, row 29.
"""

from __future__ import annotations

import socket
import time
from contextlib import ExitStack
from pathlib import Path

from tests.test_overload import ask, gateway, until

FILES = 128  # descriptors the gateway may have


def test_connections_take_no_descriptor_of_the_reserve_and_when_they_go_new_ones_are_taken_at_once(tmp_path: Path) -> None:
    with gateway(tmp_path, f"ulimit -n {FILES}") as one, ExitStack() as stack:
        kept = stack.enter_context(socket.create_connection(one.address, timeout=5))
        crowd = stack.enter_context(ExitStack())
        held = [crowd.enter_context(socket.create_connection(one.address, timeout=5)) for _ in range(40)]
        until("they are taken", lambda: one.files() > len(held))
        time.sleep(0.6)  # two looks: from now on every one is counted
        for _ in range(20):
            held += [crowd.enter_context(socket.create_connection(one.address, timeout=5)) for _ in range(10)]
            assert one.files() <= FILES
        until("the reserve is free", lambda: one.files() <= FILES - FILES // 4 + 2)
        told = [sock.recv(64, socket.MSG_DONTWAIT) for sock in held[-10:] if _readable(sock)]
        assert told and all(not said or said.startswith(b"HTTP/1.1 503 ") for said in told)
        kept.sendall(b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        assert kept.recv(100).startswith(b"HTTP/1.1 200 ")
        assert ask(f"{one.management}/healthz")[0] == 200
        worked = one.seconds_worked()
        began = time.monotonic()
        time.sleep(2)
        assert (one.seconds_worked() - worked) / (time.monotonic() - began) < 0.2
        crowd.close()
        assert until("new clients", one.ping) < 3


def test_a_burst_that_takes_the_last_descriptor_is_outlived_without_turning_in_circles(tmp_path: Path) -> None:
    with gateway(tmp_path, f"ulimit -n {FILES}") as one:
        with ExitStack() as crowd:
            crowding = [socket.socket() for _ in range(3 * FILES)]
            for sock in crowding:
                crowd.enter_context(sock)
                sock.setblocking(False)
                sock.connect_ex(one.address)
            until("they are taken or cut off", lambda: sum(_readable(sock) for sock in crowding) > FILES)
            worked, began = one.seconds_worked(), time.monotonic()
            time.sleep(2)
            assert (one.seconds_worked() - worked) / (time.monotonic() - began) < 0.2
            assert ask(f"{one.management}/healthz")[0] == 200
        assert until("new clients", one.ping) < 3
        assert ask(f"{one.base}/api/v1/execute", {"jsonrpc": "2.0", "id": 1, "method": "ping"})[0] == 200


def _readable(sock: socket.socket) -> bool:
    """Whether something, or its end, has come."""
    try:
        return len(sock.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)) >= 0
    except BlockingIOError:
        return False
    except OSError:
        return True
