"""Bounds on the code that is written by hand: lengths, private names, circles of imports."""

from __future__ import annotations

import ast
import graphlib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = ("client", "server", "dev", "tests")
SOURCES = ("client", "server", "proto", ".")
"""Folders in which names of modules begin."""

LINES_OF_A_FILE = 350
LINES_OF_A_FUNCTION = 60

Functions = (ast.FunctionDef, ast.AsyncFunctionDef)

FILES = {
    file.relative_to(ROOT).as_posix(): file
    for folder in FOLDERS
    for file in sorted((ROOT / folder).rglob("*.py"))
    if not any(part in ("build", "dist", "node_modules") or part.startswith(".") for part in file.parts)
}
TREES = {name: ast.parse(file.read_bytes()) for name, file in FILES.items()}


def test_every_folder_is_looked_at() -> None:
    assert {name.partition("/")[0] for name in FILES} == set(FOLDERS)


def test_no_file_is_long() -> None:
    lengths = {name: len(file.read_text(encoding="utf-8-sig").splitlines()) for name, file in FILES.items()}

    assert {name: count for name, count in lengths.items() if count > LINES_OF_A_FILE} == {}


def test_no_function_is_long() -> None:
    long = {
        f"{name}: {node.name}": length(node)
        for name, tree in TREES.items()
        for node in ast.walk(tree)
        if isinstance(node, Functions) and length(node) > LINES_OF_A_FUNCTION
    }

    assert long == {}


def length(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Lines from `def` to the end, without those of the docstring."""
    lines = (function.end_lineno or 0) - function.lineno + 1
    if ast.get_docstring(function) is not None:
        lines -= (function.body[0].end_lineno or 0) - function.body[0].lineno + 1
    return lines


def test_private_names_stay_in_their_module() -> None:
    imported = [
        f"{name}: {node.module}.{alias.name}"
        for name, tree in TREES.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and is_ours(node.module or "")
        for alias in node.names
        if alias.name.startswith("_") and not alias.name.startswith("__")
    ]

    assert imported == []


def test_no_test_imports_from_another() -> None:
    """What several tests use is in a module of its own; a file of tests can be moved or deleted."""
    imported = [
        f"{name}: {module}"
        for name, tree in TREES.items()
        for module in imports(tree)
        if module.startswith("tests.") and any(part.startswith("test_") for part in module.split("."))
    ]

    assert imported == []


def test_modules_do_not_import_each_other_in_a_circle() -> None:
    """Imports inside functions count: they hide a circle and do not remove it."""
    modules = {module_name(name): name for name in FILES}
    graph = {
        module: {needed for needed in imports(TREES[name]) if needed in modules and needed != module}
        for module, name in modules.items()
    }
    assert any(graph.values())

    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


def module_name(name: str) -> str:
    """``easyanim_server.rpc.server`` for ``server/easyanim_server/rpc/server.py``."""
    parts = list(Path(name).with_suffix("").parts)
    if parts[0] in SOURCES:
        del parts[0]
    return ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)


def imports(tree: ast.AST) -> Iterator[str]:
    """Names of modules that the code imports, and those that it may: `from a import b` gives a.b, or a for a name.

    Imports for annotations alone (`if TYPE_CHECKING`) do not count: they never run.
    """
    for node in walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                yield inner if inner in MODULES else node.module


def walk(node: ast.AST) -> Iterator[ast.AST]:
    """All nodes below one, without those that only type checkers look at."""
    yield node
    for child in ast.iter_child_nodes(node):
        if not (isinstance(child, ast.If) and isinstance(child.test, ast.Name) and child.test.id == "TYPE_CHECKING"):
            yield from walk(child)


def is_ours(module: str) -> bool:
    return module.partition(".")[0] in {"dev", "easyanim_client", "easyanim_command", "easyanim_server", "tests"}


MODULES = {module_name(name) for name in FILES}
