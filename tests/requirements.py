"""Which tests prove which claims of the operator's guide, read from the tests themselves.

A test names the claims it proves: ``@pytest.mark.requirement("cli.argv0")`` on a function, on a class, or as the module's
``pytestmark``; ``*NAME`` is allowed where NAME is a module-level tuple of literals. Nothing is imported: the manifest is read
from the syntax trees. ``tests/data/claims.json`` lists every claim, ``tests/data/uncovered.txt`` those without a test yet.

``python tests/requirements.py`` prints the figures, ``--list`` the manifest, ``--update`` removes from the list of uncovered
claims those that have a test now.
"""

from __future__ import annotations

import argparse
import ast
import json
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

TESTS = Path(__file__).resolve().parent
CLAIMS = TESTS / "data" / "claims.json"
UNCOVERED = TESTS / "data" / "uncovered.txt"


def claims() -> set[str]:
    """Ids of all claims of the guide."""
    return {row["id"] for row in json.loads(CLAIMS.read_text(encoding="utf-8"))}


def uncovered() -> list[str]:
    """Ids of the claims that no test proves yet, in the order of the file."""
    return UNCOVERED.read_text(encoding="utf-8").split()


def manifest(root: Path = TESTS) -> dict[str, list[str]]:
    """Claim id -> the tests that prove it, each as ``file::test`` (relative to the directory above ``root``).

    Raises: ValueError, with the place, for a marker whose ids cannot be read without running the test.
    """
    found: dict[str, list[str]] = {}
    for path in sorted(root.rglob("test_*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"), str(path))
        constants = dict(_constants(tree))
        everywhere = _ids(_module_marks(tree), constants, path)
        for node, names, ids in _tests(tree.body, [], everywhere, constants, path):
            for claim in ids:
                found.setdefault(claim, []).append("::".join([str(path.relative_to(root.parent)), *names, node.name]))
    return found


def _tests(
    body: Iterable[ast.stmt], names: list[str], inherited: list[str], constants: dict[str, list[str]], path: Path
) -> Iterator[tuple[ast.FunctionDef | ast.AsyncFunctionDef, list[str], list[str]]]:
    """Every test function below ``body`` with the names of its classes and the claims it proves."""
    for node in body:
        if isinstance(node, ast.ClassDef) and node.name.startswith("Test"):
            ids = inherited + _ids(node.decorator_list, constants, path)
            yield from _tests(node.body, [*names, node.name], ids, constants, path)
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test"):
            yield node, names, inherited + _ids(node.decorator_list, constants, path)


def _constants(tree: ast.Module) -> Iterator[tuple[str, list[str]]]:
    """Module-level names that are bound to a tuple or list of string literals."""
    for node in tree.body:
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Tuple | ast.List):
            items = [item.value for item in node.value.elts if isinstance(item, ast.Constant) and isinstance(item.value, str)]
            if len(items) == len(node.value.elts):
                yield from ((target.id, items) for target in node.targets if isinstance(target, ast.Name))


def _module_marks(tree: ast.Module) -> list[ast.expr]:
    for node in tree.body:
        if isinstance(node, ast.Assign) and any(isinstance(t, ast.Name) and t.id == "pytestmark" for t in node.targets):
            return list(node.value.elts) if isinstance(node.value, ast.List | ast.Tuple) else [node.value]
    return []


def _ids(marks: Iterable[ast.expr], constants: dict[str, list[str]], path: Path) -> list[str]:
    """Claim ids of those marks that are requirement marks."""
    ids: list[str] = []
    for mark in marks:
        if not (isinstance(mark, ast.Call) and ast.unparse(mark.func) == "pytest.mark.requirement"):
            continue
        for argument in mark.args:
            if isinstance(argument, ast.Constant) and isinstance(argument.value, str):
                ids.append(argument.value)
            elif isinstance(argument, ast.Starred) and isinstance(argument.value, ast.Name) and argument.value.id in constants:
                ids.extend(constants[argument.value.id])
            else:
                raise ValueError(f"{path}:{argument.lineno}: a requirement must be a literal id or *NAME of a literal tuple")
    return ids


def update() -> int:
    """Drop the covered claims from the list of uncovered ones; returns how many were dropped."""
    covered = manifest()
    before = uncovered()
    after = [claim for claim in before if claim not in covered]
    if after != before:
        UNCOVERED.write_text("".join(f"{claim}\n" for claim in after), encoding="utf-8")
    return len(before) - len(after)


def main(argv: list[str] | None = None) -> int:
    """Command line; returns the exit code."""
    parser = argparse.ArgumentParser(description="which tests prove which claims of the guide")
    parser.add_argument("--list", action="store_true", help="print the manifest as JSON")
    parser.add_argument("--update", action="store_true", help="drop covered claims from tests/data/uncovered.txt")
    options = parser.parse_args(argv)
    if options.update:
        print(f"{update()} claims newly covered")
    covered = manifest()
    if options.list:
        print(json.dumps(covered, indent=1, sort_keys=True))
    else:
        print(f"{len(claims())} claims, {len(covered)} covered, {len(uncovered())} not yet")
    return 0


if __name__ == "__main__":
    sys.exit(main())
