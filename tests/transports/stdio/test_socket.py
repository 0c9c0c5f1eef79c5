"""stdio over a unix socket: who finds whom, who may come in, and how it ends."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import socket
import stat
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from mcpbridge.core.exchange import NoReply
from mcpbridge.core.peer import Peer
from mcpbridge.errors import BridgeError
from mcpbridge.transports.doors import ConnectionLimits
from mcpbridge.transports.stdio import socket as unix
from mcpbridge.transports.stdio.lines import Lines
from mcpbridge.transports.stdio.socket import Credentials, SocketFrontend, dial, may_connect
from mcpbridge.transports.unix import ForeignFile
from mcpbridge.wire import message as m
from tests.golden.player import new_bridge
from tests.support.house import PARAMS, House
from tests.support.scripted import HELLO, META, never, until
from tests.support.scripted import answer as content_answer

PING = {"jsonrpc": "2.0", "id": 1, "method": "tools/list", "params": {"_meta": META}}
INITIALIZE = {"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": PARAMS}
SIGN_IN = {"authorization": "good"}


class Place:
    """A listening socket, and the house behind it."""

    def __init__(self, house: House, path: str, limit: int = 10) -> None:
        self.house = house
        self.path = path
        self.limits = ConnectionLimits(limit, limit)
        self.clients: list[Client] = []
        self.frontend = SocketFrontend(house.reception.serve, house.bridge.spawn, self.limits, max_message=100_000)

    async def connect(self, *said: Any) -> Client:
        client = Client(*await asyncio.open_unix_connection(self.path))
        self.clients.append(client)
        for message in said:
            client.say(message)
        return client

    async def close(self) -> None:
        for client in self.clients:
            client.writer.close()
        await self.frontend.close()


class Client:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    def say(self, message: Any) -> None:
        self.writer.write(message if isinstance(message, bytes) else json.dumps(message).encode() + b"\n")

    async def hear(self) -> Any:
        """The next message, or None at the end."""
        async with asyncio.timeout(5):
            line = await self.reader.readline()
        return json.loads(line) if line else None


@pytest.fixture
async def place(tmp_path: Path) -> AsyncIterator[Place]:
    async with new_bridge(None) as bridge:
        place = Place(House(bridge), str(tmp_path / "gw.sock"))
        await place.frontend.start(place.path, 0o660)
        yield place
        await place.close()


@pytest.mark.requirement("http.gateway.stdio")
async def test_a_socket_serves_clients_of_both_eras(place: Place) -> None:
    legacy = await place.connect(SIGN_IN, INITIALIZE)
    assert (await legacy.hear())["result"] == HELLO
    modern = await place.connect(SIGN_IN, {**PING, "method": "server/discover"})
    assert (await modern.hear())["id"] == 1
    assert (place.frontend.connections, place.limits.open) == (2, 2)
    legacy.writer.close()
    modern.writer.close()
    await until(lambda: place.frontend.connections == 0)
    assert (place.limits.open, len(place.house.bridge.sessions)) == (0, 0)


@pytest.mark.requirement("http.server.socat")
async def test_a_client_that_closes_its_side_gets_every_answer_before_the_end(place: Place) -> None:
    client = await place.connect(SIGN_IN, INITIALIZE, {"jsonrpc": "2.0", "id": 1, "method": "ping"})
    client.say(b'{"jsonrpc":"2.0","id":2,"method":"prompts/list"}')  # without its newline
    client.writer.write_eof()
    assert [(await client.hear())["id"] for _ in range(3)] == [0, 1, 2]
    assert await client.hear() is None


async def test_a_client_that_hangs_up_after_it_closed_its_side_cancels_what_it_asked(place: Place) -> None:
    began, ended = asyncio.Event(), asyncio.Event()

    async def hangs(talk: Any, request: Any, reply: Any) -> Any:
        if request.method != "tools/list":
            return await content_answer(talk, request, reply)
        began.set()
        try:
            await never()
        finally:
            ended.set()

    place.house.scripted.answer = hangs
    client = await place.connect(SIGN_IN, INITIALIZE, {"jsonrpc": "2.0", "id": 1, "method": "tools/list"})
    client.writer.write_eof()
    await asyncio.wait_for(began.wait(), 5)
    assert place.frontend.connections == 1
    client.writer.transport.abort()
    await asyncio.wait_for(ended.wait(), 5)
    await until(lambda: place.frontend.connections == 0)


async def test_without_a_sign_in_line_there_is_one_refusal_and_the_end(place: Place) -> None:
    client = await place.connect(PING)
    assert (await client.hear())["error"]["data"]["reason"] == "unauthorized"
    assert await client.hear() is None


@pytest.mark.requirement("limit.auth.per-message")
async def test_a_token_that_is_taken_back_ends_the_connection_and_a_renewed_one_does_not(place: Place) -> None:
    client = await place.connect(SIGN_IN, PING)
    assert "result" in await client.hear()
    place.house.good["renewed"] = place.house.good.pop("good")
    client.say({"authorization": "renewed"})
    client.say(PING)
    assert "result" in await client.hear()
    del place.house.good["renewed"]
    client.say(PING)
    assert (await client.hear())["error"]["code"] == 1015
    assert await client.hear() is None


@pytest.mark.requirement("limit.auth.per-message")
async def test_a_message_counts_under_the_token_it_came_behind_though_the_next_one_came_with_it(place: Place) -> None:
    client = await place.connect()
    client.writer.write(b"".join(json.dumps(said).encode() + b"\n" for said in ({"authorization": "wrong"}, PING, SIGN_IN)))
    assert (await client.hear())["error"]["code"] == 1015
    assert await client.hear() is None


@pytest.mark.parametrize(
    "line",
    [
        b'{"authorization": 7}',
        b'{"authorization": "good", "method": "x"}',
        b'{"authorization": "' + b"a" * 40_000 + b'"}',
        b'{"jsonrpc":"2.0","method":"x","params":{"authorization":"good"}}',
    ],
)
async def test_only_a_line_of_nothing_else_signs_in(place: Place, line: bytes) -> None:
    client = await place.connect(line + b"\n", PING)
    assert (await client.hear())["error"]["code"] in (-32600, -32700, 1015)


@pytest.mark.requirement("limit.stdio-line")
async def test_a_line_that_is_too_long_is_a_parse_error_and_the_end(place: Place) -> None:
    client = await place.connect(SIGN_IN, b'{"jsonrpc":"2.0","id":1,"method":"' + b"x" * 200_000)
    assert (await client.hear())["error"]["code"] == -32700
    assert await client.hear() is None


async def test_garbage_is_answered_and_harms_nobody(place: Place) -> None:
    other = await place.connect(SIGN_IN, INITIALIZE)
    client = await place.connect(SIGN_IN, b"no json\n", b"\xff\xfe\n", b"[]\n", b"\n\n", PING)
    codes = [(await client.hear()).get("error", {}).get("code") for _ in range(4)]
    assert codes == [-32700, -32700, -32600, None]
    assert (await other.hear())["result"] == HELLO


async def test_the_file_has_its_mode_and_goes_with_its_listener(place: Place) -> None:
    found = os.lstat(place.path)
    assert (stat.S_ISSOCK(found.st_mode), stat.S_IMODE(found.st_mode)) == (True, 0o660)
    assert os.listdir(os.path.dirname(place.path)) == ["gw.sock"]
    place.frontend.stop_accepting()
    assert not os.path.lexists(place.path)


async def test_the_listener_leaves_the_file_of_its_successor_alone(place: Place) -> None:
    os.unlink(place.path)
    successor = Place(place.house, place.path)
    await successor.frontend.start(place.path, 0o600)
    place.frontend.stop_accepting()
    assert os.path.lexists(place.path)
    await successor.close()
    assert not os.path.lexists(place.path)


async def test_a_stale_socket_of_ours_is_replaced_and_one_in_use_is_not(place: Place) -> None:
    stale = f"{place.path}2"
    with socket.socket(socket.AF_UNIX) as gone:
        gone.bind(stale)
    second = Place(place.house, stale)
    await second.frontend.start(stale, 0o660)
    assert (await (await second.connect(SIGN_IN, INITIALIZE)).hear())["result"] == HELLO
    await second.close()
    with pytest.raises(OSError) as taken:
        await Place(place.house, place.path).frontend.start(place.path, 0o660)
    assert (taken.value.errno, type(taken.value)) == (errno.EADDRINUSE, OSError)
    assert (await (await place.connect(SIGN_IN, INITIALIZE)).hear())["result"] == HELLO


@pytest.mark.parametrize("kind", ["file", "directory", "link", "pipe"])
async def test_a_foreign_file_is_left_alone(place: Place, tmp_path: Path, kind: str) -> None:
    path = tmp_path / "taken"
    makers = {
        "file": lambda: path.write_text("precious"),
        "directory": path.mkdir,
        "link": lambda: path.symlink_to(place.path),
        "pipe": lambda: os.mkfifo(path),
    }
    makers[kind]()
    with pytest.raises(ForeignFile):
        await Place(place.house, str(path)).frontend.start(str(path), 0o660)
    assert os.path.lexists(path)


@pytest.mark.skipif(os.geteuid() != 0, reason="gives files to another user")
async def test_a_socket_of_another_user_is_foreign(place: Place, tmp_path: Path) -> None:
    path = str(tmp_path / "theirs.sock")
    with socket.socket(socket.AF_UNIX) as theirs:
        theirs.bind(path)
    os.chown(path, 65534, 65534)
    with pytest.raises(ForeignFile):
        await Place(place.house, path).frontend.start(path, 0o660)


async def test_a_path_that_is_too_long_or_nowhere_is_told_as_such(place: Place, tmp_path: Path) -> None:
    for path, number in ((f"/tmp/{'x' * 300}", errno.ENAMETOOLONG), (str(tmp_path / "no" / "gw.sock"), errno.ENOENT)):
        with pytest.raises(OSError) as wrong:
            await Place(place.house, path).frontend.start(path, 0o660)
        assert wrong.value.errno == number


@pytest.mark.parametrize(
    ("uid", "groups", "mode", "enters"),
    [
        (1000, (), 0o600, True),
        (0, (), 0o600, True),
        (1001, (), 0o660, False),
        (1001, (50,), 0o660, True),
        (1001, (50,), 0o640, False),
        (1001, (50,), 0o600, False),
        (1001, (), 0o666, True),
    ],
)
def test_the_mode_says_which_users_may_connect(uid: int, groups: tuple[int, ...], mode: int, enters: bool) -> None:
    assert may_connect(Credentials(uid, frozenset(groups)), mode, 1000, 50) is enters


async def test_a_user_whom_the_mode_does_not_let_in_is_refused(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unix, "credentials", lambda _sock: Credentials(4711, frozenset({4711})))
    client = await place.connect()
    assert (await client.hear())["error"]["data"]["reason"] == "forbidden"
    assert await client.hear() is None
    assert place.limits.open == 0


def test_the_system_names_the_user_at_the_other_end() -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX)
    with ours, theirs:
        found = unix.credentials(ours)
    assert found is not None
    assert found.uid == os.geteuid()
    assert set(os.getgroups()) | {os.getegid()} == found.groups


async def test_connections_above_the_limit_are_refused_and_free_again_later(place: Place, tmp_path: Path) -> None:
    small = Place(place.house, str(tmp_path / "small.sock"), limit=1)
    await small.frontend.start(small.path, 0o660)
    first = await small.connect(SIGN_IN, INITIALIZE)
    await first.hear()
    second = await small.connect()
    assert "too many connections" in (await second.hear())["error"]["message"]
    first.writer.close()
    await until(lambda: small.limits.open == 0)
    third = await small.connect(SIGN_IN, INITIALIZE)
    assert (await third.hear())["result"] == HELLO
    await small.close()


async def test_who_drains_lets_its_clients_go(place: Place) -> None:
    client = await place.connect(SIGN_IN, INITIALIZE)
    await client.hear()
    place.house.bridge.draining.set()
    place.frontend.stop_accepting()
    await place.frontend.drain(5)
    assert place.frontend.connections == 0
    assert await client.hear() is None


# The other half: a server behind a socket


class Nobody:
    def notified(self, notification: Any) -> None:
        return None

    async def asked(self, request: Any) -> Any:
        raise AssertionError

    def closed(self, cause: BaseException | None) -> None:
        self.cause = cause


async def test_a_server_behind_a_socket_is_spoken_to_and_signed_in_at(place: Place) -> None:
    reach = dial("s", place.house.bridge.spawn, place.path, authorization=lambda: "good")
    talk = await reach("modern", Nobody())
    response = await talk.call(m.request(9, "tools/list", {"_meta": META}), NoReply())
    assert (response.id, json.loads(bytes(response.result or b""))) == (9, {"by": "tools/list"})
    await talk.close()
    await until(lambda: place.frontend.connections == 0)


async def test_a_server_that_hangs_up_ends_the_conversation(tmp_path: Path) -> None:
    hung = asyncio.Event()

    async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readline()
        writer.close()
        hung.set()

    server = await asyncio.start_unix_server(hang_up, str(tmp_path / "s"))
    async with new_bridge(None) as bridge:
        nobody = Nobody()
        talk = await dial("s", bridge.spawn, str(tmp_path / "s"))("legacy", nobody)
        assert isinstance(talk, Peer)
        with pytest.raises(BridgeError) as gone:
            await asyncio.wait_for(talk.call(m.request(1, "ping"), NoReply()), 5)
        assert gone.value.reason == "stream_closed"
        assert hung.is_set() and talk.is_closed
    server.close()


@pytest.mark.parametrize(("made", "reason"), [("nothing", "stdio_no_such_file"), ("stale", "connection_refused")])
async def test_a_server_that_is_not_there_is_told_with_its_path(tmp_path: Path, made: str, reason: str) -> None:
    path = str(tmp_path / "s")
    if made == "stale":
        with socket.socket(socket.AF_UNIX) as gone:
            gone.bind(path)
    async with new_bridge(None) as bridge:
        with pytest.raises(BridgeError) as refused:
            await dial("s", bridge.spawn, path)("legacy", Nobody())
    assert (refused.value.reason, refused.value.sent) == (reason, False)
    assert path in str(refused.value)


async def test_one_that_does_not_read_is_hung_up_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mcpbridge.transports.stdio.lines.MAX_BUFFER", 1 << 20)
    ours, theirs = socket.socketpair(socket.AF_UNIX)
    lines = Lines(1 << 20, client=True)
    await asyncio.get_running_loop().create_unix_connection(lambda: lines, sock=ours)
    told: list[BaseException | None] = []
    lines.start(lambda _message: None, told.append)
    for _ in range(100):
        if not told:
            with suppress(ConnectionError):
                lines.send(b"x" * 65536)
    assert [type(cause) for cause in told] == [ConnectionAbortedError]
    monkeypatch.setattr("mcpbridge.transports.stdio.lines.CLOSE_TIME", 0.05)
    await lines.close()
    theirs.close()
