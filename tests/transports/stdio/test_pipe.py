"""stdio over a pair of named pipes: one client after the other, both halves."""

from __future__ import annotations

import asyncio
import json
import os
import select
import stat
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from mcpbridge.core.exchange import NoReply
from mcpbridge.core.ports import Dial
from mcpbridge.core.tasks import Spawn
from mcpbridge.errors import BridgeError
from mcpbridge.transports.stdio import pipe
from mcpbridge.transports.stdio.pipe import PipeFrontend, dial
from mcpbridge.transports.unix import ForeignFile
from mcpbridge.wire import message as m
from tests.golden.player import new_bridge
from tests.support.house import PARAMS, House
from tests.support.scripted import HELLO, META, never, until
from tests.support.scripted import answer as content_answer

INITIALIZE = {"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": PARAMS}
SIGN_IN = {"authorization": "good"}


class Place:
    def __init__(self, house: House, path: str) -> None:
        self.house = house
        self.path = path
        self.frontend = PipeFrontend(house.reception.serve, house.bridge.spawn)


class Nobody:
    def notified(self, notification: Any) -> None:
        return None

    async def asked(self, request: Any) -> Any:
        raise AssertionError

    def closed(self, cause: BaseException | None) -> None:
        return None


@pytest.fixture
async def place(tmp_path: Path) -> AsyncIterator[Place]:
    async with new_bridge(None) as bridge:
        place = Place(House(bridge), str(tmp_path / "gw"))
        await place.frontend.start(place.path, 0o660)
        yield place
        await place.frontend.close()


async def shell(path: str, *said: Any) -> list[Any]:
    """What a shell gets that writes these lines into one pipe, closes it and reads the other one to its end."""

    def run() -> list[Any]:
        with open(f"{path}.in", "w") as out:
            out.write("".join(json.dumps(line) + "\n" for line in said))
        with open(f"{path}.out") as answers:
            return [json.loads(line) for line in answers]

    async with asyncio.timeout(10):
        return await asyncio.to_thread(run)


async def test_a_client_that_closes_its_side_gets_every_answer_and_the_next_one_may_come(place: Place) -> None:
    for _ in range(3):
        answers = await shell(place.path, SIGN_IN, INITIALIZE, {"jsonrpc": "2.0", "id": 1, "method": "ping"})
        assert [answer["id"] for answer in answers] == [0, 1]
        assert answers[0]["result"] == HELLO
    assert len(place.house.bridge.sessions) == 0


async def test_without_signing_in_there_is_a_refusal(place: Place) -> None:
    assert [answer["error"]["code"] for answer in await shell(place.path, INITIALIZE)] == [1015]


async def test_one_that_comes_and_goes_without_a_word_is_no_client(place: Place) -> None:
    os.close(os.open(f"{place.path}.in", os.O_WRONLY | os.O_NONBLOCK))
    await asyncio.sleep(0)
    assert len(await shell(place.path, SIGN_IN, INITIALIZE)) == 1


async def test_one_that_does_not_read_is_let_go(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipe, "READER_TIME", 0.05)
    deaf = os.open(f"{place.path}.in", os.O_WRONLY | os.O_NONBLOCK)
    os.write(deaf, json.dumps(INITIALIZE).encode() + b"\n")

    async def comes_through() -> None:
        while len(await shell(place.path, SIGN_IN, INITIALIZE)) != 1:
            pass

    await asyncio.sleep(0.2)
    os.close(deaf)
    async with asyncio.timeout(10):
        await comes_through()


async def test_the_pipes_have_their_mode_and_go_with_their_listener(place: Place) -> None:
    for end in ("in", "out"):
        found = os.lstat(f"{place.path}.{end}")
        assert (stat.S_ISFIFO(found.st_mode), stat.S_IMODE(found.st_mode)) == (True, 0o660)
    await place.frontend.close()
    assert os.listdir(os.path.dirname(place.path)) == []


async def test_pipes_left_behind_are_taken_again_and_other_files_are_not(place: Place, tmp_path: Path) -> None:
    again = Place(place.house, str(tmp_path / "left"))
    os.mkfifo(f"{again.path}.in")
    await again.frontend.start(again.path, 0o600)
    assert len(await shell(again.path, SIGN_IN, INITIALIZE)) == 1
    await again.frontend.close()
    (tmp_path / "file.out").write_text("precious")
    with pytest.raises(ForeignFile):
        await Place(place.house, str(tmp_path / "file")).frontend.start(str(tmp_path / "file"), 0o600)
    assert (tmp_path / "file.out").read_text() == "precious"


async def test_a_server_behind_pipes_is_spoken_to_again_and_again_and_by_one_at_a_time(place: Place) -> None:
    reach = dial("s", place.house.bridge.spawn, place.path, authorization=lambda: "good", timeout=5)
    for number in range(3):
        talk = await reach("modern", Nobody())
        response = await talk.call(m.request(number, "tools/list", {"_meta": META}), NoReply())
        assert json.loads(bytes(response.result or b"")) == {"by": "tools/list"}
        with pytest.raises(BridgeError) as busy:
            await reach("modern", Nobody())
        assert busy.value.reason == "server_busy"
        await talk.close()
        await until(lambda: place.frontend.connections == 0)


class Slow:
    """A server that holds its ends until it is told to let go."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.hears = os.open(f"{path}.in", os.O_RDONLY | os.O_NONBLOCK)
        self.says = -1

    def answers(self) -> bool:
        """Open the end it talks at, once a client has come and listens there."""
        try:
            if os.read(self.hears, 1) == b"":
                return False
        except BlockingIOError:
            pass  # there is one, which says nothing yet
        try:
            self.says = os.open(f"{self.path}.out", os.O_WRONLY | os.O_NONBLOCK)
        except OSError:
            return False
        return True

    def let_go(self) -> None:
        os.close(self.hears)
        os.close(self.says)


async def parted(spawn: Spawn, folder: Path) -> tuple[Slow, Dial]:
    """A server that was spoken to and does not notice yet that it is over, and how to reach it."""
    for end in ("in", "out"):
        os.mkfifo(folder / f"s.{end}")
    server = Slow(str(folder / "s"))
    reach = dial("s", spawn, server.path)
    dialling = asyncio.ensure_future(reach("modern", Nobody()))
    await until(server.answers)
    await (await dialling).close()
    return server, reach


async def test_the_next_conversation_waits_until_the_server_is_through_with_the_last_one(tmp_path: Path) -> None:
    async with new_bridge(None) as bridge:
        old, reach = await parted(bridge.spawn, tmp_path)
        os.write(old.says, b"a last word\n")
        dialling = asyncio.ensure_future(reach("modern", Nobody()))
        assert await asyncio.wait([dialling], timeout=0.1) == (set(), {dialling})
        old.let_go()
        new = Slow(old.path)
        await until(new.answers)
        talk = await dialling
        await talk.notify(m.notification("notifications/progress", {}))
        await until(lambda: select.select([new.hears], [], [], 0)[0])
        assert b"notifications/progress" in os.read(new.hears, 1000)
        new.let_go()
        await talk.close()


async def test_a_server_that_never_lets_go_of_its_end_is_spoken_to_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipe, "LET_GO_TIME", 0.05)
    async with new_bridge(None) as bridge:
        server, reach = await parted(bridge.spawn, tmp_path)
        await (await reach("modern", Nobody())).close()
        server.let_go()


async def test_a_client_that_hangs_up_cancels_what_it_asked(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipe, "LET_GO_TIME", 0.05)
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
    talk = await dial("s", place.house.bridge.spawn, place.path, authorization=lambda: "good")("modern", Nobody())
    call = asyncio.ensure_future(talk.call(m.request(1, "tools/list", {"_meta": META}), NoReply()))
    await asyncio.wait_for(began.wait(), 5)
    await talk.close()
    await asyncio.wait_for(ended.wait(), 5)
    with pytest.raises(BridgeError):
        await call


@pytest.mark.parametrize(
    ("made", "reason"), [("nothing", "stdio_no_such_file"), ("pipes", "connection_refused"), ("file", "connection_refused")]
)
async def test_a_server_that_is_not_there_is_told_with_its_path(tmp_path: Path, made: str, reason: str) -> None:
    path = str(tmp_path / "s")
    for end in (f"{path}.in", f"{path}.out"):
        if made == "pipes":
            os.mkfifo(end)
        elif made == "file":
            Path(end).touch()
    async with new_bridge(None) as bridge:
        with pytest.raises(BridgeError) as refused:
            await dial("s", bridge.spawn, path, timeout=0.1)("legacy", Nobody())
    assert (refused.value.reason, refused.value.sent) == (reason, False)
    assert path in str(refused.value)
