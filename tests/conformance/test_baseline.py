"""The list of known failures: it may only shrink, and every row of it means something."""

from __future__ import annotations

import itertools
import json
import subprocess

import pytest

from tests.conformance import matrix, run
from tests.conformance.test_clients import CASES
from tests.support import setup


def git(*arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=setup.ROOT, capture_output=True, text=True, check=False, timeout=20)
    return done.stdout if done.returncode == 0 else ""


def grown(older: str, newer: str) -> set[tuple[str, str]]:
    """Rows that a later baseline has and an earlier one had not; other suites begin a list of their own."""
    if json.loads(older)["suites"] != json.loads(newer)["suites"]:
        return set()
    return matrix.entries(newer) - matrix.entries(older)


def document(failures: dict[str, dict[str, str]], suites: str = "1") -> str:
    return json.dumps({"suites": suites, "failures": failures})


def test_a_row_that_was_added_is_found_and_one_that_was_taken_is_not() -> None:
    older, newer = document({"a": {"x": "why", "y": "why"}}), document({"a": {"x": "why", "z": "why"}})
    assert grown(older, newer) == {("a", "z")}
    assert grown(older, document({"a": {"x": "why"}})) == set()
    assert grown(older, document({"b": {"x": "why"}}, suites="2")) == set()


def test_the_baseline_has_only_ever_shrunk() -> None:
    name = matrix.BASELINE.relative_to(setup.ROOT).as_posix()
    commits = git("log", "--format=%H", "--", name).split()
    if not commits:
        pytest.skip("no history here")
    texts = [matrix.BASELINE.read_text(encoding="utf-8"), *(git("show", f"{commit}:{name}") for commit in commits)]
    for newer, older in itertools.pairwise(texts):
        assert not grown(older, newer)


def test_the_baseline_belongs_to_the_installed_suites() -> None:
    pinned = {suite: setup.NPM[alias].rpartition("@")[2] for suite, alias in run.SUITES.items()}
    pinned["client"] = pinned["0.2"]
    assert json.loads(matrix.BASELINE.read_text(encoding="utf-8"))["suites"] == pinned


def test_every_row_of_the_baseline_belongs_to_a_cell_and_says_why() -> None:
    cells = [f"{cell} " for cell in matrix.bridged()]
    cells += [f"client {version} {way} " for version, _, way in CASES]
    for start, rows in json.loads(matrix.BASELINE.read_text(encoding="utf-8"))["failures"].items():
        assert any(cell.startswith(f"{start} ") for cell in cells), start
        assert rows
        assert all(rows.values())


def test_the_short_tier_has_every_crossing_of_a_suite_and_a_kind_of_server() -> None:
    crossings = {(cell.suite, cell.version, cell.kind) for cell in matrix.bridged()}
    assert {(cell.suite, cell.version, cell.kind) for cell in matrix.bridged() if cell.is_short} == crossings
    assert len(crossings) == len(matrix.SUITES) * len(matrix.KINDS)
