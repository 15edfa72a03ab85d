"""The page on the code's layout names what there is."""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "server" / "easyanim_server"
PAGE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8-sig")


def test_every_package_is_in_the_table_once() -> None:
    rows = re.findall(r"^\| `(\w+)` \|", PAGE, re.MULTILINE)
    packages = [folder.parent.name for folder in PACKAGE.glob("*/__init__.py")]

    assert sorted(rows) == sorted(packages)


def test_every_file_of_the_way_of_a_request_has_the_function_that_is_named() -> None:
    way = PAGE.partition("## The way of a request")[2]
    named: dict[str, list[str]] = {}
    for file, names in re.findall(r"`([a-z_/]+\.py)`((?:,? `\w+`)*)", way):
        named.setdefault(file, []).extend(re.findall(r"`(\w+)`", names))
    assert len(named) >= 15

    missing = []
    for file, names in named.items():
        tree = ast.parse((PACKAGE / file).read_text(encoding="utf-8-sig"))
        defined = {
            node.name
            for node in ast.walk(tree)
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef))
        }
        missing += [f"{file}: {name}" for name in names if name not in defined]
    assert not missing


ALONE = {"engine/families/registry.py", "benchmark/speedtest.py"}
"""What may know a family: the registry, and the comparison with diffusers' own port of EasyAnimate V5.1."""


def outside_families() -> list[Path]:
    files = [file for file in PACKAGE.rglob("*.py") if "engine/families" not in file.as_posix()]
    return [*files, *(PACKAGE / "engine/families").glob("*.py")]


def test_nothing_but_the_registry_imports_a_family() -> None:
    families = [folder.parent.name for folder in (PACKAGE / "engine/families").glob("*/__init__.py")]
    assert "easyanimate_v51" in families

    found = set()
    for file in outside_families():
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8-sig"))):
            named = [alias.name for alias in node.names] if isinstance(node, (ast.Import, ast.ImportFrom)) else []
            module = node.module or "" if isinstance(node, ast.ImportFrom) else ""
            if any(part in families for name in named for part in f"{module}.{name}".split(".")):
                found.add(file.relative_to(PACKAGE).as_posix())
    assert found <= ALONE


def test_nothing_outside_families_branches_on_a_family() -> None:
    """Names and classes of models are compared nowhere; capabilities say what differs."""
    classes = {
        node.name
        for file in (PACKAGE / "engine/families").glob("*/*.py")
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8-sig")))
        if isinstance(node, ast.ClassDef)
    }
    found = []
    for file in outside_families():
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8-sig"))):
            asked = isinstance(node, ast.Call) and getattr(node.func, "id", "") == "isinstance"
            named = {name.id for name in ast.walk(node) if isinstance(name, ast.Name)} if asked else set()
            of_family = isinstance(node, ast.Compare) and any(
                isinstance(side, ast.Attribute) and side.attr == "family" for side in (node.left, *node.comparators)
            )
            if named & classes or of_family:
                found.append(f"{file.relative_to(PACKAGE)}:{getattr(node, 'lineno', 0)}")
    assert not found
