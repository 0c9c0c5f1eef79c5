"""The manifest of claims and tests is true in both directions, and the list of uncovered claims only shrinks."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests import requirements

ROOT = Path(__file__).resolve().parents[1]
LIST = "tests/data/uncovered.txt"


def git(*arguments: str) -> str:
    environment = {**os.environ, "GIT_OPTIONAL_LOCKS": "0"}
    done = subprocess.run(["git", *arguments], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=20)
    return done.stdout if done.returncode == 0 else ""


def test_every_claim_is_either_covered_or_listed_as_uncovered():
    covered, listed = set(requirements.manifest()), requirements.uncovered()
    assert len(listed) == len(set(listed)), "ids twice in uncovered.txt"
    assert sorted(covered & set(listed)) == [], "covered now: run python tests/requirements.py --update"
    assert sorted(requirements.claims() - covered - set(listed)) == []


def test_every_named_claim_exists():
    covered, listed = set(requirements.manifest()), set(requirements.uncovered())
    assert sorted((covered | listed) - requirements.claims()) == []


def test_the_list_of_uncovered_claims_only_shrinks():
    """A claim that once had a test keeps one: every committed version of the list contains the present one."""
    if not shutil.which("git") or not git("rev-parse", "--git-dir"):
        assert len(requirements.uncovered()) < len(requirements.claims())
        return
    now = set(requirements.uncovered())
    for commit in git("log", "--format=%H", "--", LIST).split():
        then = set(git("show", f"{commit}:{LIST}").split())
        known = {row["id"] for row in json.loads(git("show", f"{commit}:tests/data/claims.json") or "[]")}
        assert sorted((now & known) - then) == [], f"had a test at {commit[:10]}"


def test_marks_are_found_on_functions_classes_and_modules(tmp_path):
    root = tmp_path / "tests"
    root.mkdir()
    (root / "test_one.py").write_text(
        "import pytest\n"
        "pytestmark = [pytest.mark.slow, pytest.mark.requirement('a')]\n"
        "MORE = ('c', 'd')\n"
        "@pytest.mark.requirement('b')\n"
        "class TestThing:\n"
        "    @pytest.mark.requirement(*MORE)\n"
        "    async def test_it(self): ...\n"
    )
    node = "tests/test_one.py::TestThing::test_it"
    assert requirements.manifest(root) == {"a": [node], "b": [node], "c": [node], "d": [node]}


def test_a_computed_id_is_refused_with_its_place(tmp_path):
    (tmp_path / "test_one.py").write_text("import pytest\n@pytest.mark.requirement(f())\ndef test_it(): ...\n")
    with pytest.raises(ValueError, match=r"test_one\.py:2: a requirement must be a literal id"):
        requirements.manifest(tmp_path)


def test_the_copied_claims_equal_the_reference_where_it_is_present():
    reference = ROOT.parent / "shared" / "guide" / "claims.json"
    if not reference.exists():
        assert len(requirements.claims()) > 600
        return
    wanted = [{key: row[key] for key in ("id", "section", "kind")} for row in json.loads(reference.read_text())]
    assert json.loads(requirements.CLAIMS.read_text()) == wanted


def test_the_copied_commands_stand_in_the_guide_where_it_is_present():
    blocks = json.loads((ROOT / "tests/data/guide-commands.json").read_text())
    assert blocks
    guide = ROOT.parent / "shared" / "guide" / "deployment-guide.md"
    if guide.exists():
        text = "\n".join(line.strip() for line in guide.read_text().splitlines())
        for block in blocks:
            assert "\n".join(line.strip() for line in block["commands"].splitlines()) in text
