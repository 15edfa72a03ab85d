"""A digest of the code that runs in a prediction: compiled artefacts and measured choices are valid for one digest."""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Iterator
from functools import cache
from importlib.metadata import entry_points
from importlib.util import find_spec
from pathlib import Path

from easyanim_server.engine.families.base import ENTRY_POINTS

PACKAGE = Path(__file__).parents[2]

ENGINE = "easyanim_server.engine"

FAMILIES = f"{ENGINE}.families"

ROOTS = (
    f"{ENGINE}.loop",
    f"{ENGINE}.compile.planner",
    *(
        f"{FAMILIES}.{file.parent.name}.{file.stem}"
        for name in ("pipeline", "components")
        for file in sorted(PACKAGE.glob(f"engine/families/*/{name}.py"))
    ),
)
"""What a prediction enters the engine through: the loop, the compiled paths, each family's pipeline and components."""


@cache
def code_digest(package: Path = PACKAGE) -> str:
    """SHA-256, hex, of the source of all modules of the engine that `ROOTS` import, directly or indirectly.

    Families of other distributions count with all modules of their packages.

    Imports are read from the source, those inside functions too, so that nothing has to be imported for it. Modules
    outside the engine do no arithmetic and do not count; neither do modules of the engine that no prediction reaches,
    such as benchmarks.

    Args:
        package: The folder of the package `easyanim_server`.
    """
    digest = hashlib.sha256()
    for name, file in sorted(_reached(package).items()):
        digest.update(f"{name}\n".encode())
        digest.update(file.read_bytes())
    for name, file in _registered():
        digest.update(f"{name}\n".encode())
        digest.update(file.read_bytes())
    return digest.hexdigest()


def _registered() -> Iterator[tuple[str, Path]]:
    """Modules beside the one of each entry point, and below; nothing is imported but the packages around it."""
    for module in sorted({point.module for point in entry_points(group=ENTRY_POINTS)}):
        found = find_spec(module)
        for file in sorted(Path(found.origin).parent.rglob("*.py")) if found and found.origin else ():
            yield f"{module} {file.name}", file


def _reached(package: Path) -> dict[str, Path]:
    """Modules by name, with their files."""
    found: dict[str, Path] = {}
    open_names = list(ROOTS)
    while open_names:
        name = open_names.pop()
        file = _file(package, name)
        if name in found or file is None:
            continue
        found[name] = file
        open_names.extend(_imports(file))
    missing = set(ROOTS) - found.keys()
    if missing:
        raise FileNotFoundError(f"no source of {', '.join(sorted(missing))} below {package}")
    return found


def _file(package: Path, name: str) -> Path | None:
    """The source of a module or package; None for a name that is neither, such as a class."""
    path = package.joinpath(*name.split(".")[1:])
    candidates = (path.with_suffix(".py"), path / "__init__.py")
    return next((file for file in candidates if file.is_file()), None)


def _imports(file: Path) -> Iterator[str]:
    """Names below the engine that a module imports, with the packages above them; of ``from a import b`` also ``a.b``.

    A string that is such a name counts as an import: kernels are loaded by `import_module` where their libraries are.
    """
    for node in ast.walk(ast.parse(file.read_bytes())):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            names = [node.value]
        for name in names:
            if name.startswith(f"{ENGINE}."):
                parts = name.split(".")
                yield from (".".join(parts[:end]) for end in range(len(ENGINE.split(".")) + 1, len(parts) + 1))
