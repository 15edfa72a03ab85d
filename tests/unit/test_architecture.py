"""The page on the code's layout names what there is."""

from __future__ import annotations

import ast
import re
from pathlib import Path

from dev.docs import draw_rooms

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "server" / "easyanim_server"
PAGE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8-sig")


def test_every_package_is_in_the_table_once() -> None:
    rows = re.findall(r"^\| `(\w+)` \|", PAGE, re.MULTILINE)
    packages = [folder.parent.name for folder in PACKAGE.glob("*/__init__.py")]

    assert sorted(rows) == sorted(packages)


def test_the_tree_is_the_servers() -> None:
    """Each line names a folder and files in it, or folders alone; packages and the engine's folders are complete."""
    tree = re.search(r"^server/easyanim_server/\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    assert tree
    named, missing = set[Path](), []
    top = PACKAGE
    for line in re.sub(r"\n {13}", " ", tree[1]).splitlines():
        if file := re.match(r"(\w+\.py) ", line):
            missing += [] if (PACKAGE / file[1]).is_file() else [file[1]]
            continue
        parent = top if line.startswith(" ") else PACKAGE
        folders = re.findall(r"\b(\w+)/", line)
        folder = parent / folders[0]
        top = top if line.startswith(" ") else folder
        named |= {parent / name for name in folders}
        words = re.findall(r"\b(\w+)\b(?!/)", line)
        missing += [f"{folder.name}/{word}" for word in words if not (folder / f"{word}.py").is_file()]
    missing += [str(folder.relative_to(PACKAGE)) for folder in named if not folder.is_dir()]
    assert not missing

    packages = {file.parent for file in [*PACKAGE.glob("*/__init__.py"), *PACKAGE.glob("engine/*/__init__.py")]}
    assert packages <= named


def test_the_picture_of_the_rooms_is_drawn_from_the_imports() -> None:
    assert draw_rooms.FILE.read_text(encoding="utf-8-sig") == draw_rooms.draw()
    assert f"]({draw_rooms.FILE.name})" in PAGE


def test_arrows_point_down_and_leave_out_what_others_imply() -> None:
    rooms, found = draw_rooms.read()
    arrows = draw_rooms.reduced(found)
    rows = draw_rooms.rows_of(rooms, arrows)

    assert draw_rooms.Arrow("workers", "engine", by_name=True) in arrows
    assert draw_rooms.Arrow("rpc", "domain") in found
    assert draw_rooms.Arrow("rpc", "domain") not in arrows
    assert all(rows[arrow.source] < rows[arrow.target] for arrow in found)


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
