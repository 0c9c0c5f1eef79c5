"""The rules of the house (ARCHITECTURE.md), read from the syntax trees: floors, owners, laziness, words, sizes."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
STDLIB = sys.stdlib_module_names

CELLAR = ("config", "observe", "errors", "secrets", "private_files", "seal", "outbound", "proxies", "descriptors")
ROOMS = ("transports", "detect", "era", "policies", "discovery", "stores", "credentials", "clients", "checks", "demo")
WIRINGS = ("router", "gateway", "workers")
ATTIC = (
    "balancing",
    "bridge",
    "detection",
    "wiring",
    "execute",
    "foresight",
    "self_checks",
    "overload",
    "watchdog",
    "departure",
    "operation",
    "reload",
    "pools",
    "performance",
    "process",
    "file_watch",
    "gateways",
    "greeting",
    "providers",
    "status",
    "faces",
    "listeners",
    "management",
    "errand",
)  # what the wirings share
#: floor or room -> what of our own it may import (its own files always). Nothing else may be imported.
FLOORS: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(CELLAR, CELLAR),
    "wire": ("errors",),
    "core": ("wire", *CELLAR),
    **dict.fromkeys(ROOMS, ("core", "wire", *CELLAR)),
    "demo": ("transports", "policies", "core", "wire", *CELLAR),  # programs of their own, nobody's plug-in
    "setup": ("clients", *CELLAR),
    "admin": (*ROOMS, "core", "wire", *CELLAR),
    **dict.fromkeys((*WIRINGS, *ATTIC), (*ATTIC, "admin", *ROOMS, "core", "wire", *CELLAR)),
    "cli": (*WIRINGS, *ATTIC, "setup", "admin", *ROOMS, "core", "wire", *CELLAR, "tui"),
    "__main__": ("cli",),
    "tui": (
        *("config", "secrets", "clients", "checks", "setup", "admin.client", "admin.text"),
        *("observe.snapshot", "observe.balancing", "observe.pools", "observe.findings"),  # the document and its parts
    ),
}
#: third-party library -> the modules (and packages) that own it.
OWNERS: dict[str, tuple[str, ...]] = {
    "httptools": ("wire.http1",),
    "jiter": ("wire",),
    "uvloop": (*WIRINGS, "process"),
    "cryptography": ("seal", "secrets"),
    "websockets": ("transports.websocket",),
    "aiohttp": ("outbound",),
    "redis": ("stores.redis",),
    "kubernetes_asyncio": ("discovery.kubernetes",),
    "jwt": ("policies.jwt",),
    "keyring": ("secrets",),
    "yaml": ("config.load",),
    "prometheus_client": ("admin.prometheus",),
    "opentelemetry": ("observe.otlp",),
    "textual": ("tui",),
    "rich": ("tui",),
    "msgspec": ("wire", "core", "admin", *CELLAR, *ROOMS, *WIRINGS, *ATTIC),
}
LAZY = ("yaml", "keyring", "aiohttp")  # imported inside functions only
IMPURE = {"asyncio", "socket", "time", "random", "logging", "os", "threading", "subprocess"}
PURE = ("wire", "core.balance", "core.breaker", "core.health", "core.predict", "core.detect")
#: modules whose tasks end elsewhere than in the function that starts them, and where
TASK_OWNERS = {
    "transports.http1.connection",  # the server's set, ended by close()
    "transports.http1.upgrade",  # likewise
    "transports.tcp_binary.listen",  # the frontend's set, ended by close()
    "transports.doors",  # the sets of the door, ended by stop_accepting() and abort()
}
BANNED = {
    "manager",
    "processor",
    "builder",
    "factory",
    "orchestrator",
    "helper",
    "helpers",
    "util",
    "utils",
    "common",
    "constants",
}
FAST_DOOR = ("textual", "rich", "redis", "prometheus_client", "keyring", "aiohttp", "websockets")


@dataclass(frozen=True)
class Module:
    path: Path
    name: str  # within mcpbridge ("core.pool"), or "tui..." for the dashboard
    tree: ast.Module

    @property
    def floor(self) -> str:
        return self.name.split(".")[0]


@dataclass(frozen=True)
class Import:
    target: str  # absolute dotted name, with the imported name when it may be a module
    line: int
    in_function: bool
    for_types: bool


@cache
def modules() -> tuple[Module, ...]:
    found = []
    for package in ("mcpbridge", "tui"):
        for path in sorted((ROOT / package).rglob("*.py")):
            parts = list(path.relative_to(ROOT).with_suffix("").parts)
            parts = parts[:-1] if parts[-1] == "__init__" else parts
            name = ".".join(parts[1:] if package == "mcpbridge" else parts)
            found.append(Module(path, name or "__init__", ast.parse(path.read_text(encoding="utf-8"), str(path))))
    return tuple(found)


def imports(tree: ast.AST, in_function: bool = False, for_types: bool = False) -> Iterator[Import]:
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import):
            yield from (Import(alias.name, node.lineno, in_function, for_types) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports are not used"
            for alias in node.names:
                yield Import(f"{node.module}.{alias.name}", node.lineno, in_function, for_types)
        else:
            typing = isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING")
            function = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
            yield from imports(node, in_function or function, for_types or typing)


def is_within(name: str, places: tuple[str, ...]) -> bool:
    return any(name == place or name.startswith(place + ".") for place in places)


def ours(target: str) -> str | None:
    """``core.pool`` for ``mcpbridge.core.pool.Pool``; None for what is not ours."""
    if target.split(".")[0] == "tui":
        return target
    return target.removeprefix("mcpbridge.") if target.startswith("mcpbridge.") else None


def place(module: Module, line: int) -> str:
    return f"{module.path.relative_to(ROOT)}:{line}"


def test_there_is_a_house_to_check():
    assert {"wire", "core", "errors"} <= {module.floor for module in modules()}
    unknown = {module.floor for module in modules()} - set(FLOORS) - {"__init__"}
    assert unknown == set(), "give every new floor or room a row in FLOORS"


def test_imports_go_down_only_and_rooms_have_no_doors_between_them():
    wrong = []
    for module in modules():
        allowed = (*FLOORS.get(module.floor, ()), module.floor, "__version__")
        for item in imports(module.tree):
            target = ours(item.target)
            if target is not None and not is_within(target, allowed):
                wrong.append(f"{place(module, item.line)} imports {item.target}")
    assert not wrong, "\n".join(wrong)


def test_the_cellar_has_no_cycles():
    edges = {
        module.name: {
            other.name
            for item in imports(module.tree)
            if not item.in_function and not item.for_types
            for other in modules()
            if other is not module and other.floor in CELLAR and is_within(ours(item.target) or "", (other.name,))
        }
        for module in modules()
        if module.floor in CELLAR
    }
    while leaves := {name for name, targets in edges.items() if not targets & edges.keys()}:
        for name in leaves:
            del edges[name]
    assert sorted(edges) == []


def test_each_library_has_one_owner_and_is_declared():
    declared = (ROOT / "pyproject.toml").read_text(encoding="utf-8").lower().replace("pyjwt", "jwt").replace("pyyaml", "yaml")
    wrong = []
    for module in modules():
        for item in imports(module.tree):
            library = item.target.split(".")[0]
            if library in STDLIB or library in ("mcpbridge", "tui"):
                continue
            if not is_within(module.name, OWNERS.get(library, ())):
                wrong.append(f"{place(module, item.line)} imports {library}, owned by {OWNERS.get(library, 'nobody')}")
            if not re.search(rf'^\s+"{library.replace("_", "[-_]")}\b', declared, re.MULTILINE):
                wrong.append(f"{library} is not in pyproject.toml")
            if library in LAZY and not (item.in_function or item.for_types):
                wrong.append(f"{place(module, item.line)} imports {library} outside a function")
    assert not wrong, "\n".join(wrong)


def test_bytes_and_decisions_are_pure():
    wrong = [
        f"{place(module, item.line)} imports {item.target}"
        for module in modules()
        if is_within(module.name, PURE)
        for item in imports(module.tree)
        if item.target.split(".")[0] in IMPURE and not item.for_types
    ]
    assert not wrong, "\n".join(wrong)


def test_the_roof_imports_only_inside_functions():
    wrong = [
        f"{place(module, item.line)} imports {item.target}"
        for module in modules()
        if module.name in ("cli", "__init__")
        for item in imports(module.tree)
        if not item.in_function and not item.for_types and item.target.split(".")[0] not in ("sys", "os", "__future__")
    ]
    assert not wrong, "\n".join(wrong)


def words(name: str) -> list[str]:
    return [word.lower() for word in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+", name)]


def test_banned_words_name_nothing():
    wrong = []
    for module in modules():
        names = [(module.path.stem, 1)]
        for node in ast.walk(module.tree):
            if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                names.append((node.name, node.lineno))
                if isinstance(node, ast.ClassDef) and re.search(r"^_?Base[A-Z]|^_?Base$|Impl$", node.name):
                    wrong.append(f"{place(module, node.lineno)} {node.name}")
            elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                names.append((node.id, node.lineno))
            elif isinstance(node, ast.arg):
                names.append((node.arg, node.lineno))
        wrong += [f"{place(module, line)} {name}" for name, line in names if BANNED & set(words(name))]
    assert not wrong, "\n".join(wrong)


def test_no_file_is_too_long():
    long = []
    for folder in ("mcpbridge", "tui", "tests", "scripts"):
        for path in (ROOT / folder).rglob("*.py"):
            length = len(path.read_text(encoding="utf-8").splitlines())
            if length > 500:
                long.append(f"{path.relative_to(ROOT)}: {length} lines")
    assert long == []


def test_nothing_is_left_unfinished():
    unfinished = re.compile(r"\b(TODO|FIXME|XXX)\b|raise NotImplementedError")
    wrong = [
        f"{place(module, number)} {line.strip()}"
        for module in modules()
        for number, line in enumerate(module.path.read_text(encoding="utf-8").splitlines(), 1)
        if unfinished.search(line)
    ]
    assert not wrong, "\n".join(wrong)


def test_versions_are_never_compared_by_order():
    def is_version(node: ast.expr) -> bool:
        if isinstance(node, ast.Constant):
            return isinstance(node.value, str) and bool(re.fullmatch(r"20\d\d-\d\d-\d\d", node.value))
        return isinstance(node, ast.Name | ast.Attribute) and bool(
            re.search(r"protocol_?version", ast.unparse(node), re.IGNORECASE)
        )

    wrong = [
        f"{place(module, node.lineno)} {ast.unparse(node)}"
        for module in modules()
        for node in ast.walk(module.tree)
        if isinstance(node, ast.Compare)
        and any(isinstance(operator, ast.Lt | ast.LtE | ast.Gt | ast.GtE) for operator in node.ops)
        and any(is_version(operand) for operand in (node.left, *node.comparators))
    ]
    assert not wrong, "\n".join(wrong)


def test_errors_are_not_swallowed():
    def is_blind(kind: ast.expr | None) -> bool:
        names = (
            [ast.unparse(part) for part in kind.elts] if isinstance(kind, ast.Tuple) else [ast.unparse(kind)] if kind else [""]
        )
        return bool({"", "Exception", "BaseException"} & set(names))

    wrong = []
    for module in modules():
        for node in ast.walk(module.tree):
            if isinstance(node, ast.ExceptHandler) and is_blind(node.type):
                acts = [
                    step for step in node.body if not isinstance(step, ast.Pass | ast.Continue) and ast.unparse(step) != "..."
                ]
                if not acts:
                    wrong.append(place(module, node.lineno))
            elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("suppress") and any(map(is_blind, node.args)):
                wrong.append(place(module, node.lineno))
    assert not wrong, "\n".join(wrong)


def test_tasks_belong_to_a_group_or_end_in_the_function_that_started_them():
    """No task is fired and forgotten: outside a TaskGroup its name is cancelled where it was made."""
    wrong = []
    for module in modules():
        for function in ast.walk(module.tree):
            if not isinstance(function, ast.AsyncFunctionDef | ast.FunctionDef):
                continue
            text = ast.unparse(function)
            bound: dict[int, str] = {}  # the call, also inside a comprehension -> the name its task or tasks go by
            for node in ast.walk(function):
                if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
                    bound.update((id(part), node.targets[0].id) for part in ast.walk(node.value))
            for node in ast.walk(function):
                if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)):
                    continue
                starts = node.func.attr == "ensure_future" or (
                    node.func.attr == "create_task" and re.search(r"^asyncio$|loop\b|loop\(\)$", ast.unparse(node.func.value))
                )
                name = bound.get(id(node), "(nothing)")
                ends = rf"\b{re.escape(name)}\.cancel\(|for (\w+) in [^\n]*\b{re.escape(name)}\b[^\n]*:\n\s+\1\.cancel\("
                if starts and module.name not in TASK_OWNERS and not re.search(ends, text):
                    wrong.append(f"{place(module, node.lineno)} {ast.unparse(node)[:80]}")
    assert not wrong, "\n".join(wrong)


@pytest.mark.skipif(sys.platform == "win32", reason="reads /dev/null")
def test_the_router_answers_without_importing_what_it_does_not_need():
    request = b'{"jsonrpc":"2.0","id":1,"method":"initialize","params":{}}\n'
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "mcpbridge", "router"],
        cwd=ROOT,
        input=request,
        capture_output=True,
        timeout=30,
    )
    assert b'"serverInfo"' in done.stdout
    imported = {line.rpartition("|")[2].strip().split(".")[0] for line in done.stderr.decode().splitlines() if "|" in line}
    assert "mcpbridge" in imported
    assert imported & set(FAST_DOOR) == set()
