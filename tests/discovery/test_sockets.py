"""Servers found by their sockets."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from mcpbridge.discovery import Source, sockets
from mcpbridge.discovery.sockets import find_sockets


@pytest.fixture
def listen() -> Iterator[object]:
    with ExitStack() as stack:

        def make(path: Path) -> str:
            path.parent.mkdir(parents=True, exist_ok=True)
            stack.enter_context(socket.socket(socket.AF_UNIX)).bind(str(path))
            return str(path)

        yield make


@pytest.mark.requirement("config.gateway.backends.stdio.socket_discovery")
def test_every_socket_below_a_directory_is_a_server_named_after_its_file(tmp_path, listen) -> None:
    weather = listen(tmp_path / "weather.sock")
    deep = listen(tmp_path / "a" / "b" / "my files.v2")
    (tmp_path / "note.sock").write_text("no socket")
    os.mkfifo(tmp_path / "pipe.sock")
    (tmp_path / "nowhere.sock").symlink_to(tmp_path / "gone")
    found, _ = find_sockets([str(tmp_path), str(tmp_path / "not-there")])
    assert [(spec.name, spec.endpoints[0].url) for spec in found] == [("weather", f"unix://{weather}")]
    assert deep  # its path has a space, which no address has


@pytest.mark.requirement("config.gateway.backends.stdio.socket_paths")
def test_what_leads_out_of_the_directory_is_left_out(tmp_path, listen) -> None:
    outside = listen(tmp_path / "outside" / "o.sock")
    inside = listen(tmp_path / "inside" / "i.sock")
    (tmp_path / "inside" / "out.sock").symlink_to(outside)
    (tmp_path / "inside" / "folder").symlink_to(tmp_path / "outside")
    (tmp_path / "link").symlink_to(tmp_path / "inside")
    for root in ("inside", "link"):
        assert [spec.endpoints[0].url for spec in find_sockets([str(tmp_path / root)])[0]] == [f"unix://{inside}"]


def test_a_link_to_a_socket_inside_is_not_a_second_server(tmp_path, listen) -> None:
    listen(tmp_path / "a" / "one.sock")
    (tmp_path / "two.sock").symlink_to(tmp_path / "a" / "one.sock")
    found, skipped = find_sockets([str(tmp_path)])
    assert ([spec.name for spec in found], skipped) == (["one"], [])


def test_a_directory_that_others_can_change_promises_nothing(tmp_path, listen) -> None:
    (tmp_path / "in").mkdir()
    listen(tmp_path / "in" / "open" / "x.sock")
    listen(tmp_path / "in" / "kept.sock")
    (tmp_path / "in" / "open").chmod(0o777)
    found, skipped = find_sockets([str(tmp_path / "in")])
    assert ([spec.name for spec in found], skipped) == (["kept"], [f"{tmp_path}/in/open: everybody may change the directory"])
    (tmp_path / "in" / "open").chmod(0o1777)  # as /tmp: nobody but the owner of a file can replace it
    assert [spec.name for spec in find_sockets([str(tmp_path / "in")])[0]] == ["kept", "x"]


@pytest.mark.skipif(os.geteuid() != 0, reason="gives files to another user")
def test_a_directory_of_another_user_promises_nothing(tmp_path, listen) -> None:
    listen(tmp_path / "theirs" / "x.sock")
    os.chown(tmp_path / "theirs", 65534, 65534)
    cause = f"{tmp_path}/theirs: the directory belongs to another user"
    assert find_sockets([str(tmp_path / "theirs")]) == ([], [cause])


def test_the_first_of_two_sockets_with_one_name_has_it(tmp_path, listen) -> None:
    listen(tmp_path / "b.sock")
    second = listen(tmp_path / "x" / "b.sock")
    found, skipped = find_sockets([str(tmp_path)])
    assert ([spec.name for spec in found], skipped) == (["b"], [f"{second}: another socket has its name"])


@pytest.mark.skipif(os.geteuid() != 0, reason="gives files to another user")
def test_a_socket_of_another_user_is_left_out(tmp_path, listen) -> None:
    os.chown(listen(tmp_path / "theirs.sock"), 65534, 65534)
    assert find_sockets([str(tmp_path)])[0] == []


def test_the_search_ends(tmp_path, listen, monkeypatch) -> None:
    listen(tmp_path / "1" / "2" / "3" / "4" / "deep.sock")
    listen(tmp_path / "1" / "2" / "3" / "near.sock")
    assert [spec.name for spec in find_sockets([str(tmp_path)])[0]] == ["near"]
    monkeypatch.setattr(sockets, "MAX_ENTRIES", 0)
    with pytest.raises(OSError, match="more than 0 files"):
        find_sockets([str(tmp_path)])


async def test_a_flood_of_files_takes_no_server_away(tmp_path, listen, monkeypatch) -> None:
    listen(tmp_path / "kept.sock")
    source = Source("sockets", lambda: None)
    task = asyncio.create_task(sockets.Sockets([str(tmp_path)], pause=0.01).watch(source))
    try:
        async with asyncio.timeout(5):
            await source.looked.wait()
            monkeypatch.setattr(sockets, "MAX_ENTRIES", 10)
            for number in range(20):
                (tmp_path / str(number)).touch()
            while source.last_error is None:
                await asyncio.sleep(0.01)
    finally:
        task.cancel()
    told = source.told()
    assert ([spec.name for spec in source.servers], told.state) == (["kept"], "degraded")
    assert "more than 10 files" in str(told.last_error)


def test_a_directory_that_is_not_there_is_said(tmp_path) -> None:
    assert find_sockets([str(tmp_path / "gone")]) == ([], [f"{tmp_path}/gone: it cannot be read: no such file or directory"])
