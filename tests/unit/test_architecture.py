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
