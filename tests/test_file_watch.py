"""A watched file is told of once its content is another and stands still."""

from __future__ import annotations

import os
from pathlib import Path

from mcpbridge.file_watch import FileWatch


def changed(watch: FileWatch) -> bool:
    looks = [watch.look() for _ in range(3)]
    return any(looks)


def test_only_other_bytes_count(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_text("one")
    watch = FileWatch(lambda: [str(path)])
    assert not changed(watch)
    path.write_text("two")
    assert changed(watch)
    assert not changed(watch)
    os.utime(path, (1, 1))
    assert not changed(watch)


def test_what_is_being_written_waits(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_text("1")
    watch = FileWatch(lambda: [str(path)])
    for size in range(2, 10):
        path.write_text("1" * size)
        assert not watch.look()
    assert watch.look()


def test_a_file_that_is_gone_changes_nothing_until_it_is_back(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_text("1")
    watch = FileWatch(lambda: [str(path)])
    path.unlink()
    assert not changed(watch)
    path.write_text("1")
    assert not changed(watch)
    path.unlink()
    assert not changed(watch)
    path.write_text("2")
    assert changed(watch)


def test_a_link_to_another_directory_is_a_change(tmp_path: Path) -> None:
    for name in ("1", "2"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a").write_text(name)
    (tmp_path / "data").symlink_to("1")
    watch = FileWatch(lambda: [str(tmp_path / "data" / "a")])
    (tmp_path / "new").symlink_to("2")
    os.replace(tmp_path / "new", tmp_path / "data")
    assert changed(watch)


def test_a_pipe_is_never_waited_for(tmp_path: Path) -> None:
    path = tmp_path / "a"
    os.mkfifo(path)
    watch = FileWatch(lambda: [str(path)])
    assert not changed(watch)
    path.unlink()
    path.write_text("1")
    assert changed(watch)
    path.unlink()
    os.mkfifo(path)
    assert not changed(watch)
