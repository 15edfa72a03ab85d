"""Kernels in Triton's interpreter, which has to be switched on before Triton is imported."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path


def call_interpreted(module: str) -> None:
    """Call `interpret()` of a module in a process where Triton interprets, and have what it asserts."""
    environment = os.environ | {"TRITON_INTERPRET": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", f"from {module} import interpret; interpret()"],
        cwd=Path(__file__).parents[1],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
