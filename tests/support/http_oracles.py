"""How other HTTP/1.1 implementations read bytes: h11 in memory, nginx and HAProxy by what they hand to a server behind.

bytes -> nginx | HAProxy -> Behind (a strict reader: h11), which knows by a field whose bytes they were
"""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import socket
import subprocess
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import h11

from tests.support.peers import free_port, kill_group

NGINX = shutil.which("nginx", path="/usr/sbin:/usr/bin")
HAPROXY = shutil.which("haproxy", path="/usr/sbin:/usr/bin")
PATIENCE = 4.0  # seconds for a reader to see as many messages as the bridge, or to close
GRACE = 0.2  # seconds for messages that nobody expects
OURS = b"x-client-port"

Message = tuple[str, str, bytes]
"""Method, path without query, body."""


@dataclass(slots=True)
class Reading:
    """The messages that were made of some bytes; whether the connection was ended, so that nothing behind them is read."""

    messages: list[Message]
    is_over: bool

    def agrees_with(self, other: Reading) -> bool:
        """Equal as far as both go; whoever has fewer must have ended the connection there."""
        both = min(len(self.messages), len(other.messages))
        if self.messages[:both] != other.messages[:both]:
            return False
        shorter = self if len(self.messages) < len(other.messages) else other
        return len(self.messages) == len(other.messages) or shorter.is_over


def read_by_h11(data: bytes) -> Reading:
    """h11's reading."""
    reader = h11.Connection(h11.SERVER, max_incomplete_event_size=32768)
    messages = Messages(reader)
    reader.receive_data(data)
    found: list[Message] = []
    while True:
        message = messages.next()
        if message is None:
            return Reading(found, reader.their_state is h11.ERROR)
        found.append(message[0])
        reader.send(h11.Response(status_code=404, headers=[("content-length", "0")]))
        reader.send(h11.EndOfMessage())
        if reader.our_state is not h11.DONE or reader.their_state is not h11.DONE:
            return Reading(found, True)
        reader.start_next_cycle()


class Messages:
    """The messages of one connection, which may come in pieces."""

    def __init__(self, reader: h11.Connection) -> None:
        self._reader = reader
        self._head: h11.Request | None = None
        self._body = b""

    def next(self) -> tuple[Message, bytes] | None:
        """The next whole message and the value of the field ``OURS``; None when it is not there yet or not to be read."""
        while True:
            try:
                event = self._reader.next_event()
            except h11.RemoteProtocolError:
                return None
            if isinstance(event, h11.Request):
                self._head, self._body = event, b""
            elif isinstance(event, h11.Data):
                self._body += bytes(event.data)
            elif isinstance(event, h11.EndOfMessage):
                head = self._head
                assert head is not None
                path = head.target.decode("latin-1").partition("?")[0]
                return (head.method.decode(), path, self._body), dict(head.headers).get(OURS, b"")
            else:
                return None


class Behind:
    """The server behind the proxies: what it was asked, by the port of the client in front."""

    def __init__(self) -> None:
        self.seen: dict[int, list[Message]] = defaultdict(list)
        self.port = 0
        self._server: asyncio.AbstractServer | None = None

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]

    def close(self) -> None:
        assert self._server is not None
        self._server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        parser = h11.Connection(h11.SERVER, max_incomplete_event_size=1 << 20)
        messages = Messages(parser)
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(65536):
                parser.receive_data(data)
                while (found := messages.next()) is not None:
                    message, port = found
                    self.seen[int(port)].append(message)
                    writer.write(parser.send(h11.Response(status_code=200, headers=[("content-length", "0")])) or b"")
                    if parser.our_state is h11.SWITCHED_PROTOCOL:  # CONNECT: no HTTP from here on
                        break
                    writer.write(parser.send(h11.EndOfMessage()) or b"")
                    if parser.our_state is not h11.DONE or parser.their_state is not h11.DONE:
                        break
                    parser.start_next_cycle()
        writer.close()


async def read_over(port: int, data: bytes, step: int, enough: int, seen: Callable[[int], list[Message]]) -> Reading:
    """The reading of a server on a port; ``seen(client port)`` are its messages so far, ``enough`` how many are waited for."""
    async with asyncio.timeout(30):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        own: int = writer.get_extra_info("sockname")[1]
        ended = asyncio.ensure_future(_until_end(reader))
        with contextlib.suppress(ConnectionError, RuntimeError):  # uvloop's word for a transport that is closed
            for at in range(0, len(data), step):
                writer.write(data[at : at + step])
                await asyncio.sleep(0)
        until = time.monotonic() + PATIENCE
        while not ended.done() and len(seen(own)) < enough and time.monotonic() < until:
            await asyncio.sleep(0.01)
        await asyncio.wait([ended], timeout=GRACE)
        is_over = ended.done()
        ended.cancel()
        writer.close()
    return Reading(list(seen(own)), is_over)


async def _until_end(reader: asyncio.StreamReader) -> None:
    with contextlib.suppress(ConnectionError):
        while await reader.read(65536):
            pass


NGINX_CONFIG = """
daemon off; master_process off; pid {folder}/nginx.pid; error_log {folder}/error.log;
events {{ worker_connections 2048; }}
http {{
  access_log off; client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/f; uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s;
  client_header_timeout 20s; client_body_timeout 20s; keepalive_timeout 20s;
  server {{
    listen 127.0.0.1:{port};
    location / {{
      proxy_pass http://127.0.0.1:{behind}; proxy_http_version 1.1;
      proxy_set_header Connection ""; proxy_set_header X-Client-Port $remote_port;
    }}
  }}
}}
"""
HAPROXY_CONFIG = """
global
  maxconn 2000
defaults
  mode http
  timeout connect 5s
  timeout client 20s
  timeout server 20s
  timeout http-request 20s
frontend f
  bind 127.0.0.1:{port}
  http-request set-header X-Client-Port %[src_port]
  default_backend b
backend b
  server s 127.0.0.1:{behind}
"""


@contextlib.contextmanager
def proxy(name: str, folder: Path, behind: int) -> Iterator[int]:
    """nginx or haproxy in front of a port, for the time of the block; its own port."""
    port = free_port()
    config = folder / f"{name}.conf"
    text = {"nginx": NGINX_CONFIG, "haproxy": HAPROXY_CONFIG}[name]
    config.write_text(text.format(folder=folder, port=port, behind=behind))
    command = (
        [str(NGINX), "-p", str(folder), "-c", str(config)] if name == "nginx" else [str(HAPROXY), "-db", "-f", str(config)]
    )
    with (folder / f"{name}.log").open("w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, start_new_session=True)
        try:
            until = time.monotonic() + 10
            while True:
                with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                    break
                assert process.poll() is None and time.monotonic() < until, (folder / f"{name}.log").read_text()
                time.sleep(0.05)
            yield port
        finally:
            kill_group(process)
