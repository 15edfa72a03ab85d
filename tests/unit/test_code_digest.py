"""The compile cache's key follows the code of a prediction and no other code."""

from __future__ import annotations

import ast
import re
import shutil
from pathlib import Path

import pytest

from easyanim_server.engine.cache import code_digest as module
from easyanim_server.engine.cache.code_digest import PACKAGE, code_digest


@pytest.fixture
def package(tmp_path: Path) -> Path:
    copy = tmp_path / "easyanim_server"
    shutil.copytree(PACKAGE, copy, ignore=shutil.ignore_patterns("models", "__pycache__"))
    assert code_digest(copy) == code_digest()
    return copy


def files(package: Path, pattern: str) -> list[Path]:
    found = sorted(file for file in package.rglob("*.py") if re.search(pattern, file.as_posix()))
    assert found, pattern
    return found


def edited(package: Path, file: Path) -> str:
    file.write_text(file.read_text() + "\n# another line\n")
    code_digest.cache_clear()
    return code_digest(package)


@pytest.mark.parametrize(
    "pattern",
    [
        "fused_triton",
        "fused_cpu",
        "attention/hopper",
        "attention/cpu",
        "solvers",
        "guidance",
        "prediction",
        "inputs",
        "schedule",
        "pipeline",
        "planner",
        "teacache",
        "block",
        "vae_fast",
        "precision",
        "qwen",
        "easyanimate_v5/encoders",
        "easyanimate_v5/text",
    ],
)
def test_editing_code_of_a_prediction_changes_the_key(package: Path, pattern: str) -> None:
    for file in files(package, rf"engine/.*{pattern}"):
        before = code_digest(package)

        assert edited(package, file) != before, file


@pytest.mark.parametrize("pattern", ["benchmark/speedtest", "tune/report", "engine/.*step_cache/fit", "rpc/.*status"])
def test_editing_a_report_keeps_the_key(package: Path, pattern: str) -> None:
    for file in files(package, pattern):
        before = code_digest(package)

        assert edited(package, file) == before, file


def test_a_module_in_a_folder_of_the_engine_counts(package: Path) -> None:
    before = code_digest(package)
    folder = package / "engine" / "deeper" / "still"
    folder.mkdir(parents=True)
    (folder / "kernel.py").write_text("SCALE = 1.0\n")
    (root,) = files(package, r"engine/loop\.py$")
    root.write_text(root.read_text() + "\nfrom easyanim_server.engine.deeper.still import kernel\n")
    with_module = edited(package, root)

    assert with_module != before
    assert edited(package, folder / "kernel.py") != with_module


def test_every_custom_kernel_is_reached() -> None:
    """A file that defines a Triton kernel or registers an operator runs in predictions."""
    reached = set(module._reached(PACKAGE).values())
    kernels = {
        file
        for file in (PACKAGE / "engine").rglob("*.py")
        if any(
            isinstance(node, ast.FunctionDef)
            and any(
                "triton.jit" in ast.unparse(item) or "custom_op" in ast.unparse(item) for item in node.decorator_list
            )
            for node in ast.walk(ast.parse(file.read_text()))
        )
    }

    assert kernels
    assert kernels <= reached
